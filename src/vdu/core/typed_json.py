"""Checks JSON against ``TypedDict`` classes.

Understood: ``str``, ``int``, ``float`` (finite; whole numbers are welcome), ``Any``, ``Literal``, ``X | Y``, ``list[X]``,
``dict[str, X]``, ``TypedDict`` (further keys are allowed, so that a writer may add some, but not in one that is
:func:`closed`), and ``Annotated`` with :class:`AtLeast`, :class:`AtMost` and :class:`Pattern`. In a union of objects, the
member whose ``status`` is the value's decides.
"""

import math
import re
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

__all__ = ["AtLeast", "AtMost", "Pattern", "closed", "hints", "is_closed", "problem", "unpacked"]

_CLOSED: set[str] = set()


@dataclass(frozen=True)
class AtLeast:
    """The least number, or the least length of a list."""

    value: int


@dataclass(frozen=True)
class AtMost:
    """The largest number."""

    value: int


@dataclass(frozen=True)
class Pattern:
    """A regular expression that a text must contain."""

    value: str


def closed(kind: Any) -> Any:
    """Allow no further keys in objects of a class."""
    _CLOSED.add(kind.__name__)
    return kind


def is_closed(kind: Any) -> bool:
    """Whether a class allows no further keys."""
    return kind.__name__ in _CLOSED


def hints(kind: Any) -> dict[str, Any]:
    """The types of a ``TypedDict``'s keys."""
    found = get_type_hints(kind, include_extras=True)
    return {key: get_args(each)[0] if get_origin(each) is NotRequired else each for key, each in found.items()}


def unpacked(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type without its limits, and these."""
    return (get_args(kind)[0], kind.__metadata__) if get_origin(kind) is Annotated else (kind, ())


def problem(value: Any, kind: Any, where: str = "") -> str | None:
    """The first place where a value is not of its type.

    Args:
        value: parsed JSON.
        kind: the type, see the module's docstring.
        where: the value's dotted name; empty for the file itself.

    Returns:
        The place, what was got and what was expected; None when all is well.
    """
    kind, limits = unpacked(kind)
    origin = get_origin(kind)
    if kind is Any:
        return None
    if origin in {Union, UnionType}:
        return _union_problem(value, get_args(kind), where)
    if origin is Literal:
        fits = any(value == each and isinstance(value, bool) is isinstance(each, bool) for each in get_args(kind))
        return None if fits else _wrong(value, f"one of {', '.join(map(str, get_args(kind)))}", where)
    if origin is list:
        return _list_problem(value, get_args(kind)[0], limits, where)
    if is_typeddict(kind) or origin is dict:
        return _object_problem(value, kind, where)
    return None if _is_plain(value, kind, limits) else _wrong(value, _expected(kind, limits), where)


def _wrong(value: Any, expected: str, where: str) -> str:
    return f"{where or 'the file'} is {value!r:.60}, expected {expected}"


def _union_problem(value: Any, kinds: tuple[Any, ...], where: str) -> str | None:
    others = [kind for kind in kinds if kind is not NoneType]
    if value is None and len(others) < len(kinds):
        return None
    tagged = [kind for kind in others if is_typeddict(kind) and "status" in kind.__annotations__]
    if len(tagged) > 1 and isinstance(value, dict):
        words = {word: kind for kind in tagged for word in get_args(hints(kind)["status"])}
        status = value.get("status")
        if not isinstance(status, str) or status not in words:
            return _wrong(status, f"one of {', '.join(words)}", f"{where}.status")
        return problem(value, words[status], where)
    found = [problem(value, kind, where) for kind in others]
    return None if None in found else found[0]


def _list_problem(value: Any, kind: Any, limits: tuple[Any, ...], where: str) -> str | None:
    if not isinstance(value, list):
        return _wrong(value, "a list", where)
    short = next((each.value for each in limits if len(value) < each.value), None)
    if short is not None:
        return _wrong(value, f"a list of {short} or more", where)
    return next(filter(None, (problem(each, kind, f"{where}[{i}]") for i, each in enumerate(value))), None)


def _object_problem(value: Any, kind: Any, where: str) -> str | None:
    if not isinstance(value, dict):
        return _wrong(value, "an object", where)
    prefix = f"{where}." if where else ""
    if not is_typeddict(kind):
        of = get_args(kind)[1]
        return next(filter(None, (problem(each, of, f"{prefix}{key}") for key, each in value.items())), None)
    known = hints(kind)
    missing = next((key for key in known if key in kind.__required_keys__ and key not in value), None)
    if missing:
        return f"{prefix}{missing} is missing"
    strange = next((key for key in value if key not in known), None)
    if strange is not None and is_closed(kind):
        return f"{prefix}{strange} is not known, expected only {', '.join(known)}"
    found = (problem(value[key], each, f"{prefix}{key}") for key, each in known.items() if key in value)
    return next(filter(None, found), None)


def _is_plain(value: Any, kind: Any, limits: tuple[Any, ...]) -> bool:
    if kind is str:
        return isinstance(value, str) and all(re.search(each.value, value) for each in limits)
    if (
        isinstance(value, bool)
        or not isinstance(value, int if kind is int else int | float)
        or not math.isfinite(value)
    ):
        return False
    return all(value >= each.value if isinstance(each, AtLeast) else value <= each.value for each in limits)


def _expected(kind: Any, limits: tuple[Any, ...]) -> str:
    named = {str: "text", int: "a whole number", float: "a finite number"}[kind]
    signs = {AtLeast: "≥", AtMost: "≤", Pattern: "matching"}
    return " ".join([named, *(f"{signs[type(each)]} {each.value}" for each in limits)])
