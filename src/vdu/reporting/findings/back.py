"""The third answer: does it come back? The attempts of :mod:`vdu.reporting.findings.attempts`, read together.

What was not gone in the first place cannot come back (unknown). One bad part makes the answer bad, one mixed part
mixed. If all that ran is good, it is good only where relearning was among it (the other probes are weaker) and left the rate
where it was. Where relearning brings the class back, and in a model that never saw it as well, the answer is "yes" and a fact:
neither good nor bad. Undecided parts leave it "mixed" if others are good and "unknown" if none is.

NOT guaranteed: that another attack, more steps, more images or another learning rate would not bring it back.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from vdu.reporting.collect import ReportData
from vdu.reporting.findings.answer import Answer, Reason
from vdu.reporting.findings.attempt_words import attempt_answers
from vdu.reporting.findings.attempts import Attempt, AttemptFinding, Point, find_attempts, tried
from vdu.reporting.findings.gone import GoneFinding
from vdu.reporting.findings.reliability import retrained_doubted
from vdu.reporting.formatting import count_word
from vdu.reporting.rates import why_not

__all__ = ["Back", "BackFinding", "back_answer", "find_back"]


class Back(Reason):
    """Whether it comes back, and why."""

    NOT_TESTED = "not_tested", "unknown", "Not tested"
    NOT_GONE = "not_gone", "unknown", "It was not gone to begin with"
    YES = "yes", "bad", "Yes"
    PERHAPS = "perhaps", "mixed", "It can be brought back"
    BELOW_HALF = "below_half", "mixed", "Stays below half of the original's rate"
    UNDECIDED = "undecided", "unknown", "Undecided: too few images to tell"
    DOUBTED = "retrained_doubted", "unknown", "Undecided: the retrained model may have seen it"
    NO_SIGN = "no_sign", "good", "No"
    NO_SIGN_SOME_UNDECIDED = "no_sign_some_undecided", "mixed", "No"
    NO_SIGN_NO_RELEARNING = "no_sign_without_relearning", "mixed", "No"
    NO_FASTER = "no_faster", "fact", "Yes, if it is fine-tuned"
    NO_FASTER_SOME_UNDECIDED = "no_faster_some_undecided", "mixed", "Yes, if it is fine-tuned"


@dataclass(frozen=True)
class BackFinding:
    """All probes together.

    Attributes:
        reason: the level, and why.
        attempts: the findings of the probes that ran, by name.
        deciding: names of the probes that decided.
        n_good: probes without a sign.
        n_undecided: probes that could not decide.
        relearned: the point with the largest relearned rate, where it lies above the start; else None.
    """

    reason: Back
    attempts: dict[str, AttemptFinding]
    deciding: tuple[str, ...] = ()
    n_good: int = 0
    n_undecided: int = 0
    relearned: Point | None = None


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
    relearned = attempts["relearning"].risen if "relearning" in attempts else None
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


def back_answer(data: ReportData, found: BackFinding) -> Answer:
    """The finding in sentences."""
    names = tried(data)
    if found.reason is Back.NOT_TESTED:
        reasons = {why_not(data.metrics, name) for name in names} - {None}
        text = "No attempt to bring it back was made." + "".join(f" {reason}" for reason in sorted(map(str, reasons)))
        limit = "Relearning, other samplers, completion and inpainting are all unknown."
        return Answer.of(found.reason, f"0 of {len(names)} tests ran", text, (limit,))
    parts = attempt_answers(data, found.attempts)
    text = " ".join(
        f"{names[name].capitalize()}: {_lower(part.title)} ({part.figure})." for name, part in parts.items()
    )
    missing = [words for name, words in names.items() if name not in parts]
    limits = [f"Not tested: {', '.join(missing)}."] if missing else []
    if found.relearned is not None:
        limits.append("Compared with one retrained model; another would differ a little.")
    limits += dict.fromkeys(limit for part in parts.values() for limit in part.limits)
    limits.append("Other attacks, more steps or other learning rates may still bring it back.")
    answer = Answer.of(found.reason, _figure(found, parts, names), text, tuple(limits))
    return replace(answer, title=_title(found, parts, names))


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]


def _figure(found: BackFinding, parts: dict[str, Answer], names: dict[str, str]) -> str:
    if found.reason in {Back.NO_FASTER, Back.NO_FASTER_SOME_UNDECIDED}:
        beside = [  # the others were read without a model that never saw it
            each for each in found.attempts.values()
            if each.level == "good" and each.point is not None and each.point.theirs is not None
        ]  # fmt: skip
        n, lead = len(names), max(each.lead for each in beside)
        tests = f"any of {n} tests" if len(beside) == n else f"{len(beside)} of {n} tests"
        return f"not measurably more than in that model in {tests}; a lead above {math.ceil(lead)} percentage points is excluded"
    shown = [f"{names[name]}: {parts[name].figure}" for name in found.deciding[:2]]
    more = [f"and {len(found.deciding) - 2} more"] if len(found.deciding) > 2 else []
    return "; ".join([*shown, *more]) or "see the first answer"


def _title(found: BackFinding, parts: dict[str, Answer], names: dict[str, str]) -> str:
    title, n, undecided = (
        found.reason.title,
        f"{found.n_good} of {len(names)} tests",
        f"{found.n_undecided} undecided",
    )
    first = parts[found.deciding[0]].figure if found.deciding else ""
    more = {
        Back.YES: ", by " + " and ".join(names[name] for name in found.deciding) + f": {first}",
        Back.PERHAPS: f": {first}",
        Back.BELOW_HALF: f": {first}",
        Back.NO_SIGN: f", not in {n}",
        Back.NO_SIGN_SOME_UNDECIDED: f", not in {n}; {undecided}",
        Back.NO_SIGN_NO_RELEARNING: f", not in {n}; relearning not tested",
        Back.NO_FASTER: _after_fine_tuning(found.relearned),
        Back.NO_FASTER_SOME_UNDECIDED: f"{_after_fine_tuning(found.relearned)}; {undecided}",
    }
    return title + more.get(found.reason, "")


def _after_fine_tuning(most: Point | None) -> str:
    if most is None or most.theirs is None:
        return ""
    steps, n_shown = most.place
    beside = f"{most.theirs.count:,}" + ("" if most.theirs.total == most.ours.total else f" of {most.theirs.total:,}")
    return (
        f" on {count_word(n_shown)} of them: {most.ours.count:,} of {most.ours.total:,} after {steps:,} steps. So does a model "
        f"that never saw one ({beside})"
    )
