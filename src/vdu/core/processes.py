"""The processes that share the work of one verb, as ``torchrun`` starts them; in a process alone nothing here has an effect.

Every process runs the same program on the same inputs. They meet at named steps, where all of them exchange values:

    drawing, estimating    each does its part, and all get the whole     :func:`gathered`
    looking up, writing    the first does it, and all get the result     :func:`first_decides`

A step has its name, so that processes that parted ways end with an error instead of taking each other's values. What fails at the first
process fails at all. Any other error ends one process, and ``torchrun`` then ends the rest.

Not guaranteed: an end without a launcher that watches its processes.
"""

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from vdu.core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["first_decides", "gathered", "is_first", "leave", "n_launched", "place", "say", "sent_by"]

T = TypeVar("T")


def is_first() -> bool:
    """Whether this process writes and prints: the first of a launcher's, or the only one."""
    return n_launched() == 1 or _number("RANK", 0) == 0


def n_launched() -> int:
    """How many processes the launcher started; 1 without one, whatever else in the environment is called RANK."""
    return _number("WORLD_SIZE", 1)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "").strip() or str(default)
    if not text.isdecimal():
        raise InputError(
            f"{name}: got {text!r} in the environment; expected a whole number, as torchrun sets it. Unset it."
        )
    return int(text)


def place() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) until the processes are connected (``make_accelerator``)."""
    if "torch" not in sys.modules:
        return 0, 1
    import torch.distributed as connected

    if not (connected.is_available() and connected.is_initialized()):
        return 0, 1
    return connected.get_rank(), connected.get_world_size()


def gathered(step: str, value: T) -> list[T]:
    """The values of all processes, in their order; all of them must call this.

    Args:
        step: name of the step, the same on every process.
        value: of this process; can be pickled.

    Returns:
        One value per process.

    Raises:
        RuntimeError: if the processes are at different steps.
    """
    n_processes = place()[1]
    if n_processes == 1:
        return [value]
    import torch.distributed as connected

    found: list[Any] = [None] * n_processes
    connected.all_gather_object(found, (step, value))
    steps = {each for each, _ in found}
    if len(steps) > 1:
        raise RuntimeError(
            f"processes: got the steps {', '.join(sorted(steps))}; expected the same on every process. They took different decisions, as "
            "on devices of different kinds: use equal devices, or one process."
        )
    return [each for _, each in found]


def first_decides(step: str, make: Callable[[], T]) -> T:
    """What the first process makes, on all of them; they wait for it.

    Args:
        step: as for :func:`gathered`.
        make: called by the first process alone; must not call these functions.

    Returns:
        Its value. An error that it raises is raised on every process.
    """
    number, n_processes = place()
    if n_processes == 1:
        return make()
    made: Any = None
    if number == 0:
        try:
            made = (make(), None)
        except Exception as error:  # any error at all: the others wait
            made = (None, error)
    value, error = gathered(step, made)[0]
    if error is not None:
        raise error
    return value


def sent_by(number: int, tensor: "Tensor") -> "Tensor":
    """The tensor of one process, on all; it is not exchanged by name, so a :func:`gathered` goes before.

    Args:
        number: of the process.
        tensor: of this process; its shape, dtype and device are those of all.

    Returns:
        That process's tensor.
    """
    if place()[1] == 1:
        return tensor
    import torch
    import torch.distributed as connected

    sent = (
        tensor.contiguous()
        if place()[0] == number
        else torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
    )
    connected.broadcast(sent, src=number)
    return sent


def leave() -> None:
    """Disconnect at the end of a process on a CPU, which may else be aborted and lose its exit code."""
    if place()[1] == 1:
        return
    import torch.distributed as connected

    if connected.get_backend() == "gloo":
        connected.destroy_process_group()


def say(text: str) -> None:
    """Print a line on standard error, by the first process alone."""
    if is_first() and sys.stderr is not None:  # print would take standard output in its place
        print(text, file=sys.stderr, flush=True)
