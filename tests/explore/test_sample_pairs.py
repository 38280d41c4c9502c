"""The filter against a loop over all pairs."""

from dataclasses import replace

import numpy as np
import pytest

from vdu.explore.sample_pairs import PairFilter, first_seed, place_of_seed, select_pairs
from vdu.report.collect import Samples


@pytest.fixture
def data(opened):
    """The run with random calls of three classes; 2 is the forget class."""
    rng, n = np.random.default_rng(0), 200

    def samples():
        confidence = rng.integers(0, 101, n).astype(np.float32) / 100
        return Samples(np.zeros((n, 2, 2, 1), np.uint8), np.arange(n) * 3 + 2**62, rng.integers(3, size=n), confidence)

    return replace(opened.data, original=samples(), unlearned=samples(), forget_ids=(2,))


@pytest.mark.parametrize(
    "wanted",
    [
        PairFilter(),
        PairFilter(before=2),
        PairFilter(after=0),
        PairFilter(before=2, after=1),
        PairFilter(change="changed"),
        PairFilter(change="same", before=1),
        PairFilter(least=0.5),
        PairFilter(most=0.25),
        PairFilter(before=0, change="changed", least=0.25, most=0.75),
        PairFilter(before=0, after=0, change="changed"),
    ],
)
def test_the_filter_keeps_what_a_loop_keeps(data, wanted):
    kept = []
    for i in range(200):
        was, now = int(data.original.judge_class[i]), int(data.unlearned.judge_class[i])
        sure = min(float(data.original.judge_confidence[i]), float(data.unlearned.judge_confidence[i]))
        if wanted.before is not None and was != wanted.before:
            continue
        if wanted.after is not None and now != wanted.after:
            continue
        if (wanted.change == "changed" and was == now) or (wanted.change == "same" and was != now):
            continue
        if wanted.least <= sure <= wanted.most:
            kept.append(i)
    assert select_pairs(data, wanted).tolist() == kept
    assert bool(kept) != (wanted == PairFilter(before=0, after=0, change="changed"))


def test_the_first_seed_is_one_that_forgot(data):
    rows = range(200)
    gone = [i for i in rows if data.original.judge_class[i] == 2 and data.unlearned.judge_class[i] != 2]
    assert first_seed(data) == 2**62 + 3 * gone[0]
    assert first_seed(replace(data, unlearned=data.original)) == 2**62


def test_a_seed_is_found_by_all_its_digits(data):
    assert place_of_seed(data, 2**62 + 30) == 10 and place_of_seed(data, 2**62 + 31) is None
