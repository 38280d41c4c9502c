"""Unconditional latent pipelines: ``LDMPipeline``, an autoencoder (vector-quantised or not) and a ``UNet2DModel``."""

from typing import Any

from vdu.models.configuration import discrete_parts, is_a
from vdu.models.latent import LatentDenoiser, latent_parts

__all__ = ["NETWORK", "PARTS", "READS", "adapt", "matches"]

PARTS = frozenset({"vqvae", "unet", "scheduler"})
NETWORK = "unet"
READS = ()


def matches(pipeline: Any) -> bool:
    """Whether it is an ``LDMPipeline`` whose network takes nothing besides latents and timesteps."""
    config = getattr(pipeline.unet, "config", {})
    return is_a(pipeline, "LDMPipeline") and not config.get("num_class_embeds") and not config.get("class_embed_type")


def adapt(pipeline: Any) -> LatentDenoiser:
    """The pipeline's network itself, not a copy, as a denoiser."""
    return LatentDenoiser(
        network=pipeline.unet,
        **discrete_parts(pipeline.scheduler),
        **latent_parts(pipeline, pipeline.unet, pipeline.vqvae),
    )
