"""``vdu pretrain``: train an unconditional diffusion model, or fine-tune one, with the mean squared error of the noise.

L(θ) = E ‖ε − ε_θ(x_t, t)‖² / d,  t uniform over 1 … T      (Ho et al. 2020, arXiv 2006.11239, Eq. 14)
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vdu.checks import hash_parameters
from vdu.data.images import ImageSet
from vdu.errors import BusyError, InputError
from vdu.models.denoiser import PipelineDenoiser, load_pipeline, save_pipeline
from vdu.recipes.settings import PretrainSettings, to_toml
from vdu.rng import derive_seed
from vdu.runs import Run
from vdu.training.batches import NoisyImages, require_divisible
from vdu.training.denoising import DenoisingObjective
from vdu.training.loop import TrainSettings, make_accelerator, train
from vdu.training.trackers import require_tracker

__all__ = ["fit", "run", "training_images"]


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
        settings: see :class:`vdu.recipes.settings.PretrainSettings`.

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
        images = training_images(settings.data, settings.without, PipelineDenoiser.from_pipeline(pipeline).sample_shape)
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
        result = fit(pipeline, images, settings, folder=record.folder, resume=resume)
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


def fit(
    pipeline: Any,
    images: ImageSet,
    settings: PretrainSettings,
    *,
    folder: Path | None,
    resume: bool = False,
    progress: str | None = "pretrain",
    alpha_bar_range: tuple[float, float] = (0.0, 1.0),
) -> Any:
    """Train a pipeline's network in place; its weights become the averaged ones if an average is kept.

    Args:
        pipeline: the pipeline to train.
        images: what to train on.
        settings: how to train.
        folder: the run folder, or None to write nothing.
        resume: continue from the newest checkpoint.
        progress: title of the progress bar; None shows none.
        alpha_bar_range: only noise levels with ᾱ in this range are trained on.

    Returns:
        The :class:`vdu.training.loop.TrainResult`.
    """
    denoiser = PipelineDenoiser.from_pipeline(pipeline)
    levels = denoiser.schedule.within(alpha_bar_range).double()
    make_batch = NoisyImages("data", images, settings.batch_size, levels, derive_seed(settings.seed, "batches"))
    how = TrainSettings(
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        lr_schedule=settings.lr_schedule,
        warmup_steps=settings.warmup_steps,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        max_grad_norm=settings.max_grad_norm,
        ema_decay=settings.ema_decay or None,
        mixed_precision=settings.mixed_precision,
        seed=derive_seed(settings.seed, "training"),
        checkpointing_steps=settings.checkpointing_steps,
        checkpoints_total_limit=settings.checkpoints_total_limit,
    )
    identity = f"{images.sha256} {hash_parameters(pipeline.unet.state_dict())} {settings.batch_size}"
    if settings.compile:
        pipeline.unet.compile()  # in place: the names of the weights stay. It chooses memory formats itself
        identity += " compiled"  # other bits
    result = train(
        pipeline.unet,
        DenoisingObjective(denoiser),
        make_batch,
        how,
        folder=folder,
        resume=resume,
        identity=identity,
        progress=progress,
        accelerator=make_accelerator(settings.mixed_precision, report_to=settings.report_to, folder=folder),
    )
    if result.ema is not None:
        with torch.no_grad():
            for name, value in pipeline.unet.named_parameters():
                value.copy_(result.ema[name])
    return result
