import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from vdu.core.errors import InputError
from vdu.metrics.paired_ratio import ratio_interval
from vdu.metrics.pul import PUL, PULResult, corrected_pul, flip_table, percentage_unlearned, pul_ceiling


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def calls(both, lost, gained, n):
    original, unlearned = torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
    original[: both + lost] = True
    unlearned[:both] = True
    unlearned[both + lost : both + lost + gained] = True
    return original, unlearned


def pul(both, lost, gained, n, seed=0):
    return percentage_unlearned(*calls(both, lost, gained, n), generator=generator(seed))


@pytest.mark.parametrize(
    ("cells", "value"), [((10, 40, 0), 80.0), ((0, 50, 0), 100.0), ((50, 0, 0), 0.0), ((50, 0, 25), -50.0)]
)
def test_value_and_counts_by_hand(cells, value):
    result = pul(*cells, 500)
    assert result.value == value
    assert (result.n_original, result.n_unlearned, result.n) == (50, cells[0] + cells[2], 500)
    assert result.low < value <= result.high


def test_higher_means_more_unlearned():
    assert PUL.higher_is_better
    assert pul(5, 45, 0, 500).value > pul(40, 10, 0, 500).value


def test_interval_agrees_with_resampling_seeds_one_by_one():
    original, unlearned = calls(30, 170, 20, 1000)
    rng, values = np.random.default_rng(0), []
    for _ in range(2000):
        rows = rng.integers(1000, size=1000)
        n_original, n_unlearned = original.numpy()[rows].sum(), unlearned.numpy()[rows].sum()
        values.append(100 * (n_original - n_unlearned) / n_original)
    result = pul(30, 170, 20, 1000)
    # Monte-Carlo error of a 2.5 % limit of a spread of 3.6 is 0.2; the wider of two intervals adds as much.
    assert (result.low, result.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=1.0)


@pytest.mark.parametrize("cells", [(1, 49, 0), (10, 40, 0), (0, 5, 3)])
def test_interval_holds_the_score_interval_and_is_wider_where_the_bootstrap_is(cells):
    result, (ratio_low, ratio_high) = pul(*cells, 500), ratio_interval(*cells)
    assert result.low <= 100 * (1 - ratio_high)
    assert result.high >= 100 * (1 - ratio_low)
    if cells[0] == 1:  # a resample in e misses the one forget image: the bootstrap's limit is 100, the score's 99.6
        assert result.high == 100


def test_shared_noise_narrows_the_interval():
    paired, unpaired = pul(50, 50, 0, 1000), pul(5, 95, 45, 1000)
    assert paired.value == unpaired.value
    assert paired.high - paired.low < unpaired.high - unpaired.low


@pytest.mark.parametrize("n_original", [10, 50, 500])
def test_a_perfect_score_keeps_an_interval(n_original):
    result = pul(0, n_original, 0, 5000)
    exact_ratio = 0.025 ** (-1 / n_original) - 1  # two Poisson counts: (1/(1+R))^n_orig = 0.025
    assert result.value == result.high == 100
    assert result.low < 100
    assert 100 - result.low == pytest.approx(100 * exact_ratio, rel=0.15)


def test_resamples_without_forget_images_widen_the_interval():
    result = pul(0, 2, 0, 300)
    assert result.n_empty_resamples == pytest.approx(2000 * math.exp(-2), rel=0.2)
    assert result.low == 100 * (1 - 300)  # they are more than 2.5 % of the resamples: nothing is known
    assert result.high == 100


def test_same_generator_same_interval_and_the_global_stream_is_untouched():
    before = torch.get_rng_state()
    assert pul(10, 40, 3, 500, seed=1) == pul(10, 40, 3, 500, seed=1)
    assert torch.equal(before, torch.get_rng_state())


def test_no_forget_image_in_the_original_is_an_error_that_says_so():
    with pytest.raises(InputError, match=r"predicts 0 of the original's 20 samples as forget.*Draw more samples"):
        pul(0, 0, 5, 20)


@pytest.mark.parametrize(
    ("original", "unlearned", "match"),
    [
        (torch.ones(3), torch.ones(3, dtype=torch.bool), r"original_is_forget: got torch.float32, expected bool"),
        (torch.ones(3, dtype=torch.bool), torch.ones(4, dtype=torch.bool), r"\(3,\) for the original and \(4,\)"),
        (torch.ones(2, 2, dtype=torch.bool), torch.ones(2, 2, dtype=torch.bool), r"expected two vectors"),
    ],
)
def test_calls_of_a_wrong_kind_are_refused(original, unlearned, match):
    with pytest.raises(InputError, match=match):
        percentage_unlearned(original, unlearned, generator=generator())


def test_ceiling_is_the_mean_score_of_a_perfect_model():
    n, n_original, rate = 2000, 218, 0.01
    false_calls = np.random.default_rng(0).binomial(n, rate, size=5000)
    simulated = np.mean(100 * (n_original - false_calls) / n_original)
    assert pul_ceiling(n_original=n_original, n=n, false_positive_rate=rate) == pytest.approx(simulated, abs=0.15)
    assert pul_ceiling(n_original=218, n=2000, false_positive_rate=0.0) == 100
    assert pul_ceiling(n_original=10, n=2000, false_positive_rate=0.01) == -100


@pytest.mark.parametrize(
    ("numbers", "match"),
    [
        ({"n_original": 0, "n": 10, "false_positive_rate": 0.1}, r"n_original: got 0; expected at least 1"),
        ({"n_original": 5, "n": 10, "false_positive_rate": 1.5}, r"false_positive_rate: got 1.5"),
        ({"n_original": 5, "n": 10, "false_positive_rate": math.nan}, r"false_positive_rate: got nan"),
    ],
)
def test_ceiling_refuses_impossible_numbers(numbers, match):
    with pytest.raises(InputError, match=match):
        pul_ceiling(**numbers)


