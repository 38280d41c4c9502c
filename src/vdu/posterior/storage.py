"""A posterior's file: safetensors with one JSON record in the metadata.

Keys ``mean/<name>`` and ``variance/<name>``, float32; metadata ``vdu_posterior`` → JSON with ``format_version``, the
record's fields and ``checksum``, the hash of tensors and fields, checked on reading (files written before it was added
have none). It is inside that one entry because safetensors writes several in random order, and equal posteriors shall be
equal files. Written to a temporary name, flushed and renamed. No pickle is read.

Not guaranteed: more than float32 precision after the file.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vdu.core.checks import hash_parameters
from vdu.core.errors import InputError
from vdu.core.records import atomic_file, sha256_bytes
from vdu.core.types import NamedTensors

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

    tensors, text = flatten(mean, variance), record_text(record)
    with atomic_file(path) as temporary:
        whole = json.loads(text) | {"checksum": _checksum(tensors, text)}
        save_file(tensors, temporary, metadata={METADATA_KEY: json.dumps(whole, sort_keys=True)})


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
            metadata = file.metadata() or {}
            record, expected = _parse(path, metadata.get(METADATA_KEY), record_names)
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}). {ADVICE}") from None
    strangers = sorted(set(metadata) - {METADATA_KEY})
    if strangers or expected not in (None, _checksum(tensors, record_text(record))):
        what = f"unexpected metadata {strangers}" if strangers else "its checksum is not that of its content"
        raise InputError(f"{path}: damaged ({what}). Restore the file, or make it again with `vdu posterior`.")
    parts: dict[str, dict[str, Tensor]] = {"mean": {}, "variance": {}}
    for key, tensor in tensors.items():
        part, _, name = key.partition("/")
        if part not in parts or tensor.dtype != torch.float32:
            raise InputError(f"{path}: unexpected tensor {key!r} ({tensor.dtype}). {ADVICE}")
        parts[part][name] = tensor
    return {**parts, **record}


def _parse(path: Path | str, text: str | None, record_names: set[str]) -> tuple[dict[str, Any], Any]:
    """The record without its version, checked, and its checksum.

    Args:
        path: the file, for messages.
        text: the JSON, or None where there is none.
        record_names: the names that the record must have.

    Returns:
        The fields; the checksum, or None where there is none.

    Raises:
        InputError: if it is no record of ours.
    """
    if text is None:
        raise InputError(f"{path}: no {METADATA_KEY!r} metadata, so it is no posterior of ours. {ADVICE}")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):  # no JSON, or a number of thousands of digits
        record = None
    if not isinstance(record, dict):
        raise InputError(f"{path}: the {METADATA_KEY!r} metadata is not a JSON record. {ADVICE}")
    version = record.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise InputError(f"{path}: format version {version!r}, expected {FORMAT_VERSION}. Use the vdu that wrote it.")
    checksum = record.pop("checksum", None)
    if set(record) != record_names:
        raise InputError(f"{path}: record fields differ: {sorted(set(record) ^ record_names)}. {ADVICE}")
    wrong = [name for name, value in record.items() if not _fits(name, value)]
    if wrong:
        raise InputError(f"{path}: record fields of a wrong kind: {', '.join(sorted(wrong))}. {ADVICE}")
    return record, checksum


def _fits(name: str, value: Any) -> bool:
    """Whether a field of the record is of its kind; a field that this module does not know is taken as it is."""
    if name in {"estimator", "name_filter"}:
        return isinstance(value, str) or (value is None and name == "name_filter")
    if name == "temperature":
        return _is_number(value)
    if name in {"n_members", "n_train", "prior_precision"}:
        return value is None or _is_number(value)
    if name == "sources":
        return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())
    return name != "extras" or (isinstance(value, dict) and all(_is_number(each) for each in value.values()))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e300  # an int may be too large for a float


def _checksum(tensors: dict[str, Tensor], text: str) -> str:
    return sha256_bytes((hash_parameters(tensors) + text).encode())
