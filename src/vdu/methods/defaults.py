"""Default training settings of the methods. Standard library only."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

__all__ = ["LOOP_DEFAULTS", "TrainingDefaults"]

LOOP_DEFAULTS: Mapping[str, Any] = MappingProxyType({
    "lr_schedule": "constant", "mixed_precision": "no", "gradient_accumulation_steps": 1, "gradient_checkpointing": False,
    "checkpointing_steps": 20, "checkpoints_total_limit": 2,
})  # fmt: skip
"""Default settings of the training loop that are the same for all methods."""


@dataclass(frozen=True, kw_only=True)
class TrainingDefaults:
    """Default training settings of a method; the values below are untuned.

    Attributes:
        steps: optimiser steps.
        batch_size: images of each role per step.
        learning_rate: Adam's step size.
        warmup_steps: linear warm-up of the learning rate.
        ema_decay: decay of the weight average; 0 keeps none.
        max_grad_norm: clip the gradient norm to this; None does not clip.
        n_own_samples: number of generated samples, for methods that use them.
        scheduler: their sampler, see :class:`vdu.diffusion.sampling.Sampler`.
        inference_steps: network evaluations per generated sample.
    """

    steps: int = 200
    batch_size: int = 64
    learning_rate: float = 1e-5
    warmup_steps: int = 0
    ema_decay: float = 0.0
    max_grad_norm: float | None = None
    n_own_samples: int = 1500
    scheduler: str = "ddpm"
    inference_steps: int = 20
