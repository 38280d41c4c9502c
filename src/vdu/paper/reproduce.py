"""``vdu reproduce``: a table of the paper with our numbers beside the published ones, or its figures, cell by cell.

It writes ``<table>.json`` (everything), ``<table>.csv`` (one line per run), ``<table>.md`` and the figures to OUT/<scale>/. The cells are
in OUT/cells. An interrupted run repeats no finished cell, and several processes or machines can work on one OUT. Exit code 3 means that
a number's interval does not overlap the committed one.
"""

import os
import sys
from collections import Counter
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from vdu.commands.options import GivenFirst
from vdu.core.errors import InputError
from vdu.core.records import atomic_file, environment, read_json, write_json
from vdu.paper import leaderboard_page, table_page
from vdu.paper.aggregate import INTERVALS, aggregate, compare, differences, judge_claims
from vdu.paper.cells import Cell, CellStore, run_cells, with_needs
from vdu.paper.runs import machine_of, runs_of, write_runs
from vdu.paper.summary import Summary, summarise
from vdu.paper.tables import REFERENCES, Table, expected_results, load_table

if TYPE_CHECKING:
    from vdu.judges.classifier import Judge
    from vdu.paper.plan import PaperCells

__all__ = ["ReproduceSettings", "plan", "run"]

FIGURE_TABLES = ("table1", "table2")


@dataclass(frozen=True, kw_only=True)
class ReproduceSettings:
    """Run a table of the paper, or its figures, cell by cell; finished cells are not repeated.

    Attributes:
        table: table1, table2, figures, leaderboard, labels (the same for a model with labels) or digits (the defaults on the other
            digits), or a TOML file of that form.
        scale: smoke (minutes), small (two CPU cores, hours), network (the paper's MNIST network, trained for a few epochs; two CPU
            cores, days) or paper (the paper's networks; needs an accelerator).
        output_dir: the folder of all scales' cells; several processes and machines can share it.
        data: the source of the training data, if not the table's (for example mnist:FOLDER).
        dataset: only the rows of this data set of the table (mnist or cifar10).
        list_cells: only list the cells and their state.
        only_done: write the table from the finished cells; rows without any are listed as not run. If none of a table of the paper
            is there, but its JSON file is, the page is written from that.
    """

    table: Annotated[str, GivenFirst] = "table1"
    scale: Literal["smoke", "small", "network", "paper"] = "small"
    output_dir: Path = Path("vdu-paper")
    data: str | None = None
    dataset: str | None = None
    list_cells: bool = False
    only_done: bool = False


def run(settings: ReproduceSettings) -> dict[str, Any]:
    """Compute the missing cells, then write tables and figures.

    Args:
        settings: see :class:`ReproduceSettings`.

    Returns:
        A summary: the files, and the differences from the committed results; ``exit_code`` is 3 if there are any.
    """
    names = FIGURE_TABLES if settings.table == "figures" else (settings.table,)
    tables = [load_table(name, settings.scale) for name in names]
    if settings.table == "figures":
        _require_matplotlib()
    _require_writable(settings.output_dir)
    store = CellStore(settings.output_dir)
    needs_data = settings.data is not None or not (settings.only_done or settings.list_cells)
    for table in tables:
        _require_dataset(table, settings.dataset)
    plans = [plan(table, store.folder, settings.data, verify=needs_data, dataset=settings.dataset) for table in tables]
    if settings.list_cells:
        cells = with_needs([cell for made in plans for cell in made.of(settings.dataset)]).values()
        about = {cell.id: f" ({cell.title})" if cell.title else "" for cell in cells}
        return {cell.id: ("done" if store.result(cell) else "missing") + about[cell.id] for cell in cells}
    summary: dict[str, Any] = {}
    for table, made in zip(tables, plans, strict=True):
        if settings.only_done:
            made.keep_done(store)
        else:
            references = [cell for key, cell in made.references.items() if settings.dataset in {None, key[0]}]
            shown = [need for cell in references for need in cell.needs.values()]  # by the grids
            run_cells(
                store, [*made.of(settings.dataset), *(shown if settings.table == "figures" else [])],
                say=lambda text: print(text, file=sys.stderr, flush=True),
            )  # fmt: skip
        if settings.dataset is not None:  # of the others, what is done stays on the page
            made.keep_done(store)
        summary |= _write(table, made, store, settings)
    return summary


