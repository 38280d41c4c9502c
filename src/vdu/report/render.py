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
from vdu.core.records import atomic_file, sha256_file, write_json
from vdu.report import tables
from vdu.report.collect import ReportData, collect
from vdu.report.comeback import comeback_parts, does_it_come_back
from vdu.report.control import retrained_doubt
from vdu.report.evidence import READ_FILES, evidence
from vdu.report.inside import inside_parts
from vdu.report.pictures import COLUMNS, make_sprites, select_pairs
from vdu.report.probe_tables import probe_tables
from vdu.report.thresholds import SENTENCES
from vdu.report.trust import can_it_be_trusted, what_it_cost
from vdu.report.untested import not_tested
from vdu.report.verdict import Finding, is_gone, is_rest_intact
from vdu.report.words import command, duration, flat, interval, number, percent

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["answers", "environment", "render_report", "template"]

_SHOWN_FIRST = 24


def render_report(run_dir: Path | str, *, output: Path | str | None = None, hide_forgotten: bool = False) -> Path:
    """Write the evidence report of a run, and ``evidence.json`` beside it.

    Args:
        run_dir: the run folder.
        output: the page's name; ``report.html`` in the run folder when None.
        hide_forgotten: average the unwanted images down to coarse blocks before they are embedded; in both files, paths are
            cut to their last name.

    Returns:
        The path of the page.

    Raises:
        InputError: if the run folder is incomplete or of another format, or if the output's name is a folder.
    """
    data = collect(run_dir)
    path = Path(output) if output is not None else data.run_dir / "report.html"
    if path.is_dir():
        raise InputError(
            f"{path}: is a folder; expected the name of the page to write, for example {path / 'report.html'}."
        )
    doubt = retrained_doubt(data)
    if doubt:
        data = replace(data, warnings=(*data.warnings, doubt))
    shown = _without_paths(data) if hide_forgotten else data
    found = answers(shown)
    page = environment().get_template("report.html.j2").render(_context(shown, found, hide_forgotten))
    machine = evidence(shown, found)  # refuses before anything is written
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    write_json(path.with_name("evidence.json"), machine)
    return path


def template(name: str) -> str:
    """Return the text of one of the package's templates, style sheets or scripts."""
    return Path(__file__).parent.joinpath("templates", name).read_text("utf-8")


@cache
def environment() -> "Environment":
    """Return the engine for the package's templates: everything is escaped, an undefined name is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("vdu.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(number=number, percent=percent, interval=interval, duration=duration)
    return made


def answers(data: ReportData) -> dict[str, Finding]:
    """The five answers of the first screen.

    Args:
        data: the collected run.

    Returns:
        A finding for each of ``gone``, ``rest``, ``back``, ``cost`` and ``trust``, in this order.
    """
    gone = is_gone(data)
    return {
        "gone": gone,
        "rest": is_rest_intact(data),
        "back": does_it_come_back(data, gone),
        "cost": what_it_cost(data),
        "trust": can_it_be_trusted(data),
    }


def _without_paths(data: ReportData) -> ReportData:
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


def _context(data: ReportData, found: dict[str, Finding], hide_forgotten: bool) -> dict[str, Any]:
    from markupsafe import Markup

    style, more_style, script = map(template, ("report.css", "answers.css", "report.js"))
    pairs = select_pairs(data)
    sprites = make_sprites(data, pairs, hide_forgotten=hide_forgotten)
    groups = [[pair for pair in pairs if pair.was_forget is was] for was in (True, False)]
    return {
        "data": data,
        "metrics": data.metrics,
        "answers": found,
        "doubt": retrained_doubt(data),
        "kept_kinds": len(data.classes) - len(data.forget_ids),
        "parts": comeback_parts(data) | inside_parts(data),
        "probes": probe_tables(data),
        "extras": tables.extra_columns(data),
        "thresholds": SENTENCES,
        "pul_plot": tables.pul_plot(data),
        "fid_plot": tables.fid_plot(data),
        "groups": groups,
        "group_totals": tables.group_totals(data),
        "shown_first": _SHOWN_FIRST,
        "sprites": sprites,
        "columns": COLUMNS,
        "hidden": hide_forgotten,
        "histogram": tables.histogram(data),
        "flips": tables.flips(data),
        "curves": tables.curves(data),
        "cost": tables.cost(data),
        "not_tested": not_tested(data.metrics),
        "command": command(data.run.get("command", "unknown")),
        "provenance": [pair for key in ("verb", "environment", "inputs") for pair in flat(data.run.get(key), key)],
        "hashes": [(name, sha256_file(data.run_dir / name)) for name in READ_FILES],
        "style": Markup(style + more_style),
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
