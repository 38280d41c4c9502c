"""The error types, and the exit code of each on the command line.

Every other error is a bug or a failure of the machine and keeps its type and traceback.
"""

__all__ = ["BusyError", "DivergenceError", "InputError"]


class InputError(ValueError):
    """Invalid input: the message states the value, the expectation and a remedy (exit code 2)."""


class BusyError(InputError):
    """Another process is writing this run (exit code 2)."""


class DivergenceError(RuntimeError):
    """A training or unlearning run diverged (exit code 4)."""
