"""The images that a run is to keep: without whatever is to be forgotten, and with conditions that the model has."""

from collections.abc import Iterable

import torch

from vdu.core.class_names import class_key
from vdu.core.errors import InputError
from vdu.core.naming import names
from vdu.core.processes import say
from vdu.data.forget import split_by_class
from vdu.data.forget_source import class_names, with_names_of
from vdu.data.images import ImageSet
from vdu.models.denoiser import PipelineDenoiser
from vdu.training.batches import condition_of, require_captions
from vdu.unlearning.labels import SHOWN

__all__ = ["retained_images", "with_model_names"]


def retained_images(
    images: ImageSet, forget: ImageSet, original: PipelineDenoiser, earlier: Iterable[str], *, in_folder: bool
) -> ImageSet:
    """The images to keep, copies of forget images among them; classes to forget, also of earlier runs, are left out of labelled ones.

    Args:
        images: to keep.
        forget: the forget set.
        original: the model.
        earlier: classes that earlier runs forgot.
        in_folder: whether the names of the images are their paths below a folder.

    Returns:
        The images.

    Raises:
        InputError: if classes to forget cannot be left out, or nothing else is there.
    """
    images = with_model_names(images, original, "--retain")
    unwanted, labelled = class_names(forget), forget.labels is not None and images.labels is not None
    unwanted += [each for each in earlier if each not in unwanted]
    if labelled and (forget.class_names is None) != (images.class_names is None):
        without, others = ("forget", "retained")[:: 1 if forget.class_names is None else -1]
        raise InputError(
            f"--retain: the classes of the {without} images have no names, those of the {others} images have, so that the classes to "
            "forget cannot be left out; expected names for both, or retained images without labels."
        )
    shared = [name for name in class_names(images) if any(_same(name, each, original) for each in unwanted)]
    kept = split_by_class(images, shared)[1] if shared else images
    if not len(kept):
        raise InputError(
            f"--retain: all {len(images)} images are of a class to be forgotten ({', '.join(shared)}); expected others."
        )
    if len(kept) < len(images):
        say(
            f"vdu: {len(images) - len(kept)} of {len(images)} retained images are of a class to be forgotten ({', '.join(shared)}, by the "
            "names of their folders or labels); they are left out."
        )
    for folder in sorted({part for name in kept.names or () for part in name.split("/")[:-1]}) if in_folder else ():
        if any(_same(folder, each, original) for each in unwanted):
            raise InputError(
                f"--retain: images lie in a folder {folder}, which is the name of a class to be forgotten and not their label; expected "
                "a folder whose folders are the classes, without images beside them. Move the images that are to be kept elsewhere."
            )
    if labelled and not shared:
        say(
            f"vdu: no class of the retained images ({_first(class_names(images))}) is one to be forgotten ({_first(unwanted)}); none "
            "is left out by its class."
        )
    require_captions(
        original, kept, "--retain",
        "images in folders that are named by their captions, or none: then the model draws some under the prompts to keep",
    )  # fmt: skip
    condition_of(original, kept, torch.arange(len(kept)), "--retain")
    return kept


def _first(classes: list[str]) -> str:
    return ", ".join(classes[:SHOWN]) + ", …" * (len(classes) > SHOWN)


def with_model_names(images: ImageSet, original: PipelineDenoiser, what: str) -> ImageSet:
    """Images whose labels without names are those of a class-conditional model."""
    if images.labels is None or images.class_names is not None or original.takes_prompts or not original.class_names:
        return images
    condition_of(original, images, torch.arange(len(images)), what)  # refuses others
    return with_names_of(images, original.class_names)


def _same(name: str, unwanted: str, original: PipelineDenoiser) -> bool:
    """Whether a class of retained images is one to forget; a caption names what is to be forgotten in words."""
    return names(name, unwanted) if original.takes_prompts else class_key(name) == class_key(unwanted)
