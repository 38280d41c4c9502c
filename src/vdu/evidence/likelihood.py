"""Bits per dimension: how well a model's reverse chain codes real images, as the negative variational bound.

    L = L_T + Σ_{t=2..T} L_{t−1} + L_0                      (Ho et al. 2020, arXiv 2006.11239, Eq. 5)
    L_T     = KL(q(x_T | x0) ‖ N(0, I))                     closed form
    L_{t−1} = KL(q(x_{t−1} | x_t, x0) ‖ N(μ_θ(x_t), σ_t²))   Gaussians, exact for every x_t
    L_0     = −log ∏_i [Φ((x_i + 1/255 − μ_i)/σ₁) − Φ((x_i − 1/255 − μ_i)/σ₁)]       (Eq. 13)

in nats, divided by D ln 2 with D = channels · height · width. Pixels are the 256 values u/127.5 − 1; the outermost bins
of L_0 are open. Lower is better.

The chain is the one that the pipeline's own scheduler would run with all its T steps, :class:`ReverseChain` has all of it:

    x̂0      from the network's output (ε, v or x0), clipped where the scheduler says ``clip_sample``
    μ_θ     √ᾱ_{t−1} β_t/(1−ᾱ_t) x̂0 + √α_t (1−ᾱ_{t−1})/(1−ᾱ_t) x_t
    σ_t²    fixed_small(_log)   β̃_t = (1−ᾱ_{t−1})/(1−ᾱ_t) β_t; also where the scheduler names no variance (DDIM)
            fixed_large(_log)   β_t
            learned             the network's second half of channels
            learned_range       exp(f log β_t + (1−f) log β̃_t), f = (v+1)/2 (Nichol & Dhariwal 2021, arXiv 2102.09672, Eq. 15)
    σ₁²     the sampler adds no noise in its last step, so it says nothing here: β̃_2 for the fixed variances and as the
            lower end of learned_range, as in the code of both papers (β̃_1 is 0); "learned" has its own

The sum over t is sampled: with a fixed proposal p_t and S strata of equal probability, two independent draws in each,

    Σ_t L_{t−1} ≈ (1/S) Σ_s ½ Σ_{r=1,2} L_{t_sr − 1} / p_{t_sr},      p_t ∝ 0.9 k_t/Σk + 0.1/(T−1),
    k_t = (1−ᾱ_t)(SNR_{t−1} − SNR_t),  SNR = ᾱ/(1−ᾱ).

With σ_t² = β̃_t, L_{t−1} is ½ (SNR_{t−1} − SNR_t) ‖x0 − x̂0‖²; the error of x̂0 is at most of the size of the data, and
at little noise that of noise, hence 1−ᾱ_t. The uniform part bounds the weights for models of another kind. Two draws
per stratum (and of L_0) give an unbiased Monte-Carlo variance. Image i has its own generator, so that t and ε are the same for
every model that is given generators of one seed.

Not guaranteed: that L is near −log p(x0), of which it is an upper bound; that values of models with other schedules or
variances are comparable; intervals of few images (they are normal).
"""

import math
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn

from vdu.checks import require_finite
from vdu.data.images import ImageSet, to_float
from vdu.diffusion.schedule import NoiseSchedule
from vdu.errors import InputError
from vdu.evidence.case import Case, not_run
from vdu.models.denoiser import PipelineDenoiser
from vdu.rng import draw_seed, generator

__all__ = [
    "BitsPerDim",
    "ReverseChain",
    "bits_per_dim",
    "chain_terms",
    "choose",
    "exact_bits_per_dim",
    "measuring",
    "prior_terms",
    "probe",
    "proposal",
]

BIN = 1 / 255  # half the distance of two pixel values
UNIFORM_SHARE = 0.1  # of the proposal
FIXED = {"fixed_small": "small", "fixed_small_log": "small", "fixed_large": "large", "fixed_large_log": "large"}
Z = 1.959963984540054  # of a normal 95 % interval

Plan = Callable[[torch.Generator], tuple[Tensor, Tensor]]  # rows and weights of one image's terms, [groups, repeats]


