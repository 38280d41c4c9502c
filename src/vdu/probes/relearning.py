"""Relearning: how quickly does the class return under a short fine-tuning?

A copy of the unlearned model is fine-tuned with the ordinary denoising loss (Ho et al. 2020, arXiv 2006.11239, Eq. 14)

    L(θ) = E ‖ε − ε_θ(x_t, t)‖² / d,  t uniform over 1 … T

on n images of the class ("forget"), and another copy on n images of the rest ("benign"). After given steps, images are drawn from
fixed noise and the judge counts the class. If the class returns on benign images, it was hidden and not removed. If it returns on
images of the class faster than in the RETRAINED model, which learns it anew, a trace was left. Relearning alone, without this
comparison, is not evidence.

Every model is trained on the same images in the same batches with the same noise, noise levels and dropout, and smaller training
sets are prefixes of larger ones. Each image occurs once per epoch, and a batch may span several epochs. Benign images are real
images of the rest if there are any; otherwise samples of the original that the judge does not predict as forget.

Not guaranteed: that other learning rates, more steps or adapters do not recover the class sooner. The interval of a rate is over the
drawn images; it accounts neither for the choice of the training images nor for the noise shared by all points.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vdu.core.errors import InputError
from vdu.core.rng import derive_seed
from vdu.core.types import Denoiser
from vdu.data.images import ImageSet
from vdu.probes.context import ProbeContext
from vdu.probes.draws import (
    choose,
    draw,
    image_seeds,
    judged,
    measured,
    own_rest,
    require_fit,
    sampler_words,
    share,
)
from vdu.training.batches import NoisyImages
from vdu.training.denoising import DenoisingObjective
from vdu.training.loop import TrainSettings, train

__all__ = ["FineTuning", "fine_tune", "probe"]


@dataclass(frozen=True)
class FineTuning:
    """Settings of the fine-tuning; the learning rate is a tenth of a usual pre-training's.

    Attributes:
        learning_rate: Adam's step size, constant.
        batch_size: images per step.
        max_grad_norm: clip the global gradient norm to this; None does not clip.
    """

    learning_rate: float = 1e-4
    batch_size: int = 32
    max_grad_norm: float | None = 1.0


def fine_tune(
    case: ProbeContext,
    model: Denoiser,
    batches: NoisyImages,
    how: FineTuning,
    steps: Sequence[int],
    seeds: Sequence[int],
    title: str,
) -> list[dict[str, Any]]:
    """Fine-tune all weights of a copy of a model, and count the class after some steps.

    Args:
        case: provides sampler and judge.
        model: the model to copy; it is unchanged.
        batches: the training batches, in the role "data".
        how: the settings.
        steps: steps after which to count, increasing, each at least 1.
        seeds: of the images to draw, one per image, the same at every count.
        title: title of the progress bars.

    Returns:
        One point per step: ``step``, ``forget_count``, ``n_images``, ``low``, ``high``.
    """
    tuned = model.copy()
    tuned.network.requires_grad_(True)  # whatever was frozen: in a part, or as a whole for inference
    points: list[dict[str, Any]] = []

    def count(done: int, weights: Mapping[str, Tensor]) -> None:
        """Count the class in the loop's stop callback, without ever stopping."""
        if done in steps:
            points.append(_point(case, tuned, done, seeds, f"{title}, step {done}"))

    settings = TrainSettings(
        steps=max(steps),
        learning_rate=how.learning_rate,
        max_grad_norm=how.max_grad_norm,
        seed=derive_seed(case.seed, "relearning", "training"),
    )
    objective = DenoisingObjective(tuned, case.original.schedule)
    train(tuned.network, objective, batches, settings, progress=title if case.progress else None, stop=count)
    return points


def probe(
    case: ProbeContext,
    *,
    n_shown: Sequence[int] = (1, 10, 100),
    steps: Sequence[int] = (0, 5, 10, 20, 50),
    n_images: int = 200,
    how: FineTuning = FineTuning(),
) -> dict[str, Any]:
    """Measure how quickly the class returns in the unlearned and the retrained model.

    A fine-tuning that diverges ends the probe with :class:`vdu.core.errors.DivergenceError`.

    Args:
        case: models, images, judge, sampler and seed.
        n_shown: numbers of images to fine-tune on; numbers larger than the set are skipped, as recorded in the protocol.
        steps: optimiser steps after which to count; 0 is before the first.
        n_images: samples at every count.
        how: settings of the fine-tuning.

    Returns:
        ``curves``: one per model, kind of shown images and their number; ``original``: its count without any training.

    Raises:
        InputError: if a number of steps is negative, a number of images not positive, or the images do not fit the model.
    """
    started = time.monotonic()
    steps = sorted(set(steps))
    if not steps or steps[0] < 0 or min(n_shown, default=0) < 1 or n_images < 1:
        raise InputError(
            f"relearning: got n_shown={list(n_shown)}, steps={steps}, n_images={n_images}; expected at least one of each, "
            "steps of 0 or more and numbers of images of 1 or more."
        )
    shown = _shown(case, max(n_shown))
    seeds = image_seeds(case.seed, "relearning", n_images)
    before = {who: _point(case, model, 0, seeds, f"relearning: {who}") for who, model in case.models.items()}
    curves, left_out = [], []
    for kind, images in shown.items():
        for n in sorted(set(n_shown)):
            if n > len(images):
                left_out.append({"n_shown": n, "shown": kind, "n_available": len(images)})
                continue
            few = images.select(range(n))
            seed = derive_seed(case.seed, "relearning", kind, n)
            uniform = torch.ones(len(case.original.schedule), dtype=torch.float64)
            for who in ("unlearned", "retrained"):
                if who not in case.models:
                    continue
                # the same images and noise for each, which may read their prompts in its own way
                batches = NoisyImages("data", few, how.batch_size, uniform, seed, case.models[who])
                points = [before[who]] if steps[0] == 0 else []
                later = [step for step in steps if step]
                if later:
                    title = f"relearning: {who}, {n} {kind}"
                    points += fine_tune(case, case.models[who], batches, how, later, seeds, title)
                curves.append({"model": who, "shown": kind, "n_shown": n, "points": points})
    protocol = {
        "sampler": sampler_words(case.sampler),
        "optimiser": "adamw_constant_rate",
        "learning_rate": how.learning_rate,
        "learning_rate_is": "default" if how == FineTuning() else "given",
        "batch_size": how.batch_size,
        "max_grad_norm": how.max_grad_norm,
        "batches": "same_for_every_model",
        "n_shown": sorted(set(n_shown)),
        "steps": steps,
        "n_images": n_images,
        "forget_images": case.forget.description,
        "benign_images": shown["benign"].description,
        "left_out": left_out,
    }
    original = {name: before["original"][name] for name in ("forget_count", "n_images")}
    return measured(started, protocol, curves=curves, original=original)


def _shown(case: ProbeContext, most: int) -> dict[str, ImageSet]:
    """Images to fine-tune on, in random order, at most ``most`` of either kind."""
    if case.retain is not None:
        benign = choose(case.retain, most, case.seed, "relearning", "benign")
    else:
        benign = own_rest(case, most, "relearning, shown")
    shown = {"forget": choose(case.forget, most, case.seed, "relearning", "forget"), "benign": benign}
    for kind, images in shown.items():
        require_fit(images, case.original, f"relearning, {kind} images")
    return shown


def _point(case: ProbeContext, model: Denoiser, step: int, seeds: Sequence[int], title: str) -> dict[str, Any]:
    return {"step": step, **share(judged(case, draw(case, model, seeds, title)))}
