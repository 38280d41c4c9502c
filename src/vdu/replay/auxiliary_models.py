"""Auxiliary models: copies of the original model after a short fine-tuning.

    ε_f   forget model, fine-tuned on the forget set at all noise levels
    ε_s   self-trained model, fine-tuned on generated samples S at the noise levels where a method extrapolates away from it

ε_s depends on the model and the sampler but not on the forget set. It is therefore trained once, cached, and shared by all forget
sets and seeds. Its batch is large because the extrapolation amplifies training noise: two models trained with a batch of 64 at all
noise levels have a cosine of 0.7 in ε₀ − ε_s; one with the present batch and one with twice that batch reach 0.94
(docs/dev/methods-log.md, 66 and 67).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vdu.core.cache import cache_folder, read_cached, write_cached
from vdu.core.processes import first_decides, is_first
from vdu.core.records import sha256_bytes
from vdu.core.rng import derive_seed
from vdu.core.types import Denoiser
from vdu.data.images import ImageSet
from vdu.models.identity import identity, trained_part
from vdu.training.accelerator import make_accelerator
from vdu.training.loop import TrainSettings
from vdu.training.pretraining import fit

__all__ = ["FORGET_MODEL", "cached_self_model", "fine_tuned_copy", "self_model_settings"]

FORGET_MODEL: dict[str, Any] = {"steps": 150, "batch_size": 64, "learning_rate": 2e-4}
SELF_BATCH = 256
SELF_DISTANCE = 0.01  # steps × learning rate, so that ε₀ − ε_s is about as long after fewer steps


def self_model_settings(steps: int) -> dict[str, Any]:
    """How ε_s is trained.

    Args:
        steps: optimiser steps.

    Returns:
        steps, batch_size and learning_rate.

    Examples:
        >>> self_model_settings(100)
        {'steps': 100, 'batch_size': 256, 'learning_rate': 0.0001}
    """
    return {"steps": steps, "batch_size": SELF_BATCH, "learning_rate": SELF_DISTANCE / steps}


def fine_tuned_copy(
    original: Denoiser,
    images: ImageSet,
    how: Mapping[str, Any],
    *,
    seed: int,
    alpha_bar_range: tuple[float, float] = (0.0, 1.0),
    progress: str | None = None,
) -> Denoiser:
    """The original after a short fine-tuning.

    Args:
        original: left untouched.
        images: the training images.
        how: steps, batch_size and learning_rate, which decays linearly.
        seed: seeds everything.
        alpha_bar_range: only noise levels with ᾱ in this range are trained on.
        progress: title of the progress bar; None shows none.

    Returns:
        The copy, on the device of the original.
    """
    denoiser, device = original.copy(), next(original.network.parameters()).device
    settings = _settings(how, seed)
    fit(
        denoiser, images, settings, batch_size=how["batch_size"], seed=seed, alpha_bar_range=alpha_bar_range, progress=progress
    )  # fmt: skip
    denoiser.network.to(device)
    return denoiser


def cached_self_model(
    original: Denoiser,
    own: ImageSet,
    alpha_bar_range: tuple[float, float],
    steps: int,
    *,
    progress: str | None = None,
) -> tuple[Denoiser, int, bool]:
    """ε_s, trained once per model, generated samples and range of noise levels, and then cached.

    It is the original plus a difference of half precision, so that a cached model takes a quarter of the space and equals the one
    that was just trained.

    Args:
        original: left untouched.
        own: its generated samples.
        alpha_bar_range: the noise levels at which the auxiliary model is used.
        steps: optimiser steps.
        progress: title of the progress bar; None shows none.

    Returns:
        The model, its training cost in network evaluations (reported even on a cache hit), and whether it was trained in
        this call.
    """
    accelerator, seed = make_accelerator(), derive_seed(0, "self model")
    how = self_model_settings(steps)
    parts = (
        2, identity(original), own.sha256, alpha_bar_range, sorted(how.items()), _settings(how, seed),
        accelerator.device.type, accelerator.num_processes,  # results differ in their last bits
    )  # fmt: skip
    key = repr(parts) + trained_part(original)
    path = cache_folder() / "self-models" / f"{sha256_bytes(key.encode())[:24]}.safetensors"
    cached = first_decides("cached model", lambda: read_cached(path, "the self-trained auxiliary model is"))
    made_now = cached is None
    if cached is None:
        trained = fine_tuned_copy(original, own, how, seed=seed, alpha_bar_range=alpha_bar_range, progress=progress)
        cached = _difference(original, trained)
        if is_first():
            write_cached(path, cached, "this self-trained auxiliary model is")
    denoiser = original.copy()
    with torch.no_grad():
        for name, parameter in denoiser.network.named_parameters():
            if name in cached:
                parameter += cached[name].to(parameter)
    return denoiser, 3 * how["steps"] * how["batch_size"], made_now


def _difference(original: Denoiser, trained: Denoiser) -> dict[str, Tensor]:
    """How the weights that moved differ from the original's, in half precision and on the CPU."""
    before, after = dict(original.network.named_parameters()), dict(trained.network.named_parameters())
    found = {name: (after[name] - before[name]).detach() for name in before}
    return {name: value.half().cpu() for name, value in found.items() if bool(value.any())}


def _settings(how: Mapping[str, Any], seed: int) -> TrainSettings:
    return TrainSettings(
        steps=how["steps"], learning_rate=how["learning_rate"], lr_schedule="linear", warmup_steps=10, ema_decay=0.97,
        max_grad_norm=1.0, seed=derive_seed(seed, "training"),
    )  # fmt: skip
