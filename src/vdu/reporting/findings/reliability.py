"""What weakens the evidence itself: a retrained model that may have seen the images, a low ceiling, judges that disagree.

With r unwanted images of N from the model given as retrained, o of N from the original and the judge's false-positive rate f:

Doubt     the Wilson interval of r/N starts above f and ends at half of o/N or above. Such a model may have seen the images;
          nothing is then concluded from it. Where f is known from so few images that its own interval reaches as far, the
          judge's errors may explain it as well: neither is shown, and nothing is concluded either.
Ceiling   without doubt, a model that never saw them would have PUL = 100 · (1 − r/o), the judge's errors and chance likeness
          together. The lower of this and the judge's own ceiling is used.

NOT guaranteed: that a model without doubt was made without the images; one that saw few of them may pass.
"""

from typing import Any

from vdu.reporting.collect import ReportData
from vdu.reporting.findings.thresholds import THRESHOLDS
from vdu.reporting.rates import wilson

__all__ = [
    "aim_missed",
    "is_fallback",
    "judges_disagree",
    "lowest_ceiling",
    "retrained_ceiling",
    "retrained_doubt",
    "retrained_doubted",
    "retrained_left",
    "stopping",
]


def _counts(data: ReportData) -> tuple[int, int] | None:
    """Unwanted images of the retrained model and of the original, or None where one was not counted."""
    counts = [(data.row(name) or {}).get("forget_count") for name in ("retrained", "original")]
    return None if counts[0] is None or not counts[1] else (counts[0], counts[1])


def retrained_doubted(data: ReportData) -> bool:
    """Whether the model given as retrained may have seen the unwanted images; False where there is none."""
    counts = _counts(data)
    if counts is None:
        return False
    n, (retrained, original) = data.metrics["n_images"], counts
    rate, alarms = wilson(retrained, n), data.metrics["judge"]["forget_false_positive_rate"]
    return rate.low > alarms and rate.high >= THRESHOLDS["doubted_share_of_original"] * original / n


def _may_be_alarms(data: ReportData, count: int) -> bool:
    """Whether so many images may be the judge's false alarms, whose rate is itself known from a number of images."""
    judge = data.metrics["judge"]
    n = judge.get("n_kept_held_out") or judge["n_held_out"]  # earlier versions recorded all of them alone
    if not n or is_fallback(data):  # a fallback's are forget images, which tell nothing of that rate
        return False
    alarms = wilson(round(judge["forget_false_positive_rate"] * n), n)
    return wilson(count, data.metrics["n_images"]).low <= alarms.high


def retrained_doubt(data: ReportData) -> str | None:
    """The doubt about the model given as retrained as a sentence, or None where there is none."""
    counts = _counts(data)
    if counts is None or not retrained_doubted(data):
        return None
    judge = data.metrics["judge"]
    why = "more than the judge's errors explain, so it may have seen them"
    if _may_be_alarms(data, counts[0]):
        n = judge.get("n_kept_held_out") or judge["n_held_out"]
        why = f"the judge's errors are known from {n:,} images, too few to tell whether they explain it, so it may have seen them"
    return (
        f"The model given as retrained makes {counts[0]:,} of {data.metrics['n_images']:,} unwanted images, the original "
        f"{counts[1]:,}: {why}. Nothing is concluded from comparing with it."
    )


def retrained_left(data: ReportData) -> int | None:
    """Images of the retrained model that look unwanted, of N; None without such a model, or with a doubted one."""
    count = (data.row("retrained") or {}).get("forget_count")
    return None if retrained_doubted(data) else count


def retrained_ceiling(data: ReportData) -> float | None:
    """The PUL, in percent, of the retrained model against the original; None without one, or with a doubted one."""
    counts = _counts(data)
    return None if counts is None or retrained_doubted(data) else 100 * (1 - counts[0] / counts[1])


def lowest_ceiling(data: ReportData) -> float:
    """The lower of the judge's own ceiling of PUL and the one that the retrained model shows, in percent."""
    seen = retrained_ceiling(data)
    own = data.metrics["judge"]["pul_ceiling"]
    return own if seen is None else min(own, seen)


def judges_disagree(pul: dict[str, Any], second: dict[str, Any] | None) -> bool:
    """Whether a second judge's interval of PUL lies wholly below the first one's."""
    return second is not None and second["high"] < pul["low"]


def is_fallback(data: ReportData) -> bool:
    """Whether the judge is a fallback classifier, trained without labels for the other images."""
    return data.metrics["judge"]["source"] == "fallback"


def stopping(data: ReportData) -> dict[str, Any] | None:
    """How the run's own stopping rule ended it, as recorded; None where there was no such rule."""
    stages = [*(data.run.get("stages") or []), *data.metrics["cost"]]
    return next((stage["stopping"] for stage in stages if stage.get("stopping")), None)


def aim_missed(stopped: dict[str, Any]) -> bool:
    """Whether a run ended with more samples like the forget set than it aimed at."""
    return stopped["n_left"] > stopped["aim"] if "n_left" in stopped else bool(stopped.get("missed"))
