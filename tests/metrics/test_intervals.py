import pytest
import torch
from scipy.stats import norm, sem

from vdu.core.errors import InputError
from vdu.metrics.intervals import (
    centred_interval,
    mean_interval,
    require_resampling,
    resample_counts,
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
