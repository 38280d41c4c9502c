import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, DPMSolverMultistepScheduler

import vdu
from vdu.core.errors import InputError
from vdu.diffusion.sampling import Sampler, sample
from vdu.models.denoiser import PipelineDenoiser

SEEDS = [3, 14, 15, 92, 65, 35, 89]
COSINE_V = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
LEARNED = {"variance_type": "learned_range"}
MILD = {"beta_end": 0.002}  # ᾱ ends at 0.35, so that an untrained network's images are not all black and white
SAMPLERS = [
    Sampler("ddpm", steps=6, microbatch_size=3),
    Sampler("ddim", steps=5, microbatch_size=3),
    Sampler("ddim", steps=5, eta=0.7, microbatch_size=3),
    Sampler("dpm++", steps=5, microbatch_size=3),
]


def generators(seeds=SEEDS):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def unit(images):
    """[−1, 1] to [0, 1], as the pipelines do at their end."""
    return images / 2 + 0.5


def describe(sampler):
    return f"{sampler.scheduler}-eta{sampler.eta}"


# the same bits as plain diffusers


@pytest.mark.parametrize(
    ("scheduler", "channels"),
    [({}, 1), (COSINE_V, 1), (LEARNED, 2), (MILD | {"variance_type": "fixed_large", "clip_sample": False}, 1)],
)
def test_ddpm_gives_the_bits_of_the_ddpm_pipeline(make_pipeline, scheduler, channels):
    pipeline = make_pipeline(scheduler, out_channels=channels)
    truth = pipeline(len(SEEDS), generators(), num_inference_steps=8, output_type="pt").images
    sampler = Sampler("ddpm", steps=8, spacing="leading", microbatch_size=len(SEEDS))
    images = sample(PipelineDenoiser.from_pipeline(pipeline), SEEDS, sampler)
    assert torch.equal(unit(images), truth)
    assert images.shape == (len(SEEDS), 1, 8, 8)
    assert 0.3 < float(((truth > 0) & (truth < 1)).float().mean())  # not all clipped to black and white


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("scheduler", [{}, COSINE_V])
def test_ddim_gives_the_bits_of_the_ddim_pipeline(make_pipeline, scheduler, eta):
    ours = make_pipeline(scheduler)
    pipeline = DDIMPipeline(ours.unet, DDIMScheduler.from_config(ours.scheduler.config))
    pipeline.set_progress_bar_config(disable=True)
    truth = pipeline(len(SEEDS), generators(), eta=eta, num_inference_steps=6, output_type="pt").images
    sampler = Sampler("ddim", steps=6, eta=eta, spacing="leading", microbatch_size=len(SEEDS))
    for each in (ours, pipeline):  # whichever of the two the user has saved
        assert torch.equal(unit(sample(PipelineDenoiser.from_pipeline(each), SEEDS, sampler)), truth)


@pytest.mark.parametrize(("channels", "learned"), [(1, False), (1, True), (4, True)])
@pytest.mark.parametrize("name", ["ddim", "dpm++"])
def test_few_step_samplers_give_the_bits_of_a_loop_over_diffusers_schedulers(make_pipeline, name, channels, learned):
    """With a learned variance diffusers' DDIM fails, and its DPM-Solver++ takes three channels for the noise."""
    unet = {"in_channels": channels, "out_channels": channels * (1 + learned)}
    pipeline = make_pipeline(MILD | LEARNED if learned else MILD, **unet)
    kind = DDIMScheduler if name == "ddim" else DPMSolverMultistepScheduler
    scheduler = kind(timestep_spacing="trailing", **MILD)
    scheduler.set_timesteps(5)
    x = torch.cat([torch.randn(1, channels, 8, 8, generator=source) for source in generators()])
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(pipeline.unet(x, t).sample[:, :channels], t, x).prev_sample
    sampler = Sampler(name, steps=5, microbatch_size=len(SEEDS))
    images = sample(PipelineDenoiser.from_pipeline(pipeline), SEEDS, sampler)
    assert torch.equal(images, x.clamp(-1, 1))
    assert 0.3 < float((x.abs() < 1).float().mean())


