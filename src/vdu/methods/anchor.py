"""Function-space anchor: forgetting under a bound on how far the predictions on retained samples may move.

    minimise  E_{D_f} φ(ℓ_θ, ℓ_0)   subject to   K(θ) = E_{x∈S_r, t, ε} k_t ‖ε_θ(x_t, t) − ε₀(x_t, t)‖²/d  ≤  δ

    L(θ) = E φ + γ K(θ),     after each step  γ ← max(0, γ + η (K − δ))                        (dual ascent)

φ a form of :mod:`vdu.methods.bounded` ("ascent" is −ℓ_θ, the mean squared error of the forget images), ε₀ the frozen
original, S_r its generated samples without the forget class (or real retained images), ‖·‖²/d the mean over pixels, and k_t

    uniform   1: K is a mean squared error like ℓ
    elbo      w_t/2 with w_t of Eq. 3 and 0 at t = 1: K is, per pixel and noise level, the KL between the reverse kernels of the
              original and of the edited model. The paper names such a divergence in function space as its future work.

``alpha_bar_range`` restricts the noise levels of the forget images; retained images use all levels.

The weight γ, a setting of VDU, here follows from δ, which has an interpretable unit. K is the value of the loss before the step,
averaged over processes and micro-batches, so that all of them hold the same γ; γ is part of a checkpoint. Replay regresses on the
original's predictions and not on the drawn noise, since the latter would train the model on the flaws of its generated samples
(Masip et al. 2023, arXiv 2311.14028).

Sources: the saddle-point iteration is that of Arrow, Hurwicz & Uzawa 1958; the KL of reverse kernels is that of Ho et al. 2020,
arXiv 2006.11239; future work of Panda et al., "Variational Diffusion Unlearning". As a method for unlearning it is a
proposal, not a published result.

Not guaranteed: K ≤ δ at any one step. A batch's K is noisy and γ lags behind it: a large learning rate passes δ by far before γ
takes effect. K and its gradient are exactly 0 at the original weights, so that the first step only forgets, whatever γ is.
With "ascent" the loss has no lower bound while γ is small; the guard on the forget images' error ends such a run.
Nor is it guaranteed that δ and η suit a model: the defaults are starting points.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Self

import torch
from torch import Tensor, nn

from vdu.core.ranges import AT_LEAST_0, POSITIVE
from vdu.core.types import Batch, Denoiser, Losses, Tools
from vdu.diffusion.schedule import check_weights, kl_weights
from vdu.methods.base import PRIVATE, mean_squared
from vdu.methods.bounded import PlasticityMethod
from vdu.methods.registry import register

__all__ = ["FunctionAnchor"]


@dataclass
class _Multiplier:
    """γ, the only state of the method that changes during a run; None before the first step."""

    gamma: float | None = None


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class FunctionAnchor(PlasticityMethod):
    """Forgetting under a bound δ on how far the predictions on retained samples move.

    Args:
        form: φ: "ascent", "npo", "hellinger" or "margin", see :class:`vdu.methods.bounded.PlasticityMethod`.
        delta: δ > 0, in the unit of K (for "uniform" that of a mean squared error).
        gamma: γ ≥ 0 at the first step.
        gamma_rate: η > 0, the rise of γ per step and unit of K above δ.
        weights: k_t: "uniform" or "elbo".

    Raises:
        InputError: if an option is unknown or out of range.
    """

    form: str = "ascent"
    delta: float = 1e-3
    gamma: float = 1.0
    gamma_rate: float = 100.0
    weights: str = "uniform"
    # made anew by every replace() and prepare(): a second run does not start from the first one's γ
    _multiplier: _Multiplier = field(init=False, default_factory=_Multiplier, repr=False, metadata=PRIVATE)

    name = "anchor"
    summary = "Forgets under a bound on how far the predictions on retained images may move from the original's."
    needs = frozenset({"forget", "retain"})

    ranges = MappingProxyType({"delta": POSITIVE, "gamma": AT_LEAST_0, "gamma_rate": POSITIVE})
    choices = MappingProxyType({"weights": ("uniform", "elbo")})

    @property
    def uses(self) -> frozenset[str]:
        """The original model, whatever the form."""
        return frozenset({"teacher"})

    def _level_weights(self) -> Tensor:
        """k_t of each timestep index, [T], float64."""
        assert self.schedule is not None, "prepare() comes first"
        if self.weights == "elbo":
            return kl_weights(self.schedule, "elbo")
        return torch.ones(len(self.schedule), dtype=torch.float64)  # its "uniform" has 0 at t = 1

    def prepare(self, denoiser: Denoiser, tools: Tools) -> Self:
        """Take the original model and the schedule; raise an error if most of the schedule's weight is on one step."""
        ready = super().prepare(denoiser, tools)
        if self.weights == "elbo":
            check_weights(ready._level_weights())
        return ready

    def losses(self, denoiser: Denoiser, batch: Batch) -> Losses:
        """The forget term and γK; K and γ themselves and the forget images' error for the log."""
        plasticity, observed = self.plasticity(denoiser, batch["forget"])
        retain = batch["retain"]
        assert self.tools is not None and self.tools.teacher is not None, "prepare() comes first"
        with torch.no_grad():
            answer = self.tools.teacher.noise(retain)
        distance = mean_squared(denoiser, retain, answer).double()
        keep = (self._level_weights().to(distance.device)[retain.index] * distance).mean()
        gamma = self._now
        observed |= {"keep": keep.detach(), "gamma": torch.full_like(keep.detach(), gamma)}
        return Losses({"plasticity": plasticity, "anchor": gamma * keep}, observed)

    def after_step(self, parameters: Mapping[str, nn.Parameter], values: Mapping[str, float]) -> None:
        """Dual ascent: γ ← max(0, γ + η (K − δ)) with the step's K."""
        self._multiplier.gamma = max(0.0, self._now + self.gamma_rate * (values["keep"] - self.delta))

    def state(self) -> dict[str, float]:
        """The current γ."""
        return {"gamma": self._now}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Restore γ."""
        self._multiplier.gamma = float(state["gamma"])

    @property
    def _now(self) -> float:
        return self.gamma if self._multiplier.gamma is None else self._multiplier.gamma
