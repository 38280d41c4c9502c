"""``vdu list``: the methods in a table, or one of them with its options."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from shutil import get_terminal_size
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from vdu.methods import registry

if TYPE_CHECKING:
    from vdu.methods.base import BaseMethod

__all__ = ["ListSettings", "details", "run", "table"]

_MADE = frozenset({
    "forget",
    "own_forget",
    "retain",
    "surrogate",
    "instead",
})  # images that vdu unlearn has or generates
_WORDS = {
    "forget": "forget images",
    "retain": "images to keep: generated samples, or yours with --retain",
    "own": "generated samples of the model",
    "surrogate": "images of uniform noise",
    "instead": "images drawn under another label or prompt (--instead; by default none)",
    "unwanted": "a prompt (--forget-prompt)",
    "forget_model": "an auxiliary model fine-tuned on the forget images",
    "self_model": "an auxiliary model fine-tuned on generated samples",
}
_NOTE = """
Besides the forget images: vdu posterior fits a posterior. Images to keep are generated samples, or your own with --retain."""


@dataclass(frozen=True, kw_only=True)
class ListSettings:
    """The methods of vdu unlearn.

    Attributes:
        method: the method to describe; by default all.
    """

    method: str | None = None


def run(settings: ListSettings) -> dict[str, Any]:
    """Describe the methods.

    Args:
        settings: see :class:`ListSettings`.

    Returns:
        By name of the method:

        - ``summary``, and ``needs`` in words;
        - ``to_supply``, besides the forget images, and ``forget_only``, whether these are enough;
        - ``options`` with their defaults; ``options_in_words``, ``options_with_retain`` and ``options_under_labels`` have other defaults:
          where the user says in words what to forget, gives images to keep, or the model has labels and a null class;
        - ``training``, its defaults, and ``stops``, whether it has a stopping rule.

        An unknown method raises an error.
    """
    names = registry.names() if settings.method is None else (settings.method,)
    return {name: _described(name) for name in names}


def _described(name: str) -> dict[str, Any]:
    from vdu.methods.options import default_text, of_the_task, options_of

    kind = registry.get(name)
    method = _example(kind)
    needs = _needs(method)
    known = options_of(kind)
    options = [default_text(item) for item in known.values()]
    in_words, with_retain = (
        [default_text(known[each], defaults) for each in defaults]
        for defaults in (of_the_task(kind, retain=False, words=True), of_the_task(kind, retain=True, words=False))
    )
    if kind.estimator is None and any(item.name == "posterior" and item.init for item in fields(kind)):
        options.append("--posterior (optional)")
    if kind.substitutes:  # a property is true: with some options
        options.append("--instead (optional)")
    return {
        "summary": (f"The best measured method, {kind.name}. " if name == "auto" else "") + kind.summary,
        "needs": [_WORDS[each] for each in needs]
        + ([f"a posterior (vdu posterior {kind.estimator})"] if kind.estimator else []),
        "to_supply": "a posterior" if kind.estimator else "nothing",
        "forget_only": set(method.needs) <= _MADE,
        "options": options,
        "options_in_words": in_words,
        "options_with_retain": with_retain,
        "options_under_labels": [default_text(known[each], kind.label_options) for each in kind.label_options],
        "training": {key: value for key, value in asdict(kind.training).items() if value is not None},
        "stops": kind.stops,
    }


def _example(kind: "type[BaseMethod]") -> "BaseMethod":
    """The method with its defaults, with an empty posterior if it needs one."""
    from vdu.posterior.gaussian import GaussianPosterior

    given: dict[str, Any] = (
        {"posterior": GaussianPosterior(mean={}, variance={}, estimator="none")} if kind.estimator else {}
    )
    return kind(**given)


def _needs(method: "BaseMethod") -> list[str]:
    wanted = set(method.needs) | set(method.uses)
    own = {"own_forget", "classifier", "retained", "self_model", "retain"} & wanted
    return [each for each in _WORDS if each in wanted or (each == "own" and own)]


def table(found: Mapping[str, Any]) -> str:
    """The methods as a table of text.

    Args:
        found: what :func:`run` gives.

    Returns:
        The methods, as wide as the terminal; the one that "auto" stands for is marked as the default.
    """
    rows = [("method", "you must supply", "stops", "what it does")]
    rows += [
        (
            f"{name} (default)" if name == registry.AUTO else name,
            each["to_supply"],
            "early" if each["stops"] else "at the end",
            each["summary"],
        )
        for name, each in found.items()
        if name != "auto"
    ]
    widths = [max(len(row[place]) for row in rows) for place in range(3)]
    lines = []
    for *parts, what in rows:
        start = "  ".join([*(part.ljust(width) for part, width in zip(parts, widths, strict=True)), ""])
        room = max(30, get_terminal_size().columns - len(start))
        lines += wrap(what, len(start) + room, initial_indent=start, subsequent_indent=" " * len(start))
    return "\n".join([*lines, _NOTE])


def details(name: str, each: dict[str, Any]) -> str:
    """One method in full.

    Args:
        name: the requested name.
        each: its part of what :func:`run` gives.

    Returns:
        Several lines.
    """
    training = ", ".join(f"{key} {value}" for key, value in each["training"].items())
    rule = "the stopping rule may end training early" if each["stops"] else "none; the method takes all steps"
    lines = [
        name,
        f"    {each['summary']}",
        f"    needs     {'; '.join(each['needs'])}",
        f"    training  {training}",
        f"    stopping  {rule}",
    ]
    lines += [f"    --option  {option}" for option in each["options"]]
    others = (
        ("in words", each["options_in_words"]), ("with --retain", each["options_with_retain"]),
        ("with labels and a null class", each["options_under_labels"]),
    )  # fmt: skip
    lines += [f"    {when} by default {', '.join(options)}" for when, options in others if options]
    return "\n".join(lines)
