"""Images read back from the page's HTML, dots against their numbers, and names made of markup."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from vdu.explore.curve_html import curve_table, draw_curves
from vdu.explore.film import Frame
from vdu.explore.html import covers, data_uri, draw_answers, draw_chosen, draw_film, draw_pairs
from vdu.explore.open_run import Checkpoint
from vdu.explore.tradeoff import Curve, Point
from vdu.reporting.findings.answer import Answer

BAD = "<script>alert('x')</script>&\""


def read(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))


def shown(html):
    return [read(uri) for uri in re.findall(r'src="([^"]+)"', html)]


def span(value, by):
    return {"value": value, "low": value - by, "high": value + by, "n_original": 10, "n_unlearned": 4}


def make_curve(values):
    checkpoints = tuple(Checkpoint(f"checkpoint-{i}", i, str(i)) for i in range(len(values)))
    points = {f"checkpoint-{i}": Point(span(pul, 5), span(fid, 2)) for i, (pul, fid) in enumerate(values)}
    return Curve((*checkpoints, Checkpoint("final", 9, "f")), points, span(20.0, 1), "judge:x")


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_survive(channels):
    image = np.random.default_rng(0).integers(256, size=(5, 7, channels), dtype=np.uint8)
    assert (read(data_uri(image)).reshape(image.shape) == image).all()


def test_large_images_are_averaged_down():
    image = np.zeros((8, 4, 1), np.uint8)
    image[::2] = 100
    assert read(data_uri(image, 4)).tolist() == [[50, 50]] * 4


def test_a_film_has_a_row_for_each_model():
    seen = [np.full((4, 4, 1), value, np.uint8) for value in (10, 20, 30, 40)]
    frames = (Frame(2, 4, 500, seen[0], seen[1]), Frame(2, 4, 500, seen[2], seen[3]))
    html = draw_film(2**62 + 1, [frames, frames], frames[0], stored=True)
    assert [int(image[0, 0]) for image in shown(html)] == [20, 10, 20, 10, 40, 30, 40, 30]  # clean and noisy in turn
    assert f'data-film="{2**62 + 1}" data-done="no"' in html and "width:50%" in html


def test_pairs_carry_all_digits_of_their_seed(opened):
    html = draw_pairs(opened.data, [3, 17])
    assert re.findall(r'data-seed="(\d+)"', html) == [str(int(opened.data.original.seeds[i])) for i in (3, 17)]
    assert (shown(html)[2] == opened.data.original.images[17, ..., 0]).all()
    assert (shown(html)[3] == opened.data.unlearned.images[17, ..., 0]).all()
    assert "No pair" in draw_pairs(opened.data, [])


def test_the_chosen_pair_is_the_stored_one(opened):
    seed = int(opened.data.original.seeds[17])
    html = draw_chosen(opened.data, seed)
    assert f'data-shown="{seed}"' in html and f'data-copy="{seed}"' in html and ">#18<" in html
    assert (shown(html)[0] == opened.data.original.images[17, ..., 0]).all()
    assert (shown(html)[1] == opened.data.unlearned.images[17, ..., 0]).all()
    assert shown(draw_chosen(opened.data, seed + 1)) == []


def test_unwanted_images_are_covered_unless_the_forget_set_is_packaged(opened):
    """Exactly the images that the judge calls an 8, of a run on somebody's own folder; none of the packaged digits."""
    data = opened.data
    rows = range(len(data.original.seeds))
    inputs = data.run["inputs"] | {"forget": data.run["inputs"]["forget"] | {"source": "/home/me/unwanted"}}
    private = replace(data, run=data.run | {"inputs": inputs})
    expected = [[int(each.judge_class[i]) == 8 for each in (data.original, data.unlearned)] for i in rows]
    assert any(map(any, expected))
    for i, pair in enumerate(expected):
        for html in (draw_pairs(private, [i]), draw_chosen(private, int(data.original.seeds[i]))):
            marks = ["vdu-covered" in tag for tag in re.findall(r"<img[^>]*>", html)]
            assert marks == pair
    assert covers(private, None) == (True, True)  # nobody judged it
    assert covers(replace(private, forget_ids=()), 0) == (True, True)
    assert "vdu-covered" not in draw_pairs(data, rows) and covers(data, None) == (False, False)


def test_a_covered_row_of_a_film(opened):
    frames = (Frame(1, 2, 5, *[np.zeros((4, 4, 1), np.uint8)] * 2),) * 2
    html = draw_film(1, [frames], frames[0], stored=True, covered=(True, False))
    assert re.findall(r'class="(vdu-film[^"]*)"', html) == ["vdu-film vdu-covered", "vdu-film"]


def test_answers_are_escaped_and_lead_to_the_report():
    found = {"gone": Answer("good", "code", BAD, "46 → 5", "")}
    html = draw_answers(found, {"gone": "Is it gone?"}, [BAD], "report/0", "/a/report.html")
    assert "<script" not in html and 'href="report/0"' in html and "46 → 5" in html
    assert "href" not in draw_answers(found, {"gone": "Is it gone?"}, [], None, "/a/report.html")


def test_dots_stand_where_their_numbers_are():
    curves = {BAD: make_curve([(0.0, 80.0), (50.0, 40.0), (100.0, 60.0)]), "b": make_curve([(-20.0, 10.0)])}
    html = draw_curves(curves, BAD, "checkpoint-1")
    dots = [(float(x), float(y)) for x, y in re.findall(r'vdu-dot[^>]*cx="([\d.]+)" cy="([\d.]+)"', html)]
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = dots
    assert x3 < x1 < x2 < x0 and y2 < y1 < y0 < y3  # up is more forgotten; right is further away
    assert (x0 - x2) / (x2 - x1) == pytest.approx(1, abs=0.01)  # 80 − 60 against 60 − 40
    assert (y0 - y1) / (y1 - y2) == pytest.approx(1, abs=0.01)
    now = re.search(r'vdu-now vdu-c0" data-checkpoint="checkpoint-1" cx="([\d.]+)" cy="([\d.]+)"', html)
    assert now and (float(now[1]), float(now[2])) == (x1, y1)
    assert "<script" not in html


def test_the_table_marks_the_chosen_checkpoint_and_what_is_missing():
    html = curve_table(make_curve([(50.0, 40.0)]), "checkpoint-0")
    rows = re.findall(r"<tr.*?</tr>", html)[1:]
    assert 'aria-current="true"' in rows[0] and "50.0" in rows[0] and "10 → 4" in rows[0] and "40.0" in rows[0]
    assert "not measured" in rows[1] and "aria-current" not in rows[1] and "filtered original" in rows[2]
