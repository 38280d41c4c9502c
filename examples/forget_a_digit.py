"""The main job in Python: the packaged MNIST model forgets one digit, from images of that digit alone.

Draws images from the same noise before and after, counts the digit with the packaged judge, and saves the new pipeline in
diffusers' own layout. ``--method vdu`` is the paper's, with a posterior from the model's own samples; it forgets less. About
ten minutes of a CPU core; ``--method vdu --steps 3 --images 20 --own-samples 10`` is a quick look.
"""

import argparse
from pathlib import Path

import torch

import vdu
from vdu.judges.classifier import load_judge
from vdu.metrics.features import classify
from vdu.metrics.pul import percentage_unlearned
from vdu.zoo.packaged import judge_folder, pipeline_folder

options = argparse.ArgumentParser(description=__doc__)
options.add_argument("--digit", type=int, choices=range(10), default=8)
options.add_argument("--steps", type=int, default=None, help="unlearning steps; by default what suits the method")
options.add_argument("--images", type=int, default=300, help="images drawn from each model")
options.add_argument("--method", choices=("distillation", "vdu"), default="distillation")
options.add_argument("--own-samples", type=int, default=1500, help="images that the method draws from the model")
options.add_argument("--output-dir", type=Path, default=Path("forgotten"))
given = options.parse_args()

pipeline = vdu.load_pipeline(pipeline_folder("mnist"))
digits = vdu.load_images("mnist-mini")  # 1000 training images of each digit; only one digit's are used
if given.method == "vdu":  # mean and variance of the weights, from the model's own samples (a few hundred are enough)
    source, n = torch.Generator().manual_seed(1), min(given.own_samples, 200)
    method = vdu.VDU(vdu.fit_posterior(pipeline, "fisher", n_train=60_000, n_samples=n, generator=source), gamma=0.1)
else:
    method = vdu.RetainDistillation()
result = vdu.unlearn(
    pipeline,
    method,
    forget=digits.select(digits.labels == given.digit),
    steps=given.steps,
    n_own_samples=given.own_samples,
    generator=torch.Generator().manual_seed(0),
)
result.pipeline.save_pretrained(given.output_dir)  # the pipeline that was given is untouched

judge, _ = load_judge(judge_folder("mnist"))
protocol, seeds = (
    vdu.Sampler("ddpm", steps=20),
    range(given.images),
)  # image i starts from the same noise in both models
calls = {}
for name, each in (("before", pipeline), ("after", result.pipeline)):
    images = vdu.sample(vdu.PipelineDenoiser.from_pipeline(each), seeds, protocol, progress=name)
    calls[name] = classify(judge, images).classes == given.digit
pul = percentage_unlearned(calls["before"], calls["after"], generator=torch.Generator().manual_seed(0))
print(f"{given.digit}: {pul.n_original} before, {pul.n_unlearned} after, of {pul.n} images each")
print(f"PUL {pul.value:.1f} % (95 % interval {pul.low:.1f} to {pul.high:.1f}); {result.ending or 'no rule asked'}")
print(f"the new pipeline is in {given.output_dir}")
