#!/usr/bin/env python3
"""Which lead of distillation points to where a retrained model goes? Where do two self-improvements agree?

Usage: leads.py OUT.json [--n-images 200]                     (about 8 minutes on 2 cores)

The packaged ``mnist`` and the packaged model that was retrained without the digit 8, ε_r. For noised forget images, noised own
samples like them, and noised own samples that are kept, at several noise levels: the cosine between (lead − ε₀) and (ε_r − ε₀)
over all elements, and the ratio of their lengths. s = 1, w = 0, the gradient as the classifier gives it. A retrained model
differs from ε₀ by more than the forget set, its own initial weights; so no lead reaches a cosine of 1. The
self-improvement's direction ε₀ − ε_s is looked at too,
and its cosine with that of another seed's copy ("copies"); both are trained at A_w's noise levels alone.
The committed results are of commit ``0b26d03``, with the settings and the copies of then (docs/dev/methods-log.md, 44 and 50).
"""

import argparse
import json
from pathlib import Path

import torch

from vdu import RetainDistillation
from vdu.core.records import atomic_file, environment
from vdu.core.types import NoisedBatch
from vdu.data.forget import split_by_class
from vdu.data.images import ImageSet
from vdu.data.sources import load_images
from vdu.diffusion.sampling import Sampler
from vdu.diffusion.schedule import noised_batch
from vdu.methods.distillation import LEADS
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.pipelines import load_pipeline
from vdu.replay.auxiliaries import make_auxiliaries
from vdu.replay.auxiliary_models import fine_tuned_copy, self_model_settings
from vdu.replay.generated import cached_samples
from vdu.zoo.packaged import pipeline_folder

ALPHA_BARS = (0.98, 0.9, 0.66, 0.4, 0.2, 0.1, 0.05, 0.02, 0.007)


def noised(images: ImageSet, level: float, denoiser: PipelineDenoiser, source: torch.Generator) -> NoisedBatch:
    """All images at the model's noise level nearest to ``level``."""
    alpha_bars = denoiser.schedule.alpha_bars
    row, x0 = int((alpha_bars - level).abs().argmin()), images.floats()
    index = torch.full((len(x0),), row)
    noise = torch.randn(x0.shape, generator=source)
    return noised_batch(x0, index, noise, denoiser.schedule, denoiser.schedule)


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    """Over all elements."""
    return round(float((one * other).sum() / (one.norm() * other.norm()).clamp_min(1e-30)), 3)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--n-images", type=int, default=200)
    given = parser.parse_args()
    pipeline = load_pipeline(pipeline_folder("mnist"))
    original = PipelineDenoiser.from_pipeline(pipeline)
    retrained = PipelineDenoiser.from_pipeline(load_pipeline(pipeline_folder("mnist-without-8")))
    forget, _ = split_by_class(load_images("mnist"), ["8"])
    methods = {
        lead: RetainDistillation(lead=lead, repulsion_scale=1, gradient_length=0, self_improvement=0) for lead in LEADS
    }
    sampler = Sampler(scheduler="ddpm", steps=20)
    whole = RetainDistillation(lead="forget-model", classifier_width=32, self_model_steps=100)  # asks for every tool
    aids = make_auxiliaries(
        PipelineDenoiser.from_pipeline(pipeline), whole, forget, sampler=sampler, n_own_samples=1500, seed=0
    )
    own, _ = cached_samples(original, 1500, sampler)
    other = fine_tuned_copy(
        PipelineDenoiser.from_pipeline(pipeline),
        own,
        self_model_settings(100),
        seed=1,
        alpha_bar_range=whole.self_improvement_range,
    )
    assert aids.tools.self_model is not None
    for lead, method in methods.items():
        methods[lead] = method.prepare(original, aids.tools)
    sets = {
        "forget set": forget,
        "own samples like it": aids.sets["own_forget"],
        "kept own samples": aids.sets["retain"],
    }
    source, rows = torch.Generator().manual_seed(0), []
    for name, images in sets.items():
        assert images is not None
        chosen = images.select(range(min(given.n_images, len(images))))
        for level in ALPHA_BARS:
            batch = noised(chosen, level, original, source)
            with torch.no_grad():
                before = original.noise(batch)
                truth = retrained.noise(batch) - before
                steps = {lead: method.lead_target(batch) - before for lead, method in methods.items()}
                steps["self-improvement"] = before - aids.tools.self_model.noise(batch)
                again = before - other.noise(batch)
            row = {"images": name, "n": len(chosen), "alpha_bar": level}
            for lead, step in steps.items():
                row[lead] = {"cosine": cosine(step, truth), "length": round(float(step.norm() / truth.norm()), 3)}
            row["copies"] = cosine(steps["self-improvement"], again)
            rows.append(row)
            print(json.dumps(row), flush=True)
    with atomic_file(given.output) as temporary:
        found = {"digit": "8", "rows": rows, "environment": environment()}
        temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
