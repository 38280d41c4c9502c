"""``vdu unlearn``: make a pipeline forget, in a run folder."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from vdu.commands.options import (
    Count,
    GivenFirst,
    NotNegative,
    OutputDir,
    Rate,
    SamplerSettings,
    Share,
    Tracker,
    to_toml,
)
from vdu.core.errors import InputError
from vdu.core.runs import Run
from vdu.methods import registry

if TYPE_CHECKING:
    from vdu.data.images import ImageSet
    from vdu.methods.base import BaseMethod
    from vdu.posterior.gaussian import GaussianPosterior
    from vdu.unlearning.unlearn import TrainingOptions

__all__ = ["MOVED", "UnlearnSettings", "as_options", "configuration", "make_method", "refuse_moved", "resolved", "run"]

MOVED: Mapping[str, Any] = MappingProxyType({
    "gamma": 0.1,
    "ewc": 10.0,
    "weights": "paper",
    "schedule_steps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "alpha_bar_min": 0.0,
    "alpha_bar_max": 1.0,
})
"""Settings of older versions that are method options now, with their former defaults."""


def _known(type_: Any, value: str) -> None:
    try:
        registry.resolve(value)
    except InputError as error:
        raise ValueError(str(error)) from None


@dataclass(frozen=True, kw_only=True)
class UnlearnSettings(SamplerSettings):
    """Make a pipeline forget images; the new pipeline is in the run folder's pipeline/.

    Attributes:
        pipeline: the diffusers pipeline folder of the model; it is not changed.
        forget: the images to forget: an image folder, a list of files, or a data set (then with --forget-class).
        output_dir: the run folder.
        forget_class: the classes to forget, if the images have labels.
        forget_label: class-conditional models: the class to forget, by the model's name for it; repeat the option for several. Without
            --forget the images are drawn from the model under that label.
        convert: convert images of another size or mode to the model's; by default they cause an error.
        method: auto (the one that measured best), or one of those that "vdu list" shows.
        option: NAME=VALUE, an option of the method, for example gamma=0.1 for vdu; "vdu list METHOD" shows them.
        posterior: file or run folder of "vdu posterior"; needed by vdu, and by selective-amnesia (estimator amnesia-fisher).
        retain: images to keep, for methods that can use them: a data set, folder or list (the classes to forget are left out
            of labelled images), or self (generated samples without those that resemble the forget set).
        n_own_samples: number of generated samples, drawn with the sampler below, for methods that use them.
        force: continue if the model generates almost none, or almost only, images like the forget set.
        full_length: take all steps, even if the stopping rule is met earlier.
        steps: maximum number of optimiser steps; a method with a stopping rule may stop early. The default depends on the
            method, as for the options below and the sampler.
        batch_size: images of each role per step, over all processes.
        learning_rate: Adam's step size.
        lr_schedule: constant, linear or cosine.
        warmup_steps: linear warm-up of the learning rate.
        ema_decay: decay of the weight average that is saved; 0 saves the last weights.
        gradient_accumulation_steps: micro-batches per step and process.
        max_grad_norm: gradient clipping; by default the method's, or none.
        mixed_precision: no, fp16 or bf16.
        seed: seeds everything.
        checkpointing_steps: steps between checkpoints.
        checkpoints_total_limit: number of checkpoints to keep; more of them give "vdu explore" a longer trade-off curve.
        resume_from_checkpoint: "latest" continues an interrupted run.
        overwrite: start anew in a folder that already holds a run.
        report_to: also send the logged values to tensorboard, wandb or trackio.
    """

    pipeline: Annotated[Path, GivenFirst] = Path()
    forget: Annotated[str, GivenFirst] = ""
    output_dir: OutputDir = Path("run")
    forget_class: tuple[str, ...] = ()
    forget_label: tuple[str, ...] = ()
    convert: bool = False
    method: Annotated[str, Parameter(validator=_known)] = "auto"
    option: tuple[str, ...] = ()
    posterior: Path | None = None
    retain: str | None = None
    n_own_samples: Count | None = None
    force: bool = False
    full_length: bool = False
    scheduler: Literal["ddpm", "ddim", "dpm++"] | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    inference_steps: Count | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    steps: Count | None = None
    batch_size: Count | None = None
    learning_rate: Rate | None = None
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: NotNegative | None = None
    ema_decay: Share | None = None
    gradient_accumulation_steps: Count = 1
    max_grad_norm: Rate | None = None
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    seed: int = 0
    checkpointing_steps: Count = 20
    checkpoints_total_limit: Count = 2
    resume_from_checkpoint: Literal["latest"] | None = None
    overwrite: bool = False
    report_to: Tracker = "none"

    def training(self) -> "TrainingOptions":
        """The training loop's settings."""
        names = (
            "steps", "batch_size", "learning_rate", "lr_schedule", "warmup_steps", "ema_decay", "gradient_accumulation_steps",
            "max_grad_norm", "mixed_precision", "checkpointing_steps", "checkpoints_total_limit",
        )  # fmt: skip
        values: Any = {name: getattr(self, name) for name in names}
        return values