class Plan:
    """The cells of a table, by their role.

    Attributes:
        rows: (data set, class, row) → cells, one per seed.
        references: (data set, class) → cell.
        retrained: (data set, class) → cell.
        averages: (data set, class) → cell of the original's averaged weights.
        checks: data set → cell.
        not_run: (data set, class, row) of rows without a finished cell, if only finished ones are used.
        worlds: data set → the plan of its cells.
    """

    def __init__(self) -> None:
        self.worlds: dict[str, PaperCells] = {}
        self.rows: dict[tuple[str, str, str], list[Cell]] = {}
        self.references: dict[tuple[str, str], Cell] = {}
        self.retrained: dict[tuple[str, str], Cell] = {}
        self.averages: dict[tuple[str, str], Cell] = {}
        self.checks: dict[str, Cell] = {}
        self.not_run: list[tuple[str, str, str]] = []

    def keep_done(self, store: CellStore) -> None:
        """Drop the cells that have no result, and classes without references; ``not_run`` names the rows that lose all."""
        for cells in (self.references, self.retrained, self.averages, self.checks):
            for key in [key for key, cell in cells.items() if store.result(cell) is None]:
                del cells[key]  # pyright: ignore[reportArgumentType]
        for key, cells in list(self.rows.items()):
            done = [cell for cell in cells if store.result(cell) is not None]
            if done and key[:2] in self.references:
                self.rows[key] = done
            else:
                del self.rows[key]
                self.not_run.append(key)
        for cells in (self.retrained, self.averages):
            for key in cells.keys() - self.references.keys():
                del cells[key]

    def judge(self, dataset: str, store: CellStore) -> "Judge":
        """The judge of a data set, once its cells are done."""
        (_, forget), cell = next((key, cell) for key, cell in self.references.items() if key[0] == dataset)
        done = {name: (store.result(need) or {})["result"] for name, need in cell.needs.items()}
        return self.worlds[dataset].making.judging(forget, done).judge

    @property
    def measured_models(self) -> dict[tuple[str, str, str], list[Cell]]:
        """(data set, class, retrained or average) → the cell, as in ``rows``."""
        found = {"retrained": self.retrained, "average": self.averages}
        return {(*key, name): [cell] for name, cells in found.items() for key, cell in cells.items()}

    def of(self, dataset: str | None) -> list[Cell]:
        """Every cell of a data set; of all for None."""
        return [cell for cell in self.all if dataset is None or cell.name.split("/")[1] == dataset]

    @property
    def all(self) -> list[Cell]:
        """Every cell, the most needed first: a row's first seed before another row's second; averages early, whose weights are not kept."""
        rows = [cell for seeds in zip_longest(*self.rows.values()) for cell in seeds if cell is not None]
        return [
            *self.references.values(),
            *self.averages.values(),
            *rows,
            *self.retrained.values(),
            *self.checks.values(),
        ]


def plan(
    table: Table, folder: Path, data: str | None = None, *, verify: bool = True, dataset: str | None = None
) -> Plan:
    """The cells of a table at its scale.

    Args:
        table: the table.
        folder: the store's folder.
        data: the source of the training data, if not the table's.
        verify: load the data and check now what would stop a later cell; not needed if no cell is computed.
        dataset: the only data set whose cells are computed, and which ``data`` is of; None for all.

    Returns:
        The cells.
    """
    made = Plan()
    for name in dict.fromkeys(each.dataset for each in table.runs):
        _add_world(
            made, table, name, folder, data if dataset in {None, name} else None, verify and dataset in {None, name}
        )
    return made


