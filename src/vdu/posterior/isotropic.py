"""The same variance for every parameter: the control that says what the diagonal is worth.

    Q(θ) = ∏ᵢ N(θᵢ; θ*ᵢ, σ²)

Not guaranteed: any knowledge of the network; the penalty is plain weight decay towards θ*.
"""

import torch

from vdu.core.checks import hash_parameters
from vdu.core.errors import InputError
from vdu.core.types import NamedTensors
from vdu.posterior.gaussian import GaussianPosterior
from vdu.posterior.names import select_names

__all__ = ["fit_isotropic"]


def fit_isotropic(parameters: NamedTensors, variance: float, *, name_filter: str | None = None) -> GaussianPosterior:
    """A posterior of one variance around a copy of the given weights.

    Args:
        parameters: θ*, name → tensor.
        variance: σ² > 0, in squared units of the weights.
        name_filter: regular expression of the parameters to cover; None for all.

    Returns:
        The posterior.

    Raises:
        InputError: if the variance is not positive.
    """
    if not variance > 0:
        raise InputError(f"isotropic variance: got {variance}; expected a positive number, for example 1e-4.")
    chosen = select_names(parameters, name_filter)
    return GaussianPosterior(
        mean={name: tensor.detach().clone() for name, tensor in chosen.items()},
        variance={name: torch.full_like(tensor, variance).detach() for name, tensor in chosen.items()},
        estimator="isotropic",
        name_filter=name_filter,
        sources={"parameters": hash_parameters(parameters)},
        extras={"isotropic_variance": variance},
    )
