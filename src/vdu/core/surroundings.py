"""The settings of a process that belong to the caller: results do not depend on them, and afterwards they are as they were.

    PyTorch      default dtype and device, gradient and inference mode, autocast, float32 precision, oneDNN, cuDNN, attention kernels,
                 the global random stream
    diffusers    the attention backend of transformers
    accelerate   its ``ACCELERATE_…`` variables, and the state that all of its objects share; the device asked for is kept
    neither      processes, ranks and addresses of a launcher, which ``torchrun`` sets
    refused      modes and hooks of a ``with`` block around the call that see every operation, since nobody knows what they change;
                 even PyTorch's ``FlopCounterMode`` changes bits. A default device and ``save_on_cpu`` are none of them

Not guaranteed: equal bits under ``torch.set_flush_denormal``, which cannot be read; deterministic algorithms, where asked for, stay on.
"""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from threading import Lock, RLock, get_ident
from typing import Any

import torch
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from vdu.core.device import VARIABLES
from vdu.core.errors import InputError
from vdu.core.processes import say

__all__ = ["accelerate_variables_hidden", "own_torch", "undisturbed"]

PREFIXES = ("ACCELERATE_", "FSDP_", "MEGATRON_LM_", "PARALLELISM_CONFIG_")
DEVICES = ("cpu", "cuda", "mps")
OPERATIONS = ("matmul", "conv", "rnn")
ATTENTION = "diffusers.models.attention_dispatch"
Read = Callable[[], Any]
Write = Callable[[Any], object]
_ENTERING, _ALONE = Lock(), RLock()
_INSIDE: Counter[int] = Counter()  # blocks that each thread is in
_FOUND: list[tuple[Write, Any]] = []  # what is put back when the last of them leaves


def _attribute(owner: Any, name: str) -> tuple[Read, Write]:
    return partial(getattr, owner, name), partial(setattr, owner, name)


def _precisions() -> Iterator[tuple[Read, Write, str]]:
    """``fp32_precision`` of each backend and kind of operation, since PyTorch 2.9; a "none" reads as what is above, so that comes first."""
    if not hasattr(torch._C, "_get_fp32_precision_getter"):
        return
    places = [("generic", "all"), *((each, kind) for kind in ("all", *OPERATIONS) for each in ("cuda", "mkldnn"))]
    for place in places:
        fresh = "tf32" if place in {("cuda", "conv"), ("cuda", "rnn")} else "none"  # cuDNN's
        yield (
            partial(torch._C._get_fp32_precision_getter, *place),
            partial(torch._C._set_fp32_precision_setter, *place),
            fresh,
        )


def _matmul_precision() -> str:
    """What ``set_float32_matmul_precision`` was called with; PyTorch names it only while the backends' own precisions agree with it."""
    for cuda, mkldnn in (("none", "none"), ("tf32", "tf32"), ("tf32", "bf16")):
        try:
            return torch.get_float32_matmul_precision()
        except RuntimeError:
            torch._C._set_fp32_precision_setter("cuda", "matmul", cuda)
            torch._C._set_fp32_precision_setter("mkldnn", "matmul", mkldnn)
    return torch.get_float32_matmul_precision()


def _attention_dispatch() -> Any:
    """Diffusers' choice of attention for transformers, where anything chose or may have chosen one; None if that is not loaded."""
    if "DIFFUSERS_ATTN_BACKEND" in os.environ:  # read when it is loaded
        return import_module(ATTENTION)
    return sys.modules.get(ATTENTION)


def _attention_backend() -> str:
    dispatch = _attention_dispatch()
    return (
        "native"
        if dispatch is None
        else str(dispatch.AttentionBackendName(dispatch._AttentionBackendRegistry._active_backend).value)
    )


def _set_attention_backend(name: str) -> None:
    if (dispatch := _attention_dispatch()) is not None:
        dispatch._AttentionBackendRegistry.set_active_backend(dispatch.AttentionBackendName(name))


