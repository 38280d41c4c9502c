"""A set of images, and the conversion between stored pixels and network inputs.

    x = u / 127.5 − 1        u = round(127.5 (clamp(x, −1, 1) + 1))

Symbols: u a stored value, an integer in 0…255; x a network's value in [−1, 1]. Both are [images, channels, height,
width]. ``to_uint8(to_float(u)) = u`` for every u.

A set keeps all its images in memory as uint8. Its ``sha256`` covers pixels and labels, in their order, but
neither names nor the description.

Not guaranteed: that a set fits into memory; that pixels are in any colour space but the one that the file had.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from vdu.core.checks import require_finite
from vdu.core.errors import InputError, shown
from vdu.core.ranges import require_kind

__all__ = ["ImageSet", "to_float", "to_uint8"]


def to_float(images: Tensor) -> Tensor:
    """Stored pixels to a network's values, x = u / 127.5 − 1.

    Args:
        images: uint8, any shape.

    Returns:
        float32 of the same shape, in [−1, 1].

    Raises:
        InputError: if the images are not uint8.

    Examples:
        >>> to_float(torch.tensor([0, 255], dtype=torch.uint8)).tolist()
        [-1.0, 1.0]
    """
    if images.dtype != torch.uint8:
        raise InputError(f"to_float: got {images.dtype}, expected torch.uint8 in 0…255. Pass stored pixels.")
    return images.to(torch.float32) / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """A network's values to stored pixels, u = round(127.5 (clamp(x, −1, 1) + 1)).

    Args:
        images: floating point, any shape; values outside [−1, 1] are clamped.

    Returns:
        uint8 of the same shape.

    Raises:
        InputError: if the images are not floating point, or hold a NaN or an infinity.

    Examples:
        >>> to_uint8(torch.tensor([-1.5, -1.0, 0.0, 1.0])).tolist()
        [0, 0, 128, 255]
    """
    if not images.is_floating_point():
        raise InputError(f"to_uint8: got {images.dtype}, expected floating point in [−1, 1]. Pass a network's values.")
    require_finite("images", images)
    return ((images.to(torch.float32).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with labels, names and a description.

    Attributes:
        images: uint8, [images, channels, height, width], on the CPU.
        labels: class of each image, int64 [images], or None.
        names: a distinct name for each image (its path below the source), or None.
        class_names: name of class 0, 1, …, or None.
        description: where the images come from, for records and reports.
        passed_over: files that were found beside the images and not read: kind → number.

    Raises:
        InputError: if dtypes, shapes, lengths or label ranges do not fit together.
    """

    images: Tensor
    labels: Tensor | None = None
    names: tuple[str, ...] | None = None
    class_names: tuple[str, ...] | None = None
    description: str = ""
    passed_over: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.images, Tensor):
            raise InputError(
                f"images: got {shown(self.images)}, expected a torch.uint8 tensor [images, channels, height, width]."
            )
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            got = f"{self.images.dtype} {list(self.images.shape)}"
            raise InputError(f"images: got {got}, expected torch.uint8 [images, channels, height, width].")
        require_kind("labels", self.labels, Tensor, "a torch.int64 tensor [images]")
        require_kind("description", self.description, str, "text")
        require_kind("passed_over", self.passed_over, Mapping, "numbers of files by kind")
        for name in ("names", "class_names"):
            words = getattr(self, name)
            if words is not None and not (
                isinstance(words, tuple | list) and all(isinstance(each, str) for each in words)
            ):
                raise InputError(f"{name}: got {shown(words)}; expected names, as a tuple of texts.")
        if self.labels is not None:
            _check_labels(self.labels, len(self), self.class_names)
        if self.names is not None and (len(self.names), len(set(self.names))) != (len(self), len(self)):
            twice = [name for name in dict.fromkeys(self.names) if self.names.count(name) > 1]
            again = f" ({shown(twice[0])} is there more than once)" if twice else ""
            raise InputError(
                f"names of images: got {len(self.names)}, {len(set(self.names))} of them distinct{again}, for {len(self)} images; "
                "expected one distinct name per image."
            )

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        size = "×".join(map(str, self.shape))
        classes = f", {len(self.labels.unique())} classes" if self.labels is not None else ""
        return f"ImageSet({len(self)} images of {size}{classes}{f': {self.description}' if self.description else ''})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def sha256(self) -> str:
        """SHA-256 over the pixels, the labels and their shapes, as 64 hexadecimal digits; anew after PyTorch changed them in place."""
        parts = [each for each in (self.images, self.labels) if each is not None]
        stamp = [(each.data_ptr(), None if each.is_inference() else each._version) for each in parts]
        known = self.__dict__.get("_hashed")
        if known is None or known[0] != stamp:
            known = self.__dict__["_hashed"] = (stamp, self._hash())
        return known[1]

    def _hash(self) -> str:
        digest = hashlib.sha256(f"images {list(self.images.shape)} ".encode())
        digest.update(self.images.contiguous().numpy().data)
        if self.labels is not None:
            digest.update(f"labels {len(self.labels)} ".encode())
            digest.update(self.labels.numpy().astype("<i8").data)  # one byte order, so that every machine agrees
        return digest.hexdigest()

    def select(self, mask_or_indices: Tensor | Sequence[int], description: str | None = None) -> "ImageSet":
        """The images at some places, in the order given, with their labels and names.

        Args:
            mask_or_indices: bool [images], or integers in 0 … images − 1.
            description: of the new set; None keeps this one's.

        Returns:
            A new set; this one is unchanged.
        """
        where = self._indices(mask_or_indices)
        return replace(
            self,
            images=self.images[where],
            labels=None if self.labels is None else self.labels[where],
            names=None if self.names is None else tuple(self.names[i] for i in where.tolist()),
            description=self.description if description is None else description,
        )

    def floats(self, indices: Tensor | Sequence[int] | None = None) -> Tensor:
        """Images as network inputs.

        Args:
            indices: which ones, as in ``select``; None means all.

        Returns:
            float32 [images, channels, height, width] in [−1, 1].
        """
        return to_float(self.images if indices is None else self.images[self._indices(indices)])

    def _indices(self, mask_or_indices: Tensor | Sequence[int]) -> Tensor:
        try:
            where = torch.as_tensor(mask_or_indices, device="cpu")
        except (TypeError, ValueError, RuntimeError):
            raise InputError(
                f"selection: got {shown(mask_or_indices)}; expected bool [{len(self)}] or integers [n], as a list, tensor or array."
            ) from None
        if where.dtype == torch.bool and where.shape == (len(self),):
            return where.nonzero().squeeze(1)
        if where.numel() == 0:
            where = where.to(torch.int64)  # an empty list has no type of its own
        if where.dtype == torch.bool or where.ndim != 1 or where.is_floating_point():
            got = f"{where.dtype} {list(where.shape)}"
            raise InputError(f"selection: got {got}, expected bool [{len(self)}] or integers [n].")
        where = where.to(torch.int64)
        if len(where) and not 0 <= int(where.min()) <= int(where.max()) < len(self):
            span = f"{int(where.min())} … {int(where.max())}"
            raise InputError(f"selection: got indices in {span}, expected 0 … {len(self) - 1}.")
        return where


def _check_labels(labels: Tensor, n_images: int, class_names: tuple[str, ...] | None) -> None:
    if labels.dtype != torch.int64 or labels.shape != (n_images,):
        raise InputError(f"labels: got {labels.dtype} {list(labels.shape)}, expected torch.int64 [{n_images}].")
    low, high = (int(labels.min()), int(labels.max())) if n_images else (0, 0)
    top = len(class_names) - 1 if class_names is not None else None
    if low < 0 or (top is not None and n_images and high > top):
        allowed = "0 or more" if top is None else f"0 … {top} (one per class name)"
        raise InputError(f"labels: got values in {low} … {high}, expected {allowed}. Check the order of the classes.")
