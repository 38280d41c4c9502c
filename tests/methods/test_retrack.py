"""The retrack target against a loop over images and neighbours, and against the closed form for Gaussian data."""

import math

import pytest
import torch
from torch import nn

from vdu.core.types import NoisedBatch, Tools
from vdu.diffusion.schedule import NoiseSchedule, noised_batch
from vdu.methods.retrack import Retrack, retrack_target
from vdu.models.denoiser import PipelineDenoiser

SCHEDULE = NoiseSchedule.linear(6, 0.05, 0.3)


class Linear(nn.Module):
    """ε_θ = a x_t + b, two parameters."""

    def __init__(self, a=0.3, b=-0.1):
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (a, b))

    def forward(self, x_t, t):
        return self.a * x_t + self.b


def batch_of(n=4, seed=0, shape=(1, 2, 2)) -> NoisedBatch:
    source = torch.Generator().manual_seed(seed)
    x0 = torch.rand(n, *shape, generator=source, dtype=torch.float64) * 2 - 1
    noise = torch.randn(x0.shape, generator=source, dtype=torch.float64)
    return noised_batch(x0, torch.arange(n) % len(SCHEDULE), noise, SCHEDULE, SCHEDULE)


def by_hand(batch: NoisedBatch, retained: torch.Tensor) -> torch.Tensor:
    targets = []
    for x_t, level in zip(batch.x_t, batch.alpha_bar.tolist(), strict=True):
        weights = [math.exp(-float((x_t - math.sqrt(level) * s).square().sum()) / (2 * (1 - level))) for s in retained]
        mean = sum(w * (x_t - math.sqrt(level) * s) for w, s in zip(weights, retained, strict=True)) / sum(weights)
        targets.append(mean / math.sqrt(1 - level))
    return torch.stack(targets)


def test_the_target_is_the_posterior_mean_of_the_noise():
    batch, retained = batch_of(), batch_of(7, seed=1).x0
    torch.testing.assert_close(retrack_target(batch, retained), by_hand(batch, retained))


def test_for_many_gaussian_images_it_is_the_gaussian_denoiser():
    """x0 ~ N(0, s²): E[ε | x_t] = √(1−ᾱ) x_t / (ᾱ s² + 1 − ᾱ)."""
    source = torch.Generator().manual_seed(3)
    spread = 0.5
    retained = spread * torch.randn(200_000, 1, 1, 1, generator=source, dtype=torch.float64)
    batch = batch_of(6, seed=4, shape=(1, 1, 1))
    level = batch.alpha_bar.view(-1, 1, 1, 1)
    expected = (1 - level).sqrt() * batch.x_t / (level * spread**2 + 1 - level)
    torch.testing.assert_close(retrack_target(batch, retained), expected, rtol=0.02, atol=0.02)


def test_one_retained_image_is_the_target_of_all():
    batch = batch_of()
    only = torch.full((1, 1, 2, 2), 0.25, dtype=torch.float64)
    level = batch.alpha_bar.view(-1, 1, 1, 1)
    torch.testing.assert_close(retrack_target(batch, only), (batch.x_t - level.sqrt() * 0.25) / (1 - level).sqrt())


def test_both_terms_and_their_gradients_are_those_of_the_formula():
    student = PipelineDenoiser(Linear(), SCHEDULE, "epsilon", (1, 2, 2), {})
    teacher = PipelineDenoiser(Linear(0.4, 0.2), SCHEDULE, "epsilon", (1, 2, 2), {})
    forget, retain, retained = batch_of(seed=5), batch_of(seed=6), batch_of(5, seed=7).x0
    given = Tools(n_forget=4, teacher=teacher, retained=retained)
    method = Retrack(forget_weight=0.7).prepare(student, given)
    losses = method.losses(student, {"forget": forget, "retain": retain})
    sum(losses.terms.values()).backward()
    a, b = 0.3, -0.1
    led = a * forget.x_t + b - by_hand(forget, retained)
    kept = a * retain.x_t + b - (0.4 * retain.x_t + 0.2)
    assert float(losses.terms["retrack"].detach()) == pytest.approx(0.7 * float(led.square().mean()))
    assert float(losses.terms["keep"].detach()) == pytest.approx(float(kept.square().mean()))
    slope = 2 * (0.7 * (led * forget.x_t).mean() + (kept * retain.x_t).mean())
    assert float(student.network.a.grad) == pytest.approx(float(slope))
    assert teacher.network.a.grad is None
