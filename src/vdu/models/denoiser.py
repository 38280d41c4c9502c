"""Denoisers: adapters of diffusers pipelines (:class:`vdu.core.types.Denoiser`).

Whatever the network predicts, methods get ε̂ and x̂0 (:mod:`vdu.diffusion.prediction`). Channels of a learned variance are
dropped, and timesteps are scaled if the network requires it (improved-diffusion multiplies them by 1000/T; diffusers'
configuration has no field for it, so it is stored in ``vdu.json`` beside the model).

A pipeline family is one file in :mod:`vdu.models.adapters`, which :func:`vdu.models.adapt.adapt` chooses; it subclasses
:class:`PipelineDenoiser` if its network is called differently, is conditional, or works in a latent space.

Not guaranteed: ε̂ at a noise level with ᾱ = 0 exactly (x_t is independent of x0, and v does not determine ε).
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, cast

from torch import Tensor, nn

from vdu.core.checks import require_labels
from vdu.core.errors import InputError
from vdu.core.surroundings import own_torch
from vdu.core.types import Condition, NoisedBatch, column
from vdu.diffusion.prediction import clean_of, noise_of
from vdu.diffusion.schedule import NoiseSchedule

__all__ = ["DenoiserAround", "PipelineDenoiser", "on_device"]


def on_device(condition: Condition | None, like: Tensor) -> dict[str, Tensor]:
    """A condition on the device of a batch, its real numbers in the batch's dtype; empty for None."""
    return {
        name: value.to(like.device, like.dtype if value.is_floating_point() else value.dtype)
        for name, value in (condition or {}).items()
    }


class _Predictions:
    """ε̂ and x̂0 of a batch from the output of ``raw``."""

    def noise(self, batch: NoisedBatch) -> Tensor:
        """ε̂, the predicted noise of a batch.

        Args:
            batch: noised samples, x_t [batch, …], with their timesteps and condition.

        Returns:
            ε̂, like ``batch.x_t``.
        """
        return self._of(batch, noise_of)

    def clean(self, batch: NoisedBatch) -> Tensor:
        """x̂0, the predicted clean sample of a batch, not clipped, like ``batch.x_t``."""
        return self._of(batch, clean_of)

    def _of(self, batch: NoisedBatch, what: Any) -> Tensor:
        model, x_t = cast("PipelineDenoiser", self), batch.x_t
        output = model.raw(x_t, batch.timestep, batch.condition)[:, : x_t.shape[1]]
        return what(model.prediction_type, output, x_t, column(batch.alpha, x_t), column(batch.sigma, x_t))


