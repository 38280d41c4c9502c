"""What ``evidence.json`` and the page state, against what the run's own records give when the report is made again.

The same records and the same version of vdu give the same bytes, so every answer, number and sentence is compared. A report by
another version has other sentences: then only levels, codes and numbers are, and the sentences are not available.

Where the run is not at hand, or not whole, the answers are made from the numbers in ``evidence.json`` itself, these are compared with
``metrics.json`` if it is there, and the page with both.

NOT guaranteed: that the records are right; whoever edits ``metrics.json`` and makes the report again is not found here.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vdu.core.errors import InputError
from vdu.core.records import sha256_bytes, sha256_file
from vdu.reporting.collect import read_metrics, report_data
from vdu.reporting.evidence_json import QUESTIONS, numbers, plain, report_number
from vdu.reporting.findings.attempt_words import attempt_answers
from vdu.reporting.findings.class_shifts import class_shifts
from vdu.reporting.findings.inside import inside_answers
from vdu.reporting.records import check_evidence, check_metrics
from vdu.reporting.render import answers, make_report, without_paths

__all__ = ["check_evidence_alone", "check_report"]

_NUMBERS = {"metrics", "probes", "class_shifts", "suite", "cost", "protocol", "thresholds"}
_OTHERS = {
    "answer", "figure", "explanation", "limits", "question", "note", "reason", "threshold_sentences", "not_tested", "warnings",
    "method_words", "report", "unlearned_date", "original_id", "class_shifts", "thresholds",
}  # keys that another version of vdu may fill otherwise  # fmt: skip


def check_report(folder: Path, recorded: dict[str, Any], name: str = "report.html") -> Iterator[tuple[str, str, str]]:
    """Make the report of a run again and compare.

    Args:
        folder: the run folder.
        recorded: its ``evidence.json``.
        name: of the page in the folder.

    Yields:
        A part of the report, "matches", "differs" or "not available", and the first difference or the reason.
    """
    provenance, about, verdicts = (_object(recorded, name) for name in ("provenance", "about", "verdicts"))
    by = _object(provenance, "report")
    page, made = make_report(folder, hide_forgotten=_hidden(recorded), by=about.get("by"))
    made, mine = json.loads(json.dumps(made)), by.get("vdu") == version("vdu")
    other = _other(by)
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
        stated = {name: _page(folder / name), "evidence.json": provenance.get("page")}
        wrong = [each for each, sha256 in stated.items() if sha256 not in {sha256_bytes(page), None}]
        detail = f"{' and '.join(wrong)}: another page than the records give" if wrong else ""
        yield f"{name}, made again", "differs" if wrong else "matches", detail
    else:
        yield "sentences of evidence.json and of the page", "not available", other


def _other(by: dict[str, Any]) -> str:
    return (
        f"made by vdu {by.get('vdu', 'of an unknown version')}, this is {version('vdu')}; `vdu report` makes it again"
    )


def _object(value: dict[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def _page(path: Path) -> str | None:
    return sha256_file(path) if path.is_file() else None


def _hidden(recorded: dict[str, Any]) -> bool:
    by = _object(_object(recorded, "provenance"), "report")
    return by.get("unwanted_images") == "hidden" if by else "…/" in json.dumps(recorded, ensure_ascii=False)


def check_evidence_alone(folder: Path, recorded: dict[str, Any], name: str) -> Iterator[tuple[str, str, str]]:
    """Compare ``evidence.json`` with its own numbers, these with ``metrics.json`` where it is, and the page with the answers.

    Args:
        folder: where they are.
        recorded: ``evidence.json``.
        name: of the page.

    Yields:
        As :func:`check_report`.
    """
    from markupsafe import escape

    metrics = {"format_version": 1, **_object(recorded, "metrics"), "warnings": []}
    metrics |= {key: recorded[key] for key in ("forget", "suite", "probes", "cost", "protocol") if key in recorded}
    try:
        check_evidence(recorded)
        check_metrics(metrics, folder / "evidence.json")
    except InputError as error:
        yield "evidence.json", "differs", str(error)
        return
    made_by = _object(recorded["provenance"], "report")
    mine = made_by.get("vdu") == version("vdu")
    skipped = set() if mine else _OTHERS
    data = report_data(folder, metrics, recorded["provenance"], warnings=tuple(recorded["warnings"]))
    verdicts = {
        key: recorded["verdicts"][key] | {"question": QUESTIONS[key]} | plain(each)
        for key, each in answers(data).items()
    }
    if recorded["verdicts"]["trust"]["code"] == "contradictions":  # of files that are not here
        verdicts["trust"] = recorded["verdicts"]["trust"]
    probes = {key: plain(each) for key, each in (attempt_answers(data) | inside_answers(data)).items()}
    shifts = [asdict(each) for each in class_shifts(data) or ()]
    made = json.loads(json.dumps({"verdicts": verdicts, "probe_verdicts": probes, "class_shifts": shifts}))
    parts = {"answers, from the numbers of evidence.json": ({key: recorded.get(key) for key in made}, made)}
    if (folder / "metrics.json").is_file():
        source = report_data(folder, read_metrics(folder), {})
        new = json.loads(json.dumps(numbers((without_paths(source) if _hidden(recorded) else source).metrics)))
        parts["numbers, from metrics.json"] = ({key: recorded.get(key) for key in new}, new)
    for item, (old, new) in parts.items():
        found = _difference(old, new, skipped)
        detail = "" if found is None else found if mine else f"{found}; {_other(made_by)}"
        yield item, "differs" if detail else "matches", detail
    if (number := made_by.get("number")) is not None:
        other = report_number(recorded)
        yield (
            "report number",
            "matches" if number == other else "differs",
            "" if number == other else f"{number}, now {other}",
        )
    if (folder / name).is_file():
        page = (folder / name).read_text("utf-8", errors="replace")
        stated = [f"<b>{escape(each['answer'])}</b>" for each in recorded["verdicts"].values()]
        stated += [] if number is None else [f"<dd>{number}</dd>"]
        absent = [each for each in stated if each not in page]
        yield (
            f"{name}, its answers",
            "differs" if absent else "matches",
            f"not on the page: {absent[0]}" if absent else "",
        )


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
