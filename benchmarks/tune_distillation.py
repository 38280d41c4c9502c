"""Settings of distillation, led by the forget model, on the digit 8 of the packaged model.

    python benchmarks/tune_distillation.py results/tune_distillation.json

The copies' steps and the learning rate were chosen by looking at these runs, and so were s = 2, w = 0.5 and 300 steps, the defaults
until the gradient led (docs/dev/methods-log.md, 29 to 34 and 43 to 49; the committed results are of commit ``bfa166f``, with its
S_r and its average of the weights). Larger s forgets more and shifts the mix of the other digits more; larger w gives better samples
and shifts it too.

N = 2000 from the same noise for every model, which is not the leaderboard's noise; the digits 0 and 1 are not looked at. A
run is some ten minutes on two cores, a minute and a half on an accelerator shared by twelve. What the file already has is
not run again; several processes may share the work by ``--part K/M``, each with a file of its own.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vdu import RetainDistillation
from vdu.core.records import atomic_file, environment
from vdu.data.forget import split_by_class
from vdu.data.images import ImageSet, to_uint8
from vdu.data.sources import load_images
from vdu.diffusion.sampling import Sampler, sample
from vdu.judges.classifier import load_judge
from vdu.metrics.features import classify, extract_features
from vdu.metrics.frechet import frechet_distance
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.pipelines import load_pipeline
from vdu.replay import auxiliaries as aids
from vdu.replay import auxiliary_models as copies
from vdu.replay.generated import SHARED_SEED, cached_samples, generate_samples, image_seeds
from vdu.replay.selection import mean_scores, resemblance
from vdu.training.accelerator import make_accelerator
from vdu.unlearning.unlearn import unlearn
from vdu.zoo.packaged import judge_folder, pipeline_folder

DIGIT, N_IMAGES, NOISE, SEEDS = 8, 2000, 77, (0, 1, 2)
LONG: dict[str, Any] = {"copy_steps": 200, "classifier_steps": 1500, "steps": 400}
OLD: dict[str, Any] = {"copy_steps": 50, "classifier_steps": 500, "steps": 220}  # of the model that was packaged before
GRID: list[dict[str, Any]] = [
    *({**OLD, "s": 2.0, "w": w} for w in (1.5, 0.0, 0.5)),
    {**OLD, "copy_steps": 200, "s": 2.0, "w": 0.0},
    *({**OLD, "copy_steps": 200, "classifier_steps": 1500, "s": 2.0, "w": w} for w in (0.0, 0.5)),
    *({**LONG, "s": 2.0, "w": w} for w in (0.0, 0.5, 1.0)),
    {**LONG, "s": 1.0, "w": 0.0},
    *({**LONG, "s": 2.0, "w": w, "n_own": 3000} for w in (0.0, 0.5)),
    {**LONG, "copy_steps": 50, "s": 2.0, "w": 0.0},
    {**LONG, "s": 2.0, "w": 0.0, "lead": "retrack", "forget_weight": 0.4},
    {**LONG, "s": 2.0, "w": 0.0, "learning_rate": 1e-4},
    {**LONG, "s": 2.0, "w": 0.0, "lr_schedule": "linear"},
    *({**LONG, "s": s, "w": 0.5} for s in (1.0, 1.2, 1.4)),
    {**LONG, "s": 1.4, "w": 0.3},
    *({**LONG, "s": s, "w": 0.5, "learning_rate": 1e-4} for s in (1.0, 1.4)),
    {**LONG, "s": 1.4, "w": 0.0, "learning_rate": 1e-4},
    {**LONG, "steps": 300, "s": 1.4, "w": 0.5},
    {"copy_steps": 150, "classifier_steps": 1000, "steps": 300, "s": 1.4, "w": 0.5},
]


class Bench:
    """The packaged model, the judges and the reference of the distances."""

    def __init__(self) -> None:
        self.pipeline = load_pipeline(pipeline_folder("mnist"))
        self.judges = [load_judge(judge_folder(name))[0] for name in ("mnist", "mnist-lenet")]
        self.forget, _ = split_by_class(load_images("mnist"), [str(DIGIT)])
        _, rest = split_by_class(load_images("mnist", split="test"), [str(DIGIT)])
        self.real = extract_features(self.judges[0].features, rest.floats())

    def draw(self, pipeline: Any, n: int = N_IMAGES) -> ImageSet:
        """The first images from the noise of this file."""
        denoiser = PipelineDenoiser.from_pipeline(pipeline).copy()
        denoiser.network.to(make_accelerator().device)
        return generate_samples(denoiser, n, Sampler(scheduler="ddpm", steps=20, microbatch_size=250), seed=NOISE)

    def look(self, images: ImageSet, mix: list[int] | None = None) -> dict[str, Any]:
        """Counts by both judges, u-FID, and the distance of the other classes' mix from a given one."""
        calls = [classify(judge, images.floats()).classes for judge in self.judges]
        counts = torch.bincount(calls[0], minlength=10)
        found = {"called_forget": [int((each == DIGIT).sum()) for each in calls], "counts": counts.tolist()}
        found["u_fid"] = float(
            frechet_distance(self.real, extract_features(self.judges[0].features, images.floats())).value
        )
        if mix is not None:
            shares = [torch.tensor([n for k, n in enumerate(each) if k != DIGIT]).double() for each in (mix, counts)]
            found["histogram_distance"] = float(
                (shares[0] / shares[0].sum() - shares[1] / shares[1].sum()).abs().sum() / 2
            )
        return found

    def references(self) -> dict[str, Any]:
        """The original, its samples without the digit (the second judge decides), and the retrained model."""
        drawn = self.draw(self.pipeline, N_IMAGES * 5 // 4)
        first = drawn.select(range(N_IMAGES))
        kept = drawn.select(classify(self.judges[1], drawn.floats()).classes != DIGIT)
        original = self.look(first)
        mix = original["counts"]
        retrained = load_pipeline(pipeline_folder(f"mnist-without-{DIGIT}"))
        return {"original": original, "filtered_original": self.look(kept.select(range(N_IMAGES)), mix),
                "retrained": self.look(self.draw(retrained), mix) | {"stopping_rule": self.left(retrained)}}  # fmt: skip

    def left(self, pipeline: Any) -> dict[str, int]:
        """How many seeds of the stopping rule a model leaves like the forget set."""
        denoiser, sampler = PipelineDenoiser.from_pipeline(self.pipeline), Sampler(scheduler="ddpm", steps=20)
        own, _ = cached_samples(denoiser, 1500, sampler)
        judged = resemblance(self.forget, own, denoiser, seed=3)
        seeds = torch.tensor(image_seeds(SHARED_SEED, len(own)))[judged.forget].tolist()
        drawn = ImageSet(to_uint8(sample(PipelineDenoiser.from_pipeline(pipeline), seeds, sampler)))
        scores = mean_scores(judged.classifier, drawn, torch.arange(len(drawn)), 0)
        return {"seeds": len(seeds), "left": int((scores >= 0).sum())}

    def run(self, settings: dict[str, Any], seed: int, mix: list[int]) -> dict[str, Any]:
        """One unlearning run, all its steps, measured."""
        began = time.perf_counter()
        copied = {"steps": settings["copy_steps"], "batch_size": 64, "learning_rate": 2e-4}
        copies.self_model_settings = lambda steps: copied
        copies.FORGET_MODEL |= copied
        aids.resemblance = partial(resemblance, steps=settings["classifier_steps"])
        method = RetainDistillation(
            repulsion_scale=settings["s"], keep_scale=settings["s"], self_improvement=settings["w"], self_improvement_range=(0.0, 1.0),
            gradient_length=0.0, pool_size=0, lead=settings.get("lead", "forget-model"),
            forget_weight=settings.get("forget_weight", 1.0),
        )  # fmt: skip
        made = unlearn(
            self.pipeline, method, forget=self.forget, steps=settings["steps"], n_own_samples=settings.get("n_own"),
            learning_rate=settings.get("learning_rate", 2e-4), lr_schedule=settings.get("lr_schedule", "constant"),
            generator=torch.Generator().manual_seed(1000 + seed), full_length=True, progress=None,
        )  # fmt: skip
        seconds = round(time.perf_counter() - began, 1)
        found = self.look(self.draw(made.pipeline), mix)
        return found | {"network_evaluations": made.network_evaluations, "seconds": seconds}


def main() -> None:
    """Run what the file does not have yet."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("output", type=Path)
    arguments.add_argument("--part", default="0/1", help="K/M: every M-th run, from the K-th on")
    given = arguments.parse_args()
    k, m = map(int, given.part.split("/"))
    bench = Bench()
    done = json.loads(given.output.read_text(encoding="utf-8")) if given.output.exists() else {}
    done = done or {"references": bench.references(), "runs": [], "environment": environment()}
    have = {json.dumps([run["settings"], run["seed"]], sort_keys=True) for run in done["runs"]}
    for settings, seed in [(settings, seed) for seed in SEEDS for settings in GRID][k::m]:
        if json.dumps([settings, seed], sort_keys=True) in have:
            continue
        found = bench.run(settings, seed, done["references"]["original"]["counts"])
        done["runs"].append({"settings": settings, "seed": seed, **found})
        print(
            settings, seed, {name: found[name] for name in ("called_forget", "u_fid", "histogram_distance")}, flush=True
        )
        with atomic_file(given.output) as temporary:
            temporary.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
