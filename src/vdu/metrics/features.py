"""Evaluation of a network on images, in fixed batches and without gradients: features for distances, predictions for counts.

Every batch has the same size: the last one is padded with copies of its last image, whose outputs are dropped.
The features of image i therefore do not depend on N (float32 arithmetic depends on the batch size, which is part of the
protocol). Features are returned in float64, since distances subtract nearly equal numbers. An
:class:`~vdu.data.images.ImageSet` stays uint8 and is converted to floating point one batch at a time.

Not guaranteed: equal bits for different batch sizes or devices; that the features mean anything for these images.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vdu.core.checks import as_tensor, require_finite
from vdu.core.errors import InputError, shown
from vdu.core.modes import evaluating
from vdu.core.ranges import COUNT, FLOATS, require_number
from vdu.core.surroundings import own_torch
from vdu.data.images import ImageSet, to_float

__all__ = [
    "Network", "Predictions", "as_features", "classify", "extract_features", "features_of", "require_network", "require_same_dimension",
]  # fmt: skip

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Predictions:
    """A classifier's predictions.

    Attributes:
        classes: most probable class of each image, [N], int64.
        confidence: its softmax probability, [N], float32, in (0, 1].
    """

    classes: Tensor
    confidence: Tensor

    def first(self, n_images: int) -> "Predictions":
        """The predictions of the first images."""
        return Predictions(self.classes[:n_images], self.confidence[:n_images])


@own_torch()
def extract_features(network: Network, images: Tensor | ImageSet, *, batch_size: int = 256) -> Tensor:
    """Features of images.

    Args:
        network: images [B, C, H, W] in [−1, 1] → features [B, d]; a module is run in evaluation mode, which is restored afterwards.
        images: N stored images, which are moved to a module's device; or [N, C, H, W], floating point, in [−1, 1], on the
            network's device.
        batch_size: images per batch, part of the protocol.

    Returns:
        Features, [N, d], float64, on the CPU.
    """
    require_network(network, needed=True)
    require_number("batch_size", batch_size, COUNT)
    modes = evaluating(network) if isinstance(network, nn.Module) else nullcontext()
    with modes, torch.no_grad():
        parts = [_run(network, part, batch_size) for part in _batches(network, images, batch_size)]
    features = torch.cat(parts)
    require_finite("features", features)
    return features


def classify(network: Network, images: Tensor | ImageSet, *, batch_size: int = 256) -> Predictions:
    """Class and confidence of images.

    Args:
        network: images [B, C, H, W] in [−1, 1] → logits [B, K].
        images: as for :func:`extract_features`.
        batch_size: images per batch, part of the protocol.

    Returns:
        The predictions, on the CPU.
    """
    confidence, classes = extract_features(network, images, batch_size=batch_size).softmax(dim=1).max(dim=1)
    return Predictions(classes, confidence.to(torch.float32))


def features_of(network: Network | None, batch: Tensor) -> Tensor:
    """A batch's features: its own, or those that a network gives of its images."""
    if network is None:
        return batch
    return extract_features(network, batch, batch_size=_n_images(batch))


def require_network(network: Any, *, needed: bool = False) -> None:
    """Raise an error for anything but a network.

    Args:
        network: what was given.
        needed: whether None is refused too.

    Raises:
        InputError: if it cannot be called.
    """
    if isinstance(network, type) or not (callable(network) or (network is None and not needed)):
        raise InputError(
            f"network: got {shown(network)}; expected a network, or another function of images [B, C, H, W], that gives [B, d]."
        )


def as_features(name: str, features: Tensor, *, at_least: int = 2) -> Tensor:
    """Checked features in float64, for the distances.

    Args:
        name: their name, for the message.
        features: [N, d], any real dtype, an array or a tensor.
        at_least: smallest valid N.

    Returns:
        Features, [N, d], float64.

    Raises:
        InputError: if the shape is wrong, there are too few, or one is NaN, infinite, or beyond float32, where a distance overflows.
    """
    features = as_tensor(name, features, "features [N, d], one row for each image")
    if features.ndim != 2 or features.shape[0] < at_least or features.shape[1] == 0:
        raise InputError(
            f"{name}: got shape {tuple(features.shape)}, expected [N, d] with N ≥ {at_least} and d ≥ 1. "
            "Give one row of features per image, and more images if there are too few."
        )
    require_finite(name, features)
    features = features.detach().to(torch.float64)
    if (most := float(features.abs().max())) > FLOATS[1]:
        raise InputError(
            f"{name}: got numbers up to {most:.2g}; expected features of at most {FLOATS[1]:.2g}, as float32 holds them."
        )
    return features


def require_same_dimension(first: int, second: int) -> None:
    """Raise an error for features of different networks.

    Args:
        first: d of one set.
        second: d of the other.

    Raises:
        InputError: if they differ.
    """
    if first != second:
        raise InputError(
            f"features: got {first} and {second} dimensions, expected the same. Use one feature network for every set."
        )


def _batches(network: Network, images: Tensor | ImageSet, batch_size: int) -> Iterator[Tensor]:
    if isinstance(images, Tensor):
        _require_images(images)
        yield from images.split(batch_size)
        return
    if _n_images(images) == 0:
        raise InputError("images: got an empty set; expected at least one image. Give more images.")
    weight = next(network.parameters(), None) if isinstance(network, nn.Module) else None
    for part in images.images.split(batch_size):
        yield to_float(part) if weight is None else to_float(part).to(weight.device)


def _n_images(images: Any) -> int:
    """How many images there are.

    Returns:
        Their number; at least 1 for a tensor, whose shape is looked at later.

    Raises:
        InputError: if they are of another kind.
    """
    if not isinstance(images, Tensor | ImageSet):
        raise InputError(f"images: got {shown(images)}; expected an ImageSet, or a tensor [N, C, H, W] in [−1, 1].")
    return len(images) if isinstance(images, ImageSet) else max(1, images.shape[0] if images.ndim else 1)


def _run(network: Network, part: Tensor, batch_size: int) -> Tensor:
    padding = part[-1:].expand(batch_size - len(part), *part.shape[1:])
    output = network(torch.cat([part, padding]))
    if not isinstance(output, Tensor):
        raise InputError(f"network: gave {shown(output)}; expected a tensor [{batch_size}, d].")
    if output.ndim != 2 or len(output) != batch_size:
        raise InputError(
            f"network: got an output of shape {tuple(output.shape)} for {batch_size} images, "
            f"expected [{batch_size}, d]. Give a network that ends in one vector per image (pool or flatten)."
        )
    return output[: len(part)].to("cpu", torch.float64, copy=True)  # a network may fill one buffer again


def _require_images(images: Tensor) -> None:
    if images.ndim != 4 or len(images) == 0 or not images.is_floating_point():
        raise InputError(
            f"images: got shape {tuple(images.shape)} of {images.dtype}, expected floating-point [N, C, H, W], N ≥ 1. "
            "Give stored images as an ImageSet, or convert them with vdu.data.images.to_float."
        )
    require_finite("images", images)
    low, high = float(images.min()), float(images.max())
    if low < -1.001 or high > 1.001:  # room for half precision
        raise InputError(
            f"images: got values from {low:g} to {high:g}, expected −1 to 1. Convert uint8 images with "
            "vdu.data.images.to_float, and clamp what a sampler gives."
        )
