import pytest
from torch import nn

from vdu.core.modes import evaluating


def parts(*networks):
    return [part.training for network in networks for part in network.modules()]


def test_every_part_is_in_evaluation_mode_inside_and_in_its_own_mode_after():
    first, second = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)), nn.Sequential(nn.Dropout()).eval()
    first[1].eval()  # a frozen part stays frozen
    before = parts(first, second)
    assert before == [True, True, False, False, False]
    with evaluating(first, second):
        assert not any(parts(first, second))
    assert parts(first, second) == before


def test_modes_come_back_after_an_error():
    network = nn.Dropout()
    with pytest.raises(ZeroDivisionError, match="division"), evaluating(network):
        _ = 1 / 0
    assert network.training
