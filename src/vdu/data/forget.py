"""The split by class into forget and retain sets.

    forget ∪ retain = images,  forget ∩ retain = ∅,  forget ≠ ∅;  both keep the order of the images.

Not guaranteed: that near-duplicates of forgotten images are not among the retained ones; that anything is retained.
"""

from collections.abc import Iterable

import torch

from vdu.core.errors import InputError
from vdu.data.images import ImageSet

__all__ = ["split_by_class"]

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
            "class folders."
        )
    given = [classes] if isinstance(classes, str | int) else list(classes)
    n_classes = len(images.class_names or ()) or int(images.labels.max()) + 1
    names = images.class_names or tuple(str(i) for i in range(n_classes))
    indices = sorted({_class_index(each, names) for each in given})
    for index in indices:
        if not bool((images.labels == index).any()):
            raise InputError(f"class {names[index]!r}: no image of {images.description or 'the set'} has it.")
    mask = torch.isin(images.labels, torch.tensor(indices, dtype=torch.int64))
    what = "classes " + ", ".join(names[i] for i in indices)
    if not bool(mask.any()):
        raise InputError(f"{what}: nothing to forget among {len(images)} images; expected at least one.")
    source = images.description or "images"
    return images.select(mask, f"{source}: {what}"), images.select(~mask, f"{source} without {what}")


def _class_index(wanted: str | int, names: tuple[str, ...]) -> int:
    if isinstance(wanted, str) and wanted in names:
        return names.index(wanted)
    is_index = isinstance(wanted, int) or (wanted.isascii() and wanted.isdigit())
    if is_index and 0 <= int(wanted) < len(names):
        return int(wanted)
    available = ", ".join(f"{i} = {name}" if str(i) != name else name for i, name in enumerate(names))
    raise InputError(f"class {wanted!r}: unknown; the classes are: {available}.")
