"""Peak memory of an evaluation, at two numbers of images: it may grow by their uint8 storage and their features, by nothing else.

    python benchmarks/evaluation_memory.py [--n-images 500 5000] [--side 64]

Each number of images is evaluated in a process of its own, with a cache of its own: a small UNet before and after a change
of its weights, a judge that looks at one pixel, features of a classifier with random weights, and N images of noise as the
reference. The answer is JSON on standard output. "stored_mib" is one set of N images as uint8; a float32 copy of a
set would take four times as much. "sets_of_growth" is the growth of the peak from the smallest N to this one, in sets.

Not guaranteed: any meaning of the distances; the peak of another operating system (it is that of getrusage).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from typing import Any


def peak_mib() -> float:
    """The largest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)


def evaluate(n_images: int, side: int) -> dict[str, Any]:
    """Evaluate in this process.

    Args:
        n_images: N, of each model.
        side: pixels of an image, each way.

    Returns:
        Plain values.
    """
    import copy

    import torch
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
    from torch import nn

    from vdu.core.rng import isolated_global
    from vdu.data.images import ImageSet
    from vdu.diffusion.sampling import Sampler
    from vdu.evaluation.measure import measure
    from vdu.judges.classifier import Judge
    from vdu.judges.judging import Judging
    from vdu.metrics.feature_networks import FeatureNetwork
    from vdu.models.denoiser import PipelineDenoiser

    class OnePixel(nn.Module):
        architecture, class_names = "one pixel", ("dark", "bright")

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.stack([-images[:, 0, 0, 0], images[:, 0, 0, 0] - 0.8], dim=1)

    torch.set_num_threads(1)
    with isolated_global(0):
        unet = UNet2DModel(
            sample_size=side, block_out_channels=(4, 4), layers_per_block=1, norm_num_groups=2,
            down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, add_attention=False,
        ).eval()  # fmt: skip
        classifier = Judge("cnn", (3, side, side), ("dark", "bright")).eval()
    other = copy.deepcopy(unet)
    with torch.no_grad():
        other.conv_out.weight.mul_(1.1)
    original, unlearned = (
        PipelineDenoiser.from_pipeline(DDPMPipeline(unet=each, scheduler=DDPMScheduler())) for each in (unet, other)
    )
    record = {"name": "one pixel", "held_out_error": 0.0, "n_held_out": 100, "forget_false_positive_rate": 0.0}
    judge: Any = OnePixel()
    network = FeatureNetwork(classifier.features, "random", "0" * 64, classifier.n_features, 256, "none", "random")
    pixels = torch.randint(
        256, (n_images, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    reference = ImageSet(pixels, description="noise")
    before = peak_mib()
    found = measure(
        original, unlearned, Judging(judge, record, "given", ("bright",)), network, reference=reference, n_images=n_images,
        sampler=Sampler(steps=1, microbatch_size=50), seed=0,
    )  # fmt: skip
    return {
        "n_images": n_images,
        "n_forget_original": found.evidence.pul.n_original,
        "stored_mib": n_images * 3 * side * side / 2**20,
        "before_mib": round(before, 1),
        "peak_mib": round(peak_mib(), 1),
    }


def main() -> None:
    """Run each number of images in its own process and print what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-images", type=int, nargs="+", default=[500, 5000])
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--here", action="store_true", help="evaluate in this process (the others are started so)")
    options = parser.parse_args()
    if options.here:
        print(json.dumps(evaluate(options.n_images[0], options.side)))
        return
    found = []
    for n_images in sorted(options.n_images):
        with tempfile.TemporaryDirectory() as cache:
            command = [sys.executable, __file__, "--here", "--n-images", str(n_images), "--side", str(options.side)]
            done = subprocess.run(
                command, env=os.environ | {"VDU_CACHE": cache}, stdout=subprocess.PIPE, check=True, text=True
            )
        found.append(json.loads(done.stdout))
    for each in found[1:]:
        more_sets = each["stored_mib"] - found[0]["stored_mib"]
        each["sets_of_growth"] = round((each["peak_mib"] - found[0]["peak_mib"]) / more_sets, 2)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
