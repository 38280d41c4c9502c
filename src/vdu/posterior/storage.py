"""A posterior's file: keys ``mean/<name>`` and ``variance/<name>``, float32, and the record's fields.

The format and its checksum are those of :mod:`vdu.posterior.sealed`; files written before the checksum was added have none
and are still read.

Not guaranteed: more than float32 precision after the file.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vdu.core.errors import InputError
from vdu.core.types import NamedTensors
from vdu.posterior.sealed import read_sealed, write_sealed

__all__ = ["flatten", "read_posterior", "write_posterior"]

METADATA_KEY = "vdu_posterior"
ADVICE = "Expected a file written by GaussianPosterior.save; restore it, or make one with `vdu posterior`."


def flatten(mean: NamedTensors, variance: NamedTensors) -> dict[str, Tensor]:
    """Both parts as one dictionary, as stored in the file.

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


def write_posterior(path: Path | str, mean: NamedTensors, variance: NamedTensors, record: dict[str, Any]) -> None:
    """Write the file atomically.

    Args:
        path: the file.
        mean: name → tensor.
        variance: name → tensor, the same names.
        record: everything else, ready for JSON.
    """
    write_sealed(path, flatten(mean, variance), record, key=METADATA_KEY)


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
    tensors, record, _ = read_sealed(path, key=METADATA_KEY, advice=ADVICE)
    if set(record) != record_names:
        raise InputError(f"{path}: record fields differ: {sorted(set(record) ^ record_names)}. {ADVICE}")
    wrong = [name for name, value in record.items() if not _fits(name, value)]
    if wrong:
        raise InputError(f"{path}: record fields of a wrong kind: {', '.join(sorted(wrong))}. {ADVICE}")
    parts: dict[str, dict[str, Tensor]] = {"mean": {}, "variance": {}}
    for key, tensor in tensors.items():
        part, _, name = key.partition("/")
        if part not in parts or tensor.dtype != torch.float32:
            raise InputError(f"{path}: unexpected tensor {key!r} ({tensor.dtype}). {ADVICE}")
        parts[part][name] = tensor
    return {**parts, **record}


def _fits(name: str, value: Any) -> bool:
    """Whether a field of the record has the right type; unknown fields are accepted."""
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
