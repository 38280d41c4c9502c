"""The form of a method for a model: what it needs there, and what takes the place of the concept."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vdu.core.class_names import class_index, require_own_name
from vdu.core.errors import InputError, shown
from vdu.core.processes import say
from vdu.core.types import Condition
from vdu.diffusion.sampling import Sampler
from vdu.methods.base import BaseMethod
from vdu.methods.defaults import LOOP_DEFAULTS
from vdu.methods.options import option_text, options_of
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.lora import lora_rank
from vdu.replay.auxiliaries import needs_selection
from vdu.unlearning.chosen_method import ChosenMethod, as_given
from vdu.unlearning.labels import label_indices
from vdu.unlearning.prompts import substitutes

if TYPE_CHECKING:
    from vdu.unlearning.plan import Plan

__all__ = [
    "conditions",
    "for_model",
    "holds_prompts",
    "in_closed_form",
    "in_place_of",
    "instead_of",
    "require_no_steps",
    "without_effect",
]


def for_model(
    chosen: ChosenMethod,
    original: PipelineDenoiser,
    prompts: Mapping[str, Any],
    labels: tuple[Any, ...],
    train: str | None,
) -> tuple[ChosenMethod, str]:
    """The chosen method in its form for a model, and what trains.

    Args:
        chosen: the method.
        original: the model.
        prompts: what was said in words (:func:`vdu.unlearning.unwanted.prompts_of`), with what takes the place of the concept.
        labels: classes of the model to forget.
        train: the part that the user named, or None.

    Returns:
        Both.

    Raises:
        InputError: if the method cannot use what takes the place of the concept, lacks it, changes another part, or cannot train low-rank
            corrections.
    """
    if train is not None:
        lora_rank(train)  # refuses what names no part
    if labels and original.takes_prompts:
        raise InputError(
            f"--forget-label: got {labels[0]!r} for a text-to-image model; expected --forget-prompt, which says in words what to forget."
        )
    method, instead = chosen.method, prompts.get("instead")
    kind, part = getattr(method, "substitutes", ""), getattr(method, "part", None)
    if instead is not None and not kind:
        with_others = getattr(type(method), "substitutes", "")  # a property, if it depends on the options
        raise InputError(
            f"--instead: the method {method.name} draws nothing in its place{' with these options' if with_others else ''}; leave it out"
            f"{f', or choose others (`vdu list {method.name}`, docs/methods.md)' if with_others else ''}."
        )
    if isinstance(method, BaseMethod):
        method = method.for_model(original, instead=instead is not None)
        chosen = _under_labels(replace(chosen, method=method)) if method.relabels else replace(chosen, method=method)
    if kind and (instead is not None or (kind == "words" and "forget" in prompts)):
        for name, value in getattr(method, "idle_options", dict)().items():
            raise InputError(
                f"--option {name}={value}: has no effect where something takes the place of the concept, whose predictions are the target; "
                "leave it out."
            )
    if instead is not None and not original.class_names:
        raise InputError("--instead: got one for an unconditional model; expected a model with labels or prompts.")
    _require_another(
        original, prompts, [original.class_names[each] for each in label_indices(original, labels)] if labels else ()
    )
    if instead is None and kind == "always" and getattr(original, "null_class", 0) is None:
        raise InputError(
            f"--instead is missing: the method {method.name} leads to the predictions without a class, and this model has no null class; "
            "expected a class that takes the place of the forgotten one (--instead LABEL)."
        )
    if part is not None and train not in {None, "all", part}:
        raise InputError(f"--train: got {train}, but the method {method.name} changes {part} alone; leave it out.")
    trained = part or train or ("forget" in prompts and getattr(method, "word_part", None)) or "all"
    if lora_rank(trained) and not getattr(method, "corrections", True):
        raise InputError(
            f"--train: got {trained}, but with these options the method {method.name} measures the model's own weights before it trains, "
            "and low-rank corrections have none that say anything then; expected a part of the weights (--train attention), or all of them."
        )
    return chosen, trained


def _under_labels(chosen: ChosenMethod) -> ChosenMethod:
    """With the options that hold for labels, but for those that were given; of an object, which is taken as it is, they are recorded."""
    kind, theirs = type(chosen.method), chosen.method.label_options
    told = {each.partition("=")[0] for each in chosen.options}
    kept = [options_of(kind)[name] for name in theirs if name in chosen.given and name not in told]
    texts = tuple(option_text(item, getattr(chosen.method, item.name)) for item in kept)
    if others := [
        text for item, text in zip(kept, texts, strict=True) if getattr(chosen.method, item.name) != theirs[item.name]
    ]:
        say(as_given(chosen.method.name, others, "for a model with labels and a null class"))
    method = replace(chosen.method, **{name: value for name, value in theirs.items() if name not in chosen.given})
    return replace(chosen, method=method, options=chosen.options + texts)


def instead_of(original: PipelineDenoiser, prompts: Mapping[str, Any]) -> Any:
    """What takes the place of the concept.

    Args:
        original: the model.
        prompts: with what the user named, under "instead".

    Returns:
        A prompt, or the index of a class; None if nothing was named.

    Raises:
        InputError: if it is no prompt, or no class.
    """
    instead = prompts.get("instead")
    if instead is None:
        return None
    if not original.takes_prompts:
        require_own_name(instead, original.shared_names, original.class_names, "--instead")
        return class_index(instead, original.class_names, "--instead")
    if not isinstance(instead, str):
        raise InputError(f"--instead: got {shown(instead)}; expected a prompt.")
    return instead


def _require_another(original: PipelineDenoiser, prompts: Mapping[str, Any], forgotten: Collection[str]) -> None:
    """Raise an error if a class to forget is to take its own place; prompts are compared where they are read."""
    instead = instead_of(original, prompts)
    if isinstance(instead, int) and original.class_names[instead] in forgotten:
        raise InputError(
            f"--instead: got {original.class_names[instead]}, which is to be forgotten; expected another class."
        )


def in_closed_form(method: Any) -> bool:
    """Whether a method is solved at once; objects that only look like a method take steps."""
    return isinstance(method, BaseMethod) and method.in_closed_form()


def require_no_steps(method: Any, training: Mapping[str, Any]) -> None:
    """Raise an error for settings of the training loop with a method in closed form, where they would have no effect.

    Args:
        method: the method.
        training: the given settings.

    Raises:
        InputError: naming the first that is not the method's default.
    """
    for name, value in training.items():
        default = LOOP_DEFAULTS[name] if name in LOOP_DEFAULTS else getattr(method.training, name)
        if in_closed_form(method) and value is not None and value != default:
            raise InputError(
                f"{name}: got {value}, but the method {method.name} is solved in closed form; leave it out."
            )


def without_effect(plan: "Plan", asked: Mapping[str, Any]) -> list[str]:
    """The arguments about generated samples that have no effect, since none are drawn.

    Args:
        plan: the plan.
        asked: the arguments of :func:`vdu.unlearning.unlearn.unlearn` by name.

    Returns:
        Names of those among the number of samples and the sampler that were given and are not the method's default.
    """
    method, default = plan.chosen.method, plan.chosen.method.training
    wanted, draws = {*method.needs, *method.uses}, _draws_own(plan)
    samples = draws or bool(wanted & {"sampler", "instead"}) or (asked["forget"] is None and bool(plan.forget_label))
    usual = Sampler(scheduler=default.scheduler, steps=default.inference_steps)
    found = (
        ["the number of own samples"]
        if not draws and asked["n_own_samples"] not in (None, default.n_own_samples)
        else []
    )
    return found + (["the sampler"] if not samples and asked["sampler"] not in (None, usual) else [])


def _draws_own(plan: "Plan") -> bool:
    """Whether the model draws samples of its own, under all of its classes or prompts."""
    method = plan.chosen.method
    return needs_selection(method, plan.retain is not None) or "self_model" in {*method.needs, *method.uses}


def holds_prompts(plan: "Plan") -> bool:
    """Whether the method, or a posterior that is fitted for it, draws or solves anything under the prompts to keep."""
    return _draws_own(plan) or "kept" in plan.chosen.method.uses or plan.chosen.fits is not None


def in_place_of(plan: "Plan") -> dict[str, str]:
    """The prompt whose predictions take the place of each prompt to forget (:func:`vdu.unlearning.prompts.substitutes`).

    Args:
        plan: the plan.

    Returns:
        By prompt to forget; empty for a method that has no use for it, or if nothing is to be forgotten in words.
    """
    if getattr(plan.chosen.method, "substitutes", "") != "words" or "forget" not in plan.prompts:
        return {}
    return substitutes(
        plan.original, plan.forget_label, plan.prompts["forget"], instead_of(plan.original, plan.prompts)
    )


def conditions(plan: "Plan", model: PipelineDenoiser | None = None) -> dict[str, Condition | None]:
    """The conditions that a method may use, as attributes of :class:`vdu.core.types.Tools`.

    Args:
        plan: the plan.
        model: makes the conditions; by default the original, which chooses the substitutes either way.

    Returns:
        ``substitute``; ``unwanted``, if the method uses it or each prompt has a substitute of its own; ``kept``, if the method uses it.

    Raises:
        InputError: if it uses them and no label or prompt is to be forgotten.
    """
    method, original, instead = plan.chosen.method, plan.original, instead_of(plan.original, plan.prompts)
    kind, found = getattr(method, "substitutes", ""), {}
    _require_another(original, plan.prompts, plan.classes)
    make = (model or original).condition
    if instead is not None or kind == "always":
        nothing = "" if original.takes_prompts and getattr(method, "empty_prompt", False) else None
        found["substitute"] = make([nothing if instead is None else instead])
    if getattr(method, "relabels", False):
        found["substitute"] = make([None])
    if places := in_place_of(plan):
        found["unwanted"], found["substitute"] = (make(list(each)) for each in (places, places.values()))
    if "unwanted" in method.uses:
        if not plan.forget_label:
            raise InputError(
                f"--forget-prompt is missing: the method {method.name} needs what is to be forgotten in words, not images."
            )
        found["unwanted"] = make(list(plan.forget_label))
        found["kept"] = make([name for name in original.class_names if name not in plan.forget_label])
    return found
