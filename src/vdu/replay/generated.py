"""Generated samples of the original model, which stand in for the retained data (self-generated replay).

They are drawn once per model, sampler and seed and cached (:mod:`vdu.core.cache`). Every method or posterior that uses n samples
gets the first n of the same sequence. Samples for evaluation are drawn from other noise and cached as well, so that a second
evaluation, or a second method for the same original, does not draw the original's samples again.
"""

import torch
from torch import Tensor

from vdu.core.cache import cache_folder, read_cached, write_cached
from vdu.core.processes import first_decides, is_first
from vdu.core.records import sha256_bytes
from vdu.core.rng import derive_seed
from vdu.core.types import Denoiser
from vdu.data.images import ImageSet, to_uint8
from vdu.diffusion.sampling import Sampler, drawn_as, sample
from vdu.models.identity import identity

__all__ = ["HELD_OUT_SEED", "SHARED_SEED", "cached_samples", "generate_samples", "image_seeds"]

SHARED_SEED = derive_seed(0, "own samples, shared")
HELD_OUT_SEED = derive_seed(0, "held-out samples")
PIECE = 500  # images between two writes of the cache


def image_seeds(seed: int, n_images: int, start: int = 0) -> list[int]:
    """One seed per image; the seed of image i does not depend on the number of images."""
    return [derive_seed(seed, "image", i) for i in range(start, start + n_images)]


def generate_samples(
    denoiser: Denoiser,
    n_images: int,
    sampler: Sampler,
    *,
    seed: int,
    start: int = 0,
    progress: str | None = "generated samples",
) -> ImageSet:
    """Draw images from a model; processes share the work (:mod:`vdu.core.processes`).

    Args:
        denoiser: the model.
        n_images: how many.
        sampler: the sampling protocol.
        seed: image i starts from noise drawn from (seed, i).
        start: index of the first image.
        progress: title of the progress bar; None shows none.

    Returns:
        The images, as uint8 like every image that leaves the model.
    """
    seeds = image_seeds(seed, n_images, start)
    images = to_uint8(sample(denoiser, seeds, sampler, shared=True, progress=progress))
    return _labelled(
        images, f"{n_images} generated samples, {sampler.scheduler} {sampler.steps} steps", denoiser, seeds
    )


def cached_samples(
    denoiser: Denoiser,
    n_images: int,
    sampler: Sampler,
    *,
    seed: int = SHARED_SEED,
    progress: str | None = "generated samples",
) -> tuple[ImageSet, int]:
    """The first images of the cached sequence for a model, a sampler and a seed.

    The cache is written in pieces, so that an interrupted process resumes where it stopped.

    Args:
        denoiser: the model; its weights, its configuration and the type of its device are part of the cache's key.
        n_images: how many.
        sampler: the sampling protocol.
        seed: image i starts from noise drawn from (seed, i); the default is shared by methods and posteriors.
        progress: title of the progress bar; None shows none.

    Returns:
        The images, and how many were drawn in this call. If the cache cannot be read or written, a warning is printed to
        standard error and the images are drawn.
    """
    key = f"{identity(denoiser)} {sorted(sampler.describe().items())} {seed}"
    device = next(denoiser.network.parameters()).device.type
    key += (
        "" if device == "cpu" else f" {device}"
    )  # results differ by device: two models must not be compared across devices
    key += drawn_as(denoiser, sampler)
    path = cache_folder() / "own-samples" / f"{sha256_bytes(key.encode())[:24]}.safetensors"
    found = first_decides("cached samples", lambda: read_cached(path, "the generated samples are"))
    kept = (found or {}).get("images")
    there = n_before = 0 if kept is None else len(kept)
    writable = True
    while there < n_images:
        n = min(max(PIECE // sampler.microbatch_size, 1) * sampler.microbatch_size, n_images - there)
        title = progress if n_before + n >= n_images else f"{progress} ({there} of {n_images})"
        drawn = generate_samples(
            denoiser, n, sampler, seed=seed, start=there, progress=title if progress else None
        ).images
        kept = drawn if kept is None else torch.cat([kept, drawn])
        there = len(kept)
        writable = writable and is_first() and write_cached(path, {"images": kept}, "these generated samples are")
    assert kept is not None
    description = f"{n_images} generated samples, {sampler.scheduler} {sampler.steps} steps"
    return _labelled(kept[:n_images], description, denoiser, image_seeds(seed, n_images)), max(0, n_images - n_before)


def _labelled(images: Tensor, description: str, denoiser: Denoiser, seeds: list[int]) -> ImageSet:
    """The images, with their classes as labels if the model is conditional."""
    labels = denoiser.labels_of(seeds)
    if labels is None:
        return ImageSet(images, description=description)
    return ImageSet(images, torch.tensor(labels), class_names=denoiser.class_names, description=description)
