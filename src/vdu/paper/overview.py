"""Every printed cell of the paper's tables beside ours at every scale, as one Markdown table. Torch-free.

``tools/reproduction_page.py`` writes it into docs/reproduction.md.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vdu.core.records import read_json
from vdu.paper.tables import Printed, Table, load_table

__all__ = ["SCALES", "overview"]

SCALES = ("small", "network", "paper")


def overview(results: Path) -> str:
    """The table.

    Args:
        results: the folder with ``<scale>/table1.json`` and ``table2.json``; a missing file is a scale that was not run.

    Returns:
        Markdown, one line per printed row: PUL in per cent and u-FID, printed and at every scale, there with the number of images.
    """
    lines = [f"| table | forgetting | method | printed | {' | '.join(SCALES)} |", "|---" * (4 + len(SCALES)) + "|"]
    for name in ("table1", "table2"):
        table = load_table(name, "paper")
        found = [_comparison(results / scale / f"{name}.json") for scale in SCALES]
        for printed in table.printed:
            about = f"{name[-1]} | {printed.dataset} {printed.forget} | {_method(table, printed)} | {printed.pul:.2f}, {printed.u_fid:.2f}"
            lines.append(f"| {about} | {' | '.join(_ours(each, printed) for each in found)} |")
    return "\n".join(lines) + "\n"


def _comparison(path: Path) -> dict[tuple[str, str, str], Mapping[str, Any]]:
    """Ours of a table at a scale, by data set, class and row."""
    entries = read_json(path)["comparison"] if path.is_file() else []
    return {(each["dataset"], each["forget"], each["row"]): each for each in entries}


def _ours(found: Mapping[tuple[str, str, str], Mapping[str, Any]], printed: Printed) -> str:
    """Our two numbers, or why there are none."""
    entry = found.get((printed.dataset, printed.forget, printed.row))
    if entry is None or entry["pul"]["ours"] is None:
        return entry["pul"]["verdict"] if entry else "not run"
    pul, u_fid = entry["pul"]["ours"], entry["u_fid"]["ours"]
    return f"{pul['value']:.1f}, {u_fid['value']:.1f} ({entry['n_images']})"


def _method(table: Table, printed: Printed) -> str:
    """The method in few words."""
    options = table.rows[printed.row].options
    return f"VDU, γ = {options['gamma']}" if "gamma" in options else "Selective Amnesia"
