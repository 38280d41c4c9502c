"""Variational Diffusion Unlearning: ascent on the forget set's denoising loss, regularised by the posterior of the weights.

    L(θ) = −(1−γ) Σ_{x∈D_f} Σ_{t=2…T} w_t ‖ε − ε_θ(x_t, t)‖²  +  γ Σᵢ (θᵢ − μᵢ*)² / (2σᵢ*²)          (Eq. 3)

D_f the forget set, ε the drawn noise, w_t the weights of the KL between reverse kernels (``vdu.diffusion.schedule``),
μ* and σ*² mean and variance of the pre-trained weights' posterior, γ ∈ [0, 1] the balance (γ = ½ in the derivation).
Both terms are sums, as in the paper: over all images, steps and pixels; over all parameters. A mini-batch estimates the
first as |D_f| · (number of steps) · mean over its images, each at one step drawn uniformly. The second has the closed
gradient γ(θ−μ*)/σ*², added once per step.

Source: Panda, Varun, Jain, Maharana & Prathosh, "Variational Diffusion Unlearning", Eq. 3, Theorem 1 and Algorithm 1.
Where the printed sum starts at t = 1 and where a factor ½ is lost, see ``vdu.diffusion.schedule``.

With γ = 0 and no posterior this is gradient ascent, its control baseline: :class:`GradientAscent`, under the name
"ascent", is the same code without the regulariser.

Not guaranteed: that it stops. The first term has no lower bound, and Theorem 1 minimises a lower bound of the
divergence; under Adam, whose steps do not depend on the scale of the loss, the regulariser may never act in a short run.
The guard ends a run whose forget loss per element passes that of predicting nothing (ε̂ = 0 has mean squared error 1)
twice over.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor, nn

from vdu.core.errors import InputError
from vdu.core.ranges import UNIT
from vdu.core.types import Batch, Denoiser, Losses, Tools
from vdu.diffusion.schedule import NoiseSchedule, check_weights, kl_weights
from vdu.methods.base import HIDDEN, BaseMethod, of_what_trains
from vdu.methods.defaults import TrainingDefaults
from vdu.methods.registry import register
from vdu.posterior.gaussian import GaussianPosterior

__all__ = ["PAPER", "VDU", "GradientAscent", "gradient_ascent"]

PAPER = TrainingDefaults(steps=60, batch_size=128, learning_rate=1e-6)
"""The paper's training."""


@register
@dataclass(frozen=True, eq=False)
class VDU(BaseMethod):
    """Variational Diffusion Unlearning (Eq. 3).

    Args:
        posterior: μ* and σ*² of the pre-trained weights; None only with γ = 0.
        gamma: γ, the weight of the stability term, in [0, 1].
        weights: "paper" (Eq. 3 as printed), "elbo" (with the lost ½) or "uniform".
        schedule: the unlearning schedule; its noise levels are mapped to the model's schedule by ᾱ. None takes the
            model's own.
        alpha_bar_range: only noise levels with ᾱ in this range are used; (0, 1) is all of them, as in the paper.

    Raises:
        InputError: if γ is out of range, the posterior is missing, or the weights are concentrated on one step.
    """

    posterior: GaussianPosterior | None = field(default=None, metadata=HIDDEN)
    gamma: float = 0.1
    weights: str = "paper"
    schedule: NoiseSchedule | None = field(default_factory=NoiseSchedule.linear, kw_only=True)

    name = "vdu"
    summary = "Variational Diffusion Unlearning (the paper): ascent on the forget images, regularised by the posterior of the weights."
    training = PAPER
    estimator = "fisher"

    ranges = MappingProxyType({"gamma": UNIT})
    choices = MappingProxyType({"weights": ("paper", "elbo", "uniform")})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gamma > 0 and self.posterior is None:
            raise InputError(
                f"posterior: none given with gamma = {self.gamma}; give one, or gamma = 0 (gradient ascent)."
            )
        if self.schedule is not None:
            check_weights(self._weights())

    def _weights(self) -> Tensor:
        """w_t with 0 outside the range of noise levels.

        Returns:
            Weights, [T], float64.

        Raises:
            InputError: if no noise level lies in the range.
        """
        assert self.schedule is not None, "prepare() comes first"
        low, high = self.alpha_bar_range
        inside = (self.schedule.alpha_bars >= low) & (self.schedule.alpha_bars <= high)
        weights = torch.where(inside, kl_weights(self.schedule, self.weights), 0.0)  # not a product: a weight may be ∞
        if not bool((weights > 0).any()):
            raise InputError(
                f"alpha_bar_range: no step of the unlearning schedule has ᾱ within [{low}, {high}]; widen it within [0, 1]."
            )
        return weights

    def draw_weights(self, role: str = "forget") -> Tensor:
        """Steps are drawn uniformly among those in use, [T], float64."""
        return (self._weights() > 0).double()

    def prepare(self, denoiser: Denoiser, tools: Tools) -> Self:
        """Check that the posterior matches the model."""
        posterior = self.posterior
        ready = super().prepare(denoiser, tools)
        return ready if posterior is None else replace(ready, posterior=of_what_trains(posterior, denoiser))

    def losses(self, denoiser: Denoiser, batch: Batch) -> Losses:
        """The plasticity term, and the plain mean squared error for the log and the guard."""
        forget = batch["forget"]
        error = (forget.noise - denoiser.noise(forget)).double().square()
        assert self.tools is not None, "prepare() comes before losses()"
        weights = self._weights().to(error.device)
        scale = self.tools.n_forget * int((weights > 0).sum())  # a batch mean becomes the sum over D_f and t
        plasticity = scale * (weights[forget.index] * error.sum(dim=tuple(range(1, error.ndim)))).mean()
        return Losses(
            {"plasticity": -(1 - self.gamma) * plasticity}, {"mse": error.detach().mean()}
        )  # Eq. 3, first term

    def add_gradients(self, parameters: Mapping[str, nn.Parameter]) -> Mapping[str, float]:
        """The stability term: γ(θ−μ*)/σ*² in closed form (Eq. 3, second term)."""
        if self.gamma == 0 or self.posterior is None:
            return {}
        return {"stability": self.gamma * float(self.posterior.add_gradient(parameters, scale=self.gamma))}


@register
@dataclass(frozen=True, eq=False)
class GradientAscent(VDU):
    """VDU without the regulariser: no posterior, and γ = 0."""

    posterior: None = field(default=None, init=False, metadata=HIDDEN)
    gamma: float = field(default=0.0, init=False)

    name = "ascent"
    summary = "Gradient ascent on the forget images' denoising loss: vdu without its regulariser, as a control."
    estimator = None


def gradient_ascent(*unnamed: Any, **options: Any) -> VDU:
    """:class:`GradientAscent`; ``options`` as for :class:`VDU` except posterior and gamma, by name alone."""
    return GradientAscent(*unnamed, **options)