@dataclass(frozen=True)
class ReverseChain:
    """What the pipeline's scheduler says of p(x_{t−1} | x_t), besides the network.

    Attributes:
        schedule: the schedule of the chain.
        prediction_type: "epsilon", "v_prediction" or "sample".
        variance: "small" (β̃_t), "large" (β_t), "learned" or "learned_range".
        clip: x̂0 is clipped to [−clip, clip]; None: not clipped.
        named: the scheduler's own name of the variance, "" if it has none.
    """

    schedule: NoiseSchedule
    prediction_type: str
    variance: str
    clip: float | None
    named: str

    @classmethod
    def of(cls, denoiser: PipelineDenoiser) -> Self:
        """Read the chain from the scheduler's configuration.

        Args:
            denoiser: the model.

        Returns:
            The chain.

        Raises:
            InputError: if the scheduler has a variance that is unknown or thresholds x̂0 by quantiles, or if x̂0 is not
                defined at the last step (ε-prediction with ᾱ_T = 0).
        """
        config = denoiser.scheduler_config
        named = str(config.get("variance_type") or "")
        kinds = {"": "small", **FIXED, "learned": "learned", "learned_range": "learned_range"}
        if named not in kinds:
            raise InputError(
                f"variance_type: got {named!r}, expected one of {', '.join(filter(None, kinds))}. "
                "Bits per dimension need the variance of the reverse chain: save the pipeline with a DDPMScheduler."
            )
        if config.get("thresholding"):
            raise InputError(
                "thresholding: got True (x̂0 is cut at its own quantiles), expected False. "
                "Bits per dimension are not defined here for such a chain: save the pipeline with thresholding=False."
            )
        if denoiser.prediction_type == "epsilon" and float(denoiser.schedule.alpha_bars[-1]) == 0:
            raise InputError(
                "noise schedule: got ᾱ_T = 0 with prediction_type 'epsilon', expected ᾱ_T > 0: the noise says nothing of x0 "
                "there. Use the schedule that the network was trained with, or a model of v."
            )
        # diffusers clips unless told otherwise
        clip = float(config.get("clip_sample_range", 1.0)) if config.get("clip_sample", True) else None
        return cls(denoiser.schedule, denoiser.prediction_type, kinds[named], clip, named)

    @property
    def posterior_variances(self) -> Tensor:
        """β̃_t, [T], float64; 0 at t = 1."""
        s = self.schedule
        return (1 - s.previous_alpha_bars) / (1 - s.alpha_bars) * s.betas

    @property
    def decoder_safe_variances(self) -> Tensor:
        """β̃_t with β̃_2 in the place of β̃_1 = 0, [T], float64."""
        small = self.posterior_variances
        return torch.cat([small[1:2], small[1:]])

    def log_variance(self, rows: Tensor, output: Tensor, like: Tensor) -> Tensor:
        """Logarithms of σ_t², for each pixel.

        Args:
            rows: t − 1, [n].
            output: the channels that the network gives beyond the image's, [n, 0 or channels, height, width].
            like: an image of each, [n, channels, height, width].

        Returns:
            [n, channels, height, width], or [n, 1, 1, 1] where it does not depend on the pixel; float64.

        Raises:
            InputError: if the variance is learned and the network gives none, or one that is not positive.
        """
        low = self.decoder_safe_variances
        if self.variance == "small":
            return _column(low.log()[rows])
        if self.variance == "large":
            return _column(torch.cat([low[:1], self.schedule.betas[1:]]).log()[rows])
        if output.shape != like.shape:
            raise InputError(
                f"variance_type {self.named!r}: got {output.shape[1]} further channels, expected {like.shape[1]}. "
                "The network has no learned variance: correct the scheduler's variance_type."
            )
        if self.variance == "learned_range":
            fraction = (output + 1) / 2
            return fraction * _column(self.schedule.betas.log()[rows]) + (1 - fraction) * _column(low.log()[rows])
        if bool((output <= 0).any()):
            raise InputError(
                f"variance_type 'learned': got a variance of {float(output.min()):.3g}, expected only positive ones. "
                "If the network interpolates in the logarithm, its scheduler needs variance_type 'learned_range'."
            )
        return output.log()


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
        """The standard error of the mean that comes from t and ε alone."""
        return float(self.variances.sum().sqrt()) / len(self.values)


