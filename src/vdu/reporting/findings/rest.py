"""The second answer: is the rest intact?

u-FID of the unlearned model against that of the filtered original (what is left of the original when its unwanted images are
thrown away; where more than 2 % of the unlearned model's images are still unwanted, they are left out, and as many images are compared):
intervals apart → worse, and damaged from 2 × on; intervals overlap and the unlearned one ends below 2 × the
filtered value → no damage detected; otherwise undecided. A kept class with ≥ 20 expected images of which fewer than half are left
is damage too, and so is one that has become rarer by the paired test of :mod:`vdu.reporting.findings.class_shifts`. Where classes
have only become more frequent, the mix has shifted; without pairs it has where the histogram of the kept classes is further from
the expected one than chance explains between independent samples. Three findings keep the answer from green: kept images that are
less likely than in a retrained model, paired by > 0.02 bits/dim; predictions on noisy kept images that are, at some noise level, at
least twice as far from the retrained model's as the original's are, intervals apart; and so few images that no class could have
been seen to go. Of models that are asked with prompts or labels: where what is asked for comes less often than in the original (the
95 % interval of the difference ends below 0), that is damage.

The flips count the kept images: of the noises from which the original made one, how many give another class now.
With a fallback classifier that also gives the features of u-FID, the rest is unknown at best; so it is with no more images than
features, where a covariance is singular and u-FID mostly bias.

NOT guaranteed: anything about kinds of images that are rarer than the samples can show.
"""

from dataclasses import dataclass, replace
from typing import Any

from vdu.reporting.asked import accuracies, retained_less
from vdu.reporting.code_texts import images_text
from vdu.reporting.collect import ReportData
from vdu.reporting.findings.answer import Answer, Reason
from vdu.reporting.findings.class_shifts import ClassShift, class_shifts, retrained_counts
from vdu.reporting.findings.reliability import is_fallback, retrained_doubted
from vdu.reporting.findings.thresholds import THRESHOLDS
from vdu.reporting.formatting import number, p_value, percent, value_interval
from vdu.reporting.rates import Rate, measured, wilson
from vdu.reporting.rest_u_fid import rest_u_fid

__all__ = ["Rest", "RestFinding", "distance_reason", "expected_counts", "find_rest", "rest_answer"]


class Rest(Reason):
    """Whether the rest is intact, and why."""

    NOT_MEASURED = "not_measured", "unknown", "Cannot be told"
    STARVED = "classes_missing", "bad", "Damaged: kept classes lost more than half"
    DAMAGED = "damaged", "bad", "Damaged"
    WORSE = "worse", "mixed", "Measurably worse"
    CLASS_FELL = "class_fell", "mixed", "Damage detected: "
    NOT_EXCLUDED = "damage_not_excluded", "unknown", "Damage cannot be excluded"
    SHIFTED = "classes_shifted", "mixed", "Quality kept, but the mix of classes has shifted"
    NO_DAMAGE = "no_damage", "good", "No damage detected"
    FEW_IMAGES = "few_images", "unknown", "Too few images for u-FID"
    ONE_KEPT_CLASS = "one_kept_class", "unknown", "No damage seen, but kept classes are not told apart"
    LESS_RIGHT = "right_less_often", "mixed", "Damage detected: what is asked for comes less often"
    UNSEEN = "class_losses_unseen", "unknown", "No damage seen, but there are too few images to see a class go"
    LESS_LIKELY = "less_likely", "mixed", "Quality kept, but kept images are less likely"
    PREDICTIONS_MOVED = "predictions_moved", "mixed", "Quality kept, but predictions on kept images moved"


