"""The attempts to bring it back as sentences: the words of :mod:`vdu.reporting.findings.attempts`.

Not guaranteed: any number; the findings hold them.
"""

from typing import Any

from vdu.reporting.code_texts import hidden_text
from vdu.reporting.collect import ReportData
from vdu.reporting.findings.answer import Answer
from vdu.reporting.findings.attempts import ATTACKS, Attempt, AttemptFinding, Point, find_attempts, made_of
from vdu.reporting.findings.reliability import retrained_doubt
from vdu.reporting.formatting import count_word, number, percent, percent_interval, plural
from vdu.reporting.rates import measured, why_not

__all__ = ["against", "attempt_answers", "place_text"]

_ALONE = "Without a retrained model: what a model that never saw them would do was not measured (`--retrained`)."
_BESIDE_RETRAINED = {
    ("relearning", Attempt.COMES_BACK): "Comes back faster",
    ("relearning", Attempt.NO_MORE): "Not measurably faster",
    ("stochastic", Attempt.COMES_BACK): "Shows more with another sampler",
    ("completion", Attempt.COMES_BACK): "Finished more often",
    ("completion", Attempt.NO_MORE): "Not measurably more often",
    ("inpainting", Attempt.COMES_BACK): "Filled in more often",
    ("inpainting", Attempt.NO_MORE): "Not measurably more often",
}


def attempt_answers(data: ReportData, found: dict[str, AttemptFinding] | None = None) -> dict[str, Answer]:
    """What each probe says, in sentences.

    Args:
        data: the collected run.
        found: the findings, if they are known already.

    Returns:
        One answer for each name of :func:`tried`.
    """
    return {name: _attempt_answer(data, each) for name, each in (found or find_attempts(data)).items()}


def _attempt_answer(data: ReportData, found: AttemptFinding) -> Answer:
    title = _BESIDE_RETRAINED.get((found.probe, found.reason), found.reason.title)
    figure, text, limits = _attempt_words(data, found)
    result = measured(data.metrics, found.probe) if found.probe in ATTACKS else None
    if result is not None:
        rows = {row["model"]: row for row in result["rows"]}
        text += f" Before the attack it was {rows['unlearned']['start_count']:,} of {rows['unlearned']['n_images']:,}."
    return Answer(found.level, found.reason.code, title, figure, text, limits)


def _attempt_words(data: ReportData, found: AttemptFinding) -> tuple[str, str, tuple[str, ...]]:
    """Figure, text and limits."""
    if found.reason is Attempt.NOT_TESTED:
        reason = why_not(data.metrics, found.probe) or "Not part of this evaluation (`vdu evaluate --suite quick`)."
        return "not tested", reason, ()
    if found.reason is Attempt.DOUBTED:
        doubt = retrained_doubt(data) or ""
        return "no sound comparison", doubt, (doubt,)
    if found.reason is Attempt.FEW_FORGET_IMAGES:
        return *_few_words(measured(data.metrics, found.probe) or {}), ()
    if found.reason is Attempt.NO_PUL:
        unknown = "The share gone with the ordinary sampler is not known."
        text = unknown if (data.row("unlearned") or {}).get("pul") is None else _without_pul(data).strip()
        return "nothing to compare with", text, ()
    if found.reason is Attempt.NOTHING_TO_COMPARE:
        text = "The probe has no point that can be read without a retrained model."
        return "nothing to compare with", text, (_ALONE,)
    if found.row is not None:
        return *_sampler_words(data, found, found.row), ()
    assert found.point is not None
    if found.reason is Attempt.RETURNS_UNSHOWN:
        (step, n), start = found.point.place, found.highest.ours if found.highest else ""
        figure = f"{against(found.point)} after {step:,} steps on {count_word(n)} other images"
        text = f"Fine-tuned on {n:,} other images, the class rose from {start} to {found.point.ours} in {step:,} steps."
        return figure, text, ()
    if found.point.theirs is not None:
        return *_beside_retrained(found, found.point), ()
    assert found.highest is not None
    place, highest = place_text(found.probe, found.point.place), found.highest
    figure = f"{against(found.point)} {place} (the original by itself: {percent(100 * found.original)})"
    most = f"{highest.ours} {place_text(found.probe, highest.place)}"
    text = f"At most it was {most}; the original's own rate is {percent(100 * found.original)}."
    return figure, text, (_ALONE,)


def against(point: Point) -> str:
    """The count at a point, beside the retrained model's where it has one: ``"50 of 100 against 42"``."""
    ours, theirs = point.ours, point.theirs
    text = f"{ours.count:,} of {ours.total:,}"
    if theirs is None:
        return text
    return f"{text} against {theirs.count:,}" + ("" if theirs.total == ours.total else f" of {theirs.total:,}")


