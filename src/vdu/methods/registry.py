"""The methods by name. A method's file is imported when that method is first used.

A class registers itself with the decorator :func:`register`, and all metadata are attributes of the class: its name,
a one-sentence summary, what it needs and uses, its options (its dataclass fields), its default training settings, and whether it has
a stopping rule. The table below only maps built-in names to files.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from vdu.core.errors import InputError

if TYPE_CHECKING:
    from vdu.methods.base import BaseMethod

__all__ = ["AUTO", "get", "names", "register", "resolve"]

AUTO = "distillation"
"""The method that "auto" selects: the one with the best measured results."""

_FILES: Mapping[str, str] = MappingProxyType({
    "distillation": "distillation",
    "retrack": "retrack",
    "anchor": "anchor",
    "bounded": "bounded",
    "conflict-free": "conflict_free",
    "vdu": "vdu",
    "ascent": "vdu",
    "selective-amnesia": "selective_amnesia",
    "esd": "esd",
    "salun": "salun",
    "erasediff": "erasediff",
    "siss": "siss",
    "finetune": "finetune",
})
_registered: dict[str, type["BaseMethod"]] = {}


Kind = TypeVar("Kind", bound="type[BaseMethod]")


def register(kind: Kind) -> Kind:
    """Class decorator: register a method under its name.

    Args:
        kind: the class, with ``name`` and ``summary``.

    Returns:
        The class.

    Raises:
        InputError: if the name or the summary is missing, or another class has the name.
    """
    if not kind.name or not kind.summary:
        raise InputError(
            f"{kind.__name__}: name is {kind.name!r} and summary {kind.summary!r}; expected both on the class, the summary as one sentence."
        )
    home = f"vdu.methods.{_FILES.get(kind.name)}"
    known = _registered.get(kind.name)
    taken = known is not None and (known.__module__, known.__qualname__) != (kind.__module__, kind.__qualname__)
    if taken or kind.name == "auto" or (kind.name in _FILES and kind.__module__ != home):
        raise InputError(f"{kind.__name__}: the name {kind.name!r} is taken; give the class another one.")
    _registered[kind.name] = kind
    return kind


def names() -> tuple[str, ...]:
    """Every name that :func:`get` accepts: "auto", the built-in methods and other registered methods."""
    return ("auto", *_FILES, *(name for name in _registered if name not in _FILES))


def resolve(name: str) -> str:
    """Resolve a name: "auto" becomes the method that it selects.

    Args:
        name: one of :func:`names`.

    Returns:
        The method's own name.

    Raises:
        InputError: if there is no such method.
    """
    if name not in names():
        near = get_close_matches(name, names(), n=1)
        raise InputError(
            f"method: got {name!r}; expected one of {', '.join(names())}."
            + (f" Did you mean {near[0]!r}?" if near else "")
        )
    return AUTO if name == "auto" else name


def get(name: str) -> "type[BaseMethod]":
    """The class of a method, imported at first use.

    Args:
        name: one of :func:`names`.

    Returns:
        The class. An unknown name raises an error (:func:`resolve`).
    """
    name = resolve(name)
    if name not in _registered:
        import_module(f"vdu.methods.{_FILES[name]}")
    return _registered[name]
