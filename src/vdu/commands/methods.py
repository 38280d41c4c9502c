"""The methods by name: what ``vdu unlearn --method`` and ``vdu list`` know. A new method is a line here."""

from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from vdu.commands.posterior import load_posterior
from vdu.commands.settings import UnlearnSettings
from vdu.core.errors import InputError
from vdu.core.types import Method
from vdu.diffusion.schedule import NoiseSchedule
from vdu.methods.anchor import FunctionAnchor
from vdu.methods.base import BaseMethod
from vdu.methods.bounded import BoundedPlasticity
from vdu.methods.conflict_free import ConflictFree
from vdu.methods.defaults import METHODS
from vdu.methods.distillation import RetainDistillation
from vdu.methods.erasediff import EraseDiff
from vdu.methods.esd import ESD
from vdu.methods.finetune import FineTune
from vdu.methods.retrack import Retrack
from vdu.methods.salun import SalUn
from vdu.methods.selective_amnesia import SelectiveAmnesia
from vdu.methods.siss import SISS
from vdu.methods.vdu import VDU

__all__ = ["BY_NAME", "make_method", "options_of"]

BY_NAME: dict[str, type[BaseMethod]] = {
    "auto": RetainDistillation,
    "distillation": RetainDistillation,
    "retrack": Retrack,
    "anchor": FunctionAnchor,
    "bounded": BoundedPlasticity,
    "conflict-free": ConflictFree,
    "esd": ESD,
    "salun": SalUn,
    "erasediff": EraseDiff,
    "siss": SISS,
    "finetune": FineTune,
}

_LEVELS = {"weights", "schedule_steps", "beta_start", "beta_end", "alpha_bar_min", "alpha_bar_max"}
FLAGS = {
    "vdu": {"gamma", *_LEVELS},
    "ascent": _LEVELS,
    "selective-amnesia": {"ewc"},
}  # of methods that have no --option


def make_method(settings: UnlearnSettings) -> Method:
    """The method that the settings ask for.

    Args:
        settings: method, posterior, γ, schedule and method options.

    Returns:
        The method.

    Raises:
        InputError: if there is no such method, it needs a posterior and there is none or the reverse, or an option is unknown.
    """
    if settings.method not in METHODS:  # a settings object made in Python or from a table
        raise InputError(f"method: got {settings.method!r}; expected one of {', '.join(METHODS)}.")
    _require_read(settings)
    if settings.method in BY_NAME:
        return _from_options(settings)
    if settings.option:
        raise InputError(
            f"--option: got {', '.join(settings.option)}, but the method {settings.method} has flags of its own (--gamma, --ewc, …) "
            "and no other options. Use those."
        )
    ascent = settings.method == "ascent"
    if ascent and settings.posterior is not None:
        raise InputError(
            f"--posterior: got {settings.posterior}, but ascent is the method without a regulariser and would not look at it. "
            "Leave it out, or use --method vdu."
        )
    estimator = "amnesia-fisher" if settings.method == "selective-amnesia" else "fisher"
    if settings.posterior is None and not ascent:
        n_train = " --n-train N" if estimator == "fisher" else ""
        raise InputError(
            f"--posterior is missing, which the method {settings.method} needs; make one with "
            f"`vdu posterior {estimator} --pipeline {settings.pipeline}{n_train} --output-dir OUT` (no training data needed)."
        )
    posterior = None if ascent or settings.posterior is None else load_posterior(settings.posterior)
    if settings.method == "selective-amnesia":
        assert posterior is not None
        return SelectiveAmnesia(posterior, replay="self" if settings.retain else "none", ewc=settings.ewc)
    return VDU(
        posterior=posterior,
        gamma=0.0 if ascent else settings.gamma,
        weights=settings.weights,
        schedule=NoiseSchedule.linear(settings.schedule_steps, settings.beta_start, settings.beta_end),
        alpha_bar_range=(settings.alpha_bar_min, settings.alpha_bar_max),
    )


def options_of(kind: type[BaseMethod]) -> dict[str, Any]:
    """A method's own settings that are plain values: name → field of its dataclass."""
    hidden = {"tools", "schedule", "posterior"}
    return {
        item.name: item
        for item in fields(kind)
        if item.init and item.name not in hidden and not item.name.startswith("_")
    }


def _require_read(settings: UnlearnSettings) -> None:
    """Refuse a flag of one method that was given to another."""
    defaults = {item.name: item.default for item in fields(UnlearnSettings)}
    for name in sorted(set().union(*FLAGS.values()) - FLAGS.get(settings.method, set())):
        if (got := getattr(settings, name)) != defaults[name]:
            readers = " and ".join(method for method, flags in FLAGS.items() if name in flags)
            raise InputError(
                f"--{name.replace('_', '-')}: got {got}, but the method {settings.method} would not look at it; {readers} would. "
                "Leave it out; `vdu list` names the options of every method."
            )


def _from_options(settings: UnlearnSettings) -> BaseMethod:
    kind = BY_NAME[settings.method]
    known = options_of(kind)
    given: dict[str, Any] = {}
    for each in settings.option:
        name, equals, text = each.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or name not in known:
            near = get_close_matches(name, known, n=1)
            advice = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}."
            raise InputError(
                f"--option: got {each!r}; expected NAME=VALUE with an option of {settings.method}: {advice}"
            )
        given[name] = _value(text.strip(), known[name].default, each)
    if settings.posterior and "posterior" not in {item.name for item in fields(kind)}:
        raise InputError(
            f"--posterior: got {settings.posterior}, but the method {settings.method} would not look at it. Leave it out."
        )
    if settings.posterior:
        given["posterior"] = load_posterior(settings.posterior)
    return kind(**given)


def _value(text: str, default: Any, whole: str) -> Any:
    """An option's text as its default's type."""
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(default, tuple):
            return tuple(float(each) for each in text.strip("()[]").split(","))
        if default is None:
            return float(text)
        return type(default)(text)
    except (ValueError, KeyError):
        raise InputError(f"--option: got {whole!r}; expected a value such as {default!r}.") from None
