"""The same variance for every parameter: a control for the benefit of a diagonal.

    Q(θ) = ∏ᵢ N(θᵢ; θ*ᵢ, σ²)

Not guaranteed: any information about the network; the penalty is plain weight decay towards θ*.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from vdu.core.checks import hash_parameters
from vdu.core.errors import InputError
from vdu.core.ranges import require_fields
from vdu.core.types import Denoiser, NamedTensors
from vdu.posterior.gaussian import GaussianPosterior
from vdu.posterior.names import covered, select_names
from vdu.posterior.protocol import State, Takes

__all__ = ["Isotropic", "fit_isotropic"]


@dataclass(frozen=True, kw_only=True)
class Isotropic:
    """The estimator N(θ*, σ²), which needs the network alone.

    Args:
        variance: σ² > 0, in squared units of the weights.
        name_filter: regular expression of the parameters to cover; None for all.

    Raises:
        InputError: if the variance is not positive.
    """

    name: ClassVar[str] = "isotropic"
    takes: ClassVar[Takes] = "nothing"
    save_every: ClassVar[int] = 1

    variance: float = 1e-4
    name_filter: str | None = None

    def __post_init__(self) -> None:
        require_fields(self)

    def init(
        self, denoiser: Denoiser, *, n_items: int | None = None, generator: torch.Generator | None = None
    ) -> State:
        """A copy of the covered weights; ``n_items`` and ``generator`` are not used."""
        return _start(covered(denoiser, self.name_filter), dict(denoiser.network.named_parameters()))

    def update(self, state: State, item: Any, denoiser: Denoiser) -> State:
        """Fails, since this estimator uses no items.

        Raises:
            InputError: always.
        """
        raise InputError(
            "isotropic: got an item; expected none, since it needs the network alone. Use another estimator."
        )

    def posterior(self, state: State) -> GaussianPosterior:
        """The posterior, in the dtype of the weights; ``extras`` holds ``isotropic_variance``."""
        mean = state.tensors["mean"]
        return GaussianPosterior(
            mean=dict(mean),
            variance={name: torch.full_like(tensor, self.variance) for name, tensor in mean.items()},
            estimator=self.name,
            name_filter=self.name_filter,
            sources={"parameters": state.values["parameters"]},
            extras={"isotropic_variance": self.variance},
        )


def fit_isotropic(parameters: NamedTensors, variance: float, *, name_filter: str | None = None) -> GaussianPosterior:
    """A posterior of one variance around a copy of the given weights.

    Args:
        parameters: θ*, name → tensor.
        variance: σ² > 0, in squared units of the weights.
        name_filter: regular expression of the parameters to cover; None for all.

    Returns:
        The posterior.
    """
    estimator = Isotropic(variance=variance, name_filter=name_filter)
    return estimator.posterior(_start(select_names(parameters, name_filter), parameters))


def _start(chosen: NamedTensors, parameters: NamedTensors) -> State:
    mean = {name: tensor.detach().clone() for name, tensor in chosen.items()}
    return State(tensors={"mean": mean}, values={"parameters": hash_parameters(parameters)})
