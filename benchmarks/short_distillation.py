"""Distillation with half the network evaluations: what each saving costs, on the digit 8 of the packaged model.

    python benchmarks/short_distillation.py results/short_distillation.json

Every row has one seed and N = 1000 images from the same noise for every model, which is not the leaderboard's noise. The forget set
is the packaged subset's. Settings that are not given are those of the long form. What the file already has is not run again.
A run is three to seven minutes on two cores.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vdu import RetainDistillation, Sampler
from vdu.core.records import environment, write_json
from vdu.data.forget import split_by_class
from vdu.data.images import ImageSet
from vdu.data.sources import load_images
from vdu.judges.classifier import load_judge
from vdu.metrics.features import classify, extract_features
from vdu.metrics.frechet import frechet_distance
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.pipelines import load_pipeline
from vdu.replay import auxiliaries
from vdu.replay.generated import generate_samples
from vdu.replay.selection import resemblance
from vdu.unlearning.unlearn import unlearn
from vdu.zoo.packaged import judge_folder, pipeline_folder

DIGIT, N_IMAGES, NOISE = 8, 1000, 77
LONG: dict[str, Any] = {
    "steps": 600, "learning_rate": 1.5e-4, "pool_size": 0, "classifier_width": 32, "classifier_steps": 1500, "score_steps": 300,
    "self_model_steps": 100, "n_own_samples": 1500,
}  # fmt: skip
SHORT: dict[str, Any] = {"steps": 270, "learning_rate": 3e-4, "pool_size": 90, "self_model_steps": 50}
FEWER: dict[str, Any] = {"classifier_steps": 500, "score_steps": 150}
GRID: list[dict[str, Any]] = [
    {},
    {**FEWER, "steps": 300, "learning_rate": 3e-4, "pool_size": 100},
    {**FEWER, "steps": 300, "learning_rate": 3e-4, "pool_size": 50},
    {"steps": 300, "learning_rate": 3e-4, "pool_size": 100},
    {**FEWER, "steps": 300, "learning_rate": 3e-4, "pool_size": 100, "self_model_steps": 50},
    {**FEWER, "steps": 300, "learning_rate": 3e-4, "self_model_steps": 50},
    {**FEWER, "steps": 300, "learning_rate": 2e-4, "self_model_steps": 50},
    {**FEWER, **SHORT},
    {**FEWER, **SHORT, "self_improvement": 3.0},
    {**SHORT, "classifier_width": 16},
    {**SHORT, "classifier_width": 16, "classifier_steps": 1000, "n_own_samples": 1000},
]


class Bench:
    """The packaged model, its samples, the judge and the reference."""

    def __init__(self) -> None:
        self.pipeline = load_pipeline(pipeline_folder("mnist"))
        self.judge = load_judge(judge_folder("mnist"))[0]
        self.forget, _ = split_by_class(load_images("mnist-mini"), [str(DIGIT)])
        _, rest = split_by_class(load_images("mnist-mini", split="test"), [str(DIGIT)])
        self.real = extract_features(self.judge.features, rest)
        self.before = classify(self.judge, self.draw(self.pipeline)).classes

    def draw(self, pipeline: Any) -> ImageSet:
        """Images from the noise of this file."""
        return generate_samples(
            PipelineDenoiser.from_pipeline(pipeline),
            N_IMAGES,
            Sampler(scheduler="ddpm", steps=20),
            seed=NOISE,
            progress=None,
        )

    def run(self, given: dict[str, Any]) -> dict[str, Any]:
        """One unlearning, measured."""
        how, began = LONG | given, time.perf_counter()
        steps = {"steps": how["classifier_steps"], "score_steps": how["score_steps"]}
        auxiliaries.resemblance = partial(resemblance, **steps)
        names = ("pool_size", "classifier_width", "self_model_steps", "self_improvement")
        method = RetainDistillation(**{name: how[name] for name in names if name in how})
        made = unlearn(
            self.pipeline, method, forget=self.forget, steps=how["steps"], learning_rate=how["learning_rate"],
            n_own_samples=how["n_own_samples"], generator=torch.Generator().manual_seed(1000), progress=None,
        )  # fmt: skip
        images = self.draw(made.pipeline)
        after, kept = classify(self.judge, images).classes, self.before != DIGIT
        mixes = [torch.bincount(each[each != DIGIT], minlength=10).double() for each in (self.before, after)]
        shares = [mix / mix.sum() for mix in mixes]
        return {
            "left": int((after == DIGIT).sum()),
            "of": int((~kept).sum()),
            "u_fid": float(frechet_distance(self.real, extract_features(self.judge.features, images)).value),
            "changed": float((after[kept] != self.before[kept]).double().mean()),
            "mix": float((shares[0] - shares[1]).abs().sum() / 2),
            "steps": made.training.steps,
            "network_evaluations": made.network_evaluations,
            "seconds": round(time.perf_counter() - began),
        }


def main() -> None:
    """Run what the file does not have yet."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("output", type=Path)
    path = arguments.parse_args().output
    done = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"runs": [], "environment": environment()}
    bench = Bench()
    for settings in GRID:
        if any(run["settings"] == settings for run in done["runs"]):
            continue
        done["runs"].append({"settings": settings, **bench.run(settings)})
        print(done["runs"][-1], flush=True)
        write_json(path, done)


if __name__ == "__main__":
    main()
