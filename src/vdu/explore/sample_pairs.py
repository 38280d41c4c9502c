"""A run's stored sample pairs: grouped by what became of the forget class, filtered by the judge's classes and confidence.

Pair number k, from 1, is row k − 1 of the sample files. Seeds are text where they leave Python: a browser's numbers lose digits
beyond 2⁵³.

Not guaranteed: that the judge is right; a low confidence is where to look first.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from vdu.core.errors import InputError
from vdu.reporting.collect import ReportData

if TYPE_CHECKING:
    import numpy as np

__all__ = ["find_seed", "forget_name", "group_names", "place_of_seed", "select_pairs"]

_GROUPS: dict[str, Callable[..., "np.ndarray"]] = {
    "were {}": lambda was, now, changed: was,
    "still {}": lambda was, now, changed: was & now,
    "became {}": lambda was, now, changed: ~was & now,
    "other changes": lambda was, now, changed: ~was & ~now & changed,
    "all": lambda was, now, changed: was | True,
}
ASKED = "asked for {}"  # with a prompt


def forget_name(data: ReportData) -> str:
    """The forget class in a word or two: the user's, the judge's names, or "unwanted" with a fallback classifier."""
    names = data.concept or ", ".join(data.classes[i] for i in data.forget_ids)
    return names if names and names != "forget" and len(names) <= 24 else "unwanted"


def group_names(data: ReportData) -> dict[str, str]:
    """The groups of pairs that can be shown.

    Args:
        data: the run.

    Returns:
        Key of each group → its name with the number of pairs, the first to be shown first. Only "all" if the forget class is
        unknown.
    """
    known = [*_GROUPS] if data.forget_ids else ["all"]
    known = known if data.asks_for_it is None else [ASKED, *known]
    name = forget_name(data)
    return {key: f"{key.format(name)} ({len(select_pairs(data, key)):,})" for key in known}


def select_pairs(
    data: ReportData,
    group: str,
    before: int | None = None,
    after: int | None = None,
    most: float = 1.0,
    asked: int | None = None,
) -> "np.ndarray":
    """Rows of the sample files that belong to a group and meet the conditions.

    Args:
        data: the run.
        group: a key of :func:`group_names`.
        before: index of the judge's class in the original's image; None: any.
        after: the same in the unlearned model's image.
        most: highest confidence of the judge, in [0, 1]; that of a pair is the lower of its two.
        asked: number of the prompt or label; None: any.

    Returns:
        Row indices, int64 [K]: first the pairs whose second image is of the forget class, each part in order.
    """
    import numpy as np

    first, second = data.original, data.unlearned
    was, now = (np.isin(each.judge_class, data.forget_ids) for each in (first, second))
    if group == ASKED and data.asks_for_it is not None:
        keep = data.asks_for_it.copy()
    else:
        keep = _GROUPS[group](was, now, first.judge_class != second.judge_class)
    if asked is not None and first.asked is not None:
        keep &= first.asked == asked
    keep &= np.minimum(first.judge_confidence, second.judge_confidence) <= most
    if before is not None:
        keep &= first.judge_class == before
    if after is not None:
        keep &= second.judge_class == after
    return np.concatenate([np.flatnonzero(keep & now), np.flatnonzero(keep & ~now)])


def place_of_seed(data: ReportData, seed: int) -> int | None:
    """The row of a seed in the sample files, or None if it is not among them."""
    import numpy as np

    found = np.flatnonzero(data.original.seeds == seed)
    return int(found[0]) if len(found) else None


def find_seed(data: ReportData, text: str) -> int:
    """The seed that a person typed.

    Args:
        data: the run.
        text: "#12" for the twelfth stored pair, or the digits of any seed.

    Returns:
        An integer in [0, 2⁶³).

    Raises:
        InputError: if it is neither.
    """
    digits, stored = text.strip(), len(data.original.seeds)
    number = digits.removeprefix("#")
    if number.isascii() and number.isdigit() and len(number) <= 19:
        if digits == number and int(number) < 2**63:
            return int(number)
        if digits != number and 1 <= int(number) <= stored:
            return int(data.original.seeds[int(number) - 1])
    raise InputError(
        f"seed: got {text[:40]!r}; expected #1 to #{stored:,} for a stored pair, or a whole number from 0 to 2⁶³ − 1 for any noise."
    )
