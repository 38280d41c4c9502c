"""Shows a comparison: as a table of text for the terminal, and as one self-contained page.

NOT guaranteed: a winner. Nothing is ranked, for the intervals often overlap.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vdu.core.records import atomic_file
from vdu.reporting.charts import IntervalRow, interval_plot
from vdu.reporting.headline_figures import FIGURES, ComparedRun, Figure, compared
from vdu.reporting.render import environment, require_page_name, template
from vdu.reporting.run_comparison import PROTOCOL

__all__ = ["text_table", "write_comparison"]

FORCED = "Not comparable, shown because --force was given"
_PLOTTED = ("pul", "u_fid")


def text_table(runs: Sequence[ComparedRun], against: Sequence[str], noted: Sequence[str]) -> str:
    """A table for the terminal: a line for each figure that some run has, a column for each run.

    Args:
        runs: the runs.
        against: what makes them incomparable; printed first.
        noted: what else differs; printed last.

    Returns:
        The text, without a newline at its end.
    """
    rows = [["", *(run.name for run in runs)], *([label, *cells] for label, cells in _cells(compared(runs)))]
    widths = [max(_width(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell + " " * (widths[i] - _width(cell)) for i, cell in enumerate(row)).rstrip() for row in rows]
    forced = [f"{FORCED}: {each}" for each in against]
    return "\n".join([*forced, *lines, *(f"note: {each}" for each in noted)])


def write_comparison(
    path: Path | str, runs: Sequence[ComparedRun], against: Sequence[str], noted: Sequence[str]
) -> Path:
    """Write the page.

    Args:
        path: its name.
        runs: the runs.
        against: what makes them incomparable; stands in a box at the top.
        noted: what else differs.

    Returns:
        The path. A name where something else than a page would be replaced is an ``InputError``
        (:func:`vdu.reporting.render.require_page_name`).
    """
    from markupsafe import Markup

    path = Path(path)
    require_page_name(path)
    names, found = [run.name for run in runs], compared(runs)
    page = environment().get_template("compare.html.j2").render(
        style=Markup(template("report.css") + template("answers.css")),
        runs=runs,
        rows=_cells(found),
        plots=[plot for name in _PLOTTED if (plot := _plot(name, names, found)) is not None],
        against=against,
        forced=FORCED,
        notes=noted,
        protocol=[] if against else [(what, read(runs[0].metrics)) for what, read in PROTOCOL.items()],
    )  # fmt: skip
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _cells(found: Sequence[Mapping[str, Figure | None]]) -> list[tuple[str, list[str]]]:
    """Label and texts of each figure that some run has."""
    rows = [(label, [each[name] for each in found]) for name, (label, _) in FIGURES.items()]
    return [(label, ["–" if f is None else f.text for f in row]) for label, row in rows if any(row)]


def _plot(name: str, names: Sequence[str], figures: Sequence[Mapping[str, Figure | None]]) -> Any:
    label, found = FIGURES[name][0], [(who, each[name]) for who, each in zip(names, figures, strict=True)]
    rows = [
        IntervalRow(who, f.value, f.low, f.high, "after")
        for who, f in found
        if f is not None and f.low is not None and f.high is not None
    ]
    if not rows:
        return None
    summary = f"{label}: " + "; ".join(f"{who} {f.text}" for who, f in found if f is not None)
    start = min(0.0, *(row.low for row in rows))
    return label, interval_plot(rows, summary, start=start, end=max(row.high for row in rows))


def _width(text: str) -> int:
    """Columns that a text takes in a terminal."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
