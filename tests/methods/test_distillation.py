"""Retain-score distillation against exact scores of Gaussian mixtures, and against its formula written out."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from vdu.core.errors import InputError
from vdu.core.rng import derive_seed
from vdu.core.types import NoisedBatch, Tools
from vdu.diffusion.schedule import NoiseSchedule, noised_batch
from vdu.methods.distillation import RetainDistillation, repulsion, repulsion_length
from vdu.methods.retrack import retrack_target
from vdu.models.denoiser import PipelineDenoiser

SCHEDULE = NoiseSchedule.linear(6, 0.05, 0.3)
SHAPE = (1, 1, 2)
SHARE, FORGET, OTHER, SPREAD = 0.2, torch.tensor([1.0, 0.5]), torch.tensor([-0.7, -0.2]), 0.3


def gaussian_log(x: torch.Tensor, mean: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    variance = alpha_bar * SPREAD**2 + 1 - alpha_bar
    distance = (x.flatten(1) - alpha_bar.sqrt()[:, None] * mean.to(x)).square().sum(1)
    return -distance / (2 * variance) - math.log(2 * math.pi) - variance.log()


def exact_logit(x: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    """log r/(1−r) of the mixture 0.2 N(FORGET, s²) + 0.8 N(OTHER, s²), noised to ᾱ."""
    ratio = gaussian_log(x, FORGET, alpha_bar) - gaussian_log(x, OTHER, alpha_bar)
    return ratio + math.log(SHARE / (1 - SHARE))


def exact_noise(x: torch.Tensor, alpha_bar: torch.Tensor, parts: list[tuple[float, torch.Tensor]]) -> torch.Tensor:
    """−√(1−ᾱ) ∇ log q_t by automatic differentiation of the density."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        logs = torch.stack([math.log(share) + gaussian_log(x, mean, alpha_bar) for share, mean in parts])
        (score,) = torch.autograd.grad(logs.logsumexp(0).sum(), x)
    return -(1 - alpha_bar).sqrt().view(-1, 1, 1, 1) * score


def points(n=12, seed=0) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(n, *SHAPE, generator=source, dtype=torch.float64), SCHEDULE.alpha_bars[torch.arange(n) % 6]


class Exact(nn.Module):
    """The exact denoiser of a mixture, as a network."""

    def __init__(self, parts):
        super().__init__()
        self.parts = parts

    def forward(self, x_t, t):
        return exact_noise(x_t, SCHEDULE.alpha_bar_at(t), self.parts)


class Linear(nn.Module):
    def __init__(self, a=0.3, b=-0.1):
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (a, b))

    def forward(self, x_t, t):
        return self.a * x_t + self.b


def face(network: nn.Module) -> PipelineDenoiser:
    return PipelineDenoiser(network, SCHEDULE, "epsilon", SHAPE, {})


ALL = [(SHARE, FORGET), (1 - SHARE, OTHER)]


def test_with_the_exact_classifier_the_correction_gives_the_exact_score_of_the_rest():
    x, alpha_bar = points()
    corrected = exact_noise(x, alpha_bar, ALL) + repulsion(exact_logit, x, alpha_bar)
    torch.testing.assert_close(corrected, exact_noise(x, alpha_bar, [(1.0, OTHER)]))


class Labelled:
    """Exact predictions of a model with labels: 0 the forget set, 1 the rest, 2 the null class, which is both."""

    PARTS = ([(1.0, FORGET)], [(1.0, OTHER)], ALL)

    def noise(self, batch):
        (label,) = set(batch.condition["class_labels"].tolist())
        return exact_noise(batch.x_vp, batch.alpha_bar, self.PARTS[label])


def test_under_a_label_to_forget_the_target_is_the_exact_score_of_the_rest_without_a_label():
    batch = replace(noised(60, 3), condition={"class_labels": torch.zeros(60, dtype=torch.int64)})
    known = SimpleNamespace(class_names=("forget", "rest"), null_class=2, schedule=SCHEDULE)
    exact = RetainDistillation(
        repulsion_scale=1.0, gradient_length=0.0, keep_scale=0.0, self_improvement=0.0, alpha_bar_range=(0.0, 1.0)
    )
    null = {"class_labels": torch.tensor([2])}
    rest = exact_noise(batch.x_vp, batch.alpha_bar, [(1.0, OTHER)])
    found = exact.for_model(known)
    assert found.relabels
    target = replace(found, tools=tools(teacher=Labelled(), substitute=null)).lead_target(batch)
    whole = exact_noise(batch.x_vp, batch.alpha_bar, ALL)
    uncapped = (rest - whole).flatten(1).norm(dim=1) < whole.flatten(1).norm(dim=1)
    assert uncapped.sum() > 20  # the correction is capped at the length of the prediction
    torch.testing.assert_close(target[uncapped], rest[uncapped])


