"""Images that are given in Python: sets, Pillow images, file names, tensors, arrays and torch data sets.

Nothing ambiguous is guessed. Pixels are 8-bit, 0…255: floating-point values may mean [0, 1] or [−1, 1] and are refused with both
conversions in the message. Sizes and colours are those of the model, unless ``convert`` asks for a conversion.

A torch Dataset put together of others (``ConcatDataset``, ``Subset``, ``ChainDataset``) has their classes by name: a label counts in the
``classes`` of its own part.

Not guaranteed: that a data set without random transforms was given; what it returns is taken.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ChainDataset, ConcatDataset, Dataset, IterableDataset, Subset

from vdu.core.class_names import composed
from vdu.core.errors import InputError, shown
from vdu.core.paths import given_path
from vdu.data.decode import Shape, decode_all, fit_shape, open_image
from vdu.data.images import ImageSet
from vdu.data.sources import load_images

__all__ = ["Images", "as_images", "is_named", "require_one_order"]

Images = ImageSet | str | Path | Sequence[Any] | Tensor | np.ndarray | Dataset
"""What stands for images in Python."""
Classes = tuple[str, ...] | None

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
        labels = None if given.labels is None else given.labels.clone()
        found = replace(
            given, images=given.images.clone(), labels=labels
        )  # what the caller changes later changes no run
    elif isinstance(given, Tensor | np.ndarray):
        found = ImageSet(_pixels(given, name, convert))
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


def _pixels(given: Tensor | np.ndarray, name: str, convert: bool = False) -> Tensor:
    """Checked pixels as a tensor [images, channels, height, width] on the CPU."""
    got = f"{given.dtype} {list(given.shape)}"
    if str(given.dtype).removeprefix("torch.") != "uint8":
        raise InputError(
            f"{name}: got pixels of {got}; expected uint8 in 0…255, since other values may mean several ranges. Convert x in [0, 1] "
            "with (x * 255).round().to(torch.uint8), x in [−1, 1] with ((x + 1) * 127.5).round().to(torch.uint8)."
        )
    if isinstance(given, np.ma.MaskedArray) or (isinstance(given, Tensor) and given.layout != torch.strided):
        kind = "sparse tensor" if isinstance(given, Tensor) else "masked array"
        raise InputError(f"{name}: got a {kind}; expected all pixels, as a plain one.")
    if isinstance(given, Tensor):
        pixels = given.detach().cpu()
    else:
        if given.ndim == 3 and (given.shape[2] == 4 or (convert and given.shape[0] in (3, 4))):
            raise InputError(
                f"{name}: got pixels of {got}, which may be one image with its channels, or grey images; expected an axis for the images "
                "and one for the channels, 1 or 3. Give array[None] for one image, array[:, None] for grey ones."
            )
        array = given[:, None] if given.ndim == 3 else given
        last = array.ndim == 4 and array.shape[1] not in (1, 3) and array.shape[3] in (1, 3)
        if array.ndim == 4 and array.shape[1] in (1, 3) and array.shape[3] in (1, 3):
            raise InputError(
                f"{name}: got pixels of {got}, whose channels may come first or last; expected a tensor, whose channels come first. Call "
                "torch.from_numpy."
            )
        pixels = torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2) if last else array))
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
        also = "" if isinstance(given, Tensor) else ", [images, height, width, channels] or [images, height, width]"
        raise InputError(
            f"{name}: got pixels of {got}; expected [images, channels, height, width]{also}, with 1 or 3 channels."
        )
    return pixels.contiguous().clone()  # what the caller changes later changes no set


def _from_list(given: Sequence[Any], name: str, shape: Shape | None, convert: bool) -> ImageSet:
    if given and all(isinstance(each, Image.Image) for each in given):
        return ImageSet(_decoded(given, name, shape, convert))
    if given and all(is_named(each) for each in given):
        paths = [given_path(each, name) for each in given]
        if folders := [str(path) for path in paths if path.is_dir()]:
            raise InputError(
                f"{name}: got a list with the folder {folders[0]}; expected files, or one folder in place of the list."
            )
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
    found = [(_copied(item), names) for item, names in _items(given)]  # some fill one buffer again for every item
    items, classes = [item for item, _ in found], [names for _, names in found]
    pairs = [isinstance(item, tuple | list) and len(item) == 2 for item in items]
    if any(pairs) and not all(pairs):
        raise InputError(f"{name}: only some items of the Dataset have a label; expected all or none.")
    images = [item[0] if pair else item for item, pair in zip(items, pairs, strict=True)]
    if not images:
        raise InputError(
            f"{name}: got a Dataset without items, or one whose items were used up before; expected at least one image."
        )
    of_pillow = [isinstance(each, Image.Image) for each in images]
    if any(of_pillow) and not all(of_pillow):
        raise InputError(f"{name}: got a Dataset of Pillow images and others; expected one kind.")
    labels = [item[1] for item, pair in zip(items, pairs, strict=True) if pair]
    if all(of_pillow):
        pixels = _decoded(images, name, shape, convert)
    else:
        pixels = torch.cat([_one(each, name) for each in images])
    return ImageSet(pixels, *_labels(labels, classes, name))


def _copied(item: Any) -> Any:
    """An item as it is now, which stays when the Dataset fills the same memory with the next one."""
    if isinstance(item, tuple | list):
        return tuple(map(_copied, item))
    if isinstance(item, Tensor):
        return item.detach().clone()
    if isinstance(item, np.ndarray):
        return item.copy()
    if isinstance(item, Image.Image) and not _as_opened(item):
        return item.copy()
    return item


def _as_opened(image: Image.Image) -> bool:
    """Whether an image's file tells what its copy would not: what is not yet read, frames, and the tags of a TIFF."""
    return bool(getattr(image, "tile", ())) or getattr(image, "is_animated", False) or hasattr(image, "tag_v2")


