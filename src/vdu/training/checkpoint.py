"""Checkpoints: ``checkpoints/checkpoint-<step>/`` with trainable weights, average, optimiser state and checksums.

``state.json`` has the SHA-256 of every other file, and its own (``checksum``; older checkpoints
have none and can still be read).

A checkpoint is written under a temporary name and renamed, so every folder with its real name is complete. Random
state is not stored: every draw depends on the seed and the step alone (``vdu.core.rng``).
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vdu.core.checks import first_differences
from vdu.core.errors import InputError
from vdu.core.records import FORMAT_VERSION, atomic_folder, read_json, sha256_bytes, sha256_file, write_json
from vdu.training.ema import ExponentialMovingAverage

__all__ = [
    "latest_checkpoint",
    "list_checkpoints",
    "load_checkpoint",
    "load_weights",
    "require_same_run",
    "save_checkpoint",
]

_FIELDS = {"format_version", "step", "fingerprint", "sha256", "extra"}
_FILES = {"model.safetensors", "optimizer.safetensors"}  # in every checkpoint; ema.safetensors in some


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints in a folder, oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")))


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint, or None."""
    found = list_checkpoints(folder)
    return found[-1] if found else None


def save_checkpoint(
    folder: Path,
    step: int,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: ExponentialMovingAverage | None,
    *,
    fingerprint: str,
    extra: dict[str, Any],
    total_limit: int | None = None,
) -> Path:
    """Write a checkpoint atomically, then prune the oldest ones.

    Args:
        folder: the run's ``checkpoints`` folder.
        step: number of optimiser steps done.
        network: the bare network (not wrapped for distribution).
        optimizer: an Adam-like optimiser over ``network.parameters()`` in order.
        ema: the average, if there is one.
        fingerprint: hash of everything that must be equal on resume.
        extra: JSON state to store (gradient scaler, guard).
        total_limit: number of checkpoints to keep; None keeps all.

    Returns:
        The checkpoint's folder.
    """
    path = folder / f"checkpoint-{step}"
    with atomic_folder(path) as temporary:
        frozen = {name for name, value in network.named_parameters() if not value.requires_grad}
        weights = {name: value for name, value in network.state_dict().items() if name not in frozen}
        save_file(_contiguous(weights), temporary / "model.safetensors")
        save_file(_optimizer_tensors(network, optimizer), temporary / "optimizer.safetensors")
        if ema is not None:
            save_file(_contiguous(ema.shadow), temporary / "ema.safetensors")
        hashes = {file.name: sha256_file(file) for file in sorted(temporary.glob("*.safetensors"))}
        state = {
            "format_version": FORMAT_VERSION,
            "step": step,
            "fingerprint": fingerprint,
            "sha256": hashes,
            "extra": extra,
        }
        write_json(temporary / "state.json", state | {"checksum": _checksum(state)})
    if total_limit is not None:
        for old in list_checkpoints(folder)[:-total_limit]:
            shutil.rmtree(old)
    return path


def require_same_run(path: Path, fingerprint: str) -> tuple[int, dict[str, Any]]:
    """Refuse a checkpoint of another run, before anything is loaded.

    Args:
        path: the checkpoint's folder.
        fingerprint: hash of everything that must be equal to the run that wrote it.

    Returns:
        The number of steps done, and the extra state.

    Raises:
        InputError: if its record is damaged, or of another run or format.
    """
    state = _read_record(path)
    if state["fingerprint"] != fingerprint:
        raise InputError(
            f"{path}: was written with other settings, data or model (or frozen weights, or number of processes) than the "
            "present ones; a resumed run must have the same. Use the settings in the run's config.toml, or start anew with --overwrite."
        )
    return int(state["step"]), state["extra"]


def load_checkpoint(
    path: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: ExponentialMovingAverage | None,
    *,
    fingerprint: str,
) -> tuple[int, dict[str, Any]]:
    """Restore a checkpoint in place; one that is damaged, or of another run or format, is refused with an ``InputError``.

    Args:
        path: the checkpoint's folder.
        network: the bare network.
        optimizer: a fresh optimiser over ``network.parameters()``.
        ema: the average to restore, if the run has one.
        fingerprint: hash of everything that must be equal to the run that wrote it.

    Returns:
        The number of steps done, and the extra state.
    """
    require_same_run(path, fingerprint)
    state = _read_state(path)
    network.load_state_dict(
        load_weights(path, network), strict=False
    )  # its names were checked; frozen ones are not in it
    _restore_optimizer(network, optimizer, path / "optimizer.safetensors")
    if ema is not None:
        device = next(network.parameters()).device
        average = load_weights(path, network, average=True)
        ema.shadow = {name: value.to(device) for name, value in average.items()}
    return int(state["step"]), state["extra"]


