"""The result sheet: one row for each test, before, after, retrained (the target), the 95 % interval and the reading.

Every number is one of ``metrics.json`` or a rate; an empty cell was not measured. A test that did not run has a row as well.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vdu.reporting.asked import ACCURACIES, accuracies, retained_less
from vdu.reporting.collect import ReportData
from vdu.reporting.findings.answer import Answer, Level
from vdu.reporting.findings.attempt_words import place_text
from vdu.reporting.findings.attempts import Attempt, AttemptFinding, find_attempts
from vdu.reporting.findings.class_shifts import retrained_counts
from vdu.reporting.findings.gone import find_gone
from vdu.reporting.findings.inside import Inside, find_inside
from vdu.reporting.findings.reliability import retrained_doubted, retrained_left
from vdu.reporting.findings.rest import Rest, RestFinding, clearest_shift, distance_reason, expected_counts, find_rest
from vdu.reporting.formatting import interval, number, percent
from vdu.reporting.rates import measured

__all__ = ["TESTS", "SheetRow", "overview", "result_sheet", "tests_of"]

TESTS = {
    "relearning": "Relearning",
    "stochastic": "Another sampler",
    "completion": "Completion",
    "inpainting": "Inpainting",
    "likelihood": "Likelihood",
    "membership": "Membership",
    "retrained": "Distance to a retrained model",
}
ATTACKS = {"paraphrases": "Paraphrases", "inversion": "Inversion", "soft_prompt": "Soft prompts"}
_READINGS = {
    "good": "without a sign",
    "mixed": "with reservations",
    "bad": "bad",
    "unknown": "undecided",
}
_PLACES = {"retrained": "distance"}  # the probe's name is that of a model
_ABOUT = {
    "likelihood": "bits/dim of forgotten images",
    "membership": "AUC of the strongest attack; chance 0.5",
    "retrained": "Fréchet distance of samples; target: the retrained model's own",
}


@dataclass(frozen=True)
class SheetRow:
    """A row.

    Attributes:
        place: id of the section with the details.
        test: its name.
        about: what was counted, and where.
        before: of the original; empty where it was not measured, as in the next three.
        after: of the unlearned model.
        target: of the retrained model.
        ends: the 95 % interval of ``after``.
        level: of the reading.
        reading: in a few words.
    """

    place: str
    test: str
    about: str
    before: str
    after: str
    target: str
    ends: str
    level: Level
    reading: str


def overview(rows: list[SheetRow], probes: Mapping[str, Answer]) -> str:
    """How many rows and probes there are, and how the probes ended: ``"11 rows. 7 of 7 probes ran: 5 …, 2 undecided."``."""
    levels = Counter(found.level for found in probes.values() if found.code != Attempt.NOT_TESTED.code)
    if not levels:
        return f"{len(rows)} rows. No probe was run."
    parts = ", ".join(f"{levels[level]} {words}" for level, words in _READINGS.items() if levels[level])
    n = sum(levels.values())
    last = f"the last {len(probes)} are probes"
    return f"{len(rows)} rows; {last}. {n} of {len(probes)} probes ran: {parts}."


def tests_of(probes: Mapping[str, Answer]) -> dict[str, str]:
    """The tests that a run knows of, with their names; attacks on the condition are for conditional models."""
    return TESTS | {name: test for name, test in ATTACKS.items() if name in probes}


def result_sheet(data: ReportData, answers: Mapping[str, Answer], probes: Mapping[str, Answer]) -> list[SheetRow]:
    """The rows, in the order of the page.

    Args:
        data: the collected run.
        answers: the five answers.
        probes: what each probe says by itself.

    Returns:
        Rows for the samples, then one for each of :func:`tests_of`.
    """
    attempts, inside = find_attempts(data), find_inside(data)
    rows = [_gone(data, answers["gone"]), *_accuracies(data), *_rest(data)]
    for name, test in tests_of(probes).items():
        found = probes[name]
        numbers = _attempt(data, attempts[name]) if name in attempts else _inside(data, name, inside[name])
        rows.append(SheetRow(_PLACES.get(name, name), test, *numbers, found.level, found.title))
    return rows


def _gone(data: ReportData, found: Answer) -> SheetRow:
    pul, beside = find_gone(data).pul, retrained_left(data)
    n_images = f"{data.metrics['n_images']:,}"
    return SheetRow(
        "gone",
        f"Images of “{data.concept}”" if data.concept else "Unwanted images",
        f"of {n_images} that were asked for it" if data.concept else f"of {n_images} from each model",
        f"{pul['n_original']:,}" if pul else "",
        f"{pul['n_unlearned']:,}" if pul else "",
        "" if beside is None else f"{beside:,}",
        f"{_ends(pul, 1)} % gone" if pul else "",
        found.level,
        found.title.split(":")[0],
    )


def _accuracies(data: ReportData) -> list[SheetRow]:
    """UA, IRA and CRA of conditional models, in percent; beside them the filtered original's."""
    rows, less = [], retained_less(data)
    for name, by_model in accuracies(data).items():
        ours, floor = by_model["unlearned"], by_model.get("filtered_original")
        before, after, target = (
            percent(100 * rate.value) if (rate := by_model.get(model)) else ""
            for model in ("original", "unlearned", "retrained")
        )
        about = f"of {ours.total:,} images" + (
            "" if floor is None else f"; filtered original {percent(100 * floor.value)}"
        )
        level: Level = "mixed" if name in less else "fact"
        reading = "Fell" if name in less else "A rate; no verdict"
        rows.append(SheetRow("asked", ACCURACIES[name], about, before, after, target, ours.ends, level, reading))
    return rows


