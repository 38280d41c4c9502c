"""Everything that a user gave to an unlearning, checked and loaded before anything is trained or written."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import torch

from vdu.core.class_names import class_index
from vdu.core.counter import EvaluationCounter
from vdu.core.errors import InputError, shown
from vdu.core.processes import first_decides, say
from vdu.core.ranges import SEED, plain_number, require_choice, require_flags, require_given, require_ranges
from vdu.core.rng import derive_seed, draw_seed
from vdu.core.rng import generator as named_generator
from vdu.core.room import require_room
from vdu.core.runs import check_folder, forgotten_before
from vdu.data.forget_source import class_names, record_of
from vdu.data.given import as_images, is_named
from vdu.data.images import ImageSet
from vdu.data.overlap import without_copies
from vdu.data.sources import absolute, place_of
from vdu.diffusion.sampling import Sampler
from vdu.methods.defaults import LOOP_DEFAULTS, TrainingDefaults
from vdu.models.configuration import extra
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.finding import find_pipeline
from vdu.models.identity import parts_sha256, recorded_identities, weights_sha256
from vdu.models.lora import check_train, lora_rank, trained_weights
from vdu.models.pipelines import check_network, hashes_of, load_pipeline
from vdu.models.reading import in_training
from vdu.posterior.gaussian import GaussianPosterior
from vdu.replay.auxiliaries import needs_selection
from vdu.replay.selection import require_enough
from vdu.training.accelerator import make_accelerator, require_precision
from vdu.training.batches import condition_of, require_captions, require_divisible
from vdu.training.loop import TrainSettings, require_trainable
from vdu.training.trackers import require_tracker
from vdu.unlearning.chosen_method import ChosenMethod, choose
from vdu.unlearning.effect import require_concepts
from vdu.unlearning.form import conditions, for_model, require_no_steps
from vdu.unlearning.labels import forget_set_of_labels
from vdu.unlearning.prompts import require_told_apart, with_prompts
from vdu.unlearning.retained import retained_images, with_model_names
from vdu.unlearning.unwanted import forget_set, listed, prompts_of, require_forget

__all__ = ["Plan", "TrainingOptions", "check_origin", "make_plan", "on_accelerator"]

GIVEN = ("forget", "retain", "forget_class", "forget_label", "forget_prompt", "keep_prompts", "instead")
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
        gradient_checkpointing: compute the network's activations again in the backward pass: less memory, the same result, about a third
            more time.
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
    gradient_checkpointing: bool
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
        forget_label: the classes of a class-conditional model to forget, or the prompts of a text-to-image model.
        prompts: the arguments forget_prompt, keep_prompts (as lists) and instead by name, those that were given.
        convert: whether images of another size or mode were converted.
        retain: images to keep, or None.
        retain_source: where they were loaded from, "self" for generated samples; None without any.
        sampler: for generated samples.
        n_own_samples: how many of them.
        drawing_evaluations: network evaluations that drew the forget set, if it was drawn.
        batch_size: images of each role per step.
        training: the settings of the loop.
        gradient_checkpointing: whether activations are computed again in the backward pass.
        force: whether to continue if the model generates almost none, or almost only, images like the forget set, or does not draw a
            prompt to forget.
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
    prompts: dict[str, Any]
    convert: bool
    retain: ImageSet | None
    retain_source: str | None
    sampler: Sampler
    n_own_samples: int
    batch_size: int
    training: TrainSettings
    gradient_checkpointing: bool
    force: bool
    full_length: bool
    seed: int | None
    run_seed: int
    report_to: Any
    drawing_evaluations: int = 0

    @cached_property
    def weights_sha256(self) -> str:
        """SHA-256 of the original's weights."""
        return weights_sha256(self.original.network)

    @property
    def model(self) -> dict[str, Any]:
        """The original as ``run.json`` holds it: its path, and the hashes of its weights and other parts."""
        return _as_recorded(self.source, self.original)

    @property
    def drawn(self) -> bool:
        """Whether the forget set was drawn from the model, under labels or prompts."""
        return self.drawing_evaluations > 0

    @property
    def stops(self) -> bool:
        """Whether the stopping rule is asked for."""
        return self.chosen.method.stops and not self.full_length

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the forgotten classes, where the user named them or gave a set whose classes have names."""
        named = self.forget_class or self.forget_label or (not self.forget_source and self.forget.class_names)
        named = named or (
            self.original.class_names and self.forget.labels is not None
        )  # whose classes the training names
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
                **hashes_of(self.pipeline),  # without the prompts of this run
                "class_names": list(
                    (extra(self.pipeline, "class_names") or ())
                    if self.original.takes_prompts
                    else self.original.class_names
                ),
                "conditioned_on": "text"
                if self.original.takes_prompts
                else "classes"
                if self.original.class_names
                else None,
            },
            "forget": {
                "source": self.forget_source or ("the model itself" if self.drawn else "images given in Python"),
                "classes": list(self.classes),
                **record_of(self.forget, self.original.class_names),
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
    training: Any = {name: plain_number(value) for name, value in options.items() if name in known}
    own = {name: value for name, value in options.items() if name not in known}
    require_given(asked, *GIVEN)
    retain, forget = asked["retain"], asked["forget"]
    require_flags(asked, "convert", "force", "full_length")
    require_flags(training, *{"gradient_checkpointing"} & set(training))
    others, prompt = frozenset({*known, *asked}), asked["forget_prompt"]
    chosen = choose(asked["method"], own, others=others, retain=retain is not None, words=prompt is not None)
    require_ranges({**training, "n_own_samples": asked["n_own_samples"]})
    default: TrainingDefaults = chosen.method.training
    sampler = _given(asked["sampler"], Sampler(scheduler=default.scheduler, steps=default.inference_steps))
    if not isinstance(sampler, Sampler):
        raise InputError(f"sampler: got {shown(sampler)}; expected a vdu.Sampler.")
    batch_size = _given(training.get("batch_size"), default.batch_size)
    label_seed, run_seed = _seeds(asked["seed"], generator)
    settings = _train_settings(training, default, derive_seed(run_seed, "training"))
    shares = {role: chosen.method.batch_shares.get(role, 1.0) for role in sorted(chosen.method.needs)}
    require_divisible(batch_size, settings.gradient_accumulation_steps, shares)
    require_tracker(asked["report_to"], asked["folder"])
    classes, labels = listed(asked["forget_class"], "forget_class"), listed(asked["forget_label"], "forget_label")
    prompts = prompts_of(asked, labels)
    require_forget(forget, classes, labels or prompts.get("forget"))
    n_own, full_length, convert = (
        plain_number(_given(asked["n_own_samples"], default.n_own_samples)),
        asked["full_length"],
        asked["convert"],
    )
    require_no_steps(chosen.method, training)
    selects = _require_method(chosen.method, retain, full_length, n_own)
    pipeline, source = _open(asked["pipeline"])
    original = PipelineDenoiser.from_pipeline(pipeline)
    check_network(original.network, "pipeline")
    chosen, train = for_model(chosen, original, prompts, labels, asked["train"])
    require_precision(make_accelerator(settings.mixed_precision), per_term=chosen.method.per_term)
    check_train(in_training(original, train).network, train)
    if training.get("gradient_checkpointing") and not getattr(
        original.network, "_supports_gradient_checkpointing", False
    ):
        raise InputError(
            f"gradient_checkpointing: diffusers has none for a {type(original.network).__name__}; leave it out. A smaller batch with more "
            "gradient_accumulation_steps needs less memory, too."
        )
    if train == "all":  # another part is made to train
        require_trainable(original.network)
    if "forget" in prompts:
        earlier = forgotten_before(_as_recorded(source, original))
        original, all_named = with_prompts(
            original, prompts["forget"], prompts.get("keep"), prompts.get("instead"), earlier
        )
        require_told_apart(original, all_named, prompts.get("instead"))
        labels = all_named  # also of the model's own prompts those that name the concept: none of them stays
    captions = (
        labels if forget is None else tuple(prompts.get("forget", labels))
    )  # what the forget images are images of
    require_room("--n-own-samples", n_own, original.image_shape)
    draws_forget = forget is None  # under labels or prompts, see require_forget
    draws = selects or draws_forget or "instead" in chosen.method.needs
    if draws or sampler.guidance_scale is not None:
        sampler.make(original)  # refuses what the model's schedule cannot do
    if asked["folder"] is not None:
        keep = (source or None, _place(forget), chosen.posterior_path, None if _is_self(retain) else _place(retain))
        make_accelerator()  # connects the processes of a launcher
        how = {"overwrite": asked["overwrite"], "resume": asked["resume"], "keep": keep}
        first_decides("a run folder", lambda: check_folder(asked["folder"], "unlearn", **how))
    images = (
        None
        if retain is None or _is_self(retain)
        else as_images(retain, name="retain", shape=original.image_shape, convert=convert)
    )
    plan = Plan(
        train=train,
        pipeline=pipeline,
        original=original,
        source=source,
        chosen=chosen,
        forget=with_model_names(
            forget_set(original, forget, classes, captions, convert, labels if "forget" in prompts else ()),
            original,
            "--forget",
        ),
        forget_source=absolute(forget) if is_named(forget) else "",
        forget_class=tuple(map(str, classes)),
        prompts=prompts,
        forget_label=tuple(original.class_names[class_index(each, original.class_names)] for each in labels),
        convert=convert,
        retain=None,
        retain_source="self" if _is_self(retain) else absolute(retain) if is_named(retain) else None,
        sampler=sampler,
        n_own_samples=n_own,
        batch_size=batch_size,
        training=settings,
        gradient_checkpointing=bool(training.get("gradient_checkpointing")),
        force=asked["force"],
        full_length=full_length,
        seed=label_seed if generator is None else None,
        run_seed=run_seed,
        report_to=asked["report_to"],
    )
    _require_fitting(plan, selects)
    conditions(plan)  # refuses what the method cannot do without
    kept = None
    if images is not None:
        earlier = forgotten_before(plan.model)
        kept = retained_images(images, plan.forget, plan.original, earlier, in_folder=not _is_list(retain))
    drawing = on_accelerator(original)
    if draws_forget:  # after all that needs no pixels
        counter = EvaluationCounter()
        with counter.watching(drawing.network):
            drawn = forget_set_of_labels(drawing, labels, sampler=sampler, seed=label_seed, progress="forget set")
        plan = replace(plan, forget=drawn, drawing_evaluations=counter.total)
    if "forget" in prompts and not plan.force:
        staying = [prompt for prompt in original.class_names if prompt not in plan.forget_label]
        require_concepts(drawing, plan.forget, plan.forget_label, staying, prompts.get("instead"))
    if kept is None:
        return plan
    return replace(plan, retain=without_copies(kept, plan.forget, "retained images", "forget images"))


def _seeds(seed: Any, generator: Any) -> tuple[int, int]:
    """Seeds of images drawn under labels, and of everything else; with a generator one draw from it is both.

    Returns:
        The two seeds; without any the seed is 0.

    Raises:
        InputError: if they are of another kind, or both are given.
    """
    if seed is not None and not SEED.holds(seed):
        raise InputError(f"seed: got {shown(seed)}; expected {SEED.words}.")
    if generator is None:
        seed = int(seed or 0)
        return seed, draw_seed(named_generator(seed, "unlearn"))
    if not isinstance(generator, torch.Generator):
        raise InputError(f"generator: got {shown(generator)}; expected a torch.Generator, or an integer as seed=….")
    if seed is not None:
        raise InputError(f"seed: got {seed} and a generator; expected one of them.")
    drawn = draw_seed(generator)
    return drawn, drawn


def on_accelerator(original: PipelineDenoiser) -> PipelineDenoiser:
    """The model where it is quick: itself, or a copy on the accelerator's device."""
    device = make_accelerator().device
    if next(original.network.parameters()).device.type == device.type:
        return original
    return original.with_network(original.copy().network.to(device))


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value


