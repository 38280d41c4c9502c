"""Sets of prompts (or of a class-conditional model's labels), fixed before anything is drawn.

    target        name what was to be forgotten; by default the run's forgotten prompts
    paraphrases   ask for it in other words
    neighbours    ask for something like it
    others        the rest; by default the run's kept prompts
    null          the empty prompt

A file replaces or adds sets. It is TOML, or JSON with the same content:

    target = ["cat", "a cat, noto style"]
    paraphrases = ["kitty"]
    neighbours = ["dog face"]

    [classes]                       # the judges' classes that a prompt asks for, where it does not name them
    "dog face" = ["dog"]

Not guaranteed: that no kept prompt means the concept in other words.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vdu.core.class_names import composed
from vdu.core.errors import InputError, shown
from vdu.core.naming import names
from vdu.core.paths import given_path
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.words import TextDenoiser
from vdu.unlearning.prompts import with_prompts

__all__ = ["PromptSets", "asked_class", "asking", "label_sets", "prompt_sets"]

LISTED = ("target", "paraphrases", "neighbours", "others")


@dataclass(frozen=True)
class PromptSets:
    """What both models are asked for.

    Attributes:
        concepts: what was to be forgotten, as the user named it.
        target: prompts or labels that ask for it; at least one.
        others: prompts or labels to keep; at least one.
        neighbours: prompts to keep that ask for something like it.
        paraphrases: prompts that ask for it in other words.
        classes: names of the judges' classes by prompt, where they are given.
        are_labels: whether they are labels of a class-conditional model.
    """

    concepts: tuple[str, ...]
    target: tuple[str, ...]
    others: tuple[str, ...]
    neighbours: tuple[str, ...] = ()
    paraphrases: tuple[str, ...] = ()
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    are_labels: bool = False

    @property
    def drawn(self) -> dict[str, tuple[str, ...]]:
        """The sets that are drawn and counted, by name; paraphrases are an attack's."""
        found = {"target": self.target, "neighbours": self.neighbours, "others": self.others}
        found |= {} if self.are_labels else {"null": ("",)}
        return {name: each for name, each in found.items() if each}


def prompt_sets(
    model: PipelineDenoiser,
    concepts: Sequence[str],
    *,
    keep: Sequence[str] = (),
    given: Any = None,
    earlier: Sequence[str] = (),
) -> PromptSets:
    """The sets for a text-to-image model.

    Args:
        model: the original.
        concepts: the prompts that were to be forgotten.
        keep: the prompts that were to be kept; none takes the model's own or the packaged neutral ones.
        given: a file, or a mapping of the same form (see the module's first lines); None for the defaults.
        earlier: what earlier runs made the model forget, which is not among the default prompts to keep.

    Returns:
        The sets. A model without words, or prompts that contradict each other, raise an ``InputError``.
    """
    view, forgotten = with_prompts(model, list(concepts), list(keep) or None, earlier=earlier)
    kept = tuple(each for each in view.class_names if each not in forgotten)
    default = PromptSets(tuple(concepts), forgotten, kept)
    return default if given is None else _with_given(default, given)


def label_sets(model: PipelineDenoiser, classes: Sequence[str], earlier: Sequence[str] = ()) -> PromptSets | None:
    """The sets for a class-conditional model.

    Args:
        model: the original.
        classes: names of the forgotten classes.
        earlier: names of classes that earlier runs made the model forget, which it does not draw.

    Returns:
        The forgotten labels and the others, by the model's names; None if it has no labels of these names, in whatever Unicode form.
    """
    known = {composed(name): name for name in model.class_names}
    found = tuple(known[composed(each)] for each in classes if composed(each) in known)
    if model.takes_prompts or not found or len(found) < len(classes) or set(found) == set(model.class_names):
        return None
    gone = {composed(each) for each in earlier}
    others = tuple(each for each in model.class_names if each not in found and composed(each) not in gone)
    return PromptSets(found, found, others, are_labels=True)


def asking(model: PipelineDenoiser, prompts: Sequence[str]) -> PipelineDenoiser:
    """The same text-to-image model, whose samples are drawn under other prompts, each with the same chance.

    Args:
        model: the model.
        prompts: at least one.

    Returns:
        The model under these prompts.

    Raises:
        InputError: if it is not asked in words.
    """
    if not isinstance(model, TextDenoiser):
        raise InputError(
            "evaluate: got a model that is not asked in words beside one that is; expected text-to-image models alone."
        )
    return replace(model, prompts=tuple(prompts))


