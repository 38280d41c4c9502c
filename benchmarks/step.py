#!/usr/bin/env python3
"""What a VDU step costs beside a bare forward + backward + Adam step of the same network and batch.

Usage: step.py [--rounds 15] [--json OUT]

Time: both kinds of step alternate in one process, so that a noisy machine disturbs both; the ratio of medians counts.
Memory: each kind runs in its own process over a wide network with a batch of one, so that weights and not activations
fill the memory; peak resident memory above the start, in copies of the parameters. The bare step needs
model + gradients + Adam (4 copies) and activations; VDU may add 2 (mean and variance of the posterior).
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch
from diffusers import UNet2DModel

from vdu.core.types import Tools
from vdu.diffusion.schedule import noised_batch
from vdu.methods.vdu import VDU
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.networks import new_pipeline
from vdu.posterior.isotropic import fit_isotropic


def bare_step(denoiser, optimizer, batch):
    """Forward, backward and Adam in plain PyTorch."""
    optimizer.zero_grad(set_to_none=True)
    loss = torch.nn.functional.mse_loss(denoiser.network(batch.x_t, batch.timestep).sample, batch.noise)
    loss.backward()
    optimizer.step()


def vdu_step(denoiser, optimizer, batch, method):
    """The same with VDU's loss and the closed-form gradient of its regulariser."""
    optimizer.zero_grad(set_to_none=True)
    sum(method.losses(denoiser, {"forget": batch}).terms.values()).backward()
    method.add_gradients(dict(denoiser.network.named_parameters()))
    optimizer.step()


def make(pipeline, batch_size, device="cpu"):
    """A denoiser, its optimiser, a batch and the prepared method."""
    pipeline.unet.to(device)
    denoiser = PipelineDenoiser.from_pipeline(pipeline)
    posterior = fit_isotropic(dict(denoiser.network.named_parameters()), 1e-4)
    method = VDU(posterior, gamma=0.5).prepare(denoiser, Tools(n_forget=1000))
    shape = (batch_size, *denoiser.image_shape)
    index = torch.randint(1, 1000, (batch_size,))
    batch = noised_batch(
        torch.randn(shape, device=device),
        index,
        torch.randn(shape, device=device),
        denoiser.schedule,
        denoiser.schedule,
    )
    return denoiser, torch.optim.Adam(denoiser.network.parameters(), lr=1e-6, fused=True), batch, method


def time_steps(rounds):
    """Median seconds of both steps on the packaged model's network, batch 64."""
    denoiser, optimizer, batch, method = make(new_pipeline((1, 28, 28), seed=0), 64)
    seconds = {"bare": [], "vdu": []}
    for _ in range(rounds + 2):
        for name in seconds:
            start = time.perf_counter()
            bare_step(denoiser, optimizer, batch) if name == "bare" else vdu_step(denoiser, optimizer, batch, method)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[2:]) for name, values in seconds.items()}


def peak_copies(kind):
    """Peak resident memory of some steps above the start, in copies of the parameters (for a process of its own)."""
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    pipeline = new_pipeline((1, 8, 8), seed=0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    pipeline.unet = UNet2DModel(
        8, in_channels=1, out_channels=1, block_out_channels=(512, 1024), layers_per_block=1, **blocks
    )
    size = sum(value.numel() * 4 for value in pipeline.unet.parameters())
    denoiser, optimizer, batch, method = make(pipeline, 1)
    if kind == "bare":
        method = None
    for _ in range(3):
        bare_step(denoiser, optimizer, batch) if kind == "bare" else vdu_step(denoiser, optimizer, batch, method)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / size


def main():
    """Run both comparisons and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json")
    parser.add_argument("--memory-of", choices=["bare", "vdu"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(peak_copies(arguments.memory_of))
        return
    seconds = time_steps(arguments.rounds)
    copies = {
        kind: float(
            subprocess.run(
                [sys.executable, __file__, "--memory-of", kind], capture_output=True, text=True, check=True
            ).stdout
        )
        for kind in ("bare", "vdu")
    }
    result = {
        "seconds": seconds,
        "time_ratio": seconds["vdu"] / seconds["bare"],
        "peak_parameter_copies": copies,
        "extra_copies": copies["vdu"] - copies["bare"],
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(result, indent=2))
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=2)


if __name__ == "__main__":
    main()
