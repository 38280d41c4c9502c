import math

import pytest
import torch
from torch import nn

from vdu.core.errors import InputError
from vdu.core.types import Tools
from vdu.diffusion.schedule import NoiseSchedule, noised_batch
from vdu.methods.finetune import FineTune
from vdu.methods.options import options_of
from vdu.models.denoiser import PipelineDenoiser

SCHEDULE = NoiseSchedule.linear(6, 0.05, 0.3)


class Toy(nn.Module):
    """ε_θ(x_t, t) = a x_t + b t: two parameters."""

    def __init__(self, a=0.3, b=-0.2):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(b, dtype=torch.float64))

    def forward(self, x_t, t):
        return self.a * x_t + self.b * t.view(-1, 1, 1, 1)


def noised(n=5, seed=0):
    source = torch.Generator().manual_seed(seed)
    x0 = torch.rand(n, 1, 2, 3, generator=source, dtype=torch.float64) * 2 - 1
    noise = torch.randn(n, 1, 2, 3, generator=source, dtype=torch.float64)
    return noised_batch(x0, torch.randint(6, (n,), generator=source), noise, SCHEDULE, SCHEDULE)


def make():
    denoiser = PipelineDenoiser(Toy(), SCHEDULE, "epsilon", (1, 2, 3), {})
    return denoiser, FineTune().prepare(denoiser, Tools(n_forget=1))


def test_loss_and_gradient_by_hand():
    denoiser, ready = make()
    batch = noised()
    losses = ready.losses(denoiser, {"retain": batch})
    value, of_a, of_b, n = 0.0, 0.0, 0.0, batch.x0.numel()
    for x0, noise, row in zip(batch.x0, batch.noise, batch.index.tolist(), strict=True):
        level = float(SCHEDULE.alpha_bars[row])
        for x, e in zip(x0.flatten().tolist(), noise.flatten().tolist(), strict=True):
            x_t = math.sqrt(level) * x + math.sqrt(1 - level) * e
            error = 0.3 * x_t - 0.2 * row - e
            value, of_a, of_b = value + error**2 / n, of_a + 2 * error * x_t / n, of_b + 2 * error * row / n
    assert float(losses.terms["retain"].detach()) == pytest.approx(value, rel=1e-12)
    assert float(losses.observed["retain_mse"]) == pytest.approx(value, rel=1e-12)
    assert not losses.observed["retain_mse"].requires_grad
    sum(losses.terms.values()).backward()
    assert [float(each.grad) for each in denoiser.network.parameters()] == pytest.approx([of_a, of_b], rel=1e-12)


def test_descent_comes_to_the_least_squares_solution():
    denoiser, ready = make()
    batch = noised(40)
    columns = torch.stack([batch.x_t, batch.timestep.view(-1, 1, 1, 1).expand_as(batch.x_t).double()], -1).reshape(
        -1, 2
    )
    truth = torch.linalg.lstsq(columns, batch.noise.reshape(-1, 1)).solution.flatten()
    values = list(denoiser.network.parameters())
    for _ in range(2000):
        found = torch.autograd.grad(ready.losses(denoiser, {"retain": batch}).terms["retain"], values)
        with torch.no_grad():
            for value, gradient in zip(values, found, strict=True):
                value -= 0.05 * gradient
    torch.testing.assert_close(torch.stack([value.detach() for value in values]), truth, atol=1e-9, rtol=0)


def test_a_range_of_noise_levels_is_refused_since_images_to_keep_use_all():
    with pytest.raises(InputError, match=r"alpha_bar_range: got \(0.2, 0.3\); expected none"):
        FineTune(alpha_bar_range=(0.2, 0.3))
    assert "alpha_bar_range" not in options_of(FineTune)
