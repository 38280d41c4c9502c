"""What a user means by a class: its name, a number, or a place in the list. Standard library only.

    1. a text that is the name of a class, in any Unicode form  → that class
    2. a number, as text or int, that is the value of one name  → that class ("1" and 1 mean "01" among 01, 02, 03)
    3. a number that no name contradicts                        → the class at that place, counted from 0

A name contradicts a number that is in it, and the place that it is at if another number is in it: among class_1, class_2 and class_10 no
number means a class, and beside K9 only 9 does not. A name that is itself a number, and not that of its place, contradicts every place.
Nothing else is guessed: a number that two names share is refused.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any
from unicodedata import normalize

from vdu.core.errors import InputError, did_you_mean, shown
from vdu.core.naming import words

__all__ = ["class_index", "class_key", "composed", "require_clear", "require_own_name"]

_LISTED = 20


def class_index(wanted: Any, names: Sequence[str], what: str = "class") -> int:
    """The place of a class.

    Args:
        wanted: its name, or a number (see above).
        names: of all classes, in order.
        what: subject of the message.

    Returns:
        An index in 0 … len(names) − 1.

    Raises:
        InputError: if no class is meant, or more than one.

    Examples:
        >>> class_index(1, ["01", "02", "03"]), class_index("10", ["1", "10", "2"]), class_index(1, ["cat", "dog"])
        (0, 1, 1)
    """
    if not isinstance(wanted, str | Integral) or isinstance(wanted, bool):
        raise InputError(f"{what}: got {shown(wanted)}; expected the name or the number of a class.")
    names, wanted = [*map(composed, names)], composed(wanted) if isinstance(wanted, str) else wanted
    if isinstance(wanted, str) and wanted in names:
        if names.count(wanted) > 1:
            where = " and ".join(str(i) for i, name in enumerate(names) if name == wanted)
            raise InputError(
                f"{what} {wanted!r}: is the name of the classes {where}, counted from 0; expected a name of one class."
            )
        return names.index(wanted)
    value, got = _value(str(wanted)), shown(wanted if isinstance(wanted, str) else int(wanted))
    if value is not None:
        same = [i for i, name in enumerate(names) if _value(name) == value]
        if len(same) == 1:
            return same[0]
        if same:
            raise InputError(
                f"{what} {got}: means {' and '.join(names[i] for i in same)}; expected the name of one class, as text."
            )
    values = any(_value(name) not in {None, str(i)} for i, name in enumerate(names))  # numbers are names here
    if value is not None and len(value) < 10 and int(value) < len(names) and not values:
        place = int(value)
        others = [*names[:place], *names[place + 1 :]]
        if _numbers(names[place]) <= {value} and not any(value in _numbers(name) for name in others):
            return place
    places = not any(map(_numbers, names))
    listed = [f"{i} = {name}" if places else name for i, name in enumerate(names[:_LISTED])]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    hint = did_you_mean(wanted, names) if isinstance(wanted, str) else ""
    raise InputError(f"{what} {got}: unknown; the classes are: {', '.join(listed)}{more}.{hint}")


def composed(name: str) -> str:
    """A name as Unicode composes it (NFC): "é" is one character, also where a file system writes it as two.

    Args:
        name: of a class.

    Returns:
        The same text for names that look the same.
    """
    return normalize("NFC", name)


def class_key(name: str) -> tuple[str, ...]:
    """What all names of one class share: case, punctuation and the leading zeros of a number do not count.

    Args:
        name: of a class.

    Returns:
        Equal for names of the same class.

    Examples:
        >>> class_key("08") == class_key("8"), class_key("Sea_Lion") == class_key("sea lion"), class_key("K09") == class_key("K9")
        (True, True, False)
    """
    found = words(name) or (name,)
    return ((_value(found[0]) or found[0]),) if len(found) == 1 else found


def require_own_name(wanted: Any, shared: Mapping[str, Sequence[int]], names: Sequence[str], what: str) -> None:
    """Refuse a name that several classes have.

    Args:
        wanted: what was asked for.
        shared: the classes of each such name.
        names: of all classes, in order.
        what: subject of the message.

    Raises:
        InputError: with the numbers of the classes, and the names that they have for themselves.
    """
    places = {composed(name): each for name, each in shared.items()}
    if isinstance(wanted, str) and composed(wanted) in places:
        found = [str(i) if names[i] == str(i) else f"{i} ({names[i]})" for i in places[composed(wanted)]]
        raise InputError(
            f"{what} {wanted!r}: is a name of the classes {' and '.join(found)}; expected one class. Give its number, or a name that it "
            "alone has."
        )


def require_clear(labels: Iterable[int], names: Sequence[str], what: str) -> None:
    """Refuse numbers without names that may be places in the list of classes, and names of other classes.

    Args:
        labels: places.
        names: of all classes, in order.
        what: subject of the message.

    Raises:
        InputError: for the first such number.
    """
    for label in labels:
        others = [name for i, name in enumerate(names) if i != label and _value(name) == str(label)]
        if others and label < len(names):
            raise InputError(
                f"{what}: the label {label} has no name; it may be the class {others[0]!r}, or the one at place {label} counted from 0, "
                f"{names[label]!r}. Give the names of the classes with the images (class_names=…)."
            )


def _numbers(name: str) -> set[str]:
    return {_value(each) or "" for each in re.findall(r"[0-9]+", name)}


def _value(text: str) -> str | None:
    """The value of a number without its leading zeros; None for anything else."""
    return (text.lstrip("0") or "0") if text.isascii() and text.isdigit() else None
