"""``StableDiffusionPipeline``, versions 1.x and 2.x: an autoencoder, a CLIP text encoder and a ``UNet2DConditionModel`` (ε or v).

The condition is ``encoder_hidden_states``, [batch, tokens, width]; the null condition is the empty prompt.
"""

from typing import Any

import torch
from torch import Tensor

from vdu.core.errors import InputError
from vdu.models.configuration import discrete_parts, is_a
from vdu.models.latent import latent_parts, refuse_further_inputs
from vdu.models.words import TextDenoiser, text_parts

__all__ = ["NETWORK", "PARTS", "READS", "adapt", "matches"]

PARTS = frozenset({
    "vae", "text_encoder", "tokenizer", "unet", "scheduler", "safety_checker", "feature_extractor", "image_encoder",
})  # fmt: skip
NETWORK = "unet"
READS = ("prompts",)
SET_ON_LOADING = {"clip_sample": False, "steps_offset": 1}  # options of the scheduler


def matches(pipeline: Any) -> bool:
    """Whether it is a ``StableDiffusionPipeline``."""
    return is_a(pipeline, "StableDiffusionPipeline")


def adapt(pipeline: Any) -> TextDenoiser:
    """The pipeline's network itself, not a copy, as a denoiser.

    Args:
        pipeline: a ``StableDiffusionPipeline``.

    Returns:
        The denoiser.

    Raises:
        InputError: if its network takes more than latents, timesteps and words, or loading would change its scheduler.
    """
    refuse_further_inputs(pipeline.unet, "class_embed_type", "addition_embed_type", "time_cond_proj_dim")
    for name, value in SET_ON_LOADING.items():
        if (got := pipeline.scheduler.config.get(name, value)) != value:
            raise InputError(
                f"pipeline: its scheduler has {name} {got}, which diffusers sets to {value} when it loads such a pipeline, so another "
                f"model would be loaded; expected {value}. Call pipeline.scheduler.register_to_config({name}={value})."
            )
    return TextDenoiser(
        network=pipeline.unet,
        **discrete_parts(pipeline.scheduler),
        **latent_parts(pipeline, pipeline.unet, pipeline.vae),
        **text_parts(pipeline, _encode),
    )


def _encode(pipeline: Any, prompt: str | None, device: torch.device) -> dict[str, Tensor]:
    words, _ = pipeline.encode_prompt(prompt or "", device, 1, False)
    return {"encoder_hidden_states": words}
