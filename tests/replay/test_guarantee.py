"""The bound against SciPy's, its coverage by enumeration, and the aim by brute force."""

import pytest
from scipy.stats import beta, binom

from vdu.replay.guarantee import CONFIDENCE, MOST, N_LOOKS, acceptable, at_most, seeds_needed

LEVEL = (1 - CONFIDENCE) / N_LOOKS


@pytest.mark.parametrize(("left", "n"), [(0, 1), (0, 86), (1, 114), (7, 128), (127, 128), (40, 2000)])
def test_the_bound_is_the_quantile_of_a_beta_distribution(left, n):
    assert at_most(left, n) == pytest.approx(beta.ppf(1 - LEVEL, left + 1, n - left), abs=1e-9)


def test_all_left_bounds_nothing():
    assert at_most(12, 12) == 1


@pytest.mark.parametrize("n", [10, 86, 128])
@pytest.mark.parametrize("rate", [0.003, 0.02, 0.05, 0.3])
def test_the_bound_misses_the_rate_at_a_look_no_more_often_than_a_quarter_of_5_percent(n, rate):
    missed = sum(binom.pmf(left, n, rate) for left in range(n + 1) if at_most(left, n) < rate)
    assert missed <= LEVEL


@pytest.mark.parametrize(("n", "error"), [(10, 0.0), (12, 0.05), (114, 0.005), (128, 0.1)])
def test_a_model_at_the_ceiling_passes_a_look_4_times_of_5(n, error):
    k = acceptable(n, error)
    assert binom.cdf(k, n, error) >= 0.8 and (k == 0 or binom.cdf(k - 1, n, error) < 0.8)


def test_a_bad_classifier_excuses_no_more_than_a_tenth():
    assert acceptable(128, 0.7) == acceptable(128, 0.1) == binom.ppf(0.8, 128, 0.1)


@pytest.mark.parametrize("error", [0.0, 0.01, 0.025, 0.05])
def test_the_fewest_seeds_that_show_the_aim(error):
    def aim(n):
        k = int(binom.ppf(0.8, n, error)) if error else 0
        return 1 - LEVEL ** (1 / n) if k == 0 else beta.ppf(1 - LEVEL, k + 1, n - k)

    fitting = [n for n in range(1, MOST) if aim(n) <= error + 0.07]
    assert seeds_needed(error) == (fitting[0] if fitting else MOST)
