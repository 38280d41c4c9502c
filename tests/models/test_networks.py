import pytest
import torch

from vdu.errors import InputError
from vdu.models.networks import new_pipeline, small_unet


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16), (1, 28, 28)])
def test_the_small_unet_fits_its_images(shape):
    x = torch.rand(2, *shape)
    assert small_unet(shape, seed=0)(x, torch.tensor([0, 999])).sample.shape == x.shape


@pytest.mark.parametrize("shape", [(1, 28, 32), (1, 4, 4), (1, 9, 9), (3, 30, 30), (3, 68, 68)])
def test_sizes_that_do_not_fit_are_refused(shape):
    with pytest.raises(
        InputError, match=f"model small: got images of {shape[1]}×{shape[2]}; expected squares of 8 to 64"
    ):
        small_unet(shape, seed=0)


def test_weights_depend_on_the_seed_alone():
    before = torch.get_rng_state()
    weights = [small_unet((1, 8, 8), seed=seed).conv_in.weight for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_new_pipeline_has_the_papers_schedule():
    scheduler = new_pipeline((1, 8, 8), seed=0).scheduler
    assert (scheduler.config.num_train_timesteps, scheduler.config.beta_start, scheduler.config.beta_end) == (
        1000,
        1e-4,
        0.02,
    )
    assert scheduler.config.prediction_type == "epsilon"
