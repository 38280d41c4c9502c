"""Your own diffusers checkpoint and a folder of unwanted images, in Python: both in, a diffusers checkpoint out.

Without ``--pipeline`` and ``--forget`` the script makes small ones: 8×8 images of one bright line, upright or lying, a model
trained on both, and the upright ones as the unwanted folder. These it can count by arithmetic, before and after. About two
minutes on one CPU core; ``--steps 3 --training-steps 40 --images 20 --own-samples 60 --force`` is a quick look.
"""

import argparse
from pathlib import Path

import numpy as np
from diffusers import DDPMPipeline
from PIL import Image

import vdu
from vdu.commands import pretrain
from vdu.commands.pretrain import PretrainSettings

options = argparse.ArgumentParser(description=__doc__)
options.add_argument("--pipeline", help="a folder that save_pretrained of a DDPMPipeline wrote")
options.add_argument("--forget", help="a folder of unwanted images, of the model's size")
options.add_argument("--steps", type=int, help="unlearning steps; by default what suits the method")
options.add_argument("--training-steps", type=int, default=2000, help="of the small model, where none is given")
options.add_argument("--images", type=int, default=300, help="images drawn from each model")
options.add_argument("--own-samples", type=int, default=1000, help="images that the method draws from the model")
options.add_argument("--force", action="store_true", help="go on where the model makes nothing like the folder")
options.add_argument("--output-dir", type=Path, default=Path("forgotten-folder"))
given = options.parse_args()
out = given.output_dir
if (given.pipeline is None) != (given.forget is None):
    options.error("got one of --pipeline and --forget; expected both, or neither")
if given.pipeline is None:
    given.pipeline, given.forget = str(out / "model/pipeline"), str(out / "data/upright")
    for i, place in enumerate(np.random.default_rng(0).integers(8, size=600)):
        pixels = np.repeat(np.where(np.arange(8) == place, 235, 20).astype(np.uint8)[None], 8, axis=0)
        file = out / "data" / ("upright" if i % 4 == 0 else "lying") / f"{i:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels if i % 4 == 0 else pixels.T).save(file)
    small = {"steps": given.training_steps, "batch_size": 32, "ema_decay": 0.99, "overwrite": (out / "model").exists()}
    pretrain.run(PretrainSettings(data=str(out / "data"), output_dir=out / "model", **small))

method = vdu.RetainDistillation(alpha_bar_range=(0.0015, 0.98))  # small images are decided at low noise: ᾱ up to 0.98
told = {"steps": given.steps, "n_own_samples": given.own_samples, "force": given.force}
try:
    result = vdu.unlearn(given.pipeline, method, forget=given.forget, **told)
except vdu.InputError as error:  # says what was got, what was expected and what to do
    options.error(str(error))
result.save_pretrained(out / "pipeline")  # with a model card; result.push_to_hub("me/clean") uploads both

for name, pipeline in (("before", result.original), ("after", DDPMPipeline.from_pretrained(out / "pipeline"))):
    images = vdu.sample(pipeline, given.images, vdu.Sampler("ddpm", steps=20))  # image i from the same noise in both
    upright = images.mean(2).std(2) > images.mean(3).std(2)  # columns differ more than rows
    print(f"{name}: {int(upright.all(1).sum())} of {given.images} images have an upright line")
print(result.ending, f"the new pipeline is in {out / 'pipeline'}", sep="; ")
