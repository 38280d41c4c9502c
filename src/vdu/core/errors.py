"""The errors that callers can tell apart, and the exit code each one becomes on the command line.

Everything else that goes wrong is a bug or the machine's fault and keeps its own type and traceback.
"""

__all__ = ["BusyError", "DivergenceError", "InputError"]


class InputError(ValueError):
    """What the user gave cannot be used: the message says what was got, what was expected and what to do (exit code 2)."""


class BusyError(InputError):
    """Another process is writing this run (exit code 2)."""


class DivergenceError(RuntimeError):
    """A training or unlearning run left the region where its loss means anything (exit code 4)."""
