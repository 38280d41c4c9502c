"""The layout of tiny-imagenet-200: 64×64 images of 200 classes.

    wnids.txt                        the classes, one per line
    train/<class>/images/*.JPEG      the split "train"
    val/images/*.JPEG                the split "test"; val/val_annotations.txt has file, class, … separated by tabs
    test/images/*.JPEG               without labels, not read

Not guaranteed: that the images are those of the original archive.
"""

from collections import Counter
from functools import partial
from pathlib import Path

import torch

from vdu.core.errors import InputError
from vdu.data.decode import Shape, complaint, decode_all, open_image
from vdu.data.folder import left_out, load_folder
from vdu.data.images import ImageSet

__all__ = ["is_tiny_imagenet", "load_tiny_imagenet"]


def is_tiny_imagenet(root: Path) -> bool:
    """Whether a folder has this layout, by its list of classes."""
    return (root / "wnids.txt").is_file() and (root / "train").is_dir()


def load_tiny_imagenet(root: Path, split: str | None, shape: Shape | None, convert: bool) -> ImageSet:
    """Load a split with its labels.

    Args:
        root: the folder with ``wnids.txt``.
        split: "train" (also None) or "test", which is the published validation set.
        shape: channels, height and width of every image; None means those of the first.
        convert: see ``vdu.data.decode``. A few of the published images are grey, and need it.

    Returns:
        The images, sorted by name; both splits number the classes in the order of their names.

    Raises:
        InputError: if images or annotations are missing, or do not fit together.
    """
    classes = tuple(sorted((root / "wnids.txt").read_text(encoding="utf-8").split()))
    if split != "test":
        images = load_folder(root / "train", "train", shape, convert)
        if images.class_names != classes:
            raise InputError(
                f"{root}/train: its folders are not the classes of wnids.txt; expected one for each of {len(classes)}."
            )
        return images
    table = root / "val" / "val_annotations.txt"
    if not table.is_file():
        raise InputError(
            f"{table}: is missing; expected the classes of the validation images. Unpack the archive again."
        )
    rows = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines() if line.strip()]
    folder, class_of = root / "val" / "images", {row[0]: row[1] for row in rows if len(row) > 1}
    wrong = [row[0] for row in rows if class_of.get(row[0]) not in classes or not (folder / row[0]).is_file()]
    if wrong or not rows:
        raise InputError(
            complaint(str(table), wrong, len(rows), "lines name no image or no class", "Unpack the archive again.")
        )
    names = sorted(class_of)
    if twice := [name for name, n in Counter(row[0] for row in rows).items() if n > 1]:
        raise InputError(
            complaint(str(table), twice, len(names), "images have more than one line", "Unpack the archive again.")
        )
    others, passed_over = left_out(folder, names)
    if others:
        total = len(names) + len(others)
        raise InputError(
            complaint(str(folder), others, total, f"files have no line in {table}", "Unpack the archive again.")
        )
    pixels = decode_all(
        str(root / "val"),
        names,
        [partial(open_image, folder / name) for name in names],
        shape,
        convert,
    )
    labels = torch.tensor([classes.index(class_of[name]) for name in names])
    return ImageSet(pixels, labels, tuple(names), classes, str(root / "val"), passed_over)
