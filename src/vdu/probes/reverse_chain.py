"""The reverse chain of a pipeline's own scheduler, and the terms of the variational bound along it.

The chain is that of the pipeline's own scheduler with all its T steps:

    x̂0      from the network's output (ε, v or x0), clipped if the scheduler sets ``clip_sample``
    μ_θ     √ᾱ_{t−1} β_t/(1−ᾱ_t) x̂0 + √α_t (1−ᾱ_{t−1})/(1−ᾱ_t) x_t
    σ_t²    fixed_small(_log)   β̃_t = (1−ᾱ_{t−1})/(1−ᾱ_t) β_t; also if the scheduler names no variance (DDIM)
            fixed_large(_log)   β_t
            learned             the network's second half of channels
            learned_range       exp(f log β_t + (1−f) log β̃_t), f = (v+1)/2 (Nichol & Dhariwal 2021, arXiv 2102.09672, Eq. 15)
    σ₁²     the sampler adds no noise in its last step and does not define it: β̃_2 for the fixed variances and as the
            lower end of learned_range, as in the code of both papers (β̃_1 is 0); "learned" has its own

    L_T     = KL(q(x_T | x0) ‖ N(0, I))                     closed form
    L_{t−1} = KL(q(x_{t−1} | x_t, x0) ‖ N(μ_θ(x_t), σ_t²))   Gaussians, exact for every x_t
    L_0     = −log ∏_i [Φ((x_i + 1/255 − μ_i)/σ₁) − Φ((x_i − 1/255 − μ_i)/σ₁)]       (Ho et al. 2020, Eq. 13)

in nats. Pixels are the 256 values u/127.5 − 1; the outermost bins of L_0 are open.

Not guaranteed: that a few-step sampler runs this chain; it skips most of it.
"""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from vdu.core.checks import require_finite
from vdu.core.errors import InputError
from vdu.core.types import Condition, Denoiser, noise_images
from vdu.diffusion.prediction import clean_of
from vdu.diffusion.schedule import NoiseSchedule

__all__ = ["ReverseChain", "chain_terms", "prior_terms"]

BIN = 1 / 255  # half the distance of two pixel values
FIXED = {"fixed_small": "small", "fixed_small_log": "small", "fixed_large": "large", "fixed_large_log": "large"}


@dataclass(frozen=True)
class ReverseChain:
    """The scheduler's part of p(x_{t−1} | x_t).

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
    def of(cls, denoiser: Denoiser) -> Self:
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
                "noise schedule: got ᾱ_T = 0 with prediction_type 'epsilon', expected ᾱ_T > 0: the noise does not determine x0 "
                "there. Use the schedule that the network was trained with, or a model of v."
            )
        clip = float(config.get("clip_sample_range", 1.0)) if config.get("clip_sample") else None
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
            output: the network's output channels beyond the image's, [n, 0 or channels, height, width].
            like: an image of each, [n, channels, height, width].

        Returns:
            [n, channels, height, width], or [n, 1, 1, 1] where it does not depend on the pixel; float64.

        Raises:
            InputError: if the variance is learned but missing or not positive.
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


def chain_terms(
    denoiser: Denoiser, x0: Tensor, rows: Tensor, noise: Tensor, condition: Condition | None = None
) -> Tensor:
    """L_{t−1} at x_t = √ᾱ_t x0 + √(1−ᾱ_t) ε: the exact KL for t ≥ 2, the discretised likelihood for t = 1.

    Args:
        denoiser: the model, in evaluation mode.
        x0: images u/127.5 − 1, [n, channels, height, width], on the CPU.
        rows: t − 1 of each, [n], int64.
        noise: ε, like ``x0``.
        condition: of each; None for an unconditional model.

    Returns:
        Nats of each, summed over its dimensions, [n], float64, on the CPU. A network that gives NaN or infinity, or a chain of
        an unknown kind (:meth:`ReverseChain.of`), is refused with an ``InputError``.
    """
    chain, schedule, channels = ReverseChain.of(denoiser), denoiser.schedule, x0.shape[1]
    x0, noise = x0.double(), noise.double()  # σ² spans four orders of magnitude
    alpha_bar, previous = _column(schedule.alpha_bars[rows]), _column(schedule.previous_alpha_bars[rows])
    alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    x_t = noise_images(x0, noise, alpha, sigma)
    output = _raw(denoiser, x_t, rows, condition)
    require_finite("bits/dim: output of the network", output)
    predicted = clean_of(denoiser.prediction_type, output[:, :channels], x_t, alpha, sigma)
    if chain.clip is not None:
        predicted = predicted.clamp(-chain.clip, chain.clip)
    log_variance = chain.log_variance(rows, output[:, channels:], x0)
    # Eq. 7; the x_t term is the same in both means
    difference = previous.sqrt() * _column(schedule.betas[rows]) / (1 - alpha_bar) * (x0 - predicted)
    terms = torch.empty(len(x0), dtype=torch.float64)
    later = rows > 0
    log_posterior = _column(chain.posterior_variances[rows[later]].log())
    terms[later] = _gaussian_kl(difference[later], log_posterior, log_variance[later])
    terms[~later] = _decoder(x0[~later], predicted[~later], log_variance[~later])  # μ_θ = x̂0 at t = 1
    return terms


def _raw(denoiser: Denoiser, x_t: Tensor, rows: Tensor, condition: Condition | None) -> Tensor:
    first = next(denoiser.network.parameters())
    return denoiser.raw(x_t.to(first), rows.to(first.device), condition).cpu().double()


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


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
