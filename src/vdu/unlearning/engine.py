"""The work of an unlearning: auxiliary data and models, the training loop, and the new pipeline.

    original ─ generated samples ─ selection ─ auxiliary models        :mod:`vdu.replay`
        └─ copy ─ training loop under the method's losses ─ average ─ the new pipeline

Not guaranteed: that everything is forgotten, or that nothing else changed; :mod:`vdu.evaluation` measures both.
"""

import copy
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from vdu.core import processes
from vdu.core.counter import EvaluationCounter
from vdu.core.errors import InputError
from vdu.core.rng import derive_seed
from vdu.core.types import Denoiser, Method
from vdu.data.forget_source import content_of
from vdu.data.images import ImageSet
from vdu.models.identity import identity as identity_of
from vdu.models.identity import weights_sha256
from vdu.models.lora import (
    corrections_sha256,
    lora_rank,
    low_rank_layers,
    merged,
    sharing_copy,
    training_copy,
    without_corrections,
)
from vdu.models.pipelines import configuration_of, network_of, parts_of, replace_network
from vdu.models.reading import in_training
from vdu.replay.auxiliaries import auxiliary_work, make_auxiliaries, needs_selection
from vdu.replay.guarantee import MOST, N_LOOKS
from vdu.replay.stopping import ForgottenCheck, Stopping, can_stop
from vdu.training.accelerator import make_accelerator
from vdu.training.batches import Draws, NoisyImages, UniformImages, labels_for, role_size, together
from vdu.training.log import StepLog
from vdu.training.loop import TrainResult, fingerprint_of, require_resumable, train
from vdu.unlearning.effect import forget_predictions, relative_change, require_finite, require_moved
from vdu.unlearning.form import conditions, in_closed_form, in_place_of, instead_of
from vdu.unlearning.labels import SHOWN
from vdu.unlearning.objective import MethodObjective
from vdu.unlearning.plan import Plan
from vdu.unlearning.result import UnlearnResult
from vdu.unlearning.target_pool import TargetPool

__all__ = ["carry_out", "check_resumable", "fingerprint", "say", "work"]


def carry_out(
    plan: Plan, *, folder: Path | None = None, resume: bool = False, progress: str | None = None
) -> UnlearnResult:
    """Train a copy of the model under the method's losses.

    Args:
        plan: what, and how.
        folder: a run folder for checkpoints and the log; None writes nothing.
        resume: continue from the newest checkpoint in the folder, after :func:`check_resumable`.
        progress: title of the progress bar; None shows none.

    Returns:
        The new pipeline and the record. A training that diverged raises an error, also if it did in its last step.
    """
    began, seed = time.monotonic(), plan.run_seed
    plan.training.warn()
    original, method, images, settings = (
        in_training(plan.original, plan.train),
        plan.chosen.method,
        plan.forget,
        plan.training,
    )
    denoiser = original.with_network(training_copy(original.network, plan.train, seed=seed))
    accelerator = make_accelerator(settings.mixed_precision, report_to=plan.report_to, folder=folder)
    if plan.gradient_checkpointing:
        cast("Any", denoiser.network).enable_gradient_checkpointing()
    denoiser.network.to(accelerator.device)  # before the method is prepared: its posterior follows the network
    shown = say if progress else None
    if shown and (places := in_place_of(plan)):
        some = "; ".join(f"{forgotten!r} → {other!r}" for forgotten, other in list(places.items())[:SHOWN])
        shown(f"each prompt to forget is taught to draw another: {some}" + ("; …" if len(places) > SHOWN else ""))
    aids = make_auxiliaries(
        original, method, images, retain=plan.retain, n_own_samples=plan.n_own_samples, force=plan.force, sampler=plan.sampler,
        seed=seed, device=accelerator.device, teacher=_teacher(denoiser), instead=instead_of(plan.original, plan.prompts),
        forgotten=plan.forget_label, conditions=conditions(plan, original), say=shown, holds_out=plan.stops,
    )  # fmt: skip
    # anew: what was trained for the aids had its own precision, and accelerate knows one for a process
    accelerator = make_accelerator(settings.mixed_precision, report_to=plan.report_to, folder=folder)
    counter, small = EvaluationCounter(), EvaluationCounter()
    classifier = aids.judged.classifier if aids.judged is not None else None
    with counter.watching(denoiser.network), small.watching(classifier):
        ready = method.prepare(denoiser, aids.tools)
    make_batch = _batches(ready, aids.sets, denoiser, plan.batch_size, seed)
    if ready.pool:
        make_batch = TargetPool(make_batch, ready, denoiser, ready.pool)
    picture = folder / "first-look.png" if folder is not None else None
    before, rule = forget_predictions(denoiser, images), None
    if can_stop(aids):
        watched = denoiser.with_network(sharing_copy(denoiser.network))
        rule = ForgottenCheck(watched, aids, settings.steps, picture, shown)
    tools = aids.tools
    others = (tools.teacher, tools.self_model, tools.forget_model, rule and rule.denoiser)
    networks = [denoiser.network, *(each.network for each in others if each is not None)]
    with counter.watching(*networks), small.watching(classifier):
        if in_closed_form(ready):
            result = _solved(ready, denoiser, folder if processes.is_first() else None)
        else:
            result = train(
                denoiser.network, MethodObjective(ready, denoiser), make_batch, settings,
                folder=folder, resume=resume, identity=_identity(plan), progress=progress, accelerator=accelerator, stop=rule,
            )  # fmt: skip
    result.load_average(denoiser.network)
    if plan.gradient_checkpointing:
        cast("Any", denoiser.network).disable_gradient_checkpointing()
    require_moved(denoiser.network, original.network, result.steps)
    after = forget_predictions(denoiser, images)
    require_finite(after, result.steps)
    stopping = Stopping.from_text(result.stopped) if result.stopped else None
    if rule is not None and stopping is None:
        with counter.watching(*networks), small.watching(classifier):
            stopping = rule.look(result.steps, dict(denoiser.network.named_parameters()))
    evaluations = (
        plan.drawing_evaluations + aids.evaluations + counter.total + round(small.total * aids.classifier_share)
    )
    new = replace_network(plan.pipeline, _whole(denoiser.network, plan.train, original.network))
    made = UnlearnResult(
        new, result, evaluations, plan, aids, stopping,
        seconds=time.monotonic() - began, folder=folder, trained=denoiser.network,
        prediction_change=relative_change(after, before), original_sha256=plan.weights_sha256,
        pipeline_sha256=weights_sha256(network_of(new)), pipeline_configuration=configuration_of(new),
        pipeline_parts=parts_of(new), original_parts=parts_of(plan.pipeline), inputs=plan.inputs(),
        trained_sha256=corrections_sha256(denoiser.network) if lora_rank(plan.train) else None,
    )  # fmt: skip
    for text in (made.ending, made.warning):
        if text and progress:
            say(text)
    return made


