"""What ``metrics.json`` must hold before a report is made of it: a table of kinds and one recursive check.

A kind is ``str``, ``int`` (≥ 0), ``float`` (finite, whole numbers welcome), ``Maybe(kind)`` (or null), ``[kind]``
(a list), or a dict of kinds (all its keys are needed; other keys are let through, so that a writer may add some).

NOT guaranteed: any truth of the numbers, only that they can be shown.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdu.errors import InputError

__all__ = ["Maybe", "check_metrics"]


@dataclass(frozen=True)
class Maybe:
    """A value of that kind, or null."""

    kind: Any


_INTERVAL = {"value": float, "low": float, "high": float}
_JUDGE = {
    "name": str,
    "architecture": str,
    "source": str,
    "held_out_error": float,
    "n_held_out": int,
    "pul_ceiling": float,
    "forget_false_positive_rate": float,
}
_METRICS = {
    "forget": {"description": str, "classes": Maybe([str]), "n_images": int, "sha256": str},
    "n_images": int,
    "rows": [
        {
            "name": str,
            "label": str,
            "pul": Maybe({**_INTERVAL, "n_original": int, "n_unlearned": int}),
            "u_fid": Maybe(_INTERVAL),
            "kid": Maybe(_INTERVAL),
            "forget_count": Maybe(int),
            "status": str,
            "note": str,
        }
    ],
    "histogram": {
        "classes": [str],
        "original": [int],
        "unlearned": [int],
        "expected": [float],
        "distance": float,
        "distance_low": float,
        "distance_high": float,
        "chance_high": float,
    },
    "flips": {"classes": [str], "counts": [[int]]},
    "judge": {**_JUDGE, "second": Maybe(_JUDGE)},
    "feature_network": str,
    "reference": {"description": str, "n_images": int},
    "protocol": {},
    "cost": [{"stage": str, "seconds": float, "network_evaluations": Maybe(int)}],
    "warnings": [str],
}
_WORDS = {str: "text", int: "a whole number ≥ 0", float: "a finite number"}


def check_metrics(metrics: Any, path: Path) -> None:
    """Stop at the first value that a report could not show.

    Args:
        metrics: the parsed ``metrics.json``.
        path: where it came from, for the message.

    Raises:
        InputError: if a value is missing or of another kind, or if lengths that belong together differ.
    """
    problem = _problem(metrics, _METRICS, "") or _length_problem(metrics)
    if problem:
        raise InputError(f"{path}: {problem}. Run `vdu evaluate` again.")


def _problem(value: Any, kind: Any, where: str) -> str | None:
    """Return the first place where the value is not of the kind, in words; None when all is well."""
    if isinstance(kind, Maybe):
        return None if value is None else _problem(value, kind.kind, where)
    if isinstance(kind, list):
        if not isinstance(value, list):
            return f"{where} is {value!r:.60}, expected a list"
        return next(filter(None, (_problem(item, kind[0], f"{where}[{i}]") for i, item in enumerate(value))), None)
    if isinstance(kind, dict):
        if not isinstance(value, dict):
            return f"{where or 'the file'} is {value!r:.60}, expected an object"
        prefix = f"{where}." if where else ""
        missing = next((key for key in kind if key not in value), None)
        if missing:
            return f"{prefix}{missing} is missing"
        return next(filter(None, (_problem(value[key], kind[key], f"{prefix}{key}") for key in kind)), None)
    return None if _is(value, kind) else f"{where} is {value!r:.60}, expected {_WORDS[kind]}"


def _is(value: Any, kind: type) -> bool:
    if kind is str:
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and (kind is float or (isinstance(value, int) and value >= 0))


def _length_problem(metrics: dict[str, Any]) -> str | None:
    histogram, flips = metrics["histogram"], metrics["flips"]
    n = len(histogram["classes"])
    for key in ("original", "unlearned", "expected"):
        if len(histogram[key]) != n:
            return f"histogram.{key} has {len(histogram[key])} entries for {n} classes, expected {n}"
    n = len(flips["classes"])
    if len(flips["counts"]) != n or any(len(row) != n for row in flips["counts"]):
        return f"flips.counts is not {n} rows of {n} counts, one for each class"
    if not any(row["name"] == "unlearned" for row in metrics["rows"]):
        return f"rows are {[row['name'] for row in metrics['rows']]}, expected one named 'unlearned'"
    return None
