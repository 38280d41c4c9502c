import pytest

from vdu.reporting.formatting import command, duration, flat, interval, number, percent


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0004, "0.000400"), (9.4, "9.40"), (99.96, "100.0"), (-0.5, "−0.500"), (1e6, "1,000,000")],
)
def test_number(value, text):
    assert number(value) == text


def test_percent_never_rounds_something_to_nothing():
    assert (percent(0), percent(0.004), percent(97.24)) == ("0.0\u202f%", "<0.1\u202f%", "97.2\u202f%")


def test_the_rest():
    assert interval({"low": -1.0, "high": 2.0}, 1) == "(−1.0 to 2.0)"
    assert (duration(59), duration(60), duration(3599.7)) == ("59.0 s", "1 min 0 s", "1 h 0 min")
    assert command(["vdu", "--forget", "class 7"]) == "vdu --forget 'class 7'"
    assert flat({"a": [{"b": None}]}) == [("a[0].b", "unknown")]
