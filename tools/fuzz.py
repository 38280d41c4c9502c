"""Run the property tests of tests/reliability with many more cases, and count them.

    PYTHONPATH=src python tools/fuzz.py                    # 100,000 cases
    PYTHONPATH=src python tools/fuzz.py --cases 5000 --seed 2

Most cases are changed files, shared out over the formats by what a case of each costs (``tools/fuzzing.py``). The others are image
folders, settings and models that hypothesis makes up: ``VDU_CASES`` multiplies the number of those tests.

The exit code is 1 if a case fails. Not guaranteed: that the cases are all different.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fuzzing import FORMATS, make_inputs, run_format

TESTS = Path(__file__).resolve().parents[1] / "tests" / "reliability"
GENERATED = ("test_generated_inputs.py", "test_generated_models.py")
PASSING = re.compile(r"(\S+::\w+)[^\n]*:\n(?:.|\n)*?(\d+) passing examples, (\d+) failing")
FACTOR = 10  # of the tests of hypothesis, whose cases cost most


def changed_files(cases: int, seed: int) -> bool:
    """Read changed files of every format, print a line for each, and return whether one was a fault."""
    per_cost = cases / sum(1 / each.cost for each in FORMATS.values())
    total, bad = 0, False
    with tempfile.TemporaryDirectory() as place:
        make_inputs(Path(place) / "inputs")
        for name, each in FORMATS.items():
            began = time.process_time()
            found = run_format(name, Path(place) / "inputs", -int(-per_cost // each.cost), seed)
            seconds = time.process_time() - began
            print(
                f"{found.inputs:8,}  {name}: {found.accepted:,} read, {found.refused:,} refused, {seconds:.0f} s",
                flush=True,
            )
            for kind, text in found.faults.items():
                print(f"          FAULT {kind}: {text}", flush=True)
            total, bad = total + found.inputs, bad or bool(found.faults)
    print(f"{total:8,}  changed files in all", flush=True)
    return bad


def generated(factor: int) -> bool:
    """Run the tests of hypothesis with more cases, print a line for each, and return whether one failed."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        *(str(TESTS / name) for name in GENERATED),
        "-q",
        "-n",
        "0",
        "-k",
        "given or a_",
    ]
    done = subprocess.run(
        [*command, "--hypothesis-show-statistics"],
        env=os.environ | {"VDU_CASES": str(factor)},
        capture_output=True,
        text=True,
    )
    counted = [(name, int(good) + int(bad)) for name, good, bad in PASSING.findall(done.stdout)]
    for name, n in counted:
        print(f"{n:8,}  {name.rpartition('::')[2]}")
    print(f"{sum(n for _, n in counted):8,}  made up by hypothesis in all")
    if done.returncode:
        print(done.stdout[-3000:])
    return bool(done.returncode)


def main() -> int:
    """Run both kinds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000, help="changed files")
    parser.add_argument(
        "--factor", type=int, default=FACTOR, help="multiplies the tests of hypothesis; 0 leaves them out"
    )
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    bad = changed_files(asked.cases, asked.seed)
    return int((generated(asked.factor) if asked.factor else False) or bad)


if __name__ == "__main__":
    sys.exit(main())
