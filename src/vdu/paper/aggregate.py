"""A table of the paper from its cells: means over seeds, and verdicts on the printed numbers and on claims. Torch-free.

    value = mean over k seeds        interval: value − √((t s/√k)² + mean of b²) to value + √((t s/√k)² + mean of a²)

s is the standard deviation over seeds (of the unlearning run) and t Student's quantile for k − 1; b and a are how far each seed's
95 % interval over images reaches below and above its value, not divided by k, since all seeds share the evaluation noise and the
original.

Verdicts: "agrees" or "disagrees" if network and features are the paper's, "not comparable" if they are not, "not run"
if there is no number. Claims of the text are comparisons of our own means and can be tested at every scale.

A claim needs three seeds; a seed that diverged counts against it.

Not guaranteed: coverage where the spread over seeds is far from normal.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from vdu.core.statistics import seeds_interval
from vdu.paper.tables import LABELS, Claim, Printed, Table, label_of

__all__ = [
    "FEWEST_SEEDS",
    "INTERVALS",
    "aggregate",
    "compare",
    "differences",
    "find",
    "interval",
    "is_near",
    "judge_claims",
    "mean_of",
]

FEWEST_SEEDS = 3
INTERVALS = "each side by its own widths"
"""The formula above, in the JSON file of a table; files of earlier versions do not say theirs."""

Measured = Mapping[tuple[str, str, str], Sequence[Mapping[str, Any]]]
Rows = Sequence[Mapping[str, Any]]


def mean_of(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean and interval over seeds of values that each have an interval over images (:func:`vdu.core.statistics.seeds_interval`).

    Args:
        values: ``{"value", "low", "high"}`` of each seed.

    Returns:
        The same three keys.

    Examples:
        >>> mean_of([{"value": 10.0, "low": 8.04, "high": 11.96}])
        {'value': 10.0, 'low': 8.04, 'high': 11.96}
        >>> mean = mean_of([{"value": v, "low": v, "high": v} for v in (8.0, 10.0, 12.0)])
        >>> mean["value"], round(mean["high"], 2)  # 10 + 4.303 · 2/√3
        (10.0, 14.97)
    """
    if len(values) == 1:
        return {name: float(values[0][name]) for name in ("value", "low", "high")}
    mean, low, high = seeds_interval([(each["value"], each["low"], each["high"]) for each in values])
    return {"value": mean, "low": low, "high": high}


def aggregate(table: Table, measured: Measured) -> list[dict[str, Any]]:
    """One entry per data set, class and row, at every number of images.

    Args:
        table: gives labels.
        measured: results of the cells of each, one per seed.

    Returns:
        Plain values.
    """
    rows = []
    for (dataset, forget, name), results in measured.items():
        good = [each for each in results if each["status"] == "measured"]
        label = label_of(table, name)
        row: dict[str, Any] = {"dataset": dataset, "forget": forget, "row": name, "label": label, "n_seeds": len(good)}
        row |= {"n_diverged": len(results) - len(good), "at": {}}
        for n in good[0]["at"] if good else ():
            row["at"][n] = _at([each["at"][n] for each in good])
        seconds = [each["seconds"] for each in results if "seconds" in each]
        row["seconds"] = round(fmean(seconds), 1) if seconds else None
        for about in ("steps", "network_evaluations", "posterior_evaluations"):  # a run may stop early
            counts = [each[about] for each in good if about in each]
            row[about] = round(fmean(counts)) if counts else None
        row["ending"] = next((each["ending"] for each in good if "ending" in each), None)
        spent = [each["unlearn_seconds"] for each in good if "unlearn_seconds" in each]
        row["unlearn_seconds"] = round(fmean(spent), 1) if spent else None
        rows.append(row)
    return rows


