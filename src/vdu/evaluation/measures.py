"""The entries of ``metrics.json`` and of the paper's tables: distances, PUL and histogram of given images and calls."""

from dataclasses import asdict
from typing import Any

from torch import Tensor

from vdu.core.errors import InputError
from vdu.core.rng import generator
from vdu.data.images import ImageSet
from vdu.judges.judging import Judging
from vdu.metrics.features import Calls, classify
from vdu.metrics.frechet import frechet_interval
from vdu.metrics.histogram import class_counts, expected_distribution, histogram_distance
from vdu.metrics.kid import kernel_distance
from vdu.metrics.precision import density_coverage, precision_recall
from vdu.metrics.pul import percentage_unlearned

__all__ = ["corrected_interval", "distance_row", "empty_row", "fidelity", "histogram", "paired_pul", "second_opinion"]


def distance_row(
    name: str, label: str, reference: Tensor, features: Tensor, seed: int,
    calls: Calls | None = None, judging: Judging | None = None, note: str = "",
) -> dict[str, Any]:  # fmt: skip
    """u-FID and KID of a set of images, as a row of the metric table.

    Args:
        name: the row's name, which also seeds its resamples.
        label: for people.
        reference: features of the reference, [n₁, d].
        features: features of the images, [n₂, d].
        seed: of the evaluation.
        calls: the judge's calls on the images, to count those of the forget class.
        judging: knows that class.
        note: beside the row.

    Returns:
        The row, without a PUL.
    """
    fid = frechet_interval(reference, features, generator=generator(seed, "u-FID", name))
    size = min(1000, min(len(reference), len(features)) // 2)
    kid = kernel_distance(reference, features, subset_size=size, generator=generator(seed, "KID", name))
    count = int(judging.is_forget(calls.classes).sum()) if calls is not None and judging is not None else None
    return {
        "name": name,
        "label": label,
        "pul": None,
        "u_fid": {"value": fid.value, "low": fid.low, "high": fid.high},
        "kid": {"value": kid.value, "low": kid.low, "high": kid.high},
        "forget_count": count,
        "status": "measured",
        "note": note,
    }


def fidelity(reference: Tensor, features: Tensor) -> dict[str, float]:
    """Precision, recall, density and coverage of a set of images.

    Args:
        reference: features of the reference, [n₁, d].
        features: features of the images, [n₂, d].

    Returns:
        The four shares; density may exceed 1.
    """
    both, other = precision_recall(reference, features), density_coverage(reference, features)
    return {
        "precision": both.precision, "recall": both.recall, "density": other.density, "coverage": other.coverage,
    }  # fmt: skip


def empty_row(name: str, label: str) -> dict[str, Any]:
    """A reference row that was not run."""
    values = {"pul": None, "u_fid": None, "kid": None, "forget_count": None}
    return {"name": name, "label": label, **values, "status": "not run", "note": ""}


def paired_pul(before: Calls, after: Calls, judging: Judging, seed: int) -> dict[str, Any]:
    """PUL with its interval, of calls on two models' images from the same noise.

    Args:
        before: the judge's calls on the original's images.
        after: its calls on the unlearned model's.
        judging: knows the forget class.
        seed: of the evaluation.

    Returns:
        The fields of :class:`vdu.metrics.pul.PUL`.

    Raises:
        InputError: if the original makes no image of the class.
    """
    was, now = judging.is_forget(before.classes), judging.is_forget(after.classes)
    if not was.any():
        raise InputError(
            f"evaluate: the judge {judging.name} calls 0 of the original's {len(was)} samples forget; expected some, for PUL is "
            "a share of them. Draw more samples (--n-images), and look at them (vdu sample): does the model make the class at "
            "all? A judge trained on the spot may only have learnt to tell real images from generated ones: give another (--judge)."
        )
    return asdict(percentage_unlearned(was, now, generator=generator(seed, "PUL")))


def corrected_interval(pul: dict[str, Any], false_positive_rate: float, n: int) -> dict[str, float] | None:
    """PUL without the judge's false calls, as if their rate were exact and the same for both models.

        corrected = 1 − (n_unlearned − N f)/(n_original − N f)                  within [0, 1]

    The ends of PUL's interval are carried over with n_original as counted.

    Args:
        pul: value, low and high in percent, and n_original.
        false_positive_rate: f, share of other images called forget, [0, 1].
        n: N, samples of each model.

    Returns:
        Value, low and high in percent; None where false calls alone explain the original's count.

    Source: Rogan and Gladen (1978), American Journal of Epidemiology 107(1); see :func:`vdu.metrics.pul.corrected_pul`.

    Examples:
        >>> corrected_interval({"value": 90.0, "low": 80.0, "high": 95.0, "n_original": 100}, 0.01, 1000)["value"]
        100.0
    """
    n_original, false_calls = pul["n_original"], n * false_positive_rate
    if n_original <= false_calls:
        return None
    left = {name: (1 - pul[name] / 100) * n_original - false_calls for name in ("value", "low", "high")}
    return {name: 100 * (1 - max(0.0, each) / (n_original - false_calls)) for name, each in left.items()}


def second_opinion(judging: Judging, before: ImageSet, after: ImageSet, seed: int) -> dict[str, Any] | None:
    """PUL by the second judge, with what is known of it; None if there is none."""
    if judging.second is None:
        return None
    other = judging.as_second()
    pul = paired_pul(classify(other.judge, before.floats()), classify(other.judge, after.floats()), other, seed)
    return other.describe(pul["n_original"], len(before)) | {"pul": pul}


def histogram(calls: dict[str, Calls], judging: Judging, seed: int) -> dict[str, Any]:
    """Class counts of "original" and "unlearned", the expected ones, and their distance."""
    before, after = calls["original"].classes, calls["unlearned"].classes
    counts = class_counts(before, judging.n_classes)
    source = generator(seed, "histogram")
    distance = histogram_distance(
        before, after, n_classes=judging.n_classes, forget_classes=judging.forget_classes, generator=source
    )
    return {
        "classes": list(judging.judge.class_names),
        "original": counts.tolist(),
        "unlearned": class_counts(after, judging.n_classes).tolist(),
        "expected": (expected_distribution(counts, judging.forget_classes) * len(before)).tolist(),
        "distance": distance.value,
        "distance_low": distance.low,
        "distance_high": distance.high,
        "chance": distance.chance,
        "chance_high": distance.chance_high,
    }
