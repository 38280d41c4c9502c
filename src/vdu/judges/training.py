"""Training a judge: batches of labelled images, the cross-entropy, and the judge's predictions.

    L(θ) = −E log softmax(judge(x + σ n))_y        x shifted by a few pixels, σ and n ~ N(0, 1) drawn for each image

Everything random in a step depends on the seed and the step alone, as in ``vdu.training.batches``.

Not guaranteed: that a shifted or noised image still belongs to its class.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vdu.core.records import sha256_bytes
from vdu.core.rng import derive_seed, generator
from vdu.core.types import Losses
from vdu.data.images import ImageSet
from vdu.judges.classifier import Judge
from vdu.metrics.features import extract_features
from vdu.training.batches import deal
from vdu.training.loop import Objective

__all__ = ["ClassificationObjective", "LabelledImages", "default_shift", "judge_logits", "provenance", "shifted"]


class ClassificationObjective(Objective):
    """Cross-entropy; the error rate is monitored."""

    def losses(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Losses:
        """The loss of a micro-batch.

        Args:
            network: images → logits [B, K].
            batch: ``images`` [B, C, H, W] and ``labels`` [B].

        Returns:
            The mean cross-entropy, and the rate of wrong predictions.
        """
        logits = network(batch["images"])
        wrong = (logits.argmax(1) != batch["labels"]).float().mean()
        return Losses({"cross_entropy": nn.functional.cross_entropy(logits, batch["labels"])}, {"error": wrong})


@dataclass(frozen=True)
class LabelledImages:
    """Labelled images, drawn and augmented step by step, with equally many from each set.

    Attributes:
        sets: one or more pairs of images and their labels, int64 [images].
        batch_size: images per step from each set.
        shift_pixels: largest random shift.
        noise: largest standard deviation of added noise; each image draws its own, uniformly from 0.
        seed: seeds everything.
    """

    sets: tuple[tuple[ImageSet, Tensor], ...]
    batch_size: int
    shift_pixels: int
    noise: float
    seed: int

    def __call__(self, step: int) -> dict[str, Tensor]:
        """The batch of one step.

        Args:
            step: counted from 0.

        Returns:
            ``images``, float32 [B, C, H, W], and ``labels``, int64 [B], set by set.
        """
        images, labels = [], []
        for place, (each, classes) in enumerate(self.sets):
            chosen = deal(len(each), self.batch_size, derive_seed(self.seed, "set", place), step)
            images.append(each.floats(chosen))
            labels.append(classes[chosen])
        source = generator(self.seed, "disturb", step)
        made = shifted(torch.cat(images), self.shift_pixels, source)
        if self.noise:
            level = self.noise * torch.rand(len(made), 1, 1, 1, generator=source)
            made = made + level * torch.randn(made.shape, generator=source)
        return {"images": made, "labels": torch.cat(labels)}


def default_shift(shape: tuple[int, int, int]) -> int:
    """Default random shift for an image shape, in pixels.

    Args:
        shape: channels, height, width.

    Returns:
        2, but 0 below 16 pixels, where 2 pixels would be too large a shift.
    """
    return 2 if min(shape[1:]) >= 16 else 0


def shifted(images: Tensor, pixels: int, source: torch.Generator) -> Tensor:
    """Images shifted by whole pixels, each by its own draw; the border is repeated.

    Args:
        images: [N, C, H, W].
        pixels: largest shift up, down, left and right.
        source: generator of the shifts.

    Returns:
        Images of the same shape.
    """
    if pixels == 0:
        return images
    n, channels, height, width = images.shape
    padded = nn.functional.pad(images, (pixels,) * 4, mode="replicate")
    top, left = torch.randint(2 * pixels + 1, (2, n, 1), generator=source)
    rows, columns = top + torch.arange(height), left + torch.arange(width)
    image, channel = torch.arange(n).view(n, 1, 1, 1), torch.arange(channels).view(1, channels, 1, 1)
    return padded[image, channel, rows.view(n, 1, height, 1), columns.view(n, 1, 1, width)]


def judge_logits(judge: Judge, images: ImageSet, *, batch_size: int = 256) -> Tensor:
    """A judge's logits, in evaluation mode and fixed micro-batches.

    Args:
        judge: on any device.
        images: the images to judge.
        batch_size: images per micro-batch.

    Returns:
        [images, classes], float64, on the CPU.
    """
    return extract_features(judge, images, batch_size=batch_size)


def provenance(*sets: ImageSet) -> dict[str, Any]:
    """The description of images in a record.

    Args:
        *sets: one set, or several that were used together.

    Returns:
        description, n_images and sha256 (of several: that of their sums, joined by spaces).
    """
    sums = [each.sha256 for each in sets]
    return {
        "description": " against ".join(each.description or "images" for each in sets),
        "n_images": sum(len(each) for each in sets),
        "sha256": sums[0] if len(sums) == 1 else sha256_bytes(" ".join(sums).encode()),
    }
