"""Counted shares with their intervals, their differences, and where a run's probes are.

The interval of a difference of two shares p₁ − p₂ comes from their own intervals [l, u] (square-and-add; Newcombe 1998,
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

from vdu.report.words import percent

__all__ = ["Share", "difference", "measured", "why_not"]


@dataclass(frozen=True)
class Share:
    """A count among n images, with the 95 % interval of its share.

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
    def of(cls, row: Mapping[str, Any]) -> "Share":
        """Read a row with ``forget_count``, ``n_images``, ``low`` and ``high``."""
        return cls(row["forget_count"], row["n_images"], row["low"], row["high"])

    @property
    def value(self) -> float:
        """The share itself, in [0, 1]."""
        return self.count / self.total

    def __str__(self) -> str:
        return f"{self.count:,} of {self.total:,} ({percent(100 * self.low)} to {percent(100 * self.high)})"


def difference(one: Share, other: Share) -> tuple[float, float]:
    """The 95 % interval of a difference of shares.

    Args:
        one: a share.
        other: the share that is taken away.

    Returns:
        Its low and high end, in [−1, 1].

    >>> ends = difference(Share(56, 70, 0.6918, 0.8770), Share(48, 80, 0.4905, 0.6999))  # Newcombe 1998, Table II (a)
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
    """A probe's own reason why it was not run; None if it ran, or if the run knows nothing of it."""
    result = metrics.get("probes", {}).get(name)
    return result["reason"] if result is not None and result["status"] == "not run" else None
