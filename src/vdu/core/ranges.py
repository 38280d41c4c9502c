"""The valid values of settings, declared once for the command line and for Python. Standard library only.

Values outside raise an error and are never repaired: 0 means 0, never "the default".
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, cast

from vdu.core.errors import InputError, shown

__all__ = [
    "AT_LEAST_0", "COUNT", "ENOUGH_IMAGES", "FINITE", "FLOATS", "FRACTION",
    "NOT_NEGATIVE", "PORT", "POSITIVE", "RANGES", "SEED", "UNIT", "Range",
    "in_floats", "plain_number", "require_choice", "require_fields", "require_flags", "require_given", "require_kind", "require_number",
    "require_ranges",
]  # fmt: skip


INTEGERS, FLOATS = (-(2**63), 2**63 - 1), (-(2 - 2**-23) * 2.0**127, (2 - 2**-23) * 2.0**127)  # of 64 bits; of float32
SMALLEST = 2.0**-126  # of float32 in full precision: a smaller number than this would count as 0 somewhere


@dataclass(frozen=True)
class Range:
    """The numbers from ``low`` to ``high``; those that tensors cannot hold (64 bits, float32, where 1e-300 is 0) are in no range.

    Attributes:
        words: the expectation, for messages; see :meth:`expected`.
        low: the smallest number.
        above: whether ``low`` itself is outside.
        high: the largest number.
        below: whether ``high`` itself is outside.
        whole: whether only integers count.
    """

    words: str
    low: float
    above: bool = False
    high: float = math.inf
    below: bool = True
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
        value = cast(Any, value)
        least, most = INTEGERS if self.whole else FLOATS
        if 0 < abs(value) < SMALLEST:
            return False
        inside = least <= value <= most and (self.low < value if self.above else self.low <= value)
        return inside and (value < self.high if self.below else value <= self.high)

    def expected(self, value: Any) -> str:
        """The expectation, in words.

        Args:
            value: what was given, outside of the range.

        Returns:
            The words, with the largest number where it is beyond that.

        Examples:
            >>> COUNT.expected(0), COUNT.expected(2**63), UNIT.expected(1e-300)
            ('at least 1', 'at least 1, and at most 9.2e+18', 'a number from 0 to 1, and at least 1.2e-38 in size or 0')
        """
        most = (INTEGERS if self.whole else FLOATS)[1]
        beyond = isinstance(value, Real) and cast(Any, value) > most
        if isinstance(value, Real) and 0 < abs(cast(Any, value)) < SMALLEST:
            return f"{self.words}, and at least {SMALLEST:.2g} in size{' or 0' if self.holds(0.0) else ''}"
        return f"{self.words}, and at most {most:.2g}" if beyond else self.words


COUNT = Range("at least 1", 1, whole=True)
POSITIVE = Range("a number above 0", 0, above=True)
NOT_NEGATIVE = Range("0 or more", 0, whole=True)
AT_LEAST_0 = Range("a finite number, 0 or more", 0)
FRACTION = Range("a number from 0 to below 1", 0, high=1)
FINITE = Range("a finite number", -math.inf, above=True)
UNIT = Range("a number from 0 to 1", 0, high=1, below=False)
PERCENTAGE = Range("a percentage from 0 to 100", 0, high=100, below=False)
GUIDANCE = Range(
    "a number, at least 1: at 1 the condition counts as without guidance, and below it less than asked for. Diffusers takes whatever is "
    "at most 1 as no guidance; leave it out for that",
    1,
)
SEED = Range("an integer of at most 64 bits", -(2**63), whole=True)
PORT = Range("a port from 1 to 65535", 1, high=65535, below=False, whole=True)
ENOUGH_IMAGES = Range(
    "at least 20, better 500 or more: with fewer images from each model nothing can be concluded about forgetting",
    20,
    whole=True,
)

RANGES: Mapping[str, Range] = MappingProxyType({
    # training
    "steps": COUNT,
    "batch_size": COUNT,
    "learning_rate": POSITIVE,
    "warmup_steps": NOT_NEGATIVE,
    "weight_decay": AT_LEAST_0,
    "ema_decay": FRACTION,
    "ema_ramp": COUNT,
    "gradient_accumulation_steps": COUNT,
    "max_grad_norm": POSITIVE,
    "checkpointing_steps": COUNT,
    "checkpoints_total_limit": COUNT,
    "epochs": COUNT,
    "shift_pixels": NOT_NEGATIVE,
    "seed": SEED,
    # sampling and generated samples
    "inference_steps": COUNT,
    "microbatch_size": COUNT,
    "eta": UNIT,
    "guidance_scale": GUIDANCE,
    "n_own_samples": COUNT,
    "n_samples": COUNT,
    # posteriors
    "n_train": COUNT,
    "draws_per_half": COUNT,
    "timesteps_per_sample": COUNT,
    "prior_precision": POSITIVE,
    "relative_floor": AT_LEAST_0,
    "variance": POSITIVE,
    "shrinkage": AT_LEAST_0,
    "floor": Range("a number between 0 and 1", 0, above=True, high=1),
    "n_members": COUNT,
    "finetune_steps": COUNT,
    "finetune_learning_rate": POSITIVE,
    "finetune_batch_size": COUNT,
    "calibrate": FRACTION,
    # evaluation
    "n_images": COUNT,
    "n_judge_samples": COUNT,
    "seeds": COUNT,
})  # fmt: skip
"""The ranges of settings by name, wherever they occur. A method declares those of its own options (``Method.ranges``)."""


def require_ranges(values: Mapping[str, Any], ranges: Mapping[str, Range] = RANGES) -> None:
    """Raise an ``InputError`` for settings that are out of range, naming the first.

    Args:
        values: settings by name; None stands for the default, and names without a range pass.
        ranges: by name.
    """
    for name, range_ in ranges.items():
        if (value := values.get(name)) is not None:
            require_number(name, value, range_)


def require_number(name: str, value: Any, range_: Range) -> None:
    """Raise an error for anything but a number of a range.

    Raises:
        InputError: with the range.
    """
    if not range_.holds(value):
        whole = (
            "a whole number, " if range_.whole and isinstance(value, float) and "a whole" not in range_.words else ""
        )
        raise InputError(f"{name}: got {shown(value)}; expected {whole}{range_.expected(value)}.")


def plain_number(value: Any) -> Any:
    """A number of NumPy and the like as Python's own, which a record can hold; anything else as it is, and so what is beyond floats."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else in_floats(value)


