"""What the model given as retrained is worth: may it have seen the unwanted images, and which ceiling does it show?

With r unwanted images of N from it, o of N from the original and the judge's false-positive rate f:

Doubt     the Wilson interval of r/N starts above f (the judge's errors do not explain it) and ends at half of o/N or above.
          Such a model may have seen the images; nothing is then concluded from it.
Ceiling   without doubt, a model that never saw them would have PUL = 100 · (1 − r/o), the judge's errors and chance likeness
          together. The lower of this and the judge's own ceiling is used.

NOT guaranteed: that a model without doubt was made without the images; one that saw few of them may pass.
"""

from vdu.report.collect import ReportData
from vdu.report.shares import Share
from vdu.report.thresholds import THRESHOLDS

__all__ = ["lowest_ceiling", "retrained_doubt", "seen_ceiling", "wilson"]


def wilson(count: int, total: int) -> Share:
    """A share with its 95 % interval (Wilson 1927).

    Args:
        count: images counted.
        total: of so many, at least 1.

    Returns:
        The share.

    >>> share = wilson(15, 148)  # Newcombe 1998, Statistics in Medicine 17, 857, Table I, method 3
    >>> round(share.low, 4), round(share.high, 4)
    (0.0624, 0.1605)
    """
    p, z2 = count / total, 1.959964**2
    middle, scale = (p + z2 / (2 * total)) / (1 + z2 / total), 1 / (1 + z2 / total)
    half = scale * (z2 * p * (1 - p) / total + z2**2 / (4 * total**2)) ** 0.5
    return Share(count, total, max(0.0, middle - half), min(1.0, middle + half))


def _counts(data: ReportData) -> tuple[int, int] | None:
    """Unwanted images of the retrained model and of the original, or None where one was not counted."""
    counts = [(data.row(name) or {}).get("forget_count") for name in ("retrained", "original")]
    return None if counts[0] is None or not counts[1] else (counts[0], counts[1])


def retrained_doubt(data: ReportData) -> str | None:
    """Why the model given as retrained may have seen the unwanted images.

    Args:
        data: the collected run.

    Returns:
        A sentence; None where there is no such model or no doubt.
    """
    counts = _counts(data)
    if counts is None:
        return None
    n, (retrained, original) = data.metrics["n_images"], counts
    share = wilson(retrained, n)
    explained = share.low <= data.metrics["judge"]["forget_false_positive_rate"]
    if explained or share.high < THRESHOLDS["doubted_share_of_original"] * original / n:
        return None
    return (
        f"The model given as retrained makes {retrained:,} of {n:,} unwanted images, the original {original:,}: more than the "
        "judge's errors explain, so it may have seen them. Nothing is concluded from comparing with it."
    )


def seen_ceiling(data: ReportData) -> float | None:
    """The PUL, in percent, of the retrained model against the original; None without one, or with a doubted one."""
    counts = _counts(data)
    return None if counts is None or retrained_doubt(data) else 100 * (1 - counts[0] / counts[1])


def lowest_ceiling(data: ReportData) -> float:
    """The lower of the judge's own ceiling of PUL and the one that the retrained model shows, in percent."""
    seen = seen_ceiling(data)
    own = data.metrics["judge"]["pul_ceiling"]
    return own if seen is None else min(own, seen)
