#!/usr/bin/env python3
"""Forgetting that is not one class: two at once, one after the other, thick strokes, a planted mark, a single image.

Usage: beyond_one_class.py OUT.json [--case two-classes|sequence|thick|mark|single] [--n-images 1000]
       (ten minutes of a core for two-classes and for thick, twenty for each other)

The packaged ``mnist``, ``RetainDistillation`` with its defaults, seed 0, 20 ancestral steps; images from the same noise before
and after. Digits are told by the packaged judge. Thick: mean ink above the 90 % quantile of MNIST's training images; those
are the forget set, and the same threshold counts them among the samples. u-FID[judge] is against MNIST's test images without
what is forgotten, "filtered" is the original's samples without it. OUT.json is added to, case by case.

Mark: the model is first fine-tuned on MNIST with a bright 5 × 5 square planted in the corner of 5 % of the images; the forget set
is those images, and the square is what is counted, in three times as many samples. Single: it is fine-tuned with one training
image as 10 % of what it sees; the forget set is that image, moved by up to two pixels (25 copies, twice),
and a sample counts if its root mean square difference from the image, or from a moved copy, is below 0.35 of [−1, 1]. A run that is
refused is in OUT.json with its message and what the original makes.
"""

import argparse
import json
from pathlib import Path

import torch

from vdu.commands.pretrain import PretrainSettings
from vdu.core.errors import InputError
from vdu.core.rng import derive_seed
from vdu.data.forget import split_by_class
from vdu.data.images import ImageSet
from vdu.data.sources import load_images
from vdu.diffusion.sampling import Sampler
from vdu.judges.classifier import load_judge
from vdu.methods.distillation import RetainDistillation
from vdu.metrics.features import classify, extract_features
from vdu.metrics.frechet import frechet_distance
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.pipelines import load_pipeline
from vdu.replay.generated import generate_samples
from vdu.training.pretraining import fit
from vdu.unlearning.unlearn import unlearn
from vdu.zoo.packaged import judge_folder, pipeline_folder

SAMPLER = Sampler("ddpm", steps=20)


class Bench:
    """The model, the judge, and what is counted."""

    def __init__(self, n_images):
        self.pipeline = load_pipeline(pipeline_folder("mnist"))
        self.judge, _ = load_judge(judge_folder("mnist"))
        self.train, self.test = load_images("mnist"), load_images("mnist", split="test")
        ink = self.ink(self.train)
        self.threshold = float(ink.quantile(0.9))
        self.n = n_images
        self.before = self.draw(self.pipeline, 2 * n_images)  # enough for the filtered original

    def ink(self, images):
        """Mean brightness of each image."""
        return images.images.flatten(1).float().mean(1)

    def digits(self, images):
        """The judge's calls."""
        return classify(self.judge, images.floats()).classes

    def draw(self, pipeline, n):
        """Samples from the noise that everything is judged from."""
        denoiser = PipelineDenoiser.from_pipeline(pipeline)
        return generate_samples(denoiser, n, SAMPLER, seed=derive_seed(0, "evaluate"))

    def forget(self, pipeline, images):
        """The new pipeline and why it ended."""
        try:
            made = unlearn(pipeline, RetainDistillation(), forget=images, generator=torch.Generator().manual_seed(0))
        except InputError as error:
            return None, f"refused: {error}"
        return made.pipeline, made.ending

    def row(self, images, unwanted, reference):
        """Counts of what is unwanted, u-FID, and digits."""
        features = [extract_features(self.judge.features, each.floats()) for each in (reference, images)]
        return {
            "n_images": len(images),
            "unwanted": int(unwanted(images).sum()),
            "u_fid": frechet_distance(*features).value,
            "digits": torch.bincount(self.digits(images), minlength=10).tolist(),
        }

    def compare(self, pipeline, unwanted, keep_test):
        """Original, filtered original and unlearned, if it was not refused."""
        reference = self.test.select(keep_test)
        filtered = self.before.select(~unwanted(self.before))
        rows = {
            "original": self.before.select(range(self.n)),
            "filtered original": filtered.select(range(min(self.n, len(filtered)))),
        }
        if pipeline is not None:
            rows["unlearned"] = self.draw(pipeline, self.n)
        return {name: self.row(images, unwanted, reference) for name, images in rows.items()}


