"""Counted rates with their 95 % intervals, and their differences; the results of a run's probes.

The interval of a difference of two rates p₁ − p₂ comes from their own intervals [l, u] (square-and-add; Newcombe 1998,
"Interval estimation for the difference between independent proportions", Statistics in Medicine 17, method 10):

    low  = p₁ − p₂ − √((p₁ − l₁)² + (u₂ − p₂)²)
    high = p₁ − p₂ + √((u₁ − p₁)² + (p₂ − l₂)²)

NOT guaranteed: 95 % where the two counts share their noise; the interval is then too wide rather than too narrow if they
rise and fall together.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vdu.reporting.code_texts import not_run_text
from vdu.reporting.formatting import interval

__all__ = ["Rate", "difference", "measured", "why_not", "wilson"]


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
    p, z2 = count / total, 1.959964**2
    middle, scale = (p + z2 / (2 * total)) / (1 + z2 / total), 1 / (1 + z2 / total)
    half = scale * (z2 * p * (1 - p) / total + z2**2 / (4 * total**2)) ** 0.5
    return Rate(count, total, max(0.0, middle - half), min(1.0, middle + half))


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


def measured(metrics: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """The result of a probe in ``metrics.json``, or None if it was not run."""
    result = metrics.get("probes", {}).get(name)
    return result if result is not None and result["status"] == "measured" else None


def why_not(metrics: Mapping[str, Any], name: str) -> str | None:
    """Why a probe was not run, as a sentence; None if it ran, or if the run knows nothing of it."""
    result = metrics.get("probes", {}).get(name)
    return not_run_text(result) if result is not None and result["status"] == "not run" else None
