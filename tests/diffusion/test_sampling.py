from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.models.unets.unet_2d import UNet2DOutput

import vdu
from vdu.core.errors import InputError
from vdu.diffusion.sampling import Sampler, _places, sample
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.flow import flow_parts

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


@pytest.mark.parametrize("steps", [7, 20, 1000])
@pytest.mark.parametrize("kind", ["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned_range"])
def test_the_last_step_adds_no_noise(make_pipeline, kind, steps):
    """Ho et al. 2020, Algorithm 1: a network that knows the image gives it back, whatever the variance and the number of steps."""
    truth = torch.linspace(-0.9, 0.9, 64).reshape(1, 1, 8, 8)
    channels = {"out_channels": 2} if kind == "learned_range" else {}
    schedule = {"prediction_type": "sample", "clip_sample": False, "variance_type": kind}
    pipeline = make_pipeline(schedule, **channels)
    known = torch.cat([truth, torch.ones_like(truth)], 1) if channels else truth  # at the upper end of the range
    denoiser = PipelineDenoiser.from_pipeline(pipeline)
    pipeline.unet.forward = lambda x, t, **_: UNet2DOutput(known.expand(len(x), -1, -1, -1).clone())
    found = sample(denoiser, [3, 14], Sampler("ddpm", steps=steps, microbatch_size=2))
    torch.testing.assert_close(found, truth.expand_as(found), atol=1e-6, rtol=0)


def test_a_large_variance_by_its_logarithm_is_the_large_variance(make_pipeline):
    images = [
        sample(
            PipelineDenoiser.from_pipeline(make_pipeline(MILD | {"variance_type": kind})), [3], Sampler("ddpm", steps=5)
        )
        for kind in ("fixed_large", "fixed_large_log")
    ]
    assert torch.equal(*images)


@pytest.mark.parametrize(
    "own",
    [
        {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
        {"solver_type": "heun", "euler_at_final": True},
    ],
)
def test_dpm_is_the_same_sampler_whatever_variant_the_pipeline_has(make_pipeline, own):
    plain, other = make_pipeline({}), make_pipeline({})
    other.scheduler = DPMSolverMultistepScheduler.from_config(plain.scheduler.config, **own)
    plain.scheduler = DPMSolverMultistepScheduler.from_config(plain.scheduler.config)
    made = [sample(PipelineDenoiser.from_pipeline(each), [3], Sampler("dpm++", steps=6)) for each in (plain, other)]
    assert torch.equal(*made)


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
def test_a_pipeline_whose_sampler_does_not_clip_is_not_clipped(make_pipeline, name):
    pipeline = make_pipeline({"clip_sample": False})
    truth = sample(PipelineDenoiser.from_pipeline(pipeline), [3], Sampler(name, steps=6))
    pipeline.scheduler = EulerDiscreteScheduler()  # has no such option; the same noise levels
    assert torch.equal(sample(PipelineDenoiser.from_pipeline(pipeline), [3], Sampler(name, steps=6)), truth)
    assert not torch.equal(
        truth, sample(PipelineDenoiser.from_pipeline(pipeline), [3], Sampler(name, 6, clip_sample=True))
    )


ZERO_SNR = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "clip_sample": False}


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
@pytest.mark.parametrize("steps", [5, 10, 20])
def test_a_step_without_room_for_its_noise_is_refused_before_anything_is_drawn(make_pipeline, spacing, steps):
    """The truth is diffusers' own step: its root of 1 − ᾱ_prev − σ² is NaN or not."""
    denoiser = PipelineDenoiser.from_pipeline(make_pipeline(ZERO_SNR))
    deterministic = Sampler("ddim", steps=steps, spacing=spacing)
    levels = deterministic.make(denoiser)
    _places(levels)
    x = torch.zeros(1, 1, 2, 2)
    made = [levels.step(x, place, x, eta=1.0).prev_sample for place in range(steps)]
    sampler = replace(deterministic, eta=1.0)
    if all(each.isfinite().all() for each in made):
        assert sample(denoiser, [3], sampler).shape == (1, 1, 8, 8)
    else:
        with pytest.raises(InputError, match="got ddim with eta 1.0 for a noise schedule that ends in pure noise"):
            sampler.make(denoiser)


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


