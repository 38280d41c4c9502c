"""Where weights lie in memory, which must not decide the last bits of a result.

diffusers maps weight files into memory, where a tensor begins at any byte. MKL multiplies such matrices in another order than aligned
ones: one model gave other bits when it was loaded than when it was copied.
"""

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["ALIGNMENT", "align"]

ALIGNMENT = 64  # bytes; PyTorch's own allocations have it


@torch.no_grad()
def align(pipeline: Any) -> None:
    """Move the weights of a pipeline's parts that lie unaligned in memory; the values stay.

    Args:
        pipeline: a diffusers pipeline; its parameters and buffers remain the same objects.
    """
    parts = [each for each in pipeline.components.values() if isinstance(each, nn.Module)]
    for tensor in (each for part in parts for each in (*part.parameters(), *part.buffers())):
        plain = (
            type(tensor) in (nn.Parameter, Tensor) and tensor.device.type == "cpu" and tensor.layout == torch.strided
        )
        if plain and tensor.data_ptr() % ALIGNMENT:
            tensor.data = tensor.data.clone()
