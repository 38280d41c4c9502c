"""Guidance by hand, where the network also predicts a variance, and where it takes the scale as an argument."""

import pytest
import torch
from torch import nn

from vdu.core.errors import InputError
from vdu.diffusion.guidance import combined, guided
from vdu.diffusion.sampling import Sampler, sample
from vdu.diffusion.schedule import NoiseSchedule
from vdu.models.adapters.class_conditional import ClassConditionalDenoiser

CONFIG = {
    "beta_start": 0.05, "beta_end": 0.3, "beta_schedule": "linear", "num_train_timesteps": 6, "variance_type": "learned_range",
    "clip_sample": False,
}  # fmt: skip


class WithVariance(nn.Module):
    """Noise 0.5 x_t + k/9 and variance k/4 for label k."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.5))
        self.calls = 0

    def forward(self, x_t, t, class_labels):
        self.calls += len(x_t)
        k = class_labels.view(-1, 1, 1, 1).float().expand_as(x_t)
        return torch.cat([self.a * x_t + k / 9, k / 4], dim=1)


def model():
    schedule = NoiseSchedule.linear(6, 0.05, 0.3)
    return ClassConditionalDenoiser(
        WithVariance(),
        schedule,
        "epsilon",
        (1, 2, 2),
        CONFIG,
        names=("0", "1", "2"),
        null_class=3,
    )


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_a_learned_variance_is_that_under_the_condition(scale):
    """As in the code of Peebles & Xie 2023 (arXiv 2212.09748): the noise alone is extrapolated."""
    x = torch.tensor([0.3, -0.7, 1.1, 0.0]).view(1, 1, 2, 2)
    label, null = ({"class_labels": torch.tensor([k])} for k in (1, 3))
    found = guided(model(), x, torch.tensor([2]), label, null, scale)
    noise = [0.5 * each + 3 / 9 + scale * (1 / 9 - 3 / 9) for each in x.flatten().tolist()]
    assert found[0, 0].flatten().tolist() == pytest.approx(noise, abs=1e-6)
    assert found[0, 1].flatten().tolist() == [0.25] * 4


def test_ancestral_sampling_uses_that_variance():
    """The loop over diffusers' scheduler, which reads the variance from the second half of the channels."""
    denoiser, sampler = model(), Sampler("ddpm", 6, microbatch_size=1, guidance_scale=3.0)
    (image,) = sample(denoiser, [5], sampler, labels=[1])
    scheduler, source = sampler.make(denoiser), torch.Generator().manual_seed(5)
    x = torch.randn(1, 1, 2, 2, generator=source)
    for t in scheduler.timesteps:
        noise = 0.5 * x + 3 / 9 + 3.0 * (1 / 9 - 3 / 9)
        x = scheduler.step(torch.cat([noise, torch.full_like(x, 0.25)], dim=1), t, x, generator=source).prev_sample
    torch.testing.assert_close(image, x[0].clamp(-1, 1))


@pytest.mark.parametrize("scale", [0.0, 0.5, -1.0])
def test_a_scale_below_1_is_refused(scale):
    """In diffusers it is no guidance; here it would lead away from the condition."""
    with pytest.raises(
        InputError, match="guidance_scale: got .*; expected a number, at least 1.*leave it out for that"
    ):
        Sampler("ddim", 4, guidance_scale=scale)


@pytest.mark.parametrize(("scale", "each"), [(None, 1), (1.0, 2), (3.0, 2)])
def test_the_evaluations_of_an_image_are_those_that_the_network_sees(scale, each):
    denoiser, sampler = model(), Sampler("ddim", 4, microbatch_size=3, guidance_scale=scale)
    sample(denoiser, [1, 2, 3], sampler)
    assert denoiser.network.calls == 3 * 4 * each == 3 * sampler.evaluations(denoiser)


def test_a_distilled_network_is_evaluated_once():
    class Distilled:
        asked = ()

        def raw(self, x_t, timestep, condition):
            self.asked += (condition["guidance"].tolist(),)
            return x_t

        def condition(self, labels):
            return {"guidance": torch.full((len(labels),), 3.5)}

    denoiser = Distilled()
    x = torch.ones(2, 1, 2, 2)
    guided(denoiser, x, torch.zeros(2), denoiser.condition([0, 0]), None, 1.5)
    assert denoiser.asked == ([1.5, 1.5],)
    assert Sampler("ddim", 4, guidance_scale=1.5).evaluations(denoiser) == 4


def test_without_a_variance_there_are_no_further_channels():
    one, two = torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2)
    assert combined(one, two, 4.0, 3).tolist() == (4 * two).tolist()
