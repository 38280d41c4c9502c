"""The published, conditional forms of the peers, on a model of three parameters with three labels; every formula by hand.

ε_θ(x_t, t, k) = a x_t + b (t+1)/9 + c k/9. Label 1 is forgotten, 0 and 2 are kept, 3 is the null class.
"""

import math
from dataclasses import replace

import pytest
import torch

from toys import SCHEDULE, face, labelled, noised, under_labels
from vdu.core.errors import InputError
from vdu.core.types import Tools
from vdu.methods.concept_ablation import ConceptAblation
from vdu.methods.erasediff import EraseDiff
from vdu.methods.salun import SalUn, saliency
from vdu.methods.selective_amnesia import SelectiveAmnesia
from vdu.methods.siss import SISS
from vdu.posterior.gaussian import GaussianPosterior

NOW = (0.3, 0.9, 0.5)
NULL = {"class_labels": torch.tensor([3])}


def prepared(method, denoiser, *, instead=False, **tools):
    return method.for_model(denoiser, instead=instead).prepare(denoiser, Tools(n_forget=4, **tools))


def pixels(batch):
    """(image, x_t, noise, t) of every pixel."""
    for i, row in enumerate(batch.index.tolist()):
        level = float(SCHEDULE.alpha_bars[row])
        for x, e in zip(batch.x0[i].flatten().tolist(), batch.noise[i].flatten().tolist(), strict=True):
            yield i, math.sqrt(level) * x + math.sqrt(1 - level) * e, e, row


def guess(x_t, row, label, weights=NOW):
    a, b, c = weights
    return a * x_t + b * (row + 1) / 9 + c * label / 9


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def terms_of(losses):
    return {name: float(value.detach()) for name, value in losses.terms.items()}


def slopes(losses, term, denoiser):
    found = torch.autograd.grad(losses.terms[term], list(denoiser.network.parameters()), retain_graph=True)
    return [float(each) for each in found]


def test_concept_ablation_copies_the_anchors_prediction_without_moving_it():
    denoiser, batch = labelled(*NOW), under_labels(noised(4), 1, 1, 1, 1)
    ready = prepared(ConceptAblation(hold_weight=0.5), denoiser, substitute=NULL)
    losses = ready.losses(denoiser, {"instead": batch})
    rows = list(pixels(batch))
    expected = {
        "erase": mean((guess(x, t, 1) - guess(x, t, 3)) ** 2 for _, x, _, t in rows),
        "hold": 0.5 * mean((guess(x, t, 3) - e) ** 2 for _, x, e, t in rows),
    }
    assert terms_of(losses) == pytest.approx(expected, rel=1e-12)
    # ∂/∂c of the erase term through c k/9 at k = 1 alone: at k = 3 there is a stop
    assert slopes(losses, "erase", denoiser)[2] == pytest.approx(2 * NOW[2] * (1 - 3) / 9 / 9, rel=1e-12)


@pytest.mark.parametrize("instead", [None, 0])
def test_salun_relabels(instead):
    """Without a named label each forget image gets the label of a retained one."""
    denoiser = labelled(*NOW)
    batch = {"forget": under_labels(noised(4), 1, 1, 1, 1), "retain": under_labels(noised(4, 1), 0, 2, 2, 0)}
    substitute = None if instead is None else {"class_labels": torch.tensor([instead])}
    given = {"forget": noised(4).x0, "forget_condition": batch["forget"].condition, "substitute": substitute}
    losses = prepared(SalUn(alpha=0.1), denoiser, **given).losses(denoiser, batch)
    others = [0, 2, 2, 0] if instead is None else [0] * 4
    forget = mean((guess(x, t, 1) - guess(x, t, others[i])) ** 2 for i, x, _, t in pixels(batch["forget"]))
    retain = mean((guess(x, t, [0, 2, 2, 0][i]) - e) ** 2 for i, x, e, t in pixels(batch["retain"]))
    assert terms_of(losses) == pytest.approx({"forget": forget, "retain": 0.1 * 4 * retain}, rel=1e-12)  # d = 4
    expected = mean(2 * (guess(x, t, 1) - guess(x, t, others[i])) / 9 for i, x, _, t in pixels(batch["forget"]))
    assert slopes(losses, "forget", denoiser)[2] == pytest.approx(expected, rel=1e-12)  # only ε_θ(x_t, c) moves
    assert float(losses.observed["mse"]) == pytest.approx(
        mean((guess(x, t, 1) - e) ** 2 for _, x, e, t in pixels(batch["forget"])), rel=1e-12
    )


