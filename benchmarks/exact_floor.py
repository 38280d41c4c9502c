#!/usr/bin/env python3
"""What exact unlearning itself changes: samples under the exact score of a mixture, and under that of the mixture without a class.

Usage: exact_floor.py [--n-images 500] [--long-steps 1000] [--long-n-images 200] [--json OUT]      (about 20 minutes on one core)

The score of a mixture of Gaussians of one width h around the points x_i is known in closed form:

    E[x0 | x_t] = Σ_i w_i(x_t) (x_i + α h²/(α² h² + σ²) (x_t − α x_i))        w_i ∝ exp(−‖x_t − α x_i‖² / (2 (α² h² + σ²)))

Nothing is trained, so a difference is no error of a network. The same noise gives a sample under all points and one under the points
of the kept classes. The class of a sample is that of the component with the largest density under all points: an oracle, without error.

Worlds: "digits", the 10,000 packaged training digits with h = 0.1 (pixels in [−1, 1]); "blobs", 10 classes of one point each in 64
dimensions, at distances of 4 widths and of 8. A share of kept samples that change class is the floor of every method that aims at the model
retrained on the rest, as long as it is drawn with the same sampler.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vdu.core.records import environment
from vdu.core.statistics import share_interval
from vdu.data.images import to_float
from vdu.data.sources import load_images
from vdu.diffusion.sampling import Sampler, sample
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.pipelines import load_pipeline
from vdu.zoo.packaged import pipeline_folder


@dataclass(frozen=True)
class World:
    """Points with classes.

    Attributes:
        points: [n, channels, height, width].
        classes: int64 [n].
        width: h, the standard deviation of every component.
    """

    points: Tensor
    classes: Tensor
    width: float

    def without(self, forgotten: int) -> "World":
        """The points of the other classes."""
        kept = self.classes != forgotten
        return World(self.points[kept], self.classes[kept], self.width)

    def class_of(self, samples: Tensor) -> Tensor:
        """The class of the nearest point, which is the component with the largest density; int64 [batch]."""
        return self.classes[squared_distances(samples, self.points).argmin(1)]


def squared_distances(left: Tensor, right: Tensor) -> Tensor:
    """‖l − r‖², [n_left, n_right], float32."""
    return torch.cdist(left.flatten(1), right.flatten(1)).square()


class ExactNoise(nn.Module):
    """ε̂ = (x_t − α E[x0 | x_t])/σ of a world."""

    def __init__(self, world: World, alpha_bars: Tensor) -> None:
        super().__init__()
        self.world, self.alpha_bars = world, alpha_bars

    def forward(self, x_t: Tensor, timestep: Tensor) -> Tensor:
        """The noise prediction, like ``x_t``; ``timestep`` is [batch] or a number, the same for all."""
        level = float(self.alpha_bars[int(timestep.flatten()[0])])
        alpha, sigma, variance = level**0.5, (1 - level) ** 0.5, self.world.width**2
        spread = level * variance + 1 - level
        points = self.world.points.flatten(1)
        weights = (-squared_distances(x_t, alpha * self.world.points) / (2 * spread)).softmax(1)
        mean = (weights @ points).view_as(x_t)
        clean = mean + alpha * variance / spread * (x_t - alpha * mean)
        return (x_t - alpha * clean) / sigma


def digits() -> World:
    """The packaged training digits."""
    images = load_images("mnist-mini", split="train")
    assert images.labels is not None
    return World(to_float(images.images), images.labels.long(), 0.1)


def blobs(distance: float) -> World:
    """Ten points in 64 dimensions, each two of them ``distance`` widths apart."""
    points = torch.eye(64)[:10].view(10, 1, 8, 8)
    width = 2**0.5 / distance
    return World(points, torch.arange(10), width)


def compare(world: World, forgotten: int, sampler: Sampler, seeds: range) -> dict[str, Any]:
    """Exact unlearning of a class, measured on the same noise.

    Args:
        world: all points.
        forgotten: the class.
        sampler: draws both.
        seeds: of the samples.

    Returns:
        Counts and shares.
    """
    before, after = (world.class_of(drawn(each, sampler, seeds)) for each in (world, world.without(forgotten)))
    kept = before != forgotten
    n_kept, n_changed = int(kept.sum()), int((kept & (after != before)).sum())
    n_forget, n_left = int((~kept).sum()), int((~kept & (after == forgotten)).sum())
    shares = [
        torch.bincount(each[each != forgotten], minlength=10) / max(int((each != forgotten).sum()), 1)
        for each in (before, after)
    ]
    return {
        "n_kept": n_kept,
        "n_changed": n_changed,
        "changed": n_changed / n_kept,
        "changed_95": list(share_interval(n_changed, n_kept)),
        "n_forget": n_forget,
        "n_left": n_left,
        "mix_shift": float((shares[0] - shares[1]).abs().sum() / 2),
    }


def drawn(world: World, sampler: Sampler, seeds: range) -> Tensor:
    """Samples under the exact score, float32 [n, channels, height, width]."""
    process = PipelineDenoiser.from_pipeline(load_pipeline(pipeline_folder("mnist")))
    network = ExactNoise(world, process.schedule.alpha_bars)
    network.register_parameter("unused", nn.Parameter(torch.zeros(1)))  # carries device and dtype
    shape = tuple(world.points.shape[1:])
    exact = PipelineDenoiser(network, process.schedule, "epsilon", shape, process.scheduler_config)
    return sample(exact, list(seeds), sampler)


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-images", type=int, default=500)
    parser.add_argument("--long-steps", type=int, default=1000)
    parser.add_argument("--long-n-images", type=int, default=200)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    samplers = {
        "ddpm-20": (Sampler("ddpm", steps=20, clip_sample=False), given.n_images),
        "ddim-20": (Sampler("ddim", steps=20, clip_sample=False), given.n_images),
        f"ddpm-{given.long_steps}": (Sampler("ddpm", steps=given.long_steps, clip_sample=False), given.long_n_images),
    }
    worlds = {"digits": (digits(), (8, 0, 1)), "blobs-4": (blobs(4), (0,)), "blobs-8": (blobs(8), (0,))}
    result: dict[str, Any] = {"command": "python benchmarks/exact_floor.py", **environment(), "cells": []}
    for world_name, (world, forgotten) in worlds.items():
        for each in forgotten:
            for name, (sampler, n_images) in samplers.items():
                cell = {
                    "world": world_name,
                    "forget": each,
                    "sampler": name,
                    **compare(world, each, sampler, range(n_images)),
                }
                result["cells"].append(cell)
                print(json.dumps(cell), flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
