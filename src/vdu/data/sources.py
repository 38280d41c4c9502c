"""Images from wherever they are, by one short name.

================  =====================================================================================================
``mnist``         the folder in the environment variable VDU_MNIST if set, else fetched once into the cache
``mnist:FOLDER``  MNIST's four files, plain or gzip; MD5 verified
``mnist-mini``    packaged: the first 1000 training images of each digit; its test split is MNIST's own
``idx:FOLDER``    other data with MNIST's file names and format; no sums
``cifar10``       fetched once into the cache
``cifar10:FOLDER``  the official binary batches; MD5 verified
``digits``        scikit-learn's 8 × 8 digits
``hf:NAME``       a Hugging Face data set, or a local folder read by its ``imagefolder``
a folder          its images, recursively; labels if it holds class folders only, or has the layout of tiny-imagenet-200
a text file       image paths, one per line, relative to the file
================  =====================================================================================================

Nothing is guessed: a name that is also that of a file or folder here is refused; ``./mnist``, or a ``Path``, is the folder, and is
refused where there is none.
Nothing is converted unless ``convert`` asks for it: an image of the wrong size or colour mode stops the load.

Not guaranteed: that two files with the same pixels are noticed.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vdu.core.cache import cache_folder
from vdu.core.errors import InputError, shown
from vdu.core.paths import given_path, require_text
from vdu.core.ranges import COUNT, require_flags, require_kind
from vdu.core.surroundings import own_torch
from vdu.data.cifar import fetch_cifar10, load_cifar10_folder
from vdu.data.decode import fit_shape
from vdu.data.digits import load_digits
from vdu.data.download import fetch
from vdu.data.folder import load_folder, load_list
from vdu.data.huggingface import load_huggingface
from vdu.data.idx import MNIST_MD5, SPLIT_FILES, load_idx_folder, read_idx
from vdu.data.images import ImageSet
from vdu.data.tiny_imagenet import is_tiny_imagenet, load_tiny_imagenet

__all__ = ["MNIST_MIRRORS", "absolute", "fetch_mnist", "is_data_set", "load_images", "place_of"]

MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_NAMES = ("mnist", "mnist-mini", "idx", "cifar10", "digits")
_MINI_FOLDER = Path(__file__).parent / "mnist_mini"  # made by tools/make_mnist_mini.py
_MINI_MD5 = MNIST_MD5 | {
    "train-images-idx3-ubyte": "d2442bc08bd5ff7a07250f72c4d51549",
    "train-labels-idx1-ubyte": "2367398df9813ee76715953f5039d74b",
}
_KINDS = (
    "mnist, mnist:FOLDER, mnist-mini, idx:FOLDER, cifar10, cifar10:FOLDER, digits, hf:NAME, a folder of images "
    "or a list file"
)


@own_torch()
def load_images(
    spec: str | Path,
    *,
    shape: tuple[int, int, int] | None = None,
    split: str | None = None,
    convert: bool = False,
    cache_dir: Path | str | None = None,
) -> ImageSet:
    """Load images.

    Args:
        spec: which ones: a folder, a text file of paths, or a name of the table in :mod:`vdu.data.sources`, such as "mnist-mini".
        shape: channels (1 or 3), height and width that every image must have; None means those of the first image.
        split: "train" or "test", where the source has both; None means "train" for a named data set, and refuses a folder that
            holds several splits.
        convert: make images of another size or mode fit ``shape``: to grey or RGB, resized (bicubic with antialiasing)
            until the image covers the shape, and the centre kept.
        cache_dir: where fetched files live; None means the cache (:func:`vdu.core.cache.cache_folder`).

    Returns:
        The images, in the source's order; those of folders and lists sorted by name.

    Raises:
        InputError: if there is no such source, it is damaged, or images do not fit; names all that do not.
    """
    if not isinstance(spec, str | Path):
        raise InputError(f"images: got {shown(spec)}; expected {_KINDS}.")
    if split is not None and (not isinstance(split, str) or split not in SPLIT_FILES):
        raise InputError(f"split: got {shown(split)}, expected 'train' or 'test'.")
    require_flags({"convert": convert}, "convert")
    require_kind("cache_dir", cache_dir, str | Path, "a path")
    _require_shape(shape, convert)
    kind, place = _parsed(spec)
    try:
        if kind == "hf":
            return load_huggingface(place, split or "train", shape, convert)
        if kind:
            return fit_shape(_load_known(kind, place, split or "train", cache_folder(cache_dir)), shape, convert)
        path = given_path(spec, "images")
        if path.is_dir():
            load = load_tiny_imagenet if is_tiny_imagenet(path) else load_folder
            return load(path, split, shape, convert)
        if path.is_file():
            return load_list(path, split, shape, convert)
    except OSError as error:
        raise InputError(f"{spec}: cannot be read ({error}). Check the path and its permissions.") from error
    named = (
        f" A Path is a folder or a file; for the data set give the text {str(spec)!r}." if _is_name(str(spec)) else ""
    )
    raise InputError(f"{spec}: no such source, folder or file; expected {_KINDS}.{named}")


def is_data_set(spec: str | Path) -> bool:
    """Whether a source is a data set, of which "train" is taken where no split is named; else it is a folder or a list of images."""
    kind, place = _parsed(spec)
    return bool(kind) or is_tiny_imagenet(given_path(place, "images"))


def place_of(spec: str | Path) -> Path | None:
    """The folder or file that a source reads, absolute; None for a data set that is packaged or fetched."""
    _, place = _parsed(spec)
    path = given_path(place, "images") if place else None
    return path.resolve() if path is not None and path.exists() else None


def absolute(spec: str | Path) -> str:
    """A source with its path, if any, made absolute, so that it means the same in another folder."""
    kind, _ = _parsed(spec)
    place = place_of(spec)
    return str(spec) if place is None else f"{kind}:{place}" if kind else str(place)


def _is_name(text: str) -> bool:
    """Whether a text stands for a data set."""
    kind, colon, _ = text.partition(":")
    return kind in _NAMES or (kind == "hf" and bool(colon))


def _parsed(spec: str | Path) -> tuple[str, str]:
    """What a source means.

    Returns:
        Its kind (empty for a folder or a list, which every ``Path`` is), and its place (empty for a packaged or fetched data set).

    Raises:
        InputError: if the text cannot be read so, or stands for a data set and for a file or folder here.
    """
    text = str(spec)
    require_text(text, "images")
    kind, colon, place = text.partition(":")
    if isinstance(spec, Path) or not _is_name(text):
        return "", text
    if os.path.exists(text):
        raise InputError(
            f"{text}: is a file or folder here and the name of a data set. Write ./{text} for the one here (in Python also a Path); for "
            "the data set rename the other, or work in another folder."
        )
    if colon and not place:
        raise InputError(f"{text}: nothing after the colon; expected {_KINDS}.")
    if text == "idx" or (colon and kind in ("digits", "mnist-mini")):
        raise InputError(f"{text}: {'needs a folder' if text == 'idx' else 'takes no folder'}; expected {_KINDS}.")
    return kind, place


def _require_shape(shape: Any, convert: bool) -> None:
    whole = isinstance(shape, Sequence) and len(shape) == 3 and all(COUNT.holds(each) for each in shape)
    if shape is not None and not (whole and shape[0] in (1, 3)):
        got = tuple(shape) if whole else shown(shape)
        raise InputError(f"shape: got {got}, expected channels (1 or 3), height and width.")
    if convert and shape is None:
        raise InputError("convert: needs the shape to convert to. Give channels, height and width.")


def _load_known(kind: str, place: str, split: str, cache: Path) -> ImageSet:
    if kind == "digits":
        return load_digits(split)
    if kind == "mnist-mini":
        images = load_idx_folder(_MINI_FOLDER, split, _MINI_MD5)
        return images.select(range(len(images)), f"MNIST mini ({split})")
    if kind == "cifar10":
        return load_cifar10_folder(given_path(place) if place else fetch_cifar10(cache / "cifar10"), split)
    if kind == "mnist" and not place:
        place = os.environ.get("VDU_MNIST") or str(fetch_mnist(cache / "mnist", split))
    return load_idx_folder(given_path(place), split, MNIST_MD5 if kind == "mnist" else None)


def fetch_mnist(folder: Path, split: str, mirrors: Sequence[str] = MNIST_MIRRORS) -> Path:
    """Make sure that a split of MNIST is in a folder.

    Args:
        folder: the cache.
        split: "train" or "test".
        mirrors: addresses ending in "/", tried in order.

    Returns:
        ``folder``.
    """
    for name, ndim in zip(SPLIT_FILES[split], (3, 1), strict=True):
        fetch(
            folder / f"{name}.gz",
            [f"{mirror}{name}.gz" for mirror in mirrors],
            lambda path, name=name, ndim=ndim: read_idx(path, ndim=ndim, md5=MNIST_MD5[name]),
            max_bytes=1 << 24,  # the largest is 9.9 MB
            otherwise="use mnist-mini, the packaged part of it; or put MNIST's four files into a folder and use mnist:FOLDER, or "
            "set VDU_MNIST to it.",
        )
    return folder