@dataclass(frozen=True)
class RestFinding:
    """What was found.

    Attributes:
        reason: the level, and why.
        unlearned: u-FID of the unlearned model with its interval, or None; where many unwanted images remain, of its other images.
        floor: that of the filtered original, or None; of as many images.
        remaining: the unwanted images that are left out of both, or 0.
        starved: kept classes that lost more than half, with pairs measurably: (name, images counted, images expected), the worst first.
        shifts: the paired test of every kept class, or None without pairs.
        shifted: a kept class has become rarer or more frequent; without pairs, the class histogram is further from the
            expected one than chance explains.
        worse_likelihood: the largest paired difference in bits/dim by which kept images became less likely than in the
            retrained model, or None.
        moved: the largest factor by which predictions on kept images went away from the retrained model's, with its noise
            level ᾱ, or None where none reaches the threshold.
        changed: noises that gave a kept class and give another class now, or None where the classes cannot tell.
        changed_retrained: the same of the retrained model, or None.
    """

    reason: Rest
    unlearned: dict[str, float] | None
    floor: dict[str, float] | None
    starved: tuple[tuple[str, int, float], ...]
    shifts: tuple[ClassShift, ...] | None
    shifted: bool
    worse_likelihood: dict[str, Any] | None
    moved: tuple[float, float] | None
    changed: Rate | None
    changed_retrained: Rate | None
    remaining: int = 0

    @property
    def fallen(self) -> list[ClassShift]:
        """The classes that have become rarer, the clearest first."""
        return sorted((each for each in self.shifts or () if each.fell), key=lambda each: each.p)


def find_rest(data: ReportData) -> RestFinding:
    """Is everything else intact? From u-FID against the filtered original, the kept classes and likelihood."""
    (unlearned, n), (floor, _) = (rest_u_fid(data.metrics, name) for name in ("unlearned", "filtered_original"))
    shifts = class_shifts(data)
    found = RestFinding(
        reason=Rest.NOT_MEASURED,
        unlearned=unlearned,
        floor=floor,
        starved=_starved(data, shifts),
        shifts=shifts,
        shifted=_beyond_chance(data) if shifts is None else any(each.fell or each.rose for each in shifts),
        worse_likelihood=None if retrained_doubted(data) else _less_likely(data),
        moved=None if retrained_doubted(data) else _moved(data),
        changed=_changed(data, data.metrics["flips"]),
        changed_retrained=None if retrained_doubted(data) else _changed(data, data.metrics.get("flips_retrained")),
        remaining=data.metrics["n_images"] - n,
    )
    if unlearned is None or floor is None:
        alone = Rest.STARVED if found.starved else Rest.CLASS_FELL if found.fallen else Rest.NOT_MEASURED
        return replace(found, reason=alone)
    reason = _unless_blind(data, found, _reason(found, unlearned, floor))
    if reason.level in {"good", "unknown"} and retained_less(data):
        reason = Rest.LESS_RIGHT
    if reason is Rest.NO_DAMAGE and found.worse_likelihood is not None:
        reason = Rest.LESS_LIKELY
    if reason is Rest.NO_DAMAGE and found.moved is not None:
        reason = Rest.PREDICTIONS_MOVED
    if reason is Rest.NO_DAMAGE and shifts is not None and all(each.detectable_loss > each.before for each in shifts):
        reason = Rest.UNSEEN
    return replace(found, reason=reason)


def _beyond_chance(data: ReportData) -> bool:
    histogram = data.metrics["histogram"]
    return histogram["distance"] > histogram["chance_high"]


def _reason(found: RestFinding, unlearned: dict[str, float], floor: dict[str, float]) -> Rest:
    factor = THRESHOLDS["damage_factor"]
    if unlearned["low"] > floor["high"]:
        return Rest.DAMAGED if found.starved or unlearned["value"] >= factor * floor["value"] else Rest.WORSE
    if found.starved:
        return Rest.STARVED
    if found.fallen:
        return Rest.CLASS_FELL
    if unlearned["high"] > factor * floor["value"]:
        return Rest.NOT_EXCLUDED
    return Rest.SHIFTED if found.shifted else Rest.NO_DAMAGE


def distance_reason(data: ReportData, found: RestFinding) -> Rest:
    """What the distance alone says, whatever became of single classes."""
    if found.unlearned is None or found.floor is None:
        return Rest.NOT_MEASURED
    return _unless_blind(
        data, found, _reason(replace(found, starved=(), shifts=None, shifted=False), found.unlearned, found.floor)
    )


def _unless_blind(data: ReportData, found: RestFinding, reason: Rest) -> Rest:
    """The reason, unless it praises a distance that could not have seen damage."""
    if reason not in {Rest.NO_DAMAGE, Rest.SHIFTED}:
        return reason
    dimension = data.metrics["protocol"].get("features_dimension", 0)
    if min(data.metrics["n_images"] - found.remaining, data.metrics["reference"]["n_images"]) <= dimension:
        return Rest.FEW_IMAGES
    return Rest.ONE_KEPT_CLASS if _one_kept_class(data) else reason