def _train_settings(training: TrainingOptions, default: TrainingDefaults, seed: int) -> TrainSettings:
    """The settings of the loop: the given ones, and the method's defaults for the rest."""
    precision = _given(training.get("mixed_precision"), LOOP_DEFAULTS["mixed_precision"])
    require_choice("mixed_precision", precision, ("no", "fp16", "bf16"))
    settings = TrainSettings(
        steps=_given(training.get("steps"), default.steps),
        learning_rate=_given(training.get("learning_rate"), default.learning_rate),
        lr_schedule=_given(training.get("lr_schedule"), LOOP_DEFAULTS["lr_schedule"]),
        warmup_steps=_given(training.get("warmup_steps"), default.warmup_steps),
        ema_decay=_given(training.get("ema_decay"), default.ema_decay) or None,
        ema_ramp=EMA_RAMP,
        gradient_accumulation_steps=_given(
            training.get("gradient_accumulation_steps"), LOOP_DEFAULTS["gradient_accumulation_steps"]
        ),
        max_grad_norm=_given(training.get("max_grad_norm"), default.max_grad_norm),
        mixed_precision=precision,
        seed=seed,
        checkpointing_steps=training.get("checkpointing_steps", LOOP_DEFAULTS["checkpointing_steps"]),
        checkpoints_total_limit=training.get("checkpoints_total_limit", LOOP_DEFAULTS["checkpoints_total_limit"]),
    )
    settings.rate(0)  # refuses an unknown schedule now
    return settings


