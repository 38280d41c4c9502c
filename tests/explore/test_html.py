"""Images read back from the page's HTML, dots against their numbers, and names made of markup."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from vdu.explore.film import Frame
from vdu.explore.html import data_uri, draw_front, draw_pairs, draw_sides, front_table
from vdu.explore.open_run import Stop
from vdu.explore.tradeoff import Front, Point

BAD = "<script>alert('x')</script>&\""


def read(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))


def span(value, by):
    return {"value": value, "low": value - by, "high": value + by, "n_original": 10, "n_unlearned": 4}


def make_front(name, values):
    stops = tuple(Stop(f"checkpoint-{i}", i, str(i)) for i in range(len(values)))
    points = {
        stop.name: Point(stop, span(pul, 5), span(fid, 2)) for stop, (pul, fid) in zip(stops, values, strict=True)
    }
    return Front((*stops, Stop("final", 9, "f")), points, span(20.0, 1), {})


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_survive(channels):
    image = np.random.default_rng(0).integers(256, size=(5, 7, channels), dtype=np.uint8)
    assert (read(data_uri(image)).reshape(image.shape) == image).all()


def test_large_images_are_averaged_down():
    image = np.zeros((8, 4, 1), np.uint8)
    image[::2] = 100
    assert read(data_uri(image, 4)).tolist() == [[50, 50]] * 4


@pytest.mark.parametrize("noisy", [False, True])
def test_both_models_are_shown_in_their_places(noisy):
    seen = [np.full((4, 4, 1), value, np.uint8) for value in (10, 20, 30, 40)]
    frames = (Frame(2, 4, 500, seen[0], seen[1]), Frame(2, 4, 500, seen[2], seen[3]))
    html = draw_sides(("Original", BAD), frames, [frames], seed=2**62 + 1, noisy=noisy, calls=("", ""))
    shown = [int(read(uri)[0, 0]) for uri in re.findall(r'src="([^"]+)"', html)]
    assert shown == ([10, 30] if noisy else [20, 40]) * 2
    assert "step 2 of 4" in html and str(2**62 + 1) in html and "width:50%" in html
    assert "<script" not in html and 'data-done="no"' in html


def test_pairs_carry_all_digits_of_their_seed(opened):
    html = draw_pairs(opened.data, [3, 17])
    seeds = [str(int(opened.data.original.seeds[i])) for i in (3, 17)]
    assert re.findall(r'data-seed="(\d+)"', html) == seeds
    images = [read(uri) for uri in re.findall(r'src="([^"]+)"', html)]
    assert (images[2] == opened.data.original.images[17, ..., 0]).all()
    assert (images[3] == opened.data.unlearned.images[17, ..., 0]).all()
    assert "Loosen a filter" in draw_pairs(opened.data, [])


def test_dots_stand_where_their_numbers_are():
    fronts = {BAD: make_front("a", [(0.0, 80.0), (50.0, 40.0), (100.0, 60.0)]), "b": make_front("b", [(-20.0, 10.0)])}
    html = draw_front(fronts, BAD, "checkpoint-1")
    dots = [(float(x), float(y)) for x, y in re.findall(r'vdu-dot[^>]*cx="([\d.]+)" cy="([\d.]+)"', html)]
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = dots
    assert x3 < x1 < x2 < x0 and y2 < y1 < y0 < y3  # up is more forgotten; right is further away
    assert (x0 - x2) / (x2 - x1) == pytest.approx(1, abs=0.01)  # 80 − 60 against 60 − 40
    assert (y0 - y1) / (y1 - y2) == pytest.approx(1, abs=0.01)
    now = re.search(r'vdu-now vdu-c0" data-stop="checkpoint-1" cx="([\d.]+)" cy="([\d.]+)"', html)
    assert now and (float(now[1]), float(now[2])) == (x1, y1)
    assert "<script" not in html
    assert "Nothing is measured" in draw_front({"a": make_front("a", [])}, "a", "final")


def test_the_table_marks_the_chosen_stop_and_what_is_missing():
    html = front_table(make_front("a", [(50.0, 40.0)]), "checkpoint-0")
    rows = re.findall(r"<tr.*?</tr>", html)[1:]
    assert 'aria-current="true"' in rows[0] and "50.0" in rows[0] and "10 → 4" in rows[0] and "40.0" in rows[0]
    assert "not measured" in rows[1] and "aria-current" not in rows[1] and "filtered original" in rows[2]
