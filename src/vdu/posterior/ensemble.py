"""Mean and variance of K networks (the paper's μ*, σ*), shrunk so that few members do not invent stiff weights.

    μ = mean of the members,   s² = their variance with divisor K − 1
    σ² = ((K − 1) s² + ν s̄²) / (K − 1 + ν)          s̄² the mean of s² over the parameter tensor ("layer"), ν = 4
    σ² ← max(σ², f · max(s̄², f · S̄²))               S̄² the mean over the whole network, f the relative floor

The raw s² is no use as 1/s²: with K members E[1/s²] = (K − 1)/(K − 3) · 1/σ², twofold at K = 5 and infinite at K ≤ 3.
ν = 0 and f → 0 give the raw estimate. With ν > 0 the first floor never acts unless ν/(K−1+ν) < f; it is the second
one that bounds tensors on which all members agree.

Source: five networks, "Variational Diffusion Unlearning", §5; shrinkage as in a scaled inverse χ² prior with ν degrees
of freedom.

Not guaranteed: that the mean of independently trained networks is a working network; it usually is not. Test it with
:func:`vdu.posterior.calibrate.mean_is_usable` and re-centre with ``posterior.with_mean``.
"""

import logging
from collections.abc import Iterable

from torch import Tensor

from vdu.core.checks import hash_parameters
from vdu.core.errors import InputError
from vdu.core.types import NamedTensors
from vdu.posterior.gaussian import GaussianPosterior
from vdu.posterior.moments import StreamingMoments
from vdu.posterior.names import select_names

__all__ = ["fit_ensemble", "shrink"]

logger = logging.getLogger(__name__)


def fit_ensemble(
    members: Iterable[NamedTensors], *, shrinkage: float = 4.0, floor: float = 1e-3, name_filter: str | None = None
) -> GaussianPosterior:
    """The posterior of K networks, read one after another.

    Args:
        members: the networks' named parameters; a generator keeps one in memory at a time.
        shrinkage: ν ≥ 0, the weight of the layer mean in members.
        floor: f in (0, 1), the least variance relative to the layer's mean (see above).
        name_filter: regular expression of the parameters to cover; None for all.

    Returns:
        The posterior, float32; ``extras`` holds ``n_on_floor``, ``n_parameters`` and ``precision_inflation`` (of the
        unshrunk estimate) or, at K ≤ 3, ``few_members`` = 1.

    Raises:
        InputError: with fewer than 2 members, with equal members, or with members of different names or shapes.
    """
    if not (shrinkage >= 0 and 0 < floor < 1):
        raise InputError(f"ensemble: got shrinkage {shrinkage} and floor {floor}; expected ≥ 0 and within (0, 1).")
    moments, sources = StreamingMoments(), {}
    for member in members:
        digest = hash_parameters(member)
        if digest in sources.values():
            raise InputError(f"ensemble: member {len(sources)} has the weights of an earlier one. Give each one once.")
        sources[f"member-{len(sources)}"] = digest
        moments.update(select_names(member, name_filter))
    if moments.count < 2:
        raise InputError(f"ensemble: got {moments.count} member(s), expected at least 2 (5 in the paper). "
                         "Give more checkpoints, or use the fisher estimator, which needs one.")  # fmt: skip
    variance, n_on_floor = shrink(moments.variance(), moments.count, shrinkage=shrinkage, floor=floor)
    return GaussianPosterior(
        mean={name: mean.float() for name, mean in moments.mean.items()},
        variance={name: tensor.float() for name, tensor in variance.items()},
        estimator="ensemble",
        n_members=moments.count,
        name_filter=name_filter,
        sources=sources,
        extras={
            "shrinkage": shrinkage,
            "floor": floor,
            "n_on_floor": n_on_floor,
            "n_parameters": sum(tensor.numel() for tensor in variance.values()),
            **_few_members(moments.count),
        },
    )


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
    """What few members do to the unshrunk 1/s²; a warning where its expectation is infinite.

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
