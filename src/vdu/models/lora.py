"""What trains: all weights, a part of them, or low-rank corrections of the attention layers (LoRA, Hu et al. 2021, arXiv 2106.09685).

    W = W₀ + s B A        A [rank, in], B [out, rank], s = 1; B starts at 0, so the model starts where it was

    all                  every weight
    attention            queries, keys, values and outputs of every attention layer
    cross-attention      those that read words: cross-attention, or in joint attention (SD 3, FLUX) the projections of the words
    cross-attention-kv   of these the keys and values
    non-cross-attention  every linear layer and convolution but those of cross-attention (ESD-u)
    text-encoder         the text encoder alone (:mod:`vdu.models.reading`)
    lora:RANK            low-rank corrections of the layers of ``attention``

Weights that do not train are shared with the original, so a copy costs the memory of what trains alone, and the original is the same
network with the corrections left out. Normalisations belong to no part: behind frozen layers PyTorch 2.13 crashes in their backward pass.

A LoRA file is in diffusers' format: ``pytorch_lora_weights.safetensors`` with ``unet.NAME.lora_A.weight`` and so on.
``load_lora_weights`` reads it for Stable Diffusion 1.x to 3 and FLUX; diffusers has no LoRA for the other kinds, for which there is
:func:`merged`.
"""

import copy
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from vdu.core.checks import hash_parameters
from vdu.core.errors import InputError, shown
from vdu.core.rng import generator
from vdu.models.reading import TEXT_ENCODER, ReadingNetwork

__all__ = [
    "LORA_FILE",
    "LowRank",
    "check_train",
    "corrections_sha256",
    "lora_rank",
    "low_rank_layers",
    "merged",
    "save_lora",
    "sharing_copy",
    "trained_weights",
    "training_copy",
    "without_corrections",
]

PARTS = ("all", "attention", "cross-attention", "cross-attention-kv", "non-cross-attention", TEXT_ENCODER)
LORA_FILE = "pytorch_lora_weights.safetensors"
OWN = ("to_q", "to_k", "to_v", "to_out.0")
OF_WORDS = (
    "add_q_proj",
    "add_k_proj",
    "add_v_proj",
    "to_add_out",
)  # joint attention: image and words each have their own


class LowRank(nn.Linear):
    """A linear layer with a low-rank correction: x ↦ (W₀ + s B A) x + b. Made from a layer in place by :meth:`on`.

    Attributes:
        lora_A: A, [rank, in].
        lora_B: B, [out, rank].
        lora_scale: s.
    """

    lora_A: nn.Parameter
    lora_B: nn.Parameter
    lora_scale: float

    @classmethod
    def on(cls, layer: nn.Linear, rank: int, source: torch.Generator) -> None:
        """Give a layer a correction that is 0 at first.

        Args:
            layer: changed in place; its own weights keep their names.
            rank: at most the smaller side of W₀.
            source: draws A, uniform within ±1/√in.
        """
        bound = 1 / math.sqrt(layer.in_features)
        first = torch.rand(rank, layer.in_features, generator=source) * 2 * bound - bound
        made = cast("Any", layer)
        made.__class__ = cls
        made.lora_A = nn.Parameter(first.to(layer.weight))
        made.lora_B = nn.Parameter(layer.weight.new_zeros(layer.out_features, rank))
        made.lora_scale = 1.0

    def forward(self, input: Tensor) -> Tensor:
        """W x + b, without forming W."""
        low = functional.linear(functional.linear(input, self.lora_A), self.lora_B)
        return functional.linear(input, self.weight, self.bias) + self.lora_scale * low

    def full(self) -> Tensor:
        """W₀ + s B A, [out, in]."""
        return self.weight + self.lora_scale * self.lora_B @ self.lora_A


def training_copy(network: nn.Module, train: str, *, seed: int = 0) -> nn.Module:
    """A copy of a network in which what is asked for trains, and the rest is frozen and shares the original's memory.

    Args:
        network: unchanged.
        train: one of "all", "attention", "cross-attention", "cross-attention-kv", "non-cross-attention" and "lora:RANK".
        seed: of the corrections' first values.

    Returns:
        The copy; its trainable parameters are those that require a gradient. A part that the network lacks is refused
        (:func:`check_train`).
    """
    check_train(network, train)
    rank = lora_rank(train)
    if rank is None and train == "all":
        return copy.deepcopy(network)
    if train == TEXT_ENCODER:
        return _sharing(network, {id(value) for value in cast("ReadingNetwork", network).text_encoder.parameters()})
    layers = _layers(network, "attention" if rank is not None else train)
    if rank is None:
        return _sharing(network, {id(value) for layer in layers.values() for value in layer.parameters()})
    made = _sharing(network, set())
    for name in layers:
        LowRank.on(cast("nn.Linear", made.get_submodule(name)), rank, generator(seed, "lora", _own_name(name)))
    return made


