"""The one truth that all of these tests go back to: a dense Gaussian, conditioned by the Schur complement."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


def condition_dense(mean: Tensor, covariance: Tensor, given: list[int], values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the other coordinates of a joint Gaussian, in their order, once some are known.

    μ_{a|b} = μ_a + Σ_ab Σ_bb⁻¹ (b − μ_b),   Σ_{a|b} = Σ_aa − Σ_ab Σ_bb⁻¹ Σ_ba
    """
    rest = [i for i in range(len(mean)) if i not in given]
    gain = torch.linalg.solve(covariance[given][:, given], covariance[given][:, rest]).T
    return (
        mean[rest] + gain @ (values - mean[given]),
        covariance[rest][:, rest] - gain @ covariance[given][:, rest],
    )


@pytest.fixture(scope="session")
def condition() -> Callable[[Tensor, Tensor, list[int], Tensor], tuple[Tensor, Tensor]]:
    return condition_dense
