"""Forgetting in the packaged text-to-image model: methods against each other, by the packaged judges of objects and styles.

    python benchmarks/emoji.py results/emoji/leaderboard.json [--work runs/emoji] [--retrained runs/without-cat/pipeline] [--only NAME …]

Every row is a `vdu unlearn` and a `vdu evaluate` with N = 200 images of each set of prompts. A row that the file already has is not run
again. The model retrained without cats is not packaged (docs/dev/emoji.md makes it); without it the file keeps its row from other runs.
Hearts need heart.toml in the folder of --work: what `tools/train_emoji.py sets CANVAS heart flower fruit` prints, without the six
prompts of "heart eyes", which name what is forgotten. A row is three to eight minutes on one core. `--print` shows the file as a table.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from vdu.core.records import write_json

N_IMAGES = 200
UNLEARN = "unlearn zoo:emoji --guidance-scale 3"
EVALUATE = f"evaluate {{run}} --judge zoo:emoji-object --cross-judge zoo:emoji-style --n-images {N_IMAGES} --suite none"
OBJECTS = {
    "cat": ("--forget-prompt cat", "--forget-class cat --prompts examples/emoji-cat.toml"),
    "heart": ("--forget-prompt heart --forget-prompt hearts", "--forget-class heart --prompts {work}/heart.toml"),
}
FAST = "--learning-rate 1e-3 --steps 300"
ROWS: dict[str, tuple[str, str]] = {
    **{f"distillation-dog-{seed}": ("cat", f"--instead dog {FAST} --seed {seed}") for seed in (0, 1, 2)},
    "distillation": ("cat", FAST),
    "distillation-dog-slow": ("cat", "--instead dog"),
    "distillation-flower": ("heart", f"--instead flower {FAST}"),
    "esd-x": ("cat", "--method esd --train cross-attention --learning-rate 1e-4 --batch-size 16"),
    "concept-ablation": ("cat", "--method concept-ablation --instead dog --learning-rate 1e-4"),
    "uce": ("cat", "--method uce --option keep_weight=0.1"),
    "uce-published": ("cat", "--method uce --instead dog"),
}


def measured(name: str, work: Path, retrained: Path | None) -> dict[str, Any]:
    """A row: run what its folder lacks, and read the counts."""
    concept, options = ROWS[name]
    forget, evaluate = OBJECTS[concept]
    run = work / name
    unlearn = f"{UNLEARN} {forget} {options}"
    asked = f"{EVALUATE} {evaluate}".format(run=run, work=work)
    if retrained is not None and concept == "cat":
        asked += f" --retrained {retrained}"
    if not (run / "run.json").is_file():
        call(f"{unlearn} -o {run} --overwrite")
    if not (run / "metrics.json").is_file():
        call(asked)
    words = json.loads((run / "metrics.json").read_text("utf-8"))["words"]
    stages = {each["stage"]: each for each in json.loads((run / "run.json").read_text("utf-8"))["stages"]}
    return {
        "forgotten": concept,
        "command": f"vdu {unlearn} -o run",
        "evaluate": "vdu " + f"{EVALUATE} {evaluate}".format(run="run", work="."),
        "n_images": N_IMAGES,
        "network_evaluations": stages["unlearn"]["network_evaluations"],
        "accuracy": words["accuracy"],
        "changed": {each["name"]: each["changed"] for each in words["sets"] if each["changed"]},
    }


def call(command: str) -> None:
    """A command of vdu, which prints its progress."""
    subprocess.run([sys.executable, "-m", "vdu", *shlex.split(command)], check=True)


def table(rows: dict[str, Any]) -> str:
    """All rows, with those of the models that are no method taken from the first run that has them."""
    lines = ["| row | forgotten | UA | IRA | CRA | others changed |", "|---|---|---|---|---|---|"]
    references: dict[tuple[str, str], str] = {}
    for name, row in rows.items():
        of: dict[str, dict[str, Any]] = {}
        for each in row["accuracy"]:
            of.setdefault(each["model"], {})[each["name"]] = each
        for model, found in of.items():
            shares = " | ".join(_share(found.get(kind)) for kind in ("UA", "IRA", "CRA"))
            changed = [each[model] for each in row["changed"].values() if model in each]
            part = _share(
                {key: sum(each[key] for each in changed) for key in ("count", "n_images")} if changed else None
            )
            line = f"| {{}} | {row['forgotten']} | {shares} | {part} |"
            if model == "unlearned":
                lines.append(line.format(name))
            else:
                references.setdefault((row["forgotten"], model), line.format(model.replace("_", " ")))
    return "\n".join([*lines[:2], *references.values(), *lines[2:]])


def _share(counted: dict[str, Any] | None) -> str:
    return "" if counted is None else f"{100 * counted['count'] / counted['n_images']:.1f} %"


def main() -> None:
    """Run the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/emoji"))
    parser.add_argument("--retrained", type=Path)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--print", action="store_true", dest="show")
    asked = parser.parse_args()
    found = json.loads(asked.file.read_text("utf-8")) if asked.file.is_file() else {"rows": {}}
    for name in [] if asked.show else asked.only:
        if name not in found["rows"]:
            found["rows"][name] = measured(name, asked.work, asked.retrained)
            write_json(asked.file, found)
    print(table(found["rows"]))


if __name__ == "__main__":
    main()
