"""The first two answers in plain words: is it gone, is the rest intact?

Is it gone?    PUL = 100 · (n_orig − n_unl) / n_orig with interval [low, high], against the judge's ceiling c:
               (or that of a retrained model, if lower: :mod:`vdu.report.control`)
               c < 80 the judge is too weak · n_orig < 20 too few images · low ≤ 0 no evidence · a second judge's
               interval below it: the judges disagree · high ≥ c and low ≥ 0.8 c as gone as the judge can see ·
               low ≥ 50 mostly gone · otherwise reduced.
Is it intact?  u-FID of the unlearned model against that of the filtered original (what is left of the original when
               its unwanted images are thrown away): intervals apart → worse, and damaged from 2 × on; intervals
               overlap and the unlearned one ends below 2 × the filtered value → no damage detected, or, where the
               histogram of the kept classes is further from the expected one than chance explains, the classes have
               shifted; otherwise undecided. A kept class with ≥ 20 expected images of which fewer than half are left is damage too.
               Kept images that are less likely than in a retrained model, paired by > 0.02 bits/dim, keep the answer from green.
With a judge trained on the spot, "gone" is mixed at best, and the rest unknown at best where u-FID uses its features.

The other answers are in :mod:`vdu.report.comeback` and :mod:`vdu.report.trust`; the numbers above are named in
:mod:`vdu.report.thresholds`.

NOT guaranteed: anything about images, noise or attacks outside of these samples.
"""

import re
from dataclasses import dataclass
from typing import Any

from vdu.report.collect import ReportData
from vdu.report.control import lowest_ceiling, retrained_doubt, seen_ceiling
from vdu.report.shares import measured
from vdu.report.thresholds import THRESHOLDS
from vdu.report.words import number, percent

__all__ = ["Finding", "is_gone", "is_rest_intact", "judges_disagree", "run_ending", "starved_classes"]

_ON_THE_SPOT = "trained on the spot"


@dataclass(frozen=True)
class Finding:
    """An answer with its limits.

    Attributes:
        level: "good", "mixed", "bad", "unknown" or, for a plain figure, "fact"; decides the colour and the sign.
        title: the answer in a few words.
        figure: its number, for the first screen.
        text: the numbers behind it, in a sentence or two.
        limits: what the answer cannot say, the most important first.
    """

    level: str
    title: str
    figure: str
    text: str
    limits: tuple[str, ...]


def is_gone(data: ReportData) -> Finding:
    """Is the forget class gone? From PUL, its interval and the judge's ceiling.

    Args:
        data: the collected run.

    Returns:
        The finding.
    """
    row = data.row("unlearned") or {}
    pul, ceiling = row.get("pul"), lowest_ceiling(data)
    if pul is None:
        return Finding("unknown", "Not measured", "no PUL", "This run has no PUL for the unlearned model.", ())
    n_images = f"{data.metrics['n_images']:,}"
    figure = (
        f"{pul['n_original']:,} → {pul['n_unlearned']:,} unwanted images of {n_images}: {percent(pul['value'])} gone "
        f"({percent(pul['low'])} to {percent(pul['high'])})"
    )
    text = (
        f"From the same noise, the original made {pul['n_original']:,} unwanted images and the unlearned model "
        f"{pul['n_unlearned']:,}, of {n_images} each. PUL\u00a0=\u00a0{percent(pul['value'])} "
        f"(interval {percent(pul['low'])} to {percent(pul['high'])}); this judge could show "
        f"{percent(data.metrics['judge']['pul_ceiling'])} at most."
    )
    if (seen := seen_ceiling(data)) is not None:
        text += f" The retrained model, counted the same way, has {percent(seen)}; the lower of the two is the ceiling."
    ending = run_ending(data)
    if ending is not None:
        text += f" How the run itself ended: {ending[0]}."
    second = (data.metrics["judge"]["second"] or {}).get("pul")
    if second is not None:
        figure += f"; second judge {percent(second['value'])} ({percent(second['low'])} to {percent(second['high'])})"
    level, title = _gone_title(pul, ceiling, second)
    if level == "good" and data.metrics["judge"]["source"] == _ON_THE_SPOT:
        level, title = "mixed", "As gone as a judge trained on the spot can see"
    return Finding(level, title, figure, text, _gone_limits(data, pul, second))


def run_ending(data: ReportData) -> tuple[str, bool] | None:
    """How the run's own stopping rule ended it.

    Args:
        data: the collected run.

    Returns:
        Its sentence, and whether its aim was missed; None where there was no such rule.
    """
    stages = [*(data.run.get("stages") or []), *data.metrics["cost"]]
    text = next((stage["ending"] for stage in stages if stage.get("ending")), None)
    if text is None:
        return None
    counts = re.search(r"(\d+) of \d+ own samples.*at most (\d+) was the aim", text)
    missed = int(counts[1]) > int(counts[2]) if counts else "these were all the steps" in text
    return text.rstrip("."), missed