def _items(dataset: Any) -> Iterator[tuple[Any, Classes]]:
    """The items of a Dataset, each with the names of the classes among which its label counts."""
    if isinstance(dataset, ChainDataset):
        for part in dataset.datasets:
            yield from _items(part)
    elif isinstance(dataset, IterableDataset):
        yield from ((item, _own_classes(dataset)) for item in dataset)
    else:
        yield from ((dataset[i], names) for i, names in enumerate(_classes(dataset)))


def _classes(dataset: Any) -> list[Classes]:
    """The same names without the items; of a stream, once."""
    if isinstance(dataset, Subset):  # its labels are those of the whole
        whole = _classes(dataset.dataset)
        return [whole[int(i)] for i in dataset.indices]
    if isinstance(dataset, ConcatDataset | ChainDataset):
        return [names for part in dataset.datasets for names in _classes(part)]
    return [_own_classes(dataset)] * (1 if isinstance(dataset, IterableDataset) else len(dataset))


def _own_classes(dataset: Any) -> Classes:
    classes, places = getattr(dataset, "classes", None), getattr(dataset, "class_to_idx", None)
    found = _names(places if classes is None else classes)
    if classes is not None and isinstance(places, Mapping) and found and set(map(type, places)) == {str}:
        contradicted = [name for name, place in places.items() if place in range(len(found)) and found[place] != name]
        if contradicted:
            raise InputError(
                f"the dataset's classes: class_to_idx has {contradicted[0]!r} for the label {places[contradicted[0]]}, and classes has "
                f"{found[places[contradicted[0]]]!r}; expected the same names. Correct one of them."
            )
    return found


def _names(classes: Any) -> Classes:
    """Names in the order of the labels, from a list or a mapping."""
    if isinstance(classes, Mapping):  # name → label, or label → name
        labels = {place: name for name, place in classes.items()} if set(map(type, classes)) == {str} else dict(classes)
        if set(labels) != set(range(len(labels))):
            raise InputError(
                f"the dataset's classes: got labels {shown(sorted(map(str, labels)))}; expected 0 to {len(labels) - 1}, so that every "
                "label has a name. Give its classes as a list, in the order of the labels."
            )
        classes = [labels[place] for place in range(len(labels))]
    if isinstance(classes, str) or not isinstance(classes, Iterable):
        return None
    ordered = isinstance(classes, Sequence) or (isinstance(classes, np.ndarray) and classes.ndim == 1)
    if not ordered:
        raise InputError(
            f"the dataset's classes: got {shown(classes)}; expected a list, since the order of the names is that of the labels."
        )
    return tuple(map(str, classes)) or None


