"""A table of the paper as Markdown: what was found, our numbers beside the printed ones, claims, and every row. Torch-free."""

from collections.abc import Mapping
from typing import Any

from vdu.paper.aggregate import INTERVALS, find, interval
from vdu.paper.class_tables import LEGEND, class_tables, seeds_range, verdict_lines
from vdu.paper.tables import Table, label_of

__all__ = ["markdown"]

MARKS = "¹²³⁴⁵⁶⁷⁸⁹"


def markdown(table: Table, results: Mapping[str, Any]) -> str:
    """The page.

    Args:
        table: gives labels and findings.
        results: as ``vdu reproduce`` writes them.

    Returns:
        Markdown.
    """
    lines = [f"# {table.title}", "", *finding_lines(table, results)]
    lines += _comparison(table, results)
    lines += ["", *verdict_lines(results["claims"]), "", *_formula(table, results), "## Every row", "", LEGEND]
    for dataset, forget in dict.fromkeys((row["dataset"], row["forget"]) for row in results["rows"]):
        lines += class_tables(table, results, dataset, forget)
    for name, ratio in results["mean_loss_ratio"].items():
        lines += [f"Denoising loss at μ* of {name}: {ratio:.3g} times that at θ*.", ""]
    lines += _checks(results)
    hardware, seconds = results["environment"]["hardware"], sum(results["cells"].values())
    lines += [
        f"Written by `{results['command']}`: scale {table.scale}, {len(results['cells'])} cells, {seconds / 3600:.1f} hours of cell time; "
        f"{hardware['cpu']}, {hardware['cpu_cores']} cores, torch {results['environment']['packages']['torch']}. "
        f"Every run is a line of [{table.name}.csv]({table.name}.csv).",
    ]
    return "\n".join(lines) + "\n"


def _formula(table: Table, results: Mapping[str, Any]) -> list[str]:
    """What the intervals over seeds are, where an earlier version made them and its cells are gone."""
    if results.get("intervals") == INTERVALS:
        return []
    return [
        f"The intervals over several seeds in [{table.name}.json]({table.name}.json), on which verdicts and claims rest, are of an earlier "
        "version: value ± √((t s/√k)² + mean of h²), with s the standard deviation over k seeds, t Student's quantile, and h half of the "
        "width of a seed's interval over images. The present version takes the two sides apart; the intervals of single seeds, which it "
        "needs, were not kept.",
        "",
    ]


def finding_lines(table: Table, results: Mapping[str, Any]) -> list[str]:
    """What the committed run found, as a list; nothing if a number of this run is outside the committed intervals."""
    if not table.findings or results["outside_committed"]:
        return []
    return ["**What was found**", "", *(f"- {each}" for each in table.findings), ""]


def _comparison(table: Table, results: Mapping[str, Any]) -> list[str]:
    """Ours beside the printed values; reasons why they cannot be compared are footnotes."""
    if not results["comparison"]:
        return []
    notes: dict[str, str] = {}
    lines = [
        "## Ours beside the paper's",
        "",
        "| class | method | images per model | PUL ours, % | PUL printed | u-FID ours | u-FID printed | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    not_run = []
    for entry in results["comparison"]:
        verdicts = [entry[metric]["verdict"] for metric in ("pul", "u_fid")]
        if set(verdicts) == {"not run"}:
            not_run.append(f"{entry['dataset']} {entry['forget']}")
            continue
        said = []
        for name, verdict in zip(("PUL", "u-FID"), verdicts, strict=True):
            reason = verdict.removeprefix("not comparable: ")
            if reason != verdict:
                verdict = notes.setdefault(reason, MARKS[len(notes)])
            said.append(f"{name} {verdict}")
        total = entry["n_diverged"] + entry["n_seeds"]
        failed = f", {entry['n_diverged']} of {total} seeds diverged" if entry["n_diverged"] else ""
        numbers = [f"{_ours(results, entry, metric)} | {entry[metric]['paper']:.2f}" for metric in ("pul", "u_fid")]
        lines.append(
            f"| {entry['dataset']} {entry['forget']} | {label_of(table, entry['row'])}{failed} | {entry['n_images'] or '–'} "
            f"| {' | '.join(numbers)} "
            f"| {', '.join(said)} |"
        )
    if notes:
        lines += ["", "Not comparable: " + "; ".join(f"{mark} {reason}" for reason, mark in notes.items()) + "."]
    if not_run:
        lines += ["", f"Not run at this scale: {', '.join(dict.fromkeys(not_run))}."]
    return lines


def _ours(results: Mapping[str, Any], entry: Mapping[str, Any], metric: str) -> str:
    """The mean over seeds with the lowest and highest, or of one seed its interval."""
    row = find(results["rows"], entry["dataset"], entry["forget"], entry["row"])
    if row is None or row["n_seeds"] < 2:
        return interval(entry[metric]["ours"])
    return seeds_range(row["at"][str(entry["n_images"])], metric)


def _checks(results: Mapping[str, Any]) -> list[str]:
    lines = []
    for dataset, check in results["sampler_check"].items():
        lines += [f"## Few sampling steps beside many, {dataset}, {check['n_images']} images", "",
                  "| steps | PUL, % | u-FID original | u-FID unlearned |", "|---|---|---|---|"]  # fmt: skip
        for steps, each in check.items():
            if steps != "n_images":
                distances = " | ".join(interval(each["u_fid"][name]) for name in ("original", "unlearned"))
                lines.append(f"| {steps} | {interval(each['pul'])} | {distances} |")
        lines.append("")
    return lines
