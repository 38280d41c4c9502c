"""95 % intervals of a rate and of a mean over seeds, from the standard library alone.

A rate k/n has the Wilson score interval, all p with |k/n − p| ≤ z √(p(1−p)/n), z = 1.96 (Wilson 1927, Journal of the
American Statistical Association 22):

    [ k + z²/2 ± z √(k(n−k)/n + z²/4) ] / (n + z²)

Its width is positive at k = 0 and k = n, where the interval from the standard error has zero width.

NOT guaranteed: coverage for a mean over very few seeds whose values are far from normal.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, variance

from vdu.core.errors import InputError

__all__ = ["STUDENT", "TAIL", "Z", "seeds_interval", "share_interval"]

TAIL = 0.025  # probability left out on either side of a 95 % interval
Z = NormalDist().inv_cdf(1 - TAIL)  # 1.96
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # t at 97.5 % for 2 … 10 values


def share_interval(count: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a rate.

    Args:
        count: number of items with the property, 0 … n.
        n: total number of items, at least 1.

    Returns:
        Lower and upper limit, in [0, 1].

    Raises:
        InputError: if the count is not within 0 … n, or there are no items.

    Source: Wilson (1927), Journal of the American Statistical Association 22, 209–212.

    Examples:
        >>> low, high = share_interval(0, 50)
        >>> low, round(high, 4)  # 1.96² / (50 + 1.96²)
        (0.0, 0.0713)
    """
    if not 0 <= count <= n or n < 1:
        raise InputError(f"share: got {count} of {n}, expected 0 ≤ count ≤ n and n ≥ 1. Count among at least one item.")
    half = Z * math.sqrt(count * (n - count) / n + Z**2 / 4)
    low, high = ((count + Z**2 / 2 + sign * half) / (n + Z**2) for sign in (-1, 1))
    # at the ends the limit is exactly 0 or 1, which rounding would miss
    return (0.0 if count == 0 else low), (1.0 if count == n else high)


def seeds_interval(values: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    """Mean and 95 % interval over seeds of values that each have an interval over images.

        mean − √((t s/√k)² + mean of b²)  to  mean + √((t s/√k)² + mean of a²)

    s is the standard deviation over the k seeds, t Student's quantile for k − 1, and b and a how far a seed's own interval reaches
    below and above its value, not divided by k, since all seeds share the noise of the evaluation and the original. The sides differ
    where a value is near its limit: a seed of which nothing is left has no room above.

    Args:
        values: value, lower and upper limit of each seed, at least 2.

    Returns:
        Mean, lower and upper limit.

    Raises:
        InputError: if there are fewer than two seeds.

    Examples:
        >>> mean, low, high = seeds_interval([(8.0, 8.0, 8.0), (10.0, 10.0, 10.0), (12.0, 12.0, 12.0)])
        >>> mean, round(high, 2)  # 10 + 4.303 · 2/√3
        (10.0, 14.97)
        >>> [round(each, 2) for each in seeds_interval([(100.0, 92.0, 100.0)] * 3)]
        [100.0, 92.0, 100.0]
    """
    k = len(values)
    if k < 2:
        raise InputError(f"seeds: got {k}, expected at least 2: one value has no spread. Run more seeds.")
    t = STUDENT[min(k, len(STUDENT) + 1) - 2]
    centres = [value for value, _, _ in values]
    seeds, mean = t**2 * variance(centres) / k, fmean(centres)
    below = fmean((value - low) ** 2 for value, low, _ in values)
    above = fmean((high - value) ** 2 for value, _, high in values)
    return mean, mean - math.sqrt(seeds + below), mean + math.sqrt(seeds + above)
