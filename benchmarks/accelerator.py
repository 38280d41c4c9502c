#!/usr/bin/env python3
"""How fast the paper's networks train and sample on this device, beside its peak, and how many trainings one device should share.

Usage: accelerator.py [--smoke] [--json OUT]

    peak       the rate of a large matrix product, in TFLOP/s
    networks   rates of a training step (forward, backward, Adam) and of a forward pass, bf16 autocast, channels last, compiled; counted
               operations over time, and as a share of the peak
    shared     images per second of 1, 2, 4 and 8 processes that train the MNIST network on the device at the same time, in sum
    vdu        a step of VDU over a bare step of the same network and batch (goal: at most 1.05)

On a CPU with --smoke: two steps of each, of one image, in float32 and not compiled. The numbers then mean nothing.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import torch
from step import bare_step, make, vdu_step
from torch.utils.flop_counter import FlopCounterMode

from vdu.core.records import environment, write_json
from vdu.models.networks import new_pipeline

SHAPES = {"ddpm-pytorch": (1, 28, 28), "improved-diffusion": (3, 32, 32)}


class Bench:
    """One network on the device, with its batch.

    Args:
        name: of the network.
        batch_size: images per step.
        smoke: no compilation, no bf16.
    """

    def __init__(self, name, batch_size, *, smoke):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.smoke, shape = smoke, SHAPES[name]
        self.network = new_pipeline(shape, seed=0, model=name).unet.to(self.device, memory_format=torch.channels_last)
        self.x = torch.randn(batch_size, *shape, device=self.device).to(memory_format=torch.channels_last)
        self.t = torch.randint(1, 1000, (batch_size,), device=self.device)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-6, fused=True)

    def forward(self):
        """The loss."""
        with torch.autocast(self.device, torch.bfloat16, enabled=not self.smoke):
            return torch.nn.functional.mse_loss(self.network(self.x, self.t).sample.float(), self.x)

    def train(self):
        """A step."""
        self.optimizer.zero_grad(set_to_none=True)
        self.forward().backward()
        self.optimizer.step()

    @torch.no_grad()
    def sample(self):
        """A forward pass without gradients."""
        self.forward()

    def rates(self, rounds):
        """TFLOP/s and images per second of both."""
        found = {}
        for kind in ("train", "sample"):
            with FlopCounterMode(display=False) as counter:
                getattr(self, kind)()
            found[kind] = {"flop": counter.get_total_flops()}
        if not self.smoke:
            self.network.compile()
        for kind, each in found.items():
            each["seconds"] = seconds_of(getattr(self, kind), rounds, self.device)
            each["tflop_per_s"] = each["flop"] / each["seconds"] / 1e12
            each["images_per_s"] = len(self.x) / each["seconds"]
        return found


def seconds_of(call, rounds, device):
    """Median time, after three calls to warm up."""
    times = []
    for _ in range(rounds + 3):
        began = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times[3:])


def peak(*, smoke):
    """TFLOP/s of a matrix product."""
    size, device = (256, "cpu") if smoke else (8192, "cuda" if torch.cuda.is_available() else "cpu")
    a = torch.randn(size, size, device=device, dtype=torch.float32 if smoke else torch.bfloat16)
    return 2 * size**3 / seconds_of(lambda: a @ a, 10, device) / 1e12


def shared(count, seconds, batch_size, *, smoke):
    """Images per second of some processes together; each trains for so long once all are warm."""
    line = [sys.executable, __file__, "--worker", str(seconds), "--batch-size", str(batch_size), *(["--smoke"] * smoke)]
    running = [subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    for each in running:
        assert each.stdout.readline() == "warm\n", "a worker failed; its message is above"
    for each in running:
        each.stdin.write("go\n")
        each.stdin.flush()
    return sum(float(each.communicate()[0]) for each in running)


def worker(seconds, batch_size, *, smoke):
    """Train for some seconds when the line "go" comes, and print images per second."""
    bench = Bench("ddpm-pytorch", batch_size, smoke=smoke)
    if not smoke:
        bench.network.compile()
    seconds_of(bench.train, 1, bench.device)
    print("warm", flush=True)
    sys.stdin.readline()
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        seconds_of(bench.train, 1, bench.device)
        done += 4 * batch_size
    print(done / (time.perf_counter() - began))


def vdu_ratio(rounds, batch_size):
    """Median seconds of a bare step and of VDU's, on the packaged model's network."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    denoiser, optimizer, batch, method = make(new_pipeline((1, 28, 28), seed=0), batch_size, device)
    times = {
        "bare": seconds_of(lambda: bare_step(denoiser, optimizer, batch), rounds, device),
        "vdu": seconds_of(lambda: vdu_step(denoiser, optimizer, batch, method), rounds, device),
    }
    return {"seconds": times, "ratio": times["vdu"] / times["bare"]}


def main():
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--json")
    parser.add_argument("--worker", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--batch-size", type=int, default=64, help=argparse.SUPPRESS)
    given = parser.parse_args()
    smoke = given.smoke
    if given.worker is not None:
        worker(given.worker, given.batch_size, smoke=smoke)
        return
    rounds, sizes = (1, (1,)) if smoke else (20, (64, 128, 512))
    result = {"environment": environment(), "peak_tflop_per_s": peak(smoke=smoke), "networks": {}}
    for name in SHAPES if not smoke else ["ddpm-pytorch"]:
        for size in sizes:
            rates = Bench(name, size, smoke=smoke).rates(rounds)
            for each in rates.values():
                each["share_of_peak"] = each["tflop_per_s"] / result["peak_tflop_per_s"]
            result["networks"][f"{name}, batch {size}"] = rates
    counts = (1, 2) if smoke else (1, 2, 4, 8)
    result["shared_images_per_s"] = {n: shared(n, 0.1 if smoke else 10, sizes[0], smoke=smoke) for n in counts}
    result["vdu"] = vdu_ratio(rounds, sizes[0])
    print(json.dumps({name: value for name, value in result.items() if name != "environment"}, indent=2))
    if given.json:
        write_json(given.json, result)


if __name__ == "__main__":
    main()
