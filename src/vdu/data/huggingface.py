"""Images by way of the Hugging Face ``datasets`` library (the extra ``datasets``).

A local folder is read by its ``imagefolder`` builder, which needs no network; any other name is loaded from the Hub. That builder
goes by names: it takes no image without a usual suffix, finds splits in file names ("test_1.png"), and with metadata takes what they
list. A folder of which it would leave out images is refused.

The images are the only column of type Image; labels the column ``label``, or else the only ClassLabel; names the
column ``id`` if it holds text, or else a local file's path below the folder.

Not guaranteed: that the data on the Hub stay the same; the set's SHA-256 shows changes.
"""

import io
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vdu.core.errors import InputError
from vdu.core.paths import given_path
from vdu.data.decode import Shape, complaint, decode_all, open_image
from vdu.data.folder import left_out
from vdu.data.images import ImageSet

__all__ = ["load_huggingface"]


def load_huggingface(name: str, split: str, shape: Shape | None, convert: bool) -> ImageSet:
    """Load a split of a Hugging Face data set.

    Args:
        name: of the data set on the Hub, or a local folder.
        split: "train" or "test".
        shape: channels, height and width of every image; None means those of the first.
        convert: see ``vdu.data.decode``.

    Returns:
        The images, in the data set's order.

    Raises:
        InputError: if the library is missing, the data set cannot be loaded, a local folder holds images that it leaves out, or images
            do not fit.
    """
    try:
        datasets: Any = import_module("datasets")
    except ImportError as error:
        raise InputError(
            'hf: needs the library "datasets". Install it with: pip install ".[datasets]" in the clone.'
        ) from error
    path = given_path(name, "images")
    folder = path if path.is_dir() else None
    try:
        if folder:
            data = datasets.load_dataset("imagefolder", data_dir=str(folder), split=split)
        else:
            data = datasets.load_dataset(name, split=split)
    except Exception as error:  # the library and the Hub client raise different kinds of errors
        raise InputError(
            f"hf:{name}: cannot be loaded ({error}). Check the name, the split and the network."
        ) from error
    columns = [column for column, kind in data.features.items() if isinstance(kind, datasets.Image)]
    if len(columns) != 1 or not len(data):
        raise InputError(
            f"hf:{name}: {len(data)} rows with the image columns {columns}; expected rows and exactly one such column. "
            "Save the images into a folder and load that."
        )
    files = list(data.cast_column(columns[0], datasets.Image(decode=False))[columns[0]])
    paths = [file and file.get("path") for file in files]
    passed_over = _passed_over(name, folder, paths, split) if folder else {}
    labels, class_names = _labels(name, data, datasets.ClassLabel)
    if folder and labels is None and len({Path(path).parent for path in paths if path}) > 1:
        raise InputError(
            f"hf:{name}: has subfolders but no labels: a metadata file hides them. Give the metadata a column "
            '"label" (and "id"), or load the folder without the prefix hf:.'
        )
    names = _names(data, folder, paths)
    called = names or [f"row {i}" for i in range(len(files))]
    images = decode_all(f"hf:{name}", called, [partial(_open, file) for file in files], shape, convert)
    return ImageSet(images, labels, tuple(names) if names else None, class_names, f"{name} {split}", passed_over)


def _passed_over(name: str, folder: Path, paths: list[str | None], split: str) -> dict[str, int]:
    """How many files of what kind are passed over in a local folder.

    Args:
        name: of the data set.
        folder: the folder.
        paths: of the images that were read, absolute.
        split: what was asked for.

    Returns:
        Numbers by kind; without texts, since metadata are texts that are read.

    Raises:
        InputError: if images are left out.
    """
    home = folder.resolve()
    read = {Path(path).relative_to(home).as_posix() for path in paths if path and Path(path).is_relative_to(home)}
    others, passed_over = left_out(home, read)
    missed = [each for each in others if Path(each).name != "metadata.parquet"]
    if missed:
        raise InputError(
            complaint(
                f"hf:{name}",
                missed,
                len(read) + len(missed),
                f"files are not among those that imagefolder reads as the split {split!r}",
                "Load the folder without the prefix hf:, which goes by the content of files; or move them, or name them in the metadata.",
            )
        )
    return {kind: n for kind, n in passed_over.items() if kind != "text"}


def _open(file: dict[str, Any] | None) -> Image.Image:
    if not file or not (file.get("bytes") or file.get("path")):
        raise InputError("no image in this row")
    return open_image(io.BytesIO(file["bytes"]) if file.get("bytes") else Path(file["path"]))


def _names(data: Any, folder: Path | None, paths: list[str | None]) -> list[str] | None:
    ids = list(data["id"]) if "id" in data.column_names else []
    if ids and all(isinstance(each, str) for each in ids) and len(set(ids)) == len(ids):
        return ids
    if folder and all(path and Path(path).is_relative_to(folder.resolve()) for path in paths):
        return [Path(path).relative_to(folder.resolve()).as_posix() for path in paths if path]
    return None


def _labels(name: str, data: Any, class_label: type) -> tuple[torch.Tensor | None, tuple[str, ...] | None]:
    kinds = {column: kind for column, kind in data.features.items() if isinstance(kind, class_label)}
    if "label" in data.column_names:
        column = "label"
    elif len(kinds) <= 1:
        column = next(iter(kinds), None)
    else:
        raise InputError(f"hf:{name}: several label columns ({', '.join(kinds)}), none of them named 'label'.")
    if column is None:
        return None, None
    values = list(data[column])
    if column in kinds and all(isinstance(value, int) for value in values):
        return torch.tensor(values), tuple(kinds[column].names)
    if any(not isinstance(value, str | int) for value in values):
        raise InputError(
            f"hf:{name}: the column {column!r} holds {type(values[0]).__name__}, expected text or integers."
        )
    if all(isinstance(value, int) for value in values):
        return torch.tensor(values, dtype=torch.int64), None
    class_names = sorted({str(value) for value in values})
    index = {each: i for i, each in enumerate(class_names)}
    return torch.tensor([index[str(value)] for value in values]), tuple(class_names)
