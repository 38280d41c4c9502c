"""The split by class into forget and retain sets.

    forget ∪ retain = images,  forget ∩ retain = ∅,  forget ≠ ∅;  both keep the order of the images.

Not guaranteed: that near-duplicates of forgotten images are not among the retained ones; that anything is retained.
"""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch

from vdu.core.class_names import class_index
from vdu.core.errors import InputError, shown
from vdu.data.images import ImageSet

__all__ = ["split_by_class"]


def split_by_class(images: ImageSet, classes: Any) -> tuple[ImageSet, ImageSet]:
    """Forget whole classes.

    Args:
        images: a labelled set.
        classes: one class or several, each by name or number (:func:`vdu.core.class_names.class_index`).

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
    given = [classes] if isinstance(classes, str | Integral) else classes
    if not isinstance(given, Sequence):
        raise InputError(f"classes: got {shown(classes)}; expected the name or number of a class, or a list of them.")
    n_classes = len(images.class_names or ()) or int(images.labels.max()) + 1
    names = images.class_names or tuple(str(i) for i in range(n_classes))
    indices = sorted({class_index(each, names) for each in given})
    for index in indices:
        if not bool((images.labels == index).any()):
            raise InputError(f"class {names[index]!r}: no image of {images.description or 'the set'} has it.")
    mask = torch.isin(images.labels, torch.tensor(indices, dtype=torch.int64, device="cpu"))
    what = ("class " if len(indices) == 1 else "classes ") + ", ".join(names[i] for i in indices)
    if not bool(mask.any()):
        raise InputError(f"{what}: nothing to forget among {len(images)} images; expected at least one.")
    source = images.description or "images"
    return images.select(mask, f"{source}: {what}"), images.select(~mask, f"{source} without {what}")
