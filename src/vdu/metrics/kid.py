"""Kernel distance (KID, for Inception features): unbiased squared MMD with a cubic polynomial kernel, over subsets.

    k(x, y) = (x·y/d + 1)³
    MMD² = Σ_{i≠j} k(xᵢ, xⱼ)/(m(m−1)) + Σ_{i≠j} k(yᵢ, yⱼ)/(m(m−1)) − 2·Σ_{i,j} k(xᵢ, yⱼ)/m²

The value is the mean over S subsets of m images drawn without replacement from each set, as in the paper; ``std`` is
the standard deviation of the S values, the number usually reported. It is the noise of m images, not of all N: subsampling theory
gives Var(N images) ≈ std²·m/(N − m), to which the mean over S subsets adds std²/S. The interval is

    value ± 1.96·std·√(m/(N − m) + 1/S)        N = the smaller of the two sets

MMD² itself has no bias, so values of different N may be compared; it may be negative when the sets agree.

Not guaranteed: a tight interval. It is too wide when the two sets agree (there the variance falls as 1/m², not 1/m), and it
does not include the spread over unlearning runs.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar

import torch
from torch import Tensor

from vdu.core.checks import require_generator
from vdu.core.errors import InputError
from vdu.core.ranges import COUNT, require_flags, require_number
from vdu.core.statistics import TAIL
from vdu.core.surroundings import own_torch
from vdu.metrics.features import Network, as_features, features_of, require_network, require_same_dimension

__all__ = ["KID", "KernelDistance", "kernel_distance", "mmd_squared"]


@dataclass(frozen=True)
class KID:
    """A kernel distance with a 95 % interval.

    Attributes:
        value: mean of MMD² over the subsets; may be negative.
        low: lower limit.
        high: upper limit.
        std: standard deviation of MMD² over the subsets (divisor S), as the paper prints it.
        n_subsets: S.
        subset_size: m, images of each set in a subset.
    """

    value: float
    low: float
    high: float
    std: float
    n_subsets: int
    subset_size: int
    higher_is_better: ClassVar[bool] = False


@own_torch()
def kernel_distance(
    reference: Tensor, generated: Tensor, *, n_subsets: int = 100, subset_size: int = 1000, generator: torch.Generator
) -> KID:
    """Kernel distance between two sets of features.

    Args:
        reference: features of the reference, [n₁, d].
        generated: features of the generated images, [n₂, d].
        n_subsets: S, at least 10.
        subset_size: m, from 2 to half of the smaller set (larger subsets share most images and hide the noise).
        generator: source of the subsets.

    Returns:
        Value, spread and interval.

    Raises:
        InputError: if S or m is out of range.

    Source: Bińkowski et al. (2018), arXiv 1801.01401, section 4.
    """
    reference, generated = as_features("reference", reference), as_features("generated", generated)
    n = min(len(reference), len(generated))
    require_generator(generator)
    require_number("n_subsets", n_subsets, COUNT)
    require_number("subset_size", subset_size, COUNT)
    if not 2 <= subset_size <= n // 2 or n_subsets < 10:
        raise InputError(
            f"subsets: got {n_subsets} of {subset_size} images, expected at least 10 of 2 to {n // 2} (half of "
            f"the smaller set of {n}). Set subset_size={n // 2} or less, or give more images."
        )
    values = torch.stack([
        mmd_squared(_subset(reference, subset_size, generator), _subset(generated, subset_size, generator))
        for _ in range(n_subsets)
    ])
    value, std = float(values.mean()), float(values.std(correction=0))
    half = NormalDist().inv_cdf(1 - TAIL) * std * math.sqrt(subset_size / (n - subset_size) + 1 / n_subsets)
    return KID(value, value - half, value + half, std, n_subsets, subset_size)


def mmd_squared(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased squared maximum mean discrepancy of all rows, with the cubic kernel.

    Args:
        x: features, [m, d], m ≥ 2.
        y: features, [n, d], n ≥ 2.

    Returns:
        MMD², a float64 scalar.

    Source: Gretton et al. (2012), JMLR 13, Eq. 3.

    Examples:
        >>> x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]])
        >>> mmd_squared(x, y).item()  # 1 + 1 − 2·(1 + 1 + 1 + 27)/4
        -13.0
    """
    x, y = as_features("x", x), as_features("y", y)
    require_same_dimension(x.shape[1], y.shape[1])
    return _mean_off_diagonal(_kernel(x, x)) + _mean_off_diagonal(_kernel(y, y)) - 2 * _kernel(x, y).mean()


class KernelDistance:
    """Kernel distance, accumulated batch by batch; memory grows with the number of images, since subsets are drawn of all.

    Args:
        network: images [B, C, H, W] in [−1, 1] → features [B, d]; None if ``update`` is given features.
        n_subsets: see :func:`kernel_distance`.
        subset_size: likewise.

    Examples:
        >>> metric = KernelDistance(subset_size=2)
        >>> metric.update(torch.zeros(4, 1), reference=True)
        >>> metric.update(torch.zeros(4, 1), reference=False)
        >>> metric.compute().value
        0.0
    """

    higher_is_better: ClassVar[bool] = False

    def __init__(self, network: Network | None = None, *, n_subsets: int = 100, subset_size: int = 1000) -> None:
        require_network(network)
        require_number("n_subsets", n_subsets, COUNT)
        require_number("subset_size", subset_size, COUNT)
        self.network, self.n_subsets, self.subset_size = network, n_subsets, subset_size
        self._features: dict[bool, list[Tensor]] = {True: [], False: []}

    def update(self, batch: Tensor, *, reference: bool) -> None:
        """Add a batch.

        Args:
            batch: images if a network was given, otherwise features [B, d].
            reference: whether they belong to the reference or to the generated set.
        """
        require_flags({"reference": reference}, "reference")
        features = as_features("features", features_of(self.network, batch), at_least=1)
        self._features[reference].append(features.clone())  # the caller may fill the same buffer again

    def compute(self, *, generator: torch.Generator | None = None) -> KID:
        """The distance between the sets accumulated so far.

        Args:
            generator: source of the subsets; None takes seed 0.

        Returns:
            Value, spread and interval.

        Raises:
            InputError: if one of the two sets is empty, or too small for the subsets.
        """
        if not all(self._features.values()):
            raise InputError("update: expected both sets. Call update with reference=True and reference=False.")
        reference, generated = (torch.cat(self._features[which]) for which in (True, False))
        return kernel_distance(
            reference, generated, n_subsets=self.n_subsets, subset_size=self.subset_size,
            generator=generator or torch.Generator().manual_seed(0),
        )  # fmt: skip


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _mean_off_diagonal(kernel: Tensor) -> Tensor:
    m = len(kernel)
    return (kernel.sum() - kernel.trace()) / (m * (m - 1))


def _subset(features: Tensor, size: int, generator: torch.Generator) -> Tensor:
    rows = torch.randperm(len(features), generator=generator, device=generator.device)[:size]
    return features[rows.to(features.device)]
