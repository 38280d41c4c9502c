"""The first frame against the noise of the seed, the last one against the image of the sampler."""

import threading
from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch import nn

from vdu.data.images import to_uint8
from vdu.diffusion.sampling import Sampler, sample
from vdu.explore.film import denoise, side_by_side
from vdu.models.denoiser import PipelineDenoiser

SAMPLERS = {
    "ddpm": Sampler("ddpm", 5, microbatch_size=1),
    "ddim": Sampler("ddim", 5, eta=0.7, microbatch_size=1),
    "dpm++": Sampler("dpm++", 5, microbatch_size=1),
}


def pixels(image):
    return to_uint8(image).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_last_frame_is_the_samplers_image(make_pipeline, name):
    model = PipelineDenoiser.from_pipeline(make_pipeline())
    frames = list(denoise(model, 2**62 + 1, replace(SAMPLERS[name], microbatch_size=3)))
    (image,) = sample(model, [2**62 + 1], SAMPLERS[name])
    assert [frame.step for frame in frames] == [1, 2, 3, 4, 5, 5] and [f.finished for f in frames] == [False] * 5 + [
        True
    ]
    assert (frames[-1].expected == pixels(image)).all() and (frames[-1].noisy == pixels(image)).all()
    assert (frames[0].expected != frames[-1].expected).any()


@pytest.mark.slow
def test_the_preview_is_close_to_the_stored_sample(opened):
    *_, last = denoise(opened.unlearned, int(opened.data.unlearned.seeds[41]), opened.sampler)
    stored = opened.data.unlearned.images[41]
    assert abs(last.expected.astype(int) - stored).max() <= 2  # a batch of one may round differently


def test_the_first_frame_is_the_seeds_noise(make_pipeline):
    model = PipelineDenoiser.from_pipeline(make_pipeline())
    first = next(denoise(model, 5, SAMPLERS["ddpm"]))
    noise = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    assert (first.noisy == pixels(noise[0])).all() and first.timestep == 999


def test_two_models_start_from_the_same_noise_and_part(make_pipeline):
    before, after = (PipelineDenoiser.from_pipeline(make_pipeline(seed=seed)) for seed in (0, 1))
    frames = list(side_by_side(before, after, 7, SAMPLERS["ddpm"]))
    assert len(frames) == 6
    assert (frames[0][0].noisy == frames[0][1].noisy).all() and (frames[-1][0].noisy != frames[-1][1].noisy).any()
    for side, model in enumerate((before, after)):
        assert (frames[-1][side].noisy == pixels(sample(model, [7], SAMPLERS["ddpm"])[0])).all()


def test_whoever_leaves_early_leaves_no_thread(make_pipeline):
    model = PipelineDenoiser.from_pipeline(make_pipeline())
    frames = side_by_side(model, model, 7, SAMPLERS["ddpm"])
    assert len(list(islice(frames, 2))) == 2
    assert any(each.name == "denoise" for each in threading.enumerate())
    frames.close()
    assert not any(each.name == "denoise" for each in threading.enumerate())


def test_an_error_in_the_network_reaches_the_one_who_watches(make_pipeline):
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x_t, t):
            raise RuntimeError("a broken layer")

    model = replace(PipelineDenoiser.from_pipeline(make_pipeline()), network=Broken())
    with pytest.raises(RuntimeError, match="a broken layer"):
        list(denoise(model, 1, SAMPLERS["ddpm"]))


def test_guidance_takes_one_frame_of_each_step(make_pipeline):
    """And the frame shows the guided prediction: under s = 1 that under the condition alone."""
    pipeline = make_pipeline({"clip_sample": False}, num_class_embeds=4)
    pipeline.class_names, pipeline.null_class = ("a", "b", "c"), 3
    model = PipelineDenoiser.from_pipeline(pipeline)
    plain, one, three = (Sampler("ddim", 4, microbatch_size=1, guidance_scale=s) for s in (None, 1.0, 3.0))
    films = [list(denoise(model, 5, sampler, "b")) for sampler in (plain, one, three)]
    assert all([frame.step for frame in film] == [1, 2, 3, 4, 4] and film[0].steps == 4 for film in films)
    for a, b in zip(*films[:2], strict=True):
        assert abs(a.expected.astype(int) - b.expected).max() <= 1
    assert (films[0][0].expected != films[2][0].expected).any()
    (image,) = sample(model, [5], three, labels=["b"])
    assert (films[2][-1].expected == pixels(image)).all()
