"""Messages written for the command line, as a caller in Python reads them: ``forget_class`` for ``--forget-class``.

One message serves both. It is rewritten when it leaves a public function, unless a command called that function.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from inspect import Parameter, signature
from typing import Any, TypeVar

from vdu.core.errors import InputError

__all__ = ["as_command", "in_python", "names_arguments"]

F = TypeVar("F", bound=Callable[..., Any])

OTHER_NAMES = {"output_dir": "folder", "resume_from_checkpoint": "resume"}
OF_COMMANDS = {"config", "dry_run", "help", "help_all", "local_dir", "port"}  # have no counterpart
OPTION = re.compile(
    r"`[^`]*`|(?<![\w-])--([a-z][a-z0-9-]*)(?![a-z0-9-])(:?)"
)  # what stands in backticks is a command to type
_called_by_command: ContextVar[bool] = ContextVar("called_by_command", default=False)


@contextmanager
def as_command() -> Iterator[None]:
    """Messages keep the names of the command line inside the block.

    Yields:
        Nothing.
    """
    token = _called_by_command.set(True)
    try:
        yield
    finally:
        _called_by_command.reset(token)


def names_arguments(function: F) -> F:
    """A decorator by which the errors of a public function name its arguments as Python does.

    Args:
        function: any.

    Returns:
        The function, whose ``InputError`` is rewritten by :func:`in_python`.
    """

    @wraps(function)
    def call(*args: Any, **given: Any) -> Any:
        try:
            return function(*args, **given)
        except InputError as error:
            if not _called_by_command.get():
                error.args = (in_python(str(error), function), *error.args[1:])
            raise

    return call  # pyright: ignore[reportReturnType]


def in_python(message: str, function: Callable[..., Any]) -> str:
    """A message with the options that the function has as arguments under their names there.

    Args:
        message: some words.
        function: has the arguments; one that takes any keyword has every option of a method, too.

    Returns:
        The words; commands in backticks, and options that the function does not have, are as they were.

    Examples:
        >>> def unlearn(*, forget_class=None, overwrite=False): ...
        >>> in_python("--forget-class: got x. Give --overwrite, or see `vdu unlearn --help`.", unlearn)
        'forget_class: got x. Give overwrite=True, or see `vdu unlearn --help`.'
    """
    known = signature(function).parameters
    takes_any = any(each.kind is Parameter.VAR_KEYWORD for each in known.values())

    def named(found: re.Match[str]) -> str:
        if found[1] is None:
            return found[0]
        name = found[1].replace("-", "_")
        name = name if name in known else OTHER_NAMES.get(name, name)
        if name not in known and (not takes_any or name in OF_COMMANDS):
            return found[0]
        to_give = (
            not found[2] and name in known and known[name].default is False
        )  # with a colon it is what the message is about
        return f"{name}=True" if to_give else f"{name}{found[2]}"

    return OPTION.sub(named, message)
