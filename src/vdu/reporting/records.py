"""The JSON of a report, described once: what ``metrics.json`` must hold, and what ``evidence.json`` holds.

``evidence.schema.json`` is the JSON schema of :class:`Evidence`; a test compares the two. Units: PUL and its ceilings in
percent; rates and fractions in [0, 1]; seconds; every interval 95 %.

NOT guaranteed: any truth of the numbers, only that they can be shown.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from vdu.core.errors import InputError
from vdu.core.typed_json import AtLeast, closed, problem
from vdu.reporting.probe_records import Count, Duration, Fraction, Interval, Level, Positive, Probes, Pul, Sha256

__all__ = [
    "SCHEMA_ID",
    "Evidence",
    "Metrics",
    "check_evidence",
    "check_metrics",
]

SCHEMA_ID = "urn:vdu:schema:evidence:1"

_PERCENTILES = {"auc", "tpr_at_1_fpr"}  # of resamples, which need not contain the value


class Row(TypedDict):
    """A row of the reference table."""

    name: str
    label: str
    status: Literal["measured", "not run"]
    pul: Pul | None
    u_fid: Interval | None
    kid: Interval | None
    forget_count: Count | None
    note: str
    note_code: NotRequired[str | None]
    note_details: NotRequired[dict[str, Count]]
    precision: NotRequired[float | None]
    recall: NotRequired[float | None]
    density: NotRequired[float | None]
    coverage: NotRequired[float | None]


class JudgeRates(TypedDict):
    """A judge; rates are fractions, ``pul_ceiling`` is in percent; the false positives are among ``n_kept_held_out`` images."""

    name: str
    architecture: str
    source: Literal["given", "zoo", "fallback"]
    held_out_error: Fraction
    n_held_out: Count
    pul_ceiling: float
    forget_false_positive_rate: Fraction
    weights_sha256: NotRequired[Sha256]
    n_kept_held_out: NotRequired[Count]


class SecondJudge(JudgeRates):
    """The second judge, with its own PUL."""

    pul: NotRequired[Pul | None]


class Judge(JudgeRates):
    """The judge of an evaluation; rates are fractions, ``pul_ceiling`` is in percent."""

    second: SecondJudge | None
    corrected_pul: NotRequired[Interval | None]


class Histogram(TypedDict):
    """Images of each class, by the judge."""

    classes: list[str]
    original: list[Count]
    unlearned: list[Count]
    expected: list[float]
    distance: float
    distance_low: float
    distance_high: float
    chance_high: float


class Flips(TypedDict):
    """counts[i][j]: samples of class i before and class j after, from the same noise."""

    classes: list[str]
    counts: list[list[Count]]


class Reference(TypedDict):
    """The images that distances are measured to; ``sha256`` of the pixels of real ones, which earlier versions left out."""

    kind: Literal["real", "filtered_original"]
    description: str
    n_images: Count
    sha256: NotRequired[Sha256]


class Forget(TypedDict):
    """What was to be forgotten."""

    description: str
    classes: list[str] | None
    n_images: Count
    sha256: str


class Stage(TypedDict):
    """Wall-clock seconds and network evaluations (a forward pass of one image 1, a backward pass 2) of a stage.

    ``reused``: those of them that an earlier run had spent, whose results came from the cache.
    """

    stage: str
    seconds: Duration
    network_evaluations: Count | None
    reused: NotRequired[Count]


class Warned(TypedDict):
    """A warning of the evaluation; ``message`` is the text of a Python warning."""

    code: str
    message: NotRequired[str]


class CountedImages(TypedDict):
    """A count among n images, with the 95 % interval of its fraction."""

    count: Count
    n_images: Positive
    low: Fraction
    high: Fraction


class Accuracy(CountedImages):
    """Unlearning accuracy (UA), or in-domain and cross-domain retain accuracy (IRA, CRA), of a model.

    ``mean_rank``: of the concept (UA) or of the class that was asked for, among the judge's classes.
    """

    name: Literal["UA", "IRA", "CRA"]
    model: Literal["original", "filtered_original", "unlearned", "retrained"]
    judge: str
    mean_rank: float


class PromptSet(TypedDict):
    """What was drawn under a set of prompts or labels, by model.

    ``found``: images of the concept; ``changed``: of another class than the original's.
    """

    name: str
    prompts: Annotated[list[str], AtLeast(1)]
    found: dict[str, CountedImages]
    changed: dict[str, CountedImages]


class CrossJudge(TypedDict):
    """The judge of another domain."""

    name: str
    architecture: str
    n_classes: Positive
    held_out_error: Fraction
    n_held_out: Count | None


class Words(TypedDict):
    """What the models draw when they are asked with prompts, or under labels; ``asked``: those that the sample files number."""

    kind: Literal["prompts", "labels"]
    concepts: list[str]
    sets: list[PromptSet]
    accuracy: list[Accuracy]
    cross_judge: CrossJudge | None
    asked: list[str]
    target_flips: Flips | None


class Measurements(TypedDict):
    """What was measured on samples."""

    n_images: Count
    rows: Annotated[list[Row], AtLeast(1)]
    histogram: Histogram
    flips: Flips
    flips_retrained: NotRequired[Flips]
    kept: NotRequired[dict[str, Any]]
    words: NotRequired[Words]
    judge: Judge
    feature_network: str
    reference: Reference


class Metrics(Measurements):
    """``metrics.json``, in the form of this version (:mod:`vdu.reporting.legacy` translates older ones)."""

    forget: Forget
    date: NotRequired[str]
    suite: NotRequired[str | None]
    protocol: dict[str, Any]
    cost: list[Stage]
    warnings: list[Warned]
    probes: NotRequired[Probes]
    samples_sha256: NotRequired[dict[str, Sha256]]  # of the sample files, by model


class Finding(TypedDict):
    """What was found: a word for the level, a code for the reason, and both in sentences, with their limits."""

    level: Level
    code: str
    answer: str
    figure: str
    explanation: str
    limits: list[str]


class Verdict(Finding):
    """One of the five answers."""

    question: str


@closed
class Verdicts(TypedDict):
    """The five answers."""

    gone: Verdict
    rest: Verdict
    back: Verdict
    cost: Verdict
    trust: Verdict


@closed
class ProbeVerdicts(TypedDict):
    """What each probe says by itself."""

    relearning: Finding
    stochastic: Finding
    completion: Finding
    inpainting: Finding
    likelihood: Finding
    membership: Finding
    retrained: Finding
    paraphrases: NotRequired[Finding]
    inversion: NotRequired[Finding]
    soft_prompt: NotRequired[Finding]


class Shift(TypedDict):
    """A kept class, noise by noise: lost and gained by noises of kept classes, and the p-value with Holm's correction."""

    name: str
    before: Count
    lost: Count
    gained: Count
    p: Fraction
    detectable_loss: Positive