def judges_disagree(pul: dict[str, Any], second: dict[str, Any] | None) -> bool:
    """Whether a second judge's interval of PUL lies wholly below the first one's."""
    return second is not None and second["high"] < pul["low"]


def _gone_title(pul: dict[str, Any], ceiling: float, second: dict[str, Any] | None) -> tuple[str, str]:
    if pul["high"] < 0:
        return "bad", "More frequent than before"
    if ceiling < THRESHOLDS["weak_ceiling_percent"]:
        return "unknown", "The judge is too weak to tell"
    if pul["n_original"] < THRESHOLDS["few_unwanted_images"]:
        return "unknown", "Too few unwanted images to tell"
    if pul["low"] <= 0:
        return "bad", "No evidence that it is gone"
    if judges_disagree(pul, second):
        return "mixed", "Rarer, but the judges disagree"
    if pul["high"] >= ceiling and pul["low"] >= THRESHOLDS["near_ceiling_share"] * ceiling:
        return "good", "As gone as this judge can see"
    if pul["low"] >= THRESHOLDS["mostly_gone_percent"]:
        return "mixed", "Mostly gone, some remains"
    return "bad", "Reduced, not gone"


def _gone_limits(data: ReportData, pul: dict[str, Any], second: dict[str, Any] | None) -> tuple[str, ...]:
    judge, n_images = data.metrics["judge"], data.metrics["n_images"]
    limits = []
    if pul["n_unlearned"] == 0:  # rule of three: 0 of N leaves rates up to 3/N at 95 %
        of_original = f", {percent(min(100, 300 / pul['n_original']))} of the original's" if pul["n_original"] else ""
        limits.append(
            f"None of {n_images:,} is not never: a rate up to {percent(min(100, 300 / n_images))}{of_original} would fit too "
            "(95 %)."
        )
    if second is not None:
        ends = f"{percent(second['low'])} to {percent(second['high'])}"
        limits.append(f"The second judge finds PUL = {percent(second['value'])} (interval {ends}).")
    limits.append(
        f"The judge errs on {percent(100 * judge['held_out_error'])} of {judge['n_held_out']:,} held-out images and "
        f"calls {percent(100 * judge['forget_false_positive_rate'])} of the other images unwanted."
    )
    corrected = judge.get("corrected_pul")
    weak = lowest_ceiling(data) < THRESHOLDS["weak_ceiling_percent"]
    if corrected is not None and not weak and corrected["low"] < corrected["high"]:
        limits.append(
            f"Corrected for the judge's confusions, PUL is {percent(corrected['value'])} "
            f"({percent(corrected['low'])} to {percent(corrected['high'])})."
        )
    retrained = (data.row("retrained") or {}).get("forget_count")
    doubt = retrained_doubt(data)
    if doubt:
        limits.insert(0, doubt)
    elif retrained is not None:
        limits.append(
            f"Of the model given as retrained without them the judge calls {retrained:,} of {n_images:,} unwanted: the "
            "judge's error, or likeness."
        )
    if judge["source"] == _ON_THE_SPOT:
        limits.insert(0, "The judge was taught by the same sorting of own samples that the method may have used.")
        limits.append("The judge was trained on the spot, without labels for the other images.")
    if judge["second"] is None:
        limits.append("One judge only; no second judge of another architecture has looked.")
    limits.append("The ordinary sampler only: what can be dug out again is the third question.")
    return tuple(limits)


def is_rest_intact(data: ReportData) -> Finding:
    """Is everything else intact? From u-FID against the filtered original and from starved classes.

    Args:
        data: the collected run.

    Returns:
        The finding.
    """
    unlearned, floor = ((data.row(name) or {}).get("u_fid") for name in ("unlearned", "filtered_original"))
    starved = starved_classes(data)
    limits = _rest_limits(data, starved)
    if unlearned is None or floor is None:
        which = "the unlearned model" if unlearned is None else "the filtered original, the row to compare with"
        title = "Damaged: kept classes are missing" if starved else "Cannot be told"
        level = "bad" if starved else "unknown"
        return Finding(level, title, "no u-FID", f"This run has no u-FID for {which}.", limits)
    ours, theirs = (
        f"{number(fid['value'])} ({number(fid['low'])} to {number(fid['high'])})" for fid in (unlearned, floor)
    )
    text = (
        f"u-FID (distance to {_reference(data)}) {ours} against {theirs} for the filtered original: the same original with its "
        "unwanted images thrown away. In brackets: intervals. Lower is better."
    )
    histogram = data.metrics["histogram"]
    shifted = histogram["distance"] > histogram["chance_high"]
    if shifted:
        text += (
            f" The histogram of the kept classes is {histogram['distance']:.3f} from the expected one; chance explains "
            f"{histogram['chance_high']:.3f}."
        )
    figure = f"distance to {_reference(data)} (u-FID) {ours}; the original without its unwanted images has {theirs}"
    level, title = _rest_title(unlearned, floor, bool(starved), shifted)
    if _one_kept_kind(data) and (
        level == "good" or (shifted and level == "mixed" and unlearned["low"] <= floor["high"])
    ):
        level, title = "unknown", "No damage seen, but kept classes are not told apart"
    worse = _likelihood_of_the_rest(data)
    if worse is not None:
        ends = f"{number(worse['value'])} bits/dim ({number(worse['low'])} to {number(worse['high'])})"
        figure = f"kept images cost {ends} more than in the retrained model; {figure}"
        text += f" Image by image, the {worse['images']} images cost {ends} more than in the retrained model."
        if level == "good":
            level, title = "mixed", "Samples intact, likelihood of the rest is worse"
    return Finding(level, title, figure, text, limits)


