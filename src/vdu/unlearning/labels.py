"""Forgetting a class of a class-conditional model by its label.

Given images are assigned the label; if none are given, the forget set is drawn from the original under the label.
"""

from collections.abc import Sequence

import torch

from vdu.core.class_names import class_index
from vdu.core.errors import InputError
from vdu.core.processes import say
from vdu.core.rng import derive_seed
from vdu.core.types import Denoiser
from vdu.data.images import ImageSet, to_uint8
from vdu.diffusion.sampling import Sampler, sample
from vdu.replay.generated import image_seeds

__all__ = ["N_DRAWN", "SHOWN", "forget_set_of_labels", "label_indices"]

N_DRAWN = 256
SHOWN = 3  # labels or prompts that a description names


def label_indices(denoiser: Denoiser, labels: Sequence[int | str]) -> list[int]:
    """The classes of a model that are meant, before anything is drawn.

    Args:
        denoiser: the original, class-conditional.
        labels: classes to forget, by name or number (:func:`vdu.core.class_names.class_index`).

    Returns:
        Their indices, in order.

    Raises:
        InputError: if the model is unconditional, a label is unknown, or all classes are to be forgotten.
    """
    names = denoiser.class_names
    if not names:
        raise InputError(
            f"forget label: got {labels[0]!r}, but this model is unconditional; expected a class-conditional model. Give images to "
            "forget instead."
        )
    index = sorted({class_index(label, names, "forget label") for label in labels})
    if len(index) == len(names):
        raise InputError("forget label: all classes of the model are to be forgotten; expected at least one to keep.")
    unnamed = [name for number, name in enumerate(names) if name == str(number)]
    if 0 < len(unnamed) < len(names) and any(names[each] != str(each) for each in index):
        meant = ", ".join(f"{names[each]} (class {each})" for each in index)
        some = ", ".join(unnamed[:5]) + ("" if len(unnamed) <= 5 else ", …")
        say(
            f"vdu: to forget: {meant}. {len(unnamed)} of the model's classes have no name of their own ({some}), as where two classes "
            "share one. Give the number if one of them is meant."
        )
    return index


def forget_set_of_labels(
    denoiser: Denoiser,
    labels: Sequence[int | str],
    images: ImageSet | None = None,
    *,
    sampler: Sampler,
    seed: int,
    n_images: int = N_DRAWN,
    progress: str | None = None,
) -> ImageSet:
    """The forget set for some labels of the model.

    Args:
        denoiser: the original, class-conditional.
        labels: classes to forget, by name or number.
        images: unlabelled images of a single class; None draws them from the original.
        sampler: the sampler for drawn images.
        seed: seeds them.
        n_images: number of images to draw, over all labels together.
        progress: title of the progress bar; None shows none.

    Returns:
        Images with the model's classes as labels.

    Raises:
        InputError: as by :func:`label_indices`, or if images are given for several labels.
    """
    names, index = denoiser.class_names, label_indices(denoiser, labels)
    words = ", ".join(names[each] for each in index)
    if images is not None:
        if len(index) > 1:
            raise InputError(
                f"forget label: got {words} for images without labels; expected one label. Give images in class folders for several."
            )
        return ImageSet(
            images.images, torch.full((len(images),), index[0]), class_names=names, description=images.description
        )
    asked = [index[i % len(index)] for i in range(n_images)]
    seeds = image_seeds(derive_seed(seed, "forget set"), n_images)
    drawn = to_uint8(sample(denoiser, seeds, sampler, labels=asked, shared=True, progress=progress))
    first, more = ", ".join(names[each] for each in index[:SHOWN]), len(index) - SHOWN
    description = f"{n_images} images that the model generated as {first}" + (f" and {more} more" if more > 0 else "")
    return ImageSet(drawn, torch.tensor(asked), class_names=names, description=description)
