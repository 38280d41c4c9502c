"""``vdu unlearn``: make a pipeline forget, in a run folder."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from vdu.commands.options import (
    Count,
    GivenFirst,
    Guidance,
    NotNegative,
    OutputDir,
    Rate,
    SamplerSettings,
    Seed,
    Share,
    Tracker,
    to_toml,
)
from vdu.core.errors import InputError
from vdu.core.processes import say
from vdu.core.python_names import as_command
from vdu.methods import registry

if TYPE_CHECKING:
    from vdu.methods.base import BaseMethod
    from vdu.unlearning.unlearn import TrainingOptions

__all__ = ["MOVED", "UnlearnSettings", "as_options", "configuration", "make_method", "resolved", "run"]

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
        forget_class: the classes to forget, by name or number, if the images have labels; the number 1 means a class named 1 or 01.
        forget_label: class-conditional models: the class to forget, by the model's name for it; repeat the option for several. Without
            --forget the images are drawn from the model under that label.
        forget_prompt: text-to-image models: a prompt to forget, or a text file with one on every line; repeat the option for several.
            Without --forget the images are drawn from the model under them.
        keep_prompts: a prompt to keep, or a text file with one on every line; repeat the option for several. By default the model's
            own others, or a packaged neutral list.
        instead: a label or prompt that takes the place of what is forgotten, for some methods (vdu list); by default none in
            particular, or the nearest prompt to keep (distillation).
        guidance_scale: scale of classifier-free guidance of generated samples, for models with conditions.
        train: what trains: all, attention, cross-attention, cross-attention-kv, non-cross-attention, text-encoder, or lora:RANK, low-rank
            corrections of the attention layers that are merged in pipeline/ and also written alone to lora/, as a file for diffusers. By
            default all, or for distillation in words cross-attention.
        convert: convert images of another size or mode to the model's; by default they cause an error.
        method: auto (the one that measured best), or one of those that "vdu list" shows.
        option: NAME=VALUE, an option of the method, for example gamma=0.1 for vdu; "vdu list METHOD" shows them.
        posterior: file or run folder of "vdu posterior"; needed by vdu, and by selective-amnesia (estimator amnesia-fisher).
        retain: images to keep, for methods that can use them: a data set, folder or list (the classes to forget are left out
            of labelled images), or self (generated samples without those that resemble the forget set).
        n_own_samples: number of generated samples, drawn with the sampler of --scheduler, for methods that use them.
        force: continue if the model generates almost none, or almost only, images like the forget set, or does not draw a prompt to
            forget.
        full_length: take all steps, even if the stopping rule is met earlier.
        steps: maximum number of optimiser steps; a method with a stopping rule may stop early. The default depends on the
            method, as for the options below and the sampler.
        batch_size: images of each role per step, over all processes; by default the method's ("vdu list METHOD").
        learning_rate: Adam's step size; by default the method's.
        lr_schedule: constant, linear or cosine.
        warmup_steps: linear warm-up of the learning rate.
        ema_decay: decay of the weight average that is saved; 0 saves the last weights.
        gradient_accumulation_steps: micro-batches per step and process.
        max_grad_norm: gradient clipping; by default the method's, or none.
        mixed_precision: no, fp16 or bf16.
        gradient_checkpointing: compute activations again in the backward pass: less memory, the same result, more time.
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
    forget_prompt: tuple[str, ...] = ()
    keep_prompts: tuple[str, ...] = ()
    instead: str | None = None
    guidance_scale: Guidance | None = None
    train: str | None = None
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
    gradient_checkpointing: bool = False
    seed: Seed = 0
    checkpointing_steps: Count = 20
    checkpoints_total_limit: Count = 2
    resume_from_checkpoint: Literal["latest"] | None = None
    overwrite: bool = False
    report_to: Tracker = "none"

    def training(self) -> "TrainingOptions":
        """The training loop's settings."""
        names = (
            "steps", "batch_size", "learning_rate", "lr_schedule", "warmup_steps", "ema_decay", "gradient_accumulation_steps",
            "max_grad_norm", "mixed_precision", "gradient_checkpointing", "checkpointing_steps", "checkpoints_total_limit",
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
    named = settings.method if registry.is_file(settings.method) else kind.name
    train = kind.part or settings.train or _usual_part(kind, settings.forget_prompt)
    return replace(settings, method=named, train=train, **suits)


def _usual_part(kind: Any, forget_prompt: Any) -> str:
    """What a method trains by default."""
    return kind.part or (forget_prompt and kind.word_part) or "all"


def configuration(settings: UnlearnSettings) -> str:
    """The resolved settings as TOML, for ``--dry-run``.

    Args:
        settings: the given settings.

    Returns:
        The text; comments name the method that "auto" selected and its options at their defaults. An unknown option raises an error.
    """
    from vdu.methods.options import default_text, of_the_task, options_of, read_options

    chosen, asked, kind = resolved(settings), settings.method, registry.get(settings.method)
    given = read_options(kind, settings.option)
    defaults = of_the_task(kind, retain=settings.retain is not None, words=bool(settings.forget_prompt))
    comment = "" if asked == chosen.method else f'# method = "{asked}" was given, which selects {chosen.method}\n'
    if left := [default_text(item, defaults) for name, item in options_of(kind).items() if name not in given]:
        comment += f"# options of {kind.name} at their defaults: {', '.join(map(repr, left))}\n"
    theirs = [
        default_text(options_of(kind)[name], kind.label_options) for name in kind.label_options if name not in given
    ]
    if theirs and not settings.forget_prompt and settings.instead is None:
        comment += f"# of a model with labels and a null class: {', '.join(map(repr, theirs))}\n"
    return comment + to_toml(chosen)


def without_former_defaults(values: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, Any]:
    """A file's settings without the defaults of its method, where the command line names another one.

    A file of ``--dry-run``, or of a run, holds the defaults that its method had; another method has its own.

    Args:
        values: of the file, by name.
        tokens: the command line.

    Returns:
        The values that stay; what is left out is said on standard error.
    """
    found = {name.replace("-", "_"): value for name, value in values.items()}
    words = _parted(tokens)
    method = next((after for token, after in pairwise(words) if token == "--method"), None)
    left: list[str] = []
    if method is not None and "method" in found and method != found["method"]:
        former = registry.get(found["method"])
        left = [name for name, value in asdict(former.training).items() if found.get(name) == value and name in found]
        left += ["train"] if found.get("train") == _usual_part(former, found.get("forget_prompt")) else []
        if left:
            say(
                f"vdu: {', '.join(left)} in the file are the defaults of {found['method']}; those of {method} are taken. Give them on the "
                "command line to keep them."
            )
        if found.get("option"):
            left.append("option")
            say(f"vdu: the options in the file are those of {found['method']}; they are left out.")
    elif (
        "--forget-prompt" in words
        and "--train" not in words
        and not found.get("forget_prompt")
        and found.get("train") == "all"
    ):
        left.append("train")
        say('vdu: train = "all" in the file was the default without words; that of the method in words is taken.')
    return {name: value for name, value in values.items() if name.replace("-", "_") not in left}


def with_options_of_file(values: Mapping[str, Any], tokens: Sequence[str]) -> list[str]:
    """The command line with the file's method options beside its own, which would take their place as a whole.

    Args:
        values: of the file, by name.
        tokens: the command line.

    Returns:
        The command line; of an option that is in both, its own value stays.
    """
    given = {_option_name(after) for token, after in pairwise(_parted(tokens)) if token == "--option"}
    of_file = values.get("option")
    listed = of_file if isinstance(of_file, list) else [] if of_file is None else [of_file]
    others = [each for each in listed if _option_name(each) not in given]
    return [*tokens, *(f"--option={each}" for each in others if given)]


def _parted(tokens: Sequence[str]) -> list[str]:
    """Names and values of the command line, each by itself; names with dashes."""
    parted = (token.split("=", 1) if token.startswith("--") else [token] for token in tokens)
    return [
        part for name, *value in parted for part in (name.replace("_", "-") if name.startswith("--") else name, *value)
    ]


def _option_name(text: Any) -> str:
    return str(text).partition("=")[0].strip().replace("-", "_")


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


def make_method(settings: UnlearnSettings) -> "BaseMethod":
    """The method that the settings select.

    Args:
        settings: method, option, posterior and retain.

    Returns:
        The method. An unknown method or option, and a posterior that is missing or unused, raise an error.
    """
    from vdu.unlearning.chosen_method import choose

    options = _method_options(settings)
    return choose(settings.method, options, others=frozenset(), retain=bool(settings.retain)).method


def _method_options(settings: UnlearnSettings) -> dict[str, Any]:
    """The options of the method as keywords of :func:`vdu.unlearning.unlearn.unlearn`.

    Returns:
        Values by name, with the posterior.

    Raises:
        InputError: if the posterior is missing, which is not fitted in passing here but by a command of its own.
    """
    from vdu.methods.options import read_options

    kind = registry.get(settings.method)
    options = read_options(kind, settings.option)
    if kind.estimator and not settings.posterior:
        model, n_train = shlex.quote(str(settings.pipeline)), " --n-train N" if kind.estimator == "fisher" else ""
        part = "" if settings.train in {None, "all"} else f" --train {settings.train}"
        raise InputError(
            f"--posterior is missing, which the method {kind.name} needs; fit one with "
            f"`vdu posterior {kind.estimator} --pipeline {model}{n_train}{part} --output-dir OUT` (no training data needed)."
        )
    return {**options, "posterior": settings.posterior}


@as_command()
def run(settings: UnlearnSettings) -> dict[str, Any]:
    """Unlearn from the command line: :func:`vdu.unlearning.unlearn.unlearn` in a run folder.

    Args:
        settings: see :class:`UnlearnSettings`.

    Returns:
        A summary: the new pipeline's folder and the last step's terms. Settings that do not fit together, and an output folder
        that is not empty, raise an error.
    """
    from vdu.models.identity import weights_sha256
    from vdu.models.pipelines import network_of
    from vdu.unlearning.unlearn import unlearn

    how = resolved(settings)
    result = unlearn(
        settings.pipeline,
        settings.method,
        forget=settings.forget or None,
        forget_class=settings.forget_class or None,
        forget_label=settings.forget_label or None,
        forget_prompt=settings.forget_prompt or None,
        keep_prompts=settings.keep_prompts or None,
        instead=settings.instead,
        retain=settings.retain,
        train=settings.train,
        convert=settings.convert,
        n_own_samples=how.n_own_samples,
        sampler=replace(how.sampler(), guidance_scale=settings.guidance_scale),
        full_length=settings.full_length,
        force=settings.force,
        seed=settings.seed,
        folder=settings.output_dir,
        overwrite=settings.overwrite,
        resume=bool(settings.resume_from_checkpoint),
        report_to=settings.report_to,
        **_method_options(settings),
        **how.training(),
    )
    last = result.training.last
    return {
        "pipeline": str(settings.output_dir / "pipeline"),
        "sha256": weights_sha256(network_of(result.pipeline)),
        "ending": result.ending,
        **last.get("terms", {}),
        **last.get("observed", {}),
    }
