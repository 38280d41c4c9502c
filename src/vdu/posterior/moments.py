"""Streaming mean and variance of named tensors (Welford), in float64, in two copies whatever the number of members.

    n ← n + 1        δ = x − m        m ← m + δ/n        S ← S + δ (x − m)        variance = S / (n − ddof)

float64 because the variance of nearly equal weights is lost in float32. The accumulators live on the device of the
first member.

Not guaranteed: bits that do not depend on the order of the members.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from vdu.core.checks import require_finite
from vdu.core.errors import InputError
from vdu.core.types import NamedTensors
from vdu.posterior.names import require_same

__all__ = ["StreamingMoments"]


@dataclass(eq=False)
class StreamingMoments:
    """Mean and variance of a stream of named tensors.

    Source: Welford (1962), "Note on a method for calculating corrected sums of squares", Technometrics 4(3).

    Args:
        count: members seen so far.
        means: m, name → float64 tensor; updated in place.
        squares: S, name → float64 tensor; updated in place.

    Examples:
        >>> moments = StreamingMoments()
        >>> for value in (1.0, 3.0, 5.0):
        ...     moments.update({"w": torch.tensor([value])})
        >>> moments.mean["w"].item(), moments.variance()["w"].item()
        (3.0, 4.0)
    """

    count: int = 0
    means: dict[str, Tensor] = field(default_factory=dict)
    squares: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def update(self, member: NamedTensors) -> None:
        """Add one member; an invalid member changes nothing.

        Args:
            member: name → tensor; from the second on, names and shapes must be those of the first.
        """
        if self.count:
            require_same(f"member {self.count}", member, self.means)
        for name, value in member.items():
            require_finite(f"member {self.count}, {name}", value)
        if not self.count:
            self.means = {name: torch.zeros_like(member[name], dtype=torch.float64) for name in sorted(member)}
            self.squares = {name: torch.zeros_like(mean) for name, mean in self.means.items()}
        self.count += 1
        for name, mean in self.means.items():
            value = member[name].to(mean)
            delta = value - mean
            mean += delta / self.count
            self.squares[name].addcmul_(delta, value - mean)

    @property
    def mean(self) -> dict[str, Tensor]:
        """Mean of the members so far, float64 (a copy)."""
        self._require_more_than(0)
        return {name: mean.clone() for name, mean in self.means.items()}

    def variance(self, ddof: int = 1) -> dict[str, Tensor]:
        """Variance of the members so far.

        Args:
            ddof: subtracted from the divisor; 1 for the unbiased estimate.

        Returns:
            name → Σ(x − m)² / (count − ddof), float64.
        """
        self._require_more_than(ddof)
        return {name: total / (self.count - ddof) for name, total in self.squares.items()}

    def _require_more_than(self, n: int) -> None:
        if self.count <= n:
            raise InputError(f"moments: got {self.count} member(s), expected more than {n}. Give more members.")
