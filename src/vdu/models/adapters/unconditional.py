"""Unconditional pixel-space pipelines: ``DDPMPipeline``, ``DDIMPipeline`` and their like, a U-Net and a scheduler."""

from typing import Any

from vdu.models.configuration import unet_parts
from vdu.models.denoiser import PipelineDenoiser

__all__ = ["NETWORK", "PARTS", "READS", "adapt", "matches"]

PARTS = frozenset({"unet", "scheduler"})
NETWORK = "unet"
READS = ("timestep_scale",)


def matches(pipeline: Any) -> bool:
    """Whether the network takes nothing besides x_t and t."""
    config = pipeline.unet.config
    return not getattr(config, "num_class_embeds", None) and not getattr(config, "class_embed_type", None)


def adapt(pipeline: Any) -> PipelineDenoiser:
    """The pipeline's network itself, not a copy, as a denoiser."""
    return PipelineDenoiser(**unet_parts(pipeline))
