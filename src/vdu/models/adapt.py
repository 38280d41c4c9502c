"""From a diffusers pipeline to its denoiser: which family it is, and what is refused.

A new family is a file in :mod:`vdu.models.adapters` and its name in ``FAMILIES`` here; ``tests/models/test_conformance.py`` has one row
for each.
"""

from typing import Any

from torch import nn

from vdu.core.errors import InputError
from vdu.models.adapters import (
    class_conditional,
    dit,
    flux,
    latent_unconditional,
    pixart,
    sd3,
    sdxl,
    stable_diffusion,
    unconditional,
)
from vdu.models.configuration import read_extras
from vdu.models.denoiser import PipelineDenoiser

__all__ = ["FAMILIES", "NETWORKS", "PARTS", "adapt", "family_of", "refuse_parts"]

FAMILIES = (stable_diffusion, sdxl, sd3, flux, pixart, dit, latent_unconditional, unconditional, class_conditional)
PARTS = frozenset().union(*(family.PARTS for family in FAMILIES))
NETWORKS = tuple(dict.fromkeys(family.NETWORK for family in FAMILIES))
KNOWN = (
    "DDPMPipeline, DDIMPipeline, LDMPipeline, DiTPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline, "
    "StableDiffusion3Pipeline, FluxPipeline, PixArtAlphaPipeline, PixArtSigmaPipeline"
)


def adapt(pipeline: Any) -> PipelineDenoiser:
    """Wrap a diffusers pipeline in the adapter that methods, samplers and probes use.

    Args:
        pipeline: a pipeline of a known family.

    Returns:
        The denoiser; its network is the pipeline's own object, not a copy. A pipeline of another kind is refused
        (:func:`family_of`), and one whose schedule or prediction type is unknown.

    Raises:
        InputError: if names or numbers are set on it that cannot be saved, or that nothing reads in a pipeline of its kind.
    """
    family = family_of(pipeline)
    for name, value in read_extras(pipeline).items():
        if name not in family.READS and (name, value) != ("timestep_scale", 1.0):
            raise InputError(
                f"pipeline: it has {name}, which nothing reads in a {type(pipeline).__name__}; expected none. Set pipeline.{name} = None; "
                "in a saved model remove it from vdu.json and the network's config.json."
            )
    return family.adapt(pipeline)


def family_of(pipeline: Any) -> Any:
    """The file of :mod:`vdu.models.adapters` that a pipeline belongs to.

    Args:
        pipeline: any object.

    Returns:
        The module.

    Raises:
        InputError: if the pipeline is of no known family, or a part of it is wrapped.
    """
    networks = [name for name in NETWORKS if isinstance(getattr(pipeline, name, None), nn.Module)]
    if not networks or getattr(pipeline, "scheduler", None) is None:
        raise InputError(
            f"pipeline: got {type(pipeline).__name__}, which lacks a network ({' or '.join(NETWORKS)}) or a scheduler; "
            f"expected a diffusers pipeline of a known kind: {KNOWN}."
        )
    present = {name for name, part in pipeline.components.items() if part is not None}
    refuse_parts("pipeline", sorted(present - PARTS))
    _refuse_wrappers(pipeline)
    for family in FAMILIES:
        if family.PARTS >= present and family.NETWORK in networks and family.matches(pipeline):
            return family
    kind = getattr(getattr(pipeline, networks[0]).config, "class_embed_type", None)
    if kind is not None:
        raise InputError(
            f"pipeline: its network is conditioned through class_embed_type {kind!r}; expected an unconditional network, or one with "
            "num_class_embeds and no class_embed_type. Other conditions are not supported yet."
        )
    raise InputError(f"pipeline: {type(pipeline).__name__} is not supported; expected one of {KNOWN}.")


def _refuse_wrappers(pipeline: Any) -> None:
    """Refuse a part without a configuration, such as what training on several GPUs puts around a network.

    Raises:
        InputError: naming the first one.
    """
    for name, part in pipeline.components.items():
        if isinstance(part, nn.Module) and not hasattr(part, "config"):
            inner = isinstance(getattr(part, "module", None), nn.Module)
            advice = f"Take it out: pipeline.{name} = pipeline.{name}.module." if inner else "Load the pipeline again."
            raise InputError(
                f"pipeline: its {name} is a {type(part).__name__} without a configuration, which no saved pipeline can hold; expected the "
                f"network itself. {advice}"
            )


def refuse_parts(where: str, others: list[str]) -> None:
    """Refuse a pipeline with parts that no family knows.

    Raises:
        InputError: if there are any.
    """
    if others:
        raise InputError(
            f"{where}: has {', '.join(others)}, which no known kind of pipeline has; expected one of {KNOWN}."
        )
