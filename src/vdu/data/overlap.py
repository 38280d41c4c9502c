"""Sets that must not share images: copies are found by the hash of their pixels and left out, and the number is said.

    kept = {x ∈ A : pixels(x) ∉ pixels(B)},    refused if kept = ∅

Two images are copies if shape and bytes are equal. Near copies (another compression of the same picture) stay in the set and are a
warning: their 7×7 means differ by at most one level (root mean square), and they are not blank.

Not guaranteed: that cropped, mirrored or otherwise changed copies are noticed. Near copies are not looked for among more than 10⁹ pairs,
which is said, nor among hashes of images.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vdu.core.errors import InputError
from vdu.core.processes import say
from vdu.core.progress import track
from vdu.core.records import atomic_file
from vdu.data.images import ImageSet

__all__ = ["RETAINED", "PixelHashes", "n_distinct", "shared", "without_copies"]

RETAINED = "retained-hashes.safetensors"  # in a run folder: hashes of the retained images that the run was trained on
NEAR_LEVELS = 1.0  # of 255; the nearest of MNIST's test images to another training image is at 1.08
BLANK_LEVELS = 8.0  # standard deviation below which images are alike because they show nothing
MOST_PAIRS = 1_000_000_000  # for near copies: on one core 8 s in grey, 25 s in colour; MNIST's two splits are 0.6 of it
_CELLS = 7
_ROUNDING = 1e-4  # more than float32 takes from the square of a difference of two means that is one level


@dataclass(frozen=True)
class PixelHashes:
    """The hashes of a set's images, for a comparison with sets that come later; the images are not in it.

    Attributes:
        known: of each image.
        description: of the set.
    """

    known: frozenset[bytes]
    description: str

    @classmethod
    def of(cls, images: ImageSet) -> "PixelHashes":
        """The hashes of a set."""
        return cls(frozenset(_hashes(images)), images.description)

    @classmethod
    def union(cls, sets: Iterable["PixelHashes"]) -> "PixelHashes | None":
        """The hashes of several sets as one; None of no set."""
        several = list(sets)
        descriptions = dict.fromkeys(each.description for each in several)
        return cls(frozenset().union(*(each.known for each in several)), ", ".join(descriptions)) if several else None

    def save(self, path: Path) -> None:
        """Write a file."""
        table = torch.tensor([list(each) for each in sorted(self.known)], dtype=torch.uint8)
        with atomic_file(path) as temporary:
            save_file({"hashes": table}, temporary, {"description": json.dumps(self.description)})

    @classmethod
    def load(cls, path: Path) -> "PixelHashes":
        """Read a file of :meth:`save`; a damaged one is an ``InputError``."""
        try:
            with safe_open(path, framework="pt") as file:
                description = json.loads((file.metadata() or {})["description"])
                return cls(frozenset(map(bytes, file.get_tensor("hashes").tolist())), description)
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise InputError(
                f"{path}: cannot be read ({error}); expected hashes of this run's retained images. Make the run again."
            ) from None


def _hashes(images: ImageSet) -> list[bytes]:
    shape = repr(images.shape).encode()
    return [hashlib.blake2b(pixels.tobytes(), key=shape, digest_size=16).digest() for pixels in images.images.numpy()]


def n_distinct(images: ImageSet) -> int:
    """The number of images without their copies."""
    return len(set(_hashes(images)))


def without_repeats(images: ImageSet, name: str) -> ImageSet:
    """A set with one copy of every image, for measures that take its images for independent; what is left out is counted on standard error.

    Args:
        images: the set.
        name: what the set is called, in the plural: "held-out images".

    Returns:
        The set, with the number of what was left out in its description; the same object if that is none.
    """
    first: dict[bytes, int] = {}
    for i, each in enumerate(_hashes(images)):
        first.setdefault(each, i)
    n = len(images) - len(first)
    if not n:
        return images
    say(f"vdu: {n} of {len(images)} {name} are copies of others among them, pixel by pixel; they are left out.")
    return images.select(sorted(first.values()), f"{images.description} without {n} copies")


def shared(images: ImageSet, others: ImageSet | PixelHashes) -> Tensor:
    """Which images are also in another set, bool [images]."""
    known = others.known if isinstance(others, PixelHashes) else set(_hashes(others))
    return torch.tensor([each in known for each in _hashes(images)], dtype=torch.bool)


def without_copies(images: ImageSet, others: ImageSet | PixelHashes, name: str, other_name: str) -> ImageSet:
    """A set without the images of another one; what is left out, and near copies that are not, are counted on standard error.

    Args:
        images: the set.
        others: images that must not be in it, or their hashes, with which near copies are not looked for.
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
        say(f"vdu: {n} of {len(images)} {name} are {other_name}, pixel by pixel; they are left out.")
    if isinstance(others, PixelHashes):
        return kept
    if len(kept) * len(others) > MOST_PAIRS:
        say(
            f"vdu: near copies were not looked for: {len(kept)} {name} and {len(others)} {other_name} are more than {MOST_PAIRS:,} pairs. "
            "Copies pixel by pixel were."
        )
    elif n_near := _n_near(kept, others):
        say(
            f"vdu: warning: {n_near} of {len(kept)} {name} look like copies of {other_name}; they are kept. Look at them."
        )
    return kept


def _n_near(images: ImageSet, others: ImageSet) -> int:
    """How many images are near copies."""
    if images.shape != others.shape or not len(others):
        return 0
    ours, theirs = _thumbnails(images), _thumbnails(others)
    parts = track(ours.split(128), "looking for near copies", "part") if len(ours) and len(theirs) else ()
    return sum(_n_near_part(part, theirs) for part in parts)


def _n_near_part(ours: Tensor, theirs: Tensor) -> int:
    """How many of some thumbnails are near one of the others: a product of matrices leaves few in doubt, and differences decide on them."""
    n_values = ours.shape[1]
    bound = (NEAR_LEVELS**2 + _ROUNDING) * n_values
    own, other = ((each**2).sum(1) for each in (ours, theirs))
    error = 4 * n_values * torch.finfo(own.dtype).eps * max(float(own.max()), float(other.max()))
    rest = torch.addmm(other, ours, theirs.T, alpha=-2)  # without what is the same for a whole row
    most = bound + error - own
    doubtful = (rest.amin(1) <= most).nonzero()[:, 0].tolist()
    differences = (theirs[rest[i] <= most[i]] - ours[i] for i in doubtful)
    return sum(bool(((each**2).sum(1) <= bound).any()) for each in differences)


def _thumbnails(images: ImageSet) -> Tensor:
    """Means over 7×7 cells of the images that show something, from their middle, [images, channels · 49], float32."""
    pooled = torch.nn.functional.adaptive_avg_pool2d
    cells = [pooled(part.float() - 127.5, _CELLS).flatten(1) for part in images.images.split(1024)]
    found = torch.cat(cells) if cells else torch.zeros(0, 1)
    return found[found.std(1) > BLANK_LEVELS]
