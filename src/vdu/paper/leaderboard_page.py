"""A leaderboard from its cells, as Markdown: a comparison of methods per class, with their costs. Torch-free.

Cost is in network evaluations (an image forward 1, backward 2): of the method, including generated samples, auxiliary models and
its stopping rule, with small classifiers weighted by FLOPs; and of the posterior, if there is one.
"""

from collections.abc import Mapping
from typing import Any

from vdu.paper.table_page import claim_lines, interval
from vdu.paper.tables import Table

__all__ = ["markdown"]


def markdown(table: Table, results: Mapping[str, Any]) -> str:
    """The page: claims, then one table per class, best first.

    Args:
        table: gives labels and worlds.
        results: as ``vdu reproduce`` writes them.

    Returns:
        Markdown.
    """
    seconds = sum(results["cells"].values())
    machines = "; ".join(f"{n} on {machine}" for machine, n in sorted(results["machines"].items()))
    lines = [
        f"# {table.title}",
        "",
        f"`{results['command']}`: {len(results['cells'])} cells, {seconds / 3600:.1f} hours of cell time in all: {machines}. "
        "The seconds of a row are its machine's.",
        "Values are means over seeds with 95 % intervals; u-FID, precision and recall are on the judge's features, against held-out "
        "real images of the other classes. Rows are sorted by u-FID among those that forget at least 80 %, then by PUL.",
        "",
        *claim_lines(results["claims"]),
        "",
    ]
    for dataset, forget in dict.fromkeys((row["dataset"], row["forget"]) for row in results["rows"]):
        world = results["worlds"][dataset]
        pretraining = 3 * world["pretrain"]["steps"] * world["pretrain"]["batch_size"]
        lines += _class_table(results, dataset, forget, pretraining)
    missing = [f"{table.rows[row].label} ({forget})" for _, forget, row in results.get("not_run", [])]
    lines += [f"Not run: {'; '.join(missing)}.", ""] if missing else []
    return "\n".join(lines) + "\n"


def _class_table(results: Mapping[str, Any], dataset: str, forget: str, pretraining: int) -> list[str]:
    judge = results["judges"][f"{dataset} {forget}"]
    lines = [
        f"## {dataset}, forgetting {forget}",
        "",
        f"Judge {judge['name']}: held-out error {judge['held_out_error']:.2%}, which caps PUL near {judge['pul_ceiling']:.1f} %; what it "
        "calls the class in a model retrained without it shows what its error on generated images allows. Pre-training took "
        f"{pretraining:,} evaluations.",
        "",
        "| row | seeds | N | images of the class, before → after | PUL, % | second judge | u-FID[judge] | precision | recall "
        "| histogram distance (chance) | evaluations, share of pre-training | s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    rows = [row for row in results["rows"] if (row["dataset"], row["forget"]) == (dataset, forget)]
    for n in sorted({n for row in rows for n in row["at"]}, key=int):
        lines += [_line(row, n, pretraining) for row in sorted((row for row in rows if n in row["at"]), key=_order(n))]
    for row in rows:
        if not row["at"]:
            lines.append(
                f"| {row['label']} | 0, {row['n_diverged']} diverged | – | – | diverged | – | – | – | – | – | – | – |"
            )
    return [*lines, ""]


def _order(n: str) -> Any:
    def key(row: Mapping[str, Any]) -> tuple[float, float]:
        at = row["at"][n]
        if "pul" not in at:
            return (0.0, at["u_fid"]["value"])  # references first
        forgets = at["pul"]["value"] >= 80
        return (1.0, at["u_fid"]["value"]) if forgets else (2.0, -at["pul"]["value"])

    return key


def _line(row: Mapping[str, Any], n: str, pretraining: int) -> str:
    at = row["at"][n]
    counts = f"{at['n_original']} → {', '.join(map(str, at['n_unlearned']))}" if "pul" in at else "–"
    shares = [f"{at[name]:.2f}" if name in at else "–" for name in ("precision", "recall")]
    distance = (
        f"{at['histogram_distance']:.3f} ({at['histogram_chance_high']:.3f})" if "histogram_distance" in at else "–"
    )
    cost = "–"
    if row.get("network_evaluations") is not None:
        cost = f"{row['network_evaluations'] / pretraining:.1%}"
        if row.get("posterior_evaluations"):
            cost += f" + posterior {row['posterior_evaluations'] / pretraining:.1%}"
    failed = f", {row['n_diverged']} diverged" if row["n_diverged"] else ""
    seconds = "–" if row.get("unlearn_seconds") is None else f"{row['unlearn_seconds']:.0f}"
    return (
        f"| {row['label']} | {row['n_seeds']}{failed} | {n} | {counts} | {interval(at.get('pul'))} | {interval(at.get('second_pul'))} "
        f"| {interval(at['u_fid'])} | {' | '.join(shares)} | {distance} | {cost} | {seconds} |"
    )
