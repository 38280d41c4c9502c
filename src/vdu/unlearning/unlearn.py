"""A pipeline and the images to forget in, a pipeline that no longer makes them out.

    original ─ generated samples ─ selection ─ auxiliary models        :mod:`vdu.replay`
        └─ copy ─ training loop under the method's losses ─ average ─ the new pipeline

Not guaranteed: that everything is forgotten, or that nothing else changed; :mod:`vdu.evaluation` measures both.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor

from vdu.core import progress as progress_bars
from vdu.core.checks import hash_parameters
from vdu.core.counter import EvaluationCounter
from vdu.core.errors import InputError
from vdu.core.ranges import require_ranges
from vdu.core.rng import derive_seed, draw_seed
from vdu.core.types import Denoiser, Method
from vdu.data.images import ImageSet
from vdu.data.sources import load_images
from vdu.diffusion.sampling import Sampler
from vdu.methods.defaults import TrainingDefaults
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.pipelines import replace_network
from vdu.posterior.gaussian import GaussianPosterior
from vdu.replay.auxiliaries import Auxiliaries, make_auxiliaries
from vdu.replay.stopping import ForgottenCheck, Stopping, can_stop
from vdu.training.batches import Draws, NoisyImages, UniformImages, labels_for, together
from vdu.training.loop import TrainResult, TrainSettings, make_accelerator, train
from vdu.unlearning.labels import forget_set_of_labels
from vdu.unlearning.objective import MethodObjective

__all__ = ["TrainingOptions", "UnlearnResult", "check_origin", "unlearn"]

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
        checkpointing_steps: a checkpoint every so many steps (with a folder); None writes only the last.
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


@dataclass(frozen=True)
class UnlearnResult:
    """Result of unlearning.

    Attributes:
        pipeline: the new pipeline; the given one is unchanged.
        training: the result of the training loop.
        network_evaluations: forward 1 and backward 2 per image, including generated samples, auxiliary models and the stopping
            rule; small classifiers count by their FLOPs relative to the model.
        aids: the auxiliary data and models of the method.
        stopping: outcome of the stopping rule, or None without a rule.
        strength: the method's options whose larger values forget more.
    """

    pipeline: Any
    training: TrainResult
    network_evaluations: int
    aids: Auxiliaries | None = field(default=None, repr=False)
    stopping: Stopping | None = None
    strength: tuple[str, ...] = field(default=(), repr=False)

    @property
    def ending(self) -> str | None:
        """Outcome of the stopping rule as a sentence, or None without a rule."""
        return None if self.stopping is None else self.stopping.sentence(self.strength)


def unlearn(
    pipeline: Any,
    method: Method,
    *,
    forget: ImageSet | Path | str | None = None,
    forget_labels: Sequence[int | str] = (),
    retain: ImageSet | None = None,
    n_own_samples: int | None = None,
    sampler: Sampler | None = None,
    full_length: bool = False,
    force: bool = False,
    generator: torch.Generator,
    folder: Path | None = None,
    resume: bool = False,
    progress: str | None = "unlearn",
    report_to: Any = "none",
    **training: Unpack[TrainingOptions],
) -> UnlearnResult:
    """Make a pipeline forget.

    Args:
        pipeline: a diffusers pipeline, unconditional or class-conditional; left untouched.
        method: for example ``vdu.RetainDistillation()``, or ``vdu.VDU(posterior, gamma=0.1)``.
        forget: the images to forget, or where they are (see :func:`vdu.data.sources.load_images`).
        forget_labels: classes of a class-conditional model to forget, by name or index; without ``forget`` the forget set is drawn
            from the model under these labels.
        retain: real images to keep, for methods that use them; None takes generated samples without those that
        resemble the forget set (:func:`vdu.replay.selection.resemblance`).
        n_own_samples: number of generated samples, for methods that use them; None takes the method's default.
        sampler: their sampler; likewise.
        full_length: take all steps, even if the stopping rule (:mod:`vdu.replay.stopping`) is met earlier.
        force: continue if the model generates almost none, or almost only, images like the forget set.
        generator: one draw from it seeds everything.
        folder: a run folder for checkpoints and the log; None writes nothing.
        resume: continue from the newest checkpoint in the folder.
        progress: title of the progress bar; None shows none.
        report_to: an experiment tracker for the log's values: "tensorboard", "wandb", "trackio" or an
            ``accelerate.tracking.GeneralTracker`` (:mod:`vdu.training.trackers`).
        **training: steps, batch_size, learning_rate and the other settings of :class:`TrainingOptions`.

    Returns:
        The new pipeline and the record of the run. A setting that is out of range raises an ``InputError``.
    """
    _require_known(training)
    require_ranges({**training, "n_own_samples": n_own_samples})
    seed = draw_seed(generator)
    original = PipelineDenoiser.from_pipeline(pipeline)
    default: TrainingDefaults = method.training
    sampler = sampler or Sampler(scheduler=default.scheduler, steps=default.inference_steps)
    images = _forget_set(original, forget, forget_labels, sampler, seed)
    n_images = _given(training.get("batch_size"), default.batch_size)
    settings = _train_settings(training, default, derive_seed(seed, "training"))
    denoiser = original.copy()
    accelerator = make_accelerator(settings.mixed_precision, report_to=report_to, folder=folder)
    denoiser.network.to(accelerator.device)  # before the method is prepared: its posterior follows the network
    weights_hash = hash_parameters(original.network.state_dict())
    posterior = getattr(method, "posterior", None)
    if posterior is not None:
        check_origin(posterior, weights_hash)
    progress_bars.expect(
        _work(method, settings.steps, n_images, sampler, n_own := _given(n_own_samples, default.n_own_samples))
    )
    aids = make_auxiliaries(
        original, method, images, retain=retain, n_own_samples=n_own, force=force,
        sampler=sampler, seed=seed,
        device=accelerator.device, say=_say if progress and accelerator.is_main_process else None,
    )  # fmt: skip
    # anew: what was trained for the aids had its own precision, and accelerate knows one for a process
    accelerator = make_accelerator(settings.mixed_precision, report_to=report_to, folder=folder)
    counter, small = EvaluationCounter(), EvaluationCounter()
    classifier = aids.judged.classifier if aids.judged is not None else None
    with counter.watching(denoiser.network), small.watching(classifier):
        ready = method.prepare(denoiser, aids.tools)
    make_batch = _batches(ready, aids.sets, denoiser, n_images, seed)
    identity = f"unlearn 2 {seed} {images.sha256} {weights_hash} {n_images} {method.name} {method.identity}"
    if retain is not None and "retain" in method.needs:
        identity += f" {retain.sha256}"
    if aids.judged is not None:
        identity += f" {len(aids.judged.kept)} {aids.sampler}"
    stops = method.stops and not full_length and can_stop(aids)
    rule = ForgottenCheck(denoiser.copy(), aids, settings.steps) if stops else None
    tools = aids.tools
    others = [
        each
        for each in (tools.teacher, tools.self_model, tools.forget_model, rule and rule.denoiser)
        if each is not None
    ]
    with counter.watching(denoiser.network, *(each.network for each in others)), small.watching(classifier):
        result = train(
            denoiser.network, MethodObjective(ready, denoiser), make_batch, settings,
            folder=folder, resume=resume, identity=identity, progress=progress, accelerator=accelerator, stop=rule,
        )  # fmt: skip
        result.load_average(denoiser.network)
        stopping = Stopping.from_text(result.stopped) if result.stopped else None
        if rule is not None and stopping is None:
            stopping = rule.look(result.steps, dict(denoiser.network.named_parameters()))
    evaluations = aids.evaluations + counter.total + round(small.total * aids.classifier_share)
    made = UnlearnResult(
        replace_network(pipeline, denoiser.network), result, evaluations, aids, stopping, method.strength
    )
    if made.ending and progress and accelerator.is_main_process:
        _say(made.ending)
    return made


def _forget_set(
    original: PipelineDenoiser,
    forget: ImageSet | Path | str | None,
    labels: Sequence[int | str],
    sampler: Sampler,
    seed: int,
) -> ImageSet:
    """The forget set as images, from images or labels."""
    if forget is None and not labels:
        raise InputError("forget: got neither images nor forget_labels; expected one of them.")
    images = (
        forget
        if isinstance(forget, ImageSet) or forget is None
        else load_images(str(forget), shape=original.image_shape)
    )
    if labels and (images is None or images.labels is None):
        return forget_set_of_labels(original, labels, images, sampler=sampler, seed=seed)
    assert images is not None
    return images


def _work(method: Method, steps: int, batch_size: int, sampler: Sampler, n_own: int) -> dict[str, tuple[float, float]]:
    """About how many network evaluations the stages take, for the estimate of the time."""
    draws = {"own_forget", "retain", "classifier", "self_model"} & (set(method.needs) | set(method.uses))
    stages = {"generated samples": (float(n_own), float(sampler.steps))} if draws else {}
    shares = sum(method.batch_shares.get(role, 1.0) for role in method.needs)
    return stages | {"unlearn": (float(steps), 3.0 * batch_size * shares)}


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value


def _require_known(training: Mapping[str, Any]) -> None:
    """Raise an error for an unknown keyword argument, as Python does.

    Raises:
        TypeError: naming the first.
    """
    known = TrainingOptions.__annotations__
    for name in training:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"unlearn() got an unexpected keyword argument {name!r}{hint}")


def _train_settings(training: TrainingOptions, default: TrainingDefaults, seed: int) -> TrainSettings:
    """The settings of the loop: the given ones, and the method's defaults for the rest."""
    return TrainSettings(
        steps=_given(training.get("steps"), default.steps),
        learning_rate=_given(training.get("learning_rate"), default.learning_rate),
        lr_schedule=training.get("lr_schedule", "constant"),
        warmup_steps=_given(training.get("warmup_steps"), default.warmup_steps),
        ema_decay=_given(training.get("ema_decay"), default.ema_decay) or None,
        ema_ramp=EMA_RAMP,
        gradient_accumulation_steps=training.get("gradient_accumulation_steps", 1),
        max_grad_norm=_given(training.get("max_grad_norm"), default.max_grad_norm),
        mixed_precision=training.get("mixed_precision", "no"),
        seed=seed,
        checkpointing_steps=training.get("checkpointing_steps"),
        checkpoints_total_limit=training.get("checkpoints_total_limit", 2),
    )


