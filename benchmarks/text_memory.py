#!/usr/bin/env python3
"""Peak memory of a training step of LoRA unlearning on networks of the size of Stable Diffusion, without having that memory.

Usage: text_memory.py [--json OUT] [--check]      (about a minute on one core)

The networks are made on PyTorch's "meta" device, where a tensor has a shape and no numbers. A step runs there, forward and backward, and
every storage is counted from its creation to its release. Mixed precision is that of ``--mixed-precision bf16``: weights in float32,
matrix products and convolutions in bfloat16, normalisations in float32. Attention is counted as the fused kernels of a GPU do it: they
keep queries, keys, values and the result, and no matrix of all pairs.

    peak = weights of the network + four numbers per trained weight (itself, gradient, Adam's two averages) + tensors of the step

Text encoders and autoencoder are on the GPU only before training (:func:`vdu.models.latent.visiting`), and with LoRA the teacher is the
same network without its corrections. Not counted: the allocator's fragments, kernels' workspaces and the CUDA context.

``--check`` runs the small network on the CPU instead, once counted on "meta" and once for real, and prints both counts.
With a GPU ``--check`` compares the count of Stable Diffusion 1.5's shape with the peak that PyTorch's allocator reports.
"""

import argparse
import json
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

from vdu.core.records import environment
from vdu.models.lora import training_copy

RANK = 8
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "sample_size": 16, "cross_attention_dim": 32, "attention_head_dim": 4, "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
    },
    "Stable Diffusion 1.5": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "Stable Diffusion 2.1": {
        "sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True,
    },
    "Stable Diffusion XL": {
        "sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20), "use_linear_projection": True,
        "block_out_channels": (320, 640, 1280), "transformer_layers_per_block": (1, 2, 10),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    },
}  # fmt: skip


class Fused(torch.autograd.Function):
    """Attention that keeps what a fused kernel keeps; its values are those of the plain one only on "meta", where there are none."""

    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Something of the result's shape."""
        result = torch.empty_like(query)
        context.save_for_backward(query, key, value, result)
        return result

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        """Something of the inputs' shapes."""
        return tuple(torch.empty_like(each) for each in context.saved_tensors[:3])


@contextmanager
def mixed() -> Iterator[None]:
    """bfloat16 where PyTorch's autocast takes it, float32 where it does not; fused attention."""
    plain = functional.scaled_dot_product_attention

    def attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> Tensor:
        given = [each.to(torch.bfloat16) for each in (query, key, value)]
        return Fused.apply(*given) if query.is_meta else plain(*given, *args, **options)

    def cast(function: Any, dtype: torch.dtype) -> Any:
        return lambda *args, **options: function(*tree_map(lambda each: _cast(each, dtype), args), **options)

    with ExitStack() as stack:
        stack.enter_context(patch.object(functional, "scaled_dot_product_attention", attention))
        for name, dtype in (("linear", torch.bfloat16), ("group_norm", torch.float32), ("layer_norm", torch.float32)):
            stack.enter_context(patch.object(functional, name, cast(getattr(functional, name), dtype)))
        stack.enter_context(patch.object(functional, "conv2d", cast(functional.conv2d, torch.bfloat16)))
        yield


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


