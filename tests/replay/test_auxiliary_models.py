"""Auxiliary models against a training loop written out: rate, warm-up, clipping, average and seeds."""

import copy

import pytest
import torch

from vdu.core.rng import derive_seed
from vdu.core.types import Tools
from vdu.data.images import ImageSet
from vdu.diffusion.sampling import Sampler
from vdu.methods.esd import ESD
from vdu.models.denoiser import PipelineDenoiser
from vdu.replay import auxiliary_models
from vdu.replay.auxiliaries import make_auxiliaries
from vdu.training.batches import NoisyImages

STEPS, BATCH, RATE = 14, 5, 3e-3


@pytest.fixture
def images():
    source = torch.Generator().manual_seed(1)
    return ImageSet(torch.randint(256, (60, 1, 8, 8), dtype=torch.uint8, generator=source))


def by_hand(original, images, seed):
    """AdamW with a linear rate after ten steps of warm-up, gradients of norm at most 1, and the average of the weights."""
    network, schedule = copy.deepcopy(original.network).train(), original.schedule
    batches = NoisyImages(
        "data", images, BATCH, torch.ones(len(schedule), dtype=torch.float64), derive_seed(seed, "batches"), original
    )
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.0)
    average, norms = {name: value.detach().clone() for name, value in network.named_parameters()}, []
    for step in range(STEPS):
        drawn = batches(step)
        level = schedule.alpha_bars[drawn["data.index"]].float().view(-1, 1, 1, 1)
        x_t = level.sqrt() * drawn["data.x0"] + (1 - level).sqrt() * drawn["data.noise"]
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, (step + 1) / 10) * (1 - step / STEPS)
        optimizer.zero_grad()
        (network(x_t, drawn["data.index"]).sample - drawn["data.noise"]).square().mean().backward()
        norms.append(float(torch.cat([value.grad.flatten() for value in network.parameters()]).norm()))
        for value in network.parameters():
            value.grad *= min(1.0, 1 / norms[-1])
        optimizer.step()
        decay = min(0.97, (1 + step) / (10 + step))
        for name, value in network.named_parameters():
            average[name] = decay * average[name] + (1 - decay) * value.detach()
    assert max(norms) > 1.05  # clipping is seen
    return average


def test_the_forget_model_is_that_of_the_loop_written_out(make_pipeline, images, monkeypatch):
    for name, value in {"steps": STEPS, "batch_size": BATCH, "learning_rate": RATE}.items():
        monkeypatch.setitem(auxiliary_models.FORGET_MODEL, name, value)
    original = PipelineDenoiser.from_pipeline(make_pipeline())
    with torch.no_grad():
        original.network.conv_out.weight *= 20  # errors large enough for gradients to be clipped
    made = make_auxiliaries(original, ESD(), images, sampler=Sampler(steps=2), n_own_samples=40, seed=3).tools
    assert isinstance(made, Tools) and made.forget_model is not None
    truth = by_hand(original, images, derive_seed(3, "forget_model"))
    for name, value in made.forget_model.network.named_parameters():
        # Adam makes steps of full length of gradients that are rounding alone; the weights move by 0.02
        torch.testing.assert_close(value, truth[name], rtol=0.0, atol=3e-4)
