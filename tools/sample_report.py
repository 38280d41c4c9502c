#!/usr/bin/env python3
"""Write docs/sample-report.html, and evidence.json beside it: the report of a finished demo run, local paths cut to their last name.

Usage: sample_report.py RUN OUT.html

    vdu demo --suite quick
    python tools/sample_report.py vdu-demo/run docs/sample-report.html

The hashes of run.json, metrics.json and config.toml on the page are those of the files without the paths.
"""

import re
import shutil
import sys
import tempfile
from pathlib import Path

from vdu.core.records import write_json
from vdu.reporting.render import make_report

LARGEST = 700_000  # bytes


def main(run: str, out: str) -> None:
    """Write the page."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(
            shutil.copytree(run, Path(place) / "run", ignore=shutil.ignore_patterns("pipeline", "checkpoints"))
        )
        for name in ("run.json", "metrics.json", "config.toml"):
            text = (folder / name).read_text("utf-8")
            (folder / name).write_text(re.sub(r'"/(?:[^"/\n]+/)*([^"/\n]+)"', r'"…/\1"', text), "utf-8")
        page, evidence = make_report(folder)
    if len(page) > LARGEST:
        sys.exit(
            f"{out}: would have {len(page):,} bytes; expected at most {LARGEST:,}. Use a run with fewer or smaller images."
        )
    Path(out).write_bytes(page)
    write_json(Path(out).with_name("evidence.json"), evidence)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
