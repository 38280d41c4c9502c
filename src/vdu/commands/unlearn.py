"""``vdu unlearn``: make a pipeline forget, in a run folder."""

from dataclasses import replace
from typing import Any

from vdu.commands.methods import make_method
from vdu.commands.settings import UnlearnSettings, to_toml
from vdu.core.checks import hash_parameters
from vdu.core.errors import InputError
from vdu.core.rng import generator as named_generator
from vdu.core.runs import Run
from vdu.data.forget import split_by_class
from vdu.data.forget_source import absolute, class_names, forget_images
from vdu.data.images import ImageSet
from vdu.data.sources import load_images
from vdu.diffusion.schedule import kl_weights, weight_share
from vdu.methods.vdu import VDU
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.pipelines import hash_configuration, load_pipeline, save_pipeline
from vdu.posterior.gaussian import GaussianPosterior
from vdu.replay.auxiliaries import needs_selection
from vdu.replay.selection import require_enough
from vdu.report.card import write_card
from vdu.training.batches import require_divisible
from vdu.training.trackers import require_tracker
from vdu.unlearning.unlearn import STOPPING, check_origin, unlearn

__all__ = ["run"]


def run(settings: UnlearnSettings) -> dict[str, Any]:
    """Unlearn from the command line: check everything, then work in a run folder.

    Args:
        settings: see :class:`vdu.commands.settings.UnlearnSettings`.

    Returns:
        A summary: the new pipeline's folder and the last step's terms.

    Raises:
        InputError: if what is given does not fit together, or the output folder is taken.
    """
    settings = replace(settings, forget=absolute(settings.forget))  # evaluate may run in another folder
    pipeline = load_pipeline(settings.pipeline)
    shape = PipelineDenoiser.from_pipeline(pipeline).image_shape
    forget = forget_images(settings.forget, shape, classes=settings.forget_class, convert=settings.convert)
    method = make_method(settings)
    resume = bool(settings.resume_from_checkpoint)
    assert settings.batch_size is not None
    assert settings.n_own_samples is not None
    require_divisible(settings.batch_size, settings.gradient_accumulation_steps)
    require_tracker(settings.report_to, settings.output_dir)
    posterior = getattr(method, "posterior", None)
    if posterior is not None:  # now, before --overwrite empties the folder
        posterior.check_matches(dict(pipeline.unet.named_parameters()))
        check_origin(posterior, hash_parameters(pipeline.unet.state_dict()))
    if settings.retain and "retain" not in method.needs:
        raise InputError(
            f"--retain: got {settings.retain}, but the method {method.name} does not look at retained images. "
            "Leave it out, or use a method that does (vdu list)."
        )
    if settings.full_length and method.name not in STOPPING:
        raise InputError(
            f"--full-length: the method {method.name} has no stopping rule and always takes all its steps; leave it out "
            f"({' and '.join(sorted(STOPPING))} have one)."
        )
    if needs_selection(method, settings.retain not in {None, "self"}):
        require_enough(
            "forget images", len(forget)
        )  # before --overwrite empties the folder, and before samples are drawn
        require_enough("own samples (--n-own-samples)", settings.n_own_samples)
        settings.sampler().make(PipelineDenoiser.from_pipeline(pipeline))
    retain = None
    if settings.retain not in {None, "self"}:
        retain = load_images(str(settings.retain), shape=forget.shape, convert=settings.convert)
        known = retain.class_names or ()
        if retain.labels is not None and (shared := [name for name in settings.forget_class if name in known]):
            retain = split_by_class(retain, shared)[1]  # what is to be forgotten is not replayed
    keep = (settings.pipeline, settings.forget, settings.posterior, settings.retain)
    record = Run(settings.output_dir, "unlearn", overwrite=settings.overwrite, resume=resume, keep=keep)
    inputs = _inputs(settings, pipeline, forget, posterior)
    record.start(to_toml(settings), inputs)
    with record.stage("unlearn") as cost:
        result = unlearn(
            pipeline,
            method,
            forget=forget,
            retain=retain,
            steps=settings.steps,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            lr_schedule=settings.lr_schedule,
            warmup_steps=settings.warmup_steps,
            ema_decay=settings.ema_decay,
            n_own_samples=settings.n_own_samples,
            sampler=settings.sampler(),
            full_length=settings.full_length,
            force=settings.force,
            gradient_accumulation_steps=settings.gradient_accumulation_steps,
            max_grad_norm=settings.max_grad_norm,
            mixed_precision=settings.mixed_precision,
            checkpointing_steps=settings.checkpointing_steps,
            checkpoints_total_limit=settings.checkpoints_total_limit,
            generator=named_generator(settings.seed, "unlearn"),
            folder=record.folder,
            resume=resume,
            report_to=settings.report_to,
        )
        cost["network_evaluations"] = result.network_evaluations
        cost |= (result.aids.record if result.aids else {}) | ({"ending": result.ending} if result.ending else {})
    with record.replacing("pipeline") as temporary:
        save_pipeline(result.pipeline, temporary)
        told = {
            name: getattr(settings, name)
            for name in (
                *TOLD.get(settings.method, ("option",)),
                "steps",
                "batch_size",
                "learning_rate",
                "seed",
            )
        }
        write_card(temporary, inputs, method.name, told)
    sha256 = hash_parameters(result.pipeline.unet.state_dict())
    weights = "raw" if result.training.ema is None else "ema"
    extras: dict[str, Any] = {}
    if isinstance(method, VDU):
        extras["weight_share"] = weight_share(kl_weights(method.schedule, method.weights))
    if retain is not None:
        extras["retain"] = {"source": settings.retain, "description": retain.description, "sha256": retain.sha256}
    made = {"sha256": sha256, "configuration_sha256": _configuration(result.pipeline), "weights": weights}
    record.finish(pipeline=made, **extras)
    last = result.training.last
    return {
        "pipeline": str(record.folder / "pipeline"),
        "sha256": sha256,
        **({"ending": result.ending} if result.ending else {}),
        **last.get("terms", {}),
        **last.get("observed", {}),
    }


TOLD = {
    "vdu": ("gamma", "weights", "alpha_bar_min", "alpha_bar_max"),
    "ascent": ("weights", "alpha_bar_min", "alpha_bar_max"),
    "selective-amnesia": ("ewc",),
}  # settings for the card


def _configuration(pipeline: Any) -> str:
    return hash_configuration(pipeline.unet.config, pipeline.scheduler.config)


def _inputs(
    settings: UnlearnSettings, pipeline: Any, forget: ImageSet, posterior: GaussianPosterior | None
) -> dict[str, Any]:
    inputs: dict[str, Any] = {
        "model": {
            "path": str(settings.pipeline.resolve()),
            "sha256": hash_parameters(pipeline.unet.state_dict()),
            "configuration_sha256": _configuration(pipeline),
        },
        "forget": {
            "source": settings.forget,
            "classes": class_names(forget) if settings.forget_class else [],
            "description": forget.description,
            "n_images": len(forget),
            "sha256": forget.sha256,
        },
    }
    if posterior is not None and settings.posterior is not None:
        inputs["posterior"] = {
            "path": str(settings.posterior.resolve()),
            "sha256": posterior.sha256,
            "estimator": posterior.estimator,
        }
    return inputs
