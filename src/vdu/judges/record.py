"""The fields of ``judge.json`` on a judge's training and error rates.

=======================  ==========================================================================================
every judge              name; data and held_out: descriptions, numbers and hashes of the training and test
                         images; held_out_error: a fraction of n_held_out images; settings of the training
trained_by labels        confusion: counts [true class][predicted class] over the held-out images; command
trained_by               forget_false_positive_rate, an estimate; forget: all estimates. Its held_out_error is the
positive-unlabelled      fraction of held-out forget images that it misses
=======================  ==========================================================================================

Not guaranteed: that the record is true, only that it is complete and consistent.
"""

from typing import Any, Literal

from vdu.core.errors import InputError

__all__ = ["ADVICE", "JudgeSource", "check_record"]

JudgeSource = Literal["given", "zoo", "fallback"]

ADVICE = "Expected a folder that save_judge or `vdu judge` wrote; make one with `vdu judge`."
_COMMON = frozenset({"name", "trained_by", "data", "held_out", "held_out_error", "n_held_out", "settings"})
_FIELDS = {
    "labels": _COMMON | {"confusion", "command"},
    "positive-unlabelled": _COMMON | {"forget_false_positive_rate", "forget"},
}


def check_record(record: dict[str, Any], n_classes: int, where: str) -> None:
    """Raise an error for a record that is incomplete, inconsistent or has unknown fields.

    Args:
        record: the fields of the table above.
        n_classes: number of the judge's classes.
        where: name of the record, for messages.

    Raises:
        InputError: naming the field.
    """
    fields = _FIELDS.get(str(record.get("trained_by")), _COMMON)
    strangers = sorted(set(record) ^ fields)
    if strangers:
        raise InputError(f"{where}: fields missing or unexpected: {', '.join(strangers)}. {ADVICE}")
    if fields == _COMMON:
        raise InputError(f"{where}: trained_by is {record['trained_by']!r}; expected one of {', '.join(_FIELDS)}.")
    n_held_out = record["n_held_out"]
    if not isinstance(n_held_out, int) or n_held_out < 1:
        raise InputError(f"{where}: n_held_out is {n_held_out!r}; expected at least 1 image. {ADVICE}")
    for name in sorted({"held_out_error", "forget_false_positive_rate"} & fields):
        if not isinstance(record[name], int | float) or not 0 <= record[name] <= 1:
            raise InputError(f"{where}: {name} is {record[name]!r}; expected a fraction in [0, 1]. {ADVICE}")
    if "confusion" in fields and not _counts_all(record["confusion"], n_classes, n_held_out):
        raise InputError(
            f"{where}: confusion is not a {n_classes}×{n_classes} matrix of counts that add up to {n_held_out}. {ADVICE}"
        )


def _counts_all(confusion: Any, n_classes: int, n_images: int) -> bool:
    rows = confusion if isinstance(confusion, list) else []
    if len(rows) != n_classes or not all(isinstance(row, list) and len(row) == n_classes for row in rows):
        return False
    counts = [count for row in rows for count in row]
    return all(isinstance(count, int) and count >= 0 for count in counts) and sum(counts) == n_images
