"""CIFAR-10 in its official binary batches (Krizhevsky, 2009, https://www.cs.toronto.edu/~kriz/cifar.html).

A batch is a sequence of records of 3,073 bytes: the label, then 32 × 32 red, green and blue bytes, row by row.
Each batch is checked against the MD5 of the published file before it is read.

Not guaranteed: a licence. The data set states none, so it is fetched and never packaged.
"""

import hashlib
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from vdu.core.errors import InputError
from vdu.core.records import atomic_file
from vdu.data.download import fetch
from vdu.data.images import ImageSet

__all__ = ["CIFAR10_CLASSES", "CIFAR10_MD5", "CIFAR10_URLS", "fetch_cifar10", "load_cifar10_folder"]

CIFAR10_MD5 = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
CIFAR10_URLS = ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",)
CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
_RECORD = 1 + 3 * 32 * 32
_BATCH = 10_000 * _RECORD


def load_cifar10_folder(folder: Path | str, split: str, checksums: Mapping[str, str] = CIFAR10_MD5) -> ImageSet:
    """Load a split of CIFAR-10.

    Args:
        folder: holds data_batch_1.bin … data_batch_5.bin and test_batch.bin.
        split: "train" or "test".
        checksums: MD5 of each batch.

    Returns:
        Images [images, 3, 32, 32] with labels, in the order of the batches.

    Raises:
        InputError: if a batch is missing or is not the published one.
    """
    folder = Path(folder)
    names = [name for name in checksums if name.startswith("test") == (split == "test")]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{folder}: has no {', '.join(missing)}. Give the folder with CIFAR-10's binary batches "
            "(the one inside cifar-10-binary.tar.gz, not the Python version)."
        )
    rows = np.concatenate([_read_batch(folder / name, checksums[name]) for name in names])
    return ImageSet(
        images=torch.from_numpy(np.ascontiguousarray(rows[:, 1:]).reshape(-1, 3, 32, 32)),
        labels=torch.from_numpy(rows[:, 0].astype(np.int64)),
        class_names=CIFAR10_CLASSES,
        description=f"CIFAR-10 {split}",
    )


def _read_batch(path: Path, md5: str) -> np.ndarray:
    with open(path, "rb") as file:
        got = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if got != md5:
        raise InputError(
            f"{path}: MD5 {got}, expected {md5}: this is not the published batch. Delete and fetch it again."
        )
    content = np.fromfile(path, np.uint8)
    if content.size % _RECORD:
        raise InputError(f"{path}: got {content.size} bytes; expected records of {_RECORD}. Delete and fetch it again.")
    return content.reshape(-1, _RECORD)


def fetch_cifar10(folder: Path, urls: Sequence[str] = CIFAR10_URLS, checksums: Mapping[str, str] = CIFAR10_MD5) -> Path:
    """Make sure that the batches are in a folder.

    Args:
        folder: the cache.
        urls: addresses of the archive, tried in order.
        checksums: MD5 of each batch in it.

    Returns:
        ``folder``.
    """
    if not all((folder / name).is_file() for name in checksums):
        archive = fetch(
            folder / "cifar-10-binary.tar.gz",
            urls,
            lambda path: _unpack(path, folder, checksums),
            max_bytes=1 << 28,  # the archive has 162 MiB
            otherwise="put the official binary batches into a folder and use cifar10:FOLDER.",
        )
        archive.unlink()
    return folder


def _unpack(archive: Path, folder: Path, checksums: Mapping[str, str]) -> None:
    # Only plain files with the name and at most the size of a batch are read, no links; nothing is extracted by path.
    left = dict(checksums)
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = member.name.rsplit("/", 1)[-1]
                file = tar.extractfile(member) if name in left and member.isreg() and member.size <= _BATCH else None
                if file is None:
                    continue
                with atomic_file(folder / name) as temporary:
                    temporary.write_bytes(file.read(_BATCH))
                    _read_batch(temporary, left.pop(name))
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise InputError(f"not a readable .tar.gz archive ({error})") from error
    if left:
        raise InputError(f"the archive lacks {', '.join(left)}")