def resolved(settings: UnlearnSettings) -> UnlearnSettings:
    """The settings with all defaults resolved, for the run's record.

    Args:
        settings: the given settings.

    Returns:
        The same with "auto" replaced by the method that it selects, and with the method's defaults. An unknown method raises an
        error.
    """
    kind = registry.get(settings.method)
    suits = {name: value for name, value in asdict(kind.training).items() if getattr(settings, name) is None}
    return replace(settings, method=kind.name, **suits)


def configuration(settings: UnlearnSettings) -> str:
    """The resolved settings as the text of ``config.toml``, with a comment if "auto" selected the method."""
    return _text(resolved(settings), settings.method)


def _text(settings: UnlearnSettings, asked: str) -> str:
    asked_for = "" if asked == settings.method else f'# method = "{asked}" was given, which selects {settings.method}\n'
    return asked_for + to_toml(settings)


def as_options(old: Mapping[str, Any]) -> tuple[str, ...]:
    """Settings of older versions as values of ``option``.

    Args:
        old: name → value, names from :data:`MOVED`.

    Returns:
        NAME=VALUE, one per option.

    Examples:
        >>> as_options({"gamma": 0.3, "alpha_bar_max": 0.9, "schedule_steps": 500})
        ('gamma=0.3', 'alpha_bar_range=0.0,0.9', 'schedule=500,0.0001,0.02')
    """
    merged = {
        "alpha_bar_range": ("alpha_bar_min", "alpha_bar_max"),
        "schedule": ("schedule_steps", "beta_start", "beta_end"),
    }
    found = [f"{name}={old[name]}" for name in ("gamma", "ewc", "weights") if name in old]
    for name, parts in merged.items():
        if set(parts) & set(old):
            found.append(f"{name}={','.join(str(old.get(part, MOVED[part])) for part in parts)}")
    return tuple(found)


def refuse_moved(given: Mapping[str, Any], source: str = "") -> None:
    """Raise an error for settings that are method options now, with the replacement.

    Args:
        given: settings by name; only those of :data:`MOVED` are errors.
        source: the TOML file that contains them; by default the command line.

    Raises:
        InputError: if there is such a setting.
    """
    old = {name: value for name, value in given.items() if name in MOVED}
    if not old:
        return
    options = as_options(old)
    flags = ", ".join(name if source else f"--{name.replace('_', '-')}" for name in old)
    instead = (
        f"option = {list(options)}".replace("'", '"') if source else " ".join(f"--option {each}" for each in options)
    )
    raise InputError(
        f"{source}{': ' * bool(source)}{flags}: got a setting of older versions, which is a method option now. Write {instead} "
        "instead (`vdu list METHOD` shows the options of a method)."
    )


