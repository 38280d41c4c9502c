"""Filters for a run's stored sample pairs: by class before and after, by change, by the judge's confidence.

Not guaranteed: that the judge is right; a low confidence is where to look first.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vdu.report.collect import ReportData

if TYPE_CHECKING:
    import numpy as np

__all__ = ["PairFilter", "first_seed", "place_of_seed", "select_pairs"]


@dataclass(frozen=True)
class PairFilter:
    """The conditions on a pair.

    Attributes:
        before: index of the judge's class in the original's image; None: any.
        after: the same in the unlearned model's image.
        change: "changed" (the classes differ), "same", or "any".
        least: lowest confidence of the judge, in [0, 1]; that of a pair is the lower of its two.
        most: highest confidence of the pair.
    """

    before: int | None = None
    after: int | None = None
    change: Literal["any", "changed", "same"] = "any"
    least: float = 0.0
    most: float = 1.0


def select_pairs(data: ReportData, wanted: PairFilter) -> "np.ndarray":
    """Rows of the sample files that meet the conditions.

    Args:
        data: the run.
        wanted: the conditions on a pair.

    Returns:
        Row indices in order, int64 [K].
    """
    import numpy as np

    before, after = data.original, data.unlearned
    confidence = np.minimum(before.judge_confidence, after.judge_confidence)
    keep = (confidence >= wanted.least) & (confidence <= wanted.most)
    if wanted.before is not None:
        keep &= before.judge_class == wanted.before
    if wanted.after is not None:
        keep &= after.judge_class == wanted.after
    if wanted.change != "any":
        keep &= (before.judge_class != after.judge_class) == (wanted.change == "changed")
    return np.flatnonzero(keep)


def first_seed(data: ReportData) -> int:
    """An initial seed.

    Args:
        data: the run.

    Returns:
        The first seed whose image was of the forget class and no longer is; without one, the first seed.
    """
    import numpy as np

    was, now = (np.isin(each.judge_class, data.forget_ids) for each in (data.original, data.unlearned))
    gone = np.flatnonzero(was & ~now)
    return int(data.original.seeds[gone[0] if len(gone) else 0])


def place_of_seed(data: ReportData, seed: int) -> int | None:
    """The row of a seed in the sample files, or None if it is not among them."""
    import numpy as np

    found = np.flatnonzero(data.original.seeds == seed)
    return int(found[0]) if len(found) else None
