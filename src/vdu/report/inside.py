"""Is it still inside? Likelihood, membership and the distance to a retrained model, each read in a sentence.

These look at weights, not at pictures, so they have no part in the verdict "is it gone". Their target is the RETRAINED
model's value: a model that finds the forgotten images less likely than one that never saw them has been pushed away from
them, and that is a trace as well.

Likelihood (bits/dim, lower = more likely), unlearned u against retrained r on the forgotten images, paired by image: the
interval of u − r contains 0, or |u − r| is a tenth of the original's own |o − r| or less → like the retrained model, but only
if the interval is narrow (``likelihood_half_width``) and excludes the original's o − r: else undecided. Below 0 → still known;
above → pushed past it, unless u − r is as large on retained images: then likelihood as a whole has shifted. Without paired
differences, apart is apart and overlapping is undecided: images differ far more than models do.

Membership: members are the forgotten images, the others of the same class were held out; below ``membership_least_images`` of
either, undecided. An attack tells them apart if its AUC's interval leaves ½ (or its share at 1 % false alarms lies above 1 %)
and, where a retrained model was attacked as well, leaves that model's interval on the same side. None does → green, if every
AUC's interval is narrow (``membership_half_width``); so must be the retrained one where ½ is left. Otherwise undecided.

Distance: samples by u-FID and predictions by every denoising row; "nearer" and "farther" are intervals that lie apart. The
target is the floor, the retrained model against itself from other noise, not 0.

NOT guaranteed: that the strongest known attack was used.
"""

from typing import Any

from vdu.report.collect import ReportData
from vdu.report.shares import measured, why_not
from vdu.report.thresholds import THRESHOLDS
from vdu.report.verdict import Finding
from vdu.report.words import number

__all__ = ["FLOOR", "INSIDE", "inside_parts"]

FLOOR = "u_fid between two sets of samples of the retrained model (floor)"  # a key of the protocol of "retrained"
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
        text += f" Image by image the difference is {_ends(paired)}."
    if side is None:
        text += (
            " Its interval is too wide, or reaches the original's own difference: this cannot tell known from unknown."
            if paired
            else " Without differences paired by image this cannot tell known from unknown."
        )
        return Finding("unknown", "Undecided: too few images or too large an error", figure, text, ())
    if side == 1:
        return _pushed(result, paired, figure, text)
    titles = {
        -1: ("mixed", "Still more likely than in a model that never saw them"),
        0: ("good", "As likely as in a model that never saw them"),
    }
    return Finding(*titles[side], figure, text, ())


def _ends(row: dict[str, Any]) -> str:
    return f"{number(row['value'])} ({number(row['low'])} to {number(row['high'])})"


def _differences(result: dict[str, Any], images: str) -> dict[str, dict[str, Any]]:
    """The differences from the retrained model on some images, by model."""
    rows = result.get("differences") or []
    return {row["model"]: row for row in rows if (row["against"], row["images"]) == ("retrained", images)}


def _side(
    result: dict[str, Any], ours: dict[str, Any], theirs: dict[str, Any]
) -> tuple[int | None, dict[str, Any] | None]:
    """Return −1, 0, 1 or None for below, like, above the retrained model or undecided, and the paired difference."""
    paired = _differences(result, "forget train")
    mine, original = paired.get("unlearned"), paired.get("original")
    if mine is None:
        return (ours["low"] > theirs["high"]) - (ours["high"] < theirs["low"]) or None, None
    near = original is not None and abs(mine["value"]) <= THRESHOLDS["likelihood_margin_share"] * abs(original["value"])
    if not (near or mine["low"] <= 0 <= mine["high"]):
        return (1 if mine["value"] > 0 else -1), mine
    narrow = (mine["high"] - mine["low"]) / 2 <= THRESHOLDS["likelihood_half_width"]
    as_before = original is not None and mine["low"] <= original["value"] <= mine["high"]
    return (0 if narrow and not as_before else None), mine


def _pushed(result: dict[str, Any], paired: dict[str, Any] | None, figure: str, text: str) -> Finding:
    """Above the retrained model: these images alone, or likelihood as a whole?"""
    rest = [_differences(result, f"retain {part}").get("unlearned") for part in ("held out", "train")]
    largest = max((row for row in rest if row is not None), key=lambda row: row["value"], default=None)
    title = "Less likely than in a model that never saw them: pushed too far"
    if paired is None or largest is None:
        text += " On retained images it was not compared, so a shift of likelihood as a whole is not excluded."
        return Finding("mixed", title, figure, text, ())
    text += f" On retained images ({largest['images']}) it is {_ends(largest)}"
    if largest["low"] > 0 and largest["high"] >= paired["low"]:
        text += ": a global shift of likelihood, not a trace of these images."
        return Finding("mixed", "Less likely, and so are retained images: a global shift", figure, text, ())
    return Finding("mixed", title, figure, text + ", which is less.", ())


