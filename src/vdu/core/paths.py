"""Paths that a user gives: ~ expanded, and nothing in them that a record could not hold. Standard library only."""

from pathlib import Path
from typing import Any

from vdu.core.errors import InputError, shown

__all__ = ["given_file", "given_path", "home_cache", "require_text"]


def given_path(given: Any, name: str = "path") -> Path:
    """A path as a user means it.

    Args:
        given: text or a path; ~ and ~user stand for home folders, also where no shell expanded them.
        name: the argument, for messages.

    Returns:
        The path.

    Raises:
        InputError: if it is of another kind or empty, is no Unicode text, or has a ~ for which there is no home folder.
    """
    if not isinstance(given, str | Path) or given == "":
        raise InputError(f"{name}: got {shown(given)}; expected a path.")
    require_text(str(given), name)
    try:
        return Path(given).expanduser()
    except RuntimeError:
        raise InputError(
            f"{name}: got {given}, and this user has no such home folder; write the whole path, or ./{given} for a file of that name."
        ) from None


def given_file(given: Any, name: str = "path") -> Path:
    """A path of a file that is to be written; a folder is refused, besides what :func:`given_path` refuses."""
    path = given_path(given, name)
    if path.is_dir():
        raise InputError(f"{name}: got {path}, which is a folder; expected a file in it.")
    return path


def home_cache() -> Path | None:
    """The folder ~/.cache; None for a user without a home folder."""
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        return None


def require_text(text: str, name: str) -> None:
    """Raise an error for a name that is no Unicode text (an old Latin-1 name, for example), or has a zero byte.

    Raises:
        InputError: with the name in a form that can be printed.
    """
    if "\0" not in text:
        try:
            text.encode("utf-8")
            return
        except UnicodeEncodeError:
            pass
    printable = text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
    raise InputError(
        f"{name}: got '{printable}', which is not UTF-8 text, so that no record could hold it. Rename it, or give a link with "
        "another name to it."
    )
