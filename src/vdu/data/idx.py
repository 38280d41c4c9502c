"""The IDX format of MNIST: a big-endian header, then unsigned bytes; plain, or compressed by gzip or (the packaged files) xz.

    0x00 0x00 0x08 d │ d sizes, uint32 big-endian │ product of the sizes, bytes

A header is checked against the file: a plain file must have exactly the announced length, a
compressed one must be able to hold it (deflate shrinks at most 1032-fold, xz 8192-fold), and no more than the announced length plus
one byte is ever decompressed. MD5 sums are those of the uncompressed files, since mirrors compress differently.

Not guaranteed: other element types than unsigned byte, which raise an error.
"""

import gzip
import hashlib
import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import torch

from vdu.core.errors import InputError
from vdu.data.images import ImageSet

try:
    import lzma
except ImportError:  # a Python that was built without liblzma
    lzma = None

__all__ = ["MNIST_MD5", "SPLIT_FILES", "find_idx", "load_idx_folder", "read_idx"]

# Of the uncompressed files. The name is also that of the file on the mirrors, less ".gz".
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
SPLIT_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_GZIP, _XZ = b"\x1f\x8b", b"\xfd7"  # first bytes
_RATIOS = {_GZIP: 1032, _XZ: 8192}  # largest compression: zlib's technical details; a bound of ours
_UNREADABLE = (OSError, EOFError, zlib.error) if lzma is None else (OSError, EOFError, zlib.error, lzma.LZMAError)
_BLOCK = 1 << 20


def read_idx(path: Path | str, *, ndim: int, md5: str | None = None) -> np.ndarray:
    """Read one IDX file.

    Args:
        path: the file, plain, gzip or xz (distinguished by content, not by name).
        ndim: the number of dimensions it must have: 3 for images, 1 for labels.
        md5: MD5 of the uncompressed file that it must have; None checks none.

    Returns:
        uint8 array with the shape of the header, writable.

    Raises:
        InputError: if the file cannot be read, is damaged or cut, or is not the one that was expected.
    """
    path = Path(path)
    try:
        with open(path, "rb") as raw:
            first = raw.read(2)
            raw.seek(0)
            content = _read_checked(_opened(raw, first, path), path, ndim, path.stat().st_size, _RATIOS.get(first, 1))
    except _UNREADABLE as error:
        raise InputError(f"{path}: cannot be read as an IDX file ({error}). Fetch or decompress it again.") from error
    if md5 is not None and (got := hashlib.md5(content, usedforsecurity=False).hexdigest()) != md5:
        raise InputError(
            f"{path}: uncompressed MD5 {got}, expected {md5}: this is not the published file. Delete and fetch it "
            "again, or load other data in this format with idx:FOLDER, which checks no sums."
        )
    shape = struct.unpack_from(f">{ndim}I", content, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * ndim).reshape(shape)


def _opened(raw: BinaryIO, first: bytes, path: Path) -> BinaryIO:
    """The file uncompressed, by its first bytes."""
    if first == _XZ and lzma is None:
        raise InputError(
            f"{path}: is compressed by xz, for which this Python has no lzma module. Use a Python that has it."
        )
    if first == _XZ and lzma is not None:
        return cast(BinaryIO, lzma.open(raw))
    return cast(BinaryIO, gzip.open(raw)) if first == _GZIP else raw


def _read_checked(file: BinaryIO, path: Path, ndim: int, size: int, ratio: int) -> bytearray:
    header = file.read(4 + 4 * ndim)
    magic = bytes([0, 0, 8, ndim])
    if header[:4] != magic or len(header) < 4 + 4 * ndim:
        raise InputError(f"{path}: starts with {header[:4].hex() or 'nothing'}, expected an IDX header {magic.hex()}.")
    expected = len(header) + math.prod(struct.unpack_from(f">{ndim}I", header, 4))
    if expected > size * ratio or (ratio == 1 and expected != size):
        raise InputError(_wrong_length(path, f"a file of {size} bytes", expected))
    content = bytearray(header)
    while len(content) <= expected and (block := file.read(min(_BLOCK, expected + 1 - len(content)))):
        content += block
    if len(content) != expected:
        got = f"only {len(content)}" if len(content) < expected else f"more than {expected}"
        raise InputError(_wrong_length(path, f"{got} bytes", expected))
    return content


def _wrong_length(path: Path, got: str, expected: int) -> str:
    return f"{path}: got {got}, but its header announces {expected} bytes: damaged or cut. Delete and fetch it again."


def find_idx(folder: Path, name: str) -> list[Path]:
    """The files of that name in a folder: compressed or not, with a dash or a dot before "idx".

    Args:
        folder: where to look.
        name: as in ``MNIST_MD5``.

    Returns:
        Those that exist, at least one.

    Raises:
        InputError: if the folder or the file is missing.
    """
    dotted = name.replace("-idx", ".idx")
    candidates = [folder / f"{stem}{suffix}" for stem in (name, dotted) for suffix in (".gz", ".xz", "")]
    if found := [each for each in candidates if each.is_file()]:
        return found
    what = "has no such file" if folder.is_dir() else "is not a folder"
    raise InputError(f"{folder}: {what}; expected {name} or {name}.gz in it. Give the folder with MNIST's four files.")


def load_idx_folder(folder: Path | str, split: str, checksums: Mapping[str, str] | None = MNIST_MD5) -> ImageSet:
    """Load a split from a folder with MNIST's file names.

    Args:
        folder: holds the files of ``SPLIT_FILES``, plain or gzip.
        split: "train" or "test".
        checksums: MD5 of each uncompressed file, which is verified; None for other data in this format.

    Returns:
        Images [images, 1, height, width] with labels; the classes are named "0", "1", ….

    Raises:
        InputError: if a file is missing, damaged or not the published one, there is another one beside it that differs, or images and
            labels differ in number.
    """
    images, labels = (
        _read_one(find_idx(Path(folder), name), ndim, checksums[name] if checksums else None)
        for name, ndim in zip(SPLIT_FILES[split], (3, 1), strict=True)
    )
    if len(images) != len(labels):
        raise InputError(f"{folder}: {len(images)} images but {len(labels)} labels in the {split} split.")
    return ImageSet(
        images=torch.from_numpy(images).unsqueeze(1),
        labels=torch.from_numpy(labels).to(torch.int64),
        class_names=tuple(str(i) for i in range(max(10, int(labels.max(initial=0)) + 1))),
        description=f"{'MNIST' if checksums else folder} {split}",
    )


def _read_one(files: list[Path], ndim: int, md5: str | None) -> np.ndarray:
    """The content of files of one name: of the one with the sum, or of all of them, which must be the same."""
    first, *others = files
    found = read_idx(first, ndim=ndim, md5=md5)
    for other in others if md5 is None else ():
        if not np.array_equal(read_idx(other, ndim=ndim), found):
            raise InputError(
                f"{first.parent}: {first.name} and {other.name} hold different data; expected one of them, or the same. Remove the one "
                "that is out of date."
            )
    return found
