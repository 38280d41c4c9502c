"""The images that a run forgets: where they are, which of them, and the same ones again for its evaluation."""

from pathlib import Path

from vdu.data.forget import split_by_class
from vdu.data.images import ImageSet
from vdu.data.sources import load_images
from vdu.errors import InputError
from vdu.recipes.settings import UnlearnSettings
from vdu.records import read_json

__all__ = ["absolute", "class_names", "forget_images", "reload_forget"]


def absolute(source: str) -> str:
    """A source of images with its path made absolute, where it has one."""
    from vdu.data.sources import NAMES

    kind, colon, place = source.rpartition(":")
    return source if source in NAMES or not Path(place).exists() else f"{kind}{colon}{Path(place).resolve()}"


def forget_images(settings: UnlearnSettings, shape: tuple[int, int, int]) -> ImageSet:
    """The images to forget, checked against the model's size.

    Args:
        settings: where they are, and which classes of them.
        shape: channels, height and width of the model.

    Returns:
        The forget set.

    Raises:
        InputError: if classes are asked of images without labels, or the reverse on a labelled data set.
    """
    images = load_images(settings.forget, shape=shape, convert=settings.convert)
    if settings.forget_class:
        return split_by_class(images, settings.forget_class)[0]
    if images.labels is not None and len(images.labels.unique()) > 1:
        names = images.class_names or tuple(map(str, images.labels.unique().tolist()))
        raise InputError(
            f"forget: {settings.forget} holds {len(names)} classes ({', '.join(names[:10])}); say which to forget with --forget-class, "
            "or give a folder that holds nothing but the unwanted images."
        )
    return images


def class_names(images: ImageSet) -> list[str]:
    """Names of the classes that are present; of images without labels none."""
    present = [] if images.labels is None else images.labels.unique().tolist()
    return [images.class_names[label] if images.class_names else str(label) for label in present]


def reload_forget(folder: Path, shape: tuple[int, int, int]) -> ImageSet:
    """The forget set of a finished run, checked to be the same images.

    Args:
        folder: the run folder.
        shape: channels, height and width of the model.

    Returns:
        The images.

    Raises:
        InputError: if the images are not those that the run forgot.
    """
    import tomllib

    config = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
    names = ("forget", "forget_class", "convert", "pipeline", "output_dir")
    images = forget_images(UnlearnSettings(**{name: config[name] for name in names if name in config}), shape)
    expected = read_json(folder / "run.json")["inputs"]["forget"]["sha256"]
    if images.sha256 != expected:
        raise InputError(
            f"forget: the images at {config['forget']} are not those that this run forgot (their hash differs). Put them back."
        )
    return images
