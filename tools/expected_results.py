#!/usr/bin/env python3
"""Distil the committed tables into the package, where ``vdu reproduce`` compares a run with them (exit code 3).

Usage: expected_results.py results/paper src/vdu/paper/expected.json
"""

import sys
from pathlib import Path

from vdu.core.records import read_json, write_json


def main():
    """Value and interval of PUL and u-FID of every row, rounded to what the tables print."""
    source, target = map(Path, sys.argv[1:])
    expected = {}
    for path in sorted([*source.glob("*/table*.json"), *source.glob("*/leaderboard.json")]):
        results = read_json(path)
        expected[f"{results['table']} {results['scale']}"] = {
            f"{row['dataset']} {row['forget']} {row['row']} {n}": {
                metric: {name: round(value, 2) for name, value in at[metric].items()}
                for metric in ("pul", "u_fid")
                if metric in at
            }
            for row in results["rows"]
            for n, at in row["at"].items()
        }
    write_json(target, expected)


if __name__ == "__main__":
    main()