class About(TypedDict):
    """What the report is about; null: the run did not record it. Dates are UTC (ISO 8601); ``date``: of the evaluation."""

    id: str
    date: str | None
    unlearned_date: NotRequired[str | None]
    original_id: NotRequired[str]
    by: str | None
    model: str
    method: str | None
    method_words: str
    steps: Count | None
    max_steps: Count | None
    vdu: str | None


class Made(TypedDict):
    """How the report was made: the version of vdu that wrote it, whether the unwanted images are in it, and its number."""

    vdu: str
    unwanted_images: Literal["shown", "hidden"]
    number: NotRequired[str]


class Provenance(TypedDict):
    """Where all of it came from; ``files``: SHA-256 of what this was made from; ``page``: of report.html; parts: of text encoders, VAE.

    ``earlier_environments``: other software or machines, where earlier parts of a run that was continued were made.
    """

    command: str
    verb: str | None
    environment: dict[str, Any] | None
    earlier_environments: NotRequired[list[dict[str, Any]]]
    inputs: dict[str, Any] | None
    unlearned_sha256: str | None
    unlearned_parts_sha256: NotRequired[str]
    files: dict[str, Sha256]
    page: NotRequired[Sha256]
    report: NotRequired[Made]


Evidence = closed(
    TypedDict(
        "Evidence",
        {
            "$schema": Literal["urn:vdu:schema:evidence:1"],
            "format_version": Literal[1],
            "approximate": Literal[True],
            "certified": Literal[False],
            "about": About,
            "forget": Forget,
            "verdicts": Verdicts,
            "probe_verdicts": ProbeVerdicts,
            "class_shifts": NotRequired[list[Shift]],
            "thresholds": dict[str, float],
            "threshold_sentences": Annotated[list[str], AtLeast(1)],
            "not_tested": Annotated[list[str], AtLeast(1)],
            "warnings": list[str],
            "suite": str | None,
            "metrics": Measurements,
            "probes": Probes,
            "cost": list[Stage],
            "protocol": dict[str, Any],
            "provenance": Provenance,
        },
    )
)


