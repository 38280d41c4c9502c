"""Temporary evaluation mode of networks: the only place that switches and restores modes."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import nn

__all__ = ["evaluating"]


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Put networks into evaluation mode inside the block; each module returns to its own mode afterwards.

    Args:
        *networks: any number of them.

    Yields:
        Nothing.
    """
    with ExitStack() as undo:
        for network in networks:
            for part in network.modules():
                undo.callback(setattr, part, "training", part.training)
            network.eval()
        yield
