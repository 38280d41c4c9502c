"""What the page's plots and tables hold. Every number is one of metrics.json, a sum or a rate.

NOT guaranteed: completeness; beyond 30 classes (histogram) and 20 (flip table) it leaves some out, and says so.
"""

from typing import Any

from markupsafe import Markup

from vdu.reporting.charts import class_bars, line_chart, share_bar
from vdu.reporting.collect import ReportData
from vdu.reporting.findings.class_shifts import class_shifts, retrained_counts
from vdu.reporting.findings.cost import cost_split, spent
from vdu.reporting.findings.rest import expected_counts
from vdu.reporting.flow_chart import Fate, flow

__all__ = ["cost", "curves", "extra_columns", "flips", "group_totals", "histogram"]

_MAX_CLASSES = 30
_MAX_MATRIX = 20


def extra_columns(data: ReportData) -> list[str]:
    """Return which of precision and recall some row has."""
    names = ("precision", "recall")
    return [name for name in names if any(row.get(name) is not None for row in data.metrics["rows"])]


def group_totals(data: ReportData) -> tuple[int, int]:
    """Return how many stored pairs the original made of the forget class (or was asked for it), and how many others."""
    if (asks := data.asks_for_it) is not None:
        return int(asks.sum()), int((~asks).sum())
    n_forget = sum(int((data.original.judge_class == i).sum()) for i in data.forget_ids)
    return n_forget, len(data.original.images) - n_forget


def histogram(data: ReportData) -> dict[str, Any]:
    """Return rows of the class table; beyond 30 classes, the forgotten ones and those furthest from the expectation."""
    histogram, retrained = data.metrics["histogram"], retrained_counts(data)
    shifts = {each.name: each for each in class_shifts(data) or ()}
    columns = (histogram["original"], histogram["unlearned"], expected_counts(data))
    largest = max((max(column, default=0) for column in columns), default=0)
    rows = [
        {
            "name": name,
            "before": b,
            "after": a,
            "expected": e,
            "retrained": None if retrained is None else retrained[i],
            "shift": shifts.get(name),
            "forget": i in data.forget_ids,
            "bars": class_bars(b, a, e, largest),
        }
        for i, (name, b, a, e) in enumerate(zip(histogram["classes"], *columns, strict=True))
    ]
    apart = data.metrics.get("kept", {}).get("apart")
    common = {
        "retrained": retrained is not None,
        "paired": bool(shifts),
        "n_others": None if apart is None else apart["n_images"],  # where many unwanted images remain
    }
    if len(rows) > _MAX_CLASSES:
        ranked = sorted(rows, key=lambda row: (not row["forget"], -abs(row["after"] - row["expected"])))[:_MAX_CLASSES]
        return common | {"rows": ranked, "left_out": len(rows) - len(ranked)}
    return common | {"rows": rows, "left_out": 0}


def flips(data: ReportData) -> dict[str, Any]:
    """Return what became of each forgotten class, and the full table where it fits on a page."""
    classes, counts = data.metrics["flips"]["classes"], data.metrics["flips"]["counts"]
    fated = (data.words or {}).get("target_flips") if data.concept else None  # prompts that ask for it have their own
    fated = counts if fated is None else fated["counts"]
    forget = [i for i, name in enumerate(classes) if name in {data.classes[j] for j in data.forget_ids}]
    fates = []
    for i in forget:
        total = sum(fated[i])
        found = sorted(((n, classes[j], j in forget) for j, n in enumerate(fated[i]) if n), key=lambda fate: -fate[0])
        streams = [Fate(name, n, bad) for n, name, bad in found]
        drawing = flow(classes[i], streams) if streams else None
        fates.append({"name": classes[i], "total": total, "flow": drawing})
    gained = sum(counts[i][j] for i in range(len(classes)) if i not in forget for j in forget)
    matrix = {"classes": classes, "counts": counts} if len(classes) <= _MAX_MATRIX else None
    return {"fates": fates, "gained": gained, "matrix": matrix, "forget": forget}


def curves(data: ReportData) -> list[tuple[str, Markup]]:
    """Return a name and a chart for the total loss and for each of its terms."""
    names = dict.fromkeys(name for record in data.log for name in record["terms"])
    series = {"loss (total)": [(record["step"], record["loss"]) for record in data.log]} if data.log else {}
    for name in names:
        series[name] = [(record["step"], record["terms"][name]) for record in data.log if name in record["terms"]]
    return [(name, line_chart([s for s, _ in points], [v for _, v in points], name)) for name, points in series.items()]


def cost(data: ReportData) -> dict[str, Any]:
    """Return the stages with their share of the time, and the sums."""
    stages = data.metrics["cost"]
    seconds = sum(stage["seconds"] for stage in stages)
    measuring = cost_split(data.metrics)[1]
    counted = [count for stage in stages if (count := spent(stage)) is not None]
    return {
        "stages": [
            {
                **stage,
                "share": 100 * stage["seconds"] / (seconds or 1),
                "bar": share_bar(stage["seconds"] / (seconds or 1), "f-before" if stage in measuring else "f-after"),
                "measures": stage in measuring,
                "spent": spent(stage),
            }
            for stage in stages
        ],
        "seconds": seconds,
        "network_evaluations": sum(counted),
        "reused": sum(stage.get("reused", 0) for stage in stages),
        "complete": len(counted) == len(stages),
    }
