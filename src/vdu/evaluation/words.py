"""What each model draws when it is asked in words, or under labels: unlearning and retention accuracy.

    UA    unlearning accuracy: images of the target set in which the judge does not find the concept
    IRA   in-domain retain accuracy: images of kept prompts in which the judge finds the class that was asked for
    CRA   cross-domain retain accuracy: the same by a judge of another domain (styles, where an object was forgotten)

(the names are those of UnlearnCanvas, Zhang et al. 2024, arXiv 2402.11846). Image i of a set starts from the same noise and
has the same prompt for every model. A kept prompt counts for a judge only if it asks for one of the judge's classes
(:func:`vdu.evaluation.prompt_sets.asked_class`), so a fallback classifier gives no IRA; the number of images that count is printed with
every rate. The rank of the asked class among the judge's classes (1 is best) says how far an image is from what was asked.

The filtered original is the original's images without those that the filter takes for the concept.

Not guaranteed: that the judge is right; that a prompt asks for what its words name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from vdu.core.checks import hash_parameters
from vdu.core.errors import InputError
from vdu.core.rng import derive_seed
from vdu.data.images import ImageSet
from vdu.diffusion.sampling import Sampler
from vdu.evaluation.prompt_sets import PromptSets, asked_class, asking
from vdu.evaluation.records import AccuracyRecord, Counted, PromptSetRecord, Transitions, WordsRecord
from vdu.evaluation.references import first_images
from vdu.judges.classifier import load_judge
from vdu.judges.judging import Judging, judge_place
from vdu.metrics.features import extract_features
from vdu.metrics.pul import flip_table
from vdu.models.denoiser import PipelineDenoiser

__all__ = ["CrossJudge", "Drawn", "cross_judge", "draw_sets", "measure_words", "set_seed"]

Drawn = Mapping[str, Mapping[str, ImageSet]]  # set → model → images, labelled with what was asked for
KEPT = ("neighbours", "others")


@dataclass(frozen=True, eq=False)
class CrossJudge:
    """A judge of another domain.

    Attributes:
        judge: images → logits, with ``class_names``.
        record: of its folder (``judge.json``).
    """

    judge: Any
    record: Mapping[str, Any]


def cross_judge(where: Any, shape: Sequence[int], judging: Judging | None = None) -> CrossJudge | None:
    """Load a judge of another domain.

    Args:
        where: its folder, or None.
        shape: channels, height and width of the model's images.
        judging: the given judges.

    Returns:
        The judge, or None.

    Raises:
        InputError: if it expects other images, or is one of the given judges again.
    """
    if where is None:
        return None
    judge, record = load_judge(judge_place(where)[0])
    if tuple(judge.sample_shape) != tuple(shape):
        raise InputError(
            f"--cross-judge {where}: expects images of shape {tuple(judge.sample_shape)}, the model generates {tuple(shape)}. Give a "
            "judge for this size."
        )
    given = () if judging is None else (judging.judge, judging.second)
    weights = hash_parameters(judge.state_dict())
    if any(each is not None and hash_parameters(each.state_dict()) == weights for each in given):
        raise InputError(
            f"--cross-judge: {where} is --judge or --second-judge again, so that it would repeat their accuracy; expected a judge of "
            "another domain. Leave it out."
        )
    return CrossJudge(judge, record)


def set_seed(seed: int, name: str) -> int:
    """What the noise of a set is drawn from; for "others" the evaluation's own seed."""
    return seed if name == "others" else derive_seed(seed, "prompts", name)


def draw_sets(
    models: Mapping[str, PipelineDenoiser], sets: PromptSets, n_images: int, sampler: Sampler, seed: int
) -> Drawn:
    """Draw every set from every model.

    Args:
        models: by name.
        sets: what they are asked for.
        n_images: of each set; of a class-conditional model over all labels together.
        sampler: the protocol.
        seed: of the evaluation.

    Returns:
        The images. Those of a class-conditional model are the evaluation's samples, sorted by label.
    """
    if sets.are_labels:
        whole = {who: first_images(model, n_images, sampler, seed, who) for who, model in models.items()}
        return {
            name: {who: _of_labels(images, labels) for who, images in whole.items()}
            for name, labels in sets.drawn.items()
        }
    return {
        name: {
            who: first_images(asking(model, prompts), n_images, sampler, set_seed(seed, name), f"{who}, {name} prompts")
            for who, model in models.items()
        }
        for name, prompts in sets.drawn.items()
    }


def _of_labels(images: ImageSet, labels: Sequence[str]) -> ImageSet:
    assert images.labels is not None and images.class_names is not None
    wanted = torch.tensor([images.class_names.index(each) for each in labels])
    return images.select(torch.isin(images.labels, wanted))


