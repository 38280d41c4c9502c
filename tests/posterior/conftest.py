"""Denoisers small enough that their losses and gradients are known on paper."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from vdu.diffusion.schedule import NoiseSchedule


class Linear(nn.Module):
    """ε_θ(x_t, t) = W x_t: every expectation over ε is a formula."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        start = torch.linspace(-0.4, 0.5, pixels * pixels, dtype=torch.float64).view(pixels, pixels)
        self.weight = nn.Parameter(start)
        self.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def forward(self, x_t, timestep):
        return (x_t.flatten(1) @ self.weight.T).view_as(x_t)


class LinearPerClass(nn.Module):
    """ε_θ(x_t, t, c) = W_c x_t, for two classes."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(
            torch.stack([Linear(pixels).weight.detach(), -0.5 * Linear(pixels).weight.detach().T])
        )

    def forward(self, x_t, timestep, label):
        return torch.einsum("nij,nj->ni", self.weight[label], x_t.flatten(1)).view_as(x_t)


class Constant(nn.Module):
    """ε_θ(x_t, t) = b: the loss at b + z is quadratic in z."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(shape))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x_t, timestep):
        return self.dropout(torch.ones_like(x_t)) * self.bias


def make_denoiser(network: nn.Module, shape: tuple[int, int, int], schedule: NoiseSchedule) -> SimpleNamespace:
    return SimpleNamespace(
        network=network,
        schedule=schedule,
        latent_shape=shape,
        prediction_type="epsilon",
        class_names=(),
        trainable=lambda: {name: value for name, value in network.named_parameters() if value.requires_grad},
        raw=lambda x_t, timestep, condition=None: network(x_t, timestep),
        noise=lambda batch: network(batch.x_t, batch.timestep, **(batch.condition or {})),
        condition=lambda labels: {"label": torch.tensor(labels)},
    )


@pytest.fixture
def schedule() -> NoiseSchedule:
    return NoiseSchedule.linear(8, 0.05, 0.3)


@pytest.fixture
def linear(schedule):
    return make_denoiser(Linear(4), (1, 2, 2), schedule)


@pytest.fixture
def constant(schedule):
    return make_denoiser(Constant((1, 8, 8)), (1, 8, 8), schedule)


@pytest.fixture
def conditional(schedule):
    made = make_denoiser(LinearPerClass(4), (1, 2, 2), schedule)
    made.class_names = ("a", "b")
    return made
