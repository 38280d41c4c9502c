#!/usr/bin/env python3
"""Do the defaults hold in colour? An unconditional latent model of emoji, of which one group is forgotten.

Usage: colour.py PIPELINE CANVAS OUT.json [--groups heart cat clock] [--methods auto retrack] [--n-images 1000] [--folder FOLDER]

CANVAS is what ``tools/make_emoji_canvas.py`` makes, PIPELINE what ``tools/make_colour_pipeline.py`` and ``vdu pretrain`` make of it. The
packaged classifier of emoji groups counts. Nothing was tuned here. With FOLDER finished runs are kept.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

import torch

import vdu
from vdu.core.records import environment, read_json, write_json
from vdu.data.images import to_float, to_uint8
from vdu.diffusion.sampling import Sampler, sample
from vdu.judges.classifier import load_judge
from vdu.metrics.features import classify
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.pipelines import load_pipeline
from vdu.replay.generated import image_seeds
from vdu.zoo.packaged import judge_folder

SURE = 0.9


def original(pipeline: Path, n_images: int) -> dict[str, object]:
    """What the model draws before: how often the classifier is sure of a group, and how often it names each one."""
    judge, _ = load_judge(judge_folder("emoji-object"))
    images = to_float(
        to_uint8(sample(PipelineDenoiser.from_pipeline(load_pipeline(pipeline)), image_seeds(1, n_images), Sampler()))
    )
    found = classify(judge, images)
    counts = torch.bincount(found.classes, minlength=len(judge.class_names)).tolist()
    sure = float((found.confidence > SURE).float().mean())
    return {"n_images": n_images, "sure": sure, "counts": dict(zip(judge.class_names, counts, strict=True))}


def main() -> None:
    """Compare, group by group."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("canvas", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--groups", nargs="+", default=["heart", "cat", "clock"])
    parser.add_argument("--methods", nargs="+", default=["auto", "retrack"])
    parser.add_argument("--n-images", type=int, default=1000)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    found = read_json(given.out) if given.out.exists() else {"original": original(given.pipeline, 1000), "groups": {}}
    for group in given.groups:
        table = vdu.compare(
            given.pipeline, forget=given.canvas / "objects" / "train" / group, methods=given.methods, forget_class=group,
            judge=judge_folder("emoji-object"), reference=given.canvas / "objects", reference_split="test",
            n_images=given.n_images, folder=given.folder and given.folder / group,
        )  # fmt: skip
        found["groups"][group] = [asdict(row) for row in (*table.references, *table.runs)]
        print(group, table, sep="\n", flush=True)
        write_json(given.out, found | {"environment": environment()})


if __name__ == "__main__":
    main()
