"""What conditional models were asked for, as the page shows it: accuracies, sets of prompts, and the prompts of pairs.

Every number is one of metrics.json or a rate.
"""

from typing import Any

from vdu.reporting.collect import ReportData
from vdu.reporting.formatting import count_word
from vdu.reporting.rates import Rate, difference

__all__ = ["ACCURACIES", "accuracies", "asked_tables", "retained_less"]

ACCURACIES = {
    "UA": "Unlearning accuracy (UA)",
    "IRA": "In-domain retain accuracy (IRA)",
    "CRA": "Cross-domain retain accuracy (CRA)",
}
_ABOUT = {
    "UA": "images without “{}”, where it was asked for",
    "IRA": "other prompts: the class that was asked for",
    "CRA": "other prompts, by a judge of another domain",
}
_SETS = {
    "target": "ask for it",
    "neighbours": "ask for something like it",
    "others": "ask for something else",
    "null": "the empty prompt",
}
MODELS = ("original", "unlearned", "retrained", "filtered_original")


def accuracies(data: ReportData) -> dict[str, dict[str, Rate]]:
    """UA, IRA and CRA as far as they were measured: name → model → rate."""
    found: dict[str, dict[str, Rate]] = {}
    for row in (data.words or {"accuracy": []})["accuracy"]:
        found.setdefault(row["name"], {})[row["model"]] = _rate(row)
    return found


def retained_less(data: ReportData) -> tuple[str, ...]:
    """The names of the retain accuracies that fell below the original's beyond chance."""
    return tuple(
        name
        for name, by_model in accuracies(data).items()
        if name != "UA" and {"unlearned", "original"} <= by_model.keys()
        if difference(by_model["unlearned"], by_model["original"])[1] < 0
    )


def asked_tables(data: ReportData) -> dict[str, Any] | None:
    """The section's tables.

    Args:
        data: the collected run.

    Returns:
        ``accuracies`` and ``sets``, rows with a cell for each of ``MODELS``, None where it was not measured; None for
        unconditional models.
    """
    words = data.words
    if words is None:
        return None
    rows = {(row["name"], row["model"]): row for row in words["accuracy"]}
    concept = ", ".join(words["concepts"])
    names = dict.fromkeys(row["name"] for row in words["accuracy"])
    return {
        "concept": concept,
        "kind": words["kind"],
        "accuracies": [
            {
                "name": ACCURACIES[name],
                "about": _ABOUT[name].format(concept),
                "judge": next(row["judge"] for row in words["accuracy"] if row["name"] == name),
                "cells": [
                    (_rate(row), row["mean_rank"]) if (row := rows.get((name, model))) else None for model in MODELS
                ],
            }
            for name in names
        ],
        "missing": [ACCURACIES[name] for name in ACCURACIES if name not in names],
        "sets": [
            {
                "name": each["name"],
                "about": _SETS.get(each["name"], "") if words["kind"] == "prompts" else "",
                "prompts": _listed(each["prompts"], words["kind"]),
                "found": [_rate(each["found"][model]) if model in each["found"] else None for model in MODELS],
                "changed": _rate(each["changed"]["unlearned"]) if "unlearned" in each["changed"] else None,
            }
            for each in words["sets"]
        ],
        "cross_judge": words["cross_judge"],
    }


def _rate(row: dict[str, Any]) -> Rate:
    return Rate(row["count"], row["n_images"], row["low"], row["high"])


def _listed(prompts: list[str], kind: str, most: int = 4) -> str:
    shown = ", ".join(f"“{each}”" for each in prompts[:most])
    left = len(prompts) - most
    return shown + (f" and {count_word(left)} more {kind}" if left > 0 else "")
