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

__all__ = ["PASSED", "RETAINED", "unlearn_settings"]

PASSED = (
    "steps", "batch_size", "learning_rate", "lr_schedule", "warmup_steps", "ema_decay", "max_grad_norm", "mixed_precision",
    "n_own_samples", "instead", "full_length", "force",
)  # fmt: skip
"""The settings of ``vdu unlearn`` that a row's run passes on as they are."""
RETAINED = ("self", "data")
"""What a row can retain: generated samples, or real images of the other classes."""


def unlearn_settings(options: Mapping[str, Any]) -> UnlearnSettings:
    """A row's options as the settings of ``vdu unlearn``.

    Args:
        options: :data:`PASSED`, the method with its options, and what is retained.

    Returns:
        The settings, resolved.

    Raises:
        InputError: if there is no such option, a row's run does not pass it on, or a value is not possible.
    """
    fixed: dict[str, Any] = {"pipeline": Path(), "forget": "", "output_dir": Path()}
    # resolved: what a method fills in has a type, too
    whole = {**vars(resolved(UnlearnSettings(**fixed))), **MOVED}
    defaults = {name: whole[name] for name in ("method", "option", "retain", *PASSED, *MOVED)}
    for name, value in options.items():
        if name not in defaults:
            near = [] if name in whole else get_close_matches(name, defaults, n=1)
            raise InputError(
                f"row options: {name!r} would have no effect in a row; "
                + (f"did you mean {near[0]!r}?" if near else f"expected some of {', '.join(defaults)}.")
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
    if options.get("retain", "self") not in RETAINED:
        raise InputError(f"row options: retain is {options['retain']!r}; expected one of {', '.join(RETAINED)}.")
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in options.items() if name not in MOVED
    }
    given["option"] = (*given.get("option", ()), *as_options({k: v for k, v in options.items() if k in MOVED}))
    return resolved(UnlearnSettings(**fixed, **given))
