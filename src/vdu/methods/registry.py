"""The methods by name. A method's file is imported when that method is first used.

A class registers itself with the decorator :func:`register`, and all metadata are attributes of the class: its name,
a one-sentence summary, what it needs and uses, its options (its dataclass fields), its default training settings, and whether it has
a stopping rule. The table below only maps built-in names to files. A class in a file of one's own has the name ``FILE.py:CLASS``; the
file is run when that name is used, and again after its text has changed.
"""

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from importlib import import_module
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from inspect import get_annotations
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from vdu.core.errors import InputError, did_you_mean, shown

if TYPE_CHECKING:
    from vdu.methods.base import BaseMethod

__all__ = ["AUTO", "get", "is_file", "names", "register", "require_whole", "resolve"]

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
    "concept-ablation": "concept_ablation",
    "uce": "uce",
    "salun": "salun",
    "erasediff": "erasediff",
    "siss": "siss",
    "finetune": "finetune",
})
_TEXT = "__vdu_text__"  # in the module of a user's file, the text that was run
ROLES = frozenset({"forget", "retain", "own_forget", "instead", "surrogate"})  # of images in a batch
_registered: dict[str, type["BaseMethod"]] = {}


Kind = TypeVar("Kind", bound="type[BaseMethod]")


@overload
def register(kind: Kind) -> Kind: ...
@overload
def register(kind: str) -> Callable[[Kind], Kind]: ...
def register(kind: Any) -> Any:
    """Class decorator: register a method under a name, for Python, ``vdu list`` and comparisons.

    ``@register("floor")`` gives the name; ``@register`` takes the class's own attribute ``name``. A class that is no dataclass yet becomes
    one (frozen, with keyword arguments): its annotated attributes are the method's options. Without a ``summary`` the first line of
    its docstring serves.

    Args:
        kind: the name, or the class.

    Returns:
        The class, or with a name a decorator. A class that is no :class:`vdu.methods.base.BaseMethod`, lacks a name, a summary or
        ``losses``, or has the name of another one raises an ``InputError``.
    """
    return partial(_registered_as, kind) if isinstance(kind, str) else _registered_as(None, kind)


def _registered_as(name: str | None, kind: Any) -> Any:
    from vdu.methods.base import BaseMethod, Described

    if not (isinstance(kind, type) and issubclass(kind, BaseMethod)):
        raise InputError(f"register: got {shown(kind)}; expected a class that inherits from vdu.Method.")
    annotated = sorted(set(get_annotations(kind)) & set(Described.__annotations__))
    if annotated:
        raise InputError(
            f"{kind.__name__}: {', '.join(annotated)} is annotated, which makes it an option of the method; write it without a type, as in "
            f"{annotated[0]} = …"
        )
    kind.name = kind.name if name is None else name
    kind.summary = kind.summary or _first_line(kind)
    if not kind.name or not kind.summary:
        raise InputError(
            f"{kind.__name__}: name is {kind.name!r} and summary {kind.summary!r}; expected both on the class, the summary as one sentence "
            "(or a docstring)."
        )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", kind.name):
        raise InputError(f"{kind.__name__}: name is {shown(kind.name)}; expected letters, digits and dashes.")
    require_whole(kind)
    home = f"vdu.methods.{_FILES.get(kind.name)}"
    known = _registered.get(kind.name)
    taken = known is not None and (known.__module__, known.__qualname__) != (kind.__module__, kind.__qualname__)
    if taken or kind.name == "auto" or (kind.name in _FILES and kind.__module__ != home):
        raise InputError(f"{kind.__name__}: the name {kind.name!r} is taken; give the class another one.")
    if "__dataclass_fields__" not in kind.__dict__:
        try:
            kind = dataclass(frozen=True, eq=False, kw_only=True)(kind)
        except (TypeError, ValueError) as error:  # such as a list as a default, which all objects would share
            raise InputError(
                f"{kind.__name__}: cannot become a dataclass ({error}); expected options with a number, a text or a tuple as default."
            ) from None
    _registered[kind.name] = kind
    return kind


