import hashlib

import numpy as np
import pytest
import torch

from vdu.core.errors import InputError
from vdu.data.images import ImageSet, to_float, to_uint8

PIXELS = torch.arange(4 * 1 * 2 * 3, dtype=torch.uint8).reshape(4, 1, 2, 3)


def small(**changes) -> ImageSet:
    fields = {
        "images": PIXELS, "labels": torch.tensor([1, 0, 1, 2]), "names": ("a", "b", "c", "d"),
        "class_names": ("x", "y", "z"), "description": "small",
    }  # fmt: skip
    return ImageSet(**{**fields, **changes})


def test_every_stored_value_survives_the_round_trip():
    stored = torch.arange(256, dtype=torch.uint8)
    expected = np.array([u / 127.5 - 1 for u in range(256)])  # in float64
    assert np.abs(to_float(stored).numpy() - expected).max() < 1e-6  # float32 has 1.2e-7 near 1
    assert torch.equal(to_uint8(to_float(stored)), stored)


def test_conversion_clamps_and_rounds_to_the_nearest():
    values = torch.tensor([-3.0, -1.0, 10 / 127.5 - 1 + 0.003, 10 / 127.5 - 1 - 0.003, 1.0, 9.0])
    assert to_uint8(values).tolist() == [0, 0, 10, 10, 255, 255]


def test_conversion_refuses_what_it_cannot_represent():
    with pytest.raises(InputError, match=r"got torch\.float32, expected torch\.uint8"):
        to_float(torch.zeros(1))
    with pytest.raises(InputError, match=r"expected floating point"):
        to_uint8(PIXELS)
    with pytest.raises(InputError, match=r"1 of 2 values are NaN"):
        to_uint8(torch.tensor([0.0, float("nan")]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": PIXELS.float()}, r"images: got torch\.float32"),
        ({"images": PIXELS[0]}, r"expected torch\.uint8 \[images, channels, height, width\]"),
        ({"labels": torch.tensor([0, 1])}, r"labels: got torch\.int64 \[2\], expected torch\.int64 \[4\]"),
        ({"labels": torch.zeros(4)}, r"labels: got torch\.float32"),
        ({"labels": torch.tensor([0, 1, 2, 3])}, r"values in 0 … 3, expected 0 … 2"),
        ({"labels": torch.tensor([0, -1, 2, 0])}, r"values in -1 … 2"),
        ({"names": ("a", "b")}, r"names of images: got 2, 2 of them distinct, for 4"),
        ({"names": ("a", "b", "c", "a")}, r"3 of them distinct \('a' is there more than once\), for 4 images"),
    ],
)
def test_fields_must_fit_together(changes, message):
    with pytest.raises(InputError, match=message):
        small(**changes)


def test_shape_length_and_floats():
    images = small()
    assert (len(images), images.shape) == (4, (1, 2, 3))
    assert images.floats().dtype == torch.float32
    assert images.floats([3, 0])[0, 0, 0, 0] == pytest.approx(18 / 127.5 - 1)


@pytest.mark.parametrize(
    ("selection", "places"),
    [
        ([2, 0], [2, 0]),
        (torch.tensor([True, False, False, True]), [0, 3]),
        ([], []),
        (range(1, 3), [1, 2]),
        (torch.tensor([1], dtype=torch.int32), [1]),
    ],
)
def test_select_keeps_pixels_labels_and_names_together(selection, places):
    images = small()
    chosen = images.select(selection, "chosen")
    assert chosen.images.tolist() == [PIXELS[i].tolist() for i in places]
    assert chosen.labels is not None and chosen.labels.tolist() == [[1, 0, 1, 2][i] for i in places]
    assert chosen.names == tuple("abcd"[i] for i in places)
    assert (chosen.description, images.description, len(images)) == ("chosen", "small", 4)


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ([4], r"indices in 4 … 4, expected 0 … 3"),
        ([-1], r"indices in -1 … -1"),
        ([True, False], r"got torch\.bool \[2\], expected bool \[4\]"),
        ([0.0], r"got torch\.float32"),
        (slice(0, 2), r"selection: got a slice; expected bool \[4\] or integers"),
        ("abc", r"selection: got 'abc'; expected bool \[4\] or integers"),
        (["a"], r"selection: got a list; expected bool \[4\] or integers"),
    ],
)
def test_select_refuses_what_names_no_image(selection, message):
    with pytest.raises(InputError, match=message):
        small().select(selection)


def test_sha256_is_that_of_shapes_pixels_and_labels():
    expected = hashlib.sha256(b"images [4, 1, 2, 3] " + bytes(range(24)) + b"labels 4 ")
    expected.update(np.array([1, 0, 1, 2], "<i8").tobytes())
    assert small().sha256 == expected.hexdigest()
    assert small(labels=None).sha256 == hashlib.sha256(b"images [4, 1, 2, 3] " + bytes(range(24))).hexdigest()


def test_sha256_follows_a_change_in_place():
    pixels, labels = torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 1])
    images = ImageSet(pixels, labels)
    seen = [images.sha256]
    pixels.add_(7)
    seen.append(images.sha256)
    labels[0] = 1
    seen.append(images.sha256)
    assert len(set(seen)) == 3 and seen[-1] == images.sha256 == ImageSet(pixels.clone(), labels.clone()).sha256


def test_sha256_depends_on_content_and_order_only():
    images = small()
    assert small(names=None, description="other", class_names=None).sha256 == images.sha256
    assert images.select([0, 1, 3, 2]).sha256 != images.sha256
    assert small(labels=torch.tensor([1, 0, 1, 1])).sha256 != images.sha256
    assert (
        images.select([1, 2]).sha256
        == small(images=PIXELS[1:3].clone(), labels=torch.tensor([0, 1]), names=None).sha256
    )