def _rest(data: ReportData) -> list[SheetRow]:
    rest, retrained = find_rest(data), data.row("retrained") or {}
    # of as many images as the others, or not at all: u-FID depends on their number
    target = None if retrained_doubted(data) or rest.remaining else retrained.get("u_fid")
    distance = distance_reason(data, rest)
    reading = "No measurable loss of quality on average" if distance is Rest.NO_DAMAGE else distance.title.split(":")[0]
    rows = [
        SheetRow(
            "rest", "Distance to the reference (u-FID)",
            "both without unwanted images" if rest.remaining else "before: without its unwanted images", _value(rest.floor),
            _value(rest.unlearned), _value(target), _ends(rest.unlearned), distance.level, reading,
        ),
        *_class_row(data, rest),
    ]  # fmt: skip
    if (changed := rest.changed) is not None:
        beside = "" if rest.changed_retrained is None else f"{rest.changed_retrained.count:,}"
        about = f"of {changed.total:,}, from the same noise"
        rows.append(
            SheetRow("flips", "Other images of another class now", about, "", f"{changed.count:,}", beside, changed.ends,
                     "fact", "A count; no verdict")
        )  # fmt: skip
    return rows


def _class_row(data: ReportData, rest: RestFinding) -> list[SheetRow]:
    """The kept class that changed most clearly, by the paired test."""
    if not rest.shifts:
        return []
    shift = clearest_shift(data, rest.shifts)
    i, beside = data.classes.index(shift.name), retrained_counts(data)
    histogram = data.metrics["histogram"]
    if shift.fell or shift.rose:
        level, word = "mixed", "Became rarer" if shift.fell else "Became more frequent"
    elif shift.detectable_loss > shift.before:
        level, word = "unknown", "Too few images to see a change"
    else:
        level, word = "good", "No measurable change"
    return [
        SheetRow(
            "rest", f"Images of “{shift.name}”", "the kept class that changed most clearly; before: expected",
            f"about {expected_counts(data)[i]:,.0f}", f"{histogram['unlearned'][i]:,}", "" if beside is None else f"{beside[i]:,}",
            "", level, word,
        )
    ]  # fmt: skip


def _attempt(data: ReportData, found: AttemptFinding) -> tuple[str, str, str, str, str]:
    """About, before, after, target and the ends of the interval."""
    if found.row is not None:  # another sampler, without a retrained model
        pul = found.row["pul"]
        about = f"share gone, {place_text('stochastic', found.row)}"
        return about, "", f"{pul['value']:.1f} %", "", f"{_ends(pul, 1)} %"
    shown = found.point if found.reason in {Attempt.COMES_BACK, Attempt.RETURNS_UNSHOWN} else found.highest
    if shown is None:
        return "", "", "", "", ""
    about = f"unwanted of {shown.ours.total:,}, {_place(found, shown.place)}"
    if found.probe in ATTACKS:
        rows = {row["model"]: row for row in (measured(data.metrics, found.probe) or {"rows": []})["rows"]}
        about += f"; without the attack {rows['unlearned']['start_count']:,}"
    target = "" if shown.theirs is None else f"{shown.theirs.count:,}"
    return (
        about,
        _original(data, found.probe, shown.place, shown.ours.total),
        f"{shown.ours.count:,}",
        target,
        shown.ours.ends,
    )


def _place(found: AttemptFinding, place: Any) -> str:
    if found.reason is Attempt.RETURNS_UNSHOWN:
        return f"after {place[0]:,} steps on {place[1]:,} other images"
    return place_text(found.probe, place)


def _original(data: ReportData, probe: str, place: Any, total: int) -> str:
    """The original's own count beside a probe's point, where the probe has it; with its total where that differs."""
    result = measured(data.metrics, probe) or {}
    if probe in {"relearning", *ATTACKS} and result.get("original"):
        count, n = result["original"]["forget_count"], result["original"]["n_images"]
        return f"{count:,}" if n == total else f"{count:,} of {n:,}"
    if probe == "stochastic":
        return "0" if place["pul"] is None else f"{place['pul']['n_original']:,}"
    if probe == "inpainting":
        rows = {(row["model"], row["hidden"]): row for row in result["rows"]}
        row = rows.get(("original", place))
        return "" if row is None else f"{row['forget_count']:,}"
    return ""


def _inside(data: ReportData, name: str, found: Any) -> tuple[str, str, str, str, str]:
    result = measured(data.metrics, name)
    if result is None or found.reason is Inside.NO_ROW or found.ours is None:
        return "", "", "", "", ""
    about = _ABOUT[name]
    if name == "retrained":
        floor = result["protocol"].get("floor_u_fid")
        target = "" if floor is None else number(floor)
        return about, _value(found.theirs), _value(found.ours), target, _ends(found.ours)
    if name == "membership":
        before = next(
            (r for r in result["rows"] if (r["model"], r["attack"]) == ("original", found.ours["attack"])), None
        )
        cells = [f"{row['auc']['value']:.2f}" if row else "" for row in (before, found.ours, found.theirs)]
        return about, cells[0], cells[1], cells[2], _ends(found.ours["auc"], 2)
    before = next((r for r in result["rows"] if (r["model"], r["images"]) == ("original", found.ours["images"])), None)
    return about, _value(before), _value(found.ours), _value(found.theirs), _ends(found.ours)


def _value(measure: Mapping[str, Any] | None) -> str:
    return "" if measure is None else number(measure["value"])


def _ends(measure: Mapping[str, float] | None, digits: int | None = None) -> str:
    return "" if measure is None else interval(measure, digits)[1:-1]
