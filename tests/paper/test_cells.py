"""Cells: made once, in the order of their needs, by however many processes; whatever is damaged is made again, alone.

The file is also the program of the other processes: ``test_cells.py FOLDER PROCESSES SLOW``.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from vdu.core.errors import DivergenceError
from vdu.core.records import read_json, sha256_file
from vdu.paper import cells
from vdu.paper.cells import Cell, CellStore, run_cells


def quiet(text: str) -> None:
    pass


def adding(name, made, *needs, plus=1, file=False, **spec) -> Cell:
    """A cell whose value is ``plus`` more than the sum of those that it needs; it notes its name in ``made``."""

    def make(done, stem):
        made.append(name)
        result = {"value": plus + sum(each["value"] for each in done.values())}
        if file:
            path = stem.with_name(stem.name + ".bin")
            path.write_bytes(name.encode())
            result["files"] = {path.name: sha256_file(path)}
        return result

    return Cell(name, {"plus": plus, **spec}, make, {each.name: each for each in needs})


def diamond(made, **options) -> list[Cell]:
    """top needs left and right, which both need root; values 1, 2, 2, 5."""
    root = adding("root", made, **options)
    left, right = adding("left", made, root), adding("in/a/folder/right", made, root)
    return [root, left, right, adding("top", made, left, right)]


def path_of(store, cell) -> Path:
    return store.folder / "cells" / f"{cell.id}.json"


def test_needs_are_made_before_and_each_cell_once(tmp_path):
    made, said = [], []
    all_cells = diamond(made)
    run_cells(CellStore(tmp_path), [all_cells[-1], all_cells[1]], say=said.append)
    assert made == ["root", "left", "in/a/folder/right", "top"]
    assert said == ["[1/4] root", "[2/4] left", "[3/4] in/a/folder/right", "[4/4] top"]
    again = CellStore(tmp_path)
    values = {cell.name: again.result(cell)["result"]["value"] for cell in all_cells}
    assert values == {"root": 1, "left": 2, "in/a/folder/right": 2, "top": 5}


def test_a_new_process_makes_nothing_again(tmp_path):
    made = []
    run_cells(CellStore(tmp_path), diamond(made), say=quiet)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    said, again = [], []
    run_cells(CellStore(tmp_path), diamond(again), say=said.append)
    assert (len(made), again, said) == (4, [], [])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == before
    record = CellStore(tmp_path).result(diamond([])[-1])
    assert record["spec"] == {"plus": 1}
    assert record["seconds"] >= 0 and record["environment"]["python"]


def test_a_result_is_the_same_in_the_process_that_made_it(tmp_path):
    """What a cell is given does not depend on whether its need was made now or long ago: plain JSON both times."""
    seen = []
    root = Cell("root", {}, lambda done, stem: {"sizes": (1, 2), "at": {5: 0.1, 10: 0.2}})
    top = Cell("top", {}, lambda done, stem: seen.append(done["root"]) or {}, {"root": root})
    run_cells(CellStore(tmp_path), [top], say=quiet)
    path_of(CellStore(tmp_path), top).unlink()
    run_cells(CellStore(tmp_path), [top], say=quiet)
    assert seen == [{"sizes": [1, 2], "at": {"5": 0.1, "10": 0.2}}] * 2


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (adding("a", [], lr=1e-6, sizes=(1, 2)), True),
        (adding("a", [], sizes=[1, 2], lr=1e-6), True),
        (adding("b", [], lr=1e-6, sizes=(1, 2)), False),
        (adding("a", [], lr=2e-6, sizes=(1, 2)), False),
        (adding("a", [], lr=1e-6, sizes=(2, 1)), False),
        (adding("a", [], adding("root", []), lr=1e-6, sizes=(1, 2)), False),
    ],
)
def test_a_cell_is_named_by_what_determines_it(other, same):
    assert (other.id == adding("a", [], lr=1e-6, sizes=(1, 2)).id) == same


def test_needs_determine_a_cell_too():
    ids = {
        Cell("a", {}, lambda done, stem: {}, needs).id
        for needs in (
            {"x": adding("root", [])},
            {"y": adding("root", [])},
            {"x": adding("root", [], plus=2)},
            {"x": adding("root", [], adding("deeper", []))},
        )
    }
    assert len(ids) == 4


def test_a_changed_need_makes_what_stands_on_it_again(tmp_path):
    made = []
    run_cells(CellStore(tmp_path), [*diamond(made), adding("aside", made)], say=quiet)
    made.clear()
    changed = diamond(made, plus=10)
    run_cells(CellStore(tmp_path), [*changed, adding("aside", made)], say=quiet)
    assert made == ["root", "left", "in/a/folder/right", "top"]
    assert CellStore(tmp_path).result(changed[-1])["result"]["value"] == 1 + 11 + 11


def test_what_a_done_cell_needed_is_not_made_again(tmp_path):
    # a checkout that holds the results of a table, but not the samples and models that they were made from
    made = []
    root, left, right, top = diamond(made)
    run_cells(CellStore(tmp_path), [top], say=quiet)
    for cell in (root, left, right):
        path_of(CellStore(tmp_path), cell).unlink()
    made.clear()
    run_cells(CellStore(tmp_path), [top], say=quiet)
    assert made == []
    run_cells(CellStore(tmp_path), [top, adding("new", made, left)], say=quiet)
    assert made == ["root", "left", "new"]


# damage


def flip(text: str) -> str:
    return text.replace('"value": 2', '"value": 3')


def with_values(text: str, **changes) -> str:
    return json.dumps(json.loads(text) | changes)


DAMAGE = {
    "cut": (lambda text: text[: len(text) // 2].encode(), "not valid JSON"),
    "another value": (lambda text: flip(text).encode(), "its checksum is wrong"),
    "another checksum": (lambda text: with_values(text, sha256="0" * 64).encode(), "its checksum is wrong"),
    "no checksum": (lambda text: b'{"result": {"value": 2}}', "its checksum is wrong"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_result_is_made_again_alone(tmp_path, capsys, damage, message):
    made = []
    all_cells = diamond(made)
    run_cells(CellStore(tmp_path), all_cells, say=quiet)
    path = path_of(CellStore(tmp_path), all_cells[1])
    whole = path.read_text("utf-8")
    assert flip(whole) != whole
    path.write_bytes(damage(whole))
    made.clear()
    run_cells(CellStore(tmp_path), all_cells, say=quiet)
    assert made == ["left"]
    (line,) = capsys.readouterr().err.splitlines()  # once
    assert (
        line.startswith("vdu: ")
        and path.name in line
        and message in line
        and line.endswith("; this cell is made again.")
    )
    assert read_json(path)["result"] == {"value": 2}
    assert CellStore(tmp_path).result(all_cells[1]) is not None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"rooT")])
def test_a_result_without_its_file_is_made_again_alone(tmp_path, capsys, damage):
    made = []
    all_cells = diamond(made, file=True)
    run_cells(CellStore(tmp_path), all_cells, say=quiet)
    (file,) = tmp_path.rglob("*.bin")
    damage(file)
    made.clear()
    run_cells(CellStore(tmp_path), all_cells, say=quiet)
    assert made == ["root"]
    assert file.read_bytes() == b"root"
    assert f"its file {file.name} is missing or changed; this cell is made again." in capsys.readouterr().err


# errors


def test_divergence_is_a_result_and_is_not_tried_again(tmp_path):
    tries, made = [], []

    def diverge(done, stem):
        tries.append(1)
        raise DivergenceError("mse rose to 7")

    cell = Cell("bad", {}, diverge)
    for _ in range(2):
        run_cells(CellStore(tmp_path), [cell, adding("after", made)], say=quiet)
    assert (len(tries), made) == (1, ["after"])
    assert CellStore(tmp_path).result(cell)["result"] == {"status": "diverged", "message": "mse rose to 7"}


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt("broken")])
def test_any_other_error_stops_the_run_and_keeps_what_is_done(tmp_path, error):
    made, broken = [], [True]

    def make(done, stem):
        made.append("second")
        if broken:
            raise error
        return {"value": done["first"]["value"]}

    first = adding("first", made)
    row = [first, Cell("second", {}, make, {"first": first}), adding("third", made)]
    with pytest.raises(type(error), match="broken"):
        run_cells(CellStore(tmp_path), row, say=quiet)
    assert [CellStore(tmp_path).result(cell) is not None for cell in row] == [True, False, False]
    broken.clear()
    run_cells(CellStore(tmp_path), row, say=quiet)  # the lock is free again
    assert made == ["first", "second", "second", "third"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_not_stored(tmp_path, value):
    cell = Cell("a", {}, lambda done, stem: {"pul": [1.0, value]})
    with pytest.raises(ValueError, match="not JSON compliant"):
        run_cells(CellStore(tmp_path), [cell], say=quiet)
    assert CellStore(tmp_path).result(cell) is None
    assert list(tmp_path.rglob("*.json")) == []


# several processes

NAMES = [*(f"part-{k}" for k in range(6)), "last"]


def shared_cells(folder: Path, slow: str) -> dict[str, Cell]:
    """Six cells and one that needs them all; they log who makes them. One is slow: it waits for a file "go"."""

    def cell(name, *needs):
        def make(done, stem):
            stem.with_name(stem.name + ".part").write_text("half")
            with open(folder / "log", "a", encoding="utf-8") as file:
                file.write(f"{name} {os.getpid()}\n")
            while name == slow and not (folder / "go").exists():
                time.sleep(0.02)
            time.sleep(0.05)
            return {"value": 1 + sum(each["value"] for each in done.values())}

        return Cell(name, {"of": name}, make, {each.name: each for each in needs})

    parts = [cell(name) for name in NAMES[:-1]]
    return {each.name: each for each in (*parts, cell("last", *parts))}


def main(folder: Path, n_processes: int, slow: str) -> None:
    """What every process does, once all are there."""
    cells.POLL_SECONDS = 0.05
    (folder / f"ready-{os.getpid()}").touch()
    while len(list(folder.glob("ready-*"))) < n_processes:
        time.sleep(0.02)
    run_cells(CellStore(folder / "out"), [shared_cells(folder, slow)["last"]], say=quiet)


@pytest.fixture
def start(tmp_path):
    """Processes over one folder; ``slow`` names a cell that is not finished before there is a file "go"."""
    started = []

    def begin(n_processes=1, slow="none"):
        program = [sys.executable, __file__, str(tmp_path), str(n_processes), slow]
        started.extend(subprocess.Popen(program) for _ in range(n_processes))
        return started[-n_processes:]

    yield begin
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def here(tmp_path):
    """The cells of the other processes, as this one sees them."""
    return shared_cells(tmp_path, slow="none")


def log(folder) -> list[tuple[str, int]]:
    path = folder / "log"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(line.split()[0], int(line.split()[1])) for line in lines]


def replace_sleep(monkeypatch, sleep) -> None:
    """For the runner alone: the standard library sleeps too."""
    monkeypatch.setattr(cells, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))


def wait_for(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "nothing happened for a minute"
        time.sleep(0.02)


def test_kill_9_in_the_middle_of_a_cell_leaves_nothing_half(tmp_path, start, here):
    (process,) = start(slow="part-2")
    wait_for(lambda: "part-2" in dict(log(tmp_path)))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    store = CellStore(tmp_path / "out")
    results = sorted(path.name for path in (tmp_path / "out").rglob("*.json"))
    assert results == sorted(path_of(store, here[name]).name for name in NAMES[:2])
    assert [store.result(here[name]) is not None for name in NAMES] == [True] * 2 + [False] * 5
    assert list((tmp_path / "out").rglob("*.tmp")) == []
    (process,) = start()
    assert process.wait() == 0
    assert [name for name, _ in log(tmp_path)] == ["part-0", "part-1", "part-2", *NAMES[2:]]
    assert CellStore(tmp_path / "out").result(here["last"])["result"] == {"value": 7}


def test_two_processes_share_the_cells(tmp_path, start, here):
    processes = start(2)
    assert [process.wait() for process in processes] == [0, 0]
    assert sorted(name for name, _ in log(tmp_path)) == sorted(NAMES)  # every one once
    assert {pid for _, pid in log(tmp_path)} == {process.pid for process in processes}
    assert log(tmp_path)[-1][0] == "last"
    assert CellStore(tmp_path / "out").result(here["last"])["result"] == {"value": 7}


def test_a_cell_in_other_hands_is_waited_for(tmp_path, start, here, monkeypatch):
    (process,) = start(slow="part-0")
    wait_for(lambda: log(tmp_path))
    store, naps = CellStore(tmp_path / "out"), []
    with store.claim(here["part-0"]) as mine:
        assert not mine

    def nap(seconds):  # only now the other process goes on
        naps.append(seconds)
        (tmp_path / "go").touch()
        time.sleep(0.05)

    replace_sleep(monkeypatch, nap)
    said = []
    run_cells(store, [here["part-0"]], say=said.append)
    assert said == ["waiting for cells that another process is making: part-0"]  # told once, and nothing was made
    assert set(naps) == {cells.POLL_SECONDS}
    assert log(tmp_path)[0] == ("part-0", process.pid)
    assert store.result(here["part-0"])["result"] == {"value": 1}
    assert process.wait() == 0


def test_a_cell_that_another_process_finished_a_moment_ago_is_not_made(tmp_path):
    """Between the look and the lock."""
    theirs, ours = [], []

    class Late(CellStore):
        def claim(self, cell):
            run_cells(CellStore(tmp_path), [adding("a", theirs)], say=quiet)
            return super().claim(cell)

    run_cells(Late(tmp_path), [adding("a", ours)], say=quiet)
    assert (theirs, ours) == (["a"], [])


def test_other_cells_are_made_while_one_is_in_other_hands(tmp_path, monkeypatch):
    """The other process then dies without a result: its cell is made here."""
    made = []

    def stop(seconds):
        raise TimeoutError("only the held one is left")

    all_cells = [adding(name, made) for name in ("first", "second", "third")]
    with CellStore(tmp_path).claim(all_cells[0]) as held:
        assert held
        replace_sleep(monkeypatch, stop)
        with pytest.raises(TimeoutError, match="only the held one is left"):
            run_cells(CellStore(tmp_path), all_cells, say=quiet)
        assert made == ["second", "third"]
    monkeypatch.undo()
    run_cells(CellStore(tmp_path), all_cells, say=quiet)
    assert made == ["second", "third", "first"]


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
