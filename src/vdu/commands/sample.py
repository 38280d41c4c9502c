"""``vdu sample``: draw images from a pipeline."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from vdu.commands.options import Count, GivenFirst, Guidance, OutputDir, SamplerSettings, Seed, to_toml
from vdu.core.records import atomic_file
from vdu.core.runs import Run

__all__ = ["SampleSettings", "run"]


@dataclass(frozen=True, kw_only=True)
class SampleSettings(SamplerSettings):
    """Draw images from a pipeline: PNG files, one grid, and all pixels in one safetensors file.

    Attributes:
        pipeline: a diffusers pipeline folder.
        output_dir: the folder for the images.
        n_images: how many.
        label: a class to draw, by name or number, or a prompt for a text-to-image model; several are drawn in turn. By default a model
            draws them by the images' seeds, each with the same chance.
        guidance_scale: scale of classifier-free guidance, at least 1; without it the network is evaluated once a step.
        seed: image i starts from noise drawn from (seed, i).
        overwrite: start anew in a folder that already holds a run.
    """

    pipeline: Annotated[Path, GivenFirst] = Path()
    output_dir: OutputDir = Path("samples")
    n_images: Count = 64
    label: tuple[str, ...] = ()
    guidance_scale: Guidance | None = None
    seed: Seed = 0
    overwrite: bool = False


def run(settings: SampleSettings) -> dict[str, Any]:
    """Draw images; under ``torchrun`` the processes share the work and the images stay the same, bit by bit.

    Args:
        settings: see :class:`SampleSettings`.

    Returns:
        The paths of the images. A class that the model lacks, and guidance of an unconditional one, are refused (``InputError``).

    Raises:
        InputError: if there are more labels than images, or more images than memory holds.
    """
    import torch
    from safetensors.torch import save_file

    from vdu.core.errors import InputError
    from vdu.core.room import FLOATS, require_room
    from vdu.data.images import to_uint8
    from vdu.data.pictures import save_grid, save_pngs
    from vdu.diffusion.sampling import sample
    from vdu.models.denoiser import PipelineDenoiser
    from vdu.models.finding import find_pipeline
    from vdu.models.pipelines import hashes_of, load_pipeline
    from vdu.replay.generated import image_seeds
    from vdu.training.accelerator import make_accelerator

    device = make_accelerator().device
    settings = replace(settings, pipeline=find_pipeline(settings.pipeline))
    pipeline = load_pipeline(settings.pipeline)
    denoiser = PipelineDenoiser.from_pipeline(pipeline.to(device))
    sampler = replace(settings.sampler(), guidance_scale=settings.guidance_scale)
    sampler.make(denoiser)  # fails early if the model's schedule does not support it
    require_room("--n-images", settings.n_images, denoiser.image_shape, FLOATS)
    if len(settings.label) > settings.n_images:
        raise InputError(
            f"--label: got {len(settings.label)} labels for {settings.n_images} images; expected at most one per image. Raise --n-images."
        )
    labels = [settings.label[i % len(settings.label)] for i in range(settings.n_images)] if settings.label else None
    labels = labels and denoiser.meant(labels)
    denoiser.condition(labels or [])  # refuses unknown classes
    record = Run(settings.output_dir, "sample", overwrite=settings.overwrite, keep=(settings.pipeline,))
    model = {"path": str(settings.pipeline), **hashes_of(pipeline)}
    record.start(to_toml(settings), {"model": model})
    seeds = image_seeds(settings.seed, settings.n_images)
    images = to_uint8(sample(denoiser, seeds, sampler, labels=labels, shared=True, progress="sample"))
    if record.active:
        with atomic_file(record.folder / "images.safetensors") as temporary:
            save_file({"images": images, "seeds": torch.tensor(seeds)}, temporary)
        save_pngs(images, record.folder / "images")
        save_grid(images, record.folder / "grid.png")
    record.finish()
    return {"images": str(record.folder / "images"), "grid": str(record.folder / "grid.png"), "n_images": len(images)}