def test_the_mask_is_measured_under_the_images_own_labels():
    """One batch: the gradient of c is proportional to its label, image by image."""
    found = []
    for labels in ((1, 1, 2), (2, 2, 4)):
        denoiser = labelled(NOW[0], NOW[1], 0.0)  # c = 0: the labels enter the gradient alone
        values = saliency(
            denoiser, noised(3).x0, torch.ones(6, dtype=torch.float64), schedule=SCHEDULE, batch_size=3, clip_norm=1e9,
            generator=torch.Generator().manual_seed(0), condition={"class_labels": torch.tensor(labels)},
        )  # fmt: skip
        found.append({name: float(value) for name, value in values.items()})
    assert found[1]["c"] == pytest.approx(2 * found[0]["c"], rel=1e-12) and found[0]["c"] > 0
    assert (found[1]["a"], found[1]["b"]) == pytest.approx((found[0]["a"], found[0]["b"]), rel=1e-12)


def test_erasediff_takes_the_prediction_under_another_label_as_its_target():
    denoiser = labelled(*NOW)
    batch = {"forget": under_labels(noised(4), 1, 1, 1, 1), "retain": under_labels(noised(4, 1), 0, 2, 2, 0)}
    ready = prepared(EraseDiff(target="relabel", inner_steps=1, inner_learning_rate=0.2, weight=0.3), denoiser)
    losses = ready.losses(denoiser, batch)
    rows, others = list(pixels(batch["forget"])), [0, 2, 2, 0]
    targets = [guess(x, t, others[i]) for i, x, _, t in rows]

    def wrong(weights):
        return mean((guess(x, t, 1, weights) - u) ** 2 for (_, x, _, t), u in zip(rows, targets, strict=True))

    step = []
    for k in range(3):  # the inner step by central differences of a quadratic, which are exact
        up, down = ([value + s * (j == k) for j, value in enumerate(NOW)] for s in (0.5, -0.5))
        step.append(NOW[k] - 0.2 * (wrong(up) - wrong(down)))
    retain = mean((guess(x, t, [0, 2, 2, 0][i]) - e) ** 2 for i, x, e, t in pixels(batch["retain"]))
    expected = {"forget": 0.3 * (wrong(NOW) - wrong(step)), "retain": retain}
    assert terms_of(losses) == pytest.approx(expected, rel=1e-10)
    assert set(ready.limits) == {"mse", "retain_mse"} and not ready.draws


def test_siss_asks_each_term_under_its_images_own_label():
    """Where a pair took its forget image far from the other one, L_x has no weight left, and L_a is the plain loss under label 1."""
    denoiser = labelled(*NOW)
    far = replace(noised(4, low=0), x0=noised(4).x0 + 1e3)
    batch = {"forget": under_labels(far, 1, 1, 1, 1), "retain": under_labels(noised(4, 1), 0, 2, 2, 0)}
    ready = prepared(SISS(mixture=0.5), denoiser)
    plain = {
        "mse": lambda: mean((guess(x, t, 1) - e) ** 2 for _, x, e, t in pixels(batch["forget"])),
        "retain_mse": lambda: mean(
            (guess(x, t, [0, 2, 2, 0][i]) - e) ** 2
            for i, x, e, t in pixels(replace(batch["retain"], noise=far.noise, index=far.index))
        ),
    }
    for taken, name, other in ((0.0, "mse", "retain_mse"), (0.9, "retain_mse", "mse")):
        drawn = replace(batch["forget"], draws={"choice": torch.full((4,), taken)})
        observed = ready.losses(denoiser, batch | {"forget": drawn}).observed
        assert float(observed[name]) == pytest.approx(2 * plain[name](), rel=1e-9)  # 1/λ or 1/(1−λ)
        assert float(observed[other]) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("instead", [False, True])
def test_selective_amnesias_surrogates_are_under_the_label_to_forget(instead):
    denoiser, role = labelled(*NOW), "instead" if instead else "surrogate"
    parameters = dict(denoiser.network.named_parameters())
    posterior = GaussianPosterior(
        mean={name: value.detach().clone() for name, value in parameters.items()},
        variance={name: torch.ones_like(value) for name, value in parameters.items()},
        estimator="test",
    )
    ready = prepared(SelectiveAmnesia(posterior, replay="self"), denoiser, instead=instead)
    batch = {role: under_labels(noised(4), 1, 1, 1, 1), "retain": under_labels(noised(4, 1), 0, 2, 2, 0)}
    assert ready.needs == set(batch)
    expected = {
        "surrogate": 4 * mean((guess(x, t, 1) - e) ** 2 for _, x, e, t in pixels(batch[role])),
        "replay": 4 * mean((guess(x, t, [0, 2, 2, 0][i]) - e) ** 2 for i, x, e, t in pixels(batch["retain"])),
    }
    assert terms_of(ready.losses(denoiser, batch)) == pytest.approx(expected, rel=1e-12)


def test_concept_ablation_refuses_a_model_without_conditions():
    with pytest.raises(InputError, match="concept-ablation: this model is unconditional"):
        ConceptAblation().for_model(face())
