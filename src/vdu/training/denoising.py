"""The objective of every denoiser: the mean squared error of the noise. Pre-training, fine-tuned copies and relearning use it."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vdu.core.types import Denoiser, Losses
from vdu.diffusion.schedule import NoiseSchedule
from vdu.training.batches import unflatten
from vdu.training.loop import Objective

__all__ = ["DenoisingObjective"]


@dataclass(frozen=True)
class DenoisingObjective(Objective):
    """The mean squared error of the noise over all elements of the batch.

    The variance channels of a network that has them (improved-diffusion) are not trained: they have no part in ε.

    Attributes:
        denoiser: the model.
        schedule: the noise levels that the batches' rows mean; None: the model's own.
    """

    denoiser: Denoiser
    schedule: NoiseSchedule | None = None

    def losses(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Losses:
        """The loss of a micro-batch with the single role "data"."""
        denoiser = self.denoiser.with_network(network)
        data = unflatten(dict(batch), self.schedule or denoiser.schedule, denoiser.schedule)["data"]
        error = torch.nn.functional.mse_loss(denoiser.noise(data), data.noise)
        return Losses({"mse": error})