class Peak(TorchDispatchMode):
    """Counts the bytes of all storages that are made inside and are still alive.

    Attributes:
        live: bytes now.
        peak: the most so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known = WeakIdKeyDictionary()

    def know(self, *tensors: Tensor) -> None:
        """Leave out what was there before."""
        for each in tensors:
            self._known[each.untyped_storage()] = True

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor) and each.untyped_storage() not in self._known:
                storage, size = each.untyped_storage(), each.untyped_storage().nbytes()
                self._known[storage] = True
                self.live += size
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._release, size)
        return result

    def _release(self, size: int) -> None:
        self.live -= size


def network(shape: str, device: str, checkpointing: bool) -> tuple[UNet2DConditionModel, UNet2DConditionModel]:
    """The network without numbers (or random), and the one that trains, which shares all but its corrections with it."""
    with torch.device(device):
        original = UNet2DConditionModel(in_channels=4, out_channels=4, **SHAPES[shape]).eval()
        student = training_copy(original, f"lora:{RANK}")
    if checkpointing:
        student.enable_gradient_checkpointing()
    return original, student


def inputs(shape: str, batch: int, device: str) -> dict[str, Any]:
    """Arguments of the network for so many images."""
    given = SHAPES[shape]
    size, words = given["sample_size"], given["cross_attention_dim"]
    made: dict[str, Any] = {
        "sample": torch.empty(batch, 4, size, size, device=device).normal_(),
        "timestep": torch.zeros(batch, device=device),
        "encoder_hidden_states": torch.empty(batch, 77, words, device=device).normal_(),
    }
    if "addition_embed_type" in given:
        extra = {
            "text_embeds": torch.empty(batch, 1280, device=device),
            "time_ids": torch.empty(batch, 6, device=device),
        }
        made["added_cond_kwargs"] = extra
    return made


def step(student: nn.Module, given: dict[str, Any]) -> None:
    """Forward and backward of the mean squared distance from a target."""
    made = student(**given).sample
    (made.float() - given["sample"]).square().mean().backward()


def counted(shape: str, batch: int, checkpointing: bool, device: str = "meta") -> dict[str, Any]:
    """Peak memory of a step.

    Args:
        shape: a key of ``SHAPES``.
        batch: images per network evaluation.
        checkpointing: whether activations are computed again in the backward pass.
        device: "meta" or "cpu".

    Returns:
        Bytes by part, and in all.
    """
    original, student = network(shape, device, checkpointing)
    trained = [each for each in student.parameters() if each.requires_grad]
    given = inputs(shape, batch, device)
    with Peak() as peak:
        peak.know(*student.parameters(), *original.parameters(), *student.buffers())
        with mixed():
            step(student, given)
    weights = sum(each.numel() for each in original.parameters())
    n_trained = sum(each.numel() for each in trained)
    parts = {
        "weights": 4 * weights,
        "trained": 16 * n_trained,
        "step": peak.peak - 4 * n_trained,
    }  # gradients are in "trained"
    return {
        "shape": shape, "batch": batch, "gradient_checkpointing": checkpointing, "parameters": weights, "rank": RANK,
        "n_trained": n_trained, "bytes": parts, "peak_gb": sum(parts.values()) / 1e9,
    }  # fmt: skip


def check() -> None:
    """Compare the count with what is really used, where that can be known."""
    for checkpointing in (False, True):
        without, real = (counted("tiny", 4, checkpointing, device)["bytes"]["step"] for device in ("meta", "cpu"))
        print(
            json.dumps({
                "check": "tiny, meta against cpu",
                "gradient_checkpointing": checkpointing,
                "meta": without,
                "cpu": real,
            })
        )
    if torch.cuda.is_available():
        expected = counted("Stable Diffusion 1.5", 4, True)
        _, student = network("Stable Diffusion 1.5", "cuda", True)
        given = inputs("Stable Diffusion 1.5", 4, "cuda")
        torch.cuda.reset_peak_memory_stats()
        with torch.autocast("cuda", torch.bfloat16):
            step(student, given)
        print(
            json.dumps({
                "check": "Stable Diffusion 1.5",
                "counted": expected["peak_gb"],
                "allocated": torch.cuda.max_memory_allocated() / 1e9,
            })
        )


def main() -> None:
    """Count, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    if given.check:
        return check()
    cells = []
    for shape in SHAPES:
        for batch, checkpointing in ((1, False), (1, True), (4, True)):
            cells.append(counted(shape, batch, checkpointing))
            print(json.dumps(cells[-1]), flush=True)
    if given.json is not None:
        result = {"command": "python benchmarks/text_memory.py", **environment(), "cells": cells}
        given.json.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