def counted(n_original, n_unlearned, n, half_width=10.0):
    value = 100 * (1 - n_unlearned / n_original)
    return PULResult(value, value - half_width, value + half_width, n_original, n_unlearned, n)


@pytest.mark.parametrize("true_positive_rate", [0.9, 1.0])
@pytest.mark.parametrize("rate", [0.0, 0.02, 0.05])
def test_correction_recovers_the_truth_from_expected_counts(true_positive_rate, rate):
    n, prevalences = 1_000_000, (0.10, 0.02)  # of the original and the unlearned model: the true PUL is 80
    counts = [round(n * (true_positive_rate * p + rate * (1 - p))) for p in prevalences]
    # each count less f N is N p (tpr − f), so the ratio of the two is that of the prevalences
    found = corrected_pul(counted(*counts, n), false_positive_rate=rate)
    assert found is not None and found.value == pytest.approx(80)


def test_correction_carries_the_interval_over_and_stops_at_100():
    # 100 → 50 of 1000 with 20 false positives in each: 80 → 30 true ones; the limits 40 and 60 % leave 60 and 40 images
    found = corrected_pul(counted(100, 50, 1000), false_positive_rate=0.02)
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((100 * (1 - 30 / 80), 100 * (1 - 40 / 80), 75))
    gone = corrected_pul(counted(100, 10, 1000), false_positive_rate=0.02)
    assert gone is not None and gone.value == gone.high == 100


@pytest.mark.parametrize(("n_original", "corrected"), [(19, False), (20, False), (21, True)])
def test_no_correction_where_false_positives_explain_the_count(n_original, corrected):
    found = corrected_pul(counted(n_original, 1, 1000), false_positive_rate=0.02)
    assert (found is not None) == corrected


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan])
def test_correction_refuses_a_rate_that_is_none(rate):
    with pytest.raises(InputError, match=r"false_positive_rate: got (-0\.1|1\.1|nan); expected"):
        corrected_pul(counted(50, 10, 500), false_positive_rate=rate)


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ({"value": math.nan}, "pul: value: got nan; expected a finite number of per cent"),
        ({"low": -math.inf}, "pul: low: got -inf; expected a finite number"),
        ({"n": math.nan}, "pul: n: got nan; expected a finite number, 0 or more"),
        ({"n_original": math.inf}, "pul: n_original: got inf; expected a finite number, 0 or more"),
    ],
)
def test_correction_refuses_a_result_with_numbers_that_are_none(odd, message):
    counted = replace(PULResult(50.0, 40.0, 60.0, n_original=100, n_unlearned=50, n=1000), **odd)
    with pytest.raises(InputError, match=message):
        corrected_pul(counted, false_positive_rate=0.02)


def test_flip_table_equals_a_loop():
    original, unlearned = torch.randint(4, (2, 60), generator=generator())
    expected = torch.zeros(5, 5, dtype=torch.int64)
    for row, column in zip(original.tolist(), unlearned.tolist(), strict=True):
        expected[row, column] += 1
    assert torch.equal(flip_table(original, unlearned, 5), expected)


@pytest.mark.parametrize(
    ("classes", "match"),
    [([0, 1, 5], r"expected integers from 0 to 4"), ([0, -1, 1], r"expected integers"), ([0, 1], r"equal length")],
)
def test_flip_table_refuses_strange_classes(classes, match):
    with pytest.raises(InputError, match=match):
        flip_table(torch.tensor([0, 1, 2]), torch.tensor(classes), 5)


def test_flip_table_refuses_fractions():
    with pytest.raises(InputError, match=r"original_class: got torch.float32"):
        flip_table(torch.ones(3), torch.tensor([0, 1, 2]), 5)


def test_batches_accumulate_to_the_whole():
    source = np.random.default_rng(3)
    before, after = (torch.from_numpy(source.random(60) < rate) for rate in (0.5, 0.2))
    metric = PUL()
    for part in (slice(0, 7), slice(7, 60)):
        metric.update(before[part], after[part])
    whole = percentage_unlearned(before, after, generator=torch.Generator().manual_seed(0))
    assert metric.compute() == whole
    assert metric.compute(generator=torch.Generator().manual_seed(0)) == whole


@pytest.mark.parametrize("buffer", [torch.zeros(2, 5, dtype=torch.bool), np.zeros((2, 5), dtype=bool)])
def test_a_buffer_that_is_filled_again_changes_no_earlier_batch(buffer):
    metric, (before, after) = PUL(), buffer
    for left in (2, 0):  # of five each: ten before, and two after
        before[:], after[:] = True, False
        after[:left] = True
        metric.update(before, after)
    assert (metric.compute().n_original, metric.compute().n_unlearned, metric.compute().value) == (10, 2, 80.0)


def test_a_judge_turns_images_into_predictions():
    images = torch.zeros(4, 1, 2, 2)
    images[:, 0, 0, 0] = torch.tensor([0.0, 1.0, 1.0, 1.0])
    metric = PUL(lambda batch: torch.nn.functional.one_hot(batch[:, 0, 0, 0].long(), 3).float(), forget_classes=[1])
    metric.update(images, torch.zeros_like(images))
    assert (metric.compute().n_original, metric.compute().n_unlearned) == (3, 0)


def test_an_accumulator_without_what_it_needs_is_refused():
    with pytest.raises(InputError, match="got nothing, expected at least one batch"):
        PUL().compute()
    with pytest.raises(InputError, match="expected both"):
        PUL(forget_classes=[1])
    with pytest.raises(InputError, match="expected both"):
        PUL(lambda batch: batch)
