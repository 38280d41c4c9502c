#!/usr/bin/env python3
"""Memory of the streaming moments of an ensemble: two extra copies of the parameters, whatever the number of members.

Usage: ensemble_moments.py [--json results/ensemble_moments.json]

Members are 21 M float32 parameters in 20 tensors, made one after another and let go. Each measurement is a process of its
own, whose peak resident memory is compared with that of a process that makes the same members and does nothing with them:

    streaming   ``vdu.posterior.moments.StreamingMoments``
    kept        a control that must grow with K: a list of the members as they are

``held`` is what the accumulators keep, counted from their tensors; ``peak_extra`` is measured, with the temporaries of one
tensor. Both in copies of the parameters: as float32, as the members are, and in the accumulators' own dtype, float64,
where a copy is twice as large. Goal: two copies in their own dtype for every K, and a peak that K does not move.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import torch

from vdu.core.records import environment, write_json
from vdu.posterior.moments import StreamingMoments

SHAPES = [(1024, 1024)] * 20
N_PARAMETERS = sum(rows * columns for rows, columns in SHAPES)
MEMBERS = (2, 8)


def member(k):
    """One member: float32 tensors drawn from its number."""
    source = torch.Generator().manual_seed(k)
    return {f"layer.{i}": torch.randn(shape, generator=source) for i, shape in enumerate(SHAPES)}


def measure(kind, n_members):
    """Peak resident bytes of taking in some members, and the bytes that are kept of them (for a process of its own)."""
    torch.set_num_threads(1)
    moments, members, held = StreamingMoments(), [], 0
    for k in range(n_members):
        one = member(k)
        if kind == "streaming":
            moments.update(one)
        elif kind == "kept":
            members.append(one)
        del one
    if kind == "streaming":
        held = sum(value.numel() * value.element_size() for part in vars(moments).values() if isinstance(part, dict)
                   for value in part.values())  # fmt: skip
    return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "held": held}


def in_process(kind, n_members):
    """The same in a new process."""
    command = [sys.executable, __file__, "--measure", kind, str(n_members)]
    # glibc gives every tensor back to the system once it is freed; its heap would hide who needed the memory
    variables = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env=variables)
    return json.loads(answer.stdout)


def copies(n_bytes):
    """Bytes in copies of the parameters, by the dtype of the copy."""
    return {"float32_copies": n_bytes / (4 * N_PARAMETERS), "float64_copies": n_bytes / (8 * N_PARAMETERS)}


def main():
    """Measure all kinds, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("results/ensemble_moments.json"))
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure[0], int(arguments.measure[1]))))
        return
    result = {"n_parameters": N_PARAMETERS, "goal": "2 copies held in their own dtype, whatever K"}
    for n_members in MEMBERS:
        bare = in_process("nothing", n_members)["peak"]
        found = {kind: in_process(kind, n_members) for kind in ("streaming", "kept")}
        result[f"K={n_members}"] = {
            "held": copies(found["streaming"]["held"]),
            "peak_extra": copies(found["streaming"]["peak"] - bare),
            "control_kept_peak_extra": copies(found["kept"]["peak"] - bare),
        }
    result["environment"] = environment()
    print(json.dumps(result, indent=2))
    write_json(arguments.json, result)


if __name__ == "__main__":
    main()