def _starved(data: ReportData, shifts: tuple[ClassShift, ...] | None) -> tuple[tuple[str, int, float], ...]:
    histogram = data.metrics["histogram"]
    columns = zip(histogram["classes"], histogram["unlearned"], expected_counts(data), strict=True)
    least, part = THRESHOLDS["starved_expected_images"], THRESHOLDS["starved_share"]
    starved = [
        (name, got, expected)
        for i, (name, got, expected) in enumerate(columns)
        if i not in data.forget_ids
        and expected >= least
        and got < part * expected
        and (shifts is None or any(each.name == name and each.fell for each in shifts))
    ]
    return tuple(sorted(starved, key=lambda item: item[1] / item[2]))


def _one_kept_class(data: ReportData) -> bool:
    """Whether judge and u-FID know the kept images only as “the others”: a whole class can then vanish unseen."""
    one = is_fallback(data) or len(data.classes) - len(data.forget_ids) < 2
    return one and data.metrics["feature_network"].startswith("judge:")


def _changed(data: ReportData, flips: dict[str, Any] | None) -> Rate | None:
    names = {data.classes[i] for i in data.forget_ids}
    if flips is None or len(set(flips["classes"]) - names) < 2:
        return None
    kept = [i for i, name in enumerate(flips["classes"]) if name not in names]
    total = sum(sum(flips["counts"][i]) for i in kept)
    return wilson(total - sum(flips["counts"][i][i] for i in kept), total) if names and total else None


def clearest_shift(data: ReportData, shifts: tuple[ClassShift, ...]) -> ClassShift:
    """The kept class that changed most clearly: of the smallest p, then with the count furthest from the expected one."""
    return min(shifts, key=lambda each: (each.p, -_change(data, each.name)))


def _change(data: ReportData, name: str) -> float:
    """How far a class's count is from the expected one."""
    i, histogram = data.classes.index(name), data.metrics["histogram"]
    return abs(histogram["unlearned"][i] - expected_counts(data)[i])


def expected_counts(data: ReportData) -> list[float]:
    """The expected count of every class; where many unwanted images remain, of the other images alone."""
    apart = data.metrics.get("kept", {}).get("apart")
    share = 1.0 if apart is None else apart["n_images"] / data.metrics["n_images"]
    return [share * each for each in data.metrics["histogram"]["expected"]]


def _most_changed(data: ReportData, found: RestFinding) -> str | None:
    """The kept class that changed most clearly; without pairs, the one whose count is furthest from the expected one."""
    if found.shifts:
        return clearest_shift(data, found.shifts).name
    kept = [name for i, name in enumerate(data.classes) if i not in data.forget_ids]
    if not data.forget_ids or len(kept) < 2:
        return None
    return max(kept, key=lambda name: _change(data, name))


def _moved(data: ReportData) -> tuple[float, float] | None:
    rows = (measured(data.metrics, "retrained") or {}).get("denoising") or []
    kept = [row for row in rows if row["images"].startswith(("retain", "generated_rest"))]
    before = {(row["images"], row["alpha_bar"]): row for row in kept if row["model"] == "original"}
    found = [
        (row["distance"] / was["distance"], row["alpha_bar"])
        for row in kept
        if row["model"] == "unlearned" and (was := before.get((row["images"], row["alpha_bar"])))
        if was["distance"] > 0 and row["low"] > was["high"]
    ]
    return max((each for each in found if each[0] >= THRESHOLDS["moved_factor"]), default=None)


def _less_likely(data: ReportData) -> dict[str, Any] | None:
    differences = (measured(data.metrics, "likelihood") or {}).get("differences") or []
    worse = [
        row
        for row in differences
        if (row["model"], row["against"]) == ("unlearned", "retrained")
        and row["images"] in {"retain_train", "retain_held_out"}
        and row["low"] > THRESHOLDS["rest_likelihood_bits"]
    ]
    return max(worse, key=lambda row: row["low"], default=None)


