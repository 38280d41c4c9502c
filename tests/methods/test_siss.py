import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from toys import noise_seen
from vdu.core.errors import InputError
from vdu.core.types import Tools
from vdu.diffusion.schedule import NoiseSchedule, noised_batch
from vdu.methods.siss import SISS, mixture_weights
from vdu.models.denoiser import PipelineDenoiser

SCHEDULE = NoiseSchedule.linear(6, 0.05, 0.6)
SHAPE = (1, 1, 2)


class Toy(nn.Module):
    """ε_θ(x_t, t) = tanh(a x_t + b t): two parameters; counts its calls."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(-0.1, dtype=torch.float64))
        self.calls = 0

    def forward(self, x_t, t):
        self.calls += 1
        return torch.tanh(self.a * x_t + self.b * t.view(-1, 1, 1, 1))


def make(**options):
    denoiser = PipelineDenoiser(Toy(), SCHEDULE, "epsilon", SHAPE, {})
    return denoiser, SISS(**options).prepare(denoiser, Tools(n_forget=1))


def noised(n, seed, centre=0.0, row=None):
    source = torch.Generator().manual_seed(seed)
    x0 = centre + 0.3 * torch.randn(n, *SHAPE, generator=source, dtype=torch.float64)
    noise = torch.randn(n, *SHAPE, generator=source, dtype=torch.float64)
    index = torch.randint(6, (n,), generator=source) if row is None else torch.full((n,), row)
    return noised_batch(x0, index, noise, SCHEDULE, SCHEDULE)


def batch_of(n=6):
    return {"forget": noised(n, 0, 0.4), "retain": noised(n, 1, -0.4)}


def density(m, z, level):
    """q(m|z) = N(√ᾱ z, (1−ᾱ) I), up to what cancels."""
    return math.exp(-sum((p - math.sqrt(level) * q) ** 2 for p, q in zip(m, z, strict=True)) / (2 * (1 - level)))


def losses_by_hand(network, batch, took_a, share):
    """L_x and L_a from the densities themselves, one pair at a time."""
    keep = forget = 0.0
    pair, n = batch["forget"], len(took_a)
    a_now, b_now = network.a.item(), network.b.item()
    for i in range(n):
        level, row = float(SCHEDULE.alpha_bars[pair.index[i]]), float(pair.index[i])
        x, a, e = (value[i].flatten().tolist() for value in (batch["retain"].x0, pair.x0, pair.noise))
        source = a if took_a[i] else x
        m = [math.sqrt(level) * p + math.sqrt(1 - level) * q for p, q in zip(source, e, strict=True)]
        ratio = density(m, a, level) / density(m, x, level)
        w_x, w_a = 1 / ((1 - share) + share * ratio), 1 / ((1 - share) / ratio + share)
        guess = [math.tanh(a_now * p + b_now * row) for p in m]
        for z, weight in ((x, w_x), (a, w_a)):
            noise = [(p - math.sqrt(level) * q) / math.sqrt(1 - level) for p, q in zip(m, z, strict=True)]
            value = weight * sum((p - q) ** 2 for p, q in zip(guess, noise, strict=True)) / (len(m) * n)
            keep, forget = (keep + value, forget) if z is x else (keep, forget + value)
    return keep, forget


def both(ready, denoiser, batch, seed=3):
    choice = torch.rand(len(batch["forget"].x0), generator=torch.Generator().manual_seed(seed))
    losses = ready.losses(denoiser, batch | {"forget": replace(batch["forget"], draws={"choice": choice})})
    return losses, (choice < ready.mixture).tolist()


@pytest.mark.parametrize("share", [0.2, 0.5, 0.7])
def test_the_losses_by_hand(share):
    denoiser, ready = make(mixture=share)
    batch = batch_of(8)
    losses, took_a = both(ready, denoiser, batch)
    assert 0 < sum(took_a) < 8
    keep, forget = losses_by_hand(denoiser.network, batch, took_a, share)
    found = {name: float(value.detach()) for name, value in losses.terms.items()}
    assert found == pytest.approx({"forget": -forget, "keep": keep}, rel=1e-10)
    observed = {name: float(value) for name, value in losses.observed.items()}
    assert observed == pytest.approx({"mse": forget, "retain_mse": keep}, rel=1e-10)
    assert denoiser.network.calls == 1
    assert not any(value.requires_grad for value in losses.observed.values())


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_the_mixture_estimates_both_plain_losses(share):
    """E_m[w f(m)] = E_q[f(m)]: one pair of images at one level, many draws, against the plain denoising losses."""
    n, row = 200_000, 2
    denoiser, ready = make(mixture=share)
    images = {"forget": torch.tensor([1.5, -2.0]), "retain": torch.tensor([0.1, 0.0])}
    noise = torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    batch = {
        role: noised_batch(
            x0.double().view(1, *SHAPE).repeat(n, 1, 1, 1), torch.full((n,), row), noise, SCHEDULE, SCHEDULE
        )
        for role, x0 in images.items()
    }
    losses, _ = both(ready, denoiser, batch)
    for role, name in (("forget", "mse"), ("retain", "retain_mse")):
        part = batch[role]
        plain = (noise_seen(denoiser, part.x_t, part.timestep) - part.noise).square().mean()
        # the spread of one weighted error is about 2: standard error 5e-3
        assert float(losses.observed[name]) == pytest.approx(float(plain.detach()), abs=2e-2)
    assert abs(float(losses.observed["mse"] - losses.observed["retain_mse"])) > 0.1  # they are told apart


def test_the_weights_hold_where_exponentials_do_not():
    """ᾱ so near 1 that the densities' ratio is e^±40000."""
    far = torch.full((1, 4), 100 * math.sqrt(2), dtype=torch.float64)
    zero = torch.zeros_like(far)
    for noise_x, noise_a, expected in ((zero, far, (1 / 0.7, 0.0)), (far, zero, (0.0, 1 / 0.3))):
        found = mixture_weights(noise_x, noise_a, 0.3)
        assert [float(each) for each in found] == pytest.approx(expected)
    assert [float(each) for each in mixture_weights(far, far, 0.3)] == pytest.approx([1.0, 1.0])


