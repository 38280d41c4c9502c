import math

import pytest
import torch

from toys import SCHEDULE, face, noised
from vdu.core.errors import InputError
from vdu.core.types import Tools
from vdu.diffusion.schedule import NoiseSchedule
from vdu.methods.anchor import FunctionAnchor

ORIGINAL = (0.5, 0.2)


def batch_of(n=8):
    return {"forget": noised(n, 0), "retain": noised(n + 2, 1)}


def make(*weights, **options):
    denoiser = face(*weights)
    return denoiser, FunctionAnchor(**options).prepare(denoiser, Tools(n_forget=3, teacher=face()))


def pixels(batch):
    """Each pixel's x_t, ε, u = (t+1)/9 and row."""
    for x0, noise, row in zip(batch.x0, batch.noise, batch.index.tolist(), strict=True):
        level = float(SCHEDULE.alpha_bars[row])
        for x, e in zip(x0.flatten().tolist(), noise.flatten().tolist(), strict=True):
            yield math.sqrt(level) * x + math.sqrt(1 - level) * e, e, (row + 1) / 9, row


def mse_by_hand(batch, a, b):
    return sum((e - a * x_t - b * u) ** 2 for x_t, e, u, _ in pixels(batch)) / batch.x0.numel()


def keep_by_hand(batch, a, b, weights="uniform"):
    def weight(row):
        if weights == "uniform":
            return 1.0
        if row == 0:
            return 0.0
        now, before = float(SCHEDULE.alpha_bars[row]), float(SCHEDULE.alpha_bars[row - 1])
        return (1 - now / before) / (now / before * (1 - before)) / 2

    (a_0, b_0), total = ORIGINAL, 0.0
    for x_t, _, u, row in pixels(batch):
        total += weight(row) * (a * x_t + b * u - a_0 * x_t - b_0 * u) ** 2
    return total / batch.x0.numel()


# The loss


@pytest.mark.parametrize("weights", ["uniform", "elbo"])
def test_the_loss_by_hand(weights):
    denoiser, ready = make(0.7, -0.3, gamma=2.5, weights=weights)
    batch = batch_of()
    losses = ready.losses(denoiser, batch)
    mse, keep = mse_by_hand(batch["forget"], 0.7, -0.3), keep_by_hand(batch["retain"], 0.7, -0.3, weights)
    assert 0 in batch["retain"].index.tolist()  # t = 1 has weight 0 in one and 1 in the other
    found = {name: float(value.detach()) for name, value in losses.terms.items()}
    assert found == pytest.approx({"plasticity": -mse, "anchor": 2.5 * keep}, rel=1e-12)
    observed = {name: float(value) for name, value in losses.observed.items()}
    assert observed == pytest.approx({"mse": mse, "keep": keep, "gamma": 2.5}, rel=1e-12)
    assert not any(value.requires_grad for value in losses.observed.values())
    assert not set(losses.terms) & set(losses.observed)  # the loop hands both to after_step under one name each


def test_the_forget_term_may_be_bounded():
    denoiser, ready = make(0.7, -0.3, form="margin", margin=100.0)
    batch = batch_of()
    now, before = (mse_by_hand(batch["forget"], *weights) for weights in ((0.7, -0.3), ORIGINAL))
    losses = ready.losses(denoiser, batch)
    assert float(losses.terms["plasticity"].detach()) == pytest.approx(101 * before - now, rel=1e-12)
    assert float(losses.observed["teacher_mse"]) == pytest.approx(before, rel=1e-12)


def test_at_the_original_weights_the_anchor_and_its_gradient_are_zero():
    denoiser, ready = make(gamma=1e6)
    anchor = ready.losses(denoiser, batch_of()).terms["anchor"]
    assert float(anchor.detach()) == 0.0
    assert [float(value) for value in torch.autograd.grad(anchor, list(denoiser.network.parameters()))] == [0.0, 0.0]


def test_each_term_pulls_its_own_way_and_the_teacher_stays():
    for term, sign in (("plasticity", 1), ("anchor", -1)):
        denoiser, ready = make(0.7, -0.3)
        batch = batch_of()
        ready.losses(denoiser, batch).terms[term].backward()
        with torch.no_grad():
            moved = [float(value - 1e-4 * value.grad) for value in denoiser.network.parameters()]
        part, measure = (batch["forget"], mse_by_hand) if term == "plasticity" else (batch["retain"], keep_by_hand)
        assert sign * (measure(part, *moved) - measure(part, 0.7, -0.3)) > 0
        assert all(value.grad is None for value in ready.tools.teacher.network.parameters())


