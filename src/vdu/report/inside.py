"""Is it still inside? Likelihood, membership and the distance to a retrained model, each read in a sentence.

These look at weights, not at pictures, so they have no part in the verdict "is it gone". Their target is the RETRAINED
model's value: a model that finds the forgotten images less likely than one that never saw them has been pushed away from
them, and that is a trace as well.

Likelihood (bits/dim, lower = more likely), unlearned u against retrained r on the forgotten images. With differences paired by
image: the interval of u − r contains 0, or |u − r| is a tenth of the original's own |o − r| or less → like the retrained model
(images differ far more than models do, so unpaired intervals overlap even where every image is still known); else below 0 →
still known, above → pushed past it. Without paired differences: u's interval below r's, above it, or overlapping.

Membership: members are the forgotten images, the others of the same class were held out. AUC's interval contains ½ → no better
than chance; else members are told apart, on either side of ½.

NOT guaranteed: that the strongest known attack was used.
"""

from collections.abc import Iterable
from typing import Any

from vdu.report.collect import ReportData
from vdu.report.shares import measured, why_not
from vdu.report.thresholds import THRESHOLDS
from vdu.report.verdict import Finding
from vdu.report.words import number

__all__ = ["INSIDE", "inside_parts"]

INSIDE = {"likelihood": "likelihood", "membership": "membership", "retrained": "distance to a retrained model"}


def inside_parts(data: ReportData) -> dict[str, Finding]:
    """What each of the three probes says.

    Args:
        data: the collected run.

    Returns:
        One finding for each name of ``INSIDE``; "Not tested" with the reason where a probe did not run.
    """
    found = {}
    for name, read in {"likelihood": _likelihood, "membership": _membership, "retrained": _distance}.items():
        result = measured(data.metrics, name)
        reason = why_not(data.metrics, name) or "Not asked for (`vdu evaluate --suite quick`)."
        found[name] = Finding("unknown", "Not tested", "not tested", reason, ()) if result is None else read(result)
    return found


def _likelihood(result: dict[str, Any]) -> Finding:
    rows = {(row["model"], row["images"]): row for row in result["rows"]}
    ours, theirs = (rows.get((model, "forget train")) for model in ("unlearned", "retrained"))
    unit = result["unit"]
    if ours is None:
        return Finding("unknown", "Undecided", "not on the forgotten images", "The forgotten images are not in it.", ())
    if theirs is None:
        text = (
            f"The unlearned model needs {number(ours['value'])} {unit} for the forgotten images. Without a retrained "
        )
        return Finding(
            "unknown",
            "No retrained model to compare with",
            number(ours["value"]),
            text + "model this has no target.",
            (),
        )
    figure = f"{number(ours['value'])} against {number(theirs['value'])} {unit}"
    text = f"For the forgotten images the unlearned model needs {figure} of the retrained one. The closer, the better."
    side, paired = _side(result, ours, theirs)
    if paired:
        text += f" Image by image the difference is {number(paired['value'])} ({number(paired['low'])} to {number(paired['high'])})."
    titles = {
        -1: ("mixed", "Still more likely than in a model that never saw them"),
        0: ("good", "As likely as in a model that never saw them"),
        1: ("mixed", "Less likely than in a model that never saw them: pushed too far"),
    }
    return Finding(*titles[side], figure, text, ())


def _side(result: dict[str, Any], ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[int, dict[str, Any] | None]:
    """Return −1, 0 or 1 for below, like or above the retrained model, and the paired difference if there is one."""
    paired = {
        row["model"]: row
        for row in result.get("differences") or []
        if row["against"] == "retrained" and row["images"] == "forget train"
    }
    mine = paired.get("unlearned")
    if mine is None:
        return (ours["low"] > theirs["high"]) - (ours["high"] < theirs["low"]), None
    original = abs(paired["original"]["value"]) if "original" in paired else 0.0
    near = abs(mine["value"]) <= THRESHOLDS["likelihood_margin_share"] * original
    return 0 if near or mine["low"] <= 0 <= mine["high"] else (1 if mine["value"] > 0 else -1), mine


def _membership(result: dict[str, Any]) -> Finding:
    mine = [row for row in result["rows"] if row["model"] == "unlearned"]
    if not mine:
        return Finding("unknown", "Undecided", "no row of the unlearned model", "The unlearned model is not in it.", ())
    worst = max(mine, key=lambda row: abs(row["auc"]["value"] - 0.5))
    auc, tpr = worst["auc"], worst["tpr_at_1_fpr"]
    figure = f"AUC {auc['value']:.2f} ({auc['low']:.2f} to {auc['high']:.2f})"
    text = (
        f"The strongest of {_plural(len(mine), 'attack')} ({worst['attack']}) reaches {figure}, chance is 0.50; at 1 % false alarms "
        f"it finds {tpr['value']:.1%} of the members ({tpr['low']:.1%} to {tpr['high']:.1%}), chance is 1 %."
    )
    told = _outside((row["auc"] for row in mine), 0.5) or any(row["tpr_at_1_fpr"]["low"] > 0.01 for row in mine)
    if told:
        return Finding("mixed", "The forgotten images can be told from others of their class", figure, text, ())
    return Finding("good", "An attack does no better than chance", figure, text, ())


def _outside(intervals: Iterable[dict[str, float]], chance: float) -> bool:
    return any(each["low"] > chance or each["high"] < chance for each in intervals)


def _plural(n: int, word: str) -> str:
    return f"{n} {word}" + ("" if n == 1 else "s")


def _distance(result: dict[str, Any]) -> Finding:
    samples = {row["model"]: row["u_fid"] for row in result.get("samples") or []}
    if {"original", "unlearned"} <= set(samples):
        before, after = samples["original"], samples["unlearned"]
        figure = f"samples {number(before['value'])} → {number(after['value'])}"
        text = f"The Fréchet distance of samples to the retrained model's went from {number(before['value'])} to {number(after['value'])}."
        if after["high"] < before["low"]:
            return Finding("good", "Nearer to a retrained model than before", figure, text, ())
        if after["low"] > before["high"]:
            return Finding("bad", "Further from a retrained model than before", figure, text, ())
        return Finding("unknown", "No nearer within the error", figure, text, ())
    text = "What the two models predict on the same noisy images; no samples were compared. The target is 0."
    return Finding("unknown", "See the table", f"{len(result['denoising'])} rows", text, ())
