"""Golden numbers: what a redesign must not change, recorded before it and compared after it.

    python tools/golden.py record golden.json          # before, with the package as it was
    python tools/golden.py compare golden.json         # after: exit code 1 and a list if anything differs

Everything goes through the command line, in one thread, with caches of its own, so that the two sides may have nothing in
common but their commands: samples, a short run of every method, posteriors, a run that was interrupted and resumed, a
reduced demo with its report, and the tables at their smallest scale. Times, paths, versions and hashes of settings are
left out. Numbers hold for one machine and one version of PyTorch; they are compared bit for bit.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FORGET = ["--forget", "mnist-mini", "--forget-class", "8"]
SHORT = ["--steps", "4", "--batch-size", "8", "--inference-steps", "5", "--n-own-samples", "200", "--force"]
METHODS: dict[str, list[str]] = {  # name → its own options, in the notation of either side
    "distillation": [], "retrack": [], "anchor": [], "bounded": [], "conflict-free": [], "vdu": ["--posterior", "fisher"],
    "ascent": [], "selective-amnesia": ["--posterior", "amnesia-fisher"], "esd": [], "salun": [], "erasediff": [], "siss": [],
    "finetune": [],
}  # fmt: skip
VOLATILE = re.compile(
    r"seconds|date|time|path|version|commit|platform|python|torch|environment|command|folder|checksum|made_now|n_drawn_now|started|"
    r"ended|finished|host|processor|threads|sha256_of_self|fingerprint"
)


def vdu(*arguments: str | Path, cache: Path) -> str:
    """Run a command; its standard output. Exit codes other than 0 end the program with what it printed."""
    environment = os.environ | {
        "VDU_CACHE": str(cache), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
        "DIFFUSERS_VERBOSITY": "error",
    }  # fmt: skip
    command = [sys.executable, "-c", "import torch; torch.set_num_threads(1); from vdu.cli import main; main()"]
    done = subprocess.run(
        [*command, *map(str, arguments)], env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if done.returncode not in {0, 3}:  # 3: a number outside the committed intervals, which the comparison shows
        sys.exit(f"vdu {' '.join(map(str, arguments))}: exit code {done.returncode}\n{done.stderr[-3000:]}")
    return done.stdout


def sha256(path: Path) -> str:
    """Of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def tensors(path: Path) -> str:
    """Of the tensors in a safetensors file, whatever its metadata."""
    from safetensors.numpy import load_file

    digest = hashlib.sha256()
    for name, value in sorted(load_file(path).items()):
        digest.update(f"{name} {value.dtype} {value.shape}".encode() + value.tobytes())
    return digest.hexdigest()[:16]


def numbers(value: object) -> object:
    """A record's numbers, without what may differ between two runs of the same program."""
    if isinstance(value, dict):
        return {name: numbers(each) for name, each in value.items() if not VOLATILE.search(name)}
    if isinstance(value, list):
        return [numbers(each) for each in value]
    return None if isinstance(value, str) else value


