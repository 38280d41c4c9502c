"""The stopping rule: with a stub for the classifier, whose answer is known by the brightness of an image."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from vdu.core.types import Tools
from vdu.data.images import to_uint8
from vdu.diffusion.sampling import Sampler, sample
from vdu.models.denoiser import PipelineDenoiser
from vdu.replay.auxiliaries import Auxiliaries
from vdu.replay.generated import SHARED_SEED, image_seeds
from vdu.replay.stopping import ForgottenCheck, Stopping, can_stop
from vdu.unlearning.result import UnlearnResult

SAMPLER = Sampler("ddpm", steps=2, microbatch_size=4)


class Brightness:
    """Calls an image forget where its mean is above 0."""

    def cpu(self):
        return self

    def __call__(self, x_t, alpha_bar):
        return x_t.flatten(1).mean(1)


class Judged:
    classifier = Brightness()


@pytest.fixture
def check(make_pipeline):
    denoiser = PipelineDenoiser.from_pipeline(make_pipeline())
    seeds = tuple(image_seeds(SHARED_SEED, 12))
    return ForgottenCheck(
        denoiser, Auxiliaries({}, Tools(1), forget_seeds=seeds, judged=Judged(), sampler=SAMPLER), steps=10
    )  # pyright: ignore[reportArgumentType]


def shifted(check, by):
    weights = {name: value.detach().clone() for name, value in check.denoiser.network.named_parameters()}
    weights["conv_out.bias"] += by
    return weights


def test_it_stops_when_the_seeds_no_longer_give_such_images_and_not_before(check):
    dark, bright = shifted(check, 5.0), shifted(check, -5.0)  # the noise that is taken away
    assert check.remaining(bright) == 12 and check.remaining(dark) == 0
    assert check(7, bright) is None
    assert Stopping.from_text(check(7, dark) or "") == Stopping("forgotten", 7, 0, 12, 1)
    assert check(8, dark) and check(9, dark)
    assert check(6, dark) is None and check(10, dark) is None  # it looks after 2/3, 7/9 and 8/9


def test_a_tenth_may_be_left_as_in_a_model_that_never_saw_them(check, monkeypatch):
    for left, stops in ((0, True), (1, True), (2, False)):
        monkeypatch.setattr(ForgottenCheck, "remaining", lambda *_, left=left: left)
        assert bool(check(8, {})) == stops
    many = replace(check, aids=replace(check.aids, forget_seeds=tuple(range(200))))
    assert len(many.seeds) == 128 and many.aim == 12


def test_it_needs_enough_seeds(check):
    few = Auxiliaries({}, Tools(1), forget_seeds=check.aids.forget_seeds[:9], judged=Judged(), sampler=SAMPLER)  # pyright: ignore[reportArgumentType]
    assert can_stop(check.aids) and not can_stop(few)


def test_what_is_left_is_counted_on_noised_pixels_of_the_given_weights(check):
    """At a shift at which some images are bright and some dark, counted by hand over the three noise levels."""
    weights = shifted(check, float(sample(check.denoiser, check.seeds, SAMPLER).mean()))
    left = check.remaining(weights)
    assert torch.equal(check.denoiser.network.conv_out.bias, weights["conv_out.bias"])
    again = to_uint8(sample(check.denoiser, check.seeds, SAMPLER)).double() / 127.5 - 1
    scores, source = torch.zeros(12, dtype=torch.float64), torch.Generator().manual_seed(0)
    for level in (0.98, 0.9, 0.66):
        noise = torch.randn(again.shape, generator=source)
        scores += (level**0.5 * again + (1 - level) ** 0.5 * noise).flatten(1).mean(1) / 3
    assert left == int((scores >= 0).sum()) and 0 < left < 12


@pytest.mark.parametrize(
    ("prompts", "strength", "hint"),
    [
        (
            {}, ("repulsion_scale", "forget_weight"),
            "a larger repulsion_scale or forget_weight (--option) forgets more, and more --steps may",
        ),
        (
            {"forget": ["cat"]}, ("repulsion_scale", "forget_weight"),
            "a larger forget_weight (--option) forgets more, and a higher --learning-rate, more --steps or another --instead may",
        ),
    ],
)  # fmt: skip
def test_the_hint_for_a_missed_aim_names_what_has_an_effect(prompts, strength, hint):
    method, missed = SimpleNamespace(strength=strength), Stopping("all_steps", 9, 5, 40, 4)
    run = SimpleNamespace(plan=SimpleNamespace(prompts=prompts), method=method, stopping=missed)
    assert vars(UnlearnResult)["ending"].fget(run).endswith(f"; {hint}")
