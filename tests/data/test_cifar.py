import hashlib
import io
import tarfile

import numpy as np
import pytest

from vdu.core.errors import InputError
from vdu.data import cifar, sources
from vdu.data.cifar import fetch_cifar10, load_cifar10_folder


def record(label: int, start: int) -> bytes:
    """By hand: the label, then the red, green and blue planes, row by row."""
    planes = [[(start + 50 * c + 3 * y + x) % 256 for y in range(32) for x in range(32)] for c in range(3)]
    return bytes([label, *planes[0], *planes[1], *planes[2]])


BATCHES = {
    "data_batch_1.bin": record(3, 0) + record(9, 1),
    "data_batch_2.bin": record(0, 2),
    "test_batch.bin": record(5, 9),
}
SUMS = {name: hashlib.md5(content).hexdigest() for name, content in BATCHES.items()}


@pytest.fixture
def folder(tmp_path):
    for name, content in BATCHES.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def archive(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path.as_uri()


def test_records_become_planes_and_labels(folder):
    images = load_cifar10_folder(folder, "train", SUMS)
    assert images.labels is not None and images.labels.tolist() == [3, 9, 0]
    assert images.shape == (3, 32, 32)
    assert images.images[1, 2, 4, 7] == 1 + 100 + 12 + 7
    assert load_cifar10_folder(folder, "test", SUMS).labels.tolist() == [5]
    assert images.class_names is not None and images.class_names[3] == "cat"


def test_missing_and_foreign_batches_are_named(folder):
    with pytest.raises(InputError, match=r"data_batch_1\.bin: MD5 \w+, expected 5dd7e06a14cb22eb9f671a540d1b7c25"):
        for i in (3, 4, 5):
            (folder / f"data_batch_{i}.bin").touch()
        sources.load_images(f"cifar10:{folder}")
    (folder / "data_batch_2.bin").unlink()
    with pytest.raises(InputError, match=r"has no data_batch_2\.bin\. Give the folder"):
        load_cifar10_folder(folder, "train", SUMS)


def test_the_archive_is_unpacked_once_and_removed(tmp_path):
    url = archive(tmp_path / "a.tar.gz", {"readme.html": b"x", "../escape": b"x", **BATCHES})
    cache = fetch_cifar10(tmp_path / "cache", [url], SUMS)
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == BATCHES
    assert fetch_cifar10(tmp_path / "cache", [], SUMS) == cache


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"data_batch_1.bin": b"other"}, r"MD5 \w+, expected"),
        ({"test_batch.bin": BATCHES["test_batch.bin"]}, r"the archive lacks data_batch_1\.bin, data_batch_2\.bin"),
        (None, r"not a readable \.tar\.gz archive"),
    ],
)
def test_a_wrong_archive_is_refused(tmp_path, members, message):
    if members is None:
        (tmp_path / "a.tar.gz").write_bytes(b"nonsense")
    url = archive(tmp_path / "a.tar.gz", members) if members else (tmp_path / "a.tar.gz").as_uri()
    with pytest.raises(InputError, match=rf"(?s){message}.*cifar10:FOLDER"):
        fetch_cifar10(tmp_path / "cache", [url], SUMS)


def test_a_member_too_large_for_a_batch_is_not_read(tmp_path, monkeypatch):
    url = archive(tmp_path / "a.tar.gz", BATCHES)
    monkeypatch.setattr(cifar, "_BATCH", 10)
    with pytest.raises(InputError, match=r"the archive lacks data_batch_1\.bin"):
        fetch_cifar10(tmp_path / "cache", [url], SUMS)


def test_the_published_sums_are_six():
    assert sorted(cifar.CIFAR10_MD5) == [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    assert np.all([len(md5) == 32 for md5 in cifar.CIFAR10_MD5.values()])
