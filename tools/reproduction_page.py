#!/usr/bin/env python3
"""Write the table at the top of docs/reproduction.md anew, from the committed results.

Usage: reproduction_page.py results/paper docs/reproduction.md
"""

import sys
from pathlib import Path

from vdu.paper.overview import overview

BEGIN, END = "<!-- overview -->", "<!-- end of the overview -->"


def main():
    """Replace what is between the two marks."""
    results, page = map(Path, sys.argv[1:])
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"{page}: lacks {BEGIN} or {END}; expected both, one after the other.")
    page.write_text(f"{before}{BEGIN}\n\n{overview(results)}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
