"""Selective Amnesia without labels: the paper's baseline, ported to unconditional models.

    L(θ) = E ‖ε − ε_θ(x̃_t, t)‖²  +  γ E ‖ε − ε_θ(x_t, t)‖²  +  λ Σᵢ Fᵢ (θᵢ − θᵢ*)²
           surrogate                 replay                     elastic weight consolidation (EWC)

x̃_0 ~ U[−1, 1]^d images of uniform noise, x_0 replayed samples without the forget class, t uniform over all T steps of the
model's own schedule, ‖·‖² the SUM over pixels and E the mean over the batch, F the diagonal of
``vdu.posterior.amnesia_fisher``, γ = 1 and λ = 10 as published. These are the reductions of the public code
(clear-nus/selective-amnesia, ``ddpm/functions/losses.py`` and ``train_forget``), which sums over pixels in F as well. It
shares the steps t between both batches and draws them in antithetic pairs; here they are drawn freely, which has the same
mean. Its further settings: Adam with rate 1e-4, gradient norm clipped at 1.0, batch 128 + 128, 20 000 iterations.

The published method is class-conditional: the surrogate replaces the class's images under its label, and the other labels
keep theirs. **Without labels the surrogate term does not look at the forget set at all**: it pulls the whole model towards
uniform noise, whatever is to be forgotten. The class enters only through the replay, from which it was filtered. So

    replay="self"   own samples of the original model without those of the class (or real retained images)
    replay="none"   nothing knows which class to forget; only EWC holds the rest. This is the data-constrained row of the
                    VDU paper's Table 1, and what it measures there is damage.

EWC is the penalty of the posterior N(θ*, 1/(2F)), with the closed gradient 2λF(θ−θ*), added once per step. Any other
Gaussian posterior works too; then the term is λ Σ (θ−μ)²/(2σ²).

Not guaranteed: forgetting, see above; that F's scale is the published one where it was estimated on a subset of steps.

Source: Heng & Soh 2023, "Selective Amnesia: A Continual Learning Approach to Forgetting in Deep Generative Models",
arXiv 2305.10120.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from vdu.core.errors import InputError
from vdu.core.records import sha256_bytes
from vdu.core.types import Batch, Denoiser, Losses, NoisedBatch, Tools
from vdu.diffusion.schedule import NoiseSchedule
from vdu.methods.base import Plain
from vdu.posterior.gaussian import GaussianPosterior

__all__ = ["SelectiveAmnesia"]


@dataclass(frozen=True, eq=False)
class SelectiveAmnesia(Plain):
    """Selective Amnesia (Heng & Soh 2023) for unconditional models.

    Args:
        posterior: θ* and 1/(2F), from ``fit_amnesia_fisher``; or any other posterior of the weights.
        replay: "self" (replays ``batch["retain"]``) or "none".
        ewc: λ ≥ 0, the weight of Σ F (θ−θ*)².
        replay_weight: γ ≥ 0 of Heng & Soh, the weight of the replay; without meaning for "none".
        schedule: the noise levels; None takes the model's own in :meth:`prepare`.

    Raises:
        InputError: if the posterior is missing, the replay unknown or a weight is negative.
    """

    posterior: GaussianPosterior
    replay: str = "none"
    ewc: float = 10.0
    replay_weight: float = 1.0
    schedule: NoiseSchedule | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.posterior, GaussianPosterior):
            raise InputError(
                f"posterior: got {type(self.posterior).__name__}; expected a GaussianPosterior, "
                "for example of fit_amnesia_fisher (`vdu posterior amnesia-fisher`)."
            )
        if self.replay not in {"none", "self"}:
            raise InputError(f"replay: got {self.replay!r}; expected 'none' or 'self'.")
        for name in ("ewc", "replay_weight"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise InputError(f"{name}: got {value}; expected a finite number ≥ 0 (published: ewc 10, replay 1).")

    @property
    def name(self) -> str:
        """The name on the command line."""
        return "selective-amnesia"

    @property
    def needs(self) -> frozenset[str]:
        """Images of uniform noise, and what is to be kept if it is replayed; never the forget set."""
        return frozenset({"surrogate"} if self.replay == "none" else {"surrogate", "retain"})

    @property
    def limits(self) -> Mapping[str, float]:
        """Limits of the mean squared errors, which this method minimises.

        Replayed images: twice the error of predicting no noise at all, as for VDU. Surrogates are strange to the model,
        whose error on them starts above 1 (``mnist-small``: 3 at t = 1): what the worst guess of x̃_0 within
        [−1, 1] makes at the cleanest level, 4ᾱ/(1−ᾱ), and at least 2.
        """
        worst = 4 * float(self._levels().log_snr.max().exp())
        return {"mse": max(2.0, worst)} | ({} if self.replay == "none" else {"replay_mse": 2.0})

    @property
    def identity(self) -> str:
        """Hash of all that makes this method, for a resumed run (the printed form of a tensor is abridged)."""
        levels = None if self.schedule is None else self.schedule.alpha_bars.tolist()
        return sha256_bytes(repr((self.replay, self.ewc, self.replay_weight, levels, self.posterior.sha256)).encode())

    def _levels(self) -> NoiseSchedule:
        assert self.schedule is not None, "prepare() comes first"
        return self.schedule

    def draw_weights(self, role: str = "forget") -> Tensor:
        """All T steps alike, t = 1 among them, [T], float64."""
        return torch.ones(len(self._levels()), dtype=torch.float64)

    def prepare(self, denoiser: Denoiser, tools: Tools) -> Self:
        """Check that the posterior is this model's and take the model's own schedule where none was given."""
        self.posterior.check_matches(dict(denoiser.network.named_parameters()))
        first = next(denoiser.network.parameters())
        schedule = denoiser.schedule if self.schedule is None else self.schedule
        return replace(self, posterior=self.posterior.to(first.device, first.dtype), schedule=schedule)

    def losses(self, denoiser: Denoiser, batch: Batch) -> Losses:
        """The surrogate term and the replay, and their plain mean squared errors for the log and the guard."""
        roles = ("surrogate",) if self.replay == "none" else ("surrogate", "retain")
        errors = dict(zip(roles, _squared_errors(denoiser, [batch[role] for role in roles]), strict=True))
        terms = {"surrogate": _sums(errors["surrogate"]).mean()}
        observed = {"mse": errors["surrogate"].detach().mean()}
        if "retain" in errors:
            terms["replay"] = self.replay_weight * _sums(errors["retain"]).mean()
            observed["replay_mse"] = errors["retain"].detach().mean()
        return Losses(terms, observed)

    def add_gradients(self, parameters: Mapping[str, nn.Parameter]) -> Mapping[str, float]:
        """EWC: λ·2F(θ−θ*) in closed form."""
        if self.ewc == 0:
            return {}
        return {"ewc": self.ewc * float(self.posterior.add_gradient(parameters, scale=self.ewc))}


def _sums(error: Tensor) -> Tensor:
    """Of each sample, [batch]."""
    return error.sum(dim=tuple(range(1, error.ndim)))


def _squared_errors(denoiser: Denoiser, batches: list[NoisedBatch]) -> tuple[Tensor, ...]:
    """(ε − ε_θ)² of several batches from one call of the network, which is quicker than one each.

    Args:
        denoiser: the model.
        batches: images with noise, each [batch, channels, height, width].

    Returns:
        One float64 tensor per batch, of its shape.
    """
    whole = NoisedBatch.joined(*batches)
    error = (whole.noise - denoiser.noise(whole)).double().square()
    return error.split([len(batch.x0) for batch in batches])
