#!/usr/bin/env python3
"""Selective Amnesia's Fisher: one (t, image) pair at a time against one backward pass for many t.

Usage: amnesia_fisher.py [--images 2] [--timesteps 60] [--rounds 3] [--json results/amnesia_fisher.json]

All kinds alternate in one process, on the packaged model, so that a noisy machine disturbs all of them; medians and their
ratios count. Every kind draws the same (t, ε) from its own generator of the same seed.

    pair      forward and backward for each (t, image), gradients summed over t in ``.grad``, then squared
    chunked   as the public code does it: a forward pass for each (t, image), backward through the sum over T/20 steps
    ours      ``vdu.posterior.amnesia_fisher``: forward and backward for a batch of t

Equality is checked in float64 (goal: 1e-4 relative), speed measured in float32 (goal: 1.5 × pair's on a CPU, 5 × on CUDA).
``subset_ratio`` is F from a subset of T/20 steps over F from all T, on four images: the bias in the module's docstring.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from vdu.core.records import environment, write_json
from vdu.diffusion.sampling import Sampler, sample
from vdu.diffusion.schedule import noised_batch
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.pipelines import load_pipeline
from vdu.posterior.amnesia_fisher import AmnesiaFisher, draw_indices
from vdu.posterior.fit import take_all
from vdu.posterior.gaussian import normal_like
from vdu.zoo.packaged import pipeline_folder

GOALS = {"relative_difference": 1e-4, "cpu": 1.5, "cuda": 5.0}


def naive(denoiser, samples, n, chunk):
    """F with one forward pass for each (t, image), and a backward pass every ``chunk`` of them."""
    network, schedule, generator = denoiser.network, denoiser.schedule, torch.Generator().manual_seed(0)
    device = next(network.parameters()).device
    total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in network.named_parameters()}
    for image in samples:
        network.zero_grad()
        rows = draw_indices(len(schedule), n, generator)
        for part in rows.split(chunk):
            loss = 0.0
            for row in part:
                noise = normal_like(image, generator)[None].to(device)
                batch = noised_batch(image[None].to(device), row[None], noise, schedule, schedule)
                loss = loss + (noise - denoiser.noise(batch)).square().sum()
            loss.backward()
        for name, value in network.named_parameters():
            total[name] += (len(schedule) / len(rows) * value.grad.double()).square() / len(samples)
    return total


def ours(denoiser, samples, n, batch_size=100):
    """F with one forward and backward pass for many t."""
    estimator = AmnesiaFisher(timesteps_per_sample=n, batch_size=batch_size)
    state = estimator.init(denoiser, n_items=len(samples), generator=torch.Generator().manual_seed(0))
    return take_all(estimator, state, samples, denoiser).tensors["fisher"]


def relative_difference(denoiser, samples, n):
    """Largest difference in float64, entry by entry, relative to the entry (at least 1e-20 of the largest mean of a tensor)."""
    network, dtype = denoiser.network, next(denoiser.network.parameters()).dtype
    network.double()
    reference, found = naive(denoiser, samples.double(), n, 1), ours(denoiser, samples.double(), n)
    network.to(dtype)
    # the gradient of an attention's key bias is 0 but for rounding
    floor = 1e-20 * max(float(value.mean()) for value in reference.values())
    return max(float(((found[name] - value).abs() / value.clamp_min(floor)).max()) for name, value in reference.items())


def time_kinds(denoiser, samples, n, rounds):
    """Median seconds of each kind."""
    kinds = {
        "pair": lambda: naive(denoiser, samples, n, 1),
        "chunked": lambda: naive(denoiser, samples, n, max(len(denoiser.schedule) // 20, 1)),
        "ours": lambda: ours(denoiser, samples, n),
    }
    seconds = {name: [] for name in kinds}
    for turn in range(rounds + 1):
        for name, run in kinds.items():
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:  # the first warms up
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def subset_ratio(denoiser, samples, n):
    """F from n steps per image over F from all of them: of the sums over all parameters, and the median over entries."""
    subset, whole = (
        torch.cat([value.flatten().cpu() for value in ours(denoiser, samples, each).values()]) for each in (n, None)
    )
    ratio = subset / whole.clamp_min(1e-20 * float(whole.mean()))
    return {"of_sums": float(subset.sum() / whole.sum()), "median_of_entries": float(ratio.median())}


def main():
    """Check, time, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--timesteps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("results/amnesia_fisher.json"))
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    denoiser = PipelineDenoiser.from_pipeline(load_pipeline(pipeline_folder("mnist-small")))
    denoiser.network.to(device).eval()
    sampler = Sampler("ddim", steps=20)
    samples, four = (sample(denoiser, list(range(n)), sampler).cpu().float() for n in (arguments.images, 4))
    difference = relative_difference(denoiser, samples, arguments.timesteps)
    seconds = time_kinds(denoiser, samples, arguments.timesteps, arguments.rounds)
    result = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "n_images": arguments.images,
        "timesteps_per_sample": arguments.timesteps,
        "relative_difference_float64": difference,
        "seconds_median": seconds,
        "speedup_over_pair": seconds["pair"] / seconds["ours"],
        "speedup_over_chunked": seconds["chunked"] / seconds["ours"],
        "goals": {"relative_difference_float64": GOALS["relative_difference"], "speedup_over_pair": GOALS[device]},
        "subset_ratio": subset_ratio(denoiser, four, len(denoiser.schedule) // 20),
        "environment": environment(),
    }
    print("\n".join(f"{name}: {value}" for name, value in result.items()))
    write_json(arguments.json, result)


if __name__ == "__main__":
    main()
