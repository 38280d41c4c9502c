"""SISS, subtracted importance-sampled scores: keep and forget losses from one network call on a mixture of both images.

    m ~ (1−λ) q(m|x) + λ q(m|a),   q(m|x) = N(√ᾱ x, (1−ᾱ) I)
    w_x = 1 / [(1−λ) + λ q(m|a)/q(m|x)]       w_a = 1 / [(1−λ) q(m|x)/q(m|a) + λ]
    L_x = E w_x ‖ε_x − ε_θ(m, t)‖²/d,         L_a = E w_a ‖ε_a − ε_θ(m, t)‖²/d,      ε_z = (m − √ᾱ z)/√(1−ᾱ)
    update along  g_x − s g_a,   g = ∇L,   s = ρ ‖g_x‖/‖g_a‖

x ∈ D_r an image to keep, a ∈ D_f one to forget, both at the same step t of the same pair, λ the weight of the forget image in
the mixture, d = C·H·W, ρ the norm of the forget gradient relative to the keep gradient's, E the mean over pairs.
E_m[w_x f(m)] = E_{q(m|x)}[f(m)]: L_x and L_a estimate the plain denoising losses of x and of a, both per element, without
bias. w_x ≤ 1/(1−λ) and w_a ≤ 1/λ.

The ratio of the densities is taken in log space: log q(m|a)/q(m|x) = (‖ε_x‖² − ‖ε_a‖²)/2 reaches tens of thousands at clean
levels, where the exponentials of the public code (claserken/SISS, ``losses/ddpm_deletion_loss.py``) are 0 and ∞; its weights
take their right limits there all the same (``benchmarks/against_peers.py``). ε_x and ε_a are built from the drawn ε and not
from m, so that nothing is divided by √(1−ᾱ) after rounding: with c = 1 where a was taken,
ε_x = ε + c √SNR (a − x), ε_a = ε − (1−c) √SNR (a − x), SNR = ᾱ/(1−ᾱ).

The published s is scaling_norm/‖g_a‖ with a constant scaling_norm, advised to be about 10 % of the keep gradient's norm;
here it is that fraction, ρ = 0.1, computed at every step over all weights together. Noise and step are drawn once per pair:
those of ``batch["forget"]``, within ``alpha_bar_range``, serve both images; those of ``batch["retain"]`` are not used. The
published X is all the training data; here it is the retained part.

In conditional models each term is asked under its image's own condition, L_x under that of x and L_a under that of a, so that both stay
unbiased; where the two differ a pair takes two network calls.

Not guaranteed: that it stops (it ascends along g_a, though with a bounded norm); a low variance, least of all at clean levels,
where each pair informs about the selected image alone.

Which image a pair gives is drawn with the batch (``draws``), for the whole step: the choices do not depend on the number of
processes or micro-batches.

Source: Alberti, Hasanaliyev, Shah & Ermon 2025, "Data Unlearning in Diffusion Models", ICLR, arXiv 2503.01034.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor

from vdu.core.errors import InputError
from vdu.core.ranges import POSITIVE, Range
from vdu.core.types import Batch, Condition, Denoiser, Losses, NoisedBatch, column
from vdu.methods.base import BaseMethod, drawn, under
from vdu.methods.registry import register

__all__ = ["SISS", "mixture_weights"]


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class SISS(BaseMethod):
    """SISS (Alberti et al. 2025).

    Args:
        mixture: λ, the probability with which a pair gives its forget image, in (0, 1).
        forget_share: ρ, the norm of the forget gradient as a fraction of the keep gradient's.

    Raises:
        InputError: if a setting is out of range.
    """

    mixture: float = 0.5
    forget_share: float = 0.1

    name = "siss"
    summary = "Keep and forget losses from one network call on a mixture of both images, subtracted at a fixed ratio."
    needs = frozenset({"forget", "retain"})
    per_term = True
    draws = MappingProxyType({"forget": MappingProxyType({"choice": "image"})})
    limits = MappingProxyType({"mse": 2.0, "retain_mse": 2.0})

    ranges = MappingProxyType({
        "mixture": Range(  # at 0 or 1 one of the weights is unbounded
            "a number between 0 and 1, the fraction of forget images (published: 0.5)", 0, above=True, high=1
        ),
        "forget_share": POSITIVE,
    })  # fmt: skip

    def losses(self, denoiser: Denoiser, batch: Batch) -> Losses:
        """−L_a and L_x; the observed errors are L_a and L_x themselves."""
        pair, x = batch["forget"], batch["retain"].x0
        a, noise = pair.x0, pair.noise
        if a.shape != x.shape:
            raise InputError(
                f"forget: got images of shape {tuple(a.shape)} with retained ones of shape {tuple(x.shape)}; expected as many of each."
            )
        level = column(pair.alpha_bar, x)
        took_a = (drawn(pair, "choice") < self.mixture).view_as(level)
        mixed = replace(pair, x0=torch.where(took_a, a, x))  # its x_t is m
        apart = (level / (1 - level)).sqrt() * (a - x)
        noise_x = noise + torch.where(took_a, apart, 0.0)
        noise_a = noise - torch.where(took_a, 0.0, apart)
        weight_x, weight_a = mixture_weights(noise_x, noise_a, self.mixture)
        predicted_x, predicted_a = _predicted(denoiser, mixed, batch["retain"].condition)
        keep = (weight_x * _squared(predicted_x - noise_x)).mean()
        forget = (weight_a * _squared(predicted_a - noise_a)).mean()
        return Losses({"forget": -forget, "keep": keep}, {"mse": forget.detach(), "retain_mse": keep.detach()})

    def combine(self, gradients: Mapping[str, Sequence[Tensor]]) -> Sequence[Tensor]:
        """g_x − s g_a with ‖s g_a‖ = ρ ‖g_x‖; the forget term holds −L_a, so its gradient is added."""
        norms = {name: _norm(each) for name, each in gradients.items()}
        if norms["forget"] == 0:  # no pair took its forget image, and all are separable
            return list(gradients["keep"])
        scale = self.forget_share * norms["keep"] / norms["forget"]
        return [g_x + scale * g_a for g_x, g_a in zip(gradients["keep"], gradients["forget"], strict=True)]


def mixture_weights(noise_x: Tensor, noise_a: Tensor, mixture: float) -> tuple[Tensor, Tensor]:
    """w_x and w_a, in log space.

    Args:
        noise_x: the noise that leads from x to m, [batch, …].
        noise_a: the noise that leads from a to m, [batch, …].
        mixture: λ in (0, 1).

    Returns:
        Both [batch], float64, in [0, 1/(1−λ)] and [0, 1/λ].

    Examples:
        >>> m = torch.tensor([[0.0], [3e2]])
        >>> [weights.tolist() for weights in mixture_weights(m, m - 3e2, 0.5)]
        [[2.0, 0.0], [0.0, 2.0]]
    """
    # float64: the difference of two sums over all pixels is the logarithm of what is wanted
    log_ratio = (noise_x.double().square() - noise_a.double().square()).flatten(1).sum(1) / 2
    log_x, log_a = math.log1p(-mixture), math.log(mixture)
    weight_x = torch.exp(-torch.logaddexp(torch.full_like(log_ratio, log_x), log_a + log_ratio))
    weight_a = torch.exp(-torch.logaddexp(log_x - log_ratio, torch.full_like(log_ratio, log_a)))
    return weight_x, weight_a


def _predicted(denoiser: Denoiser, mixed: NoisedBatch, condition: Condition | None) -> tuple[Tensor, Tensor]:
    """The predictions on m under the condition of x and under that of a, which the batch has; for unconditional models one call."""
    if condition is None:
        predicted = denoiser.noise(mixed)
        return predicted, predicted
    both = NoisedBatch.joined(under(mixed, condition), mixed)
    predicted_x, predicted_a = denoiser.noise(both).split(len(mixed.x0))
    return predicted_x, predicted_a


def _squared(error: Tensor) -> Tensor:
    return error.double().square().flatten(1).mean(1)


def _norm(tensors: Sequence[Tensor]) -> float:
    # float64: millions of squares
    return math.sqrt(sum(float(each.double().square().sum()) for each in tensors))
