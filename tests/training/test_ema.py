import pytest
import torch
from diffusers.training_utils import EMAModel
from torch import nn

from vdu.training.ema import ExponentialMovingAverage
from vdu.training.loop import TrainResult


def walk(network, steps):
    """Random steps of the parameters."""
    source = torch.Generator().manual_seed(0)
    for step in range(steps):
        with torch.no_grad():
            for value in network.parameters():
                value.add_(torch.randn(value.shape, generator=source, dtype=value.dtype))
        yield step


@pytest.mark.parametrize(("decay", "ramp"), [(0.0, 10), (0.25, 10), (0.999, 10), (0.999, 4), (0.7, 4)])
def test_the_average_is_the_weighted_sum_of_all_weights(decay, ramp):
    network = nn.Linear(3, 2).double()
    ema = ExponentialMovingAverage(network.named_parameters(), decay, ramp)
    history = [network.weight.detach().clone()]
    for step in walk(network, 12):
        ema.update(network.named_parameters(), step)
        history.append(network.weight.detach().clone())
    decays = [min(decay, (1 + step) / (ramp + step)) for step in range(12)]
    expected = torch.zeros_like(history[0])
    for place, weights in enumerate(history):  # a weight fades by every later decay
        share = torch.tensor(decays[place:], dtype=torch.float64).prod() * (1 - decays[place - 1] if place else 1)
        expected += share * weights
    torch.testing.assert_close(ema.shadow["weight"], expected, rtol=1e-12, atol=1e-12)


def test_after_the_first_step_it_is_that_of_diffusers():
    network = nn.Linear(3, 2).double()
    theirs = EMAModel(network.parameters(), decay=0.4)
    theirs.step(network.parameters())  # their first decay is 0: the average becomes the weights
    ours = ExponentialMovingAverage(network.named_parameters(), 0.4)
    for step in walk(network, 20):
        ours.update(network.named_parameters(), step + 1)
        theirs.step(network.parameters())
    for shadow, truth in zip(ours.shadow.values(), theirs.shadow_params, strict=True):
        torch.testing.assert_close(shadow, truth, rtol=1e-12, atol=1e-12)


def test_the_shadow_is_a_copy_that_a_result_writes_into_a_network():
    network, other = nn.Linear(3, 2), nn.Linear(3, 2)
    start = network.weight.detach().clone()
    ema = ExponentialMovingAverage(network.named_parameters(), 0.9)
    with torch.no_grad():
        network.weight.add_(1)
    assert torch.equal(ema.shadow["weight"], start)
    TrainResult(1, ema.shadow, {}).load_average(other)
    assert torch.equal(other.weight, start)
    assert torch.equal(other.bias, network.bias)
    assert not ema.shadow["weight"].requires_grad
