"""Class histograms before and after unlearning: were neighbouring classes forgotten, or others over-represented?

    p_k = n_k(original) / Σ_{j retained} n_j(original)        q_k = n_k(unlearned) / Σ_{j retained} n_j(unlearned)
    distance = ½ Σ_{k retained} |q_k − p_k|                   in [0, 1]

p is the target of an unlearned model: the original's histogram without the forget classes. Both histograms are normalised over the
RETAINED classes: remaining forget images are excluded, because PUL counts them and one failure should not affect two numbers. The
distance is the fraction of the retained images that would have to change class.

Two finite samples of one distribution differ too. ``chance`` is the mean distance of two independent samples of p with
the same numbers of retained images, ``chance_high`` its 95 % point: a distance below it is within sampling error. (Two
models that share their noise agree more than independent samples do, so ``chance`` is what to expect at most, and a
small distortion can hide below it: look at the interval too.)

The interval is a paired bootstrap over seeds, centred, as the distance of a resample is biased upwards (see
:mod:`vdu.metrics.intervals`).

Not guaranteed: that the judge's classes are right; that the images of a class are as varied as before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vdu.core.checks import as_tensor, require_finite
from vdu.core.errors import InputError
from vdu.core.surroundings import own_torch
from vdu.metrics.intervals import centred_interval, require_resampling, resample_counts
from vdu.metrics.pul import flip_table, indices

__all__ = ["HistogramDistance", "class_counts", "expected_distribution", "histogram_distance"]


@dataclass(frozen=True)
class HistogramDistance:
    """Distance of the unlearned model's retained classes to the expected ones, with a 95 % interval.

    Attributes:
        value: total-variation distance, in [0, 1].
        low: lower limit, in [0, 1].
        high: upper limit, in [0, 1].
        chance: mean distance by sampling error alone.
        chance_high: 95 % point of the distance by sampling error alone.
        n_original: retained images of the original.
        n_unlearned: retained images of the unlearned model.
    """

    value: float
    low: float
    high: float
    chance: float
    chance_high: float
    n_original: int
    n_unlearned: int
    higher_is_better: ClassVar[bool] = False


def class_counts(classes: Tensor, n_classes: int) -> Tensor:
    """Images of each class.

    Args:
        classes: class of each image, [N], integers in [0, K).
        n_classes: K.

    Returns:
        Counts, [K], int64.

    Examples:
        >>> class_counts(torch.tensor([2, 0, 2]), 4).tolist()
        [1, 0, 2, 0]
    """
    return flip_table(classes, classes, n_classes).diagonal().clone()


def expected_distribution(counts: Tensor, forget_classes: Sequence[int]) -> Tensor:
    """Fractions of the retained classes, with the forget classes at 0.

    Args:
        counts: images of each class, [K].
        forget_classes: indices of the classes to leave out, at least one, in [0, K).

    Returns:
        Fractions, [K], float64, of sum 1.

    Raises:
        InputError: if a count is negative, NaN or infinite, or no image is retained.

    Examples:
        >>> expected_distribution(torch.tensor([5, 3, 1]), [0]).tolist()
        [0.0, 0.75, 0.25]
    """
    counts = as_tensor("counts", counts, "the number of images of each class, [K]")
    if counts.ndim != 1 or bool((counts < 0).any()):
        raise InputError(
            f"counts: got shape {tuple(counts.shape)}; expected the number of images of each class, [K], 0 or more."
        )
    require_finite("counts", counts)
    keep = _retained(len(counts), forget_classes)
    kept = counts.to(torch.float64) * keep.to(counts.device)
    if kept.sum() == 0:
        raise InputError(
            f"classes: got 0 of {int(counts.sum())} images outside the forget classes {list(forget_classes)}, "
            "expected at least 1. Look at the samples: the model generates nothing else, or the forget classes are wrong."
        )
    return kept / kept.sum()


@own_torch()
def histogram_distance(
    original_class: Tensor,
    unlearned_class: Tensor,
    *,
    n_classes: int,
    forget_classes: Sequence[int],
    n_resamples: int = 2000,
    generator: torch.Generator,
) -> HistogramDistance:
    """Distance of the unlearned model's histogram to the original's without the forget classes.

    Args:
        original_class: class of the original's sample i, [N], integers in [0, K).
        unlearned_class: class of the unlearned model's sample from the same noise, [N], integers in [0, K).
        n_classes: K.
        forget_classes: indices of the forget classes.
        n_resamples: bootstrap resamples, at least 40.
        generator: source of the resamples.

    Returns:
        The distance, its interval, and its value by chance alone.
    """
    require_resampling(n_resamples, generator)
    flips = flip_table(original_class, unlearned_class, n_classes)
    original, unlearned = flips.sum(1), flips.sum(0)
    p, q = expected_distribution(original, forget_classes), expected_distribution(unlearned, forget_classes)
    keep = _retained(n_classes, forget_classes)
    n_original, n_unlearned = int(original[keep].sum()), int(unlearned[keep].sum())
    value = float((p - q).abs().sum() / 2)

    pairs = resample_counts(flips, n_resamples, generator=generator).cpu().view(-1, n_classes, n_classes)
    low, high = centred_interval(value, _distances(pairs.sum(2)[:, keep], pairs.sum(1)[:, keep]))
    first, second = (
        resample_counts(p[keep], n_resamples, n=n, generator=generator).cpu() for n in (n_original, n_unlearned)
    )
    chance = _distances(first, second)
    return HistogramDistance(
        value=value,
        low=max(low, 0.0),
        high=min(high, 1.0),
        chance=float(chance.mean()),
        chance_high=float(torch.quantile(chance, 0.95)),
        n_original=n_original,
        n_unlearned=n_unlearned,
    )


def _distances(original: Tensor, unlearned: Tensor) -> Tensor:
    # Distance of each pair of rows of counts [R, K]; a resample without any retained image counts as 1, the worst.
    shares = [counts / counts.sum(1, keepdim=True) for counts in (original, unlearned)]
    return ((shares[0] - shares[1]).abs().sum(1) / 2).nan_to_num(nan=1.0)


def _retained(n_classes: int, forget_classes: Sequence[int]) -> Tensor:
    # Mask of the retained classes, [K], bool.
    left_out = indices("forget_classes", forget_classes, n_classes)
    if not left_out:
        raise InputError(f"forget_classes: got none; expected at least one index from 0 to {n_classes - 1}.")
    keep = torch.ones(n_classes, dtype=torch.bool, device="cpu")
    keep[list(left_out)] = False
    return keep
