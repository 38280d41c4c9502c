"""What a page does not know: reference rows and probes that were not run, with their reasons, and what no run tests."""

from collections.abc import Mapping
from typing import Any

from vdu.report.shares import measured, why_not

__all__ = ["not_tested"]

_PROBES = {
    "relearning": "Relearning: how fast a little fine-tuning brings the class back.",
    "stochastic": "A stochastic re-check: other samplers and more noise than the protocol's.",
    "completion": "Completion: whether the unlearned model finishes what the original began.",
    "inpainting": "Inpainting: whether it fills in the hidden half of an unwanted image.",
    "likelihood": "Likelihood (bits/dim): whether the forgotten images are still more likely than they should be.",
    "membership": "Membership inference: whether the forgotten images can be told from others of their class.",
    "retrained": "The distance to a model retrained without the forgotten images.",
}
_NEVER = (
    "Deliberate attempts to get it back by optimised noise, guidance or adapters.",
    "Unwanted images unlike those given, and concepts that contain them.",
    "Repeats of the unlearning itself with other seeds: one run is shown.",
)


def not_tested(metrics: Mapping[str, Any]) -> tuple[str, ...]:
    """What this page does not know, as sentences: what this run left out, then what no report of this format holds.

    Args:
        metrics: ``metrics.json``.

    Returns:
        The sentences; those of probes that ran are gone.
    """
    rows = [f"{row['label']}: reference row not run." for row in metrics["rows"] if row["status"] != "measured"]
    second = [] if metrics["judge"]["second"] else ["A second judge of another architecture."]
    probes = [
        f"{sentence} Not run: {_sentence(reason)}" if (reason := why_not(metrics, name)) else sentence
        for name, sentence in _PROBES.items()
        if measured(metrics, name) is None
    ]
    relearning = measured(metrics, "relearning")
    if relearning is not None and not any(curve["shown"] == "benign" for curve in relearning["curves"]):
        probes.append("Whether fine-tuning on other, harmless images brings the class back.")
    return (*rows, *second, *probes, *_NEVER)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else text + "."
