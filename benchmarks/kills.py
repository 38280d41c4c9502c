"""A hundred kills −9 at seeded random moments of every verb that can be resumed, each compared bit by bit with an undisturbed run.

``python benchmarks/kills.py --kills 100`` writes results/kills.json. What is done, and what it does not cover, is told in
``tools/killing.py``. A trial with faults keeps its folder, and is named with its seed.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import killing as kills  # ruff: ignore[module-import-not-at-top-of-file]  (found by the line above)
from vdu.core.records import environment, write_json  # ruff: ignore[module-import-not-at-top-of-file]


def main() -> None:
    """Run the trials and write the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="how many must strike a running job")
    parser.add_argument("--seed", type=int, default=0, help="of the first trial")
    parser.add_argument("--folder", type=Path, help="where to work; by default a new temporary folder")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "kills.json")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="vdu-kills-"))
    began = time.monotonic()
    with kills.open_bench(folder / "bench") as bench:
        done = kills.run_kills(bench, arguments.kills, arguments.seed, lambda text: print(text, flush=True))
        durations = {name: round(seconds, 2) for name, seconds in bench.durations.items()}
    per_verb = {}
    for name in kills.JOBS:
        trials = [trial for trial in done if trial.job == name]
        met = Counter(kind for trial in trials for kind in trial.kills)
        per_verb[name] = {
            "undisturbed_seconds": durations.get(name),
            "trials": len(trials),
            "kills_at_a_uniform_moment": met["uniform"],
            "kills_while_a_writer_was_at_work": met["writing"],
            "finished_before_the_kill": met["late"],
            "leftovers_found_after_kills": sum(trial.writers for trial in trials),
            "real_processes": sum(trial.real for trial in trials),
            "trials_with_faults": sum(bool(trial.faults) for trial in trials),
        }
    struck = sum(kind != "late" for trial in done for kind in trial.kills)
    faults = [
        {"verb": trial.job, "seed": trial.seed, "real": trial.real, "faults": trial.faults}
        for trial in done
        if trial.faults
    ]
    result = {
        "command": f"python benchmarks/kills.py --kills {arguments.kills} --seed {arguments.seed}",
        "kills": struck,
        "kills_of_real_processes": sum(kind != "late" for trial in done if trial.real for kind in trial.kills),
        "trials": len(done),
        "verbs": per_verb,
        "seeds": [arguments.seed, arguments.seed + len(done) - 1],
        "failures": faults,
        "seconds": round(time.monotonic() - began, 1),
        "environment": environment(),
    }
    write_json(arguments.output, result)
    print(f"{struck} kills in {len(done)} trials, {len(faults)} with faults → {arguments.output}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
