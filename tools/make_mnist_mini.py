#!/usr/bin/env python3
"""Make the packaged data set ``mnist-mini``: the first 1000 training images of each digit, and MNIST's test set.

Usage: make_mnist_mini.py MNIST_FOLDER OUT_FOLDER     (MNIST_FOLDER holds MNIST's four files; MD5 verified)
"""

import gzip
import hashlib
import struct
import sys
from pathlib import Path

import torch

from vdu.data.sources import load_images

PER_DIGIT = 1000


def main(mnist: str, out: str) -> None:
    """Write the four files, gzip without a time stamp so that they are the same bytes every time."""
    train, test = (load_images(f"mnist:{mnist}", split=split) for split in ("train", "test"))
    assert train.labels is not None
    first = torch.cat([(train.labels == digit).nonzero().flatten()[:PER_DIGIT] for digit in range(10)]).sort().values
    for prefix, images in (("train", train.select(first)), ("t10k", test)):
        pixels, labels = images.images.squeeze(1).numpy(), images.labels.to(torch.uint8).numpy()
        write(
            Path(out) / f"{prefix}-images-idx3-ubyte.gz",
            struct.pack(">4B3I", 0, 0, 8, 3, *pixels.shape) + pixels.tobytes(),
        )
        write(
            Path(out) / f"{prefix}-labels-idx1-ubyte.gz",
            struct.pack(">4BI", 0, 0, 8, 1, len(labels)) + labels.tobytes(),
        )


def write(path: Path, data: bytes) -> None:
    """Write one file and print the MD5 of its content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data, 9, mtime=0))
    print(path.name.removesuffix(".gz"), hashlib.md5(data).hexdigest())


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
