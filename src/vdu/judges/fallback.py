"""The fallback classifier: a judge for users who have neither a classifier nor images of other classes.

Generated samples of the original are split by their resemblance to the forget set (``vdu.replay.selection``); the judge is then
trained to separate the positives from the negatives:

    judge      generated samples like the forget set against those unlike it, balanced      → logit of p(x)/n(x)
    decision   P(forget | x)/P(other | x) = π̂/(1−π̂) · p(x)/n(x), a shift of the logit, stored in the last bias

Both classes consist of generated images, so that the judge cannot exploit the difference between real and generated images. A
classifier of the forget set against generated samples learns just that difference (``mnist-small``, digit 8: it found none of 173).
The forget set is not used for training and gives the miss rate; a part of the generated samples is held out and gives an estimate
of the false-positive rate (``vdu.replay.positive_unlabelled``). Of 1000 fresh samples of ``mnist`` it predicts 84 as forget; 77 of
them are among the 114 eights of a judge trained on labels (``benchmarks/resemblance.py --n-images 1000``).

Not guaranteed: that it works if all forget images differ from all generated samples in contrast or colour (the selection then finds
too few); that the judge agrees with a person.
"""

import math
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vdu.core.errors import InputError
from vdu.core.processes import say
from vdu.core.rng import derive_seed, generator, isolated_global
from vdu.data.images import ImageSet
from vdu.diffusion.schedule import NoiseSchedule
from vdu.judges.classifier import Judge
from vdu.judges.training import ClassificationObjective, LabelledImages, default_shift, judge_logits, provenance
from vdu.replay.positive_unlabelled import ForgetRates, estimate_rates, require_images
from vdu.replay.selection import FEWEST_LIKE_FORGET, select_samples
from vdu.training.loop import TrainSettings, train

__all__ = ["require_enough", "train_forget_judge"]

CLASSES = ("other", "forget")
HELD_OUT_SHARE = 0.25
require_enough = partial(require_images, where="evaluate", advice="a judge that was trained elsewhere")


def train_forget_judge(
    forget: ImageSet,
    own_samples: ImageSet,
    schedule: NoiseSchedule,
    *,
    seed: int,
    architecture: str = "cnn",
    score_steps: int = 300,
    steps: int = 300,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    noise: float = 0.3,
    progress: bool = True,
) -> tuple[Judge, dict[str, Any]]:
    """Train a judge of "forget" against "other" from forget images and generated samples alone.

    Args:
        forget: images of the forget class.
        own_samples: samples of the ORIGINAL model, from other seeds than the samples to be judged.
        schedule: the original's noise levels.
        seed: seeds the weights, the batches and the held-out split.
        architecture: "cnn" or "lenet".
        score_steps: optimiser steps of each of the two classifiers that score the generated samples.
        steps: optimiser steps of the judge.
        batch_size: positives, and as many negatives, per step.
        learning_rate: Adam's peak step size.
        noise: largest standard deviation of noise added in training.
        progress: show progress bars and the final error rates on standard error.

    Returns:
        The judge, with classes "other" and "forget", on the CPU in evaluation mode; and a record for
        :func:`vdu.judges.classifier.save_judge`: its ``held_out_error`` is the fraction of forget images that it misses, its
        ``forget`` has all rates.

    Raises:
        InputError: if the shapes differ, there are too few images, or too few generated samples match the forget images.
    """
    require_enough("forget images", len(forget))
    require_enough("generated samples", len(own_samples))
    zones = select_samples(
        forget,
        own_samples,
        schedule,
        seed=derive_seed(seed, "zones"),
        score_steps=score_steps,
        force=True,
        progress=progress,
    )
    seen, held_out = _hold_out(len(own_samples), seed)
    like, unlike = (own_samples.select(seen[mask[seen]]) for mask in (zones.forget, zones.kept))
    if len(like) < FEWEST_LIKE_FORGET:
        raise InputError(
            f"evaluate: {len(like)} of {len(seen)} generated samples match the forget images; expected at least "
            f"{FEWEST_LIKE_FORGET} for training. Draw more (--n-judge-samples), or give a judge that was trained "
            "elsewhere (--judge). If the model generates no such images (check with vdu sample), there is nothing to judge."
        )
    judge = _fit(
        unlike, like, architecture, derive_seed(seed, "judge"), "classifier of images" if progress else None,
        steps=steps, batch_size=batch_size, learning_rate=learning_rate, noise=noise,
    )  # fmt: skip
    threshold = _threshold(zones.share, len(own_samples))
    scores = [_scores(judge, images) for images in (forget, own_samples.select(held_out))]
    with torch.no_grad():
        judge.head.bias.add_(torch.tensor([threshold / 2, -threshold / 2]))
    rates = estimate_rates(*scores, threshold=threshold, generator=generator(seed, "rates"))
    settings = {
        "score_steps": score_steps, "steps": steps, "batch_size": batch_size, "learning_rate": learning_rate,
        "noise": noise, "seed": seed, "architecture": architecture,
    }  # fmt: skip
    found = {"share_by_resemblance": zones.share, "n_like_forget": len(like), "n_unlike_forget": len(unlike)}
    record = _record(rates, found, provenance(forget, own_samples), settings)
    if progress:
        say(
            f"fallback classifier: misses {rates.miss_rate:.1%} of {rates.n_forget} forget images; false-positive rate about "
            f"{rates.false_positive_rate:.1%}, up to {rates.false_positive_rate_high:.1%}"
        )  # fmt: skip
    return judge, record


def _hold_out(n_own: int, seed: int) -> tuple[Tensor, Tensor]:
    # the generated samples to train on, and those held out
    order = torch.randperm(n_own, generator=generator(seed, "held out"))
    n_held_out = round(HELD_OUT_SHARE * n_own)
    return order[n_held_out:], order[:n_held_out]


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


def _threshold(share: float, n: int) -> float:
    share = (share * n + 1) / (n + 2)  # Laplace's rule of succession: never 0 or 1
    return math.log((1 - share) / share)


def _record(
    rates: ForgetRates, found: dict[str, Any], data: dict[str, Any], settings: dict[str, Any]
) -> dict[str, Any]:
    return {
        "name": f"on-the-spot-{settings['architecture']}",
        "trained_by": "positive-unlabelled",
        "data": data,
        "held_out": {
            "description": "the forget set, and a part of the generated samples, drawn at random",
            "share": HELD_OUT_SHARE,
        },
        "held_out_error": rates.miss_rate,
        "n_held_out": rates.n_forget,
        "forget_false_positive_rate": rates.false_positive_rate,
        "forget": asdict(rates) | found,
        "settings": settings,
    }
