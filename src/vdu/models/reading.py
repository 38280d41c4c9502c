"""Training a text encoder: a network that reads the prompts itself.

    ε(x_t, t, y) = ε_θ(x_t, t, e_φ(y))          y the tokens of a prompt; φ trains, θ is frozen

Elsewhere a prompt is encoded once (:mod:`vdu.models.words`). While the text encoder trains, the condition is the prompt's tokens, and the
encoder works at every step. In the new pipeline both parts are what plain diffusers expects: the network as it was, and the text encoder
with new weights.

Not guaranteed: the bits of the other way, since a batch of prompts is encoded at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

import torch
from torch import Tensor, nn

from vdu.core.errors import InputError
from vdu.core.types import Condition
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.words import TextDenoiser

__all__ = ["TEXT_ENCODER", "ReadingDenoiser", "ReadingNetwork", "in_training"]

TEXT_ENCODER = "text-encoder"
WORDS = "encoder_hidden_states"


class ReadingNetwork(nn.Module):
    """A network of latents, timesteps and words, with the text encoder that makes the words from tokens.

    Attributes:
        network: ε_θ.
        text_encoder: e_φ.
    """

    def __init__(self, network: nn.Module, text_encoder: nn.Module) -> None:
        super().__init__()
        self.network, self.text_encoder = network, text_encoder

    def described(self) -> list[nn.Module]:
        """What it is, for :mod:`vdu.models.identity`: its parts."""
        return [self.network, self.text_encoder]

    @property
    def config(self) -> Any:
        """The configuration of ε_θ."""
        return self.network.config

    @property
    def _supports_gradient_checkpointing(self) -> bool:
        return bool(getattr(self.network, "_supports_gradient_checkpointing", False))

    def enable_gradient_checkpointing(self) -> None:
        """That of ε_θ, which has most of the activations."""
        cast("Any", self.network).enable_gradient_checkpointing()

    def disable_gradient_checkpointing(self) -> None:
        """Undo :meth:`enable_gradient_checkpointing`."""
        cast("Any", self.network).disable_gradient_checkpointing()

    def forward(self, x_t: Tensor, timestep: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The raw output of ε_θ under some prompts.

        Args:
            x_t: noised latents, [batch, …].
            timestep: [batch].
            input_ids: tokens of each prompt, [batch, tokens].
            attention_mask: which of them count, likewise; None if all do.

        Returns:
            Like ``x_t``.
        """
        words = self.text_encoder(input_ids, attention_mask=attention_mask)[0]
        return self.network(x_t, timestep, **{WORDS: words}).sample


@dataclass(frozen=True)
class ReadingDenoiser(TextDenoiser):
    """A text-to-image model whose conditions are tokens, and whose network is a :class:`ReadingNetwork`."""

    def _encoded(self, prompts: Sequence[str | None]) -> Condition:
        return self.words.tokens(prompts)


def in_training(original: PipelineDenoiser, train: str) -> PipelineDenoiser:
    """A model in the form in which it is trained.

    Args:
        original: the model; the result shares its memory.
        train: what trains (:mod:`vdu.models.lora`).

    Returns:
        The model itself, unless its text encoder trains.

    Raises:
        InputError: if it has no text encoder, or makes more of its prompts than the words of a single one, or that one is not in float32.
    """
    if train != TEXT_ENCODER:
        return original
    if not isinstance(original, TextDenoiser):
        raise InputError(
            f"train: got {train!r}, and this model is not asked in words; expected a text-to-image model. Train another part."
        )
    encoders, null = original.words.encoders, original.condition([None]) or {}
    if set(null) == {WORDS} and len(encoders) == 1:
        tokens, device = original.words.tokens([None]), next(encoders[0].parameters()).device
        with torch.no_grad():
            words = encoders[0](**{name: value.to(device) for name, value in tokens.items()})[0]
        if words.shape == null[WORDS].shape and torch.allclose(words.cpu(), null[WORDS], rtol=1e-3, atol=1e-4):
            others = sorted({str(value.dtype) for value in encoders[0].parameters()} - {"torch.float32"})
            if others:
                raise InputError(
                    f"train: got {train!r}, and the text encoder has weights in {', '.join(others)}; expected torch.float32. Call "
                    "pipeline.text_encoder.to(torch.float32)."
                )
            known: dict[str, Any] = {each.name: getattr(original, each.name) for each in fields(original)}
            known["network"] = ReadingNetwork(original.network, encoders[0])
            return ReadingDenoiser(**known)
    raise InputError(
        f"train: got {train!r}, and this model reads its prompts in more ways than one ({len(encoders)} text encoder"
        f"{'s' * (len(encoders) != 1)}; {', '.join(sorted(null))}); expected Stable Diffusion 1.x or 2.x. cross-attention-kv changes what "
        "the network makes of words in every kind."
    )
