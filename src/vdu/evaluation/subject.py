"""What is evaluated: two models, what was to be forgotten, and what conditional models are asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from vdu.core.class_names import class_index
from vdu.core.errors import InputError
from vdu.data.forget_source import class_names
from vdu.data.images import ImageSet
from vdu.data.overlap import PixelHashes
from vdu.evaluation.models import READER, OpenModel
from vdu.evaluation.options import EvaluationOptions
from vdu.evaluation.prompt_sets import PromptSets, asked_class, asking, label_sets, prompt_sets
from vdu.evaluation.records import WarningRecord
from vdu.judges.classifier import load_judge
from vdu.judges.judging import judge_place
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.identity import SCHEDULE, differences

__all__ = ["Subject", "about_models", "by_name", "classes_to_count", "of_labels", "sets_in_words"]

LEVELS = {*SCHEDULE, "alpha_bars", "scaling", "prediction_type"}  # images from the same noise are then not alike


@dataclass(frozen=True, eq=False)
class Subject:
    """What is evaluated.

    Attributes:
        before: the original.
        after: the model that was made from it.
        retrained: a model trained without the forget set, if there is one.
        forget: the forget set.
        classes: the forget classes as the judge calls them.
        sets: what conditional models are asked for.
        trained_on: hashes of the retained images of the runs that made the models.
        forgotten_before: classes that the original had been made to forget by earlier runs.
    """

    before: OpenModel
    after: OpenModel
    retrained: OpenModel | None
    forget: ImageSet
    classes: list[str]
    sets: PromptSets | None
    trained_on: PixelHashes | None = None
    forgotten_before: tuple[str, ...] = ()

    @cached_property
    def models(self) -> dict[str, PipelineDenoiser]:
        """The models by name."""
        found = {"original": self.before, "unlearned": self.after, "retrained": self.retrained}
        return {name: each.denoiser for name, each in found.items() if each is not None}

    @property
    def in_words(self) -> bool:
        """Whether they are asked with prompts, of which each set has samples of its own."""
        return self.sets is not None and not self.sets.are_labels

    @property
    def shown(self) -> PipelineDenoiser:
        """The original as a fallback classifier sees it: under prompts that stay and prompts to forget, which it is to tell apart."""
        if self.sets is None or self.sets.are_labels:
            return self.models["original"]
        return asking(self.models["original"], (*self.sets.drawn["others"], *self.sets.drawn["target"]))

    def asked(self, name: str) -> dict[str, PipelineDenoiser]:
        """The models whose samples are drawn under a set of prompts; the models themselves without prompts."""
        if self.sets is None or self.sets.are_labels:
            return self.models
        return {who: asking(model, self.sets.drawn[name]) for who, model in self.models.items()}


def sets_in_words(
    original: PipelineDenoiser,
    concepts: Sequence[str],
    keep: Sequence[str],
    options: EvaluationOptions,
    earlier: Sequence[str] = (),
) -> PromptSets | None:
    """What the models are asked for in words.

    Args:
        original: the original.
        concepts: what was to be forgotten, in words.
        keep: prompts that the run kept.
        options: of the evaluation, with its own prompts.
        earlier: what earlier runs made the original forget.

    Returns:
        The sets of prompts, or None if nothing was to be forgotten in words.

    Raises:
        InputError: if there are prompts, and nothing was to be forgotten in words.
    """
    if concepts:
        return prompt_sets(original, concepts, keep=keep, given=options.prompts, earlier=earlier)
    if options.prompts is not None:
        raise InputError(
            "--prompts: got prompts, and nothing was to be forgotten in words; expected a run of `vdu unlearn --forget-prompt`, or "
            "--forget-prompt beside two text-to-image pipelines."
        )
    return None


def classes_to_count(options: EvaluationOptions, sets: PromptSets | None, forgotten: list[str]) -> list[str]:
    """The forget classes as the judge calls them.

    Args:
        options: of the evaluation; its own classes come first.
        sets: what the models are asked for in words, if they are; the classes that the prompts name come next.
        forgotten: the classes of the forget set.

    Returns:
        Their names.

    Raises:
        InputError: if a given judge has classes for some concepts and not for others.
    """
    if options.forget_class or sets is None:
        return list(options.forget_class) or forgotten
    if options.judge is None:
        return list(sets.concepts)
    names = _classes_of(options.judge)
    found = {each: asked_class(each, names, sets.classes) for each in sets.concepts}
    unknown = [each for each, i in found.items() if i is None]
    if unknown and len(unknown) < len(found):
        raise InputError(
            f"--judge: has a class for some of what was to be forgotten, and none for {', '.join(map(repr, unknown))}, which would count "
            f"as gone; its classes are {', '.join(names[:20])}. Name all of the judge's classes (--forget-class), or what the prompts ask "
            "for ([classes] in --prompts)."
        )
    return [names[i] for i in sorted({i for i in found.values() if i is not None})] or list(sets.concepts)


def by_name(images: ImageSet, options: EvaluationOptions) -> EvaluationOptions:
    """The options with the forget classes by name, where they were given by number.

    Args:
        images: the forget set.
        options: of the evaluation.

    Returns:
        The same, unless the images are of named classes and neither they nor a given judge call their classes by these numbers. A
        number of no class is refused with an ``InputError``.
    """
    named, given = images.class_names or (), set(options.forget_class)
    if len(named) < 2 or not given or not all(each.isdecimal() for each in given) or given & set(named):
        return options
    if options.judge is not None and given <= set(_classes_of(options.judge)):
        return options
    return replace(options, forget_class=tuple(named[class_index(each, named)] for each in options.forget_class))


def _classes_of(judge: Path | str) -> tuple[str, ...]:
    return load_judge(judge_place(judge)[0])[0].class_names


def of_labels(
    original: PipelineDenoiser, images: ImageSet, options: EvaluationOptions, earlier: Sequence[str] = ()
) -> tuple[EvaluationOptions, list[str], PromptSets | None]:
    """What images say of the forgotten classes, where nothing was to be forgotten in words.

    Args:
        original: the original.
        images: the forget set.
        options: of the evaluation.
        earlier: what earlier runs made the original forget.

    Returns:
        The options, with classes of several by name where they were given by number; the classes of the images, if they are a
        class-conditional model's; and its labels, if it is asked with them.
    """
    options, own = by_name(images, options), class_names(images)
    sets = label_sets(original, own, earlier)
    return options, own if sets else [], sets or label_sets(original, options.forget_class, earlier)


def about_models(subject: Subject) -> tuple[WarningRecord, ...]:
    """Warnings of what the models are, whatever their samples show.

    Args:
        subject: the models.

    Returns:
        Of each model one for equal weights or different options, and one for another text encoder; and one if the noise levels differ.
    """
    before, found = subject.before, []
    for name, other in (("after", subject.after), ("retrained", subject.retrained)):
        options = [] if other is None else differences(before.denoiser, other.denoiser)
        reads_otherwise, others = READER in options, [each for each in options if each != READER]
        named = {"options": ", ".join(others)} if others else {}
        if other is not None and other.sha256 == before.sha256 and not reads_otherwise:
            found.append(WarningRecord("same_weights", named))
        elif named:
            found.append(WarningRecord("different_options", {"model": name, **named}))
        if reads_otherwise:
            found.append(WarningRecord("different_text_encoder", {"model": name}))
        if name == "after" and LEVELS & set(options):
            first, second = before.denoiser.prediction_type, subject.after.denoiser.prediction_type
            found.append(WarningRecord("different_schedules", {"before": first, "after": second}))
    return tuple(found)
