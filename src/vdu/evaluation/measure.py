"""The evaluator: two models, what was to be forgotten, judges and a reference in, typed records out.

Both models are sampled from the same noise and judged alike; the table of distances has the rows that a number needs
beside it: real images against real images, the original, the filtered original, and a retrained model where there is one.
The parts are in :mod:`vdu.evaluation.compare` and :mod:`vdu.evaluation.references`, which the paper's tables and the explore
page call too. Image sets stay uint8; one batch of a judge or feature network at a time becomes floating point.

Not guaranteed: that the judge is right; that so many images suffice (the intervals show how far they do).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from vdu.core.errors import InputError
from vdu.data.images import ImageSet
from vdu.diffusion.sampling import Sampler
from vdu.evaluation.compare import (
    compare,
    corrected,
    count_changed,
    count_forget,
    distances,
    fidelity,
    judge_record,
    predict,
    require_forget_images,
)
from vdu.evaluation.records import (
    ApartRecord,
    DistanceRow,
    EvidenceRecord,
    HistogramRecord,
    KeptRecord,
    NoteCode,
    PULRecord,
    ReferenceRecord,
    Transitions,
    WarningRecord,
)
from vdu.evaluation.references import Source, filtered_original, first_images, split_at_random
from vdu.judges.judging import Judging
from vdu.metrics.feature_networks import FeatureNetwork
from vdu.metrics.features import Predictions, classify
from vdu.metrics.pul import flip_table

__all__ = ["Measurement", "Target", "measure"]

FEW_REMAIN = 0.02  # of the images; what is left of a class that is gone
FEWEST_APART = 12
FEW_FORGET_IMAGES = 50  # below this the interval of PUL is wide
NOT_RUN = {"ascent": "Gradient ascent at the same steps", "isotropic": "Isotropic posterior"}


@dataclass(frozen=True, eq=False)
class Measurement:
    """What an evaluation gives.

    Attributes:
        evidence: the records.
        original: the original's samples.
        unlearned: the unlearned model's samples, image i from the same noise.
        predictions: the first judge's, of "original" and "unlearned".
        counted: of the images in which the forget class is counted, before and after: these, or those of the target.
    """

    evidence: EvidenceRecord
    original: ImageSet
    unlearned: ImageSet
    predictions: dict[str, Predictions]
    counted: tuple[Predictions, Predictions]


@dataclass(frozen=True, eq=False)
class Target:
    """Images in which the concept is counted, where both models are asked for it: image i from the same noise and prompt.

    Attributes:
        original: of the model before.
        unlearned: of the model after.
        retrained: of a retrained model, if there is one.
    """

    original: ImageSet
    unlearned: ImageSet
    retrained: ImageSet | None = None


def measure(
    original: Source,
    unlearned: Source,
    judging: Judging,
    network: FeatureNetwork,
    *,
    reference: ImageSet | None,
    retrained: Source | None = None,
    n_images: int,
    sampler: Sampler,
    seed: int,
    target: Target | None = None,
) -> Measurement:
    """Sample two models from the same noise and compare them.

    Args:
        original: the model before, or images that it drew.
        unlearned: the model after, or images that it drew from the same noise.
        judging: the judges and the classes to be forgotten.
        network: gives the features of the distances.
        reference: real images without the forget classes; None compares with the filtered original.
        retrained: a model trained without the forget class, for its row.
        n_images: images from each model.
        sampler: the sampling protocol.
        seed: image i starts from noise drawn from (seed, i).
        target: images in which the forget class is counted; None counts it among the others.

    Returns:
        The records, and the images with the judge's predictions. An original without an image of the class, and a model with images
        of the class alone, are refused with an ``InputError``.
    """
    before = first_images(original, n_images, sampler, seed, "original")
    after = first_images(unlearned, n_images, sampler, seed, "unlearned")
    was, now = predict(judging, before), predict(judging, after)
    counted = (was, now) if target is None else (predict(judging, target.original), predict(judging, target.unlearned))
    require_forget_images(counted[0].judge, judging)  # all refuse before the longer part begins
    if counted[0].second is not None:
        require_forget_images(counted[0].second, judging.as_second())
    _require_rest(was.judge, now.judge, judging)
    wanted = n_images if reference is not None else 2 * n_images
    filtered = filtered_original(original, before, judging, wanted, sampler, seed)
    base, about = _reference(network, reference, filtered, n_images)

    def row(name: str, label: str, against: Tensor, features: Tensor, *, predictions: Predictions | None = None,
            note_code: NoteCode | None = None) -> DistanceRow:  # fmt: skip
        return DistanceRow(
            name, label, distances(name, against, features, seed), fidelity(against, features),
            forget_count=None if predictions is None else count_forget(predictions, judging), note_code=note_code,
        )  # fmt: skip

    rows = []
    if reference is not None:
        held_out, rest = split_at_random(base, n_images, seed)
        real = row("real_split", "Real against real", rest, held_out, note_code="real_split")
        if len(held_out) < n_images:  # the rows beside it have more images, and u-FID depends on their number
            sizes = {"n_first": len(held_out), "n_second": len(rest), "n_images": n_images}
            real = replace(real, note_code="real_split_small", note_details=sizes)
        rows.append(real)
    rows.append(row("original", "Original", base, network.extract(before), predictions=counted[0].judge))
    free = network.extract(filtered.select(range(n_images)))
    code: NoteCode = "filtered_by_judge" if judging.second is None else "filtered_by_second_judge"
    rows.append(row("filtered_original", "Filtered original", base, free, note_code=code))
    made = network.extract(after)
    found = compare(was, now, made, base, judging, seed, counted=counted)
    apart = _apart(judging.is_forget(now.judge.classes), base, made, free, seed)
    rows.append(
        DistanceRow(
            "unlearned", "Unlearned", found.distances, found.fidelity, found.pul, forget_count=found.pul.n_unlearned
        )
    )
    name, label, flips_retrained = "retrained", "Retrained without the class", None
    if retrained is None:
        rows.append(DistanceRow(name, label))
    else:
        drawn = first_images(retrained, n_images, sampler, seed, "retrained")
        predictions = classify(judging.judge, drawn)
        seen = predictions if target is None or target.retrained is None else classify(judging.judge, target.retrained)
        rows.append(row(name, label, base, network.extract(drawn), predictions=seen, note_code="retrained"))
        flips_retrained = _transitions(was.judge, predictions, judging)
    rows += [DistanceRow(name, label) for name, label in NOT_RUN.items()]
    judge = judge_record(judging, found.pul.n_original, n_images)
    transitions = _transitions(was.judge, now.judge, judging)
    evidence = EvidenceRecord(
        n_images=n_images,
        rows=tuple(rows),
        histogram=found.histogram,
        transitions=transitions,
        kept=_kept(count_changed(was.judge, now.judge, judging), found.histogram, judging, apart, n_images),
        judge=judge,
        corrected_pul_percent=corrected(found.pul, judge.forget_false_positive_rate),
        second_judge=found.second,
        feature_network=network.label,
        reference=about,
        warnings=_warnings(found.pul, judging),
        transitions_retrained=flips_retrained,
    )
    judged = {"original": was.judge, "unlearned": now.judge}
    return Measurement(evidence, before, after, judged, (counted[0].judge, counted[1].judge))


def _reference(
    network: FeatureNetwork, reference: ImageSet | None, filtered: ImageSet, n_images: int
) -> tuple[Tensor, ReferenceRecord]:
    """Features of the reference: real images, or the filtered original's images beyond the first N."""
    if reference is not None:
        features = network.extract(reference)
        pixels = ImageSet(reference.images)  # labels, if any, are not measured
        return features, ReferenceRecord("real", reference.description, len(features), pixels.sha256)
    features = network.extract(filtered.select(range(n_images, len(filtered))))
    return features, ReferenceRecord(
        "filtered_original", f"filtered original, {n_images} further samples", len(features)
    )


