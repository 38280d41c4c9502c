"""Erased stable diffusion (ESD): predict under the concept as if guided away from it.

    L(θ) = E ‖ε_θ(x_t, c) − [ε₀(x_t, ∅) − η (ε₀(x_t, c) − ε₀(x_t, ∅))]‖²/d

c the label or prompt to forget, ∅ the null condition (or the one of ``--instead``), ε₀ the frozen original, η the strength of the
guidance, ‖·‖²/d the mean over pixels, E the mean over the batch.

x_t is partly denoised: the edited model itself draws under c, from the noise of the batch down to the level t of each image, in
deterministic steps (DDIM) as large as those of the run's sampler and with its guidance scale. No image is used, real or generated; the
forget set gives c and the number of samples.

The published variants train a part of the weights: ESD-x the cross-attention (``--train cross-attention``), ESD-u the rest
(``--train non-cross-attention``). The published η is 1; the authors' later code takes 2, a guidance scale of 3 and 50 steps.

**The port to unconditional models** is ours. They have no pair of predictions under and without c. In its place is ε_f, a copy of the
original after a short fine-tuning on the forget set D_f, on noised images of D_f:

    L(θ) = E_{x∈D_f, t, ε} ‖ε_θ(x_t, t) − [ε₀(x_t, t) − η (ε_f(x_t, t) − ε₀(x_t, t))]‖²/d

Source: Gandikota, Materzyńska, Fiotto-Kaufman & Bau 2023, "Erasing Concepts from Diffusion Models", arXiv 2303.07345, Eq. 6 and 7.

Not guaranteed: that anything else is retained, since nothing holds it (unlike that of plain ascent, the target is bounded); that ε_f − ε₀
points towards the forget set. The difference vanishes at high noise, where both models predict the same average image, and a copy
fine-tuned for too long memorises its training images instead of their class.
"""

from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from vdu.core.modes import evaluating
from vdu.core.ranges import POSITIVE
from vdu.core.types import Batch, Condition, Denoiser, Losses, NoisedBatch, Tools, column
from vdu.diffusion.guidance import guided
from vdu.diffusion.prediction import clean_of, noise_of
from vdu.diffusion.schedule import NoiseSchedule, noised_batch
from vdu.methods.base import BaseMethod, under
from vdu.methods.registry import register

__all__ = ["ESD", "partly_denoised"]


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class ESD(BaseMethod):
    """ESD for conditional models, and its port to unconditional ones.

    Args:
        guidance: η > 0, strength of the guidance away from the concept.

    Raises:
        InputError: if η is not positive.
    """

    guidance: float = 1.0

    name = "esd"
    summary = "Trains predictions that are guided away from the concept (ESD); without labels or prompts, from a forget-fine-tuned copy."
    needs = frozenset({"forget"})
    substitutes = "always"

    ranges = MappingProxyType({"guidance": POSITIVE})

    @property
    def uses(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The original, and what stands for the concept's absence: a condition, or for the port the forget model."""
        return frozenset({"teacher", *(("substitute", "sampler") if self._conditional else ("forget_model",))})

    def losses(self, denoiser: Denoiser, batch: Batch) -> Losses:
        """The distance from the target, and for the log and the guard the denoising error; conditional models see no noised image."""
        assert self.tools is not None and self.tools.teacher is not None
        with torch.no_grad():
            x = self._partly_denoised(denoiser, batch["forget"]) if self._conditional else batch["forget"]
            towards, away = self._pair(self.tools, x)
            target = towards - self.guidance * (away - towards)
        torch.clear_autocast_cache()  # otherwise mixed precision trains the weights that it cast without a gradient
        guess = denoiser.noise(x)
        erase = (guess - target).double().square().mean()
        mse = erase if self._conditional else (guess - x.noise).double().square().mean()
        return Losses({"erase": erase}, {"mse": mse.detach()})

    def _pair(self, tools: Tools, x: NoisedBatch) -> tuple[Tensor, Tensor]:
        """The predictions without the concept, and with it."""
        assert tools.teacher is not None
        if self._conditional:
            return tools.teacher.noise(under(x, tools.substitute)), tools.teacher.noise(x)
        assert tools.forget_model is not None
        return tools.teacher.noise(x), tools.forget_model.noise(x)

    def _partly_denoised(self, denoiser: Denoiser, batch: NoisedBatch) -> NoisedBatch:
        assert self.tools is not None and self.schedule is not None
        sampler = self.tools.sampler
        null = (
            None if sampler.guidance_scale is None else denoiser.condition([None])
        )  # also where another concept takes the place
        with evaluating(denoiser.network):
            return partly_denoised(
                denoiser, batch, self.schedule, steps=sampler.steps, guidance_scale=sampler.guidance_scale, null=null
            )  # fmt: skip


def partly_denoised(
    denoiser: Denoiser,
    batch: NoisedBatch,
    schedule: NoiseSchedule,
    *,
    steps: int,
    guidance_scale: float | None = None,
    null: Condition | None = None,
) -> NoisedBatch:
    """Draw under the batch's condition, from its noise down to its levels, by DDIM without noise of its own.

    Each step predicts ε̂ and x̂₀ and combines them at the next level, x = α x̂₀ + σ ε̂ (Song et al. 2021, arXiv 2010.02502, Eq. 12 with
    σ_t = 0). The last step of an image ends at its own level.

    Args:
        denoiser: the model that draws.
        batch: the starting noise, the level at which each image stops, and the condition; its x0 is not used.
        schedule: the levels that the batch's indices mean.
        steps: from pure noise to an image.
        guidance_scale: None draws without guidance.
        null: the condition that guidance leads away from.

    Returns:
        The batch with x̂₀ and ε̂ of the last step in the place of image and noise, so that its x_t is what was drawn.
    """
    stop = batch.index.cpu()
    top = int(schedule.alpha_bars.nonzero().max())  # at ᾱ = 0 exactly the noise determines nothing
    x0, noise, now = torch.zeros_like(batch.noise), batch.noise.clone(), torch.full_like(stop, top)
    clips = bool(denoiser.scheduler_config.get("clip_sample")) and not denoiser.is_latent
    reach = float(denoiser.scheduler_config.get("clip_sample_range", 1.0))
    for end in torch.linspace(top, 0, steps + 1).round().long()[1:]:
        moving = (now > stop).nonzero().flatten()
        if not len(moving):
            break
        rows = moving.to(noise.device)
        part = noised_batch(
            x0[rows], now[moving], noise[rows], schedule, denoiser.schedule, condition=batch.select(rows).condition
        )  # fmt: skip
        x_t, without = part.x_t, under(part, null).condition
        output = guided(denoiser, x_t, part.timestep, part.condition, without, guidance_scale)[:, : x_t.shape[1]]
        levels = column(part.alpha, x_t), column(part.sigma, x_t)
        clean = clean_of(denoiser.prediction_type, output, x_t, *levels)
        x0[rows] = clean.clamp(-reach, reach) if clips else clean
        noise[rows] = noise_of(denoiser.prediction_type, output, x_t, *levels)
        now[moving] = torch.maximum(end, stop[moving])
    return noised_batch(x0, stop, noise, schedule, denoiser.schedule, condition=batch.condition)
