"""Three methods on one job, side by side: the packaged MNIST model forgets a digit, and a table says what each did.

Gradient ascent is the paper's VDU with its regulariser off; retrack and distillation work from the model's own samples;
``--methods`` takes others that ``vdu list`` names. PUL is the share of the digit that is gone, u-FID the distance to MNIST's
test images without it (lower is better): a method must do well on both. About twenty minutes of a CPU core;
``--methods ascent bounded esd --steps 3 --images 30`` is a quick look.
"""

import argparse

import vdu

options = argparse.ArgumentParser(description=__doc__)
options.add_argument("--digit", default="8")
options.add_argument("--methods", nargs="+", default=["ascent", "retrack", "distillation"])
options.add_argument(
    "--seeds", type=int, default=1, help="runs of each method; three or more give intervals over seeds"
)
options.add_argument("--steps", type=int, help="steps of each method; by default what suits it")
options.add_argument("--images", type=int, default=500, help="images drawn from each model; u-FID depends on it")
given = options.parse_args()

digits, test = vdu.load_images("mnist-mini"), vdu.load_images("mnist-mini", split="test")
table = vdu.compare(
    "zoo:mnist",
    forget=digits.select(digits.labels == digits.class_names.index(given.digit)),
    forget_class=given.digit,
    methods=given.methods,
    seeds=given.seeds,
    judge="zoo:mnist",
    reference=test.select(range(2000)),  # real images; those of the digit are left out
    n_images=given.images,
    steps=given.steps,
    folder="comparison",  # what is finished is not computed again
)
print(table.to_markdown())
print("page:", table.to_html("comparison/comparison.html"))
