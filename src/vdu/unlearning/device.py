"""The device that a user asks for, in place of the one that accelerate chooses."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState

from vdu.core.errors import InputError, shown

__all__ = ["on_device"]

STATES: tuple[Any, ...] = (PartialState, AcceleratorState)


@contextmanager
def on_device(device: str | torch.device | None) -> Iterator[None]:
    """Let every accelerator that is made inside the block use one device; the caller's own accelerators are kept.

    Args:
        device: "cpu", "cuda" or "cuda:1" and so on; None takes accelerate's choice.

    Yields:
        Nothing.
    """
    if device is None:
        yield
        return
    wanted = _checked(device)
    before = [dict(state._shared_state) for state in STATES]
    _restore([{}, {}])
    try:
        PartialState(cpu=wanted.type == "cpu")  # accelerate knows one device for a process; the first to ask decides
        with torch.cuda.device(wanted) if wanted.type == "cuda" else nullcontext():
            yield
    finally:
        _restore(before)


def _restore(contents: list[dict[str, Any]]) -> None:
    for state, content in zip(STATES, contents, strict=True):
        state._shared_state.clear()
        state._shared_state.update(content)


def _checked(device: Any) -> torch.device:
    """The device, if there is such a one.

    Returns:
        The device.

    Raises:
        InputError: if there is none, or several processes share the work.
    """
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError):
        wanted = None
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = ["cpu", *(["cuda"] if count else []), *(f"cuda:{i}" for i in range(count))]
    if wanted is None or str(wanted) not in there:
        raise InputError(f"device: got {shown(device)}; expected one of {', '.join(there)} on this machine.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            f"device: got {shown(device)} in one of several processes; leave it out, each process has its own."
        )
    return wanted
