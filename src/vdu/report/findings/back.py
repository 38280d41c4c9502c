"""The third answer: does it come back? The attempts of :mod:`vdu.report.findings.attempts`, read together.

What was not gone in the first place cannot come back (unknown). One bad part makes the answer bad, one mixed part
mixed. If all that ran is good, it is good only where relearning was among it: the other probes are weaker. Undecided parts
leave it "mixed" if others are good and "unknown" if none is.

NOT guaranteed: that another attack, more steps, more images or another learning rate would not bring it back.
"""

from dataclasses import dataclass, replace
from typing import Any

from vdu.report.collect import ReportData
from vdu.report.findings.answer import Answer, Reason
from vdu.report.findings.attempts import (
    ATTEMPTS,
    Attempt,
    AttemptFinding,
    attempt_answers,
    find_attempts,
    highest_start,
    relearning_pairs,
)
from vdu.report.findings.gone import GoneFinding
from vdu.report.findings.reliability import retrained_doubted
from vdu.report.rates import Rate, difference, measured, why_not

__all__ = ["Back", "BackFinding", "back_answer", "find_back"]


class Back(Reason):
    """Whether it comes back, and why."""

    NOT_TESTED = "not_tested", "unknown", "Not tested"
    NOT_GONE = "not_gone", "unknown", "It was not gone to begin with"
    YES = "yes", "bad", "Yes"
    PERHAPS = "perhaps", "mixed", "Perhaps"
    BELOW_HALF = "below_half", "mixed", "Stays below half of the original's rate"
    UNDECIDED = "undecided", "unknown", "Undecided: too few images to tell"
    DOUBTED = "retrained_doubted", "unknown", "Undecided: the retrained model may have seen it"
    NO_SIGN = "no_sign", "good", "No sign of it"
    NO_SIGN_SOME_UNDECIDED = "no_sign_some_undecided", "mixed", "No sign"
    NO_SIGN_NO_RELEARNING = "no_sign_without_relearning", "mixed", "No sign"
    NO_FASTER = "no_faster", "good", "Comes back no faster than in a retrained model"
    NO_FASTER_SOME_UNDECIDED = "no_faster_some_undecided", "mixed", "Comes back no faster than in a retrained model"


@dataclass(frozen=True)
class BackFinding:
    """All probes together.

    Attributes:
        reason: the level, and why.
        attempts: the findings of the probes that ran, by name.
        deciding: names of the probes that decided.
        n_good: probes without a sign.
        n_undecided: probes that could not decide.
        relearned: the largest relearned rate and the retrained model's beside it, where it lies above the start; else None.
    """

    reason: Back
    attempts: dict[str, AttemptFinding]
    deciding: tuple[str, ...] = ()
    n_good: int = 0
    n_undecided: int = 0
    relearned: tuple[Rate, Rate] | None = None


def find_back(data: ReportData, gone: GoneFinding) -> BackFinding:
    """Does it come back? All probes together.

    Args:
        data: the collected run.
        gone: the first finding; what is not gone cannot come back.

    Returns:
        The finding.
    """
    attempts = {name: found for name, found in find_attempts(data).items() if found.reason is not Attempt.NOT_TESTED}
    if not attempts:
        return BackFinding(Back.NOT_TESTED, attempts)
    if gone.reason.level == "bad":
        return BackFinding(Back.NOT_GONE, attempts)
    by_level = {
        level: [n for n, found in attempts.items() if found.level == level] for level in ("bad", "mixed", "good")
    }
    undecided = [name for name, found in attempts.items() if found.level == "unknown"]
    relearned = _relearned(data)
    common: dict[str, Any] = {"n_good": len(by_level["good"]), "n_undecided": len(undecided), "relearned": relearned}
    if by_level["bad"]:
        return BackFinding(Back.YES, attempts, tuple(by_level["bad"]), **common)
    if by_level["mixed"]:
        named = sorted(by_level["mixed"], key=lambda name: attempts[name].reason is Attempt.BELOW_HALF)
        below = attempts[named[0]].reason is Attempt.BELOW_HALF
        return BackFinding(Back.BELOW_HALF if below else Back.PERHAPS, attempts, tuple(named), **common)
    if not by_level["good"]:
        reason = Back.DOUBTED if retrained_doubted(data) else Back.UNDECIDED
        return BackFinding(reason, attempts, tuple(undecided), **common)
    risen = relearned is not None and "relearning" in by_level["good"]
    deciding = (*by_level["good"], *undecided)
    if undecided:
        reason = Back.NO_FASTER_SOME_UNDECIDED if risen else Back.NO_SIGN_SOME_UNDECIDED
        return BackFinding(reason, attempts, deciding, **common)
    if "relearning" not in attempts:
        return BackFinding(Back.NO_SIGN_NO_RELEARNING, attempts, deciding, **common)
    return BackFinding(Back.NO_FASTER if risen else Back.NO_SIGN, attempts, deciding, **common)


