import pytest
from scipy.stats import binomtest, sem, t

from vdu.core.errors import InputError
from vdu.core.statistics import seeds_interval, share_interval


@pytest.mark.parametrize(("count", "n"), [(0, 1), (0, 50), (3, 38), (25, 50), (50, 50), (999, 1000)])
def test_the_interval_of_a_share_is_scipys_wilson_interval(count, n):
    truth = binomtest(count, n).proportion_ci(method="wilson")
    assert share_interval(count, n) == pytest.approx((truth.low, truth.high), abs=1e-12)


def test_the_limits_of_a_share_solve_the_score_equation():
    for p in share_interval(7, 40):
        assert abs(7 / 40 - p) == pytest.approx(1.959964 * (p * (1 - p) / 40) ** 0.5, rel=1e-6)


@pytest.mark.parametrize(("count", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_shares_are_refused(count, n):
    with pytest.raises(InputError, match=f"share: got {count} of {n}"):
        share_interval(count, n)


@pytest.mark.parametrize("k", [2, 3, 10])
def test_an_interval_over_seeds_is_students_where_each_seed_is_exact(k):
    values = [1.0, 4.0, 2.0, 8.0, 5.0, 7.0, 1.5, 2.5, 3.5, 9.0][:k]
    mean, low, high = seeds_interval([(value, value, value) for value in values])
    assert mean == pytest.approx(sum(values) / k)
    assert (low, high) == pytest.approx(t.interval(0.95, k - 1, loc=mean, scale=sem(values)), rel=1e-3)


def test_an_interval_over_seeds_is_no_narrower_than_that_of_a_seed():
    assert seeds_interval([(5.0, 4.0, 6.0)] * 3) == pytest.approx((5.0, 4.0, 6.0))
    mean, _, high = seeds_interval([(8.0, 7.0, 9.0), (10.0, 8.0, 12.0), (12.0, 9.0, 15.0)])
    assert high - mean == pytest.approx((t.ppf(0.975, 2) ** 2 * 4 / 3 + (1 + 4 + 9) / 3) ** 0.5, rel=1e-3)
    mean, low, high = seeds_interval([(100.0, 92.0, 100.0), (100.0, 90.0, 100.0)])  # nothing is left: no room above
    assert (mean, high) == (100, 100) and low == pytest.approx(100 - ((64 + 100) / 2) ** 0.5)
    with pytest.raises(InputError, match="got 1, expected at least 2"):
        seeds_interval([(1.0, 0.0, 2.0)])
