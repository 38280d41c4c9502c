"""Several runs beside each other: their headline figures, and whether these can be compared at all.

Figures of two runs are comparable only if they were measured alike. The runs must agree in the number of images N, the
judge and the second judge (name, architecture, source, held-out error), the feature network, the reference images, the
sampler, the forgotten classes, the prompts of the sets "target" and "others" (in whatever order) and, where both tell
their hashes, the retrained model and the content of the reference; otherwise :func:`differences` names what
differs. So must the original, where its own images are the reference; elsewhere another original is noted, as are other
seeds, other images of the same classes and other neighbouring prompts. A probe whose protocol differs is noted as well.

Units: PUL and rates in percent; u-FID and bits/dim as they are; seconds.

NOT guaranteed: that a difference between two runs is real. Look at the intervals; of three and more runs, the best one is
also the luckiest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdu.core.records import sha256_bytes
from vdu.reporting.code_texts import source_text
from vdu.reporting.collect import read_records
from vdu.reporting.findings.cost import CostFinding, find_cost
from vdu.reporting.formatting import duration, number, percent, percent_interval, value_interval
from vdu.reporting.rates import Rate, difference, measured
from vdu.reporting.rest_u_fid import rest_u_fid

__all__ = ["FIGURES", "PROTOCOL", "ComparedRun", "Figure", "differences", "figures", "notes", "read_runs"]

SHOWN = 6  # prompts of a set that a sentence names


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


@dataclass(frozen=True)
class Figure:
    """A figure of one run; ``low`` and ``high`` are None where it has no interval, ``text`` is for people."""

    value: float
    low: float | None
    high: float | None
    text: str


def read_runs(folders: Sequence[Path | str]) -> list[ComparedRun]:
    """Read the records of some runs.

    Args:
        folders: run folders that ``vdu evaluate`` has seen.

    Returns:
        The runs, in order.
    """
    return [ComparedRun(str(folder), *read_records(folder)) for folder in folders]


def _judge_words(judge: dict[str, Any] | None) -> str:
    if judge is None:
        return "none"
    error = percent(100 * judge["held_out_error"])
    return f"{judge['name']} ({judge['architecture']}, {source_text(judge)}, error {error} of {judge['n_held_out']:,})"


def _sampler_words(metrics: dict[str, Any]) -> str:
    named = {key: value for key, value in metrics["protocol"].items() if key.startswith("sampler")}
    return (
        ", ".join(f"{key.removeprefix('sampler_')} {value}" for key, value in sorted(named.items())) or "not recorded"
    )


def _features(metrics: dict[str, Any]) -> list[str]:
    """What the protocol tells of the feature network: hash of its weights, preprocessing, batch size."""
    named = sorted((key, value) for key, value in metrics["protocol"].items() if key.startswith("features_"))
    return [f"{key.removeprefix('features_')} {value}" for key, value in named if value != metrics["feature_network"]]


def _prompts(metrics: dict[str, Any], *names: str) -> str:
    """The prompts of some sets; "none" where the models were not asked in words."""
    words = metrics.get("words") or {"kind": "", "sets": []}
    sets = [each for each in words["sets"] if words["kind"] == "prompts" and each["name"] in names]
    return "; ".join(f"{each['name']}: {_listed(sorted(each['prompts']))}" for each in sets) or "none"


def _listed(prompts: Sequence[str]) -> str:
    """Prompts in words; of many the first ones, with a hash of all."""
    told = ", ".join(map(repr, prompts[:SHOWN]))
    if len(prompts) <= SHOWN:
        return told
    return f"{told} and {len(prompts) - SHOWN:,} more, SHA-256 {sha256_bytes(repr(list(prompts)).encode())[:12]}"


PROTOCOL: dict[str, Callable[[dict[str, Any]], str]] = {
    "images per model (N)": lambda m: f"{m['n_images']:,}",
    "judge": lambda m: _judge_words(m["judge"]),
    "second judge": lambda m: _judge_words(m["judge"]["second"]),
    "feature network": lambda m: ", ".join([m["feature_network"], *_features(m)]),
    "reference images": lambda m: f"{m['reference']['description']} ({m['reference']['n_images']:,})",
    "sampler": _sampler_words,
    "forgotten classes": lambda m: ", ".join(sorted(m["forget"]["classes"] or [])) or "not recorded",
    "prompts": lambda m: _prompts(m, "target", "others"),
}


def differences(runs: Sequence[ComparedRun]) -> list[str]:
    """What makes the runs' numbers incomparable, as sentences; empty if nothing does.

    Args:
        runs: two or more.

    Returns:
        One sentence for each part of the protocol in which the runs differ, with who has what.
    """
    told = {what: [read(run.metrics) for run in runs] for what, read in PROTOCOL.items()}
    found = _differing(told, runs)
    known = [run for run in runs if "retrained_sha256" in run.metrics["protocol"]]
    found += _differing({"retrained model": [_hash(run, "retrained") for run in known]}, known)
    for name, judge_of in (("judge", lambda m: m["judge"]), ("second judge", lambda m: m["judge"]["second"] or {})):
        known = [run for run in runs if "weights_sha256" in judge_of(run.metrics)]
        found += _differing(
            {f"weights of the {name}": [judge_of(run.metrics)["weights_sha256"][:12] for run in known]}, known
        )
    known = [run for run in runs if "sha256" in run.metrics["reference"]]
    found += _differing(
        {"content of the reference images": [run.metrics["reference"]["sha256"][:12] for run in known]}, known
    )
    if any(run.metrics["reference"]["kind"] == "filtered_original" for run in runs):
        found += _differing({"original model": [_hash(run, "original") for run in runs]}, runs)
    return found


def _hash(run: ComparedRun, model: str) -> str:
    known = (run.metrics["protocol"].get(f"{model}_{name}") for name in ("sha256", "parts_sha256"))
    return ", other parts ".join(str(each)[:12] for each in known if each is not None) or "not recorded"


def notes(runs: Sequence[ComparedRun]) -> list[str]:
    """What differs and does not forbid a comparison: task, original, seeds, and the protocols of probes.

    Args:
        runs: two or more.

    Returns:
        The sentences.
    """
    told = {
        "forget set": [
            f"{run.metrics['forget']['description']} ({run.metrics['forget']['sha256'][:8]})" for run in runs
        ],
        "original model": [_hash(run, "original") for run in runs],
        "neighbouring prompts": [_prompts(run.metrics, "neighbours") for run in runs],
        "seed of the evaluation": [str(run.metrics["protocol"].get("seed", "not recorded")) for run in runs],
    }
    found = _differing(told, runs)
    for name in dict.fromkeys(name for run in runs for name in run.metrics.get("probes", {})):
        protocols = [probe["protocol"] for run in runs if (probe := measured(run.metrics, name)) is not None]
        if any(protocol != protocols[0] for protocol in protocols):
            keys = sorted({k for p in protocols for k in p if any(q.get(k) != p[k] for q in protocols)})
            found.append(
                f"The protocols of the probe {name} differ ({', '.join(keys)}): its row compares unlike things."
            )
    return found


def _differing(told: dict[str, list[str]], runs: Sequence[ComparedRun]) -> list[str]:
    sentences = []
    for what, values in told.items():
        if len(set(values)) > 1:
            who = {
                value: [run.name for run, each in zip(runs, values, strict=True) if each == value] for value in values
            }
            sentences.append(f"{what} differs: " + "; ".join(f"{value} in {', '.join(n)}" for value, n in who.items()))
    return sentences


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


def _relearned(metrics: dict[str, Any], what: str) -> Figure | None:
    """The share after the last step on the most unwanted images: the model's own, the retrained one's, or the lead."""
    curves = {
        (curve["model"], curve["n_shown"]): curve["points"][-1]
        for curve in (measured(metrics, "relearning") or {"curves": []})["curves"]
        if curve["shown"] == "forget" and curve["points"]
    }
    ours = max((n for model, n in curves if model == "unlearned"), default=None)
    if ours is None:
        return None
    point = curves["unlearned", ours]
    if what == "unlearned":
        return _counted(point)
    other = curves.get(("retrained", ours))
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
    "u_fid_retrained": ("u-FID, retrained (target)", lambda m: _plain(_row(m, "retrained").get("u_fid"))),
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


def figures(run: ComparedRun) -> dict[str, Figure | None]:
    """The headline figures of a run; None where it has none.

    Args:
        run: the run.

    Returns:
        A figure for each name of ``FIGURES``.
    """
    return {name: read(run.metrics) for name, (_, read) in FIGURES.items()}
