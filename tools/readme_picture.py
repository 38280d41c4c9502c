#!/usr/bin/env python3
"""Make the README's picture from an evaluated run: pairs from the same noise, before above, after below.

Usage: readme_picture.py RUN OUT.png     (for example: readme_picture.py vdu-demo/run docs/images/demo.png)

Nothing is picked by hand: the left half holds the first 10 images that the judge called the forget class in the original's
samples, the right half the first 10 others, in the order of their seeds.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from vdu.core.records import read_json
from vdu.data.pictures import save_grid

PER_HALF = 10


def main(run: str, out: str) -> None:
    """Write the picture."""
    before, after = (load_file(Path(run) / "samples" / f"{name}.safetensors") for name in ("original", "unlearned"))
    metrics = read_json(Path(run) / "metrics.json")
    classes = metrics["histogram"]["classes"]
    forget = torch.tensor([classes.index(name) for name in metrics["forget"]["classes"]])
    is_forget = torch.isin(before["judge_class"], forget)
    chosen = torch.cat([is_forget.nonzero().flatten()[:PER_HALF], (~is_forget).nonzero().flatten()[:PER_HALF]])
    save_grid(torch.cat([before["images"][chosen], after["images"][chosen]]), Path(out), columns=len(chosen), scale=2)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