def _reference(data: ReportData) -> str:
    """What u-FID measures the distance to, in words: not every run has real images."""
    own = data.metrics["reference"]["description"].lower().startswith("filtered original")
    return "the original's own wanted samples" if own else "real images"


def _one_kept_kind(data: ReportData) -> bool:
    """Whether judge and u-FID know the kept images only as “the others”: a whole class can then vanish unseen."""
    metrics = data.metrics
    return metrics["judge"]["source"] == _ON_THE_SPOT and metrics["feature_network"].startswith("judge:")


def _likelihood_of_the_rest(data: ReportData) -> dict[str, Any] | None:
    """The paired difference to the retrained model by which kept images became less likely, the largest; None if none."""
    differences = (measured(data.metrics, "likelihood") or {}).get("differences") or []
    kept = [
        row
        for row in differences
        if (row["model"], row["against"]) == ("unlearned", "retrained") and row["images"].startswith("retain")
    ]
    worse = [row for row in kept if row["low"] > THRESHOLDS["rest_likelihood_bits"]]
    return max(worse, key=lambda row: row["low"], default=None)


def _rest_title(unlearned: dict[str, float], floor: dict[str, float], starved: bool, shifted: bool) -> tuple[str, str]:
    factor = THRESHOLDS["damage_factor"]
    if unlearned["low"] > floor["high"]:
        much = starved or unlearned["value"] >= factor * floor["value"]
        return ("bad", "The rest is damaged") if much else ("mixed", "The rest is measurably worse")
    if starved:
        return "bad", "Damaged: kept classes are missing"
    if unlearned["high"] > factor * floor["value"]:
        return "unknown", "Damage cannot be excluded"
    if shifted:
        return "mixed", "Quality kept; the mix of classes has shifted"
    return "good", "No damage to the rest detected"


def starved_classes(data: ReportData) -> list[tuple[str, int, float]]:
    """Kept classes of which fewer than half of the expected images are left.

    Args:
        data: the collected run.

    Returns:
        (class name, images counted, images expected), the worst first.
    """
    histogram = data.metrics["histogram"]
    columns = zip(histogram["classes"], histogram["unlearned"], histogram["expected"], strict=True)
    least, share = THRESHOLDS["starved_expected_images"], THRESHOLDS["starved_share"]
    starved = [
        (name, got, expected)
        for i, (name, got, expected) in enumerate(columns)
        if i not in data.forget_ids and expected >= least and got < share * expected
    ]
    return sorted(starved, key=lambda item: item[1] / item[2])


def _rest_limits(data: ReportData, starved: list[tuple[str, int, float]]) -> tuple[str, ...]:
    metrics = data.metrics
    limits = [f"Lost more than half: “{name}”, {got:,} made, {want:,.0f} expected." for name, got, want in starved[:3]]
    if len(starved) > 3:
        limits.append(f"{len(starved) - 3} more kept classes lost more than half; see the class histogram.")
    if _one_kept_kind(data):
        limits.insert(
            0,
            "The judge was trained on the spot and knows the kept images only as one kind, and u-FID uses its features: a whole "
            "kept class can vanish unseen.",
        )
    histogram, least = metrics["histogram"], THRESHOLDS["starved_expected_images"]
    names = zip(histogram["classes"], histogram["expected"], strict=True)
    kept = [(name, want) for i, (name, want) in enumerate(names) if i not in data.forget_ids]
    few = [name for name, want in kept if want < least]
    if few:
        listed = ", ".join(f"“{name}”" for name in few[:5]) + (f" and {len(few) - 5} more" if len(few) > 5 else "")
        limits.append(
            f"Too few images to judge alone (fewer than {least:.0f} expected): {len(few)} of {len(kept)} kept classes, {listed}."
        )
    limits.append("An average over all kept images: rare kinds can be lost without moving it.")
    limits.append(
        f"u-FID depends on N ({metrics['n_images']:,} images) and its feature network ({metrics['feature_network']}): "
        "compare only rows of this page."
    )
    ours, floor = data.row("unlearned") or {}, data.row("filtered_original") or {}
    for name, meaning in (
        ("recall", f"share of the variety of {_reference(data)} that is reached"),
        ("coverage", "its robust form"),
    ):
        if ours.get(name) is not None and floor.get(name) is not None:
            limits.append(
                f"{name.capitalize()} ({meaning}): {number(ours[name])}; filtered original {number(floor[name])}."
            )
    return tuple(limits)
