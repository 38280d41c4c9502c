import math
from dataclasses import replace

import pytest
import torch

from toys import SCHEDULE, face, labelled, noised, under_labels
from vdu.core.types import Tools
from vdu.diffusion.sampling import Sampler
from vdu.diffusion.schedule import NoiseSchedule, noised_batch
from vdu.methods.esd import ESD, partly_denoised
from vdu.models.adapters.class_conditional import ClassConditionalDenoiser

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


# With labels

NOW, THEN = (0.3, 0.9, 0.5), (0.5, 0.2, 0.8)


def prediction(weights, x, row, label):
    a, b, c = weights
    return a * x + b * (row + 1) / 9 + c * label / 9


def drawn_by_hand(noise, stop, scale):
    """One number of DDIM under label 1 by the present weights, from step 5 over 3 and 2 (two steps of 3 and 2) to where it stops."""
    level = [float(each) for each in SCHEDULE.alpha_bars]
    x, now = math.sqrt(1 - level[5]) * noise, 5
    for end in (2, 0):
        if now <= stop:
            break
        then = max(end, stop)
        guess = prediction(NOW, x, now, 1)
        if scale is not None:
            without = prediction(NOW, x, now, 3)
            guess = without + scale * (guess - without)
        clean = (x - math.sqrt(1 - level[now]) * guess) / math.sqrt(level[now])
        x, now = math.sqrt(level[then]) * clean + math.sqrt(1 - level[then]) * guess, then
    return x


@pytest.mark.parametrize(("scale", "other"), [(None, 3), (3.0, 3), (3.0, 2)])
def test_the_published_loss_by_hand(scale, other):
    """The edited model draws down to each image's own step; the original is asked there with the label and without.

    Where another label takes the place, it replaces the null class in the target alone: what is drawn is guided as ever.
    """
    denoiser = labelled(*NOW)
    batch = under_labels(replace(noised(6), index=torch.arange(6)), *[1] * 6)
    tools = Tools(
        n_forget=6, teacher=labelled(*THEN), substitute={"class_labels": torch.tensor([other])},
        sampler=Sampler("ddim", 2, guidance_scale=scale),
    )  # fmt: skip
    losses = ESD(guidance=1.5).for_model(denoiser).prepare(denoiser, tools).losses(denoiser, {"forget": batch})
    erase = []
    for row in range(6):
        for noise in batch.noise[row].flatten().tolist():
            x = drawn_by_hand(noise, row, scale)
            with_it, without = prediction(THEN, x, row, 1), prediction(THEN, x, row, other)
            erase.append((prediction(NOW, x, row, 1) - (without - 1.5 * (with_it - without))) ** 2)
    assert float(losses.terms["erase"].detach()) == pytest.approx(sum(erase) / len(erase), rel=1e-10)
    gradient = torch.autograd.grad(losses.terms["erase"], list(denoiser.network.parameters()))
    assert all(float(each) for each in gradient)


@pytest.mark.parametrize("clips", [False, True])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_drawing_to_the_end_is_diffusers_ddim(kind, clips):
    """At every level of a short schedule, down to the cleanest; the sampler's own last step, from there to α = 1, is left out."""

    class Wave(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor(0.4))

        def forward(self, x_t, t, class_labels):
            return torch.tanh(self.w * x_t + t.view(-1, 1, 1, 1) / 20 - class_labels.view(-1, 1, 1, 1) / 3)

    schedule = NoiseSchedule.linear(7, 0.01, 0.4)
    config = {
        "beta_start": 0.01, "beta_end": 0.4, "beta_schedule": "linear", "num_train_timesteps": 7, "clip_sample": clips,
        "prediction_type": kind, "set_alpha_to_one": False,
    }  # fmt: skip
    model = ClassConditionalDenoiser(Wave(), schedule, kind, (1, 2, 2), config, names=("0", "1"), null_class=2)
    seeds, sampler = [3, 4], Sampler("ddim", 7, guidance_scale=2.0)
    noise = torch.cat([torch.randn(1, 1, 2, 2, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    stop = torch.zeros(2, dtype=torch.int64)
    condition = {"class_labels": torch.tensor([0, 1])}
    batch = noised_batch(torch.zeros_like(noise), stop, noise, schedule, schedule, condition=condition)
    null = {"class_labels": torch.tensor([2])}
    with torch.no_grad():
        found = partly_denoised(model, batch, schedule, steps=6, guidance_scale=2.0, null=null)
        start = noised_batch(torch.zeros_like(noise), torch.full((2,), 6), noise, schedule, schedule)
        scheduler = sampler.make(model)
        x = noise * float(start.sigma[0])
        for t in scheduler.timesteps[:-1]:
            timestep = torch.full((2,), int(t))
            without, under = (
                model.raw(x, timestep, each) for each in ({"class_labels": torch.tensor([2, 2])}, condition)
            )
            x = scheduler.step(without + 2.0 * (under - without), t, x).prev_sample
    assert scheduler.timesteps.tolist() == [6, 5, 4, 3, 2, 1, 0]
    torch.testing.assert_close(found.x_t, x, rtol=1e-5, atol=1e-5)
