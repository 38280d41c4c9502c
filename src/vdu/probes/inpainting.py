"""Inpainting: does the model complete half of a real image of the class as the class?

The replacement method of RePaint without its resampling (Lugmayr et al. 2022, arXiv 2201.09865, Eq. 8): m = 1 where the
image x₀ is shown; before every step of the sampler the shown part is set to the step's noise level, with fresh ε,

    x_t ← m (√ᾱ_t x₀ + √(1−ᾱ_t) ε) + (1−m) x_t

and at the end the shown pixels are exactly those of the image. The replacement happens inside a denoiser wrapper: the network sees
the replaced x_t, and since the samplers work pixel by pixel, the hidden part evolves as if x_t itself were replaced. (Dynamic
thresholding, ``thresholding`` in a scheduler's configuration, does not work pixel by pixel; such a model raises an error.)

The result must be compared with the control. The shown half may suffice for the judge, whatever fills the rest: the upper half of an
eight with an empty lower half can still resemble an eight most. The count of the unlearned model is therefore meaningful only
relative to that of the RETRAINED model, which never saw the class and fills the same halves from the same noise. The protocol also
gives a weak floor, the judge's prediction for the shown half with the rest black, and the judge's count for the whole images.
Without resampling the two halves harmonise less well than with the full RePaint (its Section 4.2), so that the counts are low for
every model.

Held-out images of the class are used if there are any; otherwise the forget set, which the original was trained on.

Not guaranteed: that other masks, resampling or guidance do not bring the class back.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor

from vdu.core.errors import InputError
from vdu.core.rng import generator
from vdu.core.types import Condition, Denoiser, column, noise_images
from vdu.data.images import ImageSet
from vdu.models.denoiser import DenoiserAround
from vdu.probes.context import ProbeContext, not_run
from vdu.probes.draws import choose, draw, image_seeds, judged, measured, require_fit, sampler_words, share
from vdu.training.batches import labels_for

__all__ = ["HIDDEN", "Shown", "inpaint", "probe"]


def _lower(height: int, width: int) -> Tensor:
    return (torch.arange(height) >= height // 2).view(-1, 1).expand(height, width)


def _right(height: int, width: int) -> Tensor:
    return (torch.arange(width) >= width // 2).view(1, -1).expand(height, width)


HIDDEN: Mapping[str, Callable[[int, int], Tensor]] = MappingProxyType({"lower_half": _lower, "right_half": _right})


@dataclass(frozen=True)
class Shown(DenoiserAround):
    """A denoiser wrapper that implements the replacement method.

    Attributes:
        model: the model, in pixel space.
        images: x₀, [batch, channels, height, width], in [−1, 1]; row i of every batch belongs to image i.
        hidden: True where a pixel is to be filled in, [height, width], bool.
        seeds: one per image; the noise of the shown part at timestep t comes from (seed, "shown", t).
    """

    model: Denoiser
    images: Tensor
    hidden: Tensor
    seeds: Sequence[int]

    def __post_init__(self) -> None:
        if self.model.scheduler_config.get("thresholding"):
            raise InputError(
                "inpainting: got a model whose scheduler has thresholding=True, expected one that works pixel by pixel. "
                "Turn thresholding off in its scheduler_config.json."
            )

    def raw(self, x_t: Tensor, timestep: Tensor, condition: Condition | None = None) -> Tensor:
        """The raw output for x_t with the shown part inserted."""
        return self.model.raw(self.replaced(x_t, timestep), timestep, condition)

    def replaced(self, x_t: Tensor, timestep: Tensor) -> Tensor:
        """x_t with the shown part of each image at the noise level of its timestep (Lugmayr et al. 2022, Eq. 8).

        Args:
            x_t: noised images, [batch, channels, height, width]; the batch may be longer than the images, and then its
                last rows belong to the last image (the sampler pads micro-batches with copies).
            timestep: [batch].

        Returns:
            Like ``x_t``.
        """
        rows = [min(i, len(self.images) - 1) for i in range(len(x_t))]
        noise = torch.stack([
            torch.randn(self.image_shape, generator=generator(self.seeds[row], "shown", int(t)))
            for row, t in zip(rows, timestep.tolist(), strict=True)
        ])
        alpha, sigma = (column(each, x_t) for each in self.schedule.coefficients_at(timestep, x_t))
        shown = noise_images(self.images[rows].to(x_t), noise.to(x_t), alpha, sigma)  # Eq. 8a
        return torch.where(self.hidden.to(x_t.device), x_t, shown)  # Eq. 8c


def inpaint(
    case: ProbeContext, model: Denoiser, images: ImageSet, hidden: Tensor, seeds: Sequence[int], title: str
) -> ImageSet:
    """Images with their hidden part filled in by a model.

    Args:
        case: provides the sampler.
        model: the model that fills in.
        images: real images of the model's shape.
        hidden: True where a pixel is to be filled in, [height, width], bool.
        seeds: one per image.
        title: title of the progress bar.

    Returns:
        The images, with the shown pixels unchanged.

    Raises:
        InputError: if the images, the mask and the model have different shapes, or there is not one seed per image.
    """
    require_fit(images, model, "inpainting")
    if tuple(hidden.shape) != images.shape[1:] or hidden.dtype != torch.bool or len(seeds) != len(images):
        raise InputError(
            f"inpainting: got a mask of {hidden.dtype} {tuple(hidden.shape)} and {len(seeds)} seeds for {len(images)} images of "
            f"{images.shape}; expected bool [height, width] and one seed per image."
        )
    size = case.sampler.microbatch_size
    every = torch.arange(len(images))
    labels = labels_for(model, images, every, "inpainting") if model.class_names else None
    parts = []
    for start in range(0, len(images), size):
        rows = torch.arange(start, min(start + size, len(images)))
        mine = seeds[start : start + size]
        parts.append(
            draw(
                case,
                cast("Denoiser", Shown(model, images.floats(rows), hidden, mine)),
                mine,
                title,
                labels=labels and labels[start : start + size],
            ).images
        )
    filled = torch.where(hidden, torch.cat(parts), images.images)
    return ImageSet(filled, description=f"{images.description}, filled in")


def probe(
    case: ProbeContext, *, n_images: int = 100, hidden: Sequence[str] = ("lower_half", "right_half")
) -> dict[str, Any]:
    """Measure how often a half-hidden image of the class is completed as the class.

    Args:
        case: models, images, judge, sampler and seed.
        n_images: maximum number of images.
        hidden: the hidden parts, keys of :data:`HIDDEN`.

    Returns:
        ``rows``: one per hidden part and model.

    Raises:
        InputError: if a hidden part is unknown.
    """
    started = time.monotonic()
    if case.original.is_latent:
        return not_run("latent_model")
    unknown = [name for name in hidden if name not in HIDDEN]
    if unknown:
        raise InputError(f"hidden: got {', '.join(unknown)}; expected some of {', '.join(HIDDEN)}.")
    held_out = case.forget_held_out is not None
    source = case.forget_held_out if case.forget_held_out is not None else case.forget
    require_fit(source, case.original, "inpainting")
    images = choose(source, n_images, case.seed, "inpainting", "images")
    seeds = image_seeds(case.seed, "inpainting", len(images))
    rows, black = [], {}
    for name in hidden:
        mask = HIDDEN[name](*images.shape[1:])
        black[name] = int(judged(case, ImageSet(torch.where(mask, 0, images.images).to(torch.uint8))).sum())
        for who, model in case.models.items():
            filled = inpaint(case, model, images, mask, seeds, f"inpainting: {name}, {who}")
            rows.append({"hidden": name, "model": who, **share(judged(case, filled))})
    protocol = {
        "sampler": sampler_words(case.sampler),
        "images": "forget_held_out" if held_out else "forget_train",
        "method": "replacement",
        "n_forget_shown_whole": int(judged(case, images).sum()),
        **{f"n_forget_{name}_black": count for name, count in black.items()},
        "control": "retrained" if case.retrained else "none",
    }
    return measured(started, protocol, rows=rows)