def _as_recorded(source: str, original: PipelineDenoiser) -> dict[str, Any]:
    parts = parts_sha256(original)
    return {
        "path": source,
        "sha256": weights_sha256(original.network),
        **({} if parts is None else {"parts_sha256": parts}),
    }


def _open(given: Any) -> tuple[Any, str]:
    """The pipeline, and where it was loaded from (empty for an object)."""
    if not isinstance(given, str | Path):
        if isinstance(given, type):
            raise InputError(f"pipeline: got {shown(given)}; expected an object, for example from from_pretrained.")
        return given, ""
    path = find_pipeline(given)
    return load_pipeline(path), str(path.resolve())


def _place(images: Any) -> Path | None:
    """The folder or file that images are read from, if any."""
    return place_of(images) if is_named(images) else None


def _is_list(images: Any) -> bool:
    """Whether each image was named by the user, so that its path is no class."""
    place = _place(images)
    return isinstance(images, list | tuple) or (place is not None and place.is_file())


def _require_method(method: Any, retain: Any, full_length: bool, n_own_samples: int) -> bool:
    """Raise an error for arguments that the method does not use, or that do not suffice for it.

    Returns:
        Whether the method takes generated samples, sorted by their resemblance to the forget set.

    Raises:
        InputError: naming the first.
    """
    if retain is not None and "retain" not in method.needs:
        raise InputError(
            f"--retain: got {retain if is_named(retain) else shown(retain)}, but the method {method.name} does not use retained images. "
            "Leave it out, or use a method that does (vdu list)."
        )
    if full_length and not method.stops:
        raise InputError(
            f"--full-length: the method {method.name} has no stopping rule and always takes all its steps; leave the option out "
            "(`vdu list METHOD` shows whether a method has a stopping rule)."
        )
    selects = needs_selection(method, retain is not None and not _is_self(retain))
    if selects:
        require_enough("generated samples (--n-own-samples)", n_own_samples)
    return selects


