"""The first answer: is it gone?

PUL = 100 · (n_orig − n_unl) / n_orig with interval [low, high], against the ceiling c (:mod:`vdu.reporting.findings.reliability`):
c < 80 the judge is too weak · n_orig < 20 too few images · low ≤ 0 no evidence · a second judge's interval below it: the judges
disagree · high ≥ c and low ≥ 0.8 c as good as the judge could show · low ≥ 50 more than half gone · otherwise reduced. With a
fallback classifier as the judge, the answer is mixed at best. The title counts what remains, whatever the level. The numbers are
named in :mod:`vdu.reporting.findings.thresholds`.

NOT guaranteed: anything about images, noise or attacks outside of these samples.
"""

from dataclasses import dataclass, replace
from typing import Any

from vdu.reporting.code_texts import stopping_text
from vdu.reporting.collect import ReportData
from vdu.reporting.findings.answer import Answer, Reason
from vdu.reporting.findings.reliability import (
    is_fallback,
    judges_disagree,
    lowest_ceiling,
    retrained_ceiling,
    retrained_doubt,
    retrained_left,
    stopping,
)
from vdu.reporting.findings.thresholds import THRESHOLDS
from vdu.reporting.formatting import percent, percent_interval
from vdu.reporting.rates import wilson

__all__ = ["Gone", "GoneFinding", "find_gone", "gone_answer", "rate_text"]


class Gone(Reason):
    """Whether it is gone, and why."""

    NOT_MEASURED = "not_measured", "unknown", "Not measured"
    MORE_FREQUENT = "more_frequent", "bad", "More frequent than before"
    WEAK_JUDGE = "weak_judge", "unknown", "The classifier is too weak to tell"
    LIKENESS = "retrained_makes_many", "unknown", "Cannot be told: a model that never saw it makes many, too"
    FEW_IMAGES = "few_images", "unknown", "Too few unwanted images to tell"
    NO_EVIDENCE = "no_evidence", "bad", "No evidence that it is gone"
    JUDGES_DISAGREE = "judges_disagree", "mixed", "Rarer, but the classifiers disagree"
    AT_CEILING = "at_ceiling", "good", "Mostly gone"
    AT_FALLBACK_CEILING = "at_fallback_ceiling", "mixed", "Mostly gone, by a fallback classifier"
    MOSTLY = "mostly", "mixed", "More than half gone"
    REDUCED = "reduced", "bad", "Reduced, not gone"


@dataclass(frozen=True)
class GoneFinding:
    """What was found.

    Attributes:
        reason: the level, and why.
        pul: PUL with its interval (percent) and counts, or None.
        second: the second judge's PUL, or None.
        ceiling: the highest PUL that this judge could show, in percent.
    """

    reason: Gone
    pul: dict[str, Any] | None
    second: dict[str, Any] | None
    ceiling: float


def find_gone(data: ReportData) -> GoneFinding:
    """Is the forget class gone? From PUL, its interval and the judge's ceiling."""
    pul, ceiling = (data.row("unlearned") or {}).get("pul"), lowest_ceiling(data)
    second = (data.metrics["judge"]["second"] or {}).get("pul")
    own = data.metrics["judge"]["pul_ceiling"]
    reason = Gone.NOT_MEASURED if pul is None else _reason(pul, ceiling, own, second)
    if reason is Gone.AT_CEILING and is_fallback(data):
        reason = Gone.AT_FALLBACK_CEILING
    return GoneFinding(reason, pul, second, ceiling)


def _reason(pul: dict[str, Any], ceiling: float, own: float, second: dict[str, Any] | None) -> Gone:
    if pul["high"] < 0:
        return Gone.MORE_FREQUENT
    if own < THRESHOLDS["weak_ceiling_percent"]:
        return Gone.WEAK_JUDGE
    if pul["n_original"] < THRESHOLDS["few_unwanted_images"]:
        return Gone.FEW_IMAGES
    if ceiling < THRESHOLDS["weak_ceiling_percent"]:  # by the retrained model, and not by the judge
        return Gone.LIKENESS
    if pul["low"] <= 0:
        return Gone.NO_EVIDENCE
    if judges_disagree(pul, second):
        return Gone.JUDGES_DISAGREE
    if pul["high"] >= ceiling and pul["low"] >= THRESHOLDS["near_ceiling_share"] * ceiling:
        return Gone.AT_CEILING
    return Gone.MOSTLY if pul["low"] >= THRESHOLDS["mostly_gone_percent"] else Gone.REDUCED


