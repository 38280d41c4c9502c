"""The posterior of W₀ + s B A as a function of A and B: against autograd and Gram matrices, in float64."""

import pytest
import torch
from torch import nn

from vdu.core.errors import InputError
from vdu.posterior.gaussian import GaussianPosterior
from vdu.posterior.low_rank import LowRankPosterior, low_rank_posterior

SHAPES = {"a": (5, 3), "b": (4, 7)}
RANK, SCALE, GAMMA = 2, 0.7, 0.3


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def factors():
    return {
        f"{name}.lora_{which}": nn.Parameter(normal(*((RANK, inside) if which == "A" else (out, RANK)), seed=i + 10 * (which == "A")))
        for i, (name, (out, inside)) in enumerate(SHAPES.items())
        for which in "AB"
    }  # fmt: skip


@pytest.fixture
def base():
    return {f"{name}.weight": normal(*shape, seed=20 + i) for i, (name, shape) in enumerate(SHAPES.items())}


def of(base, mean=None, variance=None):
    mean = mean or {name: normal(*value.shape, seed=30) for name, value in base.items()}
    variance = variance or {name: normal(*value.shape, seed=40).exp() for name, value in base.items()}
    return LowRankPosterior(mean=mean, variance=variance, estimator="test", base=base, scale=SCALE)


def test_the_gradient_is_that_of_the_penalty(base):
    posterior, by_hand, by_autograd = of(base), factors(), factors()
    expected = posterior.penalty(by_autograd)
    (GAMMA * expected).backward()
    for _ in range(2):  # it is added to what is there
        found = posterior.add_gradient(by_hand, GAMMA)
    torch.testing.assert_close(found, expected.detach())
    for name, value in by_hand.items():
        torch.testing.assert_close(value.grad, 2 * by_autograd[name].grad)


def test_the_penalty_is_the_dense_sum(base):
    posterior, named = of(base), factors()
    expected = 0.0
    for layer in SHAPES:
        weight = base[f"{layer}.weight"] + SCALE * named[f"{layer}.lora_B"] @ named[f"{layer}.lora_A"]
        delta = weight - posterior.mean[f"{layer}.weight"]
        expected += (delta**2 / (2 * posterior.variance[f"{layer}.weight"])).sum()
    torch.testing.assert_close(posterior.penalty(named), expected)


def test_around_the_original_with_one_variance_it_is_a_product_of_gram_matrices(base):
    variance = 0.04
    posterior, named = (
        of(base, base, {name: torch.full_like(value, variance) for name, value in base.items()}),
        factors(),
    )
    grams = [
        (
            named[f"{layer}.lora_B"].T
            @ named[f"{layer}.lora_B"]
            @ (named[f"{layer}.lora_A"] @ named[f"{layer}.lora_A"].T)
        ).trace()
        for layer in SHAPES
    ]
    torch.testing.assert_close(posterior.penalty(named), SCALE**2 * sum(grams) / (2 * variance))


def corrected():
    network = nn.ModuleDict({"a": nn.Linear(3, 5)})
    network["a"].lora_A, network["a"].lora_B = nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(5, 2))
    return network


def gaussian(network, names):
    means = {name: value.detach() for name, value in network.named_parameters() if name in names}
    variance = {name: torch.ones_like(value) for name, value in means.items()}
    return GaussianPosterior(mean=means, variance=variance, estimator="test")


def test_it_takes_the_part_of_a_posterior_that_is_corrected():
    network = corrected()
    found = low_rank_posterior(gaussian(network, {"a.weight", "a.bias"}), network)
    assert set(found.mean) == {"a.weight"}
    assert found.base["a.weight"] is network["a"].weight
    with pytest.raises(InputError, match=r"does not cover 1 of the 1 weights that LoRA corrects \(first: a\.weight\)"):
        low_rank_posterior(gaussian(network, {"a.bias"}), network)
