"""A judge trained on the spot, for users who have neither a classifier nor images of anything but the forget class.

The forget set p is set against the model's own samples u = π p + (1−π) n, of which an unknown share π are of the forget
class too (positive–unlabelled learning):

    round 1    p against u, balanced                                            → π̂ from held-out scores
    round 2    p against u less the π̂ most forget-like by round 1, about n      → logit of p(x)/n(x), and π̂ anew
    decision   P(forget | x)/P(other | x) = π̂/(1−π̂) · p(x)/n(x), a shift of the logit, kept in the last bias

Parts of both sets are held out from both rounds; they give π̂ and the error rates
(``vdu.recipes.positive_unlabelled``).

Not guaranteed: that the judge has learnt what the forget class is rather than how generated images differ from real
ones. A π̂ far below the share that the eye sees among the own samples says so.
"""

import math
import sys
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vdu.data.images import ImageSet
from vdu.errors import InputError
from vdu.models.judge import Judge
from vdu.recipes.classification import ClassificationObjective, LabelledImages, default_shift, judge_logits, provenance
from vdu.recipes.positive_unlabelled import FEWEST_IMAGES, ForgetRates, estimate_rates, estimate_share, require_images
from vdu.rng import derive_seed, generator, isolated_global
from vdu.training.loop import TrainSettings, train

__all__ = ["require_enough", "train_forget_judge"]

CLASSES = ("other", "forget")
HELD_OUT_SHARE = 0.25
require_enough = partial(require_images, where="forget judge", advice="a judge that was trained elsewhere")


def train_forget_judge(
    forget: ImageSet,
    own_samples: ImageSet,
    *,
    seed: int,
    architecture: str = "cnn",
    steps: int = 300,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    noise: float = 0.3,
    progress: bool = True,
) -> tuple[Judge, dict[str, Any]]:
    """A judge of "forget" against "other" from forget images and the model's own samples alone.

    Args:
        forget: images of the forget class.
        own_samples: images that the ORIGINAL model made, from other seeds than those that will be judged.
        seed: seeds the weights, the batches and what is held out.
        architecture: "cnn" or "lenet".
        steps: optimiser steps of each of the two rounds.
        batch_size: forget images, and own samples, per step.
        learning_rate: Adam's peak step size.
        noise: largest standard deviation of noise added in training; it hides the fine grain by which generated
            images differ from real ones.
        progress: show bars, and in the end the rates of error, on standard error.

    Returns:
        The judge, with classes "other" and "forget", on the CPU in evaluation mode; and a record for
        :func:`vdu.models.judge.save_judge`: its ``held_out_error`` is the share of held-out forget images that it
        misses, its ``forget`` has all rates and a sentence that explains them.

    Raises:
        InputError: if the shapes differ, there are too few images, or nearly all own samples look like forget images.
    """
    if forget.shape != own_samples.shape:
        raise InputError(
            f"forget judge: forget images have shape {forget.shape}, own samples {own_samples.shape}; expected the "
            "same. Load the forget images in the model's shape."
        )
    forget_seen, forget_held_out = _hold_out("forget images", forget, seed)
    own_seen, own_held_out = _hold_out("own samples", own_samples, seed)
    options = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate, "noise": noise}

    def fit(others: ImageSet, name: str) -> Judge:
        title = f"judge, {name}" if progress else None
        return _fit(others, forget_seen, architecture, derive_seed(seed, name), title, **options)

    first = fit(own_seen, "round 1")
    share = estimate_share(_scores(first, forget_held_out), _scores(first, own_held_out))
    least_forget_like = _scores(first, own_seen).argsort()[: _n_others(share, len(own_seen))]
    judge = fit(own_seen.select(least_forget_like), "round 2")
    scores = [_scores(judge, images) for images in (forget_held_out, own_held_out)]
    threshold = _threshold(estimate_share(*scores), len(own_held_out))
    with torch.no_grad():
        judge.head.bias.add_(torch.tensor([threshold / 2, -threshold / 2]))
    rates = estimate_rates(*scores, threshold=threshold, generator=generator(seed, "rates"))
    record = _record(rates, provenance(forget, own_samples), options | {"seed": seed, "architecture": architecture})
    if progress:
        print(record["forget"]["note"], file=sys.stderr)
    return judge, record


def _hold_out(name: str, images: ImageSet, seed: int) -> tuple[ImageSet, ImageSet]:
    # the images to train on, and those held out
    require_enough(name, len(images))
    order = torch.randperm(len(images), generator=generator(seed, "held out", name))
    n_held_out = round(HELD_OUT_SHARE * len(images))
    return images.select(order[n_held_out:]), images.select(order[:n_held_out])


def _fit(
    others: ImageSet,
    forget: ImageSet,
    architecture: str,
    seed: int,
    progress: str | None,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    noise: float,
) -> Judge:
    with isolated_global(derive_seed(seed, "weights")):
        judge = Judge(architecture, forget.shape, CLASSES)
    sets = tuple((images, torch.full((len(images),), label)) for label, images in enumerate((others, forget)))
    batches = LabelledImages(sets, batch_size, default_shift(forget.shape), noise, derive_seed(seed, "batches"))
    how = TrainSettings(
        steps=steps,
        learning_rate=learning_rate,
        lr_schedule="cosine",
        warmup_steps=steps // 10,
        weight_decay=0.01,
        seed=derive_seed(seed, "training"),
    )
    train(judge, ClassificationObjective(), batches, how, progress=progress)
    return judge.cpu()


def _scores(judge: Judge, images: ImageSet) -> Tensor:
    # the logit of "forget" against "other"
    other, forget = judge_logits(judge, images).unbind(dim=1)
    return forget - other


def _n_others(share: float, n_own: int) -> int:
    n_others = n_own - round(share * n_own)
    if n_others < FEWEST_IMAGES // 2:
        raise InputError(
            f"forget judge: {share:.0%} of the own samples look like forget images, which leaves {n_others} others; "
            f"expected at least {FEWEST_IMAGES // 2}. Draw more samples, or give a judge that was trained elsewhere."
        )
    return n_others


def _threshold(share: float, n: int) -> float:
    share = (share * n + 1) / (n + 2)  # Laplace's rule of succession: never 0 or 1
    return math.log((1 - share) / share)


def _record(rates: ForgetRates, data: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    false, high = rates.false_positive_rate, rates.false_positive_rate_high
    note = (
        f"The judge trained on the spot misses {rates.miss_rate:.1%} of {rates.n_forget} held-out forget images. It calls "
        f"about {false:.1%} (up to {high:.1%}) of the others forget: an estimate from {rates.n_unlabelled} held-out own "
        f"samples, about {rates.share:.1%} of them of the forget class. Others that look just like the forget class "
        "count as it: without labels nobody can tell."
    )
    return {
        "name": f"on-the-spot-{settings['architecture']}",
        "trained_by": "positive-unlabelled",
        "data": data,
        "held_out": {"description": "a part of both sets, drawn at random", "share": HELD_OUT_SHARE},
        "held_out_error": rates.miss_rate,
        "n_held_out": rates.n_forget,
        "forget_false_positive_rate": rates.false_positive_rate,
        "forget": asdict(rates) | {"note": note},
        "settings": settings,
    }