def _at(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The metrics of one row at one number of images, over its seeds."""
    made: dict[str, Any] = {name: mean_of([each[name] for each in values]) for name in ("u_fid", "kid")}
    made["u_fid_seeds"] = [each["u_fid"]["value"] for each in values]
    if "pul" in values[0]:
        made["pul"] = mean_of([each["pul"] for each in values])
        made["pul_seeds"] = [each["pul"]["value"] for each in values]
        made["n_original"] = values[0]["pul"]["n_original"]
        made["n_unlearned"] = [each["pul"]["n_unlearned"] for each in values]
    if values[0].get("second"):
        made["second_pul"] = mean_of([each["second"]["pul"] for each in values])
    for name in {"pul", "second_pul"} & set(made):
        made[name]["high"] = min(made[name]["high"], 100.0)  # PUL is at most 100
    for name in ("precision", "recall", "density", "coverage"):
        if name in values[0]:
            made[name] = fmean(each[name] for each in values)
    if all("changed" in each for each in values):
        made["changed"] = [fmean(each["changed"][i] for each in values) for i in (0, 1)]
    if values[0].get("histogram"):
        made["histogram_distance"] = fmean(each["histogram"]["distance"] for each in values)
        made["histogram_chance_high"] = values[0]["histogram"]["chance_high"]
    return made


def find(rows: Rows, dataset: str, forget: str, name: str) -> Mapping[str, Any] | None:
    """The row of a name, if it was run and did not diverge in every seed."""
    return next((row for row in rows if _key(row) == (dataset, forget, name) and row["at"]), None)


def _key(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["dataset"], row["forget"], row["row"]


def compare(table: Table, rows: Rows) -> list[dict[str, Any]]:
    """Every published value with ours, and a verdict for each number.

    Args:
        table: the published values.
        rows: ours.

    Returns:
        One entry per published value. Rows of one data set are taken at the largest number of images that all of them have, since a
        Fréchet distance depends on it; if they have none in common, each at its own largest.
    """
    found = [find(rows, each.dataset, each.forget, each.row) for each in table.printed]
    common: dict[str, set[str]] = {}
    for row in found:
        if row:
            common[row["dataset"]] = common.get(row["dataset"], set(row["at"])) & set(row["at"])
    return [
        _compare(table, rows, printed, row, max(common[row["dataset"]] or row["at"], key=int) if row else None)
        for printed, row in zip(table.printed, found, strict=True)
    ]


def _compare(
    table: Table, rows: Rows, printed: Printed, row: Mapping[str, Any] | None, n_images: str | None
) -> dict[str, Any]:
    runs = [each for each in rows if _key(each) == (printed.dataset, printed.forget, printed.row)]
    entry: dict[str, Any] = {"dataset": printed.dataset, "forget": printed.forget, "row": printed.row}
    at = row["at"][n_images] if row and n_images else None
    world = table.worlds.get(printed.dataset)
    n_diverged = sum(each["n_diverged"] for each in runs)
    entry["n_images"] = int(n_images) if n_images else None
    entry["n_seeds"], entry["n_diverged"] = sum(each["n_seeds"] for each in runs), n_diverged
    for metric in ("pul", "u_fid"):
        paper = getattr(printed, metric)
        ours = at[metric] if at else None
        entry[metric] = {"paper": paper, "ours": ours, "verdict": "diverged" if n_diverged else "not run"}
        if ours is not None and world is not None:
            differ = [] if world.network == table.network.get(printed.dataset) else ["network"]
            differ += [*world.differs, *(["features"] if metric == "u_fid" else [])]  # the judge's, never Inception's
            verdict = "agrees" if is_near(table, metric, ours, paper) else "disagrees"
            entry[metric]["verdict"] = f"not comparable: {_and(differ)}" if differ else verdict
    return entry


def is_near(table: Table, metric: str, ours: Mapping[str, float], paper: float) -> bool:
    """Whether our interval holds the printed value, or ours is within the table's tolerance of it.

    Args:
        table: gives the tolerances.
        metric: "pul" or "u_fid".
        ours: value, low and high.
        paper: the printed value.

    Returns:
        Whether they are near.
    """
    tolerance = table.tolerances["pul"] if metric == "pul" else table.tolerances["u_fid"] * paper
    return ours["low"] <= paper <= ours["high"] or abs(ours["value"] - paper) <= tolerance


def judge_claims(table: Table, rows: Rows) -> list[dict[str, Any]]:
    """Each claim for every class that was run, and whether it holds in all of them."""
    judged = []
    for claim in table.claims:
        known = {}
        for row in rows:
            if row["row"] == claim.row and (holds := _holds(claim, rows, row)) is not None:
                known[f"{row['dataset']} {row['forget']}"] = holds
        verdict = "not run" if not known else "undecided"
        if "fails" in known.values():
            verdict = "disagrees"
        elif known and set(known.values()) == {"holds"}:
            verdict = "agrees"
        judged.append({"text": claim.text, "verdict": verdict, "classes": known})
    return judged


def _holds(claim: Claim, rows: Rows, left: Mapping[str, Any]) -> str | None:
    """Whether a claim "holds" or "fails" beyond the intervals of both sides, or is "undecided"; None if a side is missing."""
    if left["n_diverged"]:
        return "fails"
    other = claim.below or claim.above
    right = find(rows, left["dataset"], left["forget"], other) if other else None
    if other and right is None:
        lost = [each["label"] for each in rows if _key(each) == (left["dataset"], left["forget"], other)]
        return f"undecided, since every seed of {lost[0]} diverged" if lost else None
    # the fewest images that both have: a Fréchet distance depends on their number
    n = min(set(left["at"]) & set(right["at"]), key=int, default=None) if right else max(left["at"], key=int)
    sides = (left, right) if right else (left,)
    if n is None or any(side["at"][n].get(claim.metric) is None for side in sides):  # references have no PUL
        return None
    if any(side["n_seeds"] < FEWEST_SEEDS and side["row"] not in LABELS for side in sides):
        return "undecided"  # too few seeds
    low, high = (left["at"][n][claim.metric][name] for name in ("low", "high"))
    if right is None:
        assert claim.at_least is not None
        least = greatest = claim.at_least
    else:
        least, greatest = (claim.factor * right["at"][n][claim.metric][name] for name in ("low", "high"))
    if claim.below:  # the same question, mirrored
        low, high, least, greatest = -high - claim.margin, -low - claim.margin, -greatest, -least
    return "holds" if low >= greatest else "fails" if high < least else "undecided"


def differences(expected: Mapping[str, Any], rows: Rows) -> list[str]:
    """Numbers whose interval does not overlap the committed one, and committed numbers that are missing.

    Args:
        expected: "dataset forget row n" → metric → ``{"value", "low", "high"}``.
        rows: of this run.

    Returns:
        One sentence each; empty if all agree or nothing was committed for them.
    """
    ours = {f"{row['dataset']} {row['forget']} {row['row']} {n}": at for row in rows for n, at in row["at"].items()}
    found = []
    for name, metrics in expected.items():
        for metric, wanted in metrics.items():
            got = ours.get(name, {}).get(metric)
            if got is None:  # a row that diverges now, for example
                found.append(f"{name}: {metric} has no number; committed {interval(wanted)}")
            elif got["low"] > wanted["high"] or got["high"] < wanted["low"]:
                found.append(f"{name}: {metric} {interval(got)}; committed {interval(wanted)}")
    return found


def interval(value: Mapping[str, float] | None) -> str:
    """A value with its interval, for people."""
    return "–" if value is None else f"{value['value']:.1f} ({value['low']:.1f} to {value['high']:.1f})"


def _and(words: Sequence[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last} differ" if most else f"{last} differ{'s' * (last != 'features')}"
