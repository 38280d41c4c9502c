"""Held-out seeds, with a stub for the classifier, whose answer is known by the brightness of an image."""

from types import SimpleNamespace

import pytest
import torch

from vdu.diffusion.sampling import Sampler
from vdu.models.denoiser import PipelineDenoiser
from vdu.replay.generated import HELD_OUT_SEED, SHARED_SEED, generate_samples, image_seeds
from vdu.replay.guarantee import seeds_needed
from vdu.replay.held_out import HeldOut, hold_out
from vdu.replay.selection import FEWEST_LIKE_FORGET

SAMPLER = Sampler("ddpm", steps=2, microbatch_size=4)
N_OWN = 60


class Brightness:
    """Calls an image unwanted where its mean is above a level."""

    def __init__(self, level):
        self.level = level

    def cpu(self):
        return self

    def __call__(self, x_t, alpha_bar):
        return x_t.flatten(1).mean(1) - self.level


def by_hand(images, level):
    """Mean brightness above a level over the three noise levels."""
    x0, source, total = images.double() / 127.5 - 1, torch.Generator().manual_seed(0), 0.0
    for alpha_bar in (0.98, 0.9, 0.66):
        noise = torch.randn(x0.shape, generator=source)
        total = total + ((alpha_bar**0.5 * x0 + (1 - alpha_bar) ** 0.5 * noise).flatten(1).mean(1) - level) / 3
    return total


@pytest.fixture
def denoiser(make_pipeline):
    return PipelineDenoiser.from_pipeline(make_pipeline())


def judged(level, share, unlike):
    return SimpleNamespace(classifier=Brightness(level), share=share, unlike=unlike)


def test_seeds_and_error_are_counted_on_samples_that_the_method_never_sees(denoiser):
    drawn = generate_samples(denoiser, N_OWN, SAMPLER, seed=HELD_OUT_SEED, progress=None).images
    level = float(by_hand(drawn, 0).median()) + 1e-4
    unwanted, unlike = by_hand(drawn, level) >= 0, drawn.flatten(1)[:, 0] > 100
    found = hold_out(denoiser, judged(level, 0.5, lambda images: images.images.flatten(1)[:, 0] > 100), SAMPLER, N_OWN)
    seeds = torch.tensor(image_seeds(HELD_OUT_SEED, N_OWN))
    assert list(found.seeds) == seeds[unwanted].tolist() and len(found.seeds) == N_OWN // 2
    assert not set(found.seeds) & set(image_seeds(SHARED_SEED, N_OWN))
    wrong = int((unwanted & unlike).sum())
    assert found.error == (wrong + 1) / (N_OWN // 2 + 2) and 0 < wrong < N_OWN // 2
    assert (found.n_drawn, found.n_drawn_now) == (N_OWN, N_OWN)
    again = hold_out(denoiser, judged(level, 0.5, lambda images: images.images.flatten(1)[:, 0] > 100), SAMPLER, N_OWN)
    assert again.seeds == found.seeds and again.n_drawn_now == 0


def test_no_more_samples_than_the_aim_needs(denoiser):
    found = hold_out(denoiser, judged(-2, 1.0, lambda images: torch.zeros(len(images), dtype=torch.bool)), SAMPLER, 200)
    assert seeds_needed(found.error) <= found.n_drawn == len(found.seeds) < seeds_needed(0.05)
    assert found.error == 1 / (found.n_drawn + 2)
    worse = hold_out(denoiser, judged(-2, 1.0, lambda images: torch.arange(len(images)) < 5), SAMPLER, 200)
    assert worse.n_drawn == len(worse.seeds) == 128 and worse.error == 6 / 130


def test_none_are_drawn_where_the_concept_is_rare(denoiser):
    share = (FEWEST_LIKE_FORGET - 1) / N_OWN
    assert hold_out(denoiser, judged(0, share, None), SAMPLER, N_OWN) == HeldOut()
