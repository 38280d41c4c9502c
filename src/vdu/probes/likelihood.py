"""Bits per dimension: the negative variational bound of real images under a model's reverse chain.

    L = L_T + Σ_{t=2..T} L_{t−1} + L_0                      (Ho et al. 2020, arXiv 2006.11239, Eq. 5)
    L_T     = KL(q(x_T | x0) ‖ N(0, I))                     closed form
    L_{t−1} = KL(q(x_{t−1} | x_t, x0) ‖ N(μ_θ(x_t), σ_t²))   Gaussians, exact for every x_t
    L_0     = −log ∏_i [Φ((x_i + 1/255 − μ_i)/σ₁) − Φ((x_i − 1/255 − μ_i)/σ₁)]       (Eq. 13)

in nats, divided by D ln 2 with D = channels · height · width. Pixels are the 256 values u/127.5 − 1; the outermost bins
of L_0 are open. Lower is better.

The chain is that of the pipeline's own scheduler with all its T steps (:mod:`vdu.probes.reverse_chain`).

The sum over t is sampled: with a fixed proposal p_t and S strata of equal probability, two independent draws in each,

    Σ_t L_{t−1} ≈ (1/S) Σ_s ½ Σ_{r=1,2} L_{t_sr − 1} / p_{t_sr},      p_t ∝ 0.9 k_t/Σk + 0.1/(T−1),
    k_t = (1−ᾱ_t)(SNR_{t−1} − SNR_t),  SNR = ᾱ/(1−ᾱ).

With σ_t² = β̃_t, L_{t−1} is ½ (SNR_{t−1} − SNR_t) ‖x0 − x̂0‖²; the error of x̂0 is at most of the size of the data, and
at little noise that of noise, hence 1−ᾱ_t. The uniform part bounds the weights for other kinds of models. Two draws
per stratum (and of L_0) give an unbiased Monte-Carlo variance. Image i has its own generator, so that t and ε are the same for
every model with generators of the same seed.

Not guaranteed: that L is near −log p(x0), of which it is an upper bound; that values of models with different schedules or
variances are comparable; intervals of few images (they are normal).
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vdu.core.errors import InputError
from vdu.core.progress import track
from vdu.core.rng import draw_seed, generator
from vdu.core.types import Denoiser
from vdu.data.images import ImageSet, to_float
from vdu.diffusion.schedule import NoiseSchedule
from vdu.metrics.intervals import mean_interval
from vdu.probes.context import ProbeContext, image_set_code, not_run
from vdu.probes.draws import choose, evaluating
from vdu.probes.reverse_chain import ReverseChain, chain_terms, prior_terms
from vdu.training.batches import labels_for

__all__ = ["BitsPerDim", "bits_per_dim", "exact_bits_per_dim", "probe", "proposal"]

UNIFORM_SHARE = 0.1  # of the proposal

Plan = Callable[[torch.Generator], tuple[Tensor, Tensor]]  # rows and weights of one image's terms, [groups, repeats]


@dataclass(frozen=True)
class BitsPerDim:
    """The bound of each image, in bits/dim.

    Attributes:
        values: L of each image, [N], float64; the sum of the three parts.
        variances: the Monte-Carlo variance of each value (from t and ε alone), [N]; NaN if no term was drawn twice.
        prior: L_T, [N].
        denoising: the sum over t ≥ 2, [N].
        decoder: L_0, [N].
        n_draws: network evaluations per image.
    """

    values: Tensor = field(repr=False)
    variances: Tensor = field(repr=False)
    prior: Tensor = field(repr=False)
    denoising: Tensor = field(repr=False)
    decoder: Tensor = field(repr=False)
    n_draws: int

    @property
    def mean(self) -> float:
        """The mean over the images."""
        return float(self.values.mean())

    @property
    def monte_carlo_error(self) -> float:
        """The standard error of the mean due to t and ε alone."""
        return float(self.variances.sum().sqrt()) / len(self.values)


def proposal(schedule: NoiseSchedule) -> Tensor:
    """The probability with which each t ≥ 2 is drawn (see the module's first lines).

    Args:
        schedule: the schedule of the chain.

    Returns:
        p, [T], float64, sum 1; 0 at row 0 (t = 1).
    """
    snr = schedule.alpha_bars / (1 - schedule.alpha_bars)
    gain = (snr[:-1] - snr[1:]) * (1 - schedule.alpha_bars[1:])
    p = (1 - UNIFORM_SHARE) * gain / gain.sum() + UNIFORM_SHARE / len(gain)
    return torch.cat([torch.zeros(1, dtype=torch.float64), p])


def bits_per_dim(
    denoiser: Denoiser,
    images: Tensor,
    n_draws: int = 24,
    *,
    generator: torch.Generator,
    batch_size: int = 64,
    labels: Sequence[int] | None = None,
) -> BitsPerDim:
    """An unbiased estimate of the bound of each image.

    Args:
        denoiser: the model.
        images: uint8 pixels, [N, channels, height, width].
        n_draws: network evaluations per image, even, at least 4: two for L_0, the others two in each stratum of t.
        generator: gives one seed, from which each image's draws are derived; equal seeds give equal draws for any model.
        batch_size: network evaluations at once.
        labels: class of each image, for a class-conditional model.

    Returns:
        Values with their Monte-Carlo variances.

    Raises:
        InputError: if the images do not fit the model, ``n_draws`` is odd or below 4, or the chain is of an unknown kind.
    """
    if n_draws < 4 or n_draws % 2:
        raise InputError(
            f"n_draws: got {n_draws}, expected an even number of at least 4: "
            "two for the decoder and two for each stratum of t. Give 24."
        )
    p = proposal(denoiser.schedule)
    strata = (n_draws - 2) // 2

    def plan(source: torch.Generator) -> tuple[Tensor, Tensor]:
        jitter = torch.rand(strata, 2, generator=source, dtype=torch.float64)
        u = (torch.arange(strata, dtype=torch.float64)[:, None] + jitter) / strata
        # the clamps are for rounding at the two ends alone
        rows = torch.searchsorted(p.cumsum(0), u, right=True).clamp(1, len(p) - 1)
        first = torch.zeros(1, 2, dtype=torch.int64)
        return torch.cat([first, rows]), torch.cat([torch.ones_like(u[:1]), 1 / (strata * p[rows])])

    return _estimate(denoiser, images, plan, generator, batch_size, labels)


def exact_bits_per_dim(
    denoiser: Denoiser, images: Tensor, n_repeats: int = 1, *, generator: torch.Generator, batch_size: int = 64
) -> BitsPerDim:
    """The bound of each image with every t in the sum; only ε is drawn.

    Args:
        denoiser: the model.
        images: uint8 pixels, [N, channels, height, width].
        n_repeats: draws of ε at every t; with 1 the Monte-Carlo variance is unknown (NaN).
        generator: as in :func:`bits_per_dim`.
        batch_size: network evaluations at once.

    Returns:
        Values with their Monte-Carlo variances; T · n_repeats network evaluations per image.

    Raises:
        InputError: if the images do not fit the model, ``n_repeats`` is below 1, or the chain is of an unknown kind.
    """
    if n_repeats < 1:
        raise InputError(f"n_repeats: got {n_repeats}, expected at least 1 draw of noise at every t. Give 1 or more.")
    rows = torch.arange(len(denoiser.schedule))[:, None].expand(-1, n_repeats)

    def plan(source: torch.Generator) -> tuple[Tensor, Tensor]:
        return rows, torch.ones(rows.shape, dtype=torch.float64)

    return _estimate(denoiser, images, plan, generator, batch_size)


def probe(case: ProbeContext, *, n_images: int = 150, n_draws: int = 8) -> dict[str, Any]:
    """Bits/dim of every model on every image set of a case.

    The images of a set, t and ε are the same for all models. Intervals are normal (mean ± 1.96 s/√n) over images; the deviation s
    includes the Monte-Carlo error, since images draw independently. ``differences`` are means over images of
    paired differences to the retrained model, or to the original if there is none.

    Args:
        case: models and images.
        n_images: number of images of each set, chosen by seed; smaller sets are used whole.
        n_draws: network evaluations per image, see :func:`bits_per_dim`. On ``mnist-small`` 8 draws of 150 images give a
            Monte-Carlo error of 0.006 to 0.009, 24 of 500 one of 0.002, beside standard errors over images of 0.03 and 0.015.

    Returns:
        Plain values: ``rows``, ``differences`` and the protocol; "not run" if no set has two images or a chain has no bound.

    Raises:
        InputError: if ``n_images`` is below 2, ``n_draws`` cannot be used, or images do not fit a model.
    """
    started = time.perf_counter()
    if n_images < 2:
        raise InputError(f"n_images: got {n_images}, expected at least 2 for an interval. Give 150.")
    if case.original.is_latent:
        return not_run("latent_model")
    try:
        chains = {name: ReverseChain.of(model) for name, model in case.models.items()}
    except InputError as error:
        return not_run("no_likelihood_bound", error=str(error))
    sets = {name: images for name, images in case.image_sets.items() if len(images) >= 2}
    if not sets:
        return not_run("too_few_images")
    jobs = [(model, images) for images in sets for model in case.models]
    found: dict[tuple[str, str], BitsPerDim] = {}
    for model, name in track(jobs, "bits/dim", "set", shown=case.progress):
        chosen = choose(sets[name], n_images, case.seed, "likelihood", name, "choice")
        draws = generator(case.seed, "likelihood", name, "draws")
        found[model, name] = bits_per_dim(
            case.models[model],
            chosen.images,
            n_draws,
            generator=draws,
            labels=_labels(case.models[model], chosen, name),
        )
    return {
        "status": "measured",
        "unit": "bits/dim",
        "protocol": _protocol(case, sets, chains, n_images, n_draws),
        "rows": [
            {"model": model, "images": image_set_code(name), **_interval(result.values)}
            | {"monte_carlo_error": result.monte_carlo_error, "n_images": len(result.values)}
            for (model, name), result in found.items()
        ],
        "differences": list(_differences(found, "retrained" if case.retrained is not None else "original")),
        "seconds": time.perf_counter() - started,
    }


def _labels(denoiser: Denoiser, images: ImageSet, name: str) -> list[int] | None:
    return labels_for(denoiser, images, torch.arange(len(images)), name) if denoiser.class_names else None


def _estimate(
    denoiser: Denoiser,
    images: Tensor,
    plan: Plan,
    source: torch.Generator,
    batch_size: int,
    labels: Sequence[int] | None = None,
) -> BitsPerDim:
    """Terms of a plan (rows and weights, [groups, repeats]) for each image, put together."""
    _check_images(denoiser, images)
    ReverseChain.of(denoiser)
    base, x0 = draw_seed(source), to_float(images.cpu())
    with evaluating(denoiser.network), torch.no_grad():
        parts = [
            _one_image(denoiser, x0[i], plan, generator(base, i), batch_size, None if labels is None else labels[i])
            for i in range(len(x0))
        ]
    terms = torch.stack([terms for terms, _ in parts])  # [N, groups, repeats], each times its weight
    unit = math.log(2) * x0[0].numel()
    by_group, repeats = terms.mean(2) / unit, terms.shape[2]
    spread = terms.var(2).sum(1) / repeats / unit**2 if repeats > 1 else terms.new_full((len(x0),), math.nan)
    prior, decoder, denoising = prior_terms(x0, denoiser.schedule) / unit, by_group[:, 0], by_group[:, 1:].sum(1)
    return BitsPerDim(prior + denoising + decoder, spread, prior, denoising, decoder, parts[0][1])


def _one_image(
    denoiser: Denoiser, x0: Tensor, plan: Plan, source: torch.Generator, batch_size: int, label: int | None
) -> tuple[Tensor, int]:
    rows, weights = plan(source)
    flat = rows.flatten()
    noise = torch.randn(
        len(flat), *x0.shape, generator=source
    )  # all at once, since the numbers depend on the size of the draw
    terms = [
        chain_terms(
            denoiser, x0.expand(len(part), *x0.shape), part, noise_of_part, denoiser.condition([label] * len(part))
        )
        for part, noise_of_part in zip(flat.split(batch_size), noise.split(batch_size), strict=True)
    ]
    return torch.cat(terms).view(rows.shape) * weights, len(flat)


def _check_images(denoiser: Denoiser, images: Tensor) -> None:
    shape = tuple(denoiser.image_shape)
    if images.dtype != torch.uint8 or tuple(images.shape[1:]) != shape or len(images) == 0:
        raise InputError(
            f"images: got {images.dtype} {list(images.shape)}, expected torch.uint8 [N, {', '.join(map(str, shape))}], N ≥ 1. "
            "The decoder codes stored pixels of the model's size: pass ImageSet.images."
        )


def _interval(values: Tensor) -> dict[str, float]:
    return dict(zip(("value", "low", "high"), mean_interval(values), strict=True))


def _differences(found: dict[tuple[str, str], BitsPerDim], against: str) -> Iterator[dict[str, Any]]:
    for (model, name), result in found.items():
        if model != against:
            interval = _interval(result.values - found[against, name].values)
            row = {"model": model, "against": against, "images": image_set_code(name)}
            yield row | interval | {"n_images": len(result.values)}


def _protocol(
    case: ProbeContext, sets: dict[str, ImageSet], chains: dict[str, ReverseChain], n_images: int, n_draws: int
) -> dict[str, Any]:
    return {
        "n_images": n_images,
        "n_draws": n_draws,
        "steps": {name: len(chain.schedule) for name, chain in chains.items()},
        "reverse_variance": {name: chain.named or "fixed_small_unnamed" for name, chain in chains.items()},
        "clip": {name: chain.clip for name, chain in chains.items()},
        "interval": "normal_over_images",
        "seed": case.seed,
        "left_out": [image_set_code(name) for name in case.image_sets if name not in sets],
    }
