"""Unified concept editing (UCE): the keys and values of the cross-attention, edited in closed form.

    min_W  Σᵢ ‖W cᵢ − W₀ c′ᵢ‖²  +  λ Σⱼ ‖W cⱼ − W₀ cⱼ‖²  +  ρ ‖W − W₀‖²_F

    W = (Σᵢ W₀ c′ᵢ cᵢᵀ + λ Σⱼ W₀ cⱼ cⱼᵀ + ρ W₀) M⁻¹,     M = Σᵢ cᵢ cᵢᵀ + λ Σⱼ cⱼ cⱼᵀ + ρ I

W₀ the original's matrix, one for every layer's keys and one for its values; cᵢ the token embeddings of the prompts to forget, c′ᵢ those of
what takes their place (``--instead``, by default the empty prompt) at the same positions, cⱼ those of the prompts to keep. It is computed
in float64 as W − W₀ = W₀ Σᵢ (c′ᵢ − cᵢ) cᵢᵀ M⁻¹, which is 0 where nothing changes.

There are no images and no steps. The forget set is drawn all the same, for the evaluation.

The authors' code takes from each prompt the embedding of its last word alone (``uce_sd_erase.py``), and earlier that and all after it;
here all tokens of a prompt count, so that no tokenizer is needed. ρ = 0.5 and λ = 1 are those of that code.

Source: Gandikota, Orgad, Belinkov, Materzyńska & Bau 2024, "Unified Concept Editing in Diffusion Models", WACV, arXiv 2308.14761, Eq. 7.

Guaranteed: the minimum. Not guaranteed: that a prompt which names the concept in other words forgets it; that prompts which are not among
those to keep stay the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from vdu.core.errors import InputError
from vdu.core.ranges import AT_LEAST_0, POSITIVE
from vdu.core.types import Condition, Denoiser
from vdu.methods.base import HIDDEN, BaseMethod
from vdu.methods.defaults import TrainingDefaults
from vdu.methods.registry import register

__all__ = ["UCE", "edit"]


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class UCE(BaseMethod):
    """UCE (Gandikota et al. 2024).

    Args:
        keep_weight: λ ≥ 0, the weight of the prompts to keep.
        ridge: ρ > 0, the weight of the distance from the original's matrices.

    Raises:
        InputError: if a weight is out of range.
    """

    keep_weight: float = 1.0
    ridge: float = 0.5
    alpha_bar_range: tuple[float, float] = field(default=(0.0, 1.0), metadata=HIDDEN)  # there are no noise levels

    name = "uce"
    summary = "Edits the cross-attention's keys and values in closed form, so that a prompt is read as another one."
    needs = frozenset()
    uses = frozenset({"unwanted", "kept", "substitute"})
    substitutes = "always"
    empty_prompt = True  # leads to its tokens; the null condition of guidance is zeros in Stable Diffusion XL
    part = "cross-attention-kv"
    training = TrainingDefaults(steps=1)

    ranges = MappingProxyType({"keep_weight": AT_LEAST_0, "ridge": POSITIVE})

    def for_model(self, denoiser: Denoiser, *, instead: bool = False) -> Self:
        """Refuse a model whose cross-attention does not read the words themselves."""
        if not _reads_words(denoiser.network):
            raise InputError(
                f"uce: this {type(denoiser.network).__name__} has no cross-attention whose keys and values depend on the words alone; "
                "expected Stable Diffusion 1.x, 2.x or XL, or PixArt. Use another method (vdu list)."
            )
        return super().for_model(denoiser, instead=instead)

    @torch.no_grad()
    def solve(self, denoiser: Denoiser) -> Mapping[str, float]:
        """Write the edited matrices.

        Args:
            denoiser: its trainable parameters are the matrices.

        Returns:
            ``moved``, ‖W − W₀‖/‖W₀‖ over all of them.

        Raises:
            InputError: if nothing moves.
        """
        tools = self.tools
        assert tools is not None and tools.unwanted and tools.kept and tools.substitute, "prepare() comes first"
        old, new = _tokens(denoiser.network, tools.unwanted, like=tools.substitute)
        change = edit(
            old, new, _tokens(denoiser.network, tools.kept)[0], keep_weight=self.keep_weight, ridge=self.ridge
        )
        moved = total = 0.0
        for name, weight in denoiser.trainable().items():
            if name.endswith("weight"):
                before = weight.double()
                step = before @ change.to(before)
                moved, total = moved + float(step.square().sum()), total + float(before.square().sum())
                weight.copy_(before + step)
        if not moved:
            raise InputError(
                "uce: nothing moves, since what takes the place of the prompt has the same embedding; expected another prompt (--instead)."
            )
        return {"moved": (moved / total) ** 0.5}


def edit(old: Tensor, new: Tensor, kept: Tensor, *, keep_weight: float, ridge: float) -> Tensor:
    """Σᵢ (c′ᵢ − cᵢ) cᵢᵀ M⁻¹: every matrix W₀ becomes W₀ + W₀ times this.

    Args:
        old: cᵢ, [n, width].
        new: c′ᵢ, [n, width].
        kept: cⱼ, [m, width].
        keep_weight: λ.
        ridge: ρ.

    Returns:
        [width, width], float64.

    Examples:
        >>> old, new = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> edit(old, new, torch.zeros(0, 2), keep_weight=1.0, ridge=1.0).tolist()
        [[-0.5, 0.0], [0.5, 0.0]]
    """
    c, c_new, c_kept = old.double(), new.double(), kept.double()
    m = c.T @ c + keep_weight * c_kept.T @ c_kept + ridge * torch.eye(c.shape[1]).to(c)
    return torch.linalg.solve(m, c.T @ (c_new - c)).T  # M is symmetric


def _reads_words(network: nn.Module) -> bool:
    """Whether there is cross-attention, without projections in between that depend on the image or differ by model."""
    attention = [module for module in network.modules() if getattr(module, "is_cross_attention", False)]
    joint = any(getattr(module, "add_k_proj", None) is not None for module in attention)
    return bool(attention) and not joint and getattr(network, "encoder_hid_proj", None) is None


def _tokens(network: nn.Module, condition: Condition, like: Condition | None = None) -> tuple[Tensor, Tensor]:
    """The inputs of keys and values for some prompts, and those of another at the same positions, [tokens, width]; padding if attended."""
    # PixArt's condition has a mask; Stable Diffusion attends to the padding of its 77 positions, which counts like the words
    words, others = (_projected(network, each["encoder_hidden_states"]) for each in (condition, like or condition))
    mask, ends = (
        each.get("encoder_attention_mask", torch.ones(of.shape[:2])).bool().cpu()
        for each, of in ((condition, words), (like or condition, others))
    )
    last = ends.sum(1, keepdim=True) - 1  # where the other is shorter, its last token stands for the rest
    place = torch.minimum(torch.arange(words.shape[1])[None], last)
    others = others.gather(1, place[:, :, None].expand_as(others))
    return words[mask], others.expand_as(words)[mask]


def _projected(network: nn.Module, words: Tensor) -> Tensor:
    """PixArt's network maps the words once before all layers; others read them as they are."""
    project = cast("Any", getattr(network, "caption_projection", None))
    if project is None:
        return words.cpu()
    return project(words.to(next(network.parameters()))).cpu()
