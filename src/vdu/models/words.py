"""Models that are conditioned on words: prompts to tensors, each prompt once.

A prompt is encoded by the pipeline's own ``encode_prompt``, alone in its batch, so that its bits do not depend on its neighbours. The
tensors of the latest prompts are kept on the CPU, until a text encoder or tokenizer changes. A prompt that no encoder reads to its end is
refused; diffusers would cut it. The text encoders do not train; they are on the network's device only while they work.

Samples are drawn under the model's *prompts* (``prompts`` in ``vdu.json``, or the empty prompt): they stand where a class-conditional
model has its classes. Any other prompt can be asked for by its text, and captions of images are prompts too.

Not guaranteed: that a denoiser which is kept sees every change of a text encoder at once. PyTorch does not count those through ``.data``
or by a fused optimiser; they are seen when the model is described (:mod:`vdu.models.identity`), or in a new denoiser.
"""

import inspect
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vdu.core.checks import require_labels
from vdu.core.errors import InputError, shown
from vdu.core.paths import like_a_file
from vdu.core.records import sha256_bytes
from vdu.core.types import Condition
from vdu.models.configuration import extra, require_switches
from vdu.models.identity import MASKED
from vdu.models.latent import LatentDenoiser, visiting

__all__ = ["ENCODERS", "PromptEncoder", "TextDenoiser", "reading_of", "text_parts"]

ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
RULES = (
    "added_tokens",
    "normalizer",
    "pre_tokenizer",
    "post_processor",
    "model",
)  # of tokenizer.json; the rest is set by calls
REMEMBERED = 1024  # prompts; of Stable Diffusion 1.x 240 MB


class PromptEncoder:
    """From prompts to the further arguments of a network.

    Args:
        pipeline: has the text encoders.
        encode: (pipeline, prompt, device) → tensors of that prompt, each [1, …], by argument name; the prompt None is the null
            condition of guidance.
        how: words for what else determines the tensors, such as libraries that are installed; empty for the usual way.
    """

    def __init__(
        self,
        pipeline: Any,
        encode: Callable[[Any, str | None, torch.device], dict[str, Tensor]],
        how: Sequence[str] = (),
    ) -> None:
        self._pipeline, self._encode, self._known, self._how = pipeline, encode, {}, how
        self._stamp: Any = None  # of what made the tensors that are known

    @property
    def encoders(self) -> list[nn.Module]:
        """The text encoders that the pipeline has now."""
        return [part for name in ENCODERS if (part := getattr(self._pipeline, name, None)) is not None]

    @property
    def tokenizers(self) -> list[Any]:
        """The tokenizers that the pipeline has now."""
        return [tokenizer for tokenizer, _ in self._tokenizers()]

    def described(self) -> list[Any]:
        """What determines the condition of a prompt: the text encoders, their tokenizers, and how the pipeline uses them.

        Returns:
            Modules, hashes and texts; the last is how texts become tokens, which earlier versions left out.
        """
        self._known.clear()  # also after a change that no stamp shows: what is described is what is drawn
        read = [reading_of(each) for each in self.tokenizers]
        words = [sha256_bytes(repr(sorted(each["vocabulary"].items())).encode()) for each in read]
        zeros = getattr(self._pipeline, "config", {}).get("force_zeros_for_empty_prompt")
        padding = [f"{i} {way}" for i, each in enumerate(read) for way in each["padding"]]
        masked = [MASKED] if any(map(_masked, self.encoders)) else []
        rules = [sha256_bytes(json.dumps(each["rules"], sort_keys=True).encode()) for each in read]
        most = [most for _, most in self._tokenizers()]
        return [*self.encoders, words, most, zeros, *padding, *masked, *self._how, rules]

    def _stamped(self) -> Any:
        """What differs after almost any change of a text encoder or tokenizer, without reading the weights."""
        tensors = [
            (id(value), value.data_ptr(), None if value.is_inference() else value._version)
            for part in self.encoders for value in (*part.parameters(), *part.buffers())
        ]  # fmt: skip
        readers = [(id(each), len(each), most, _padding(each)) for each, most in self._tokenizers()]
        return (
            tensors,
            readers,
            [*map(_masked, self.encoders)],
            getattr(self._pipeline, "config", {}).get("force_zeros_for_empty_prompt"),
        )

    def _tokenizers(self) -> Iterator[tuple[Any, int]]:
        """The tokenizers, each with the most tokens that are read of a prompt."""
        limit = inspect.signature(self._pipeline.encode_prompt).parameters.get("max_sequence_length")
        for name in ENCODERS:
            tokenizer = self._pipeline.components.get(name.replace("text_encoder", "tokenizer"))
            if tokenizer is not None:
                of_t5 = limit is not None and not type(tokenizer).__name__.startswith("CLIP")
                yield tokenizer, limit.default if of_t5 and limit is not None else tokenizer.model_max_length

    def _require_whole(self, prompt: str) -> None:
        """Raise an error for a prompt whose end no encoder reads; a word of a textual inversion counts as often as it has vectors."""
        expand = getattr(self._pipeline, "maybe_convert_prompt", lambda text, _: text)
        lengths = [
            (len(tokenizer(expand(prompt, tokenizer), verbose=False).input_ids), most)
            for tokenizer, most in self._tokenizers()
        ]
        if lengths and all(n > most for n, most in lengths):
            n, most = max(lengths, key=lambda each: each[1])
            raise InputError(
                f"prompt: {shown(prompt)} has {n} tokens, and this model reads {most}: the rest would be cut off. Shorten it."
            )

    def tokens(self, prompts: Sequence[str | None]) -> Condition:
        """The tokens of some prompts, for a pipeline with a single text encoder.

        Args:
            prompts: one per sample; None is the empty one.

        Returns:
            ``input_ids``, [len(prompts), tokens], and ``attention_mask`` if the text encoder uses it.
        """
        ((tokenizer, most),) = self._tokenizers()
        expand = getattr(self._pipeline, "maybe_convert_prompt", lambda text, _: text)
        for each in dict.fromkeys(prompts):
            self._require_whole(each or "")
        made = tokenizer(
            [expand(each or "", tokenizer) for each in prompts], padding="max_length", max_length=most, truncation=True,
            return_tensors="pt",
        )  # fmt: skip
        return {name: made[name] for name in ("input_ids", *(("attention_mask",) * _masked(self.encoders[0])))}

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str | None], device: torch.device) -> Condition:
        """The condition of some prompts.

        Args:
            prompts: one per sample; None is the null condition.
            device: for the text encoders, while they work.

        Returns:
            Tensors by argument name, each [len(prompts), …], on the CPU.
        """
        if self._known and self._stamp != self._stamped():
            self._known.clear()
        new = [each for each in dict.fromkeys(prompts) if each not in self._known]
        for each in new:
            self._require_whole(each or "")
        if new:
            with visiting(device, *self.encoders):
                made = {each: self._encode(self._pipeline, each, device) for each in new}
            self._stamp = self._stamped()  # a visit to another device moves the tensors
            self._known |= {each: {name: value.cpu() for name, value in found.items()} for each, found in made.items()}
        found = [self._known[each] for each in prompts]
        for each in list(self._known)[: max(0, len(self._known) - REMEMBERED)]:
            del self._known[each]
        return {name: torch.cat([each[name] for each in found]) for name in found[0]} if found else {}


