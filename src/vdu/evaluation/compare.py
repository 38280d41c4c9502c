"""What predictions and features of given images say of an unlearned model: PUL, distances, class histogram, the judge's errors.

    predict           what both judges predict of a set of images
    paired_pul        PUL of two models' predictions, noise by noise
    distances         u-FID and KID of features to the reference's
    fidelity          precision, recall, density and coverage
    compare           all of it, with the second judge's PUL and the histogram

Every random draw has its own generator, named by what it is for: no result depends on what else was measured, and the
first n of N images give what n images give.

Not guaranteed: that the judge is right; that so many images suffice (the intervals show how far they do).
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vdu.core.errors import InputError
from vdu.core.rng import generator
from vdu.data.images import ImageSet
from vdu.evaluation.records import (
    Comparison,
    Distances,
    Fidelity,
    HistogramRecord,
    Interval,
    JudgeRecord,
    PULRecord,
    SecondJudgeRecord,
)
from vdu.judges.judging import Judging
from vdu.metrics.features import Predictions, classify
from vdu.metrics.frechet import frechet_interval
from vdu.metrics.histogram import class_counts, expected_distribution, histogram_distance
from vdu.metrics.kid import kernel_distance
from vdu.metrics.precision import density_coverage, precision_recall
from vdu.metrics.pul import PULResult, corrected_pul, percentage_unlearned

__all__ = [
    "JudgePredictions",
    "compare",
    "corrected",
    "count_forget",
    "distances",
    "fidelity",
    "judge_record",
    "paired_pul",
    "predict",
    "require_forget_images",
]


@dataclass(frozen=True, eq=False)
class JudgePredictions:
    """What the judges predict of a set of images.

    Attributes:
        judge: the first judge's predictions.
        second: the second judge's, or None if there is none.
    """

    judge: Predictions
    second: Predictions | None

    def first(self, n_images: int) -> "JudgePredictions":
        """Those of the first images."""
        return JudgePredictions(
            self.judge.first(n_images), None if self.second is None else self.second.first(n_images)
        )


def predict(judging: Judging, images: ImageSet) -> JudgePredictions:
    """What the judges predict of images.

    Args:
        judging: one or two judges.
        images: at least one.

    Returns:
        Their predictions.
    """
    second = None if judging.second is None else classify(judging.second, images)
    return JudgePredictions(classify(judging.judge, images), second)


def distances(name: str, reference: Tensor, features: Tensor, seed: int) -> Distances:
    """u-FID and KID of a set of images.

    Args:
        name: of the set, which also seeds its resamples.
        reference: features of the reference, [n₁, d].
        features: features of the images, [n₂, d].
        seed: of the evaluation.

    Returns:
        Both, with intervals.
    """
    fid = frechet_interval(reference, features, generator=generator(seed, "u-FID", name))
    size = min(1000, min(len(reference), len(features)) // 2)
    kid = kernel_distance(reference, features, subset_size=size, generator=generator(seed, "KID", name))
    return Distances(_interval(fid), _interval(kid))


def fidelity(reference: Tensor, features: Tensor) -> Fidelity:
    """Precision, recall, density and coverage of a set of images.

    Args:
        reference: features of the reference, [n₁, d].
        features: features of the images, [n₂, d].

    Returns:
        The four.
    """
    both, other = precision_recall(reference, features), density_coverage(reference, features)
    return Fidelity(both.precision, both.recall, other.density, other.coverage)


def paired_pul(before: Predictions, after: Predictions, judging: Judging, seed: int) -> PULRecord:
    """PUL with its interval, of one judge's predictions on two models' images from the same noise.

    Args:
        before: its predictions on the original's images.
        after: its predictions on the unlearned model's.
        judging: knows the forget class; its first judge is meant.
        seed: of the evaluation.

    Returns:
        The value and the counts. An original without an image of the class is refused with an ``InputError``.
    """
    require_forget_images(before, judging)
    was, now = judging.is_forget(before.classes), judging.is_forget(after.classes)
    pul = percentage_unlearned(was, now, generator=generator(seed, "PUL"))
    return PULRecord(
        pul.value, pul.low, pul.high, pul.n_original, pul.n_unlearned, n_images=pul.n, n_empty_resamples=pul.n_empty_resamples
    )  # fmt: skip


def judge_record(judging: Judging, n_original: int, n_images: int) -> JudgeRecord:
    """What is known of the first judge, with the PUL that its own errors allow.

    Args:
        judging: the judge.
        n_original: images that it predicts forget among the original's samples.
        n_images: samples of each model.

    Returns:
        Its record.
    """
    rate, n_held_out, n_kept = judging.rates()
    return JudgeRecord(
        name=judging.name,
        architecture=judging.judge.architecture,
        source=judging.source,
        held_out_error=float(judging.record["held_out_error"]),
        n_held_out=n_held_out,
        forget_false_positive_rate=rate,
        pul_ceiling_percent=judging.ceiling(n_original, n_images),
        weights_sha256=judging.weights_sha256,
        n_kept_held_out=n_kept,
    )


def corrected(pul: PULRecord, false_positive_rate: float) -> Interval | None:
    """PUL without the judge's false positives (see :func:`vdu.metrics.pul.corrected_pul`).

    Args:
        pul: as counted.
        false_positive_rate: of the judge, [0, 1].

    Returns:
        In percent; None where false positives alone explain the original's count.
    """
    counted = PULResult(pul.value, pul.low, pul.high, pul.n_original, pul.n_unlearned, pul.n_images)
    found = corrected_pul(counted, false_positive_rate=false_positive_rate)
    return None if found is None else _interval(found)


def compare(
    before: JudgePredictions,
    after: JudgePredictions,
    features: Tensor,
    reference: Tensor,
    judging: Judging,
    seed: int,
    *,
    counted: tuple[JudgePredictions, JudgePredictions] | None = None,
    with_fidelity: bool = True,
) -> Comparison:
    """An unlearned model against the original, by what was predicted and extracted of N images of each.

    Args:
        before: the judges' predictions on the original's images.
        after: their predictions on the unlearned model's.
        features: of the unlearned model's images, [N, d].
        reference: features of the reference, [n, d].
        judging: the judges and the classes to be forgotten.
        seed: of the evaluation.
        counted: the predictions that PUL counts, before and after, if these are of other images.
        with_fidelity: whether precision, recall, density and coverage are measured.

    Returns:
        The comparison.
    """
    was, now = counted or (before, after)
    return Comparison(
        pul=paired_pul(was.judge, now.judge, judging, seed),
        second=_second_judge(was.second, now.second, judging, seed),
        distances=distances("unlearned", reference, features, seed),
        histogram=_histogram(before.judge, after.judge, judging, seed),
        fidelity=fidelity(reference, features) if with_fidelity else None,
    )


def count_changed(before: Predictions, after: Predictions, judging: Judging) -> tuple[int, int]:
    """The images to keep that changed class: of those of which the original made another class, the ones with a new class now.

    Args:
        before: the first judge's predictions on the original's images.
        after: its predictions on the unlearned model's, image i from the same noise.
        judging: knows the forget class.

    Returns:
        How many changed, and of how many.
    """
    kept = ~judging.is_forget(before.classes)
    return int((before.classes[kept] != after.classes[kept]).sum()), int(kept.sum())


def require_forget_images(before: Predictions, judging: Judging) -> None:
    """Refuse an original that makes no image of the class.

    Args:
        before: the judge's predictions on the original's images.
        judging: knows the forget class.

    Raises:
        InputError: if no image is predicted forget.
    """
    if count_forget(before, judging) == 0:
        raise InputError(
            f"evaluate: the judge {judging.name} predicts forget for 0 of the original's {len(before.classes)} samples; expected some: PUL "
            "is a fraction of them. Draw more samples (--n-images), and look at them (vdu sample): does the model make the class at "
            "all? A fallback classifier may only have learnt to tell real images from generated ones: give another judge (--judge)."
        )


def count_forget(predictions: Predictions, judging: Judging) -> int:
    """How many images the first judge predicts forget."""
    return int(judging.is_forget(predictions.classes).sum())


def _second_judge(
    before: Predictions | None, after: Predictions | None, judging: Judging, seed: int
) -> SecondJudgeRecord | None:
    """PUL by the second judge, with what is known of it; None if there is none."""
    if before is None or after is None:
        return None
    other = judging.as_second()
    pul = paired_pul(before, after, other, seed)
    return SecondJudgeRecord(judge_record(other, pul.n_original, pul.n_images), pul)


def _histogram(before: Predictions, after: Predictions, judging: Judging, seed: int) -> HistogramRecord:
    counts = class_counts(before.classes, judging.n_classes)
    distance = histogram_distance(
        before.classes, after.classes, n_classes=judging.n_classes, forget_classes=judging.forget_classes,
        generator=generator(seed, "histogram"),
    )  # fmt: skip
    expected = expected_distribution(counts, judging.forget_classes) * len(before.classes)
    return HistogramRecord(
        classes=judging.judge.class_names,
        original=tuple(counts.tolist()),
        unlearned=tuple(class_counts(after.classes, judging.n_classes).tolist()),
        expected=tuple(expected.tolist()),
        distance=_interval(distance),
        chance=distance.chance,
        chance_high=distance.chance_high,
    )


def _interval(found: Any) -> Interval:
    return Interval(found.value, found.low, found.high)
