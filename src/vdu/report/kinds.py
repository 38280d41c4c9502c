"""Kinds of plain JSON values, and one recursive check that names the first value of another kind.

A kind is ``str``, ``int`` (≥ 0), ``float`` (finite, whole numbers welcome), ``Positive`` (a whole number ≥ 1),
``OneOf(words)``, ``Maybe(kind)`` (or null), ``[kind]`` (a list), or a dict of kinds (all its keys are needed, but those
that are ``Optional``; other keys are let through, so that a writer may add some).
"""

import math
from dataclasses import dataclass
from typing import Any

__all__ = ["Maybe", "OneOf", "Optional", "Positive", "problem"]


@dataclass(frozen=True)
class Maybe:
    """A value of that kind, or null."""

    kind: Any


@dataclass(frozen=True)
class Optional:
    """A key that may be absent; its value is of that kind where it is there."""

    kind: Any


class Positive:
    """A whole number of at least 1: what something is divided by."""


class OneOf:
    """One of a few words.

    Args:
        *words: the words.
    """

    def __init__(self, *words: str) -> None:
        self.words = words


_WORDS = {
    str: "text", int: "a whole number ≥ 0", float: "a finite number", Positive: "a whole number ≥ 1",
}  # fmt: skip


def problem(value: Any, kind: Any, where: str) -> str | None:
    """The first place where a value is not of its kind.

    Args:
        value: parsed JSON.
        kind: see the module's docstring.
        where: the value's dotted name; empty for the file itself.

    Returns:
        The place, what was got and what was expected; None when all is well.
    """
    if isinstance(kind, Optional):
        return problem(value, kind.kind, where)
    if isinstance(kind, Maybe):
        return None if value is None else problem(value, kind.kind, where)
    if isinstance(kind, OneOf):
        return None if value in kind.words else f"{where} is {value!r:.60}, expected one of {', '.join(kind.words)}"
    if isinstance(kind, list):
        if not isinstance(value, list):
            return f"{where} is {value!r:.60}, expected a list"
        return next(filter(None, (problem(item, kind[0], f"{where}[{i}]") for i, item in enumerate(value))), None)
    if isinstance(kind, dict):
        return _object_problem(value, kind, where)
    return None if _is(value, kind) else f"{where} is {value!r:.60}, expected {_WORDS[kind]}"


def _object_problem(value: Any, kind: dict[str, Any], where: str) -> str | None:
    if not isinstance(value, dict):
        return f"{where or 'the file'} is {value!r:.60}, expected an object"
    prefix = f"{where}." if where else ""
    missing = next((key for key, each in kind.items() if key not in value and not isinstance(each, Optional)), None)
    if missing:
        return f"{prefix}{missing} is missing"
    found = (problem(value[key], kind[key], f"{prefix}{key}") for key in kind if key in value)
    return next(filter(None, found), None)


def _is(value: Any, kind: type) -> bool:
    if kind is str:
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if kind is float:
        return math.isfinite(value)
    return isinstance(value, int) and value >= (1 if kind is Positive else 0)
