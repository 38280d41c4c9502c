"""The training loop, the only place where an optimiser steps.

It serves pre-training, fine-tuning, judges and every unlearning method. Each step k:

    batch_k = make_batch(k)                     drawn for the whole step from (seed, k), split by process and micro-batch
    g = ∇ Σ terms, averaged over processes      accelerate (torch.distributed) inside; or combine(∇ term₁, ∇ term₂, …)
    g += closed-form gradients                  once per step, after the averaging
    θ ← Adam(θ, clip(g))                        then after_step, which may restore fixed weights

Since a step depends only on (θ, Adam state, k), resuming from a checkpoint gives the same bits on one CPU
process, and several processes use exactly the draws of one process.

Not guaranteed: equal float32 bits for different numbers of processes or micro-batches (the order of sums differs).
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn

from vdu.core.counter import standing_for
from vdu.core.errors import DivergenceError, InputError
from vdu.core.processes import say
from vdu.core.ranges import require_choice, require_fields
from vdu.core.records import sha256_bytes
from vdu.core.rng import derive_seed, isolated_global
from vdu.core.surroundings import own_torch
from vdu.core.types import Hooks, Losses
from vdu.training.accelerator import make_accelerator, require_precision
from vdu.training.checkpoint import latest_checkpoint, load_checkpoint, require_same_run, save_checkpoint
from vdu.training.ema import ExponentialMovingAverage
from vdu.training.log import StepLog
from vdu.training.trackers import tracking

__all__ = [
    "Objective",
    "TrainResult",
    "TrainSettings",
    "fingerprint_of",
    "require_resumable",
    "require_trainable",
    "train",
]

TensorBatch = Mapping[str, Tensor]
_PREPARED = "_is_accelerate_prepared"  # accelerate's mark


class Objective(Hooks):
    """The objective of the loop; a subclass defines the losses and overrides further hooks as needed.

    Attributes:
        limits: the largest value that an observed scalar may take before the run counts as diverged.
    """

    limits: Mapping[str, float] = MappingProxyType({})

    def losses(self, network: nn.Module, batch: TensorBatch) -> Losses:
        """The terms for a micro-batch, each a mean over it (or scaled from a mean)."""
        raise NotImplementedError


@dataclass(frozen=True)
class TrainSettings:
    """Settings of the training loop.

    Attributes:
        steps: number of optimiser steps.
        learning_rate: Adam's step size at its peak.
        lr_schedule: "constant", or "cosine" or "linear" (to 0 where step ``steps`` + 1 would be).
        warmup_steps: linear warm-up.
        weight_decay: decoupled weight decay (AdamW).
        gradient_accumulation_steps: micro-batches per step and process.
        max_grad_norm: clip the global gradient norm to this; None does not clip.
        ema_decay: decay of the weight average; None disables it.
        ema_ramp: R of :class:`vdu.training.ema.ExponentialMovingAverage`.
        mixed_precision: "no", "fp16" or "bf16".
        seed: seeds dropout; batch makers have their own seed.
        checkpointing_steps: write a checkpoint every so many steps; None writes only the last.
        checkpoints_total_limit: number of checkpoints to keep.
    """

    steps: int
    learning_rate: float
    lr_schedule: str = "constant"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    gradient_accumulation_steps: int = 1
    max_grad_norm: float | None = None
    ema_decay: float | None = None
    ema_ramp: int = 10
    mixed_precision: str = "no"
    seed: int = 0
    checkpointing_steps: int | None = None
    checkpoints_total_limit: int | None = 2

    def __post_init__(self) -> None:
        require_fields(self)

    def warn(self) -> None:
        """Name on standard error a warm-up that does not end."""
        if self.warmup_steps > self.steps:
            highest = max(self.rate(step) for step in range(self.steps))
            say(
                f"vdu: warning: warmup_steps: got {self.warmup_steps} for {self.steps} steps, so the warm-up does not end: the learning "
                f"rate reaches {highest:.2g} of {self.learning_rate:.2g}."
            )

    def rate(self, step: int) -> float:
        """The learning rate of step ``step``, counted from 0.

        Returns:
            Adam's step size. An unknown schedule raises an ``InputError``.

        Examples:
            >>> TrainSettings(steps=10, learning_rate=1.0, lr_schedule="linear").rate(5)
            0.5
        """
        warmup = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        done = step / self.steps
        decay = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}
        require_choice("lr_schedule", self.lr_schedule, decay)
        return self.learning_rate * warmup * decay[self.lr_schedule]


@dataclass(frozen=True)
class TrainResult:
    """Result of a training run besides the weights in the network.

    Attributes:
        steps: total number of steps done.
        ema: averaged weights by name, or None.
        last: the last step's log line.
        stopped: reason for an early stop, or None.
    """

    steps: int
    ema: dict[str, Tensor] | None
    last: dict[str, Any]
    stopped: str | None = None

    @torch.no_grad()
    def load_average(self, network: nn.Module) -> None:
        """Write the averaged weights, if there are any, into the trained network."""
        for name, value in network.named_parameters():
            if self.ema is not None and name in self.ema:
                value.copy_(self.ema[name])


@own_torch()
def train(
    network: nn.Module,
    objective: Objective,
    make_batch: Callable[[int], TensorBatch],
    settings: TrainSettings,
    *,
    folder: Path | None = None,
    resume: bool = False,
    identity: str = "",
    progress: str | None = None,
    accelerator: Any = None,
    stop: Callable[[int, Mapping[str, Tensor]], str | None] | None = None,
) -> TrainResult:
    """Train a network in place.

    Args:
        network: on the CPU or already on the accelerator's device.
        objective: the loss terms and closed-form gradients.
        make_batch: step → the global batch: tensors with one leading dimension that the number of processes and
            micro-batches divides. Must depend on the step alone.
        settings: how to train.
        folder: the run folder for ``checkpoints/`` and ``log.jsonl``; None writes nothing.
        resume: continue from the newest checkpoint in ``folder`` if there is one.
        identity: further text that must be equal on resume (hashes of data, model, method).
        progress: title of the progress bar on standard error; None shows none.
        accelerator: an ``accelerate.Accelerator``; by default one is created. Its tracker, if any (see
        :func:`make_accelerator`), receives the lines of the log.
        stop: called after every step with the number of steps done and the weights of the result (the average if there is
        one); a returned reason ends the run. Must depend on its arguments alone, and be the same on every process. What its
            ``state()`` returns, if it has one, is stored in checkpoints and given to its ``load_state`` on resume.

    Returns:
        The result; the network holds the last raw weights.

    Raises:
        DivergenceError: if a loss or gradient is not finite, or an observed value exceeds its limit. The weights are those
        before the bad step, and a checkpoint of them is written.
        InputError: if the run to resume is a different or longer one, or the accelerator has another precision, or one without effect.
    """
    accelerator = accelerator or make_accelerator(settings.mixed_precision)
    if accelerator.mixed_precision != settings.mixed_precision:
        raise InputError(
            f"accelerator: got mixed_precision {accelerator.mixed_precision!r}; expected {settings.mixed_precision!r}, as in the settings. "
            "Accelerate supports one precision per process; create the Accelerator last, right before training."
        )
    require_precision(accelerator, per_term=objective.per_term)
    # the network goes to the device before the optimiser sees its parameters
    network.__dict__.pop(_PREPARED, None)  # of another training: accelerate would leave the network as it is
    model = accelerator.prepare_model(network)
    parameters = {name: value for name, value in network.named_parameters() if value.requires_grad}
    require_trainable(network)
    # fused: one pass over memory and no temporary copies of the parameters
    optimizer = accelerator.prepare_optimizer(
        torch.optim.AdamW(parameters.values(), settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    )
    ema = (
        ExponentialMovingAverage(parameters.items(), settings.ema_decay, settings.ema_ramp)
        if settings.ema_decay
        else None
    )
    checkpoints = folder / "checkpoints" if folder else None
    fingerprint = fingerprint_of(settings, identity, accelerator.num_processes)
    start, stopped, looked = 0, None, None
    if resume and checkpoints and (newest := latest_checkpoint(checkpoints)):
        start, extra = load_checkpoint(newest, network, optimizer.optimizer, ema, fingerprint=fingerprint)
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(extra["scaler"])
        objective.load_state(extra.get("objective", {}))
        stopped = extra.get("stopped") if stop is not None else None  # without a rule all steps are taken
        _require_unended(stopped, start, extra.get("steps"), settings.steps)
        looked = extra.get("looked")  # also carried through a part of the run without a rule
        if looked is not None and stop is not None:
            cast("Any", stop).load_state(looked)
    _require_steps(settings, start)

    def checkpoint(step: int) -> None:
        if checkpoints and accelerator.is_main_process:
            extra = {
                "scaler": accelerator.scaler.state_dict() if accelerator.scaler else None,
                "objective": objective.state(),
                "stopped": stopped,
                "steps": settings.steps,
                "looked": getattr(stop, "state", lambda: looked)(),
            }
            save_checkpoint(
                checkpoints, step, network, optimizer.optimizer, ema,
                fingerprint=fingerprint, extra=extra, total_limit=settings.checkpoints_total_limit,
            )  # fmt: skip
        accelerator.wait_for_everyone()

    network.train()
    with (
        _put_back(accelerator, model, network),
        tracking(
            accelerator, folder, start, resume=resume, config=asdict(settings)
        ) as report,  # sees the whole old log
        StepLog(folder, start, settings.steps, progress, accelerator.is_main_process) as log,
    ):
        for step in range(start, start if stopped else settings.steps):
            for group in optimizer.param_groups:
                group["lr"] = settings.rate(step)
            optimizer.zero_grad(set_to_none=True)
            with isolated_global(derive_seed(settings.seed, "network", step, accelerator.process_index)):
                line = _backward(
                    model, objective, make_batch(step), settings.gradient_accumulation_steps, accelerator, parameters
                )
            accelerator.unscale_gradients(optimizer)
            line["terms"] |= objective.add_gradients(parameters)
            norm = _clip(parameters, settings.max_grad_norm)
            trouble = _trouble(line, norm, objective.limits, fp16=accelerator.scaler is not None)
            if trouble:
                checkpoint(step)
                raise DivergenceError(_advice(trouble, step, checkpoints))
            optimizer.step()
            objective.after_step(parameters, line["terms"] | line["observed"])
            if ema is not None:
                ema.update(parameters.items(), step)
            done = {"step": step + 1, "loss": sum(line["terms"].values()), **line}
            done |= {"grad_norm": norm, "learning_rate": settings.rate(step)}
            log.write(done)
            report(done)
            if stop is not None:
                stopped = stop(step + 1, ema.shadow if ema else parameters)
            every = settings.checkpointing_steps
            if stopped or step + 1 == settings.steps or (every and (step + 1) % every == 0):
                checkpoint(step + 1)
            start = step + 1
            if stopped:
                break
    return TrainResult(start, ema.shadow if ema else None, log.last, stopped)


@contextmanager
def _put_back(accelerator: Any, model: Any, network: nn.Module) -> Iterator[None]:
    """Undo what a training does to the network besides its weights, also after an error."""
    try:
        yield
    finally:
        accelerator.unwrap_model(
            model, keep_fp32_wrapper=False
        )  # mixed precision changes the network's forward in place
        network.__dict__.pop(_PREPARED, None)
        if getattr(vars(network).get("forward"), "__func__", None) is type(network).forward:
            del network.forward
        network.eval()


def require_resumable(
    folder: Path, settings: TrainSettings, identity: str, n_processes: int, *, stops: bool = False
) -> None:
    """Refuse a newest checkpoint of a different or longer run, as :func:`train` does, before there is anything to train.

    Args:
        folder: the run folder; one without a checkpoint passes.
        settings: as for :func:`train`.
        identity: likewise.
        n_processes: of the launcher.
        stops: whether a rule may end the run early.
    """
    if newest := latest_checkpoint(folder / "checkpoints"):
        done, extra = require_same_run(newest, fingerprint_of(settings, identity, n_processes))
        _require_steps(settings, done)
        _require_unended(extra.get("stopped") if stops else None, done, extra.get("steps"), settings.steps)


def _require_unended(stopped: str | None, done: int, planned: int | None, steps: int) -> None:
    if stopped and planned not in {None, steps}:
        raise InputError(
            f"steps: got {steps}, but the run ended by its stopping rule after {done} of {planned} steps, so that more steps would have no "
            "effect. Add --full-length (in Python full_length=True) to take all steps, or start anew with --overwrite."
        )


def _require_steps(settings: TrainSettings, done: int) -> None:
    if done > settings.steps:
        raise InputError(
            f"steps: got {settings.steps}, but the newest checkpoint has {done} steps; expected at least as many. "
            "Give more steps, or start anew with --overwrite."
        )


def require_trainable(network: nn.Module) -> None:
    """Refuse a network of which nothing trains.

    Raises:
        InputError: if every parameter is frozen.
    """
    if not any(value.requires_grad for value in network.parameters()):
        raise InputError(
            "network: every parameter is frozen (requires_grad is False), so nothing would be trained; expected at least one that is not. "
            "Call pipeline.unet.requires_grad_(True), or unfreeze the part to train."
        )


def _cut(batch: TensorBatch, part: int, parts: int) -> dict[str, Tensor]:
    for name, value in batch.items():
        if len(value) % parts:
            raise InputError(
                f"batch: {len(value)} entries of {name!r} cannot be split into {parts} equal parts; "
                "choose a batch size that is a multiple of processes × gradient accumulation steps."
            )
    return {name: value[len(value) * part // parts : len(value) * (part + 1) // parts] for name, value in batch.items()}


def _backward(
    model: nn.Module,
    objective: Objective,
    batch: TensorBatch,
    parts: int,
    accelerator: Any,
    parameters: Mapping[str, nn.Parameter],
) -> dict[str, Any]:
    """Gradients of one step, and the mean of each term over processes and micro-batches."""
    mine = _cut(batch, accelerator.process_index, accelerator.num_processes)
    sums: dict[tuple[str, str], Tensor] = {}
    of_terms: dict[str, list[Tensor]] = {}
    for part in range(parts):
        micro = {
            name: value.to(accelerator.device, non_blocking=True) for name, value in _cut(mine, part, parts).items()
        }
        # one term's gradients bypass DistributedDataParallel and are averaged below
        no_sync = (part < parts - 1 or objective.per_term) and accelerator.num_processes > 1
        with accelerator.no_sync(model) if no_sync else torch.enable_grad():
            with accelerator.autocast(), standing_for(accelerator.num_processes):
                losses = objective.losses(model, micro)
            if objective.per_term:
                for name, gradients in _term_gradients(losses.terms, list(parameters.values()), parts).items():
                    before = of_terms.get(name)
                    of_terms[name] = [a + b for a, b in zip(before, gradients, strict=True)] if before else gradients
            else:
                accelerator.backward(torch.stack([term.double() for term in losses.terms.values()]).sum() / parts)
        for kind, values in (("terms", losses.terms), ("observed", losses.observed)):
            for name, value in values.items():
                sums[kind, name] = sums.get((kind, name), 0) + value.detach().double() / parts
    if objective.per_term:
        averaged = {name: [accelerator.reduce(each, "mean") for each in of_terms[name]] for name in sorted(of_terms)}
        for value, gradient in zip(parameters.values(), objective.combine(averaged), strict=True):
            value.grad = gradient
    means = accelerator.reduce(torch.stack(list(sums.values())), "mean").tolist()
    line: dict[str, Any] = {"terms": {}, "observed": {}}
    for (kind, name), value in zip(sums, means, strict=True):
        line[kind][name] = value
    return line


def _term_gradients(terms: Mapping[str, Tensor], parameters: list[nn.Parameter], parts: int) -> dict[str, list[Tensor]]:
    """The gradient of each term divided by ``parts``, a list over the parameters."""
    found = {}
    for place, (name, term) in enumerate(terms.items()):
        kept = place < len(terms) - 1
        gradients = torch.autograd.grad(term / parts, parameters, retain_graph=kept, allow_unused=True)
        pairs = zip(gradients, parameters, strict=True)
        found[name] = [torch.zeros_like(value) if each is None else each for each, value in pairs]
    return found


def _clip(parameters: Mapping[str, nn.Parameter], limit: float | None) -> float:
    gradients = [value.grad for value in parameters.values() if value.grad is not None]
    if limit is None:
        return float(torch.nn.utils.get_total_norm(gradients))
    return float(torch.nn.utils.clip_grad_norm_(parameters.values(), limit))


def _trouble(line: dict[str, Any], norm: float, limits: Mapping[str, float], *, fp16: bool) -> str | None:
    for name, value in (line["terms"] | line["observed"]).items():
        if not math.isfinite(value):
            return f"{name} became {value}"
        if value > limits.get(name, math.inf):
            return f"{name} rose to {value:.4g}, past its limit of {limits[name]:.4g}"
    # under fp16 the gradient scaler skips steps with overflowing gradients
    return None if math.isfinite(norm) or fp16 else f"the gradient norm became {norm}"


def _advice(trouble: str, step: int, checkpoints: Path | None) -> str:
    kept = "The weights are those before that step."
    if checkpoints:
        kept = f"The weights before that are in {checkpoints / f'checkpoint-{step}'}."
    advice = "Lower the learning rate or the number of steps, or strengthen the regulariser."
    return f"diverged at step {step + 1}: {trouble}. {kept} {advice}"


def fingerprint_of(settings: TrainSettings, identity: str, processes: int) -> str:
    """A hash of what must be equal when a run is resumed.

    Args:
        settings: of the loop; those that leave the weights as they are do not count, nor do the steps at a constant rate.
        identity: as for :func:`train`.
        processes: their number.

    Returns:
        64 hexadecimal digits.
    """
    values = asdict(settings) | {"identity": identity, "processes": processes}
    for free in ("checkpointing_steps", "checkpoints_total_limit"):
        del values[free]
    if settings.lr_schedule == "constant":
        del values["steps"]  # a constant rate does not depend on the number of steps, so a run may be extended
    return sha256_bytes(repr(sorted(values.items())).encode())
