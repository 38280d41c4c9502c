"""The fourth answer: what did it cost?

Cost is a fact and has no level. Stages that measure (judge, evaluate, probes) are counted apart from those that forget, and what
an earlier run had spent, whose results came from the cache, apart from what this run spent.

NOT guaranteed: the cost of training the original, and of other attempts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vdu.reporting.collect import ReportData
from vdu.reporting.findings.answer import Answer
from vdu.reporting.formatting import duration

__all__ = ["CostFinding", "cost_answer", "cost_split", "find_cost", "spent"]

_MEASURING = ("judge", "evaluate", "probe")


@dataclass(frozen=True)
class CostFinding:
    """What it cost.

    Attributes:
        seconds: wall-clock time of the stages that forget.
        network_evaluations: those that this run spent in them, as far as counted (a forward pass of one image is 1, a backward
            pass 2).
        reused: those that an earlier run had spent.
        complete: every stage counted its evaluations.
        measuring_seconds: wall-clock time of the stages that measure.
        resumed: a stage was interrupted and resumed, and what it had cost before is not known.
        recorded: some stage that forgets is recorded; without one the numbers of forgetting are unknown, not 0.
    """

    seconds: float
    network_evaluations: int
    reused: int
    complete: bool
    measuring_seconds: float
    recorded: bool
    resumed: bool = False


def cost_split(metrics: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split the stages of the cost into those that make the model and those that measure it."""
    stages = metrics["cost"]
    measuring = [stage for stage in stages if stage["stage"].startswith(_MEASURING)]
    return [stage for stage in stages if stage not in measuring], measuring


def spent(stage: dict[str, Any]) -> int | None:
    """The network evaluations that this run spent in a stage; None where they were not counted."""
    count = stage["network_evaluations"]
    return None if count is None else count - stage.get("reused", 0)


def find_cost(metrics: dict[str, Any]) -> CostFinding:
    """What did it cost? Time and network evaluations, those of measuring apart."""
    making, measuring = cost_split(metrics)
    counts = [spent(stage) for stage in making]
    return CostFinding(
        seconds=sum(stage["seconds"] for stage in making),
        network_evaluations=sum(count for count in counts if count is not None),
        reused=sum(stage.get("reused", 0) for stage in making),
        complete=None not in counts and not any(stage.get("resumed") for stage in making),
        resumed=any(stage.get("resumed") for stage in making),
        measuring_seconds=sum(stage["seconds"] for stage in measuring),
        recorded=bool(making),
    )


def cost_answer(data: ReportData, found: CostFinding) -> Answer:
    """The finding in sentences."""
    if not found.recorded:
        text = f"The evidence does not say how the model was made. Measuring took {duration(found.measuring_seconds)}."
        return Answer(
            "fact", "not_recorded", "Not recorded", f"measuring took {duration(found.measuring_seconds)}", text
        )
    least = "at least " * found.resumed
    passes = f"{'' if found.complete else 'at least '}{found.network_evaluations:,} network evaluations"
    machine = _machines(data.run)
    reused = (
        f" The results of another {found.reused:,} evaluations came from the cache: an earlier run had spent them."
        if found.reused
        else ""
    )
    text = (
        f"Forgetting took {least}{duration(found.seconds)} and {passes} (a forward pass of one image is 1, a backward pass 2), on "
        f"{machine}.{reused} Measuring took another {duration(found.measuring_seconds)}."
    )
    more = f", {found.reused:,} more reused" if found.reused else ""
    plus = ", plus reused work" if found.reused else ""
    figure = f"{passes}{more}; measuring took another {duration(found.measuring_seconds)}"
    text += (
        " The run was interrupted and resumed: what it cost before the last part was not recorded and is not in these numbers."
        if found.resumed
        else ""
    )
    limit = f"On {machine}; training the original, and any other attempts, are not in it."
    return Answer("fact", "cost", f"{least}{duration(found.seconds)} to forget{plus}", figure, text, (limit,))


def _machines(run: Mapping[str, Any]) -> str:
    """Where the run was made, part by part if it was continued on another machine."""
    found = []
    for each in (*run.get("earlier_environments", ()), run.get("environment") or {}):
        hardware = each.get("hardware") or {}
        machine = hardware.get("accelerator") or hardware.get("cpu") or "an unknown machine"
        found.append(f"{machine}, {hardware['cpu_cores']} cores" if hardware.get("cpu_cores") else machine)
    return " and ".join(dict.fromkeys(found))
