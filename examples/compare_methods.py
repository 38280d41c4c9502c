"""Three methods on one job, side by side: the packaged MNIST model forgets a digit, and a table says what each did.

Gradient ascent is the paper's VDU with its regulariser off; retrack and distillation work from the model's own samples;
``--methods`` takes others that ``vdu list`` names. PUL is the share of the digit that is gone, u-FID the distance to MNIST's
test images without it (lower is better): a method must do well on both. About twenty minutes of a CPU core;
``--methods ascent bounded esd --steps 3 --images 30`` is a quick look.
"""

import argparse
import time

import torch

import vdu
from vdu.judges.classifier import load_judge
from vdu.methods import registry
from vdu.metrics.features import classify, extract_features
from vdu.metrics.frechet import frechet_distance
from vdu.metrics.pul import percentage_unlearned
from vdu.zoo.packaged import judge_folder, pipeline_folder

options = argparse.ArgumentParser(description=__doc__)
options.add_argument("--digit", type=int, default=8)
options.add_argument("--steps", type=int, default=None, help="steps of each method; by default what suits it")
options.add_argument("--images", type=int, default=500, help="images drawn from each model; u-FID depends on it")
options.add_argument("--own-samples", type=int, default=1500, help="drawn once, and kept for the next run")
options.add_argument("--methods", nargs="+", default=["ascent", "retrack", "distillation"])
given = options.parse_args()

original = vdu.load_pipeline(pipeline_folder("mnist"))
judge, _ = load_judge(judge_folder("mnist"))
digits, test = vdu.load_images("mnist-mini"), vdu.load_images("mnist-mini", split="test")
forget = digits.select(digits.labels == given.digit)
reference = extract_features(judge.features, test.select(test.labels != given.digit).floats())


def look(pipeline):
    """The judge's calls on images from fixed noise, and their u-FID[judge]."""
    denoiser = vdu.PipelineDenoiser.from_pipeline(pipeline)
    images = vdu.sample(denoiser, range(given.images), vdu.Sampler("ddpm", steps=20))
    distance = frechet_distance(reference, extract_features(judge.features, images)).value
    return classify(judge, images).classes == given.digit, distance


called, distance = look(original)
print(f"{'method':<14}{'PUL %':>8}{'95 % interval':>18}{'u-FID[judge]':>14}{'evaluations':>13}{'seconds':>9}")
print(f"{'(original)':<14}{'–':>8}{'–':>18}{distance:>14.1f}{'–':>13}{'–':>9}")
for name in given.methods:
    method = vdu.gradient_ascent() if name == "ascent" else registry.get(name)()
    start, how = time.perf_counter(), {"steps": given.steps, "n_own_samples": given.own_samples, "progress": None}
    result = vdu.unlearn(original, method, forget=forget, generator=torch.Generator().manual_seed(0), **how)
    seconds, (still, distance) = time.perf_counter() - start, look(result.pipeline)
    pul = percentage_unlearned(called, still, generator=torch.Generator().manual_seed(0))
    print(f"{name:<14}{pul.value:>8.1f}{f'{pul.low:.1f} to {pul.high:.1f}':>18}{distance:>14.1f}", end="")
    print(f"{result.network_evaluations:>13,}{seconds:>9.0f}")
