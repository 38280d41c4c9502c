"""Positive-unlabelled selection: which generated samples belong to the forget concept, without labels or retained data.

Generated samples are a mixture, u = π p + (1−π) n, of the forget concept and the rest. The forget set is real and the samples
are generated, so that a plain classifier learns to separate real from generated images (``mnist-small``, digit 8: it finds none
of 173; docs/dev/methods-log.md, 28). Two measures prevent this: random affine augmentation of both sets, and noise. The classifier
never sees a clean image.

    1. score      s(x) = mean of h(x_t, ᾱ) over low noise levels; h separates one half of the forget set from one half of the
                  generated samples and scores only the other halves
    2. selection  c_q = q-quantile of the forget set's own scores
                  positive          s ≥ c_10%     scores like the upper 90 % of the forget images
                  negative (S_r)    s < c_5%      scores below 95 % of the forget images
                  unlabelled        between       not used
    3. rate       π̂ = fraction of generated samples with s ≥ c_5%, divided by 95 %
    4. r          P(forget | x_t) = σ(h(x_t, ᾱ) + log(π̂/(1−π̂))), h trained anew on forget set and positives against negatives

Score ranks transfer from real to generated images, score values do not. The thresholds are therefore quantiles of the forget
set's scores, and there are two of them with a gap in between.

Not guaranteed: that the selection is right (``mnist``, by the packaged judge: 126 of the 132 positives are eights, and 34 of the
1334 negatives; ``benchmarks/resemblance.py``); that r is calibrated.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vdu.core.errors import InputError
from vdu.core.rng import derive_seed, generator, isolated_global
from vdu.core.types import Denoiser, Losses, column, noise_images
from vdu.data.images import ImageSet
from vdu.diffusion.schedule import NoiseSchedule
from vdu.replay.noise_classifier import NoiseClassifier
from vdu.replay.positive_unlabelled import FEWEST_IMAGES, require_images
from vdu.training.batches import deal, encoded, own_space
from vdu.training.loop import Objective, TrainSettings, train

__all__ = [
    "BATCH_SIZE",
    "FEWEST_LIKE_FORGET",
    "SCORE_STEPS",
    "STEPS",
    "Resemblance",
    "Selection",
    "mean_scores",
    "require_enough",
    "resemblance",
    "select_by_label",
    "select_samples",
]

require_enough = partial(
    require_images,
    where="unlearn",
    advice="use a method that takes any number: bounded or esd, or vdu with its posterior",
)
FEWEST_LIKE_FORGET = 10  # fewest positives to learn from, and to count for the stopping rule
SCORE_STEPS, STEPS, BATCH_SIZE = 300, 1500, 64  # of each of the two scoring classifiers, and of the last one
LIKE_FORGET, KEPT, COUNTED = 0.10, 0.05, 0.05  # quantiles of the forget set's scores
SCORED_AT = (0.98, 0.9, 0.66)  # ᾱ
SCORE_RANGE = (0.078, 1.0)  # ᾱ at which the scoring classifiers are trained
ROTATION, SCALE, SHEAR, SHIFT = 0.175, 0.125, 0.15, 0.0625  # largest augmentations: radians, and fractions of the image


@dataclass(frozen=True)
class Selection:
    """The positives and negatives among the generated samples.

    Attributes:
        share: π̂, estimated fraction of generated samples that show the forget concept.
        forget: mask of the positives (like the forget set), [n], bool.
        kept: mask of the negatives (unlike the forget set), [n], bool.
        evaluations: classifier evaluations: forward counts 1 and backward 2 per image.
        unlike: further generated samples → mask of the negatives among them, [n], bool.
    """

    share: float
    forget: Tensor
    kept: Tensor
    evaluations: int
    unlike: Callable[[ImageSet], Tensor]


@dataclass(frozen=True)
class Resemblance(Selection):
    """The selection, and a classifier of noised samples.

    Attributes:
        classifier: (x_t, ᾱ) → logit of P(forget | x_t), [batch].
    """

    classifier: "PriorCorrected"

    def describe(self) -> dict[str, Any]:
        """Plain values for a record."""
        return {
            "share": self.share,
            "n_own": len(self.kept),
            "n_like_forget": int(self.forget.sum()),
            "n_kept": int(self.kept.sum()),
            "classifier_evaluations": self.evaluations,
        }


class PriorCorrected(nn.Module):
    """A classifier trained on balanced classes, corrected for the class prior among generated samples.

    Args:
        classifier: logit under balanced classes.
        share: π̂ in (0, 1).
    """

    def __init__(self, classifier: NoiseClassifier, share: float) -> None:
        super().__init__()
        self.classifier, self.shift = classifier, math.log(share / (1 - share))

    def forward(self, x_t: Tensor, alpha_bar: Tensor) -> Tensor:
        """The logit of P(forget | x_t), [batch]."""
        return self.classifier(x_t, alpha_bar) + self.shift


def resemblance(
    forget: ImageSet,
    own: ImageSet,
    denoiser: Denoiser,
    *,
    forget_labels: Collection[int] = (),
    seed: int,
    score_steps: int = SCORE_STEPS,
    steps: int = STEPS,
    batch_size: int = BATCH_SIZE,
    learning_rate: float = 2e-3,
    width: int = 32,
    force: bool = False,
    progress: bool = False,
) -> Resemblance:
    """Select positives and negatives among generated samples and train the noise-level classifier.

    Args:
        forget: the images to forget.
        own: samples of the ORIGINAL model.
        denoiser: that model; gives the noise levels, the latent space and the classes. Images are encoded on its device.
        forget_labels: classes of the model to forget; if given, samples are selected by their label.
        seed: seeds weights, batches, halves and noise.
        score_steps: optimiser steps of each of the two scoring classifiers.
        steps: optimiser steps of the classifier of noised images.
        batch_size: positives, and as many negatives, per step.
        learning_rate: Adam's peak step size.
        width: of the classifiers, see :class:`vdu.replay.noise_classifier.NoiseClassifier`.
        force: continue if the model generates almost none, or almost only, images like the forget set.
        progress: show progress bars on standard error.

    Returns:
        The selection and the classifier.

    Too few images raise an ``InputError``. Unless ``force``, so does a forget set that fewer than 10 samples, or most samples, resemble.
    """
    schedule = denoiser.schedule
    zones = select_by_label(own, forget_labels) if forget_labels else select_samples(
        forget, own, schedule, seed=seed, score_steps=score_steps, batch_size=batch_size, learning_rate=learning_rate, width=width,
        force=force, progress=progress,
    )  # fmt: skip
    positives = [forget, own.select(zones.forget)] if bool(zones.forget.any()) else [forget]
    everywhere = torch.ones(len(schedule), dtype=torch.float64)
    fit = _Fit(schedule, batch_size, learning_rate, width, denoiser)
    title = "classifier of noised images" if progress else None
    classifier = fit(positives, own.select(zones.kept), everywhere, steps, derive_seed(seed, "classifier"), title)
    n = len(own)
    corrected = PriorCorrected(classifier, (zones.share * n + 1) / (n + 2)).requires_grad_(False).eval()
    evaluations = zones.evaluations + 3 * 2 * batch_size * steps
    return Resemblance(zones.share, zones.forget, zones.kept, evaluations, zones.unlike, corrected)


def select_samples(
    forget: ImageSet,
    own: ImageSet,
    schedule: NoiseSchedule,
    *,
    seed: int,
    score_steps: int = SCORE_STEPS,
    batch_size: int = BATCH_SIZE,
    learning_rate: float = 2e-3,
    width: int = 32,
    force: bool = False,
    progress: bool = False,
) -> Selection:
    """Split generated samples into positives, negatives and unlabelled ones (steps 1 to 3).

    Args:
        forget: the images to forget.
        own: samples of the ORIGINAL model.
        schedule: the model's noise schedule.
        seed: seeds weights, batches, halves and noise.
        score_steps: optimiser steps of each of the two scoring classifiers.
        batch_size: positives, and as many negatives, per step.
        learning_rate: Adam's peak step size.
        width: of the classifiers, see :class:`vdu.replay.noise_classifier.NoiseClassifier`.
        force: see :func:`resemblance`.
        progress: show progress bars on standard error.

    Returns:
        The selection.

    Raises:
        InputError: if the shapes differ.
    """
    require_enough("forget images", len(forget))
    require_enough("generated samples", len(own))
    if forget.shape != own.shape:
        raise InputError(
            f"selection: forget images have shape {forget.shape}, generated samples {own.shape}; expected equal shapes. "
            "Load the forget images in the model's shape."
        )
    low, high = SCORE_RANGE
    levels = ((schedule.alpha_bars >= low) & (schedule.alpha_bars <= high)).double()
    fit = _Fit(schedule, batch_size, learning_rate, width)
    of_own, of_forget = torch.empty(len(own)), torch.empty(len(forget))
    own_parts, forget_parts = _halves(len(own), seed, "own"), _halves(len(forget), seed, "forget")
    scorers: list[nn.Module] = []
    for k in (0, 1):
        sets = (forget.select(forget_parts[k]), own.select(own_parts[k]))
        title = f"selection, half {k + 1} of 2" if progress else None
        scorers.append(fit([sets[0]], sets[1], levels, score_steps, derive_seed(seed, "score", k), title))
        for scores, images, parts in ((of_own, own, own_parts), (of_forget, forget, forget_parts)):
            rest = parts[1 - k]
            scores[rest] = mean_scores(scorers[k], images, rest, derive_seed(seed, "noise", k))
    thresholds = {q: float(of_forget.quantile(q)) for q in (LIKE_FORGET, KEPT, COUNTED)}
    share = min(1.0, float((of_own >= thresholds[COUNTED]).double().mean()) / (1 - COUNTED))
    like, kept = of_own >= thresholds[LIKE_FORGET], of_own < thresholds[KEPT]
    _check_share(share, like, kept, force=force)
    scored = (len(own) + len(forget)) * len(SCORED_AT)
    unlike = partial(_scored_below, thresholds[KEPT], scorers, derive_seed(seed, "further"))
    return Selection(share, like, kept, 3 * 2 * batch_size * 2 * score_steps + scored, unlike)


def _scored_below(threshold: float, scorers: Sequence[nn.Module], seed: int, images: ImageSet) -> Tensor:
    """Which images that no scorer has seen score below the threshold on average, [n], bool."""
    every = torch.arange(len(images))
    return torch.stack([mean_scores(each, images, every, seed) for each in scorers]).mean(0) < threshold


def select_by_label(own: ImageSet, forget_labels: Collection[int]) -> Selection:
    """Split a conditional model's samples by the class under which they were drawn.

    Args:
        own: generated samples, with the model's classes as labels.
        forget_labels: the classes to forget.

    Returns:
        The selection; every sample is either positive or negative.

    Raises:
        InputError: if the samples have no labels, or no class would remain.
    """
    if own.labels is None:
        raise InputError(
            "forget labels: given, but the generated samples have no labels; expected a class-conditional model."
        )
    kept = _labelled_otherwise(forget_labels, own)
    if not bool(kept.any()):
        raise InputError("forget labels: all classes of the model are to be forgotten; expected at least one to keep.")
    return Selection(float((~kept).double().mean()), ~kept, kept, 0, partial(_labelled_otherwise, forget_labels))


def _labelled_otherwise(forget_labels: Collection[int], images: ImageSet) -> Tensor:
    assert images.labels is not None, "a conditional model's samples have labels"
    return ~torch.isin(images.labels, torch.tensor(sorted(forget_labels)))


def _check_share(share: float, like: Tensor, kept: Tensor, *, force: bool) -> None:
    n_like = int(like.sum())
    if not force and n_like == 0:
        raise InputError(
            f"forget set: none of {len(like)} generated samples resembles it (score threshold: 10th percentile of the forget images); "
            "expected some. The model does not appear to generate this concept. Look at samples (vdu sample) and draw more "
            "(--n-own-samples), or continue with --force (and --overwrite if the run folder exists)."
        )
    if not force and n_like < FEWEST_LIKE_FORGET:
        raise InputError(
            f"forget set: {n_like} of {len(like)} generated samples match it; expected at least {FEWEST_LIKE_FORGET} to learn from, and to "
            f"see when to stop. Draw more (--n-own-samples {2 * FEWEST_LIKE_FORGET * len(like) // n_like} for about "
            f"{2 * FEWEST_LIKE_FORGET}), or continue with --force (and --overwrite if the run folder exists)."
        )
    if not force and share > 0.5:
        raise InputError(
            f"forget set: about {share:.0%} of the generated samples resemble it; expected at most half. Forgetting it would leave "
            "little of the model. Look at samples (vdu sample), or continue with --force (and --overwrite if the run folder exists)."
        )
    if int(kept.sum()) < FEWEST_IMAGES:
        raise InputError(
            f"forget set: only {int(kept.sum())} of {len(kept)} generated samples are unlike it; expected at least {FEWEST_IMAGES} "
            "to retain. Draw more (--n-own-samples; for vdu evaluate: --n-judge-samples)."
        )


def _halves(n: int, seed: int, name: str) -> tuple[Tensor, Tensor]:
    order = torch.randperm(n, generator=generator(seed, "halves", name))
    return order[: n // 2], order[n // 2 :]


@torch.no_grad()
def mean_scores(
    classifier: nn.Module, images: ImageSet, chosen: Tensor, seed: int, denoiser: Denoiser | None = None
) -> Tensor:
    """The mean logit over low noise levels.

    Args:
        classifier: (x_t, ᾱ) → logit, on the CPU, in evaluation mode.
        images: the set that contains the images to score.
        chosen: indices of the images to score, [n], int64.
        seed: seeds the noise.
        denoiser: the model whose latent space the classifier uses; None for pixels.

    Returns:
        [n].
    """
    source, total, images = generator(seed), torch.zeros(len(chosen)), ImageSet(images.images[chosen])
    pick = images.floats if denoiser is None else own_space(denoiser, images)
    for level in SCORED_AT:
        parts = []
        for piece in torch.arange(len(images)).split(512):
            x0 = pick(piece)
            noise = torch.randn(x0.shape, generator=source, dtype=x0.dtype)
            x_t = noise_images(x0, noise, math.sqrt(level), math.sqrt(1 - level))
            parts.append(classifier(x_t, torch.full((len(piece),), level)))
        total += torch.cat(parts) / len(SCORED_AT)
    return total


class _NoisyCrossEntropy(Objective):
    """Binary cross-entropy on noised images; the batches are balanced."""

    def losses(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Losses:
        logits = network(batch["x_t"], batch["alpha_bar"])
        return Losses({"cross_entropy": nn.functional.binary_cross_entropy_with_logits(logits, batch["labels"])})


@dataclass(frozen=True)
class _Fit:
    schedule: NoiseSchedule
    batch_size: int
    learning_rate: float
    width: int
    denoiser: Denoiser | None = None  # the classifier uses its latent space; None: pixels

    def __call__(
        self, positives: list[ImageSet], negatives: ImageSet, levels: Tensor, steps: int, seed: int, title: str | None
    ) -> NoiseClassifier:
        """Train a classifier on equally many positives and negatives, at noise levels drawn from ``levels``, under a bar's title."""
        with isolated_global(derive_seed(seed, "weights")):
            shape = negatives.shape if self.denoiser is None else self.denoiser.latent_shape
            classifier = NoiseClassifier(shape, width=self.width)
        each = self.batch_size // len(positives)
        sizes = [self.batch_size - each * (len(positives) - 1), *[each] * (len(positives) - 1)]
        labels = torch.cat([torch.ones(self.batch_size), torch.zeros(self.batch_size)])

        def make_batch(step: int) -> dict[str, Tensor]:
            parts = [
                images.floats(deal(len(images), size, derive_seed(seed, "set", place), step))
                for place, (images, size) in enumerate(
                    zip([*positives, negatives], [*sizes, self.batch_size], strict=True)
                )
            ]
            source = generator(seed, "batch", step)
            x0 = moved(torch.cat(parts), source)
            x0 = x0 if self.denoiser is None else encoded(self.denoiser, x0)  # every step has images of its own
            rows = torch.multinomial(levels, len(x0), replacement=True, generator=source)
            alpha_bar = self.schedule.alpha_bars[rows].float()
            level = column(alpha_bar, x0)
            noise = torch.randn(x0.shape, generator=source, dtype=x0.dtype)
            x_t = noise_images(x0, noise, level.sqrt(), (1 - level).sqrt())
            return {"x_t": x_t, "alpha_bar": alpha_bar, "labels": labels}

        how = TrainSettings(
            steps=steps, learning_rate=self.learning_rate, lr_schedule="cosine", warmup_steps=max(1, steps // 10),
            weight_decay=0.01, seed=derive_seed(seed, "training"),
        )  # fmt: skip
        train(classifier, _NoisyCrossEntropy(), make_batch, how, progress=title)
        return classifier.cpu()


def moved(images: Tensor, source: torch.Generator) -> Tensor:
    """Random affine augmentation: each image is slightly rotated, scaled, sheared and shifted; the border is repeated.

    Args:
        images: [n, channels, height, width].
        source: generator of the random transformations.

    Returns:
        Images of the same shape.
    """
    draws = 2 * torch.rand(5, len(images), generator=source) - 1
    angle, scale, shear = ROTATION * draws[0], 1 + SCALE * draws[1], SHEAR * draws[2]
    right, down = SHIFT * 2 * draws[3], SHIFT * 2 * draws[4]  # in grid_sample's coordinates, −1 to 1
    rows = [
        torch.stack([scale * angle.cos(), shear - angle.sin(), right], 1),
        torch.stack([angle.sin(), scale * angle.cos(), down], 1),
    ]
    grid = nn.functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
