"""A method's options: the fields of its dataclass that are plain values, and their parsing from text."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from difflib import get_close_matches
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any

import torch

from vdu.core.errors import InputError, shown
from vdu.core.ranges import in_floats
from vdu.diffusion.schedule import NoiseSchedule
from vdu.methods.base import BaseMethod

__all__ = ["checked", "default_text", "differing", "of_the_task", "option_text", "options_of", "read_options"]


def options_of(kind: type[BaseMethod]) -> dict[str, Field[Any]]:
    """A method's options: name → field, without tools, posterior and private fields."""
    return {
        item.name: item
        for item in fields(kind)
        if item.init and item.metadata.get("option", True) and not item.name.startswith("_")
    }


def read_options(kind: type[BaseMethod], given: Sequence[str]) -> dict[str, Any]:
    """Options of the form NAME=VALUE as keyword arguments of the class.

    Args:
        kind: the method.
        given: for example ``("gamma=0.1", "alpha_bar_range=0.1,0.9")``.

    Returns:
        Values by name, each of the type of the option's default.

    Raises:
        InputError: if an option is unknown or its value cannot be read.
    """
    known = options_of(kind)
    found: dict[str, Any] = {}
    for each in given:
        name, equals, text = each.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or name not in known:
            near = get_close_matches(name, known, n=1)
            advice = (
                f"write {name}=VALUE."
                if name in known
                else f"did you mean {near[0]}?"
                if near
                else f"it has {', '.join(known)}."
            )
            raise InputError(f"--option: got {each!r}; expected NAME=VALUE with an option of {kind.name}: {advice}")
        if name in found:
            raise InputError(f"--option: got {name} more than once; expected one value. Leave the others out.")
        found[name] = _value(text.strip(), known[name], each)
    return found


def checked(item: Field[Any], value: Any) -> Any:
    """An option's value that was given in Python, in the type of its default.

    Args:
        item: the option.
        value: its value.

    Returns:
        The value.

    Raises:
        InputError: if it is of another kind than the default.
    """
    default = _default(item)
    number = isinstance(value, Real) and not isinstance(value, bool)
    if isinstance(default, float) and number:
        return in_floats(value)
    if isinstance(default, tuple) and isinstance(value, tuple | list):
        if all(isinstance(each, Real) and not isinstance(each, bool) for each in value):
            return tuple(map(in_floats, value))
    elif isinstance(default, int) and not isinstance(default, bool):
        if isinstance(value, Integral) and not isinstance(value, bool):
            return int(value)
    elif default is None or isinstance(value, type(default)):
        return value
    raise InputError(f"{item.name}: got {shown(value)}; expected a value such as {default_text(item)}.")


def of_the_task(kind: type[BaseMethod], *, retain: bool, words: bool) -> dict[str, Any]:
    """The options that have another default for what the user asks for.

    Args:
        kind: the method.
        retain: whether there are images to keep.
        words: whether the user says in words what is to be forgotten.

    Returns:
        Their defaults by name.
    """
    return (dict(kind.retain_options) if retain else {}) | (dict(kind.word_options) if words else {})


def differing(method: BaseMethod, defaults: Mapping[str, Any] = MappingProxyType({})) -> tuple[str, ...]:
    """The options of a method that are not at their defaults, each as NAME=VALUE.

    Args:
        method: the method.
        defaults: of :func:`of_the_task`.

    Returns:
        The texts.
    """
    options = options_of(type(method)).values()
    texts = [(option_text(item, getattr(method, item.name)), default_text(item, defaults)) for item in options]
    return tuple(text for text, default in texts if text != default)


def default_text(item: Field[Any], defaults: Mapping[str, Any] = MappingProxyType({})) -> str:
    """An option with its default, as typed on the command line; ``defaults`` are those of :func:`of_the_task`."""
    return option_text(item, defaults[item.name] if item.name in defaults else _default(item))


def option_text(item: Field[Any], value: Any) -> str:
    """An option with a value, as typed on the command line."""
    if isinstance(value, NoiseSchedule):
        text = _linear_text(value)
    else:
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"{item.name}={text}"


def _linear_text(schedule: NoiseSchedule) -> str:
    """T,β1,βT of a linear schedule; "custom" for any other, which cannot be typed."""
    levels = schedule.alpha_bars
    ends = [f"{float(1 - ratio):.10g}" for ratio in (levels[0], levels[-1] / levels[-2])]
    betas = torch.linspace(float(ends[0]), float(ends[1]), len(levels), dtype=torch.float64)
    return f"{len(levels)},{','.join(ends)}" if torch.equal(torch.cumprod(1 - betas, 0), levels) else "custom"


def _default(item: Field[Any]) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


def _value(text: str, item: Field[Any], whole: str) -> Any:
    """The value of an option's text, in the type of its default."""
    default = _default(item)
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(default, tuple):
            return tuple(float(each) for each in text.strip("()[]").split(","))
        if isinstance(default, NoiseSchedule):
            steps, first, last = text.split(",")
            return NoiseSchedule.linear(int(steps), float(first), float(last))
        if default is None:
            return None if text.lower() == "none" else float(text)
        return type(default)(text)
    except (ValueError, KeyError):
        if default is None:
            wanted = f"a number, or {default_text(item)}"
        else:
            kind = "T,β1,βT of a linear schedule" if isinstance(default, NoiseSchedule) else "a value"
            wanted = f"{kind} such as {default_text(item)}"
        raise InputError(f"--option: got {whole!r}; expected {wanted}.") from None
