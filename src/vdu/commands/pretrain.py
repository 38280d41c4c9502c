"""``vdu pretrain``: train an unconditional diffusion model, or fine-tune one."""

from dataclasses import replace
from typing import Any

from vdu.commands.settings import PretrainSettings, to_toml
from vdu.core.checks import hash_parameters
from vdu.core.errors import BusyError, InputError
from vdu.core.rng import derive_seed
from vdu.core.runs import Run
from vdu.data.images import ImageSet
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.pipelines import load_pipeline, save_pipeline
from vdu.training.batches import require_divisible
from vdu.training.pretraining import fit
from vdu.training.trackers import require_tracker

__all__ = ["run", "training_images"]


def training_images(data: str, without: tuple[str, ...], shape: tuple[int, int, int] | None) -> ImageSet:
    """The images to train on, without the classes to leave out."""
    from vdu.data.sources import load_images

    images = load_images(data, shape=shape)
    if not without:
        return images
    from vdu.data.forget import split_by_class

    return split_by_class(images, without)[1]


def run(settings: PretrainSettings) -> dict[str, Any]:
    """Train, and save the pipeline with the averaged weights; or several, one after another.

    Args:
        settings: see :class:`vdu.commands.settings.PretrainSettings`.

    Returns:
        A summary: the pipeline's folder, steps and last loss.

    Raises:
        InputError: if the images do not fit the model, two models are named, or the output folder is taken.
    """
    if settings.members > 1:
        return _run_members(settings)
    from vdu.models.networks import new_pipeline

    if settings.from_pipeline:
        if settings.model != "small":
            raise InputError(
                f"model: got {settings.model} and --from-pipeline {settings.from_pipeline}; expected one of the two, since "
                "a pipeline brings its own network. Leave one of them out."
            )
        pipeline = load_pipeline(settings.from_pipeline)
        images = training_images(settings.data, settings.without, PipelineDenoiser.from_pipeline(pipeline).image_shape)
    else:
        images = training_images(settings.data, settings.without, None)
        pipeline = new_pipeline(images.shape, seed=derive_seed(settings.seed, "weights"), model=settings.model)
    if len(images) == 0:
        raise InputError("data: no images are left to train on; leave fewer classes out.")
    require_divisible(settings.batch_size, settings.gradient_accumulation_steps)
    require_tracker(settings.report_to, settings.output_dir)
    resume = bool(settings.resume_from_checkpoint)
    keep = (settings.from_pipeline, settings.data)
    record = Run(settings.output_dir, "pretrain", overwrite=settings.overwrite, resume=resume, keep=keep)
    inputs = {"data": {"description": images.description, "n_images": len(images), "sha256": images.sha256}}
    if settings.from_pipeline:
        inputs["model"] = {"path": str(settings.from_pipeline), "sha256": hash_parameters(pipeline.unet.state_dict())}
    record.start(to_toml(settings), inputs)
    with record.stage("pretrain") as cost:
        result = fit(
            PipelineDenoiser.from_pipeline(pipeline), images, settings.training(), batch_size=settings.batch_size,
            seed=settings.seed, folder=record.folder, resume=resume, progress="pretrain", compile_network=settings.compile,
            report_to=settings.report_to,
        )  # fmt: skip
        cost["network_evaluations"] = 3 * settings.batch_size * settings.steps
    with record.replacing("pipeline") as temporary:
        save_pipeline(pipeline, temporary)
    weights = {"sha256": hash_parameters(pipeline.unet.state_dict()), "weights": "ema" if settings.ema_decay else "raw"}
    record.finish(pipeline=weights)
    return {
        "pipeline": str(record.folder / "pipeline"),
        "steps": result.steps,
        "loss": result.last.get("loss"),
        **weights,
    }


def _run_members(settings: PretrainSettings) -> dict[str, Any]:
    """Member k in member-k/ with seed + k; a finished one costs a look, one that another process is making is left to it."""
    resume = None if settings.overwrite else "latest"
    summary: dict[str, Any] = {}
    for k in range(settings.members):
        folder = settings.output_dir / f"member-{k}"
        member = replace(settings, members=1, output_dir=folder, seed=settings.seed + k, resume_from_checkpoint=resume)
        try:
            summary[folder.name] = run(member)["pipeline"]
        except BusyError:
            summary[folder.name] = "left to the process that is making it"
    return summary
