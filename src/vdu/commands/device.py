"""The device that a verb computes on: ``--device``, handed to accelerate, which chooses it for every model (``vdu.training.loop``)."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from vdu.core.errors import InputError

__all__ = ["on_device"]

VARIABLES = ("ACCELERATE_TORCH_DEVICE", "ACCELERATE_USE_CPU")


@contextmanager
def on_device(name: str | None) -> Iterator[None]:
    """Compute on a device inside the block.

    Args:
        name: cpu, cuda, cuda:N or mps; None leaves the choice to accelerate (CUDA if there is one, else the CPU).

    Yields:
        Nothing. A device that this machine does not have is an ``InputError``.
    """
    if name is None:
        yield
        return
    _require(name)
    before = {each: os.environ.get(each) for each in VARIABLES}
    os.environ["ACCELERATE_TORCH_DEVICE"] = name
    os.environ["ACCELERATE_USE_CPU"] = str(name == "cpu").lower()
    _forget_choice()
    try:
        yield
    finally:
        for each, value in before.items():
            if value is None:
                os.environ.pop(each, None)
            else:
                os.environ[each] = value
        _forget_choice()


def _require(name: str) -> None:
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise InputError(f"--device: got {name!r}; expected cpu, cuda, cuda:N (the Nth GPU, from 0) or mps.")
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
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise InputError(
                f"--device: got {name} under a launcher, which gives each process its own device. Leave it out."
            )
    if name == "mps" and not torch.backends.mps.is_available():
        raise InputError("--device: got mps, but PyTorch finds no Apple GPU here. Use --device cpu.")


def _forget_choice() -> None:
    """Make accelerate, which chooses once in a process, choose again."""
    if "accelerate" in sys.modules:
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)
