"""What ``metrics.json`` must hold before a report is made of it: a table of kinds (see :mod:`vdu.report.kinds`).

NOT guaranteed: any truth of the numbers, only that they can be shown.
"""

from pathlib import Path
from typing import Any

from vdu.core.errors import InputError
from vdu.report.kinds import Maybe, Optional, problem
from vdu.report.probe_schema import ROW_EXTRAS, probe_problem

__all__ = ["check_metrics"]

_INTERVAL = {"value": float, "low": float, "high": float}
_PUL = {**_INTERVAL, "n_original": int, "n_unlearned": int}
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
    "suite": Optional(str),
    "rows": [
        {
            "name": str,
            "label": str,
            "pul": Maybe(_PUL),
            "u_fid": Maybe(_INTERVAL),
            "kid": Maybe(_INTERVAL),
            "forget_count": Maybe(int),
            "status": str,
            "note": str,
            **ROW_EXTRAS,
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
    "judge": {
        **_JUDGE,
        "second": Maybe({**_JUDGE, "pul": Optional(Maybe(_PUL))}),
        "corrected_pul": Optional(Maybe(_INTERVAL)),
    },
    "feature_network": str,
    "reference": {"description": str, "n_images": int},
    "protocol": {},
    "cost": [{"stage": str, "seconds": float, "network_evaluations": Maybe(int)}],
    "warnings": [str],
}


def check_metrics(metrics: Any, path: Path) -> None:
    """Stop at the first value that a report could not show.

    Args:
        metrics: the parsed ``metrics.json``.
        path: where it came from, for the message.

    Raises:
        InputError: if a value is missing or of another kind, or if lengths that belong together differ.
    """
    found = problem(metrics, _METRICS, "") or _length_problem(metrics) or probe_problem(metrics.get("probes", {}))
    if found:
        raise InputError(f"{path}: {found}. Run `vdu evaluate` again.")


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
