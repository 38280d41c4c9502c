"""``vdu pretrain``: train a diffusion model, unconditional or class-conditional, or fine-tune one."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from vdu.commands.options import Count, GivenFirst, NotNegative, OutputDir, Rate, Seed, Share, Tracker, to_toml
from vdu.core.errors import BusyError, InputError, shown
from vdu.core.processes import place
from vdu.core.progress import expect, whole
from vdu.core.ranges import SEED, require_ranges
from vdu.core.runs import Run

if TYPE_CHECKING:
    from vdu.data.images import ImageSet
    from vdu.training.loop import TrainSettings

__all__ = ["PretrainSettings", "run", "training_images"]

LABEL_DROPOUT = 0.1  # Ho & Salimans 2022, arXiv 2207.12598


@dataclass(frozen=True, kw_only=True)
class PretrainSettings:
    """Train a diffusion model from scratch, unconditional or (with --labels) class-conditional, or fine-tune one.

    Attributes:
        data: images: mnist, cifar10, digits, mnist:FOLDER, hf:NAME, an image folder or a list of files.
        output_dir: the run folder; the trained pipeline is in its pipeline/.
        without: classes to leave out (for the "retrained" reference of an unlearning run).
        from_pipeline: fine-tune this diffusers pipeline folder instead of starting from a new model.
        model: the new model: small (8 to 64 pixels), or the paper's: ddpm-pytorch (1×28×28), improved-diffusion (3×32×32).
        labels: train a class-conditional model. Wherever a model has a null class or takes prompts, one image in ten is shown without its
            class or caption, for classifier-free guidance.
        members: number of models to train, with the seeds seed, seed + 1, … in member-0/, member-1/, …: an ensemble for "vdu posterior
            ensemble". A restart, or another machine with access to the same folder, continues with the missing members.
        steps: optimiser steps.
        batch_size: images per step, over all processes.
        learning_rate: Adam's peak step size.
        lr_schedule: constant, linear or cosine.
        warmup_steps: linear warm-up of the learning rate.
        ema_decay: decay of the weight average that is saved; 0 saves the last weights.
        max_grad_norm: gradient clipping.
        gradient_accumulation_steps: micro-batches per step and process.
        mixed_precision: no, fp16 or bf16.
        compile: compile the network (takes minutes at the start; faster steps on an accelerator).
        seed: seed of weights, batches and noise.
        checkpointing_steps: steps between checkpoints.
        checkpoints_total_limit: number of checkpoints to keep.
        resume_from_checkpoint: "latest" continues an interrupted run.
        overwrite: start anew in a folder that already holds a run.
        report_to: also send the logged values to tensorboard, wandb or trackio.
    """

    data: Annotated[str, GivenFirst] = ""
    output_dir: OutputDir = Path("model")
    without: tuple[str, ...] = ()
    from_pipeline: Annotated[Path | None, Parameter(alias="--from")] = None
    model: Literal["small", "ddpm-pytorch", "improved-diffusion"] = "small"
    labels: bool = False
    members: Count = 1
    steps: Count = 4000
    batch_size: Count = 128
    learning_rate: Rate = 1e-3
    lr_schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_steps: NotNegative = 100
    ema_decay: Share = 0.999
    max_grad_norm: Rate = 1.0
    gradient_accumulation_steps: Count = 1
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    compile: bool = False
    seed: Seed = 0
    checkpointing_steps: Count = 500
    checkpoints_total_limit: Count = 2
    resume_from_checkpoint: Literal["latest"] | None = None
    overwrite: bool = False
    report_to: Tracker = "none"

    def training(self) -> "TrainSettings":
        """The training loop's settings."""
        from vdu.core.rng import derive_seed
        from vdu.training.loop import TrainSettings

        return TrainSettings(
            steps=self.steps, learning_rate=self.learning_rate, lr_schedule=self.lr_schedule,
            warmup_steps=self.warmup_steps, gradient_accumulation_steps=self.gradient_accumulation_steps,
            max_grad_norm=self.max_grad_norm, ema_decay=self.ema_decay or None, mixed_precision=self.mixed_precision,
            seed=derive_seed(self.seed, "training"), checkpointing_steps=self.checkpointing_steps,
            checkpoints_total_limit=self.checkpoints_total_limit,
        )  # fmt: skip


def training_images(data: str, without: tuple[str, ...], shape: tuple[int, int, int] | None) -> "ImageSet":
    """The images to train on, without the classes to leave out."""
    from vdu.data.sources import load_images

    images = load_images(data, shape=shape, split="train")
    if not without:
        return images
    from vdu.data.forget import split_by_class
    from vdu.data.overlap import without_copies

    left_out, kept = split_by_class(images, without)
    return without_copies(kept, left_out, "training images", "images to leave out") if len(kept) else kept


