"""A small regression with dropout: quick, and every part of the loop has something to do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vdu.core.rng import isolated_global
from vdu.core.types import Losses
from vdu.training.loop import Objective

PULL = 0.3


@dataclass
class Regression(Objective):
    """mse(network(x), y) with the closed-form gradient of PULL · ½‖θ‖²."""

    limits: Mapping[str, float] = field(default_factory=dict)

    def losses(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Losses:
        error = network(batch["x"]) - batch["y"]
        return Losses({"mse": error.square().mean()}, {"largest": error.abs().max()})

    def add_gradients(self, parameters: Mapping[str, nn.Parameter]) -> Mapping[str, float]:
        value = 0.0
        for parameter in parameters.values():
            parameter.grad += PULL * parameter.detach()
            value += PULL * float(parameter.detach().square().sum()) / 2
        return {"pull": value}


@pytest.fixture
def regression() -> type[Regression]:
    return Regression


@pytest.fixture
def make_network() -> Callable[..., nn.Module]:
    def make(dtype: torch.dtype = torch.float64, dropout: float = 0.0) -> nn.Module:
        with isolated_global(0):
            return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(dropout), nn.Linear(4, 2)).to(dtype)

    return make


@pytest.fixture
def make_batches() -> Callable[..., Callable[[int], dict[str, Tensor]]]:
    def make(dtype: torch.dtype = torch.float64, size: int = 8) -> Callable[[int], dict[str, Tensor]]:
        def batch(step: int) -> dict[str, Tensor]:
            source = torch.Generator().manual_seed(100 + step)
            x = torch.randn(size, 3, generator=source, dtype=dtype)
            return {"x": x, "y": torch.stack([x.sum(1), x[:, 0] * x[:, 1]], 1)}

        return batch

    return make


@pytest.fixture
def interrupted() -> Callable[..., Any]:
    """Batches that fail once a step is reached."""

    def make(batches: Callable[[int], dict[str, Tensor]], at: int) -> Callable[[int], dict[str, Tensor]]:
        def batch(step: int) -> dict[str, Tensor]:
            if step == at:
                raise KeyboardInterrupt
            return batches(step)

        return batch

    return make
