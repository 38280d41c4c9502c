"""Everything that a user gave to an unlearning, checked and loaded before anything is trained or written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import torch

from vdu.core.checks import hash_parameters
from vdu.core.errors import InputError, shown
from vdu.core.ranges import require_ranges
from vdu.core.rng import derive_seed, draw_seed
from vdu.core.rng import generator as named_generator
from vdu.data.forget import split_by_class
from vdu.data.forget_source import absolute, class_names, forget_images
from vdu.data.given import as_images, is_named
from vdu.data.images import ImageSet
from vdu.diffusion.sampling import Sampler
from vdu.methods.defaults import TrainingDefaults
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.lora import check_train
from vdu.models.pipelines import configuration_of, find_pipeline, load_pipeline, network_of
from vdu.posterior.gaussian import GaussianPosterior
from vdu.replay.auxiliaries import needs_selection
from vdu.replay.selection import require_enough
from vdu.training.batches import condition_of, require_divisible
from vdu.training.loop import TrainSettings
from vdu.training.trackers import require_tracker
from vdu.unlearning.chosen_method import ChosenMethod, choose
from vdu.unlearning.labels import forget_set_of_labels

__all__ = ["Plan", "TrainingOptions", "check_origin", "make_plan"]

EMA_RAMP = 4  # of the average, which covers about the last third of the steps


class TrainingOptions(TypedDict, total=False):
    """Settings of the training loop. None, or leaving one out, takes the method's default (its ``training``) if it has one.

    Attributes:
        steps: optimiser steps.
        batch_size: images of each role per step, over all processes.
        learning_rate: Adam's step size.
        lr_schedule: "constant" (the default), "linear" or "cosine".
        warmup_steps: linear warm-up of the learning rate.
        ema_decay: decay of the weight average used as the result; 0 uses the last weights.
        gradient_accumulation_steps: micro-batches per step and process; by default 1.
        max_grad_norm: clip the gradient norm to this; None takes the method's default.
        mixed_precision: "no" (the default), "fp16" or "bf16".
        checkpointing_steps: a checkpoint every so many steps (with a folder), by default 20; None writes only the last.
        checkpoints_total_limit: how many checkpoints to keep, by default 2; None keeps all.
    """

    steps: int | None
    batch_size: int | None
    learning_rate: float | None
    lr_schedule: str
    warmup_steps: int | None
    ema_decay: float | None
    gradient_accumulation_steps: int
    max_grad_norm: float | None
    mixed_precision: str
    checkpointing_steps: int | None
    checkpoints_total_limit: int | None


@dataclass(frozen=True, kw_only=True, repr=False)
class Plan:
    """What is to be forgotten by what model, and how.

    Attributes:
        pipeline: the original pipeline, which stays as it is.
        original: the same as a denoiser.
        source: the folder or Hub id of the pipeline; empty for an object.
        chosen: the method and its options.
        train: what trains, see :mod:`vdu.models.lora`.
        forget: the forget set.
        forget_source: where it was loaded from; empty if it was drawn from the model or given as images.
        forget_class: the classes to forget among the given images.
        forget_label: the classes of a class-conditional model to forget.
        convert: whether images of another size or mode were converted.
        retain: images to keep, or None.
        retain_source: where they were loaded from, "self" for generated samples; None without any.
        sampler: for generated samples.
        n_own_samples: how many of them.
        batch_size: images of each role per step.
        training: the settings of the loop.
        force: whether to continue if the model generates almost none, or almost only, images like the forget set.
        full_length: whether to take all steps.
        seed: the user's seed; None if there was a generator.
        run_seed: what everything in the run is seeded with.
        report_to: an experiment tracker.
    """

    pipeline: Any
    original: PipelineDenoiser
    source: str
    chosen: ChosenMethod
    train: str
    forget: ImageSet
    forget_source: str
    forget_class: tuple[str, ...]
    forget_label: tuple[str, ...]
    convert: bool
    retain: ImageSet | None
    retain_source: str | None
    sampler: Sampler
    n_own_samples: int
    batch_size: int
    training: TrainSettings
    force: bool
    full_length: bool
    seed: int | None
    run_seed: int
    report_to: Any

    @cached_property
    def weights_sha256(self) -> str:
        """SHA-256 of the original's weights."""
        return hash_parameters(self.original.network.state_dict())

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the forgotten classes, where the user named them or gave a set whose classes have names."""
        named = self.forget_class or self.forget_label or (not self.forget_source and self.forget.class_names)
        return tuple(class_names(self.forget)) if named else ()

    def inputs(self, model_path: str = "a pipeline object") -> dict[str, Any]:
        """The inputs for ``run.json`` and the model card.

        Args:
            model_path: where the original is, if it was given as an object.

        Returns:
            Names and hashes of the model and the forget set.
        """
        return {
            "model": {
                "path": self.source or model_path,
                "sha256": self.weights_sha256,
                "configuration_sha256": configuration_of(self.pipeline),
                "class_names": list(getattr(self.pipeline, "class_names", None) or ()),
            },
            "forget": {
                "source": self.forget_source or ("the model itself" if self.forget_label else "images given in Python"),
                "classes": list(self.classes),
                "description": self.forget.description,
                "n_images": len(self.forget),
                "sha256": self.forget.sha256,
            },
        }

    def told(self) -> dict[str, Any]:
        """The settings for the model card."""
        return {
            "option": self.chosen.options,
            "steps": self.training.steps,
            "batch_size": self.batch_size,
            "learning_rate": self.training.learning_rate,
            "seed": self.seed,
        }


def make_plan(asked: Mapping[str, Any]) -> Plan:
    """Check everything that the user gave, in the order in which it is cheap.

    Args:
        asked: the arguments of :func:`vdu.unlearning.unlearn.unlearn` by name, with its further keywords under "options".

    Returns:
        The plan.

    Raises:
        InputError: if anything cannot be used.
    """
    options, generator = asked["options"], asked["generator"]
    known = TrainingOptions.__annotations__
    training: Any = {name: value for name, value in options.items() if name in known}
    own = {name: value for name, value in options.items() if name not in known}
    retain = asked["retain"] or None if isinstance(asked["retain"], str) else asked["retain"]
    chosen = choose(asked["method"], own, others=frozenset({*known, *asked}), retain=retain is not None)
    require_ranges({**training, "n_own_samples": asked["n_own_samples"]})
    default: TrainingDefaults = chosen.method.training
    sampler = asked["sampler"] or Sampler(scheduler=default.scheduler, steps=default.inference_steps)
    if not isinstance(sampler, Sampler):
        raise InputError(f"sampler: got {shown(sampler)}; expected a vdu.Sampler.")
    batch_size = _given(training.get("batch_size"), default.batch_size)
    label_seed, run_seed = _seeds(asked["seed"], generator)
    settings = _train_settings(training, default, derive_seed(run_seed, "training"))
    require_divisible(batch_size, settings.gradient_accumulation_steps)
    require_tracker(asked["report_to"], asked["folder"])
    classes, labels = _listed(asked["forget_class"], "forget_class"), _listed(asked["forget_labels"], "forget_labels")
    forget = asked["forget"] or None if isinstance(asked["forget"], str) else asked["forget"]
    _require_forget(forget, classes, labels)
    pipeline, source = _open(asked["pipeline"])
    original, convert = PipelineDenoiser.from_pipeline(pipeline), bool(asked["convert"])
    check_train(original.network, asked["train"])
    plan = Plan(
        train=asked["train"],
        pipeline=pipeline,
        original=original,
        source=source,
        chosen=chosen,
        forget=_forget_set(original, forget, classes, labels, convert, sampler, label_seed),
        forget_source=absolute(str(forget)) if is_named(forget) else "",
        forget_class=tuple(map(str, classes)),
        forget_label=tuple(each if isinstance(each, str) else original.class_names[each] for each in labels),
        convert=convert,
        retain=None,
        retain_source=None,
        sampler=sampler,
        n_own_samples=_given(asked["n_own_samples"], default.n_own_samples),
        batch_size=batch_size,
        training=settings,
        force=bool(asked["force"]),
        full_length=bool(asked["full_length"]),
        seed=asked["seed"] if generator is None else None,
        run_seed=run_seed,
        report_to=asked["report_to"],
    )
    _require_fitting(plan, retain)
    return _with_retain(plan, retain)


def _seeds(seed: Any, generator: Any) -> tuple[int, int]:
    """Seeds of images drawn under labels, and of everything else; with a generator one draw from it is both.

    Returns:
        The two seeds.

    Raises:
        InputError: if they are of another kind, or both are given.
    """
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise InputError(f"seed: got {shown(seed)}; expected an integer.")
    if generator is None:
        return seed, draw_seed(named_generator(seed, "unlearn"))
    if not isinstance(generator, torch.Generator):
        raise InputError(f"generator: got {shown(generator)}; expected a torch.Generator, or an integer as seed=….")
    if seed:
        raise InputError(f"seed: got {seed} and a generator; expected one of them.")
    drawn = draw_seed(generator)
    return drawn, drawn


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value


def _train_settings(training: TrainingOptions, default: TrainingDefaults, seed: int) -> TrainSettings:
    """The settings of the loop: the given ones, and the method's defaults for the rest."""
    precision = training.get("mixed_precision", "no")
    if precision not in ("no", "fp16", "bf16"):
        raise InputError(f"mixed_precision: got {shown(precision)}; expected one of no, fp16, bf16.")
    settings = TrainSettings(
        steps=_given(training.get("steps"), default.steps),
        learning_rate=_given(training.get("learning_rate"), default.learning_rate),
        lr_schedule=training.get("lr_schedule", "constant"),
        warmup_steps=_given(training.get("warmup_steps"), default.warmup_steps),
        ema_decay=_given(training.get("ema_decay"), default.ema_decay) or None,
        ema_ramp=EMA_RAMP,
        gradient_accumulation_steps=training.get("gradient_accumulation_steps", 1),
        max_grad_norm=_given(training.get("max_grad_norm"), default.max_grad_norm),
        mixed_precision=precision,
        seed=seed,
        checkpointing_steps=training.get("checkpointing_steps", 20),
        checkpoints_total_limit=training.get("checkpoints_total_limit", 2),
    )
    settings.rate(0)  # refuses an unknown schedule now
    return settings