@pytest.mark.parametrize("own", [{}, {"timestep_spacing": "linspace"}])
def test_the_spacing_is_the_one_asked_for(make_pipeline, own):
    """It must not lose against the pipeline's own, whether that was set or left at its default."""
    denoiser = PipelineDenoiser.from_pipeline(make_pipeline(own))
    for name in ("ddpm", "ddim", "dpm++"):
        assert Sampler(name, steps=4).make(denoiser).timesteps.tolist() == [999, 749, 499, 249]
    assert Sampler("ddim", steps=4, spacing="leading").make(denoiser).timesteps.tolist() == [750, 500, 250, 0]


def test_x0_clipping_is_the_pipelines_own_unless_it_is_said(make_pipeline):
    clipping, not_clipping = (
        PipelineDenoiser.from_pipeline(make_pipeline(own)) for own in ({}, {"clip_sample": False})
    )
    own, off = (Sampler("ddim", steps=4, clip_sample=clip, microbatch_size=1) for clip in (None, False))
    assert not torch.equal(sample(clipping, [1], own), sample(clipping, [1], off))
    assert torch.equal(sample(not_clipping, [1], own), sample(clipping, [1], off))


def test_scaled_timesteps_reach_the_network(make_pipeline):
    """A model that wants t/2 sees 499.5 where one that wants t sees 999."""
    seen = []

    class Recorder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x, t):
            seen.append(t.tolist())
            return torch.zeros_like(x)

    pipeline = make_pipeline()
    pipeline.timestep_scale = 0.5
    denoiser = PipelineDenoiser.from_pipeline(pipeline).with_network(Recorder())
    sample(denoiser, [0], Sampler("ddim", steps=2, microbatch_size=2))
    assert seen == [[499.5, 499.5], [249.5, 249.5]]


# image i depends on seed i alone


@pytest.mark.parametrize("sampler", SAMPLERS, ids=describe)
def test_an_image_has_the_same_bits_in_any_company(make_pipeline, sampler):
    denoiser = PipelineDenoiser.from_pipeline(make_pipeline())
    everything = dict(zip(SEEDS, sample(denoiser, SEEDS, sampler), strict=True))
    for seeds in ([65], [89, 3, 92], SEEDS[::-1], [14, 14]):
        for seed, image in zip(seeds, sample(denoiser, seeds, sampler), strict=True):
            assert torch.equal(image, everything[seed]), seed
    assert len({image.numpy().tobytes() for image in everything.values()}) == len(SEEDS)


def test_no_seeds_give_no_images(make_pipeline):
    assert sample(PipelineDenoiser.from_pipeline(make_pipeline()), []).shape == (0, 1, 8, 8)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=describe)
def test_the_callers_random_state_and_mode_are_untouched(make_pipeline, sampler):
    pipeline = make_pipeline(dropout=0.5)
    denoiser = PipelineDenoiser.from_pipeline(pipeline)
    pipeline.unet.train()
    before = torch.get_rng_state()
    first = sample(denoiser, [5, 6], sampler)
    assert torch.equal(torch.get_rng_state(), before)
    assert pipeline.unet.training
    torch.rand(3)
    assert torch.equal(sample(denoiser, [5, 6], sampler), first)  # no dropout while sampling


def test_the_mode_comes_back_after_an_error(make_pipeline):
    pipeline = make_pipeline()
    pipeline.unet.train()
    with pytest.raises(InputError, match="more|at most"):
        sample(PipelineDenoiser.from_pipeline(pipeline), [1], Sampler("ddpm", steps=2000))
    assert pipeline.unet.training


def test_a_pipelines_own_stochastic_solver_does_not_leak_in(make_pipeline):
    pipeline = make_pipeline()
    plain = PipelineDenoiser.from_pipeline(pipeline)
    own = DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", solver_order=3)
    stochastic = PipelineDenoiser.from_pipeline(DDPMPipeline(pipeline.unet, own))
    before = torch.get_rng_state()
    sampler = Sampler("dpm++", steps=4, microbatch_size=2)
    assert torch.equal(sample(stochastic, [1, 2], sampler), sample(plain, [1, 2], sampler))
    assert torch.equal(torch.get_rng_state(), before)


# protocol


def test_more_steps_than_the_schedule_has_are_refused(make_pipeline):
    denoiser = PipelineDenoiser.from_pipeline(make_pipeline({"num_train_timesteps": 20}))
    assert len(Sampler("ddpm", steps=20).make(denoiser).timesteps) == 20
    for name in ("ddpm", "ddim", "dpm++"):
        with pytest.raises(InputError, match="steps: got 21; the model's schedule has 20. Use at most that many"):
            sample(denoiser, [1], Sampler(name, steps=21))