def _membership(result: dict[str, Any]) -> Finding:
    mine = [row for row in result["rows"] if row["model"] == "unlearned"]
    gold = {row["attack"]: row for row in result["rows"] if row["model"] == "retrained"}
    if not mine:
        return Finding("unknown", "Undecided", "no row of the unlearned model", "The unlearned model is not in it.", ())
    told = [row for row in mine if _told(row, gold.get(row["attack"]))]
    worst = max(told or mine, key=lambda row: abs(row["auc"]["value"] - 0.5))
    auc, tpr, theirs = worst["auc"], worst["tpr_at_1_fpr"], gold.get(worst["attack"])
    figure = f"AUC {_auc(auc)}"
    text = (
        f"The strongest of {_plural(len(mine), 'attack')} ({worst['attack']}) reaches {figure}, chance is 0.50; at 1 % false alarms "
        f"it finds {tpr['value']:.1%} of the members ({tpr['low']:.1%} to {tpr['high']:.1%}), chance is 1 %."
    )
    if theirs is None:
        text += " No retrained model was attacked: the two sets of images may differ without any training."
    else:
        text += f" On the retrained model, which never saw them, the same attack reaches {_auc(theirs['auc'])}."
    least, wide = THRESHOLDS["membership_least_images"], THRESHOLDS["membership_half_width"]
    used = [*mine, *(gold[row["attack"]] for row in mine if row["attack"] in gold)]
    n = min(min(row["n_members"], row["n_held_out"]) for row in used)
    if n < least:
        text += f" {_plural(n, 'image')} on one side; fewer than {least:.0f} decide nothing."
        return Finding("unknown", "Undecided: too few images", figure, text, ())
    if told:
        return Finding("mixed", "The forgotten images can be told from others of their class", figure, text, ())
    off = [gold[row["attack"]] for row in mine if _leaves(row["auc"], 0.5, 0.5) and row["attack"] in gold]
    if any((row["auc"]["high"] - row["auc"]["low"]) / 2 > wide for row in [*mine, *off]):
        text += f" An interval wider than ± {wide:g} cannot tell chance from a trace."
        return Finding("unknown", "Undecided: the interval is too wide", figure, text, ())
    if off or any(row["tpr_at_1_fpr"]["low"] > 0.01 for row in mine):
        return Finding("good", "An attack does no better than on a model that never saw them", figure, text, ())
    text += f" Every interval is ± {wide:g} or narrower."
    return Finding("good", "An attack does no better than chance", figure, text, ())


def _auc(auc: dict[str, float]) -> str:
    return f"{auc['value']:.2f} ({auc['low']:.2f} to {auc['high']:.2f})"


def _leaves(mine: dict[str, float], low: float, high: float) -> bool:
    return mine["low"] > high or mine["high"] < low


def _told(row: dict[str, Any], theirs: dict[str, Any] | None) -> bool:
    """Whether an attack tells members apart, beyond chance and beyond what it does on the retrained model."""
    auc, found = row["auc"], row["tpr_at_1_fpr"]["low"]
    low, high, most = 0.5, 0.5, 0.01
    if theirs is not None:
        low, high = min(low, theirs["auc"]["low"]), max(high, theirs["auc"]["high"])
        most = max(most, theirs["tpr_at_1_fpr"]["high"])
    return _leaves(auc, low, high) or found > most


def _plural(n: int, word: str) -> str:
    return f"{n} {word}" + ("" if n == 1 else "s")


def _apart(before: dict[str, float], after: dict[str, float]) -> int:
    """−1 for nearer, 1 for farther, 0 where the intervals overlap."""
    return (after["low"] > before["high"]) - (after["high"] < before["low"])


def _distance(result: dict[str, Any]) -> Finding:
    rows = {(row["images"], row["alpha_bar"], row["model"]): row for row in result["denoising"]}
    sides = [
        _apart(rows[images, level, "original"], row)
        for (images, level, model), row in rows.items()
        if model == "unlearned" and (images, level, "original") in rows
    ]
    nearer, farther = sides.count(-1), sides.count(1)
    told = f"Predictions on the same noisy images are nearer in {nearer} of {_plural(len(sides), 'comparison')}, farther in {farther}."
    samples = {row["model"]: row["u_fid"] for row in result.get("samples") or []}
    if not {"original", "unlearned"} <= set(samples):
        text = f"{told} No samples were compared."
        moved = "nearer to" if nearer and not farther else "farther from" if farther and not nearer else ""
        if not moved:
            return Finding("unknown", "See the table", f"{len(result['denoising'])} rows", text, ())
        level = "unknown" if moved == "nearer to" else "bad"
        return Finding(level, f"Predictions {moved} a retrained model than before", "no samples", text, ())
    before, after = samples["original"], samples["unlearned"]
    figure = f"samples {number(before['value'])} → {number(after['value'])}"
    text = f"The Fréchet distance of samples to the retrained model's went from {_ends(before)} to {_ends(after)}."
    if (floor := result["protocol"].get(FLOOR)) is not None:
        text += f" Its floor, the retrained model against itself, is {number(floor)}."
    return Finding(*_moved(_apart(before, after), nearer, farther), figure, f"{text} {told}", ())


def _moved(samples: int, nearer: int, farther: int) -> tuple[str, str]:
    """Level and title from the side of the samples and the counts of the denoising rows."""
    if samples == 1:
        also = "Samples farther, predictions nearer" if nearer and not farther else ""
        return ("mixed", also) if also else ("bad", "Farther from a retrained model than before")
    if samples == -1:
        return (
            ("mixed", "Samples nearer, predictions farther")
            if farther
            else ("good", "Nearer to a retrained model than before")
        )
    if farther:
        return (
            ("mixed", "Predictions nearer and farther, samples undecided")
            if nearer
            else (
                "bad",
                "Predictions farther from a retrained model than before, samples undecided",
            )
        )
    return "unknown", "Predictions nearer, samples undecided" if nearer else "No nearer within the error"
