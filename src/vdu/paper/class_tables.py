"""The rows of one class as Markdown tables: those with several seeds at each number of images, those with one, those that diverged."""

from collections.abc import Mapping, Sequence
from typing import Any

from vdu.paper.aggregate import interval
from vdu.paper.summary import FORGETS
from vdu.paper.tables import LABELS, Table, label_of

__all__ = ["LEGEND", "MORE", "class_tables", "cost", "seeds_range", "verdict_lines"]

LEGEND = """Rows with several seeds give the mean, and in brackets the lowest and highest seed. Rows with one seed and *references* give the
value, and in brackets its 95 % interval over images. Compare only rows with the same number of images.

| column | meaning |
|---|---|
| left, of before | images of the class, by the classifier: in each seed's model, and in the original from the same noise |
| PUL | the share of the class that is gone |
| u-FID | Fréchet distance on the classifier's features to held-out real images of the other classes |
| mix shift | total variation distance of the other classes' shares from the original's; in brackets what chance exceeds in 5 % of draws |
"""
MORE = """| kept images changed | images of the other classes that are of another class than the original's from the same noise |
| precision, recall | of the generated images, on the same features |
| cost | network evaluations, an image forward 1 and backward 2 |
| seconds | of the runs' machines, which the CSV file names |
"""
Row = Mapping[str, Any]


def class_tables(
    table: Table, results: Mapping[str, Any], dataset: str, forget: str, *, pretraining: int | None = None
) -> list[str]:
    """The tables of one class as lines of Markdown, below a heading.

    Args:
        table: gives labels.
        results: as ``vdu reproduce`` writes them.
        dataset: the data set.
        forget: the class.
        pretraining: network evaluations of pre-training, to give costs as shares of it; None leaves precision, recall and costs out.

    Returns:
        The lines.
    """
    judge = results["judges"][f"{dataset} {forget}"]
    lines = [
        f"## {dataset}, forgetting {forget}",
        "",
        f"The classifier {judge['name']} errs on {100 * judge['held_out_error']:.2f} % of held-out real images, which caps PUL near "
        f"{judge['pul_ceiling']:.1f} %.",
        "",
    ]
    rows = [row for row in results["rows"] if (row["dataset"], row["forget"]) == (dataset, forget)]
    references = [row for row in rows if row["row"] in LABELS]
    methods = [row for row in rows if row["row"] not in LABELS]
    parts = {
        "Several seeds": [*references, *(row for row in methods if row["n_seeds"] > 1)],
        "One seed": [row for row in methods if row["n_seeds"] == 1],
    }
    for title, some in parts.items():
        for n in sorted({n for row in some for n in row["at"]}, key=int, reverse=True):
            lines += [f"### {title}, {n} images, forgetting {forget}", "", *_header(pretraining)]
            shown = sorted((row for row in some if n in row["at"]), key=lambda row: _order(row, n))
            lines += [*(_line(table, row, n, pretraining) for row in shown), ""]
    if lost := [row for row in rows if not row["at"]]:
        each = "; ".join(f"{label_of(table, row['row'])} ({row['n_diverged']} diverged)" for row in lost)
        lines += [f"No number, as every seed diverged: {each}.", ""]
    return lines


def verdict_lines(claims: Sequence[Mapping[str, Any]]) -> list[str]:
    """The claims' verdicts as lines of Markdown."""
    return [
        "## Claims, on our numbers",
        "",
        "A claim holds or fails if it does so beyond the 95 % intervals of both sides (over seeds and images), with three seeds and at "
        "the same number of images. Otherwise it is undecided.",
        "",
        "| claim | verdict | class by class |",
        "|---|---|---|",
        *(f"| {claim['text']} | {claim['verdict']} | {_by_class(claim['classes'])} |" for claim in claims),
    ]


def _by_class(verdicts: Mapping[str, str]) -> str:
    if len(verdicts) > 1 and len(set(verdicts.values())) == 1:
        return f"{next(iter(verdicts.values()))} in all {len(verdicts)}"
    return ", ".join(f"{name}: {value}" for name, value in verdicts.items()) or "–"


def _header(pretraining: int | None) -> list[str]:
    names = ["method", "seeds", "left, of before", "PUL, %", "second classifier's PUL, %", "u-FID", "mix shift"]
    names += ["kept images changed, %", "precision", "recall", "cost, % of pre-training"] if pretraining else []
    names.append("seconds" if pretraining else "seconds, images included")
    return [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]


def _line(table: Table, row: Row, n: str, pretraining: int | None) -> str:
    at = row["at"][n]
    several = row["n_seeds"] > 1
    label = label_of(table, row["row"])
    shift = f"{at['histogram_distance']:.3f} ({at['histogram_chance_high']:.3f})" if "histogram_distance" in at else "–"
    second = at.get("second_pul")
    cells = [
        f"*{label}*" if row["row"] in LABELS else label,
        f"{row['n_seeds']}" + (f", {row['n_diverged']} diverged" if row["n_diverged"] else ""),
        f"{', '.join(map(str, at['n_unlearned']))} of {at['n_original']}" if "pul" in at else "–",
        seeds_range(at, "pul") if several else interval(at.get("pul")),
        (f"{second['value']:.1f}" if several else interval(second)) if second else "–",
        seeds_range(at, "u_fid") if several else interval(at["u_fid"]),
        shift,
    ]
    if pretraining:
        cells.append(f"{100 * at['changed'][0] / at['changed'][1]:.1f}" if "changed" in at else "–")
        cells += [f"{at[name]:.2f}" if name in at else "–" for name in ("precision", "recall")]
        cells.append(cost(row.get("network_evaluations"), row.get("posterior_evaluations"), pretraining))
    seconds = row.get("unlearn_seconds") if pretraining else row["seconds"]
    cells.append("–" if seconds is None else f"{seconds:.0f}")
    return f"| {' | '.join(cells)} |"


def seeds_range(at: Mapping[str, Any], metric: str) -> str:
    """The mean of a metric with its lowest and highest seed."""
    seeds = at[f"{metric}_seeds"]
    return interval({"value": at[metric]["value"], "low": min(seeds), "high": max(seeds)})


def cost(evaluations: float | None, posterior: float | None, pretraining: int) -> str:
    """Network evaluations of a method and of its posterior in per cent of pre-training's."""
    if evaluations is None:
        return "–"
    own = f"{100 * evaluations / pretraining:.1f}"
    return own + (f" + {100 * posterior / pretraining:.1f} for the posterior" if posterior else "")


def _order(row: Row, n: str) -> tuple[int, float]:
    at = row["at"][n]
    if row["row"] in LABELS:
        return (0, at["u_fid"]["value"])
    forgets = at["pul"]["value"] >= FORGETS
    return (1, at["u_fid"]["value"]) if forgets else (2, -at["pul"]["value"])
