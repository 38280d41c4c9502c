import re
from itertools import pairwise

import pytest

from vdu.reporting.curve_charts import Curve, curves_plot
from vdu.reporting.flow_chart import Fate, flow


def lines(svg):
    return [
        [tuple(map(float, pair.split(","))) for pair in text.split()]
        for text in re.findall(r'<polyline points="([^"]*)"', str(svg))
    ]


def curve(label, values, style="after", xs=(0, 10, 20)):
    return Curve(label, [(x, v, v, min(1.0, v + 0.1)) for x, v in zip(xs, values, strict=True)], style)


def test_a_rising_share_rises_on_the_page_and_the_top_is_100_percent():
    svg = curves_plot([curve("a", [0.0, 0.5, 1.0])], "words", axis="steps")
    (line,) = lines(svg)
    assert [y for _, y in line] == [148, 81, 14]  # bottom, middle and top of the axes
    assert line[1][0] - line[0][0] == pytest.approx(line[2][0] - line[1][0])
    assert "100 %" in svg and 'aria-label="words"' in svg


def test_bars_reach_from_low_to_high():
    svg = str(curves_plot([Curve("a", [(0, 0.5, 0.25, 1.0)], "after")], "", axis=""))
    low, high = map(float, re.search(r'class="bar" d="M[\d.]+ ([\d.]+)V([\d.]+)"', svg).groups())
    assert (low, high) == (114.5, 14.0)


def test_names_at_the_ends_never_touch_and_stay_inside():
    svg = str(
        curves_plot([curve(f"c{i}", [0, 0, 0], s) for i, s in enumerate(("after", "gold", "before"))], "", axis="")
    )
    heights = [float(y) for y in re.findall(r'class="l-\w+" x="\d+" y="([\d.]+)"', svg)]
    assert len(heights) == 3 and all(b - a >= 15 for a, b in pairwise(heights))
    assert max(heights) <= 153


def test_every_curve_differs_by_more_than_its_colour():
    svg = str(curves_plot([curve("a", [0, 0.1, 0.2], s) for s in ("after", "gold", "before")], "", axis=""))
    assert svg.count("<circle") == svg.count("<rect") == svg.count('class="mark-up"') == 3


def test_steps_of_very_different_size_stand_side_by_side_and_it_says_so():
    wide = curves_plot([curve("a", [0, 0, 0], xs=(1, 10, 1000))], "", axis="steps")
    gaps = [b[0] - a[0] for a, b in pairwise(lines(wide)[0])]
    assert gaps[0] == pytest.approx(gaps[1], abs=0.2) and "steps, not to scale" in wide
    assert "not to scale" not in curves_plot([curve("a", [0, 0, 0])], "", axis="steps")


def test_one_point_none_and_foreign_names():
    assert "No points" in curves_plot([], "", axis="")
    svg = curves_plot(
        [Curve('"><script>', [(5, 0.0, 0.0, 0.0)], "after")], '"><script>', axis='"><script>', line=("<script>", 0.0)
    )
    assert "<script" not in svg


def streams(svg):
    """Start height of each stream's left end, and its thickness on the right."""
    found = re.findall(r'd="M118 ([\d.]+)C[^V]*V', str(svg))
    heights = re.findall(r'<rect class="f-(?:after|bad)" x="250" y="[\d.]+" width="8" height="([\d.]+)"', str(svg))
    return [float(y) for y in found], [float(h) for h in heights]


def test_streams_have_the_width_of_their_share_and_fill_the_bar():
    starts, heights = streams(flow("8", [Fate("3", 50, False), Fate("8", 30, True), Fate("1", 20, False)]))
    assert heights == [95.0, 57.0, 38.0] and sum(heights) == 190
    assert [b - a for a, b in pairwise(starts)] == [95.0, 57.0]


def test_what_is_still_there_is_named_and_never_lumped_together():
    fates = [Fate(f"c{i}", 10, False) for i in range(12)] + [Fate("8", 1, True)]
    svg = flow("8", fates)
    assert "still 8" in svg and "4 other classes" in svg and "f-bad" in svg
    assert "121 samples" in svg  # 12 · 10 + 1, for screen readers


def test_foreign_class_names():
    assert "<script" not in flow("<script>", [Fate("<script>", 1, True)])