@pytest.mark.parametrize(
    ("known", "instead", "lead"),
    [
        ({"class_names": (), "null_class": None}, False, "gradient"),
        ({"class_names": ("a", "b"), "null_class": None}, False, "gradient"),
        ({"class_names": ("a", "b"), "null_class": 2}, True, "gradient"),
        ({"class_names": ("a", "b"), "null_class": 2}, False, "retrack"),
    ],
)
def test_the_null_class_leads_only_under_labels_where_nothing_else_does(known, instead, lead):
    found = RetainDistillation(lead=lead).for_model(SimpleNamespace(schedule=SCHEDULE, **known), instead=instead)
    assert not found.relabels


def test_the_two_forms_of_the_identity_agree():
    """ε₀ + r/(1−r)(ε₀ − ε_f) = ε₀ − √(1−ᾱ)∇log(1−r)."""
    x, alpha_bar = points(seed=1)
    original, forget = exact_noise(x, alpha_bar, ALL), exact_noise(x, alpha_bar, [(1.0, FORGET)])
    odds = exact_logit(x, alpha_bar).exp().view(-1, 1, 1, 1)
    torch.testing.assert_close(original + odds * (original - forget), original + repulsion(exact_logit, x, alpha_bar))


def test_the_correction_stays_alive_where_the_classifier_is_sure():
    x = torch.tensor(FORGET.tolist(), dtype=torch.float64).view(1, *SHAPE) * 30
    alpha_bar = SCHEDULE.alpha_bars[:1]
    assert float(torch.sigmoid(exact_logit(x, alpha_bar))) == 1.0  # r rounds to 1
    assert float(repulsion(exact_logit, x, alpha_bar).norm()) > 0.1


def noised(n: int, seed: int) -> NoisedBatch:
    source = torch.Generator().manual_seed(seed)
    x0 = torch.rand(n, *SHAPE, generator=source, dtype=torch.float64) * 2 - 1
    noise = torch.randn(x0.shape, generator=source, dtype=torch.float64)
    return noised_batch(x0, torch.arange(n) % 6, noise, SCHEDULE, SCHEDULE)


def tools(**changes) -> Tools:
    made = {
        "n_forget": 3, "teacher": face(Exact(ALL)), "self_model": face(Linear(0.8, 0.1)), "forget_model": face(Linear(0.5, 0.0)),
        "classifier": exact_logit, "retained": noised(5, 9).x0, "forget": noised(7, 8).x0,
    }  # fmt: skip
    return Tools(**made | changes)


@pytest.mark.parametrize("lead", ["retrack", "gradient", "forget-model"])
def test_the_losses_are_those_of_the_formula(lead):
    student, given = face(Linear()), tools()
    options = {
        "repulsion_scale": 0.5, "keep_scale": 0.7, "self_improvement": 1.5, "self_improvement_range": (0.4, 0.8), "forget_weight": 0.4,
        "gradient_length": 0.2, "lead": lead,
    }  # fmt: skip
    method = RetainDistillation(**options).prepare(student, given)
    retain, forget, own = noised(6, 1), noised(4, 2), noised(2, 3)
    losses = method.losses(student, {"retain": retain, "forget": forget, "own_forget": own})

    levels = ((SCHEDULE.alpha_bars >= 0.0015) & (SCHEDULE.alpha_bars <= 0.66)).double()  # middle noise
    assert given.forget is not None
    length = repulsion_length(
        exact_logit,
        given.forget.float(),
        levels,
        SCHEDULE,
        generator=torch.Generator().manual_seed(derive_seed(0, "length")),
    )

    def corrected(x, level, scale):
        original, step = exact_noise(x, level, ALL), scale * 0.2 / length * repulsion(exact_logit, x, level)
        for i in range(len(x)):
            step[i] *= min(1.0, float(original[i].norm() / step[i].norm()))
        return original + step

    def predicted(x):
        return 0.3 * x - 0.1

    x, level = retain.x_t, retain.alpha_bar
    inside = (level >= 0.4) & (level <= 0.8)
    assert bool((level < 0.4).any()) and bool(inside.any()) and bool((level > 0.8).any())
    better = 1.5 * (exact_noise(x, level, ALL) - (0.8 * x + 0.1)) * inside.view(-1, 1, 1, 1)
    target = corrected(x, level, 0.7) + better
    keep = (predicted(x) - target).square().mean()
    x, level = torch.cat([forget.x_t, own.x_t]), torch.cat([forget.alpha_bar, own.alpha_bar])
    original = exact_noise(x, level, ALL)
    odds = (0.5 * exact_logit(x, level).exp()).clamp(max=5).view(-1, 1, 1, 1)
    targets = {
        "retrack": torch.cat([retrack_target(each, given.retained) for each in (forget, own)]),
        "gradient": corrected(x, level, 0.5),
        "forget-model": original + odds * (original - 0.5 * x),
    }
    led = (predicted(x) - targets[lead]).square().mean()
    assert float(losses.terms["keep"].detach()) == pytest.approx(float(keep))
    assert float(losses.terms["lead"].detach()) == pytest.approx(0.4 * float(led))
    assert float(losses.observed["mse"]) == pytest.approx(float(led))


