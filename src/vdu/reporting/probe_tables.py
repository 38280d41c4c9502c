"""What the page's sections about probes hold: plots and rows of tables. Every number is one of metrics.json or a rate.

A probe that was not run gives None; the page then prints its reason.
"""

from itertools import groupby
from typing import Any

from vdu.reporting.charts import share_bar
from vdu.reporting.code_texts import hidden_text, images_text, protocol_facts
from vdu.reporting.collect import ReportData
from vdu.reporting.curve_charts import Curve, curves_plot
from vdu.reporting.formatting import percent, plural
from vdu.reporting.rates import Rate, measured

__all__ = ["MODELS", "probe_tables"]

MODELS = {"original": "original", "unlearned": "unlearned", "retrained": "retrained"}
_STYLES = {"original": "before", "unlearned": "after", "retrained": "gold"}
_ORDER = list(_STYLES)


def probe_tables(data: ReportData) -> dict[str, Any]:
    """Return what each probe's section shows, by the probe's name; None for one that was not run."""
    makers = {
        "relearning": _relearning,
        "stochastic": _stochastic,
        "completion": _completion,
        "inpainting": _inpainting,
        "likelihood": _likelihood,
        "membership": _membership,
        "retrained": _retrained,
        "paraphrases": _attack,
        "inversion": _attack,
        "soft_prompt": _attack,
    }
    found = {}
    for name, make in makers.items():
        result = measured(data.metrics, name)
        shown = None if result is None else make(data, result)
        if shown is not None and result is not None:
            shown["protocol"] = protocol_facts(result["protocol"])
            shown["seconds"] = result["seconds"]
        found[name] = shown
    return found


def _relearning(data: ReportData, result: dict[str, Any]) -> dict[str, Any]:
    original = result.get("original")
    line = ("original", original["forget_count"] / original["n_images"]) if original else None
    ordered = sorted(result["curves"], key=lambda c: (c["shown"] != "forget", c["n_shown"]))
    panels = []
    for (shown, n), group in groupby(ordered, key=lambda c: (c["shown"], c["n_shown"])):
        curves = sorted(group, key=lambda c: _ORDER.index(c["model"]), reverse=True)
        what = plural(n, "unwanted image") if shown == "forget" else plural(n, "other image")
        drawn = [
            Curve(c["model"], [_at(p["step"], Rate.of(p)) for p in c["points"]], _STYLES[c["model"]]) for c in curves
        ]
        summary = f"Fine-tuned on {what}: " + "; ".join(f"{curve['model']} {_spoken(curve)}" for curve in curves)
        panels.append((f"Fine-tuned on {what}", curves_plot(drawn, summary, axis="steps of fine-tuning", line=line)))
    models = [model for model in reversed(_ORDER) if any(curve["model"] == model for curve in ordered)]
    cells: dict[tuple[str, int, int], dict[str, Rate]] = {}
    for curve in ordered:
        for point in curve["points"]:
            place = (curve["shown"], curve["n_shown"], point["step"])
            cells.setdefault(place, {})[curve["model"]] = Rate.of(point)
    rows = [
        (f"{n:,} {'unwanted' if shown == 'forget' else 'other'}", step, [found.get(model) for model in models])
        for (shown, n, step), found in cells.items()
    ]
    return {"panels": panels, "rows": rows, "models": models, "original": original}


def _spoken(curve: dict[str, Any]) -> str:
    return ", ".join(f"{percent(100 * Rate.of(point).value, 0)} at step {point['step']}" for point in curve["points"])


def _at(x: float, share: Rate) -> tuple[float, float, float, float]:
    return x, share.value, share.low, share.high


def _stochastic(data: ReportData, result: dict[str, Any]) -> dict[str, Any]:
    plain = (data.row("unlearned") or {}).get("pul")
    rows = [{"sampler": "the ordinary one", "eta": None, "pul": plain, "n_images": data.metrics["n_images"]}]
    rows = (rows if plain else []) + [
        row | ({"no_pul": _no_pul(row)} if row["pul"] is None else {}) for row in result["rows"]
    ]
    return {"rows": rows}


