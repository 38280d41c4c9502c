"""From a diffusers pipeline to its denoiser: which family it is, and what is refused.

A new family is a file in :mod:`vdu.models.adapters` and its name in ``FAMILIES`` here; ``tests/models/test_conformance.py`` has one row
for each.
"""

from typing import Any

from torch import nn

from vdu.core.errors import InputError
from vdu.models.adapters import class_conditional, unconditional
from vdu.models.denoiser import PipelineDenoiser

__all__ = ["FAMILIES", "PARTS", "adapt", "refuse_parts"]

FAMILIES = (unconditional, class_conditional)
PARTS = ("unet", "scheduler")


def adapt(pipeline: Any) -> PipelineDenoiser:
    """Put a diffusers pipeline behind the face that methods, samplers and probes see.

    Args:
        pipeline: a pipeline of a known family: unconditional or class-conditional, in pixel space.

    Returns:
        The denoiser; its network is the pipeline's own object, not a copy.

    Raises:
        InputError: if the pipeline is of another kind, or its schedule or prediction type is unknown.
    """
    unet, scheduler = getattr(pipeline, "unet", None), getattr(pipeline, "scheduler", None)
    if not isinstance(unet, nn.Module) or scheduler is None:
        raise InputError(
            f"pipeline: got {type(pipeline).__name__}, which lacks a unet or a scheduler; "
            "expected an unconditional diffusers pipeline such as DDPMPipeline or DDIMPipeline."
        )
    refuse_parts(
        "pipeline", [name for name, part in pipeline.components.items() if name not in PARTS and part is not None]
    )
    for family in FAMILIES:
        if family.matches(pipeline):
            return family.adapt(pipeline)
    kind = getattr(unet.config, "class_embed_type", None)
    raise InputError(
        f"pipeline: its network is conditioned through class_embed_type {kind!r}; expected an unconditional network, or one with "
        "num_class_embeds and no class_embed_type. Other conditions are not supported yet."
    )


def refuse_parts(where: str, others: list[str]) -> None:
    """Refuse a pipeline with parts that no family knows.

    Raises:
        InputError: if there are any.
    """
    if others:
        raise InputError(
            f"{where}: has {', '.join(others)}; expected a model in pixel space (unet and scheduler only). "
            "Latent and text-to-image pipelines are not supported yet."
        )