def _require_rest(before: Predictions, after: Predictions, judging: Judging) -> None:
    """Refuse a model of whose images every one is called unwanted: nothing is left to compare with the original's rest."""
    names = ", ".join(judging.judge.class_names[each] for each in judging.forget_classes)
    n_before, n_after = (int(judging.is_forget(each.classes).sum()) for each in (before, after))
    for which, n in (("original", n_before), ("changed model", n_after)):
        if n == len(before.classes):
            raise InputError(
                f"evaluate: the judge calls all {n} images of the {which} {names} (of the original {n_before}, of the changed model "
                f"{n_after}); expected others as well, to see whether the rest is intact. Look at samples (vdu sample). A model that draws "
                "one thing alone is damaged: unlearn with a lower learning rate or fewer steps, or give another judge."
            )


def _transitions(before: Predictions, after: Predictions, judging: Judging) -> Transitions:
    counts: Sequence[Sequence[int]] = flip_table(before.classes, after.classes, judging.n_classes).tolist()
    return Transitions(judging.judge.class_names, tuple(tuple(row) for row in counts))


def _apart(unwanted: Tensor, base: Tensor, made: Tensor, free: Tensor, seed: int) -> ApartRecord | None:
    """The distance without unwanted images, where these are more than a few: with a few it is that of all images."""
    n = int((~unwanted).sum())
    if len(unwanted) - n <= FEW_REMAIN * len(unwanted):
        return None
    if n < FEWEST_APART:
        return ApartRecord(n, None, None)
    ours, floor = made[~unwanted], free[:n]
    return ApartRecord(
        n,
        distances("unlearned, kept", base, ours, seed).u_fid,
        distances("filtered original, kept", base, floor, seed).u_fid,
    )


def _kept(
    changed: tuple[int, int], histogram: HistogramRecord, judging: Judging, apart: ApartRecord | None, n_images: int
) -> KeptRecord:
    """The retained images that changed class; there are some, since ``expected`` needs them."""
    n_changed, n_kept = changed
    kept = [i for i in range(judging.n_classes) if i not in judging.forget_classes]
    share = (
        1.0 if apart is None else apart.n_images / n_images
    )  # where many unwanted images remain, fewer are of the rest
    made, expected = histogram.unlearned, [share * each for each in histogram.expected]
    most = max(kept, key=lambda i: abs(made[i] - expected[i]))
    return KeptRecord(
        n_changed=n_changed,
        n_kept=n_kept,
        shifted_class=histogram.classes[most],
        shifted_expected=expected[most],
        shifted_made=made[most],
        apart=apart,
    )


def _warnings(pul: PULRecord, judging: Judging) -> tuple[WarningRecord, ...]:
    found = []
    if pul.n_original < FEW_FORGET_IMAGES:
        found.append(WarningRecord("few_forget_images", {"forget_count": pul.n_original}))
    if judging.source == "fallback":
        names = ("miss_rate", "n_forget", "false_positive_rate", "false_positive_rate_high", "n_unlabelled", "share")
        found.append(WarningRecord("fallback_judge", {name: judging.record["forget"][name] for name in names}))
    if judging.second is None:
        found.append(WarningRecord("no_second_judge", {}))
    return tuple(found)
