"""A finished and evaluated run, opened for exploration: its samples, both models, the sampler of its numbers, its checkpoints.

The page shows only data from here. A run that is unfinished, not evaluated or damaged, or whose models are no
longer those of its numbers, raises an error before a page opens.

Not guaranteed: many checkpoints, since a run keeps only its newest ones.
"""

import copy
import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from vdu.commands.settings import EvaluateSettings
from vdu.core.errors import InputError
from vdu.core.records import read_json, sha256_file
from vdu.diffusion.sampling import Sampler
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.identity import is_recorded_configuration, parts_sha256, weights_sha256
from vdu.models.lora import lora_rank, training_copy
from vdu.models.pipelines import load_pipeline
from vdu.models.reading import TEXT_ENCODER, in_training
from vdu.reporting.collect import ReportData, collect
from vdu.reporting.masthead import masthead
from vdu.training.checkpoint import list_checkpoints, load_weights

__all__ = ["Checkpoint", "OpenRun", "open_run"]


@dataclass(frozen=True)
class Checkpoint:
    """A model along the run (the original, a kept checkpoint or the final one) and the location of its weights.

    Attributes:
        name: "original", "checkpoint-N" or "final".
        step: optimiser steps done; None if the run's log does not contain it.
        key: identifies the weights in the cache: SHA-256 of the checkpoint's file, or of the model's parameters.
        folder: the checkpoint's folder; None for the two models themselves.
    """

    name: str
    step: int | None
    key: str
    folder: Path | None = None

    @property
    def label(self) -> str:
        """The step, and which end of the run it is."""
        if self.name == "original":
            return "0 (original)"
        number = "last step" if self.step is None else str(self.step)
        return f"{number} (final)" if self.name == "final" else number


@dataclass(frozen=True, eq=False)
class OpenRun:
    """A run with its models loaded.

    Attributes:
        data: the data of its report: metrics, samples, log.
        original: the original model.
        unlearned: the unlearned model.
        sampler: the protocol of the evaluation.
        settings: those of the evaluation.
        checkpoints: the original, the kept checkpoints in order, and the final model.
        averaged: whether the final weights, and so those of a checkpoint, are the moving average.
    """

    data: ReportData
    original: PipelineDenoiser
    unlearned: PipelineDenoiser
    sampler: Sampler
    settings: EvaluateSettings
    checkpoints: tuple[Checkpoint, ...]
    averaged: bool

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.data.run_dir

    @property
    def title(self) -> str:
        """The folder's name, the method and the date, as far as they are recorded."""
        head = masthead(self.data)
        return " · ".join(filter(None, (self.folder.resolve().name, head.method, (head.date or "")[:10])))

    def denoiser_at(self, checkpoint: Checkpoint) -> PipelineDenoiser:
        """The model at a checkpoint.

        Args:
            checkpoint: one of ``checkpoints``.

        Returns:
            The model, on the CPU, in evaluation mode; of a checkpoint a fresh copy.

        Raises:
            InputError: if the checkpoint's file is not what it was when the run was opened.
        """
        if checkpoint.folder is None:
            return self.original if checkpoint.name == "original" else self.unlearned
        train = self.data.settings.get("train", "all")
        model = in_training(self.original, train)
        if lora_rank(train) or train == TEXT_ENCODER:  # a checkpoint holds what trains alone
            network = training_copy(model.network, train)
        else:
            model, network = self.unlearned, copy.deepcopy(self.unlearned.network)
        held = checkpoint.folder / ("ema.safetensors" if self.averaged else "model.safetensors")
        if not held.is_file() or sha256_file(held) != checkpoint.key:
            raise InputError(
                f"{checkpoint.folder}: missing or damaged, or written anew since the run was opened. Open it again."
            )
        weights = load_weights(checkpoint.folder, network, average=self.averaged, partial=True)
        with torch.no_grad():
            for name, value in (*network.named_parameters(), *network.named_buffers()):
                if name in weights:  # an average has no buffers; those of these networks do not change in training
                    value.copy_(weights[name])
        return model.with_network(network.eval())


