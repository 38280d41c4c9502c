"""Completion (trajectory handover): the original begins a sample of the class, the unlearned model finishes it.

For noises from which the original generates the class (by the judge), the original takes the first k of the sampler's S
steps and the unlearned model the other S − k:

    x_T → original → … → x_{τ_k} → unlearned → … → x_0        handed fraction = k / S

At fraction 0 this is the unlearned model's sample, at fraction 1 the original's, bit for bit. A class that returns after a small
fraction was unlearned at high noise levels only. After a large fraction the image is already determined by x_{τ_k} and any good
denoiser completes it; the result must therefore be compared with the control. The control is a model that was not trained on the
class and finishes the same trajectories: the retrained model if there is one. Without it the original finishes them, which
reproduces its own samples and checks the procedure alone.

The noises are selected by the judge's predictions on the original, so that its false positives are selected as well. The noise of
later steps is the same for every network.

Not guaranteed: that a fraction has the same meaning for every sampler (it is a fraction of steps, not of signal). A multistep sampler
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

GUIDANCE = "guidance"  # an argument of distilled networks, which the sampler sets


@dataclass(frozen=True)
class Handover(DenoiserAround):
    """Two models as one denoiser: the first is used at noisy timesteps, the second at the others.

    Both must predict the same quantity on the same noise schedule, as the sampler requires. Put both networks in evaluation
    mode (:func:`vdu.probes.draws.evaluating`) around sampling, since the two share one mode.

    Attributes:
        first: used at timesteps of at least ``until``.
        second: used at timesteps below.
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
        """The first model, which provides all attributes that are not defined for both."""
        return self.first

    @property
    def network(self) -> nn.Module:
        """Both networks, for the sampler."""
        return nn.ModuleList([self.first.network, self.second.network])

    def condition(self, labels: Sequence[int | str | None]) -> Condition | None:
        """The conditions of both, which may read prompts with text encoders of their own; the numbers are the first's prompts."""
        names = self.first.class_names if self.first.takes_prompts else ()
        asked = [names[each] if names and isinstance(each, int) else each for each in labels]
        found = {
            name if name == GUIDANCE else f"{who}.{name}": value
            for who, model in enumerate((self.first, self.second))
            for name, value in (model.condition(asked) or {}).items()
        }
        return found or None

    def raw(self, x_t: Tensor, timestep: Tensor, condition: Condition | None = None) -> Tensor:
        """The raw output of the model in charge at each image's timestep."""
        early = timestep >= self.until
        given = [
            None
            if condition is None
            else {name[2:]: value for name, value in condition.items() if name[0] == str(who)}
            | {name: value for name, value in condition.items() if name == GUIDANCE}
            for who in range(2)
        ]
        if bool(early.all()):
            return self.first.raw(x_t, timestep, given[0])
        if not bool(early.any()):
            return self.second.raw(x_t, timestep, given[1])
        both = [model.raw(x_t, timestep, of) for model, of in zip((self.first, self.second), given, strict=True)]
        return torch.where(column(early, x_t), *both)

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
    """Draw samples that one model begins and another finishes.

    Args:
        case: provides the sampler.
        first: takes the first steps.
        second: takes the other steps.
        handed_share: fraction of the sampler's steps that the first takes, in [0, 1], rounded to whole steps.
        seeds: one per image.
        title: title of the progress bar.

    Returns:
        The images.

    Raises:
        InputError: if the fraction is not in [0, 1], or the models cannot share a trajectory.
    """
    if not 0 <= handed_share <= 1:
        raise InputError(f"handed_share: got {handed_share}, expected a share of the sampler's steps from 0 to 1.")
    timesteps = [t.item() for t in case.sampler.make(first).timesteps]  # falling
    n_first = round(handed_share * len(timesteps))
    until = timesteps[n_first - 1] if n_first else float("inf")
    with evaluating(first.network, second.network):
        return draw(case, cast("Denoiser", Handover(first, second, until)), seeds, title)


def probe(
    case: ProbeContext, *, n_images: int = 100, n_draws: int = 2000, handed_shares: Sequence[float] = (0.25, 0.5, 0.75)
) -> dict[str, Any]:
    """Measure how often the class returns when the original begins the sample.

    Args:
        case: models, judge, sampler and seed.
        n_images: maximum number of trajectories to finish.
        n_draws: maximum number of the original's samples to search.
        handed_shares: fractions of the sampler's steps that the original takes.

    Returns:
        ``rows``: one per fraction; without a retrained model also ``start_count``, the unlearned model's own number. Not run if the
        original generates none of the class in ``n_draws``, or the unlearned model cannot finish its trajectories.
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
        if own is None or finisher is not case.original:  # the original's completion is the same after every fraction
            own = judged(case, complete(case, case.original, finisher, handed, seeds, f"{title}, control"))
        rows.append({"handed_share": float(handed), "control_count": int(own.sum()), **share(calls)})
    protocol = {
        "sampler": sampler_words(case.sampler),
        "control": control,
        "control_reason": why,
        "n_drawn": n_drawn,
    }
    if (
        control != "retrained"
    ):  # what the unlearned model makes of these noises by itself: its ordinary rate is over all noises
        alone = judged(
            case, complete(case, case.original, case.unlearned, 0.0, seeds, "completion: nothing by the original")
        )
        return measured(started, protocol, rows=rows, start_count=int(alone.sum()))
    return measured(started, protocol, rows=rows)


def _seeds_of_the_class(case: ProbeContext, n_images: int, n_draws: int) -> tuple[list[int], int]:
    """Seeds whose sample of the original is predicted as forget, and the number of samples searched."""
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
    """The reason, as a code, why two models cannot share a trajectory, or None."""
    if first.image_shape != second.image_shape:
        return "different_image_shapes"
    if (first.prediction_type, first.learned_variance) != (second.prediction_type, second.learned_variance):
        return "different_predictions"
    ours, theirs = first.schedule.alpha_bars, second.schedule.alpha_bars
    if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=1e-6):
        return "different_noise_schedules"
    return None
