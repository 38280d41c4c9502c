"""The parameters that a posterior covers, and checks of named tensors.

A name filter is a regular expression searched (``re.search``) in the parameter's name: ``"lora_"``, ``"attn"``.

Not guaranteed: that two networks with the same names and shapes are of the same architecture.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from vdu.core.checks import first_differences
from vdu.core.errors import InputError
from vdu.core.ranges import require_kind
from vdu.core.types import Denoiser, NamedTensors

__all__ = ["covered", "require_same", "require_usable_variance", "select_names"]


def covered(denoiser: Denoiser, name_filter: str | None) -> dict[str, Tensor]:
    """The parameters that a posterior covers: those that are trained and pass a filter, in alphabetical order.

    Args:
        denoiser: the model.
        name_filter: regular expression; None keeps all.

    Returns:
        The network's own parameters by name; at least one.

    Raises:
        InputError: if every parameter is frozen. For further errors see :func:`select_names`.
    """
    trainable = denoiser.trainable()
    if not trainable:
        raise InputError(
            "network: every parameter is frozen; expected at least one with requires_grad, since a posterior covers trainable "
            "parameters. Call network.requires_grad_(True), or unfreeze the part to train."
        )
    return select_names(trainable, name_filter)


def select_names(named: NamedTensors, name_filter: str | None) -> dict[str, Tensor]:
    """The named tensors that pass a filter, in alphabetical order.

    Args:
        named: name → tensor.
        name_filter: regular expression; None keeps all.

    Returns:
        A new dictionary.

    Raises:
        InputError: if the expression is not valid or nothing passes.

    Examples:
        >>> list(select_names({"up.attn.q": torch.zeros(1), "conv": torch.zeros(1)}, "attn"))
        ['up.attn.q']
    """
    require_kind("name_filter", name_filter, str, "a regular expression, as text")
    try:
        pattern = re.compile(name_filter or "")
    except re.error as error:
        raise InputError(f"name filter {name_filter!r}: not a valid regular expression ({error}).") from None
    chosen = {name: named[name] for name in sorted(named) if pattern.search(name)}
    if not chosen:
        raise InputError(
            f"name filter {name_filter!r}: matches none of the {len(named)} names, first {sorted(named)[:3]}. "
            "Give an expression that matches at least one parameter, or None for all."
        )
    return chosen


def require_same(what: str, got: NamedTensors, expected: NamedTensors) -> None:
    """Raise an error for named tensors whose names or shapes differ from those expected.

    Args:
        what: the object, for the message.
        got: name → tensor.
        expected: name → tensor.

    Raises:
        InputError: with the first differences.
    """
    lines = first_differences(_shapes(got), _shapes(expected))
    if lines:
        raise InputError(
            f"{what}: names or shapes differ from those expected:\n  " + "\n  ".join(lines)
            + "\nGive weights of the same architecture (unwrapped: no 'module.' prefix, the same name filter)."
        )  # fmt: skip


def require_usable_variance(name: str, variance: Tensor) -> None:
    """Raise an error for a variance that is NaN, infinite, zero, negative, or too small or too large for float32.

    Args:
        name: the parameter, for the message.
        variance: σ², any shape.

    Raises:
        InputError: if an entry is not a positive normal float32 number.
    """
    limits = torch.finfo(torch.float32)
    bad = int((~((variance >= limits.tiny) & (variance <= limits.max))).sum())
    if bad:
        raise InputError(
            f"posterior variance of {name}: {bad} of {variance.numel()} entries are NaN or outside "
            f"[{limits.tiny:.1e}, {limits.max:.1e}]; expected positive finite numbers. "
            "Give the estimator a floor, a prior precision or more members."
        )


def _shapes(named: Mapping[str, Tensor]) -> dict[str, tuple]:
    return {name: tuple(tensor.shape) for name, tensor in named.items()}
