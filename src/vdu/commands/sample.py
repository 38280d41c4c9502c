"""``vdu sample``: draw images from a pipeline."""

from typing import Any

import torch
from safetensors.torch import save_file

from vdu.commands.settings import SampleSettings, to_toml
from vdu.core.checks import hash_parameters
from vdu.core.records import atomic_file
from vdu.core.runs import Run
from vdu.data.images import to_uint8
from vdu.diffusion.sampling import sample
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.pipelines import load_pipeline
from vdu.replay.generated import image_seeds
from vdu.training.loop import make_accelerator

__all__ = ["run"]


def run(settings: SampleSettings) -> dict[str, Any]:
    """Draw images; under ``torchrun`` the processes share the work and the images stay the same, bit by bit.

    Args:
        settings: see :class:`vdu.commands.settings.SampleSettings`.

    Returns:
        Where the images are.
    """
    from vdu.data.pictures import save_grid, save_pngs

    accelerator = make_accelerator()
    pipeline = load_pipeline(settings.pipeline)
    denoiser = PipelineDenoiser.from_pipeline(pipeline.to(accelerator.device))
    sampler = settings.sampler()
    sampler.make(denoiser)  # refuses now what the model's schedule cannot do
    record = None
    if accelerator.is_main_process:
        record = Run(settings.output_dir, "sample", overwrite=settings.overwrite, keep=(settings.pipeline,))
        record.start(
            to_toml(settings),
            {"model": {"path": str(settings.pipeline), "sha256": hash_parameters(pipeline.unet.state_dict())}},
        )
    seeds = image_seeds(settings.seed, settings.n_images)
    images = to_uint8(sample(denoiser, seeds, sampler, accelerator=accelerator, progress="sample"))
    if record is None:
        return {}
    with atomic_file(record.folder / "images.safetensors") as temporary:
        save_file({"images": images, "seeds": torch.tensor(seeds)}, temporary)
    save_pngs(images, record.folder / "images")
    save_grid(images, record.folder / "grid.png")
    record.finish()
    return {"images": str(record.folder / "images"), "grid": str(record.folder / "grid.png"), "n_images": len(images)}
