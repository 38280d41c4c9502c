import base64
import io

import numpy as np
import pytest
from PIL import Image

from vdu.reporting.collect import collect
from vdu.reporting.sample_sprites import COLUMNS, hide, make_sprites, select_pairs


def cells(uri, width, height):
    """The sprite's cells, [rows · 12, height, width, channels], decoded from its PNG."""
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))))
    sheet = sheet.reshape(*sheet.shape[:2], -1)
    grid = [np.hsplit(row, COLUMNS) for row in np.vsplit(sheet, sheet.shape[0] // height)]
    assert sheet.shape[1] == COLUMNS * width
    return np.array([cell for row in grid for cell in row])


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (32, 3)])
def test_the_sprites_hold_the_very_pixels(make_run, tmp_path, size, channels):
    data = collect(make_run(tmp_path / "run", n=60, size=size, channels=channels))
    pairs = select_pairs(data)
    sprites = make_sprites(data, pairs, hide_forgotten=False)
    for uri, samples in ((sprites.before, data.original), (sprites.after, data.unlearned)):
        drawn = cells(uri, size, size)
        for pair in pairs:
            np.testing.assert_array_equal(drawn[pair.cell], samples.images[pair.index])


def test_the_forget_class_comes_first_and_of_it_what_remains_then_what_became_it(make_run, tmp_path):
    data = collect(make_run(tmp_path / "run", n=1000))
    pairs = select_pairs(data)
    was = [pair.was_forget for pair in pairs]
    assert was == sorted(was, reverse=True) and sum(was) == 72 and len(pairs) == 120
    assert all(pair.before == "7" for pair in pairs[:72])
    first = [pair.index for pair in pairs[:72]]
    was, now = (samples.judge_class == 7 for samples in (data.original, data.unlearned))
    remaining = np.flatnonzero(was & now).tolist()
    assert remaining and first == [*remaining, *np.flatnonzero(was & ~now)][:72]
    others = [pair.is_forget for pair in pairs[72:]]
    assert others == sorted(others, reverse=True) and sum(others) == 2


@pytest.mark.parametrize(("n", "most_others"), [(10, 10), (200, 48)])
def test_few_unwanted_images_are_all_shown(make_run, tmp_path, n, most_others):
    data = collect(make_run(tmp_path / "run", n=n, forget=2))
    n_forget = int((data.original.judge_class == 2).sum())
    assert len(select_pairs(data)) == n_forget + min(n - n_forget, most_others)


def test_hidden_images_keep_nothing_but_block_means():
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 20, 3), dtype=np.uint8)
    hidden = hide(images, [True, False, True])
    np.testing.assert_array_equal(hidden[1], images[1])
    for k in (0, 2):
        assert len(np.unique(hidden[k].reshape(-1, 3), axis=0)) <= 3 * 2
        block = images[k, :10, :10].reshape(-1, 3).astype(float).mean(axis=0)
        np.testing.assert_allclose(hidden[k, 0, 0], block, atol=0.5)  # atol: rounding to uint8


def test_hiding_reaches_every_embedded_unwanted_image(make_run, tmp_path):
    data = collect(make_run(tmp_path / "run", n=120, left=0.5))
    pairs = select_pairs(data)
    sprites = make_sprites(data, pairs, hide_forgotten=True)
    before, after = (cells(uri, 8, 8) for uri in (sprites.before, sprites.after))
    assert any(pair.is_forget for pair in pairs)
    for pair in pairs:
        for drawn, samples, unwanted in (
            (before, data.original, pair.was_forget),
            (after, data.unlearned, pair.is_forget),
        ):
            if unwanted:
                assert len(np.unique(drawn[pair.cell])) <= 4
            else:
                np.testing.assert_array_equal(drawn[pair.cell], samples.images[pair.index])


def test_everything_is_hidden_when_the_forget_class_is_not_known(make_run, tmp_path):
    unknown = {"description": "x", "classes": None, "n_images": 1, "sha256": "0"}
    data = collect(make_run(tmp_path / "run", n=30, forget_entry=unknown))
    sprites = make_sprites(data, select_pairs(data), hide_forgotten=True)
    assert all(len(np.unique(cell)) <= 4 for cell in cells(sprites.before, 8, 8))


def test_large_images_are_shrunk_by_area(make_run, tmp_path):
    data = collect(make_run(tmp_path / "run", n=12, size=192, channels=3, forget=2))
    sprites = make_sprites(data, pairs := select_pairs(data), hide_forgotten=False)
    assert (sprites.width, sprites.height, sprites.shrunk) == (96, 96, True)
    source = data.original.images[pairs[0].index].astype(float)
    mean = source.reshape(96, 2, 96, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(cells(sprites.before, 96, 96)[0], mean, atol=1)  # atol: rounding to uint8
