"""Images that are given in Python: sets, Pillow images, file names, tensors, arrays and torch data sets.

Nothing ambiguous is guessed. Pixels are 8-bit, 0…255: floating-point values may mean [0, 1] or [−1, 1] and are refused with both
conversions in the message. Sizes and colours are those of the model, unless ``convert`` asks for a conversion.

Not guaranteed: that a data set without random transforms was given; what it returns is taken.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset

from vdu.core.errors import InputError, shown
from vdu.core.paths import given_path
from vdu.data.decode import Shape, decode_all, fit_shape, open_image
from vdu.data.images import ImageSet
from vdu.data.sources import load_images

__all__ = ["Images", "as_images", "is_named"]

Images = ImageSet | str | Path | Sequence[Any] | Tensor | np.ndarray | Dataset
"""What stands for images in Python."""

_KINDS = (
    "a folder, a list file or the name of a data set, an ImageSet, a list of Pillow images or of image files, uint8 pixels as a "
    "tensor or array, or a torch Dataset"
)


def is_named(given: Any) -> TypeGuard[str | Path]:
    """Whether images are given by a name or a path, which can be recorded and loaded again."""
    return isinstance(given, str | Path)


def as_images(given: Any, *, name: str, shape: Shape | None = None, convert: bool = False) -> ImageSet:
    """Images from any of the accepted kinds.

    Args:
        given: a folder, a list file or a named data set (:func:`vdu.data.sources.load_images`); an :class:`ImageSet`; a list or
            tuple of Pillow images, or of paths of image files; a uint8 tensor [images, channels, height, width]; a uint8 array of
            that shape, or [images, height, width, channels], or [images, height, width] in grey; or a torch ``Dataset`` of images
            or (image, label) pairs, whose ``classes`` name the labels.
        name: the argument, for messages.
        shape: channels, height and width that every image must have; None takes those of the first.
        convert: convert images of another size or mode to ``shape``.

    Returns:
        The images, in the order given.

    Raises:
        InputError: if the images are of no such kind, or do not fit. Messages never print an image.
    """
    if is_named(given):
        return load_images(given, shape=shape, convert=convert)
    if isinstance(given, ImageSet):
        found = given
    elif isinstance(given, Tensor | np.ndarray):
        found = ImageSet(_pixels(given, name))
    elif isinstance(given, list | tuple):
        found = _from_list(given, name, shape, convert)
    elif isinstance(given, Dataset):
        found = _from_dataset(given, name, shape, convert)
    else:
        raise InputError(f"{name}: got {shown(given)}; expected {_KINDS}.")
    if not len(found):
        raise InputError(f"{name}: got no images; expected at least one.")
    if not found.description:
        found = ImageSet(
            found.images, found.labels, found.names, found.class_names, f"{len(found)} images given in Python"
        )
    return fit_shape(found, shape, convert)


def _pixels(given: Tensor | np.ndarray, name: str) -> Tensor:
    """Checked pixels as a tensor [images, channels, height, width] on the CPU."""
    got = f"{given.dtype} {list(given.shape)}"
    if str(given.dtype).removeprefix("torch.") != "uint8":
        raise InputError(
            f"{name}: got pixels of {got}; expected uint8 in 0…255, since other values may mean several ranges. Convert x in [0, 1] "
            "with (x * 255).round().to(torch.uint8), x in [−1, 1] with ((x + 1) * 127.5).round().to(torch.uint8)."
        )
    if isinstance(given, Tensor):
        pixels = given.detach().cpu()
    else:
        array = given[:, None] if given.ndim == 3 else given
        last = array.ndim == 4 and array.shape[1] not in (1, 3) and array.shape[3] in (1, 3)
        pixels = torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2) if last else array))
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
        also = "" if isinstance(given, Tensor) else ", [images, height, width, channels] or [images, height, width]"
        raise InputError(
            f"{name}: got pixels of {got}; expected [images, channels, height, width]{also}, with 1 or 3 channels."
        )
    return pixels.contiguous()


def _from_list(given: Sequence[Any], name: str, shape: Shape | None, convert: bool) -> ImageSet:
    if given and all(isinstance(each, Image.Image) for each in given):
        return ImageSet(_decoded(given, name, shape, convert))
    if given and all(is_named(each) for each in given):
        paths = [given_path(each, name) for each in given]
        missing = [str(path) for path in paths if not path.is_file()]
        if missing:
            raise InputError(f"{name}: {len(missing)} of {len(paths)} files do not exist, first {missing[0]}.")
        openers = [partial(open_image, path) for path in paths]
        texts = [str(path) for path in paths]
        return ImageSet(decode_all(name, texts, openers, shape, convert), names=tuple(texts))
    if not given:
        raise InputError(f"{name}: got no images; expected at least one.")
    kinds = ", ".join(sorted({type(each).__name__ for each in given})[:3])
    raise InputError(
        f"{name}: got {shown(given)} of {kinds}; expected Pillow images alone or paths of image files alone. Stack tensors with "
        "torch.stack, arrays with numpy.stack."
    )


def _from_dataset(given: Any, name: str, shape: Shape | None, convert: bool) -> ImageSet:
    items = list(given) if isinstance(given, IterableDataset) else [given[i] for i in range(len(given))]
    pairs = [isinstance(item, tuple | list) and len(item) == 2 for item in items]
    if any(pairs) and not all(pairs):
        raise InputError(f"{name}: only some items of the Dataset have a label; expected all or none.")
    images = [item[0] if pair else item for item, pair in zip(items, pairs, strict=True)]
    labels = [item[1] for item, pair in zip(items, pairs, strict=True) if pair]
    if all(isinstance(each, Image.Image) for each in images):
        pixels = _decoded(images, name, shape, convert)
    else:
        pixels = torch.cat([_one(each, name) for each in images])
    return ImageSet(pixels, *_labels(labels, given, name))


def _one(image: Any, name: str) -> Tensor:
    """One item's pixels, [1, channels, height, width]."""
    if not isinstance(image, Tensor | np.ndarray):
        raise InputError(
            f"{name}: an item of the Dataset is {shown(image)}; expected an image (Pillow, or uint8 pixels), or an image and its label."
        )
    return _pixels(image[None], f"{name}: an item of the Dataset")


def _labels(labels: list[Any], dataset: Any, name: str) -> tuple[Tensor | None, None, tuple[str, ...] | None]:
    """Labels, names of the images (None) and names of the classes."""
    if not labels:
        return None, None, None
    try:
        found = torch.tensor([int(label) for label in labels])
        wrong = [given for given, label in zip(labels, found.tolist(), strict=True) if float(given) != label]
    except (TypeError, ValueError, OverflowError):
        wrong = labels
    if wrong:  # among them fractions, such as probabilities
        raise InputError(f"{name}: a label of the Dataset is {shown(wrong[0])}; expected class indices, 0 or more.")
    while isinstance(dataset, Subset):  # its labels are those of the whole
        dataset = dataset.dataset
    classes = getattr(dataset, "classes", None)
    named = isinstance(classes, list | tuple) and len(classes) > int(found.max())
    return found, None, tuple(map(str, classes)) if named and classes else None


def _decoded(images: Sequence[Image.Image], name: str, shape: Shape | None, convert: bool) -> Tensor:
    """Pillow's images as pixels; the images themselves stay open."""
    titles = [f"image {i}" for i in range(len(images))]
    openers: list[Any] = [partial(nullcontext, image) for image in images]
    return decode_all(name, titles, openers, shape, convert)
