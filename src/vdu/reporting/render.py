"""Turns a run folder into one self-contained page, ``report.html``, and the same for machines, ``evidence.json``.

An evidence report: approximate, not certified. The page's first screen answers five questions: is it gone, is the rest
intact, does it come back, what did it cost, can I trust this page.

The page loads nothing: styles, script, charts (SVG) and pictures (PNG as data URIs) are inside, and its content
security policy forbids everything else, a foreign script included. Every text of the run is escaped. The same run
folder gives the same bytes: there is no clock in it.

No image of the forget set is read: the pictures were all made by the two models.

NOT guaranteed: that the page may be shared. Without ``hide_forgotten`` it holds unwanted images; with it, those that
the judge recognises are averaged to coarse blocks, and those that it misses are still there.
"""

import base64
import hashlib
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdu.core.errors import InputError
from vdu.core.ranges import require_given
from vdu.core.records import atomic_file, read_json, sha256_bytes, sha256_file, write_json
from vdu.reporting import page_tables
from vdu.reporting.asked import asked_tables
from vdu.reporting.code_texts import ABOUT_MODELS, attack_text, row_note, source_text, warning_text
from vdu.reporting.collect import ReportData, collect
from vdu.reporting.evidence_json import QUESTIONS, evidence
from vdu.reporting.findings.answer import Answer
from vdu.reporting.findings.attempt_words import attempt_answers
from vdu.reporting.findings.back import back_answer, find_back
from vdu.reporting.findings.cost import cost_answer, find_cost
from vdu.reporting.findings.gone import find_gone, gone_answer
from vdu.reporting.findings.inside import inside_answers
from vdu.reporting.findings.reliability import retrained_doubt
from vdu.reporting.findings.rest import find_rest, rest_answer
from vdu.reporting.findings.thresholds import SENTENCES
from vdu.reporting.findings.trust import asked_rows, find_trust, not_tested, trust_answer
from vdu.reporting.formatting import command, date_text, duration, interval, number, p_value, percent
from vdu.reporting.masthead import Masthead, masthead
from vdu.reporting.probe_tables import probe_tables
from vdu.reporting.provenance import provenance
from vdu.reporting.result_sheet import overview, result_sheet
from vdu.reporting.sample_sprites import COLUMNS, make_sprites, needs_cover, select_pairs

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["answers", "environment", "make_report", "render_report", "template", "without_paths"]

_SHOWN_FIRST = 24


def render_report(
    run_dir: Path | str, *, output: Path | str | None = None, hide_forgotten: bool = False, by: str | None = None
) -> Path:
    """Write the evidence report of a run, and ``evidence.json`` beside it.

    Args:
        run_dir: the run folder.
        output: the page's name; ``report.html`` in the run folder when None.
        hide_forgotten: average the unwanted images down to coarse blocks before they are embedded; in both files, paths are
            cut to their last name.
        by: the person or team that answers for the report.

    Returns:
        The path of the page. An incomplete run folder, one of another format, and an output that would replace something else than a page
        (:func:`require_page_name`) are an ``InputError``.
    """
    folder = Path(run_dir)
    path = Path(output) if output is not None else folder / "report.html"
    require_page_name(path, folder)
    if path.name == "evidence.json" or path.parent.resolve() != folder.resolve():
        require_evidence_name(path.with_name("evidence.json"), path)
    _require_no_other_evidence(path)
    page, machine = make_report(folder, hide_forgotten=hide_forgotten, by=by)  # refuses before anything is written
    with atomic_file(path) as temporary:
        temporary.write_bytes(page)
    write_json(path.with_name("evidence.json"), machine)
    return path


def require_page_name(path: Path, own: Path | None = None) -> None:
    """Refuse a name where a page would replace something else.

    Args:
        path: where a page is to be written.
        own: the run folder that the page is of, if it is of one.

    Raises:
        InputError: if the name is a folder's, or a file's that is no page, or in the folder of another run.
    """
    if path.is_dir():
        raise InputError(
            f"{path}: is a folder; expected the name of the page to write, for example {path / 'report.html'}."
        )
    if (path.parent / "run.json").is_file() and (own is None or path.parent.resolve() != own.resolve()):
        raise InputError(
            f"{path}: is in the folder of a run, whose own page and records are there; expected a name in another folder."
        )
    if path.is_file():
        with path.open("rb") as file:
            begins = file.read(64).lstrip().lower()
        if begins and not begins.startswith(b"<!doctype html"):
            raise InputError(
                f"{path}: is there and no page, and would be lost; expected another name, or a page to replace."
            )


def require_evidence_name(path: Path, page: Path | None = None) -> None:
    """Refuse a name where evidence would replace something else.

    Args:
        path: where ``evidence.json`` is to be written.
        page: the page that it is written beside, if there is one.

    Raises:
        InputError: if the page has that name itself, or a file is there that is no evidence.
    """
    if path == page:
        raise InputError(
            f"{path}: is the name of the evidence beside the page; expected another, for example report.html."
        )
    if path.is_file():
        try:
            held = read_json(path)
        except InputError:
            held = None
        if not isinstance(held, dict) or "provenance" not in held:
            raise InputError(f"{path}: is there and no evidence, and would be lost; expected another name or folder.")


def _require_no_other_evidence(path: Path) -> None:
    """Raise an error where the ``evidence.json`` beside a page is that of another page there."""
    beside = path.with_name("evidence.json")
    if not beside.is_file():
        return
    try:
        stated = read_json(beside).get("provenance", {}).get("page")
    except (InputError, AttributeError):
        return  # no evidence of ours; it is replaced as before
    for other in sorted(path.parent.glob("*.html")):
        if other.name != path.name and sha256_file(other) == stated:
            raise InputError(
                f"{path}: beside it {beside.name} belongs to {other.name}, which could not be verified without it. Write the page to a "
                "folder of its own."
            )