def prior_terms(x0: Tensor, schedule: NoiseSchedule) -> Tensor:
    """L_T = ½ Σ_i (ᾱ_T x_i² − ᾱ_T − log(1−ᾱ_T)).

    Args:
        x0: images in [−1, 1], [N, channels, height, width].
        schedule: the schedule of the chain.

    Returns:
        Nats of each image, [N], float64.
    """
    alpha_bar = schedule.alpha_bars[-1]
    return 0.5 * (alpha_bar * x0.double().square() - alpha_bar - torch.log1p(-alpha_bar)).flatten(1).sum(1)


def chain_terms(denoiser: PipelineDenoiser, x0: Tensor, rows: Tensor, noise: Tensor) -> Tensor:
    """L_{t−1} at x_t = √ᾱ_t x0 + √(1−ᾱ_t) ε: the exact KL for t ≥ 2, the discretised likelihood for t = 1.

    Args:
        denoiser: the model, in evaluation mode.
        x0: images u/127.5 − 1, [n, channels, height, width], on the CPU.
        rows: t − 1 of each, [n], int64.
        noise: ε, like ``x0``.

    Returns:
        Nats of each, summed over its dimensions, [n], float64, on the CPU. A network that gives NaN or infinity, or a chain of
        an unknown kind (:meth:`ReverseChain.of`), is refused with an ``InputError``.
    """
    chain, schedule, channels = ReverseChain.of(denoiser), denoiser.schedule, x0.shape[1]
    x0, noise = x0.double(), noise.double()  # σ² spans four orders of magnitude
    alpha_bar, previous = _column(schedule.alpha_bars[rows]), _column(schedule.previous_alpha_bars[rows])
    x_t = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise
    output = _raw(denoiser, x_t, rows)
    require_finite("bits/dim: output of the network", output)
    predicted = _predicted_x0(chain, x_t, output[:, :channels], alpha_bar)
    log_variance = chain.log_variance(rows, output[:, channels:], x0)
    # Eq. 7; the share of x_t is the same in both means
    difference = previous.sqrt() * _column(schedule.betas[rows]) / (1 - alpha_bar) * (x0 - predicted)
    terms = torch.empty(len(x0), dtype=torch.float64)
    later = rows > 0
    log_posterior = _column(chain.posterior_variances[rows[later]].log())
    terms[later] = _gaussian_kl(difference[later], log_posterior, log_variance[later])
    terms[~later] = _decoder(x0[~later], predicted[~later], log_variance[~later])  # μ_θ = x̂0 at t = 1
    return terms


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
    denoiser: PipelineDenoiser, images: Tensor, n_draws: int = 24, *, generator: torch.Generator, batch_size: int = 64
) -> BitsPerDim:
    """An unbiased estimate of the bound of each image.

    Args:
        denoiser: the model.
        images: uint8 pixels, [N, channels, height, width].
        n_draws: network evaluations per image, even, at least 4: two for L_0, the others two in each stratum of t.
        generator: gives one seed, from which each image's draws are derived; equal seeds give equal draws for any model.
        batch_size: network evaluations at once.

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

    return _estimate(denoiser, images, plan, generator, batch_size)


def exact_bits_per_dim(
    denoiser: PipelineDenoiser, images: Tensor, n_repeats: int = 1, *, generator: torch.Generator, batch_size: int = 64
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


def probe(case: Case, *, n_images: int = 150, n_draws: int = 8) -> dict[str, Any]:
    """Bits/dim of every model on every image set of a case.

    The images of a set, t and ε are the same for all models. Intervals are normal (mean ± 1.96 s/√n) over images; the scatter s
    has the Monte-Carlo error in it, since images draw independently. ``differences`` are means over images of
    paired differences to the retrained model, or to the original if there is none.

    Args:
        case: models and images.
        n_images: images of each set, chosen by seed; all of a set that has fewer.
        n_draws: network evaluations per image, see :func:`bits_per_dim`. On the packaged model 8 draws of 150 images give a
            Monte-Carlo error of 0.006 to 0.009, 24 of 500 one of 0.002, beside standard errors over images of 0.03 and 0.015.

    Returns:
        Plain values: ``rows``, ``differences`` and the protocol; "not run" if no set has two images or a chain has no bound.

    Raises:
        InputError: if ``n_images`` is below 2, ``n_draws`` cannot be used, or images do not fit a model.
    """
    from tqdm import tqdm

    started = time.perf_counter()
    if n_images < 2:
        raise InputError(f"n_images: got {n_images}, expected at least 2 for an interval. Give 150.")
    try:
        chains = {name: ReverseChain.of(model) for name, model in case.models.items()}
    except InputError as error:
        return not_run(str(error))
    sets = {name: images for name, images in case.image_sets.items() if len(images) >= 2}
    if not sets:
        return not_run("no image set has at least two images; give more images of the forget set, or real ones.")
    jobs = [(model, images) for images in sets for model in case.models]
    found: dict[tuple[str, str], BitsPerDim] = {}
    silent = not case.progress
    for model, name in tqdm(jobs, desc="bits/dim", unit="set", file=sys.stderr, disable=silent, mininterval=1):
        chosen = choose(sets[name], n_images, case.seed, "likelihood", name)
        draws = generator(case.seed, "likelihood", name, "draws")
        found[model, name] = bits_per_dim(case.models[model], chosen.images, n_draws, generator=draws)
    return {
        "status": "measured",
        "unit": "bits/dim",
        "protocol": _protocol(case, sets, chains, n_images, n_draws),
        "rows": [
            {"model": model, "images": name, **_normal_interval(result.values)}
            | {"monte_carlo_error": result.monte_carlo_error, "n_images": len(result.values)}
            for (model, name), result in found.items()
        ],
        "differences": list(_differences(found, "retrained" if case.retrained is not None else "original")),
        "seconds": time.perf_counter() - started,
    }


def choose(images: ImageSet, n: int, seed: int, *names: str) -> ImageSet:
    """A random choice of images, the same for equal seeds and names.

    Args:
        images: to choose from.
        n: how many; all of them, in random order, if there are fewer.
        seed: the seed of the evaluation.
        *names: what the choice is for.

    Returns:
        At most n images.
    """
    order = torch.randperm(len(images), generator=generator(seed, *names, "choice"))
    return images.select(order[:n])


@contextmanager
def measuring(network: nn.Module) -> Generator[None, None, None]:
    """Evaluation mode and no gradients inside the block; each module's own mode after it."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _estimate(
    denoiser: PipelineDenoiser, images: Tensor, plan: Plan, source: torch.Generator, batch_size: int
) -> BitsPerDim:
    """Terms of a plan (rows and weights, [groups, repeats]) for each image, put together."""
    _check_images(denoiser, images)
    ReverseChain.of(denoiser)
    base, x0 = draw_seed(source), to_float(images.cpu())
    with measuring(denoiser.network):
        parts = [_one_image(denoiser, x0[i], plan, generator(base, i), batch_size) for i in range(len(x0))]
    terms = torch.stack([terms for terms, _ in parts])  # [N, groups, repeats], each times its weight
    unit = math.log(2) * x0[0].numel()
    by_group, repeats = terms.mean(2) / unit, terms.shape[2]
    spread = terms.var(2).sum(1) / repeats / unit**2 if repeats > 1 else terms.new_full((len(x0),), math.nan)
    prior, decoder, denoising = prior_terms(x0, denoiser.schedule) / unit, by_group[:, 0], by_group[:, 1:].sum(1)
    return BitsPerDim(prior + denoising + decoder, spread, prior, denoising, decoder, parts[0][1])