@pytest.mark.parametrize("n_levels", [50, 57, 100, 1000])
def test_there_are_as_many_timesteps_as_steps(make_pipeline, n_levels):
    """Trailing: T − i T/n rounded, less one. diffusers' own list has one more, −1, where n T/n is above T in floats."""
    denoiser = PipelineDenoiser.from_pipeline(make_pipeline({"num_train_timesteps": n_levels}))
    own, wrong = DDIMScheduler(num_train_timesteps=n_levels, timestep_spacing="trailing"), []
    for n in range(1, n_levels + 1):
        listed = Sampler("ddim", n).make(denoiser).timesteps.tolist()
        own.set_timesteps(n)
        assert len(listed) == len(set(listed)) == n and min(listed) >= 0
        assert all(abs(t + 1 - n_levels * (n - i) / n) < 0.5 + 1e-9 for i, t in enumerate(listed))
        if len(own.timesteps) == n:
            assert listed == own.timesteps.tolist()
        else:
            wrong.append(n)
            for name in ("ddpm", "dpm++"):
                scheduler = Sampler(name, n).make(denoiser)
                assert scheduler.timesteps.tolist() == listed
            assert len(scheduler.sigmas) == n + 1  # of dpm++, with the clean end
    assert n_levels < 1000 or wrong[:3] == [61, 103, 121]


class Ideal(torch.nn.Module):
    """E[ε | x_t] of images from N(0, ¼): σ x_t / (ᾱ/4 + 1 − ᾱ)."""

    def __init__(self, levels):
        super().__init__()
        self.levels, self.weight, self.calls = levels, torch.nn.Parameter(torch.zeros(1)), 0

    def forward(self, x, t):
        self.calls += 1
        level = self.levels[t.long()].float().view(-1, 1, 1, 1)
        return (1 - level).sqrt() * x / (level / 4 + 1 - level)


def ideal(make_pipeline):
    denoiser = PipelineDenoiser.from_pipeline(make_pipeline({"clip_sample": False}))
    return denoiser.with_network(Ideal(denoiser.schedule.alpha_bars))


@pytest.mark.parametrize("spacing", ["trailing", "linspace", "leading"])
@pytest.mark.parametrize("steps", [7, 20, 61, 400, 501])
def test_ddim_goes_to_the_next_timestep_and_ends_at_the_clean_image(make_pipeline, steps, spacing):
    """Every step is linear under the ideal network: x_s = (√ā_s √ā_t/4 + √(1−ā_s) √(1−ā_t)) / (ā_t/4 + 1 − ā_t) x_t."""
    denoiser, sampler = ideal(make_pipeline), Sampler("ddim", steps, spacing=spacing, microbatch_size=2)
    listed = sampler.make(denoiser).timesteps
    levels = [*denoiser.schedule.alpha_bars[listed].tolist(), 1.0]
    factor = 1.0
    for here, there in pairwise(levels):
        factor *= ((there * here) ** 0.5 / 4 + ((1 - there) * (1 - here)) ** 0.5) / (here / 4 + 1 - here)
    noise = torch.cat([torch.randn(1, 1, 8, 8, generator=source) for source in generators([3, 14])])
    images = sample(denoiser, [3, 14], sampler)
    torch.testing.assert_close(images, (factor * noise).clamp(-1, 1), rtol=0, atol=1e-4)  # float32, up to 501 steps
    assert denoiser.network.calls == sampler.evaluations(denoiser) == steps
    assert steps < 50 or 0.46 < factor < (0.5 if spacing == "trailing" else 0.56)  # the standard deviation is ½