def _no_pul(row: dict[str, Any]) -> str:
    counted = f", and {row['n_unlearned']} of the unlearned model's" if "n_unlearned" in row else ""
    return (
        f"the classifier takes none of the original's {row['n_images']} samples for unwanted with this sampler{counted}: there is "
        "no share gone"
    )


def _completion(data: ReportData, result: dict[str, Any]) -> dict[str, Any]:
    control = str(result["protocol"].get("control", "control"))
    rows = [
        {
            "handed": row["handed_share"],
            "share": Rate.of(row),
            "bar": share_bar(row["forget_count"] / row["n_images"]),
            "control": row["control_count"],
        }
        for row in sorted(result["rows"], key=lambda row: row["handed_share"])
    ]
    mine = Curve("unlearned", [_at(100 * row["handed"], row["share"]) for row in rows], "after")
    shares = [(row, row["control"] / row["share"].total) for row in rows]
    style = _STYLES.get(control, "before")
    theirs = Curve(control, [(100 * row["handed"], share, share, share) for row, share in shares], style)
    summary = "Finished as the class: " + "; ".join(
        f"{percent(100 * row['handed'], 0)} by the original: {row['share'].count} of {row['share'].total}, {control} {row['control']}"
        for row in rows
    )
    plot = curves_plot([theirs, mine], summary, axis="share of the chain done by the original, in %")
    return {"rows": rows, "plot": plot, "control": control}


def _inpainting(data: ReportData, result: dict[str, Any]) -> dict[str, Any]:
    rows = [
        {"hidden": hidden_text(row["hidden"]), "model": row["model"], "share": Rate.of(row),
         "bar": share_bar(row["forget_count"] / row["n_images"], f"f-{_STYLES[row['model']]}")}
        for row in sorted(result["rows"], key=lambda row: (row["hidden"], _ORDER.index(row["model"])))
    ]  # fmt: skip
    return {"rows": rows}


def _attack(data: ReportData, result: dict[str, Any]) -> dict[str, Any]:
    plain = result["original"]
    rows = [{"model": row["model"], "start": row["start_count"], "share": Rate.of(row)} for row in result["rows"]]
    return {"rows": rows, "original": f"{plain['forget_count']:,} of {plain['n_images']:,}"}


def _likelihood(data: ReportData, result: dict[str, Any]) -> dict[str, Any]:
    sets = list(dict.fromkeys(row["images"] for row in result["rows"]))
    models = [model for model in MODELS if any(row["model"] == model for row in result["rows"])]
    cells = {(row["images"], row["model"]): row for row in result["rows"]}
    rows = [(images_text(images), [cells.get((images, model)) for model in models]) for images in sets]
    return {"models": models, "rows": rows, "unit": result["unit"]}


def _membership(data: ReportData, result: dict[str, Any]) -> dict[str, Any]:
    rows = sorted(result["rows"], key=lambda row: (row["attack"], _ORDER.index(row["model"])))
    return {"rows": rows}


def _retrained(data: ReportData, result: dict[str, Any]) -> dict[str, Any]:
    ordered = sorted(result["denoising"], key=lambda row: (row["images"], row["alpha_bar"], _ORDER.index(row["model"])))
    models = [model for model in MODELS if any(row["model"] == model for row in ordered)]
    rows = []
    for (images, level), group in groupby(ordered, key=lambda row: (row["images"], row["alpha_bar"])):
        cells = {row["model"]: row for row in group}
        rows.append((images_text(images), level, [cells.get(model) for model in models]))
    floor = result["protocol"].get("floor_u_fid")
    return {"rows": rows, "models": models, "samples": result.get("samples") or [], "floor": floor}
