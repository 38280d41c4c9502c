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

Nothing is converted unless ``convert`` asks for it: an image of the wrong size or colour mode stops the load.

Not guaranteed: that two files with the same pixels are noticed.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from vdu.core.cache import cache_folder
from vdu.core.errors import InputError, shown
from vdu.data.cifar import fetch_cifar10, load_cifar10_folder
from vdu.data.decode import fit_shape
from vdu.data.digits import load_digits
from vdu.data.download import fetch
from vdu.data.folder import load_folder, load_list
from vdu.data.huggingface import load_huggingface
from vdu.data.idx import MNIST_MD5, SPLIT_FILES, load_idx_folder, read_idx
from vdu.data.images import ImageSet
from vdu.data.tiny_imagenet import is_tiny_imagenet, load_tiny_imagenet

__all__ = ["MNIST_MIRRORS", "NAMES", "fetch_mnist", "load_images"]

MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
NAMES = ("mnist", "mnist-mini", "idx", "cifar10", "digits")
_MINI_FOLDER = Path(__file__).parent / "mnist_mini"  # made by tools/make_mnist_mini.py
_MINI_MD5 = MNIST_MD5 | {
    "train-images-idx3-ubyte": "d2442bc08bd5ff7a07250f72c4d51549",
    "train-labels-idx1-ubyte": "2367398df9813ee76715953f5039d74b",
}
_KINDS = (
    "mnist, mnist:FOLDER, mnist-mini, idx:FOLDER, cifar10, cifar10:FOLDER, digits, hf:NAME, a folder of images "
    "or a list file"
)


def load_images(
    spec: str | Path,
    *,
    shape: tuple[int, int, int] | None = None,
    split: str = "train",
    convert: bool = False,
    cache_dir: Path | str | None = None,
) -> ImageSet:
    """Load images.

    Args:
        spec: which ones, see the table above.
        shape: channels (1 or 3), height and width that every image must have; None means those of the first image.
        split: "train" or "test", where the source has both.
        convert: make images of another size or mode fit ``shape``: to grey or RGB, resized (bicubic with antialiasing)
            until the image covers the shape, and the centre kept.
        cache_dir: where fetched files live; None means ``$XDG_CACHE_HOME/vdu`` or ``~/.cache/vdu``.

    Returns:
        The images, in the source's order; those of folders and lists sorted by name.

    Raises:
        InputError: if there is no such source, it is damaged, or images do not fit; names all that do not.
    """
    if not isinstance(spec, str | Path):
        raise InputError(f"images: got {shown(spec)}; expected {_KINDS}.")
    spec = str(spec)
    if split not in SPLIT_FILES:
        raise InputError(f"split: got {split!r}, expected 'train' or 'test'.")
    if shape is not None and (len(shape) != 3 or shape[0] not in (1, 3) or min(shape) < 1):
        raise InputError(f"shape: got {shape}, expected channels (1 or 3), height and width.")
    if convert and shape is None:
        raise InputError("convert: needs the shape to convert to. Give channels, height and width.")
    kind, colon, place = spec.partition(":")
    if colon and not place:
        raise InputError(f"{spec}: nothing after the colon; expected {_KINDS}.")
    if spec == "idx" or (colon and kind in ("digits", "mnist-mini")):
        raise InputError(f"{spec}: {'needs a folder' if spec == 'idx' else 'takes no folder'}; expected {_KINDS}.")
    try:
        if kind == "hf" and colon:
            return load_huggingface(place, split, shape, convert)
        if kind in NAMES:
            return fit_shape(_load_known(kind, place, split, cache_folder(cache_dir)), shape, convert)
        path = Path(spec).expanduser()
        if path.is_dir():
            load = load_tiny_imagenet if is_tiny_imagenet(path) else load_folder
            return load(path, split, shape, convert)
        if path.is_file():
            return load_list(path, split, shape, convert)
    except OSError as error:
        raise InputError(f"{spec}: cannot be read ({error}). Check the path and its permissions.") from error
    raise InputError(f"{spec}: no such source, folder or file; expected {_KINDS}.")


def _load_known(kind: str, place: str, split: str, cache: Path) -> ImageSet:
    if kind == "digits":
        return load_digits(split)
    if kind == "mnist-mini":
        images = load_idx_folder(_MINI_FOLDER, split, _MINI_MD5)
        return images.select(range(len(images)), f"MNIST mini ({split})")
    if kind == "cifar10":
        return load_cifar10_folder(Path(place).expanduser() if place else fetch_cifar10(cache / "cifar10"), split)
    if kind == "mnist" and not place:
        place = os.environ.get("VDU_MNIST") or str(fetch_mnist(cache / "mnist", split))
    return load_idx_folder(Path(place).expanduser(), split, MNIST_MD5 if kind == "mnist" else None)


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
            otherwise="put MNIST's four files into a folder and use mnist:FOLDER, or set VDU_MNIST to it.",
        )
    return folder