def make_report(
    run_dir: Path | str, *, hide_forgotten: bool = False, by: str | None = None
) -> tuple[bytes, dict[str, Any]]:
    """The evidence report of a run, not written anywhere.

    Args:
        run_dir: the run folder.
        hide_forgotten: as for :func:`render_report`.
        by: likewise.

    Returns:
        The page, and the content of ``evidence.json``. The same run folder and version of vdu give the same bytes.
    """
    require_given({"by": by}, "by")
    data = collect(run_dir)
    doubt = retrained_doubt(data)
    if doubt:
        data = replace(data, warnings=(*data.warnings, doubt))
    shown = without_paths(data) if hide_forgotten else data
    found, probes = answers(shown), attempt_answers(shown) | inside_answers(shown)
    about = masthead(shown, by)
    machine = evidence(shown, about, found, probes, hide_forgotten=hide_forgotten)
    context = _context(shown, about, found, probes, hide_forgotten) | {
        "report": machine["provenance"]["report"]["number"]
    }
    page = environment().get_template("report.html.j2").render(context).encode()
    machine["provenance"]["page"] = sha256_bytes(page)
    return page, machine


def template(name: str) -> str:
    """Return the text of one of the package's templates, style sheets or scripts."""
    return Path(__file__).parent.joinpath("templates", name).read_text("utf-8")


@cache
def environment() -> "Environment":
    """Return the engine for the package's templates: everything is escaped, an undefined name is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("vdu.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        number=number,
        p_value=p_value,
        percent=percent,
        interval=interval,
        duration=duration,
        note=row_note,
        source=source_text,
        attack=attack_text,
        date=date_text,
    )
    return made


def answers(data: ReportData) -> dict[str, Answer]:
    """The five answers of the first screen.

    Args:
        data: the collected run.

    Returns:
        An answer for each of ``gone``, ``rest``, ``back``, ``cost`` and ``trust``, in this order.
    """
    gone = find_gone(data)
    return {
        "gone": gone_answer(data, gone),
        "rest": rest_answer(data, find_rest(data)),
        "back": back_answer(data, find_back(data, gone)),
        "cost": cost_answer(data, find_cost(data.metrics)),
        "trust": trust_answer(data, find_trust(data)),
    }


def without_paths(data: ReportData) -> ReportData:
    """The same run with every absolute path in its texts cut to its last name; the folder itself stays readable."""

    def cut(value: Any) -> Any:
        if isinstance(value, str):
            if re.match(r"(/|~/|[A-Za-z]:\\)", value) and "\n" not in value:
                return "…/" + re.split(r"[/\\]", value.rstrip("/\\"))[-1]  # one whole path, blanks included
            return re.sub(r"(?<![\w./:])(?:file://)?(?:/|~/)(?:[^\s/'\"<>,;]+/)+([^\s/'\"<>,;]*)", r"…/\1", value)
        if isinstance(value, dict):
            return {key: cut(item) for key, item in value.items()}
        return [cut(item) for item in value] if isinstance(value, list | tuple) else value

    changes = {name: cut(getattr(data, name)) for name in ("metrics", "run", "config")}
    texts = {name: tuple(cut(getattr(data, name))) for name in ("warnings", "contradictions")}
    return replace(data, **changes, **texts)


def _doubts(data: ReportData) -> list[str]:
    """The warnings of the first screen: of models that cannot be compared without more ado."""
    doubt = retrained_doubt(data)
    about = [warning_text(each, data.metrics) for each in data.metrics["warnings"] if each["code"] in ABOUT_MODELS]
    return about + ([doubt] if doubt else [])


def _context(
    data: ReportData, about: Masthead, found: dict[str, Answer], probes: dict[str, Answer], hide_forgotten: bool
) -> dict[str, Any]:
    from markupsafe import Markup

    style, more_style, script = map(template, ("report.css", "answers.css", "report.js"))
    pairs = select_pairs(data)
    sprites = make_sprites(data, pairs, hide_forgotten=hide_forgotten)
    sheet = result_sheet(data, found, probes)
    groups = [[pair for pair in pairs if pair.first is first] for first in (True, False)]
    return {
        "data": data,
        "metrics": data.metrics,
        "about": about,
        "rows": asked_rows(data.metrics, about.method),
        "sheet": sheet,
        "overview": overview(sheet, probes),
        "covered": not hide_forgotten and needs_cover(data),
        "answers": found,
        "doubts": _doubts(data),
        "kept_kinds": len(data.classes) - len(data.forget_ids),
        "questions": QUESTIONS,
        "parts": probes,
        "probes": probe_tables(data),
        "asked": asked_tables(data),
        "extras": page_tables.extra_columns(data),
        "thresholds": SENTENCES,
        "groups": groups,
        "prompts": sorted({pair.asked for pair in pairs if pair.asked}),
        "group_totals": page_tables.group_totals(data),
        "shown_first": _SHOWN_FIRST,
        "sprites": sprites,
        "columns": COLUMNS,
        "hidden": hide_forgotten,
        "histogram": page_tables.histogram(data),
        "flips": page_tables.flips(data),
        "curves": page_tables.curves(data),
        "cost": page_tables.cost(data),
        "not_tested": not_tested(data.metrics, about.method),
        "command": command(data.run.get("command", "unknown")),
        "provenance": provenance(data),
        "style": Markup(style + more_style),
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
