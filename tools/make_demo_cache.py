#!/usr/bin/env python3
"""Make what the demo takes from the package instead of computing it: src/vdu/zoo/cache.

    python tools/make_demo_cache.py

For the packaged model: the generated samples, the held-out samples and the self-trained model of ``vdu unlearn``, and the samples
that ``vdu demo`` evaluates of it and of the model retrained without eights. All of it depends on the packaged weights and on settings,
not on the forget set; the names of the files are hashes of both, so that other settings find nothing here. About ten minutes on two
cores.
"""

import os
import shutil
import tempfile
from pathlib import Path

from vdu import RetainDistillation, Sampler
from vdu.commands.demo import N_IMAGES, RETRAINED
from vdu.core.cache import PACKAGED
from vdu.core.rng import derive_seed
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.pipelines import load_pipeline
from vdu.replay.auxiliary_models import cached_self_model
from vdu.replay.generated import HELD_OUT_SEED, cached_samples
from vdu.zoo.packaged import pipeline_folder

HELD_OUT = 1250  # a tenth are eights, and the stopping rule needs at most 128
SPARE = 100  # of the original, whose eights the filtered-oracle baseline leaves out


def main() -> None:
    """Make the files anew."""
    shutil.rmtree(PACKAGED, ignore_errors=True)
    method = RetainDistillation(self_model_steps=50)
    sampler = Sampler(scheduler=method.training.scheduler, steps=method.training.inference_steps)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VDU_CACHE"] = folder
        original, retrained = (
            PipelineDenoiser.from_pipeline(load_pipeline(pipeline_folder(name)))
            for name in ("mnist", *RETRAINED.values())
        )
        own, _ = cached_samples(original, method.training.n_own_samples, sampler)
        cached_samples(original, HELD_OUT, sampler, seed=HELD_OUT_SEED)
        cached_self_model(original, own, method.self_improvement_range, method.self_model_steps)
        for each, n in ((original, N_IMAGES + SPARE), (retrained, N_IMAGES)):
            cached_samples(each, n, sampler, seed=derive_seed(0, "evaluate"))
        for path in sorted(Path(folder).rglob("*.safetensors")):
            goal = PACKAGED / path.parent.name / path.name
            goal.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, goal)
            print(f"{goal}: {goal.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
