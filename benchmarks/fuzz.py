"""10⁵ and more seeded mutations of every file format that this package reads itself, with bounded memory.

``python benchmarks/fuzz.py`` writes results/fuzz.json. How files are changed, and what that does not cover, is told in
``tools/fuzzing.py``. Each format has a process of its own that may take 1 GiB more address space and no more, so a
header that lies about a size is a fault and not a full machine. Inputs that are faults are kept.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import fuzzing  # ruff: ignore[module-import-not-at-top-of-file]  (found by the line above)
from vdu.core.records import environment, write_json  # ruff: ignore[module-import-not-at-top-of-file]


def main() -> None:
    """Read changed files of every format and write the counts."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=120_000, help="how many in all, about; dear formats get fewer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work; by default a new temporary folder")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "fuzz.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # before a fork
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="vdu-fuzz-"))
    began, outcomes = time.monotonic(), {}
    shares = sum(1 / each.cost for each in fuzzing.FORMATS.values())
    for name, each in fuzzing.FORMATS.items():
        inputs = folder / name.replace(" ", "-")
        fuzzing.make_inputs(inputs)
        n = round(arguments.inputs / each.cost / shares) + 1
        outcomes[name] = fuzzing.run_guarded(name, inputs, n, arguments.seed, keep=folder / "faults")
        print(f"{name}: {outcomes[name]}", flush=True)
    total = sum(each.inputs for each in outcomes.values())
    faulty = {name: each.faults for name, each in outcomes.items() if each.faults}
    result = {
        "command": f"python benchmarks/fuzz.py --inputs {arguments.inputs} --seed {arguments.seed}",
        "inputs": total,
        "accepted": sum(each.accepted for each in outcomes.values()),
        "refused": sum(each.refused for each in outcomes.values()),
        "formats_with_faults": faulty,
        "largest_growth_mib": max(each.growth_mib or 0.0 for each in outcomes.values()),
        "address_space_bound_mib": 1024,
        "formats": {name: asdict(each) for name, each in outcomes.items()},
        "seconds": round(time.monotonic() - began, 1),
        "environment": environment(),
    }
    write_json(arguments.output, result)
    print(f"{total} inputs, faults in {len(faulty)} formats → {arguments.output}")
    sys.exit(1 if faulty else 0)


if __name__ == "__main__":
    main()