def _listed(given: Any, name: str) -> tuple[Any, ...]:
    """One class or several, by name or index, as a tuple."""
    found = (given,) if isinstance(given, str | int) else given
    if not isinstance(found, Sequence) or not all(isinstance(each, str | int) for each in found):
        raise InputError(f"{name}: got {shown(given)}; expected the name or index of a class, or a list of them.")
    return tuple(found)


def _require_forget(forget: Any, classes: tuple[Any, ...], labels: tuple[Any, ...]) -> None:
    if forget is None and classes:
        raise InputError(
            "--forget-class: got no --forget; it names classes of given images. For a class of the model use --forget-label "
            "(in Python forget_labels=…)."
        )
    if forget is None and not labels:
        raise InputError(
            "--forget is missing: give the images to forget (a folder, a list of files or a data set), or for a class-conditional model "
            "the class to forget (--forget-label, in Python forget_labels=…)."
        )


def _open(given: Any) -> tuple[Any, str]:
    """The pipeline, and where it was loaded from (empty for an object)."""
    if not isinstance(given, str | Path):
        if isinstance(given, type):
            raise InputError(f"pipeline: got {shown(given)}; expected an object, for example from from_pretrained.")
        return given, ""
    path = find_pipeline(given)
    return load_pipeline(path), str(path.resolve())


