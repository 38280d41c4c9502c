"""Resampling with replacement, and the 95 % intervals made from it; shared by the metrics.

Resampling N items of K kinds is one multinomial draw of counts, (n*₁ … n*_K) ~ Multinomial(N, n/N). It is drawn
exactly, cell by cell, from binomials: n*_k ~ Binomial(N − Σ_{j<k} n*_j, n_k / Σ_{j≥k} n_j), at a cost that does not
depend on N.

The centred percentile interval of a value v with resamples v* is

    [ v + q₀.₀₂₅(v* − mean v*),  v + q₀.₉₇₅(v* − mean v*) ]

Distances of samples (Fréchet, total variation) are biased upwards, and a resample, which repeats items, is biased once
more: the plain percentiles lie above v and often exclude it. Centring removes the second bias and preserves the spread, so that
the interval shows where v would fall in a repeated measurement with as many new samples.

Not guaranteed: coverage for very few items. A centred interval does not remove the first bias; compare only values
of equal N.
"""

import math

import torch
from torch import Tensor

from vdu.core.checks import require_generator
from vdu.core.errors import InputError
from vdu.core.ranges import Range, require_number
from vdu.core.statistics import TAIL, Z

__all__ = [
    "centred_interval",
    "mean_interval",
    "require_resampling",
    "resample_counts",
]

RESAMPLES = Range(
    "at least 40, so that a resample falls in each 2.5 % tail of a 95 % interval; 200 or more are better",
    40,
    whole=True,
)


def require_resampling(n_resamples: int, generator: torch.Generator) -> None:
    """Raise an ``InputError`` for too few resamples for a 2.5 % tail, which are fewer than 40, or no source of them.

    Args:
        n_resamples: number of resamples.
        generator: draws them.
    """
    require_number("n_resamples", n_resamples, RESAMPLES)
    require_generator(generator)


def resample_counts(counts: Tensor, n_resamples: int, *, generator: torch.Generator, n: int | None = None) -> Tensor:
    """Draw the counts of resamples of n items with replacement.

    Args:
        counts: items of each kind, [K], not negative, not all 0; only their proportions matter if n is given.
        n_resamples: number of resamples.
        generator: source of randomness; draws are made on its device.
        n: items in each resample; the sum of the counts if None.

    Returns:
        Counts, [n_resamples, K], float64 whole numbers; each row sums to n.
    """
    counts = counts.to(generator.device, torch.float64).flatten()
    left = torch.full(
        (n_resamples,), float(counts.sum() if n is None else n), dtype=torch.float64, device=counts.device
    )
    tail = counts.flip(0).cumsum(0).flip(0)  # Σ_{j≥k} n_j
    # Empty cells need no draw; past the last kind the tail is 0 and so is what is left.
    shares = torch.where(counts > 0, counts / tail.clamp(min=1e-300), 0.0).clamp(max=1.0)
    rows = []
    for share in shares:
        drawn = torch.binomial(left, share.expand_as(left).contiguous(), generator=generator)
        rows.append(drawn)
        left = left - drawn
    return torch.stack(rows, dim=1)


def centred_interval(value: float, resampled: Tensor) -> tuple[float, float]:
    """The centred percentile interval (95 %) of a value.

    Args:
        value: the value measured on the items themselves.
        resampled: its values on resamples, [R].

    Returns:
        Lower and upper limit.

    Examples:
        >>> centred_interval(1.0, torch.arange(41.0))
        (-18.0, 20.0)
    """
    spread = resampled.to(torch.float64) - resampled.to(torch.float64).mean()
    low, high = torch.quantile(spread, spread.new_tensor([TAIL, 1 - TAIL])).tolist()
    return value + low, value + high


def mean_interval(values: Tensor) -> tuple[float, float, float]:
    """A mean with its 95 % interval, mean ± 1.96 s/√n, from independent values.

    Args:
        values: one number per item, [n], n ≥ 2.

    Returns:
        Mean, lower and upper limit. For fewer than about thirty skewed values the coverage is below 95 %.

    Raises:
        InputError: if there are fewer than two values.

    Examples:
        >>> [round(value, 3) for value in mean_interval(torch.tensor([1.0, 3.0]))]  # s = √2
        [2.0, 0.04, 3.96]
    """
    if values.ndim != 1 or len(values) < 2:
        raise InputError(
            f"mean: got values of shape {list(values.shape)}, expected [n] with n ≥ 2: one value has no spread. "
            "Measure more items."
        )
    values = values.to(torch.float64)
    mean, half = float(values.mean()), Z * float(values.std()) / math.sqrt(len(values))
    return mean, mean - half, mean + half
