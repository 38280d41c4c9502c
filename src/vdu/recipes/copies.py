"""Copies of the original model after a short fine-tuning, that some methods compare with.

    ε_f   on the forget set, at all noise levels
    ε_s   on its own samples S, at the noise levels where a method steps away from it

ε_s depends on the model and how its own samples are drawn, not on what is to be forgotten, so that it is made once, kept in the cache
and shared by all forget sets and seeds. Its steps have a large batch, for the step away from it multiplies what is chance in them: two
copies by a batch of 64 at all noise levels have a cosine of 0.7 in ε₀ − ε_s, one of these and one of twice the batch 0.94
(docs/methods-log.md, 66 and 67).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vdu.checks import hash_parameters
from vdu.data.images import ImageSet
from vdu.models.denoiser import PipelineDenoiser, hash_configuration, replace_network
from vdu.recipes.kept import cache_folder, read_kept, write_kept
from vdu.recipes.pretrain import fit
from vdu.recipes.settings import PretrainSettings
from vdu.records import sha256_bytes
from vdu.rng import derive_seed
from vdu.training.loop import make_accelerator

__all__ = ["FORGET_MODEL", "SELF_MODEL", "fine_tuned_copy", "shared_self_model"]

FORGET_MODEL: dict[str, Any] = {"steps": 150, "batch_size": 64, "learning_rate": 2e-4}
SELF_MODEL: dict[str, Any] = {"steps": 100, "batch_size": 256, "learning_rate": 1e-4}


def fine_tuned_copy(
    pipeline: Any,
    images: ImageSet,
    how: Mapping[str, Any],
    *,
    seed: int,
    alpha_bar_range: tuple[float, float] = (0.0, 1.0),
) -> PipelineDenoiser:
    """The original after a short fine-tuning.

    Args:
        pipeline: the original; left untouched.
        images: what to train on.
        how: steps, batch_size and learning_rate, which decays linearly.
        seed: seeds everything.
        alpha_bar_range: only noise levels with ᾱ in this range are trained on.

    Returns:
        The copy, on the device of the original.
    """
    denoiser = PipelineDenoiser.from_pipeline(pipeline).copy()
    before = next(denoiser.network.parameters()).device
    copied = replace_network(pipeline, denoiser.network)
    fit(copied, images, _settings(how, seed), folder=None, progress=None, alpha_bar_range=alpha_bar_range)
    denoiser.network.to(before)
    return denoiser


def shared_self_model(
    pipeline: Any, own: ImageSet, alpha_bar_range: tuple[float, float]
) -> tuple[PipelineDenoiser, int, bool]:
    """ε_s, made once for a model, its own samples and a range of noise levels, and then kept in the cache.

    Args:
        pipeline: the original; left untouched.
        own: its own samples.
        alpha_bar_range: the noise levels at which it is asked.

    Returns:
        It; the network evaluations that it cost, also if it was in the cache, for somebody paid for them; and whether it was
        made now.
    """
    from accelerate.utils import gather_object

    original, accelerator = PipelineDenoiser.from_pipeline(pipeline), make_accelerator()
    settings = _settings(SELF_MODEL, derive_seed(0, "self model"))
    parts = (
        hash_parameters(original.network.state_dict()),
        hash_configuration(getattr(original.network, "config", {}), original.scheduler_config),
        original.timestep_scale, own.sha256, alpha_bar_range, settings,
        accelerator.device.type, accelerator.num_processes,  # other bits
    )  # fmt: skip
    path = cache_folder() / "self-models" / f"{sha256_bytes(repr(parts).encode())[:24]}.safetensors"
    kept = read_kept(path, "the self model is")
    if all(gather_object([kept is not None])):  # training is for all processes or for none
        assert kept is not None
        made_now, denoiser = False, original.copy()
        denoiser.network.load_state_dict(kept)
    else:
        made_now = True
        denoiser = fine_tuned_copy(pipeline, own, SELF_MODEL, seed=settings.seed, alpha_bar_range=alpha_bar_range)
        write_kept(path, denoiser.network.state_dict(), "this self model is")
    return denoiser, 3 * settings.steps * settings.batch_size, made_now


def _settings(how: Mapping[str, Any], seed: int) -> PretrainSettings:
    return PretrainSettings(
        data="", output_dir=Path(), lr_schedule="linear", warmup_steps=10, ema_decay=0.97, seed=seed, **how
    )