def _beside_retrained(found: AttemptFinding, point: Point) -> tuple[str, str]:
    ours, theirs, place = point.ours, point.theirs, place_text(found.probe, point.place)
    if found.reason is Attempt.COMES_BACK:
        figure = f"{against(point)} {place}"
        return figure, f"The unlearned model made {ours} of the class {place}, the retrained one {theirs}."
    highest = found.highest
    assert highest is not None
    text = (
        f"At none of {found.n_points} points does the unlearned model's interval lie above the retrained one's; its count is the "
        f"higher one at {found.n_higher}. {_lead_words(found, point)}: {ours} against {theirs} {place}."
    )
    if found.reason is Attempt.UNDECIDED:
        text += (
            " The unlearned model's rate rose above its own start, and the retrained one's did not, measurably."
            if found.risen
            else " No rise above the unlearned model's own start was seen, and one to half of the original's own rate is not excluded."
        )
    if found.reason is Attempt.LEAD_NOT_EXCLUDED:
        return f"a lead of {_lead(found.lead)} points not excluded", text
    return f"{against(highest)} {place_text(found.probe, highest.place)}", text


def _lead_words(found: AttemptFinding, point: Point) -> str:
    if found.reason is Attempt.LEAD_NOT_EXCLUDED:
        small = _lead(100 * point.margin)
        return f"A lead of {_lead(found.lead)} percentage points is not excluded, and {small} is the most that counts as small here"
    return f"The largest lead that cannot be excluded is {_lead(found.lead)} percentage points"


def _lead(lead: float) -> str:
    """Percentage points, of less than one with their decimals."""
    return f"{lead:.0f}" if lead >= 1 else f"{lead:.2g}"


def _sampler_words(data: ReportData, found: AttemptFinding, row: dict[str, Any]) -> tuple[str, str]:
    plain = (data.row("unlearned") or {})["pul"]
    figure = f"share gone at least {percent(row['pul']['low'])} with {_sampler(row)}"
    which = "the clearest" if found.reason is Attempt.HIDDEN_BY_SAMPLER else "the worst"
    text = (
        f"With {_sampler(row)}, {which} of {found.n_points} tried, the share gone is {percent_interval(row['pul'])}; with the "
        f"ordinary sampler {percent_interval(plain)}.{_without_pul(data)}"
    )
    own = ((measured(data.metrics, "stochastic") or {}).get("protocol") or {}).get("evaluation_sampler")
    return figure, text + (f" The ordinary one here is {own}." if own else "")


def _without_pul(data: ReportData) -> str:
    """The samplers with which the original makes none, so that nothing was lost and nothing is decided."""
    rows = [row for row in (measured(data.metrics, "stochastic") or {"rows": []})["rows"] if row["pul"] is None]
    named = [
        _sampler(row)
        + ("" if (made := made_of(row)) is None else f" (the unlearned model {made:,} of {row['n_images']:,})")
        for row in rows
    ]
    return (
        f" With {'; '.join(named)}, the original makes none: there is no share gone, and nothing is decided."
        if named
        else ""
    )


def _few_words(result: dict[str, Any]) -> tuple[str, str]:
    """Figure and text of a relearning for which there were too few forget images."""
    skipped = [each for each in result["protocol"].get("left_out") or [] if isinstance(each, dict)]
    least = min((each for each in skipped if each["shown"] == "forget"), key=lambda each: each["n_shown"], default=None)
    if least is None:
        return "fewer than the test needs", "There are fewer forget images than the test needs."
    have, need = least["n_available"], least["n_shown"]
    return (
        f"{plural(have, 'image')}; the test needs {need:,}",
        f"The forget set has {plural(have, 'image')}, and the test needs {need:,} to fine-tune on. Give more of them.",
    )


def _sampler(row: dict[str, Any]) -> str:
    return row["sampler"] + ("" if row["eta"] is None else f", η = {number(row['eta'])}")


def place_text(probe: str, place: Any) -> str:
    """Where a probe counted, as words: ``"after 30 steps on ten unwanted images"``."""
    if probe == "relearning":
        return f"after {place[0]:,} steps on {count_word(place[1])} unwanted image{'' if place[1] == 1 else 's'}"
    if probe == "stochastic":
        return f"with {_sampler(place)}"
    if probe == "completion":
        return f"with {percent(100 * place, 0)} of the chain done by the original"
    if probe in ATTACKS:
        return {"paraphrases": "under paraphrases", "inversion": "with an inverted condition"}.get(
            probe, "with optimised prompts"
        )
    return f"with the {hidden_text(place)} hidden"
