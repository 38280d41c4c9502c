"""Retrack with self-generated replay: noised forget images are denoised towards the nearest retained samples.

    p_k = softmax_k(−‖x_t − √ᾱ s_k‖² / (2(1−ᾱ)))              posterior weights of s_k ∈ S_r, given x_t
    target(x_t) = Σ_k p_k (x_t − √ᾱ s_k) / √(1−ᾱ)              the exact noise if the data were S_r
    L(θ) = ζ E_{D_f} ‖ε_θ(x_t, t) − target(x_t)‖²/d  +  E_{S_r} ‖ε_θ(x_t, t) − ε₀(x_t, t)‖²/d

S_r are the generated samples without those that match the forget set, ε₀ is the frozen original and d the number of elements. The
target is the optimal denoiser of the empirical distribution of S_r. On S_r itself it would amount to memorisation; it is therefore
used on the forget images only. In high dimensions nearly all weight is on one neighbour, and a few images (thin strokes of small
norm) are the nearest neighbour of most: many forgotten images turn into those.

Not guaranteed: that forgotten images are redistributed over the other classes in proportion; they go to the nearest.

Source: the form follows "ReTrack" (in sony/guda, which trains on real retained data, with ζ = 1 and 5 neighbours in pixel
space); the use of generated samples in place of retained data is ours. Optimal denoiser of a sample: Karras et al. 2022, arXiv
2206.00364, Eq. 57.
"""

from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from vdu.core.ranges import POSITIVE
from vdu.core.types import Batch, Denoiser, Losses, NoisedBatch
from vdu.methods.base import BaseMethod, mean_squared
from vdu.methods.defaults import TrainingDefaults
from vdu.methods.registry import register

__all__ = ["CHOSEN", "Retrack", "retrack_target"]

CHOSEN = TrainingDefaults(
    steps=450, batch_size=32, learning_rate=1.5e-4, warmup_steps=10, max_grad_norm=0.5, ema_decay=0.98
)
"""Tuned on the digit 8 of the packaged model (docs/dev/methods-log.md)."""


@torch.no_grad()
def retrack_target(batch: NoisedBatch, retained: Tensor) -> Tensor:
    """The noise prediction of the optimal denoiser of the retained images.

    Args:
        batch: noised images, x_t [batch, channels, height, width].
        retained: [n, channels, height, width], in [−1, 1].

    Returns:
        [batch, channels, height, width].
    """
    x_t, level = batch.x_vp, batch.alpha_bar.to(batch.x0.dtype)
    signal, kept = level.sqrt()[:, None], retained.flatten(1).to(x_t)
    flat = x_t.flatten(1)
    # ‖x_t − √ᾱ s‖² without its part that is the same for every s
    distance = level[:, None] * kept.square().sum(1) - 2 * signal * (flat @ kept.T)
    weights = (-distance / (2 * (1 - level))[:, None]).softmax(1)
    return ((flat - signal * (weights @ kept)) / (1 - level).sqrt()[:, None]).view_as(x_t)


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class Retrack(BaseMethod):
    """Retrack towards generated samples, with the original's predictions on them as the retain target.

    Args:
        forget_weight: ζ > 0.
        schedule: the noise levels; None takes the model's own.
        alpha_bar_range: noise levels of the forget images; retained images use all levels.

    Raises:
        InputError: if ζ is not positive.
    """

    forget_weight: float = 0.3
    alpha_bar_range: tuple[float, float] = (0.0015, 0.66)

    name = "retrack"
    summary = "Denoises forget images towards the nearest generated samples that are unlike the forget set."
    training = CHOSEN
    stops = True
    strength = ("forget_weight",)
    needs = frozenset({"forget", "retain"})
    uses = frozenset({"teacher", "retained"})

    ranges = MappingProxyType({"forget_weight": POSITIVE})

    def losses(self, denoiser: Denoiser, batch: Batch) -> Losses:
        """The formula; the plain errors of both sets are monitored."""
        assert self.tools is not None
        assert self.tools.teacher is not None
        assert self.tools.retained is not None
        forget, retain = batch["forget"], batch["retain"]
        with torch.no_grad():
            kept = self.tools.teacher.noise(retain)
        targets = torch.cat([retrack_target(forget, self.tools.retained), kept])
        errors = mean_squared(denoiser, NoisedBatch.joined(forget, retain), targets)
        led, keep = (part.mean() for part in errors.split([len(forget.x0), len(retain.x0)]))
        terms = {"retrack": self.forget_weight * led, "keep": keep}
        return Losses(terms, {"mse": led.detach(), "keep_mse": keep.detach()})
