"""Precision and recall, density and coverage: fidelity and diversity of generated images.

    B_k(x; X) = ball around x through its k-th nearest neighbour in X (x itself not counted)
    precision = fraction of generated images in at least one B_k(real; reference)
    recall    = fraction of reference images in at least one B_k(generated; generated)
    density   = number of B_k(real; reference) that contain a generated image, averaged over generated images, / k
    coverage  = fraction of B_k(real; reference) that contain at least one generated image

All grow with quality. Precision, recall and coverage are in [0, 1], density may exceed 1. Balls are closed, as in
Kynkäänniemi et al., Eq. 1. Results have named fields.

Not guaranteed: independence of N and k (use the same for all rows of a table); robustness of precision and recall to
outliers, which have large balls (density and coverage address this); an interval, since resampling with replacement
repeats points, which shrinks nearest-neighbour balls.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vdu.core.ranges import COUNT, require_number
from vdu.core.surroundings import own_torch
from vdu.metrics.features import as_features, require_same_dimension

__all__ = ["DensityCoverage", "PrecisionRecall", "density_coverage", "precision_recall"]

_ROWS = 1024  # rows of a distance matrix held at a time: memory grows with N, not N²


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision and recall.

    Attributes:
        precision: in [0, 1].
        recall: in [0, 1].
        k: neighbour that sets the radius.
    """

    precision: float
    recall: float
    k: int
    higher_is_better: ClassVar[bool] = True


@dataclass(frozen=True)
class DensityCoverage:
    """Density and coverage.

    Attributes:
        density: ≥ 0, may exceed 1.
        coverage: in [0, 1].
        k: neighbour that sets the radius.
    """

    density: float
    coverage: float
    k: int
    higher_is_better: ClassVar[bool] = True


@own_torch()
def precision_recall(reference: Tensor, generated: Tensor, *, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall.

    Args:
        reference: features of real images, [n₁, d], n₁ > k.
        generated: features of generated images, [n₂, d], n₂ > k.
        k: neighbour that sets the radius, at least 1.

    Returns:
        Precision and recall.

    Source: Kynkäänniemi et al. (2019), arXiv 1904.06991, Eqs. 1–2.

    Examples:
        >>> real = torch.tensor([[0.0], [1.0], [2.0]])
        >>> precision_recall(real, torch.tensor([[0.4], [1.5], [9.0]]), k=1).precision  # 2 of 3
        0.6666666666666666
    """
    reference, generated = _checked(reference, generated, k)
    precision = _balls_holding(generated, reference, _radii(reference, k)).gt(0)
    recall = _balls_holding(reference, generated, _radii(generated, k)).gt(0)
    return PrecisionRecall(_mean(precision), _mean(recall), k)


@own_torch()
def density_coverage(reference: Tensor, generated: Tensor, *, k: int = 5) -> DensityCoverage:
    """Density and coverage.

    Args:
        reference: features of real images, [n₁, d], n₁ > k.
        generated: features of generated images, [n₂, d], n₂ > k.
        k: neighbour that sets the radius, at least 1.

    Returns:
        Density and coverage.

    Source: Naeem et al. (2020), arXiv 2002.09797, section 3.
    """
    reference, generated = _checked(reference, generated, k)
    radii = _radii(reference, k)
    density = _balls_holding(generated, reference, radii)
    nearest = torch.cat([_cdist(part, generated).min(1).values for part in reference.split(_ROWS)])
    return DensityCoverage(_mean(density) / k, _mean(nearest <= radii), k)


def _radii(points: Tensor, k: int) -> Tensor:
    # Distance to the k-th neighbour, [n]; the point itself is the first of the k + 1 smallest, at distance 0.
    return torch.cat([_cdist(part, points).kthvalue(k + 1, dim=1).values for part in points.split(_ROWS)])


def _balls_holding(points: Tensor, centres: Tensor, radii: Tensor) -> Tensor:
    # Number of balls that contain each point, [n].
    return torch.cat([(_cdist(part, centres) <= radii).sum(1) for part in points.split(_ROWS)])


def _cdist(x: Tensor, y: Tensor) -> Tensor:
    # Differences, not |x|² + |y|² − 2x·y, which loses half the digits: a point would not be at 0 from itself.
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _mean(values: Tensor) -> float:
    return float(values.to(torch.float64).mean())


def _checked(reference: Tensor, generated: Tensor, k: int) -> tuple[Tensor, Tensor]:
    require_number("k", k, COUNT)
    reference = as_features("reference", reference, at_least=k + 1)
    generated = as_features("generated", generated, at_least=k + 1)
    require_same_dimension(reference.shape[1], generated.shape[1])
    return reference, generated
