"""``evidence.json``: the report for machines. Metrics, verdicts with their limits, and where all of it came from.

Its form is published as ``evidence.schema.json`` in this package (JSON schema, draft 2020-12), and the file names it in
``$schema``; it is checked against it before it is written, so that the two cannot drift apart. The same run gives the same
bytes. It holds no image.

Units: PUL and ceilings in percent; error rates and shares as fractions; seconds; every interval 95 %. ``thresholds`` names
the numbers behind the words of ``verdicts``.

NOT guaranteed: certification of anything; ``approximate`` is always true and ``certified`` always false.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from vdu.core.errors import InputError
from vdu.core.records import sha256_file
from vdu.report.collect import ReportData
from vdu.report.comeback import comeback_parts
from vdu.report.inside import inside_parts
from vdu.report.json_schema import violation
from vdu.report.thresholds import SENTENCES, THRESHOLDS
from vdu.report.untested import not_tested
from vdu.report.verdict import Finding
from vdu.report.words import command

__all__ = ["QUESTIONS", "READ_FILES", "SCHEMA_ID", "check_evidence", "evidence", "schema"]

SCHEMA_ID = "urn:vdu:schema:evidence:1"
FORMAT_VERSION = 1
QUESTIONS = {
    "gone": "Is it gone?",
    "rest": "Is the rest intact?",
    "back": "Does it come back?",
    "cost": "What did it cost?",
    "trust": "Can I trust this page?",
}
READ_FILES = (
    "metrics.json",
    "run.json",
    "log.jsonl",
    "config.toml",
    "samples/original.safetensors",
    "samples/unlearned.safetensors",
)
_METRICS = ("n_images", "rows", "histogram", "flips", "judge", "feature_network", "reference")


@cache
def schema() -> dict[str, Any]:
    """The published JSON schema of ``evidence.json``."""
    return json.loads(Path(__file__).with_name("evidence.schema.json").read_text(encoding="utf-8"))


def evidence(data: ReportData, answers: dict[str, Finding]) -> dict[str, Any]:
    """Everything that the report says, as plain JSON.

    Args:
        data: the collected run.
        answers: the five answers.

    Returns:
        The content of ``evidence.json``, checked against its schema.
    """
    metrics, run = data.metrics, data.run
    value = {
        "$schema": SCHEMA_ID,
        "format_version": FORMAT_VERSION,
        "approximate": True,
        "certified": False,
        "forget": {key: metrics["forget"][key] for key in ("description", "classes", "n_images", "sha256")},
        "verdicts": {name: {"question": QUESTIONS[name], **_plain(found)} for name, found in answers.items()},
        "probe_verdicts": {name: _plain(found) for name, found in (comeback_parts(data) | inside_parts(data)).items()},
        "thresholds": dict(THRESHOLDS),
        "threshold_sentences": list(SENTENCES),
        "not_tested": list(not_tested(data.metrics)),
        "warnings": list(data.warnings),
        "suite": metrics.get("suite"),
        "metrics": {key: metrics[key] for key in _METRICS},
        "probes": metrics.get("probes", {}),
        "cost": metrics["cost"],
        "protocol": metrics["protocol"],
        "provenance": {
            "command": command(run.get("command", "unknown")),
            "verb": run.get("verb"),
            "environment": run.get("environment"),
            "inputs": run.get("inputs"),
            "unlearned_sha256": (run.get("pipeline") or {}).get("sha256"),
            "files": {name: sha256_file(data.run_dir / name) for name in READ_FILES},
        },
    }
    check_evidence(value)
    return value


def check_evidence(value: Any) -> None:
    """Stop where a value is no ``evidence.json``.

    Args:
        value: the parsed file.

    Raises:
        InputError: with the first place that breaks the schema.
    """
    found = violation(value, schema())
    if found:
        raise InputError(
            f"evidence.json at {found}. Make it again with `vdu report`; its form is in vdu/report/evidence.schema.json."
        )


def _plain(found: Finding) -> dict[str, Any]:
    return {
        "level": found.level,
        "answer": found.title,
        "figure": found.figure,
        "explanation": found.text,
        "limits": list(found.limits),
    }
