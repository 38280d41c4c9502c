import pytest
import torch

from toys import noise_seen
from vdu.core.errors import InputError
from vdu.models.denoiser import PipelineDenoiser
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


@pytest.mark.parametrize(
    ("model", "shape", "parameters"),
    [("ddpm-pytorch", (1, 28, 28), 10_188_081), ("improved-diffusion", (3, 32, 32), 52_546_438)],
)
def test_the_papers_networks_have_the_published_sizes(model, shape, parameters):
    before = torch.get_rng_state()
    pipeline = new_pipeline(shape, seed=0, model=model)
    assert torch.equal(torch.get_rng_state(), before)
    assert sum(value.numel() for value in pipeline.unet.parameters()) == parameters
    ours = PipelineDenoiser.from_pipeline(pipeline)
    assert ours.image_shape == shape
    x = torch.rand(1, *shape)
    with torch.no_grad():
        assert noise_seen(ours, x, torch.tensor([3])).shape == x.shape


@pytest.mark.parametrize("model", ["ddpm-pytorch", "improved-diffusion"])
@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 28, 28), (1, 8, 8)])
def test_the_papers_networks_take_their_own_images_only(model, shape):
    own = {"ddpm-pytorch": "1×28×28", "improved-diffusion": "3×32×32"}[model]
    got = "×".join(map(str, shape))
    with pytest.raises(InputError, match=f"model {model}: got images of {got}; expected {own}"):
        new_pipeline(shape, seed=0, model=model)


def test_an_unknown_model_is_refused():
    with pytest.raises(InputError, match="got 'large'; expected one of small, ddpm-pytorch, improved-diffusion"):
        new_pipeline((1, 28, 28), seed=0, model="large")


def test_the_papers_schedules_are_the_published_ones():
    """Truth: Ho et al. 2020's linear β, and Nichol & Dhariwal 2021, Eq. 17, with β at most 0.999."""
    linear = new_pipeline((1, 28, 28), seed=0, model="ddpm-pytorch")
    truth = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    torch.testing.assert_close(linear.scheduler.alphas_cumprod.double(), truth, rtol=1e-4, atol=0.0)
    assert not linear.scheduler.config.clip_sample
    cosine = new_pipeline((3, 32, 32), seed=0, model="improved-diffusion")
    t = torch.arange(4001, dtype=torch.float64) / 4000
    curve = torch.cos((t + 0.008) / 1.008 * torch.pi / 2) ** 2
    truth = torch.cumprod(1 - (1 - curve[1:] / curve[:-1]).clamp(max=0.999), 0)
    # float32 β, added up 4000 times
    torch.testing.assert_close(cosine.scheduler.alphas_cumprod.double(), truth, rtol=1e-3, atol=1e-6)
    config = cosine.scheduler.config
    assert (config.variance_type, config.clip_sample, config.prediction_type) == ("learned_range", True, "epsilon")
    assert cosine.timestep_scale == 0.25
    assert PipelineDenoiser.from_pipeline(cosine).learned_variance


def test_an_untrained_improved_diffusion_says_zero():
    """The original starts its last convolution, and the end of every branch, at zero."""
    unet = new_pipeline((3, 32, 32), seed=0, model="improved-diffusion").unet
    zero = {
        name.removesuffix(".weight") for name, value in unet.named_parameters() if "weight" in name and not value.any()
    }
    branches = {name for name, _ in unet.named_modules() if name.endswith(("conv2", "to_out.0"))}
    assert zero == branches | {"conv_out"}
    assert len(branches) == 12 + 2 + 16 + 6 + 1 + 8  # residual blocks down, middle, up; attentions down, middle, up
