"""A method as an objective of the training loop."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

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
        return self.method.losses(denoiser, unflatten(dict(batch), self.method.schedule, denoiser.schedule))

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
