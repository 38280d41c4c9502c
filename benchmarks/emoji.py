"""Forgetting in the packaged text-to-image model: methods against each other, by the packaged judges of objects and styles.

    python benchmarks/emoji.py results/emoji/leaderboard.json [--work runs/emoji] [--retrained runs/without-cat/pipeline] [--only NAME …]

Every row is a `vdu unlearn` and a `vdu evaluate` with N = 200 images of each set of prompts. A row that the file already has is not run
again, and a run in WORK only if its command was another. The model retrained without cats is not packaged (docs/dev/emoji.md makes it);
without it the file keeps its row from other runs.
The prompts of hearts and of the style come from the packaged model's and from the `classes` of examples/emoji-cat.toml. Six prompts of
"heart eyes" name what is forgotten and ask for another object; they are left out. A row is three to eight minutes on one core. `--print`
shows the file as a table.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from vdu.core.naming import names
from vdu.core.records import write_json

N_IMAGES = 200
UNLEARN = "unlearn zoo:emoji --guidance-scale 3"
OBJECTS, STYLES = (
    "--judge zoo:emoji-object --cross-judge zoo:emoji-style",
    "--judge zoo:emoji-style --cross-judge zoo:emoji-object",
)
CATS = Path("examples/emoji-cat.toml")
CONCEPTS = {
    "cat": ("--forget-prompt cat", OBJECTS),
    "heart": ("--forget-prompt heart --forget-prompt hearts", OBJECTS),
    "twemoji": ("--forget-prompt 'twemoji style'", STYLES),
}
DRAWINGS = Path("src/vdu/zoo/emoji/vdu.json")
NEAR_HEARTS = ("flower", "fruit")
POSTERIORS = {"isotropic": "", "fisher": "--n-train 14496"}  # 16 pictures of each of 906 drawings (docs/dev/emoji.md)
FAST = "--learning-rate 1e-3 --steps 300"
ROWS: dict[str, tuple[str, str]] = {
    **{f"distillation-dog-{seed}": ("cat", f"--instead dog {FAST} --seed {seed}") for seed in (0, 1, 2)},
    "distillation": ("cat", FAST),
    "distillation-dog-slow": ("cat", "--instead dog"),
    "distillation-flower": ("heart", f"--instead flower {FAST}"),
    **{f"distillation-flower-{seed}": ("heart", f"--instead flower {FAST} --seed {seed}") for seed in (1, 2)},
    "esd-x": ("cat", "--method esd --train cross-attention --learning-rate 1e-4 --batch-size 16"),
    "concept-ablation": ("cat", "--method concept-ablation --instead dog --learning-rate 1e-4"),
    "uce": ("cat", "--method uce --option keep_weight=0.1"),
    "uce-published": ("cat", "--method uce --instead dog"),
    "vdu": ("cat", "--method vdu --posterior {work}fisher"),
    "vdu-isotropic": ("cat", "--method vdu --posterior {work}isotropic"),
    "retrack": ("cat", "--method retrack"),
    **{f"retrack-{seed}": ("cat", f"--method retrack --seed {seed}") for seed in (1, 2)},
    "retrack-hearts": ("heart", "--method retrack"),
    "retrack-fluent": ("twemoji", "--method retrack"),
    **{f"retrack-fluent-{seed}": ("twemoji", f"--method retrack --seed {seed}") for seed in (1, 2)},
    "distillation-fluent": ("twemoji", f"--instead 'fluent style' {FAST}"),
    **{f"distillation-fluent-{seed}": ("twemoji", f"--instead 'fluent style' {FAST} --seed {seed}") for seed in (1, 2)},
    "distillation-dog-text-encoder": ("cat", f"--instead dog --train text-encoder {FAST}"),
    "retrack-text-encoder": ("cat", "--method retrack --train text-encoder"),
    "esd-x-hearts": ("heart", "--method esd --train cross-attention --learning-rate 1e-4 --batch-size 16"),
    "concept-ablation-hearts": ("heart", "--method concept-ablation --instead flower --learning-rate 1e-4"),
}


def measured(name: str, work: Path, retrained: Path | None) -> dict[str, Any]:
    """A row: run what its folder lacks, and read the counts."""
    concept, options = ROWS[name]
    forget, judges = CONCEPTS[concept]
    run, prompts = work / name, CATS if concept == "cat" else work / f"{concept}.json"
    unlearn = f"{UNLEARN} {forget} {options}"
    for kind, given in POSTERIORS.items():
        if f"{{work}}{kind}" in options and not (work / kind).is_dir():
            call(f"posterior {kind} zoo:emoji {given} -o {work / kind}")
    evaluate = f"evaluate {{}} {judges} --n-images {N_IMAGES} --suite none --forget-class {concept} --prompts {{}}"
    if not prompts.is_file():
        write_json(prompts, prompts_of(concept))
    wanted, made = f"{unlearn.format(work=f'{work}/')} -o {run} --overwrite", read(run / "run.json")
    if not made.get("finished") or made["command"][1:] != shlex.split(wanted):
        call(wanted)
    beside = retrained if concept == "cat" else None
    found = read(run / "metrics.json")
    if not found or (beside is not None and found["protocol"].get("retrained_path") != str(beside.resolve())):
        call(evaluate.format(run, prompts) + (f" --retrained {beside}" if beside is not None else ""))
    words = read(run / "metrics.json")["words"]
    stages = {each["stage"]: each for each in read(run / "run.json")["stages"]}
    return {
        "forgotten": concept,
        "command": f"vdu {unlearn.format(work='')} -o run",
        "evaluate": "vdu " + evaluate.format("run", CATS if concept == "cat" else prompts.name),
        "n_images": N_IMAGES,
        "network_evaluations": stages["unlearn"]["network_evaluations"],
        "accuracy": words["accuracy"],
        "changed": {each["name"]: each["changed"] for each in words["sets"] if each["changed"]},
    }


def read(path: Path) -> dict[str, Any]:
    """A JSON file; empty if it is not there."""
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def prompts_of(concept: str) -> dict[str, Any]:
    """The sets of prompts for another concept than cats, in the order of the packaged model's prompts."""
    asked = tomllib.loads(CATS.read_text("utf-8"))["classes"]
    drawings = {text: asked[text] for text in json.loads(DRAWINGS.read_text("utf-8"))["prompts"]}
    wanted = [text for text, classes in drawings.items() if concept in classes]
    if concept == "heart":
        plain = {f"heart, {style} style": ["heart", style] for style in ("noto", "fluent", "twemoji")}
        drawings, wanted = drawings | plain, wanted + list(plain)
    kept = {text: asked for text, asked in drawings.items() if text not in wanted and not names(text, concept)}
    near = [text for text, asked in kept.items() if concept == "heart" and asked[0] in NEAR_HEARTS]
    sets = {"target": wanted, "neighbours": near, "others": [text for text in kept if text not in near]}
    return {name: each for name, each in sets.items() if each} | {
        "classes": {text: drawings[text] for text in (*wanted, *kept)}
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
    found = read(asked.file) or {"rows": {}}
    left = [name for name in asked.only if name not in found["rows"] and not asked.show]
    if asked.retrained is not None and not any(ROWS[name][0] == "cat" for name in left):
        parser.error(
            f"--retrained: no row of cats is left to run; remove one from {asked.file} to have it measured beside that model"
        )
    for name in left:
        found["rows"][name] = measured(name, asked.work, asked.retrained)
        write_json(asked.file, found)
    print(table(found["rows"]))


if __name__ == "__main__":
    main()
