"""Classes that became rarer or more frequent: the tests against scipy's, the counts against the pairs themselves."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from vdu.reporting.collect import collect
from vdu.reporting.findings.class_shifts import class_shifts, retrained_counts
from vdu.reporting.findings.rest import find_rest, rest_answer
from vdu.reporting.rates import holm, sign_test


@pytest.mark.parametrize(("lost", "gained"), [(22, 3), (3, 22), (5, 5), (1, 0), (0, 9), (40, 61)])
def test_the_sign_test_is_the_exact_binomial_one(lost, gained):
    assert sign_test(lost, gained) == pytest.approx(binomtest(lost, lost + gained, 0.5).pvalue, rel=1e-12)


def test_holm_rejects_what_its_steps_reject():
    """Holm's procedure in its own words: reject from the smallest p on while p ≤ α / (number not yet rejected)."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        p_values, level = rng.random(7) ** 4, 0.05
        rejected = set()
        for rank, i in enumerate(np.argsort(p_values)):
            if p_values[i] > level / (7 - rank):
                break
            rejected.add(i)
        assert {i for i, p in enumerate(holm(p_values.tolist())) if p <= level} == rejected


@pytest.fixture(scope="module")
def data(make_run, tmp_path_factory):
    return collect(make_run(tmp_path_factory.mktemp("shifts") / "run"))


def with_flips(data, counts, **changes):
    flips = {"classes": data.classes, "counts": np.asarray(counts).tolist()}
    return replace(data, metrics=data.metrics | {"flips": flips} | changes)


def demo_like(lost=22, gained=3):
    """500 noises of ten classes, 7 to be forgotten: of 64 threes some are lost to class 6, and class 5 gives some."""
    counts = np.diag([45, 52, 51, 64, 49, 42, 44, 0, 54, 53])
    counts[3, 3] -= lost
    counts[3, 6] = lost
    counts[5, 5] -= gained
    counts[5, 3] = gained
    counts[7, 3] = 46  # all forgotten noises give a 3 now: they do not hide what the kept ones lost
    return counts


def test_the_counts_are_those_of_the_pairs(data):
    """Counted image by image from the samples, forgotten noises left out."""
    was, now = data.original.judge_class, data.unlearned.judge_class
    kept = was != 7
    for shift in class_shifts(data):
        i = data.classes.index(shift.name)
        assert shift.before == (was == i).sum()
        assert shift.lost == (kept & (was == i) & (now != i)).sum()
        assert shift.gained == (kept & (was != i) & (now == i)).sum()


def test_a_class_that_lost_what_chance_does_not_explain(data):
    shifted = with_flips(data, demo_like())
    three, six = (each for each in class_shifts(shifted) if each.name in {"3", "6"})
    assert (three.before, three.lost, three.gained, three.fell, three.rose) == (64, 22, 3, True, False)
    p_six = 9 * binomtest(22, 22).pvalue  # the smallest of nine
    assert (six.p, six.rose) == (pytest.approx(p_six), True)
    assert three.p == pytest.approx(8 * binomtest(3, 25).pvalue)
    found = find_rest(shifted)
    assert (found.reason.level, found.reason.code) == ("mixed", "class_fell")
    assert rest_answer(shifted, found).title.startswith("Damage detected: “3” became rarer; 25 of the 454 ")


def test_the_smallest_loss_that_can_be_detected_is_just_that(data):
    for gained in (0, 3, 9):
        shift = class_shifts(with_flips(data, demo_like(9, gained)))[3]
        assert shift.gained == gained
        one_less, just = (
            9 * binomtest(gained, 2 * gained + m).pvalue for m in (shift.detectable_loss - 1, shift.detectable_loss)
        )
        assert just < 0.05 <= one_less


def test_a_class_that_only_became_more_frequent_is_a_shift(data):
    counts = np.diag([45, 52, 51, 64, 49, 42, 44, 46, 54, 53])
    for i in (0, 1, 2, 3, 4):  # each loses four images to class 6: none of them enough to see
        counts[i, i] -= 4
        counts[i, 6] = 4
    found = find_rest(with_flips(data, counts))
    assert (found.reason.code, found.fallen) == ("classes_shifted", [])


def test_no_pairs_no_test(data):
    other = replace(data, metrics=data.metrics | {"flips": {"classes": ["7", "x", "y"], "counts": [[0] * 3] * 3}})
    assert class_shifts(other) is None


def test_the_retrained_models_counts_are_the_columns(data):
    counts = np.arange(100).reshape(10, 10)
    flips = {"classes": data.classes, "counts": counts.tolist()}
    assert retrained_counts(with_flips(data, demo_like(), flips_retrained=flips)) == counts.sum(0).tolist()
    assert retrained_counts(data) is None


@pytest.mark.parametrize(("per_class", "code"), [(8, "class_losses_unseen"), (9, "no_damage")])
def test_no_green_where_a_vanished_class_could_not_be_seen(data, per_class, code):
    """Nine losses against none are the fewest that nine classes let be seen: 9 · 2 / 2⁹ = 0.035, 9 · 2 / 2⁸ = 0.07."""
    assert find_rest(with_flips(data, np.eye(10, dtype=int) * per_class)).reason.code == code
