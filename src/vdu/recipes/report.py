"""``vdu report``: a run's JSON and images become one page."""

from typing import Any

from vdu.recipes.settings import ReportSettings
from vdu.report.render import render_report

__all__ = ["run"]


def run(settings: ReportSettings) -> dict[str, Any]:
    """Write the evidence report.

    Args:
        settings: see :class:`vdu.recipes.settings.ReportSettings`.

    Returns:
        Where the page is.
    """
    return {"report": str(render_report(settings.run, output=settings.output, hide_forgotten=settings.hide_forgotten))}
