#!/usr/bin/env python3
"""An untrained ``LDMPipeline`` that draws in colour without words: the packaged emoji model's autoencoder and a U-Net of 1.9 M weights.

    python tools/make_colour_pipeline.py runs/colour-start
    vdu pretrain runs/canvas/objects --from runs/colour-start -o runs/colour --steps 9000 --batch-size 64
    vdu pretrain runs/canvas/objects --from runs/colour/pipeline -o runs/colour-8 --steps 9000 --batch-size 64 --without ball …

``tools/make_emoji_canvas.py`` makes the pictures. The second training leaves out all groups but the eight that ``benchmarks/colour.py``
lists as DRAWN, since the first result is not sharp enough on all 28 (docs/dev/methods-log.md, 102).
"""

import sys
from pathlib import Path

import torch
from diffusers import DDIMScheduler, LDMPipeline, StableDiffusionPipeline, UNet2DModel

from vdu.zoo.packaged import pipeline_folder


def main(out: Path) -> None:
    """Write the pipeline."""
    emoji = StableDiffusionPipeline.from_pretrained(pipeline_folder("emoji"))
    vae = emoji.vae.float()
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8, in_channels=8, out_channels=8, layers_per_block=1, block_out_channels=(64, 96), norm_num_groups=16,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=16,
    )  # fmt: skip
    scheduler = DDIMScheduler.from_config(emoji.scheduler.config)
    LDMPipeline(vqvae=vae, unet=unet, scheduler=scheduler).save_pretrained(out)
    print(f"{sum(value.numel() for value in unet.parameters()):,} weights")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
