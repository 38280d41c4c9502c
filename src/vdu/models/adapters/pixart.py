"""``PixArtAlphaPipeline`` and ``PixArtSigmaPipeline``: a T5 text encoder and a transformer with cross-attention.

The condition is ``encoder_hidden_states`` and ``encoder_attention_mask``; networks with additional conditions (Alpha at 1024 pixels) are
also given ``resolution`` and ``aspect_ratio``, those of the model's own size. The null condition is the empty prompt.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vdu.core.types import Condition
from vdu.models.configuration import discrete_parts, is_a
from vdu.models.denoiser import on_device
from vdu.models.identity import CLEANED
from vdu.models.latent import latent_parts
from vdu.models.words import TextDenoiser, text_parts

__all__ = ["NETWORK", "PARTS", "READS", "PixArtDenoiser", "adapt", "matches"]

PARTS = frozenset({"vae", "text_encoder", "tokenizer", "transformer", "scheduler"})
NETWORK = "transformer"
READS = ("prompts",)


@dataclass(frozen=True)
class PixArtDenoiser(TextDenoiser):
    """A PixArt network as a denoiser of latents."""

    def raw(self, x_t: Tensor, timestep: Tensor, condition: Condition | None = None) -> Tensor:
        """The raw output of the network, with its variance channels if it has them."""
        given = on_device(condition, x_t)
        added = {name: given.pop(name, None) for name in ("resolution", "aspect_ratio")}
        return self.network(x_t, timestep=timestep, added_cond_kwargs=added, **given).sample


def matches(pipeline: Any) -> bool:
    """Whether it is a ``PixArtAlphaPipeline`` or a ``PixArtSigmaPipeline``."""
    return is_a(pipeline, "PixArtAlphaPipeline") or is_a(pipeline, "PixArtSigmaPipeline")


def adapt(pipeline: Any) -> PixArtDenoiser:
    """The pipeline's network itself, not a copy, as a denoiser."""
    parts = latent_parts(pipeline, pipeline.transformer, pipeline.vae)
    _, height, width = parts["image_shape"]

    def encode(pipeline: Any, prompt: str | None, device: torch.device) -> dict[str, Tensor]:
        words, mask, _, _ = pipeline.encode_prompt(
            prompt or "", do_classifier_free_guidance=False, device=device, clean_caption=_cleans()
        )
        found = {"encoder_hidden_states": words, "encoder_attention_mask": mask}
        if pipeline.transformer.use_additional_conditions:
            found["resolution"] = torch.tensor([[height, width]], dtype=words.dtype)
            found["aspect_ratio"] = torch.tensor([[height / width]], dtype=words.dtype)
        return found

    words = text_parts(pipeline, encode, how=(CLEANED,) if _cleans() else ())
    return PixArtDenoiser(network=pipeline.transformer, **discrete_parts(pipeline.scheduler), **parts, **words)


def _cleans() -> bool:
    """Whether the pipeline itself cleans captions: it does where these libraries are installed."""
    from diffusers.utils import is_bs4_available, is_ftfy_available

    return is_bs4_available() and is_ftfy_available()
