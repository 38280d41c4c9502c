"""``vdu report``: turns a run's JSON and images into one page and one machine-readable file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from vdu.commands.options import GivenFirst

__all__ = ["ReportSettings", "run"]


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """Write a run's evidence report, one self-contained HTML file.

    Attributes:
        run: the run folder, after "vdu evaluate".
        output: where to write; by default report.html in the run folder.
        hide_forgotten: blur the forget images.
        by: name of the person or team that answers for the report.
    """

    run: Annotated[Path, GivenFirst] = Path()
    output: Path | None = None
    hide_forgotten: bool = False
    by: str | None = None


def run(settings: ReportSettings) -> dict[str, Any]:
    """Write the evidence report.

    Args:
        settings: see :class:`ReportSettings`.

    Returns:
        The paths of the page and of ``evidence.json``.
    """
    from vdu.core.processes import say
    from vdu.reporting.card import has_figures_of_another_evaluation
    from vdu.reporting.render import render_report

    page = render_report(settings.run, output=settings.output, hide_forgotten=settings.hide_forgotten, by=settings.by)
    if has_figures_of_another_evaluation(settings.run):
        say(
            f"vdu: warning: the model card in {settings.run / 'pipeline'} has not the figures of this report, as after an interruption. "
            "Run `vdu evaluate` again before you ship it."
        )
    return {"report": str(page), "evidence": str(page.with_name("evidence.json"))}
