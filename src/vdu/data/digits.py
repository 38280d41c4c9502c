"""scikit-learn's digits (UCI, Alpaydin and Kaynak, 1998): 1,797 grey images of 8 × 8, without a network.

    u = round(255 v / 16),  v = 0 … 16

Of each class, in the library's order, every fifth image is a test image; so the split is stratified, 80 to 20, and
needs no random numbers.

Not guaranteed: that writers of test digits wrote no training digit.
"""

import numpy as np
import torch

from vdu.core.errors import InputError
from vdu.data.images import ImageSet

__all__ = ["load_digits"]


def load_digits(split: str) -> ImageSet:
    """Load a split of the digits.

    Args:
        split: "train" or "test".

    Returns:
        Images [images, 1, 8, 8] with labels, in the library's order.

    Raises:
        InputError: if scikit-learn is missing.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise InputError(
            'digits: needs scikit-learn. Install it with: pip install ".[digits]" in the clone.'
        ) from error
    values, labels = (np.asarray(each) for each in datasets.load_digits(return_X_y=True))
    rank = np.empty(len(labels), np.int64)  # of each image within its class
    for label in np.unique(labels):
        rank[labels == label] = np.arange((labels == label).sum())
    mask = (rank % 5 == 4) == (split == "test")
    pixels = np.rint(values[mask] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    return ImageSet(
        images=torch.from_numpy(pixels),
        labels=torch.from_numpy(labels[mask].astype(np.int64)),
        class_names=tuple("0123456789"),
        description=f"digits {split}",
    )
