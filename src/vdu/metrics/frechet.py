"""Fréchet distance between Gaussians fitted to the features of two sets of images (FID, for Inception features).

    d² = |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2·(√Σ₁ Σ₂ √Σ₁)^½)

μ, Σ: mean and covariance (divisor n − 1) of features [n, d], in float64: d² is a small difference of large traces. Both
roots are of symmetric matrices, by eigendecomposition with negative eigenvalues (rounding) set to 0; d² is clamped at 0.
Moments are merged batch by batch (see :mod:`vdu.metrics.moments`).

With n ≤ d a covariance is singular. The distance is still defined, but its bias is large: the result has
``rank_deficient`` set and a warning is logged.

Not guaranteed: absence of bias. d² of finite samples is too large, by an amount that depends on n and on the model;
compare only equal n, and report KID as well. The value is "FID" only for Inception features; otherwise name the
network.
"""

import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vdu.core.errors import InputError
from vdu.core.ranges import require_flags
from vdu.core.surroundings import own_torch
from vdu.metrics.features import Network, as_features, features_of, require_network, require_same_dimension
from vdu.metrics.intervals import centred_interval, require_resampling
from vdu.metrics.moments import Moments, merge_moments

__all__ = [
    "Frechet",
    "FrechetDistance",
    "FrechetInterval",
    "frechet_distance",
    "frechet_from_moments",
    "frechet_interval",
]


@dataclass(frozen=True)
class Frechet:
    """A Fréchet distance and the quantities that determine its bias.

    Attributes:
        value: d², in squared units of the features, ≥ 0.
        n_reference: rows of the reference.
        n_generated: rows of the generated set.
        dimension: d.
        rank_deficient: whether one of the two has n ≤ d.
    """

    value: float
    n_reference: int
    n_generated: int
    dimension: int
    rank_deficient: bool
    higher_is_better: ClassVar[bool] = False


@dataclass(frozen=True)
class FrechetInterval:
    """A Fréchet distance with a 95 % interval over generated sets of the same size.

    Attributes:
        value: d² of the sets as given, ≥ 0.
        low: lower limit, ≥ 0.
        high: upper limit.
        resample_bias: mean of the resamples minus the value; removed from the interval.
        n_resamples: bootstrap resamples.
    """

    value: float
    low: float
    high: float
    resample_bias: float
    n_resamples: int
    higher_is_better: ClassVar[bool] = False


@own_torch()
def frechet_distance(reference: Tensor, generated: Tensor) -> Frechet:
    """Fréchet distance between two sets of features.

    Args:
        reference: features of the reference, [n₁, d], n₁ ≥ 2.
        generated: features of the generated images, [n₂, d], n₂ ≥ 2.

    Returns:
        The distance.

    Source: Heusel et al. (2017), arXiv 1706.08500, Eq. 6.

    Examples:
        >>> x = torch.tensor([[0.0], [2.0], [4.0]])
        >>> frechet_distance(x, x + 3).value  # equal covariances: the squared distance of the means
        9.0
    """
    return frechet_from_moments(
        merge_moments(None, as_features("reference", reference)),
        merge_moments(None, as_features("generated", generated)),
    )


def frechet_from_moments(reference: Moments, generated: Moments) -> Frechet:
    """Fréchet distance between two Gaussians.

    Args:
        reference: moments of the reference, n ≥ 2.
        generated: moments of the generated set, n ≥ 2.

    Returns:
        The distance, flagged if a covariance is rank deficient.

    Raises:
        InputError: if a set has fewer than two rows.
    """
    require_same_dimension(len(reference.mean), len(generated.mean))
    for name, moments in (("reference", reference), ("generated", generated)):
        if moments.n < 2:
            raise InputError(f"{name}: got {moments.n} image(s), expected at least 2. A covariance needs more images.")
    dimension = len(reference.mean)
    deficient = min(reference.n, generated.n) <= dimension
    if deficient:
        warnings.warn(
            f"Fréchet distance of {reference.n} and {generated.n} images in {dimension} dimensions: a covariance is "
            "singular and the bias large. Give more images than dimensions.",
            stacklevel=2,
        )
    value = _distance(reference, _root(reference.covariance), generated)
    return Frechet(value, reference.n, generated.n, dimension, deficient)


