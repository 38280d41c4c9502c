"""The valid ranges of user-supplied numbers, declared once for the command line and for Python. Standard library only.

Values outside a range raise an error and are never repaired: 0 means 0, never "the default".
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any

from vdu.core.errors import InputError, shown

__all__ = ["COUNT", "FRACTION", "NOT_NEGATIVE", "POSITIVE", "TRAINING", "Range", "require_ranges"]


@dataclass(frozen=True)
class Range:
    """The finite numbers from ``low`` to below ``high``.

    Attributes:
        words: the expectation, for messages.
        low: the smallest number.
        above: whether ``low`` itself is outside.
        high: the numbers are below this.
        whole: whether only integers count.
    """

    words: str
    low: float
    above: bool = False
    high: float = math.inf
    whole: bool = False

    def holds(self, value: Any) -> bool:
        """Whether a number lies in the range.

        Args:
            value: the number, or anything else.

        Returns:
            Whether it does; NaN lies in none, and nothing but a number lies in any.

        Examples:
            >>> COUNT.holds(1), COUNT.holds(0), COUNT.holds(1.5), POSITIVE.holds(0.0), FRACTION.holds(0.0), FRACTION.holds("0")
            (True, False, False, False, True, False)
        """
        if isinstance(value, bool) or not isinstance(value, Integral if self.whole else Real):
            return False
        value = float(value)
        return (self.low < value if self.above else self.low <= value) and value < self.high


COUNT = Range("at least 1", 1, whole=True)
POSITIVE = Range("a number above 0", 0, above=True)
NOT_NEGATIVE = Range("0 or more", 0, whole=True)
FRACTION = Range("a number from 0 to below 1", 0, high=1)

TRAINING: Mapping[str, Range] = MappingProxyType({
    "steps": COUNT,
    "batch_size": COUNT,
    "learning_rate": POSITIVE,
    "warmup_steps": NOT_NEGATIVE,
    "weight_decay": Range("0 or more", 0),
    "ema_decay": FRACTION,
    "gradient_accumulation_steps": COUNT,
    "max_grad_norm": POSITIVE,
    "checkpointing_steps": COUNT,
    "checkpoints_total_limit": COUNT,
    "n_own_samples": COUNT,
})
"""The ranges of the training settings, by name."""


def require_ranges(values: Mapping[str, Any]) -> None:
    """Raise an error for training settings that are out of range.

    Args:
        values: settings by name; None stands for the default, and names without a range pass.

    Raises:
        InputError: naming the first.
    """
    for name, range_ in TRAINING.items():
        value = values.get(name)
        if value is not None and not range_.holds(value):
            raise InputError(f"{name}: got {shown(value)}; expected {range_.words}.")