def require_one_order(given: Any, classes: Sequence[Any], name: str) -> None:
    """Raise an error for a class that is given by its place, if the parts of a Dataset have their classes in different orders.

    Args:
        given: images of any kind.
        classes: names or numbers, which mean a place where no name has a digit in it (:mod:`vdu.core.class_names`).
        name: the argument, for messages.

    Raises:
        InputError: with the orders.
    """
    orders = [each for each in dict.fromkeys(_classes(given)) if each] if isinstance(given, Dataset) else []
    longest = max(orders, key=len, default=())
    by_place = [each for each in classes if str(each).isdigit()]
    named = any(character.isdigit() for order in orders for each in order for character in each)
    if by_place and not named and any(order != longest[: len(order)] for order in orders):
        shown_orders = " and ".join(", ".join(order[:5]) for order in orders[:3])
        raise InputError(
            f"{name}: got the class {by_place[0]} of a Dataset whose parts have their classes in different orders ({shown_orders}); "
            "expected the name of a class."
        )


def _one(image: Any, name: str) -> Tensor:
    """One item's pixels, [1, channels, height, width]."""
    if not isinstance(image, Tensor | np.ndarray):
        raise InputError(
            f"{name}: an item of the Dataset is {shown(image)}; expected an image (Pillow, or uint8 pixels), or an image and its label."
        )
    return _pixels(image[None], f"{name}: an item of the Dataset")


def _labels(
    labels: list[Any], classes: Sequence[Classes], name: str
) -> tuple[Tensor | None, None, tuple[str, ...] | None]:
    """Labels, names of the images (None) and names of the classes; parts with classes of their own are merged by name."""
    if not labels:
        return None, None, None
    found: list[int] = []
    wrong: list[Any] = []
    for label, names in zip(labels, classes, strict=True):
        if (place := _place(label, names or ())) is None:
            wrong.append(label)
        else:
            found.append(place)
    if wrong:
        raise InputError(
            f"{name}: a label of the Dataset is {shown(wrong[0])}; expected class indices, 0 or more, or names among its classes."
        )
    several = len(set(classes)) > 1
    unnamed = [label for label, names in zip(found, classes, strict=True) if not names or not 0 <= label < len(names)]
    if unnamed and several:
        raise InputError(
            f"{name}: the Dataset is put together of parts, and the label {unnamed[0]} has no name in one of them, so that it cannot be "
            "compared with the labels of the others; expected parts that all have classes, or none (the attribute classes)."
        )
    if unnamed:
        return torch.tensor(found), None, None
    merged = dict.fromkeys(each for names in dict.fromkeys(classes) for each in names or ())
    places = {each: i for i, each in enumerate(merged)}
    if several:
        found = [places[(names or ())[label]] for label, names in zip(found, classes, strict=True)]
    return torch.tensor(found), None, tuple(merged) if several else classes[0]


def _place(label: Any, names: tuple[str, ...]) -> int | None:
    """The index that a label is, or that of the class of which it is the name; None for anything else, such as a probability."""
    if isinstance(label, str):  # never the number that is written in it
        same = [i for i, each in enumerate(names) if composed(each) == composed(label)]
        return same[0] if len(same) == 1 else None
    if isinstance(label, bytes | bytearray) or getattr(getattr(label, "dtype", None), "kind", "") in ("S", "U", "O"):
        return None
    try:
        found = int(label)
        torch.tensor(found)
        return found if float(label) == found else None
    except (TypeError, ValueError, OverflowError):
        return None


def _decoded(images: Sequence[Image.Image], name: str, shape: Shape | None, convert: bool) -> Tensor:
    """Pillow's images as pixels; the images themselves stay open."""
    titles = [f"image {i}" for i in range(len(images))]
    openers: list[Any] = [partial(nullcontext, image) for image in images]
    return decode_all(name, titles, openers, shape, convert)
