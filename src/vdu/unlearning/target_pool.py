"""Batches whose targets are computed once and used several times.

A distillation target depends on the noised images and on frozen models, not on the student. The first batches of a run therefore
form a pool: their targets are computed when they are first drawn, and the batches repeat afterwards. A repeated step costs one
forward and one backward pass of the student.

    batch of step k = batch k mod P        targets from the first pass

Memory: one target per image of the pool, P × images per step × size of a sample × 4 bytes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vdu.core.types import Method
from vdu.models.denoiser import PipelineDenoiser
from vdu.training.batches import unflatten

__all__ = ["TargetPool"]


@dataclass(frozen=True, eq=False)
class TargetPool:
    """Batches of a pool, as a function of the step.

    Attributes:
        make_batch: step → tensors, without targets.
        method: prepared; gives the targets.
        denoiser: the trained model, for its schedule and its device.
        size: P, batches in the pool.
        targets: what has been computed: batch of the pool → role → target, on the CPU.
    """

    make_batch: Callable[[int], dict[str, Tensor]]
    method: Method
    denoiser: PipelineDenoiser
    size: int
    targets: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    def __call__(self, step: int) -> dict[str, Tensor]:
        """The tensors of a step, with ``role.target`` for each role that has one."""
        place = step % self.size
        batch = self.make_batch(place)
        if place not in self.targets:
            device = next(self.denoiser.network.parameters()).device
            moved = {name: value.to(device) for name, value in batch.items()}
            with torch.no_grad():
                found = self.method.targets(unflatten(moved, self.method.schedule, self.denoiser.schedule))
            self.targets[place] = {role: target.cpu() for role, target in found.items()}
        return batch | {f"{role}.target": target for role, target in self.targets[place].items()}
