"""Turns a run folder into one self-contained page, ``report.html``: an evidence report, approximate and not certified.

The page loads nothing: styles, script, charts (SVG) and pictures (PNG as data URIs) are inside, and its content
security policy forbids everything else, a foreign script included. Every text of the run is escaped. The same run
folder gives the same bytes: there is no clock in it.

NOT guaranteed: that the page may be shared. Without ``hide_forgotten`` it holds unwanted images; with it, those that
the judge recognises are averaged to coarse blocks, and those that it misses are still there.
"""

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdu.errors import InputError
from vdu.records import atomic_file, sha256_file
from vdu.report import tables
from vdu.report.collect import ReportData, collect
from vdu.report.pictures import COLUMNS, make_sprites, select_pairs
from vdu.report.verdict import THRESHOLDS, is_gone, is_rest_intact, not_tested
from vdu.report.words import command, duration, flat, interval, number, percent

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["render_report"]

_SHOWN_FIRST = 24
_HASHED = (
    "metrics.json",
    "run.json",
    "log.jsonl",
    "config.toml",
    "samples/original.safetensors",
    "samples/unlearned.safetensors",
)


def render_report(run_dir: Path | str, *, output: Path | str | None = None, hide_forgotten: bool = False) -> Path:
    """Write the evidence report of a run.

    Args:
        run_dir: the run folder.
        output: the page's name; ``report.html`` in the run folder when None.
        hide_forgotten: average the unwanted images down to coarse blocks before they are embedded.

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
    page = _environment().get_template("report.html.j2").render(_context(data, hide_forgotten))
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("vdu.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, percent=percent, interval=interval, duration=duration)
    return environment


def _context(data: ReportData, hide_forgotten: bool) -> dict[str, Any]:
    from markupsafe import Markup

    style, script = (
        Path(__file__).parent.joinpath("templates", name).read_text("utf-8") for name in ("report.css", "report.js")
    )
    pairs = select_pairs(data)
    sprites = make_sprites(data, pairs, hide_forgotten=hide_forgotten)
    groups = [[pair for pair in pairs if pair.was_forget is was] for was in (True, False)]
    return {
        "data": data,
        "metrics": data.metrics,
        "gone": is_gone(data),
        "rest": is_rest_intact(data),
        "thresholds": THRESHOLDS,
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
        "not_tested": not_tested(data),
        "command": command(data.run.get("command", "unknown")),
        "provenance": [pair for key in ("verb", "environment", "inputs") for pair in flat(data.run.get(key), key)],
        "hashes": [(name, sha256_file(data.run_dir / name)) for name in _HASHED],
        "style": Markup(style),
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
