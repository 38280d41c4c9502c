"""Conflict-free steps: forget only along directions that do not increase the retain loss, with steps of bounded length.

    f = −∇E_{D_f} ‖ε − ε_θ‖²/d         k = ∇E_{S_r} ‖ε − ε_θ‖²/d          each the gradient of a term that is minimised

    f ← σ² f / mean(σ²)                               optional: favour directions of large posterior variance
    f ← f − min(0, ⟨f, k⟩)/‖k‖² · k                   on a conflict, remove the component against k
    f ← f · min(1, s ‖k‖/‖f‖)                         at most the fraction s of the keep gradient's norm
    f ← 0  if  Δθᵀ diag(1/σ²) Δθ > ρ²                 optional: trust region, Δθ from the original weights
    g = k + f

θ moves against g, so a conflict is ⟨f, k⟩ < 0: a step against f would then raise the keep loss. After the projection
⟨f, k⟩ ≥ 0, and a small enough plain gradient step along g lowers the keep loss whatever f was. Only the forget gradient is
projected; the original projects every task's gradient off the others'. σ² comes before the projection, since it would
turn f back into a conflict after it; and it acts on f alone, because Adam, which divides each weight's gradient by its own size,
undoes a factor common to all of g.

**The keep term is the denoising loss with drawn noise, not the distance from the original model's predictions.** At the original
weights that distance is at its minimum and its gradient is exactly 0. There would be nothing to project off and a cap of 0 on the
forget gradient, so that training could not start. The denoising loss of a mini-batch has a gradient there, its sampling noise,
which sets the length of the step; its mean pulls towards the retained images themselves.

A draw from the posterior has Δθᵀ diag(1/σ²) Δθ close to the number of weights, so that ρ is of the order of its root. The
distance is measured after each step; forgetting resumes once the weights are back inside.

Source: Yu, Kumar, Gupta, Levine, Hausman & Finn 2020, "Gradient Surgery for Multi-Task Learning", arXiv 2001.06782, Algorithm 1;
the length relative to the keep gradient is as in SISS (ICLR 2025), where it is fixed; here it is a cap. The combination is a proposal, not
a published result.

Not guaranteed: that Adam's step is free of conflict, since it rescales each weight and remembers former gradients; that
the gradient of a mini-batch represents the whole retained set (at an optimum it is mostly noise). The distance can pass
ρ² by one step, and further through Adam's momentum.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Self

import torch
from torch import Tensor, nn

from vdu.core.errors import InputError
from vdu.core.ranges import POSITIVE
from vdu.core.types import Batch, Denoiser, Losses, Tools
from vdu.methods.base import HIDDEN, PRIVATE, BaseMethod, mean_squared, of_what_trains
from vdu.methods.registry import register
from vdu.posterior.gaussian import GaussianPosterior
from vdu.posterior.low_rank import corrected_layers

__all__ = ["ConflictFree", "projected_sum"]


@dataclass
class _Travelled:
    """Δθᵀ diag(1/σ²) Δθ after the last step, the only state of the method that changes during a run."""

    squared_distance: float = 0.0


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class ConflictFree(BaseMethod):
    """Gradient ascent on the forget set that does not increase the retain loss to first order.

    Args:
        forget_share: s > 0, the largest norm of the forget gradient, as a fraction of the keep gradient's.
        posterior: σ² of the weights, for the two options below; its mean is not used.
        precondition: multiply the forget gradient by σ²/mean(σ²); weights that the posterior does not cover keep theirs.
        radius: ρ > 0 of the trust region, over the weights that the posterior covers; None switches it off.

    Raises:
        InputError: if a number is not positive, or a posterior is missing or unused.
    """

    forget_share: float = 0.1
    posterior: GaussianPosterior | None = field(default=None, metadata=HIDDEN)
    precondition: bool = False
    radius: float | None = None
    _names: tuple[str, ...] = field(default=(), repr=False, metadata=PRIVATE)
    _mean_variance: float = field(default=1.0, repr=False, metadata=PRIVATE)
    # made anew by every replace() and prepare(): a second run starts from the original weights
    _travelled: _Travelled = field(init=False, default_factory=_Travelled, repr=False, metadata=PRIVATE)

    name = "conflict-free"
    summary = "Ascends on the forget images only along directions that do not increase the retain loss."
    needs = frozenset({"forget", "retain"})
    per_term = True
    limits = MappingProxyType({"mse": 2.0, "retain_mse": 2.0})

    ranges = MappingProxyType({"forget_share": POSITIVE, "radius": POSITIVE})

    def __post_init__(self) -> None:
        super().__post_init__()
        wanted = self.precondition or self.radius is not None
        if wanted and self.posterior is None:
            raise InputError("posterior: none given with precondition or radius; give one, or leave both out.")
        if self.posterior is not None and not wanted:
            raise InputError("posterior: given, but neither precondition nor radius uses it; set one, or leave it out.")

    @property
    def corrections(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether there is no posterior, which is one of weights."""
        return self.posterior is None

    def prepare(self, denoiser: Denoiser, tools: Tools) -> Self:
        """Check that the posterior matches the model, and centre it on the current weights."""
        ready = super().prepare(denoiser, tools)
        if self.posterior is None:
            return ready
        parameters = dict(denoiser.network.named_parameters())
        if corrected_layers(parameters):
            raise InputError(
                f"{self.name}: its posterior is of weights, and low-rank corrections train; expected train='all' or a part of the weights."
            )
        posterior = of_what_trains(self.posterior, denoiser).with_mean(parameters)
        # summed in float64: millions of variances of all sizes
        total = sum(float(value.sum(dtype=torch.float64)) for value in posterior.variance.values())
        mean = total / sum(value.numel() for value in posterior.variance.values())
        names = tuple(name for name, value in parameters.items() if value.requires_grad)  # in the order of combine()
        return replace(ready, posterior=posterior, _names=names, _mean_variance=mean)

    def losses(self, denoiser: Denoiser, batch: Batch) -> Losses:
        """The two terms, from one network call each, so that each gradient costs its own images only."""
        forget = mean_squared(denoiser, batch["forget"]).double().mean()
        keep = mean_squared(denoiser, batch["retain"]).double().mean()
        observed = {"mse": forget.detach(), "retain_mse": keep.detach()}
        if self.radius is not None:
            observed["squared_distance"] = torch.full_like(keep.detach(), self._travelled.squared_distance)
        return Losses({"forget": -forget, "keep": keep}, observed)

    def combine(self, gradients: Mapping[str, Sequence[Tensor]]) -> Sequence[Tensor]:
        """The keep gradient plus the projected and capped forget gradient.

        Args:
            gradients: of the terms "forget" and "keep", each a list over the trained parameters.

        Returns:
            A new list over the parameters.
        """
        keep = gradients["keep"]
        if self.radius is not None and self._travelled.squared_distance > self.radius**2:
            return list(keep)
        return projected_sum(self._preconditioned(gradients["forget"]), keep, share=self.forget_share)

    def _preconditioned(self, forget: Sequence[Tensor]) -> Sequence[Tensor]:
        if not self.precondition or self.posterior is None:
            return forget
        variance = self.posterior.variance
        return [
            gradient * (variance[name] / self._mean_variance) if name in variance else gradient
            for name, gradient in zip(self._names, forget, strict=True)
        ]

    def after_step(self, parameters: Mapping[str, nn.Parameter], values: Mapping[str, float]) -> None:
        """Measure the distance from the original weights, for the next step's trust region."""
        if self.radius is not None and self.posterior is not None:
            with torch.no_grad():
                self._travelled.squared_distance = 2 * float(self.posterior.penalty(parameters))

    def state(self) -> dict[str, float]:
        """The distance after the last step."""
        return {"squared_distance": self._travelled.squared_distance}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Restore the distance."""
        self._travelled.squared_distance = float(state["squared_distance"])


def projected_sum(forget: Sequence[Tensor], keep: Sequence[Tensor], *, share: float) -> list[Tensor]:
    """The sum of k and f, with f projected off its conflict with k (Yu et al. 2020, Algorithm 1, line 6) and capped at s ‖k‖.

    With b = min(0, ⟨f, k⟩)/‖k‖², the projection of f is f − b k, of length² ‖f‖² − b min(0, ⟨f, k⟩): three inner products give
    both factors, and the gradients are traversed once.

    Args:
        forget: f, a list over the parameters.
        keep: k, likewise.
        share: s, the largest length relative to k.

    Returns:
        k + c (f − b k), c = min(1, s ‖k‖/‖f − b k‖); a new list. k itself where k = 0.

    Examples:
        >>> k = [torch.tensor([3.0, 0.0])]
        >>> [value.tolist() for value in projected_sum([torch.tensor([-1.0, 2.0])], k, share=1.0)]
        [[3.0, 2.0]]
        >>> [value.tolist() for value in projected_sum([torch.tensor([-1.0, 2.0])], k, share=0.5)]
        [[3.0, 1.5]]
    """
    inner, squared_keep, squared_forget = torch.stack([
        _inner(forget, keep),
        _inner(keep, keep),
        _inner(forget, forget),
    ]).tolist()
    against = min(0.0, inner)
    b = against / squared_keep if squared_keep > 0 else 0.0
    left = math.sqrt(max(0.0, squared_forget - b * against))
    c = min(1.0, share * math.sqrt(squared_keep) / left) if left > 0 else 1.0
    return [torch.add(c * f, k, alpha=1 - c * b) for f, k in zip(forget, keep, strict=True)]


def _inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """⟨a, b⟩ over all parameters; the tensors' own products are added up in float64."""
    return torch.stack([torch.dot(x.reshape(-1), y.reshape(-1)) for x, y in zip(a, b, strict=True)]).sum(
        dtype=torch.float64
    )
