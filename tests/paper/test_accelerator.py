"""The accelerator's stages: what stops them, what they pack, and that nothing is lost or done twice."""

import hashlib
import importlib.util
import sys
import tarfile
import time
from pathlib import Path

import pytest

from vdu.core.errors import InputError

ROOT = Path(__file__).parents[2]
specification = importlib.util.spec_from_file_location("accelerator", ROOT / "tools" / "accelerator.py")
assert specification is not None and specification.loader is not None
accelerator = importlib.util.module_from_spec(specification)
specification.loader.exec_module(accelerator)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A stage's folder with three files of 1000 bytes, packed in parts of 1 kB."""
    monkeypatch.setattr(accelerator, "PART", 1000)
    folder = tmp_path / "b-smoke"
    for name in ("cells/models/a.json", "cells/models/a/bf16/unet/weights.safetensors", "smoke/table1.md"):
        write(folder / name, name)
    return folder


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode().ljust(1000, b"."))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_packed_comes_out_elsewhere(work, tmp_path):
    home = tmp_path / "home"
    accelerator.pack(work, home)
    parts = sorted((home / "load-0000").glob("part-*"))
    assert len(parts) > 3 and all(path.stat().st_size <= 1000 for path in parts)
    (tmp_path / "joined.tar").write_bytes(
        b"".join(path.read_bytes() for path in parts)
    )  # as tar reads it, without our code
    assert set(tarfile.open(tmp_path / "joined.tar").getnames()) == set(contents(work))
    accelerator.restore(home, tmp_path / "other")
    assert contents(tmp_path / "other") == contents(work)


def test_a_load_holds_only_what_no_earlier_one_holds(work, tmp_path):
    home = tmp_path / "home"
    accelerator.pack(work, home)
    accelerator.pack(work, home)
    assert len(list(home.iterdir())) == 1
    for part in (home / "load-0000").glob("part-*"):  # moved away, the manifest is enough
        part.rename(tmp_path / part.name)
    write(work / "smoke/table1.md", "changed")
    write(work / "smoke/table2.md", "new")
    accelerator.pack(work, home)
    manifest = accelerator.read_json(home / "load-0001" / "manifest.json")
    assert set(manifest["files"]) == {"smoke/table1.md", "smoke/table2.md"}
    assert manifest["files"]["smoke/table2.md"] == hashlib.sha256((work / "smoke/table2.md").read_bytes()).hexdigest()
    for part in tmp_path.glob("part-*"):
        part.rename(home / "load-0000" / part.name)
    accelerator.restore(home, tmp_path / "other")
    assert contents(tmp_path / "other") == contents(work)


def test_what_need_not_come_home_stays(work):
    wanted = set(contents(work))
    for name in ("cells/.a.lock", "cells/posteriors/ensemble-1.safetensors", "cells/x.part/half",
                 "cells/models/a/pipeline/unet/weights.safetensors", "cells/models/a/checkpoints/checkpoint-9/model.safetensors",
                 "cells/models/b/checkpoints/checkpoint-9/model.safetensors"):  # fmt: skip
        write(work / name, name)
    for name in ("cells/models/b/checkpoints/checkpoint-10/model.safetensors", "cells/posteriors/ensemble-1.json"):
        write(work / name, name)
        wanted.add(name)
    assert {str(path.relative_to(work)) for path in accelerator.coming_home(work)} == wanted


def damage(path: Path) -> None:
    path.write_bytes(b"!" + path.read_bytes()[1:])


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda load: (load / "part-001").unlink(), r"part-001: is missing; expected \d+ parts"),
        (lambda load: damage(load / "part-001"), r"part-001: is damaged"),
        (lambda load: (load / "manifest.json").unlink(), r"load-0000: has no manifest\.json"),
    ],
)
def test_a_load_that_is_not_whole_is_refused_and_nothing_is_unpacked(work, tmp_path, harm, message):
    accelerator.pack(work, tmp_path / "home")
    harm(tmp_path / "home" / "load-0000")
    with pytest.raises(InputError, match=message):
        accelerator.restore(tmp_path / "home", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_unpacking_over_a_folder_is_refused(work, tmp_path):
    with pytest.raises(InputError, match="is there; expected no such folder"):
        accelerator.restore(tmp_path / "home", work)


# Working

COUNT = """
import pathlib, sys, time
log, goal = pathlib.Path(sys.argv[1]), int(sys.argv[2])
while (done := len(log.read_text()) if log.exists() else 0) < goal:
    log.write_text("x" * (done + 1))
    time.sleep(0.02 if done < 5 else float(sys.argv[3]))
log.with_name("done").touch()
"""


def stage(pause: float) -> dict:
    run = f"{{python}} -c '{COUNT}' {{work}}/log 8 {pause}"
    return {"commands": [{"run": run, "makes": "done"}]}


@pytest.mark.slow
def test_a_stage_that_is_stopped_goes_on_where_it_was_and_no_done_command_runs_again(tmp_path):
    folder = tmp_path / "work"
    assert not accelerator.work_on(stage(60.0), "b", folder, time.monotonic() + 2.0)
    assert (folder / "log").read_text() == "x" * 6  # five, and the one that was being made
    assert accelerator.work_on(stage(0.0), "b", folder, time.monotonic() + 60)
    assert (folder / "log").read_text() == "x" * 8
    assert accelerator.work_on({"commands": [{"run": "false", "makes": "done"}]}, "b", folder, 0.0)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"needs": ["nowhere.py"]}, "stage b: nowhere.py is missing"),
        ({"needs": ["data:idx:/nowhere"]}, "/nowhere"),
        ({}, "stage b: has no commands"),
        ({"commands": [{"run": "false", "makes": "x"}]}, "ended with exit code 1"),
        ({"commands": [{"run": "true", "makes": "x"}]}, "ended without x; expected that file"),
    ],
)
def test_what_stops_a_stage_is_said(tmp_path, stage, message):
    with pytest.raises(InputError, match=message):
        accelerator.work_on(stage, "b", tmp_path / "work", time.monotonic() + 60)


def test_one_failing_process_stops_the_others(tmp_path):
    """The first of two to come fails; the other would take a minute."""
    program = "import os, sys, time; os.mkdir(sys.argv[1]) if not os.path.exists(sys.argv[1]) else time.sleep(60); sys.exit(3)"
    began = time.monotonic()
    with pytest.raises(InputError, match="exit code 3"):
        accelerator.run_until(began + 30, [sys.executable, "-c", program, str(tmp_path / "first")], 2)
    assert time.monotonic() - began < 20


def test_every_stage_is_described_at_both_scales():
    stages = accelerator.read_stages()
    assert list(stages) == ["a", "b", "c", "d", "e"]
    for name, each in stages.items():
        assert set(each) == {"title", "smoke", "paper"}, name
        for command in [*each["smoke"].get("commands", []), *each["paper"].get("commands", [])]:
            assert {"run", "makes"} <= set(command) <= {"run", "makes", "processes"}
