"""The last answer: can this page be trusted? And what it does not know.

Files that contradict each other → no · a judge below its least ceiling, or too few unwanted images → too little to go by · a
doubted retrained model, judges that disagree, a run that missed its own aim, one judge only, a fallback classifier as the judge,
few images, no retrained row → with care · none of these → yes, for this one run. All thresholds are in
:mod:`vdu.reporting.findings.thresholds`.

NOT guaranteed: that the run is what it says. The page shows hashes; it does not check where the files came from.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from vdu.reporting.code_texts import stopping_text
from vdu.reporting.collect import ReportData
from vdu.reporting.findings.answer import Answer, Reason
from vdu.reporting.findings.reliability import (
    aim_missed,
    is_fallback,
    judges_disagree,
    retrained_doubted,
    stopping,
)
from vdu.reporting.findings.thresholds import THRESHOLDS
from vdu.reporting.formatting import percent
from vdu.reporting.rates import measured, why_not

__all__ = ["Reservation", "Trust", "TrustFinding", "asked_rows", "find_trust", "not_tested", "trust_answer"]


class Trust(Reason):
    """Whether the page can be trusted, and why."""

    CONTRADICTIONS = "contradictions", "bad", "No: its files contradict each other"
    TOO_LITTLE = "too_little", "bad", "Too little to go by"
    RESERVATIONS = "reservations", "mixed", "With care"
    NO_RESERVATION = "no_reservation", "good", "Yes, for this one run"


class Reservation(StrEnum):
    """What stands against the page, the most serious first."""

    CONTRADICTIONS = "contradictions"
    RETRAINED_DOUBTED = "retrained_doubted"
    JUDGES_DISAGREE = "judges_disagree"
    AIM_MISSED = "aim_missed"
    FALLBACK_JUDGE = "fallback_judge"
    ONE_JUDGE = "one_judge"
    FEW_UNWANTED = "few_unwanted_images"
    FEW_IMAGES = "few_images"
    NO_RETRAINED = "no_retrained_model"


@dataclass(frozen=True)
class TrustFinding:
    """What was found.

    Attributes:
        reason: the level, and why.
        reservations: what stands against the page, the most serious first.
    """

    reason: Trust
    reservations: tuple[Reservation, ...]


def find_trust(data: ReportData) -> TrustFinding:
    """Can I trust this page? From the judges, the number of images and the reference rows."""
    reservations = _reservations(data)
    pul = (data.row("unlearned") or {}).get("pul")
    weak = data.metrics["judge"]["pul_ceiling"] < THRESHOLDS["weak_ceiling_percent"]
    if data.contradictions:
        reason = Trust.CONTRADICTIONS
    elif weak or pul is None or pul["n_original"] < THRESHOLDS["few_unwanted_images"]:
        reason = Trust.TOO_LITTLE
    else:
        reason = Trust.RESERVATIONS if reservations else Trust.NO_RESERVATION
    return TrustFinding(reason, reservations)


def _reservations(data: ReportData) -> tuple[Reservation, ...]:
    metrics, second = data.metrics, data.metrics["judge"]["second"]
    pul, stopped = (data.row("unlearned") or {}).get("pul"), stopping(data)
    against = {
        Reservation.CONTRADICTIONS: bool(data.contradictions),
        Reservation.RETRAINED_DOUBTED: retrained_doubted(data),
        Reservation.JUDGES_DISAGREE: pul is not None and judges_disagree(pul, (second or {}).get("pul")),
        Reservation.AIM_MISSED: stopped is not None and aim_missed(stopped),
        Reservation.FALLBACK_JUDGE: is_fallback(data),
        Reservation.ONE_JUDGE: second is None,
        Reservation.FEW_UNWANTED: pul is not None and pul["n_original"] < THRESHOLDS["many_unwanted_images"],
        Reservation.FEW_IMAGES: metrics["n_images"] < THRESHOLDS["many_images"],
        Reservation.NO_RETRAINED: (data.row("retrained") or {}).get("status") != "measured",
    }
    return tuple(each for each, holds in against.items() if holds)


def trust_answer(data: ReportData, found: TrustFinding) -> Answer:
    """The finding in sentences."""
    metrics, judge = data.metrics, data.metrics["judge"]
    error = percent(100 * judge["held_out_error"])
    errs = f"misses {error} of the unwanted images" if is_fallback(data) else f"is wrong on {error} of held-out images"
    which = "two classifiers, the first of which" if judge["second"] else "one classifier, which"
    figure = f"{which} {errs}; {metrics['n_images']:,} images from each model"
    seed = metrics["protocol"].get("seed")
    run = f"one run (seed {seed})" if seed is not None else "one run"
    limits = (f"Approximate, not certified: evidence about these samples and tests, from {run}.",)
    texts = [text for each in found.reservations for text in _reservation_texts(data, each)]
    text = "Reservations: " + "; ".join(texts) + "." if texts else "No reservation by the rules below."
    answer = Answer.of(found.reason, figure, text, limits)
    if found.reason is Trust.RESERVATIONS:
        return replace(answer, title=f"{answer.title}: {_reservation_short(data, found.reservations[0])}")
    return answer


def _reservation_texts(data: ReportData, each: Reservation) -> list[str]:
    if each is Reservation.CONTRADICTIONS:
        return list(data.contradictions)
    stopped = stopping(data)
    if each is Reservation.AIM_MISSED and stopped is not None:
        return [f"{_reservation_short(data, each)} ({stopping_text(stopped)})"]
    return [_reservation_short(data, each)]


def _reservation_short(data: ReportData, each: Reservation) -> str:
    pul = (data.row("unlearned") or {}).get("pul") or {}
    return {
        Reservation.CONTRADICTIONS: "its files contradict each other",
        Reservation.RETRAINED_DOUBTED: "the model given as retrained may have seen the unwanted images",
        Reservation.JUDGES_DISAGREE: "the classifiers disagree",
        Reservation.AIM_MISSED: "the run missed its own aim",
        Reservation.FALLBACK_JUDGE: "the classifier is a fallback",
        Reservation.ONE_JUDGE: "one classifier only",
        Reservation.FEW_UNWANTED: f"only {pul.get('n_original')} unwanted images",
        Reservation.FEW_IMAGES: f"only {data.metrics['n_images']:,} images from each model",
        Reservation.NO_RETRAINED: "no retrained model to compare with",
    }[each]


_CONTROLS = {"ascent", "gradient_ascent", "isotropic"}

_PROBES = {
    "relearning": "Relearning: how fast a little fine-tuning brings the class back.",
    "stochastic": "Other samplers, with more or less noise.",
    "completion": "Completion: whether the unlearned model finishes what the original began.",
    "inpainting": "Inpainting: whether it fills in the hidden half of an unwanted image.",
    "likelihood": "Likelihood (bits/dim): whether the forgotten images are still more likely than they should be.",
    "membership": "Membership: whether the forgotten images can be told from others of their class.",
    "retrained": "The distance to a model retrained without the forgotten images.",
}
_ATTACKS = {
    "paraphrases": "Paraphrases: whether it comes when it is asked for in other words.",
    "inversion": "Inversion: whether some condition brings it back.",
    "soft_prompt": "Soft prompts: whether conditions near its own prompts bring it back.",
}
_NEVER = (
    "No person has looked at these images: every count is a classifier's.",
    "The sampler and the settings with which the model is deployed, if they differ from those used here.",
    "Other copies: the original in a cache, and models made from it.",
    "Deliberate attempts to get it back by optimised noise, {prompts}guidance or adapters.",
    "Unwanted images unlike those given, and concepts that contain them.",
    "Repeats of the unlearning itself with other seeds: one run is shown.",
)


def asked_rows(metrics: Mapping[str, Any], method: str | None) -> list[dict[str, Any]]:
    """The reference rows without the paper's controls that were not run, which no user of another method asked for."""
    of_the_paper = method in {"vdu", "ascent"}
    return [
        row for row in metrics["rows"] if of_the_paper or row["status"] == "measured" or row["name"] not in _CONTROLS
    ]