def run(settings: PretrainSettings) -> dict[str, Any]:
    """Train, and save the pipeline with the averaged weights; or several, one after another.

    Args:
        settings: see :class:`PretrainSettings`.

    Returns:
        A summary: the pipeline's folder, steps and last loss.

    Raises:
        InputError: if the images do not fit the model, two models are given, or the output folder is not empty.
    """
    require_ranges(vars(settings))  # also where the settings were made in Python
    if settings.members > 1:
        return _run_members(settings)
    import torch

    from vdu.core.rng import derive_seed
    from vdu.data.sources import place_of
    from vdu.models.denoiser import PipelineDenoiser
    from vdu.models.finding import find_pipeline
    from vdu.models.networks import new_pipeline
    from vdu.models.pipelines import hashes_of, load_pipeline
    from vdu.models.saving import save_pipeline
    from vdu.training.accelerator import make_accelerator, require_precision
    from vdu.training.batches import condition_of, require_captions, require_divisible
    from vdu.training.loop import fingerprint_of, require_resumable
    from vdu.training.pretraining import fit, identity
    from vdu.training.trackers import require_tracker
    from vdu.unlearning.effect import forget_predictions, require_finite

    require_precision(make_accelerator(settings.mixed_precision))  # which connects the processes of a launcher
    if settings.from_pipeline:
        if settings.model != "small":
            raise InputError(
                f"model: got {settings.model} and --from-pipeline {settings.from_pipeline}; expected one of the two, since "
                "a pipeline brings its own network. Leave one of them out."
            )
        folder = find_pipeline(settings.from_pipeline)
        settings, pipeline = replace(settings, from_pipeline=folder), load_pipeline(folder)
        denoiser = PipelineDenoiser.from_pipeline(pipeline)
        images = training_images(settings.data, settings.without, denoiser.image_shape)
        if settings.labels and not denoiser.class_names:
            raise InputError(
                f"--labels: {settings.from_pipeline} is an unconditional model and takes no classes; expected a class-conditional "
                "one. Leave the flag out, or train a new model."
            )
    else:
        images = training_images(settings.data, settings.without, None)
        classes = _class_names(images, bool(settings.without)) if settings.labels else ()
        pipeline = new_pipeline(
            images.shape, seed=derive_seed(settings.seed, "weights"), model=settings.model, class_names=classes
        )
    if len(images) == 0:
        raise InputError("data: no images are left to train on; leave fewer classes out.")
    model = PipelineDenoiser.from_pipeline(pipeline)
    require_captions(model, images, "--data", "images in folders that are named by their captions")
    condition_of(model, images, torch.arange(len(images)), "--data")  # unknown classes
    require_divisible(settings.batch_size, settings.gradient_accumulation_steps)
    require_tracker(settings.report_to, settings.output_dir)
    training = settings.training()
    training.warn()
    drops = model.takes_prompts or getattr(model, "null_class", None) is not None
    how: dict[str, Any] = {
        "batch_size": settings.batch_size, "label_dropout": LABEL_DROPOUT if drops else 0.0, "compile_network": settings.compile
    }  # fmt: skip
    known = identity(model, images, **how)
    inputs = {"data": {"description": images.description, "n_images": len(images), "sha256": images.sha256}}
    if settings.from_pipeline:
        inputs["model"] = {"path": str(settings.from_pipeline), **hashes_of(pipeline)}
    resume, n_processes = bool(settings.resume_from_checkpoint), place()[1]
    keep = (settings.from_pipeline, place_of(settings.data))
    with Run(settings.output_dir, "pretrain", overwrite=settings.overwrite, resume=resume, keep=keep) as record:
        if resume:
            require_resumable(record.folder, training, known, n_processes)
        record.start(to_toml(settings), inputs, identity=fingerprint_of(training, known, n_processes))
        with whole("pretrain"), record.stage("pretrain") as cost:
            expect({"pretrain": (settings.steps, 3 * settings.batch_size)})
            result = fit(
                model, images, training, seed=settings.seed, folder=record.folder, resume=resume, progress="pretrain",
                report_to=settings.report_to, **how,
            )  # fmt: skip
            require_finite(forget_predictions(model, images), result.steps)
            cost |= {"network_evaluations": 3 * settings.batch_size * settings.steps, "whole": True}
        with record.replacing("pipeline") as temporary:
            save_pipeline(pipeline, temporary)
        weights = hashes_of(pipeline) | {"weights": "ema" if settings.ema_decay else "raw"}
        record.finish(pipeline=weights)
    return {
        "pipeline": str(record.folder / "pipeline"),
        "steps": result.steps,
        "loss": result.last.get("loss"),
        "sha256": weights["sha256"],
        "weights": weights["weights"],
    }


def _class_names(images: "ImageSet", with_left_out: bool) -> tuple[str, ...]:
    """The classes on which a new model is conditioned.

    A retrained model has the classes of the original, also those that were left out: both are sampled under the same ones.

    Returns:
        Their names.

    Raises:
        InputError: if the images have no labels.
    """
    if images.labels is None:
        raise InputError("--labels: the images have none; expected a labelled data set or a folder of class folders.")
    present = images.labels.unique().tolist()
    if images.class_names is None:
        return tuple(map(str, range(max(present) + 1)))
    return tuple(name for i, name in enumerate(images.class_names) if with_left_out or i in present)


def _run_members(settings: PretrainSettings) -> dict[str, Any]:
    """Member k in member-k/ with seed + k; finished members, and members that another process is training, are skipped."""
    if not SEED.holds(last := settings.seed + settings.members - 1):
        raise InputError(
            f"--seed: got {settings.seed} for {settings.members} members, of which the last would have the seed {shown(last)}; expected "
            "seeds of at most 64 bits. Give a smaller one."
        )
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