def _forget_set(
    original: PipelineDenoiser,
    given: Any,
    classes: tuple[Any, ...],
    labels: tuple[Any, ...],
    convert: bool,
    sampler: Sampler,
    seed: int,
) -> ImageSet:
    """The forget set as images, from images or labels."""
    images = None
    if given is not None:
        images = forget_images(given, original.image_shape, classes=classes, convert=convert)
    if not labels:
        assert images is not None
        return images
    if images is not None and images.labels is not None:
        raise InputError(
            "--forget-label: the images have labels of their own; leave it out, or give images without labels."
        )
    return forget_set_of_labels(original, labels, images, sampler=sampler, seed=seed, progress="forget set")


def _require_fitting(plan: Plan, retain: Any) -> None:
    """Raise an error if the parts of a plan do not go together.

    Raises:
        InputError: naming the first.
    """
    method, posterior = plan.chosen.method, plan.chosen.posterior
    if isinstance(posterior, GaussianPosterior):
        posterior.check_matches(dict(network_of(plan.pipeline).named_parameters()))
        check_origin(posterior, plan.weights_sha256)
    if retain is not None and "retain" not in method.needs:
        raise InputError(
            f"--retain: got {retain if is_named(retain) else shown(retain)}, but the method {method.name} does not use retained images. "
            "Leave it out, or use a method that does (vdu list)."
        )
    if plan.full_length and not method.stops:
        raise InputError(
            f"--full-length: the method {method.name} has no stopping rule and always takes all its steps; leave the option out "
            "(`vdu list METHOD` shows whether a method has a stopping rule)."
        )
    if needs_selection(method, retain is not None and not _is_self(retain)):
        require_enough("forget images", len(plan.forget))
        require_enough("generated samples (--n-own-samples)", plan.n_own_samples)
        plan.sampler.make(plan.original)
    condition_of(plan.original, plan.forget, torch.arange(len(plan.forget)), "--forget")


def _is_self(retain: Any) -> bool:
    return isinstance(retain, str) and retain == "self"


def _with_retain(plan: Plan, retain: Any) -> Plan:
    """The plan with the images to keep; of labelled ones the classes to forget are left out.

    Returns:
        The plan.
    """
    if retain is None or _is_self(retain):
        return replace(plan, retain_source=retain)
    images = as_images(retain, name="retain", shape=plan.forget.shape, convert=plan.convert)
    unwanted = class_names(plan.forget) if plan.forget.class_names else list(plan.forget_class)
    shared = [name for name in unwanted if images.class_names and name in class_names(images)]
    if shared:
        images = split_by_class(images, shared)[1]
    condition_of(plan.original, images, torch.arange(len(images)), "--retain")
    return replace(plan, retain=images, retain_source=str(retain) if is_named(retain) else None)


def check_origin(posterior: GaussianPosterior, sha256: str) -> None:
    """Raise an error for a posterior that was estimated for other weights, even of the same architecture.

    Raises:
        InputError: if the posterior's record names another pipeline.
    """
    made_for = posterior.sources.get("pipeline")
    if made_for not in {None, sha256}:
        raise InputError(
            f"posterior: was fitted to the model with SHA-256 {str(made_for)[:12]}…, this one has {sha256[:12]}…; expected the same "
            "weights. Fit one for this model with `vdu posterior`."
        )
