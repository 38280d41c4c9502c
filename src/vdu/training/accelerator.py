"""The accelerator of a training: device, precision and processes, without whatever a user's environment says to accelerate."""

import atexit
from pathlib import Path
from typing import Any

import torch

from vdu.core.errors import InputError
from vdu.core.processes import leave, n_launched
from vdu.core.surroundings import accelerate_variables_hidden
from vdu.training.trackers import FOLDER, require_tracker

__all__ = ["make_accelerator", "require_precision"]


def require_precision(accelerator: Any, *, per_term: bool = False) -> None:
    """Refuse fp16 where nothing is trained in it.

    Args:
        accelerator: of :func:`make_accelerator`.
        per_term: whether the gradients of the terms are combined, which are not scaled.

    Raises:
        InputError: on a CPU, where accelerate trains in float32 instead, and for gradients term by term.
    """
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise InputError(
            "mixed_precision: got fp16 on a CPU, which trains in no or bf16 alone; use one of these, or an accelerator."
        )
    if accelerator.mixed_precision == "fp16" and per_term:
        raise InputError("mixed_precision: got fp16 with a method that combines its terms' gradients; use bf16 or no.")


LAUNCHERS = (
    "WORLD_SIZE", "RANK", "LOCAL_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip


def make_accelerator(mixed_precision: str = "no", *, report_to: Any = "none", folder: Path | None = None) -> Any:
    """An ``accelerate.Accelerator`` on CUDA if there is one, else on the CPU (also under ``torchrun``, with gloo).

    Args:
        mixed_precision: "no", "fp16" or "bf16".
        report_to: a tracker for the lines of the log, see :mod:`vdu.training.trackers`.
        folder: the run folder, where the tracker stores its files.

    Returns:
        The accelerator.

    Raises:
        InputError: if the launcher requested several processes but accelerate runs in one (they would overwrite each other),
            it cannot connect them, or the tracker cannot be started.
    """
    import os

    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != mixed_precision:
        AcceleratorState._reset_state()  # otherwise the first precision of a process could not be changed
    require_tracker(report_to, folder)
    with accelerate_variables_hidden():  # they would divide the loss, compile the network, or wrap it
        # without cpu=True, torchrun on a CPU starts independent processes
        try:
            accelerator = Accelerator(
                cpu=not torch.cuda.is_available()
                and "ACCELERATE_TORCH_DEVICE" not in os.environ,  # a device that was asked for
                mixed_precision=mixed_precision,
                log_with=None if report_to == "none" else report_to,
                project_dir=folder / FOLDER if folder else None,
            )
        except ValueError as error:
            given = ", ".join(name for name in LAUNCHERS if name in os.environ)
            raise InputError(
                f"launcher: accelerate does not start ({error}). Environment variables that announce processes: {given or 'none'}. Start "
                "with torchrun, or remove them for one process."
            ) from None
    wanted = n_launched()
    if accelerator.num_processes != wanted:
        raise InputError(
            f"launcher: expected {wanted} processes, got {accelerator.num_processes}; on a CPU use torchrun."
        )
    if wanted > 1:
        atexit.unregister(leave)
        atexit.register(leave)
    return accelerator
