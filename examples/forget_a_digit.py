"""The main job in Python: the packaged MNIST model forgets one digit, from images of that digit alone, and the evidence.

Leaves a run folder with the new pipeline (plain diffusers) and ``report.html``. ``--method vdu`` is the paper's, which forgets less.
About fifteen minutes of a CPU core; ``--method ascent --steps 3 --images 40`` is a quick look.
"""

import argparse

import vdu

options = argparse.ArgumentParser(description=__doc__)
options.add_argument("--digit", type=int, choices=range(10), default=8)
options.add_argument("--method", default="auto", help="a name that vdu list shows")
options.add_argument("--steps", type=int, help="unlearning steps; by default what suits the method")
options.add_argument("--images", type=int, default=300, help="images drawn from each model for the evidence")
options.add_argument("--output-dir", default="forgotten")
given = options.parse_args()

result = vdu.unlearn(
    "zoo:mnist",  # or a pipeline, a folder of your own, a model of the Hub
    given.method,
    forget="mnist-mini",  # 1000 images of each digit; or a folder, images, a tensor, a Dataset
    forget_class=str(given.digit),  # only this digit's are used
    steps=given.steps,
    folder=given.output_dir,
    overwrite=True,
)
print(result)

evidence = vdu.evaluate(result, judge="zoo:mnist", n_images=given.images)
pul = evidence.pul
print(f"{given.digit}: {pul.n_original} before, {pul.n_unlearned} after, of {pul.n_images} images each")
print(f"PUL {pul.value:.1f} % (95 % interval {pul.low:.1f} to {pul.high:.1f})")
page = evidence.to_html(f"{given.output_dir}/report.html")
print(f"the new pipeline is in {given.output_dir}/pipeline, the report is {page}")
