"""Bounded plasticity: forgetting whose gradient vanishes once the forget set is denoised badly enough.

    L(θ) = E_{x∈D_f, t, ε} φ(ℓ_θ, ℓ_0)  +  (λ/n) Σᵢ (θᵢ − μᵢ*)² / (2σᵢ*²)

ℓ_θ = ‖ε − ε_θ(x_t, t)‖²/d the mean squared error of one image, ℓ_0 that of the original model under the same t and ε,
Δ = ℓ_θ − ℓ_0, and φ one of

    form        φ                        slope dφ/dℓ_θ       lowest value
    ascent      −ℓ_θ                     −1                  none
    npo         (2/β) log(1 + e^(−βΔ))   −2 / (1 + e^(βΔ))   0, never reached
    hellinger   exp(−κ ℓ_θ)              −κ exp(−κ ℓ_θ)      0, never reached
    margin      max(0, m ℓ_0 − Δ)        −1, then 0          0, from ℓ_θ = (1+m) ℓ_0 on

β and κ have the unit 1/mse. m is a multiple of the original model's error on the same image at the same noise level: errors at
t near 1 are many times those at t near T, so that no single number is a margin for all. At the original weights (Δ = 0) ascent,
npo and margin have the same slope, so that their first steps are the same; hellinger's is κ exp(−κ ℓ_0).

The second term is used only with a posterior and has the closed gradient (λ/n)(θ−μ*)/σ*², added once per step.
n = |D_f| · d · (number of noise levels used) is the ratio of the paper's sum to a mean over images, pixels and levels,
so that λ = γ/(1−γ) of VDU with weights="uniform": the form "ascent" has VDU's gradient divided by (1−γ)n, and λ = 1 is
the balance of the derivation.

Sources: npo is the loss of Zhang, Lin, Bai & Mei 2024, "Negative Preference Optimization", arXiv 2404.05868, with the error
in the place of the negative log-likelihood. hellinger has the shape of the Hellinger affinity of two Gaussians of equal variance,
exp(−‖μ₁−μ₂‖²/(8s²)). margin is a hinge. As losses for unlearning diffusion models they are proposals, not published results.

Not guaranteed: that anything else is retained, since the loss bounds the forget images' error but not the effect of a step on other
images; that β, κ and m suit a model (the defaults are starting points); that ℓ_θ and ℓ_0 are equal at the start in a network with
dropout, which the loop enables.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Self

import torch
from torch import Tensor, nn

from vdu.core.errors import InputError
from vdu.core.ranges import POSITIVE
from vdu.core.types import Batch, Denoiser, Losses, NoisedBatch, Tools
from vdu.methods.base import HIDDEN, PRIVATE, BaseMethod, mean_squared, of_what_trains
from vdu.methods.registry import register
from vdu.posterior.gaussian import GaussianPosterior

__all__ = ["FORMS", "BoundedPlasticity", "PlasticityMethod", "ascent", "hellinger", "margin", "npo"]

FORMS = {
    "ascent": frozenset(),
    "npo": frozenset({"teacher"}),
    "hellinger": frozenset(),
    "margin": frozenset({"teacher"}),
}
"""The forms, and the tools that each one needs for ℓ_0."""


def ascent(loss: Tensor) -> Tensor:
    """−ℓ_θ, plain and unbounded.

    Args:
        loss: ℓ_θ of each image, [batch].

    Returns:
        [batch].
    """
    return -loss


def npo(loss: Tensor, reference: Tensor, *, beta: float) -> Tensor:
    """(2/β) log(1 + e^(−βΔ)), the form of Zhang et al. 2024 (arXiv 2404.05868).

    Args:
        loss: ℓ_θ of each image, [batch].
        reference: ℓ_0 under the same t and ε, [batch].
        beta: β, in 1/mse.

    Returns:
        [batch].

    Examples:
        >>> one = torch.ones(1)
        >>> round(float(npo(one, one, beta=2.0)), 4)  # log 2
        0.6931
    """
    return (2 / beta) * nn.functional.softplus(-beta * (loss - reference))


def hellinger(loss: Tensor, *, kappa: float) -> Tensor:
    """exp(−κ ℓ_θ), between 0 and 1.

    Args:
        loss: ℓ_θ of each image, [batch].
        kappa: κ, in 1/mse.

    Returns:
        [batch].
    """
    return torch.exp(-kappa * loss)


def margin(loss: Tensor, reference: Tensor, *, multiple: float) -> Tensor:
    """max(0, m ℓ_0 − Δ): an image has no gradient from ℓ_θ = (1+m) ℓ_0 on.

    Args:
        loss: ℓ_θ of each image, [batch].
        reference: ℓ_0 under the same t and ε, [batch].
        multiple: m, of ℓ_0.

    Returns:
        [batch].

    Examples:
        >>> margin(torch.tensor([1.0, 2.5, 4.0]), torch.ones(3), multiple=2.0).tolist()
        [2.0, 0.5, 0.0]
    """
    return torch.relu(multiple * reference - (loss - reference))


@dataclass(frozen=True, eq=False, kw_only=True)
class PlasticityMethod(BaseMethod):
    """A method whose forget term is one of the forms; subclasses add the regularisation.

    Args:
        form: φ: "ascent", "npo", "hellinger" or "margin".
        beta: β of "npo", in 1/mse.
        kappa: κ of "hellinger", in 1/mse.
        margin: m of "margin", a multiple of the original model's error.

    Raises:
        InputError: if the form is unknown or a number is not positive.
    """

    form: str = "npo"
    beta: float = 10.0
    kappa: float = 10.0
    margin: float = 1.0

    ranges = MappingProxyType({"beta": POSITIVE, "kappa": POSITIVE, "margin": POSITIVE})
    choices = MappingProxyType({"form": tuple(FORMS)})
    only_with = MappingProxyType({
        "beta": ("form", ("npo",)), "kappa": ("form", ("hellinger",)), "margin": ("form", ("margin",)),
    })  # fmt: skip

    @property
    def uses(self) -> frozenset[str]:
        """The original model, if the form compares with it."""
        return FORMS[self.form]

    def plasticity(self, denoiser: Denoiser, forget: NoisedBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean of φ over the batch.

        Args:
            denoiser: the model.
            forget: noised images of the forget set, each [batch, channels, height, width].

        Returns:
            A float64 scalar, and the errors to log: ``mse`` (ℓ_θ) and, if the form needs it, ``teacher_mse`` (ℓ_0).
        """
        loss = mean_squared(denoiser, forget).double()
        observed = {"mse": loss.detach().mean()}
        if self.form == "ascent":
            return ascent(loss).mean(), observed
        if self.form == "hellinger":
            return hellinger(loss, kappa=self.kappa).mean(), observed
        assert self.tools is not None and self.tools.teacher is not None, "prepare() comes first"
        with torch.no_grad():
            reference = mean_squared(self.tools.teacher, forget).double()
        observed["teacher_mse"] = reference.mean()
        if self.form == "npo":
            return npo(loss, reference, beta=self.beta).mean(), observed
        return margin(loss, reference, multiple=self.margin).mean(), observed


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class BoundedPlasticity(PlasticityMethod):
    """Bounded plasticity, optionally regularised by the posterior of the weights.

    Args:
        posterior: μ* and σ*² of the pre-trained weights; None leaves the second term out.
        stability: λ > 0, the weight of the second term.

    Raises:
        InputError: if an option is out of range.
    """

    posterior: GaussianPosterior | None = field(default=None, metadata=HIDDEN)
    stability: float = 1.0
    _n: int | None = field(default=None, repr=False, metadata=PRIVATE)

    name = "bounded"
    summary = "Raises the forget images' error by a loss whose gradient vanishes once they are denoised badly enough."
    needs = frozenset({"forget"})

    ranges = MappingProxyType({"stability": POSITIVE})

    def require_effects(self) -> None:
        """Refuse a weight of the second term where there is none, too."""
        super().require_effects()
        if self.posterior is None and self.stability != type(self).stability:
            raise InputError(
                f"stability: got {self.stability}, which has no effect without a posterior; expected one. Give one, or leave it out."
            )

    def prepare(self, denoiser: Denoiser, tools: Tools) -> Self:
        """Check that the posterior matches the model, and count the terms of the paper's sum."""
        ready = super().prepare(denoiser, tools)
        if self.posterior is None:
            return ready
        levels = int((ready.draw_weights() > 0).sum())
        n = tools.n_forget * math.prod(denoiser.latent_shape) * levels
        return replace(ready, posterior=of_what_trains(self.posterior, denoiser), _n=n)

    def losses(self, denoiser: Denoiser, batch: Batch) -> Losses:
        """The form over the forget images, and their plain mean squared error for the log and the guard."""
        value, observed = self.plasticity(denoiser, batch["forget"])
        return Losses({"plasticity": value}, observed)

    def add_gradients(self, parameters: Mapping[str, nn.Parameter]) -> Mapping[str, float]:
        """The second term: (λ/n)(θ−μ*)/σ*² in closed form."""
        if self.posterior is None:
            return {}
        assert self._n is not None, "prepare() comes first"
        scale = self.stability / self._n
        return {"stability": scale * float(self.posterior.add_gradient(parameters, scale=scale))}
