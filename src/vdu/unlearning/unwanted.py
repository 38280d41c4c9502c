"""What is to be forgotten, as the user gave it: images, classes of labelled images, labels of the model, or prompts."""

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

from vdu.core.errors import InputError, shown
from vdu.core.ranges import plain_number
from vdu.data.forget_source import forget_images
from vdu.data.images import ImageSet
from vdu.models.denoiser import PipelineDenoiser
from vdu.unlearning.labels import label_indices, labelled_images, undrawn_forget_set
from vdu.unlearning.prompts import read_prompts

__all__ = ["forget_set", "listed", "prompts_of", "require_forget"]


def listed(given: Any, name: str) -> tuple[Any, ...]:
    """One class or several, by name or index, as a tuple.

    Args:
        given: by the user; None for none.
        name: of the argument.

    Returns:
        The classes.

    Raises:
        InputError: if it is of another kind.
    """
    found = () if given is None else (given,) if isinstance(given, str | Integral) else given
    single = isinstance(found, Sequence) and not isinstance(found, bytes)
    if not single or not all(isinstance(each, str | Integral) and not isinstance(each, bool) for each in found):
        raise InputError(f"{name}: got {shown(given)}; expected the name or index of a class, or a list of them.")
    return tuple(found)


def prompts_of(asked: Mapping[str, Any], labels: tuple[Any, ...]) -> dict[str, Any]:
    """What is said in words, "forget" and "keep", and the label or prompt that takes its place, "instead".

    Args:
        asked: the arguments of :func:`vdu.unlearning.unlearn.unlearn` by name.
        labels: labels of the model that are to be forgotten.

    Returns:
        Prompts by name; {} without any.

    Raises:
        InputError: if there are prompts to keep and none to forget, or labels as well.
    """
    instead = plain_number(asked["instead"])  # of NumPy, which no record could hold
    given = {"forget": asked["forget_prompt"], "keep": asked["keep_prompts"], "instead": instead}
    if given["forget"] is None and given["keep"] is not None:
        raise InputError("--keep-prompts: got one without --forget-prompt; expected what to forget in words as well.")
    if given["forget"] is not None and labels:
        raise InputError(
            "--forget-prompt: got --forget-label too; expected one of them. A text-to-image model takes prompts."
        )
    for name, flag in (("forget", "--forget-prompt"), ("keep", "--keep-prompts")):
        if given[name] is not None:
            given[name] = read_prompts(given[name], flag)
    return {name: value for name, value in given.items() if value is not None}


def require_forget(forget: Any, classes: tuple[Any, ...], labels: Any) -> None:
    """Raise an error if nothing is to be forgotten.

    Args:
        forget: the images, if any.
        classes: classes of the images.
        labels: labels of the model, or prompts.

    Raises:
        InputError: if there is nothing, or classes without images.
    """
    if forget is None and classes:
        raise InputError(
            "--forget-class: got no --forget; it names classes of given images. For a class of the model use --forget-label "
            "(in Python forget_label=…)."
        )
    if forget is None and not labels:
        raise InputError(
            "--forget is missing: give the images to forget (a folder, a list of files or a data set), or for a class-conditional model "
            "the class to forget (--forget-label, in Python forget_label=…), or for a text-to-image model a prompt (--forget-prompt, in "
            "Python forget_prompt=…)."
        )


def forget_set(
    original: PipelineDenoiser,
    given: Any,
    classes: tuple[Any, ...],
    labels: tuple[Any, ...],
    convert: bool,
    alike: tuple[str, ...] = (),
) -> ImageSet:
    """The forget set as images, which are black where they are yet to be drawn.

    Args:
        original: the model.
        given: images or where they are, or None.
        classes: of labelled images, those to forget.
        labels: of the model, likewise; without images they are to be drawn.
        convert: whether images are converted to the model's kind.
        alike: further prompts of what the images show (:func:`vdu.unlearning.labels.labelled_images`).

    Returns:
        The images; without given ones :func:`vdu.unlearning.labels.undrawn_forget_set`.

    Raises:
        InputError: if the images have labels of their own beside those, or the prompts, of the model, or cannot be used.
    """
    if given is None:
        return undrawn_forget_set(original, labels)
    if labels:
        label_indices(original, labels)  # refuses unknown ones before images are loaded
    images = forget_images(given, original.image_shape, classes=classes, convert=convert)
    if not labels:
        return images
    if images.labels is not None:
        flag = "--forget-prompt" if original.takes_prompts else "--forget-label"
        raise InputError(f"{flag}: the images have labels of their own; leave it out, or give images without labels.")
    return labelled_images(original, labels, images, alike)
