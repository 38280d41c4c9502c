"""``vdu report``: a run's JSON and images become one page, and one file for machines."""

from typing import Any

from vdu.commands.settings import ReportSettings
from vdu.report.render import render_report

__all__ = ["run"]


def run(settings: ReportSettings) -> dict[str, Any]:
    """Write the evidence report.

    Args:
        settings: see :class:`vdu.commands.settings.ReportSettings`.

    Returns:
        Where the page and ``evidence.json`` are.
    """
    page = render_report(settings.run, output=settings.output, hide_forgotten=settings.hide_forgotten)
    return {"report": str(page), "evidence": str(page.with_name("evidence.json"))}
