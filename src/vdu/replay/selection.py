"""Which of a model's own samples resemble the forget set, and how likely a noised one does; no labels, no retained data.

Own samples are a mixture, u = π p + (1−π) n, of what is to be forgotten and the rest. The forget set is real and they
are generated, and a classifier that sets one against the other learns that difference first (``mnist-small``, digit 8: a
plain one finds none of 173; docs/methods-log.md, 28). Two things keep it to the point: random affine moves of both
sets, and noise: it never sees a clean image.

    1. score    s(x) = mean of h(x_t, ᾱ) over low noise, h trained on the forget set against the other half of the own
                samples, so that no image is scored by a classifier that saw it
    2. zones    c_q = q-quantile of the forget set's own scores
                like forget   s ≥ c_10%         as like it as nine in ten of its own images
                kept (S_r)    s < c_5%          less like it than nineteen in twenty of its own
                neither       between           used for nothing
    3. share    π̂ = share of own samples with s ≥ c_5%, over 95 %
    4. r        P(forget | x_t) = σ(h(x_t, ᾱ) + log(π̂/(1−π̂))), h trained anew on forget set and like-forget against kept

Ranks transfer from real to generated images where levels do not; hence quantiles of the forget set's scores, and two
thresholds with a gap between them instead of one.

Not guaranteed: that the zones are right (``mnist``, by the packaged judge: 126 of the 132 like-forget are eights, and 34 of the 1334
kept; ``benchmarks/resemblance.py``); that r is calibrated.
"""

import math
from collections.abc import Collection, Mapping
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
from vdu.training.batches import deal, encoded
from vdu.training.loop import Objective, TrainSettings, train

__all__ = [
    "FEWEST_LIKE_FORGET",
    "Resemblance",
    "Selection",
    "mean_scores",
    "require_enough",
    "resemblance",
    "select_by_label",
    "select_samples",
]

require_enough = partial(
    require_images, where="resemblance", advice="use a method that looks at forget images only (vdu, ascent)"
)
FEWEST_LIKE_FORGET = 10  # own samples, to learn from
LIKE_FORGET, KEPT, COUNTED = 0.10, 0.05, 0.05  # quantiles of the forget set's scores
SCORED_AT = (0.98, 0.9, 0.66)  # ᾱ
SCORE_RANGE = (0.078, 1.0)  # ᾱ that the scoring classifiers are trained on
ROTATION, SCALE, SHEAR, SHIFT = 0.175, 0.125, 0.15, 0.0625  # largest random moves: radians and shares of the image


@dataclass(frozen=True)
class Selection:
    """Which own samples are like the forget set, and which are not.

    Attributes:
        share: π̂, estimated share of own samples like the forget set.
        forget: mask of own samples that are like it, [n], bool.
        kept: mask of own samples that are not, [n], bool.
        evaluations: images times forward (1) and backward (2) passes of the small classifiers.
    """

    share: float
    forget: Tensor
    kept: Tensor
    evaluations: int


@dataclass(frozen=True)
class Resemblance(Selection):
    """The zones, and how likely a noised own sample is of the forget class.

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
    """A classifier trained on balanced classes, shifted to the share that they have among own samples.

    Args:
        classifier: balanced logit.
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
    score_steps: int = 300,
    steps: int = 1500,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    force: bool = False,
) -> Resemblance:
    """Compare a forget set with own samples.

    Args:
        forget: the images to forget.
        own: images that the ORIGINAL model made.
        denoiser: that model: its noise levels, its own space and its classes.
        forget_labels: classes of the model that are to be forgotten; then samples are sorted by the label they were drawn under.
        seed: seeds weights, batches, halves and noise.
        score_steps: optimiser steps of each of the two scoring classifiers.
        steps: optimiser steps of the classifier of noised images.
        batch_size: images of each kind per step.
        learning_rate: Adam's peak step size.
        force: go on where the model makes nothing like the forget set, or little else.

    Returns:
        The zones and the classifier.

    Too few images are refused; unless ``force``, so are a forget set that no own sample resembles and one that most do.
    """
    schedule = denoiser.schedule
    zones = select_by_label(own, forget_labels) if forget_labels else select_samples(
        forget, own, schedule, seed=seed, score_steps=score_steps, batch_size=batch_size, learning_rate=learning_rate, force=force,
    )  # fmt: skip
    positives = [forget, own.select(zones.forget)] if bool(zones.forget.any()) else [forget]
    everywhere = torch.ones(len(schedule), dtype=torch.float64)
    fit = _Fit(schedule, batch_size, learning_rate, denoiser)
    classifier = fit(positives, own.select(zones.kept), everywhere, steps, derive_seed(seed, "classifier"))
    n = len(own)
    corrected = PriorCorrected(classifier, (zones.share * n + 1) / (n + 2)).requires_grad_(False).eval()
    evaluations = zones.evaluations + 3 * 2 * batch_size * steps
    return Resemblance(zones.share, zones.forget, zones.kept, evaluations, corrected)


