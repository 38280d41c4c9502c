"""Exponential moving average of weights, θ̄ ← d θ̄ + (1 − d) θ, with d_k = min(d, (1 + k)/(R + k)) at step k.

The ramp reduces the weight of the initial weights in a short run (R = 10: diffusers' EMAModel). During the ramp, the weight of step j
is nearly proportional to j^(R − 2): the window is about k/(R − 1) steps long, and a smaller R averages more of them (a power function
profile: Karras et al. 2024, arXiv 2312.02696, Eq. 4).
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["ExponentialMovingAverage"]


class ExponentialMovingAverage:
    """A shadow copy of named parameters.

    Args:
        parameters: name and parameter pairs; the shadow starts equal to them.
        decay: d, in [0, 1).
        ramp: R > 1.
    """

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], decay: float, ramp: int = 10) -> None:
        self.decay, self.ramp = decay, ramp
        self.shadow: dict[str, Tensor] = {name: value.detach().clone() for name, value in parameters}

    @torch.no_grad()
    def update(self, parameters: Iterable[tuple[str, nn.Parameter]], step: int) -> None:
        """Move the shadow towards the parameters after step ``step`` (counted from 0)."""
        decay = min(self.decay, (1 + step) / (self.ramp + step))
        current = dict(parameters)
        torch._foreach_lerp_(list(self.shadow.values()), [current[name] for name in self.shadow], 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