def not_tested(metrics: Mapping[str, Any], method: str | None = None) -> tuple[str, ...]:
    """What this page does not know, as sentences: what this run left out, then what no report of this format holds.

    Args:
        metrics: ``metrics.json``.
        method: how it was unlearned; decides whether the paper's controls are missed.

    Returns:
        The sentences; those of probes that ran are gone.
    """
    rows = [
        f"{row['label']}: reference row not run." for row in asked_rows(metrics, method) if row["status"] != "measured"
    ]
    second = [] if metrics["judge"]["second"] else ["A second classifier of another architecture."]
    sentences = _PROBES | {name: each for name, each in _ATTACKS.items() if name in metrics.get("probes", {})}
    probes = [
        f"{sentence} Not run: {_sentence(reason)}" if (reason := why_not(metrics, name)) else sentence
        for name, sentence in sentences.items()
        if measured(metrics, name) is None
    ]
    relearning = measured(metrics, "relearning")
    if relearning is not None and not any(curve["shown"] == "benign" for curve in relearning["curves"]):
        probes.append("Whether fine-tuning on other, harmless images brings the class back.")
    few = f"More than {metrics['n_images']:,} images from each model" + (
        ", and more than the quick tests." if metrics.get("suite") == "quick" else "."
    )
    optimised = any(measured(metrics, name) is not None for name in ("inversion", "soft_prompt"))
    never = (each.format(prompts="" if optimised else "prompts, ") for each in _NEVER)
    return (*probes, *rows, *second, few, *never)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else text + "."
