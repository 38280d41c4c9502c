"""What a model is: the one description behind cache keys, checks on resume, and checks that a record belongs to a model.

Everything counts that determines a model's samples: weights, the options of the networks and text encoders, ᾱ, the prediction type, the
factor on timesteps, classes and null class, and the scheduler's sampling options. Arrays count by value. An option at its default does
not count, so that a version of diffusers or transformers with one more option describes the same model in the same words; the device does
not count.

ᾱ is described by the scheduler's own options where diffusers gives it from them, and by its values elsewhere: the last bits of a computed
ᾱ differ between machines, and a run may be evaluated on another one than it was made on.
"""

import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from vdu.core.checks import hash_parameters
from vdu.core.records import sha256_bytes
from vdu.core.types import Denoiser
from vdu.diffusion.sampling import SCHEDULERS, same_levels, scheduler_over
from vdu.diffusion.schedule import NoiseSchedule
from vdu.models.configuration import EXTRAS

__all__ = [
    "configuration_sha256",
    "differences",
    "identity",
    "is_recorded_configuration",
    "parts_sha256",
    "recorded_identities",
    "trained_part",
    "weights_sha256",
]

SCHEDULE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
ELSEWHERE = {
    "prediction_type",
    "timestep_spacing",
    "stochastic_sampling",
}  # described as an own entry; always chosen by the sampler
OF_DECODERS = {
    "is_decoder",
    "num_decoder_layers",
    "scale_decoder_outputs",
    "tie_word_embeddings",
    "use_cache",
}  # of T5; an encoder reads none of them, and versions of transformers write them differently
CLEANED = "captions are cleaned"  # of PixArt, where the libraries for it are installed; earlier versions left it out
MASKED = "padding is masked"  # by Stable Diffusion, where its text encoder's use_attention_mask is on; likewise
_ABSENT = object()
BLOCK = 2**20  # integers that are summed at a time
_OF_BLOCKS = [
    2 * int(each) + 1
    for each in torch.randint(2**62, (4096,), generator=torch.Generator().manual_seed(1), device="cpu")
]
Memory = WeakKeyDictionary[nn.Module, tuple[Any, str]]  # of hashes, with what would change beside them
_known: Memory = WeakKeyDictionary()
_known_read: Memory = WeakKeyDictionary()


def identity(denoiser: Denoiser) -> str:
    """SHA-256 of everything that determines a model's samples.

    Args:
        denoiser: the model; its weights are hashed once, and again only after they have changed.

    Returns:
        64 hexadecimal digits.
    """
    return _digest(_described(denoiser))


def recorded_identities(denoiser: Denoiser) -> set[str]:
    """The identities that a record of a model may have: that of this version, and that of earlier ones.

    Args:
        denoiser: the model.

    Returns:
        Each as :func:`identity` gives it.
    """
    described = _described(denoiser)
    return {_digest(each) for each in (described, *_former(described))}


def configuration_sha256(denoiser: Denoiser) -> str:
    """The identity without the values of the weights: the same weights under another schedule make other images.

    Args:
        denoiser: the model.

    Returns:
        64 hexadecimal digits.
    """
    return _digest(_described(denoiser, weights=False))


def differences(first: Denoiser, second: Denoiser) -> list[str]:
    """What differs in the identities of two models besides the weights of their networks.

    Args:
        first: a model.
        second: another one.

    Returns:
        Names, sorted: options of the networks and of the schedulers (those that define ᾱ only if it differs), fields of the
        denoisers, and "text encoder" or "autoencoder's weights" where its weights differ. What samples are drawn under does not count.
    """
    one, two = (_by_name(_described(each, weights=False)) | _parts(each) for each in (first, second))
    names = {name for name in one | two if one.get(name, _ABSENT) != two.get(name, _ABSENT)}
    a, b = first.schedule, second.schedule
    if a.scaling == b.scaling and torch.equal(a.alpha_bars, b.alpha_bars):
        names -= {*SCHEDULE, "alpha_bars", "scaling"}
    return sorted(names)