def _one_image(
    denoiser: PipelineDenoiser, x0: Tensor, plan: Plan, source: torch.Generator, batch_size: int
) -> tuple[Tensor, int]:
    rows, weights = plan(source)
    flat = rows.flatten()
    noise = torch.randn(len(flat), *x0.shape, generator=source)  # all at once: in parts it would be other numbers
    terms = [
        chain_terms(denoiser, x0.expand(len(part), *x0.shape), part, noise_of_part)
        for part, noise_of_part in zip(flat.split(batch_size), noise.split(batch_size), strict=True)
    ]
    return torch.cat(terms).view(rows.shape) * weights, len(flat)


def _raw(denoiser: PipelineDenoiser, x_t: Tensor, rows: Tensor) -> Tensor:
    first = next(denoiser.network.parameters())
    return denoiser.predict_raw(x_t.to(first), rows.to(first.device)).cpu().double()


def _predicted_x0(chain: ReverseChain, x_t: Tensor, output: Tensor, alpha_bar: Tensor) -> Tensor:
    if chain.prediction_type == "epsilon":
        predicted = (x_t - (1 - alpha_bar).sqrt() * output) / alpha_bar.sqrt()
    elif chain.prediction_type == "v_prediction":
        predicted = alpha_bar.sqrt() * x_t - (1 - alpha_bar).sqrt() * output
    else:
        predicted = output
    return predicted if chain.clip is None else predicted.clamp(-chain.clip, chain.clip)


