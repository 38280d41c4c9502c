"""``FluxPipeline``: flow matching on latents in patches of 2×2, with a CLIP and a T5 text encoder.

The condition is ``encoder_hidden_states``, ``pooled_projections`` and, for a distilled network (``guidance_embeds``), ``guidance``: the
scale of guidance is an argument of such a network, 3.5 where nothing else is asked for. Others are guided by the empty prompt.

diffusers' configuration has no size of the image: it is the pipeline's default (1024 pixels), or ``image_size``, which ``vdu.json`` and
the network's configuration hold.
Latents are noised and sampled unpacked, [channels, height, width], and packed for the network alone. Its timesteps are s, not 1000 s.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vdu.core.errors import InputError
from vdu.core.types import Condition
from vdu.models.configuration import extra, is_a
from vdu.models.denoiser import on_device
from vdu.models.flow import dynamic_shift, flow_parts
from vdu.models.latent import latent_parts
from vdu.models.words import TextDenoiser, text_parts

__all__ = ["NETWORK", "PARTS", "READS", "FluxDenoiser", "adapt", "matches"]

PARTS = frozenset({
    "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "transformer", "scheduler", "image_encoder",
    "feature_extractor",
})  # fmt: skip
NETWORK = "transformer"
READS = ("prompts", "image_size")
GUIDANCE = 3.5  # diffusers' default


@dataclass(frozen=True)
class FluxDenoiser(TextDenoiser):
    """A FLUX network as a denoiser of latents."""

    def raw(self, x_t: Tensor, timestep: Tensor, condition: Condition | None = None) -> Tensor:
        """The raw output of the network, ε − x0, unpacked."""
        n, channels, height, width = x_t.shape
        given = on_device(condition, x_t)
        packed = x_t.view(n, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
        ranges = (torch.arange(length // 2, device=x_t.device) for length in (height, width))
        rows, columns = torch.meshgrid(*ranges, indexing="ij")
        places = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).view(-1, 3).to(x_t)
        output = self.network(
            packed.reshape(n, -1, 4 * channels),
            timestep=timestep.to(x_t.dtype) / 1000,
            img_ids=places,
            txt_ids=x_t.new_zeros(given["encoder_hidden_states"].shape[1], 3),
            **given,
        ).sample
        patches = output.view(n, height // 2, width // 2, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return patches.reshape(n, channels, height, width)

    def step_options(self, steps: int) -> dict[str, Any]:
        """Levels from 1 down to 1/steps, and the shift for the size of the image."""
        n_patches = (self.latent_shape[1] // 2) * (self.latent_shape[2] // 2)
        sigmas = torch.linspace(1.0, 1 / steps, steps, dtype=torch.float64, device="cpu").tolist()
        return {"sigmas": sigmas, "mu": dynamic_shift(self.scheduler_config, n_patches, 1.15)}


def matches(pipeline: Any) -> bool:
    """Whether it is a ``FluxPipeline``."""
    return is_a(pipeline, "FluxPipeline")


def adapt(pipeline: Any) -> FluxDenoiser:
    """The pipeline's network itself, not a copy, as a denoiser.

    Args:
        pipeline: a ``FluxPipeline``.

    Returns:
        The denoiser.

    Raises:
        InputError: if its images are not made of whole patches.
    """
    config, factor, size = pipeline.transformer.config, pipeline.vae_scale_factor, extra(pipeline, "image_size")
    size = pipeline.default_sample_size * factor if size is None else size
    if size % (2 * factor):
        raise InputError(
            f"pipeline: image_size: got {size}; expected a multiple of {2 * factor}, the side of a patch in pixels. Set "
            f"pipeline.image_size = {2 * factor * max(1, round(size / (2 * factor)))}."
        )
    parts = latent_parts(
        pipeline, pipeline.transformer, pipeline.vae, channels=config.in_channels // 4, size=size // factor
    )
    return FluxDenoiser(
        network=pipeline.transformer,
        **flow_parts(pipeline.scheduler),
        **parts | {"shift": pipeline.vae.config.shift_factor},
        **text_parts(pipeline, _encode),
    )


def _encode(pipeline: Any, prompt: str | None, device: torch.device) -> dict[str, Tensor]:
    words, pooled, _ = pipeline.encode_prompt(prompt or "", device=device)
    guidance = {"guidance": torch.full((1,), GUIDANCE)} if pipeline.transformer.config.guidance_embeds else {}
    return {"encoder_hidden_states": words, "pooled_projections": pooled, **guidance}
