"""A posterior's file: safetensors with one JSON record in the metadata.

Keys ``mean/<name>`` and ``variance/<name>``, float32; metadata ``vdu_posterior`` → JSON with ``format_version`` and the
record's fields. Written to a temporary name, flushed and renamed. No pickle is read.

Not guaranteed: more than float32 precision after the file.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vdu.errors import InputError
from vdu.records import atomic_file
from vdu.types import NamedTensors

__all__ = ["FORMAT_VERSION", "flatten", "read_posterior", "record_text", "write_posterior"]

FORMAT_VERSION = 1
METADATA_KEY = "vdu_posterior"
ADVICE = "Expected a file written by GaussianPosterior.save; make one with `vdu posterior`."


def flatten(mean: NamedTensors, variance: NamedTensors) -> dict[str, Tensor]:
    """Both parts as one dictionary, as they lie in the file.

    Args:
        mean: name → tensor.
        variance: name → tensor.

    Returns:
        ``mean/<name>`` and ``variance/<name>`` → contiguous float32 tensor on the CPU.
    """
    parts = {"mean": mean, "variance": variance}
    return {
        f"{part}/{name}": tensor.detach().to("cpu", torch.float32).contiguous()
        for part, tensors in parts.items()
        for name, tensor in tensors.items()
    }


def record_text(record: dict[str, Any]) -> str:
    """The record as canonical JSON.

    Args:
        record: the fields.

    Returns:
        JSON with sorted keys, with the format version.
    """
    return json.dumps({"format_version": FORMAT_VERSION, **record}, sort_keys=True, allow_nan=False)


def write_posterior(path: Path | str, mean: NamedTensors, variance: NamedTensors, record: dict[str, Any]) -> None:
    """Write the file atomically.

    Args:
        path: the file.
        mean: name → tensor.
        variance: name → tensor, the same names.
        record: everything else, ready for JSON.
    """
    from safetensors.torch import save_file

    with atomic_file(path) as temporary:
        save_file(flatten(mean, variance), temporary, metadata={METADATA_KEY: record_text(record)})


def read_posterior(path: Path | str, record_names: set[str]) -> dict[str, Any]:
    """Read the file on the CPU.

    Args:
        path: the file.
        record_names: the names that the record must have.

    Returns:
        ``mean`` and ``variance`` (name → float32 tensor) and the record's fields.

    Raises:
        InputError: if the file is missing, of another format or version, or holds anything unexpected.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            record = _parse(path, (file.metadata() or {}).get(METADATA_KEY), record_names)
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}). {ADVICE}") from None
    parts: dict[str, dict[str, Tensor]] = {"mean": {}, "variance": {}}
    for key, tensor in tensors.items():
        part, _, name = key.partition("/")
        if part not in parts or tensor.dtype != torch.float32:
            raise InputError(f"{path}: unexpected tensor {key!r} ({tensor.dtype}). {ADVICE}")
        parts[part][name] = tensor
    return {**parts, **record}


def _parse(path: Path | str, text: str | None, record_names: set[str]) -> dict[str, Any]:
    """The record without its version, checked.

    Args:
        path: the file, for messages.
        text: the JSON, or None where there is none.
        record_names: the names that the record must have.

    Returns:
        The fields.

    Raises:
        InputError: if it is no record of ours.
    """
    if text is None:
        raise InputError(f"{path}: no {METADATA_KEY!r} metadata, so it is no posterior of ours. {ADVICE}")
    try:
        record = json.loads(text)
    except json.JSONDecodeError:
        record = None
    if not isinstance(record, dict):
        raise InputError(f"{path}: the {METADATA_KEY!r} metadata is not a JSON record. {ADVICE}")
    version = record.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise InputError(f"{path}: format version {version!r}, expected {FORMAT_VERSION}. Use the vdu that wrote it.")
    if set(record) != record_names:
        raise InputError(f"{path}: record fields differ: {sorted(set(record) ^ record_names)}. {ADVICE}")
    return record
