"""A table of the paper from its cells: means over seeds, verdicts against the print, and Markdown. Torch-free.

    value = mean over k seeds        se² = s²/k + mean of se_image²        interval = value ± 1.96 se

s² is the variance over seeds (of the unlearning run); se_image is a quarter of the width of each seed's 95 % interval over
images, not divided by k, for all seeds are judged on the same noise and against the same original.

Verdicts: "agrees" or "disagrees" where network and features are the paper's, "not comparable" where they are not, "not run"
where there is no number. Claims of the text are comparisons of our own means, so they can be judged at every scale.

Not guaranteed: coverage with three seeds (the factor 1.96 knows nothing of their small number).
"""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, variance
from typing import Any

from vdu.paper.tables import Claim, Printed, Table

__all__ = ["REFERENCES", "aggregate", "compare", "differences", "judge_claims", "markdown"]

REFERENCES = {"real-split": "Real against real", "original": "Original", "filtered-original": "Filtered original"}
LABELS = REFERENCES | {"retrained": "Retrained without the class"}
Z = 1.96

Measured = Mapping[tuple[str, str, str], Sequence[Mapping[str, Any]]]
Rows = Sequence[Mapping[str, Any]]


def mean_of(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean and interval over seeds of values that each have an interval over images.

    Args:
        values: ``{"value", "low", "high"}`` of each seed.

    Returns:
        The same three keys.

    Examples:
        >>> mean_of([{"value": 10.0, "low": 8.04, "high": 11.96}])
        {'value': 10.0, 'low': 8.04, 'high': 11.96}
        >>> mean = mean_of([{"value": v, "low": v, "high": v} for v in (8.0, 10.0, 12.0)])
        >>> mean["value"], round(mean["high"], 2)  # 10 + 1.96 · 2/√3
        (10.0, 12.26)
    """
    if len(values) == 1:
        return {name: float(values[0][name]) for name in ("value", "low", "high")}
    centre = fmean(each["value"] for each in values)
    images = fmean(((each["high"] - each["low"]) / (2 * Z)) ** 2 for each in values)
    error = math.sqrt(variance(each["value"] for each in values) / len(values) + images)
    return {"value": centre, "low": centre - Z * error, "high": centre + Z * error}


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
        label = LABELS.get(name) or table.rows[name].label
        row: dict[str, Any] = {"dataset": dataset, "forget": forget, "row": name, "label": label, "n_seeds": len(good)}
        row |= {"n_diverged": len(results) - len(good), "at": {}}
        for n in good[0]["at"] if good else ():
            row["at"][n] = _at([each["at"][n] for each in good])
        row["seconds"] = round(fmean(each.get("seconds", 0.0) for each in results), 1)
        row["steps"] = next((each["steps"] for each in good if "steps" in each), None)
        row["network_evaluations"] = next(
            (each["network_evaluations"] for each in good if "network_evaluations" in each), None
        )
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
    if values[0].get("histogram"):
        made["histogram_distance"] = fmean(each["histogram"]["distance"] for each in values)
        made["histogram_chance_high"] = values[0]["histogram"]["chance_high"]
    return made


def find(rows: Rows, dataset: str, forget: str, name: str) -> Mapping[str, Any] | None:
    """The row of a name, if it was run and did not diverge in every seed."""
    for row in rows:
        if (row["dataset"], row["forget"], row["row"]) == (dataset, forget, name) and row["at"]:
            return row
    return None


def compare(table: Table, rows: Rows) -> list[dict[str, Any]]:
    """Every printed cell with ours beside it, at the most images that we have, and a verdict for each number."""
    return [_compare(table, rows, printed) for printed in table.printed]


def _compare(table: Table, rows: Rows, printed: Printed) -> dict[str, Any]:
    row = find(rows, printed.dataset, printed.forget, printed.row)
    entry: dict[str, Any] = {"dataset": printed.dataset, "forget": printed.forget, "row": printed.row}
    at = row["at"][max(row["at"], key=int)] if row else None
    same_network = row is not None and table.worlds[printed.dataset].network == table.network.get(printed.dataset)
    for metric in ("pul", "u_fid"):
        paper = getattr(printed, metric)
        ours = at[metric] if at else None
        entry[metric] = {"paper": paper, "ours": ours, "verdict": "not run", "within": None}
        if ours is not None:
            within = ours["low"] <= paper <= ours["high"]
            tolerance = table.tolerances["pul"] if metric == "pul" else table.tolerances["u_fid"] * paper
            verdict = "agrees" if within or abs(ours["value"] - paper) <= tolerance else "disagrees"
            differ = [] if same_network else ["network"]
            differ += ["features"] if metric == "u_fid" else []  # the judge's, never Inception's
            differs = f"not comparable: {' and '.join(differ)} {'differ' if len(differ) > 1 or metric == 'u_fid' else 'differs'}"
            entry[metric] |= {"verdict": differs if differ else verdict, "within": within}
    return entry


def judge_claims(table: Table, rows: Rows) -> list[dict[str, Any]]:
    """Each claim for every class that was run, and whether it holds in all of them."""
    judged = []
    for claim in table.claims:
        classes = {(row["dataset"], row["forget"]) for row in rows if row["row"] == claim.row}
        holds = {f"{dataset} {forget}": _holds(claim, rows, dataset, forget) for dataset, forget in sorted(classes)}
        known = {name: value for name, value in holds.items() if value is not None}
        verdict = "not run" if not known else "undecided"
        if "fails" in known.values():
            verdict = "disagrees"
        elif known and set(known.values()) == {"holds"}:
            verdict = "agrees"
        judged.append({"text": claim.text, "verdict": verdict, "classes": known})
    return judged


def _holds(claim: Claim, rows: Rows, dataset: str, forget: str) -> str | None:
    """Whether a claim "holds" or "fails" beyond the intervals of both sides, or is "undecided"; None if a side is missing."""
    left = find(rows, dataset, forget, claim.row)
    other = claim.below or claim.above
    right = find(rows, dataset, forget, other) if other else None
    if left is None or (other and right is None):
        return None
    # the fewest images that both have: a Fréchet distance depends on their number
    n = min(set(left["at"]) & set(right["at"] if right else left["at"]), key=int, default=None)
    sides = (left, right) if right else (left,)
    if n is None or any(side["at"][n].get(claim.metric) is None for side in sides):  # references have no PUL
        return None
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
    """Numbers whose interval does not meet the committed one, and committed numbers that are no longer there.

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
                found.append(f"{name}: {metric} has no number; committed {_interval(wanted)}")
            elif got["low"] > wanted["high"] or got["high"] < wanted["low"]:
                found.append(f"{name}: {metric} {_interval(got)}; committed {_interval(wanted)}")
    return found


def markdown(table: Table, results: Mapping[str, Any]) -> str:
    """The table as a page: ours against the paper, claims, all rows, protocol."""
    hardware = results["environment"]["hardware"]
    seconds = sum(results["cells"].values())
    lines = [
        f"# {table.title}",
        "",
        f"`{results['command']}`: scale {table.scale}, {len(results['cells'])} cells, {seconds / 3600:.1f} hours of cell time in all; "
        f"{hardware['cpu']}, {hardware['cpu_cores']} cores, torch {results['environment']['packages']['torch']}.",
        "Values are means over seeds with 95 % intervals. u-FID is on the judge's features, not Inception's.",
        "",
        "## Ours against the paper",
        "",
        "| class | row | PUL ours | PUL paper | verdict | u-FID ours | u-FID paper | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for entry in results["comparison"]:
        label = table.rows[entry["row"]].label if entry["row"] in table.rows else entry["row"]
        numbers = [
            f"{_interval(entry[metric]['ours'])} | {entry[metric]['paper']:.2f} | {_verdict(entry[metric])}"
            for metric in ("pul", "u_fid")
        ]
        lines.append(f"| {entry['dataset']} {entry['forget']} | {label} | {' | '.join(numbers)} |")
    lines += [
        "",
        "## What the text claims, on our numbers",
        "",
        "Holds or fails beyond the 95 % intervals of both sides, at the same number of images; else undecided.",
        "",
        "| claim | verdict | class by class |",
        "|---|---|---|",
    ]
    for claim in results["claims"]:
        each = ", ".join(f"{name}: {value}" for name, value in claim["classes"].items()) or "–"
        lines.append(f"| {claim['text']} | {claim['verdict']} | {each} |")
    lines += ["", "## All rows", ""]
    for dataset, forget in dict.fromkeys((row["dataset"], row["forget"]) for row in results["rows"]):
        lines += _class_table(results, dataset, forget)
    lines += _checks(results)
    return "\n".join(lines) + "\n"


def _class_table(results: Mapping[str, Any], dataset: str, forget: str) -> list[str]:
    judge = results["judges"][f"{dataset} {forget}"]
    lines = [
        f"### {dataset}, forgetting {forget}",
        "",
        f"Judge {judge['name']}: held-out error {judge['held_out_error']:.2%}, which caps PUL near {judge['pul_ceiling']:.1f} %.",
        "",
        "| row | seeds | N | images of the class, before → after | PUL, % | second judge's PUL | u-FID[judge] "
        "| histogram distance | s per run |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        if (row["dataset"], row["forget"]) != (dataset, forget):
            continue
        failed = f", {row['n_diverged']} diverged" if row["n_diverged"] else ""
        if not row["at"]:
            lines.append(
                f"| {row['label']} | {row['n_seeds']}{failed} | – | – | diverged | – | – | – | {row['seconds']:.0f} |"
            )
        for n, at in row["at"].items():
            counts = f"{at['n_original']} → {', '.join(map(str, at['n_unlearned']))}" if "pul" in at else "–"
            distance = (
                f"{at['histogram_distance']:.3f} (chance ≤ {at['histogram_chance_high']:.3f})"
                if "histogram_distance" in at
                else "–"
            )
            lines.append(
                f"| {row['label']} | {row['n_seeds']}{failed} | {n} | {counts} | {_interval(at.get('pul'))} "
                f"| {_interval(at.get('second_pul'))} | {_interval(at['u_fid'])} | {distance} | {row['seconds']:.0f} |"
            )
    return [*lines, ""]


def _checks(results: Mapping[str, Any]) -> list[str]:
    lines = []
    for dataset, check in results["sampler_check"].items():
        lines += [f"## Few sampling steps against many, {dataset}, N = {check['n_images']}", "",
                  "| steps | PUL, % | u-FID original | u-FID unlearned |", "|---|---|---|---|"]  # fmt: skip
        for steps, each in check.items():
            if steps != "n_images":
                distances = " | ".join(_interval(each["u_fid"][name]) for name in ("original", "unlearned"))
                lines.append(f"| {steps} | {_interval(each['pul'])} | {distances} |")
        lines.append("")
    return lines


def _interval(value: Mapping[str, float] | None) -> str:
    return "–" if value is None else f"{value['value']:.1f} ({value['low']:.1f} to {value['high']:.1f})"


def _verdict(entry: Mapping[str, Any]) -> str:
    inside = {None: "", True: "; within our interval", False: "; outside our interval"}[entry["within"]]
    return entry["verdict"] + inside
