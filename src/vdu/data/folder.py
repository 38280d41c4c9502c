"""Images in a folder, or listed in a text file; sorted by name, so that a set has one order everywhere.

A folder that holds only folders is a set of classes: the first folder on an image's path is its class. A folder that
holds only splits (train, test, val, validation) is entered at the requested split. Hidden files, and companions such
as captions, are ignored; any other file that is not an image is an error, so that no forget image is missed.

Not guaranteed: that two links to one file are noticed.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image

from vdu.core.errors import InputError
from vdu.data.decode import Shape, complaint, decode_all, open_image
from vdu.data.images import ImageSet

__all__ = ["load_folder", "load_list"]

_IMAGES = {
    ".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
}  # fmt: skip
_COMPANIONS = {"", ".csv", ".json", ".jsonl", ".md", ".txt", ".toml", ".yaml", ".yml"}
_SPLITS = {"train", "test", "val", "valid", "validation"}


def load_folder(root: Path, split: str, shape: Shape | None, convert: bool) -> ImageSet:
    """Load all images of a folder.

    Args:
        root: the folder.
        split: "train" or "test"; a folder without splits is all "train".
        shape: channels, height and width of every image; None means those of the first.
        convert: see ``vdu.data.decode``.

    Returns:
        The images, named by their path below the folder, with labels if it holds only folders.

    Raises:
        InputError: if it holds no images, no such split, files of an unknown kind, or images that do not fit.
    """
    root = _enter_split(root, split)
    names = _image_names(root)
    if not names:
        raise InputError(
            f"{root}: holds no image files ({' '.join(sorted(_IMAGES))}). For data in one file: mnist:FOLDER, "
            "cifar10:FOLDER or hf:FOLDER."
        )
    labels, class_names = _labels(root, names)
    images = decode_all(str(root), names, [_opener(root / name) for name in names], shape, convert)
    return ImageSet(images, labels, tuple(names), class_names, str(root))


def load_list(file: Path, split: str, shape: Shape | None, convert: bool) -> ImageSet:
    """Load the images listed in a text file.

    Args:
        file: UTF-8, one path per line, relative to the file's folder or absolute; empty lines are ignored.
        split: must be "train": a list has no splits.
        shape: channels, height and width of every image; None means those of the first.
        convert: see ``vdu.data.decode``.

    Returns:
        The images, sorted by path and named by it.

    Raises:
        InputError: if the file is not such a list, has duplicates, or names files that are missing or do not fit.
    """
    _only_train(file, split)
    if file.suffix.lower() in _IMAGES:
        raise InputError(f"{file}: is one image; expected a folder, or a text file with one image path per line.")
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise InputError(f"{file}: is not a text file; expected one image path per line, in UTF-8.") from None
    names = sorted(Path(os.path.normpath(line)).as_posix() for line in lines if line)
    if not names or "\0" in "".join(names):
        raise InputError(f"{file}: names no images; expected one image path per line.")
    if len(set(names)) < len(names):
        twice = sorted({name for name, following in pairwise(names) if name == following})
        raise InputError(
            complaint(str(file), twice, len(set(names)), "images are named more than once", "Name each image once.")
        )
    missing = [name for name in names if not (file.parent / name).is_file()]
    if missing:
        hint = f"Paths are relative to {file.parent}."
        raise InputError(complaint(str(file), missing, len(names), "images do not exist", hint))
    images = decode_all(str(file), names, [_opener(file.parent / name) for name in names], shape, convert)
    return ImageSet(images, names=tuple(names), description=str(file))


def _opener(path: Path) -> Callable[[], Image.Image]:
    return partial(open_image, path)


def _only_train(place: Path, split: str) -> None:
    if split != "train":
        raise InputError(f"{place}: has no {split} split. Put the images into {place}/{split}, or ask for 'train'.")


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX")))


def _enter_split(root: Path, split: str) -> Path:
    held = _visible(root)
    if held and all(path.is_dir() and path.name in _SPLITS for path in held):
        if root / split not in held:
            raise InputError(f"{root}: holds the splits {', '.join(p.name for p in held)}, but not {split!r}.")
        return root / split
    _only_train(root, split)
    return root


def _image_names(root: Path) -> list[str]:
    names, strangers = [], []
    stack = [root]
    while stack:
        for path in _visible(stack.pop()):
            suffix = path.suffix.lower()
            name = path.relative_to(root).as_posix()
            if path.is_dir() and not path.is_symlink():
                stack.append(path)
            elif path.is_file() and suffix in _IMAGES:
                names.append(name)
            elif path.is_symlink() or suffix not in _COMPANIONS:
                strangers.append(name)
    if strangers:
        hint = "Convert them to PNG or remove them; a link to a folder, or to nothing, is not followed."
        total = len(names) + len(strangers)
        raise InputError(
            complaint(str(root), sorted(strangers), total, "files are of a kind that cannot be read", hint)
        )
    return sorted(names)


def _labels(root: Path, names: Sequence[str]) -> tuple[torch.Tensor | None, tuple[str, ...] | None]:
    if any("/" not in name for name in names):
        return None, None
    firsts = [name.split("/", 1)[0] for name in names]
    class_names = sorted(set(firsts))
    empty = sorted({path.name for path in _visible(root) if path.is_dir()} - set(class_names))
    if empty:
        raise InputError(f"{root}: the class folders {', '.join(empty)} hold no images. Fill or remove them.")
    index = {name: i for i, name in enumerate(class_names)}
    return torch.tensor([index[first] for first in firsts]), tuple(class_names)
