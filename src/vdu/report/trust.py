"""The last two answers: what did it cost, and can this page be trusted?

Cost is a fact and has no level. Stages that measure (judge, evaluate, probes) are told apart from those that forget.

Trust: files that contradict each other → no · a judge below its least ceiling, or too few unwanted images → too little to
tell · a doubted retrained model, judges that disagree, a run that missed its own aim, one judge only, a judge trained on
the spot, few images, no retrained row → with care · none of these → yes, for this one run. All thresholds are in
:mod:`vdu.report.thresholds`.

NOT guaranteed: that the run is what it says. The page shows hashes; it does not check where the files came from.
"""

from typing import Any

from vdu.report.collect import ReportData
from vdu.report.control import lowest_ceiling, retrained_doubt
from vdu.report.thresholds import THRESHOLDS
from vdu.report.verdict import Finding, judges_disagree, run_ending
from vdu.report.words import duration, percent

__all__ = ["can_it_be_trusted", "cost_split", "what_it_cost"]

_MEASURING = ("judge", "evaluate", "probe")


def cost_split(metrics: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split the stages of the cost into those that make the model and those that measure it.

    Args:
        metrics: ``metrics.json``.

    Returns:
        The two lists, in the run's order.
    """
    stages = metrics["cost"]
    measuring = [stage for stage in stages if stage["stage"].startswith(_MEASURING)]
    return [stage for stage in stages if stage not in measuring], measuring


def what_it_cost(data: ReportData) -> Finding:
    """What did it cost? Time and network evaluations, those of measuring apart.

    Args:
        data: the collected run.

    Returns:
        The finding.
    """
    making, measuring = cost_split(data.metrics)
    seconds, checking = (sum(stage["seconds"] for stage in stages) for stages in (making, measuring))
    counts = [stage["network_evaluations"] for stage in making]
    counted = sum(count for count in counts if count is not None)
    passes = f"{'' if None not in counts else 'at least '}{counted:,} network evaluations"
    hardware = (data.run.get("environment") or {}).get("hardware") or {}
    machine = f"{hardware.get('accelerator') or hardware.get('cpu') or 'an unknown machine'}"
    cores = f", {hardware['cpu_cores']} cores" if hardware.get("cpu_cores") else ""
    text = (
        f"Forgetting took {duration(seconds)} and {passes} (a forward pass of one image is 1, a backward pass 2), on "
        f"{machine}{cores}. Measuring took another {duration(checking)}."
    )
    figure = f"{passes}; measuring it {duration(checking)} more"
    limit = f"On {machine}{cores}; training the original, and any other attempts, are not in it."
    return Finding("fact", f"{duration(seconds)} to forget", figure, text, (limit,))


def can_it_be_trusted(data: ReportData) -> Finding:
    """Can I trust this page? From the judges, the number of images and the reference rows.

    Args:
        data: the collected run.

    Returns:
        The finding.
    """
    metrics, judge = data.metrics, data.metrics["judge"]
    rows = metrics["rows"]
    ran = sum(row["status"] == "measured" for row in rows)
    reservations = _reservations(data)
    second = judge["second"]
    figure = (
        f"judge errs on {percent(100 * judge['held_out_error'])}; {'two judges' if second else 'one judge'}; "
        f"{metrics['n_images']:,} images a model; {ran} of {len(rows)} reference rows"
    )
    seed = metrics["protocol"].get("seed")
    limits = ["Approximate, not certified: evidence about these samples and tests, from one run"]
    limits[0] += f" (seed {seed})." if seed is not None else "."
    if data.warnings:
        limits.append(f"{len(data.warnings)} warning{'' if len(data.warnings) == 1 else 's'} below.")
    if ran < len(rows):
        absent = ", ".join(row["label"] for row in rows if row["status"] != "measured")
        limits.append(f"Reference rows not run: {absent}.")
    level, title = _trust_title(data, reservations)
    text = "Reservations: " + "; ".join(reservations) + "." if reservations else "No reservation by the rules below."
    return Finding(level, title, figure, text, tuple(limits))


def _trust_title(data: ReportData, reservations: list[str]) -> tuple[str, str]:
    pul = (data.row("unlearned") or {}).get("pul")
    weak = lowest_ceiling(data) < THRESHOLDS["weak_ceiling_percent"]
    if data.contradictions:
        return "bad", "No: its files contradict each other"
    if weak or pul is None or pul["n_original"] < THRESHOLDS["few_unwanted_images"]:
        return "bad", "Too little to go by"
    if not reservations:
        return "good", "Yes, for this one run"
    return "mixed", f"With care: {reservations[0].split(' (')[0]}"


def _reservations(data: ReportData) -> list[str]:
    """What stands against the page, the most serious first."""
    metrics, judge = data.metrics, data.metrics["judge"]
    pul, second = (data.row("unlearned") or {}).get("pul"), judge["second"]
    found = list(data.contradictions)
    if retrained_doubt(data):
        found.append("the model given as retrained may have seen the unwanted images")
    if pul is not None and judges_disagree(pul, (second or {}).get("pul")):
        found.append("the judges disagree")
    ending = run_ending(data)
    if ending is not None and ending[1]:
        found.append(f"the run missed its own aim ({ending[0]})")
    if judge["source"] == "trained on the spot":
        found.append("the judge was trained on the spot")
    if second is None:
        found.append("one judge only")
    if pul is not None and pul["n_original"] < THRESHOLDS["many_unwanted_images"]:
        found.append(f"only {pul['n_original']} unwanted images")
    if metrics["n_images"] < THRESHOLDS["many_images"]:
        found.append(f"only {metrics['n_images']:,} images a model")
    if (data.row("retrained") or {}).get("status") != "measured":
        found.append("no retrained model to compare with")
    return found
