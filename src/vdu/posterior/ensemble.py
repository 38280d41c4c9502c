"""Mean and variance of K networks (the paper's μ*, σ*), with shrinkage against spuriously small variances.

    μ = mean of the members,   s² = their variance with divisor K − 1
    σ² = ((K − 1) s² + ν s̄²) / (K − 1 + ν)          s̄² the mean of s² over the parameter tensor ("layer"), ν = 4
    σ² ← max(σ², f · max(s̄², f · S̄²))               S̄² the mean over the whole network, f the relative floor

The raw s² is unsuitable for 1/s²: with K members E[1/s²] = (K − 1)/(K − 3) · 1/σ², twofold at K = 5 and infinite at K ≤ 3.
ν = 0 and f → 0 give the raw estimate. With ν > 0 the first floor never acts unless ν/(K−1+ν) < f; it is the second
one that bounds tensors on which all members agree.

Source: five networks, "Variational Diffusion Unlearning", §5; shrinkage as in a scaled inverse χ² prior with ν degrees
of freedom.

Not guaranteed: that the mean of independently trained networks is a working network; it usually is not. Test it with
:func:`vdu.posterior.calibrate.mean_is_usable` and re-centre with ``posterior.with_mean``.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from vdu.core.checks import hash_parameters
from vdu.core.errors import InputError
from vdu.core.ranges import require_fields
from vdu.core.types import Denoiser, NamedTensors
from vdu.posterior.gaussian import GaussianPosterior
from vdu.posterior.moments import StreamingMoments
from vdu.posterior.names import covered, require_same, select_names
from vdu.posterior.protocol import State, Takes

__all__ = ["Ensemble", "FinetunedEnsemble", "fit_ensemble", "shrink"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """The estimator of K networks, read one after another.

    Memory: two float64 tensors per covered parameter, and one member.

    Args:
        shrinkage: ν ≥ 0, the weight of the layer mean in members.
        floor: f in (0, 1), the least variance relative to the layer's mean (see above).
        name_filter: regular expression of the parameters to cover; None for all.

    Raises:
        InputError: if an argument is out of its range.
    """

    name: ClassVar[str] = "ensemble"
    takes: ClassVar[Takes] = "members"
    save_every: ClassVar[int] = 1

    shrinkage: float = 4.0
    floor: float = 1e-3
    name_filter: str | None = None

    def __post_init__(self) -> None:
        require_fields(self)

    def init(
        self,
        denoiser: Denoiser | None = None,
        *,
        n_items: int | None = None,
        generator: torch.Generator | None = None,
    ) -> State:
        """No member yet; no argument is used."""
        return State(tensors={"mean": {}, "squares": {}}, values={"sources": {}})

    def update(self, state: State, item: NamedTensors, denoiser: Denoiser | None = None) -> State:
        """Add one member.

        Args:
            state: the state so far; its tensors are reused.
            item: the member's named parameters.
            denoiser: the model whose parameters are covered, of the members' architecture; None covers all of theirs.

        Returns:
            The state after this member: the mean and the summed squared deviations, float64, and the members' hashes.

        Raises:
            InputError: if the member equals an earlier one, or its names or shapes differ.
        """
        digest, sources = hash_parameters(item), state.values["sources"]
        if digest in sources.values():
            raise InputError(
                f"ensemble: member {state.count} has the weights of an earlier one. Give each member once."
            )
        moments = StreamingMoments(state.count, state.tensors["mean"], state.tensors["squares"])
        moments.update(self._part(item, denoiser, state.count))
        return State(
            count=moments.count,
            tensors={"mean": moments.means, "squares": moments.squares},
            values={"sources": {**sources, f"member-{state.count}": digest}},
        )

    def _part(self, member: NamedTensors, denoiser: Denoiser | None, k: int) -> dict[str, Tensor]:
        """What is covered of a member; weights that do not train may be missing in it."""
        chosen = select_names(member, self.name_filter)
        if denoiser is None:
            return chosen
        own, known = covered(denoiser, self.name_filter), dict(denoiser.network.named_parameters())
        chosen = {name: value for name, value in chosen.items() if name in own or name not in known}
        require_same(f"member {k}", chosen, own)
        return chosen

    def posterior(self, state: State) -> GaussianPosterior:
        """The members' mean, and their shrunk variance.

        Args:
            state: after at least two members.

        Returns:
            The posterior, float32; ``extras`` holds ``n_on_floor``, ``n_parameters`` and ``precision_inflation`` (of the
            unshrunk estimate) or, at K ≤ 3, ``few_members`` = 1.

        Raises:
            InputError: with fewer than 2 members.
        """
        if state.count < 2:
            raise InputError(
                f"ensemble: got {state.count} member(s), expected at least 2 (5 in the paper). "
                "Give more checkpoints, or use the fisher estimator, which needs one."
            )
        moments = StreamingMoments(state.count, state.tensors["mean"], state.tensors["squares"])
        variance, n_on_floor = shrink(moments.variance(), state.count, shrinkage=self.shrinkage, floor=self.floor)
        return GaussianPosterior(
            mean={name: mean.float() for name, mean in moments.mean.items()},
            variance={name: tensor.float() for name, tensor in variance.items()},
            estimator=self.name,
            n_members=state.count,
            name_filter=self.name_filter,
            sources=state.values["sources"],
            extras={
                "shrinkage": self.shrinkage,
                "floor": self.floor,
                "n_on_floor": n_on_floor,
                "n_parameters": sum(tensor.numel() for tensor in variance.values()),
                **_few_members(state.count),
            },
        )


@dataclass(frozen=True, kw_only=True)
class FinetunedEnsemble(Ensemble):
    """The estimator for networks fine-tuned from one checkpoint with different seeds, which share one basin.

    Args:
        n_members: K, the number of fine-tunings.
        finetune_steps: optimiser steps of each.
        finetune_learning_rate: Adam's step size.
        finetune_batch_size: images per step.
    """

    name: ClassVar[str] = "finetuned-ensemble"
    takes: ClassVar[Takes] = "fine-tuned members"

    n_members: int = 5
    finetune_steps: int = 200
    finetune_learning_rate: float = 1e-4
    finetune_batch_size: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_members < 2:  # before one is fine-tuned
            raise InputError(f"n_members: got {self.n_members}; expected at least 2, and better 5 or more.")


def fit_ensemble(members: Iterable[NamedTensors], **options: Any) -> GaussianPosterior:
    """The posterior of :class:`Ensemble`.

    Args:
        members: the networks' named parameters; an iterator keeps one in memory at a time.
        **options: the arguments of :class:`Ensemble`.

    Returns:
        The posterior.
    """
    estimator = Ensemble(**options)
    state = estimator.init()
    for member in members:
        state = estimator.update(state, member)
    return estimator.posterior(state)


def shrink(variance: NamedTensors, n_members: int, *, shrinkage: float, floor: float) -> tuple[dict[str, Tensor], int]:
    """Shrink each tensor's variances towards their mean, then floor them (formula above).

    Args:
        variance: s², name → float64 tensor.
        n_members: K.
        shrinkage: ν ≥ 0.
        floor: f in (0, 1).

    Returns:
        σ² and the number of entries that were raised to the floor.

    Raises:
        InputError: if every variance is zero.
    """
    overall = sum(float(s2.sum()) for s2 in variance.values()) / sum(s2.numel() for s2 in variance.values())
    if not overall > 0:
        raise InputError("ensemble: the members agree in every covered parameter. Give independently trained members.")
    shrunk, n_on_floor, degrees = {}, 0, n_members - 1
    for name, s2 in variance.items():
        layer_mean = float(s2.mean())
        least = floor * max(layer_mean, floor * overall)
        sigma2 = (degrees * s2 + shrinkage * layer_mean) / (degrees + shrinkage)
        n_on_floor += int((sigma2 < least).sum())
        shrunk[name] = sigma2.clamp_min(least)
    return shrunk, n_on_floor


def _few_members(n_members: int) -> dict[str, float]:
    """The inflation of the unshrunk 1/s² with few members; logs a warning if its expectation is infinite.

    Args:
        n_members: K.

    Returns:
        Entries for the record.
    """
    if n_members > 3:
        return {"precision_inflation": (n_members - 1) / (n_members - 3)}
    logger.warning("ensemble of %d members: E[1/s²] is infinite, so the variances rest on the shrinkage; 5 or more "
                   "members give a usable estimate.", n_members)  # fmt: skip
    return {"few_members": 1.0}
