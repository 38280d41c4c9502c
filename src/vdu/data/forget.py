"""The split into what is forgotten and what is kept: by class, by name, or by a predicate such as a judge.

    forget ∪ retain = images,  forget ∩ retain = ∅,  forget ≠ ∅;  both keep the order of the images.

Not guaranteed: that near-duplicates of forgotten images are not among the retained ones; that anything is retained.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from vdu.core.errors import InputError
from vdu.data.decode import complaint
from vdu.data.images import ImageSet

__all__ = ["split_by_class", "split_by_names", "split_by_predicate"]

_BATCH = 512
Classes = str | int | Iterable[str | int]


def split_by_class(images: ImageSet, classes: Classes) -> tuple[ImageSet, ImageSet]:
    """Forget whole classes.

    Args:
        images: a labelled set.
        classes: one class or several, each by name or by index. Text is looked up among the names first, then read as
            an index.

    Returns:
        The sets to forget and to retain.

    Raises:
        InputError: if the set has no labels, a class is unknown, or no image has it.
    """
    if images.labels is None:
        raise InputError(
            f"{images.description or 'images'}: has no labels, so it cannot be split by class. Put the images into "
            "class folders, or split by names."
        )
    given = [classes] if isinstance(classes, str | int) else list(classes)
    n_classes = len(images.class_names or ()) or int(images.labels.max()) + 1
    names = images.class_names or tuple(str(i) for i in range(n_classes))
    indices = sorted({_class_index(each, names) for each in given})
    for index in indices:
        if not bool((images.labels == index).any()):
            raise InputError(f"class {names[index]!r}: no image of {images.description or 'the set'} has it.")
    mask = torch.isin(images.labels, torch.tensor(indices, dtype=torch.int64))
    return _split(images, mask, "classes " + ", ".join(names[i] for i in indices))


def _class_index(wanted: str | int, names: tuple[str, ...]) -> int:
    if isinstance(wanted, str) and wanted in names:
        return names.index(wanted)
    is_index = isinstance(wanted, int) or (wanted.isascii() and wanted.isdigit())
    if is_index and 0 <= int(wanted) < len(names):
        return int(wanted)
    available = ", ".join(f"{i} = {name}" if str(i) != name else name for i, name in enumerate(names))
    raise InputError(f"class {wanted!r}: unknown; the classes are: {available}.")


def split_by_names(images: ImageSet, names: Iterable[str]) -> tuple[ImageSet, ImageSet]:
    """Forget single images.

    Args:
        images: a set whose images have names.
        names: of the images to forget; order and repetition do not matter.

    Returns:
        The sets to forget and to retain.

    Raises:
        InputError: if the set has no names, none are given, or some are not in it.
    """
    if images.names is None:
        raise InputError(f"{images.description or 'images'}: its images have no names. Split by class or predicate.")
    wanted = {names} if isinstance(names, str) else set(names)
    unknown = sorted(wanted - set(images.names))
    if unknown:
        example = images.names[0] if images.names else "class/file.png"
        hint = f"An image is named by its path below the source, such as {example!r}."
        raise InputError(complaint(images.description, unknown, len(wanted), "names are not in the set", hint))
    return _split(images, torch.tensor([name in wanted for name in images.names], dtype=torch.bool), "named images")


def split_by_predicate(images: ImageSet, predicate: Callable[[Tensor], Tensor]) -> tuple[ImageSet, ImageSet]:
    """Forget the images that a predicate picks.

    Args:
        images: any set.
        predicate: float32 [batch, channels, height, width] in [−1, 1] → bool [batch], True to forget. It is called on
            batches in order, without gradients, and must judge each image by itself.

    Returns:
        The sets to forget and to retain.

    Raises:
        InputError: if the predicate gives anything but one truth value per image, or picks none.
    """
    masks = [torch.zeros(0, dtype=torch.bool)]
    with torch.no_grad():
        for start in range(0, len(images), _BATCH):
            batch = images.floats(range(start, min(start + _BATCH, len(images))))
            mask = torch.as_tensor(predicate(batch)).cpu()
            if mask.dtype != torch.bool or mask.shape != (len(batch),):
                got = f"{mask.dtype} {list(mask.shape)}"
                raise InputError(f"predicate: gave {got}, expected bool [{len(batch)}], one per image.")
            masks.append(mask)
    return _split(images, torch.cat(masks), "images picked by a predicate")


def _split(images: ImageSet, mask: Tensor, what: str) -> tuple[ImageSet, ImageSet]:
    if not bool(mask.any()):
        raise InputError(f"{what}: nothing to forget among {len(images)} images; expected at least one.")
    source = images.description or "images"
    return images.select(mask, f"{source}: {what}"), images.select(~mask, f"{source} without {what}")