def require_whole(method: Any) -> None:
    """Raise an error for a method that lacks its formula, or needs what does not exist, before any work.

    Args:
        method: the class or an object of it; what depends on the options is known of an object alone.

    Raises:
        InputError: if it has no name, has no losses and is not solved in closed form, names an unknown role or tool, or says something
            of itself that is of another kind (:func:`vdu.methods.metadata.require_metadata`).
    """
    from vdu.core.types import Tools
    from vdu.methods.base import BaseMethod
    from vdu.methods.metadata import are_names, require_metadata

    kind = method if isinstance(method, type) else type(method)
    if not method.name:
        raise InputError(f'{kind.__name__}: has no name; expected one, as in @vdu.register("floor") before the class.')
    if kind.losses is BaseMethod.losses and not kind.in_closed_form():
        raise InputError(
            f"{kind.__name__}: has no losses; expected def losses(self, denoiser, batch), the formula of the method."
        )
    tools = frozenset(item.name for item in fields(Tools))
    for what, known in (("needs", ROLES), ("uses", tools), ("batch_shares", ROLES)):
        given = getattr(method, what)
        if isinstance(given, property):
            continue
        if unknown := sorted(set(given) - known) if are_names(given) else [given]:
            raise InputError(
                f"{kind.__name__}: {what}: got {shown(unknown[0])}; expected a set with some of {', '.join(sorted(known))}."
            )
    require_metadata(method)


def _first_line(kind: type) -> str:
    """The first line of the class's own docstring; a dataclass without one has its signature there."""
    text = (kind.__dict__.get("__doc__") or "").strip()
    return "" if text.startswith(f"{kind.__name__}(") else text.partition("\n")[0]


def names() -> tuple[str, ...]:
    """Every name that :func:`get` accepts: "auto", the built-in methods and other registered methods."""
    return ("auto", *_FILES, *(name for name in _registered if name not in _FILES))


def is_file(name: str) -> bool:
    """Whether a method is named by its place, ``FILE.py:CLASS``."""
    return name.rpartition(":")[0].endswith(".py")


def resolve(name: str) -> str:
    """Resolve a name: "auto" becomes the method that it selects, and ``FILE.py:CLASS`` the name of that class.

    Args:
        name: one of :func:`names`, or ``FILE.py:CLASS``.

    Returns:
        The method's own name.

    Raises:
        InputError: if there is no such method.
    """
    if is_file(name):
        return _from_file(name).name
    if name not in names():
        hint = did_you_mean(name, names()) or " A class of your own is FILE.py:CLASS."
        raise InputError(f"method: got {name!r}; expected one of {', '.join(names())}.{hint}")
    return AUTO if name == "auto" else name


def get(name: str) -> "type[BaseMethod]":
    """The class of a method, imported at first use.

    Args:
        name: one of :func:`names`, or ``FILE.py:CLASS``.

    Returns:
        The class. An unknown name raises an error (:func:`resolve`).
    """
    if is_file(name):
        return _from_file(name)
    name = resolve(name)
    if name not in _registered:
        import_module(f"vdu.methods.{_FILES[name]}")
    return _registered[name]


def _from_file(name: str) -> "type[BaseMethod]":
    """The class of ``FILE.py:CLASS``, registered; the file is run once, and again after it was changed.

    Returns:
        The class.

    Raises:
        InputError: if there is no such file or class, the file cannot be run, or the class is no method.
    """
    place, _, wanted = name.rpartition(":")
    path = Path(place).expanduser().resolve()
    if not path.is_file():
        raise InputError(f"method: {place}: no such file; expected FILE.py:CLASS, a file with the class of a method.")
    title, text = f"vdu_method_{path.stem}_{abs(hash(path)):x}", path.read_bytes()
    module = sys.modules.get(title)
    if module is None or vars(module)[_TEXT] != text:
        module = _run_file(path, title, text)
    kind = getattr(module, wanted, None)
    if not isinstance(kind, type):
        found = [each for each, value in vars(module).items() if getattr(value, "__module__", None) == title]
        raise InputError(
            f"method: {place} has no class {wanted!r}; it has {', '.join(found) or 'none'}."
            + did_you_mean(wanted, found)
        )
    if kind not in _registered.values():
        kind = _registered_as(getattr(kind, "name", "") or wanted.lower(), kind)
    return kind


class _Uncompiled(SourceFileLoader):
    """Reads the text of a file, since Python's own cache of compiled files may be of an earlier one."""

    def path_stats(self, path: Any) -> Any:
        """No time and size, so that nothing compiled is looked for or kept."""
        raise OSError(path)


def _run_file(path: Path, title: str, text: bytes) -> Any:
    """A module from the text of a file."""
    spec = spec_from_file_location(title, path, loader=_Uncompiled(title, str(path)))
    assert spec is not None and spec.loader is not None
    for name in [name for name, kind in _registered.items() if kind.__module__ == title]:
        del _registered[name]  # of an earlier text
    module = sys.modules[title] = module_from_spec(spec)
    vars(module)[_TEXT] = text
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[title]
        if isinstance(error, InputError) or not isinstance(error, Exception):
            raise
        raise InputError(
            f"method: {path}: cannot be run ({type(error).__name__}: {error}). Correct the file."
        ) from error
    return module
