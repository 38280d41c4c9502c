"""Completion: the original begins a sample of the class, the unlearned model finishes it. Does the class come back?

From noises from which the original makes the class (by the judge), the first k of the sampler's S steps are the
original's and the other S − k are the unlearned model's:

    x_T → original → … → x_{τ_k} → unlearned → … → x_0        handed share = k / S

With share 0 this is the unlearned model's sample, with share 1 the original's, bit for bit. A class that comes back after
a small share was only unlearned at high noise levels; after a large share the image is already in x_{τ_k}, and any good
denoiser finishes it: this is why the control counts. The control is a model that never knew the class, finishing the same
chains: the retrained model where there is one. Without it the original finishes them, which gives its own samples back
and checks the machinery alone.

The noises are chosen because the original's sample was called forget, so the judge's false calls on the original are
chosen with them. They are of the whole chain: later steps draw the same noise whichever network is asked.

Not guaranteed: that a share counts as much at every sampler (it is a share of steps, not of signal); a multistep sampler
(dpm++) carries the original's last output one step past the handover.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from vdu.core.errors import InputError
from vdu.core.types import Condition, Denoiser, column
from vdu.data.images import ImageSet
from vdu.models.denoiser import DenoiserAround
from vdu.probes.context import ProbeContext, not_run
from vdu.probes.draws import draw, evaluating, image_seeds, judged, measured, sampler_words, share

__all__ = ["Handover", "complete", "probe"]


@dataclass(frozen=True)
class Handover(DenoiserAround):
    """Two models as one denoiser: the first is asked at noisy timesteps, the second at the others.

    Both must predict the same quantity on the same noise schedule, for the sampler's sake. Put both networks in evaluation
    mode (:func:`vdu.probes.draws.evaluating`) around sampling: it knows one mode for the two.

    Attributes:
        first: asked at timesteps of at least ``until``.
        second: asked at timesteps below.
        until: the last timestep of the first; ∞ leaves all to the second, −∞ all to the first.

    Raises:
        InputError: if the two cannot share a chain.
    """

    first: Denoiser
    second: Denoiser
    until: float

    def __post_init__(self) -> None:
        mismatch = _mismatch(self.first, self.second)
        if mismatch:
            raise InputError(
                f"handover: got {mismatch.replace('_', ' ')}; expected two models that differ in their weights alone, since one "
                "sampler reads both outputs. Use models of the same pipeline."
            )

    @property
    def model(self) -> Denoiser:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The first: what is not said of both is its."""
        return self.first

    @property
    def network(self) -> nn.Module:
        """Both networks, for the sampler."""
        return nn.ModuleList([self.first.network, self.second.network])

    def raw(self, x_t: Tensor, timestep: Tensor, condition: Condition | None = None) -> Tensor:
        """What the network in charge at each image's timestep gives."""
        early = timestep >= self.until
        if bool(early.all()):
            return self.first.raw(x_t, timestep, condition)
        if not bool(early.any()):
            return self.second.raw(x_t, timestep, condition)
        given = [model.raw(x_t, timestep, condition) for model in (self.first, self.second)]
        return torch.where(column(early, x_t), *given)

    def with_network(self, network: nn.Module) -> Self:
        """The same handover between two other networks, given as one ``nn.ModuleList``."""
        assert isinstance(network, nn.ModuleList)
        first, second = network
        return type(self)(self.first.with_network(first), self.second.with_network(second), self.until)


def complete(
    case: ProbeContext,
    first: Denoiser,
    second: Denoiser,
    handed_share: float,
    seeds: Sequence[int],
    title: str,
) -> ImageSet:
    """Samples that one model begins and another finishes.

    Args:
        case: gives the sampler.
        first: does the first steps.
        second: does the others.
        handed_share: share of the sampler's steps that the first does, in [0, 1], rounded to whole steps.
        seeds: one per image.
        title: of the bar.

    Returns:
        The images.

    Raises:
        InputError: if the share is not in [0, 1], or the models cannot share a chain.
    """
    if not 0 <= handed_share <= 1:
        raise InputError(f"handed_share: got {handed_share}, expected a share of the sampler's steps from 0 to 1.")
    timesteps = [int(t) for t in case.sampler.make(first).timesteps]  # falling
    n_first = round(handed_share * len(timesteps))
    until = timesteps[n_first - 1] if n_first else float("inf")
    with evaluating(first.network, second.network):
        return draw(case, cast("Denoiser", Handover(first, second, until)), seeds, title)


def probe(
    case: ProbeContext, *, n_images: int = 100, n_draws: int = 2000, handed_shares: Sequence[float] = (0.25, 0.5, 0.75)
) -> dict[str, Any]:
    """How often the class comes back when the original has begun the sample.

    Args:
        case: models, judge, sampler and seed.
        n_images: chains to finish, at most.
        n_draws: samples of the original among which they are looked for, at most.
        handed_shares: shares of the sampler's steps that the original does.

    Returns:
        ``rows``: one per share. Not run if the original makes none of the class in ``n_draws``, or its chains cannot be
        finished by the unlearned model.
    """
    started = time.monotonic()
    mismatch = _mismatch(case.original, case.unlearned)
    if mismatch:
        return not_run(mismatch)
    seeds, n_drawn = _seeds_of_the_class(case, n_images, n_draws)
    if not seeds:
        return not_run("no_forget_samples", n_drawn=n_drawn)
    finisher, control, why = _control(case)
    rows, own = [], None
    for handed in handed_shares:
        title = f"completion: {handed:.0%} by the original"
        calls = judged(case, complete(case, case.original, case.unlearned, handed, seeds, title))
        if own is None or finisher is not case.original:  # the original's own ending is the same after every share
            own = judged(case, complete(case, case.original, finisher, handed, seeds, f"{title}, control"))
        rows.append({"handed_share": float(handed), "control_count": int(own.sum()), **share(calls)})
    protocol = {
        "sampler": sampler_words(case.sampler),
        "control": control,
        "control_reason": why,
        "n_drawn": n_drawn,
    }
    return measured(started, protocol, rows=rows)


def _seeds_of_the_class(case: ProbeContext, n_images: int, n_draws: int) -> tuple[list[int], int]:
    """Seeds whose sample of the original is judged forget, and how many were looked at."""
    found: list[int] = []
    batch = case.sampler.microbatch_size
    looked_at = 0
    while looked_at < n_draws and len(found) < n_images:
        seeds = image_seeds(case.seed, "completion", min(batch, n_draws - looked_at), looked_at)
        calls = judged(case, draw(case, case.original, seeds, "completion: noises of the class"))
        found += [seed for seed, call in zip(seeds, calls.tolist(), strict=True) if call]
        looked_at += len(seeds)
    return found[:n_images], looked_at


def _control(case: ProbeContext) -> tuple[Denoiser, str, str]:
    if case.retrained is None:
        return case.original, "original", "no_retrained_model"
    mismatch = _mismatch(case.original, case.retrained)
    if mismatch:
        return case.original, "original", mismatch
    return case.retrained, "retrained", "never_knew_the_class"


def _mismatch(first: Denoiser, second: Denoiser) -> str | None:
    """Why two models cannot share a chain, as a code, or None."""
    if first.image_shape != second.image_shape:
        return "different_image_shapes"
    if (first.prediction_type, first.learned_variance) != (second.prediction_type, second.learned_variance):
        return "different_predictions"
    ours, theirs = first.schedule.alpha_bars, second.schedule.alpha_bars
    if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=1e-6):
        return "different_noise_schedules"
    return None
