"""The filter against a loop over all pairs."""

from dataclasses import replace

import numpy as np
import pytest

from vdu.core.errors import InputError
from vdu.explore.sample_pairs import find_seed, forget_name, group_names, place_of_seed, select_pairs
from vdu.reporting.collect import Samples


@pytest.fixture
def data(opened):
    """The run with random classes of three; 2 is the forget class."""
    rng, n = np.random.default_rng(0), 200

    def samples():
        confidence = rng.integers(0, 101, n).astype(np.float32) / 100
        return Samples(np.zeros((n, 2, 2, 1), np.uint8), np.arange(n) * 3 + 2**62, rng.integers(3, size=n), confidence)

    return replace(opened.data, original=samples(), unlearned=samples(), forget_ids=(2,))


GROUPS = {
    "were {}": lambda was, now: was == 2,
    "still {}": lambda was, now: was == 2 and now == 2,
    "became {}": lambda was, now: was != 2 and now == 2,
    "other changes": lambda was, now: was != 2 and now != 2 and was != now,
    "all": lambda was, now: True,
}


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(("before", "after", "most"), [(None, None, 1.0), (2, 1, 1.0), (0, None, 0.5), (None, 2, 0.25)])
def test_the_filter_keeps_what_a_loop_keeps(data, group, before, after, most):
    kept = []
    for i in range(200):
        was, now = int(data.original.judge_class[i]), int(data.unlearned.judge_class[i])
        sure = min(float(data.original.judge_confidence[i]), float(data.unlearned.judge_confidence[i]))
        if GROUPS[group](was, now) and before in {None, was} and after in {None, now} and sure <= most:
            kept.append((now != 2, i))  # those that are of the forget class come first
    assert select_pairs(data, group, before, after, most).tolist() == [i for _, i in sorted(kept)]


def test_the_groups_are_named_and_counted(data):
    was, now = data.original.judge_class, data.unlearned.judge_class
    assert group_names(data)["still {}"] == f"still 2 ({((was == 2) & (now == 2)).sum()})"
    assert list(group_names(replace(data, forget_ids=())).values()) == ["all (200)"]
    assert forget_name(replace(data, forget_ids=())) == "unwanted"


def test_a_number_and_a_seed_find_a_pair(data):
    assert find_seed(data, " #1\n") == 2**62 and find_seed(data, "#200") == 2**62 + 3 * 199
    assert find_seed(data, f" {2**63 - 1}\n") == 2**63 - 1
    assert place_of_seed(data, 2**62 + 30) == 10 and place_of_seed(data, 2**62 + 31) is None


@pytest.mark.parametrize(
    "text", ["", "#", "#0", "#201", "##1", "-1", "1.5", "eight", str(2**63), "9" * 5000, "²", "#²"]
)
def test_what_is_neither_is_refused(data, text):
    with pytest.raises(InputError, match="expected #1 to #200 for a stored pair, or a whole number"):
        find_seed(data, text)
