"""Mean and covariance of features that arrive batch by batch, in float64.

    n = n₁ + n₂    δ = m₂ − m₁    m = m₁ + δ·n₂/n    S = S₁ + S₂ + δδᵀ·n₁n₂/n    Σ = S/(n − 1)

Each batch is centred on its own mean before it is squared, so that a mean far from 0 costs no precision, unlike in
Σ xxᵀ − n·mmᵀ.

Not guaranteed: equal bits for different batch sizes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vdu.metrics.features import as_features, require_same_dimension

__all__ = ["Moments", "merge_moments"]


@dataclass(frozen=True)
class Moments:
    """Mean and scatter of features seen so far.

    Attributes:
        n: rows of features.
        mean: [d], float64.
        scatter: Σ (x − mean)(x − mean)ᵀ, [d, d], float64.
    """

    n: int
    mean: Tensor
    scatter: Tensor

    @property
    def covariance(self) -> Tensor:
        """Covariance with divisor n − 1, [d, d], float64."""
        return self.scatter / (self.n - 1)


def merge_moments(moments: Moments | None, features: Tensor) -> Moments:
    """Add a batch of features to the moments.

    Args:
        moments: moments so far, or None at the start.
        features: [B, d], B ≥ 1.

    Returns:
        New moments; the old ones are unchanged.

    Source: Chan, Golub and LeVeque (1983), The American Statistician 37(3).
    """
    features = as_features("features", features, at_least=1)
    batch_mean = features.mean(0)
    centred = features - batch_mean
    batch = Moments(len(features), batch_mean, centred.T @ centred)
    if moments is None:
        return batch
    require_same_dimension(len(moments.mean), len(batch.mean))
    n, delta = moments.n + batch.n, batch.mean - moments.mean
    scatter = moments.scatter + batch.scatter + torch.outer(delta, delta) * (moments.n * batch.n / n)
    return Moments(n, moments.mean + delta * (batch.n / n), scatter)
