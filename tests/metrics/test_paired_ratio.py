from itertools import pairwise

import numpy as np
import pytest
from scipy.optimize import minimize

from vdu.core.errors import InputError
from vdu.metrics.paired_ratio import ratio_interval, ratio_score

CASES = [  # both, lost, gained, N, R under test
    (3, 20, 5, 100, 0.6),
    (0, 50, 0, 500, 0.05),
    (10, 2, 4, 60, 1.8),
    (0, 5, 7, 40, 0.7),
    (8, 3, 0, 50, 0.5),
    (4, 0, 6, 30, 1.4),
]


def score_by_optimiser(both, lost, gained, n, ratio):
    """z(R) with the four probabilities fitted numerically under P(B) = R·P(A), no closed form used."""
    counts = np.array([both, lost, gained, n - both - lost - gained])
    fit = minimize(
        lambda p: -counts @ np.log(np.maximum(p, 1e-12)) / n,
        np.full(4, 0.25),
        method="SLSQP",
        bounds=[(1e-10, 1)] * 4,
        constraints=[
            {"type": "eq", "fun": lambda p: p.sum() - 1},
            {"type": "eq", "fun": lambda p: p[0] + p[2] - ratio * (p[0] + p[1])},
        ],
        options={"maxiter": 500, "ftol": 1e-13},
    )
    contrast = np.array([1 - ratio, -ratio, 1, 0])
    return counts @ contrast / np.sqrt(n * (fit.x @ contrast**2))


@pytest.mark.parametrize(("both", "lost", "gained", "n", "ratio"), CASES)
def test_score_equals_that_of_the_numerically_constrained_likelihood(both, lost, gained, n, ratio):
    expected = score_by_optimiser(both, lost, gained, n, ratio)
    assert ratio_score(ratio, both, lost, gained) == pytest.approx(expected, rel=2e-3)  # the optimiser's accuracy


@pytest.mark.parametrize(("both", "lost", "gained", "n", "ratio"), CASES)
def test_limits_are_where_the_score_is_1_96(both, lost, gained, n, ratio):
    low, high = ratio_interval(both, lost, gained)
    assert ratio_score(high, both, lost, gained) == pytest.approx(-1.96, abs=1e-3)
    assert low == 0 if both + gained == 0 else ratio_score(low, both, lost, gained) == pytest.approx(1.96, abs=1e-3)


def test_score_falls_as_the_ratio_grows():
    scores = [ratio_score(ratio, 3, 20, 5) for ratio in np.linspace(0.01, 5, 100)]
    assert all(first > second for first, second in pairwise(scores))


def test_exchanging_the_conditions_inverts_the_interval():
    low, high = ratio_interval(3, 20, 5)
    assert ratio_interval(3, 5, 20) == pytest.approx((1 / high, 1 / low), rel=1e-9)


@pytest.mark.parametrize("cells", [(0.01, 0.09, 0.01), (0.0, 0.1, 0.01), (0.08, 0.02, 0.02)])
def test_interval_covers_the_true_ratio_about_95_times_in_100(cells):
    both, lost, gained = cells
    truth = (both + gained) / (both + lost)
    draws = np.random.default_rng(0).multinomial(300, [*cells, 1 - sum(cells)], size=600)
    intervals = [ratio_interval(*(int(count) for count in draw[:3])) for draw in draws]
    covered = np.mean([low <= truth <= high for low, high in intervals])
    assert 0.925 <= covered <= 0.985  # standard error 0.009


@pytest.mark.parametrize("counts", [(0, 0, 3), (-1, 5, 0)])
def test_counts_without_an_event_or_below_zero_are_refused(counts):
    with pytest.raises(InputError, match=r"expected none below 0 and both \+ lost ≥ 1"):
        ratio_interval(*counts)