def gone_answer(data: ReportData, found: GoneFinding) -> Answer:
    """The finding in sentences."""
    pul, n_images = found.pul, f"{data.metrics['n_images']:,}"
    if pul is None:
        text = "This run has no share gone (PUL) for the unlearned model."
        return Answer.of(found.reason, "share gone (PUL) not known", text)
    value, most = percent_interval(pul), data.metrics["judge"]["pul_ceiling"]
    figure = f"{pul['n_unlearned']:,} of {n_images} outputs = {rate_text(pul, data.metrics['n_images'])}; share gone (PUL) {value}"
    if found.second is not None:
        figure += f"; by the second classifier {percent_interval(found.second)}"
    drew = (
        f"Asked for “{data.concept}” from the same noise, the original drew it in {pul['n_original']:,} of {n_images} images and the "
        f"unlearned model in {pul['n_unlearned']:,}"
    )
    made = (
        f"From the same noise, the original made {pul['n_original']:,} unwanted images of {n_images} and the unlearned model "
        f"{pul['n_unlearned']:,}"
    )
    text = f"{drew if data.concept else made}: {value} are gone. This classifier could show {percent(most)} at most."
    if (seen := retrained_ceiling(data)) is not None:
        text += f" The retrained model, counted the same way, has {percent(seen)}; the lower of the two is the ceiling."
    if (stopped := stopping(data)) is not None:
        text += f" How the run itself ended: {stopping_text(stopped)}."
    return replace(Answer.of(found.reason, figure, text, _limits(data, found, pul)), title=_title(data, found, pul))


def rate_text(pul: dict[str, Any], n_images: int) -> str:
    """The unwanted images as a share of all outputs, with its 95 % interval: ``"0.8 % (0.3 to 2.0 %)"``."""
    rate = wilson(pul["n_unlearned"], n_images)
    return f"{percent(100 * rate.value)} ({rate.ends})"


def _title(data: ReportData, found: GoneFinding, pul: dict[str, Any]) -> str:
    before, after, beside = pul["n_original"], pul["n_unlearned"], retrained_left(data)
    start = "Gone from these samples" if found.reason is Gone.AT_CEILING and after == 0 else found.reason.title
    interval = " to ".join(f"{max(0, before * (1 - pul[end] / 100)):,.0f}" for end in ("high", "low"))
    left = (
        f"{after:,} of {before:,} remain (95 % interval {interval})"
        if after <= before
        else f"{before:,} before, {after:,} after"
    )
    if data.concept:
        left = f"“{data.concept}” in {after:,} of {data.metrics['n_images']:,} images that were asked for it; before in {before:,}"
    return f"{start}: {left}" + ("" if beside is None else f"; a model that never saw it makes {beside:,}")


def _limits(data: ReportData, found: GoneFinding, pul: dict[str, Any]) -> tuple[str, ...]:
    judge, n_images = data.metrics["judge"], data.metrics["n_images"]
    limits = []
    if is_fallback(data):
        limits.append(
            "The classifier, a fallback, learned from the same selection of generated samples that the method may have used, and "
            "without labels for the other images."
        )
    doubt = retrained_doubt(data)
    if doubt:
        limits.append(doubt)
    if pul["n_unlearned"] == 0:  # the upper ends of the intervals above
        of_original = f", {percent(min(100, 100 - pul['low']))} of the original's" if pul["n_original"] else ""
        limits.append(
            f"None of {n_images:,} is not never: a rate up to {percent(100 * wilson(0, n_images).high)}{of_original} is possible too "
            "(95 % intervals)."
        )
    limits.append(
        f"The classifier (the judge) errs on {percent(100 * judge['held_out_error'])} of {judge['n_held_out']:,} held-out images and "
        f"takes {percent(100 * judge['forget_false_positive_rate'])} of the other images for unwanted."
    )
    corrected = judge.get("corrected_pul")
    weak = found.ceiling < THRESHOLDS["weak_ceiling_percent"]
    if corrected is not None and not weak and corrected["low"] < corrected["high"]:
        limits.append(f"Corrected for its confusions, the share gone is {percent_interval(corrected)}.")
    if (left := retrained_left(data)) is not None:
        limits.append(
            f"{left:,} of {n_images:,} images of the retrained model look unwanted to the classifier: its errors, or likeness."
        )
    if judge["second"] is None:
        limits.append("No second classifier of another architecture has looked.")
    limits.append("Only the ordinary sampler was used; the third question is about other ways.")
    return tuple(limits)
