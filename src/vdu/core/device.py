"""The device that a user asks for, handed to accelerate, which chooses it for every model (``vdu.training.loop``).

PyTorch and accelerate are imported only where a device is asked for.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vdu.core.errors import InputError, shown
from vdu.core.processes import n_launched

__all__ = ["on_device"]

VARIABLES = ("ACCELERATE_TORCH_DEVICE", "ACCELERATE_USE_CPU")


@contextmanager
def on_device(name: Any) -> Iterator[None]:
    """Compute on a device inside the block; afterwards the caller's own accelerators are as they were.

    Args:
        name: cpu, cuda, cuda:N or mps, as text or as a torch.device; None leaves the choice to accelerate (CUDA if there is one,
            else the CPU).

    Yields:
        Nothing. A device that this machine does not have is an ``InputError``, also where accelerate's own variable names it.
    """
    if name is None:
        _require_variable()
        yield
        return
    name = str(name) if type(name).__name__ == "device" else name
    _require(name)
    states = _states()
    chosen = [dict(state) for state in states]
    before = {each: os.environ.get(each) for each in VARIABLES}
    os.environ["ACCELERATE_TORCH_DEVICE"] = name
    os.environ["ACCELERATE_USE_CPU"] = str(name == "cpu").lower()
    _restore(states, [{}, {}])  # accelerate chooses once in a process; here it is to choose again
    try:
        yield
    finally:
        for each, value in before.items():
            if value is None:
                os.environ.pop(each, None)
            else:
                os.environ[each] = value
        _restore(states, chosen)


def _require(name: Any) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise InputError(f"--device: got {shown(name)}; expected cpu, cuda, cuda:N (the Nth GPU, from 0) or mps.")
    import torch

    if name.startswith("cuda"):
        n = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if n == 0:
            raise InputError(
                f"--device: got {name}, but PyTorch {torch.__version__} sees no CUDA device. Use --device cpu, or install a PyTorch "
                "built for CUDA and its driver (https://pytorch.org/get-started)."
            )
        if int(name.partition(":")[2] or 0) >= n:
            raise InputError(f"--device: got {name}, but there are {n} CUDA devices: cuda:0 to cuda:{n - 1}.")
        if n_launched() > 1:
            raise InputError(
                f"--device: got {name} under a launcher, which gives each process its own device. Leave it out."
            )
    if name == "mps" and not torch.backends.mps.is_available():
        raise InputError("--device: got mps, but PyTorch finds no Apple GPU here. Use --device cpu.")


def _require_variable() -> None:
    """Refuse a device in accelerate's variable that cannot hold numbers here."""
    asked = os.environ.get(VARIABLES[0])
    if not asked:
        return
    import torch

    try:
        held = torch.zeros(1, device=asked).device.type != "meta"
    except Exception:  # each kind of device has errors of its own
        held = False
    if not held:
        raise InputError(
            f"{VARIABLES[0]}: got {shown(asked)}, and PyTorch {torch.__version__} cannot compute on it here; expected cpu, cuda, cuda:N or "
            "mps, whichever there is. Correct or unset this variable."
        )


def _states() -> list[dict[str, Any]]:
    """What accelerate has chosen for this process; all of its objects share these dictionaries."""
    from accelerate.state import AcceleratorState, PartialState

    return [PartialState._shared_state, AcceleratorState._shared_state]


def _restore(states: list[dict[str, Any]], contents: list[dict[str, Any]]) -> None:
    for state, content in zip(states, contents, strict=True):
        state.clear()
        state.update(content)
