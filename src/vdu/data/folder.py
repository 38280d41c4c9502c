"""Images in a folder, or listed in a text file; sorted by name, so that a set has one order everywhere.

A folder that holds only folders is a set of classes: the first folder on an image's path is its class. Where images lie beside folders,
or the only folder holds folders alone, a line says what the folders are taken for. A folder whose only folders
are splits (train, test, val and the like) is entered at the requested split; without a request several splits are an error, and so
are images beside splits, and splits inside class folders: they would turn training and test images into one set.

Files are taken by their content, whatever their names. Hidden files, those of the operating system (Thumbs.db) and texts (captions,
tables) are passed over and counted; any other file that is not an image is an error, so that no forget image is missed.

Not guaranteed: that two links to one file are noticed.
"""

import os
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image

from vdu.core.errors import InputError
from vdu.core.paths import require_text
from vdu.core.processes import say
from vdu.data.decode import Shape, complaint, decode_all, is_image, is_text, open_image
from vdu.data.images import ImageSet

__all__ = ["left_out", "load_folder", "load_list"]

_IMAGES = {
    ".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
}  # fmt: skip
_COMPANIONS = {"", ".csv", ".json", ".jsonl", ".md", ".txt", ".toml", ".yaml", ".yml"}
_SYSTEM = {"desktop.ini", "thumbs.db"}
_SPLITS = {"dev", "eval", "test", "testing", "train", "training", "val", "valid", "validation"}


def load_folder(root: Path, split: str | None, shape: Shape | None, convert: bool) -> ImageSet:
    """Load all images of a folder.

    Args:
        root: the folder.
        split: "train" or "test"; a folder without splits is all "train". None takes all of such a folder, or its only split.
        shape: channels, height and width of every image; None means those of the first.
        convert: see ``vdu.data.decode``.

    Returns:
        The images, named by their path below the folder, with labels if it holds only folders.

    Raises:
        InputError: if it holds no images, no such split, images beside splits, files of an unknown kind, or images that do not fit.
    """
    root, beside = _enter_split(root, split)
    names, passed_over = _image_names(root)
    if not names:
        raise InputError(
            f"{root}: holds no image files ({' '.join(sorted(_IMAGES))}). For data in one file: mnist:FOLDER, "
            "cifar10:FOLDER or hf:FOLDER."
        )
    labels, class_names = _labels(root, names)
    _tell_of_no_classes(root, names)
    images = decode_all(str(root), names, [_opener(root / name) for name in names], shape, convert)
    return ImageSet(images, labels, tuple(names), class_names, str(root), passed_over + beside)


def load_list(file: Path, split: str | None, shape: Shape | None, convert: bool) -> ImageSet:
    """Load the images listed in a text file.

    Args:
        file: UTF-8, one path per line, relative to the file's folder or absolute; empty lines are ignored.
        split: must be "train" or None: a list has no splits.
        shape: channels, height and width of every image; None means those of the first.
        convert: see ``vdu.data.decode``.

    Returns:
        The images, sorted by path and named by it.

    Raises:
        InputError: if the file is not such a list, has duplicates, or names files that are missing or do not fit.
    """
    _only_train(file, split)
    if file.suffix.lower() in _IMAGES or is_image(file):
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


def left_out(root: Path, read: Collection[str]) -> tuple[list[str], Counter[str]]:
    """The files of a folder that another reader did not take.

    Args:
        root: the folder.
        read: the files that it took, as paths below the folder; of a folder of splits only the splits that they are in count.

    Returns:
        The images and the files of unknown kinds that are not among them, sorted, as paths below the folder; and how many files of what
        kind :func:`load_folder` passes over.
    """
    names, strangers, passed_over = _files(root)
    splits, entered = _is_split(root), {name.split("/", 1)[0] for name in read}
    missed = {
        name for name in (*names, *strangers) if not splits or "/" not in name or name.split("/", 1)[0] in entered
    }
    return sorted(missed - set(read)), passed_over


def _opener(path: Path) -> Callable[[], Image.Image]:
    return partial(open_image, path)


def _only_train(place: Path, split: str | None) -> None:
    if split not in (None, "train"):
        raise InputError(
            f"{place}: has no {split} split. Put the images into {place}/{split}; without them there is only 'train'."
        )


def _is_hidden(path: Path) -> bool:
    return path.name.startswith((".", "__MACOSX"))


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not _is_hidden(path))


def _n_files(path: Path) -> int:
    """Files below a folder, at any depth; a file, a link, or a folder that cannot be read counts as one."""
    if not path.is_dir() or path.is_symlink():
        return 1
    closed: list[OSError] = []
    return sum(len(files) for _, _, files in os.walk(path, onerror=closed.append)) + len(closed)


def _is_split(root: Path) -> bool:
    """Whether the only folders in a folder are splits."""
    folders = [path for path in _visible(root) if path.is_dir()]
    return bool(folders) and all(path.name.lower() in _SPLITS for path in folders)