@dataclass(frozen=True)
class TextDenoiser(LatentDenoiser):
    """A text-to-image model as a denoiser of latents.

    Attributes:
        words: encodes prompts.
        prompts: what samples are drawn under where nothing else is asked for.
    """

    words: Any = None
    prompts: tuple[str, ...] = ("",)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The prompts that samples are drawn under."""
        return self.prompts

    @property
    def takes_prompts(self) -> bool:
        """True: any text is a condition."""
        return True

    def condition(self, labels: Sequence[int | str | None]) -> Condition | None:
        """The condition of prompts.

        Args:
            labels: one per sample: a prompt, the index of one of ``prompts``, or None for the null condition.

        Returns:
            The network's further arguments, by name, each [batch, …].

        Raises:
            InputError: if an index is out of range.
        """
        require_labels(labels)
        strange = [
            each for each in labels if isinstance(each, bool) or not (each is None or isinstance(each, int | str))
        ]
        if strange:
            raise InputError(f"prompt: got {shown(strange[0])}; expected a prompt as text.")
        wrong = [each for each in labels if isinstance(each, int) and not 0 <= each < len(self.prompts)]
        if wrong:
            raise InputError(
                f"prompt: got the index {wrong[0]}; expected a prompt, or an index from 0 to {len(self.prompts) - 1}."
            )
        return self._encoded([self.prompts[each] if isinstance(each, int) else each for each in labels])

    def meant(self, labels: Sequence[Any]) -> list[Any]:
        """Prompts as a user gives them, unchanged; the name of a file is refused, which the model would draw as if it were a prompt."""
        found = super().meant(labels)
        for each in found:
            if (
                isinstance(each, str)
                and each not in self.prompts
                and (like_a_file(each) or os.path.isfile(each.strip()))
            ):
                raise InputError(
                    f"label: got {each!r}, which is a file here or looks like one; expected a prompt. Give each line of a file of prompts "
                    "as a label of its own."
                )
        return found

    def _encoded(self, prompts: Sequence[str | None]) -> Condition:
        return self.words(prompts, next(self.network.parameters()).device)

    def labels_of(self, seeds: Sequence[int]) -> list[int] | None:
        """Seed modulo the number of prompts.

        Args:
            seeds: one per sample.

        Returns:
            The index of a prompt per sample.
        """
        return [int(seed) % len(self.prompts) for seed in seeds]


def text_parts(
    pipeline: Any, encode: Callable[[Any, str | None, torch.device], dict[str, Tensor]], how: Sequence[str] = ()
) -> dict[str, Any]:
    """What a text-to-image pipeline gives its denoiser about words, by argument name of :class:`TextDenoiser`."""
    require_switches(pipeline, "pipeline")
    for name in ENCODERS:
        tokenizer = name.replace("text_encoder", "tokenizer")
        absent = [
            each for each in (name, tokenizer) if each in pipeline.components and pipeline.components[each] is None
        ]
        if absent and (len(absent) == 1 or name != "text_encoder_3"):  # that of Stable Diffusion 3 may be left out
            raise InputError(
                f"pipeline: has no {' and no '.join(absent)}, so it cannot read a prompt; expected both {name} and {tokenizer}. Load the "
                "whole pipeline."
            )
        if pipeline.components.get(tokenizer) is not None:
            known = [getattr(pipeline, tokenizer)(letter).input_ids for letter in "ab"]
            if known[0] == known[1]:
                raise InputError(
                    f"pipeline: its {tokenizer} does not know letters; save or download the pipeline again."
                )
            words, vectors = (
                len(getattr(pipeline, tokenizer)),
                getattr(pipeline, name).get_input_embeddings().num_embeddings,
            )
            if words > vectors:
                raise InputError(
                    f"pipeline: its {tokenizer} has {words:,} tokens, and its {name} embeddings for {vectors:,}; expected one for each. "
                    f"Save both parts of the same training, or call pipeline.{name}.resize_token_embeddings({words})."
                )
            most, read = getattr(pipeline, tokenizer).model_max_length, getattr(pipeline, name).config
            if most > (places := getattr(read, "max_position_embeddings", most)):
                raise InputError(
                    f"pipeline: its {tokenizer} lets {most:,} tokens pass (model_max_length), and its {name} reads {places}; expected at "
                    f"most as many. Set pipeline.{tokenizer}.model_max_length = {places}."
                )
    return {"words": PromptEncoder(pipeline, encode, how), "prompts": extra(pipeline, "prompts") or ("",)}


def reading_of(tokenizer: Any) -> dict[str, Any]:
    """How a tokenizer reads a prompt.

    Args:
        tokenizer: of transformers.

    Returns:
        ``vocabulary``, ``rules``, ``padding`` where it is not that of the tokenizer's class, and ``model_max_length``.
    """
    return {
        "vocabulary": tokenizer.get_vocab(),
        "rules": _rules(tokenizer),
        "padding": _own_padding(tokenizer),
        "model_max_length": tokenizer.model_max_length,
    }


def _masked(encoder: Any) -> bool:
    """Whether Stable Diffusion's pipeline hides the padding of a prompt from its text encoder."""
    return bool(getattr(encoder.config, "use_attention_mask", False))


