"""Named seeds and generators, so that every random draw can be repeated on its own.

seed' = SHA-256(seed, name₁, name₂, …) mod 2⁶³. A draw at training step k depends on (seed, "step", k) and on nothing
that happened before; a resumed run therefore gives the same bits.

Not guaranteed: equal bits across PyTorch versions or between CPU and CUDA generators.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["derive_seed", "draw_seed", "generator", "isolated_global"]


def derive_seed(seed: int, *names: str | int) -> int:
    """A new seed for a named purpose.

    Args:
        seed: any integer.
        *names: the purpose of the seed, for example ``("step", 17)``.

    Returns:
        An integer in [0, 2⁶³).

    Examples:
        >>> derive_seed(0, "noise") == derive_seed(0, "noise")
        True
        >>> derive_seed(0, "noise", 1) == derive_seed(0, "noise", "1")
        False
    """
    # int: NumPy's integers have another repr than Python's
    path = (int(seed), *(name if isinstance(name, str) else int(name) for name in names))
    digest = hashlib.sha256(repr(path).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(seed: int, *names: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """A fresh generator for a named purpose (see :func:`derive_seed`)."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *names) if names else int(seed))


def draw_seed(source: torch.Generator) -> int:
    """One seed in [0, 2⁶²) drawn from a generator, which advances."""
    return int(torch.randint(2**62, (), generator=source, device=source.device))


@contextmanager
def isolated_global(seed: int) -> Iterator[None]:
    """Seed PyTorch's global stream inside the block and leave the caller's stream untouched.

    ``nn.Module`` initialisation and dropout draw from the global stream and cannot be given a generator.

    Args:
        seed: the seed of the stream inside the block.

    Yields:
        Nothing.
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
