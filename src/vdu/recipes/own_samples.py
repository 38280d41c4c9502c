"""Images that the original model makes itself: all that many methods and estimators know of what is to be kept."""

from vdu.data.images import ImageSet, to_uint8
from vdu.diffusion.sampling import Sampler, sample
from vdu.recipes.settings import SamplerSettings
from vdu.rng import derive_seed
from vdu.types import Denoiser

__all__ = ["image_seeds", "make_sampler", "own_samples"]


def make_sampler(settings: SamplerSettings) -> Sampler:
    """The sampling protocol in a verb's settings."""
    return Sampler(
        scheduler=settings.scheduler,
        steps=settings.inference_steps,
        eta=settings.eta,
        microbatch_size=settings.microbatch_size,
    )


def image_seeds(seed: int, n_images: int, start: int = 0) -> list[int]:
    """One seed per image; image i has the same seed however many are drawn."""
    return [derive_seed(seed, "image", i) for i in range(start, start + n_images)]


def own_samples(
    denoiser: Denoiser,
    n_images: int,
    sampler: Sampler,
    *,
    seed: int,
    start: int = 0,
    progress: str | None = "own samples",
) -> ImageSet:
    """Draw images from a model.

    Args:
        denoiser: the model.
        n_images: how many.
        sampler: the protocol.
        seed: image i starts from noise drawn from (seed, i).
        start: the first i.
        progress: title of the progress bar; None shows none.

    Returns:
        The images, as uint8 like every image that leaves the model.
    """
    images = sample(denoiser, image_seeds(seed, n_images, start), sampler, progress=progress)
    return ImageSet(to_uint8(images), description=f"{n_images} own samples, {sampler.scheduler} {sampler.steps} steps")
