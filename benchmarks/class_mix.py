#!/usr/bin/env python3
"""How far is the mix of what is kept from the original's own mix, and from the data's?

Usage: class_mix.py RESULTS_FOLDER OUT.json                     (results/paper results/class_mix.json; seconds)

The leaderboard's histogram distance is to the original's own samples without the class, which is what "left as it was" means. But
that mix is not the data's. For every cell of the committed table that has counts, at its largest N: the total variation distance of the
counts without the class from the original's and from those of MNIST's 60,000 training labels, and the original's own distance from
these. "Chance": 95 in 100 draws of as many labels from the training set are nearer to its mix.
"""

import argparse
import json
from pathlib import Path

import torch

from vdu.core.errors import InputError
from vdu.core.records import atomic_file, environment
from vdu.core.rng import generator
from vdu.data.sources import load_images


def mix(counts: torch.Tensor, forget: int) -> torch.Tensor:
    """Shares of the other classes."""
    kept = counts.double().clone()
    kept[forget] = 0
    return kept / kept.sum()


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Total variation."""
    return float((one - other).abs().sum() / 2)


def chance(shares: torch.Tensor, n: int) -> float:
    """What n draws from the mix are away from it, at most in 95 of 100 cases."""
    drawn = torch.multinomial(shares, 2000 * n, replacement=True, generator=generator(0, "chance", n)).view(2000, n)
    found = torch.stack([torch.bincount(each, minlength=len(shares)) for each in drawn]).double() / n
    return float(((found - shares).abs().sum(1) / 2).quantile(0.95))


def main() -> None:
    """Read the cells and write."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("results", type=Path)
    arguments.add_argument("output", type=Path)
    given = arguments.parse_args()
    table = json.loads((given.results / "small" / "leaderboard.json").read_text(encoding="utf-8"))
    try:
        labels = load_images("mnist").labels
    except InputError as error:
        raise SystemExit(str(error)) from None
    assert labels is not None
    data, rows = torch.bincount(torch.as_tensor(labels), minlength=10), []
    for cell in table["cells"]:
        path = given.results / "cells" / f"{cell}.json"
        if not path.parent.name.isdigit():  # a model, a posterior or samples
            continue
        found = json.loads(path.read_text(encoding="utf-8"))["result"].get("at", {})
        measured = {int(n): at["histogram"] for n, at in found.items() if "histogram" in at}
        if not measured:
            continue
        n, forget = max(measured), int(path.parent.name)
        original, unlearned, real = (
            mix(torch.as_tensor(counts), forget) for counts in (measured[n]["original"], measured[n]["unlearned"], data)
        )
        rows.append({
            "cell": cell, "n_images": n, "to_original": distance(unlearned, original), "to_data": distance(unlearned, real),
            "original_to_data": distance(original, real), "chance": chance(real, int(n * (1 - float(data[forget]) / len(labels)))),
        })  # fmt: skip
        print(rows[-1], flush=True)
    with atomic_file(given.output) as temporary:
        temporary.write_text(
            json.dumps({"rows": rows, "environment": environment()}, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
