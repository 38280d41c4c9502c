"""A pipeline and the images to forget in, a pipeline that no longer makes them out.

    original ─ generated samples ─ selection ─ auxiliary models        :mod:`vdu.replay`
        └─ copy ─ training loop under the method's losses ─ average ─ the new pipeline

Not guaranteed: that everything is forgotten, or that nothing else changed; :mod:`vdu.evaluation` measures both.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vdu.core.checks import hash_parameters
from vdu.core.counter import EvaluationCounter
from vdu.core.errors import InputError
from vdu.core.rng import derive_seed, draw_seed
from vdu.core.types import Denoiser, Method
from vdu.data.images import ImageSet
from vdu.data.sources import load_images
from vdu.diffusion.sampling import Sampler
from vdu.methods.defaults import DEFAULTS
from vdu.methods.distillation import RetainDistillation
from vdu.methods.retrack import Retrack
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.pipelines import replace_network
from vdu.posterior.gaussian import GaussianPosterior
from vdu.replay.auxiliaries import Auxiliaries, make_auxiliaries
from vdu.replay.stopping import ForgottenCheck
from vdu.training.batches import NoisyImages, UniformImages, labels_for, together
from vdu.training.loop import TrainResult, TrainSettings, make_accelerator, train
from vdu.unlearning.objective import MethodObjective

__all__ = ["STOPPING", "UnlearnResult", "check_origin", "unlearn"]

EMA_RAMP = 4  # of the average: the last third of the steps, nearly
STOPPING = {RetainDistillation.name, Retrack.name}  # their steps were chosen as an upper bound, not as a setting


@dataclass(frozen=True)
class UnlearnResult:
    """What unlearning gives.

    Attributes:
        pipeline: the new pipeline; the one that was given is untouched.
        training: the loop's result.
        network_evaluations: forward 1 and backward 2 per image; own samples, auxiliary models and looks of the stopping
            rule included, small classifiers in the model's equivalents by FLOPs.
        aids: what the method was given besides the forget set.
        ending: why it ended, in plain words, or None where there is no rule.
    """

    pipeline: Any
    training: TrainResult
    network_evaluations: int
    aids: Auxiliaries | None = field(default=None, repr=False)
    ending: str | None = None


def unlearn(
    pipeline: Any,
    method: Method,
    *,
    forget: ImageSet | Path | str,
    retain: ImageSet | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    lr_schedule: str = "constant",
    warmup_steps: int | None = None,
    ema_decay: float | None = None,
    gradient_accumulation_steps: int = 1,
    max_grad_norm: float | None = None,
    mixed_precision: str = "no",
    checkpointing_steps: int | None = None,
    checkpoints_total_limit: int | None = 2,
    n_own_samples: int | None = None,
    sampler: Sampler | None = None,
    full_length: bool = False,
    force: bool = False,
    generator: torch.Generator,
    folder: Path | None = None,
    resume: bool = False,
    progress: str | None = "unlearn",
    report_to: Any = "none",
) -> UnlearnResult:
    """Make a pipeline forget.

    Args:
        pipeline: an unconditional diffusers pipeline; left untouched.
        method: for example ``vdu.RetainDistillation()``, or ``vdu.VDU(posterior, gamma=0.1)``.
        forget: the images to forget, or where they are (see :func:`vdu.data.sources.load_images`).
        retain: real images to keep, for methods that want some; None takes the model's own samples without those that
            resemble the forget set (:func:`vdu.replay.selection.resemblance`).
        steps: optimiser steps; here and below None takes what suits the method (``vdu.methods.defaults.DEFAULTS``).
        batch_size: images of each role per step, over all processes.
        learning_rate: Adam's step size.
        lr_schedule: "constant", "linear" or "cosine".
        warmup_steps: linear warm-up of the learning rate.
        ema_decay: decay of the weight average that is kept in the end; 0 keeps the last weights.
        gradient_accumulation_steps: micro-batches per step and process.
        max_grad_norm: clip the gradient norm to this; None clips where the method's default does.
        mixed_precision: "no", "fp16" or "bf16".
        checkpointing_steps: a checkpoint every so many steps (with a folder).
        checkpoints_total_limit: how many checkpoints to keep; None keeps all.
        n_own_samples: own samples for methods that want some.
        sampler: how they are drawn.
        full_length: all steps, even where the stopping rule (:mod:`vdu.replay.stopping`) says that it is forgotten.
        force: go on where the model makes nothing like the forget set, or little else.
        generator: one draw from it seeds everything.
        folder: a run folder for checkpoints and the log; None writes nothing.
        resume: continue from the newest checkpoint in the folder.
        progress: title of the progress bar; None shows none.
        report_to: an experiment tracker for the log's values: "tensorboard", "wandb", "trackio" or an
            ``accelerate.tracking.GeneralTracker`` (:mod:`vdu.training.trackers`).

    Returns:
        The new pipeline and the record of its making.
    """
    seed = draw_seed(generator)
    original = PipelineDenoiser.from_pipeline(pipeline)
    images = forget if isinstance(forget, ImageSet) else load_images(str(forget), shape=original.image_shape)
    default = DEFAULTS.get(method.name, DEFAULTS["vdu"])
    n_images, n_steps = int(batch_size or default["batch_size"]), int(steps or default["steps"])
    denoiser = original.copy()
    accelerator = make_accelerator(mixed_precision, report_to=report_to, folder=folder)
    denoiser.network.to(accelerator.device)  # before the method is prepared: its posterior follows the network
    posterior = getattr(method, "posterior", None)
    if posterior is not None:
        check_origin(posterior, hash_parameters(original.network.state_dict()))
    aids = make_auxiliaries(
        original, method, images, retain=retain, n_own_samples=n_own_samples or default["n_own_samples"], force=force,
        sampler=sampler or Sampler(scheduler=default["scheduler"], steps=default["inference_steps"]), seed=seed,
        device=accelerator.device, say=_say if progress and accelerator.is_main_process else None,
    )  # fmt: skip
    # anew: what was trained for the aids had its own precision, and accelerate knows one for a process
    accelerator = make_accelerator(mixed_precision, report_to=report_to, folder=folder)
    counter, small = EvaluationCounter(), EvaluationCounter()
    classifier = aids.judged.classifier if aids.judged is not None else None
    with counter.watching(denoiser.network), small.watching(classifier):
        ready = method.prepare(denoiser, aids.tools)
    make_batch = _batches(ready, aids.sets, denoiser, n_images, seed)
    settings = TrainSettings(
        steps=n_steps,
        learning_rate=learning_rate or default["learning_rate"],
        lr_schedule=lr_schedule,
        warmup_steps=default["warmup_steps"] if warmup_steps is None else warmup_steps,
        ema_decay=(default["ema_decay"] if ema_decay is None else ema_decay) or None,
        ema_ramp=EMA_RAMP,
        gradient_accumulation_steps=gradient_accumulation_steps,
        max_grad_norm=max_grad_norm or default.get("max_grad_norm"),
        mixed_precision=mixed_precision,
        seed=derive_seed(seed, "training"),
        checkpointing_steps=checkpointing_steps,
        checkpoints_total_limit=checkpoints_total_limit,
    )
    identity = f"{seed} {images.sha256} {hash_parameters(original.network.state_dict())} {n_images} {method.name} {method.identity}"
    if retain is not None and "retain" in method.needs:
        identity += f" {retain.sha256}"
    if aids.judged is not None:
        identity += f" {len(aids.judged.kept)} {aids.sampler}"
    check = ForgottenCheck(denoiser.copy(), aids, n_steps)
    rule = check if check.possible and not full_length and method.name in STOPPING else None
    tools = aids.tools
    others = [each.network for each in (tools.teacher, tools.self_model, tools.forget_model) if each is not None]
    with counter.watching(denoiser.network, check.denoiser.network, *others), small.watching(classifier):
        result = train(
            denoiser.network, MethodObjective(ready, denoiser), make_batch, settings,
            folder=folder, resume=resume, identity=identity, progress=progress, accelerator=accelerator, stop=rule,
        )  # fmt: skip
        result.load_average(denoiser.network)
        ending = result.stopped
        if rule is not None and ending is None:
            ending = _at_the_end(rule, method, denoiser, result.steps)
    if ending and progress and accelerator.is_main_process:
        _say(ending)
    evaluations = aids.evaluations + counter.total + round(small.total * aids.classifier_share)
    return UnlearnResult(replace_network(pipeline, denoiser.network), result, evaluations, aids, ending)


def _at_the_end(rule: ForgottenCheck, method: Method, denoiser: PipelineDenoiser, steps: int) -> str:
    """What the rule finds after all the steps."""
    left = rule.remaining(dict(denoiser.network.named_parameters()))
    sentence = rule.sentence(steps, left)
    if left <= rule.aim:
        return sentence
    more = [name for name in ("repulsion_scale", "forget_weight") if hasattr(method, name)]
    return f"{sentence}; these were all the steps: a larger {' or '.join(more)} (--option) forgets more, and so may --steps"


def _say(text: str) -> None:
    print(f"unlearn: {text}", file=sys.stderr, flush=True)


def _batches(
    method: Method, sets: Mapping[str, ImageSet | None], denoiser: Denoiser, batch_size: int, seed: int
) -> Callable[[int], dict[str, Tensor]]:
    """Batches of every role that the method needs, each with its own seed.

    Args:
        method: it says which roles, and at which noise levels.
        sets: the images that there are, by role.
        denoiser: the model, which encodes images and knows their conditions.
        batch_size: images of each role per step.
        seed: of the run.

    Returns:
        step → tensors.

    Raises:
        InputError: if a role has no images.
    """
    makers, shape, forget = [], denoiser.image_shape, sets.get("forget")
    forget_labels: tuple[int, ...] = ()
    if denoiser.class_names and forget is not None:
        forget_labels = tuple(sorted(set(labels_for(denoiser, forget, torch.arange(len(forget)), "forget"))))
    for role in sorted(method.needs):
        role_seed, draw_weights = derive_seed(seed, role), method.draw_weights(role)
        size = max(1, round(batch_size * method.batch_shares.get(role, 1.0)))
        if role == "surrogate":
            makers.append(UniformImages(role, shape, size, draw_weights, role_seed, denoiser, forget_labels))
            continue
        images = sets.get(role)
        if images is None:
            raise InputError(f"{role}: the method {method.name} needs such images, got none.")
        if images.shape != shape:
            raise InputError(f"{role}: got images of shape {images.shape}; expected {shape}, the model's.")
        makers.append(NoisyImages(role, images, size, draw_weights, role_seed, denoiser))
    return together(makers)


def check_origin(posterior: GaussianPosterior, sha256: str) -> None:
    """Refuse a posterior that was estimated for other weights, even of the same architecture.

    Raises:
        InputError: if the posterior's record names another pipeline.
    """
    made_for = posterior.sources.get("pipeline")
    if made_for not in {None, sha256}:
        raise InputError(
            f"posterior: was made for the model with SHA-256 {str(made_for)[:12]}…, this one has {sha256[:12]}…; expected the same "
            "weights, for its mean pulls towards them. Make one for this model with `vdu posterior`."
        )