def _rules(tokenizer: Any) -> Any:
    """How a text becomes tokens, besides the vocabulary: normaliser, merges or scores, what is added, without options that are off."""
    if not hasattr(tokenizer, "backend_tokenizer"):  # a tokenizer in Python
        merges = getattr(tokenizer, "bpe_ranks", {})
        return [type(tokenizer).__name__, [list(pair) for pair in sorted(merges, key=lambda pair: merges[pair])]]
    held = json.loads(tokenizer.backend_tokenizer.to_str())
    if isinstance(held["model"]["vocab"], dict):  # else with the scores of a unigram model
        del held["model"]["vocab"]
    added = [each for each in held["added_tokens"] if each["content"] not in tokenizer.all_special_tokens]
    return _without_empty({name: held.get(name) for name in RULES} | {"added_tokens": added})


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_empty(each) for name, each in value.items() if each not in (None, False, "", [])}
    return [_without_empty(each) for each in value] if isinstance(value, list) else value


def _own_padding(tokenizer: Any) -> list[str]:
    """How a tokenizer fills a prompt up or cuts it off, where that is not its class's own way."""
    usual, kind = inspect.signature(type(tokenizer).__init__).parameters.get("pad_token"), type(tokenizer)
    defaults = {"token": str(usual.default) if usual else "", "side": kind.padding_side, "cut": kind.truncation_side}
    return [f"{what} {value}" for what, value in _padding(tokenizer).items() if value != defaults[what]]


def _padding(tokenizer: Any) -> dict[str, str]:
    return {"token": str(tokenizer.pad_token), "side": tokenizer.padding_side, "cut": tokenizer.truncation_side}
