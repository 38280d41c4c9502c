"""``vdu import``: a checkpoint of a public repository becomes a diffusers pipeline folder."""

from typing import Any

from vdu.commands.settings import ImportSettings
from vdu.core.checks import hash_parameters
from vdu.core.errors import InputError
from vdu.core.records import atomic_folder
from vdu.models.importers import import_checkpoint
from vdu.models.paper_networks import PUBLISHED_SCHEDULES
from vdu.models.pipelines import save_pipeline

__all__ = ["run"]


def run(settings: ImportSettings) -> dict[str, Any]:
    """Convert a checkpoint and save the pipeline; nothing is written unless all of it fits.

    Args:
        settings: see :class:`vdu.commands.settings.ImportSettings`.

    Returns:
        A summary: the pipeline's folder, parameter count, SHA-256 of the weights, schedule and timestep scale.

    Raises:
        InputError: if the checkpoint is not of the architecture, or the output folder is taken.
    """
    folder = settings.output_dir
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        state = "already holds files" if folder.is_dir() else "is a file"
        raise InputError(f"{folder}: {state}; expected a new or empty folder for the pipeline. Name another one.")
    pipeline = import_checkpoint(
        settings.checkpoint,
        settings.architecture,
        schedule=settings.schedule,
        diffusion_steps=settings.diffusion_steps,
    )
    with atomic_folder(folder) as temporary:
        save_pipeline(pipeline, temporary)
    schedule, steps = PUBLISHED_SCHEDULES[settings.architecture]
    return {
        "pipeline": str(folder),
        "parameters": sum(value.numel() for value in pipeline.unet.parameters()),
        "sha256": hash_parameters(pipeline.unet.state_dict()),
        "schedule": f"{schedule}, {steps} steps",
        "timestep_scale": getattr(pipeline, "timestep_scale", 1.0),
    }