def test_a_timestep_beyond_the_schedule_is_refused(make_pipeline):
    """Leading spacing adds the offset that Stable Diffusion's schedulers have: of all 20 steps the first would be 20, of 0 to 19."""
    denoiser = PipelineDenoiser.from_pipeline(make_pipeline({"num_train_timesteps": 20, "steps_offset": 1}))
    assert Sampler("ddim", steps=10, spacing="leading").make(denoiser).timesteps[0] == 19
    with pytest.raises(InputError, match="steps_offset 1 reach the timestep 20; expected at most 19"):
        sample(denoiser, [1], Sampler("ddim", steps=20, spacing="leading"))
    with pytest.raises(InputError, match="steps_offset: got -1"):
        PipelineDenoiser.from_pipeline(make_pipeline({"steps_offset": -1}))


@pytest.mark.parametrize("option", ["use_karras_sigmas", "use_lu_lambdas"])
def test_a_pipelines_own_spacing_does_not_take_the_place_of_the_protocols(make_pipeline, option):
    pipeline = make_pipeline()
    plain = Sampler("dpm++", steps=4).make(PipelineDenoiser.from_pipeline(pipeline))
    own = DDPMPipeline(pipeline.unet, DPMSolverMultistepScheduler(**{option: True}))
    made = Sampler("dpm++", steps=4).make(PipelineDenoiser.from_pipeline(own))
    assert torch.equal(made.timesteps, plain.timesteps) and torch.equal(made.sigmas, plain.sigmas)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheduler": "euler"}, "scheduler: got 'euler'; expected one of ddpm, ddim, dpm"),
        ({"steps": 0}, "steps: got 0; expected at least 1"),
        ({"microbatch_size": 0}, "microbatch_size: got 0; expected at least 1"),
        ({"eta": 1.5}, r"eta: got 1.5; expected a number from 0 to 1"),
        ({"scheduler": "ddpm", "eta": 0.5}, "only ddim has an eta"),
        ({"scheduler": "dpm++", "clip_sample": True}, "'dpm\\+\\+', which never clips"),
    ],
)
def test_bad_protocols_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Sampler(**options)


def test_a_protocol_describes_itself():
    assert Sampler("ddim", steps=7, eta=0.5).describe() == {
        "scheduler": "ddim", "steps": 7, "eta": 0.5, "spacing": "trailing", "clip_sample": None, "microbatch_size": 50,
    }  # fmt: skip


def test_images_without_numbers_are_refused(make_pipeline):
    pipeline = make_pipeline({"clip_sample": False})
    with torch.no_grad():
        pipeline.unet.conv_out.weight.mul_(1e38)
    with pytest.raises(InputError, match="2 of 2 images that it drew have pixels that are NaN or infinite"):
        sample(PipelineDenoiser.from_pipeline(pipeline), [1, 2], Sampler("ddpm", 2, microbatch_size=3))


def test_seeds_that_give_one_noise_are_refused(make_pipeline):
    """PyTorch's CPU generator reads 32 bits of a seed."""
    assert torch.equal(*(torch.rand(3, generator=torch.Generator().manual_seed(seed)) for seed in (5, 5 + 2**32)))
    with pytest.raises(InputError, match="seeds: some differ by a multiple of 4294967296 alone"):
        vdu.sample(make_pipeline(), [5, 5 + 2**32], Sampler("ddim", 1))
    twice = vdu.sample(make_pipeline(), [5, 5], Sampler("ddim", 1))  # asked for
    assert torch.equal(twice[0], twice[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variance_type": "fixedlarge"}, "variance_type: got 'fixedlarge'"),
        ({"clip_sample": "False"}, "clip_sample: got 'False'; expected true or false"),
        ({"rescale_betas_zero_snr": "no"}, "rescale_betas_zero_snr: got 'no'; expected true or false"),
    ],
)
def test_options_that_diffusers_takes_for_others_are_refused(make_pipeline, options, message):
    with pytest.raises(InputError, match=message):
        PipelineDenoiser.from_pipeline(make_pipeline(options))


def test_a_scheduler_without_values_is_refused(make_pipeline):
    with torch.device("meta"):
        scheduler = DDPMScheduler()
    with pytest.raises(InputError, match="its scheduler was made on the meta device"):
        PipelineDenoiser.from_pipeline(DDPMPipeline(make_pipeline().unet, scheduler))
