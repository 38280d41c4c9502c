"""``vdu import``: a checkpoint of a public repository becomes a diffusers pipeline folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from vdu.commands.options import Count, GivenFirst
from vdu.core.errors import InputError
from vdu.core.records import atomic_folder

__all__ = ["Architecture", "ImportSettings", "run"]

Architecture = Literal["ddpm-pytorch", "improved-diffusion"]


@dataclass(frozen=True, kw_only=True)
class ImportSettings:
    """Turn a checkpoint of a public repository into a diffusers pipeline folder.

    Attributes:
        architecture: ddpm-pytorch (explainingai-code/DDPM-Pytorch, MNIST) or improved-diffusion (openai/improved-diffusion,
            unconditional CIFAR-10).
        checkpoint: the state dict of the network or of its moving average: .pth, .pt or .safetensors.
        output_dir: the pipeline folder; new or empty.
        schedule: the noise schedule of the training, which the file does not contain; only the published one is accepted.
        diffusion_steps: T of that schedule; likewise.
    """

    architecture: Annotated[Architecture, GivenFirst] = "ddpm-pytorch"
    checkpoint: Annotated[Path, GivenFirst] = Path()
    output_dir: Annotated[Path, GivenFirst] = Path()
    schedule: Literal["linear", "cosine"] | None = None
    diffusion_steps: Count | None = None


def run(settings: ImportSettings) -> dict[str, Any]:
    """Convert a checkpoint and save the pipeline; nothing is written unless all of it fits.

    Args:
        settings: see :class:`ImportSettings`.

    Returns:
        A summary: the pipeline's folder, parameter count, SHA-256 of the weights, schedule and timestep scale.

    Raises:
        InputError: if the checkpoint does not fit the architecture, or the output folder is not empty.
    """
    from vdu.core.checks import hash_parameters
    from vdu.models.importers import import_checkpoint
    from vdu.models.paper_networks import PUBLISHED_SCHEDULES
    from vdu.models.pipelines import network_of
    from vdu.models.saving import save_pipeline

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
        "parameters": sum(value.numel() for value in network_of(pipeline).parameters()),
        "sha256": hash_parameters(network_of(pipeline).state_dict()),
        "schedule": f"{schedule}, {steps} steps",
        "timestep_scale": getattr(pipeline, "timestep_scale", 1.0),
    }
