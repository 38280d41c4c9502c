"""Counts network evaluations as they happen: a forward pass of one image is 1, a backward pass 2.

Where processes share the work (:func:`standing_for`), the first of them counts the evaluations of all.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

from vdu.core import progress

__all__ = ["EvaluationCounter", "standing_for"]

_PARTS: ContextVar[int] = ContextVar("parts", default=1)


@contextmanager
def standing_for(n_parts: int) -> Iterator[None]:
    """Inside the block an evaluation counts as so many: other processes do equal parts of the work meanwhile.

    Args:
        n_parts: the parts, this process's included.

    Yields:
        Nothing.
    """
    token = _PARTS.set(n_parts)
    try:
        yield
    finally:
        _PARTS.reset(token)


class EvaluationCounter:
    """Counts the images that networks see.

    Attributes:
        total: evaluations so far.
    """

    def __init__(self) -> None:
        self.total = 0

    @contextmanager
    def watching(self, *networks: nn.Module | None) -> Iterator["EvaluationCounter"]:
        """Count the calls of some networks, and of copies made of them meanwhile, inside the block.

        Args:
            *networks: networks whose first argument is a batch; None is skipped.

        Yields:
            This counter.
        """
        handles = [each.register_forward_hook(self._count, with_kwargs=True) for each in networks if each is not None]
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def _count(self, network: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        inputs = [*arguments, *named.values(), *network.parameters()]  # a condition may be what learns
        learns = torch.is_grad_enabled() and any(getattr(value, "requires_grad", False) for value in inputs)
        work = len(arguments[0]) * (3 if learns else 1) * _PARTS.get()
        self.total += work
        progress.advance(work)

    def __deepcopy__(self, memo: dict[int, Any]) -> "EvaluationCounter":
        """Copies of a watched network count here too."""
        return self
