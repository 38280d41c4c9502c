"""Forgetting a class of a class-conditional model by its label.

Given images are assigned the label; if none are given, the forget set is drawn from the original under the label.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from vdu.core.class_names import class_index, require_own_name
from vdu.core.errors import InputError
from vdu.core.processes import say
from vdu.core.rng import derive_seed
from vdu.core.types import Denoiser
from vdu.data.forget_source import dealt
from vdu.data.images import ImageSet, to_uint8
from vdu.diffusion.sampling import Sampler, sample
from vdu.replay.generated import image_seeds

__all__ = ["N_DRAWN", "SHOWN", "forget_set_of_labels", "label_indices", "labelled_images", "undrawn_forget_set"]

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
        InputError: if the model is unconditional, a label is unknown or a name of several classes, or all classes are to be forgotten.
    """
    names = denoiser.class_names
    if not names:
        raise InputError(
            f"forget label: got {labels[0]!r}, but this model is unconditional; expected a class-conditional model. Give images to "
            "forget instead."
        )
    for label in labels:
        require_own_name(label, denoiser.shared_names, names, "forget label")
    index = sorted({class_index(label, names, "forget label") for label in labels})
    if len(index) == len(names):
        raise InputError("forget label: all classes of the model are to be forgotten; expected at least one to keep.")
    unnamed = [name for number, name in enumerate(names) if name == str(number)]
    if 0 < len(unnamed) < len(names) and any(names[each] != str(each) for each in index):
        meant = ", ".join(f"{names[each]} (class {each})" for each in index)
        some = ", ".join(unnamed[:5]) + ("" if len(unnamed) <= 5 else ", …")
        say(
            f"vdu: to forget: {meant}. Classes of the model without a name of their own: {len(unnamed)} ({some}), as where two classes "
            "share one. Give the number if one of them is meant."
        )
    return index


def labelled_images(
    denoiser: Denoiser, labels: Sequence[int | str], images: ImageSet, alike: Sequence[str] = ()
) -> ImageSet:
    """The forget set of given images without labels, which are assigned the label of the model.

    Args:
        denoiser: the original, class-conditional.
        labels: the class to forget, by name or number.
        images: of that class.
        alike: further names of what the images show, such as the model's own prompts of a concept: the images get all in turn.

    Returns:
        Images with the model's classes as labels.

    Raises:
        InputError: as by :func:`label_indices`, or if there are several labels.
    """
    names, index = denoiser.class_names, label_indices(denoiser, labels)
    if len(index) > 1:
        words, kind = ", ".join(names[each] for each in index), "prompt" if denoiser.takes_prompts else "label"
        raise InputError(
            f"forget {kind}: got {words} for images without labels; expected one {kind}. Give images in folders named by it for several."
        )
    index = list(dict.fromkeys([*index, *(names.index(each) for each in alike)]))
    return dealt(images, index, names)


def undrawn_forget_set(denoiser: Denoiser, labels: Sequence[int | str], n_images: int | None = None) -> ImageSet:
    """The forget set that :func:`forget_set_of_labels` draws, with its labels and black images: for checks before the drawing.

    Args:
        denoiser: the original, class-conditional.
        labels: classes to forget, by name or number.
        n_images: number of images that will be drawn, over all labels together; by default 256, or one for each label if these are more.

    Returns:
        Black images with the model's classes as labels; they take no memory. Labels that cannot be used are refused as by
        :func:`label_indices`.
    """
    names, index = denoiser.class_names, label_indices(denoiser, labels)
    n_images = max(N_DRAWN, len(index)) if n_images is None else n_images
    asked = torch.tensor([index[i % len(index)] for i in range(n_images)])
    first, more = ", ".join(names[each] for each in index[:SHOWN]), len(index) - SHOWN
    description = f"{n_images} images that the model generated as {first}" + (f" and {more} more" if more > 0 else "")
    black = torch.zeros(1, dtype=torch.uint8).expand(n_images, *denoiser.image_shape)
    return ImageSet(black, asked, class_names=names, description=description)


def forget_set_of_labels(
    denoiser: Denoiser,
    labels: Sequence[int | str],
    *,
    sampler: Sampler,
    seed: int,
    n_images: int | None = None,
    progress: str | None = None,
) -> ImageSet:
    """Draw the forget set for some labels of the model.

    Args:
        denoiser: the original, class-conditional.
        labels: classes to forget, by name or number.
        sampler: the sampler.
        seed: seeds them.
        n_images: number of images to draw, over all labels together; by default as :func:`undrawn_forget_set`.
        progress: title of the progress bar; None shows none.

    Returns:
        Images with the model's classes as labels. Labels that cannot be used are refused as by :func:`label_indices`.
    """
    undrawn = undrawn_forget_set(denoiser, labels, n_images)
    assert undrawn.labels is not None
    asked, seeds = undrawn.labels.tolist(), image_seeds(derive_seed(seed, "forget set"), len(undrawn))
    return replace(
        undrawn, images=to_uint8(sample(denoiser, seeds, sampler, labels=asked, shared=True, progress=progress))
    )
