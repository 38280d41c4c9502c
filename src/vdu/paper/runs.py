"""One record per run and number of images, as a CSV file: for readers who want to plot or average for themselves. Torch-free."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdu.core.records import atomic_file
from vdu.paper.cells import Cell, CellStore
from vdu.paper.tables import Table, label_of

if TYPE_CHECKING:
    from vdu.paper.reproduce import Plan

__all__ = ["Run", "machine_of", "runs_of", "write_runs"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of a method for a class and a seed, or a reference, measured on a number of images. Empty: there is no such number.

    Attributes:
        dataset: the data set.
        forget: the class to forget.
        method: the name of the method's row in the table's TOML file, or of a reference (original, filtered-original,
            real-split, retrained, average).
        label: the same in words.
        seed: of the unlearning run; references have none.
        n_images: images per model, all from the same noise.
        status: measured, diverged, or "not run".
        n_before: images of the class among the original's.
        n_left: images of the class among the unlearned model's.
        pul: share of the class that is gone, in per cent; negative if the class became more frequent.
        pul_low, pul_high: its 95 % interval over images.
        second_pul: PUL by the second classifier.
        u_fid: Fréchet distance to real images without the class, on the classifier's features.
        u_fid_low, u_fid_high: its 95 % interval over images.
        precision, recall: of the generated images, on the same features, 0 to 1.
        mix_shift: total variation distance of the other classes' shares from the original's, 0 to 1.
        mix_shift_chance: what equal mixes exceed in 5 % of draws.
        n_changed, n_kept: images of the other classes whose class is another one now, and of how many; None in results of earlier versions.
        network_evaluations: of the method (an image forward counts 1, backward 2).
        posterior_evaluations: of its posterior, if it has one.
        unlearn_seconds: time to unlearn, without the posterior and the measurement.
        machine: where that was.
        paper_pul, paper_u_fid: the printed values.
        cell: the cell's file below ``cells``, without its ending.
    """

    dataset: str
    forget: str
    method: str
    label: str
    seed: int | None = None
    n_images: int | None = None
    status: str = "measured"
    n_before: int | None = None
    n_left: int | None = None
    pul: float | None = None
    pul_low: float | None = None
    pul_high: float | None = None
    second_pul: float | None = None
    u_fid: float | None = None
    u_fid_low: float | None = None
    u_fid_high: float | None = None
    precision: float | None = None
    recall: float | None = None
    mix_shift: float | None = None
    mix_shift_chance: float | None = None
    n_changed: int | None = None
    n_kept: int | None = None
    network_evaluations: int | None = None
    posterior_evaluations: int | None = None
    unlearn_seconds: float | None = None
    machine: str | None = None
    paper_pul: float | None = None
    paper_u_fid: float | None = None
    cell: str | None = None


def runs_of(table: Table, made: "Plan", store: CellStore) -> list[Run]:
    """Every measured number of a table, run by run.

    Args:
        table: gives labels and printed values.
        made: its finished cells.
        store: the store of their results.

    Returns:
        References first, class by class, then the rows in the table's order, and the printed rows that were not run.
    """
    runs: list[Run] = []
    for (dataset, forget), cell in made.references.items():
        for n, at in _result(store, cell)["at"].items():
            for name in (name for name in at if name != "n_original"):
                count = {"n_before": at["n_original"], "n_left": at["n_original"] if name == "original" else None}
                about = _about(table, dataset, forget, name) | _numbers(at[name]) | count
                runs.append(Run(**about, n_images=int(n), cell=cell.id))
    rows = made.measured_models | made.rows
    for key, cells in rows.items():
        for cell in cells:
            runs += _of_cell(_about(table, *key), cell, _result(store, cell), _machine_of_cell(store, cell))
    printed = ((each.dataset, each.forget, each.row) for each in table.printed)
    return runs + [Run(**_about(table, *key), status="not run") for key in printed if key not in rows]


def write_runs(path: Path, runs: Iterable[Run]) -> None:
    """Write the runs as CSV, a column per field of :class:`Run`.

    Args:
        path: the file.
        runs: its lines.
    """
    with atomic_file(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [item.name for item in fields(Run)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(run) for run in runs)


def machine_of(environment: Mapping[str, Any]) -> str:
    """The machine of a record, in a few words.

    Args:
        environment: as :func:`vdu.core.records.environment` gives it.

    Returns:
        For example "AMD EPYC, 2 cores, torch 2.13.0+cpu".
    """
    hardware = environment["hardware"]
    where = hardware.get("accelerator") or f"{hardware['cpu']}, {hardware['cpu_cores']} cores"
    return f"{where}, torch {environment['packages']['torch']}"


def _about(table: Table, dataset: str, forget: str, name: str) -> dict[str, Any]:
    """What a run is of, with the printed values."""
    about: dict[str, Any] = {"dataset": dataset, "forget": forget, "method": name, "label": label_of(table, name)}
    for each in table.printed:
        if (each.dataset, each.forget, each.row) == (dataset, forget, name):
            about |= {"paper_pul": each.pul, "paper_u_fid": each.u_fid}
    return about


def _of_cell(about: Mapping[str, Any], cell: Cell, result: Mapping[str, Any], machine: str) -> list[Run]:
    names = ("network_evaluations", "posterior_evaluations", "unlearn_seconds")
    about = {**about, "seed": cell.spec.get("seed"), "cell": cell.id, "machine": machine}
    about |= {name: result.get(name) for name in names}
    if result["status"] != "measured":
        return [Run(**about, status=result["status"], n_images=cell.spec.get("n_images"))]
    return [Run(**about, n_images=int(n), **_numbers(at)) for n, at in result["at"].items()]


def _numbers(at: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured at one number of images, as fields of :class:`Run`."""
    found: dict[str, Any] = {name: at.get(name) for name in ("precision", "recall")}
    found |= {"u_fid": at["u_fid"]["value"], "u_fid_low": at["u_fid"]["low"], "u_fid_high": at["u_fid"]["high"]}
    if pul := at.get("pul"):
        found |= {"pul": pul["value"], "pul_low": pul["low"], "pul_high": pul["high"]}
        found |= {"n_before": pul["n_original"], "n_left": pul["n_unlearned"]}
    if second := at.get("second"):
        found["second_pul"] = second["pul"]["value"]
    if changed := at.get("changed"):
        found |= dict(zip(("n_changed", "n_kept"), changed, strict=True))
    if mix := at.get("histogram"):
        found |= {"mix_shift": mix["distance"], "mix_shift_chance": mix["chance_high"]}
    return found


def _result(store: CellStore, cell: Cell) -> dict[str, Any]:
    return (store.result(cell) or {})["result"]


def _machine_of_cell(store: CellStore, cell: Cell) -> str:
    return machine_of((store.result(cell) or {})["environment"])
