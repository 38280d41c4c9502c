"""A given network over images, in fixed batches and without gradients: features for distances, calls for counts.

Every batch has the same size: the last one is filled by repeating its last image, whose surplus outputs are dropped.
So image i has the same features whatever N is (float32 arithmetic depends on the batch size: it is part of the
protocol). Features leave in float64: the distances made from them subtract nearly equal numbers.

Not guaranteed: equal bits for different batch sizes or devices; that the features mean anything for these images.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vdu.core.checks import require_finite
from vdu.core.errors import InputError

__all__ = ["Calls", "Network", "as_features", "classify", "extract_features", "require_same_dimension"]

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Calls:
    """What a judge says of each image.

    Attributes:
        classes: most probable class, [N], int64.
        confidence: its softmax probability, [N], float32, in (0, 1].
    """

    classes: Tensor
    confidence: Tensor


def extract_features(network: Network, images: Tensor, *, batch_size: int = 256) -> Tensor:
    """Features of images.

    Args:
        network: images [B, C, H, W] in [−1, 1] → features [B, d]; a module is run in evaluation mode and put back.
        images: [N, C, H, W], floating point, in [−1, 1], on the network's device.
        batch_size: images per batch, part of the protocol.

    Returns:
        Features, [N, d], float64, on the CPU.
    """
    _require_images(images, batch_size)
    modules = [module for module in network.modules() if module.training] if isinstance(network, nn.Module) else []
    try:
        for module in modules:
            module.training = False
        with torch.no_grad():
            parts = [_run(network, part, batch_size) for part in images.split(batch_size)]
    finally:
        for module in modules:
            module.training = True
    features = torch.cat(parts)
    require_finite("features", features)
    return features


def classify(network: Network, images: Tensor, *, batch_size: int = 256) -> Calls:
    """Class and confidence of images.

    Args:
        network: images [B, C, H, W] in [−1, 1] → logits [B, K].
        images: [N, C, H, W], floating point, in [−1, 1], on the network's device.
        batch_size: images per batch, part of the protocol.

    Returns:
        The calls, on the CPU.
    """
    confidence, classes = extract_features(network, images, batch_size=batch_size).softmax(dim=1).max(dim=1)
    return Calls(classes, confidence.to(torch.float32))


def as_features(name: str, features: Tensor, *, at_least: int = 2) -> Tensor:
    """Features checked and in float64, as the distances want them.

    Args:
        name: what they are, for the message.
        features: [N, d], any real dtype, an array or a tensor.
        at_least: smallest N that will do.

    Returns:
        Features, [N, d], float64.

    Raises:
        InputError: if the shape is wrong, there are too few, or one is NaN or infinite.
    """
    features = torch.as_tensor(features)
    if features.ndim != 2 or features.shape[0] < at_least or features.shape[1] == 0 or features.is_complex():
        raise InputError(
            f"{name}: got shape {tuple(features.shape)}, expected [N, d] with N ≥ {at_least} and d ≥ 1. "
            "Give one row of features per image, and more images if there are too few."
        )
    require_finite(name, features)
    return features.detach().to(torch.float64)


def require_same_dimension(first: int, second: int) -> None:
    """Refuse features of different networks.

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


def _run(network: Network, part: Tensor, batch_size: int) -> Tensor:
    padding = part[-1:].expand(batch_size - len(part), *part.shape[1:])
    output = network(torch.cat([part, padding]))
    if output.ndim != 2 or len(output) != batch_size:
        raise InputError(
            f"network: got an output of shape {tuple(output.shape)} for {batch_size} images, "
            f"expected [{batch_size}, d]. Give a network that ends in one vector per image (pool or flatten)."
        )
    return output[: len(part)].to("cpu", torch.float64)


def _require_images(images: Tensor, batch_size: int) -> None:
    if batch_size < 1:
        raise InputError(f"batch_size: got {batch_size}, expected at least 1. Give a positive number of images.")
    if images.ndim != 4 or len(images) == 0 or not images.is_floating_point():
        raise InputError(
            f"images: got shape {tuple(images.shape)} of {images.dtype}, expected floating-point [N, C, H, W], N ≥ 1. "
            "Convert uint8 images with vdu.data.images.to_float."
        )
    require_finite("images", images)
    low, high = float(images.min()), float(images.max())
    if low < -1.001 or high > 1.001:  # room for half precision
        raise InputError(
            f"images: got values from {low:g} to {high:g}, expected −1 to 1. Convert uint8 images with "
            "vdu.data.images.to_float, and clamp what a sampler gives."
        )