def measure_words(drawn: Drawn, sets: PromptSets, judging: Judging, cross: CrossJudge | None = None) -> WordsRecord:
    """Count what the models drew.

    Args:
        drawn: images of the models "original", "unlearned" and perhaps "retrained".
        sets: what they were asked for.
        judging: the judge, which decides whether an image shows the concept.
        cross: a judge of another domain.

    Returns:
        Rates with their counts and intervals.
    """
    with_filtered = {name: _filtered(images, judging) if name in KEPT else images for name, images in drawn.items()}
    views = {
        name: {who: _View.of(images, judging.judge, sets.classes) for who, images in by_model.items() if len(images)}
        for name, by_model in with_filtered.items()
    }
    accuracy = [_unlearning(who, view, judging) for who, view in views["target"].items()]
    if judging.source != "fallback":  # whose classes, "other" and "forget", no prompt asks for by naming them
        accuracy += _retention("IRA", judging.name, views)
    if cross is not None:
        others = {
            name: {who: _View.of(images, cross.judge, sets.classes) for who, images in by_model.items() if len(images)}
            for name, by_model in with_filtered.items()
            if name in KEPT
        }
        accuracy += _retention("CRA", _name(cross), others)
    return WordsRecord(
        kind="labels" if sets.are_labels else "prompts",
        concepts=sets.concepts,
        sets=tuple(_set(name, sets.drawn[name], by_model, judging) for name, by_model in views.items()),
        accuracy=tuple(accuracy),
        cross_judge=None if cross is None else _about(cross),
        asked=(*sets.target, *sets.others),
        target_flips=_flips(views["target"], judging),
    )


@dataclass(frozen=True, eq=False)
class _View:
    """What a judge makes of images: the class of each, the class that was asked for (−1: none), and logits."""

    classes: Tensor
    asked: Tensor
    logits: Tensor

    @classmethod
    def of(cls, images: ImageSet, judge: Any, given: Mapping[str, Sequence[str]]) -> "_View":
        assert images.labels is not None and images.class_names is not None
        found = [asked_class(each, judge.class_names, given) for each in images.class_names]
        asked = torch.tensor([-1 if each is None else each for each in found])[images.labels]
        logits = extract_features(judge, images)
        return cls(logits.argmax(1), asked, logits)

    def ranks(self, wanted: Tensor) -> Tensor:
        """Rank of a class of each image, 1 is the judge's first."""
        return 1 + (self.logits > self.logits.gather(1, wanted.view(-1, 1))).sum(1)


def _filtered(by_model: Mapping[str, ImageSet], judging: Judging) -> dict[str, ImageSet]:
    """With the row of the filtered original, which has fewer images."""
    original = by_model["original"]
    kept = {"filtered_original": original.select(~judging.filtered(original))} if len(original) else {}
    return {**by_model, **kept}


def _unlearning(who: str, view: _View, judging: Judging) -> AccuracyRecord:
    gone = ~judging.is_forget(view.classes)
    ranks = torch.stack([view.ranks(torch.full_like(view.classes, each)) for each in judging.forget_classes])
    rank = float(ranks.amin(0).double().mean())
    return AccuracyRecord("UA", who, judging.name, Counted.of(gone), rank)


def _retention(
    name: Literal["IRA", "CRA"], judge: str, views: Mapping[str, Mapping[str, _View]]
) -> list[AccuracyRecord]:
    """One row per model, over all kept prompts that ask for one of the judge's classes; none if no prompt does."""
    found = []
    for who in dict.fromkeys(who for by_model in views.values() for who in by_model):
        kept = [views[each][who] for each in KEPT if who in views.get(each, {})]
        right = torch.cat([(view.classes == view.asked)[view.asked >= 0] for view in kept] or [torch.empty(0)])
        if len(right):
            ranks = torch.cat([view.ranks(view.asked.clamp(min=0))[view.asked >= 0] for view in kept])
            found.append(AccuracyRecord(name, who, judge, Counted.of(right), float(ranks.double().mean())))
    return found


def _set(name: str, prompts: Sequence[str], views: Mapping[str, _View], judging: Judging) -> PromptSetRecord:
    before = views.get("original")
    changed = {
        who: Counted.of(view.classes != before.classes)
        for who, view in views.items()
        if name in KEPT and before is not None and who in ("unlearned", "retrained")
    }
    found = {who: Counted.of(judging.is_forget(view.classes)) for who, view in views.items()}
    return PromptSetRecord(name, tuple(prompts), found, changed)


def _flips(views: Mapping[str, _View], judging: Judging) -> Transitions | None:
    if "original" not in views:
        return None
    counts = flip_table(views["original"].classes, views["unlearned"].classes, judging.n_classes).tolist()
    return Transitions(tuple(judging.judge.class_names), tuple(tuple(row) for row in counts))


def _name(cross: CrossJudge) -> str:
    return str(cross.record.get("name", cross.judge.architecture))


def _about(cross: CrossJudge) -> dict[str, Any]:
    n = int(torch.tensor(cross.record["confusion"]).sum()) if "confusion" in cross.record else None
    return {
        "name": _name(cross), "architecture": cross.judge.architecture, "n_classes": len(cross.judge.class_names),
        "held_out_error": float(cross.record["held_out_error"]), "n_held_out": n,
    }  # fmt: skip
