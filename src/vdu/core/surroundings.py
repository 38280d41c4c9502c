"""The settings of a process that belong to the caller: results do not depend on them, and afterwards they are as they were.

    PyTorch      default dtype and device, gradient and inference mode, autocast, matmul precision, oneDNN, the global random stream
    accelerate   its ``ACCELERATE_…`` variables, and the state that all of its objects share; the device asked for is kept
    neither      processes, ranks and addresses of a launcher, which ``torchrun`` sets

Not guaranteed: equal bits under ``torch.set_flush_denormal``, which cannot be read; deterministic algorithms, where asked for, stay on.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from vdu.core.device import VARIABLES
from vdu.core.errors import InputError

__all__ = ["accelerate_variables_hidden", "own_torch", "undisturbed"]

PREFIXES = ("ACCELERATE_", "FSDP_", "MEGATRON_LM_", "PARALLELISM_CONFIG_")
DEVICES = ("cpu", "cuda", "mps")


@contextmanager
def undisturbed() -> Iterator[None]:
    """PyTorch and accelerate as in a fresh process inside the block, and afterwards as they were.

    Yields:
        Nothing. As a decorator, every call is a block.
    """
    with own_torch(), _own_accelerate():
        yield


@contextmanager
def own_torch() -> Iterator[None]:
    """PyTorch's global settings as in a fresh process inside the block, and afterwards as they were.

    Yields:
        Nothing. As a decorator, every call is a block.
    """
    dtype, precision, mkldnn = (
        torch.get_default_dtype(),
        _matmul_precision(),
        torch.backends.mkldnn.enabled,  # pyright: ignore[reportAttributeAccessIssue]
    )
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with ExitStack() as undo:
        undo.enter_context(torch.random.fork_rng(devices=devices))
        undo.enter_context(torch.inference_mode(False))
        undo.enter_context(torch.enable_grad())
        for kind in DEVICES:
            if torch.is_autocast_enabled(kind):
                undo.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":  # a mode of functions, which costs a little in every call
            undo.enter_context(torch.device("cpu"))
        if dtype != torch.float32:
            undo.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        if precision != "highest":
            undo.callback(torch.set_float32_matmul_precision, precision)
            torch.set_float32_matmul_precision("highest")
        if not mkldnn:
            undo.enter_context(torch.backends.mkldnn.flags(enabled=True))
        yield


def _matmul_precision() -> str:
    """The precision of matrix products, which PyTorch does not name where it was set per backend."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        raise InputError(
            'torch.backends: matrix products have a precision of their own (fp32_precision); expected "none" or "ieee", since results '
            'must not depend on it. Set fp32_precision = "none" on torch.backends and torch.backends.cuda.matmul, or start a new process.'
        ) from None


@contextmanager
def accelerate_variables_hidden() -> Iterator[None]:
    """Hide accelerate's environment variables inside the block, except for the device that was asked for.

    Yields:
        Nothing. Variables that are set meanwhile are removed again.
    """
    before = {name: value for name, value in os.environ.items() if name.startswith(PREFIXES)}
    for name in before.keys() - set(VARIABLES):
        del os.environ[name]
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith(PREFIXES) and name not in before]:
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _own_accelerate() -> Iterator[None]:
    """Shared state of accelerate's own for the block: objects of the caller keep theirs."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    kinds = (PartialState, AcceleratorState, GradientState)
    before = [vars(kind)["_shared_state"] for kind in kinds]
    for kind in kinds:
        kind._shared_state = {}
    try:
        yield
    finally:
        for kind, state in zip(kinds, before, strict=True):
            kind._shared_state = state
