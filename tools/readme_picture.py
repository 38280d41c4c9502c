#!/usr/bin/env python3
"""Draw docs/images/demo.png from an evaluated run: images from the same noise, before above and after below.

Usage: readme_picture.py RUN OUT.png     (for example: readme_picture.py vdu-demo/run docs/images/demo.png)

No image is picked by hand. The left group holds the first images that the classifier called the forget class in the
original's samples, the right group the first others, both in the order of their seeds. A frame marks what did not work: an
image that is still the forget class, or another one that became a different class. The counts are of all samples.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import load_file

from vdu.core.records import read_json

N_PAIRS = 10  # per group
SCALE = 3  # screen pixels per pixel of a sample
GAP, GROUP_GAP, MARGIN, LABEL_WIDTH = 8, 56, 28, 124
TITLE_HEIGHT, LEGEND_HEIGHT = 60, 68
INK, STILL, FLIPPED = "#1f2933", "#d1495b", "#e09f3e"


class Pair(NamedTuple):
    """Two samples from the same noise, and the colour of the frame that the second one gets."""

    before: torch.Tensor
    after: torch.Tensor
    frame: str | None


def pairs(run: Path) -> tuple[list[Pair], list[Pair], dict[str, str]]:
    """Read what is drawn.

    Args:
        run: a run folder after "vdu evaluate".

    Returns:
        The pairs of the forget class, the other pairs, and the picture's words: title and legend of both.
    """
    before, after = (load_file(run / "samples" / f"{name}.safetensors") for name in ("original", "unlearned"))
    metrics = read_json(run / "metrics.json")
    classes, forgotten = metrics["histogram"]["classes"], metrics["forget"]["classes"]
    forget = torch.tensor([classes.index(name) for name in forgotten])
    was, still = (torch.isin(samples["judge_class"], forget) for samples in (before, after))
    flipped = ~was & (before["judge_class"] != after["judge_class"])

    def first(chosen: torch.Tensor) -> list[Pair]:
        frames = [STILL if still[i] else FLIPPED if flipped[i] else None for i in range(len(chosen))]
        found = chosen.nonzero().flatten()[:N_PAIRS].tolist()
        return [Pair(before["images"][i], after["images"][i], frames[i]) for i in found]

    name = " or ".join(forgotten)
    words = {
        "was": f"samples that were {name}",
        "other": "other samples",
        "still": f"still {name}: {int((was & still).sum())} of {int(was.sum())}",
        "flipped": f"became another class: {int(flipped.sum())} of {int((~was).sum())}",
    }
    return first(was), first(~was), words


def tile(image: torch.Tensor) -> Image.Image:
    """One sample, C × H × W in 0 … 255, enlarged without smoothing."""
    pixels = image.permute(1, 2, 0).numpy()
    small = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).convert("RGB")
    return small.resize((small.width * SCALE, small.height * SCALE), Image.Resampling.NEAREST)


def main(run: str, out: str) -> None:
    """Write the picture."""
    left, right, words = pairs(Path(run))
    side = SCALE * left[0].before.shape[-1]
    font = ImageFont.load_default(32)
    starts = [MARGIN + LABEL_WIDTH, MARGIN + LABEL_WIDTH + len(left) * (side + GAP) + GROUP_GAP]
    width = starts[1] + len(right) * (side + GAP) - GAP + MARGIN
    height = TITLE_HEIGHT + 2 * (side + GAP) + LEGEND_HEIGHT
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for row, label in enumerate(("before", "after")):
        y = TITLE_HEIGHT + row * (side + GAP)
        draw.text((MARGIN, y + side // 2), label, fill=INK, font=font, anchor="lm")
        for start, group in zip(starts, (left, right), strict=True):
            for column, pair in enumerate(group):
                x = start + column * (side + GAP)
                sheet.paste(tile(getattr(pair, label)), (x, y))
                if label == "after" and pair.frame:
                    draw.rectangle((x - 3, y - 3, x + side + 2, y + side + 2), outline=pair.frame, width=5)
    for start, group in zip(starts, ("was", "other"), strict=True):
        draw.text((start, TITLE_HEIGHT - 14), words[group], fill=INK, font=font, anchor="lb")
    y = height - LEGEND_HEIGHT // 2
    for x, colour, text in zip(starts, (STILL, FLIPPED), ("still", "flipped"), strict=True):
        draw.rectangle((x, y - 12, x + 24, y + 12), outline=colour, width=5)
        draw.text((x + 38, y), words[text], fill=INK, font=font, anchor="lm")
    sheet.quantize(64).save(out, optimize=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