@pytest.mark.parametrize("steps", [7, 30, 400])
def test_ddim_with_all_of_its_noise_is_ancestral_sampling(make_pipeline, steps):
    """Song et al. 2021, Eq. 16 with η = 1: the same noises and variances, whatever the number of steps."""
    ddim, ddpm = (
        sample(ideal(make_pipeline), [3, 14], Sampler(name, steps, eta, microbatch_size=2))
        for name, eta in (("ddim", 1.0), ("ddpm", 0.0))
    )
    torch.testing.assert_close(ddim, ddpm, rtol=0, atol=1e-4)


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


@pytest.mark.parametrize(("spacing", "found"), [("leading", 1), ("linspace", 999)])
def test_steps_without_timesteps_of_their_own_are_refused(make_pipeline, spacing, found):
    """diffusers' solver divides the schedule into one more step than there are."""
    denoiser = PipelineDenoiser.from_pipeline(make_pipeline())
    with pytest.raises(InputError, match=f"has {found} different timesteps for 1000 steps with spacing '{spacing}'"):
        Sampler("dpm++", 1000, spacing=spacing).make(denoiser)
    assert len(Sampler("dpm++", 999, spacing=spacing).make(denoiser).timesteps) == 999


@pytest.mark.parametrize("clip", [True, False])
def test_clipping_that_thresholding_takes_the_place_of_is_refused(make_pipeline, clip):
    denoiser = PipelineDenoiser.from_pipeline(make_pipeline({"thresholding": True, "sample_max_value": 5.0}))
    with pytest.raises(InputError, match=f"clip_sample: got {clip} for a pipeline whose scheduler has thresholding on"):
        sample(denoiser, [1], Sampler("ddim", 2, clip_sample=clip))
    assert sample(denoiser, [1], Sampler("ddim", 2, microbatch_size=1)).shape == (1, 1, 8, 8)


def test_the_noise_of_a_flows_steps_is_that_of_each_seed(make_unet, monkeypatch):
    """diffusers before 0.39 draws that noise from the global stream, whatever the generators."""
    parts = flow_parts(FlowMatchEulerDiscreteScheduler(shift=3.0))
    model, sampler = (
        PipelineDenoiser(make_unet(), image_shape=(1, 8, 8), **parts),
        Sampler("ddpm", 4, microbatch_size=3),
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(4)
    sources = generators(SEEDS[:3])
    x = torch.cat([torch.randn(1, 1, 8, 8, generator=source) for source in sources])
    with torch.no_grad():
        for t, (now, after) in zip(scheduler.timesteps, pairwise(scheduler.sigmas), strict=True):
            output = model.network.eval()(x, t.expand(3)).sample
            noise = torch.cat([torch.randn(1, 1, 8, 8, generator=source) for source in sources])
            x = (1 - after) * (x - now * output) + after * noise
    images = sample(model, SEEDS[:3], sampler)
    torch.testing.assert_close(images, x.clamp(-1, 1))
    old = "diffusers.schedulers.scheduling_flow_match_euler_discrete.randn_tensor"
    monkeypatch.setattr(old, lambda shape, **_: torch.randn(shape), raising=False)
    for seed in (0, 1):
        torch.manual_seed(seed)
        assert torch.equal(sample(model, SEEDS[:3], sampler), images)
    assert torch.equal(sample(model, SEEDS[1:2], sampler)[0], images[1])


@pytest.mark.parametrize("option", ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"])
def test_a_flow_pipelines_own_spacing_does_not_take_the_place_of_the_protocols(make_unet, option):
    """Euler's method at s = i/n: trailing, as the protocol says."""
    plain = flow_parts(FlowMatchEulerDiscreteScheduler())
    other = plain | {"scheduler_config": plain["scheduler_config"] | {option: True}}
    for parts in (plain, other):
        made = Sampler("ddim", steps=4).make(PipelineDenoiser(make_unet(), image_shape=(1, 8, 8), **parts))
        torch.testing.assert_close(made.sigmas, torch.tensor([1, 0.667, 0.334, 0.001, 0]), rtol=0, atol=1e-6)


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
