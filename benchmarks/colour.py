#!/usr/bin/env python3
"""Do the defaults, which were chosen on grey digits, hold in colour? An unconditional latent model of emoji forgets one group.

Usage: colour.py PIPELINE CANVAS OUT.json [--groups heart cat clock] [--methods auto retrack vdu siss] [--strengths 4.5 9] [--n-images 1000]
                 [--folder FOLDER]

CANVAS is what ``tools/make_emoji_canvas.py`` makes, PIPELINE what ``tools/make_colour_pipeline.py`` and ``vdu pretrain`` make of it. The
packaged classifier of emoji groups counts. SISS retains the training pictures of the other groups. Each strength is one more run of
distillation, with that repulsion_scale. With FOLDER finished runs are kept, and OUT.json is written after every method.
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import vdu
from vdu.core.records import environment, read_json, write_json
from vdu.data.forget import split_by_class
from vdu.data.images import ImageSet, to_float, to_uint8
from vdu.data.sources import load_images
from vdu.diffusion.sampling import Sampler, sample
from vdu.judges.classifier import load_judge
from vdu.metrics.features import classify
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.pipelines import load_pipeline
from vdu.replay.generated import image_seeds
from vdu.zoo.packaged import judge_folder

DRAWN = ("bird", "building", "car", "cat", "clock", "fruit", "heart", "smiley")  # groups that the model was trained on
GIVEN_OTHERS = ("siss",)  # methods that retain given images
SURE = 0.9


def pictures(canvas: Path, split: str) -> ImageSet:
    """The pictures of the groups that the model draws."""
    return split_by_class(load_images(str(canvas / "objects"), shape=(3, 32, 32), split=split), DRAWN)[0]


def original(pipeline: Path, n_images: int) -> dict[str, Any]:
    """What the model draws before: how often the classifier is sure, also of the model's own groups, and how often it names each one."""
    judge, _ = load_judge(judge_folder("emoji-object"))
    denoiser = PipelineDenoiser.from_pipeline(load_pipeline(pipeline))
    found = classify(judge, to_float(to_uint8(sample(denoiser, image_seeds(1, n_images), Sampler()))))
    counts = torch.bincount(found.classes, minlength=len(judge.class_names)).tolist()
    sure, own = found.confidence > SURE, torch.tensor([judge.class_names.index(name) for name in DRAWN])
    return {
        "n_images": n_images,
        "sure": float(sure.float().mean()),
        "sure_of_its_groups": float((sure & torch.isin(found.classes, own)).float().mean()),
        "counts": dict(zip(judge.class_names, counts, strict=True)),
    }


def main() -> None:
    """Compare, group by group."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("canvas", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--groups", nargs="*", default=["heart", "cat", "clock"])
    parser.add_argument("--methods", nargs="+", default=["auto", "retrack", "vdu", "siss"])
    parser.add_argument("--strengths", nargs="*", type=float, default=[])
    parser.add_argument("--n-images", type=int, default=1000)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    found = read_json(given.out) if given.out.exists() else {"original": original(given.pipeline, 1000), "groups": {}}
    print(found["original"], flush=True)
    write_json(given.out, found | {"environment": environment()})
    for group in given.groups:
        forget, others = split_by_class(pictures(given.canvas, "train"), group)
        rows: list[Any] = []
        methods = {name: name for name in given.methods}
        methods |= {f"auto-{scale:g}": vdu.RetainDistillation(repulsion_scale=scale) for scale in given.strengths}
        for name, method in methods.items():
            table = vdu.compare(
                given.pipeline, forget=forget, methods=[method], forget_class=group, judge=judge_folder("emoji-object"),
                reference=pictures(given.canvas, "test"), n_images=given.n_images,
                folder=given.folder and given.folder / f"{group}-{name}",
                **({"retain": others} if name in GIVEN_OTHERS else {}),
            )  # fmt: skip
            rows += [*(() if rows else table.references), *table.runs]
            print(group, table, sep="\n", flush=True)
            found["groups"][group] = [asdict(row) for row in rows]
            write_json(given.out, found | {"environment": environment()})


if __name__ == "__main__":
    main()