def check_resumable(plan: Plan, folder: Path) -> None:
    """Refuse to resume another run than the one in a folder, before anything is made for it.

    Args:
        plan: what, and how.
        folder: the run folder; one without checkpoints passes. A newest checkpoint of other settings, data or another model does not.
    """
    if not in_closed_form(plan.chosen.method):
        require_resumable(folder, plan.training, _identity(plan), processes.place()[1], stops=plan.stops)


def fingerprint(plan: Plan) -> str:
    """A hash of what must be equal when the run is resumed, also where it has no checkpoint; a posterior to be fitted counts as none."""
    return fingerprint_of(plan.training, _identity(plan), processes.place()[1])


def _identity(plan: Plan) -> str:
    """What must be equal on resume, besides the settings of the loop."""
    method, known = plan.chosen.method, plan.original.class_names
    identity = (
        f"unlearn 2 {plan.run_seed} {content_of(plan.forget, known)} {identity_of(plan.original)} {plan.batch_size} {method.name} "
        f"{method.identity}"
    )
    if plan.train != "all":
        identity += f" {plan.train}"
    if held := [name for name, value in plan.original.network.named_parameters() if not value.requires_grad]:
        identity += f" without {held}"
    if plan.prompts:
        identity += f" {sorted(plan.prompts.items())}"
    if plan.retain is not None and "retain" in method.needs:
        identity += f" {content_of(plan.retain, known)}"
    if needs_selection(method, plan.retain is not None):
        identity += f" {plan.n_own_samples} {plan.sampler}"
    elif {"self_model", "sampler", "instead"} & (set(method.needs) | set(method.uses)):
        identity += f" {plan.n_own_samples if 'self_model' in method.uses else ''} {plan.sampler}"
    return identity


def _teacher(denoiser: Denoiser) -> Denoiser | None:
    """The original, if what trains is a correction of it: the same weights in the same memory."""
    if not low_rank_layers(denoiser.network):
        return None
    return denoiser.with_network(without_corrections(denoiser.network).eval())


def _solved(method: Any, denoiser: Denoiser, folder: Path | None) -> TrainResult:
    """A method in closed form, solved, as the result of one step."""
    line = {"step": 1, "terms": {}, "observed": dict(method.solve(denoiser))}
    with StepLog(folder, 0, 1, None, True) as log:
        log.write(line)
    denoiser.network.eval()
    return TrainResult(1, None, line)


def _whole(network: nn.Module, train: str, original: nn.Module) -> nn.Module:
    """The trained network with corrections merged, in memory of its own; frozen where the original is."""
    if train == "all":
        return network
    made = merged(network) if low_rank_layers(network) else copy.deepcopy(network)
    for name, value in original.named_parameters():
        made.get_parameter(name).requires_grad_(value.requires_grad)
    return made


def work(plan: Plan) -> dict[str, tuple[float, float]]:
    """About how many network evaluations the stages of :func:`carry_out` take, for :func:`vdu.core.progress.expect`.

    Args:
        plan: what, and how.

    Returns:
        Title of the progress bar → number of items, network evaluations of each.
    """
    method, steps = plan.chosen.method, plan.training.steps
    stages = auxiliary_work(
        plan.original, method, has_retain=plan.retain is not None, n_own_samples=plan.n_own_samples, sampler=plan.sampler,
        holds_out=plan.stops,
    )  # fmt: skip
    images = plan.batch_size * sum(method.batch_shares.get(role, 1.0) for role in method.needs)
    frozen = len(
        {"teacher", "self_model", "forget_model"} & set(method.uses)
    )  # evaluated until a pool of targets is full
    step = images * (3 + frozen * min(1.0, (method.pool or steps) / steps))
    if "sampler" in method.uses:  # half of the way from noise to an image, for each image of a step
        step += images * plan.sampler.evaluations(plan.original) / 2
    looks = N_LOOKS * MOST * plan.sampler.evaluations(plan.original) if plan.stops else 0
    return stages | {"unlearn": (steps, step + looks / steps)}


def say(text: str) -> None:
    """Print a line of progress on standard error."""
    processes.say(f"unlearn: {text}")


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
    forget_labels: tuple[Any, ...] = ()
    if denoiser.class_names and forget is not None:
        forget_labels = tuple(sorted(set(labels_for(denoiser, forget, torch.arange(len(forget)), "forget"))))
    sizes = {role: role_size(batch_size, method.batch_shares.get(role, 1.0)) for role in sorted(method.needs)}
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
