import math
import re

import pytest

from vdu.reporting.charts import IntervalRow, class_bars, interval_plot, line_chart


def points(svg, tag):
    text = re.search(rf'<{tag} class="[^"]*" points="([^"]*)"', str(svg))
    assert text
    return [tuple(map(float, pair.split(","))) for pair in text[1].split()]


def test_bars_have_the_width_of_their_share():
    svg = str(class_bars(50, 100, 25.0, 200))
    assert re.findall(r'width="([\d.]+)%"/>', svg) == ["25.00", "50.00"]
    assert 'x1="12.50%"' in svg


def test_interval_ends_lie_where_the_axis_says():
    svg = str(interval_plot([IntervalRow("a", 50, 25, 75, "after")], "words", start=0, end=100, mark=100))
    assert '<line class="s-after" x1="109.0" x2="311.0"' in svg  # 8 + 404 · 0.25 and 0.75
    assert 'cx="210.0"' in svg and '<line class="mark" x1="412.0"' in svg


def test_the_axis_ends_at_a_round_number():
    svg = str(interval_plot([IntervalRow("a", 9, 8, 10.1, "after")], "words", start=0, end=10.1))
    assert re.findall(r'class="tick"[^>]*>([^<]*)<', svg) == ["0", "6", "12"]


def test_a_falling_loss_goes_down_the_page():
    line = points(line_chart([1, 2, 3], [3.0, 2.0, 1.0], "loss"), "polyline")
    assert [x for x, _ in line] == [52, 202, 352]
    assert [y for _, y in line] == [14, 68, 122]


def test_a_long_log_is_thinned_but_its_peak_stays_in_the_band():
    values = [1.0] * 5000
    values[2500] = 50.0
    svg = line_chart(list(range(5000)), values, "loss")
    assert len(points(svg, "polyline")) <= 240
    assert min(y for _, y in points(svg, "polygon")) == 14


@pytest.mark.parametrize(
    ("values", "logarithmic"), [([1.0, 100.0], True), ([1.0, 99.0], False), ([-1.0, 100.0], False)]
)
def test_a_wide_positive_range_is_logarithmic_and_says_so(values, logarithmic):
    assert ("log scale" in line_chart([1, 2], values, "loss")) is logarithmic


def test_values_that_are_not_finite_are_left_out():
    line = points(line_chart([1, 2, 3, 4], [3.0, math.nan, math.inf, 1.0], "loss"), "polyline")
    assert len(line) == 2
    assert "no finite values" in line_chart([1], [None], "loss")


def test_names_are_escaped():
    for svg in (
        line_chart([1, 2], [1.0, 2.0], '"><script>'),
        line_chart([1], [math.nan], '"><script>'),
        interval_plot([IntervalRow('"><script>', 1, 0, 2, "after")], '"><script>', start=0, end=2),
    ):
        assert "<script" not in svg and '""' not in svg
