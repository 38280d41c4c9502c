"""A Gaussian posterior of weights W, for a model that trains low-rank corrections of them (LoRA).

    W = W₀ + s B A        penalty Σ (W − μ)² / (2σ²)        G = (W − μ)/σ²
    ∂/∂A = s Bᵀ G         ∂/∂B = s G Aᵀ

The Gaussian stays over the weights, so any posterior fits any parametrisation. W and G exist for one layer at a time. With μ = W₀ and
one σ² the penalty is s² tr((BᵀB)(AAᵀ)) / (2σ²).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor, nn

from vdu.core.errors import InputError
from vdu.core.types import NamedTensors
from vdu.posterior.gaussian import GaussianPosterior

__all__ = ["LowRankPosterior", "corrected_layers", "low_rank_posterior"]


@dataclass(frozen=True, eq=False, kw_only=True)
class LowRankPosterior(GaussianPosterior):
    """A posterior of corrected weights as a function of their factors; mean and variance are those of the weights W.

    Attributes:
        base: W₀ by the same names, on the posterior's device.
        scale: s.
    """

    base: NamedTensors = field(repr=False)
    scale: float = 1.0

    def penalty(self, parameters: NamedTensors) -> Tensor:
        """Σ (W₀ + s B A − μ)² / (2σ²), differentiable, in float64.

        Args:
            parameters: the factors, ``LAYER.lora_A`` and ``LAYER.lora_B`` by name.

        Returns:
            A float64 scalar.
        """
        return super().penalty({
            name: weight.double() + self.scale * parameters[b].double() @ parameters[a].double()
            for name, weight, a, b in self._layers()
        })

    @torch.no_grad()
    def add_gradient(self, parameters: Mapping[str, nn.Parameter], scale: float) -> Tensor:
        """Add the penalty's gradients, times a factor, to ``.grad`` of the factors, without a graph.

        Args:
            parameters: the factors by name.
            scale: the factor before the penalty, for example γ.

        Returns:
            The unscaled penalty, a float64 scalar.
        """
        terms = []
        for name, weight, a, b in self._layers():
            A, B = parameters[a], parameters[b]
            delta = weight + self.scale * B @ A - self.mean[name]
            G = delta / self.variance[name]
            terms.append(delta.mul_(G).sum(dtype=torch.float64))
            for factor, gradient in ((A, B.T @ G), (B, G @ A.T)):
                gradient *= scale * self.scale
                factor.grad = gradient if factor.grad is None else factor.grad.add_(gradient)
        return torch.stack(terms).sum() / 2

    def _layers(self) -> list[tuple[str, Tensor, str, str]]:
        layers = [(name, name.removesuffix(".weight")) for name in self.mean]
        return [(name, self.base[name], f"{layer}.lora_A", f"{layer}.lora_B") for name, layer in layers]


def corrected_layers(named: Mapping[str, object]) -> list[str]:
    """The layers whose factors are among named parameters.

    Args:
        named: name → anything.

    Returns:
        Names of layers.

    Examples:
        >>> corrected_layers({"up.to_q.weight": 0, "up.to_q.lora_A": 0, "up.to_q.lora_B": 0})
        ['up.to_q']
    """
    return [name.removesuffix(".lora_A") for name in named if name.endswith(".lora_A")]


def low_rank_posterior(posterior: GaussianPosterior, network: nn.Module) -> LowRankPosterior:
    """A posterior of a network's weights, for the low-rank corrections that the network trains.

    Args:
        posterior: of the original's weights; on the network's device.
        network: with corrections.

    Returns:
        The posterior as a function of the factors.

    Raises:
        InputError: if a corrected weight is not covered by the posterior, or has another shape.
    """
    named = dict(network.named_parameters())
    layers = corrected_layers(named)
    names = [f"{layer}.weight" for layer in layers]
    lacking = [name for name in names if name not in posterior.mean or posterior.mean[name].shape != named[name].shape]
    if lacking:
        raise InputError(
            f"posterior: does not cover {len(lacking)} of the {len(names)} weights that LoRA corrects (first: {lacking[0]}); expected all "
            "of them. Fit one for this model, without a name filter that leaves its attention out."
        )
    scale = float(getattr(network.get_submodule(layers[0]), "lora_scale", 1.0))
    part = posterior.only(names)
    whole = {item.name: getattr(part, item.name) for item in fields(part)}
    return LowRankPosterior(**whole, base={name: named[name] for name in names}, scale=scale)
