"""A row's options in a table file as the settings of ``vdu unlearn``, checked as the command line would check them.

Rows name the options of vdu, ascent and selective-amnesia as older versions named their flags (gamma, ewc, weights, …), because the
names of committed cells are hashes of them. They become options of the method here, when a row is run.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from vdu.commands.unlearn import MOVED, UnlearnSettings, as_options, resolved
from vdu.core.errors import InputError
from vdu.methods import registry

__all__ = ["unlearn_settings"]


def unlearn_settings(options: Mapping[str, Any]) -> UnlearnSettings:
    """A row's options as the settings of ``vdu unlearn``.

    Args:
        options: its fields without pipeline, forget and output_dir.

    Returns:
        The settings, resolved.

    Raises:
        InputError: if there is no such option, or a value has the wrong type.
    """
    fixed: dict[str, Any] = {"pipeline": Path(), "forget": "", "output_dir": Path()}
    # resolved: what a method fills in has a type, too
    whole = {**vars(resolved(UnlearnSettings(**fixed))), **MOVED}
    defaults = {name: value for name, value in whole.items() if name not in fixed}
    for name, value in options.items():
        if name not in defaults:
            near = get_close_matches(name, defaults, n=1)
            raise InputError(
                f"row options: {name!r} is none of vdu unlearn's; "
                + (f"did you mean {near[0]!r}?" if near else f"they are {', '.join(defaults)}.")
            )
        default = defaults[name]
        if isinstance(default, int | float | str) and not isinstance(
            value, float if isinstance(default, float) else type(default)
        ):
            if not (isinstance(default, float) and isinstance(value, int)):
                raise InputError(
                    f"row options: {name} is {value!r}; expected {type(default).__name__}, for example {default!r}."
                )
    if options.get("method") not in registry.names():
        raise InputError(
            f"row options: method is {options.get('method')!r}; expected one of {', '.join(registry.names())}."
        )
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in options.items() if name not in MOVED
    }
    given["option"] = (*given.get("option", ()), *as_options({k: v for k, v in options.items() if k in MOVED}))
    return resolved(UnlearnSettings(**fixed, **given))
