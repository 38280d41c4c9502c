"""Sets that must not share images, against a comparison of every pair."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vdu.core.errors import InputError
from vdu.data.images import ImageSet
from vdu.data.overlap import PixelHashes, n_distinct, shared, without_copies


def images_of(values) -> ImageSet:
    """One image of 1×2×2 per number, equal for equal numbers."""
    pixels = torch.tensor(list(values), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    return ImageSet(pixels, description="ours")


SETS = st.lists(st.integers(0, 9), min_size=1, max_size=8)


@settings(max_examples=200, deadline=None)
@given(ours=SETS, theirs=SETS)
def test_copies_are_those_that_a_comparison_of_all_pairs_finds(ours, theirs):
    one, other = images_of(ours), images_of(theirs)
    expected = [value in theirs for value in ours]
    assert shared(one, other).tolist() == expected
    assert n_distinct(one) == len(set(ours))
    if all(expected):
        with pytest.raises(InputError, match=rf"retained images: all {len(ours)} \(ours\) are among the forget images"):
            without_copies(one, other, "retained images", "forget images")
        return
    kept = without_copies(one, other, "retained images", "forget images")
    assert kept.images[:, 0, 0, 0].tolist() == [value for value in ours if value not in theirs]
    assert (kept is one) == (not any(expected))


def test_what_is_left_out_is_said_and_described(capsys):
    kept = without_copies(images_of([1, 2, 3, 3]), images_of([3]), "retained images", "forget images")
    assert (
        capsys.readouterr().err == "vdu: 2 of 4 retained images are forget images, pixel by pixel; they are left out.\n"
    )
    assert kept.description == "ours without 2 of the forget images"


def test_the_same_bytes_in_another_shape_are_another_image():
    flat = ImageSet(torch.zeros(1, 1, 1, 4, dtype=torch.uint8))
    assert shared(flat, ImageSet(torch.zeros(1, 1, 2, 2, dtype=torch.uint8))).tolist() == [False]


def test_near_copies_are_kept_with_a_warning(capsys):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (6, 4, 4), dtype=np.uint8)
    pictures = [Image.fromarray(each).resize((32, 32), Image.Resampling.BICUBIC) for each in coarse]

    def again(picture):
        content = io.BytesIO()
        picture.save(content, "JPEG", quality=90)
        return Image.open(content)

    def as_set(each):
        return ImageSet(torch.from_numpy(np.stack([np.asarray(picture) for picture in each])[:, None]))

    ours = as_set([again(pictures[0]), again(pictures[1]), *pictures[4:]])
    kept = without_copies(ours, as_set(pictures[:4]), "held-out images", "forget images")
    assert kept is ours
    assert "warning: 2 of 4 held-out images look like copies of forget images" in capsys.readouterr().err


def test_near_copies_are_found_among_as_many_images_as_mnist_has_or_it_is_said(capsys, monkeypatch):
    rng = np.random.default_rng(0)
    forget = torch.from_numpy(rng.integers(0, 256, (1000, 1, 7, 7), dtype=np.uint8))
    others = torch.from_numpy(rng.integers(0, 256, (59_900, 1, 7, 7), dtype=np.uint8))
    near = forget[:100].clone()
    near[:, 0, 0, 0] = near[:, 0, 0, 0].where(near[:, 0, 0, 0] == 255, near[:, 0, 0, 0] + 1)  # 1/7 of a level
    near[:, 0, 6, 6] = near[:, 0, 6, 6].where(near[:, 0, 6, 6] == 0, near[:, 0, 6, 6] - 1)
    retain = ImageSet(torch.cat([others, near]))
    assert without_copies(retain, ImageSet(forget), "retained images", "forget images") is retain
    assert "warning: 100 of 60000 retained images look like copies of forget images" in capsys.readouterr().err
    monkeypatch.setattr("vdu.data.overlap.MOST_PAIRS", 59_999_999)
    without_copies(retain, ImageSet(forget), "retained images", "forget images")
    said = (
        "near copies were not looked for: 60000 retained images and 1000 forget images are more than 59,999,999 pairs"
    )
    assert said in capsys.readouterr().err


def test_hashes_in_a_file_find_the_copies_that_the_images_find(tmp_path):
    ours, theirs = images_of([1, 2, 3, 2]), images_of([2, 5])
    PixelHashes.of(theirs).save(tmp_path / "hashes.safetensors")
    hashes = PixelHashes.load(tmp_path / "hashes.safetensors")
    assert shared(ours, hashes).tolist() == [False, True, False, True]
    assert len(hashes.known) == 2 and hashes.description == theirs.description
    (tmp_path / "hashes.safetensors").write_bytes(b"{}")
    with pytest.raises(InputError, match=r"hashes\.safetensors: cannot be read"):
        PixelHashes.load(tmp_path / "hashes.safetensors")


@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 32), (1, 8), (3, 7), (3, 21)])
def test_near_copies_of_exactly_one_level_are_all_noticed(capsys, channels, side):
    """Every pixel one darker: each mean differs by one level. Half of the others are two levels darker."""
    rng = np.random.default_rng(0)
    theirs = torch.from_numpy(rng.integers(2, 256, (40, channels, side, side), dtype=np.uint8))
    if side == 21:  # cells nearly black or white, where products round most
        coarse = rng.integers(0, 2, (40, channels, 7, 7)).repeat(3, 2).repeat(3, 3)
        theirs = torch.from_numpy((245 * coarse + rng.integers(2, 10, coarse.shape)).astype(np.uint8))
    ours = torch.cat([theirs - 1, theirs[:20] - 2])
    without_copies(ImageSet(ours), ImageSet(theirs), "held-out images", "forget images")
    assert "warning: 40 of 60 held-out images look like copies" in capsys.readouterr().err


def test_near_copies_are_those_that_exact_means_find(capsys):
    """Near the bound, among images so much alike that a product of matrices in float32 does not tell them apart."""
    rng = np.random.default_rng(1)
    base = rng.integers(0, 2, (1, 3, 14, 14)) * 249 + 3
    theirs = base + rng.integers(-3, 3, (60, 3, 14, 14))
    ours = base + np.concatenate([rng.integers(-most, most + 1, (30, 3, 14, 14)) for most in (1, 2)])
    one, other = (
        each.reshape(60, 3, 7, 2, 7, 2).sum((3, 5)).reshape(60, -1) for each in (ours, theirs)
    )  # 4 × the mean
    squares = ((one[:, None] - other) ** 2).sum(2)
    expected = int((squares.min(1) <= 16 * 147).sum())  # exact, in whole numbers
    assert 10 < expected < 50
    sets = [ImageSet(torch.from_numpy(each.astype(np.uint8))) for each in (ours, theirs)]
    without_copies(*sets, "held-out images", "forget images")
    assert f"warning: {expected} of 60 held-out images look like copies" in capsys.readouterr().err
