"""Distances of the original and the unlearned model to a retrained model.

The goal of unlearning is the model that was trained without the class. Two distances to it, for the original and the
unlearned model:

    denoising   D(x₀, ᾱ) = ‖ε_θ(x_t) − ε_r(x_t)‖² / d        x_t = √ᾱ x₀ + √(1−ᾱ) ε, the same for all models
    samples     Fréchet distance of features between a model's samples and the retrained model's

Symbols: ε_r the retrained model's prediction; d elements per image; ᾱ a noise level, on a grid. D is averaged over the images
of a set, one ε per image and level, with a normal 95 % interval over images; it is 0 only where the models agree. On the class
it is large for the original and should shrink; on the rest it should not grow. Models are evaluated at the timestep of their own
schedule that has this ᾱ, so that schedules may differ.

Retraining is random: a second model retrained from another seed also has D > 0, which no unlearned model need improve on. A
single retrained model cannot give this floor for D. For samples the protocol gives a floor: the distance between two sets of
samples of the retrained model, drawn from different noise.

Not guaranteed: that a small distance means that nothing is left inside; that the retrained model is a good one. Fréchet
distances are biased upwards, more so for few images: compare them with the floor, not with 0.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vdu.core.errors import InputError
from vdu.core.rng import generator
from vdu.core.types import Condition, Denoiser
from vdu.data.images import ImageSet
from vdu.diffusion.schedule import batch_at
from vdu.metrics.frechet import frechet_interval
from vdu.metrics.intervals import mean_interval
from vdu.probes.context import ProbeContext, image_set_code, not_run
from vdu.probes.draws import choose, draw, evaluating, image_seeds, measured, own_rest, require_fit, sampler_words
from vdu.training.batches import condition_of, encoded

__all__ = ["denoising_distances", "probe"]

ALPHA_BARS = (0.99, 0.9, 0.5, 0.1, 0.01)


@torch.no_grad()
def denoising_distances(
    model: Denoiser,
    other: Denoiser,
    images: Tensor,
    noise: Tensor,
    alpha_bar: float,
    batch_size: int,
    condition: Condition | None = None,
    other_condition: Condition | None = None,
) -> Tensor:
    """Mean squared difference of the noise predictions of two models, per image.

    Args:
        model: one model, in either mode; it is evaluated in evaluation mode.
        other: another model on the same device.
        images: x₀ in the models' own space, [n, …].
        noise: ε, like ``images``.
        alpha_bar: ᾱ, in (0, 1).
        batch_size: images per network evaluation.
        condition: of each image.
        other_condition: likewise, as the other model reads it; None is the same.

    Returns:
        Per element, [n], float64.
    """
    first = next(model.network.parameters())
    found = []
    with evaluating(model.network, other.network):
        for part in torch.arange(len(images)).split(batch_size):
            x0, eps = images[part].to(first), noise[part].to(first)
            given = [
                None if of is None else {name: value[part] for name, value in of.items()}
                for of in (condition, other_condition or condition)
            ]
            seen = [
                each.noise(batch_at(x0, eps, alpha_bar, each.schedule, of)).double()
                for each, of in zip((model, other), given, strict=True)
            ]  # float64: the squares are summed and subtracted from
            found.append((seen[0] - seen[1]).square().flatten(1).mean(1).cpu())
    return torch.cat(found)


def probe(
    case: ProbeContext,
    *,
    n_images: int = 200,
    alpha_bars: Sequence[float] = ALPHA_BARS,
    features: Callable[[ImageSet], Tensor] | None = None,
    n_samples: int = 500,
) -> dict[str, Any]:
    """Distances of the original and the unlearned model to the retrained one.

    Args:
        case: models, images, sampler and seed.
        n_images: images of each set, at most.
        alpha_bars: noise levels ᾱ, each in (0, 1).
        features: images → features, [images, d]; None leaves the distance of samples out.
        n_samples: samples of each model for this distance, more than d.

    Returns:
        ``denoising``: one row per model, set and level; ``samples``: one row per model, if features were given. Not run
        without a retrained model.

    Raises:
        InputError: if a noise level is not in (0, 1), fewer than two images are asked for, or the images do not fit.
    """
    if case.retrained is None:
        return not_run("no_retrained_model")
    if not alpha_bars or not all(0 < level < 1 for level in alpha_bars) or n_images < 2:
        raise InputError(
            f"retrained: got alpha_bars={list(alpha_bars)} and n_images={n_images}; expected noise levels within (0, 1) and at "
            "least 2 images, for an interval."
        )
    started = time.monotonic()
    sets, left_out = _sets(case, n_images)
    protocol: dict[str, Any] = {
        "images": {image_set_code(name): len(images) for name, images in sets.items()},
        "left_out": [image_set_code(name) for name in left_out],
        "noise": "one_draw_per_image_and_level",
    }
    found: dict[str, Any] = {"denoising": _denoising(case, case.retrained, sets, alpha_bars)}
    if features is not None:
        found["samples"], floor = _samples(case, case.retrained, features, n_samples)
        protocol |= {
            "sampler": sampler_words(case.sampler),
            "n_samples": n_samples,
            "floor_u_fid": floor,
        }
    return measured(started, protocol, **found)


def _sets(case: ProbeContext, n_images: int) -> tuple[dict[str, ImageSet], list[str]]:
    """The image sets: the real ones, and generated samples of the rest if it has no real images."""
    sets = {name: choose(images, n_images, case.seed, "retrained", name) for name, images in case.image_sets.items()}
    if case.retain is None and case.retain_held_out is None:
        sets["own samples, rest"] = own_rest(case, n_images, "retrained, images")
    for name, images in sets.items():
        require_fit(images, case.original, name)
    kept = {name: images for name, images in sets.items() if len(images) >= 2}
    return kept, [name for name in sets if name not in kept]


def _denoising(
    case: ProbeContext, retrained: Denoiser, sets: Mapping[str, ImageSet], alpha_bars: Sequence[float]
) -> list[dict[str, Any]]:
    rows = []
    for name, images in sets.items():
        x0 = encoded(case.original, images.images)
        models = {"original": case.original, "unlearned": case.unlearned, "retrained": retrained}
        read = {who: condition_of(model, images, torch.arange(len(images)), name) for who, model in models.items()}
        for level in alpha_bars:
            noise = torch.randn(x0.shape, generator=generator(case.seed, "retrained", name, repr(float(level))))
            for who in ("original", "unlearned"):
                each = denoising_distances(
                    models[who], retrained, x0, noise, level, case.sampler.microbatch_size, read[who], read["retrained"]
                )
                mean, low, high = mean_interval(each)
                row = {"model": who, "images": image_set_code(name), "alpha_bar": float(level), "distance": mean}
                rows.append(row | {"low": max(low, 0.0), "high": high})
    return rows


def _samples(
    case: ProbeContext, retrained: Denoiser, features: Callable[[ImageSet], Tensor], n_samples: int
) -> tuple[list[dict[str, Any]], float]:
    """Rows, and the distance between two sets of samples of the retrained model."""
    reference = features(
        draw(case, retrained, image_seeds(case.seed, "retrained, reference", n_samples), "retrained: reference")
    )
    seeds = image_seeds(case.seed, "retrained", n_samples)
    measures = {}
    for who, model in case.models.items():
        generated = features(draw(case, model, seeds, f"retrained: {who}"))
        source = generator(case.seed, "retrained", "bootstrap")  # the same resamples for every model
        measures[who] = frechet_interval(reference, generated, generator=source)
    rows = [
        {"model": who, "u_fid": {"value": measures[who].value, "low": measures[who].low, "high": measures[who].high}}
        for who in ("original", "unlearned")
    ]
    return rows, measures["retrained"].value
