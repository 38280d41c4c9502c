"""The forget set of a run: its source, its classes, and reloading for the evaluation."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vdu.core import naming
from vdu.core.errors import InputError
from vdu.core.records import atomic_file, passed_over, read_json, read_toml
from vdu.data.forget import split_by_class
from vdu.data.given import Images, as_images, is_named, require_one_order
from vdu.data.images import ImageSet
from vdu.data.overlap import n_distinct

__all__ = [
    "DRAWN",
    "GIVEN",
    "class_names",
    "compared_images",
    "content_of",
    "current_forget",
    "dealt",
    "forget_images",
    "forgetting",
    "has_captions",
    "record_of",
    "reload_forget",
    "with_names_of",
    "write_forget",
]  # fmt: skip

GIVEN, DRAWN = "images given in Python", "the model before"  # sources of evidence that are neither a name nor a path

STORED = (
    "forget.safetensors"  # stored in the run folder: drawn from the model, with an assigned label, or given in Python
)


def forget_images(
    source: Images, shape: tuple[int, int, int] | None, *, classes: Sequence[Any] = (), convert: bool = False
) -> ImageSet:
    """Load the images to forget and check them against the model's size.

    Args:
        source: the images or where they are, see :func:`vdu.data.given.as_images`.
        shape: channels, height and width of the model; None takes those of the first image.
        classes: the classes to forget, if the images have labels.
        convert: convert images of another size or mode.

    Returns:
        The forget set. Classes that are given for images without labels, or missing for a labelled source (an :class:`ImageSet` is taken as
        it is), are refused with an ``InputError``.
    """
    images = as_images(source, name="forget", shape=shape, convert=convert)
    if classes:
        require_one_order(source, classes, "forget_class")
        return split_by_class(images, classes)[0]
    return _unless_of_several(images, source)


def _unless_of_several(images: ImageSet, source: Images) -> ImageSet:
    """Images of which no class was named; those of several classes are refused, but for an :class:`ImageSet`, which is named by them."""
    if isinstance(source, ImageSet):
        names = class_names(images)  # its maker chose the images; of which classes, the run says
        kept = len(names) > 1 and ": class" not in images.description
        return replace(images, description=f"{images.description}: classes {', '.join(names)}") if kept else images
    if images.labels is not None and len(images.labels.unique()) > 1:
        names = images.class_names or tuple(map(str, images.labels.unique().tolist()))
        what = source if is_named(source) else images.description
        raise InputError(
            f"forget: {what} holds {len(names)} classes ({', '.join(names[:10])}); name those to forget with --forget-class "
            "(in Python forget_class=…), or give forget images only."
        )
    return images


def compared_images(
    source: Images, shape: tuple[int, int, int] | None, classes: Sequence[str], convert: bool = False
) -> ImageSet:
    """Load the images that one of two compared pipelines was to forget.

    Args:
        source: the images, or where they are.
        shape: channels, height and width of the models; None takes those of the first image.
        classes: of a labelled source, those to be forgotten; of one without labels, what the judge calls them.
        convert: convert images of another size or mode.

    Returns:
        The images. Images of another shape that are not converted, or of several classes of which none is named, are refused with an
        ``InputError``.
    """
    images = as_images(source, name="forget", shape=shape, convert=convert)
    if classes and len(class_names(images)) > 1:
        require_one_order(source, classes, "forget_class")
        return split_by_class(images, classes)[0]
    return images if isinstance(source, ImageSet) else _unless_of_several(images, source)


def forgetting(images: ImageSet) -> str:
    """What is forgotten, in a line: how many images of what, and how many files beside them were not read."""
    n, distinct = len(images), n_distinct(images)
    twice = f" ({distinct} distinct)" if distinct < n else ""
    skipped = passed_over(images.passed_over)
    return f"forgetting {n} image{'s' * (n != 1)}{twice}: {images.description}{f'; {skipped}' if skipped else ''}"


def record_of(images: ImageSet, model_classes: Sequence[str] = ()) -> dict[str, Any]:
    """What ``run.json`` holds of a forget set, besides its source and the classes that were named.

    Args:
        images: the forget set.
        model_classes: classes or prompts of the model; with any, the names of the images' classes say what is forgotten.

    Returns:
        description, n_images and sha256; class_names and passed_over where there are any.
    """
    found: dict[str, Any] = {"description": images.description, "n_images": len(images), "sha256": images.sha256}
    found |= {"class_names": class_names(images)} if model_classes and images.class_names else {}
    return found | ({"passed_over": dict(images.passed_over)} if images.passed_over else {})


def class_names(images: ImageSet) -> list[str]:
    """Names of the classes that are present; empty for images without labels."""
    present = [] if images.labels is None else images.labels.unique().tolist()
    return [images.class_names[label] if images.class_names else str(label) for label in present]


def content_of(images: ImageSet, model_classes: Sequence[str]) -> str:
    """What images are to a model, in a word for checks and keys.

    Args:
        images: the images.
        model_classes: classes or prompts of the model, which images are matched with by name; an unconditional model has none.

    Returns:
        Their ``sha256``, which covers the numbers of their classes; with the names where these are not the model's own.
    """
    if not model_classes or images.class_names is None or tuple(images.class_names) == tuple(model_classes):
        return images.sha256
    return f"{images.sha256} {class_names(images)}"


def reload_forget(folder: Path, shape: tuple[int, int, int]) -> ImageSet:
    """Reload the forget set of a finished run and check that it is unchanged.

    Args:
        folder: the run folder.
        shape: channels, height and width of the model.

    Returns:
        The images.

    Raises:
        InputError: if the images, or the names of their classes, are not those that the run forgot.
    """
    images, record = current_forget(folder, shape), read_json(folder / "run.json")["inputs"]["forget"]
    if images.sha256 != record["sha256"]:
        config = read_toml(folder / "config.toml")
        if _is_stored(config):
            raise InputError(
                f"{folder / STORED}: holds other images than this run forgot (their hash differs). Make the run again."
            )
        raise InputError(
            f"forget: the images at {config['forget']} are not those that this run forgot (their hash differs). Put them back."
        )
    known, names = record.get("class_names"), class_names(images)
    if known is not None and names != known:
        place = read_toml(folder / "config.toml")["forget"]
        raise InputError(
            f"forget: the images at {place} are now of class {', '.join(names[:10])}; this run forgot them as "
            f"{', '.join(known[:10])}. Give the classes their former names."
        )
    return images


def current_forget(folder: Path, shape: tuple[int, int, int] | None) -> ImageSet:
    """Load the images that are now where a run's forget set, or that of two compared pipelines, came from, unchanged or not.

    Args:
        folder: the run folder, or the folder of the evidence.
        shape: channels, height and width of the model; None takes those of the first image.

    Returns:
        The images. A source that is gone or cannot be read, or of which the folder holds only the hash, is refused with an ``InputError``.
    """
    config = read_toml(folder / "config.toml")
    if read_json(folder / "run.json").get("verb") == "evaluate":
        return _of_evidence(folder, config, shape)
    if _is_stored(config):
        return _read_forget(folder / STORED)
    options = {"classes": config.get("forget_class", ()), "convert": config.get("convert", False)}
    model = read_json(folder / "run.json")["inputs"].get("model", {})
    names = model.get("class_names", ()) if model.get("conditioned_on", "classes") == "classes" else ()
    return with_names_of(forget_images(config["forget"], shape, **options), names)


def with_names_of(images: ImageSet, model_classes: Sequence[str]) -> ImageSet:
    """Images with labels for a class-conditional model: numbers without names are the model's classes.

    Args:
        images: the images.
        model_classes: names of the model's classes; of another model none.

    Returns:
        The images, with the model's names where they have labels without names.
    """
    if images.labels is None or images.class_names is not None or int(images.labels.max()) >= len(model_classes):
        return images
    return replace(images, class_names=tuple(model_classes))


def _of_evidence(folder: Path, config: dict[str, Any], shape: tuple[int, int, int] | None) -> ImageSet:
    """What :func:`current_forget` gives for two compared pipelines."""
    source = config["forget"]
    if source == GIVEN:
        raise InputError(
            f"forget: the images were given in Python, and {folder} holds only their hash. To have them checked, evaluate their folder."
        )
    if source == DRAWN:
        raise InputError(
            f"forget: the images were drawn from the model before, and {folder} holds only their hash. `vdu evaluate` draws them again."
        )
    if not config.get("forget_prompt"):
        return compared_images(source, shape, config.get("forget_class", ()))
    images = forget_images(source, shape)
    if has_captions(images, config["forget_prompt"]):
        return images
    recorded = read_json(folder / "run.json")["inputs"]["forget"].get("sha256")
    return _under_prompts(images, folder / "metrics.json", recorded)


def has_captions(images: ImageSet, concepts: Sequence[str]) -> bool:
    """Whether the classes of images are captions that name a concept, and not the names of folders."""
    told = any(naming.names(each, concept) for each in images.class_names or () for concept in concepts)
    return images.labels is not None and told


def dealt(images: ImageSet, places: Sequence[int], known: Sequence[str]) -> ImageSet:
    """Images of what is to be forgotten, under its labels or prompts in turn.

    Args:
        images: whatever their own labels are.
        places: of these labels or prompts among all, at least one.
        known: all labels or prompts of the model, in order.

    Returns:
        The images, with the places as labels, and with what was passed over beside them.
    """
    labels = torch.tensor([places[i % len(places)] for i in range(len(images))])
    return replace(images, labels=labels, class_names=tuple(known))


def _under_prompts(images: ImageSet, metrics: Path, recorded: str | None) -> ImageSet:
    """Images without captions as an evaluation in words labels them; as earlier versions did if the record is of that."""
    try:
        sets = {each["name"]: tuple(each["prompts"]) for each in read_json(metrics)["words"]["sets"]}
        known = (*sets["others"], *sets["target"])
        places = [known.index(each) for each in sets["target"]]
        now, earlier = dealt(images, places, known), dealt(images, places[:1], known)
    except (KeyError, TypeError, IndexError, ZeroDivisionError) as error:
        raise InputError(
            f"{metrics}: lacks the prompts that the models were asked with ({error}). Run `vdu evaluate` again."
        ) from None
    return earlier if earlier.sha256 == recorded else now


def _is_stored(config: dict[str, Any]) -> bool:
    """Whether the run folder holds the forget set: its labels are not those of its source, or it has none."""
    return bool(config.get("forget_label") or config.get("forget_prompt") or not config.get("forget"))


def write_forget(folder: Path, images: ImageSet) -> None:
    """Store a forget set in a run folder, for its evaluation."""
    tensors = {"images": images.images.contiguous()} | ({} if images.labels is None else {"labels": images.labels})
    with atomic_file(folder / STORED) as temporary:
        names = json.dumps({"class_names": images.class_names, "description": images.description})
        save_file(tensors, temporary, {"names": names})


def _read_forget(path: Path) -> ImageSet:
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["names"])
            images = file.get_tensor("images")
            labels = file.get_tensor("labels") if "labels" in file.keys() else None
        names = None if about["class_names"] is None else tuple(about["class_names"])
        return ImageSet(images, labels, class_names=names, description=about["description"])
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); expected the forget set of this run. Make the run again."
        ) from None