def _by_name(described: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a description on one level, without the network's weights."""
    found = {name: value for name, value in described.items() if name != "prompts"}
    network, schedule, sampling = (found.pop(name, {}) for name in ("network", "schedule", "scheduler_config"))
    return found | network["options"] | schedule | sampling


def trained_part(denoiser: Denoiser) -> str:
    """What a cache key of something that was trained, or differentiated, has besides the identity.

    Args:
        denoiser: the model.

    Returns:
        SHA-256 of the names of what trains; empty where everything does.
    """
    names, every = sorted(denoiser.trainable()), sorted(name for name, _ in denoiser.network.named_parameters())
    return "" if names == every else _digest(names)


def weights_sha256(network: nn.Module) -> str:
    """SHA-256 of a network's weights and buffers (:func:`vdu.core.checks.hash_parameters` of its state).

    Args:
        network: hashed once in a process, and again only after a tensor has changed; that is seen from a checksum of its
            bytes, which costs as much as the hash where the processor has instructions for SHA-256, and less elsewhere.

    Returns:
        64 hexadecimal digits.
    """
    network = getattr(network, "_orig_mod", network)  # of torch.compile
    return _hashed(network, network.state_dict(), _known)


def _hashed(network: nn.Module, tensors: dict[str, Tensor], memory: Memory) -> str:
    stamp = [(name, tuple(value.shape), value.dtype, _sum(value)) for name, value in tensors.items()]
    known = memory.get(network)
    if known is None or known[0] != stamp:
        known = memory[network] = (stamp, hash_parameters(tensors))
    return known[1]


def parts_sha256(denoiser: Denoiser) -> str | None:
    """SHA-256 of the weights of a model's parts besides its network: what reads its prompts, and its autoencoder.

    Args:
        denoiser: the model.

    Returns:
        64 hexadecimal digits; None for a model of pixels that is not asked in words.
    """
    found = _parts(denoiser)
    return _digest(found) if found else None


def _parts(denoiser: Any) -> dict[str, list[str]]:
    words, autoencoder = (getattr(denoiser, name, None) for name in ("words", "autoencoder"))
    encoders = getattr(words, "encoders", [])
    named = {"text encoder": encoders, "autoencoder's weights": [] if autoencoder is None else [autoencoder]}
    return {name: [_read_sha256(each) for each in parts] for name, parts in named.items() if parts}


def _read_sha256(part: nn.Module) -> str:
    """SHA-256 of a part's weights as they are read from files: in float32, whatever their precision is here."""
    part = getattr(part, "_orig_mod", part)  # of torch.compile
    tensors = part.state_dict()
    if all(value.dtype == torch.float32 for value in tensors.values() if value.is_floating_point()):
        return weights_sha256(part)
    return _hashed(part, _InFloat32(tensors), _known_read)


class _InFloat32(dict[str, Tensor]):
    """Tensors that are converted one by one as they are read, so that no second copy of a large model is made."""

    def __getitem__(self, name: str) -> Tensor:
        value = super().__getitem__(name)
        return value.float() if value.is_floating_point() else value


def is_recorded_configuration(pipeline: Any, denoiser: Denoiser, recorded: str) -> bool:
    """Whether a record's hash of a configuration is that of a model.

    Args:
        pipeline: the model as a pipeline.
        denoiser: the same as a denoiser.
        recorded: from a record of this version, or of an earlier one, which hashed all options.

    Returns:
        Whether it is.
    """
    described = _described(denoiser, weights=False)
    known = {_digest(each) for each in (described, *_former(described))}
    return recorded in known.union(_earlier(denoiser.network, pipeline.scheduler))


def _sum(tensor: Tensor) -> tuple[Any, ...]:
    """A checksum of a tensor's bytes, and its version, which most changes in place raise."""
    # words of 32 bits times random ones of 64, modulo 2⁶⁴: with places as weights an even number of changed signs cancelled
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    whole = flat[: len(flat) // 4 * 4]
    aligned = whole.clone() if whole.data_ptr() % 4 else whole
    version = None if tensor.is_inference() else tensor._version
    words, total = aligned.view(torch.int32), 0
    weights = _weights(words.device)
    for i, block in enumerate(words.split(BLOCK)):
        total += _OF_BLOCKS[i % len(_OF_BLOCKS)] * int((block.long() * weights[: len(block)]).sum())
    return version, total % 2**64, flat[len(whole) :].tolist()


@cache
def _weights(device: torch.device) -> Tensor:
    source = torch.Generator().manual_seed(0)
    return torch.randint(-(2**63), 2**63 - 1, (BLOCK,), generator=source, device="cpu").to(device)


def _digest(described: Any) -> str:
    return sha256_bytes(json.dumps(described, sort_keys=True, allow_nan=True).encode())


def _described(model: Any, weights: bool = True) -> dict[str, Any]:
    """The fields of a denoiser by value; those at their defaults are left out."""
    found: dict[str, Any] = {}
    for item in fields(model):
        value = getattr(model, item.name)
        if item.name == "schedule":
            found[item.name] = _schedule(value, model.scheduler_config)
        elif item.name == "scheduler_config":
            found[item.name] = _sampling(model)
        elif item.default is MISSING or _plain(value, weights) != _plain(item.default, weights):
            found[item.name] = _plain(value, weights)
    return found | ({} if "scheduler_config" in found else {"wrapper": type(model).__name__})


def _sampling(model: Any) -> dict[str, Any]:
    """The options with which a model is sampled, by value.

    A scheduler that has no ``clip_sample`` does not clip, and one that has it clips by default, so that to leave out what is at its
    default would describe both in the same words. Latents are clipped by nothing but a scheduler that is told to.

    Returns:
        Those that are not at their defaults, and whether pixels are not clipped, or latents are.
    """
    config = model.scheduler_config
    found = _options(config, _sampling_defaults())
    if getattr(model, "is_latent", False):
        return found | ({"clip_sample": True} if config.get("clip_sample") else {})
    unclipped = "clip_sample" not in config and model.schedule.scaling != "flow"
    return found | ({"clip_sample": False} if unclipped else {})


def _former(described: dict[str, Any]) -> list[dict[str, Any]]:
    """As earlier versions described a model: without the options of its text encoders, and before without its tokenizers' rules too."""
    if "words" not in described:
        return []
    plain = [each for each in described["words"] if each not in (CLEANED, MASKED)]
    words = [{**each, "options": {}} if isinstance(each, Mapping) else each for each in plain]
    return [described | {"words": each} for each in (plain, words, words[:-1])]


def _plain(value: Any, weights: bool = True) -> Any:
    """A value as JSON has it: numbers as floats, arrays as lists, modules and tensors as hashes."""
    if hasattr(value, "described"):  # what encodes words
        return _plain(value.described(), weights)
    if isinstance(value, nn.Module):
        value = getattr(value, "_orig_mod", value)
        config: Any = getattr(value, "config", {})
        if hasattr(config, "to_diff_dict"):  # of transformers, which is no mapping
            options = _options(config.to_dict(), _text_defaults(type(config)))
        else:
            options = _options(config if isinstance(config, Mapping) else {}, _defaults(type(value)))
        return {"options": options} | ({"weights": weights_sha256(value)} if weights else {})
    if isinstance(value, Tensor):
        return hash_parameters({"": value})
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        return float(value)
    if hasattr(value, "tolist"):
        return _plain(value.tolist(), weights)
    if isinstance(value, Mapping):
        return {str(name): _plain(each, weights) for name, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each, weights) for each in (value if isinstance(value, list | tuple) else sorted(value))]
    return _described(value, weights) if is_dataclass(value) else f"{type(value).__module__}.{type(value).__name__}"


def _options(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are known and not at their default, by value."""
    known = {name: _plain(config[name]) for name in defaults if name in config}
    return {name: value for name, value in known.items() if value != _plain(defaults[name])}


def _defaults(kind: type) -> dict[str, Any]:
    parameters = inspect.signature(kind.__init__).parameters.values()
    return {each.name: None if each.default is each.empty else each.default for each in parameters}


def _text_defaults(kind: Any) -> dict[str, Any]:
    """The options of a class of configurations of transformers, with their defaults, but for those that every class has."""
    from transformers import PretrainedConfig

    made = kind().to_dict()
    named = _defaults(kind).keys() - _defaults(PretrainedConfig).keys()
    derived = made.keys() - PretrainedConfig().to_dict().keys()  # from other options, such as T5's dense_act_fn
    names = (named | derived) - OF_DECODERS
    return {name: made[name] for name in names if name in made}


def _sampling_defaults() -> dict[str, Any]:
    """The options of the schedulers that draw, with their defaults, but for those that define ᾱ."""
    import diffusers

    found: dict[str, Any] = {}
    for kind in (*SCHEDULERS.values(), "FlowMatchEulerDiscreteScheduler"):
        found = _defaults(getattr(diffusers, kind)) | found
    return {name: value for name, value in found.items() if name not in ELSEWHERE.union(SCHEDULE)}


def _schedule(schedule: NoiseSchedule, config: Mapping[str, Any]) -> Any:
    import diffusers

    if schedule.scaling != "flow" and same_levels(scheduler_over(schedule, "DDPMScheduler", config), schedule):
        known = _defaults(diffusers.DDPMScheduler)
        return _options(config, {name: known[name] for name in SCHEDULE})
    return {"scaling": schedule.scaling, "alpha_bars": schedule.alpha_bars.tolist()}


def _earlier(network: Any, scheduler: Any) -> Iterator[str]:
    """Hashes of all options, as earlier versions recorded them: with those that diffusers filled in, and without."""
    for filled in (True, False):
        parts = {
            name: {
                key: value
                for key, value in config.items()
                if not key.startswith("_") and key not in EXTRAS
                and (filled or key not in config.get("_use_default_values", ()))
            }
            for name, config in (("unet", getattr(network, "config", {})), ("scheduler", scheduler.config))
        }  # fmt: skip
        yield sha256_bytes(json.dumps(parts, sort_keys=True, default=str).encode())
