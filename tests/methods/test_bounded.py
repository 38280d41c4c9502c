import math

import pytest
import torch

from toys import SCHEDULE, face, noised
from vdu.core.errors import InputError
from vdu.core.types import Tools
from vdu.methods.bounded import FORMS, BoundedPlasticity, ascent, hellinger, margin, npo
from vdu.methods.vdu import VDU
from vdu.posterior.gaussian import GaussianPosterior


def posterior_of() -> GaussianPosterior:
    return GaussianPosterior(
        mean={"a": torch.tensor(0.45), "b": torch.tensor(0.3)},
        variance={"a": torch.tensor(0.5), "b": torch.tensor(0.01)},
        estimator="test",
    )


def make(denoiser, teacher=None, **options):
    return BoundedPlasticity(**options).prepare(denoiser, Tools(n_forget=3, teacher=teacher))


def errors_by_hand(batch, a, b):
    """The mean squared error of each image, one number at a time."""
    found = []
    for x0, noise, row in zip(batch.x0, batch.noise, batch.index.tolist(), strict=True):
        level, total = float(SCHEDULE.alpha_bars[row]), 0.0
        for x, e in zip(x0.flatten().tolist(), noise.flatten().tolist(), strict=True):
            x_t = math.sqrt(level) * x + math.sqrt(1 - level) * e
            total += (e - a * x_t - b * (row + 1) / 9) ** 2
        found.append(total / 4)
    return found


def by_hand(form, loss, reference, beta=10.0, kappa=10.0, m=1.0):
    return {
        "ascent": lambda: -loss,
        "npo": lambda: 2 / beta * math.log(1 + math.exp(-beta * (loss - reference))),
        "hellinger": lambda: math.exp(-kappa * loss),
        "margin": lambda: max(0.0, m * reference + reference - loss),
    }[form]()


# The forms

LOSSES = [0.01, 0.3, 0.5, 0.7, 2.0]


@pytest.mark.parametrize("reference", [0.01, 0.5])
def test_the_forms_by_hand(reference):
    loss, zero = torch.tensor(LOSSES, dtype=torch.float64), torch.full((5,), reference, dtype=torch.float64)
    found = {
        "ascent": ascent(loss),
        "npo": npo(loss, zero, beta=3.0),
        "hellinger": hellinger(loss, kappa=2.0),
        "margin": margin(loss, zero, multiple=0.7),
    }
    assert set(found) == set(FORMS)
    for form, values in found.items():
        truth = [by_hand(form, value, reference, beta=3.0, kappa=2.0, m=0.7) for value in LOSSES]
        assert values.tolist() == pytest.approx(truth, rel=1e-12), form


def test_the_first_steps_of_ascent_npo_and_margin_are_the_same():
    loss = torch.tensor([0.02, 0.4], dtype=torch.float64)
    forms = {
        "ascent": ascent,
        "npo": lambda x: npo(x, loss, beta=7.0),
        "margin": lambda x: margin(x, loss, multiple=0.5),
        "hellinger": lambda x: hellinger(x, kappa=3.0),
    }
    slopes = {form: torch.func.grad(lambda x, f=f: f(x).sum())(loss).tolist() for form, f in forms.items()}
    assert slopes["ascent"] == slopes["margin"] == [-1.0, -1.0]
    assert slopes["npo"] == pytest.approx([-1.0, -1.0], rel=1e-12)
    assert slopes["hellinger"] == pytest.approx([-3 * math.exp(-0.06), -3 * math.exp(-1.2)], rel=1e-12)


def test_the_pull_is_gone_far_away_and_no_number_overflows():
    far = torch.tensor([1e6, -1e6], dtype=torch.float64, requires_grad=True)
    one = torch.ones(2, dtype=torch.float64)
    for value in (npo(far, one, beta=10.0), margin(far, one, multiple=1.0), hellinger(far.clamp(min=0), kappa=10.0)):
        slope = torch.autograd.grad(value.sum(), far, retain_graph=True)[0]
        assert float(value[0].detach()) == float(slope[0]) == 0.0
        assert bool(torch.isfinite(value).all()) and bool(torch.isfinite(slope).all())


# The method


@pytest.mark.parametrize("form", FORMS)
def test_the_loss_is_the_mean_of_the_form_over_the_images(form):
    denoiser, teacher, batch = face(0.5, 0.2), face(0.6, 0.1), noised()
    ready = make(denoiser, teacher, form=form, beta=3.0, kappa=2.0, margin=0.7)
    losses = ready.losses(denoiser, {"forget": batch})
    now, before = errors_by_hand(batch, 0.5, 0.2), errors_by_hand(batch, 0.6, 0.1)
    truth = [by_hand(form, x, y, beta=3.0, kappa=2.0, m=0.7) for x, y in zip(now, before, strict=True)]
    assert float(losses.terms["plasticity"].detach()) == pytest.approx(sum(truth) / 4, rel=1e-12)
    observed = {"mse": sum(now) / 4} | ({"teacher_mse": sum(before) / 4} if "teacher" in ready.uses else {})
    assert {name: float(value) for name, value in losses.observed.items()} == pytest.approx(observed, rel=1e-12)
    assert not any(value.requires_grad for value in losses.observed.values())
    losses.terms["plasticity"].backward()
    assert all(value.grad is None for value in teacher.network.parameters())


