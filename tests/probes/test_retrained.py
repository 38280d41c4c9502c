import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from probes_toys import SHAPE, flat, grey, grey_case, same, unet_case, untouched
from vdu.core.errors import InputError
from vdu.core.rng import generator
from vdu.data.images import ImageSet
from vdu.diffusion.sampling import Sampler
from vdu.diffusion.schedule import NoiseSchedule
from vdu.probes.retrained import denoising_distances, probe


class Offset(nn.Module):
    """ε = x_t / 2 + c."""

    def __init__(self, c):
        super().__init__()
        self.c = nn.Parameter(torch.tensor(float(c), dtype=torch.float64))

    def forward(self, x_t, t):
        return x_t / 2 + self.c


def offset(c):
    """A model that sees the same noise as its like, up to a constant."""
    return grey(0).with_network(Offset(c))


def offset_case(**changes):
    models = {"original": offset(0.7), "unlearned": offset(0.3), "retrained": offset(0.1)}
    return replace(grey_case(), **models, **changes)


def test_a_constant_offset_gives_its_square_everywhere():
    case = offset_case(forget_held_out=flat(0.9, 0.8), retain_held_out=flat(-0.9, 0.2, 0.1))
    result = probe(case, alpha_bars=(0.9, 0.1))
    assert len(result["denoising"]) == 2 * 4 * 2
    names = {"forget_train", "forget_held_out", "retain_train", "retain_held_out"}
    assert {(row["images"], row["alpha_bar"]) for row in result["denoising"]} == {
        (n, a) for n in names for a in (0.9, 0.1)
    }
    for row in result["denoising"]:
        truth = {"original": 0.36, "unlearned": 0.04}[row["model"]]  # (0.7 − 0.1)², (0.3 − 0.1)²
        assert [row[key] for key in ("distance", "low", "high")] == pytest.approx([truth] * 3, rel=1e-9)
    assert result["protocol"]["images"] == {
        "forget_train": 3,
        "forget_held_out": 2,
        "retain_train": 2,
        "retain_held_out": 3,
    }


def test_the_retrained_model_is_at_no_distance_from_itself(make_pipeline):
    case = unet_case(make_pipeline, Sampler("ddpm", steps=3, microbatch_size=4), threshold=120)
    assert case.retrained is not None
    case = replace(case, unlearned=case.retrained.copy())
    case.original.network.train()
    before = untouched(case)
    result = probe(case, n_images=5)
    assert same(before, untouched(case))
    for row in result["denoising"]:
        here = [row[key] for key in ("distance", "low", "high")]
        assert here == [0, 0, 0] if row["model"] == "unlearned" else min(here) > 0
    assert {row["images"] for row in result["denoising"]} == {"forget_train", "generated_rest"}  # no real rest here
    assert json.loads(json.dumps(result)) == result
    assert "samples" not in result


def test_no_interval_reaches_below_nought():
    """Models that differ by x_t have distances near x0² at ᾱ near 1: 0 and 1 here, whose mean − 1.96 s/√n is negative."""
    case = offset_case(forget=flat(0.0, 1.0), retain=flat(0.0, 1.0))
    doubled = case.original.with_network(Offset(0.0))
    doubled.network.forward = lambda x_t, t: 1.5 * x_t + 0.1
    for row in probe(replace(case, original=doubled), alpha_bars=(0.9999,))["denoising"]:
        assert row["low"] == 0 or row["model"] == "unlearned"
        assert row["model"] == "unlearned" or 0.4 < row["distance"] < 0.6 < row["high"]


def test_models_are_compared_at_the_same_noise_level_whatever_their_schedules():
    """Greys differ by √ᾱ (m₁ − m₂)/√(1−ᾱ), if both know at which ᾱ they are."""
    long = NoiseSchedule.linear(40, 0.01, 0.2)
    x0, noise = torch.rand(5, *SHAPE), torch.randn(5, *SHAPE)
    for alpha_bar in (0.9, 0.5, 0.37):  # within both schedules
        found = denoising_distances(grey(0.5), grey(-0.2, long), x0, noise, alpha_bar, 2)
        assert found.tolist() == pytest.approx([0.49 * alpha_bar / (1 - alpha_bar)] * 5, rel=1e-6)


def test_values_and_intervals_are_those_of_plain_arithmetic(make_pipeline):
    case = unet_case(make_pipeline, Sampler("ddpm", steps=3, microbatch_size=3), threshold=120)
    rows = probe(case, n_images=7, alpha_bars=(0.8,))["denoising"]
    order = torch.randperm(7, generator=generator(0, "retrained", "forget train"))
    x0 = case.forget.images[order].double() / 127.5 - 1
    eps = torch.randn(7, 1, 8, 8, generator=generator(0, "retrained", "forget train", "0.8"))
    x_t = (0.8**0.5 * x0 + 0.2**0.5 * eps).float()
    (t,) = (case.original.schedule.alpha_bars - 0.8).abs().argmin(0, keepdim=True)
    assert case.retrained is not None
    for row, model in zip(rows[:2], (case.original, case.unlearned), strict=True):
        with torch.no_grad():
            one, two = (each.network(x_t, t.expand(7)).sample.numpy() for each in (model, case.retrained))
        each = ((one.astype(float) - two) ** 2).mean((1, 2, 3))
        half = 1.959964 * each.std(ddof=1) / np.sqrt(7)
        truth = [each.mean(), max(each.mean() - half, 0), each.mean() + half]
        # the nearest whole timestep instead of the fractional one: the networks hardly change within half a step
        assert [row[key] for key in ("distance", "low", "high")] == pytest.approx(truth, rel=0.01)


def test_samples_of_greys_are_at_the_squared_distance_of_the_greys():
    def features(images):
        return images.floats().mean((1, 2, 3)).view(-1, 1)

    case = grey_case(original=51 / 127.5 - 1, unlearned=102 / 127.5 - 1, retrained=127.5 / 127.5 - 1)
    case = replace(case, retrained=grey(153 / 127.5 - 1))
    result = probe(case, features=features, n_samples=6)
    found = {row["model"]: row["u_fid"] for row in result["samples"]}
    for name, truth in {"original": 0.8**2, "unlearned": 0.4**2}.items():
        assert list(found[name].values()) == pytest.approx([truth] * 3, rel=1e-5)
        assert list(found[name]) == ["value", "low", "high"]
    assert result["protocol"]["floor_u_fid"] == pytest.approx(0, abs=1e-9)


def test_it_does_not_run_without_a_retrained_model():
    result = probe(grey_case())
    assert result == {"status": "not run", "code": "no_retrained_model"}


def test_a_set_of_one_image_is_left_out_and_named():
    result = probe(offset_case(forget_held_out=flat(0.9)), alpha_bars=(0.5,))
    assert result["protocol"]["left_out"] == ["forget_held_out"]
    assert {row["images"] for row in result["denoising"]} == {"forget_train", "retain_train"}


@pytest.mark.parametrize("wrong", [{"alpha_bars": (0.5, 1.0)}, {"alpha_bars": ()}, {"n_images": 1}])
def test_levels_and_numbers_that_mean_nothing_are_refused(wrong):
    with pytest.raises(InputError, match="retrained: got alpha_bars="):
        probe(offset_case(), **wrong)


def test_images_of_another_shape_are_refused():
    """A convolutional network would take them, and the distances would be of other images than those it knows."""
    with pytest.raises(InputError, match=r"forget train: got images of \(1, 8, 8\)"):
        probe(offset_case(forget=ImageSet(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))))