def two_classes(bench):
    """0 and 1 at once."""
    pipeline, ending = bench.forget(bench.pipeline, split_by_class(bench.train, ["0", "1"])[0])

    def unwanted(images):
        return bench.digits(images) <= 1

    return bench.compare(pipeline, unwanted, bench.test.labels > 1) | {"ending": ending}


def sequence(bench):
    """0, and then 1 from the model that forgot 0: does 0 stay away?"""
    first, ending = bench.forget(bench.pipeline, split_by_class(bench.train, ["0"])[0])
    second, ending_2 = bench.forget(first, split_by_class(bench.train, ["1"])[0])

    def unwanted(images):
        return bench.digits(images) <= 1

    found = bench.compare(second, unwanted, bench.test.labels > 1)
    after_one = torch.bincount(bench.digits(bench.draw(first, bench.n)), minlength=10).tolist()
    return found | {"digits after the first": after_one, "endings": [ending, ending_2]}


def thick(bench):
    """Thick strokes of any digit."""
    images = bench.train.select(bench.ink(bench.train) > bench.threshold)
    pipeline, ending = bench.forget(bench.pipeline, images)

    def unwanted(images):
        return bench.ink(images) > bench.threshold

    return bench.compare(pipeline, unwanted, ~unwanted(bench.test)) | {"ending": ending, "threshold": bench.threshold}


def taught(bench, images):
    """The packaged model, fine-tuned on other images; in the place of the original."""
    how = PretrainSettings(data="", output_dir=Path(), steps=800, batch_size=64, learning_rate=3e-4, ema_decay=0.99)
    bench.pipeline = load_pipeline(pipeline_folder("mnist"))
    fit(
        PipelineDenoiser.from_pipeline(bench.pipeline), images, how.training(), batch_size=how.batch_size, seed=how.seed
    )


def mark(bench):
    """A square in the corner, on 5 % of the images: a trademark, say. On 1 % this model does not learn it in 800 steps."""
    marked = torch.arange(0, len(bench.train), 20)
    images = bench.train.images.clone()
    images[marked, :, 22:27, 22:27] = 255
    taught(bench, ImageSet(images))

    def unwanted(images):
        return images.images[:, 0, 22:27, 22:27].float().mean((1, 2)) > 128

    bench.n *= 3
    bench.before = bench.draw(bench.pipeline, bench.n + bench.n // 10)
    pipeline, ending = bench.forget(bench.pipeline, ImageSet(images[marked]))
    keep = torch.ones(len(bench.test), dtype=torch.bool)
    return bench.compare(pipeline, unwanted, keep) | {"ending": ending}


def single(bench):
    """One image that the model reproduces."""
    image = bench.train.images[:1]
    taught(bench, ImageSet(torch.cat([bench.train.images, image.repeat(len(bench.train) // 9, 1, 1, 1)])))
    moves = [(down, right) for down in range(-2, 3) for right in range(-2, 3)]
    copies = torch.cat([image.roll(move, (2, 3)) for move in moves])

    def unwanted(images):
        flat, near = images.floats().flatten(1), ImageSet(copies).floats().flatten(1)
        return torch.cdist(flat, near).min(1).values / flat.shape[1] ** 0.5 < 0.35

    bench.before = bench.draw(bench.pipeline, 2 * bench.n)
    pipeline, ending = bench.forget(bench.pipeline, ImageSet(copies.repeat(2, 1, 1, 1)))
    keep = torch.ones(len(bench.test), dtype=torch.bool)
    return bench.compare(pipeline, unwanted, keep) | {"ending": ending}


CASES = {"two-classes": two_classes, "thick": thick, "sequence": sequence, "mark": mark, "single": single}


def main():
    """Run what is asked and is not there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--case", choices=list(CASES), action="append")
    parser.add_argument("--n-images", type=int, default=1000)
    arguments = parser.parse_args()
    result = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {}
    for name in arguments.case or CASES:
        if name not in result:
            result[name] = CASES[name](
                Bench(arguments.n_images)
            )  # a new one, since cases change its model and its images
            arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
            print(name, json.dumps(result[name], indent=2), flush=True)


if __name__ == "__main__":
    main()