def rest_answer(data: ReportData, found: RestFinding) -> Answer:
    """The finding in sentences."""
    limits, title = _limits(data, found), _title(data, found)
    if found.unlearned is None or found.floor is None:
        missing = "the filtered original, the row to compare with"
        text = f"This run has no u-FID for {'the unlearned model' if found.unlearned is None else missing}."
        if found.remaining:
            text = f"Of {data.metrics['n_images']:,} images {found.remaining:,} are still unwanted, so there is hardly a rest to measure."
        answer = Answer.of(found.reason, "distance to the reference not known", text + _class_text(data, found), limits)
        return replace(answer, title=title) if found.fallen else answer
    ours, theirs, reference = value_interval(found.unlearned), value_interval(found.floor), _reference(data)
    figure = f"distance to {reference} (u-FID) {ours}, of the original without its unwanted images {theirs}"
    text = (
        f"The distance to {reference} (u-FID) is {ours}, against {theirs} for the filtered original: the original with its "
        "unwanted images thrown away. Lower is better."
    )
    if found.remaining:
        figure = f"without the {found.remaining:,} images that remain, {figure}"
        text += (
            f" Both are of {data.metrics['n_images'] - found.remaining:,} images: the {found.remaining:,} that are still unwanted are left "
            "out, since they would count as damage."
        )
    text += _class_text(data, found)
    if (worse := found.worse_likelihood) is not None:
        more = f"{value_interval(worse)} bits/dim"
        figure = f"kept images are less likely than in the retrained model; {figure}"
        text += f" Image by image, {images_text(worse['images'])} cost {more} more than in the retrained model."
    if found.moved is not None:
        factor, level = found.moved
        figure = f"on noisy kept images, predictions are {factor:.1f} × as far from the retrained model's as the original's; {figure}"
        text += (
            f" On noisy kept images (ᾱ = {number(level)}) the predictions are {factor:.1f} times as far from the retrained model's "
            "as the original's are."
        )
    text += "".join(f" {each}." for each in _accuracy_texts(data))
    figure = "; ".join([*_accuracy_figures(data), *_class_figures(data, found), figure])
    if found.fallen:  # the first line says it; the others are in the text
        figure = "; ".join(figure.split("; ")[:2])
    return Answer(found.reason.level, found.reason.code, title, figure, text, limits)


def _title(data: ReportData, found: RestFinding) -> str:
    title, flipped = found.reason.title, _flipped(found, data.concept)
    if found.reason is Rest.NO_DAMAGE:
        title += f" at {data.metrics['n_images']:,} images"
    if found.reason is Rest.CLASS_FELL:
        title += f"“{found.fallen[0].name}” became rarer"
    return title + (("; " if ":" in title else ": ") + flipped if flipped else "")


def _accuracy_figures(data: ReportData) -> list[str]:
    """Retain accuracies in a few words: ``"IRA 57 of 60 against 58 of 60 before"``."""
    return [
        f"{name} {ours.count:,} of {ours.total:,} against {before.count:,} before"
        for name, by_model in accuracies(data).items()
        if name != "UA" and (ours := by_model.get("unlearned")) and (before := by_model.get("original"))
    ]


def _accuracy_texts(data: ReportData) -> list[str]:
    what = {"IRA": "the classifier finds", "CRA": "a classifier of another domain finds"}
    found = [
        f"Asked for something else, {what[name]} it in {by_model['unlearned']} images of the unlearned model and in "
        f"{by_model['original']} of the original"
        for name, by_model in accuracies(data).items()
        if name in what and {"unlearned", "original"} <= by_model.keys()
    ]
    return found


def _class_figures(data: ReportData, found: RestFinding) -> list[str]:
    """The class that decides, or the most changed one, and what the test could not have seen."""
    shown, histogram = found.fallen[0].name if found.fallen else _most_changed(data, found), data.metrics["histogram"]
    if shown is None:
        return []
    i = data.classes.index(shown)
    got, want, beside = histogram["unlearned"][i], expected_counts(data)[i], retrained_counts(data)
    figure = f"{got:,} made, about {want:,.0f} expected" + (
        "" if beside is None else f", {beside[i]:,} by the retrained model"
    )
    if found.fallen:
        fewer = (
            f"about {percent(100 * (1 - got / want), 0)} fewer “{shown}” than expected" if got < want else f"“{shown}”"
        )
        return [f"{fewer} ({figure})"]
    least = _least(found)
    return [
        f"most changed: “{shown}” ({figure})",
        *([f"a loss of {least} of a class would be noticed"] if least else []),
    ]


