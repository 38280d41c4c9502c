import math

import pytest
import torch
from torch import nn

from vdu.core.errors import InputError
from vdu.core.rng import generator
from vdu.core.types import Tools
from vdu.diffusion.schedule import NoiseSchedule, noised_batch
from vdu.methods.salun import SalUn, saliency, top_share
from vdu.models.denoiser import PipelineDenoiser
from vdu.training.loop import Objective, TrainSettings, train

SCHEDULE = NoiseSchedule.linear(6, 0.05, 0.3)
SHAPE = (1, 2, 2)


class Tiny(nn.Module):
    """ε_θ(x_t, t) = tanh(W x_t + u t) in float64, with dropout where asked."""

    def __init__(self, seed=0, dropout=0.0):
        super().__init__()
        source = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(torch.randn(4, 4, generator=source, dtype=torch.float64) / 2)
        self.u = nn.Parameter(torch.randn(4, generator=source, dtype=torch.float64) / 9)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_t, t):
        return self.dropout(torch.tanh(x_t.flatten(1) @ self.w.T + self.u * t.view(-1, 1))).view_as(x_t)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def face(**options):
    return PipelineDenoiser(Tiny(**options), SCHEDULE, "epsilon", SHAPE, {})


def images(n=7, seed=5):
    return torch.rand(n, *SHAPE, generator=seeded(seed), dtype=torch.float64) * 2 - 1


def noised(n, seed):
    source = seeded(seed)
    noise = torch.randn(n, *SHAPE, generator=source, dtype=torch.float64)
    return noised_batch(images(n, seed), torch.randint(6, (n,), generator=source), noise, SCHEDULE, SCHEDULE)


def make(denoiser=None, **options):
    denoiser = denoiser or face()
    return denoiser, SalUn(**options).prepare(denoiser, Tools(n_forget=7, forget=images()))


def mse_by_hand(network, batch):
    total = 0.0
    for x0, noise, row in zip(batch.x0, batch.noise, batch.index.tolist(), strict=True):
        level = float(SCHEDULE.alpha_bars[row])
        x_t = math.sqrt(level) * x0 + math.sqrt(1 - level) * noise
        guess = network(x_t[None], torch.tensor([float(row)], dtype=torch.float64))[0].detach()
        total += sum(float(a - b) ** 2 for a, b in zip(noise.flatten(), guess.flatten(), strict=True))
    return total / batch.x0.numel()


# The loss


def test_the_loss_by_hand():
    denoiser, ready = make(alpha=0.02)
    batch = {"forget": noised(3, 0), "retain": noised(5, 1)}
    losses = ready.losses(denoiser, batch)
    forget, retain = mse_by_hand(denoiser.network, batch["forget"]), mse_by_hand(denoiser.network, batch["retain"])
    found = {name: float(value.detach()) for name, value in losses.terms.items()}
    assert found == pytest.approx({"forget": -forget, "retain": 0.02 * 4 * retain}, rel=1e-12)  # d = 4 pixels
    assert {name: float(value) for name, value in losses.observed.items()} == pytest.approx(
        {"mse": forget, "retain_mse": retain}, rel=1e-12
    )
    assert not any(value.requires_grad for value in losses.observed.values())
    assert set(losses.observed) == set(ready.limits)


@pytest.mark.parametrize(("role", "rises"), [("forget", True), ("retain", False)])
def test_a_step_raises_the_forget_loss_and_lowers_the_retain_loss(role, rises):
    denoiser, ready = make()
    batch = {"forget": noised(3, 0), "retain": noised(5, 1)}
    before = mse_by_hand(denoiser.network, batch[role])
    values = list(denoiser.network.parameters())
    found = torch.autograd.grad(ready.losses(denoiser, batch).terms[role], values)
    with torch.no_grad():
        for value, gradient in zip(values, found, strict=True):
            value -= 1e-2 * gradient
    assert (mse_by_hand(denoiser.network, batch[role]) > before) == rises


# The mask


@pytest.mark.parametrize("clip_norm", [1e-2, 1.0, 1e9])
def test_saliency_by_hand(clip_norm):
    """Batches of 3, 3 and 1 images; gradients by finite differences of the loss written out."""
    denoiser, draw_weights = face(), torch.ones(6, dtype=torch.float64)
    options = {"schedule": SCHEDULE, "batch_size": 3, "clip_norm": clip_norm}
    found = saliency(denoiser, images(), draw_weights, generator=seeded(2), **options)
    source, total = seeded(2), torch.zeros(20, dtype=torch.float64)
    values = list(denoiser.network.parameters())
    for part in (images()[:3], images()[3:6], images()[6:]):
        noise = torch.randn(part.shape, generator=source).double()
        index = torch.multinomial(draw_weights, len(part), replacement=True, generator=source)
        batch = noised_batch(part, index, noise, SCHEDULE, SCHEDULE)
        gradient = []
        for value in values:
            flat = value.data.view(-1)
            for i in range(len(flat)):
                kept, sides = float(flat[i]), []
                for side in (1e-5, -1e-5):
                    flat[i] = kept + side
                    sides.append(4 * mse_by_hand(denoiser.network, batch))
                flat[i] = kept
                gradient.append((sides[0] - sides[1]) / 2e-5)
        gradient = torch.tensor(gradient, dtype=torch.float64)
        total += gradient * min(1.0, clip_norm / float(gradient.norm()))
    # central differences: 1e-10 of curvature, 1e-11 of rounding
    torch.testing.assert_close(torch.cat([found["w"].flatten(), found["u"]]), total.abs(), rtol=1e-6, atol=1e-8)


