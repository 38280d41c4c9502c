"""The first answer: is it gone?

PUL = 100 · (n_orig − n_unl) / n_orig with interval [low, high], against the ceiling c (:mod:`vdu.report.findings.reliability`):
c < 80 the judge is too weak · n_orig < 20 too few images · low ≤ 0 no evidence · a second judge's interval below it: the judges
disagree · high ≥ c and low ≥ 0.8 c as gone as the judge can see · low ≥ 50 mostly gone · otherwise reduced. With a fallback
classifier as the judge, "gone" is mixed at best. The numbers are named in :mod:`vdu.report.findings.thresholds`.

NOT guaranteed: anything about images, noise or attacks outside of these samples.
"""

from dataclasses import dataclass
from typing import Any

from vdu.report.code_texts import stopping_text
from vdu.report.collect import ReportData
from vdu.report.findings.answer import Answer, Reason
from vdu.report.findings.reliability import (
    is_fallback,
    judges_disagree,
    lowest_ceiling,
    retrained_ceiling,
    retrained_doubt,
    stopping,
)
from vdu.report.findings.thresholds import THRESHOLDS
from vdu.report.formatting import percent, percent_interval

__all__ = ["Gone", "GoneFinding", "find_gone", "gone_answer"]


class Gone(Reason):
    """Whether it is gone, and why."""

    NOT_MEASURED = "not_measured", "unknown", "Not measured"
    MORE_FREQUENT = "more_frequent", "bad", "More frequent than before"
    WEAK_JUDGE = "weak_judge", "unknown", "The judge is too weak to tell"
    FEW_IMAGES = "few_images", "unknown", "Too few unwanted images to tell"
    NO_EVIDENCE = "no_evidence", "bad", "No evidence that it is gone"
    JUDGES_DISAGREE = "judges_disagree", "mixed", "Rarer, but the judges disagree"
    AT_CEILING = "at_ceiling", "good", "As gone as this judge can see"
    AT_FALLBACK_CEILING = "at_fallback_ceiling", "mixed", "As gone as a fallback classifier can see"
    MOSTLY = "mostly", "mixed", "Mostly gone, some remains"
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
    reason = Gone.NOT_MEASURED if pul is None else _reason(pul, ceiling, second)
    if reason is Gone.AT_CEILING and is_fallback(data):
        reason = Gone.AT_FALLBACK_CEILING
    return GoneFinding(reason, pul, second, ceiling)


def _reason(pul: dict[str, Any], ceiling: float, second: dict[str, Any] | None) -> Gone:
    if pul["high"] < 0:
        return Gone.MORE_FREQUENT
    if ceiling < THRESHOLDS["weak_ceiling_percent"]:
        return Gone.WEAK_JUDGE
    if pul["n_original"] < THRESHOLDS["few_unwanted_images"]:
        return Gone.FEW_IMAGES
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
        text = "This run has no PUL for the unlearned model."
        return Answer.of(found.reason, "no PUL", text)
    before, after = f"{pul['n_original']:,}", f"{pul['n_unlearned']:,}"
    value, low, high = (percent(pul[key]) for key in ("value", "low", "high"))
    figure = f"{before} → {after} unwanted images of {n_images}: {value} gone ({low} to {high})"
    text = (
        f"From the same noise, the original made {before} unwanted images and the unlearned model {after}, of {n_images} each. "
        f"PUL\u00a0=\u00a0{value} (interval {low} to {high}); this judge could show "
        f"{percent(data.metrics['judge']['pul_ceiling'])} at most."
    )
    if (seen := retrained_ceiling(data)) is not None:
        text += f" The retrained model, counted the same way, has {percent(seen)}; the lower of the two is the ceiling."
    if (stopped := stopping(data)) is not None:
        text += f" How the run itself ended: {stopping_text(stopped)}."
    if found.second is not None:
        figure += f"; second judge {percent_interval(found.second)}"
    return Answer.of(found.reason, figure, text, _limits(data, found, pul))


def _limits(data: ReportData, found: GoneFinding, pul: dict[str, Any]) -> tuple[str, ...]:
    judge, n_images, second = data.metrics["judge"], data.metrics["n_images"], found.second
    limits = []
    if is_fallback(data):
        limits.append(
            "The judge, a fallback classifier, learned from the same selection of generated samples that the method may have used."
        )
    doubt = retrained_doubt(data)
    if doubt:
        limits.append(doubt)
    if pul["n_unlearned"] == 0:  # rule of three: 0 of N leaves rates up to 3/N at 95 %
        of_original = f", {percent(min(100, 300 / pul['n_original']))} of the original's" if pul["n_original"] else ""
        limits.append(
            f"None of {n_images:,} is not never: a rate up to {percent(min(100, 300 / n_images))}{of_original} would fit too "
            "(95 %)."
        )
    if second is not None:
        ends = f"{percent(second['low'])} to {percent(second['high'])}"
        limits.append(f"The second judge finds PUL = {percent(second['value'])} (interval {ends}).")
    limits.append(
        f"The judge errs on {percent(100 * judge['held_out_error'])} of {judge['n_held_out']:,} held-out images and "
        f"classifies {percent(100 * judge['forget_false_positive_rate'])} of the other images as unwanted."
    )
    corrected = judge.get("corrected_pul")
    weak = found.ceiling < THRESHOLDS["weak_ceiling_percent"]
    if corrected is not None and not weak and corrected["low"] < corrected["high"]:
        limits.append(f"Corrected for the judge's confusions, PUL is {percent_interval(corrected)}.")
    retrained = (data.row("retrained") or {}).get("forget_count")
    if retrained is not None and not doubt:
        limits.append(
            f"Of {n_images:,} images of the model given as retrained without them the judge classifies {retrained:,} as unwanted: "
            "the judge's error, or likeness."
        )
    if is_fallback(data):
        limits.append("The fallback classifier was trained without labels for the other images.")
    if judge["second"] is None:
        limits.append("There is one judge only; no second judge of another architecture has looked.")
    limits.append("Only the ordinary sampler was used: what can be dug out again is the third question.")
    return tuple(limits)
