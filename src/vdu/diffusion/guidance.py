"""Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598), on the raw output of a network.

    ε̂ = ε̂(∅) + s (ε̂(c) − ε̂(∅))

Symbols: c the condition; ∅ the null condition; s the scale. A learned variance is that under c, as in diffusers. A network that was
distilled to take s as an argument (FLUX) is evaluated once.
"""

import torch
from torch import Tensor

from vdu.core.types import Condition, Denoiser

__all__ = ["combined", "guided", "is_distilled"]


def guided(
    denoiser: Denoiser,
    x_t: Tensor,
    timestep: Tensor,
    condition: Condition | None,
    null: Condition | None,
    scale: float | None,
) -> Tensor:
    """The raw output under a condition, with guidance if there is a scale.

    Args:
        denoiser: the model.
        x_t: noised samples, [batch, …].
        timestep: timesteps of its schedule, [batch].
        condition: c of each.
        null: ∅ for each; not used without a scale.
        scale: s, or None.

    Returns:
        The raw output, with its variance channels if it has them.
    """
    if scale is not None and is_distilled(condition):
        assert condition is not None
        condition, scale = {**condition, "guidance": torch.full_like(condition["guidance"], scale)}, None
    if scale is None:
        return denoiser.raw(x_t, timestep, condition)
    without = denoiser.raw(x_t, timestep, null)
    return combined(without, denoiser.raw(x_t, timestep, condition), scale, x_t.shape[1])


def combined(without: Tensor, under: Tensor, scale: float, channels: int) -> Tensor:
    """The two outputs of a step as one.

    Args:
        without: under ∅, [batch, channels or 2 channels, …].
        under: under c, likewise.
        scale: s.
        channels: of a sample; what follows them is the variance.

    Returns:
        The output, likewise.
    """
    found = without[:, :channels] + scale * (under[:, :channels] - without[:, :channels])
    return torch.cat([found, under[:, channels:]], dim=1) if under.shape[1] > channels else found


def is_distilled(condition: Condition | None) -> bool:
    """Whether a condition is that of a network that takes s as an argument."""
    return condition is not None and "guidance" in condition
