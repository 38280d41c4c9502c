"""What the command line answers to a mistake in its arguments: all that is missing, or what was meant."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

from vdu.commands.help_page import USAGE
from vdu.core import ranges
from vdu.core.errors import InputError

__all__ = ["MAY_BE_EMPTY", "left_over", "meant", "require_given", "require_no_empty", "unknown_option", "unknown_verb"]

MAY_BE_EMPTY = {"label"}  # a prompt to draw: the empty one
OTHER_WORDS: Mapping[str, tuple[str, ...]] = {
    "--batch": ("--batch-size",),
    "--bf16": ("--mixed-precision bf16",),
    "--bs": ("--batch-size",),
    "--checkpoint": ("--pipeline", "--resume-from-checkpoint latest"),
    "--class": ("--forget-class", "--label"),
    "--classes": ("--forget-class", "--label"),
    "--cpu": ("--device cpu",),
    "--cuda": ("--device cuda",),
    "--dataset": ("--data", "--forget"),
    "--ema": ("--ema-decay",),
    "--epochs": ("--steps",),
    "--ewc": ("--option ewc=VALUE",),
    "--folder": ("--output-dir",),
    "--force": ("--overwrite",),
    "--fp16": ("--mixed-precision fp16",),
    "--gamma": ("--option gamma=VALUE",),
    "--gpu": ("--device cuda",),
    "--images": ("--forget", "--data"),
    "--input": ("--pipeline", "--run", "--data"),
    "--iterations": ("--steps",),
    "--iters": ("--steps",),
    "--lr": ("--learning-rate",),
    "--model": ("--pipeline", "--before"),
    "--n": ("--n-images",),
    "--n-steps": ("--steps", "--inference-steps"),
    "--num-images": ("--n-images",),
    "--num-inference-steps": ("--inference-steps",),
    "--num-steps": ("--steps", "--inference-steps"),
    "--out": ("--output-dir", "--output"),
    "--output": ("--output-dir",),
    "--output-folder": ("--output-dir", "--output"),
    "--pretrained-model-name-or-path": ("--pipeline",),
    "--resume": ("--resume-from-checkpoint latest",),
    "--sampler": ("--scheduler",),
    "--save-to": ("--output-dir", "--output"),
    "--steps": ("--inference-steps", "--epochs"),
    "--unwanted": ("--forget",),
    "-b": ("--batch-size",),
    "-i": ("--forget", "--data"),
    "-m": ("--pipeline",),
    "-n": ("--n-images",),
    "-o": ("--output-dir", "--output"),
}
"""Words for an option in other tools → ours, the first that the verb has."""

NOT_NEEDED: Mapping[str, str] = {
    "--merge": "pipeline/ holds the whole pipeline with the low-rank corrections merged, and lora/ holds them alone; leave it out.",
}
"""Options of other tools for what is always done here."""

CLOSE = 0.75  # how alike two names must be, from 0 to 1: --learnig-rate is meant, --device is not --ewc


def meant(given: str, known: Iterable[str]) -> str | None:
    """What an unknown option stands for.

    Args:
        given: for example "--lr".
        known: the options that there are.

    Returns:
        The option, with its value where that is clear; None if nothing is near.

    Examples:
        >>> meant("--lr", ["--learning-rate", "--ewc"])
        '--learning-rate'
        >>> meant("--gpu", ["--device"])
        '--device cuda'
        >>> meant("--devise", ["--device", "--ewc"]), meant("--device", ["--ewc"])
        ('--device', None)
    """
    known = list(known)
    for each in OTHER_WORDS.get(given, ()):
        if each.split()[0] in known:
            return each
    near = get_close_matches(given, [each for each in known if each.startswith("--")], n=1, cutoff=CLOSE)
    return near[0] if near else None


def unknown_option(verb: str, given: str, options: Mapping[str, Iterable[str]]) -> str:
    """The answer to an option that a verb does not have.

    Args:
        verb: for example "unlearn".
        given: the option.
        options: of every verb.

    Returns:
        What is wrong and what to type.
    """
    if given in NOT_NEEDED:
        return f"{verb}: unknown option {given}. {NOT_NEEDED[given]}"
    found = meant(given, options.get(verb, ()))
    if found is not None:
        return f"{verb}: unknown option {given}. Did you mean {found}?"
    others = [other for other, names in options.items() if given in names]
    if others:
        return (
            f"{verb}: no option {given} here; vdu {', vdu '.join(others)} {'has' if len(others) == 1 else 'have'} it."
        )
    return f"{verb}: unknown option {given}. vdu {verb} --help-all lists the options."


def unknown_verb(given: str) -> str:
    """The answer to a verb that there is not, with all that there are.

    Args:
        given: the word in its place.

    Returns:
        What is wrong and what to type.
    """
    near = get_close_matches(given, USAGE, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"unknown command {given}.{hint} The commands are {', '.join(sorted(USAGE))}; vdu --help explains them."


def left_over(verb: str, unused: Sequence[str], tokens: Sequence[str], repeatable: Iterable[str]) -> str:
    """The answer to words that are no option's value.

    Args:
        verb: for example "pretrain".
        unused: the words.
        tokens: all that was typed.
        repeatable: the verb's options that may be given more than once.

    Returns:
        What is wrong and what to type.

    Examples:
        >>> left_over("pretrain", ["3"], ["pretrain", "mnist", "--without", "1", "3"], ["--without"])
        'pretrain: --without takes one value, and 3 follows its value. Give it again for each: --without 1 --without 3.'
        >>> left_over("report", ["c"], ["report", "b", "c"], [])
        'report: nothing takes c. Type: vdu report RUN (vdu report --help explains it).'
    """
    word = unused[0]
    place = max(i for i, each in enumerate(tokens) if each == word)
    before = list(tokens[max(place - 2, 0) : place])
    if len(before) == 2 and before[0] in set(repeatable):
        option, first = before
        return f"{verb}: {option} takes one value, and {word} follows its value. Give it again for each: {option} {first} {option} {word}."
    return f"{verb}: nothing takes {' '.join(unused)}. Type: {USAGE[verb]} (vdu {verb} --help explains it)."


def require_no_empty(tokens: Sequence[str]) -> None:
    """Refuse an empty text, as a shell makes of an unset variable: it would count as not given, and as a path it is the current folder.

    Args:
        tokens: the command line; the ``InputError`` names the option, or the verb of an argument.
    """
    for before, token in pairwise(["", *tokens]):
        name, joined, value = token.partition("=") if token.startswith("-") else ("", "", token)
        if value or (name and not joined):
            continue
        name = name or (before if before.startswith("-") and "=" not in before else f"vdu {tokens[0]}".rstrip())
        if name.lstrip("-").replace("-", "_") not in MAY_BE_EMPTY:
            ranges.require_given({name: ""}, name)


def require_given(verb: str, **given: Any) -> None:
    """Refuse a call whose arguments are missing, with all of them.

    Args:
        verb: for example "unlearn".
        **given: label of an argument → its value; what is empty is missing.

    Raises:
        InputError: with the missing ones and the form of the call.
    """
    missing = [name for name, value in given.items() if not value]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        raise InputError(
            f"{verb}: {' and '.join(missing)} {are} missing. Type: {USAGE[verb]} (vdu {verb} --help explains them)."
        )