@dataclass(frozen=True)
class PipelineDenoiser(_Predictions):
    """An unconditional pixel-space pipeline as a denoiser; other families subclass it.

    Attributes:
        network: called as ``network(x_t, timestep, **condition)``, giving ``.sample`` or a tensor.
        schedule: the network's own noise schedule.
        prediction_type: "epsilon", "v_prediction", "sample" or "flow_prediction".
        image_shape: channels, height, width of one image.
        scheduler_config: the configuration of the pipeline's own scheduler, for sampling.
        timestep_scale: factor that multiplies timesteps before they are passed to the network.
    """

    network: nn.Module
    schedule: NoiseSchedule
    prediction_type: str
    image_shape: tuple[int, int, int]
    scheduler_config: dict[str, Any] = field(repr=False)
    timestep_scale: float = 1.0

    @staticmethod
    @own_torch()
    def from_pipeline(pipeline: Any) -> "PipelineDenoiser":
        """The denoiser of a diffusers pipeline, see :func:`vdu.models.adapt.adapt`."""
        from vdu.models.adapt import adapt
        from vdu.models.as_saved import require_known_class
        from vdu.models.memory import align
        from vdu.models.usable import require_usable

        denoiser = adapt(pipeline)
        require_known_class(pipeline, "class")
        require_known_class(pipeline.scheduler, "scheduler")
        require_usable(denoiser)
        align(pipeline)
        return denoiser

    @property
    def learned_variance(self) -> bool:
        """Whether the network has a second set of output channels for the variance."""
        return str(self.scheduler_config.get("variance_type", "")).startswith("learned")

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one sample in the model's space: that of the image."""
        return self.image_shape

    @property
    def is_latent(self) -> bool:
        """False: the model works on pixels."""
        return False

    @property
    def class_names(self) -> tuple[str, ...]:
        """(): the model is unconditional."""
        return ()

    @property
    def shared_names(self) -> Mapping[str, Sequence[int]]:
        """{}: no name means several classes."""
        return {}

    @property
    def takes_prompts(self) -> bool:
        """False: the model knows no words."""
        return False

    def trainable(self) -> dict[str, nn.Parameter]:
        """The trainable parameters: all that require a gradient, by name."""
        return {name: value for name, value in self.network.named_parameters() if value.requires_grad}

    def condition(self, labels: Sequence[int | str | None]) -> Condition | None:
        """None: the model is unconditional.

        Args:
            labels: one per sample, all None.

        Returns:
            None.

        Raises:
            InputError: if a label is given.
        """
        require_labels(labels)
        asked = [label for label in labels if label is not None]
        if asked:
            raise InputError(f"label: got {asked[0]!r}, but this model is unconditional; leave the label out.")
        return None

    def meant(self, labels: Sequence[Any]) -> list[Any]:
        """Labels as a user gives them, as :meth:`condition` takes them: unchanged, but for the numbers of classes."""
        require_labels(labels)
        return list(labels)

    def labels_of(self, seeds: Sequence[int]) -> list[int] | None:
        """None: the model is unconditional."""
        return None

    def step_options(self, steps: int) -> dict[str, Any]:
        """Further arguments of the scheduler's ``set_timesteps`` for some number of steps: none."""
        return {}

    def raw(self, x_t: Tensor, timestep: Tensor, condition: Condition | None = None) -> Tensor:
        """The raw output of the network, for schedulers, which handle its prediction type.

        Args:
            x_t: noised samples, [batch, …].
            timestep: timesteps of the own schedule, [batch], possibly fractional.
            condition: further arguments of the network by name, each batch first; None for unconditional models.

        Returns:
            The raw output, with its variance channels if it has them.
        """
        scaled = timestep if self.timestep_scale == 1.0 else timestep * self.timestep_scale  # never in half precision
        output = self.network(x_t, scaled, **on_device(condition, x_t))
        return output if isinstance(output, Tensor) else output.sample

    def with_network(self, network: nn.Module) -> Self:
        """The same adapter over another network of the same architecture."""
        return replace(self, network=network)

    def copy(self) -> Self:
        """The same adapter over a deep copy of the network, on the same device."""
        return self.with_network(copy.deepcopy(self.network))

    def encode(self, images: Tensor) -> Tensor:
        """The identity: a pixel model works on the images themselves."""
        return images

    def decode(self, latents: Tensor) -> Tensor:
        """The identity: a pixel model works on the images themselves."""
        return latents


class DenoiserAround(_Predictions):
    """A wrapper of a denoiser that delegates everything except what a subclass overrides, usually ``raw``.

    Attributes:
        model: the inner one.
    """

    model: PipelineDenoiser

    def __getattr__(self, name: str) -> Any:
        if name == "model" or name.startswith("__"):  # not set yet during unpickling or copying
            raise AttributeError(name)
        return getattr(self.model, name)

    def raw(self, x_t: Tensor, timestep: Tensor, condition: Condition | None = None) -> Tensor:
        """The raw output of the inner network."""
        return self.model.raw(x_t, timestep, condition)

    def with_network(self, network: nn.Module) -> Self:
        """The same wrapper over another network."""
        return replace(cast("Any", self), model=self.model.with_network(network))
