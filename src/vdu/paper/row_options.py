"""A row's options in a table file as the settings of ``vdu unlearn``, checked as the command line would check them."""

from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from vdu.commands.settings import UnlearnSettings
from vdu.core.errors import InputError
from vdu.methods.defaults import METHODS

__all__ = ["unlearn_settings"]


def unlearn_settings(options: Mapping[str, Any]) -> UnlearnSettings:
    """A row's options as the settings of ``vdu unlearn``.

    Args:
        options: its fields without pipeline, forget and output_dir.

    Returns:
        The settings.

    Raises:
        InputError: if there is no such option.
    """
    fixed: dict[str, Any] = {"pipeline": Path(), "forget": "", "output_dir": Path()}
    defaults = UnlearnSettings(**fixed)
    known = [item.name for item in fields(UnlearnSettings) if item.name not in fixed]
    for name, value in options.items():
        if name not in known:
            near = get_close_matches(name, known, n=1)
            raise InputError(
                f"row options: {name!r} is none of vdu unlearn's; "
                + (f"did you mean {near[0]!r}?" if near else f"they are {', '.join(known)}.")
            )
        default = getattr(defaults, name)
        if isinstance(default, int | float | str) and not isinstance(
            value, float if isinstance(default, float) else type(default)
        ):
            if not (isinstance(default, float) and isinstance(value, int)):
                raise InputError(
                    f"row options: {name} is {value!r}; expected {type(default).__name__}, for example {default!r}."
                )
    if options.get("method") not in METHODS:
        raise InputError(f"row options: method is {options.get('method')!r}; expected one of {', '.join(METHODS)}.")
    lists: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in options.items()
    }
    return UnlearnSettings(**fixed, **lists)
