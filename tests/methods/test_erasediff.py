import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from vdu.core.errors import InputError
from vdu.core.types import Tools
from vdu.diffusion.schedule import NoiseSchedule, noised_batch
from vdu.methods.erasediff import TARGETS, EraseDiff, wrong_target
from vdu.models.denoiser import PipelineDenoiser

SCHEDULE = NoiseSchedule.linear(6, 0.05, 0.3)
SHAPE = (1, 1, 3)


class Toy(nn.Module):
    """ε_θ(x_t, t) = a x_t + b t: two parameters, so that every loss is a quadratic."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(-0.1, dtype=torch.float64))

    def forward(self, x_t, t):
        return self.a * x_t + self.b * t.view(-1, 1, 1, 1)


def make(**options):
    denoiser = PipelineDenoiser(Toy(), SCHEDULE, "epsilon", SHAPE, {})
    return denoiser, EraseDiff(**options).prepare(denoiser, Tools(n_forget=1))


def noised(n, seed):
    source = torch.Generator().manual_seed(seed)
    x0 = torch.rand(n, *SHAPE, generator=source, dtype=torch.float64) * 2 - 1
    noise = torch.randn(n, *SHAPE, generator=source, dtype=torch.float64)
    return noised_batch(x0, torch.randint(6, (n,), generator=source), noise, SCHEDULE, SCHEDULE)


def batch_of(n_forget=4, n_retain=4):
    return {"forget": noised(n_forget, 0), "retain": noised(n_retain, 1)}


def with_draws(part, seed):
    u = torch.rand(part.noise.shape, dtype=part.noise.dtype, generator=torch.Generator().manual_seed(seed))
    return replace(part, draws={"uniform": u})


def rows(kind, batch, seed):
    """(input, timestep, target) of every pixel of the forget images, from the definitions."""
    forget, retain, found = batch["forget"], batch["retain"], []
    u = with_draws(forget, seed).draws["uniform"]
    for i, row in enumerate(forget.index.tolist()):
        level = float(SCHEDULE.alpha_bars[row])
        other = retain.x0[i % len(retain.x0)].flatten().tolist()
        for k, (x, e) in enumerate(
            zip(forget.x0[i].flatten().tolist(), forget.noise[i].flatten().tolist(), strict=True)
        ):
            uniform = float(u[i].flatten()[k])
            x_t = math.sqrt(level) * x + math.sqrt(1 - level) * (uniform if kind == "uniform-shared" else e)
            relabelled = (x_t - math.sqrt(level) * other[k]) / math.sqrt(1 - level)
            found.append((x_t, row, relabelled if kind == "relabel" else uniform))
    return found


def plain_rows(part):
    x_t, noise = part.x_t.flatten(1).tolist(), part.noise.flatten(1).tolist()
    return [
        (x, row, e)
        for images, drawn, row in zip(x_t, noise, part.index.tolist(), strict=True)
        for x, e in zip(images, drawn, strict=True)
    ]


def value_of(pixels, a, b):
    return sum((a * x + b * t - u) ** 2 for x, t, u in pixels) / len(pixels)


def gradient_of(pixels, a, b):
    of_a = sum(2 * (a * x + b * t - u) * x for x, t, u in pixels) / len(pixels)
    return of_a, sum(2 * (a * x + b * t - u) * t for x, t, u in pixels) / len(pixels)


def losses_at(ready, denoiser, batch, seed=5):
    return ready.losses(denoiser, batch | {"forget": with_draws(batch["forget"], seed)})


# The losses


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("kind", TARGETS)
def test_the_terms_by_hand(kind, adaptive):
    """K = 3 gradient steps on the quadratic, written out."""
    denoiser, ready = make(target=kind, weight=0.3, adaptive=adaptive, inner_steps=3, inner_learning_rate=0.02)
    batch = batch_of(5, 3)
    losses = losses_at(ready, denoiser, batch)
    pixels, (a, b) = rows(kind, batch, 5), (0.7, -0.1)
    for _ in range(3):
        of_a, of_b = gradient_of(pixels, a, b)
        a, b = a - 0.02 * of_a, b - 0.02 * of_b
    q = value_of(pixels, 0.7, -0.1) - value_of(pixels, a, b)
    retain = value_of(plain_rows(batch["retain"]), 0.7, -0.1)
    found = {name: float(value.detach()) for name, value in losses.terms.items()}
    assert q > 1e-3
    assert found == pytest.approx({"forget": q if adaptive else 0.3 * q, "retain": retain}, rel=1e-9)
    observed = {"mse": value_of(plain_rows(batch["forget"]), 0.7, -0.1), "retain_mse": retain}
    assert {name: float(value) for name, value in losses.observed.items()} == pytest.approx(observed, rel=1e-9)
    assert not any(value.requires_grad for value in losses.observed.values())


@pytest.mark.parametrize("inner_steps", [0, 1, 4])
@pytest.mark.parametrize("kind", TARGETS)
def test_the_gradient_does_not_know_the_inner_loop(kind, inner_steps):
    denoiser, ready = make(target=kind, weight=0.3, inner_steps=inner_steps, inner_learning_rate=0.02)
    batch = batch_of()
    sum(losses_at(ready, denoiser, batch).terms.values()).backward()
    of_f = gradient_of(rows(kind, batch, 5), 0.7, -0.1)
    of_r = gradient_of(plain_rows(batch["retain"]), 0.7, -0.1)
    truth = [r + 0.3 * f for r, f in zip(of_r, of_f, strict=True)]
    assert [float(value.grad) for value in denoiser.network.parameters()] == pytest.approx(truth, rel=1e-9)


def test_the_inner_loop_leaves_the_network_alone():
    denoiser, ready = make(inner_steps=3, inner_learning_rate=0.1)
    before = [value.detach().clone() for value in denoiser.network.parameters()]
    losses_at(ready, denoiser, batch_of())
    for value, old in zip(denoiser.network.parameters(), before, strict=True):
        assert torch.equal(value, old) and value.grad is None


def test_without_an_inner_loop_the_constraint_is_logged_as_nothing():
    denoiser, ready = make(inner_steps=0)
    assert float(losses_at(ready, denoiser, batch_of()).terms["forget"].detach()) == 0


def test_many_inner_steps_come_to_the_minimum():
    denoiser, ready = make(weight=1.0, inner_steps=1500, inner_learning_rate=0.03)
    batch = batch_of()
    found = float(losses_at(ready, denoiser, batch).terms["forget"].detach())
    pixels = torch.tensor(rows("uniform-shared", batch, 5), dtype=torch.float64)
    solution = torch.linalg.lstsq(pixels[:, :2], pixels[:, 2:]).solution
    least = float((pixels[:, :2] @ solution - pixels[:, 2:]).square().mean())
    assert found == pytest.approx(value_of(pixels.tolist(), 0.7, -0.1) - least, rel=1e-6)


def test_the_inner_loop_sees_its_own_steps_under_mixed_precision():
    """Autocast keeps the halved weights of a context; the stale ones would make q = 0."""

    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)
            nn.init.ones_(self.layer.weight)

        def forward(self, x_t, t):
            return self.layer(x_t.flatten(1)).view_as(x_t).float()

    denoiser = PipelineDenoiser(Linear(), SCHEDULE, "epsilon", SHAPE, {})
    ready = EraseDiff(weight=1.0, inner_steps=5, inner_learning_rate=0.05).prepare(denoiser, Tools(n_forget=1))
    batch = {
        role: noised_batch(part.x0.float(), part.index, part.noise.float(), SCHEDULE, SCHEDULE)
        for role, part in batch_of().items()
    }
    full = float(losses_at(ready, denoiser, batch).terms["forget"].detach())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = losses_at(ready, denoiser, batch).terms
    assert float(half["forget"].detach()) == pytest.approx(full, rel=0.1) and full > 0.1
    sum(half.values()).backward()
    assert all(value.grad is not None for value in denoiser.network.parameters())


# The targets


def test_a_relabelled_image_is_the_other_image_under_the_target():
    """√ᾱ x_r + √(1−ᾱ) u is the same x_t."""
    batch = batch_of(5, 2)
    noisy, u = wrong_target("relabel", batch["forget"], batch["retain"].x0)
    others = batch["retain"].x0[[0, 1, 0, 1, 0]]
    level = noisy.alpha_bar.view(-1, 1, 1, 1)
    torch.testing.assert_close(level.sqrt() * others + (1 - level).sqrt() * u, batch["forget"].x_t)
    torch.testing.assert_close(noisy.x_t, batch["forget"].x_t, rtol=0, atol=0)


def test_uniform_targets():
    batch = batch_of(2000)
    for kind in ("uniform-shared", "uniform-fresh"):
        noisy, u = wrong_target(kind, with_draws(batch["forget"], 1), batch["retain"].x0)
        assert 0 <= float(u.min()) < 0.01 and 0.99 < float(u.max()) <= 1
        assert float(u.mean()) == pytest.approx(0.5, abs=0.02)  # 6000 draws: standard error 0.004
        assert torch.equal(noisy.noise, u) == (kind == "uniform-shared")
        assert torch.equal(noisy.noise, batch["forget"].noise) == (kind == "uniform-fresh")


def test_draws_come_with_the_batch_alone():
    denoiser, ready = make()
    batch = batch_of()
    first, again, other = (losses_at(ready, denoiser, batch, seed).terms["forget"] for seed in (5, 5, 6))
    assert torch.equal(first, again) and not torch.equal(first, other)
    state = torch.get_rng_state()
    losses_at(ready, denoiser, batch)
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(InputError, match="batch: has no draws 'uniform'"):
        ready.losses(denoiser, batch)


def test_relabelling_draws_nothing():
    denoiser, ready = make(target="relabel")
    state = torch.get_rng_state()
    ready.losses(denoiser, batch_of())
    assert torch.equal(state, torch.get_rng_state())


# The adaptive weight


@pytest.mark.parametrize(
    ("of_r", "of_q", "weight"),
    [
        ([3.0, 0.0], [-1.0, 1.0], 0.5 + 3 / 2),  # they conflict
        ([3.0, 0.0], [0.0, 2.0], 0.5),  # nothing in common
        ([0.4, 0.0], [1.0, 1.0], 0.5 - 0.4 / 2),
        ([3.0, 1.0], [1.0, 1.0], 0.0),  # the retain step lowers q enough
        ([3.0, 1.0], [0.0, 0.0], 0.0),
    ],
)
def test_the_adaptive_weight_by_hand(of_r, of_q, weight):
    gradients = {
        name: [torch.tensor(values[:1]), torch.tensor(values[1:])]
        for name, values in (("retain", of_r), ("forget", of_q))
    }
    found = [float(each) for each in EraseDiff(adaptive=True).combine(gradients)]
    assert found == pytest.approx([r + weight * q for r, q in zip(of_r, of_q, strict=True)])


def test_adaptive_steps_lower_q():
    """⟨update, ∇q⟩ ≥ η‖∇q‖² whatever the gradients."""
    source = torch.Generator().manual_seed(0)
    for _ in range(50):
        r, q = (torch.randn(4, generator=source, dtype=torch.float64) for _ in range(2))
        update = EraseDiff(adaptive=True, eta=0.3).combine({"retain": [r], "forget": [q]})[0]
        assert float(update @ q) >= 0.3 * float(q @ q) - 1e-12


def test_only_the_adaptive_form_combines():
    assert EraseDiff(adaptive=True).per_term and not EraseDiff().per_term


# Settings


def test_a_relabelled_target_may_lie_anywhere():
    assert EraseDiff().limits == {"mse": 2.0, "retain_mse": 2.0} == EraseDiff(target="uniform-fresh").limits
    assert EraseDiff(target="relabel").limits == {"retain_mse": 2.0}
