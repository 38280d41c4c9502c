"""The paper's figures from the cells of its tables: grids from the same noise (Figures 1, 3, 4, 5) and PUL against u-FID over γ.

    pairs     images of the class from the original, above; from the unlearned model with the same noise, below
    strips    the same noise through the original and through every row, class by class
    front     Table 2 as a plot: ours and the paper's in two panels, since their u-FIDs are on different features
    summary   a leaderboard: PUL against u-FID, a labelled point for each of the first eight methods

Pixels are drawn as they are, without stretching.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from vdu.core.records import atomic_file
from vdu.data.images import to_float
from vdu.judges.classifier import Judge
from vdu.metrics.features import classify
from vdu.paper.cells import CellStore
from vdu.paper.summary import MOST_POINTS, Summary
from vdu.paper.tables import Table

__all__ = ["draw", "draw_summary"]

COLUMNS = 16
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)  # of a ratio of u-FIDs
CENTRE = 50  # of the axis of PUL


def draw(table: Table, results: Mapping[str, Any], plan: Any, store: CellStore, folder: Path) -> dict[str, str]:
    """Draw the figures of a table.

    Args:
        table: defines the figures.
        results: the aggregated table.
        plan: its cells (:class:`vdu.paper.reproduce.Plan`).
        store: the store of their files.
        folder: the output folder.

    Returns:
        Name → file.
    """
    if table.figure == "front":
        path = folder / f"{table.name}-front.png"
        _front(table, results, path)
        return {f"{table.name} front": str(path)}
    files = {}
    for dataset, cell in {key[0]: cell for key, cell in plan.references.items()}.items():
        judge = plan.judge(dataset, store)
        needs = {name: store.result(need) for name, need in cell.needs.items()}
        before = load_file(store.folder / (needs["samples"] or {})["result"]["images"])["images"]
        for figure, rows in _figures(table, dataset, plan).items():
            path = folder / f"{figure}-{dataset}.png"
            strips = []
            for forget, name in rows:
                cell = plan.rows[dataset, forget, name][0]  # of the first seed that is done
                result = (store.result(cell) or {})["result"]
                if result.get("status") == "measured":
                    after = load_file(store.folder / result["images"])["images"]
                    label = f"{table.rows[name].label}, seed {cell.spec['seed']}"
                    strips += _strips(figure, before, after, forget, label, judge)
            files[f"{figure} {dataset}"] = str(path) if strips else "not drawn: no row of it has images"
            if strips:
                title = f"{figure}, {dataset}, scale {table.scale}; the same noise down every column"
                _draw_strips(strips, path, title)
    return files


def _figures(table: Table, dataset: str, plan: Any) -> dict[str, list[tuple[str, str]]]:
    """The rows of each figure, class by class."""
    present = [(forget, name) for where, forget, name in plan.rows if where == dataset]
    main = {printed.row for printed in table.printed if printed.row.startswith("vdu")}
    return {
        "figure1": [key for key in present if key[1] in main],
        "figure3": [key for key in present if key[1] in main],
        "figure4": [key for key in present if key[1] in main],
        "figure5": [key for key in present if key[1].startswith("sa-")],
        "all-rows": present,
    }


def _strips(
    figure: str, before: Tensor, after: Tensor, forget: str, label: str, judge: Judge
) -> list[tuple[str, Tensor]]:
    named = f"{label}, forgetting {forget}"
    if figure == "figure1":
        classes = classify(judge, to_float(before[: len(after)])).classes
        of_class = (classes == list(judge.class_names).index(forget)).nonzero().flatten()[:COLUMNS]
        return [(f"what the judge calls {forget}", before[of_class]), (named, after[of_class])]
    if figure == "figure4":
        parts = [slice(start, start + COLUMNS) for start in range(0, min(4 * COLUMNS, len(after)), COLUMNS)]
        return [strip for part in parts for strip in (("before", before[part]), (named, after[part]))]
    return [("original", before[:COLUMNS]), (named, after[:COLUMNS])]


def _draw_strips(strips: list[tuple[str, Tensor]], path: Path, title: str) -> None:
    """Rows of images with their labels; a strip equal to one drawn before it is not drawn again."""
    from matplotlib.figure import Figure

    shown: list[tuple[str, Tensor]] = []
    for label, images in strips:
        if len(images) and not (label == "original" and any(name == "original" for name, _ in shown)):
            shown.append((label, images))
    figure = Figure(figsize=(11, 0.62 * len(shown) + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=8)
    axes = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
    for axis, (label, images) in zip(axes, shown, strict=True):
        axis.imshow(torch.cat(list(images), dim=-1).permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=255)
        axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=7)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_xlim(-0.5, COLUMNS * images.shape[-1] - 0.5)
        axis.set_frame_on(False)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def _front(table: Table, results: Mapping[str, Any], path: Path) -> None:
    """PUL against u-FID: a colour per class, a marker per row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.6), layout="constrained")
    ours, paper = figure.subplots(1, 2)
    colours: dict[str, str] = {}
    markers: dict[str, str] = {}
    seen: set[str] = set()

    def style(forget: str, label: str) -> dict[str, Any]:
        colours.setdefault(forget, f"C{len(colours)}")
        markers.setdefault(label, "osD^vPX*<>"[len(markers) % 10])
        shown = f"{forget}: {label}"
        name = None if shown in seen else shown
        seen.add(shown)
        return {"color": colours[forget], "marker": markers[label], "markersize": 5, "linestyle": "none", "label": name}

    for row in results["rows"]:
        n = min(row["at"], key=int, default=None)
        if n is None or row["row"] not in table.rows:
            continue
        at = row["at"][n]
        error = {
            axis: [[at[metric]["value"] - at[metric]["low"]], [at[metric]["high"] - at[metric]["value"]]]
            for axis, metric in (("xerr", "u_fid"), ("yerr", "pul"))
        }
        look = style(row["forget"], row["label"])
        ours.errorbar(at["u_fid"]["value"], at["pul"]["value"], elinewidth=0.6, alpha=0.7, **error, **look)
    for printed in table.printed:
        paper.plot(printed.u_fid, printed.pul, **style(printed.forget, table.rows[printed.row].label))
    ours.set(title=f"ours, scale {table.scale}", xlabel="u-FID[judge]", ylabel="PUL, %", ylim=(-10, 105))
    paper.set(title="the paper", xlabel="u-FID as printed", ylabel="PUL, %", ylim=(-10, 105))
    figure.legend(loc="outside lower center", ncols=4, fontsize=6)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def draw_summary(summary: Summary, path: Path) -> None:
    """PUL against the ratio of u-FID to the retrained model's: a labelled point per method, bars from the lowest to the highest run.

    Args:
        summary: the lines of a leaderboard; the first eight methods are drawn.
        path: the PNG file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axis = figure.subplots()
    axis.set(yscale="log", xlabel="PUL, % (right is better)", ylabel="u-FID ÷ the retrained model's (up is better)")
    retrained = [line for line in summary.references if line.name == "retrained"]
    for number, line in enumerate([*summary.methods[:MOST_POINTS], *retrained]):
        if line.pul is None or line.ratio is None:
            continue
        x, y = line.pul, line.ratio
        colour = "black" if line.name == "retrained" else f"C{number}"
        axis.errorbar(
            x.mean, y.mean, xerr=[[x.mean - x.low], [x.high - x.mean]], yerr=[[y.mean - y.low], [y.high - y.mean]],
            fmt="o", color=colour, markersize=6, elinewidth=0.9,
        )  # fmt: skip
        side = -1 if x.mean > CENTRE else 1  # the label points to the middle
        above = -9 if line.name == "retrained" else 7
        axis.annotate(
            line.label, (x.mean, y.mean), xytext=(8 * side, above), textcoords="offset points", fontsize=9, color=colour,
            ha="right" if side < 0 else "left", va="center",
        )  # fmt: skip
    for line in summary.references:
        if line.name != "retrained" and line.ratio is not None:
            axis.axhline(line.ratio.mean, color="grey", linestyle=":", linewidth=1)
            axis.annotate(
                line.label, (0.5, line.ratio.mean), xycoords=("axes fraction", "data"), xytext=(0, 3),
                textcoords="offset points", fontsize=8, color="grey", ha="center",
            )  # fmt: skip
    low, high = axis.get_ylim()
    ticks = [tick for tick in TICKS if low <= tick <= high]
    axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.set_ylim(high, low)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