def trained_weights(network: nn.Module, train: str) -> nn.Module:
    """The network with gradients for those of its own weights that a training changes, for a posterior of them.

    Args:
        network: unchanged.
        train: as for :func:`training_copy`; of low-rank corrections the corrected weights are meant.

    Returns:
        The network itself for "all", else a copy in the same memory. A part that the network lacks is refused (:func:`check_train`).
    """
    check_train(network, train)
    if train == "all":
        return network
    made, rank = _sharing(network, set()), lora_rank(train)
    if train == TEXT_ENCODER:
        cast("ReadingNetwork", made).text_encoder.requires_grad_(True)
        return made
    for layer in _layers(made, train if rank is None else "attention").values():
        layer.requires_grad_(True)
        if rank is not None and layer.bias is not None:
            layer.bias.requires_grad_(False)
    return made


def check_train(network: nn.Module, train: str) -> None:
    """Raise an error for a part that a network does not have, before any work.

    Args:
        network: the network.
        train: as for :func:`training_copy`.

    Raises:
        InputError: if the part is unknown or the network has none, weights of it are frozen (of corrected ones some, in a network that is
            not frozen as a whole) or have hooks, or the rank is above the size of a layer.
    """
    rank = lora_rank(train)
    for name, value in network.named_parameters():
        if value._backward_hooks or getattr(value, "_post_accumulate_grad_hooks", None):
            raise InputError(
                f"pipeline: {name} of its network has a hook on its gradient, which the copy that trains does not have, so that it would "
                "have no effect; expected none. Call remove() of the handle that its registration returned; requires_grad_(False) freezes "
                "a weight."
            )
    if train == "all":  # frozen parts stay as they are
        return
    if train == TEXT_ENCODER:
        if not isinstance(network, ReadingNetwork):
            raise InputError(f"train: got {train!r} for a {type(network).__name__}; expected one with a text encoder.")
        frozen = sum(not value.requires_grad for value in network.text_encoder.parameters())
        if frozen:
            raise InputError(
                f"train: got {train!r}, and {frozen} of its weights are frozen (requires_grad is False); expected all of them to train. "
                "Call requires_grad_(True) on pipeline.text_encoder, or train another part."
            )
        return
    layers = _layers(network, "attention" if rank is not None else train)
    if not layers:
        found = [part for part in PARTS if part == "all" or (part != TEXT_ENCODER and _layers(network, part))]
        found += ["lora:RANK"] if len(found) > 1 else []
        raise InputError(
            f"train: got {train!r}, and this {type(network).__name__} has no such layers, so nothing would train; "
            f"expected one of {', '.join(found)}."
        )
    weights = [value for layer in layers.values() for value in layer.parameters()]
    fixed = sum(not layer.weight.requires_grad for layer in layers.values())
    if rank is not None and fixed and any(value.requires_grad for value in network.parameters()):
        raise InputError(
            f"train: got {train!r}, and {fixed} of the {len(layers)} weights that it corrects are frozen (requires_grad is False), and "
            "would change in the merged pipeline; expected none of them to be frozen, or the whole network. Call requires_grad_(True) on "
            "the layers, or train another part."
        )
    if rank is None and (frozen := sum(not value.requires_grad for value in weights)):
        raise InputError(
            f"train: got {train!r}, and {frozen} of the {len(weights)} weights of these layers are frozen (requires_grad is False); "
            "expected all of them to train. Call requires_grad_(True) on the layers, or train another part."
        )
    for name, layer in layers.items():
        if rank is not None and rank > min(layer.weight.shape):
            raise InputError(
                f"train: got rank {rank}, above the size of the layer {name} ({layer.out_features}×{layer.in_features}); "
                f"expected at most {min(min(each.weight.shape) for each in layers.values())}."
            )


def lora_rank(train: str) -> int | None:
    """The rank of "lora:RANK", or None for another part.

    Args:
        train: what trains.

    Returns:
        The rank.

    Raises:
        InputError: if it is no such part.
    """
    kind, _, rank = train.partition(":") if isinstance(train, str) else ("", "", "")
    if kind == "lora" and rank.isdecimal() and len(rank) < 10 and int(rank) >= 1:
        return int(rank)
    if not isinstance(train, str) or train not in PARTS:
        raise InputError(f"train: got {shown(train)}; expected one of {', '.join(PARTS)}, or lora:RANK such as lora:8.")
    return None


