"""Train the paper's MNIST network on reduced images first, then on whole ones: attention over all pixels is half of a step's cost.

    python tools/pretrain_coarse_first.py mnist OUT --steps 16:8000 28:2500

Each stage is resumable; OUT/pipeline is the last one's, with the average of its weights.
"""

import argparse
import shutil
from pathlib import Path

from vdu.data.sources import load_images
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.paper_networks import ddpm_pytorch_pipeline
from vdu.models.pipelines import load_pipeline, save_pipeline
from vdu.training.loop import TrainSettings
from vdu.training.pretraining import fit


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="as for vdu pretrain")
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", nargs="+", required=True, metavar="SIZE:STEPS")
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    pipeline = ddpm_pytorch_pipeline(seed=given.seed)
    stages = [tuple(map(int, stage.split(":"))) for stage in given.steps]
    for size, steps in stages:
        folder = given.out / f"stage-{size}"
        if (folder / "pipeline").exists():
            pipeline = load_pipeline(folder / "pipeline")
            continue
        pipeline.unet.register_to_config(sample_size=size)
        last = size == stages[-1][0]
        settings = TrainSettings(
            steps=steps, learning_rate=given.learning_rate, lr_schedule="cosine" if last else "constant", warmup_steps=200,
            ema_decay=0.999, mixed_precision="bf16", seed=given.seed, checkpointing_steps=250, checkpoints_total_limit=1,
        )  # fmt: skip
        images = load_images(given.data, shape=(1, size, size), convert=True, split="train")
        fit(
            PipelineDenoiser.from_pipeline(pipeline), images, settings, batch_size=given.batch_size, seed=given.seed,
            folder=folder, resume=True, progress=f"{size}×{size}",
        )  # fmt: skip
        save_pipeline(pipeline, folder / "pipeline")
    shutil.copytree(folder / "pipeline", given.out / "pipeline", dirs_exist_ok=True)


if __name__ == "__main__":
    main()