# Dual ascent


def test_gamma_follows_the_constraint():
    _, ready = make(delta=0.1, gamma=1.0, gamma_rate=10.0)
    found = []
    for keep in (0.0, 0.3, 0.15, 0.1, 0.05, 0.0, 0.0, 0.0, 0.0, 0.2):
        ready.after_step({}, {"keep": keep, "mse": 9.0})
        found.append(ready.state()["gamma"])
    assert found == pytest.approx([0.0, 2.0, 2.5, 2.5, 2.0, 1.0, 0.0, 0.0, 0.0, 1.0], abs=1e-12)


def test_the_next_loss_takes_the_new_gamma():
    denoiser, ready = make(0.7, -0.3, delta=0.1, gamma=1.0, gamma_rate=10.0)
    before = ready.losses(denoiser, batch_of())
    ready.after_step({}, {"keep": 0.3})
    after = ready.losses(denoiser, batch_of())
    assert float(after.terms["anchor"].detach()) == pytest.approx(3 * float(before.terms["anchor"].detach()), rel=1e-12)
    assert float(after.observed["gamma"]) == 3.0


@pytest.mark.slow
@pytest.mark.parametrize("delta", [0.01, 0.04])
def test_the_saddle_point_is_the_best_point_within_the_constraint(delta):
    """The truth by brute force: K is a quadratic form, so its bound is an ellipse, walked around in 20 000 steps."""
    denoiser, ready = make(delta=delta, gamma=1.0, gamma_rate=20.0)
    batch = batch_of()
    parameters = dict(denoiser.network.named_parameters())
    for _ in range(1500):
        losses = ready.losses(denoiser, batch)
        gradients = torch.autograd.grad(sum(losses.terms.values()), list(parameters.values()))
        with torch.no_grad():
            for value, gradient in zip(parameters.values(), gradients, strict=True):
                value -= 0.02 * gradient
        ready.after_step(parameters, {name: float(value) for name, value in losses.observed.items()})
    end = [float(value.detach()) for value in parameters.values()]
    assert keep_by_hand(batch["retain"], *end) == pytest.approx(delta, rel=1e-3)

    retain, forget = (torch.tensor([each[:3] for each in pixels(batch[role])]) for role in ("retain", "forget"))
    angle = torch.linspace(0, 2 * math.pi, 20_001, dtype=torch.float64)
    direction = torch.stack([angle.cos(), angle.sin()], 1)
    answers = direction @ retain[:, [0, 2]].double().T
    edge = torch.tensor(ORIGINAL) + direction * (delta / answers.square().mean(1, keepdim=True)).sqrt()
    errors = (forget[:, 1].double() - edge @ forget[:, [0, 2]].double().T).square().mean(1)
    assert end == pytest.approx(edge[errors.argmax()].tolist(), abs=2e-3)
    assert mse_by_hand(batch["forget"], *end) == pytest.approx(float(errors.max()), rel=1e-3)


# Options and invariants


def test_retained_images_are_held_at_all_noise_levels():
    _, ready = make(alpha_bar_range=(0.0, float(SCHEDULE.alpha_bars[2])))
    assert ready.draw_weights("forget").tolist() == [0, 0, 1, 1, 1, 1]
    assert ready.draw_weights("retain").tolist() == ready._level_weights().tolist() == [1] * 6
    assert ready._level_weights().dtype == torch.float64
    denoiser, narrow = make(0.7, -0.3, alpha_bar_range=(0.0, float(SCHEDULE.alpha_bars[2])))
    keep = narrow.losses(denoiser, batch_of()).observed["keep"]
    assert float(keep) == pytest.approx(keep_by_hand(batch_of()["retain"], 0.7, -0.3), rel=1e-12)


def test_a_schedule_whose_weight_sits_on_one_step_is_refused():
    with pytest.raises(InputError, match="of the weight of Eq. 3 lies on step t = 1000 of 1000"):
        make(weights="elbo", schedule=NoiseSchedule.cosine())
    make(weights="uniform", schedule=NoiseSchedule.cosine())
