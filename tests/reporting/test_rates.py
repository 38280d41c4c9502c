"""Differences of rates: Newcombe's own worked examples, and what happens at the ends."""

import itertools
import math

import pytest

from vdu.reporting.rates import Rate, difference, exceedance, measured, why_not


def wilson(count, total, z=1.959963984540054):
    """Wilson's interval by the roots of (p̂ − p)² = z² p(1 − p)/n, another way than a formula for its ends."""
    p, a = count / total, z**2 / total
    half = math.sqrt((2 * p + a) ** 2 - 4 * (1 + a) * p**2)
    return Rate(count, total, (2 * p + a - half) / (2 * (1 + a)), (2 * p + a + half) / (2 * (1 + a)))


@pytest.mark.parametrize(
    ("one", "other", "low", "high"),
    [  # Newcombe 1998, Table II, method 10, to its four digits
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)
def test_newcombe_table_ii(one, other, low, high):
    assert difference(wilson(*one), wilson(*other)) == pytest.approx((low, high), abs=6e-5)


def test_the_other_way_round_is_the_negative():
    one, other = wilson(30, 100), wilson(45, 90)
    low, high = difference(one, other)
    assert difference(other, one) == pytest.approx((-high, -low))


@pytest.mark.parametrize(("n", "n_others", "allowed"), [(3, 4, 0), (4, 5, 1), (5, 3, 2)])
def test_exceedance_is_the_share_of_all_orders(n, n_others, allowed):
    """Every choice of ranks for the n values among all of them, counted one by one."""
    counts = []
    for mine in map(set, itertools.combinations(range(n + n_others), n)):
        threshold = sorted(set(range(n + n_others)) - mine)[-allowed - 1]
        counts.append(sum(rank > threshold for rank in mine))
    for count in range(n + 1):
        truth = sum(each >= count for each in counts) / len(counts)
        assert exceedance(count, n, allowed, n_others) == pytest.approx(truth)


def test_a_result_and_a_reason():
    probes = {"probes": {"a": {"status": "measured"}, "b": {"status": "not run", "reason": "no images"}}}
    assert (measured(probes, "a"), measured(probes, "b"), measured({}, "a")) == ({"status": "measured"}, None, None)
    assert (why_not(probes, "a"), why_not(probes, "b"), why_not(probes, "c")) == (None, "no images", None)
