"""Is it still inside? Likelihood, membership and the distance to a retrained model, read one by one.

These look at weights, not at pictures, so they have no part in the verdict "is it gone". Their target is the RETRAINED
model's value: a model that finds the forgotten images less likely than one that never saw them has been pushed away from
them, and that is a trace as well.

Likelihood (bits/dim, lower = more likely), unlearned u against retrained r on the forgotten images, paired by image: the
interval of u − r contains 0, or |u − r| is a tenth of the original's own |o − r| or less → like the retrained model, but only
if the interval is narrow (``likelihood_half_width``) and excludes the original's o − r: else undecided. Below 0 → still known;
above → pushed past it, unless u − r is as large on retained images: then likelihood as a whole has shifted. Without paired
differences, apart is apart and overlapping is undecided: images differ far more than models do.

Membership: members are the forgotten images, the others of the same class were held out; below ``membership_least_images`` of
either, undecided. An attack tells them apart if its AUC's interval leaves ½ (or if at 1 % false alarms it finds more members than
chance does, by an exact permutation test) and, where a retrained model was attacked as well, leaves that model's interval on the
same side. None does → green, if every AUC's interval is narrow (``membership_half_width``); so must be the retrained one where ½ is
left. Otherwise undecided.

Distance: samples by u-FID and predictions by every denoising row; "nearer" and "farther" are intervals that lie apart. The
target is the floor, the retrained model against itself from other noise, not 0. With no more samples than features a covariance is
singular and u-FID mostly bias: samples that are nearer then count for nothing.

NOT guaranteed: that the strongest known attack was used.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

from vdu.reporting.code_texts import attack_text, images_text
from vdu.reporting.collect import ReportData
from vdu.reporting.findings.answer import Answer, Reason
from vdu.reporting.findings.reliability import retrained_doubt, retrained_doubted
from vdu.reporting.findings.thresholds import THRESHOLDS
from vdu.reporting.formatting import interval, number, percent, percent_interval, plural, value_interval
from vdu.reporting.rates import exceedance, measured, why_not

__all__ = ["Inside", "InsideFinding", "find_inside", "inside_answers"]


class Inside(Reason):
    """What a probe of the weights says, and why."""

    NOT_TESTED = "not_tested", "unknown", "Not tested"
    DOUBTED = "retrained_doubted", "unknown", "Undecided: the retrained model may have seen them"
    NO_ROW = "no_row_of_unlearned", "unknown", "Undecided"
    NO_TARGET = "no_retrained_model", "unknown", "No retrained model to compare with"
    UNDECIDED = "undecided", "unknown", "Undecided: too few images or too large an error"
    MORE_LIKELY = "more_likely", "mixed", "Still more likely"
    AS_LIKELY = "as_likely", "good", "As likely"
    PUSHED = "pushed_too_far", "mixed", "Less likely: pushed too far"
    GLOBAL_SHIFT = "global_shift", "mixed", "Less likely, as all images are: a global shift"
    FEW_IMAGES = "few_images", "unknown", "Undecided: too few images"
    WIDE = "wide_interval", "unknown", "Undecided: the interval is too wide"
    TOLD_APART = "told_apart", "mixed", "Can be told from others of their class"
    AS_RETRAINED = "as_on_retrained", "good", "No better than on a model that never saw them"
    CHANCE = "chance", "good", "No better than chance"
    NEARER = "nearer", "good", "Nearer than before"
    FARTHER = "farther", "bad", "Farther than before"
    SAMPLES_FARTHER = "samples_farther_predictions_nearer", "mixed", "Samples farther, predictions nearer"
    SAMPLES_NEARER = "samples_nearer_predictions_farther", "mixed", "Samples nearer, predictions farther"
    PREDICTIONS_DISAGREE = "predictions_disagree", "mixed", "Some predictions nearer, some farther; samples undecided"
    PREDICTIONS_NEARER = "predictions_nearer", "unknown", "Predictions nearer, samples undecided"
    PREDICTIONS_FARTHER = (
        "predictions_farther",
        "bad",
        "Predictions farther, samples undecided",
    )
    NO_NEARER = "no_nearer", "unknown", "No nearer within the error"
    ONLY_PREDICTIONS_NEARER = (
        "only_predictions_nearer",
        "unknown",
        "Predictions nearer",
    )
    ONLY_PREDICTIONS_FARTHER = (
        "only_predictions_farther",
        "bad",
        "Predictions farther",
    )
    NO_SAMPLES = "no_samples", "unknown", "See the table"


@dataclass(frozen=True)
class InsideFinding:
    """What one probe says.

    Attributes:
        reason: the level, and why.
        ours: the unlearned model's deciding row: bits/dim, the attack, or u-FID of samples.
        theirs: the retrained model's row beside it, or the original's u-FID.
        paired: the paired difference in bits/dim on the forgotten images.
        rest: of the two sets of retained images, the paired difference with the larger lower end.
        n_images: images on the smaller side of an attack.
        n_compared: attacks, or comparisons of predictions.
        n_nearer: comparisons of predictions in which the unlearned model is nearer than the original.
        n_farther: those in which it is farther.
        n_features: of the distance of samples, where there are no more samples than these; else 0.
    """

    reason: Inside
    ours: dict[str, Any] | None = None
    theirs: dict[str, Any] | None = None
    paired: dict[str, Any] | None = None
    rest: dict[str, Any] | None = None
    n_images: int = 0
    n_compared: int = 0
    n_nearer: int = 0
    n_farther: int = 0
    n_features: int = 0


def find_inside(data: ReportData) -> dict[str, InsideFinding]:
    """What likelihood, membership and the distance to a retrained model say.

    Args:
        data: the collected run.

    Returns:
        One finding for each of "likelihood", "membership" and "retrained".
    """
    distance = partial(_distance, n_features=data.metrics["protocol"].get("features_dimension", 0))
    readers = {"likelihood": _likelihood, "membership": _membership, "retrained": distance}
    results = {name: measured(data.metrics, name) for name in readers}
    doubted = retrained_doubted(data)

    def read(name: str, result: dict[str, Any] | None) -> InsideFinding:
        if result is None:
            return InsideFinding(Inside.NOT_TESTED)
        if doubted and (name == "retrained" or any(row["model"] == "retrained" for row in result["rows"])):
            return InsideFinding(Inside.DOUBTED)
        return readers[name](result)

    return {name: read(name, result) for name, result in results.items()}


def inside_answers(data: ReportData) -> dict[str, Answer]:
    """The findings in sentences.

    Args:
        data: the collected run.

    Returns:
        One answer for each name of :func:`find_inside`.
    """
    speakers = {"likelihood": _likelihood_words, "membership": _membership_words, "retrained": _distance_words}
    answers = {}
    for name, found in find_inside(data).items():
        result = measured(data.metrics, name)
        if result is None:
            reason = why_not(data.metrics, name) or "Not part of this evaluation (`vdu evaluate --suite quick`)."
            figure, text = "not tested", reason
        elif found.reason is Inside.DOUBTED:
            figure, text = "not read", str(retrained_doubt(data))
        else:
            figure, text = speakers[name](result, found)
        answers[name] = Answer.of(found.reason, figure, text)
    return answers


def _likelihood(result: dict[str, Any]) -> InsideFinding:
    rows = {(row["model"], row["images"]): row for row in result["rows"]}
    ours, theirs = (rows.get((model, "forget_train")) for model in ("unlearned", "retrained"))
    if ours is None or theirs is None:
        return InsideFinding(Inside.NO_ROW if ours is None else Inside.NO_TARGET, ours)
    paired = _differences(result, "forget_train")
    mine = paired.get("unlearned")
    side = _side(ours, theirs, mine, paired.get("original"))
    if side != 1:
        codes = {None: Inside.UNDECIDED, -1: Inside.MORE_LIKELY, 0: Inside.AS_LIKELY}
        return InsideFinding(codes[side], ours, theirs, mine)
    rest = [_differences(result, images).get("unlearned") for images in ("retain_held_out", "retain_train")]
    largest = max((row for row in rest if row is not None), key=lambda row: row["low"], default=None)
    if mine is None or largest is None:
        return InsideFinding(Inside.PUSHED, ours, theirs, mine)
    # both moved: a trace of the forgotten images is what they moved more
    half = math.hypot(*((each["high"] - each["low"]) / 2 for each in (mine, largest)))
    more = mine["value"] - largest["value"]
    if more > half:
        return InsideFinding(Inside.PUSHED, ours, theirs, mine, largest)
    shown = half <= THRESHOLDS["likelihood_half_width"] and largest["low"] > 0  # that the others moved as well
    reason = Inside.GLOBAL_SHIFT if shown else Inside.UNDECIDED
    return InsideFinding(reason, ours, theirs, mine, largest)


def _differences(result: dict[str, Any], images: str) -> dict[str, dict[str, Any]]:
    """The differences from the retrained model on some images, by model."""
    rows = result.get("differences") or []
    return {row["model"]: row for row in rows if (row["against"], row["images"]) == ("retrained", images)}


def _side(
    ours: dict[str, Any], theirs: dict[str, Any], mine: dict[str, Any] | None, original: dict[str, Any] | None
) -> int | None:
    """Return −1, 0, 1 or None for below, like, above the retrained model or undecided."""
    if mine is None:
        return (ours["low"] > theirs["high"]) - (ours["high"] < theirs["low"]) or None
    near = original is not None and abs(mine["value"]) <= THRESHOLDS["likelihood_margin_share"] * abs(original["value"])
    if not (near or mine["low"] <= 0 <= mine["high"]):
        return 1 if mine["value"] > 0 else -1
    narrow = (mine["high"] - mine["low"]) / 2 <= THRESHOLDS["likelihood_half_width"]
    as_before = original is not None and mine["low"] <= original["value"] <= mine["high"]
    return 0 if narrow and not as_before else None


def _likelihood_words(result: dict[str, Any], found: InsideFinding) -> tuple[str, str]:
    ours, theirs, unit = found.ours, found.theirs, result["unit"]
    if ours is None:
        return "not on the forgotten images", "The forgotten images are not in it."
    if theirs is None:
        value = number(ours["value"])
        text = f"The unlearned model needs {value} {unit} for the forgotten images. Without a retrained model this has no target."
        return value, text
    figure = f"{number(ours['value'])} against {number(theirs['value'])} {unit}"
    text = f"For the forgotten images the unlearned model needs {figure} of the retrained one. The closer, the better."
    if found.paired is not None:
        text += f" Image by image the difference is {value_interval(found.paired)}."
    if found.reason is Inside.UNDECIDED and found.rest is not None:
        text += (
            f" On {images_text(found.rest['images'])}, it is {value_interval(found.rest)}: the intervals are too wide to tell which moved "
            "more, so neither a trace nor a global shift is shown."
        )
    elif found.reason is Inside.UNDECIDED and found.paired is not None:
        text += (
            " Its interval is too wide, or reaches the original's own difference: this cannot tell known from unknown."
        )
    elif found.reason is Inside.UNDECIDED and found.rest is None:
        text += " Without differences paired by image this cannot tell known from unknown."
    elif found.rest is not None:
        text += f" On {images_text(found.rest['images'])}, it is {value_interval(found.rest)}"
        shift = ": a global shift of likelihood, not a trace of these images."
        text += shift if found.reason is Inside.GLOBAL_SHIFT else ", which is less."
    elif found.reason is Inside.PUSHED:
        text += " On kept images it was not compared, so a shift of likelihood as a whole is not excluded."
    return figure, text


def _membership(result: dict[str, Any]) -> InsideFinding:
    mine = [row for row in result["rows"] if row["model"] == "unlearned"]
    gold = {row["attack"]: row for row in result["rows"] if row["model"] == "retrained"}
    if not mine:
        return InsideFinding(Inside.NO_ROW)
    told = [row for row in mine if _told(row, gold.get(row["attack"]))]
    worst = max(told or mine, key=lambda row: abs(row["auc"]["value"] - 0.5))
    used = [*mine, *(gold[row["attack"]] for row in mine if row["attack"] in gold)]
    n = min(min(row["n_members"], row["n_held_out"]) for row in used)
    off = [gold[row["attack"]] for row in mine if _leaves(row["auc"], 0.5, 0.5) and row["attack"] in gold]
    wide = THRESHOLDS["membership_half_width"]
    if n < THRESHOLDS["membership_least_images"]:
        reason = Inside.FEW_IMAGES
    elif told:
        reason = Inside.TOLD_APART
    elif any((row["auc"]["high"] - row["auc"]["low"]) / 2 > wide for row in [*mine, *off]):
        reason = Inside.WIDE
    elif off or any(map(_finds_members, mine)):
        reason = Inside.AS_RETRAINED
    else:
        reason = Inside.CHANCE
    return InsideFinding(reason, worst, gold.get(worst["attack"]), n_images=n, n_compared=len(mine))


def _leaves(mine: dict[str, float], low: float, high: float) -> bool:
    return mine["low"] > high or mine["high"] < low


def _chance_of_members(n: int) -> float:
    """The mean share of members above a threshold that ⌊n/100⌋ of n others reach, if both are alike: (⌊n/100⌋ + 1)/(n + 1)."""
    return (n // 100 + 1) / (n + 1)


def _finds_members(row: dict[str, Any]) -> bool:
    """Whether an attack finds more members at 1 % false alarms than where members and others are alike."""
    n, others = row["n_members"], row["n_held_out"]
    count = round(n * row["tpr_at_1_fpr"]["value"])
    return exceedance(count, n, others // 100, others) <= THRESHOLDS["membership_tail"]


def _told(row: dict[str, Any], theirs: dict[str, Any] | None) -> bool:
    """Whether an attack tells members apart, beyond chance and beyond what it does on the retrained model."""
    if theirs is None:
        return _leaves(row["auc"], 0.5, 0.5) or _finds_members(row)
    low, high = min(0.5, theirs["auc"]["low"]), max(0.5, theirs["auc"]["high"])
    more = row["tpr_at_1_fpr"]["low"] > theirs["tpr_at_1_fpr"]["high"]
    return _leaves(row["auc"], low, high) or (more and _finds_members(row))


def _membership_words(_: dict[str, Any], found: InsideFinding) -> tuple[str, str]:
    if found.ours is None:
        return "no row of the unlearned model", "The unlearned model is not in it."
    tpr, wide = found.ours["tpr_at_1_fpr"], THRESHOLDS["membership_half_width"]
    figure = f"AUC {_auc(found.ours['auc'])}"
    text = (
        f"The strongest of {plural(found.n_compared, 'attack')}, {attack_text(found.ours['attack'])}, reaches {figure}; chance is 0.50. "
        f"At 1 % false alarms it finds {_found_members(tpr)} of the members; chance is "
        f"{percent(100 * _chance_of_members(found.ours['n_held_out']))}."
    )
    if found.theirs is None:
        text += " No retrained model was attacked: the two sets of images may differ without any training."
    else:
        text += f" On the retrained model, which never saw them, the same attack reaches {_auc(found.theirs['auc'])}."
    if found.reason is Inside.FEW_IMAGES:
        least = THRESHOLDS["membership_least_images"]
        text += f" {plural(found.n_images, 'image')} on one side; fewer than {least:.0f} decide nothing."
    elif found.reason is Inside.WIDE:
        text += f" An interval wider than ± {wide:g} cannot tell chance from a trace."
    elif found.reason is Inside.CHANCE:
        text += f" Every interval is ± {wide:g} or narrower."
    return figure, text


def _auc(auc: dict[str, float]) -> str:
    return f"{auc['value']:.2f} {interval(auc, 2)}"


def _found_members(rate: dict[str, float]) -> str:
    return percent_interval({key: 100 * rate[key] for key in ("value", "low", "high")})


def _apart(before: dict[str, float], after: dict[str, float]) -> int:
    """−1 for nearer, 1 for farther, 0 where the intervals overlap."""
    return (after["low"] > before["high"]) - (after["high"] < before["low"])


def _distance(result: dict[str, Any], n_features: int) -> InsideFinding:
    rows = {(row["images"], row["alpha_bar"], row["model"]): row for row in result["denoising"]}
    sides = [
        _apart(rows[images, level, "original"], row)
        for (images, level, model), row in rows.items()
        if model == "unlearned" and (images, level, "original") in rows
    ]
    counts: dict[str, Any] = {"n_compared": len(sides), "n_nearer": sides.count(-1), "n_farther": sides.count(1)}
    nearer, farther = counts["n_nearer"] > 0, counts["n_farther"] > 0
    samples = {row["model"]: row["u_fid"] for row in result.get("samples") or []}
    if not {"original", "unlearned"} <= set(samples):
        reason = Inside.NO_SAMPLES
        if nearer is not farther:
            reason = Inside.ONLY_PREDICTIONS_NEARER if nearer else Inside.ONLY_PREDICTIONS_FARTHER
        return InsideFinding(reason, **counts)
    before, after = samples["original"], samples["unlearned"]
    side, few = _apart(before, after), result["protocol"].get("n_samples", n_features + 1) <= n_features
    counts |= {"n_features": n_features} if few else {}
    return InsideFinding(_moved(max(side, 0) if few else side, nearer, farther), after, before, **counts)


def _moved(samples: int, nearer: bool, farther: bool) -> Inside:
    """The reason from the side of the samples and of the predictions."""
    if samples == 1:
        return Inside.SAMPLES_FARTHER if nearer and not farther else Inside.FARTHER
    if samples == -1:
        return Inside.SAMPLES_NEARER if farther else Inside.NEARER
    if farther:
        return Inside.PREDICTIONS_DISAGREE if nearer else Inside.PREDICTIONS_FARTHER
    return Inside.PREDICTIONS_NEARER if nearer else Inside.NO_NEARER


def _distance_words(result: dict[str, Any], found: InsideFinding) -> tuple[str, str]:
    told = (
        f"Predictions on the same noisy images are nearer in {found.n_nearer} of {plural(found.n_compared, 'comparison')}, farther "
        f"in {found.n_farther}."
    )
    before, after = found.theirs, found.ours
    if before is None or after is None:
        rows = f"{len(result['denoising'])} rows"
        return rows if found.reason is Inside.NO_SAMPLES else "no samples", f"{told} No samples were compared."
    figure = f"samples {number(before['value'])} → {number(after['value'])}"
    went = f"from {value_interval(before)} to {value_interval(after)}"
    text = f"The Fréchet distance of the samples to the retrained model's samples went {went}."
    if (floor := result["protocol"].get("floor_u_fid")) is not None:
        text += f" The retrained model's own samples from other noise are {number(floor)} away."
    if found.n_features:
        text += (
            f" Of {result['protocol']['n_samples']:,} samples on {found.n_features:,} features it is mostly bias, so a smaller one shows "
            "nothing."
        )
    return figure, f"{text} {told}"