@pytest.mark.parametrize("form", FORMS)
def test_a_step_against_the_gradient_raises_the_forget_error(form):
    denoiser, batch = face(), noised()
    ready = make(denoiser, face(), form=form)
    ready.losses(denoiser, {"forget": batch}).terms["plasticity"].backward()
    with torch.no_grad():
        a, b = (float(value - 1e-4 * value.grad) for value in denoiser.network.parameters())
    assert sum(errors_by_hand(batch, a, b)) > sum(errors_by_hand(batch, 0.5, 0.2)) + 1e-6


def test_an_image_past_its_margin_is_left_alone_and_the_others_are_not():
    denoiser, teacher, batch = face(0.5, 0.2), face(0.6, 0.1), noised()
    now, before = errors_by_hand(batch, 0.5, 0.2), errors_by_hand(batch, 0.6, 0.1)
    multiples = sorted((x - y) / y for x, y in zip(now, before, strict=True))
    middle = (multiples[-1] + multiples[-2]) / 2
    assert middle > 0
    ready = make(denoiser, teacher, form="margin", margin=middle)
    ready.losses(denoiser, {"forget": batch}).terms["plasticity"].backward()
    pulled = [i for i, (x, y) in enumerate(zip(now, before, strict=True)) if (x - y) / y < middle]
    assert len(pulled) == 3
    above, below = errors_by_hand(batch, 0.5 + 1e-6, 0.2), errors_by_hand(batch, 0.5 - 1e-6, 0.2)
    slope = sum(above[i] - below[i] for i in pulled) / 2e-6
    assert float(denoiser.network.a.grad) == pytest.approx(-slope / 4, rel=1e-6)  # central differences of a parabola


def test_the_teacher_is_asked_for_only_where_it_is_needed():
    for form in ("ascent", "hellinger"):
        assert make(face(), form=form).uses == frozenset()
    for form in ("npo", "margin"):
        with pytest.raises(InputError, match="bounded: needs teacher, got none"):
            make(face(), form=form)


# The posterior


def test_with_ascent_it_is_vdu_of_uniform_weights_per_summand():
    """λ = γ/(1−γ) makes VDU's whole gradient divided by (1−γ) |D_f| d (number of levels); t = 1 is left out of both."""
    gamma, options = 0.3, {"schedule": SCHEDULE, "alpha_bar_range": (0.0, float(SCHEDULE.alpha_bars[1]))}
    vdu = VDU(posterior_of(), gamma=gamma, weights="uniform", **options)
    own = BoundedPlasticity(form="ascent", posterior=posterior_of(), stability=gamma / (1 - gamma), **options)
    batch, gradients, logged = noised(low=1), [], []
    for method in (vdu, own):
        denoiser = face()
        ready = method.prepare(denoiser, Tools(n_forget=3))
        ready.losses(denoiser, {"forget": batch}).terms["plasticity"].backward()
        logged.append(ready.add_gradients(dict(denoiser.network.named_parameters()))["stability"])
        gradients.append(torch.stack([value.grad for value in denoiser.network.parameters()]))
    n = (1 - gamma) * 3 * 4 * 5
    torch.testing.assert_close(gradients[1], gradients[0] / n, rtol=1e-12, atol=0)
    assert logged[1] == pytest.approx(logged[0] / n, rel=1e-12)


def test_the_second_term_by_hand():
    denoiser = face()
    ready = make(denoiser, form="hellinger", posterior=posterior_of(), stability=0.6)
    scale = 0.6 / (3 * 4 * 6)  # three images, four pixels, six levels
    value = scale * (0.05**2 / (2 * 0.5) + 0.1**2 / (2 * 0.01))
    # the posterior keeps float32 numbers
    assert ready.add_gradients(dict(denoiser.network.named_parameters())) == {
        "stability": pytest.approx(value, rel=1e-5)
    }
    found = [float(value.grad) for value in denoiser.network.parameters()]
    assert found == pytest.approx([scale * 0.05 / 0.5, -scale * 0.1 / 0.01], rel=1e-5)
    again = ready.prepare(denoiser, Tools(n_forget=3))
    assert again.stability == 0.6 and again._n == 72  # preparing twice divides once


def test_without_a_posterior_nothing_is_added():
    denoiser = face()
    ready = make(denoiser, form="hellinger", stability=5.0)
    assert ready.add_gradients(dict(denoiser.network.named_parameters())) == {}
    assert all(value.grad is None for value in denoiser.network.parameters())


# Options and invariants
