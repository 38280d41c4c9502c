"""Numbers as text: few digits, a true minus sign, units that fit. Standard library only."""

import math
import shlex
from collections.abc import Mapping
from typing import Any

__all__ = [
    "command",
    "count_word",
    "date_text",
    "duration",
    "flat",
    "interval",
    "number",
    "p_value",
    "percent",
    "percent_at_most",
    "percent_interval",
    "plural",
    "value_interval",
]


def number(value: float) -> str:
    """A number with about three digits.

    Args:
        value: any finite number.

    Returns:
        The text.

    >>> number(12345.6), number(3.14159), number(0.0027182), number(-27.18), number(0)
    ('12,346', '3.14', '0.00272', '−27.2', '0')
    """
    size = abs(value)
    if size == 0 or size >= 1000:
        text = f"{value:,.0f}"
    elif size >= 1:
        text = f"{value:.{2 - int(math.log10(size))}f}"
    else:
        text = f"{value:#.3g}"
    return text.replace("-", "−")


def p_value(value: float) -> str:
    """A p-value with two digits: ``0.00143 → "0.0014"``; below 0.0001 ``"<0.0001"``."""
    return "<0.0001" if value < 1e-4 else f"{value:.2g}"


def percent(value: float, digits: int = 1) -> str:
    """A percentage: ``97.25 → "97.2 %"``; what would round to nothing is ``"<0.1 %"``.

    Args:
        value: in percent.
        digits: decimals; 0 for settings and for shares in a headline.

    Returns:
        The text.
    """
    return _decimals(value, digits) + "\u202f%"


def percent_at_most(value: float) -> str:
    """A percentage as an upper bound, rounded up, so that the text is no lower than the bound: ``4.21 → "4.3 %"``."""
    return percent(math.ceil(10 * value - 1e-9) / 10)


def _decimals(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    if value and not float(text):
        return f"{'<' if value > 0 else '>−'}{10**-digits:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def percent_interval(measure: Mapping[str, float]) -> str:
    """A value in percent with its interval: ``"97.2 % (92.0 to 99.0)"``."""
    return f"{percent(measure['value'])} {interval(measure, 1)}"


def value_interval(measure: Mapping[str, float]) -> str:
    """A value with its interval: ``"9.40 (8.60 to 10.1)"``."""
    return f"{number(measure['value'])} {interval(measure)}"


def plural(count: int, word: str) -> str:
    """A count and its word: ``"1 image"``, ``"1,200 images"``."""
    return f"{count:,} {word}" + ("" if count == 1 else "s")


def interval(measure: Mapping[str, float], digits: int | None = None, factor: float = 1.0) -> str:
    """The low and high end as text, ``"(1.20 to 1.90)"``.

    Args:
        measure: has ``low`` and ``high``.
        digits: decimals; None for about three digits.
        factor: of both ends; 100 for a rate in percent.

    Returns:
        The text.
    """
    ends = (factor * measure[key] for key in ("low", "high"))
    return "(" + " to ".join(number(end) if digits is None else _decimals(end, digits) for end in ends) + ")"


def count_word(count: int) -> str:
    """A small number as a word: ``10 → "ten"``; digits from thirteen on."""
    words = "no one two three four five six seven eight nine ten eleven twelve".split()
    return words[count] if count < len(words) else f"{count:,}"


def duration(seconds: float) -> str:
    """Seconds as hours, minutes and seconds.

    Args:
        seconds: ≥ 0.

    Returns:
        The text.

    >>> duration(0.25), duration(75), duration(7265)
    ('0.250 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{number(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def date_text(date: str | None) -> str:
    """An ISO date in UTC to the minute: ``"2026-11-28T13:34:06+00:00" → "2026-11-28 13:34 UTC"``; None is not recorded."""
    return "not recorded" if date is None else f"{date[:16].replace('T', ' ')} UTC" if "T" in date else date


def command(value: Any) -> str:
    """Return a command as one would type it; a list of words is quoted for the shell."""
    return shlex.join(map(str, value)) if isinstance(value, list) else str(value)


def flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested JSON as (dotted name, text) pairs, in order.

    Args:
        value: a JSON value.
        prefix: the name so far.

    Returns:
        The pairs; null becomes "unknown".

    >>> flat({"a": {"b": 1}, "c": None, "d": [1, 2]})
    [('a.b', '1'), ('c', 'unknown'), ('d', '1, 2')]
    """
    if isinstance(value, dict):
        return [pair for key, item in value.items() for pair in flat(item, f"{prefix}.{key}" if prefix else str(key))]
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return [pair for i, item in enumerate(value) for pair in flat(item, f"{prefix}[{i}]")]
    if isinstance(value, list):
        return [(prefix, ", ".join(map(str, value)))]
    return [(prefix, "unknown" if value is None else str(value))]
