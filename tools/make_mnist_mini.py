#!/usr/bin/env python3
"""Make the packaged data set ``mnist-mini``: the first 1000 training images of each digit, and MNIST's test set.

Usage: make_mnist_mini.py MNIST_FOLDER OUT_FOLDER     (MNIST_FOLDER holds MNIST's four files; MD5 verified)
"""

import hashlib
import lzma
import struct
import sys
from pathlib import Path

import torch

from vdu.data.sources import load_images

PER_DIGIT = 1000


def main(mnist: str, out: str) -> None:
    """Write the four files, compressed by xz, which is smaller than gzip by a sixth."""
    train, test = (load_images(f"mnist:{mnist}", split=split) for split in ("train", "test"))
    assert train.labels is not None
    first = torch.cat([(train.labels == digit).nonzero().flatten()[:PER_DIGIT] for digit in range(10)]).sort().values
    for prefix, images in (("train", train.select(first)), ("t10k", test)):
        pixels, labels = images.images.squeeze(1).numpy(), images.labels.to(torch.uint8).numpy()
        write(
            Path(out) / f"{prefix}-images-idx3-ubyte.xz",
            struct.pack(">4B3I", 0, 0, 8, 3, *pixels.shape) + pixels.tobytes(),
        )
        write(
            Path(out) / f"{prefix}-labels-idx1-ubyte.xz",
            struct.pack(">4BI", 0, 0, 8, 1, len(labels)) + labels.tobytes(),
        )


def write(path: Path, data: bytes) -> None:
    """Write one file and print the MD5 of its content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
    print(path.name.removesuffix(".xz"), hashlib.md5(data).hexdigest())


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
