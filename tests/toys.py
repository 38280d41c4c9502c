"""Models of two parameters and images for them, shared by the tests of methods; formulas are written out in each test."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from vdu.core.types import NoisedBatch, column
from vdu.diffusion.prediction import noise_of
from vdu.diffusion.schedule import NoiseSchedule, noised_batch
from vdu.models.adapters.class_conditional import ClassConditionalDenoiser
from vdu.models.denoiser import PipelineDenoiser
from vdu.training.loop import Objective

SCHEDULE = NoiseSchedule.linear(6, 0.05, 0.3)
SHAPE = (1, 2, 2)


class Tiny(nn.Module):
    """ε_θ(x_t, t) = a x_t + b (t+1)/9 in float64: two parameters."""

    def __init__(self, a=0.5, b=0.2):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(b, dtype=torch.float64))

    def forward(self, x_t, t):
        return self.a * x_t + self.b * (t + 1).view(-1, 1, 1, 1) / 9


def face(*values) -> PipelineDenoiser:
    """Tiny(a, b) as a denoiser."""
    return PipelineDenoiser(Tiny(*values), SCHEDULE, "epsilon", SHAPE, {})


class Labelled(Tiny):
    """The same plus c k/9 for label k: three parameters. Labels 0 to 2, and 3 as the null class."""

    def __init__(self, a=0.5, b=0.2, c=0.4):
        super().__init__(a, b)
        self.c = nn.Parameter(torch.tensor(c, dtype=torch.float64))

    def forward(self, x_t, t, class_labels):
        return super().forward(x_t, t) + self.c * class_labels.view(-1, 1, 1, 1) / 9


def labelled(*values, null_class=3) -> ClassConditionalDenoiser:
    """Labelled(a, b, c) as a denoiser."""
    return ClassConditionalDenoiser(
        Labelled(*values), SCHEDULE, "epsilon", SHAPE, {}, names=("0", "1", "2"), null_class=null_class
    )


def under_labels(batch: NoisedBatch, *labels) -> NoisedBatch:
    """The batch with a label for each image."""
    return replace(batch, condition={"class_labels": torch.tensor(labels)})


PIXELS = face()  # for batches of pixels without a condition


def noise_seen(denoiser, x_t, timestep):
    """ε̂ at any x_t and timestep of the model's own schedule."""
    level = column(denoiser.schedule.alpha_bar_at(timestep).to(x_t.dtype), x_t)
    output = denoiser.raw(x_t, timestep)[:, : x_t.shape[1]]
    return noise_of(denoiser.prediction_type, output, x_t, level.sqrt(), (1 - level).sqrt())


def noised(n=4, seed=0, low=0) -> NoisedBatch:
    """Uniform images with noise at steps low … 5."""
    source = torch.Generator().manual_seed(seed)
    x0 = torch.rand(n, *SHAPE, generator=source, dtype=torch.float64) * 2 - 1
    noise = torch.randn(n, *SHAPE, generator=source, dtype=torch.float64)
    return noised_batch(x0, torch.randint(low, 6, (n,), generator=source), noise, SCHEDULE, SCHEDULE)


class Adapter(Objective):
    """A method with its hooks as the loop's objective, over the same batch at every step."""

    def __init__(self, method, denoiser, batch: Callable[[], dict[str, NoisedBatch]]):
        self.method, self.denoiser, self.batch = method, denoiser, batch
        self.limits, self.per_term = method.limits, method.per_term

    def losses(self, network, batch):
        return self.method.losses(self.denoiser.with_network(network), self.batch())

    def add_gradients(self, parameters):
        return self.method.add_gradients(parameters)

    def combine(self, gradients):
        self.seen = self.method.combine(gradients)
        return self.seen

    def after_step(self, parameters, values):
        self.method.after_step(parameters, values)

    def state(self):
        return self.method.state()

    def load_state(self, state):
        self.method.load_state(state)


def no_draws(step):
    """The loop's batch where the adapter has its own."""
    return {"nothing": torch.zeros(1)}
