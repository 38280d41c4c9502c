"""Sets that must not share images: copies are found by the hash of their pixels and left out, and the number is said.

    kept = {x ∈ A : pixels(x) ∉ pixels(B)},    refused if kept = ∅

Two images are copies if shape and bytes are equal. Near copies (another compression of the same picture) stay in the set and are a
warning: their 7×7 means differ by at most one level (root mean square), and they are not blank.

Not guaranteed: that cropped, mirrored or otherwise changed copies are noticed.
"""

import hashlib
import sys

import torch
from torch import Tensor

from vdu.core.errors import InputError
from vdu.data.images import ImageSet

__all__ = ["n_distinct", "shared", "without_copies"]

NEAR_LEVELS = 1.0  # of 255; the nearest of MNIST's test images to another training image is at 1.08
BLANK_LEVELS = 8.0  # standard deviation below which images are alike because they show nothing
MOST_PAIRS = 20_000_000  # for near copies: about a second
_CELLS = 7


def _hashes(images: ImageSet) -> list[bytes]:
    shape = repr(images.shape).encode()
    return [hashlib.blake2b(pixels.tobytes(), key=shape, digest_size=16).digest() for pixels in images.images.numpy()]


def n_distinct(images: ImageSet) -> int:
    """The number of images without their copies."""
    return len(set(_hashes(images)))


def shared(images: ImageSet, others: ImageSet) -> Tensor:
    """Which images are also in another set, bool [images]."""
    known = set(_hashes(others))
    return torch.tensor([each in known for each in _hashes(images)], dtype=torch.bool)


def without_copies(images: ImageSet, others: ImageSet, name: str, other_name: str) -> ImageSet:
    """A set without the images of another one; what is left out, and near copies that are not, are counted on standard error.

    Args:
        images: the set.
        others: images that must not be in it.
        name: what the set is called, in the plural: "retained images".
        other_name: likewise: "forget images".

    Returns:
        The set, with the number of what was left out in its description; the same object if that is none.

    Raises:
        InputError: if nothing is left.
    """
    copies = shared(images, others)
    n = int(copies.sum())
    if n == len(images):
        raise InputError(
            f"{name}: all {n} ({images.description}) are among the {other_name} ({others.description}); expected other images."
        )
    kept = images
    if n:
        kept = images.select(~copies, f"{images.description} without {n} of the {other_name}")
        _say(f"{n} of {len(images)} {name} are {other_name}, pixel by pixel; they are left out.")
    if n_near := _n_near(kept, others):
        _say(f"warning: {n_near} of {len(kept)} {name} look like copies of {other_name}; they are kept. Look at them.")
    return kept


def _say(text: str) -> None:
    print(f"vdu: {text}", file=sys.stderr, flush=True)


def _n_near(images: ImageSet, others: ImageSet) -> int:
    """How many images are near copies; 0 where there are too many pairs to look."""
    if images.shape != others.shape or not 0 < len(images) * len(others) <= MOST_PAIRS:
        return 0
    ours, theirs = _thumbnails(images), _thumbnails(others)
    bound = NEAR_LEVELS * ours.shape[1] ** 0.5
    return (
        sum(int((torch.cdist(part, theirs).amin(1) <= bound).sum()) for part in ours.split(1024)) if len(theirs) else 0
    )


def _thumbnails(images: ImageSet) -> Tensor:
    """Means over 7×7 cells of the images that show something, [images, channels · 49], float32."""
    cells = [
        torch.nn.functional.adaptive_avg_pool2d(part.float(), _CELLS).flatten(1) for part in images.images.split(1024)
    ]
    found = torch.cat(cells) if cells else torch.zeros(0, 1)
    return found[found.std(1) > BLANK_LEVELS]
