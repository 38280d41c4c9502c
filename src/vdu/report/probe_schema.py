"""What the probes of ``metrics.json`` must hold before a report is made of them: one kind for each probe.

The kinds are those of :mod:`vdu.report.kinds`. A probe that was not run holds its reason alone. All intervals are
95 %; ``low`` and ``high`` beside a count are ends of a share in [0, 1]; PUL and its ends are in percent.

NOT guaranteed: any truth of the numbers, only that they can be shown.
"""

from typing import Any

from vdu.report.kinds import Maybe, OneOf, Optional, Positive, problem

__all__ = ["PROBES", "ROW_EXTRAS", "probe_problem"]

_ENDS = {"low": float, "high": float}
_INTERVAL = {"value": float, **_ENDS}
_COUNTED = {"forget_count": int, "n_images": Positive, **_ENDS}
_MODEL = OneOf("original", "unlearned", "retrained")
_MEASURED = {"seconds": float, "protocol": {}}
PROBES: dict[str, Any] = {
    "likelihood": {
        "unit": str,
        "rows": [{"model": _MODEL, "images": str, **_INTERVAL, "monte_carlo_error": float, "n_images": Positive}],
        "differences": Optional([{"model": _MODEL, "against": _MODEL, "images": str, **_INTERVAL}]),
    },
    "membership": {
        "rows": [
            {
                "model": _MODEL,
                "attack": str,
                "auc": _INTERVAL,
                "tpr_at_1_fpr": _INTERVAL,
                "n_members": Positive,
                "n_held_out": Positive,
            }
        ]
    },
    "relearning": {
        "curves": [
            {
                "model": _MODEL,
                "shown": OneOf("forget", "benign"),
                "n_shown": Positive,
                "points": [{"step": int, **_COUNTED}],
            }
        ],
        "original": Optional(Maybe({"forget_count": int, "n_images": Positive})),
    },
    "stochastic": {
        "rows": [
            {
                "sampler": str,
                "eta": Maybe(float),
                "pul": Maybe({**_INTERVAL, "n_original": int, "n_unlearned": int}),
                "note": Optional(str),
                "control_count": Optional(int),
                "n_images": Positive,
            }
        ]
    },
    "completion": {"rows": [{"handed_share": float, "control_count": int, **_COUNTED}]},
    "inpainting": {"rows": [{"hidden": str, "model": _MODEL, **_COUNTED}]},
    "retrained": {
        "denoising": [{"model": _MODEL, "images": str, "alpha_bar": float, "distance": float, **_ENDS}],
        "samples": Optional([{"model": _MODEL, "u_fid": _INTERVAL}]),
    },
}
ROW_EXTRAS = {name: Optional(Maybe(float)) for name in ("precision", "recall", "density", "coverage")}


def probe_problem(probes: Any) -> str | None:
    """The first place where the probes are not of their kind.

    Args:
        probes: ``metrics["probes"]``; names that are not known are let through.

    Returns:
        The place, what was got and what was expected; None when all is well.
    """
    found = problem(probes, {}, "probes")
    if found:
        return found
    for name, result in probes.items():
        where = f"probes.{name}"
        found = problem(result, {"status": OneOf("measured", "not run")}, where)
        if found is None and result["status"] == "not run":
            found = problem(result, {"reason": str}, where)
        elif found is None and name in PROBES:
            found = problem(result, {**_MEASURED, **PROBES[name]}, where)
        if found:
            return found
    return None