def make_method(settings: UnlearnSettings) -> "BaseMethod":
    """The method that the settings select.

    Args:
        settings: method, option, posterior and retain.

    Returns:
        The method.

    Raises:
        InputError: if the method or an option is unknown, or a posterior is missing or unused.
    """
    from vdu.commands.posterior import load_posterior
    from vdu.methods.options import read_options

    kind = registry.get(settings.method)
    given: dict[str, Any] = dict(kind.retain_options) if settings.retain else {}
    given |= read_options(kind, settings.option)
    takes_posterior = any(item.name == "posterior" and item.init for item in fields(kind))
    if settings.posterior and not takes_posterior:
        raise InputError(
            f"--posterior: got {settings.posterior}, but the method {kind.name} does not use a posterior. Leave it out."
        )
    if settings.posterior:
        given["posterior"] = load_posterior(settings.posterior)
    elif kind.estimator:
        n_train = " --n-train N" if kind.estimator == "fisher" else ""
        raise InputError(
            f"--posterior is missing, which the method {kind.name} needs; fit one with "
            f"`vdu posterior {kind.estimator} --pipeline {settings.pipeline}{n_train} --output-dir OUT` (no training data needed)."
        )
    return kind(**given)


def run(settings: UnlearnSettings) -> dict[str, Any]:
    """Unlearn from the command line: check all settings first, then work in a run folder.

    Args:
        settings: see :class:`UnlearnSettings`.

    Returns:
        A summary: the new pipeline's folder and the last step's terms.

    Raises:
        InputError: if the settings do not fit together, or the output folder is not empty.
    """
    import torch

    from vdu.core.checks import hash_parameters
    from vdu.core.rng import generator as named_generator
    from vdu.data.forget import split_by_class
    from vdu.data.forget_source import absolute, class_names, forget_images, write_forget
    from vdu.data.sources import load_images
    from vdu.diffusion.schedule import kl_weights, weight_share
    from vdu.methods.vdu import VDU
    from vdu.models.denoiser import PipelineDenoiser
    from vdu.models.pipelines import configuration_of, find_pipeline, load_pipeline, network_of, save_pipeline
    from vdu.replay.auxiliaries import needs_selection
    from vdu.replay.selection import require_enough
    from vdu.report.card import write_card
    from vdu.training.batches import condition_of, require_divisible
    from vdu.training.trackers import require_tracker
    from vdu.unlearning.labels import forget_set_of_labels
    from vdu.unlearning.unlearn import check_origin, unlearn

    asked = settings.method
    if not settings.forget and not settings.forget_label:
        raise InputError(
            "--forget is missing: give the images to forget (a folder, a list of files or a data set), or for a class-conditional model "
            "the class to forget (--forget-label)."
        )
    if settings.forget_class and not settings.forget:
        raise InputError(
            "--forget-class: got no --forget; it names classes of given images. For a class of the model use --forget-label."
        )
    forget_source = absolute(settings.forget) if settings.forget else ""  # evaluate may run in another folder
    settings = resolved(replace(settings, forget=forget_source, pipeline=find_pipeline(settings.pipeline)))
    pipeline = load_pipeline(settings.pipeline)
    denoiser = PipelineDenoiser.from_pipeline(pipeline)
    given = None
    if settings.forget:
        shape, classes = denoiser.image_shape, settings.forget_class
        given = forget_images(settings.forget, shape, classes=classes, convert=settings.convert)
    forget = given
    if settings.forget_label:
        if given is not None and given.labels is not None:
            raise InputError(
                "--forget-label: the images have labels of their own; leave it out, or give images without labels."
            )
        forget = forget_set_of_labels(
            denoiser,
            settings.forget_label,
            given,
            sampler=settings.sampler(),
            seed=settings.seed,
            progress="forget set",
        )
    assert forget is not None
    method = make_method(settings)
    resume = bool(settings.resume_from_checkpoint)
    assert settings.batch_size is not None
    assert settings.n_own_samples is not None
    require_divisible(settings.batch_size, settings.gradient_accumulation_steps)
    require_tracker(settings.report_to, settings.output_dir)
    posterior = getattr(method, "posterior", None)
    if posterior is not None:  # now, before --overwrite empties the folder
        posterior.check_matches(dict(network_of(pipeline).named_parameters()))
        check_origin(posterior, hash_parameters(network_of(pipeline).state_dict()))
    if settings.retain and "retain" not in method.needs:
        raise InputError(
            f"--retain: got {settings.retain}, but the method {method.name} does not use retained images. "
            "Leave it out, or use a method that does (vdu list)."
        )
    if settings.full_length and not method.stops:
        raise InputError(
            f"--full-length: the method {method.name} has no stopping rule and always takes all its steps; leave the option out "
            "(`vdu list METHOD` shows whether a method has a stopping rule)."
        )
    if needs_selection(method, settings.retain not in {None, "self"}):
        require_enough(
            "forget images", len(forget)
        )  # before --overwrite empties the folder, and before samples are drawn
        require_enough("generated samples (--n-own-samples)", settings.n_own_samples)
        settings.sampler().make(denoiser)
    retain = None
    if settings.retain not in {None, "self"}:
        retain = load_images(str(settings.retain), shape=forget.shape, convert=settings.convert)
        known = retain.class_names or ()
        unwanted = class_names(forget) if forget.class_names else list(settings.forget_class)
        if retain.labels is not None and (shared := [name for name in unwanted if name in known]):
            retain = split_by_class(retain, shared)[1]  # the forget classes are not replayed
    for name, images in (("--forget", forget), ("--retain", retain)):
        if images is not None:  # refuses images of unknown classes before the run folder is touched
            condition_of(denoiser, images, torch.arange(len(images)), name)
    keep = (settings.pipeline, settings.forget or None, settings.posterior, settings.retain)
    record = Run(settings.output_dir, "unlearn", overwrite=settings.overwrite, resume=resume, keep=keep)
    inputs = _inputs(settings, pipeline, forget, posterior)
    record.start(_text(settings, asked), inputs)
    if settings.forget_label:
        write_forget(record.folder, forget)
    with record.stage("unlearn") as cost:
        result = unlearn(
            pipeline,
            method,
            forget=forget,
            retain=retain,
            n_own_samples=settings.n_own_samples,
            sampler=settings.sampler(),
            full_length=settings.full_length,
            force=settings.force,
            generator=named_generator(settings.seed, "unlearn"),
            folder=record.folder,
            resume=resume,
            report_to=settings.report_to,
            **settings.training(),
        )
        cost["network_evaluations"] = result.network_evaluations
        cost |= result.aids.record if result.aids else {}
        cost |= {"stopping": asdict(result.stopping)} if result.stopping else {}
    with record.replacing("pipeline") as temporary:
        save_pipeline(result.pipeline, temporary)
        names = ("option", "steps", "batch_size", "learning_rate", "seed")
        told = {name: getattr(settings, name) for name in names}
        write_card(temporary, inputs, method.name, told)
    sha256 = hash_parameters(network_of(result.pipeline).state_dict())
    weights = "raw" if result.training.ema is None else "ema"
    extras: dict[str, Any] = {}
    if isinstance(method, VDU) and method.schedule is not None:
        extras["weight_share"] = weight_share(kl_weights(method.schedule, method.weights))
    if retain is not None:
        extras["retain"] = {"source": settings.retain, "description": retain.description, "sha256": retain.sha256}
    made = {"sha256": sha256, "configuration_sha256": configuration_of(result.pipeline), "weights": weights}
    record.finish(pipeline=made, **extras)
    last = result.training.last
    return {
        "pipeline": str(record.folder / "pipeline"),
        "sha256": sha256,
        **({"ending": result.ending} if result.ending else {}),
        **last.get("terms", {}),
        **last.get("observed", {}),
    }


def _inputs(
    settings: UnlearnSettings, pipeline: Any, forget: "ImageSet", posterior: "GaussianPosterior | None"
) -> dict[str, Any]:
    from vdu.core.checks import hash_parameters
    from vdu.data.forget_source import class_names
    from vdu.models.pipelines import configuration_of, network_of

    inputs: dict[str, Any] = {
        "model": {
            "path": str(settings.pipeline.resolve()),
            "sha256": hash_parameters(network_of(pipeline).state_dict()),
            "configuration_sha256": configuration_of(pipeline),
            "class_names": list(getattr(pipeline, "class_names", None) or ()),
        },
        "forget": {
            "source": settings.forget or "the model itself",
            "classes": class_names(forget) if settings.forget_class or settings.forget_label else [],
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
