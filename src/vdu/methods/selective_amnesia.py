"""Selective Amnesia: surrogates in the place of what is to be forgotten, held by a Fisher penalty.

    L(θ) = E ‖ε − ε_θ(x̃_t, t)‖²  +  γ E ‖ε − ε_θ(x_t, t)‖²  +  λ Σᵢ Fᵢ (θᵢ − θᵢ*)²
           surrogate                 replay                     elastic weight consolidation (EWC)

x̃_0 ~ U[−1, 1]^d images of uniform noise, x_0 replayed samples without the forget class, t uniform over all T steps of the
model's schedule, ‖·‖² the SUM over pixels and E the mean over the batch, F the diagonal of
``vdu.posterior.amnesia_fisher``, γ = 1 and λ = 10 as published. These are the reductions of the public code
(clear-nus/selective-amnesia, ``ddpm/functions/losses.py`` and ``train_forget``), which sums over pixels in F as well. It
shares the steps t between both batches and draws them in antithetic pairs; here they are drawn freely, which has the same
mean. Its further settings: Adam with rate 1e-4, gradient norm clipped at 1.0, batch 128 + 128, 20 000 iterations.

The published method is conditional: the surrogates q(x | c_f) replace the images under the label or prompt to forget, and the others
keep theirs. So it is here: the surrogates have the conditions of the forget set, and the replayed samples their own. The surrogates
are uniform noise, as published for classes, or with ``--instead`` images that the original draws under another label or prompt, as
published for words. The published method replays (``--retain self``).

The port to unconditional models is ours. **Without labels the surrogate term does not use the forget set at all**: it pulls the whole
model towards uniform noise, whatever is to be forgotten. The class enters only through the replay, from which it was filtered. So

    replay="self"   generated samples of the original model without the class (or real retained images)
    replay="none"   no term depends on the class to forget; only EWC holds the rest. This is the data-constrained row of the
                    VDU paper's Table 1, and what it measures there is damage.

EWC is the penalty of the posterior N(θ*, 1/(2F)), with the closed gradient 2λF(θ−θ*), added once per step. Any other
Gaussian posterior works too; then the term is λ Σ (θ−μ)²/(2σ²).

Not guaranteed: forgetting, see above; that F's scale is the published one where it was estimated on a subset of steps.

Source: Heng & Soh 2023, "Selective Amnesia: A Continual Learning Approach to Forgetting in Deep Generative Models",
arXiv 2305.10120.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Self

from torch import Tensor, nn

from vdu.core.errors import InputError
from vdu.core.ranges import AT_LEAST_0
from vdu.core.types import Batch, Denoiser, Losses, NoisedBatch, Tools
from vdu.methods.base import HIDDEN, BaseMethod, of_what_trains
from vdu.methods.registry import register
from vdu.methods.vdu import PAPER
from vdu.posterior.gaussian import GaussianPosterior

__all__ = ["SelectiveAmnesia"]


@register
@dataclass(frozen=True, eq=False)
class SelectiveAmnesia(BaseMethod):
    """Selective Amnesia (Heng & Soh 2023).

    Args:
        posterior: θ* and 1/(2F), from ``fit_amnesia_fisher``; or any other posterior of the weights.
        replay: "self" (replays ``batch["retain"]``) or "none".
        ewc: λ ≥ 0, the weight of Σ F (θ−θ*)².
        replay_weight: γ ≥ 0 of Heng & Soh, the weight of the replay.
        schedule: the noise levels; None takes the model's own in :meth:`prepare`.
        alpha_bar_range: noise levels of the surrogates; replayed images use all levels.

    Raises:
        InputError: if the posterior is missing, the replay unknown or a weight is negative.
    """

    posterior: GaussianPosterior | None = field(default=None, metadata=HIDDEN)
    replay: str = "none"
    ewc: float = 10.0
    replay_weight: float = 1.0

    name = "selective-amnesia"
    summary = "Pulls what is drawn under the concept (without labels: the whole model) towards uniform noise, held by a Fisher penalty."
    substitutes = "asked"
    training = PAPER
    estimator = "amnesia-fisher"
    retain_options = MappingProxyType({"replay": "self"})

    ranges = MappingProxyType({"ewc": AT_LEAST_0, "replay_weight": AT_LEAST_0})
    choices = MappingProxyType({"replay": ("none", "self")})
    only_with = MappingProxyType({"replay_weight": ("replay", ("self",))})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.posterior, GaussianPosterior):
            raise InputError(
                f"posterior: got {type(self.posterior).__name__}; expected a GaussianPosterior, "
                "for example of fit_amnesia_fisher (`vdu posterior amnesia-fisher`)."
            )

    @property
    def needs(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Surrogates, and retained images if they are replayed; never the forget set."""
        return frozenset({self._surrogate} if self.replay == "none" else {self._surrogate, "retain"})

    @property
    def _surrogate(self) -> str:
        """The role of the surrogates: uniform noise, or what takes the place of the concept."""
        return "instead" if self._instead else "surrogate"

    @property
    def limits(self) -> Mapping[str, float]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Limits of the mean squared errors, which this method minimises.

        Replayed images: twice the error of predicting no noise at all, as for VDU. Surrogates are strange to the model,
        whose error on them starts above 1 (``mnist-small``: 3 at t = 1): what the worst guess of x̃_0 within
        [−1, 1] makes at the cleanest level, 4ᾱ/(1−ᾱ), and at least 2.
        """
        assert self.schedule is not None, "prepare() comes first"
        worst = 4 * float(self.schedule.log_snr.max().exp())
        return {"mse": max(2.0, worst)} | ({} if self.replay == "none" else {"replay_mse": 2.0})

    def prepare(self, denoiser: Denoiser, tools: Tools) -> Self:
        """Check that the posterior matches the model."""
        return replace(super().prepare(denoiser, tools), posterior=of_what_trains(self._penalty(), denoiser))

    def _penalty(self) -> GaussianPosterior:
        assert self.posterior is not None  # __post_init__ refuses it
        return self.posterior

    def losses(self, denoiser: Denoiser, batch: Batch) -> Losses:
        """The surrogate term and the replay, and their plain mean squared errors for the log and the guard."""
        roles = (self._surrogate,) if self.replay == "none" else (self._surrogate, "retain")
        errors = dict(zip(roles, _squared_errors(denoiser, [batch[role] for role in roles]), strict=True))
        terms = {"surrogate": _sums(errors[self._surrogate]).mean()}
        observed = {"mse": errors[self._surrogate].detach().mean()}
        if "retain" in errors:
            terms["replay"] = self.replay_weight * _sums(errors["retain"]).mean()
            observed["replay_mse"] = errors["retain"].detach().mean()
        return Losses(terms, observed)

    def add_gradients(self, parameters: Mapping[str, nn.Parameter]) -> Mapping[str, float]:
        """EWC: λ·2F(θ−θ*) in closed form."""
        if self.ewc == 0:
            return {}
        return {"ewc": self.ewc * float(self._penalty().add_gradient(parameters, scale=self.ewc))}


def _sums(error: Tensor) -> Tensor:
    """Of each sample, [batch]."""
    return error.sum(dim=tuple(range(1, error.ndim)))


def _squared_errors(denoiser: Denoiser, batches: list[NoisedBatch]) -> tuple[Tensor, ...]:
    """(ε − ε_θ)² of several batches from one network call, which is faster than one call each.

    Args:
        denoiser: the model.
        batches: images with noise, each [batch, channels, height, width].

    Returns:
        One float64 tensor per batch, of its shape.
    """
    whole = NoisedBatch.joined(*batches)
    error = (whole.noise - denoiser.noise(whole)).double().square()
    return error.split([len(batch.x0) for batch in batches])
