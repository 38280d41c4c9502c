#!/usr/bin/env python3
"""How the settings of the leaderboard's row vdu-tuned were chosen, on ``mnist-small`` and the digit 8 alone.

Usage: tune_vdu.py OUT.json [--n-images 400]      (about 15 minutes on 2 cores; finished curves are not made again)

Rule, fixed before the run: every setting is unlearned once (seed 0, 64 forget images per step) and measured every 12 steps
up to 60, on N images (20-step DDIM, seed 1); a curve ends early once its u-FID[judge] passes twice that of the filtered
original, or when it diverges. Of all points with u-FID[judge] at most 1.5 times that of the filtered original, the one with
the highest PUL is taken, at equal PUL the one with the lower u-FID. Other digits have no part in the choice.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from vdu.core.errors import DivergenceError
from vdu.core.records import read_json, write_json
from vdu.data.forget import split_by_class
from vdu.data.images import to_float, to_uint8
from vdu.data.sources import load_images
from vdu.diffusion.sampling import Sampler, sample
from vdu.judges.classifier import load_judge
from vdu.methods.vdu import VDU
from vdu.metrics.features import classify, extract_features
from vdu.metrics.frechet import frechet_distance
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.pipelines import load_pipeline
from vdu.posterior.isotropic import fit_isotropic
from vdu.replay.generated import image_seeds
from vdu.unlearning.fit_posterior import fit_posterior
from vdu.unlearning.unlearn import unlearn
from vdu.zoo.packaged import judge_folder, pipeline_folder

DIGIT = 8
EVERY, STEPS = 12, 60
LIMIT, END = 1.5, 2.0
SAMPLER = Sampler("ddim", steps=20)
MIDDLE = {"weights": "uniform", "alpha_bar_range": (0.1, 0.3)}
WIDER = {"weights": "uniform", "alpha_bar_range": (0.005, 0.8)}
WHOLE = {"weights": "paper", "alpha_bar_range": (0.0, 1.0)}


def grid():
    """All settings: middle noise levels, wider ones, and Eq. 3 over all of them with the paper's weights and γ."""
    for gamma in (0.9995, 0.999, 0.9998, 0.0):
        yield {"posterior": "fisher", "gamma": gamma, "learning_rate": 5e-6, **MIDDLE}
    yield {"posterior": "isotropic", "gamma": 0.9995, "learning_rate": 5e-6, **MIDDLE}
    yield {"posterior": "fisher", "gamma": 0.9995, "learning_rate": 5e-6, **WIDER}
    for rate in (1e-6, 5e-6):
        yield {"posterior": "fisher", "gamma": 0.1, "learning_rate": rate, **WHOLE}


class Bench:
    """The model, the judge and the reference values, made once."""

    def __init__(self, n_images):
        self.pipeline = load_pipeline(pipeline_folder("mnist-small"))
        self.judge, _ = load_judge(judge_folder("mnist"))
        self.seeds = image_seeds(1, n_images)
        digits = load_images("mnist-mini")
        self.forget = split_by_class(digits, [str(DIGIT)])[0]
        retain = split_by_class(load_images("mnist-mini", split="test"), [str(DIGIT)])[1]
        self.reference = extract_features(self.judge.features, retain.floats())
        self.posteriors = {
            "fisher": fit_posterior(
                self.pipeline,
                "fisher",
                n_train=60_000,
                n_samples=200,
                sampler=SAMPLER,
                generator=torch.Generator().manual_seed(0),
            ),
        }
        parameters = dict(self.pipeline.unet.named_parameters())
        mean = sum(v.double().sum() for v in self.posteriors["fisher"].variance.values()) / sum(
            v.numel() for v in parameters.values()
        )
        self.posteriors["isotropic"] = fit_isotropic(parameters, float(mean))
        before, features = self.look(self.pipeline.unet)
        self.n_original = int((before == DIGIT).sum())
        self.original = frechet_distance(self.reference, features).value
        self.filtered = frechet_distance(self.reference, features[before != DIGIT]).value

    def look(self, network):
        """The judge's calls on a network's samples, and their features."""
        denoiser = PipelineDenoiser.from_pipeline(self.pipeline).with_network(network)
        images = to_float(to_uint8(sample(denoiser, self.seeds, SAMPLER)))
        return classify(self.judge, images).classes, extract_features(self.judge.features, images)

    def curve(self, setting):
        """PUL and u-FID along one unlearning."""
        posterior = None if setting["gamma"] == 0 else self.posteriors[setting["posterior"]]
        method = VDU(
            posterior, setting["gamma"], weights=setting["weights"], alpha_bar_range=tuple(setting["alpha_bar_range"])
        )
        points = []
        with tempfile.TemporaryDirectory() as folder:
            for steps in range(EVERY, STEPS + 1, EVERY):  # a constant rate: each run continues the one before
                try:
                    made = unlearn(
                        self.pipeline, method, forget=self.forget, steps=steps, batch_size=64, learning_rate=setting["learning_rate"],
                        generator=torch.Generator().manual_seed(0), folder=Path(folder), resume=steps > EVERY, progress=None,
                    )  # fmt: skip
                except DivergenceError as error:
                    points.append({"steps": steps, "failed": str(error)})
                    break
                points.append({"steps": steps, **self.measure(made)})
                if points[-1]["u_fid_ratio"] > END:
                    break
        return points

    def measure(self, made):
        """One point."""
        calls, features = self.look(made.pipeline.unet)
        count = int((calls == DIGIT).sum())
        distance = frechet_distance(self.reference, features).value
        return {
            "pul": 100 * (self.n_original - count) / self.n_original,
            "forget_count": count,
            "u_fid": distance,
            "u_fid_ratio": distance / self.filtered,
            "mse": made.training.last["observed"]["mse"],
            "terms": made.training.last["terms"],
            "histogram": torch.bincount(calls, minlength=10).tolist(),
        }


def choose(curves):
    """The rule of the module's first lines."""
    points = [(setting_and_points, point) for setting_and_points in curves for point in setting_and_points["points"]]
    good = [(c["setting"], p) for c, p in points if p.get("u_fid_ratio", LIMIT + 1) <= LIMIT]
    return max(good, key=lambda pair: (pair[1]["pul"], -pair[1]["u_fid"]), default=None)


def main():
    """Run what is missing, write everything, print the choice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--n-images", type=int, default=400)
    arguments = parser.parse_args()
    found = read_json(arguments.out) if arguments.out.exists() else {"n_images": arguments.n_images, "curves": []}
    if found["n_images"] != arguments.n_images:
        parser.error(
            f"{arguments.out}: has curves of {found['n_images']} images; give that --n-images, or another file"
        )
    bench, done = Bench(arguments.n_images), found["curves"]
    for setting in grid():
        setting = {name: list(value) if isinstance(value, tuple) else value for name, value in setting.items()}
        if all(curve["setting"] != setting for curve in done):
            done.append({"setting": setting, "points": bench.curve(setting)})
            for point in done[-1]["points"]:
                print(
                    setting, {name: point.get(name) for name in ("steps", "pul", "u_fid_ratio", "failed")}, flush=True
                )
        chosen = choose(done)
        write_json(
            arguments.out,
            {
                "digit": DIGIT,
                "n_images": arguments.n_images,
                "n_original": bench.n_original,
                "u_fid_original": bench.original,
                "u_fid_filtered_original": bench.filtered,
                "chosen": {"setting": chosen[0], **chosen[1]} if chosen else None,
                "curves": done,
            },
        )
    print("chosen:", chosen)


if __name__ == "__main__":
    main()
