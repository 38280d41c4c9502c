"""Networks in evaluation mode for a while: the one place that switches modes and puts them back."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import nn

__all__ = ["evaluating"]


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Networks in evaluation mode inside the block, each part back in its own mode afterwards.

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
