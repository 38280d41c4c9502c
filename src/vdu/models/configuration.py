"""Reads the configurations of a pipeline's scheduler and network, for the adapters."""

from typing import Any

from torch import Tensor

from vdu.core.errors import InputError
from vdu.diffusion.schedule import NoiseSchedule

__all__ = [
    "discrete_parts",
    "is_a",
    "read_prediction_type",
    "read_schedule",
    "read_shape",
    "scheduler_configuration",
    "unet_parts",
]

DISCRETE_TYPES = ("epsilon", "v_prediction", "sample")


def is_a(pipeline: Any, name: str) -> bool:
    """Whether a pipeline is of a class, or a subclass, of this name; without importing it, since it may need transformers."""
    return any(each.__name__ == name for each in type(pipeline).__mro__)


def scheduler_configuration(scheduler: Any) -> dict[str, Any]:
    """A scheduler's configuration without the list of defaults, whose entries diffusers' ``from_config`` would ignore."""
    return {name: value for name, value in scheduler.config.items() if name != "_use_default_values"}


def read_schedule(scheduler: Any) -> NoiseSchedule:
    """The noise schedule of a discrete-time diffusers scheduler.

    Args:
        scheduler: with ``alphas_cumprod``.

    Returns:
        The schedule.

    Raises:
        InputError: if the scheduler does not provide it.
    """
    alpha_bars = getattr(scheduler, "alphas_cumprod", None)
    if not isinstance(alpha_bars, Tensor):
        raise InputError(
            f"pipeline: its scheduler {type(scheduler).__name__} has no alphas_cumprod, so its noise schedule is unknown; "
            "expected a discrete-time scheduler (DDPM, DDIM, DPM-Solver++ …). Save the pipeline with the scheduler it was trained with."
        )
    return NoiseSchedule(alpha_bars)


def read_prediction_type(scheduler: Any) -> str:
    """The prediction type of the network, one of "epsilon", "v_prediction" and "sample".

    Args:
        scheduler: whose configuration has a ``prediction_type``.

    Returns:
        The prediction type.

    Raises:
        InputError: if the scheduler's configuration names another.
    """
    kind = scheduler.config.get("prediction_type")
    if kind not in DISCRETE_TYPES:
        raise InputError(f"pipeline: prediction_type {kind!r} is unknown; expected one of {', '.join(DISCRETE_TYPES)}.")
    return kind


def read_shape(config: Any) -> tuple[int, int, int]:
    """Channels, height and width of the images of a ``UNet2DModel``-like network.

    Args:
        config: the network's configuration, with ``sample_size`` and ``in_channels``.

    Returns:
        The shape.

    Raises:
        InputError: if its configuration has no size.
    """
    size = config.sample_size
    if size is None:
        raise InputError(
            "pipeline: the unet's configuration has no sample_size, so the image size is unknown; set it and save again."
        )
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    return int(config.in_channels), int(height), int(width)


def unet_parts(pipeline: Any) -> dict[str, Any]:
    """What a pixel-space pipeline of a U-Net and a discrete-time scheduler gives its denoiser, by argument name."""
    return {
        "network": pipeline.unet,
        "schedule": read_schedule(pipeline.scheduler),
        "prediction_type": read_prediction_type(pipeline.scheduler),
        "image_shape": read_shape(pipeline.unet.config),
        "scheduler_config": scheduler_configuration(pipeline.scheduler),
        "timestep_scale": float(getattr(pipeline, "timestep_scale", 1.0)),
    }


def discrete_parts(scheduler: Any) -> dict[str, Any]:
    """What a discrete-time scheduler gives a denoiser of latents, by argument name; latents are clipped only where it asks for it."""
    return {
        "schedule": read_schedule(scheduler),
        "prediction_type": read_prediction_type(scheduler),
        "scheduler_config": {"clip_sample": False, **scheduler_configuration(scheduler)},  # DDPM's own default is True
    }
