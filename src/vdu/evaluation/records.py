"""What an evaluation finds, as records: the one description of what ``metrics.json``, table cells and the explore page hold.

Percentages are in percent, rates and fractions in [0, 1], Fréchet and kernel distances in squared units of the feature
network. A reason is a code, never a sentence: ``vdu.reporting`` writes the sentences. ``to_json`` gives plain values under
the keys of the files.

Not guaranteed: any check of the numbers; the functions that make them check their own.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from torch import Tensor

from vdu.core.statistics import share_interval
from vdu.judges.record import JudgeSource

__all__ = [
    "AccuracyRecord",
    "Comparison",
    "Counted",
    "DistanceRow",
    "Distances",
    "EvidenceRecord",
    "Fidelity",
    "HistogramRecord",
    "Interval",
    "JudgeRecord",
    "KeptRecord",
    "NoteCode",
    "PULRecord",
    "PromptSetRecord",
    "ReferenceKind",
    "ReferenceRecord",
    "SecondJudgeRecord",
    "Transitions",
    "WarningCode",
    "WarningRecord",
    "WordsRecord",
]

NoteCode = Literal["real_split", "real_split_small", "filtered_by_judge", "filtered_by_second_judge", "retrained"]
ReferenceKind = Literal["real", "filtered_original"]
WarningCode = Literal[
    "few_forget_images", "fallback_judge", "no_second_judge", "python_warning", "same_weights", "different_options",
    "different_text_encoder", "different_schedules", "unwanted_not_seen", "reference_trained_on",
    "reference_forgotten_before",
]  # fmt: skip


@dataclass(frozen=True)
class Interval:
    """A number with a 95 % interval, in the unit of the field that holds it.

    Attributes:
        value: the number.
        low: lower limit.
        high: upper limit.
    """

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class PULRecord(Interval):
    """Percentage of unlearning: value and limits in percent, (−∞, 100].

    Attributes:
        n_original: images predicted forget among the original's samples, at least 1.
        n_unlearned: the same among the unlearned model's samples.
        n_images: samples of each model.
        n_empty_resamples: bootstrap resamples without a forget image in the original.
    """

    n_original: int
    n_unlearned: int
    n_images: int
    n_empty_resamples: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**self.counted(), "n": self.n_images, "n_empty_resamples": self.n_empty_resamples}

    def counted(self) -> dict[str, Any]:
        """Plain values without what stands once beside a whole table: N and the resamples."""
        return {**super().to_json(), "n_original": self.n_original, "n_unlearned": self.n_unlearned}


@dataclass(frozen=True)
class Distances:
    """How far a set of images is from the reference.

    Attributes:
        u_fid: Fréchet distance on the features, ≥ 0.
        kid: unbiased kernel distance on the features, around 0 for equal distributions.
    """

    u_fid: Interval
    kid: Interval

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"u_fid": self.u_fid.to_json(), "kid": self.kid.to_json()}


@dataclass(frozen=True)
class Fidelity:
    """Quality and variety of a set of images against the reference.

    Attributes:
        precision: fraction, [0, 1].
        recall: fraction, [0, 1].
        density: ≥ 0, may exceed 1.
        coverage: fraction, [0, 1].
    """

    precision: float
    recall: float
    density: float
    coverage: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class DistanceRow:
    """A row of the table of distances; one without distances was not measured.

    Attributes:
        name: identifies the row and seeds its resamples.
        label: for people.
        distances: u-FID and KID, or None.
        fidelity: precision, recall, density and coverage, or None.
        pul: of the unlearned model's row.
        forget_count: images predicted forget; None where the row is filtered or real.
        note_code: what the row's images are, where its label does not say.
        note_details: the note's numbers, by name.
    """

    name: str
    label: str
    distances: Distances | None = None
    fidelity: Fidelity | None = None
    pul: PULRecord | None = None
    forget_count: int | None = None
    note_code: NoteCode | None = None
    note_details: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "label": self.label,
            "pul": None if self.pul is None else self.pul.counted(),
            **({"u_fid": None, "kid": None} if self.distances is None else self.distances.to_json()),
            "forget_count": self.forget_count,
            "status": "not run" if self.distances is None else "measured",
            "note": "",  # held a sentence once; readers of old files still look for it
            "note_code": self.note_code,
            **({"note_details": dict(self.note_details)} if self.note_details else {}),
            **({} if self.fidelity is None else self.fidelity.to_json()),
        }


@dataclass(frozen=True)
class HistogramRecord:
    """How often each class is predicted, and how far the retained classes have moved.

    Attributes:
        classes: names of the judge's classes.
        original: images of each class among the original's samples.
        unlearned: the same among the unlearned model's samples.
        expected: images of each class after perfect forgetting; 0 for the forget classes.
        distance: total-variation distance of the unlearned model's retained classes to the expected ones, [0, 1].
        chance: mean distance by sampling error alone.
        chance_high: 95 % point of the distance by sampling error alone.
    """

    classes: tuple[str, ...]
    original: tuple[int, ...]
    unlearned: tuple[int, ...]
    expected: tuple[float, ...]
    distance: Interval
    chance: float
    chance_high: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "classes": list(self.classes),
            "original": list(self.original),
            "unlearned": list(self.unlearned),
            "expected": list(self.expected),
            "distance": self.distance.value,
            "distance_low": self.distance.low,
            "distance_high": self.distance.high,
            "chance": self.chance,
            "chance_high": self.chance_high,
        }


@dataclass(frozen=True)
class Transitions:
    """Which class an image became when the model was unlearned, over images from the same noise.

    Attributes:
        classes: names of the judge's classes.
        counts: images, [class before][class after].
    """

    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"classes": list(self.classes), "counts": [list(row) for row in self.counts]}


@dataclass(frozen=True)
class ApartRecord:
    """u-FID of the unlearned model's images without those that are still unwanted, which would count as damage to the rest.

    Attributes:
        n_images: how many are left.
        u_fid: their distance to the reference; None if too few are left.
        floor: that of as many images of the filtered original.
    """

    n_images: int
    u_fid: Interval | None
    floor: Interval | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "n_images": self.n_images,
            "u_fid": None if self.u_fid is None else self.u_fid.to_json(),
            "floor": None if self.floor is None else self.floor.to_json(),
        }


@dataclass(frozen=True)
class KeptRecord:
    """Retained images that changed class: of the noises from which the original made another class, those with a new class now.

    The class shift is that of the retained class whose count differs most from the expected one.

    Attributes:
        n_changed: images predicted as another class than before, a forget class included.
        n_kept: images of the original that are not predicted forget.
        shifted_class: name of the class that shifted most.
        shifted_expected: its images after perfect forgetting.
        shifted_made: its images among the unlearned model's samples.
        apart: where many unwanted images remain, the distance of the others; None elsewhere.
    """

    n_changed: int
    n_kept: int
    shifted_class: str
    shifted_expected: float
    shifted_made: int
    apart: "ApartRecord | None" = None

    @property
    def share(self) -> float:
        """The fraction that changed class, [0, 1]."""
        return self.n_changed / self.n_kept

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        shift = {"class": self.shifted_class, "expected": self.shifted_expected, "made": self.shifted_made}
        apart = {} if self.apart is None else {"apart": self.apart.to_json()}
        return {
            "n_changed": self.n_changed,
            "n_kept": self.n_kept,
            "share": self.share,
            "largest_shift": shift,
            **apart,
        }


@dataclass(frozen=True)
class JudgeRecord:
    """What is known of a judge.

    Attributes:
        name: for tables.
        architecture: of its network.
        source: where it comes from.
        held_out_error: fraction of held-out images that it gets wrong, [0, 1].
        n_held_out: held-out images.
        forget_false_positive_rate: fraction of retained images that it predicts forget, [0, 1].
        pul_ceiling_percent: PUL that a perfect unlearned model would get from it on average, at most 100.
        weights_sha256: of its weights.
        n_kept_held_out: those of the held-out images that the false-positive rate is a fraction of; None where it is an estimate.
    """

    name: str
    architecture: str
    source: JudgeSource
    held_out_error: float
    n_held_out: int
    forget_false_positive_rate: float
    pul_ceiling_percent: float
    weights_sha256: str | None = None
    n_kept_held_out: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        found = {name: value for name, value in asdict(self).items() if value is not None}
        found["pul_ceiling"] = found.pop("pul_ceiling_percent")
        return found


@dataclass(frozen=True)
class SecondJudgeRecord:
    """What a judge of another architecture finds.

    Attributes:
        judge: what is known of it.
        pul: by its predictions.
    """

    judge: JudgeRecord
    pul: PULRecord

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**self.judge.to_json(), "pul": self.pul.to_json()}


@dataclass(frozen=True)
class ReferenceRecord:
    """What the distances were measured against.

    Attributes:
        kind: real images, or the original's samples without those of the forget class.
        description: of the images.
        n_images: how many.
        sha256: of the pixels of real images; None where the original's samples are the reference.
    """

    kind: ReferenceKind
    description: str
    n_images: int
    sha256: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values; without the hash where there is none."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class WarningRecord:
    """A reason to read the numbers with care.

    Attributes:
        code: the reason.
        details: its numbers, or the text of a warning that another library gave.
    """

    code: WarningCode
    details: Mapping[str, float | str]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"code": self.code, **self.details}


@dataclass(frozen=True)
class Comparison:
    """An unlearned model against the original, on N images of each from the same noise.

    Attributes:
        pul: by the first judge.
        second: what the second judge finds, or None.
        distances: of the unlearned model's images to the reference.
        histogram: of both models' predicted classes.
        fidelity: of the unlearned model's images, or None where a table leaves it out.
    """

    pul: PULRecord
    second: SecondJudgeRecord | None
    distances: Distances
    histogram: HistogramRecord
    fidelity: Fidelity | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "pul": self.pul.to_json(),
            "second": None if self.second is None else self.second.to_json(),
            **self.distances.to_json(),
            "histogram": self.histogram.to_json(),
            **({} if self.fidelity is None else self.fidelity.to_json()),
        }


@dataclass(frozen=True)
class Counted:
    """A count among n images with the 95 % interval of its rate.

    Attributes:
        count: images counted.
        n_images: of so many, at least 1.
        low: lower limit, [0, 1].
        high: upper limit, [0, 1].
    """

    count: int
    n_images: int
    low: float
    high: float

    @classmethod
    def of(cls, mask: Tensor) -> "Counted":
        """The true ones of a mask, [n], bool, with a Wilson interval."""
        count, n = int(mask.sum()), len(mask)
        return cls(count, n, *share_interval(count, n))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class AccuracyRecord:
    """One of the accuracies of :mod:`vdu.evaluation.words`, of one model.

    Attributes:
        name: "UA", "IRA" or "CRA".
        model: "original", "filtered_original", "unlearned" or "retrained".
        judge: name of the judge that counted.
        counted: images that are as they should be, among those that count.
        mean_rank: mean rank of a class among the judge's: of the concept for UA, else of the class that was asked for; at least 1.
    """

    name: Literal["UA", "IRA", "CRA"]
    model: str
    judge: str
    counted: Counted
    mean_rank: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        head = {"name": self.name, "model": self.model, "judge": self.judge}
        return {**head, **self.counted.to_json(), "mean_rank": self.mean_rank}


@dataclass(frozen=True)
class PromptSetRecord:
    """What was drawn under one set of prompts or labels.

    Attributes:
        name: "target", "neighbours", "others" or "null".
        prompts: the prompts or labels; each image asks one, drawn by its seed with equal chances.
        found: by model, images in which the judge finds the concept.
        changed: by model, images of another class than the original's from the same noise and prompt; kept sets only.
    """

    name: str
    prompts: tuple[str, ...]
    found: Mapping[str, Counted]
    changed: Mapping[str, Counted]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        rates = {
            name: {who: each.to_json() for who, each in getattr(self, name).items()} for name in ("found", "changed")
        }
        return {"name": self.name, "prompts": list(self.prompts), **rates}


@dataclass(frozen=True)
class WordsRecord:
    """What the models draw when they are asked in words, or under labels.

    Attributes:
        kind: what they are asked with.
        concepts: what was to be forgotten, in the user's words.
        sets: one record per set, "target" and "others" among them.
        accuracy: UA, IRA and CRA by model; those that the judges cannot tell are left out.
        cross_judge: name, architecture, number of classes and held-out error of the judge of another domain, or None.
        asked: the prompts or labels that the sample files number.
        target_flips: class before and class after of the target set, noise by noise; None if it has no image.
    """

    kind: Literal["prompts", "labels"]
    concepts: tuple[str, ...]
    sets: tuple[PromptSetRecord, ...]
    accuracy: tuple[AccuracyRecord, ...]
    cross_judge: Mapping[str, Any] | None
    asked: tuple[str, ...] = ()
    target_flips: Transitions | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "kind": self.kind,
            "concepts": list(self.concepts),
            "sets": [each.to_json() for each in self.sets],
            "accuracy": [each.to_json() for each in self.accuracy],
            "cross_judge": None if self.cross_judge is None else dict(self.cross_judge),
            "asked": list(self.asked),
            "target_flips": None if self.target_flips is None else self.target_flips.to_json(),
        }


@dataclass(frozen=True)
class EvidenceRecord:
    """All that samples of an original and an unlearned model show.

    Attributes:
        n_images: N, samples of each model.
        rows: the table of distances, one named "original" and one named "unlearned" among them.
        histogram: of both models' predicted classes.
        transitions: class before and class after, noise by noise.
        kept: the retained images that changed class.
        judge: the first judge.
        corrected_pul_percent: PUL without the judge's false positives, in percent; None where these explain the original's count.
        second_judge: what a second judge finds, or None.
        feature_network: label of the network whose features give the distances.
        reference: what the distances are measured against.
        warnings: reasons to read the numbers with care.
        transitions_retrained: the same from the original to the retrained model, or None without one.
        words: what they draw when they are asked in words or under labels, or None for unconditional models. With words, PUL and
            forget counts are those of prompts that ask for the concept; all else is of the other prompts.
    """

    n_images: int
    rows: tuple[DistanceRow, ...]
    histogram: HistogramRecord
    transitions: Transitions
    kept: KeptRecord
    judge: JudgeRecord
    corrected_pul_percent: Interval | None
    second_judge: SecondJudgeRecord | None
    feature_network: str
    reference: ReferenceRecord
    warnings: tuple[WarningRecord, ...]
    transitions_retrained: Transitions | None = None
    words: WordsRecord | None = None

    def row(self, name: str) -> DistanceRow:
        """The row of a name."""
        return next(row for row in self.rows if row.name == name)

    @property
    def pul(self) -> PULRecord:
        """PUL by the first judge."""
        found = self.row("unlearned").pul
        assert found is not None
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        corrected, second, beside = self.corrected_pul_percent, self.second_judge, self.transitions_retrained
        return {
            "n_images": self.n_images,
            "rows": [row.to_json() for row in self.rows],
            "histogram": self.histogram.to_json(),
            "flips": self.transitions.to_json(),
            "kept": self.kept.to_json(),
            **({} if beside is None else {"flips_retrained": beside.to_json()}),
            **({} if self.words is None else {"words": self.words.to_json()}),
            "judge": {
                **self.judge.to_json(),
                "corrected_pul": None if corrected is None else corrected.to_json(),
                "second": None if second is None else second.to_json(),
            },
            "feature_network": self.feature_network,
            "reference": self.reference.to_json(),
            "warnings": [warning.to_json() for warning in self.warnings],
        }
