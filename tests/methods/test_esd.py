import math

import pytest
import torch

from toys import SCHEDULE, face, noised
from vdu.core.types import Tools
from vdu.methods.esd import ESD

ORIGINAL, SPECIALIST = (0.5, 0.2), (0.7, 0.1)


def make(denoiser, **options):
    return ESD(**options).prepare(denoiser, Tools(n_forget=5, teacher=face(*ORIGINAL), forget_model=face(*SPECIALIST)))


def test_the_loss_by_hand():
    denoiser, batch = face(0.3, 0.9), noised(5)
    losses = make(denoiser, guidance=1.5).losses(denoiser, {"forget": batch})
    erase = mse = 0.0
    for x0, noise, row in zip(batch.x0, batch.noise, batch.index.tolist(), strict=True):
        level, u = float(SCHEDULE.alpha_bars[row]), (row + 1) / 9
        for x, e in zip(x0.flatten().tolist(), noise.flatten().tolist(), strict=True):
            x_t = math.sqrt(level) * x + math.sqrt(1 - level) * e
            guess, eps_0, eps_f = (a * x_t + b * u for a, b in ((0.3, 0.9), ORIGINAL, SPECIALIST))
            erase += (guess - (eps_0 - 1.5 * (eps_f - eps_0))) ** 2 / 20
            mse += (guess - e) ** 2 / 20
    assert {name: float(value.detach()) for name, value in losses.terms.items()} == {
        "erase": pytest.approx(erase, rel=1e-12)
    }
    assert {name: float(value) for name, value in losses.observed.items()} == {"mse": pytest.approx(mse, rel=1e-12)}
    assert not losses.observed["mse"].requires_grad


@pytest.mark.parametrize("guidance", [0.5, 1.0, 3.0])
def test_descent_ends_at_the_weights_mirrored_away_from_the_specialist(guidance):
    """The network is linear in its weights, so that the minimum is θ₀ − η(θ_f − θ₀), where the loss is 0."""
    denoiser, batch = face(*ORIGINAL), noised(40)
    ready = make(denoiser, guidance=guidance)
    parameters = list(denoiser.network.parameters())
    for _ in range(200):
        gradients = torch.autograd.grad(ready.losses(denoiser, {"forget": batch}).terms["erase"], parameters)
        with torch.no_grad():
            for value, gradient in zip(parameters, gradients, strict=True):
                value -= 0.5 * gradient
    expected = [zero - guidance * (specialist - zero) for zero, specialist in zip(ORIGINAL, SPECIALIST, strict=True)]
    assert [float(value.detach()) for value in parameters] == pytest.approx(expected, rel=1e-6)
