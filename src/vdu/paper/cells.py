"""A long computation as cells, each computed once: resumable after an interruption, and shared by processes and machines.

A cell's name contains a hash of its specification and of the cells it needs, so that a changed setting gives another cell and an
unchanged one is never computed twice, by any table. Its result is one JSON file with a checksum; a damaged one is reported and
computed again. A lock, released by the kernel when its holder ends, prevents two processes from computing the same cell; a process
that finds all remaining cells taken waits for them.

Not guaranteed: locks between machines on file systems without ``flock``; in that case give each machine its own cells.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from vdu.core.errors import DivergenceError, InputError
from vdu.core.processes import say
from vdu.core.records import FORMAT_VERSION, environment, read_json, sha256_bytes, sha256_file, write_json

__all__ = ["Cell", "CellStore", "run_cells", "with_needs"]

POLL_SECONDS = 2.0


@dataclass(frozen=True, eq=False)
class Cell:
    """One piece of work.

    Attributes:
        name: readable, unique among cells of the same specification, for example "small/mnist/1/vdu/seed-0".
        spec: everything that determines the result, as plain values.
        make: does the work; it receives the results of ``needs`` by their names here and the path stem for its own files, and
        returns plain values. ``files`` in them names further files of the result.
        needs: the cells that must be done before.
        title: a readable title, if the name is not clear enough; not part of the identity.
    """

    name: str
    spec: Mapping[str, Any]
    make: Callable[[Mapping[str, Any], Path], dict[str, Any]] = field(repr=False)
    needs: Mapping[str, "Cell"] = field(default_factory=dict, repr=False)
    title: str = ""

    @cached_property
    def id(self) -> str:
        """Name and hash of the specification, the needed cells' included; also the path of the result below the store."""
        whole = {"spec": self.spec, "needs": {name: cell.id for name, cell in self.needs.items()}}
        return f"{self.name}-{sha256_bytes(json.dumps(whole, sort_keys=True).encode())[:10]}"


class CellStore:
    """Results in a folder.

    Args:
        folder: the folder; it is created if missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, dict[str, Any]] = {}
        self._told: set[tuple[Path, str]] = set()  # so that a damaged result is reported only once

    def stem(self, cell: Cell) -> Path:
        """The path of a cell's files, without an ending."""
        return self.folder / "cells" / cell.id

    def result(self, cell: Cell) -> dict[str, Any] | None:
        """A cell's record, if it exists and is intact.

        Args:
            cell: which.

        Returns:
            ``{"spec", "result", "seconds", "environment", …}``, or None; a damaged one is reported on standard error.
        """
        if cell.id not in self._read:
            path = self.stem(cell).with_name(self.stem(cell).name + ".json")
            if not path.exists():
                return None
            trouble = self._trouble(path)
            if trouble:
                if (path, trouble) not in self._told:
                    say(f"vdu: {trouble.rstrip('.')}; this cell is made again.")
                    self._told.add((path, trouble))
                return None
            self._read[cell.id] = read_json(path)
        return self._read[cell.id]

    def _trouble(self, path: Path) -> str | None:
        try:
            record = read_json(path)
        except InputError as error:
            return str(error)
        if not isinstance(record, dict) or record.get("sha256") != _checksum(record):
            return f"{path.name}: its checksum is wrong"
        for name, sha256 in record["result"].get("files", {}).items():
            file = path.parent / name
            if not file.is_file() or sha256_file(file) != sha256:
                return f"{path.name}: its file {name} is missing or changed"
        return None

    def write(self, cell: Cell, result: dict[str, Any], seconds: float) -> None:
        """Store a result atomically."""
        record = {
            "format_version": FORMAT_VERSION,
            "cell": cell.id,
            "spec": dict(cell.spec),
            "result": result,
            "seconds": round(seconds, 1),
            "environment": environment(),
        }
        path = self.stem(cell).with_name(self.stem(cell).name + ".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        record = json.loads(json.dumps(record, allow_nan=False))  # as it will be read, for the checksum
        write_json(path, record | {"sha256": _checksum(record)})

    @contextmanager
    def claim(self, cell: Cell) -> Iterator[bool]:
        """Try to take a cell for this process.

        Args:
            cell: which.

        Yields:
            Whether this process has the lock; if not, another process is computing the cell.
        """
        try:
            import fcntl
        except ImportError:  # not a POSIX system: one process only
            yield True
            return
        path = self.stem(cell).with_name(f".{self.stem(cell).name}.lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True


def run_cells(store: CellStore, cells: Sequence[Cell], *, say: Callable[[str], None]) -> None:
    """Compute all missing cells, in the order of their needs.

    A cell whose method diverges is stored as such, since a table must show it. Any other error stops the run; finished
    cells are kept.

    Args:
        store: the store of results.
        cells: the cells; missing cells that they need are computed, too.
        say: called with progress messages.
    """
    waiting = with_needs(cells, done=lambda cell: store.result(cell) is not None)
    total, moved, told = len(waiting), True, False
    while waiting:
        if not moved:
            if not told:
                say(
                    "waiting for cells that another process is making: "
                    + ", ".join(cell.name for cell in waiting.values())
                )
            told = True
            time.sleep(POLL_SECONDS)
        moved = False
        for cell in list(waiting.values()):
            if store.result(cell) is None:
                if any(need.id in waiting for need in cell.needs.values()):
                    continue
                with store.claim(cell) as mine:
                    if not mine:
                        continue
                    if store.result(cell) is None:  # otherwise another process has just finished it
                        say(f"[{total - len(waiting) + 1}/{total}] {cell.title or cell.name}")
                        _make(store, cell)
            del waiting[cell.id]
            moved = True


def _make(store: CellStore, cell: Cell) -> None:
    needs = {name: (store.result(need) or {})["result"] for name, need in cell.needs.items()}
    began = time.monotonic()
    try:
        result = cell.make(needs, store.stem(cell))
    except DivergenceError as error:
        result = {"status": "diverged", "message": str(error)}
    store.write(cell, result, time.monotonic() - began)


def with_needs(cells: Sequence[Cell], done: Callable[[Cell], bool] = lambda cell: False) -> dict[str, Cell]:
    """The cells and all that they need, by id, each after those it needs.

    Args:
        cells: some cells.
        done: if it is true for a cell, the needs of that cell are left out.

    Returns:
        id → cell.
    """
    found: dict[str, Cell] = {}

    def visit(cell: Cell) -> None:
        if cell.id not in found:
            for need in () if done(cell) else cell.needs.values():
                visit(need)
            found[cell.id] = cell

    for cell in cells:
        visit(cell)
    return found


def _checksum(record: dict[str, Any]) -> str:
    rest = {name: value for name, value in record.items() if name != "sha256"}
    return sha256_bytes(json.dumps(rest, sort_keys=True).encode())
