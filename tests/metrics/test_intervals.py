import pytest
import torch
from scipy.stats import binomtest, norm, sem, t

from vdu.core.errors import InputError
from vdu.metrics.intervals import (
    centred_interval,
    mean_interval,
    require_resampling,
    resample_counts,
    seeds_interval,
    share_interval,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_resampled_counts_have_the_moments_of_a_multinomial():
    counts, n = torch.tensor([5, 0, 20, 75]), 100
    drawn = resample_counts(counts, 20_000, generator=generator())
    p = counts.double() / n
    assert (drawn.sum(1) == n).all()
    assert (drawn[:, 1] == 0).all()
    # Standard error of a mean: √(n·p(1−p)/R) ≤ 0.03; of a covariance: about 20·√(2/R) ≤ 0.2. Five times each.
    torch.testing.assert_close(drawn.mean(0), n * p, atol=0.15, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), n * (p.diag() - torch.outer(p, p)), atol=1.0, rtol=0)


def test_resampled_counts_follow_proportions_when_their_number_is_given():
    drawn = resample_counts(torch.tensor([0.25, 0.75, 0.0]), 5000, n=40, generator=generator())
    assert (drawn.sum(1) == 40).all()
    torch.testing.assert_close(drawn.mean(0), torch.tensor([10.0, 30, 0]).double(), atol=0.2, rtol=0)


def test_same_generator_same_resamples_and_the_global_stream_is_untouched():
    before = torch.get_rng_state()
    first, second = (resample_counts(torch.tensor([3, 4]), 50, generator=generator(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


def test_centred_interval_ignores_the_bias_of_the_resamples():
    resampled = torch.randn(4000, generator=generator(), dtype=torch.float64)
    low, high = centred_interval(7.0, resampled + 100)
    assert (low, high) == pytest.approx((7 - 1.96, 7 + 1.96), abs=0.15)


def test_too_few_resamples_are_refused():
    with pytest.raises(InputError, match=r"got 39; expected at least 40"):
        require_resampling(39, torch.Generator())


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


def test_the_interval_of_a_mean_covers_it_nineteen_times_in_twenty():
    """2000 means of 60 values around 3: the share that covers has a standard error of 0.5 %, four of them allowed."""
    values = 3 + 2 * torch.randn(2000, 60, generator=generator())
    limits = [mean_interval(row) for row in values]
    assert 0.925 < sum(low <= 3 <= high for _, low, high in limits) / 2000 < 0.965
    truth = norm.interval(0.95, loc=values[0].double().mean(), scale=sem(values[0].double()))
    assert limits[0] == pytest.approx((float(values[0].double().mean()), *truth), rel=1e-9)


def test_one_value_has_no_interval():
    with pytest.raises(InputError, match=r"got values of shape \[1\], expected \[n\] with n ≥ 2"):
        mean_interval(torch.ones(1))


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
