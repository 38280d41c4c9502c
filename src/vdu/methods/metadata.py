"""Checks of what a method says of itself (:class:`vdu.methods.base.Described`), before any work.

Metadata of another kind would end a run with a traceback, or have no effect: a limit that is NaN never ends one, and an option called
``steps`` never arrives, since ``vdu.unlearn`` has a setting of that name.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from functools import cached_property
from inspect import get_annotations, getattr_static
from typing import Any

from vdu.core.errors import InputError, did_you_mean, shown
from vdu.core.ranges import NOT_NEGATIVE, POSITIVE, Range
from vdu.methods.defaults import TrainingDefaults

__all__ = ["SETTINGS", "are_names", "require_metadata"]

SETTINGS = frozenset({
    "batch_size", "checkpointing_steps", "checkpoints_total_limit", "convert", "device", "ema_decay", "folder", "force", "forget",
    "forget_class", "forget_label", "forget_prompt", "full_length", "generator", "gradient_accumulation_steps", "gradient_checkpointing",
    "instead", "keep_prompts", "learning_rate", "lr_schedule", "max_grad_norm", "method", "mixed_precision", "n_own_samples", "overwrite",
    "pipeline", "progress", "report_to", "resume", "retain", "sampler", "seed", "steps", "train", "warmup_steps",
})  # fmt: skip
"""What ``vdu.unlearn`` takes for itself, so that no option of a method can have the name."""
SUBSTITUTES = ("", "asked", "words", "always")
SHARE = Range("a number above 0, and at most 100", 0, above=True, high=100, below=False)
MAPPINGS = (
    "draws", "limits", "batch_shares", "ranges", "choices", "only_with", "retain_options", "word_options", "label_options",
)  # fmt: skip
OF_OPTIONS = ("ranges", "choices", "only_with", "strength", "retain_options", "word_options", "label_options")
AFTER_PREPARE = ("limits", "draws")
COMPUTED = (property, cached_property)  # known of an object alone
Check = tuple[str, Callable[[Any], bool], str]


def require_metadata(method: Any) -> None:
    """Raise an error for metadata of another kind, and for what names an option that is not there.

    Args:
        method: a class that inherits from ``vdu.Method``, or an object of it; what depends on the options is known of an object alone.

    Raises:
        InputError: naming the first.
    """
    kind = method if isinstance(method, type) else type(method)
    options = {item.name for item in fields(kind)} | set(get_annotations(kind))
    if taken := sorted(SETTINGS & options):
        raise InputError(
            f"{kind.__name__}: the option {taken[0]!r} has the name of a setting of vdu.unlearn, which would never reach the method; "
            "expected another name."
        )
    for what, holds, expected in _checks():
        value = _known(method, what)
        if not isinstance(value, COMPUTED) and not holds(value):
            raise InputError(f"{kind.__name__}: {what}: got {_said(value)}; expected {expected}.")
    for what in OF_OPTIONS:
        named = _known(method, what)
        if unknown := sorted(map(str, set(() if isinstance(named, COMPUTED) else named) - options)):
            raise InputError(
                f"{kind.__name__}: {what}: got {shown(unknown[0])}, which is no option of the method; expected some of "
                f"{', '.join(sorted(_own(options)))}.{did_you_mean(unknown[0], options)}"
            )
    only_with = _known(method, "only_with")
    for option, (other, _) in () if isinstance(only_with, COMPUTED) else only_with.items():
        if other not in options:
            raise InputError(
                f"{kind.__name__}: only_with: {option} depends on {shown(other)}, which is no option of the method; expected some of "
                f"{', '.join(sorted(_own(options)))}."
            )
    if method.estimator is not None and "posterior" not in options:
        raise InputError(
            f"{kind.__name__}: estimator: got {shown(method.estimator)} without an option for the posterior; expected one, as in "
            "posterior: vdu.GaussianPosterior."
        )


def _checks() -> list[Check]:
    from vdu.posterior.estimators import ESTIMATORS

    return [
        ("summary", _is_line, "one sentence, as text"),
        ("training", lambda value: isinstance(value, TrainingDefaults), "a vdu.methods.defaults.TrainingDefaults"),
        ("stops", _is_switch, "True or False"),
        ("relabels", _is_switch, "True or False"),
        ("corrections", _is_switch, "True or False"),
        ("pool", NOT_NEGATIVE.holds, NOT_NEGATIVE.words),
        ("substitutes", lambda value: isinstance(value, str) and value in SUBSTITUTES, "'', 'asked', 'words' or 'always'"),
        ("part", _is_text_or_none, "what trains, as text, or None"),
        ("word_part", _is_text_or_none, "what trains, as text, or None"),
        ("estimator", lambda value: value is None or value in [*ESTIMATORS], f"one of {', '.join(ESTIMATORS)}, or None"),
        ("strength", are_names, "names of options, as a tuple"),
        *((each, _is_mapping, "a mapping with texts as its keys") for each in MAPPINGS),
        ("limits", lambda value: all(map(POSITIVE.holds, value.values())), f"{POSITIVE.words} for each observed value"),
        ("batch_shares", lambda value: all(map(SHARE.holds, value.values())), f"{SHARE.words}, for each role"),
        ("draws", lambda value: all(map(_is_mapping, value.values())), "a mapping for each role: name → 'image' or 'element'"),
        ("ranges", lambda value: all(isinstance(each, Range) for each in value.values()), "a vdu.core.ranges.Range for each option"),
        ("choices", lambda value: all(map(are_names, value.values())), "a tuple of texts for each option"),
        ("only_with", lambda value: all(map(_is_condition, value.values())), "(another option, its values) for each option"),
    ]  # fmt: skip


def _known(method: Any, what: str) -> Any:
    """Metadata, or the property that gives them: of a class, and what nobody reads before ``prepare``, on which it may depend."""
    value = getattr_static(method, what)
    return value if isinstance(value, COMPUTED) and what in AFTER_PREPARE else getattr(method, what)


def _own(options: set[str]) -> set[str]:
    return {each for each in options if not each.startswith("_")}


def _said(value: Any) -> str:
    """A value, or the first of a mapping's that may be wrong, in few words."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{shown(name)}: {shown(each)}" for name, each in list(value.items())[:3]) + "}"
    return shown(value)


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and "\n" not in value


def _is_switch(value: Any) -> bool:
    return isinstance(value, bool)


def _is_text_or_none(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_collection(value: Any) -> bool:
    return isinstance(value, Collection) and not isinstance(value, str | bytes)


def are_names(value: Any) -> bool:
    """Whether something is a collection of texts, and not one text."""
    return _is_collection(value) and all(isinstance(each, str) for each in value)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(each, str) for each in value)


def _is_condition(value: Any) -> bool:
    return (
        isinstance(value, tuple | list) and len(value) == 2 and isinstance(value[0], str) and _is_collection(value[1])
    )
