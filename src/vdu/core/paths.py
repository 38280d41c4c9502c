"""Paths that a user gives: ~ expanded, and nothing in them that a record could not hold. Standard library only."""

import os
import re
from pathlib import Path
from typing import Any

from vdu.core.errors import InputError, shown

__all__ = ["absolute_if_here", "given_file", "given_output", "given_path", "home_cache", "like_a_file", "require_text"]

_LIKE_A_FILE = re.compile(
    r"(~\w*|\.\.?|[A-Za-z]:)?[/\\].*"  # a path from the root, the home folder or here
    r"|.*[/\\]"  # a folder
    r"|\S*[^\s.]\.([a-z]{2,5}|[A-Z]{2,5})"  # one word with a suffix; "Dr.Who" has none
    r"|\S*[/\\]\S*\.[A-Za-z]\w{0,4}"  # the same in a folder
    r"|.*[^\s.]\.(?i:csv|docx?|jsonl?|list|md|odt|pdf|rtf|text|toml|tsv|txt|xlsx?|ya?ml)"  # several words, and a suffix of texts
)


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


def given_output(given: Any, name: str = "path") -> Path:
    """A path that is to be written; one below a file, or in a folder that cannot be written in, is refused before any work.

    Args:
        given: as for :func:`given_path`.
        name: likewise.

    Returns:
        The path, which need not exist.

    Raises:
        InputError: if it cannot be made there.
    """
    path = given_path(given, name)
    place = next(each for each in (path, *path.absolute().parents) if each.is_dir() or (each != path and each.exists()))
    if not place.is_dir() or not os.access(place, os.W_OK):
        kind = "cannot be written in" if place.is_dir() else "is a file"
        raise InputError(f"{name}: got {path}, and {place} {kind}; expected a folder there. Choose another path.")
    return path


def given_file(given: Any, name: str = "path") -> Path:
    """A path of a file that is to be written; a folder is refused, besides what :func:`given_output` refuses."""
    path = given_output(given, name)
    if path.is_dir():
        raise InputError(f"{name}: got {path}, which is a folder; expected a file in it.")
    return path


def absolute_if_here(given: Path | str) -> str:
    """A record of what a user gave, which may be a name or a place: the whole path of an existing file or folder, else the words."""
    try:
        path = Path(given).expanduser()
        return str(path.absolute()) if path.exists() else str(given)
    except (OSError, RuntimeError, ValueError):
        return str(given)


def home_cache() -> Path | None:
    """The folder ~/.cache; None for a user without a home folder."""
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        return None


def like_a_file(text: str) -> bool:
    """Whether a text, given where a prompt is expected, looks like a file.

    Args:
        text: the text; space around it does not count.

    Returns:
        Whether it is a path, or a name with a suffix; whether there is such a file does not matter.

    Examples:
        >>> like_a_file("prompts.txt"), like_a_file("a cat, 3.5 stars")
        (True, False)
    """
    return _LIKE_A_FILE.fullmatch(text.strip()) is not None


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