def in_floats(value: Any) -> Any:
    """A number as a float; one that is beyond them as it is, which is outside of every range."""
    try:
        return float(value)
    except OverflowError:
        return value


def require_fields(record: Any) -> None:
    """Raise an ``InputError`` for a number of a dataclass that is out of its name's range; None passes where its type allows it.

    Numbers of NumPy become Python's own, which every record can hold.
    """
    for item in fields(record):
        value, range_ = getattr(record, item.name), RANGES.get(item.name)
        if range_ is not None and not (value is None and "None" in str(item.type)):
            require_number(item.name, value, range_)
            object.__setattr__(record, item.name, plain_number(value))


def require_kind(name: str, value: Any, kinds: Any, words: str) -> None:
    """Raise an error for a value of another kind; None passes, as "not given".

    Args:
        name: the argument.
        value: what was given.
        kinds: a class, several, or a union.
        words: the expectation.

    Raises:
        InputError: with the kind of what was given, never its content.
    """
    if value is not None and not isinstance(value, kinds):
        raise InputError(f"{name}: got {shown(value)}; expected {words}.")


def require_given(values: Mapping[str, Any], *names: str) -> None:
    """Raise an error for an empty text, list or mapping; None stands for what is not given, and for nothing else.

    Raises:
        InputError: naming the first.
    """
    for name in names:
        if isinstance(value := values[name], str | list | tuple | dict | set) and not value:
            raise InputError(
                f"{name}: got {value!r}, which is empty; expected something in it. Leave it out for the default."
            )


def require_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Raise an error for anything but one of some words.

    Raises:
        InputError: with the words.
    """
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{name}: got {shown(value)}; expected one of {', '.join(choices)}.")


def require_flags(values: Mapping[str, Any], *names: str) -> None:
    """Raise an error for switches that are neither on nor off.

    Raises:
        InputError: naming the first.
    """
    for name in names:
        if not isinstance(values[name], bool):
            raise InputError(f"{name}: got {shown(values[name])}; expected True or False.")
