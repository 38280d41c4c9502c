"""Every method refuses a range of noise levels that is none, when it is made."""

import math

import pytest

from vdu.core.errors import InputError
from vdu.methods import registry
from vdu.methods.conflict_free import ConflictFree


@pytest.mark.parametrize("name", registry.names())
@pytest.mark.parametrize("wrong", [(0.7, 0.2), (-0.1, 0.5), (0.5, 1.1), (math.nan, 1.0), (0.5,), (0.1, 0.2, 0.3)])
def test_no_range(name, wrong):
    with pytest.raises(
        InputError, match=r"alpha_bar_range: got .*; expected two numbers, 0 ≤ smallest ᾱ ≤ largest ᾱ ≤ 1"
    ):
        registry.get(name)(alpha_bar_range=wrong)


def test_the_ends_are_ranges():
    assert ConflictFree(alpha_bar_range=(0.0, 1.0)).alpha_bar_range == (0.0, 1.0)
    assert ConflictFree(alpha_bar_range=(0.3, 0.3)).alpha_bar_range == (0.3, 0.3)