@own_torch()
def frechet_interval(
    reference: Tensor, generated: Tensor, *, n_resamples: int = 200, generator: torch.Generator
) -> FrechetInterval:
    """Fréchet distance with a centred bootstrap interval over the generated images; the reference stays fixed.

    A resample holds about 63 % of the distinct images and so scores worse than the set it is drawn from; plain
    percentiles would lie above the value. The interval is centred (see :mod:`vdu.metrics.intervals`) and clamped at 0.

    Args:
        reference: features of the reference, [n₁, d].
        generated: features of the generated images, [n₂, d].
        n_resamples: at least 40; each costs one eigendecomposition of [d, d].
        generator: source of the resamples.

    Returns:
        Value and interval. The interval accounts neither for the bias at this n, nor for the choice of the reference, nor for the
        spread over unlearning runs.
    """
    require_resampling(n_resamples, generator)
    fixed, images = merge_moments(None, as_features("reference", reference)), as_features("generated", generated)
    root = _root(fixed.covariance)
    value = frechet_from_moments(fixed, merge_moments(None, images)).value
    resampled = []
    for _ in range(n_resamples):
        rows = torch.randint(len(images), (len(images),), generator=generator, device=generator.device)
        resampled.append(_distance(fixed, root, merge_moments(None, images[rows.to(images.device)])))
    low, high = centred_interval(value, torch.tensor(resampled, dtype=torch.float64))
    bias = sum(resampled) / n_resamples - value
    return FrechetInterval(value, max(low, 0.0), high, bias, n_resamples)


class FrechetDistance:
    """Accumulates moments batch by batch; memory does not grow with the number of images.

    Args:
        network: images [B, C, H, W] in [−1, 1] → features [B, d]; None if ``update`` is given features.

    Examples:
        >>> metric = FrechetDistance()
        >>> metric.update(torch.tensor([[0.0], [2.0]]), reference=True)
        >>> metric.update(torch.tensor([[1.0], [3.0]]), reference=False)
        >>> round(metric.compute().value, 9)
        1.0
    """

    higher_is_better: ClassVar[bool] = False

    def __init__(self, network: Network | None = None) -> None:
        require_network(network)
        self.network = network
        self._moments: dict[bool, Moments] = {}

    def update(self, batch: Tensor, *, reference: bool) -> None:
        """Add a batch.

        Args:
            batch: images if a network was given, otherwise features [B, d].
            reference: whether they belong to the reference or to the generated set.
        """
        require_flags({"reference": reference}, "reference")
        features = features_of(self.network, batch)
        self._moments[reference] = merge_moments(self._moments.get(reference), features)

    def compute(self) -> Frechet:
        """The distance between the sets accumulated so far.

        Returns:
            The distance.

        Raises:
            InputError: if one of the two sets is empty.
        """
        if len(self._moments) < 2:
            seen = {True: "the reference", False: "the generated set"}
            got = " and ".join(seen[key] for key in self._moments) or "nothing"
            raise InputError(
                f"update: got {got}, expected both sets. Call update with reference=True and reference=False."
            )
        return frechet_from_moments(self._moments[True], self._moments[False])


def _root(covariance: Tensor) -> Tensor:
    # Symmetric square root of a positive semidefinite matrix, [d, d].
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def _distance(reference: Moments, root: Tensor, generated: Moments) -> float:
    # d², with √Σ₁ given: it is the same for every resample.
    product = root @ generated.covariance @ root
    cross = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    traces = reference.covariance.trace() + generated.covariance.trace()
    return max(float((reference.mean - generated.mean).square().sum() + traces - 2 * cross), 0.0)
