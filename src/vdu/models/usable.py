"""Refuses a model that no verb could use, before any work."""

import traceback
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from vdu.core.errors import InputError, is_out_of_memory
from vdu.core.modes import evaluating
from vdu.diffusion.sampling import Sampler
from vdu.models.as_saved import require_as_saved, require_no_global_hooks, require_tokenizer_as_saved
from vdu.models.configuration import odd_options, require_switches
from vdu.models.pipelines import check_network

__all__ = ["require_usable", "require_whole"]


def require_usable(denoiser: Any) -> None:
    """Refuse a model that cannot be used, before any work: by its parts, its schedule, and a try on two images.

    Args:
        denoiser: the model.

    Raises:
        InputError: if its weights are not loaded or not float32, a part is not what its saved files give back, no sampler follows its
            schedule, or its network fails on its own images.
    """
    require_no_global_hooks()
    require_whole(denoiser)
    weights = dict(denoiser.network.named_parameters())
    others = sorted({str(value.dtype).removeprefix("torch.") for value in weights.values()} - {"float32"})
    if others:
        raise InputError(
            f"pipeline: its network has weights in {', '.join(others)}; expected float32. Load it with torch_dtype=torch.float32, or "
            "convert it with pipeline.to(torch.float32); mixed_precision trains in less."
        )
    Sampler("ddpm", steps=1).make(denoiser)  # refuses a schedule that no sampler follows
    _try(denoiser)


def require_whole(denoiser: Any) -> None:
    """Refuse a model whose saved files would not give it back.

    Args:
        denoiser: the model.

    Raises:
        InputError: if the weights of a part are not loaded, a switch of its configuration is no truth value, a part is not what its saved
            files give back, or another part than the network has NaN or infinite weights.
    """
    for what, part in _parts(denoiser).items():
        absent = [name for name, value in part.named_parameters() if value.is_meta]
        if absent:
            raise InputError(
                f"pipeline: {len(absent)} tensors of its {what} are on the meta device, so without values (first: {absent[0]}); expected "
                "loaded weights. Load the pipeline with from_pretrained, without offloading."
            )
        _require_plain(part, what)
        require_switches(part, f"pipeline: its {what}")
        require_as_saved(part, what)
        if part is not denoiser.network:
            check_network(part, f"pipeline: {what}")
    for tokenizer in denoiser.words.tokenizers if denoiser.takes_prompts else ():
        require_tokenizer_as_saved(tokenizer)


def _parts(denoiser: Any) -> dict[str, nn.Module]:
    """The network, the autoencoder and the text encoders, by what messages call them."""
    found = {"network": denoiser.network}
    if denoiser.is_latent:
        found["autoencoder"] = denoiser.autoencoder
    encoders = denoiser.words.encoders if denoiser.takes_prompts else []
    return found | {f"text encoder {type(each).__name__} ({i + 1})": each for i, each in enumerate(encoders)}


def _require_plain(part: nn.Module, what: str) -> None:
    """Refuse what was hung on a part after it was loaded: it would be trained and not saved, or saved and not read back.

    Raises:
        InputError: for adapters, fused projections and FreeU, with what takes them off.
    """
    for module in part.modules():
        if hasattr(module, "base_layer"):
            raise InputError(
                f"pipeline: its {what} has an adapter (LoRA) hung on it; expected plain layers. Merge it first: pipeline.fuse_lora() and "
                "pipeline.unload_lora_weights()."
            )
        if getattr(module, "fused_projections", False):
            raise InputError(
                f"pipeline: its {what} has fused projections, which no saved model has; expected separate ones. Load the "
                "pipeline again: unfuse_qkv_projections() leaves the fused weights where they are."
            )
        if getattr(module, "resolution_idx", None) is not None and getattr(module, "s1", None) is not None:
            raise InputError(
                f"pipeline: its {what} has FreeU on, which no saved model has; expected it off. Call pipeline.disable_freeu()."
            )


@torch.no_grad()
def _try(denoiser: Any) -> None:
    """Two images at a whole and a fractional timestep through the network."""
    network, shape = denoiser.network, denoiser.latent_shape
    device = next(network.parameters()).device
    condition = denoiser.condition([0, 0]) if denoiser.class_names else None
    try:
        with evaluating(network), _eager(network):
            x_t = torch.zeros(2, *shape, device=device, dtype=torch.float32)
            output = denoiser.raw(x_t, torch.tensor([0.0, 0.5], device=device, dtype=torch.float32), condition)
    except InputError:
        raise
    except Exception as error:  # each network has errors of its own
        if is_out_of_memory(error):
            raise
        raise InputError(_why(network, shape, _failing(network, error))) from error
    if not bool(torch.isfinite(output).all()):
        check_network(network, "pipeline")
        raise InputError(
            "pipeline: its network gives NaN or infinite values at the timesteps 0 and 0.5; expected finite ones. Its time embedding or "
            "configuration does not fit a discrete-time scheduler (fourier takes the logarithm of 0): use another model."
        )
    if tuple(output.shape[1:]) not in {shape, (2 * shape[0], *shape[1:])}:
        raise InputError(
            f"pipeline: its network gives {tuple(output.shape[1:])} for images of {shape}; expected the same shape, or twice the channels "
            "(a learned variance). Correct its configuration, or use another model."
        )
    fixed = str(denoiser.scheduler_config.get("variance_type", "")).startswith("fixed")
    if fixed and not denoiser.is_latent and output.shape[1] == 2 * shape[0]:
        raise InputError(
            f"pipeline: its network gives {2 * shape[0]} channels, noise and variance, and its scheduler has variance_type "
            f"{denoiser.scheduler_config['variance_type']!r}, with which diffusers fails; expected learned or learned_range, as the "
            "network was trained. Set it in the scheduler's configuration."
        )
    if denoiser.learned_variance and output.shape[1] == shape[0]:
        raise InputError(
            f"pipeline: its scheduler has variance_type {denoiser.scheduler_config['variance_type']!r}, and its network gives {shape[0]} "
            f"channels; expected {2 * shape[0]}, noise and variance. Give the scheduler variance_type fixed_small, or use another model."
        )


def _eager(network: nn.Module) -> Any:
    """Do not compile a network that was asked to be compiled, for two images."""
    compiled = hasattr(network, "_orig_mod") or any(part._compiled_call_impl is not None for part in network.modules())
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def _failing(network: nn.Module, error: BaseException) -> str:
    """The innermost module of a network in an error's traceback, by name."""
    names, found = {id(module): name for name, module in network.named_modules()}, ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        found = names.get(id(frame.f_locals.get("self")), "") or found
    return found


def _why(network: Any, shape: tuple[int, ...], part: str) -> str:
    """Why a network may fail on its own images, where a part of it failed."""
    config, advice = getattr(network, "config", {}), "Correct its configuration, or use another model."
    factor = 2 ** (len(config.get("block_out_channels", (0,))) - 1)
    if config.get("time_embedding_type") == "learned":
        return (
            "pipeline: its network looks timesteps up in a table (time_embedding_type learned), so it takes whole ones only; noise levels "
            "between them occur here. Expected a network with a computed time embedding (positional). Use another model."
        )
    if any(side % factor for side in shape[1:]):
        advice = (
            f"Its halvings need sides divisible by {factor}: set its sample_size to such a size, and train it at that."
        )
    odd = odd_options(type(getattr(network, "_orig_mod", network)), config)
    if odd:
        advice = f"In its configuration, {odd}. {advice}"
    where = f", in {part}" if part else ""
    return f"pipeline: its network fails on images of its own size {shape}{where}; expected an output. {advice}"
