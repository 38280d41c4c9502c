"""The method that a user chose, by its name, as a class or as an object, with its options."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from vdu.core.errors import InputError, shown
from vdu.core.paths import given_path
from vdu.core.processes import say
from vdu.methods import registry
from vdu.methods.base import BaseMethod
from vdu.methods.options import checked, differing, of_the_task, option_text, options_of
from vdu.posterior.gaussian import GaussianPosterior
from vdu.unlearning.fit_posterior import load_posterior

__all__ = ["ChosenMethod", "as_given", "choose"]


@dataclass(frozen=True, kw_only=True)
class ChosenMethod:
    """A method that is ready, but for a posterior that is still to be fitted.

    Attributes:
        method: the object; with an empty posterior where one is to be fitted.
        asked: what the user gave: a name, or the name of the class.
        options: the options that were given, NAME=VALUE as on the command line.
        given: their names; of an object all, which is taken as it is.
        posterior: the posterior in use, or None.
        posterior_path: the file or folder that it was read from, or None.
        fits: the estimator of the posterior to be fitted, or None.
    """

    method: Any
    asked: str
    options: tuple[str, ...] = ()
    given: frozenset[str] = frozenset()
    posterior: GaussianPosterior | None = None
    posterior_path: Path | None = None
    fits: str | None = None


def as_given(name: str, options: Sequence[str], where: str) -> str:
    """What is printed of a method object whose options are not those that its name would have had.

    Args:
        name: of the method.
        options: those that differ, as NAME=VALUE.
        where: its other defaults hold, such as "in words".

    Returns:
        Two sentences.
    """
    return (
        f"vdu: the method is an object, so its options are taken as they are: {', '.join(options)}. By its name, {name} would have "
        f"its defaults {where}."
    )


def choose(
    method: Any, given: Mapping[str, Any], *, others: frozenset[str], retain: bool, words: bool = False
) -> ChosenMethod:
    """The chosen method.

    Args:
        method: a name, a class, or an object.
        given: keywords that are no settings of the training: the options of a named method or class, and ``posterior``.
        others: the names of all other keywords, for hints in messages.
        retain: whether the user gave images to keep.
        words: whether the user says in words what is to be forgotten.

    Returns:
        The method and what to record of it.

    Raises:
        InputError: if there is no such method or option.
    """
    if isinstance(method, str):
        kind, asked = registry.get(method), method
    elif isinstance(method, type) and issubclass(method, BaseMethod):
        kind, asked = method, method.name
    elif isinstance(method, BaseMethod) or _looks_like_one(method):
        if isinstance(method, BaseMethod):
            registry.require_whole(method)
            method.require_effects()
        _require_known(given, {}, type(method), others, made=True)
        texts: tuple[str, ...] = ()
        if isinstance(method, BaseMethod):
            texts = differing(method, of_the_task(type(method), retain=retain, words=words))
            if others_here := [each for each in texts if each not in differing(method)]:
                say(as_given(method.name, others_here, "in words" if words else "with images to keep"))
        posterior = getattr(method, "posterior", None)
        given_names = frozenset(vars(method))
        return ChosenMethod(method=method, asked=method.name, options=texts, given=given_names, posterior=posterior)
    else:
        raise InputError(
            f"method: got {shown(method)}; expected a name (vdu list shows them), or a class or an object that inherits from vdu.Method."
        )
    registry.require_whole(kind)
    options = dict(given)
    takes_posterior = any(item.name == "posterior" and item.init for item in fields(kind))
    posterior, path = _posterior(options.pop("posterior", None))
    if posterior is not None and not takes_posterior:
        raise InputError(
            f"--posterior: got {path or shown(posterior)}, but the method {kind.name} does not use a posterior. Leave it out."
        )
    known = options_of(kind)
    _require_known(options, known, kind, others, made=False)
    values: dict[str, Any] = {name: checked(known[name], value) for name, value in options.items()}
    texts = tuple(option_text(known[name], value) for name, value in values.items() if value is not None)
    fits = kind.estimator if posterior is None else None
    names = frozenset(values)
    values = of_the_task(kind, retain=retain, words=words) | values
    if posterior is not None or fits:
        values["posterior"] = posterior or GaussianPosterior(mean={}, variance={}, estimator="none")
    made = kind(**values)
    registry.require_whole(made)
    made.require_effects()
    return ChosenMethod(
        method=made, asked=asked, options=texts, given=names, posterior=posterior, posterior_path=path, fits=fits
    )


def _looks_like_one(method: Any) -> bool:
    """Whether an object has a method's parts without inheriting from the base class."""
    parts = ("name", "identity", "needs", "training", "losses", "prepare")
    return not isinstance(method, type) and all(hasattr(method, part) for part in parts)


def _posterior(given: Any) -> tuple[GaussianPosterior | None, Path | None]:
    if given is None or isinstance(given, GaussianPosterior):
        return given, None
    if not isinstance(given, str | Path):
        raise InputError(
            f"posterior: got {shown(given)}; expected a GaussianPosterior, or the file or run folder of `vdu posterior`."
        )
    path = given_path(given, "posterior")
    return load_posterior(path), path


def _require_known(
    given: Mapping[str, Any], options: Mapping[str, Any], kind: type, others: frozenset[str], *, made: bool
) -> None:
    """Raise an error for a keyword that neither unlearn nor the method has.

    Raises:
        InputError: naming the first, with the nearest name.
    """
    name = getattr(kind, "name", kind.__name__)
    for each in given:
        if each in options:
            continue
        if made and hasattr(kind, each):
            raise InputError(
                f"{each}: is an option of the method, which is given as an object; set it there: {kind.__name__}({each}=…)."
            )
        near = get_close_matches(each, [*options, *others], n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the options of the method {name} are {', '.join(options)}."
        raise InputError(f"unlearn: got an unexpected keyword argument {each!r}; {hint}")
