"""Safetensors with one JSON record in the metadata and a checksum over both, the file format of posteriors.

The record is one metadata entry because safetensors writes several in random order, and equal contents must give equal
files. It holds ``format_version`` and ``checksum``, the SHA-256 of tensors and record. Files are written to a temporary
name, flushed and renamed. No pickle is read.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vdu.core.checks import hash_parameters
from vdu.core.errors import InputError
from vdu.core.records import atomic_file, sha256_bytes
from vdu.core.types import NamedTensors

__all__ = ["FORMAT_VERSION", "read_sealed", "record_text", "write_sealed"]

FORMAT_VERSION = 1


def record_text(record: Mapping[str, Any]) -> str:
    """The record as canonical JSON.

    Args:
        record: the fields.

    Returns:
        JSON with sorted keys, with the format version.
    """
    return json.dumps({"format_version": FORMAT_VERSION, **record}, sort_keys=True)


def write_sealed(path: Path | str, tensors: Mapping[str, Tensor], record: Mapping[str, Any], *, key: str) -> None:
    """Write a file atomically.

    Args:
        path: the file.
        tensors: by name, on any device.
        record: the fields, ready for JSON.
        key: the name of the metadata entry, which distinguishes the kinds of files.
    """
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = record_text(record)
    with atomic_file(path) as temporary:
        whole = json.loads(text) | {"checksum": _checksum(flat, text)}
        save_file(flat, temporary, metadata={key: json.dumps(whole, sort_keys=True)})


def read_sealed(path: Path | str, *, key: str, advice: str) -> tuple[dict[str, Tensor], dict[str, Any], bool]:
    """Read a file on the CPU.

    Args:
        path: the file.
        key: the name of the metadata entry.
        advice: what to do about a file that cannot be read; ends the messages.

    Returns:
        The tensors by name; the fields; whether the file has a checksum (older posteriors have none).

    Raises:
        InputError: if the file is missing, damaged, or of another kind or version.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}). {advice}") from None
    record = _parse(path, metadata, key, advice)
    checksum = record.pop("checksum", None)
    strangers = sorted(set(metadata) - {key})
    if strangers or checksum not in (None, _checksum(tensors, record_text(record))):
        what = f"unexpected metadata {strangers}" if strangers else "its checksum does not match its content"
        raise InputError(f"{path}: damaged ({what}). {advice}")
    return tensors, record, checksum is not None


def _parse(path: Path | str, metadata: Mapping[str, str], key: str, advice: str) -> dict[str, Any]:
    if key not in metadata:
        raise InputError(f"{path}: no {key!r} metadata, so it is not a file of this kind. {advice}")
    try:
        record = json.loads(metadata[key])
    except (ValueError, RecursionError):  # not JSON, or a number of thousands of digits
        record = None
    if not isinstance(record, dict):
        raise InputError(f"{path}: the {key!r} metadata is not a JSON record. {advice}")
    version = record.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise InputError(f"{path}: format version {version!r}, expected {FORMAT_VERSION}. Use the vdu that wrote it.")
    return record


def _checksum(tensors: NamedTensors, text: str) -> str:
    return sha256_bytes((hash_parameters(tensors) + text).encode())
