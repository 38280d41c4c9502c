"""Checks with helpful messages: non-finite numbers, unexpected names among tensors, and the hash of a set of weights."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vdu.core.errors import InputError, shown

__all__ = [
    "as_tensor",
    "first_differences",
    "hash_parameters",
    "require_finite",
    "require_generator",
    "require_labels",
    "require_tensor",
]


def as_tensor(name: str, value: Any, words: str) -> Tensor:
    """An argument as a tensor.

    Args:
        name: the argument.
        value: a tensor, an array or a list of numbers.
        words: the expectation, for the message.

    Returns:
        The tensor; of a list of fractions in float64, whatever the default dtype.

    Raises:
        InputError: if it holds no real numbers.
    """
    try:
        found = value if isinstance(value, Tensor) else torch.as_tensor(value, device="cpu")
        if found.is_floating_point() and not hasattr(value, "dtype"):  # Python's numbers are doubles
            found = torch.as_tensor(value, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{name}: got {shown(value)}; expected {words}.") from None
    if found.is_complex() or found.is_meta:
        kind = "complex numbers" if found.is_complex() else "a tensor on the meta device, which has no values"
        raise InputError(f"{name}: got {kind}; expected {words}.")
    return found


def require_tensor(name: str, value: Any, words: str) -> None:
    """Raise an error for anything but a tensor.

    Args:
        name: the argument.
        value: what was given.
        words: the expectation, for the message.

    Raises:
        InputError: with the kind of what was given.
    """
    if not isinstance(value, Tensor):
        raise InputError(f"{name}: got {shown(value)}; expected {words}.")


def require_labels(labels: Any) -> None:
    """Raise an error for anything but several labels: a list, a tuple, or an array or a tensor of one dimension.

    Args:
        labels: what was given; a text is one label, not several.

    Raises:
        InputError: with the kind of what was given.
    """
    listed = isinstance(labels, Sequence) and not isinstance(labels, str | bytes)
    if not listed and not (hasattr(labels, "tolist") and getattr(labels, "ndim", 0) == 1):
        raise InputError(f"labels: got {shown(labels)}; expected the class or prompt of each sample, as a list.")


def require_generator(generator: Any) -> None:
    """Raise an error for anything but a source of random numbers.

    Raises:
        InputError: with an example.
    """
    if not isinstance(generator, torch.Generator):
        raise InputError(
            f"generator: got {shown(generator)}; expected a torch.Generator, such as torch.Generator().manual_seed(0)."
        )


def require_finite(name: str, tensor: Tensor) -> None:
    """Raise an error for NaN and infinity.

    Args:
        name: name of the tensor, for the message.
        tensor: any shape.

    Raises:
        InputError: if an entry is not finite.
    """
    finite = torch.isfinite(tensor)
    if not bool(finite.all()):
        bad = int((~finite).sum())
        raise InputError(
            f"{name}: {bad} of {tensor.numel()} values are NaN or infinite; expected finite numbers. "
            "Check how the file was made (a diverged training run, a wrong conversion) and give a valid one."
        )


def first_differences(got: Mapping[str, tuple], expected: Mapping[str, tuple], limit: int = 5) -> list[str]:
    """The first differences between two sets of named shapes, as lines for an error message.

    Args:
        got: name → given shape.
        expected: name → expected shape.
        limit: maximum number of lines; a last line counts the rest.

    Returns:
        Human-readable lines; empty if the two agree.

    Examples:
        >>> first_differences({"a": (2,), "c": (1,)}, {"a": (3,), "b": (1,)})
        ['a: got shape (2,), expected (3,)', 'b: missing', 'c: unexpected']
    """
    lines = []
    for name in sorted(set(got) | set(expected)):
        if name not in got:
            lines.append(f"{name}: missing")
        elif name not in expected:
            lines.append(f"{name}: unexpected")
        elif tuple(got[name]) != tuple(expected[name]):
            lines.append(f"{name}: got shape {tuple(got[name])}, expected {tuple(expected[name])}")
    return lines if len(lines) <= limit else [*lines[:limit], f"… and {len(lines) - limit} more"]


def hash_parameters(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of named tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)  # no copy
    return digest.hexdigest()