def select_samples(
    forget: ImageSet,
    own: ImageSet,
    schedule: NoiseSchedule,
    *,
    seed: int,
    score_steps: int = 300,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    force: bool = False,
) -> Selection:
    """Sort own samples into those like a forget set, those unlike it, and the rest (steps 1 to 3).

    Args:
        forget: the images to forget.
        own: images that the ORIGINAL model made.
        schedule: the model's own noise levels.
        seed: seeds weights, batches, halves and noise.
        score_steps: optimiser steps of each of the two scoring classifiers.
        batch_size: images of each kind per step.
        learning_rate: Adam's peak step size.
        force: see :func:`resemblance`.

    Returns:
        The zones.

    Raises:
        InputError: if the shapes differ.
    """
    require_enough("forget images", len(forget))
    require_enough("own samples", len(own))
    if forget.shape != own.shape:
        raise InputError(
            f"resemblance: forget images have shape {forget.shape}, own samples {own.shape}; expected the same. "
            "Load the forget images in the model's shape."
        )
    low, high = SCORE_RANGE
    levels = ((schedule.alpha_bars >= low) & (schedule.alpha_bars <= high)).double()
    fit = _Fit(schedule, batch_size, learning_rate)
    of_own, of_forget = torch.empty(len(own)), torch.empty(len(forget))
    own_parts, forget_parts = _halves(len(own), seed, "own"), _halves(len(forget), seed, "forget")
    for k in (0, 1):
        sets = (forget.select(forget_parts[k]), own.select(own_parts[k]))
        scorer = fit([sets[0]], sets[1], levels, score_steps, derive_seed(seed, "score", k))
        for scores, images, parts in ((of_own, own, own_parts), (of_forget, forget, forget_parts)):
            rest = parts[1 - k]
            scores[rest] = mean_scores(scorer, images, rest, derive_seed(seed, "noise", k))
    thresholds = {q: float(of_forget.quantile(q)) for q in (LIKE_FORGET, KEPT, COUNTED)}
    share = float((of_own >= thresholds[COUNTED]).double().mean()) / (1 - COUNTED)
    like, kept = of_own >= thresholds[LIKE_FORGET], of_own < thresholds[KEPT]
    _check_share(share, like, kept, force=force)
    scored = (len(own) + len(forget)) * len(SCORED_AT)
    return Selection(share, like, kept, 3 * 2 * batch_size * 2 * score_steps + scored)


def select_by_label(own: ImageSet, forget_labels: Collection[int]) -> Selection:
    """Sort a conditional model's samples by the class they were drawn under.

    Args:
        own: generated samples, with the model's classes as labels.
        forget_labels: the classes to be forgotten.

    Returns:
        The selection: every sample is either of a class to be forgotten or kept.

    Raises:
        InputError: if the samples have no labels, or nothing would be kept.
    """
    if own.labels is None:
        raise InputError(
            "forget labels: given, but the generated samples have no labels; expected a class-conditional model."
        )
    forget = torch.isin(own.labels, torch.tensor(sorted(forget_labels)))
    if not bool((~forget).any()):
        raise InputError("forget labels: all classes of the model are to be forgotten; expected at least one to keep.")
    return Selection(float(forget.double().mean()), forget, ~forget, 0)


