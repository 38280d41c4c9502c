#!/usr/bin/env python3
"""Who finds the forget class among a model's own samples, from the forget set alone; and what sampling guidance makes of it.

Usage: resemblance.py [--digit 8] [--n-own 1500] [--n-images 500] [--json OUT]      (about 8 minutes on 2 cores)

The packaged ``mnist``, 20 ancestral steps, the digit's training images. The packaged judge's labels are the truth, known
to nobody but this script. Compared: the judge trained on the spot (``vdu.judges.fallback``) and the zones of
``vdu.replay.selection``. Then sampling with the corrected score (:class:`Guided`), nothing trained.
"""

import argparse
import json
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vdu.core.records import environment
from vdu.core.rng import derive_seed
from vdu.core.types import Condition, Denoiser
from vdu.data.forget import split_by_class
from vdu.data.sources import load_images
from vdu.diffusion.sampling import Sampler
from vdu.judges.classifier import load_judge
from vdu.judges.fallback import train_forget_judge
from vdu.methods.distillation import _capped, repulsion  # pyright: ignore[reportPrivateUsage]
from vdu.metrics.features import classify, extract_features
from vdu.metrics.frechet import frechet_distance
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.pipelines import load_pipeline
from vdu.replay.generated import cached_samples, generate_samples
from vdu.replay.selection import resemblance
from vdu.zoo.packaged import judge_folder, pipeline_folder

SAMPLER = Sampler("ddpm", steps=20)


@dataclass(frozen=True)
class Guided:
    """A denoiser that steers away from the forget set while it samples; nothing is trained.

    Args:
        denoiser: an ε-predicting model without learned variance.
        classifier: (x_t, ᾱ) → logit of P(forget | x_t).
        scale: s.
    """

    denoiser: Denoiser
    classifier: Any
    scale: float = 2.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.denoiser, name)

    def raw(self, x_t: Tensor, timestep: Tensor, condition: Condition | None = None) -> Tensor:
        """ε₀ and the capped correction: for models that predict ε, what a scheduler expects."""
        original = self.denoiser.raw(x_t, timestep, condition)
        alpha_bar = self.denoiser.schedule.alpha_bar_at(timestep).to(x_t)
        return original + _capped(self.scale * repulsion(self.classifier, x_t, alpha_bar), original)


def found(mask, truth):
    """How many are called, and how many of those are right."""
    return {"called": int(mask.sum()), "right": int((mask & truth).sum()), "there": int(truth.sum()), "of": len(truth)}


def main():
    """Compare, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--digit", default="8")
    parser.add_argument("--n-own", type=int, default=1500)
    parser.add_argument("--n-images", type=int, default=500)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    digit = int(arguments.digit)
    denoiser = PipelineDenoiser.from_pipeline(load_pipeline(pipeline_folder("mnist")))
    judge, _ = load_judge(judge_folder("mnist"))
    forget = split_by_class(load_images("mnist"), [arguments.digit])[0]
    own, _ = cached_samples(denoiser, arguments.n_own, SAMPLER)
    truth = classify(judge, own.floats()).classes == digit
    fresh = generate_samples(denoiser, arguments.n_images, SAMPLER, seed=derive_seed(1, "evaluate"))
    fresh_truth = classify(judge, fresh.floats()).classes == digit

    on_the_spot, record = train_forget_judge(forget, own, denoiser.schedule, seed=0, progress=False)
    result = {
        "digit": arguments.digit,
        "judge trained on the spot, fresh samples": found(
            classify(on_the_spot, fresh.floats()).classes == 1, fresh_truth
        ),
        "judge trained on the spot, misses of real images": record["held_out_error"],
    }
    zones = resemblance(forget, own, denoiser, seed=0)
    result["resemblance, like the forget set"] = found(zones.forget, truth)
    result["resemblance, kept"] = found(zones.kept, ~truth)
    result["resemblance, estimated share"] = zones.share

    real = split_by_class(load_images("mnist", split="test"), [arguments.digit])[1]
    reference = extract_features(judge.features, real.floats())
    seed, before = derive_seed(0, "evaluate"), None
    for scale in (0.0, 1.0, 2.0, 4.0):
        model = Guided(denoiser, zones.classifier, scale) if scale else denoiser
        images = generate_samples(model, arguments.n_images, SAMPLER, seed=seed).floats()
        left = int((classify(judge, images).classes == digit).sum())
        before = left if before is None else before
        distance = frechet_distance(reference, extract_features(judge.features, images)).value
        result[f"guided, s = {scale:g}"] = {"left": left, "pul": 100 * (1 - left / before), "u_fid": distance}
    result["environment"] = environment()
    print(json.dumps(result, indent=2))
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=2)
            file.write("\n")


if __name__ == "__main__":
    main()
