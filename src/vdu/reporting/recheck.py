"""What ``evidence.json`` and the page state, against what the run's own records give when the report is made again.

The same records and the same version of vdu give the same bytes, so every answer, number and sentence is compared. A report by
another version has other sentences: then only levels, codes and numbers are, and the sentences are not available.

NOT guaranteed: that the records are right; whoever edits ``metrics.json`` and makes the report again is not found here.
"""

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vdu.core.records import sha256_bytes, sha256_file
from vdu.reporting.evidence_json import QUESTIONS
from vdu.reporting.render import make_report

__all__ = ["check_report"]

_NUMBERS = {"metrics", "probes", "class_shifts", "suite", "cost", "protocol", "thresholds"}
_OTHERS = {
    "answer", "figure", "explanation", "limits", "question", "note", "reason", "threshold_sentences", "not_tested", "warnings",
    "method_words", "report", "class_shifts", "thresholds",
}  # keys that another version of vdu may fill otherwise  # fmt: skip


def check_report(folder: Path, recorded: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Make the report of a run again and compare.

    Args:
        folder: the run folder.
        recorded: its ``evidence.json``.

    Yields:
        A part of the report, "matches", "differs" or "not available", and the first difference or the reason.
    """
    provenance, about, verdicts = (_object(recorded, name) for name in ("provenance", "about", "verdicts"))
    by = _object(provenance, "report")
    hidden = by.get("unwanted_images") == "hidden" if by else "…/" in json.dumps(recorded, ensure_ascii=False)
    page, made = make_report(folder, hide_forgotten=hidden, by=about.get("by"))
    made, mine = json.loads(json.dumps(made)), by.get("vdu") == version("vdu")
    other = (
        f"made by vdu {by.get('vdu', 'of an unknown version')}, this is {version('vdu')}; `vdu report` makes it again"
    )
    skipped = {"page"} | (set() if mine else _OTHERS)
    others = {*recorded, *made} - {"verdicts", "probe_verdicts"}
    parts = [
        *((f"answer: {question}", verdicts.get(name), made["verdicts"][name]) for name, question in QUESTIONS.items()),
        ("answers of the single tests", recorded.get("probe_verdicts"), made["probe_verdicts"]),
        *(
            (item, *({key: each.get(key) for key in keys} for each in (recorded, made)))
            for item, keys in (("numbers", others & _NUMBERS), ("the rest of evidence.json", others - _NUMBERS))
        ),
    ]
    for item, old, new in parts:
        found = _difference(old, new, skipped)
        yield (item, "matches", "") if found is None else (item, "differs", found if mine else f"{found}; {other}")
    if mine:
        stated = {"report.html": _page(folder), "evidence.json": provenance.get("page")}
        wrong = [name for name, sha256 in stated.items() if sha256 not in {sha256_bytes(page), None}]
        detail = f"{' and '.join(wrong)}: another page than the records give" if wrong else ""
        yield "report.html, made again", "differs" if wrong else "matches", detail
    else:
        yield "sentences of evidence.json and of the page", "not available", other


def _object(value: dict[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def _page(folder: Path) -> str | None:
    return sha256_file(folder / "report.html") if (folder / "report.html").is_file() else None


def _difference(old: Any, new: Any, skipped: set[str], place: str = "") -> str | None:
    """The first place where two JSON values differ, with both values; None where they are equal."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [key for key in {**new, **old} if key not in skipped]
        inside = [_difference(old.get(key), new.get(key), skipped, f"{place}.{key}".lstrip(".")) for key in keys]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        inside = [_difference(old[i], new[i], skipped, f"{place}[{i}]") for i in range(len(new))]
    else:
        return None if old == new else f"{place or 'it'}: recorded {_short(old)}, computed {_short(new)}"
    return next((found for found in inside if found is not None), None)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:117] + "…"
