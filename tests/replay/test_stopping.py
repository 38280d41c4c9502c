"""The stopping rule: with a stub for the classifier, whose answer is known by the brightness of an image."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import beta

from vdu.core.types import Tools
from vdu.data.images import to_uint8
from vdu.diffusion.sampling import Sampler, sample
from vdu.models.denoiser import PipelineDenoiser
from vdu.replay.auxiliaries import Auxiliaries
from vdu.replay.generated import SHARED_SEED, image_seeds
from vdu.replay.held_out import HeldOut
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


SEEDS = tuple(image_seeds(SHARED_SEED, 12, 60))


@pytest.fixture
def check(make_pipeline):
    denoiser = PipelineDenoiser.from_pipeline(make_pipeline())
    held_out = HeldOut(SEEDS, error=0.05)  # of 12, a model that leaves 5 % leaves one or none 4 times of 5
    aids = Auxiliaries({}, Tools(1), judged=Judged(), sampler=SAMPLER, held_out=held_out)  # pyright: ignore[reportArgumentType]
    return ForgottenCheck(denoiser, aids, steps=10)


def shifted(check, by):
    weights = {name: value.detach().clone() for name, value in check.denoiser.network.named_parameters()}
    weights["conv_out.bias"] += by
    return weights


def test_it_stops_when_the_seeds_no_longer_give_such_images_and_not_before(check):
    dark, bright = shifted(check, 5.0), shifted(check, -5.0)  # the noise that is taken away
    assert check.remaining(bright) == 12 and check.remaining(dark) == 0
    assert check(7, bright) is None
    found = Stopping.from_text(check(7, dark) or "")
    assert (found.reason, found.step, found.n_left, found.n_seeds, found.aim, found.error) == (
        "forgotten",
        7,
        0,
        12,
        1,
        0.05,
    )
    assert found.bound == pytest.approx(beta.ppf(1 - 0.05 / 4, 1, 12)) and found.confidence == 0.95
    assert found.aim_bound == pytest.approx(beta.ppf(1 - 0.05 / 4, 2, 11))
    assert check(8, dark) and check(9, dark)
    assert check(6, dark) is None and check(10, dark) is None  # it looks after 2/3, 7/9 and 8/9


def test_it_stops_at_the_aim_and_not_above(check, monkeypatch):
    for left, stops in ((0, True), (1, True), (2, False)):
        monkeypatch.setattr(ForgottenCheck, "remaining", lambda *_, left=left: left)
        assert bool(check(8, {})) == stops
        assert check.look(10, {}).reason == ("forgotten" if stops else "all_steps")


def test_a_run_that_is_continued_counts_the_looks_before(check, monkeypatch):
    monkeypatch.setattr(ForgottenCheck, "remaining", lambda *_: 5)
    for step in range(1, 11):
        check(step, {})
    assert check.state() == [7, 8, 9, 10] and check.look(10, {}).confidence == 0.95
    longer = replace(check, steps=15, looked=set())
    longer.load_state(check.state())
    for step in range(11, 16):
        longer(step, {})
    assert longer.state() == [7, 8, 9, 10, 12, 13, 15]
    assert longer.look(15, {}).confidence == pytest.approx(1 - 7 * 0.05 / 4)


def test_looks_after_the_last_checkpoint_count_in_a_run_that_is_continued(check, monkeypatch):
    """Interrupted after step 9: it looked after 7, 8 and 9, and the checkpoint after step 7 is what is left."""
    monkeypatch.setattr(ForgottenCheck, "remaining", lambda *_: 5)
    for step in range(1, 8):
        check(step, {})
    saved = check.state()
    assert check(8, {}) is check(9, {}) is None
    longer = replace(check, steps=15, looked=set())
    longer.load_state(saved)
    for step in range(8, 15):  # looks after 10, 12 and 13
        longer(step, {})
    assert longer.look(15, {}).confidence == pytest.approx(1 - len({7, 8, 9, 10, 12, 13, 15}) * 0.05 / 4)
    same = replace(check, looked=set())
    same.load_state(saved)
    assert same.look(10, {}).confidence == 0.95


def test_a_record_of_an_older_version_is_read():
    old = '{"reason": "forgotten", "step": 4, "n_left": 1, "n_seeds": 128, "aim": 12}'
    assert Stopping.from_text(old).bound is None


def test_it_needs_enough_seeds(check):
    few = replace(check.aids, held_out=HeldOut(SEEDS[:9]))
    assert can_stop(check.aids) and not can_stop(few)


def test_what_is_left_is_counted_on_noised_pixels_of_the_given_weights(check):
    """At a shift at which some images are bright and some dark, counted by hand over the three noise levels."""
    weights = shifted(check, float(sample(check.denoiser, SEEDS, SAMPLER).mean()))
    left = check.remaining(weights)
    assert torch.equal(check.denoiser.network.conv_out.bias, weights["conv_out.bias"])
    again = to_uint8(sample(check.denoiser, SEEDS, SAMPLER)).double() / 127.5 - 1
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
            "more --steps forget more, and so does a larger repulsion_scale or forget_weight (--option)",
        ),
        (
            {"forget": ["cat"]}, ("repulsion_scale", "forget_weight"),
            "more --steps forget more, and so does a larger forget_weight (--option); a higher --learning-rate or another --instead may",
        ),
    ],
)  # fmt: skip
def test_the_hint_for_a_missed_aim_names_what_has_an_effect(prompts, strength, hint):
    method, missed = SimpleNamespace(strength=strength), Stopping("all_steps", 9, 5, 40, 4, bound=0.3, aim_bound=0.25)
    run = SimpleNamespace(plan=SimpleNamespace(prompts=prompts), method=method, stopping=missed)
    assert vars(UnlearnResult)["ending"].fget(run).endswith(f": {hint}")