def _add_world(made: Plan, table: Table, dataset: str, folder: Path, data: str | None, verify: bool) -> None:
    """The cells of one data set."""
    from vdu.paper.plan import PaperCells

    runs = [each for each in table.runs if each.dataset == dataset]
    sizes = tuple(each.n_images for each in runs)
    cells = PaperCells(
        folder, table.scale, dataset, table.worlds[dataset], data=data, sizes=sizes, leaderboard=table.leaderboard
    )
    cells.verify_rows({name: table.rows[name] for each in runs for name in each.rows})
    if verify:
        cells.verify_data({forget for each in runs for forget in each.forget})
    made.worlds[dataset] = cells
    for each in runs:
        for name in each.rows:
            for forget in each.forget:
                made.references.setdefault((dataset, forget), cells.reference(forget))
                made.rows.setdefault((dataset, forget, name), []).extend(
                    cells.row(table.rows[name], forget, seed, each.n_images) for seed in each.seeds
                )
    for forget in table.worlds[dataset].retrained:
        if (dataset, forget) in made.references:
            made.retrained[dataset, forget] = cells.retrained_row(forget)
    for forget in table.worlds[dataset].average:
        if (dataset, forget) in made.references and not table.leaderboard:
            made.averages[dataset, forget] = cells.average_row(forget)
    if table.worlds[dataset].check and not table.leaderboard:  # table1 and table2 show it
        first = runs[0]
        made.checks[dataset] = cells.check(table.rows[first.rows[0]], first.forget[0])


def _require_dataset(table: Table, dataset: str | None) -> None:
    known = dict.fromkeys(each.dataset for each in table.runs)
    if dataset is not None and dataset not in known:
        raise InputError(
            f"--dataset: got {dataset!r}; expected one that {table.name} runs at this scale: {', '.join(known)}."
        )


def _write(table: Table, made: Plan, store: CellStore, settings: ReproduceSettings) -> dict[str, Any]:
    """Write everything of one table, and compare it with the committed numbers."""
    folder = settings.output_dir / settings.scale
    path = folder / f"{table.name}.json"
    again = settings.only_done and not made.rows and path.is_file() and not table.leaderboard
    results = read_json(path) if again else _results(table, made, store, settings)
    committed = expected_results().get(f"{table.name} {table.scale}", {})
    if settings.dataset is not None:
        committed = {name: value for name, value in committed.items() if name.split()[0] == settings.dataset}
    outside = differences(committed, results["rows"])
    results["outside_committed"] = outside
    results["comparison"] = compare(table, results["rows"])
    results["claims"] = judge_claims(table, results["rows"])
    write_json(path, _plain(results))
    files = {table.name: f"{folder / table.name}.md" + " (from its JSON file, since its cells are not here)" * again}
    if not again:
        runs = runs_of(table, made, store)
        write_runs(folder / f"{table.name}.csv", runs)
        files[f"{table.name} runs"] = f"{folder / table.name}.csv"
    if table.leaderboard:
        files |= _write_leaderboard(table, results, summarise(table, runs), folder)
    else:
        _write_text(folder / f"{table.name}.md", table_page.markdown(table, results))
    n_committed = sum(len(metrics) for metrics in committed.values())
    files[f"{table.name} against the committed"] = (
        f"{n_committed - len(outside)} of {n_committed} numbers meet their committed interval" if committed
        else "nothing is committed for this table and scale: not compared"
    )  # fmt: skip
    if settings.table == "figures":
        from vdu.paper.figures import draw

        files |= draw(table, results, made, store, folder)
    return files | ({f"{table.name} outside the committed intervals": outside, "exit_code": 3} if outside else {})