def load_weights(path: Path, network: nn.Module, *, average: bool = False, partial: bool = False) -> dict[str, Tensor]:
    """The weights in a checkpoint, after its checksums and names have been checked.

    Args:
        path: the checkpoint's folder.
        network: a network of the expected architecture.
        average: the averaged weights instead of the raw ones.
        partial: whether trainable parameters may be missing, since the run may have trained fewer.

    Returns:
        Named tensors, on the CPU: trainable parameters and buffers.

    Raises:
        InputError: if a file is damaged or belongs to another architecture.
    """
    state, name = _read_state(path), "ema.safetensors" if average else "model.safetensors"
    if name not in state["sha256"]:
        raise InputError(
            f"{path}: has no averaged weights; expected {name}. Take the raw ones, or a run with --ema-decay."
        )
    weights = _read_tensors(path / name)
    known = dict(network.named_parameters()) if average else network.state_dict()
    frozen = {name for name, value in network.named_parameters() if not value.requires_grad}
    optional = set(known) if partial else frozen
    expected = {name: tuple(value.shape) for name, value in known.items() if name in weights or name not in optional}
    lines = first_differences({name: tuple(value.shape) for name, value in weights.items()}, expected)
    if lines:
        raise InputError(f"{path}: weights of another model: {'; '.join(lines)}. Use the checkpoint of this model.")
    return weights


def _read_record(path: Path) -> dict[str, Any]:
    """The content of ``state.json``, which is undamaged; the other files are not looked at."""
    file, advice = path / "state.json", f"Delete {path.name} to resume from the checkpoint before it."
    try:
        state = read_json(file)
    except InputError as error:
        raise InputError(f"{error} {advice}") from None
    if not isinstance(state, dict) or state.get("format_version") != FORMAT_VERSION:
        raise InputError(f"{path}: not a checkpoint of format {FORMAT_VERSION}; start the run anew with --overwrite.")
    checksum = state.pop("checksum", None)
    sound = set(state) == _FIELDS and checksum in (None, _checksum(state))
    sound = sound and isinstance(state["sha256"], dict) and isinstance(state["extra"], dict)
    if not sound or path.name != f"checkpoint-{state['step']}":
        raise InputError(f"{file}: damaged. {advice}")
    return state


def _read_state(path: Path) -> dict[str, Any]:
    """The content of ``state.json``, after the checksums of all files."""
    state, advice = _read_record(path), f"Delete {path.name} to resume from the checkpoint before it."
    for name in sorted(_FILES | set(state["sha256"])):
        known = state["sha256"].get(name)
        if known is None or not (path / name).is_file() or sha256_file(path / name) != known:
            raise InputError(f"{path / name}: missing or damaged (its SHA-256 differs from the recorded one). {advice}")
    return state


def _checksum(state: dict[str, Any]) -> str:
    """SHA-256 of a record, unchanged by writing and reading."""
    return sha256_bytes(json.dumps(json.loads(json.dumps(state)), sort_keys=True).encode())


def _contiguous(tensors: Any) -> dict[str, Tensor]:
    # clone: safetensors refuses tensors that share memory
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}


def _optimizer_tensors(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    names = [name for name, value in network.named_parameters() if value.requires_grad]
    state = optimizer.state_dict()["state"]
    return {
        f"{names[i]}|{key}": torch.as_tensor(value).detach().cpu().contiguous().clone()
        for i, entries in state.items()
        for key, value in entries.items()
    }


def _restore_optimizer(network: nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> None:
    trained = {name: value for name, value in network.named_parameters() if value.requires_grad}
    state: dict[str, dict[str, Tensor]] = {}
    for key, value in _read_tensors(path).items():
        name, _, entry = key.rpartition("|")
        state.setdefault(name, {})[entry] = value
    for name, entries in state.items():
        shapes = {entry: tuple(value.shape) for entry, value in entries.items() if entry != "step"}
        expected = dict.fromkeys(("exp_avg", "exp_avg_sq"), tuple(trained[name].shape)) if name in trained else None
        if shapes != expected or "step" not in entries or entries["step"].numel() != 1:
            raise InputError(
                f"{path}: holds no Adam state of this model for {name!r}. Use the checkpoint of this model."
            )
    places = {name: i for i, name in enumerate(trained)}
    by_place = {places[name]: entries for name, entries in state.items()}
    optimizer.load_state_dict({"state": by_place, "param_groups": optimizer.state_dict()["param_groups"]})


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(
            f"{path}: not a readable safetensors file ({error}). Delete {path.parent.name} to resume from the one before it."
        ) from None