def _enter_split(root: Path, split: str | None) -> tuple[Path, Counter[str]]:
    """The folder of the split, or the root if it has none, and how many files of what kind are passed over beside the splits."""
    folders = [path for path in _visible(root) if path.is_dir()]
    if not _is_split(root):
        _only_train(root, split)
        return root, Counter()
    names, wanted = ", ".join(path.name for path in folders), [path for path in folders if path.name.lower() == split]
    beside, strangers, passed_over = _files(root, below=False)
    if beside:
        some, one = f"{len(beside)} image{'s' * (len(beside) != 1)}", (wanted or folders)[0]
        raise InputError(
            f"{root}: holds {some} ({beside[0]}{', …' * (len(beside) > 1)}) beside the split{'s' * (len(folders) != 1)} {names}; "
            f"expected splits alone. Move the image{'s' * (len(beside) != 1)} elsewhere, or name one folder, such as {one}; a folder that "
            "is no split needs another name."
        )
    _require_known(root, beside, strangers)
    if split is None and len(folders) > 1:
        raise InputError(
            f"{root}: holds the splits {names}; expected one of them, such as {folders[0]}. For the images of all, put them into one "
            "folder without splits."
        )
    if split is not None and not wanted:
        raise InputError(f"{root}: holds the splits {names}, but not {split!r}.")
    return wanted[0] if wanted else folders[0], passed_over


def _image_names(root: Path) -> tuple[list[str], Counter[str]]:
    """The paths of the images below a folder, and how many files of what kind were passed over; other files are an error."""
    names, strangers, passed_over = _files(root)
    _require_known(root, names, strangers)
    return names, passed_over


def _require_known(root: Path, names: Sequence[str], strangers: Sequence[str]) -> None:
    """Raise an error for files of unknown kinds beside images."""
    if strangers:
        hint = "Convert them to PNG or remove them; a link to a folder, or to nothing, is not followed."
        total = len(names) + len(strangers)
        raise InputError(complaint(str(root), strangers, total, "files are of a kind that cannot be read", hint))


def _files(root: Path, *, below: bool = True) -> tuple[list[str], list[str], Counter[str]]:
    """The images of a folder, the files of unknown kinds, and how many of what kind are passed over; with or without those below it."""
    names, strangers, passed_over = [], [], Counter[str]()
    stack = [root]
    while stack:
        folder = stack.pop()
        held = _visible(folder)
        passed_over["hidden"] += sum(_n_files(path) for path in folder.iterdir() if _is_hidden(path))
        for path in held:
            suffix = path.suffix.lower().rstrip(".")
            name = path.relative_to(root).as_posix()
            if path.is_dir() and not (below and path.is_symlink()):
                stack += [path] * below
            elif path.is_file() and (suffix in _IMAGES or is_image(path)):
                names.append(name)
            elif path.is_file() and path.name.lower() in _SYSTEM:
                passed_over["of the operating system"] += 1
            elif path.is_file() and suffix in _COMPANIONS and is_text(path):
                passed_over["text"] += 1
            else:
                strangers.append(name)
    return sorted(names), sorted(strangers), +passed_over


def _require_unsplit(root: Path, names: Sequence[str]) -> None:
    """Raise an error for class folders that hold splits: they would turn training and test images into one set."""
    inside = [parts for name in names if len(parts := name.split("/")) > 2 and parts[1].lower() in _SPLITS]
    splits = sorted({parts[1].lower() for parts in inside})
    if len(splits) > 1:
        first, second = inside[0][:2]
        raise InputError(
            f"{root}: its class folders hold the splits {', '.join(splits)}, such as {first}/{second}; expected class "
            f"folders below splits. Move the images to {second}/{first} and so on."
        )


def _labels(root: Path, names: Sequence[str]) -> tuple[torch.Tensor | None, tuple[str, ...] | None]:
    if any("/" not in name for name in names):
        return None, None
    firsts = [name.split("/", 1)[0] for name in names]
    class_names = sorted(set(firsts))
    for name in class_names:
        require_text(name, "the name of a class folder")
    empty = sorted({path.name for path in _visible(root) if path.is_dir()} - set(class_names))
    if empty:
        raise InputError(f"{root}: the class folders {', '.join(empty)} hold no images. Fill or remove them.")
    _require_unsplit(root, names)
    index = {name: i for i, name in enumerate(class_names)}
    return torch.tensor([index[first] for first in firsts]), tuple(class_names)


def _tell_of_no_classes(root: Path, names: Sequence[str]) -> None:
    """Say of folders that may be meant as classes and are none: images lie beside them, or one folder holds them all."""
    parts = [name.split("/") for name in names]
    beside, outer = [each[0] for each in parts if len(each) == 1], sorted({each[0] for each in parts if len(each) > 1})
    if beside and outer:
        some = f"{beside[0]}{', …' * (len(beside) > 1)} lie{'s' * (len(beside) == 1)}"
        say(
            f"vdu: {root}: {some} beside the folders {_listed(outer)}, so that these are no classes, and no image has a label."
        )
    inner = sorted({each[1] for each in parts if len(each) > 2})
    if len(outer) == 1 and len(inner) > 1 and all(len(each) > 2 for each in parts):
        say(
            f"vdu: {root}: all images are of one class, {outer[0]}, the only folder in it; the folders {_listed(inner)} below are no "
            f"classes. To have them as classes, give {root / outer[0]}."
        )


def _listed(folders: Sequence[str]) -> str:
    return ", ".join(folders[:5]) + ", …" * (len(folders) > 5)
