"""Whether so many images have room in memory, asked before one is drawn. Standard library only.

Not guaranteed: that fewer images have room; what else is in memory is not counted.
"""

import math
import os
from collections.abc import Sequence

from vdu.core.errors import InputError, shown

__all__ = ["FLOATS", "PIXELS", "require_room"]

PIXELS, FLOATS = 1, 4  # bytes of a value that is kept as uint8, and as float32
UNKNOWN = 2**50  # bytes, where the system does not say


def require_room(name: str, n_images: int, shape: Sequence[int], bytes_each: int = PIXELS) -> None:
    """Raise an error for more images than all memory holds: drawing them would take years, and end without a result.

    Args:
        name: of the setting.
        n_images: how many.
        shape: channels, height and width of one.
        bytes_each: of a value.

    Raises:
        InputError: with the largest number.
    """
    each, memory = math.prod(shape) * bytes_each, _memory()
    if n_images * each > memory:
        size = "×".join(map(str, shape))
        raise InputError(
            f"{name}: got {_short(n_images)} images of {size}, which take {_short(n_images * each, 2**30)} GiB, and this machine has "
            f"{_short(memory, 2**30)} GiB of memory; expected at most {memory // each}."
        )


def _short(value: int, unit: int = 1) -> str:
    """A whole number in units, with three digits, also where it is beyond floats."""
    try:
        return f"{value / unit:.3g}"
    except OverflowError:
        return shown(value // unit)


def _memory() -> int:
    """Bytes of this machine's memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not a POSIX system
        return UNKNOWN
