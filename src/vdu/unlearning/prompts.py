"""Forgetting what a prompt names, in a text-to-image model.

    forget    the given prompts, and those of the model's own prompts that name one of them as a whole word or phrase
    keep      the given prompts; else the model's own others (``prompts`` in ``vdu.json``); else a packaged neutral list

The model's samples are drawn under both, each prompt with the same chance. From there on a prompt is what a class is to a
class-conditional model. The forget target is the original's prediction under another prompt ("instead"), or the empty one.

A file of prompts is never taken for a prompt: a text is refused if it looks like a file or a path and there is none, or if it is also
the name of a file here.

Not guaranteed: that no kept prompt means the concept in other words.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from vdu.core.checks import hash_parameters
from vdu.core.errors import InputError, shown
from vdu.core.naming import names, words
from vdu.core.paths import given_path, like_a_file
from vdu.core.ranges import require_kind
from vdu.methods.base import nearest
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.words import TextDenoiser
from vdu.unlearning.labels import SHOWN

__all__ = ["keeping", "read_prompts", "require_told_apart", "sampled", "substitutes", "with_prompts"]


def read_prompts(given: Any, what: str) -> tuple[str, ...]:
    """Prompts from a list or a file.

    Args:
        given: a prompt, a list of prompts, or the path of a UTF-8 file with a prompt on every line; empty lines do not count. A text
            that ends in .txt, or a path at which there is a file, is that file; ~ is the home folder. Lines are prompts as they are.
        what: name of the argument, for messages.

    Returns:
        The prompts, each once, in order.

    Raises:
        InputError: if there are none, one is no text or empty, the file cannot be read, or a text is also the name of a file here or looks
            like a file that is missing.

    Examples:
        >>> read_prompts("a cat, 3.5 stars", "keep_prompts")
        ('a cat, 3.5 stars',)
    """
    listed = [given] if isinstance(given, str | Path) else given
    if not isinstance(listed, Sequence) or not all(isinstance(each, str | Path) for each in listed):
        raise InputError(
            f"{what}: got {shown(given)}; expected a prompt, a list of prompts, or a file with one on every line."
        )
    if any(isinstance(each, str) and not each.strip() for each in listed):
        raise InputError(f"{what}: got an empty prompt; expected words in each one that is given. Leave it out.")
    files_of = [(each, _file(each, what)) for each in listed]
    found = _distinct(line for each, file in files_of for line in (_lines(file, what) if file else [str(each)]))
    if not found:
        where = (
            f" in {', '.join(str(file) for _, file in files_of if file)}" if any(file for _, file in files_of) else ""
        )
        raise InputError(f"{what}: got no prompt{where}; expected at least one.")
    return found


def with_prompts(
    original: PipelineDenoiser,
    forget: str | Sequence[str],
    keep: Sequence[str] | None = None,
    instead: str | None = None,
    earlier: Sequence[str] = (),
) -> tuple[PipelineDenoiser, tuple[str, ...]]:
    """A model whose samples are drawn under the prompts to forget and to keep.

    Args:
        original: a text-to-image model.
        forget: the prompts to forget, as :func:`read_prompts` returns them.
        keep: the prompts to keep, likewise; None takes the model's own or the packaged list, without what earlier runs forgot: under
            these prompts the model draws something else by now.
        instead: what to draw in the place of the concept, or None.
        earlier: what earlier runs made the model forget.

    Returns:
        The model, and all prompts to forget.

    Raises:
        InputError: if the model is not asked in words, a prompt is both to be forgotten and to be kept, or no prompt is left to keep.
    """
    concepts = (forget,) if isinstance(forget, str) else tuple(forget)
    if not isinstance(original, TextDenoiser):
        raise InputError(
            f"--forget-prompt: got {concepts[0]!r}, and this model is not asked in words; expected a text-to-image model. Use "
            "--forget-label for a class, or --forget for images."
        )
    if wordless := [each for each in concepts if not words(each)]:
        raise InputError(f"--forget-prompt: got {wordless[0]!r}, which has no word; expected what is to be forgotten.")
    require_kind("--instead", instead, str, "a prompt")
    if instead is not None and like_a_file(instead):
        raise InputError(f"--instead: got {instead!r}, which looks like a file; expected a prompt.")
    if instead is not None and any(names(instead, each) for each in (*concepts, *earlier)):
        raise InputError(
            f"--instead: got {instead!r}, which names what is to be forgotten, or was by an earlier run; expected another prompt, or none."
        )

    def unwanted(prompt: str) -> bool:
        return any(names(prompt, concept) for concept in concepts)

    own = tuple(prompt for prompt in original.prompts if prompt)
    if keep is not None:
        kept = tuple(keep)
        both = [prompt for prompt in kept if unwanted(prompt)]
        if both:
            raise InputError(
                f"--keep-prompts: {both[0]!r} names what is to be forgotten; expected other prompts. Leave it out."
            )
    else:
        gone = [prompt for prompt in own or _neutral() if any(names(prompt, each) for each in earlier)]
        kept = tuple(prompt for prompt in own or _neutral() if not unwanted(prompt) and prompt not in gone)
    if not kept:
        raise InputError("--keep-prompts: every prompt of the model names what is to be forgotten; give some to keep.")
    forgotten = tuple(dict.fromkeys([*concepts, *(prompt for prompt in own if unwanted(prompt))]))
    return replace(original, prompts=(*kept, *forgotten)), forgotten


def keeping(model: PipelineDenoiser, concepts: Sequence[str]) -> str:
    """What is kept in words, in a line: how many prompts, and the first of them.

    Args:
        model: draws under the prompts to keep and to forget (:func:`with_prompts`).
        concepts: what is to be forgotten.

    Returns:
        The line.
    """
    kept = [each for each in model.class_names if not any(names(each, concept) for concept in concepts)]
    n, some = len(kept), ", ".join(map(repr, kept[:SHOWN]))
    return f"keeping {n} prompt{'s' * (n != 1)}: {some}{', …' * (n > SHOWN)}"


def sampled(original: PipelineDenoiser) -> PipelineDenoiser:
    """A model whose samples show what it does in general: one that is asked in words and has no prompts of its own gets the packaged ones.

    Args:
        original: any model.

    Returns:
        The model to draw from.
    """
    if isinstance(original, TextDenoiser) and not any(original.prompts):
        return replace(original, prompts=_neutral())
    return original


def substitutes(model: Any, forgotten: Sequence[str], concepts: Sequence[str], instead: str | None) -> dict[str, str]:
    """What takes the place of each prompt to forget.

    Without a given one it is the prompt to keep that is nearest for the text encoder. A given one takes the place of the phrase, between
    commas, that names the concept, or of the fewest phrases that do together. Either way the rest of the prompt, such as a style, keeps
    its meaning.

    Args:
        model: draws under the prompts to keep and to forget.
        forgotten: the prompts to forget.
        concepts: what they name.
        instead: what to draw in its place; None takes the nearest.

    Returns:
        A prompt for each.

    Examples:
        >>> substitutes(None, ["cat face, noto style", "a cat"], ["cat"], "dog")
        {'cat face, noto style': 'dog, noto style', 'a cat': 'dog'}
    """
    if instead is None:
        kept = [each for each in model.class_names if each not in forgotten]
        found = nearest(model.condition(list(forgotten)), model.condition(kept)).tolist()
        return {prompt: kept[i] for prompt, i in zip(forgotten, found, strict=True)}

    def named(phrases: Sequence[str]) -> bool:
        return any(names(", ".join(phrases), concept) for concept in concepts)

    def replaced(prompt: str) -> str:
        phrases = [each.strip() for each in prompt.split(",")]
        if any(named([each]) for each in phrases):
            return ", ".join(instead if named([each]) else each for each in phrases)
        for length in range(
            2, len(phrases) + 1
        ):  # a concept with a comma of its own: the fewest phrases that name it together
            for start in range(len(phrases) - length + 1):
                if named(phrases[start : start + length]):
                    return ", ".join([*phrases[:start], instead, *phrases[start + length :]])
        return instead

    return {prompt: replaced(prompt) for prompt in forgotten}


def require_told_apart(model: PipelineDenoiser, forgotten: Sequence[str], instead: str | None) -> None:
    """Raise an error if the model cannot tell a prompt to forget from one that stays.

    Args:
        model: draws under the prompts to keep and to forget.
        forgotten: the prompts to forget.
        instead: what to draw in their place; None is the empty prompt.

    Raises:
        InputError: naming the first.
    """
    known = {hash_parameters(model.condition([each]) or {}): each for each in forgotten}
    kept = [each for each in model.class_names if each not in forgotten]
    for flag, prompts in (("--keep-prompts", kept), ("--instead", [instead or ""])):
        for each in prompts:
            if same := known.get(hash_parameters(model.condition([each]) or {})):
                raise InputError(
                    f"{flag}: {each!r} and the prompt to forget {same!r} are one to this model's text encoder, which does not know the "
                    "words that differ; expected prompts that it can tell apart. Use other words."
                )


def _neutral() -> tuple[str, ...]:
    return _distinct(files("vdu.unlearning").joinpath("neutral_prompts.txt").read_text("utf-8").splitlines())


def _distinct(lines: Iterable[str]) -> tuple[str, ...]:
    """Lines without space around them, each once, none empty."""
    return tuple(line for line in dict.fromkeys(line.strip() for line in lines) if line)


def _file(given: str | Path, what: str) -> Path | None:
    """The file that is meant; None for a prompt.

    A word that is also a folder here is a prompt: no folder is read, and runs and images are kept in folders of such names.

    Args:
        given: a prompt or a path.
        what: name of the argument, for messages.

    Returns:
        Its path, which need not exist if it ends in .txt or was given as a ``Path``.

    Raises:
        InputError: if it cannot be told.
    """
    if isinstance(given, Path):
        return given_path(given, what)
    text = given.strip()
    place, named = os.path.expanduser(text), text.lower().endswith(".txt") and "\n" not in text
    there, path = os.path.isfile(place), "/" in text or "\\" in text
    hint = "To have it as a prompt, write it into a text file, on a line of its own, and give that."
    if there and not path and not named:
        raise InputError(f"{what}: {given!r} is also a file here; write ./{text} for the file. {hint}")
    if there or named:
        return Path(place)
    folder = path and os.path.isdir(place)
    if folder or like_a_file(text):
        got = "is a folder" if folder else "looks like a file, and there is none"
        raise InputError(f"{what}: {given!r} {got}; expected a prompt, or a file that exists. {hint}")
    return None


def _lines(path: Path, what: str) -> list[str]:
    try:
        return [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise InputError(
            f"{what}: {path} is not UTF-8 text ({error.reason}); expected a prompt on every line."
        ) from None
    except OSError as error:
        raise InputError(
            f"{what}: {path} cannot be read ({error.strerror}); expected a file with a prompt on every line."
        ) from None
