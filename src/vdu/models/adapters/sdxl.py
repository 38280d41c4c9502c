"""``StableDiffusionXLPipeline``: two text encoders, and a network that is also given the size of the image.

The condition is ``encoder_hidden_states``, ``text_embeds`` (the pooled words of the second encoder) and ``time_ids`` (original size,
crop, target size: those of a whole image of the model's own size). The null condition is zeros, or the empty prompt if the pipeline
does not say ``force_zeros_for_empty_prompt``.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vdu.core.types import Condition
from vdu.models.configuration import discrete_parts, is_a
from vdu.models.denoiser import on_device
from vdu.models.latent import latent_parts, refuse_further_inputs
from vdu.models.words import TextDenoiser, text_parts

__all__ = ["NETWORK", "PARTS", "READS", "SDXLDenoiser", "adapt", "matches"]

PARTS = frozenset({
    "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "scheduler", "image_encoder", "feature_extractor",
})  # fmt: skip
NETWORK = "unet"
READS = ("prompts",)


@dataclass(frozen=True)
class SDXLDenoiser(TextDenoiser):
    """A Stable Diffusion XL network as a denoiser of latents."""

    def raw(self, x_t: Tensor, timestep: Tensor, condition: Condition | None = None) -> Tensor:
        """The raw output of the network."""
        given = on_device(condition, x_t)
        added = {name: given.pop(name) for name in ("text_embeds", "time_ids")}
        return self.network(x_t, timestep, added_cond_kwargs=added, **given).sample


def matches(pipeline: Any) -> bool:
    """Whether it is a ``StableDiffusionXLPipeline``."""
    return is_a(pipeline, "StableDiffusionXLPipeline")


def adapt(pipeline: Any) -> SDXLDenoiser:
    """The pipeline's network itself, not a copy, as a denoiser."""
    refuse_further_inputs(pipeline.unet, "class_embed_type", "time_cond_proj_dim")
    parts = latent_parts(pipeline, pipeline.unet, pipeline.vae)
    config = pipeline.vae.config
    if config.get("latents_mean") is not None and config.get("latents_std") is not None:
        mean, std = (torch.tensor(config[name]).view(-1, 1, 1) for name in ("latents_mean", "latents_std"))
        parts |= {"scale": parts["scale"] / std, "shift": mean}

    def encode(pipeline: Any, prompt: str | None, device: torch.device) -> dict[str, Tensor]:
        words, _, pooled, _ = pipeline.encode_prompt(prompt or "", device=device, do_classifier_free_guidance=False)
        if prompt is None and pipeline.config.force_zeros_for_empty_prompt:
            words, pooled = torch.zeros_like(words), torch.zeros_like(pooled)
        size = parts["image_shape"][1:]
        time_ids = torch.tensor([[*size, 0, 0, *size]], dtype=words.dtype)
        return {"encoder_hidden_states": words, "text_embeds": pooled, "time_ids": time_ids}

    return SDXLDenoiser(
        network=pipeline.unet, **discrete_parts(pipeline.scheduler), **parts, **text_parts(pipeline, encode)
    )
