"""``evidence.json``: the report for machines. Metrics, verdicts with their limits, and where all of it came from.

Its form is :class:`vdu.reporting.records.Evidence`, published as ``evidence.schema.json`` in this package (JSON schema, draft
2020-12), which the file names in ``$schema``; it is checked before it is written. The same run gives the same bytes. It holds
no image. Beside every code stands its sentence: ``note``, ``reason``, ``answer``.

Units: PUL and ceilings in percent; error rates and rates of a class as fractions; seconds; every interval 95 %. ``thresholds`` names
the numbers behind the words of ``verdicts``.

NOT guaranteed: certification of anything; ``approximate`` is always true and ``certified`` always false.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from vdu.core.records import sha256_bytes, sha256_file
from vdu.reporting.code_texts import not_run_text, row_note
from vdu.reporting.collect import ReportData
from vdu.reporting.findings.answer import Answer
from vdu.reporting.findings.class_shifts import class_shifts
from vdu.reporting.findings.thresholds import SENTENCES, THRESHOLDS
from vdu.reporting.findings.trust import not_tested
from vdu.reporting.formatting import command
from vdu.reporting.masthead import Masthead
from vdu.reporting.provenance import READ_FILES
from vdu.reporting.records import SCHEMA_ID, check_evidence

__all__ = ["QUESTIONS", "evidence", "numbers", "plain", "report_number"]

FORMAT_VERSION = 1
QUESTIONS = {
    "gone": "Is it gone?",
    "rest": "Is the rest intact?",
    "back": "Does it come back?",
    "cost": "What did it cost?",
    "trust": "Can I trust this page?",
}
_METRICS = (
    "n_images",
    "rows",
    "histogram",
    "flips",
    "flips_retrained",
    "kept",
    "words",
    "judge",
    "feature_network",
    "reference",
)


def evidence(
    data: ReportData,
    about: Masthead,
    answers: Mapping[str, Answer],
    probe_answers: Mapping[str, Answer],
    *,
    hide_forgotten: bool,
) -> dict[str, Any]:
    """Everything that the report says, as plain JSON, with its number; the hash of the page is still to come.

    Args:
        data: the collected run.
        about: what the report is about.
        answers: the five answers.
        probe_answers: what each probe says by itself.
        hide_forgotten: whether the page hides unwanted images.

    Returns:
        The content of ``evidence.json``, checked against its schema.
    """
    metrics, run = data.metrics, data.run
    made = run.get("pipeline") or {}
    value = {
        "$schema": SCHEMA_ID,
        "format_version": FORMAT_VERSION,
        "approximate": True,
        "certified": False,
        "about": asdict(about),
        "forget": {key: metrics["forget"][key] for key in ("description", "classes", "n_images", "sha256")},
        "verdicts": {name: {"question": QUESTIONS[name], **plain(found)} for name, found in answers.items()},
        "probe_verdicts": {name: plain(found) for name, found in probe_answers.items()},
        "class_shifts": [asdict(each) for each in class_shifts(data) or ()],
        "thresholds": dict(THRESHOLDS),
        "threshold_sentences": list(SENTENCES),
        "not_tested": list(not_tested(data.metrics, about.method)),
        "warnings": list(data.warnings),
        **numbers(metrics),
        "provenance": {
            "command": command(run.get("command", "unknown")),
            "verb": run.get("verb"),
            "environment": run.get("environment"),
            **{key: run[key] for key in ("earlier_environments",) if key in run},
            "inputs": run.get("inputs"),
            "unlearned_sha256": made.get("sha256"),
            **({"unlearned_parts_sha256": made["parts_sha256"]} if "parts_sha256" in made else {}),
            "files": {name: sha256_file(data.run_dir / name) for name in READ_FILES},
            "report": {"vdu": version("vdu"), "unwanted_images": "hidden" if hide_forgotten else "shown"},
        },
    }
    value["provenance"]["report"]["number"] = report_number(value)
    check_evidence(value)
    return value


def numbers(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The part of ``evidence.json`` that is ``metrics.json``, with sentences beside its codes."""
    return {
        "suite": metrics.get("suite"),
        "metrics": {key: metrics[key] for key in _METRICS if key in metrics}
        | {"rows": [row | {"note": row_note(row)} for row in metrics["rows"]]},
        "probes": {name: _with_reason(each) for name, each in metrics.get("probes", {}).items()},
        "cost": metrics["cost"],
        "protocol": metrics["protocol"],
    }


def report_number(value: Mapping[str, Any]) -> str:
    """The first 8 digits of the SHA-256 of ``evidence.json`` without the page's hash and without this number itself."""
    provenance = {key: each for key, each in value["provenance"].items() if key != "page"}
    provenance["report"] = {key: each for key, each in provenance["report"].items() if key != "number"}
    text = json.dumps({**value, "provenance": provenance}, sort_keys=True)
    return sha256_bytes(text.encode())[:8]


def _with_reason(result: dict[str, Any]) -> dict[str, Any]:
    return result | {"reason": not_run_text(result)} if result["status"] == "not run" else result


def plain(found: Answer) -> dict[str, Any]:
    """An answer as JSON."""
    return {
        "level": found.level,
        "code": str(found.code),
        "answer": found.title,
        "figure": found.figure,
        "explanation": found.text,
        "limits": list(found.limits),
    }
