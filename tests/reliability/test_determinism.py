"""Same seed, same bits, however the images were asked for; ``test_sampling`` and ``test_two_processes`` have the rest."""

import pytest
import torch

from vdu.core.cache import cache_folder, write_cached
from vdu.core.records import sha256_bytes
from vdu.diffusion.sampling import Sampler
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.identity import identity
from vdu.replay.generated import SHARED_SEED, cached_samples, generate_samples

SAMPLERS = [Sampler("ddpm", steps=4, microbatch_size=3), Sampler("ddim", steps=4, eta=0.5, microbatch_size=4)]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.scheduler)
def test_an_image_does_not_depend_on_how_many_are_asked_for_nor_in_how_many_calls(make_pipeline, sampler):
    denoiser = PipelineDenoiser.from_pipeline(make_pipeline())
    truth = generate_samples(denoiser, 11, sampler, seed=5, progress=None).images
    for parts in ((1, 10), (5, 6), (7, 2, 2)):  # cut across micro-batches
        start, found = 0, []
        for n in parts:
            found.append(generate_samples(denoiser, n, sampler, seed=5, start=start, progress=None).images)
            start += n
        assert torch.equal(torch.cat(found), truth)
    assert not torch.equal(generate_samples(denoiser, 11, sampler, seed=6, progress=None).images, truth)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.scheduler)
def test_a_cache_that_grew_holds_what_one_call_draws(make_pipeline, sampler, monkeypatch, tmp_path):
    denoiser = PipelineDenoiser.from_pipeline(make_pipeline())
    monkeypatch.setenv("VDU_CACHE", str(tmp_path / "grown"))
    drawn = [cached_samples(denoiser, n, sampler, progress=None)[1] for n in (2, 7, 5, 11)]
    assert drawn == [2, 5, 0, 4]
    grown = cached_samples(denoiser, 11, sampler, progress=None)[0].images
    monkeypatch.setenv("VDU_CACHE", str(tmp_path / "at once"))
    assert torch.equal(cached_samples(denoiser, 11, sampler, progress=None)[0].images, grown)


@pytest.mark.parametrize(("spacing", "steps", "n_drawn"), [("trailing", 4, 0), ("linspace", 4, 5), ("trailing", 7, 5)])
def test_samples_of_earlier_versions_that_missed_the_timesteps_are_drawn_again(make_pipeline, spacing, steps, n_drawn):
    denoiser, sampler = PipelineDenoiser.from_pipeline(make_pipeline()), Sampler("ddim", steps, spacing=spacing)
    key = f"{identity(denoiser)} {sorted(sampler.describe().items())} {SHARED_SEED}"  # of then
    path = cache_folder() / "own-samples" / f"{sha256_bytes(key.encode())[:24]}.safetensors"
    shape = (5, *denoiser.image_shape)
    assert write_cached(path, {"images": torch.zeros(shape, dtype=torch.uint8)}, "these samples are")
    assert cached_samples(denoiser, 5, sampler, progress=None)[1] == n_drawn


def test_the_number_of_threads_does_not_change_an_image(make_pipeline):
    denoiser, sampler = PipelineDenoiser.from_pipeline(make_pipeline()), SAMPLERS[0]
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(generate_samples(denoiser, 5, sampler, seed=1, progress=None).images)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)