def test_float32_keeps_the_noise_at_clean_levels():
    """A taken image's own noise is the drawn one, however small √(1−ᾱ) is."""
    clean = NoiseSchedule(torch.tensor([1 - 1e-6, 0.5], dtype=torch.float64))

    class Echo(nn.Module):
        def __init__(self):
            super().__init__()
            self.k = nn.Parameter(torch.tensor(0.0))

        def forward(self, x_t, t):
            return self.k * x_t

    denoiser = PipelineDenoiser(Echo(), clean, "epsilon", SHAPE, {})
    source = torch.Generator().manual_seed(0)
    x0, noise = torch.rand(8, *SHAPE, generator=source), torch.randn(8, *SHAPE, generator=source)
    parts = [noised_batch(x, torch.zeros(8, dtype=torch.int64), noise, clean, clean) for x in (x0, 1 - x0)]
    batch = {"forget": parts[0], "retain": parts[1]}
    losses, took_a = both(SISS(schedule=clean), denoiser, batch)
    taken = torch.tensor(took_a)
    squares = noise.double().square().flatten(1).mean(1)
    assert float(losses.observed["mse"]) == pytest.approx(2 * float(squares[taken].sum()) / 8, rel=1e-6)
    assert float(losses.observed["retain_mse"]) == pytest.approx(2 * float(squares[~taken].sum()) / 8, rel=1e-6)


# The update


def test_the_update_is_the_keep_gradient_minus_a_share_of_the_forget_gradient():
    denoiser, ready = make(forget_share=0.25)
    batch = batch_of()
    losses, took_a = both(ready, denoiser, batch)
    values, network = list(denoiser.network.parameters()), denoiser.network
    gradients = {name: torch.autograd.grad(term, values, retain_graph=True) for name, term in losses.terms.items()}
    found = [float(each) for each in ready.combine(gradients)]
    by_hand = []
    for value in values:  # central differences of the losses by hand
        sides = []
        for side in (1e-6, -1e-6):
            with torch.no_grad():
                value += side
            sides.append(losses_by_hand(network, batch, took_a, 0.5))
            with torch.no_grad():
                value -= side
        by_hand.append([(sides[0][k] - sides[1][k]) / 2e-6 for k in (0, 1)])
    g_x, g_a = ([row[k] for row in by_hand] for k in (0, 1))
    s = 0.25 * math.hypot(*g_x) / math.hypot(*g_a)
    assert found == pytest.approx([p - s * q for p, q in zip(g_x, g_a, strict=True)], rel=1e-6)
    assert abs(s * g_a[0]) > 1e-3 * abs(found[0])  # it is seen


def test_a_step_along_the_forget_part_raises_the_forget_loss():
    denoiser, ready = make()
    batch = batch_of()
    losses, took_a = both(ready, denoiser, batch)
    values = list(denoiser.network.parameters())
    before = losses_by_hand(denoiser.network, batch, took_a, 0.5)
    forget = torch.autograd.grad(losses.terms["forget"], values)
    step = ready.combine({"keep": [torch.zeros_like(value) for value in values], "forget": forget})
    assert all(float(each) == 0 for each in step)  # a share of nothing
    with torch.no_grad():
        for value, gradient in zip(values, forget, strict=True):
            value -= 1e-3 * gradient
    assert losses_by_hand(denoiser.network, batch, took_a, 0.5)[1] > before[1]


def test_without_a_forget_gradient_the_keep_gradient_is_left():
    gradients = {"keep": [torch.tensor([1.0, -2.0])], "forget": [torch.zeros(2)]}
    assert SISS().combine(gradients)[0].tolist() == [1.0, -2.0]


# Randomness and settings


def test_the_choice_comes_with_the_batch_alone():
    denoiser, ready = make()
    batch = batch_of(20)
    first, again, other = (both(ready, denoiser, batch, seed)[0].terms["keep"] for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    state = torch.get_rng_state()
    both(ready, denoiser, batch)
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(InputError, match=r"batch: has no draws 'choice' \(it has \[\]\)"):
        ready.losses(denoiser, batch)


def test_unequal_batches_are_refused():
    denoiser, ready = make()
    with pytest.raises(InputError, match=r"forget: got images of shape \(3, 1, 1, 2\) with retained ones of shape \(4"):
        ready.losses(denoiser, {"forget": noised(3, 0), "retain": noised(4, 1)})