def _say(text: str) -> None:
    print(f"unlearn: {text}", file=sys.stderr, flush=True)


def _batches(
    method: Method, sets: Mapping[str, ImageSet | None], denoiser: Denoiser, batch_size: int, seed: int
) -> Callable[[int], dict[str, Tensor]]:
    """Batches of every role that the method needs, each with its own seed, and the method's random draws.

    Args:
        method: determines the roles and their noise levels.
        sets: the available images, by role.
        denoiser: the model, which encodes images and provides their conditions.
        batch_size: images of each role per step.
        seed: of the run.

    Returns:
        step → tensors.

    Raises:
        InputError: if a role has no images.
    """
    makers: list[Callable[[int], dict[str, Tensor]]] = []
    shape, forget = denoiser.image_shape, sets.get("forget")
    forget_labels: tuple[int, ...] = ()
    if denoiser.class_names and forget is not None:
        forget_labels = tuple(sorted(set(labels_for(denoiser, forget, torch.arange(len(forget)), "forget"))))
    sizes = {role: max(1, round(batch_size * method.batch_shares.get(role, 1.0))) for role in sorted(method.needs)}
    for role, size in sizes.items():
        role_seed, draw_weights = derive_seed(seed, role), method.draw_weights(role)
        if role == "surrogate":
            makers.append(UniformImages(role, shape, size, draw_weights, role_seed, denoiser, forget_labels))
            continue
        images = sets.get(role)
        if images is None:
            raise InputError(f"{role}: the method {method.name} needs such images, got none.")
        if images.shape != shape:
            raise InputError(f"{role}: got images of shape {images.shape}; expected {shape}, the model's.")
        makers.append(NoisyImages(role, images, size, draw_weights, role_seed, denoiser))
    if method.draws:
        makers.append(Draws(method.draws, sizes, denoiser.latent_shape, derive_seed(seed, "training")))
    return together(makers)


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