def test_opposite_batches_cancel_before_the_absolute_value(monkeypatch):
    """ε_θ = x_t + a + b x_t at x_t ≈ x0, ε = 0: the gradient of a is odd in the images, that of b even."""

    class Shift(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (nn.Parameter(torch.zeros((), dtype=torch.float64)) for _ in range(2))

        def forward(self, x_t, t):
            return x_t + self.a + self.b * x_t

    denoiser = PipelineDenoiser(Shift(), SCHEDULE, "epsilon", SHAPE, {})
    monkeypatch.setattr(torch, "randn", lambda shape, generator: torch.zeros(shape))
    one_row = torch.tensor([1.0, 0, 0, 0, 0, 0])
    image = torch.full((1, *SHAPE), 0.5, dtype=torch.float64)
    options = {"schedule": SCHEDULE, "batch_size": 1, "clip_norm": 1e9, "generator": seeded(0)}
    found = saliency(denoiser, torch.cat([image, -image]), one_row, **options)
    # per batch: ∂_a Σ (x_t)² = 2 · 4 · x_t, ∂_b = 2 · 4 · x_t², x_t² = ᾱ/4
    assert float(found["a"]) == pytest.approx(0, abs=1e-12)
    assert float(found["b"]) == pytest.approx(2 * 8 * 0.95 / 4, rel=1e-9)


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5, 1.0])
def test_the_largest_share_of_all_entries_together(share):
    values = {"a": torch.rand(3, 4, generator=seeded(0)), "b": 3 * torch.rand(8, generator=seeded(1))}
    found = top_share(values, share)
    ranked = sorted([*values["a"].flatten().tolist(), *values["b"].tolist()], reverse=True)
    threshold = ranked[round(share * 20) - 1]
    for name, value in values.items():
        assert torch.equal(found[name], value >= threshold)


def test_ties_do_not_change_the_count():
    assert int(top_share({"a": torch.zeros(10)}, 0.5)["a"].sum()) == 5
    assert int(top_share({"a": torch.zeros(10)}, 1e-9)["a"].sum()) == 1


def test_the_mask_is_the_top_half_of_the_saliency_and_stays():
    denoiser, ready = make(mask_batch_size=3, mask_seed=4)
    _, again = make(mask_batch_size=3, mask_seed=4)
    count = sum(int(mask.sum()) for mask in ready._mask.values())
    assert count == 10
    assert all(torch.equal(ready._mask[name], again._mask[name]) for name in ("w", "u"))
    found = saliency(
        denoiser, images(), torch.ones(6, dtype=torch.float64), schedule=SCHEDULE, batch_size=3, clip_norm=1.0,
        generator=generator(4, "salun mask"),
    )  # fmt: skip
    inside = torch.cat([found[name][ready._mask[name]] for name in ("w", "u")])
    outside = torch.cat([found[name][~ready._mask[name]] for name in ("w", "u")])
    assert float(inside.min()) > float(outside.max())


def test_measuring_leaves_the_network_and_the_callers_stream_alone():
    denoiser = face(dropout=0.5)
    denoiser.network.train()
    torch.manual_seed(3)
    state, before = torch.get_rng_state(), [value.detach().clone() for value in denoiser.network.parameters()]
    with torch.no_grad():
        _, ready = make(denoiser)
    assert torch.equal(state, torch.get_rng_state())
    assert denoiser.network.training and denoiser.network.dropout.training
    for value, old in zip(denoiser.network.parameters(), before, strict=True):
        assert torch.equal(value, old) and value.grad is None and value.requires_grad
    assert all(torch.equal(ready._mask[name], make()[1]._mask[name]) for name in ("w", "u"))  # no dropout in it


# The masked update


class Adapter(Objective):
    def __init__(self, method, denoiser):
        self.method, self.denoiser = method, denoiser

    def losses(self, network, batch):
        parts = {
            role: noised_batch(batch[f"{role}.x0"], batch[f"{role}.index"], batch[f"{role}.noise"], SCHEDULE, SCHEDULE)
            for role in ("forget", "retain")
        }
        return self.method.losses(self.denoiser.with_network(network), parts)

    def after_step(self, parameters, values):
        self.method.after_step(parameters, values)


def draws(step):
    found = {}
    for k, role in enumerate(("forget", "retain")):
        part = noised(4, 2 * step + k)
        found |= {f"{role}.x0": part.x0, f"{role}.noise": part.noise, f"{role}.index": part.index}
    return found


def test_only_the_salient_half_moves_under_adam_with_weight_decay():
    denoiser, ready = make()
    before = {name: value.detach().clone() for name, value in denoiser.network.named_parameters()}
    settings = TrainSettings(steps=5, learning_rate=1e-2, weight_decay=0.3)
    train(denoiser.network, Adapter(ready, denoiser), draws, settings)
    for name, value in denoiser.network.named_parameters():
        mask = ready._mask[name]
        assert torch.equal(value[~mask], before[name][~mask])  # in all bits
        assert bool((value[mask] != before[name][mask]).all())
    assert 0 < sum(int(mask.sum()) for mask in ready._mask.values()) < 20


def test_the_original_is_a_copy():
    denoiser, ready = make()
    before = {name: value.detach().clone() for name, value in denoiser.network.named_parameters()}
    with torch.no_grad():
        for value in denoiser.network.parameters():
            value += 1
    ready.after_step(dict(denoiser.network.named_parameters()), {})
    for name, value in denoiser.network.named_parameters():
        expected = torch.where(ready._mask[name], before[name] + 1, before[name])
        assert torch.equal(value, expected)


# Settings


def test_a_gradient_that_is_not_finite_is_refused():
    denoiser = face()
    with torch.no_grad():
        denoiser.network.w[0, 0] = float("nan")
    with pytest.raises(InputError, match="forget: the gradient of the denoising loss has norm nan"):
        make(denoiser)
