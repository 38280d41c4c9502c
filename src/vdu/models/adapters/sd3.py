"""``StableDiffusion3Pipeline``: flow matching, two CLIP text encoders and an optional T5.

The condition is ``encoder_hidden_states`` and ``pooled_projections``; the null condition is the empty prompt.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vdu.core.types import Condition
from vdu.models.configuration import is_a
from vdu.models.denoiser import on_device
from vdu.models.flow import dynamic_shift, flow_parts
from vdu.models.latent import latent_parts
from vdu.models.words import TextDenoiser, text_parts

__all__ = ["NETWORK", "PARTS", "READS", "SD3Denoiser", "adapt", "matches"]

PARTS = frozenset({
    "vae", "text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3", "transformer", "scheduler",
    "image_encoder", "feature_extractor",
})  # fmt: skip
NETWORK = "transformer"
READS = ("prompts",)


@dataclass(frozen=True)
class SD3Denoiser(TextDenoiser):
    """A Stable Diffusion 3 network as a denoiser of latents."""

    def raw(self, x_t: Tensor, timestep: Tensor, condition: Condition | None = None) -> Tensor:
        """The raw output of the network, ε − x0."""
        return self.network(x_t, timestep=timestep, **on_device(condition, x_t)).sample

    def step_options(self, steps: int) -> dict[str, Any]:
        """The shift, where it depends on the size of the image."""
        if not self.scheduler_config.get("use_dynamic_shifting"):
            return {}
        config: Any = self.network.config
        n_patches = (self.latent_shape[1] // config.patch_size) * (self.latent_shape[2] // config.patch_size)
        return {"mu": dynamic_shift(self.scheduler_config, n_patches, 1.16)}


def matches(pipeline: Any) -> bool:
    """Whether it is a ``StableDiffusion3Pipeline``."""
    return is_a(pipeline, "StableDiffusion3Pipeline")


def adapt(pipeline: Any) -> SD3Denoiser:
    """The pipeline's network itself, not a copy, as a denoiser."""
    parts = latent_parts(pipeline, pipeline.transformer, pipeline.vae) | {"shift": pipeline.vae.config.shift_factor}
    return SD3Denoiser(
        network=pipeline.transformer, **flow_parts(pipeline.scheduler), **parts, **text_parts(pipeline, _encode)
    )


def _encode(pipeline: Any, prompt: str | None, device: torch.device) -> dict[str, Tensor]:
    asked = prompt or ""
    words, _, pooled, _ = pipeline.encode_prompt(asked, asked, asked, device=device, do_classifier_free_guidance=False)
    return {"encoder_hidden_states": words, "pooled_projections": pooled}
