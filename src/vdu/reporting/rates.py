"""Counted rates with their 95 % intervals, their differences, and paired tests; the results of a run's probes.

The interval of a difference of two rates p₁ − p₂ comes from their own intervals [l, u] (square-and-add; Newcombe 1998,
"Interval estimation for the difference between independent proportions", Statistics in Medicine 17, method 10):

    low  = p₁ − p₂ − √((p₁ − l₁)² + (u₂ − p₂)²)
    high = p₁ − p₂ + √((u₁ − p₁)² + (p₂ − l₂)²)

Counts that share their noise are compared by the pairs that changed (:func:`sign_test`), several of them with :func:`holm`. Counts above a
threshold that was taken from others have the test of :func:`exceedance`.

NOT guaranteed: 95 % for the interval of a difference where the two counts share their noise; it is then too wide rather than too
narrow if they rise and fall together.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vdu.core.statistics import share_interval
from vdu.reporting.code_texts import not_run_text
from vdu.reporting.formatting import interval

__all__ = ["Rate", "difference", "exceedance", "holm", "measured", "sign_test", "why_not", "wilson"]


@dataclass(frozen=True)
class Rate:
    """A count among n images, with the 95 % interval of their rate.

    Attributes:
        count: images counted.
        total: of so many, at least 1.
        low: lower end, in [0, 1].
        high: upper end, in [0, 1].
    """

    count: int
    total: int
    low: float
    high: float

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Rate":
        """Read a row with ``forget_count``, ``n_images``, ``low`` and ``high``."""
        return cls(row["forget_count"], row["n_images"], row["low"], row["high"])

    @property
    def value(self) -> float:
        """The rate itself, in [0, 1]."""
        return self.count / self.total

    @property
    def ends(self) -> str:
        """The interval in percent: ``"15.0 to 26.1 %"``."""
        return interval({"low": self.low, "high": self.high}, 1, 100)[1:-1] + "\u202f%"

    def __str__(self) -> str:
        return f"{self.count:,} of {self.total:,} ({self.ends})"


def wilson(count: int, total: int) -> Rate:
    """A rate with its 95 % interval (Wilson 1927).

    Args:
        count: images counted.
        total: of so many, at least 1.

    Returns:
        The rate.

    >>> rate = wilson(15, 148)  # Newcombe 1998, Statistics in Medicine 17, 857, Table I, method 3
    >>> round(rate.low, 4), round(rate.high, 4)
    (0.0624, 0.1605)
    """
    return Rate(count, total, *share_interval(count, total))


def difference(one: Rate, other: Rate) -> tuple[float, float]:
    """The 95 % interval of a difference of rates.

    Args:
        one: a rate.
        other: the rate that is subtracted.

    Returns:
        Its low and high end, in [−1, 1].

    >>> ends = difference(Rate(56, 70, 0.6918, 0.8770), Rate(48, 80, 0.4905, 0.6999))  # Newcombe 1998, Table II (a)
    >>> [round(end, 3) for end in ends]
    [0.053, 0.334]
    """
    gap = one.value - other.value
    low = math.hypot(one.value - one.low, other.high - other.value)
    high = math.hypot(one.high - one.value, other.value - other.low)
    return gap - low, gap + high


def sign_test(lost: int, gained: int) -> float:
    """The exact two-sided p-value of two counts of changes that are equally likely by chance (McNemar's test for pairs).

    Args:
        lost: pairs that changed one way, ≥ 0.
        gained: pairs that changed the other way, ≥ 0.

    Returns:
        min(1, 2 · P(X ≤ min(lost, gained))) with X binomial (lost + gained, ½).

    >>> round(sign_test(22, 3), 5), sign_test(0, 0)
    (0.00016, 1.0)
    """
    n = lost + gained
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(min(lost, gained) + 1)) / 2**n)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm 1979, Scandinavian Journal of Statistics 6).

    Args:
        p_values: m of them, in [0, 1].

    Returns:
        The corrected ones, in the same order: the i-th smallest times m − i + 1, never below a smaller one's, at most 1.

    >>> [round(p, 3) for p in holm([0.04, 0.01, 0.03])]
    [0.06, 0.03, 0.06]
    """
    found, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        found[i] = highest
    return found


def exceedance(count: int, n: int, allowed: int, n_others: int) -> float:
    """The exact one-sided p-value of a count above a threshold that is itself taken from others, all alike by chance.

    ``count`` of n values lie above the (allowed + 1)-th largest of the others just where the ``count + allowed`` largest of all hold
    ``count`` of the n or more; where every order is equally likely their number is hypergeometric. Ties make it conservative.

    Args:
        count: of the n values, those above the threshold.
        n: values.
        allowed: of the others, those that may lie above it.
        n_others: other values.

    Returns:
        The probability of so many or more, in [0, 1].

    >>> round(exceedance(2, 3, 0, 3), 3), exceedance(0, 3, 0, 3)  # both of the largest two of six: 3/6 · 2/5
    (0.2, 1.0)
    """
    drawn = count + allowed
    ways = sum(math.comb(n, i) * math.comb(n_others, drawn - i) for i in range(count, min(n, drawn) + 1))
    return ways / math.comb(n + n_others, drawn)


def measured(metrics: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """The result of a probe in ``metrics.json``, or None if it was not run."""
    result = metrics.get("probes", {}).get(name)
    return result if result is not None and result["status"] == "measured" else None


def why_not(metrics: Mapping[str, Any], name: str) -> str | None:
    """Why a probe was not run, as a sentence; None if it ran, or if the run knows nothing of it."""
    result = metrics.get("probes", {}).get(name)
    return not_run_text(result) if result is not None and result["status"] == "not run" else None
