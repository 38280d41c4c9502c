#!/usr/bin/env python3
"""What a step of each composite method costs beside the forward and backward passes that its formula needs.

Usage: composite_steps.py [--rounds 30] [--json OUT]

"needed" are plain PyTorch calls on the same network and batches: forward, backward and Adam over the student's images (a
backward per term where the method takes its terms' gradients apart), and one forward without gradients for every answer of a frozen
model. Both kinds of step alternate in one process; the ratio of medians counts. The goal is 1.1. The classifier's gradient,
a twentieth of a forward pass, is not among the needed ones.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace

import torch

from vdu.core.types import Tools
from vdu.diffusion.schedule import noised_batch
from vdu.methods.anchor import FunctionAnchor
from vdu.methods.conflict_free import ConflictFree
from vdu.methods.distillation import RetainDistillation
from vdu.methods.esd import ESD
from vdu.methods.retrack import Retrack
from vdu.methods.siss import SISS
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.networks import new_pipeline
from vdu.replay.noise_classifier import NoiseClassifier

# method, images of the student's passes (one per backward), images of each frozen answer; roles and their sizes
SIZE = {"forget": 12, "own_forget": 12, "retain": 32}
EQUAL = {"forget": 32, "retain": 32}
WHOLE = {"self_improvement_range": (0.0, 1.0), "gradient_length": 0.0}  # every image has every answer
CASES = {
    "distillation": (RetainDistillation(lead="forget-model", **WHOLE), [56], [32, 32, 24, 24], SIZE),
    "retrack": (Retrack(), [44], [32], {"forget": 12, "retain": 32}),
    "anchor": (FunctionAnchor(), [64], [32], EQUAL),
    "conflict-free": (ConflictFree(), [32, 32], [], EQUAL),
    "siss": (SISS(), [32], [], EQUAL),  # one forward, whose two terms have a backward each
    "esd": (ESD(), [64], [64, 64], {"forget": 64}),
}


def batch_of(denoiser, n):
    """Random images, noise and levels."""
    shape = (n, *denoiser.image_shape)
    index = torch.randint(1, 1000, (n,))
    return noised_batch(torch.rand(shape) * 2 - 1, index, torch.randn(shape), denoiser.schedule, denoiser.schedule)


def needed_step(denoiser, frozen, optimizer, learnt, answered, backwards):
    """The passes alone."""
    optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        for batch in answered:
            frozen.noise(batch)
    for batch in learnt:
        loss = torch.nn.functional.mse_loss(denoiser.noise(batch), batch.noise)
        for left in reversed(range(backwards)):
            loss.backward(retain_graph=left > 0)
    optimizer.step()


def method_step(denoiser, method, optimizer, batch):
    """The method's, as the training loop makes it."""
    optimizer.zero_grad(set_to_none=True)
    terms = method.losses(denoiser, batch).terms
    parameters = dict(denoiser.network.named_parameters())
    if method.per_term:
        last = len(terms) - 1
        gradients = {
            name: [
                torch.zeros_like(value) if each is None else each
                for each, value in zip(
                    torch.autograd.grad(term, list(parameters.values()), retain_graph=place < last, allow_unused=True),
                    parameters.values(),
                    strict=True,
                )
            ]
            for place, (name, term) in enumerate(terms.items())
        }
        for value, gradient in zip(parameters.values(), method.combine(gradients), strict=True):
            value.grad = gradient
    else:
        sum(terms.values()).backward()
    method.add_gradients(parameters)
    optimizer.step()


def with_draws(batch, wanted):
    """A batch with the uniform numbers that the method draws besides."""
    shapes = {name: batch.x0.shape if kind == "element" else batch.x0.shape[:1] for name, kind in wanted.items()}
    return replace(batch, draws={name: torch.rand(shape) for name, shape in shapes.items()})


def measure(name, rounds):
    """Median seconds of both kinds of step."""
    torch.manual_seed(0)
    method, learnt, answered, sizes = CASES[name]
    denoiser, frozen = (PipelineDenoiser.from_pipeline(new_pipeline((1, 28, 28), seed=seed)) for seed in (0, 1))
    frozen.network.requires_grad_(False).eval()
    classifier = NoiseClassifier((1, 28, 28)).requires_grad_(False).eval()
    retained = torch.rand(1200, 1, 28, 28) * 2 - 1
    tools = Tools(
        1000, teacher=frozen, forget_model=frozen, self_model=frozen, classifier=classifier, retained=retained
    )
    ready = method.prepare(denoiser, tools)
    optimizer = torch.optim.AdamW(denoiser.network.parameters(), lr=1e-6, weight_decay=0.0, fused=True)
    roles = {role: with_draws(batch_of(denoiser, n), ready.draws.get(role, {})) for role, n in sizes.items()}
    learnt, answered = ([batch_of(denoiser, n) for n in each] for each in (learnt, answered))
    seconds = {"needed": [], "method": []}
    for _ in range(rounds + 2):
        for kind, values in seconds.items():
            start = time.perf_counter()
            if kind == "needed":
                needed_step(denoiser, frozen, optimizer, learnt, answered, 2 if name == "siss" else 1)
            else:
                method_step(denoiser, ready, optimizer, roles)
            values.append(time.perf_counter() - start)
    medians = {kind: statistics.median(values[2:]) for kind, values in seconds.items()}
    return {"seconds": medians, "ratio": medians["method"] / medians["needed"]}


def main():
    """Run all and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    result = {name: measure(name, arguments.rounds) for name in CASES} | {"threads": torch.get_num_threads()}
    print(json.dumps(result, indent=2))
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=2)
            file.write("\n")


if __name__ == "__main__":
    main()
