"""A method as an objective of the training loop."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vdu.core.errors import InputError, shown
from vdu.core.types import Losses, Method
from vdu.models.denoiser import PipelineDenoiser
from vdu.training.batches import unflatten
from vdu.training.loop import Objective

__all__ = ["MethodObjective"]


class MethodObjective(Objective):
    """Adapter from a method to the training loop: assembles noised batches and delegates to the method.

    Args:
        method: prepared.
        denoiser: the model that is trained.
    """

    def __init__(self, method: Method, denoiser: PipelineDenoiser) -> None:
        self.method, self.denoiser = method, denoiser
        self.limits, self.per_term = method.limits, method.per_term

    def losses(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Losses:
        """The method's losses over the network that the loop trains."""
        denoiser = self.denoiser.with_network(network)
        found = self.method.losses(denoiser, unflatten(dict(batch), self.method.schedule, denoiser.schedule))
        self._require_losses(found)
        return found

    def _require_losses(self, found: Any) -> None:
        """Raise an error for what a method of one's own may return instead."""
        where = f"the method {self.method.name}: losses()"
        if not isinstance(found, Losses):
            raise InputError(f"{where} returned {shown(found)}; expected vdu.Losses of terms, scalars by name.")
        for name, term in found.terms.items():
            if not isinstance(term, Tensor) or term.ndim != 0:
                got = f"a tensor {list(term.shape)}" if isinstance(term, Tensor) else shown(term)
                raise InputError(
                    f"{where} returned {got} as the term {name!r}; expected a scalar tensor. Take the mean over the batch."
                )
        if torch.is_grad_enabled() and not any(term.requires_grad for term in found.terms.values()):
            raise InputError(
                f"{where} returned terms ({', '.join(found.terms)}) without a gradient, so nothing would train; expected one that depends "
                "on the network of the denoiser it is given."
            )

    def add_gradients(self, parameters: Mapping[str, nn.Parameter]) -> Mapping[str, float]:
        """The method's closed-form gradients."""
        return self.method.add_gradients(parameters)

    def combine(self, gradients: Mapping[str, Sequence[Tensor]]) -> Sequence[Tensor]:
        """The method's own way."""
        return self.method.combine(gradients)

    def after_step(self, parameters: Mapping[str, nn.Parameter], values: Mapping[str, float]) -> None:
        """The method's own."""
        self.method.after_step(parameters, values)

    def state(self) -> dict[str, float]:
        """The method's own."""
        return self.method.state()

    def load_state(self, state: Mapping[str, float]) -> None:
        """The method's own."""
        self.method.load_state(state)
