"""A method as an objective of the training loop."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vdu.core.errors import InputError, shown
from vdu.core.processes import say
from vdu.core.types import Losses, Method
from vdu.methods.base import Described
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
        self._told = False

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
        for what, values in (("term", found.terms), ("observed value", found.observed)):
            if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
                raise InputError(f"{where} returned {shown(values)} for its {what}s; expected scalars by name.")
            for name, value in values.items():
                if not isinstance(value, Tensor) or value.ndim != 0 or value.is_complex():
                    kind = "complex tensor" if isinstance(value, Tensor) and value.is_complex() else "tensor"
                    got = f"a {kind} {list(value.shape)}" if isinstance(value, Tensor) else shown(value)
                    raise InputError(
                        f"{where} returned {got} as the {what} {name!r}; expected a scalar tensor of real numbers, a mean over the batch."
                    )
        if twice := sorted(set(found.terms) & set(found.observed)):
            raise InputError(
                f"{where} returned the name {twice[0]!r} twice; expected another name for the observed value."
            )
        self._tell_of_limits(found)
        if torch.is_grad_enabled() and not any(term.requires_grad for term in found.terms.values()):
            raise InputError(
                f"{where} returned terms ({', '.join(found.terms)}) without a gradient, so nothing would train; expected one that depends "
                "on the network of the denoiser it is given."
            )

    def _tell_of_limits(self, found: Losses) -> None:
        """Say once which limits of a method of one's own can end nothing, since it returns no value of their names."""
        idle = sorted(set(self.limits) - set(found.terms) - set(found.observed))
        is_own = not type(self.method).__module__.startswith("vdu.") and self.limits is not Described.limits
        if idle and is_own and not self._told:
            say(
                f"vdu: warning: the method {self.method.name} limits {', '.join(idle)}, and its losses() return no value of that name, so "
                "that no run ends by it."
            )
        self._told = True

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
