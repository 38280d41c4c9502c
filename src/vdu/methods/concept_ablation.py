"""Concept ablation: predict under the concept what the model predicts under an anchor, on images of the anchor.

    L(θ) = E ‖ε_θ(x_t, c) − sg ε_θ(x_t, c′)‖²/d  +  λ E ‖ε − ε_θ(x_t, c′)‖²/d

c the label or prompt to forget, c′ the anchor (that of ``--instead``, by default the null condition), x_t noised images that the original
draws under c′, ε the drawn noise, sg without a gradient, ‖·‖²/d the mean over pixels, E the mean over the batch. The second term is the
denoising loss of the anchor's own images: it holds the predictions that the first one copies.

This is the published "model-based" form. The other one, "noise-based", has ε as its target in the first term. The authors train the
keys and values of the cross-attention by default (``--train cross-attention-kv``), on images drawn under many prompts that contain the
anchor; here all are drawn under c′ itself.

Source: Kumari, Zhang, Wang, Shechtman, Zhang & Zhu 2023, "Ablating Concepts in Text-to-Image Diffusion Models", ICCV, arXiv 2303.13516,
section 3.2.

Not guaranteed: that anything but c and c′ is retained; that c′ does not contain the concept (the null condition of a model that draws
nothing else does).
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Self

from vdu.core.errors import InputError
from vdu.core.ranges import AT_LEAST_0
from vdu.core.types import Batch, Denoiser, Losses, NoisedBatch
from vdu.methods.base import BaseMethod, under
from vdu.methods.registry import register

__all__ = ["ConceptAblation"]


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class ConceptAblation(BaseMethod):
    """Concept ablation (Kumari et al. 2023).

    Args:
        hold_weight: λ ≥ 0, the weight of the anchor's denoising loss.

    Raises:
        InputError: if λ is negative.
    """

    hold_weight: float = 1.0

    name = "concept-ablation"
    summary = (
        "Trains the predictions under the concept towards those under another label or prompt, on images of that one."
    )
    needs = frozenset({"instead"})
    uses = frozenset({"substitute"})
    substitutes = "always"
    limits = MappingProxyType({"mse": 2.0, "instead_mse": 2.0})

    ranges = MappingProxyType({"hold_weight": AT_LEAST_0})

    def for_model(self, denoiser: Denoiser, *, instead: bool = False) -> Self:
        """Refuse a model without conditions."""
        if not denoiser.class_names:
            raise InputError(
                "concept-ablation: this model is unconditional, and the method moves one label or prompt to another; expected a model with "
                "labels or prompts. Use another method (vdu list)."
            )
        return super().for_model(denoiser, instead=instead)

    def losses(self, denoiser: Denoiser, batch: Batch) -> Losses:
        """Both terms, from one network call; for the log and the guard the plain errors under both conditions."""
        assert self.tools is not None, "prepare() comes first"
        concept = batch["instead"]  # labelled with what is to be forgotten
        both = NoisedBatch.joined(concept, under(concept, self.tools.substitute))
        guess, anchor = denoiser.noise(both).split(len(concept.x0))
        erase = (guess - anchor.detach()).square().mean()
        hold = (anchor - concept.noise).square().mean()
        mse = (guess.detach() - concept.noise).square().mean()
        terms = {"erase": erase, "hold": self.hold_weight * hold}
        return Losses(terms, {"mse": mse, "instead_mse": hold.detach()})
