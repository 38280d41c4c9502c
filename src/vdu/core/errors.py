"""The error types, and the exit code of each on the command line.

Every other error is a bug or a failure of the machine and keeps its type and traceback.
"""

import math
from difflib import get_close_matches
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["BusyError", "DivergenceError", "InputError", "did_you_mean", "is_out_of_memory", "shown"]


LONGEST = 256  # bits of a whole number that is written out in a message


class InputError(ValueError):
    """Invalid input: the message states the value, the expectation and a remedy (exit code 2)."""


class BusyError(InputError):
    """Another process is writing this run (exit code 2)."""


class DivergenceError(RuntimeError):
    """A training or unlearning run diverged (exit code 4)."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, an accelerator or PyTorch on the CPU ran out of memory; works without importing PyTorch.

    Args:
        error: any.

    Returns:
        Whether it did.
    """
    named = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    texts = ("can't allocate memory", "Storage size calculation overflowed")  # of PyTorch on the CPU
    return isinstance(error, MemoryError) or named or any(text in str(error) for text in texts)


def shown(value: Any) -> str:
    """A value in an error message: numbers, short texts and paths as they are, anything else by its type alone.

    Args:
        value: anything.

    Returns:
        Some words.

    Examples:
        >>> shown(3), shown("esd"), shown(int), shown([1, 2]), shown(10**400)
        ('3', "'esd'", 'the class int', 'a list', '10^400 or so')
    """
    if isinstance(value, int) and value.bit_length() > LONGEST:  # Python prints no more than 4300 digits
        return f"{'−' * (value < 0)}10^{int(value.bit_length() * math.log10(2))} or so"
    if value is None or isinstance(value, bool | int | float | PurePath):
        return str(value)
    if isinstance(value, str):
        return repr(value if len(value) <= 80 else f"{value[:79]}…")
    kind = value if isinstance(value, type) else type(value)
    name = f"numpy.{kind.__name__}" if kind.__module__ == "numpy" else kind.__name__
    return f"the class {name}" if isinstance(value, type) else f"{'an' if name[0] in 'AEIOaeio' else 'a'} {name}"


def did_you_mean(name: str, known: "Iterable[str]") -> str:
    """A question with the nearest known name and a leading space, or nothing if none is near.

    Args:
        name: what was given.
        known: the names that exist.

    Returns:
        Some words.

    Examples:
        >>> did_you_mean("stepz", ["steps", "seed"]), did_you_mean("x", ["steps"])
        (" Did you mean 'steps'?", '')
    """
    near = get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
