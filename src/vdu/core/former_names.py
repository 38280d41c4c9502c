"""Keywords of older versions, which keep working."""

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from vdu.core.errors import InputError

__all__ = ["former_names"]

F = TypeVar("F", bound=Callable[..., Any])


def former_names(**names: str) -> Callable[[F], F]:
    """A decorator by which a function takes its former keywords too, with a ``DeprecationWarning``.

    Args:
        **names: former name → present name.

    Returns:
        The decorator. A call with both names raises an ``InputError``.

    Examples:
        >>> @former_names(colour="color")
        ... def paint(color): return color
        >>> paint(colour="red")
        'red'
    """

    def decorate(function: F) -> F:
        @wraps(function)
        def call(*args: Any, **given: Any) -> Any:
            for old, new in names.items():
                if old not in given:
                    continue
                if new in given:
                    raise InputError(f"{old}: is the former name of {new}, and both are given; give {new} alone.")
                warnings.warn(f"{function.__name__}: {old} is called {new} now", DeprecationWarning, stacklevel=2)
                given[new] = given.pop(old)
            return function(*args, **given)

        return call  # pyright: ignore[reportReturnType]

    return decorate