def _write_leaderboard(table: Table, results: dict[str, Any], summary: Summary, folder: Path) -> dict[str, str]:
    """The two pages of a leaderboard, and the plot; without matplotlib an earlier plot stays."""
    files, plot = {}, folder / f"{table.name}.png"
    if summary.methods and _has_matplotlib():
        from vdu.paper.figures import draw_summary

        draw_summary(summary, plot)
        files[f"{table.name} plot"] = str(plot)
    elif summary.methods:
        state = "as it was" if plot.is_file() else "missing"
        files[f"{table.name} plot"] = (
            f"{state}, since matplotlib is not installed (pip install '.[plots]' in the clone)"
        )
    shown = plot.name if summary.methods and plot.is_file() else None
    _write_text(folder / f"{table.name}.md", leaderboard_page.markdown(table, results, summary, shown))
    _write_text(folder / f"{table.name}-details.md", leaderboard_page.details(table, results))
    return files | {f"{table.name} details": f"{folder / table.name}-details.md"}


def _results(table: Table, made: Plan, store: CellStore, settings: ReproduceSettings) -> dict[str, Any]:
    """Aggregate and judge the finished cells."""

    def record(cell: Cell) -> dict[str, Any]:
        found = store.result(cell)
        assert found is not None
        return found

    measured: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for (dataset, forget), cell in made.references.items():
        for name in REFERENCES:
            at = {
                n: {name: value[name], "n_original": value["n_original"]}
                for n, value in record(cell)["result"]["at"].items()
            }
            measured[dataset, forget, name] = [
                {"at": {n: value[name] for n, value in at.items()}, "status": "measured"}
            ]
    for key, (cell,) in made.measured_models.items():
        measured[key] = [record(cell)["result"]]
    for key, cells in made.rows.items():
        measured[key] = [record(cell)["result"] | {"seconds": record(cell)["seconds"]} for cell in cells]
    results = {
        "table": table.name, "scale": table.scale, "title": table.title,
        "command": f"vdu reproduce {table.name} --scale {settings.scale}" + (f" --dataset {settings.dataset}" if settings.dataset else "")
        + " --only-done" * settings.only_done,
        "environment": environment(),
        "rows": aggregate(table, measured),
        "intervals": INTERVALS,
        "judges": {f"{dataset} {forget}": record(cell)["result"]["judge"] for (dataset, forget), cell in made.references.items()},
        "sampler_check": {dataset: record(cell)["result"] for dataset, cell in made.checks.items()},
        "worlds": {name: {**vars(table.worlds[name])} for name in {each.dataset for each in table.runs}},
        "cells": {cell.id: done["seconds"] for cell in with_needs(made.all).values() if (done := store.result(cell))},
        "mean_loss_ratio": {
            cell.name: ratio
            for cell in with_needs(made.all).values()
            if (done := store.result(cell)) and (ratio := done["result"].get("mean_loss_ratio")) is not None
        },
    }  # fmt: skip
    results["machines"] = dict(
        Counter(
            machine_of(done["environment"]) for cell in with_needs(made.all).values() if (done := store.result(cell))
        )
    )
    results["not_run"] = [list(key) for key in made.not_run]
    return results


def _write_text(path: Path, text: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _plain(value: Any) -> Any:
    """Tuples and read-only mappings as JSON types."""
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _require_writable(folder: Path) -> None:
    """Raise an error for an output folder that is not writable, before any work.

    Args:
        folder: the output folder.

    Raises:
        InputError: if it is a file or not writable.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        kind = "is not writable" if there.is_dir() else "is a file"
        raise InputError(f"{there}: {kind}; expected a folder for the cells and tables. Use another --output-dir.")


def _has_matplotlib() -> bool:
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def _require_matplotlib() -> None:
    if not _has_matplotlib():
        raise InputError(
            "figures: matplotlib is missing; expected it for the plots. Install it: pip install '.[plots]' in the clone."
        )