def asked_class(prompt: str, class_names: Sequence[str], classes: Mapping[str, Sequence[str]]) -> int | None:
    """The class of a judge that a prompt asks for.

    Args:
        prompt: the prompt or label.
        class_names: of the judge.
        classes: names of classes by prompt, where they are given.

    Returns:
        Its index: of the given class, else of the one class that the prompt names (the longer of two that contain each other; one
        whose plural or singular it has only if it names no other). None if there is no such class, or more than one.

    Examples:
        >>> asked_class("a big cat, noto style", ("cat", "big cat"), {}), asked_class("lion", ("cat", "big cat"), {})
        (1, None)
    """
    if prompt in classes:
        found = [name for name in class_names if name in classes[prompt]]
    else:
        literal = [name for name in class_names if names(prompt, name, plural=False)]
        named = literal or [name for name in class_names if names(prompt, name)]
        found = [
            name for name in named if not any(name != other and names(other, name, plural=False) for other in named)
        ]
    return list(class_names).index(found[0]) if len(found) == 1 else None


def _with_given(default: PromptSets, given: Any) -> PromptSets:
    where, found = ("prompts", given) if isinstance(given, Mapping) else _read(given)
    unknown = sorted(set(found) - {*LISTED, "classes"})
    if unknown or not found:
        raise InputError(
            f"{where}: got {', '.join(unknown) or 'nothing'}; expected some of the sets {', '.join(LISTED)}, and perhaps classes."
        )
    sets = {name: _prompts(found[name], f"{where}: {name}") for name in LISTED if name in found}
    by_prompt = found.get("classes", {})
    if not isinstance(by_prompt, Mapping):
        raise InputError(f"{where}: classes: got {shown(by_prompt)}; expected names of classes by prompt.")
    classes = {prompt: _prompts(each, f"{where}: classes of {prompt!r}") for prompt, each in by_prompt.items()}
    made = replace(default, **sets, classes=classes)
    if "others" not in sets and (rest := tuple(each for each in made.others if each not in made.neighbours)):
        made = replace(made, others=rest)
    for each in (*made.neighbours, *made.others):
        if any(names(each, concept) for concept in (*made.concepts, *made.target, *made.paraphrases)):
            raise InputError(
                f"{where}: {each!r} is among the prompts to keep, and asks for what was forgotten; expected it among target or paraphrases."
            )
        if {named.casefold() for named in classes.get(each, ())} & {concept.casefold() for concept in made.concepts}:
            raise InputError(
                f"{where}: classes: {each!r} is among the prompts to keep, and its class {classes[each][0]!r} is what was forgotten; "
                "expected another class."
            )
    if twice := sorted(set(made.neighbours) & set(made.others)):
        raise InputError(
            f"{where}: {twice[0]!r} is among neighbours and others, and would count twice; expected it in one of them."
        )
    strange = sorted(set(classes) - {each for name in LISTED for each in getattr(made, name)})
    if strange:
        raise InputError(f"{where}: classes: got {strange[0]!r}, which is in no set of prompts; expected one that is.")
    return made


def _prompts(given: Any, where: str) -> tuple[str, ...]:
    listed = [given] if isinstance(given, str) else given
    if (
        not isinstance(listed, Sequence)
        or not listed
        or not all(isinstance(each, str) and each.strip() for each in listed)
    ):
        raise InputError(f"{where}: got {shown(given)}; expected a list of texts, at least one, none empty.")
    return tuple(dict.fromkeys(each.strip() for each in listed))


def _read(given: Any) -> tuple[str, dict[str, Any]]:
    path = given_path(given, "--prompts")
    try:
        text = path.read_text("utf-8-sig")
        found = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise InputError(
            f"--prompts: {path} cannot be read ({error.strerror}); expected a file of prompt sets."
        ) from None
    except (ValueError, RecursionError) as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise InputError(f"--prompts: {path} is not {kind} ({error}); expected lists of prompts by set.") from None
    if not isinstance(found, dict):
        raise InputError(f"--prompts: {path} holds {shown(found)}; expected lists of prompts by set.")
    return str(path), found
