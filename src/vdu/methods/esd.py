"""Erased stable diffusion (ESD) without a condition: predict on the forget set as if guided away from it.

    L(θ) = E_{x∈D_f, t, ε} ‖ε_θ(x_t, t) − [ε₀(x_t, t) − η (ε_f(x_t, t) − ε₀(x_t, t))]‖²/d

ε₀ the frozen original, ε_f a copy of it fine-tuned on the forget set, x_t = √ᾱ x0 + √(1−ᾱ) ε noised forget images, η the
strength of the guidance, ‖·‖²/d the mean over pixels, E the mean over the batch.

In the published form, the model is text-conditional, ε_f = ε₀(x_t, c, t) is its prediction under the concept c, and ε₀ its
prediction without a condition. An unconditional model has no such pair; a short fine-tuning on D_f replaces the condition. There
are two more differences: the published x_t are partly denoised samples of the edited model under c, here they are noised images of
D_f; and the published variants train a part of the weights (ESD-x the cross-attention, ESD-u the rest), here all are trained.

Source: Gandikota, Materzyńska, Fiotto-Kaufman & Bau 2023, "Erasing Concepts from Diffusion Models", arXiv 2303.07345.
The port to unconditional models is ours.

Not guaranteed: that anything else is retained, since no retained image is used (unlike the target of plain ascent, the target is
bounded); that ε_f − ε₀ points towards the forget concept. The difference vanishes at high noise, where both models predict the
same average image, and a copy fine-tuned for too long memorises its training images instead of their class.
"""

from dataclasses import dataclass
from types import MappingProxyType

import torch

from vdu.core.ranges import POSITIVE
from vdu.core.types import Batch, Denoiser, Losses
from vdu.methods.base import BaseMethod
from vdu.methods.registry import register

__all__ = ["ESD"]


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class ESD(BaseMethod):
    """The ESD analogue for unconditional models.

    Args:
        guidance: η > 0, strength of the guidance away from ε_f.

    Raises:
        InputError: if η is not positive.
    """

    guidance: float = 1.0

    name = "esd"
    summary = "Trains predictions on the forget images that are guided away from a forget-fine-tuned copy (ESD without a condition)."
    needs = frozenset({"forget"})
    uses = frozenset({"teacher", "forget_model"})

    ranges = MappingProxyType({"guidance": POSITIVE})

    def losses(self, denoiser: Denoiser, batch: Batch) -> Losses:
        """The distance from the target, and the forget images' plain mean squared error for the log and the guard."""
        forget = batch["forget"]
        assert self.tools is not None and self.tools.teacher is not None and self.tools.forget_model is not None
        with torch.no_grad():
            original = self.tools.teacher.noise(forget)
            specialist = self.tools.forget_model.noise(forget)
            target = original - self.guidance * (specialist - original)
        guess = denoiser.noise(forget)
        mse = (guess.detach() - forget.noise).double().square().mean()
        return Losses({"erase": (guess - target).double().square().mean()}, {"mse": mse})