SETTINGS: tuple[tuple[Read, Write, Any], ...] = (
    (torch.get_default_dtype, torch.set_default_dtype, torch.float32),
    (*_attribute(torch.backends.mkldnn, "enabled"), True),
    (*_attribute(torch.backends.cudnn, "enabled"), True),
    (*_attribute(torch.backends.cudnn, "benchmark"), False),
    *_precisions(),
    (_matmul_precision, torch.set_float32_matmul_precision, "highest"),
    (torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp, True),
    (torch.backends.cuda.mem_efficient_sdp_enabled, torch.backends.cuda.enable_mem_efficient_sdp, True),
    (torch.backends.cuda.math_sdp_enabled, torch.backends.cuda.enable_math_sdp, True),
    (torch.backends.cuda.cudnn_sdp_enabled, torch.backends.cuda.enable_cudnn_sdp, True),
    (torch._C._get_sdp_priority_order, torch._C._set_sdp_priority_order, [1, 2, 0, 3, 4]),
    (_attention_backend, _set_attention_backend, "native"),
)  # how each is read and written, and its value in a fresh process


@contextmanager
def undisturbed() -> Iterator[None]:
    """PyTorch and accelerate as in a fresh process inside the block, and afterwards as they were.

    Yields:
        Nothing. As a decorator, every call is a block. Only one thread is in such a block; others wait.
    """
    if not _ALONE.acquire(blocking=False):
        say("vdu: another thread trains or evaluates in this process; this one waits for it.")
        _ALONE.acquire()
    try:
        with own_torch(), _own_accelerate():
            yield
    finally:
        _ALONE.release()


@contextmanager
def own_torch() -> Iterator[None]:
    """PyTorch's global settings as in a fresh process inside the block, and afterwards as they were.

    Yields:
        Nothing. As a decorator, every call is a block. Several threads may be in one; the last puts back what the first found.
    """
    with _held(), _fresh():
        yield


@contextmanager
def _held() -> Iterator[None]:
    """What the threads found is back once the last of them has left: the random streams, and settings that were left for others.

    No thread puts the streams back before, since another one may be drawing from them.
    """
    thread = get_ident()
    with _ENTERING:
        if not _INSIDE:
            _FOUND.extend(_random_states())
        _INSIDE[thread] += 1
    try:
        yield
    finally:
        with _ENTERING:
            _INSIDE[thread] -= 1
            if not _INSIDE[thread]:
                del _INSIDE[thread]
            if not _INSIDE:
                while _FOUND:
                    write, value = _FOUND.pop()
                    write(value)


def _random_states() -> list[tuple[Write, Any]]:
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    on_devices = [(partial(torch.cuda.set_rng_state, device=each), torch.cuda.get_rng_state(each)) for each in devices]
    return [(torch.set_rng_state, torch.get_rng_state()), *on_devices]


@contextmanager
def _fresh() -> Iterator[None]:
    """PyTorch's settings as in a fresh process; what other threads still use stays."""
    _require_no_modes()
    with ExitStack() as undo:
        undo.enter_context(torch.inference_mode(False))
        undo.enter_context(torch.enable_grad())
        for kind in DEVICES:
            if torch.is_autocast_enabled(kind):
                undo.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":  # a mode of functions, which costs a little in every call
            undo.enter_context(torch.device("cpu"))
        for read, write, fresh in SETTINGS:
            if (before := read()) != fresh:
                undo.callback(_put_back, write, before)
                write(fresh)
        yield


def _require_no_modes() -> None:
    """Refuse a block of the caller's own that may change every operation in this thread, or every tensor kept for a gradient.

    Raises:
        InputError: naming its class, or its function.
    """
    modes = (*_get_current_function_mode_stack(), *_get_current_dispatch_mode_stack())
    hooks = vars(torch._C)["_autograd"]._top_saved_tensors_default_hooks(True) or ()
    found = [type(each) for each in modes if not isinstance(each, DeviceContext)]
    found += [each for each in hooks if each.__module__ != torch.autograd.graph.__name__]
    for each in found:
        name = f"{each.__module__}.{getattr(each, '__qualname__', type(each).__name__)}"
        raise InputError(
            f"PyTorch: {name} is on around this call, as a mode or a hook on saved tensors, so it could change every result, and no saved "
            "pipeline has it; expected none. Call this outside of its with block."
        )


def _put_back(write: Write, value: Any) -> None:
    with _ENTERING:
        if len(_INSIDE) == 1:
            write(value)
        else:  # another thread needs the fresh one
            _FOUND.append((write, value))


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
