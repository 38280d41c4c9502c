"""``vdu compare``: runs side by side, on the terminal and as one page; an error if they were measured with different settings."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from vdu.commands.options import GivenFirst
from vdu.core.errors import InputError

__all__ = ["CompareSettings", "run"]


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """Compare runs side by side, in a table and one self-contained page.

    Attributes:
        runs: two or more run folders, after "vdu evaluate".
        output: where to write the page.
        force: show runs that were measured with different settings, marked as incomparable.
    """

    runs: Annotated[tuple[Path, ...], GivenFirst] = ()
    output: Path = Path("compare.html")
    force: bool = False


def run(settings: CompareSettings) -> dict[str, Any]:
    """Compare runs.

    Args:
        settings: see :class:`CompareSettings`.

    Returns:
        ``table`` (text), ``page`` (path), ``comparable``, ``differences``, ``notes`` and ``runs``: per run its name and
        its figures (value, low, high, text; None if missing, or left out as the notes say).

    Raises:
        InputError: if there are fewer than two runs, one is given twice, or their settings differ and ``force`` is off.
    """
    if len(settings.runs) < 2:
        raise InputError(f"compare: got {len(settings.runs)} run folder(s), expected two or more: vdu compare RUN RUN.")
    folders = [folder.resolve() for folder in settings.runs]
    twice = next(
        (given for given, folder in zip(settings.runs, folders, strict=True) if folders.count(folder) > 1), None
    )
    if twice is not None:
        raise InputError(f"compare: got {twice} more than once; expected different run folders.")
    from vdu.reporting.comparison_page import text_table, write_comparison
    from vdu.reporting.headline_figures import compared
    from vdu.reporting.run_comparison import differences, notes, read_runs

    runs = read_runs(settings.runs)
    against, noted = differences(runs), notes(runs)
    if against and not settings.force:
        raise InputError(
            "compare: these runs were measured with different settings, so their numbers cannot be compared:\n  "
            + "\n  ".join(against)
            + "\nRun `vdu evaluate` on them with the same settings, or use --force to show them marked as incomparable."
        )
    page = write_comparison(settings.output, runs, against, noted)
    return {
        "table": text_table(runs, against, noted),
        "page": str(page),
        "comparable": not against,
        "differences": against,
        "notes": noted,
        "runs": [
            {"run": each.name, "figures": {name: f and asdict(f) for name, f in found.items()}}
            for each, found in zip(runs, compared(runs), strict=True)
        ],
    }
