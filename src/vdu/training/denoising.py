"""The denoising objective: mean squared error of the noise, for pre-training, auxiliary models and relearning."""

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

    Variance channels (improved-diffusion) are not trained, since they do not enter ε.

    Attributes:
        denoiser: the model.
        schedule: the noise schedule of the batches' timestep indices; None takes the model's.
    """

    denoiser: Denoiser
    schedule: NoiseSchedule | None = None

    def losses(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Losses:
        """The loss of a micro-batch with the single role "data"."""
        denoiser = self.denoiser.with_network(network)
        data = unflatten(dict(batch), self.schedule or denoiser.schedule, denoiser.schedule)["data"]
        error = torch.nn.functional.mse_loss(denoiser.noise(data), data.noise)
        return Losses({"mse": error})
