"""Membership inference: can training images be distinguished from other images of the same class?

Members are images of the forget set, non-members held-out images of the same class, in equal numbers. Each attack assigns a score to
each image; a higher score indicates a member.

    loss   −mean over t of ‖ε − ε_θ(α_t x0 + σ_t ε, t)‖²/D, on a fixed grid of t, with one ε per t that is the same for
           every image and every model (Yeom et al. 2018, arXiv 1709.01604, for the loss of a diffusion model: Matsumoto et
           al. 2023, arXiv 2302.03262)
    pia    −‖ε_0 − ε_θ(α_t x0 + σ_t ε_0, t)‖₄,  ε_0 = ε_θ(x0, t_first): no noise is drawn; the model's own prediction
           on the clean image at its first timestep takes its place (Kong et al. 2023, arXiv 2305.18355: R_{t,p}; p = 4
           and ε_0 unnormalised as in the authors' code, github.com/kong13661/PIA)

PIA's t is the timestep index of the model's schedule whose signal-to-noise ratio is nearest to that at index 200 of the linear
schedule with T = 1000. The authors report the best of many t, selected with the labels; here t is fixed beforehand.

    AUC            P(member's score > non-member's) + ½ P(equal)
    TPR at 1 % FPR the largest fraction of members above a threshold that at most 1 % of the non-members reach

AUC ½ is chance level. An unlearned model may also reveal its members by a loss that is too high (AUC below ½). The reference is the
retrained model, for which both sets are unseen: its deviation from ½ shows how the two sets differ beyond membership (other
writers, another camera).

With n held-out images the false-positive rate has steps of 1/n: below 100 images the second number is the fraction of members above
*every* non-member (FPR 0), and a single member changes it by 1/n. Its bootstrap interval is then too short upwards, since no
resample has a more extreme non-member than the sample. Chance level is (⌊n/100⌋ + 1)/(n + 1): 3.2 % of 30, 2 % of 100, 1.3 % of 300.
The report therefore tests the count itself (:func:`vdu.reporting.rates.exceedance`), not whether the interval lies above chance.

Not guaranteed: that stronger attacks (shadow models) find no more; an AUC near ½ does not prove forgetting. The bootstrap
interval has zero width if all members score above all non-members.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vdu.core.checks import require_finite
from vdu.core.errors import InputError
from vdu.core.progress import track
from vdu.core.rng import generator
from vdu.core.statistics import TAIL
from vdu.core.types import Condition, Denoiser, column, noise_images
from vdu.data.images import ImageSet
from vdu.diffusion.prediction import noise_of
from vdu.diffusion.schedule import NoiseSchedule
from vdu.metrics.intervals import require_resampling
from vdu.probes.context import ProbeContext, not_run
from vdu.probes.draws import choose, evaluating
from vdu.training.batches import condition_of, encoded

__all__ = ["Separation", "auc", "loss_scores", "pia_row", "pia_scores", "probe", "separation", "tpr_at_fpr"]

FPR = 0.01
N_RESAMPLES = 1000
PIA_INDEX = 200  # timestep index of the linear schedule with T = 1000
PIA_NORM = 4


@dataclass(frozen=True)
class Separation:
    """How well an attack's scores separate members from non-members; intervals are 95 %.

    Attributes:
        auc: area under the ROC curve, a fraction.
        auc_interval: its bootstrap percentile interval.
        tpr: true positives at a false-positive rate of at most 1 %, a fraction.
        tpr_interval: its bootstrap percentile interval.
        n_members: members scored.
        n_held_out: non-members scored.
    """

    auc: float
    auc_interval: tuple[float, float] = field(repr=False)
    tpr: float
    tpr_interval: tuple[float, float] = field(repr=False)
    n_members: int
    n_held_out: int


def auc(members: Tensor, others: Tensor) -> Tensor:
    """The probability that a member scores above a non-member; ties count half (Mann–Whitney).

    Args:
        members: scores of members, [..., m].
        others: scores of non-members, [..., n], with the same leading dimensions.

    Returns:
        Fractions, [...], float64.

    Examples:
        >>> float(auc(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 0.0])))
        0.875
    """
    ordered, wanted = others.double().sort(-1).values, members.double().contiguous()
    below = torch.searchsorted(ordered, wanted)
    not_above = torch.searchsorted(ordered, wanted, right=True)
    return (below + not_above).double().mean(-1) / (2 * others.shape[-1])


def tpr_at_fpr(members: Tensor, others: Tensor, fpr: float = FPR) -> Tensor:
    """The largest fraction of members above a threshold that at most a fraction ``fpr`` of non-members exceeds.

    Args:
        members: scores of members, [..., m].
        others: scores of non-members, [..., n], with the same leading dimensions.
        fpr: the false-positive rate allowed, within [0, 1).

    Returns:
        Fractions, [...], float64. With ⌊fpr·n⌋ = 0 it is the fraction above every non-member.

    Raises:
        InputError: if ``fpr`` is outside [0, 1).

    Examples:
        >>> float(tpr_at_fpr(torch.tensor([3.0, 2.0, 0.5]), torch.tensor([2.0, 1.0])))
        0.3333333333333333
    """
    if not 0 <= fpr < 1:
        raise InputError(f"fpr: got {fpr}, expected a fraction within [0, 1). Give 0.01 for 1 %.")
    n = others.shape[-1]
    allowed = int(fpr * n + 1e-9)  # 0.01 · 100 must be 1 in floating point too
    threshold = others.sort(-1, descending=True).values[..., allowed : allowed + 1]
    return (members > threshold).double().mean(-1)


def separation(
    members: Tensor, others: Tensor, *, generator: torch.Generator, n_resamples: int = N_RESAMPLES
) -> Separation:
    """AUC and TPR at 1 % FPR with bootstrap intervals; members and non-members are resampled separately.

    Args:
        members: scores of members, [m].
        others: scores of non-members, [n].
        generator: source of the resamples, on the CPU.
        n_resamples: number of resamples.

    Returns:
        Both values with their intervals.

    Raises:
        InputError: if there are fewer than two scores of a kind.
    """
    require_resampling(n_resamples, generator)
    if min(len(members), len(others)) < 2:
        raise InputError(
            f"scores: got {len(members)} of members and {len(others)} of others, expected at least 2 of each. Give more images."
        )
    require_finite("scores", torch.cat([members, others]))
    picked = [
        scores[torch.randint(len(scores), (n_resamples, len(scores)), generator=generator)]
        for scores in (members, others)
    ]
    return Separation(
        auc=float(auc(members, others)),
        auc_interval=_percentiles(auc(picked[0], picked[1])),
        tpr=float(tpr_at_fpr(members, others)),
        tpr_interval=_percentiles(tpr_at_fpr(picked[0], picked[1])),
        n_members=len(members),
        n_held_out=len(others),
    )


def loss_scores(
    denoiser: Denoiser,
    images: ImageSet,
    n_levels: int = 10,
    *,
    generator: torch.Generator,
    batch_size: int = 64,
) -> Tensor:
    """The loss attack: the negative mean denoising loss over a grid of timesteps.

    Args:
        denoiser: the model.
        images: images to score.
        n_levels: timesteps, in the middles of as many equal parts of the schedule.
        generator: gives one ε per timestep, the same for every image; equal seeds give equal noise for every model.
        batch_size: images per network call.

    Returns:
        Scores, [N], float64; higher for members.

    Raises:
        InputError: if there are fewer timesteps in the schedule than levels, or no level.
    """
    steps = len(denoiser.schedule)
    if not 1 <= n_levels <= steps:
        raise InputError(f"n_levels: got {n_levels}, expected 1 … {steps}, the steps of the model's schedule. Give 8.")
    rows = ((torch.arange(n_levels, dtype=torch.float64) + 0.5) * steps / n_levels).long()
    noises = torch.randn(n_levels, *denoiser.latent_shape, generator=generator, device=generator.device).cpu()

    def score(x0: Tensor, condition: Condition | None) -> Tensor:
        errors = [
            _predicted(denoiser, x0, row, noise, condition) - noise
            for row, noise in zip(rows.tolist(), noises, strict=True)
        ]
        return -torch.stack([error.double().square().flatten(1).mean(1) for error in errors]).mean(0)

    return _scores(denoiser, images, score, batch_size)


def pia_row(schedule: NoiseSchedule) -> int:
    """PIA's timestep index (t − 1) in a schedule: its signal-to-noise ratio is nearest to the reference's.

    Args:
        schedule: the model's schedule.

    Returns:
        An index, 0 … T − 1.

    Examples:
        >>> pia_row(NoiseSchedule.linear())
        200
    """
    wanted = NoiseSchedule.linear().log_snr[PIA_INDEX]
    return int((schedule.log_snr - wanted).abs().argmin())


def pia_scores(denoiser: Denoiser, images: ImageSet, *, batch_size: int = 64) -> Tensor:
    """The proximal initialisation attack: −‖ε_0 − ε_θ(√ᾱ_t x0 + √(1−ᾱ_t) ε_0, t)‖₄ (Kong et al. 2023, arXiv 2305.18355).

    Args:
        denoiser: the model.
        images: images to score.
        batch_size: images per network call.

    Returns:
        Scores, [N], float64; higher for members. Takes two network evaluations per image and is deterministic.
    """
    row = pia_row(denoiser.schedule)

    def score(x0: Tensor, condition: Condition | None) -> Tensor:
        first = _at(denoiser, x0, 0, condition)
        difference = first - _predicted(denoiser, x0, row, first, condition)
        return -torch.linalg.vector_norm(difference.double().flatten(1), ord=PIA_NORM, dim=1)

    return _scores(denoiser, images, score, batch_size)


def probe(case: ProbeContext, *, n_images: int = 300, n_levels: int = 8) -> dict[str, Any]:
    """Both attacks on every model of a case.

    The images, and the noise of the loss attack, are the same for all models.

    Args:
        case: models and images.
        n_images: members, and as many non-members; fewer if a set has fewer.
        n_levels: timesteps of the loss attack.

    Returns:
        Plain values: ``rows`` and the protocol; "not run" without at least two held-out images of the forget class and two members.

    Raises:
        InputError: if ``n_images`` is below 2, or ``n_levels`` cannot be used.
    """
    started = time.perf_counter()
    if n_images < 2:
        raise InputError(f"n_images: got {n_images}, expected at least 2 members and as many others. Give 300.")
    if case.forget_held_out is None:
        return not_run("no_held_out_images")
    n = min(n_images, len(case.forget), len(case.forget_held_out))
    if n < 2:
        return not_run("too_few_members", n_members=len(case.forget), n_held_out=len(case.forget_held_out))
    sorts = {"members": case.forget, "held out": case.forget_held_out}
    chosen = [choose(images, n, case.seed, "membership", sort, "choice") for sort, images in sorts.items()]
    attacks: dict[str, Callable[[Denoiser, ImageSet], Tensor]] = {
        # the same generator for members, others and every model: the same noise
        "loss": lambda model, images: loss_scores(
            model, images, n_levels, generator=generator(case.seed, "membership", "noise")
        ),
        "pia": pia_scores,
    }
    jobs = [(model, attack) for model in case.models for attack in attacks]
    rows = []
    for model, attack in track(jobs, "membership", "attack", shown=case.progress):
        scores = [attacks[attack](case.models[model], images) for images in chosen]
        found = separation(*scores, generator=generator(case.seed, "membership", "bootstrap"))
        rows.append({"model": model, "attack": attack} | _plain(found))
    return {
        "status": "measured",
        "protocol": {
            "n_images": n_images,
            "n_levels": n_levels,
            "pia_row": {name: pia_row(model.schedule) for name, model in case.models.items()},
            "pia_norm": PIA_NORM,
            "false_positives_allowed": int(FPR * n + 1e-9),
            "interval": "bootstrap_percentiles",
            "n_resamples": N_RESAMPLES,
            "seed": case.seed,
        },
        "rows": rows,
        "seconds": time.perf_counter() - started,
    }


def _scores(
    denoiser: Denoiser, images: ImageSet, score: Callable[[Tensor, Condition | None], Tensor], batch_size: int
) -> Tensor:
    if images.shape != tuple(denoiser.image_shape) or len(images) == 0:
        raise InputError(
            f"images: got {len(images)} of shape {list(images.shape)}, expected at least one of shape "
            f"{list(denoiser.image_shape)}. Convert them to the model's size first."
        )
    with evaluating(denoiser.network), torch.no_grad():
        parts = torch.arange(len(images)).split(batch_size)
        return torch.cat([
            score(encoded(denoiser, images.images[part]), condition_of(denoiser, images, part, "membership")) for part in parts
        ])  # fmt: skip


def _predicted(denoiser: Denoiser, x0: Tensor, row: int, noise: Tensor, condition: Condition | None) -> Tensor:
    """ε_θ at α x0 + σ ε, on the CPU."""
    alpha, sigma = denoiser.schedule.coefficients(torch.full((len(x0),), row), x0)
    return _at(denoiser, noise_images(x0, noise, column(alpha, x0), column(sigma, x0)), row, condition)


def _at(denoiser: Denoiser, x_t: Tensor, row: int, condition: Condition | None) -> Tensor:
    """ε_θ(x_t, timestep of an index), on the CPU; x_t need not be noised."""
    first, schedule = next(denoiser.network.parameters()), denoiser.schedule
    x_t, index = x_t.to(first), torch.full((len(x_t),), row)
    flow = schedule.scaling == "flow"  # whose time is no index
    timestep = schedule.timesteps_at(schedule.alpha_bars[index]).to(x_t) if flow else index.to(first.device)
    output = denoiser.raw(x_t, timestep, condition)[:, : x_t.shape[1]]
    alpha, sigma = (column(each, x_t) for each in schedule.coefficients(index, x_t))
    predicted = noise_of(denoiser.prediction_type, output, x_t, alpha, sigma).cpu()
    require_finite("membership: noise predicted by the network", predicted)
    return predicted


def _percentiles(resampled: Tensor) -> tuple[float, float]:
    low, high = torch.quantile(resampled, resampled.new_tensor([TAIL, 1 - TAIL])).tolist()
    return low, high


def _plain(found: Separation) -> dict[str, Any]:
    return {
        "auc": {"value": found.auc, "low": found.auc_interval[0], "high": found.auc_interval[1]},
        "tpr_at_1_fpr": {"value": found.tpr, "low": found.tpr_interval[0], "high": found.tpr_interval[1]},
        "n_members": found.n_members,
        "n_held_out": found.n_held_out,
    }
