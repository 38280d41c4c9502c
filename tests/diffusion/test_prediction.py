"""Conversions between what networks predict, against the definitions, for variance-preserving and flow processes."""

import pytest
import torch

from vdu.core.errors import InputError
from vdu.core.types import NoisedBatch, noise_images
from vdu.diffusion.prediction import PREDICTION_TYPES, clean_of, noise_of
from vdu.diffusion.schedule import NoiseSchedule, batch_at, noised_batch

SOURCE = torch.Generator().manual_seed(0)
X0, NOISE = (torch.randn(3, 1, 2, 2, generator=SOURCE, dtype=torch.float64) for _ in range(2))


def truth(kind, alpha, sigma):
    """What a perfect network gives."""
    return {"epsilon": NOISE, "sample": X0, "v_prediction": alpha * NOISE - sigma * X0, "flow_prediction": NOISE - X0}[
        kind
    ]


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("level", [0.9, 0.3])
def test_a_perfect_answer_gives_noise_and_image_back(kind, level):
    schedule = NoiseSchedule(
        torch.tensor([level, level / 2]), "flow" if kind == "flow_prediction" else "variance-preserving"
    )
    alpha, sigma = (each.view(1, 1, 1, 1) for each in schedule.coefficients(torch.tensor([0]), X0))
    x_t, output = noise_images(X0, NOISE, alpha, sigma), truth(kind, alpha, sigma)
    torch.testing.assert_close(noise_of(kind, output, x_t, alpha, sigma), NOISE, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(clean_of(kind, output, x_t, alpha, sigma), X0, rtol=1e-12, atol=1e-12)


def test_flow_amplitudes_add_up_to_one_and_keep_the_signal_to_noise_ratio():
    flow = NoiseSchedule.flow(9)
    alpha, sigma = flow.coefficients(torch.arange(9), X0)
    torch.testing.assert_close(alpha + sigma, torch.ones(9, dtype=torch.float64))
    torch.testing.assert_close(sigma, torch.arange(1, 10, dtype=torch.float64) / 10)
    torch.testing.assert_close((alpha / sigma).square(), (flow.alpha_bars / (1 - flow.alpha_bars)))
    torch.testing.assert_close(flow.timesteps_at(flow.alpha_bars), 1000 * sigma)


@pytest.mark.parametrize("own", [NoiseSchedule.linear(20, 0.01, 0.3), NoiseSchedule.flow(20)])
def test_amplitudes_at_a_timestep_are_those_of_its_index(own):
    index = torch.tensor([0, 7, 19])
    timestep = own.timesteps_at(own.alpha_bars[index])
    for found, truth in zip(own.coefficients_at(timestep, X0), own.coefficients(index, X0), strict=True):
        torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-9)


def test_a_shift_moves_levels_as_published():
    s = torch.arange(1, 10, dtype=torch.float64) / 10
    _, sigma = NoiseSchedule.flow(9, shift=3.0).coefficients(torch.arange(9), X0)
    torch.testing.assert_close(sigma, 3 * s / (1 + 2 * s))


def test_a_level_of_one_process_is_asked_of_a_network_of_another():
    """A linear variance-preserving schedule over a flow network: same ratio, flow's amplitudes, flow's time."""
    linear, own = NoiseSchedule.linear(20, 0.01, 0.3), NoiseSchedule.flow(50)
    index = torch.tensor([0, 7, 19])
    batch = noised_batch(X0, index, NOISE, linear, own)
    level = linear.alpha_bars[index]
    ratio = (level / (1 - level)).sqrt()
    s = 1 / (1 + ratio)
    torch.testing.assert_close(batch.sigma, s)
    torch.testing.assert_close(batch.alpha, 1 - s)
    torch.testing.assert_close(batch.timestep, 1000 * s)
    torch.testing.assert_close(batch.x_t, (1 - s).view(-1, 1, 1, 1) * X0 + s.view(-1, 1, 1, 1) * NOISE)
    torch.testing.assert_close(
        batch.x_vp, level.sqrt().view(-1, 1, 1, 1) * X0 + (1 - level).sqrt().view(-1, 1, 1, 1) * NOISE
    )
    torch.testing.assert_close(
        batch.x_vp, batch.x_t / (batch.alpha.square() + batch.sigma.square()).sqrt().view(-1, 1, 1, 1)
    )


@pytest.mark.parametrize("own", [NoiseSchedule.linear(20, 0.01, 0.3), NoiseSchedule.flow(20)])
def test_one_level_is_what_a_schedule_would_give(own):
    index = torch.full((3,), 4)
    by_schedule, by_level = noised_batch(X0, index, NOISE, own, own), batch_at(X0, NOISE, float(own.alpha_bars[4]), own)
    for name in ("x_t", "alpha", "sigma", "alpha_bar"):
        torch.testing.assert_close(getattr(by_level, name), getattr(by_schedule, name), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(by_level.timestep, by_schedule.timestep.double(), rtol=1e-9, atol=1e-9)


def test_an_unknown_scaling_is_refused():
    with pytest.raises(InputError, match="scaling: got 'edm'; expected one of variance-preserving, flow"):
        NoiseSchedule(torch.tensor([0.9, 0.5]), "edm")


def test_conditions_and_draws_are_selected_and_joined_with_their_samples():
    one = batch_at(X0, NOISE, 0.5, NoiseSchedule.flow(5), {"class_labels": torch.tensor([4, 5, 6])})
    some = one.select(torch.tensor([True, False, True]))
    assert some.condition is not None and some.condition["class_labels"].tolist() == [4, 6]
    both = NoisedBatch.joined(some, one)
    assert both.condition is not None and both.condition["class_labels"].tolist() == [4, 6, 4, 5, 6]
    assert torch.equal(both.x0, torch.cat([X0[[0, 2]], X0]))