def _check_share(share: float, like: Tensor, kept: Tensor, *, force: bool) -> None:
    if not force and not bool(like.any()):
        raise InputError(
            f"forget set: of {len(like)} of the model's own samples none is as like it as nine in ten of its own images are to each "
            "other; expected some. The model does not seem to make such images: nothing to forget. Look at samples (vdu sample); "
            "draw more of them (--n-own-samples), or go on all the same with --force (and --overwrite, if the run folder is there by "
            "now)."
        )
    if not force and share > 0.5:
        raise InputError(
            f"forget set: about {share:.0%} of what the model makes is like it; expected at most half. To forget it would leave "
            "little of the model. Look at samples (vdu sample); go on all the same with --force (and --overwrite, if the run folder is "
            "there by now)."
        )
    if int(kept.sum()) < FEWEST_IMAGES:
        raise InputError(
            f"forget set: only {int(kept.sum())} of {len(kept)} own samples are unlike it; expected at least {FEWEST_IMAGES}, "
            "to hold on to. Draw more of them (--n-own-samples; of vdu evaluate: --n-judge-samples)."
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
        images: of which some are scored.
        chosen: which, [n], int64.
        seed: of the noise.
        denoiser: in whose own space the classifier works; None: on pixels.

    Returns:
        [n].
    """
    source, total = generator(seed), torch.zeros(len(chosen))
    for level in SCORED_AT:
        parts = []
        for piece in chosen.split(512):
            x0 = images.floats(piece) if denoiser is None else encoded(denoiser, images.floats(piece))
            noise = torch.randn(x0.shape, generator=source, dtype=x0.dtype)
            x_t = noise_images(x0, noise, math.sqrt(level), math.sqrt(1 - level))
            parts.append(classifier(x_t, torch.full((len(piece),), level)))
        total += torch.cat(parts) / len(SCORED_AT)
    return total


class _NoisyCrossEntropy(Objective):
    """Binary cross-entropy of noised images, balanced by how the batches are made."""

    def losses(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Losses:
        logits = network(batch["x_t"], batch["alpha_bar"])
        return Losses({"cross_entropy": nn.functional.binary_cross_entropy_with_logits(logits, batch["labels"])})


@dataclass(frozen=True)
class _Fit:
    schedule: NoiseSchedule
    batch_size: int
    learning_rate: float
    denoiser: Denoiser | None = None  # the classifier works in its own space; None: on pixels

    def __call__(
        self, positives: list[ImageSet], negatives: ImageSet, levels: Tensor, steps: int, seed: int
    ) -> NoiseClassifier:
        """Train a classifier on as many positives (of each set alike) as negatives, at levels drawn from ``levels``."""
        with isolated_global(derive_seed(seed, "weights")):
            shape = negatives.shape if self.denoiser is None else self.denoiser.latent_shape
            classifier = NoiseClassifier(shape)
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
            x0 = x0 if self.denoiser is None else encoded(self.denoiser, x0)
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
        train(classifier, _NoisyCrossEntropy(), make_batch, how)
        return classifier.cpu()


def moved(images: Tensor, source: torch.Generator) -> Tensor:
    """Images turned, scaled, sheared and shifted a little, each by its own draw; the border is repeated.

    Args:
        images: [n, channels, height, width].
        source: draws the moves.

    Returns:
        Images of the same shape.
    """
    draws = 2 * torch.rand(5, len(images), generator=source) - 1
    angle, scale, shear = ROTATION * draws[0], 1 + SCALE * draws[1], SHEAR * draws[2]
    right, down = SHIFT * 2 * draws[3], SHIFT * 2 * draws[4]  # grid_sample counts the image from −1 to 1
    rows = [
        torch.stack([scale * angle.cos(), shear - angle.sin(), right], 1),
        torch.stack([angle.sin(), scale * angle.cos(), down], 1),
    ]
    grid = nn.functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