def open_run(folder: Path | str) -> OpenRun:
    """Open a run of ``vdu unlearn`` that was evaluated by ``vdu evaluate``.

    Args:
        folder: the run folder.

    Returns:
        The run.

    Raises:
        InputError: if it is not finished or not evaluated, a file is damaged, or a model is not that of the numbers.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such run folder. Give the --output-dir of a finished `vdu unlearn`.")
    _require_finished(folder)
    data = collect(folder)
    where, protocol = folder / "run.json", data.metrics["protocol"]
    original = _model(
        _place(_value(data.run, where, "inputs", "model", "path"), where, "original"),
        protocol.get("original_sha256"),
        _value(data.run, where, "inputs", "model"),
        "the original",
    )
    made = _value(data.run, where, "pipeline")
    place = _place(made["path"], where, "unlearned model") if "path" in made else folder / "pipeline"
    unlearned = _model(place, protocol.get("unlearned_sha256"), made, "the unlearned model")
    weights = _value(data.run, where, "pipeline", "weights")
    settings = _settings(data)
    return OpenRun(
        data=data,
        original=original,
        unlearned=unlearned,
        sampler=_sampler(data),
        settings=settings,
        checkpoints=_checkpoints(data, weights == "ema"),
        averaged=weights == "ema",
    )


def _require_finished(folder: Path) -> None:
    path = folder / "run.json"
    if not path.is_file():
        raise InputError(f"{folder}: holds no run.json, so it is not a run. Give the --output-dir of a `vdu unlearn`.")
    record = read_json(path)
    verb, finished = (record.get("verb"), record.get("finished")) if isinstance(record, dict) else (None, None)
    if verb not in {"unlearn", "evaluate"}:
        raise InputError(
            f"{folder}: holds a run of {verb!r}; expected one of 'unlearn' or the evidence of two pipelines. Give the folder of a "
            "`vdu unlearn` or `vdu evaluate`."
        )
    if not finished:
        raise InputError(
            f"{folder}: this run is not finished. Continue it with `vdu unlearn … --resume-from-checkpoint latest`, then run "
            f"`vdu evaluate {shlex.quote(str(folder))}`."
        )
    if not (folder / "metrics.json").is_file():
        command = f"vdu evaluate {shlex.quote(str(folder))}"
        raise InputError(f"{folder}: has no metrics.json, so it was not evaluated. Run `{command}` first.")


def _value(record: Any, where: Path, *names: str) -> Any:
    for name in names:
        if not isinstance(record, dict) or name not in record:
            raise InputError(f"{where}: lacks {'.'.join(names)}; expected it in a finished run. Restore the file.")
        record = record[name]
    return record


def _place(path: str | None, where: Path, name: str) -> Path:
    if path is None:
        raise InputError(
            f"{where}: the {name} was a pipeline object in Python, so there is no folder to open. Save it with save_pretrained, and "
            "evaluate the folder."
        )
    return Path(path)


def _model(path: Path, expected: str | None, recorded: dict[str, Any], name: str) -> PipelineDenoiser:
    pipeline = load_pipeline(path)
    denoiser, configuration = PipelineDenoiser.from_pipeline(pipeline), recorded.get("configuration_sha256")
    same = configuration is None or is_recorded_configuration(pipeline, denoiser, configuration)
    words = parts_sha256(denoiser)
    same = same and words == recorded.get("parts_sha256", words)  # of metrics.json, whose numbers are shown
    if weights_sha256(denoiser.network) != expected or not same:
        raise InputError(
            f"{path}: is not {name} that metrics.json speaks of (its hash differs). Put that one back, or run "
            "`vdu evaluate` again."
        )
    return denoiser


def _sampler(data: ReportData) -> Sampler:
    protocol = data.metrics["protocol"]
    known = {field.name: f"sampler_{field.name}" for field in fields(Sampler)}
    values = {name: protocol[entry] for name, entry in known.items() if entry in protocol}
    try:
        return Sampler(**values)
    except (TypeError, InputError) as error:
        raise InputError(
            f"{data.run_dir / 'metrics.json'}: its protocol describes no sampler ({error}). Run `vdu evaluate` again."
        ) from None


def _settings(data: ReportData) -> EvaluateSettings:
    protocol, classes = data.metrics["protocol"], data.metrics["forget"]["classes"]
    names = {field.name for field in fields(EvaluateSettings)} - {"run", "forget_class"}
    values = {name: value for name, value in protocol.items() if name in names}
    return EvaluateSettings(**values, run=data.run_dir, forget_class=tuple(classes or ()))


def _checkpoints(data: ReportData, averaged: bool) -> tuple[Checkpoint, ...]:
    protocol = data.metrics["protocol"]
    last = data.log[-1]["step"] if data.log else None
    found = [Checkpoint("original", 0, protocol["original_sha256"])]
    for path in list_checkpoints(data.run_dir / "checkpoints"):
        step = int(path.name.removeprefix("checkpoint-"))
        if last is not None and step > last:  # of a continuation that is not finished
            continue
        weights = path / ("ema.safetensors" if averaged else "model.safetensors")
        if not weights.is_file():
            raise InputError(f"{weights}: missing. Delete {path.name}, or restore the file.")
        if step != last:  # the last checkpoint holds the final weights
            found.append(Checkpoint(path.name, step, sha256_file(weights), path))
    return (*found, Checkpoint("final", last, protocol["unlearned_sha256"]))