def _least(found: RestFinding) -> str:
    """The smallest net loss that the paired test could have seen, over the classes."""
    losses = sorted({each.detectable_loss for each in found.shifts or ()})
    ends = [f"{losses[0]:,}", f"{losses[-1]:,}"] if losses else []
    return " to ".join(dict.fromkeys(ends)) + " images" if losses else ""


def _class_text(data: ReportData, found: RestFinding) -> str:
    if found.shifts is None:
        histogram = data.metrics["histogram"]
        return (
            f" The histogram of the kept classes is {histogram['distance']:.3f} from the expected one; chance explains "
            f"{histogram['chance_high']:.3f}."
            if found.shifted
            else ""
        )
    risen = [each for each in found.shifts if each.rose]
    parts = [
        f"“{each.name}” became {word} ({each.lost:,} lost, {each.gained:,} gained, p = {p_value(each.p)})"
        for word, group in (("rarer", found.fallen), ("more frequent", risen))
        for each in group
    ]
    changes = "; ".join(parts) or "no kept class became measurably rarer or more frequent"
    return f" Starting noise by starting noise, {changes}."


def _flipped(found: RestFinding, concept: str | None) -> str:
    if found.changed is None:
        return ""
    count, total, beside = found.changed.count, found.changed.total, found.changed_retrained
    share = percent(100 * count / total, 0)
    never = f"; in a model that never saw it {beside.count:,}" if beside else ""
    which = f"images under other prompts than “{concept}”" if concept else "other images"
    return f"{count:,} of the {total:,} {which} ({share}{never}) became another class"


def _reference(data: ReportData) -> str:
    """What u-FID measures the distance to: not every run has real images."""
    filtered = data.metrics["reference"]["kind"] == "filtered_original"
    return "the original's own wanted samples" if filtered else "real images"


def _limits(data: ReportData, found: RestFinding) -> tuple[str, ...]:
    metrics = data.metrics
    limits = []
    if _one_kept_class(data):
        limits.append(
            "The classifier knows the kept images only as one class, and u-FID uses its features: a whole kept class can vanish unseen."
        )
    limits += [
        f"Lost more than half: “{name}”, {got:,} made, {want:,.0f} expected." for name, got, want in found.starved[:3]
    ]
    if len(found.starved) > 3:
        limits.append(f"{len(found.starved) - 3} more kept classes lost more than half; see the class histogram.")
    if found.shifts is not None and not found.fallen:
        limits.append(
            f"The smallest net loss of a class that would be noticed at {metrics['n_images']:,} images is {_least(found)}, by class "
            f"(exact sign test with Holm's correction over {len(found.shifts)} kept classes)."
        )
    least = THRESHOLDS["starved_expected_images"]
    names = zip(metrics["histogram"]["classes"], expected_counts(data), strict=True)
    kept = [(name, want) for i, (name, want) in enumerate(names) if i not in data.forget_ids]
    few = [name for name, want in kept if want < least]
    if few:
        listed = ", ".join(f"“{name}”" for name in few[:5]) + (f" and {len(few) - 5} more" if len(few) > 5 else "")
        limits.append(
            f"Too few images to judge alone (fewer than {least:.0f} expected): {len(few)} of {len(kept)} kept classes, {listed}."
        )
    limits.append("The distance (u-FID) is an average over all kept images: rare kinds can be lost without moving it.")
    limits.append(
        f"u-FID depends on the number of images ({rest_u_fid(metrics, 'unlearned')[1]:,}) and on its feature network "
        f"({metrics['feature_network']}): compare only rows of this page."
    )
    ours, floor = ((data.row(name) or {}).get("recall") for name in ("unlearned", "filtered_original"))
    if ours is not None and floor is not None:
        limits.append(
            f"Recall (how much of the variety of {_reference(data)} is reached): {number(ours)}; filtered original {number(floor)}."
        )
    return tuple(limits)
