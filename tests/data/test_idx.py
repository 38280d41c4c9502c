import gzip
import hashlib
import lzma
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vdu.core.errors import InputError
from vdu.data import idx
from vdu.data.idx import find_idx, load_idx_folder, read_idx
from vdu.data.sources import load_images

PIXELS = bytes(range(2 * 3 * 4))
IMAGES = struct.pack(">BBBBIII", 0, 0, 8, 3, 2, 3, 4) + PIXELS
LABELS = struct.pack(">BBBBI", 0, 0, 8, 1, 2) + bytes([7, 1])


def write(folder: Path, images: bytes = IMAGES, labels: bytes = LABELS, split: str = "train") -> Path:
    for name, content in zip(idx.SPLIT_FILES[split], (images, labels), strict=True):
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
def test_reads_what_struct_wrote(tmp_path, pack):
    path = tmp_path / "any-name"
    path.write_bytes(pack(IMAGES))
    array = read_idx(path, ndim=3, md5=hashlib.md5(IMAGES).hexdigest())
    assert array.shape == (2, 3, 4) and array.dtype == np.uint8
    assert array[1, 2].tolist() == [20, 21, 22, 23]


HUGE = struct.pack(">BBBBIII", 0, 0, 8, 3, *[2**32 - 1] * 3)
DAMAGED = {
    "empty": (b"", r"starts with nothing"),
    "wrong magic": (b"\0\0\x0d\3" + IMAGES[4:], r"starts with 00000d03, expected an IDX header 00000803"),
    "labels for images": (LABELS, r"starts with 00000801"),
    "header cut": (IMAGES[:9], r"expected an IDX header"),
    "cut": (IMAGES[:-1], r"got a file of 39 bytes, but its header announces 40"),
    "too long": (IMAGES + b"\0", r"got a file of 41 bytes"),
    "lying header": (HUGE, r"announces \d{29} bytes"),
    "gzip cut": (gzip.compress(IMAGES)[:-9], r"cannot be read as an IDX file"),
    "gzip garbage": (b"\x1f\x8bgarbage", r"cannot be read as an IDX file"),
    "gzip of cut": (gzip.compress(IMAGES[:-1]), r"got only 39 bytes"),
    "gzip of too long": (gzip.compress(IMAGES + bytes(9)), r"got more than 40 bytes"),
    "gzip of lying header": (gzip.compress(HUGE), r"announces \d{29} bytes"),
    "xz cut": (lzma.compress(IMAGES)[:-9], r"cannot be read as an IDX file"),
    "xz garbage": (b"\xfd7garbage", r"cannot be read as an IDX file"),
    "xz of lying header": (lzma.compress(HUGE), r"announces \d{29} bytes"),
    "gzip bad sum": (gzip.compress(IMAGES)[:-8] + bytes(8), r"CRC check failed"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_named(tmp_path, case):
    content, message = DAMAGED[case]
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_idx(path, ndim=3)


def test_a_gzip_bomb_is_read_no_further_than_its_header_announces(tmp_path, monkeypatch):
    path = tmp_path / "bomb"
    path.write_bytes(gzip.compress(IMAGES + bytes(4 << 20)))
    taken = []
    read = gzip.GzipFile.read

    def counted(self, size=-1):
        taken.append(read(self, size))
        return taken[-1]

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    with pytest.raises(InputError, match=r"more than 40 bytes"):
        read_idx(path, ndim=3)
    assert sum(map(len, taken)) == len(IMAGES) + 1


def test_a_python_without_lzma_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(lzma.compress(IMAGES))
    monkeypatch.setattr(idx, "lzma", None)
    with pytest.raises(InputError, match=r"compressed by xz, for which this Python has no lzma module"):
        read_idx(tmp_path / "file", ndim=3)


def test_wrong_sum_and_missing_file_say_what_to_do(tmp_path):
    (tmp_path / "file").write_bytes(IMAGES)
    with pytest.raises(InputError, match=r"expected abc: this is not the published file.*idx:FOLDER"):
        read_idx(tmp_path / "file", ndim=3, md5="abc")
    with pytest.raises(InputError, match=r"No such file"):
        read_idx(tmp_path / "none", ndim=3)


@settings(max_examples=100, deadline=None)
@given(
    content=st.binary(max_size=80),
    prefix=st.sampled_from([b"", b"\0\0\x08\x03", b"\x1f\x8b\x08\0"]),
    packed=st.booleans(),
)
@example(content=IMAGES, prefix=b"", packed=True)
def test_arbitrary_bytes_give_an_array_or_an_input_error(tmp_path_factory, content, prefix, packed):
    path = tmp_path_factory.getbasetemp() / "arbitrary"
    content = prefix + content
    path.write_bytes(gzip.compress(content) if packed else content)
    try:
        array = read_idx(path, ndim=3)
    except InputError:
        return
    assert struct.pack(">BBBBIII", 0, 0, 8, 3, *array.shape) + array.tobytes() == content  # only a true file is read


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_folder_of_the_format_loads(tmp_path, split, suffix):
    write(tmp_path, split=split)
    if suffix:
        for path in list(tmp_path.iterdir()):
            path.with_name(path.name + suffix).write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    images = load_images(f"idx:{tmp_path}", split=split, shape=(1, 3, 4))
    assert images.images[1, 0, 2].tolist() == [20, 21, 22, 23]
    assert images.labels is not None and images.labels.tolist() == [7, 1]
    assert images.class_names == tuple("0123456789")


def test_a_dotted_name_is_found_and_a_missing_one_is_named(tmp_path):
    (tmp_path / "train-images.idx3-ubyte").write_bytes(IMAGES)
    assert [each.name for each in find_idx(tmp_path, "train-images-idx3-ubyte")] == ["train-images.idx3-ubyte"]
    with pytest.raises(InputError, match=r"no such file; expected train-labels-idx1-ubyte or"):
        load_idx_folder(tmp_path, "train", None)
    with pytest.raises(InputError, match=r"is not a folder"):
        load_idx_folder(tmp_path / "none", "train")


@pytest.mark.parametrize("packed", ["images", "labels"])
def test_two_files_of_one_name_must_hold_the_same(tmp_path, packed):
    """A packed file that was left beside a newer plain one."""
    write(tmp_path)
    (plain,) = (path for path in tmp_path.iterdir() if packed in path.name)
    content = plain.read_bytes()
    other = plain.with_name(plain.name + ".gz")
    other.write_bytes(gzip.compress(content))
    assert len(load_images(f"idx:{tmp_path}")) == 2
    other.write_bytes(gzip.compress(content[:-1] + b"\x09"))
    with pytest.raises(
        InputError, match=rf"{other.name} and {plain.name} hold different data; expected one of them, or the same"
    ):
        load_images(f"idx:{tmp_path}")


def test_numbers_of_images_and_labels_must_agree(tmp_path):
    write(tmp_path, labels=struct.pack(">BBBBI", 0, 0, 8, 1, 1) + b"\0")
    with pytest.raises(InputError, match=r"2 images but 1 labels in the train split"):
        load_idx_folder(tmp_path, "train", None)


def test_a_folder_that_is_not_mnist_is_refused_as_mnist(tmp_path):
    with pytest.raises(InputError, match=r"expected 6bbc9ace898e44ae57da46a324031adb: this is not the published file"):
        load_images(f"mnist:{write(tmp_path)}")


@pytest.mark.skipif("VDU_MNIST" not in os.environ, reason="needs MNIST's four files: set VDU_MNIST to their folder")
def test_mnist_has_its_published_counts():
    images = load_images("mnist", split="test", shape=(1, 28, 28))
    assert len(images) == 10_000 and images.labels is not None
    assert images.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert images.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert images.images.double().mean().item() / 255 == pytest.approx(0.1325, abs=5e-5)


def test_the_packaged_subset_has_a_thousand_images_of_each_digit():
    images = load_images("mnist-mini", shape=(1, 28, 28))
    assert images.labels is not None and images.labels.bincount().tolist() == [1000] * 10
    if "VDU_MNIST" in os.environ:  # then it must hold the first of each
        whole = load_images("mnist")
        for digit in (0, 9):
            first = whole.images[whole.labels == digit][:1000]
            assert np.array_equal(images.images[images.labels == digit].numpy(), first.numpy())