def sure(slope):
    """A logit so large that σ(h) = 1, with the gradient (slope, −slope)."""
    return lambda x, alpha_bar: 1e3 + slope * (x[:, 0, 0, 0] - x[:, 0, 0, 1])


def test_the_length_of_the_correction():
    """σ(h) = 1 and a constant gradient: the root mean square of √(1−ᾱ)(a, −a) is a √(1−ᾱ)."""
    images, levels = torch.zeros(3, *SHAPE), torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
    found = repulsion_length(sure(0.25), images, levels, SCHEDULE, generator=torch.Generator())
    assert found == pytest.approx(0.25 * math.sqrt(1 - float(SCHEDULE.alpha_bars[2])), rel=1e-6)
    levels = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0, 3.0])  # a mixture's mean square is the mixture of mean squares
    found = repulsion_length(sure(0.25), images, levels, SCHEDULE, generator=torch.Generator().manual_seed(0))
    mean = (1 - float(SCHEDULE.alpha_bars[1])) / 4 + 3 * (1 - float(SCHEDULE.alpha_bars[5])) / 4
    assert found == pytest.approx(0.25 * math.sqrt(mean), rel=0.02)
    with pytest.raises(InputError, match="classifier: its gradient on forget images has the length 0"):
        repulsion_length(sure(0.0), images, levels, SCHEDULE, generator=torch.Generator())


def test_how_flat_the_classifier_is_does_not_matter():
    """Ten times flatter, the same targets; without a length, not."""
    retain, forget = noised(6, 1), noised(4, 2)
    for length, same in ((0.05, True), (0.0, False)):
        targets = []
        for slope in (0.3, 0.03):
            method = RetainDistillation(gradient_length=length, self_improvement=0.0)
            ready = method.prepare(face(Linear()), tools(classifier=sure(slope)))
            targets.append(torch.cat([ready.keep_target(retain), ready.lead_target(forget)]))
        assert torch.allclose(*targets, atol=1e-6) == same


def test_what_it_uses_depends_on_its_settings():
    assert RetainDistillation().uses == {"teacher", "classifier", "self_model", "forget"}
    assert RetainDistillation(self_improvement=0.0).uses == {"teacher", "classifier", "forget"}
    assert RetainDistillation(gradient_length=0.0).uses == {"teacher", "classifier", "self_model"}
    without = RetainDistillation(
        lead="retrack", keep_scale=0.0, self_improvement=0.0
    )  # no target has a correction to be scaled
    assert without.uses == {"teacher", "classifier", "retained"}
    assert RetainDistillation(lead="forget-model").uses == {
        "teacher",
        "classifier",
        "self_model",
        "forget",
        "forget_model",
    }
    assert RetainDistillation(lead="retrack").uses == {"teacher", "classifier", "self_model", "forget", "retained"}
    with pytest.raises(InputError, match="distillation: needs self_model, got none"):
        RetainDistillation().prepare(face(Linear()), tools(self_model=None))


def test_a_width_that_eight_groups_do_not_divide_is_refused():
    with pytest.raises(InputError, match="classifier_width: got 12; expected a multiple of 8"):
        RetainDistillation(classifier_width=12)
