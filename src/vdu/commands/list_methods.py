"""``vdu list``: the methods, what data each needs, and the options that it takes."""

import sys
from dataclasses import fields
from typing import Any

from vdu.commands.methods import BY_NAME, options_of
from vdu.commands.settings import ListSettings
from vdu.methods.base import BaseMethod
from vdu.methods.defaults import DEFAULTS, METHODS

__all__ = ["run"]

_VDU_FLAGS = "--weights --alpha-bar-min --alpha-bar-max"
_OTHERS = {  # those with flags of their own: about, needs, flags
    "vdu": (
        "Variational Diffusion Unlearning, the paper's: ascent held by the weights' posterior.",
        {"forget", "posterior"},
        f"--gamma {_VDU_FLAGS}",
    ),
    "ascent": (
        "Gradient ascent on the forget set's denoising loss: VDU without its posterior.",
        {"forget"},
        _VDU_FLAGS,
    ),
    "selective-amnesia": (
        "Selective Amnesia without labels (Heng & Soh 2023): noise as a surrogate, held by a Fisher penalty.",
        {"amnesia_fisher"},
        "--ewc --retain",
    ),
}
_WORDS = {
    "forget": "forget images",
    "posterior": "a posterior (vdu posterior fisher, for example)",
    "amnesia_fisher": "a posterior (vdu posterior amnesia-fisher)",
    "retain": "images to keep: own samples, or yours with --retain",
    "own": "own samples of the model",
    "forget_model": "a copy fine-tuned on the forget images",
    "self_model": "a copy fine-tuned on own samples",
}


def run(settings: ListSettings) -> dict[str, Any]:
    """Describe the methods.

    Args:
        settings: nothing to set.

    Returns:
        name → about, needs (words), forget_only (no retained data is needed), options and the training settings that suit it.
    """
    del settings
    found: dict[str, Any] = {}
    for name in METHODS:
        if name in _OTHERS:
            about, needs, options = _OTHERS[name]
            shown = options.split()
        else:
            kind = BY_NAME[name]
            method = kind()
            about, needs = _first_sentence(kind), _needs(method)
            shown = [f"{item.name}={item.default}" for item in options_of(kind).values()]
            shown += ["--posterior (it may use one)"] if "posterior" in {item.name for item in fields(kind)} else []
        found[name] = {
            "about": ("What measured best: distillation. " if name == "auto" else "") + about,
            "needs": [_WORDS[each] for each in _WORDS if each in needs],
            "forget_only": True,
            "options": shown,
            "training": {
                key: value for key, value in DEFAULTS[name].items() if key in {"steps", "batch_size", "learning_rate"}
            },
        }
    print(
        "No method needs real retained data; those that take images to keep draw their own unless given some.",
        file=sys.stderr,
    )
    return found


def _needs(method: BaseMethod) -> set[str]:
    needs = {each for each in method.needs | method.uses if each in _WORDS}
    if {"own_forget", "classifier", "retained", "self_model", "retain"} & (method.needs | method.uses):
        needs |= {"own"}
    return needs


def _first_sentence(kind: type[BaseMethod]) -> str:
    module = sys.modules[kind.__module__].__doc__ or ""
    return " ".join(module.split("\n\n")[0].split())