def _relearned(data: ReportData) -> tuple[Rate, Rate] | None:
    result = measured(data.metrics, "relearning")
    pairs = relearning_pairs(result) if result else []
    if not pairs or result is None:
        return None
    most = max(pairs, key=lambda point: point.ours.value)
    start = highest_start(result)
    risen = start is None or difference(most.ours, start)[0] > 0
    return (most.ours, most.theirs) if risen and most.theirs is not None else None


def back_answer(data: ReportData, found: BackFinding) -> Answer:
    """The finding in sentences."""
    if found.reason is Back.NOT_TESTED:
        reasons = {why_not(data.metrics, name) for name in ATTEMPTS} - {None}
        text = "No attempt to bring it back was made." + "".join(f" {reason}" for reason in sorted(map(str, reasons)))
        limit = "Relearning, other samplers, completion and inpainting are all unknown."
        return Answer.of(found.reason, "0 of 4 tests ran", text, (limit,))
    parts = attempt_answers(data, found.attempts)
    text = " ".join(
        f"{ATTEMPTS[name].capitalize()}: {_lower(part.title)} ({part.figure})." for name, part in parts.items()
    )
    missing = [words for name, words in ATTEMPTS.items() if name not in parts]
    untested = (f"Not tested: {', '.join(missing)}.",) if missing else ()
    limits = [*untested, *dict.fromkeys(limit for part in parts.values() for limit in part.limits)]
    limits.append("Other attacks, more steps or other learning rates may still bring it back.")
    figure = "; ".join(f"{ATTEMPTS[name]}: {parts[name].figure}" for name in found.deciding[:2])
    figure += f"; and {len(found.deciding) - 2} more" if len(found.deciding) > 2 else ""
    answer = Answer.of(found.reason, figure or "see the first answer", text, tuple(limits))
    return replace(answer, title=_back_title(found, parts))


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]


def _back_title(found: BackFinding, parts: dict[str, Answer]) -> str:
    title, n, undecided = (
        found.reason.title,
        f"{found.n_good} of {len(ATTEMPTS)} tests",
        f"{found.n_undecided} undecided",
    )
    beside = (
        "" if found.relearned is None else f"({found.relearned[0].value:.0%} against {found.relearned[1].value:.0%})"
    )
    more = {
        Back.YES: ", by " + " and ".join(ATTEMPTS[name] for name in found.deciding),
        Back.PERHAPS: f": {_lower(parts[found.deciding[0]].title)}" if found.deciding else "",
        Back.NO_SIGN: f" in {n}",
        Back.NO_SIGN_SOME_UNDECIDED: f" in {n}; {undecided}",
        Back.NO_SIGN_NO_RELEARNING: f" in {n}; relearning not tested",
        Back.NO_FASTER: f" {beside}",
        Back.NO_FASTER_SOME_UNDECIDED: f" {beside}; {undecided}",
    }
    return title + more.get(found.reason, "")
