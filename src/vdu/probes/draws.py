"""Shared helpers of probes that draw images: seeds, samples, the judge's predictions, rates, and the result frame."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vdu.core.errors import InputError
from vdu.core.modes import evaluating
from vdu.core.processes import first_decides
from vdu.core.rng import derive_seed, generator
from vdu.core.statistics import share_interval
from vdu.core.types import Denoiser
from vdu.data.images import ImageSet, to_uint8
from vdu.diffusion.sampling import Sampler, sample
from vdu.probes.context import ProbeContext

__all__ = [
    "choose",
    "draw",
    "evaluating",
    "image_seeds",
    "judged",
    "measured",
    "own_rest",
    "require_fit",
    "sampler_words",
    "share",
]


def image_seeds(seed: int, purpose: str, n_images: int, start: int = 0) -> list[int]:
    """One seed per image for a named purpose; the seed of image i does not depend on the number of images."""
    return [derive_seed(seed, purpose, "image", i) for i in range(start, start + n_images)]


def draw(
    case: ProbeContext,
    model: Denoiser,
    seeds: Sequence[int],
    title: str,
    sampler: Sampler | None = None,
    labels: Sequence[int] | None = None,
) -> ImageSet:
    """Samples of a model, one per seed, as uint8 like every image that leaves a model.

    Args:
        case: provides the sampler and whether to show a progress bar.
        model: the model.
        seeds: one per image.
        title: title of the progress bar.
        sampler: a protocol other than the case's.
        labels: classes of a class-conditional model; None takes those of the seeds.

    Returns:
        The images, with the classes under which they were drawn as labels if the model is conditional.
    """
    asked = labels if labels is not None else model.labels_of(seeds)
    shown = title if case.progress else None
    images = to_uint8(sample(model, seeds, sampler or case.sampler, labels=asked, shared=True, progress=shown))
    description = f"{len(seeds)} samples, {title}"
    if asked is None:
        return ImageSet(images, description=description)
    return ImageSet(images, torch.tensor(asked), class_names=model.class_names, description=description)


def judged(case: ProbeContext, images: ImageSet) -> Tensor:
    """Mask of the images that the case's judge predicts as forget, [images], bool, on the CPU.

    Args:
        case: provides the judge's predictions.
        images: at least one.

    Returns:
        The predictions.

    Raises:
        InputError: if the predictions are not one bool per image.
    """
    calls = first_decides("judging images", lambda: torch.as_tensor(case.is_forget(images)).cpu())
    if calls.dtype != torch.bool or calls.shape != (len(images),):
        raise InputError(
            f"is_forget: got {calls.dtype} {list(calls.shape)} for {len(images)} images; expected one bool per image. "
            "Compare the judge's classes with the forget class."
        )
    return calls


def share(calls: Tensor) -> dict[str, Any]:
    """The number of images predicted as forget, with a 95 % Wilson interval of the rate."""
    count, n = int(calls.sum()), len(calls)
    low, high = share_interval(count, n)
    return {"forget_count": count, "n_images": n, "low": low, "high": high}


def choose(images: ImageSet, n_images: int, seed: int, *names: str) -> ImageSet:
    """The first images of a random order, at most ``n_images``; a smaller selection is a prefix of a larger one."""
    order = torch.randperm(len(images), generator=generator(seed, *names))
    return images.select(order[:n_images])


def require_fit(images: ImageSet, model: Denoiser, what: str) -> None:
    """Raise an error for images of another shape than the model's, which a convolutional network would silently accept.

    Args:
        images: the images for the model.
        model: the model.
        what: name of the images in the message.

    Raises:
        InputError: if the shapes differ.
    """
    if images.shape != tuple(model.image_shape):
        raise InputError(
            f"{what}: got images of {images.shape} (channels, height, width) for a model of {tuple(model.image_shape)}; "
            "expected the model's shape. Load them with shape= or convert them first."
        )


def own_rest(case: ProbeContext, n_images: int, purpose: str) -> ImageSet:
    """Samples of the original that the judge does not predict as forget, for use without real images of the rest.

    Args:
        case: the models and the judge.
        n_images: number of images.
        purpose: names the noise.

    Returns:
        That many images, or fewer (possibly none) if four times as many draws do not suffice.
    """
    found: list[ImageSet] = []
    model = case.original if case.kept is None else case.kept
    batch = max(case.sampler.microbatch_size, 1)
    for start in range(0, max(4 * n_images, batch), batch):
        drawn = draw(case, model, image_seeds(case.seed, purpose, batch, start), f"{purpose}: generated samples")
        found.append(drawn.select(~judged(case, drawn)))
        if sum(map(len, found)) >= n_images:
            break
    labels = [each.labels for each in found if each.labels is not None]
    return ImageSet(
        torch.cat([each.images for each in found])[:n_images],
        torch.cat(labels)[:n_images] if labels else None,
        class_names=model.class_names or None,
        description="generated samples of the original not predicted as forget",
    )


def sampler_words(sampler: Sampler) -> str:
    """A sampling protocol in words, for reports."""
    noise = f", eta {sampler.eta:g}" if sampler.scheduler == "ddim" else ""
    clip = "" if sampler.clip_sample is None else f", clip_sample {sampler.clip_sample}"
    guidance = "" if sampler.guidance_scale is None else f", guidance scale {sampler.guidance_scale:g}"
    words = f"{sampler.scheduler}, {sampler.steps} steps{noise}, {sampler.spacing} spacing{clip}{guidance}"
    return f"{words}, micro-batches of {sampler.microbatch_size}"


def measured(started: float, protocol: dict[str, Any], **found: Any) -> dict[str, Any]:
    """The frame of a measured result.

    Args:
        started: ``time.monotonic()`` at the probe's beginning.
        protocol: settings, by name, as plain values.
        **found: rows, curves or other results of the probe.

    Returns:
        Plain values for ``metrics.json``.
    """
    return {"status": "measured", "seconds": time.monotonic() - started, "protocol": protocol, **found}