def _require_fitting(plan: Plan, selects: bool) -> None:
    """Raise an error if the posterior or the forget set do not fit the model or the method."""
    posterior = plan.chosen.posterior
    if isinstance(posterior, GaussianPosterior):
        own = PipelineDenoiser.from_pipeline(plan.pipeline)  # its samples may be drawn under other prompts in the plan
        trained = dict(trained_weights(in_training(own, plan.train).network, plan.train).named_parameters())
        posterior.check_matches(trained)
        check_origin(posterior, own)
        _require_covering(posterior, [name for name, value in trained.items() if value.requires_grad], plan.train)
    if selects:
        require_enough("forget images", len(plan.forget))
    require_captions(
        plan.original, plan.forget, "--forget",
        "--forget-prompt, which says what they show, or images in folders that are named by their captions",
    )  # fmt: skip
    condition_of(plan.original, plan.forget, torch.arange(len(plan.forget)), "--forget")


def _require_covering(posterior: GaussianPosterior, trained: list[str], train: str) -> None:
    """Raise an error for a posterior that says nothing of the weights that train, and warn of one that covers some of them."""
    lacking = [name for name in trained if name not in posterior.mean]
    if not lacking or not posterior.mean:  # an empty one is still to be fitted
        return
    count = f"{len(lacking)} of the {len(trained)} weights that train"
    if len(lacking) == len(trained) or lora_rank(train):
        own = "" if posterior.name_filter is None else f" (its own is {posterior.name_filter!r})"
        raise InputError(
            f"posterior: does not cover {count} under train={train!r} (first: {lacking[0]}); expected all of them. Fit one for this model "
            f"without a name filter that leaves them out{own}."
        )
    say(f"vdu: warning: the posterior does not cover {count} (first: {lacking[0]}), so nothing holds these.")


def _is_self(retain: Any) -> bool:
    """Whether generated samples are asked for.

    Returns:
        Whether the argument is "self".

    Raises:
        InputError: if there is a folder of that name, which may be meant.
    """
    asked = isinstance(retain, str) and retain == "self"
    if asked and os.path.exists("self"):
        raise InputError(
            "--retain: got self, which stands for generated samples and is a file or folder here. Write ./self for the one here, or leave "
            "the option out for generated samples."
        )
    return asked


def check_origin(posterior: GaussianPosterior, original: PipelineDenoiser) -> None:
    """Raise an error for a posterior that was estimated for another model, even of the same architecture.

    Args:
        posterior: records the identity of its model; those of earlier versions the hash of its weights alone.
        original: the model.

    Raises:
        InputError: if the posterior's record names another.
    """
    known = (
        ("pipeline", {weights_sha256(original.network)}, "of its weights", "the same weights"),
        ("model", recorded_identities(original), "of weights and options", "the same noise schedule, prediction type and options too"),
    )  # fmt: skip
    for name, own, of, expected in known:
        fitted = posterior.sources.get(name)
        if fitted is not None and fitted not in own:
            raise InputError(
                f"posterior: was fitted to the model with SHA-256 {fitted[:12]}… ({of}), this one {min(own)[:12]}…; expected {expected}. "
                "Fit one for this model with `vdu posterior`."
            )