def check_evidence(value: Any) -> None:
    """Stop where a value is no ``evidence.json``.

    Args:
        value: the parsed file.

    Raises:
        InputError: with the first place that breaks the form.
    """
    found = problem(value, Evidence)
    if found:
        raise InputError(
            f"evidence.json: {found}. Make it again with `vdu report`; its form is in vdu/reporting/evidence.schema.json."
        )


def check_metrics(metrics: Any, path: Path) -> None:
    """Stop at the first value that a report could not show.

    Args:
        metrics: the parsed ``metrics.json``.
        path: where it came from, for the message.

    Raises:
        InputError: if a value is missing or of another kind, if lengths that belong together differ, or if a value lies outside its
            own interval.
    """
    found = problem(metrics, Metrics) or _length_problem(metrics) or _interval_problem(metrics)
    if found:
        raise InputError(f"{path}: {found}. Run `vdu evaluate` again.")


def _length_problem(metrics: dict[str, Any]) -> str | None:
    histogram = metrics["histogram"]
    n = len(histogram["classes"])
    for key in ("original", "unlearned", "expected"):
        if len(histogram[key]) != n:
            return f"histogram.{key} has {len(histogram[key])} entries for {n} classes, expected {n}"
    words = metrics.get("words") or {}
    if words and not any(each["name"] == "target" for each in words["sets"]):
        return f"words.sets are {[each['name'] for each in words['sets']]}, expected one named 'target'"
    tables = {key: metrics.get(key) for key in ("flips", "flips_retrained")}
    for key, table in (tables | {"words.target_flips": words.get("target_flips")}).items():
        flips = table or {"classes": [], "counts": []}
        n = len(flips["classes"])
        if len(flips["counts"]) != n or any(len(row) != n for row in flips["counts"]):
            return f"{key}.counts is not {n} rows of {n} counts, one for each class"
    if not any(row["name"] == "unlearned" for row in metrics["rows"]):
        return f"rows are {[row['name'] for row in metrics['rows']]}, expected one named 'unlearned'"
    return None


def _interval_problem(value: Any, place: str = "") -> str | None:
    """The first value outside its own interval; a share of counts is one too."""
    if isinstance(value, list):
        return next(
            (found for i, each in enumerate(value) if (found := _interval_problem(each, f"{place}[{i}]"))), None
        )
    if not isinstance(value, dict):
        return None
    if {"low", "high"} <= set(value):
        mean = value.get("value", value.get("distance"))
        if mean is None and value.get("n_images"):
            mean = value.get("count", value.get("forget_count", 0)) / value["n_images"]
        slack = 1e-6 * max(1.0, abs(value["high"]))  # of rounding
        if mean is not None and not value["low"] - slack <= mean <= value["high"] + slack:
            return f"{place} is {mean:g}, outside its own interval, {value['low']:g} to {value['high']:g}"
    inside = ((key, each) for key, each in value.items() if key not in _PERCENTILES)
    return next(
        (found for key, each in inside if (found := _interval_problem(each, f"{place}.{key}".lstrip(".")))), None
    )
