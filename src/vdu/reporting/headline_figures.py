"""The headline figures of runs, each with its interval, for the comparison of runs and the model card.

Figures that would be of unlike things are left out: u-FID of a retrained model where many unwanted images remain and are left out of
the others; all of a retrained model that may have seen the images; in a comparison, those of relearning where it does not end alike.

Units: PUL and rates in percent; u-FID and bits/dim as they are; seconds.

NOT guaranteed: that two runs were measured alike; :mod:`vdu.reporting.run_comparison` tells.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdu.reporting.collect import report_data
from vdu.reporting.findings.cost import CostFinding, find_cost
from vdu.reporting.findings.reliability import retrained_doubt
from vdu.reporting.formatting import duration, number, percent_interval, value_interval
from vdu.reporting.rates import Rate, difference, measured
from vdu.reporting.rest_u_fid import rest_u_fid

__all__ = ["FIGURES", "ComparedRun", "Figure", "compared", "figures", "n_of_u_fid", "relearning_end"]


@dataclass(frozen=True)
class ComparedRun:
    """A run among others.

    Attributes:
        name: the folder as it was given.
        metrics: its ``metrics.json``.
        run: its ``run.json``.
    """

    name: str
    metrics: dict[str, Any]
    run: dict[str, Any]

    @property
    def doubt(self) -> str | None:
        """The doubt about its retrained model as a sentence, or None where there is none."""
        return retrained_doubt(report_data(Path(self.name), self.metrics, self.run))


@dataclass(frozen=True)
class Figure:
    """A figure of one run; ``low`` and ``high`` are None where it has no interval, ``text`` is for people."""

    value: float
    low: float | None
    high: float | None
    text: str


def n_of_u_fid(metrics: dict[str, Any]) -> int:
    """Images behind u-FID; without the unwanted ones where many remain."""
    return rest_u_fid(metrics, "unlearned")[1]


def _row(metrics: dict[str, Any], name: str) -> dict[str, Any]:
    return next((row for row in metrics["rows"] if row["name"] == name), {})


def _in_percent(value: dict[str, float] | None, factor: float = 1.0) -> Figure | None:
    if value is None:
        return None
    scaled = {key: factor * value[key] for key in ("value", "low", "high")}
    return Figure(**scaled, text=percent_interval(scaled))


def _plain(value: dict[str, float] | None) -> Figure | None:
    if value is None:
        return None
    return Figure(value["value"], value["low"], value["high"], value_interval(value))


def _bare(value: float | None) -> Figure | None:
    return None if value is None else Figure(value, None, None, number(value))


def _number(count: int | None) -> Figure | None:
    return None if count is None else Figure(count, None, None, f"{count:,}")


def _counted(row: dict[str, Any] | None) -> Figure | None:
    if row is None:
        return None
    return _in_percent({"value": row["forget_count"] / row["n_images"], "low": row["low"], "high": row["high"]}, 100.0)


def _histogram(metrics: dict[str, Any]) -> Figure | None:
    h = metrics["histogram"]
    return _plain({"value": h["distance"], "low": h["distance_low"], "high": h["distance_high"]})


def _chance(histogram: dict[str, Any]) -> Figure | None:
    """The distance of two independent sets of images of one model: its mean and its 95 % point."""
    if "chance" not in histogram:
        return None
    mean, most = histogram["chance"], histogram["chance_high"]
    return Figure(mean, None, most, f"{number(mean)}, up to {number(most)}")


def _last_points(metrics: dict[str, Any]) -> dict[tuple[str, int], dict[str, Any]]:
    """The last point of every curve on unwanted images, by model and number of images."""
    return {
        (curve["model"], curve["n_shown"]): curve["points"][-1]
        for curve in (measured(metrics, "relearning") or {"curves": []})["curves"]
        if curve["shown"] == "forget" and curve["points"]
    }


def relearning_end(metrics: dict[str, Any]) -> tuple[int, int] | None:
    """The most unwanted images that the unlearned model was fine-tuned on, and the last step; None without relearning."""
    return max(
        ((n, p["step"]) for (model, n), p in _last_points(metrics).items() if model == "unlearned"), default=None
    )


def _relearned(metrics: dict[str, Any], what: str) -> Figure | None:
    """The share after the last step on the most unwanted images: the model's own, the retrained one's, or the lead."""
    curves, end = _last_points(metrics), relearning_end(metrics)
    if end is None:
        return None
    point = curves["unlearned", end[0]]
    if what == "unlearned":
        return _counted(point)
    other = curves.get(("retrained", end[0]))
    if other is None or other["step"] != point["step"]:
        return None
    if what == "retrained":
        return _counted(other)
    one, two = Rate.of(point), Rate.of(other)
    low, high = difference(one, two)
    return _in_percent({"value": one.value - two.value, "low": low, "high": high}, 100.0)


def _lowest_pul(metrics: dict[str, Any]) -> Figure | None:
    rows = (measured(metrics, "stochastic") or {"rows": []})["rows"]
    return _in_percent(
        min((row["pul"] for row in rows if row["pul"] is not None), key=lambda pul: pul["value"], default=None)
    )


def _completed(metrics: dict[str, Any]) -> Figure | None:
    rows = (measured(metrics, "completion") or {"rows": []})["rows"]
    return _counted(min(rows, key=lambda row: abs(row["handed_share"] - 0.5), default=None))


def _inpainted(metrics: dict[str, Any], model: str) -> Figure | None:
    """The model's share for the hidden part for which the unlearned model's is largest."""
    rows = (measured(metrics, "inpainting") or {"rows": []})["rows"]
    mine = [row for row in rows if row["model"] == "unlearned"]
    worst = max(mine, key=lambda row: row["forget_count"] / row["n_images"], default=None)
    hidden = None if worst is None else worst["hidden"]
    return _counted(next((row for row in rows if (row["model"], row["hidden"]) == (model, hidden)), None))


def _forget_bits(metrics: dict[str, Any], model: str) -> Figure | None:
    rows = (measured(metrics, "likelihood") or {"rows": []})["rows"]
    return _plain(next((r for r in rows if (r["model"], r["images"]) == (model, "forget_train")), None))


def _membership(metrics: dict[str, Any]) -> Figure | None:
    rows = (measured(metrics, "membership") or {"rows": []})["rows"]
    mine = [row["auc"] for row in rows if row["model"] == "unlearned"]
    return _plain(max(mine, key=lambda auc: abs(auc["value"] - 0.5), default=None))


def _to_retrained(metrics: dict[str, Any]) -> Figure | None:
    rows = (measured(metrics, "retrained") or {}).get("samples") or []
    return _plain(next((row["u_fid"] for row in rows if row["model"] == "unlearned"), None))


def _seconds(found: CostFinding) -> Figure | None:
    if not found.recorded:
        return None
    return Figure(found.seconds, None, None, duration(found.seconds))


def _reused(found: CostFinding) -> Figure | None:
    return _number(found.reused) if found.recorded else None


def _evaluations(found: CostFinding) -> Figure | None:
    if not found.recorded:
        return None
    text = f"{'' if found.complete else '≥ '}{found.network_evaluations:,}"
    return Figure(found.network_evaluations, None, None, text)


FIGURES: dict[str, tuple[str, Callable[[dict[str, Any]], Figure | None]]] = {
    "pul": ("PUL, gone", lambda m: _in_percent(_row(m, "unlearned").get("pul"))),
    "pul_second_judge": ("PUL by the second judge", lambda m: _in_percent((m["judge"]["second"] or {}).get("pul"))),
    "unwanted": ("unwanted images", lambda m: _number(_row(m, "unlearned").get("forget_count"))),
    "unwanted_retrained": (
        "unwanted images, retrained (target)",
        lambda m: _number(_row(m, "retrained").get("forget_count")),
    ),
    "u_fid": ("u-FID, lower is better", lambda m: _plain(rest_u_fid(m, "unlearned")[0])),
    "u_fid_filtered_original": ("u-FID, filtered original", lambda m: _plain(rest_u_fid(m, "filtered_original")[0])),
    "u_fid_retrained": (
        "u-FID, retrained (target)",
        lambda m: (
            _plain(_row(m, "retrained").get("u_fid")) if n_of_u_fid(m) == m["n_images"] else None
        ),  # of more images than the others
    ),
    "histogram_distance": ("class histogram, distance", _histogram),
    "histogram_chance": ("class histogram, independent samples", lambda m: _chance(m["histogram"])),
    "precision": ("precision", lambda m: _bare(_row(m, "unlearned").get("precision"))),
    "recall": ("recall", lambda m: _bare(_row(m, "unlearned").get("recall"))),
    "density": ("density", lambda m: _bare(_row(m, "unlearned").get("density"))),
    "coverage": ("coverage", lambda m: _bare(_row(m, "unlearned").get("coverage"))),
    "relearned": ("relearning at the end, lower better", lambda m: _relearned(m, "unlearned")),
    "relearned_retrained": ("relearning, retrained (target)", lambda m: _relearned(m, "retrained")),
    "relearned_lead": ("relearning, lead over retrained", lambda m: _relearned(m, "lead")),
    "stochastic_pul": ("PUL, worst other sampler", _lowest_pul),
    "completed": ("completion, half handed over", _completed),
    "inpainted": ("inpainting, worst part, lower better", lambda m: _inpainted(m, "unlearned")),
    "inpainted_retrained": ("inpainting, retrained (target)", lambda m: _inpainted(m, "retrained")),
    "forget_bits": ("bits/dim of forgotten images", lambda m: _forget_bits(m, "unlearned")),
    "forget_bits_retrained": ("bits/dim, retrained (target)", lambda m: _forget_bits(m, "retrained")),
    "membership_auc": ("membership AUC, chance 0.5", _membership),
    "distance_to_retrained": ("samples to retrained, u-FID", _to_retrained),
    "seconds": ("time to forget", lambda m: _seconds(find_cost(m))),
    "network_evaluations": ("network evaluations to forget", lambda m: _evaluations(find_cost(m))),
    "reused_evaluations": ("reused from an earlier run", lambda m: _reused(find_cost(m))),
}
_BESIDE_RETRAINED = {name for name in FIGURES if name.endswith("retrained")} | {"relearned_lead"}


def figures(run: ComparedRun) -> dict[str, Figure | None]:
    """The headline figures of a run; None where it has none, and where they are of a retrained model that is doubted.

    Args:
        run: the run.

    Returns:
        A figure for each name of ``FIGURES``.
    """
    hidden = _BESIDE_RETRAINED if run.doubt is not None else set()
    return {name: None if name in hidden else read(run.metrics) for name, (_, read) in FIGURES.items()}


def compared(runs: Sequence[ComparedRun]) -> list[dict[str, Figure | None]]:
    """The headline figures of runs beside each other, without those of relearning where it does not end alike.

    Args:
        runs: two or more.

    Returns:
        As :func:`figures`, run by run.
    """
    ends = {relearning_end(run.metrics) for run in runs} - {None}
    hidden = {name for name in FIGURES if name.startswith("relearned")} if len(ends) > 1 else set()
    return [{name: None if name in hidden else each for name, each in figures(run).items()} for run in runs]