def flat(value: object, prefix: str = "") -> dict[str, object]:
    """Nested records as one mapping, path → number."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {name: each for key, inner in items for name, each in flat(inner, f"{prefix}/{key}").items()}
    return {} if value is None else {prefix: value}


def collect(work: Path, file: Path | None = None) -> dict[str, object]:
    """All golden results; written to a file as they are made."""
    zoo, cache = ROOT / "src/vdu/zoo/mnist", work / "cache"
    found: dict[str, object] = {}

    def step(name: str, value: object) -> None:
        found.update(flat(value, name) if isinstance(value, dict | list) else {name: value})
        print(f"golden: {name}", file=sys.stderr, flush=True)
        if file is not None:
            file.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")

    def weights(run: Path) -> str:
        return tensors(run / "pipeline/unet/diffusion_pytorch_model.safetensors")

    for scheduler, steps in (("ddpm", 5), ("ddim", 4), ("dpm++", 4)):
        out = work / f"sample-{scheduler.strip('+')}"
        vdu(
            "sample",
            "--pipeline",
            zoo,
            "--n-images",
            6,
            "--scheduler",
            scheduler,
            "--inference-steps",
            steps,
            "--output-dir",
            out,
            cache=cache,
        )
        step(f"sample/{scheduler}", [sha256(path) for path in sorted(out.rglob("*.png"))])
    for kind, options in {
        "fisher": ["--n-train", "1000", "--n-samples", "12", "--inference-steps", "5"],
        "amnesia-fisher": ["--n-samples", "12", "--inference-steps", "5"],
        "isotropic": ["--variance", "1e-4"],
    }.items():
        vdu("posterior", kind, "--pipeline", zoo, *options, "--output-dir", work / kind, cache=cache)
        step(f"posterior/{kind}", tensors(next((work / kind).glob("*.safetensors"))))
    for method, options in METHODS.items():
        given = [work / each if each in {"fisher", "amnesia-fisher"} else each for each in options]
        out = work / f"method-{method}"
        vdu("unlearn", "--pipeline", zoo, *FORGET, "--method", method, *SHORT, *given, "--output-dir", out, cache=cache)
        step(f"method/{method}/weights", weights(out))
        lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        step(f"method/{method}/log", [numbers(line) for line in lines])
        stages = json.loads((out / "run.json").read_text())["stages"]
        step(f"method/{method}/evaluations", [stage.get("network_evaluations") for stage in stages])
    resumed = [
        "unlearn",
        "--pipeline",
        zoo,
        *FORGET,
        "--method",
        "distillation",
        *SHORT,
        "--checkpointing-steps",
        "2",
        "--output-dir",
    ]
    out = work / "resumed"
    vdu(*resumed, out, cache=cache)
    whole = weights(out)
    shutil.rmtree(out / "checkpoints/checkpoint-4")
    shutil.rmtree(out / "pipeline")
    vdu(*resumed, out, "--resume-from-checkpoint", "latest", cache=cache)
    step("resume/whole", whole)
    step("resume/again", weights(out))
    demo = work / "demo"
    vdu("demo", "--output-dir", demo, "--n-images", "100", "--steps", "6", "--suite", "none", "--json", cache=cache)
    step("demo/weights", weights(demo / "run"))
    step("demo/metrics", numbers(json.loads((demo / "run/metrics.json").read_text())))
    for name in ("original", "unlearned"):
        step(f"demo/{name}", tensors(demo / f"run/samples/{name}.safetensors"))
    paper = work / "paper"
    for table in ("table1", "leaderboard"):
        vdu("reproduce", table, "--scale", "smoke", "--output-dir", paper, cache=cache)
    for path in sorted((paper / "cells").rglob("*.json")):
        if path.name.rpartition("-")[2].removesuffix(".json").isalnum() and "pipeline" not in path.parts:
            record = json.loads(path.read_text())
            if isinstance(record, dict) and "result" in record and "spec" in record:
                step(f"cell/{path.relative_to(paper / 'cells')}", numbers(record["result"]))
    for path in sorted((paper / "cells").rglob("*.safetensors")):
        if "checkpoints" not in path.parts:
            step(f"cell/{path.relative_to(paper / 'cells')}", tensors(path))
    committed = work / "committed"
    shutil.copytree(ROOT / "results/paper/cells", committed / "cells")
    for table in ("table1", "leaderboard"):  # exit code 3 if a number leaves the committed intervals
        vdu("reproduce", table, "--scale", "small", "--only-done", "--output-dir", committed, cache=cache)
    for path in sorted((committed / "small").glob("*.json")):
        step(f"committed/{path.name}", numbers(json.loads(path.read_text())))
    return found


def main() -> None:
    """Record or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["record", "compare"])
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    recording = arguments.what == "record"
    with tempfile.TemporaryDirectory() as work:
        found = collect(Path(work), arguments.file if recording else None)
    if recording:
        print(f"golden: {len(found)} numbers written to {arguments.file}")
        return
    before = json.loads(arguments.file.read_text())
    found = json.loads(json.dumps(found))
    wrong = [name for name in sorted(before.keys() | found.keys()) if before.get(name) != found.get(name)]
    for name in wrong[:60]:
        print(f"{name}: was {before.get(name)}, is {found.get(name)}")
    print(f"golden: {len(before) - len([name for name in wrong if name in before])} of {len(before)} numbers are equal")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
