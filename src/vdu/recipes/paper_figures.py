"""The paper's figures from the cells of its tables: grids from the same noise (Figures 1, 3, 4, 5) and PUL against u-FID over γ.

    pairs     images that the original makes of the class, above; the same noise through the unlearned model, below
    strips    the same noise through the original and through every row, class by class
    front     Table 2 as a picture: ours and the paper's in two panels, for their u-FIDs are on different features

Pixels are drawn as they are, without stretching.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from vdu.data.images import to_float
from vdu.metrics.features import classify
from vdu.models.judge import load_judge
from vdu.paper.tables import Table
from vdu.recipes.cells import CellStore
from vdu.records import atomic_file
from vdu.zoo.packaged import judge_folder

__all__ = ["draw"]

COLUMNS = 16


def draw(table: Table, results: Mapping[str, Any], plan: Any, store: CellStore, folder: Path) -> dict[str, str]:
    """Draw the figures that a table asks for.

    Args:
        table: says which.
        results: the aggregated table.
        plan: its cells (:class:`vdu.recipes.reproduce.Plan`).
        store: where their files are.
        folder: where to write.

    Returns:
        Name → file.
    """
    if table.figure == "front":
        path = folder / f"{table.name}-front.png"
        _front(table, results, path)
        return {f"{table.name} front": str(path)}
    files = {}
    for dataset, cell in {key[0]: cell for key, cell in plan.references.items()}.items():
        needs = {name: store.result(need) for name, need in cell.needs.items()}
        before = load_file(store.folder / (needs["samples"] or {})["result"]["images"])["images"]
        for figure, rows in _figures(table, dataset, plan).items():
            path = folder / f"{figure}-{dataset}.png"
            strips = []
            for forget, name in rows:
                result = (store.result(plan.rows[dataset, forget, name][0]) or {})["result"]
                if result.get("status") == "measured":
                    after = load_file(store.folder / result["images"])["images"]
                    strips += _strips(
                        figure, before, after, forget, table.rows[name].label, table.worlds[dataset].judge
                    )
            _draw_strips(strips, path)
            files[f"{figure} {dataset}"] = str(path)
    return files


def _figures(table: Table, dataset: str, plan: Any) -> dict[str, list[tuple[str, str]]]:
    """Which rows each figure shows, class by class."""
    present = [(forget, name) for where, forget, name in plan.rows if where == dataset]
    main = {printed.row for printed in table.printed if printed.row.startswith("vdu")}
    return {
        "figure1": [key for key in present if key[1] in main],
        "figure3": [key for key in present if key[1] in main],
        "figure5": [key for key in present if key[1].startswith("sa-")],
        "all-rows": present,
    }


def _strips(
    figure: str, before: Tensor, after: Tensor, forget: str, label: str, judge: str
) -> list[tuple[str, Tensor]]:
    if figure == "figure1":
        network, _ = load_judge(judge_folder(judge.removeprefix("zoo:"))) if judge.startswith("zoo:") else (None, None)
        some = before[: len(after)]
        if network is None:
            return []
        classes = classify(network, to_float(some)).classes
        of_class = (classes == list(network.class_names).index(forget)).nonzero().flatten()[:COLUMNS]
        return [(f"original's {forget}s", some[of_class]), (label, after[of_class])]
    return [("original", before[:COLUMNS]), (f"{label}, forgetting {forget}", after[:COLUMNS])]


def _draw_strips(strips: list[tuple[str, Tensor]], path: Path) -> None:
    """Rows of images with their labels; a strip equal to one drawn before it is not drawn again."""
    from matplotlib.figure import Figure

    shown: list[tuple[str, Tensor]] = []
    for label, images in strips:
        if len(images) and not (label == "original" and any(name == "original" for name, _ in shown)):
            shown.append((label, images))
    figure = Figure(figsize=(11, 0.62 * len(shown) + 0.2), layout="constrained")
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
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    ours, paper = figure.subplots(1, 2)
    for row in results["rows"]:
        n = min(row["at"], key=int, default=None)
        if n is None or row["row"] in {"real-split", "retrained"} or "pul" not in row["at"][n]:
            continue
        at = row["at"][n]
        error = {
            axis: [[at[m]["value"] - at[m]["low"]], [at[m]["high"] - at[m]["value"]]]
            for axis, m in (("xerr", "u_fid"), ("yerr", "pul"))
        }
        label = f"{row['forget']}: {row['label']}"
        ours.errorbar(
            at["u_fid"]["value"], at["pul"]["value"], fmt="o", markersize=4, linewidth=0.8, label=label, **error
        )
    for printed in table.printed:
        paper.plot(printed.u_fid, printed.pul, "o", markersize=4)
        paper.annotate(f"{printed.forget}, {table.rows[printed.row].label.removeprefix('VDU, ')}", (printed.u_fid, printed.pul), fontsize=6,
                       xytext=(4, 3), textcoords="offset points")  # fmt: skip
    ours.set_title(f"ours, scale {table.scale}", fontsize=9)
    paper.set_title("the paper", fontsize=9)
    ours.set_xlabel("u-FID[judge]")
    paper.set_xlabel("u-FID as printed")
    for axis in (ours, paper):
        axis.set_ylabel("PUL, %")
        axis.tick_params(labelsize=7)
    ours.legend(fontsize=5)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