def _gaussian_kl(difference: Tensor, log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(N(μ_q, σ_q²) ‖ N(μ_p, σ_p²)), summed over dimensions, from μ_q − μ_p and log-variances."""
    each = log_p - log_q + (log_q - log_p).exp() + difference.square() * (-log_p).exp() - 1
    return 0.5 * each.flatten(1).sum(1)


def _decoder(x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """−log of the discretised Gaussian likelihood, summed over dimensions (Ho et al. 2020, Eq. 13)."""
    scale = (-0.5 * log_variance).exp()
    inf = torch.full_like(x0, math.inf)
    above = torch.where(x0 >= 1 - BIN, inf, (x0 + BIN - mean) * scale)
    below = torch.where(x0 <= BIN - 1, -inf, (x0 - BIN - mean) * scale)
    # Φ(b) − Φ(a) = Φ(−a) − Φ(−b): in the tail where Φ is small, its logarithm keeps all its digits
    mirrored = above + below > 0
    high, low = torch.where(mirrored, -below, above), torch.where(mirrored, -above, below)
    log_high = torch.special.log_ndtr(high)
    return -(log_high + torch.log(-torch.expm1(torch.special.log_ndtr(low) - log_high))).flatten(1).sum(1)


def _check_images(denoiser: PipelineDenoiser, images: Tensor) -> None:
    shape = tuple(denoiser.sample_shape)
    if images.dtype != torch.uint8 or tuple(images.shape[1:]) != shape or len(images) == 0:
        raise InputError(
            f"images: got {images.dtype} {list(images.shape)}, expected torch.uint8 [N, {', '.join(map(str, shape))}], N ≥ 1. "
            "The decoder codes stored pixels of the model's size: pass ImageSet.images."
        )


def _normal_interval(values: Tensor) -> dict[str, float]:
    mean, half = float(values.mean()), Z * float(values.std()) / math.sqrt(len(values))
    return {"value": mean, "low": mean - half, "high": mean + half}


def _differences(found: dict[tuple[str, str], BitsPerDim], against: str) -> Iterator[dict[str, Any]]:
    for (model, name), result in found.items():
        if model != against:
            interval = _normal_interval(result.values - found[against, name].values)
            yield {"model": model, "against": against, "images": name, **interval, "n_images": len(result.values)}


def _protocol(
    case: Case, sets: dict[str, ImageSet], chains: dict[str, ReverseChain], n_images: int, n_draws: int
) -> dict[str, Any]:
    return {
        "n_images": n_images,
        "n_draws": n_draws,
        "steps": {name: len(chain.schedule) for name, chain in chains.items()},
        "reverse_variance": {
            name: chain.named or "fixed_small (the scheduler names none)" for name, chain in chains.items()
        },
        "clip": {name: chain.clip for name, chain in chains.items()},
        "interval": "normal, 95 %, over images; differences paired by image",
        "seed": case.seed,
        "left_out": [f"{name}: fewer than 2 images" for name in case.image_sets if name not in sets],
    }


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
