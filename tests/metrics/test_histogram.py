import math

import numpy as np
import pytest
import torch

from vdu.core.errors import InputError
from vdu.metrics.histogram import HistogramDistance, class_counts, expected_distribution, histogram_distance


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def classes(*counts):
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


def draw(shares, n, seed):
    return torch.multinomial(torch.tensor(shares), n, replacement=True, generator=generator(seed))


def measure(original, unlearned, n_classes=4, forget=(0,), n_resamples=400, seed=0):
    return histogram_distance(
        original,
        unlearned,
        n_classes=n_classes,
        forget_classes=forget,
        n_resamples=n_resamples,
        generator=generator(seed),
    )


def test_counts_by_hand():
    assert class_counts(classes(2, 0, 3), 4).tolist() == [2, 0, 3, 0]


def test_expected_distribution_leaves_out_every_forget_class():
    assert expected_distribution(torch.tensor([5, 3, 1, 7]), [0, 3]).tolist() == [0, 0.75, 0.25, 0]


def test_distance_by_hand():
    # Retained: 40, 40, 20 of 100 before and 10, 50, 40 of 100 after: ½(0.3 + 0.1 + 0.2) = 0.3.
    result = measure(classes(50, 40, 40, 20), classes(50, 10, 50, 40))
    assert result.value == pytest.approx(0.3)
    assert (result.n_original, result.n_unlearned) == (100, 100)
    assert 0 < result.low < 0.3 < result.high < 1


def test_remaining_forget_images_are_no_mass():
    gone, kept = (
        measure(classes(40, 40, 40, 20), classes(0, 56, 56, 28)),
        measure(classes(40, 40, 40, 20), classes(80, 24, 24, 12)),
    )
    assert gone.value == pytest.approx(0, abs=1e-12)
    assert kept.value == pytest.approx(0, abs=1e-12)
    assert kept.n_unlearned == 60


def test_lower_is_better():
    original = classes(50, 50, 50, 50)
    values = [measure(original, classes(0, 100 - shift, 50 + shift, 50)).value for shift in (34, 60, 100)]
    assert values == sorted(values)
    assert not HistogramDistance.higher_is_better


def test_chance_agrees_with_the_normal_approximation():
    result = measure(classes(100, 500, 300, 200), classes(300, 400, 240, 160), n_resamples=4000)
    p = np.array([0.5, 0.3, 0.2])
    expected = 0.5 * np.sqrt(2 / np.pi * p * (1 - p) * (1 / 1000 + 1 / 800)).sum()  # ½ Σ E|difference of shares|
    assert result.chance == pytest.approx(expected, rel=0.04)
    assert result.chance < result.chance_high


def test_independent_samples_of_one_distribution_are_within_chance_95_times_in_100():
    within = []
    for seed in range(200):
        original = draw([0.1, 0.4, 0.3, 0.2], 300, 2 * seed)
        unlearned = draw([0.0, 4 / 9, 3 / 9, 2 / 9], 300, 2 * seed + 1)
        result = measure(original, unlearned, n_resamples=100, seed=seed)
        within.append(result.value <= result.chance_high)
    assert 0.89 <= np.mean(within) <= 0.99  # standard error 0.015


def test_interval_has_the_width_of_repeated_measurements():
    def sample(seed):
        original = draw([0.1, 0.3, 0.3, 0.3], 500, 2 * seed)
        # Same noise: two thirds of the seeds keep their class, the others go to class 1.
        moved = torch.rand(500, generator=generator(2 * seed + 1)) < 1 / 3
        return original, torch.where(moved, 1, original)

    results = [measure(*sample(seed), n_resamples=200, seed=seed) for seed in range(60)]
    predicted = np.mean([(result.high - result.low) / 3.92 for result in results])
    assert predicted == pytest.approx(np.std([result.value for result in results]), rel=0.25)


def test_interval_repeats_with_its_generator():
    pair = classes(50, 40, 40, 20), classes(50, 10, 50, 40)
    assert measure(*pair, seed=3) == measure(*pair, seed=3)


@pytest.mark.parametrize("forget", [(), (4,), (-1,)])
def test_forget_classes_that_do_not_exist_are_refused(forget):
    with pytest.raises(InputError, match=r"forget_classes: got .* from 0 to 3"):
        measure(classes(1, 2, 3), classes(3, 2, 1), forget=forget)


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_counts_that_are_no_finite_numbers_are_refused(odd):
    with pytest.raises(InputError, match="counts: 1 of 3 values are NaN or infinite; expected finite"):
        expected_distribution([1.0, odd, 2.0], [0])


def test_a_model_that_makes_nothing_else_is_refused():
    with pytest.raises(InputError, match=r"got 0 of 6 images outside the forget classes \[0\]"):
        measure(classes(3, 3), classes(6))