def low_rank_layers(network: nn.Module) -> dict[str, LowRank]:
    """The layers with a low-rank correction, by name; {} for a network without."""
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, LowRank)}


def corrections_sha256(network: nn.Module) -> str:
    """SHA-256 of the low-rank corrections alone, whose base weights belong to the original."""
    layers = low_rank_layers(network).items()
    return hash_parameters({
        f"{name}.{part}": getattr(layer, part) for name, layer in layers for part in ("lora_A", "lora_B")
    })


def without_corrections(network: nn.Module) -> nn.Module:
    """The network that the corrections are added to: the same weights in the same memory, frozen."""
    made = _sharing(network, set())
    for layer in low_rank_layers(made).values():
        del layer.lora_A, layer.lora_B, layer.lora_scale
        cast("Any", layer).__class__ = nn.Linear
    return made


def merged(network: nn.Module) -> nn.Module:
    """A network with plain layers in the place of corrected ones, W = W₀ + s B A.

    Args:
        network: unchanged.

    Returns:
        A copy with memory of its own; the network itself if it has no corrections.
    """
    layers = low_rank_layers(network)
    if not layers:
        return network
    made = copy.deepcopy(without_corrections(network))
    for name, layer in layers.items():
        cast("nn.Linear", made.get_submodule(name)).weight.data = layer.full().detach()
    return made.requires_grad_(True)


def sharing_copy(network: nn.Module) -> nn.Module:
    """A copy with its own values of what trains; what is frozen shares the network's memory."""
    return _sharing(network, {id(value) for value in network.parameters() if value.requires_grad})


def save_lora(network: nn.Module, folder: Path, part: str) -> Path:
    """Write the corrections as diffusers does.

    Args:
        network: with corrections.
        folder: gets ``pytorch_lora_weights.safetensors``; made if needed.
        part: the network's name in its pipeline, "unet" or "transformer".

    Returns:
        The file.

    Raises:
        InputError: if the network has none.
    """
    from safetensors.torch import save_file

    layers = low_rank_layers(network)
    if not layers:
        raise InputError(
            "save_lora: the model was not trained with LoRA; expected train='lora:RANK'. Save its pipeline instead."
        )
    tensors = {}
    for name, layer in layers.items():  # diffusers takes s = 1 where a file has no alpha
        own = f"{part}.{_own_name(name)}"
        tensors[f"{own}.lora_A.weight"] = layer.lora_A.detach().cpu().contiguous()
        tensors[f"{own}.lora_B.weight"] = (layer.lora_scale * layer.lora_B.detach()).cpu().contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{LORA_FILE}"
    save_file(tensors, temporary, metadata={"format": "pt"})
    return temporary.replace(folder / LORA_FILE)


def _own_name(name: str) -> str:
    """The name of a module in the network itself, where torch.compile wraps it."""
    return name.replace("_orig_mod.", "")


def _layers(network: nn.Module, part: str) -> dict[str, Any]:
    """The layers of a part of a network, by name; all linear but for those of "non-cross-attention"."""
    if part == "non-cross-attention":
        others = _layers(network, "cross-attention")
        layers = {name: each for name, each in network.named_modules() if isinstance(each, nn.Linear | nn.Conv2d)}
        return {name: layer for name, layer in layers.items() if name not in others} if others else {}
    found: dict[str, Any] = {}
    for name, module in network.named_modules():
        if not hasattr(module, "to_q"):
            continue
        of_words = [*(OWN if getattr(module, "is_cross_attention", False) else ()), *OF_WORDS]
        wanted: Iterable[str] = (*OWN, *OF_WORDS) if part == "attention" else of_words
        if part == "cross-attention-kv":
            wanted = [each for each in of_words if each in {"to_k", "to_v", "add_k_proj", "add_v_proj"}]
        inside = dict(module.named_modules())
        for each in wanted:
            layer = inside.get(each)
            found |= {f"{name}.{each}": layer} if isinstance(layer, nn.Linear) else {}
    return found


def _sharing(network: nn.Module, copied: set[int]) -> nn.Module:
    """A copy whose frozen weights share the original's memory, and whose chosen weights (by ``id``) are its own and train."""
    memo: dict[int, object] = {
        id(value): nn.Parameter(value.detach(), requires_grad=False)
        for value in network.parameters()
        if id(value) not in copied
    }
    memo |= {id(value): value for value in network.buffers()}
    made = copy.deepcopy(network, memo)
    for name, value in made.named_parameters():
        value.requires_grad_(id(network.get_parameter(name)) in copied)
    return made
