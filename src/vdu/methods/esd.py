"""Erased stable diffusion (ESD) without a condition: answer on the forget set as if guided away from it.

    L(θ) = E_{x∈D_f, t, ε} ‖ε_θ(x_t, t) − [ε₀(x_t, t) − η (ε_f(x_t, t) − ε₀(x_t, t))]‖²/d

ε₀ the frozen original, ε_f a copy of it fine-tuned on the forget set, x_t = √ᾱ x0 + √(1−ᾱ) ε noised forget images, η the
strength of the guidance, ‖·‖²/d the mean over pixels, E the mean over the batch.

The published form has a text-conditional model, ε_f = ε₀(x_t, c, t) its answer under the concept c, and ε₀ its answer without
a condition. An unconditional model has no such pair; a short fine-tuning on D_f stands for the condition. Two more things
differ: published x_t come from the edited model's own partly finished samples under c, here they are noised images of D_f;
and the published variants train a part of the weights (ESD-x the cross-attention, ESD-u the rest), here all are trained.

Source: Gandikota, Materzyńska, Fiotto-Kaufman & Bau 2023, "Erasing Concepts from Diffusion Models", arXiv 2303.07345.
The port to unconditional models is ours.

Not guaranteed: that anything else is kept, since no retained image is looked at; the target is bounded, which plain ascent's
is not. That ε_f − ε₀ points at what is to be forgotten: it fades at high noise, where both see the same average image, and a
copy fine-tuned for too long knows its training images instead of their class.
"""

from dataclasses import dataclass

import torch

from vdu.core.types import Batch, Denoiser, Losses
from vdu.methods.base import BaseMethod, require_positive
from vdu.methods.registry import register

__all__ = ["ESD"]


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class ESD(BaseMethod):
    """The ESD analogue for unconditional models.

    Args:
        guidance: η > 0, how far beyond ε₀, away from ε_f.

    Raises:
        InputError: if η is not positive.
    """

    guidance: float = 1.0

    name = "esd"
    summary = "Answers on the forget images as if guided away from a copy that was fine-tuned on them (ESD without a condition)."
    needs = frozenset({"forget"})
    uses = frozenset({"teacher", "forget_model"})

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(guidance=self.guidance)

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
