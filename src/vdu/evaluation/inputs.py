"""What the options of an evaluation name, loaded and checked before anything is drawn: judges, real images, feature networks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from vdu.core.class_names import class_key
from vdu.core.errors import InputError
from vdu.core.records import sha256_file
from vdu.core.room import require_room
from vdu.data.forget_source import class_names, has_captions
from vdu.data.images import ImageSet
from vdu.data.overlap import PixelHashes, shared, without_copies
from vdu.evaluation.models import OpenModel
from vdu.evaluation.options import EvaluationOptions
from vdu.evaluation.prompt_sets import PromptSets, asked_class
from vdu.evaluation.records import WarningRecord
from vdu.evaluation.references import (
    has_labels_of,
    load_reference,
    others_of,
    reference_images,
    told_apart,
    unshared_reference,
    without_known_labels,
    without_labels,
)
from vdu.evaluation.subject import Subject
from vdu.evaluation.suite import LoadedImages, load_real_images, real_images
from vdu.evaluation.words import CrossJudge, cross_judge
from vdu.judges.fallback import require_enough
from vdu.judges.judging import Judging, given_judges, judge_place
from vdu.metrics.feature_networks import FeatureNetwork, find_feature_network

__all__ = [
    "Fixed",
    "Given",
    "fix",
    "judge_hashes",
    "load_given",
    "reference_left",
    "require_judge_samples",
    "require_known_classes",
    "require_samples",
    "require_usable",
    "seen_by_judge",
    "trained_on_reference",
]

FEWEST_IN_REFERENCE = 12  # two halves of 6, which precision and recall need


@dataclass(frozen=True, eq=False)
class Given:
    """What the options name, as it was loaded.

    Attributes:
        judging: given judges; None if a classifier is to be trained.
        real: real images: of the classes to keep, and held-out ones.
        reference: what distances are measured against; None for the filtered original.
        network: the feature network; None if the judge's features are meant.
        cross: a second judge of conditional models, for another property of the same images.
    """

    judging: Judging | None
    real: LoadedImages
    reference: ImageSet | None
    network: FeatureNetwork | None
    cross: CrossJudge | None


def load_given(
    options: EvaluationOptions,
    models: Sequence[OpenModel | None],
    sets: PromptSets | None,
    classes: list[str],
    forgotten: list[str],
) -> Given:
    """Load what the options name, and refuse all that can be refused before the forget set is there.

    Args:
        options: of the evaluation.
        models: the original and the others; None for one that is not there.
        sets: what they are asked for, if they are conditional.
        classes: the forget classes as the judge calls them.
        forgotten: the classes of the forget set.

    Returns:
        What the options name.

    Raises:
        InputError: if something is missing, or does not fit the first model, the original.
    """
    known = [each.denoiser for each in models if each is not None]
    for each in known:
        options.sampler.make(each)
    judging = given_judges(known[0], classes, judge=options.judge, second_judge=options.second_judge)
    _check_only_name(options, judging, forgotten)
    shape = known[0].image_shape
    require_room("--n-images", options.n_images, shape)
    real = load_real_images(options.data, options.held_out, classes, shape)
    reference = load_reference(options.reference, options.reference_split, shape)
    concepts = forgotten if sets is None or sets.are_labels else list(sets.concepts)
    namers = {"--reference": reference, "--held-out": real.forget_held_out, "--data": real.retain}
    classes_of = {
        name: each.class_names or () for name, each in namers.items() if each is not None and each.labels is not None
    }
    if not known[0].takes_prompts:
        classes_of["the model"] = known[0].class_names
    if judging is not None:
        classes_of["the judge"] = judging.judge.class_names
    _check_names(options, concepts, classes_of)
    _check_held_out(real.forget_held_out, list(options.forget_class) or concepts, classes_of)
    network = None if options.features == "judge" else find_feature_network(options.features)
    if options.cross_judge is not None and sets is None:
        raise InputError(
            f"--cross-judge: got {options.cross_judge} for models without conditions; expected models that are asked with prompts or "
            "labels. Leave it out."
        )
    cross = cross_judge(options.cross_judge, shape, judging)
    require_known_classes(sets, judging, cross)
    if judging is None:
        require_room("--n-judge-samples", options.n_judge_samples, shape)
        require_judge_samples(options)
    return Given(judging, real, reference, network, cross)


def require_usable(given: Given, classes: list[str]) -> None:
    """Refuse given images that will not do, whatever the forget set is.

    Args:
        given: what was loaded.
        classes: the forget classes.

    Too few left to compare with, or held-out images of which a judge sees none, raise an ``InputError``.
    """
    reference_left(given.reference, given.judging, classes)
    seen_by_judge(given.judging, None, given.real.forget_held_out)


@dataclass(frozen=True, eq=False)
class Fixed:
    """What of it is used with one forget set, without copies of its images.

    Attributes:
        real: real images: held-out unwanted ones, and those of the probes.
        reference: as given.
        compared: what a given judge leaves of the reference.
        network: as in :class:`Given`.
        cross: as in :class:`Given`.
        warnings: of unwanted images that a given judge takes for something else, and of a reference that may hold what earlier runs forgot.
    """

    real: tuple[ImageSet | None, ImageSet | None, ImageSet | None]
    reference: ImageSet | None
    compared: ImageSet | None
    network: FeatureNetwork | None
    cross: CrossJudge | None
    warnings: tuple[WarningRecord, ...]


def fix(given: Given, subject: Subject) -> Fixed:
    """What was given beside the forget set, without copies of its images.

    Args:
        given: what was loaded.
        subject: the forget set, and the retained images of earlier runs.

    Returns:
        The images, without those labelled as a class that earlier runs forgot, since the original does not draw it either; with warnings
        of what a given judge does not see, and of such classes that the reference has no labels of. Too few images that are left, or
        held-out images of several forgotten classes without labels, raise an ``InputError``.
    """
    earlier = others_of(subject.forgotten_before, subject.classes)
    known = replace(
        given.real,
        retain=without_known_labels(given.real.retain, earlier),
        retain_held_out=without_known_labels(given.real.retain_held_out, earlier),
    )
    held_out, retain, retain_held_out = real_images(known, subject.forget, subject.trained_on)
    real = (None if held_out is None else _as_forgotten(held_out, subject), retain, retain_held_out)
    reference = unshared_reference(given.reference, subject.forget)
    if reference is not None and has_labels_of(reference, subject.classes):
        reference = without_labels(reference, subject.classes)
    unknown = [name for name in earlier if reference is not None and not has_labels_of(reference, [name])]
    reference = without_known_labels(reference, earlier)
    if reference is not None and len(reference) and real[0] is not None:
        reference = without_copies(reference, real[0], "reference images", "held-out images")
    compared = reference_left(reference, given.judging, subject.classes)
    warned = seen_by_judge(given.judging, subject.forget, real[0])
    if unknown:
        warned += (WarningRecord("reference_forgotten_before", {"classes": ", ".join(unknown)}),)
    return Fixed(real, reference, compared, given.network, given.cross, warned)


def trained_on_reference(reference: ImageSet | None, trained_on: PixelHashes | None) -> tuple[WarningRecord, ...]:
    """A warning of reference images that a run was trained on to keep.

    Args:
        reference: what distances are measured against, if real images are.
        trained_on: the retained images of the runs that made the models, if any.

    Returns:
        One warning, or none.
    """
    if reference is None or trained_on is None or not (n := int(shared(reference, trained_on).sum())):
        return ()
    return (WarningRecord("reference_trained_on", {"n_shared": n, "n_images": len(reference)}),)


def _check_only_name(options: EvaluationOptions, judging: Judging | None, forgotten: list[str]) -> None:
    """Raise an error if the class to be counted is not the one of the forget set, and nothing else has names that it may be of."""
    given, others = options.forget_class, (options.data, options.held_out, options.reference)
    alone = judging is None and all(each is None for each in others)
    if alone and given and forgotten and {*map(class_key, given)} != {*map(class_key, forgotten)}:
        raise InputError(
            f"--forget-class: got {', '.join(sorted(given))}; the forget set is of {', '.join(forgotten)}, and without --judge nothing "
            "else has a name. Leave the option out."
        )


def _check_names(options: EvaluationOptions, forgotten: list[str], classes_of: Mapping[str, Sequence[str]]) -> None:
    """Raise an error if the class to be counted is not the one of the forget set, and something has both."""
    given = options.forget_class
    for who, known in classes_of.items():
        if told_apart(known, given, forgotten):
            raise InputError(
                f"--forget-class: got {', '.join(given)}; the forget set is of {', '.join(forgotten)}, and {who} has all of them. Leave "
                "the option out; it is for judges that use another name for the class."
            )


def _check_held_out(held_out: ImageSet | None, forgotten: list[str], classes_of: Mapping[str, Sequence[str]]) -> None:
    """Raise an error for held-out images of one class that something has beside the forgotten one: they are of another class."""
    own = [] if held_out is None else class_names(held_out)
    for who, known in classes_of.items():
        if held_out is not None and len(own) == 1 and told_apart(known, own, forgotten):
            raise InputError(
                f"--held-out: {held_out.description} is of the class {own[0]}, and {who} has it beside {', '.join(forgotten)}, which was "
                "forgotten; expected held-out images of what was forgotten. Give the folder of that class."
            )


def require_known_classes(sets: PromptSets | None, judging: Judging | None, cross: CrossJudge | None) -> None:
    """Refuse prompts that would not be counted as they are meant.

    These are prompts with given classes that no judge has, or of which one judge has several; and prompts to keep that ask for a class
    that the judge counts as forgotten, which would be right if they showed it.

    Args:
        sets: the prompts.
        judging: the given judges.
        cross: the judge of another property.

    Raises:
        InputError: naming the first.
    """
    kept = () if judging is None or sets is None or judging.source == "fallback" else (*sets.neighbours, *sets.others)
    for prompt in kept:
        assert judging is not None and sets is not None
        asked = asked_class(prompt, judging.judge.class_names, sets.classes)
        if asked is not None and asked in judging.forget_classes:
            raise InputError(
                f"evaluate: {prompt!r} is among the prompts to keep, and asks for {judging.judge.class_names[asked]}, which the judge "
                "counts as forgotten. Give the prompts that stay without it (others in --prompts), or another --forget-class."
            )
    judges = [each.judge.class_names for each in (judging, cross) if each is not None]
    if sets is None or not judges:
        return
    known = {name for own in judges for name in own}
    for prompt, classes in sets.classes.items():
        if unknown := sorted(set(classes) - known):
            raise InputError(
                f"--prompts: classes of {prompt!r}: got {unknown[0]!r}, which no judge has; expected some of {', '.join(sorted(known))}."
            )
        for own in judges:
            if len(several := [name for name in own if name in classes]) > 1:
                raise InputError(
                    f"--prompts: classes of {prompt!r}: got {' and '.join(map(repr, several))}, which are classes of one judge; "
                    "expected at most one of each judge."
                )


def reference_left(reference: ImageSet | None, judging: Judging | None, classes: list[str]) -> ImageSet | None:
    """The reference without unwanted images.

    Args:
        reference: real images, if there are some.
        judging: a judge, if there is one; what it takes for the forget classes is left out.
        classes: the forget classes; images with their labels are left out.

    Returns:
        The images, or None without a reference.

    Raises:
        InputError: if there are too few.
    """
    left = reference
    if reference is not None and judging is not None:
        left = reference_images(reference, judging, classes)
    if left is not None and len(left) < FEWEST_IN_REFERENCE:
        raise InputError(
            f"--reference: {len(left)} images are left ({left.description}); expected at least {FEWEST_IN_REFERENCE}, since a distance of "
            "fewer is undefined, and better 500 or more. Give more images, or none: then the filtered original is the reference."
        )
    return left


def seen_by_judge(
    judging: Judging | None, forget: ImageSet | None, held_out: ImageSet | None
) -> tuple[WarningRecord, ...]:
    """Warnings of unwanted images that a judge mostly takes for something else.

    Args:
        judging: a judge, if there is one. One that was trained on the forget set is not asked about it.
        forget: the forget set.
        held_out: held-out unwanted images.

    Returns:
        One for each set of which it sees less than half.

    Raises:
        InputError: if it takes all of a set of ten or more for something else.
    """
    found = []
    for name, images in (("forget", forget), ("held-out", held_out)):
        if judging is None or images is None or (name == "forget" and judging.source == "fallback"):
            continue
        n, of = int(judging.finds_forget(images).sum()), len(images)
        if n == 0 and of >= 10:
            raise InputError(
                f"judge {judging.name}: takes none of the {of} {name} images ({images.description}) for {', '.join(judging.forget_names)}; "
                "expected most. Check --forget-class and the images, or give another judge."
            )
        if 2 * n < of:
            found.append(WarningRecord("unwanted_not_seen", {"set": name, "n_seen": n, "n_images": of}))
    return tuple(found)


def _as_forgotten(held_out: ImageSet, subject: Subject) -> ImageSet:
    """Held-out unwanted images under the conditions of the forget set, in the same shares, so that a probe measures no caption.

    They keep labels of their own if the model is class-conditional, and captions that name the concept beside a forget set with
    captions of its own. An unconditional model asks for no condition.

    Args:
        held_out: held-out unwanted images.
        subject: the models and the forget set.

    Returns:
        The images; without labels if the forget set has none.

    Raises:
        InputError: if the model is class-conditional, several classes were forgotten, and they have no labels.
    """
    model, forget = subject.before.denoiser, subject.forget
    asked = set(class_names(forget))
    if not model.class_names or (not model.takes_prompts and held_out.labels is not None):
        return held_out
    if not model.takes_prompts and len(asked) > 1:
        raise InputError(
            f"--held-out: {held_out.description} has no labels, and {len(asked)} classes were forgotten; expected a folder "
            "with a folder for every class."
        )
    sets = subject.sets
    if sets is not None and model.takes_prompts and not asked <= {*sets.target, *sets.concepts, *model.class_names}:
        if has_captions(held_out, sets.concepts):  # the forget set has its own, too
            return held_out
    if forget.labels is None:
        return replace(held_out, labels=None, class_names=None)
    places = torch.arange(len(held_out)) * len(forget) // len(held_out)
    return replace(held_out, labels=forget.labels.sort().values[places], class_names=forget.class_names)


def judge_hashes(options: EvaluationOptions) -> list[str]:
    """What identifies the judges that are in folders.

    Args:
        options: of the evaluation.

    Returns:
        One line for each, with the SHA-256 of its record.
    """
    judges = [judge_place(each) for each in (options.judge, options.second_judge) if each is not None]
    return [f"judge {sha256_file(place / 'judge.json')}" for place, kind in judges if kind == "given"]


def require_samples(forget: ImageSet, options: EvaluationOptions) -> None:
    """Refuse too few images for a fallback classifier.

    Args:
        forget: the forget set.
        options: of the evaluation; too few of its generated samples raise an ``InputError``, too.
    """
    require_enough("forget images", len(forget))
    require_judge_samples(options)


def require_judge_samples(options: EvaluationOptions) -> None:
    """Refuse too few generated samples for a fallback classifier.

    Args:
        options: of the evaluation; too few raise an ``InputError``.
    """
    require_enough("generated samples (--n-judge-samples)", options.n_judge_samples)
