"""Models that work in the latent space of an autoencoder.

    z = scale · (E(x) − shift)        x = D(z / scale + shift)

E(x) is the mode of the autoencoder's posterior (the nearest code of the codebook is taken when a vector-quantised z is decoded).
A pipeline family says what its scale and shift are, since pipelines read different fields of the autoencoder's configuration.

The autoencoder is no part of the network: it does not train, and it is on the network's device only while it works.

Not guaranteed: that decoding undoes encoding. The loss is the autoencoder's own.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vdu.core.errors import InputError
from vdu.core.modes import evaluating
from vdu.core.ranges import FINITE, require_number
from vdu.models.configuration import read_sides
from vdu.models.denoiser import PipelineDenoiser

__all__ = ["LatentDenoiser", "latent_parts", "refuse_further_inputs", "visiting"]

AT_ONCE = 16  # images that pass the autoencoder together


@dataclass(frozen=True)
class LatentDenoiser(PipelineDenoiser):
    """A denoiser of latents.

    Attributes:
        autoencoder: a diffusers autoencoder.
        latent_size: channels, height, width of a latent.
        scale: factor of the latents, a number or [channels, 1, 1].
        shift: what is subtracted from the autoencoder's latents, likewise.
    """

    autoencoder: Any = None
    latent_size: tuple[int, ...] = ()
    scale: Tensor | float = 1.0
    shift: Tensor | float = 0.0

    def __post_init__(self) -> None:
        scale, shift = (
            [each] if not isinstance(each, Tensor) else each.flatten().tolist() for each in (self.scale, self.shift)
        )
        if not all(each is not None and math.isfinite(each) for each in (*scale, *shift)) or not all(scale):
            raise InputError(
                f"pipeline: its latents have the scale {self.scale} and the shift {self.shift}; expected finite numbers, and a "
                "scale other than 0. Correct scaling_factor (shift_factor, latents_mean and latents_std too, where there are any) in the "
                "autoencoder's configuration."
            )

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Channels, height, width of a latent."""
        return self.latent_size

    @property
    def is_latent(self) -> bool:
        """True."""
        return True

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Latents of images, the mode of the autoencoder's posterior.

        Args:
            images: [n, channels, height, width], in [−1, 1].

        Returns:
            [n, *latent_shape], on the device and in the dtype of the images.
        """
        with visiting(images.device, self.autoencoder):
            found = [_latents(self.autoencoder, some.to(_dtype(self.autoencoder))) for some in images.split(AT_ONCE)]
        return (torch.cat(found).to(images) - _on(self.shift, images)) * _on(self.scale, images)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images of latents.

        Args:
            latents: [n, *latent_shape].

        Returns:
            [n, channels, height, width], not clipped, on the device and in the dtype of the latents.
        """
        codes = latents / _on(self.scale, latents) + _on(self.shift, latents)
        with visiting(latents.device, self.autoencoder):
            images = [
                self.autoencoder.decode(some.to(_dtype(self.autoencoder))).sample for some in codes.split(AT_ONCE)
            ]
        return torch.cat(images).to(latents)


@contextmanager
def visiting(device: torch.device, *modules: nn.Module) -> Iterator[None]:
    """Move modules to a device and back again, in evaluation mode, for work between training steps.

    A half-precision autoencoder that overflows in it (``force_upcast``) works in float32.
    """
    before: list[tuple[nn.Module, torch.device, torch.dtype]] = []
    for module in modules:
        first = next(module.parameters())
        before.append((module, first.device, first.dtype))
        upcast = first.dtype == torch.float16 and getattr(getattr(module, "config", None), "force_upcast", False)
        module.to(device)
        if upcast:
            module.to(torch.float32)
    try:
        with evaluating(*modules):
            yield
    finally:
        for module, home, dtype in before:
            module.to(home)
            if next(module.parameters()).dtype != dtype:
                module.to(dtype)


def latent_parts(
    pipeline: Any, network: Any, autoencoder: Any, *, channels: int | None = None, size: Any = None
) -> dict[str, Any]:
    """Shapes and autoencoder of a latent pipeline, by argument name of :class:`LatentDenoiser`; the scale is the ``scaling_factor``.

    Args:
        pipeline: for messages.
        network: with ``sample_size`` (of latents) and ``in_channels`` in its configuration.
        autoencoder: with ``block_out_channels`` and ``scaling_factor`` in its configuration.
        channels: of the latents, if the network's configuration has another number.
        size: of the latents, if the network's configuration has none.

    Returns:
        The arguments.

    Raises:
        InputError: if the network has no size, or none that is above 0, or its channels are not those of the latents, or the scale or
            shift is no number.
    """
    config, size = autoencoder.config, network.config.sample_size if size is None else size
    if size is None:
        raise InputError(
            f"pipeline: the network of this {type(pipeline).__name__} has no sample_size in its configuration, so the size of its "
            "latents is unknown; set it and save again."
        )
    channels, made = (
        int(channels or network.config.in_channels),
        int(config.get("vq_embed_dim") or config.latent_channels),
    )
    if channels != made:
        raise InputError(
            f"pipeline: the network of this {type(pipeline).__name__} takes {channels} channels and its autoencoder makes "
            f"{made}; expected the same number. Inpainting, depth and editing models are not supported."
        )
    require_number("pipeline's autoencoder: scaling_factor", config.scaling_factor, FINITE)
    if config.get("shift_factor") is not None:
        require_number("pipeline's autoencoder: shift_factor", config.shift_factor, FINITE)
    height, width = read_sides(size, "network")
    factor = 2 ** (len(config.block_out_channels) - 1)
    return {
        "autoencoder": autoencoder,
        "latent_size": (channels, height, width),
        "image_shape": (int(config.in_channels), factor * height, factor * width),
        "scale": config.scaling_factor,
    }


def refuse_further_inputs(network: Any, *names: str) -> None:
    """Refuse a network that takes more than its family gives it.

    Args:
        network: a ``UNet2DConditionModel``.
        names: options of its configuration that stand for further inputs.

    Raises:
        InputError: naming those that are set.
    """
    further = [name for name in names if network.config.get(name) is not None]
    if further:
        raise InputError(
            f"pipeline: its unet has {', '.join(further)}; expected a network without further inputs. Models distilled for few steps (LCM) "
            "and models with further inputs are not supported: use the model they were made from."
        )


def _latents(autoencoder: Any, images: Tensor) -> Tensor:
    found = autoencoder.encode(images)
    return found.latent_dist.mode() if hasattr(found, "latent_dist") else found.latents


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype


def _on(value: Tensor | float, like: Tensor) -> Tensor | float:
    return value.to(like) if isinstance(value, Tensor) else value
