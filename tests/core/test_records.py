import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import PartialState

from vdu.core import records
from vdu.core.errors import InputError
from vdu.core.records import (
    atomic_file,
    atomic_folder,
    environment,
    read_json,
    read_toml,
    sha256_bytes,
    sha256_file,
    write_json,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# files


def test_a_file_takes_its_name_only_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_file(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert (temporary.parent.parent, temporary.name) == (path.parent, path.name)  # on one file system
    assert path.read_text() == "half"
    assert names(path.parent) == ["a.txt"]


def test_an_error_in_the_middle_keeps_the_old_file(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(OSError, match="No space left"), atomic_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("ne")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_bytes_reach_the_disk_before_the_name(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append("fsync") or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda a, b: calls.append("replace") or replace(a, b))
    with atomic_file(tmp_path / "a") as temporary:
        temporary.write_text("x")
    assert calls == ["fsync", "replace", "fsync"]  # the file, its name, the folder that holds the name
    calls.clear()
    with atomic_folder(tmp_path / "f") as folder:
        (folder / "one").write_text("1")
        (folder / "two").write_text("2")
    assert calls == ["fsync", "fsync", "replace", "fsync"]


def test_files_have_the_rights_that_the_umask_grants(tmp_path):
    """safetensors writes with mode 600; whoever serves the model may be another user."""
    before = os.umask(0o027)
    try:
        with atomic_file(tmp_path / "a") as temporary:
            temporary.touch(mode=0o600)
        with atomic_folder(tmp_path / "pipeline") as folder:
            (folder / "unet").mkdir()
            (folder / "unet" / "b").touch(mode=0o600)
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
        assert (tmp_path / "pipeline" / "unet" / "b").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


def test_a_folder_gives_way_only_to_a_complete_one(tmp_path):
    target = tmp_path / "f"
    with atomic_folder(target) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "a").write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_folder(target) as temporary:
        (temporary / "b").write_text("new")
        raise KeyboardInterrupt
    assert (target / "sub" / "a").read_text() == "old"
    assert names(tmp_path) == ["f"]
    with atomic_folder(target) as temporary:
        (temporary / "b").write_text("new")
    assert names(target) == ["b"]
    assert names(tmp_path) == ["f"]


def test_a_failed_rename_brings_the_old_folder_back(tmp_path, monkeypatch):
    target = tmp_path / "f"
    target.mkdir()
    (target / "a").write_text("old")
    replace = os.replace

    def refuse(source, to):
        if Path(source).suffix == ".tmp":
            raise OSError(errno.EIO, "rename failed")
        replace(source, to)

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(records, "_swap", lambda *_: False)  # as where the system cannot exchange two names
    with pytest.raises(OSError, match="rename failed"), atomic_folder(target) as temporary:
        (temporary / "b").write_text("new")
    assert (target / "a").read_text() == "old"
    assert names(tmp_path) == ["f"]


def test_json_is_plain_and_refuses_nan(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"ε": [1, 2.5, None]})
    assert path.read_text("utf-8") == '{\n  "ε": [\n    1,\n    2.5,\n    null\n  ]\n}\n'
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"x": float("nan")})
    assert read_json(path) == {"ε": [1, 2.5, None]}


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"", b"[" * 100_000])
def test_broken_json_is_refused_by_name(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json: not valid JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(InputError, match=r"b\.json: no such file"):
        read_json(tmp_path / "b.json")


def test_a_settings_file_that_is_damaged_is_named(tmp_path):
    path = tmp_path / "config.toml"
    with pytest.raises(InputError, match=r"config.toml: no such file"):
        read_toml(path)
    for content in (b"guidance_scale = ", b"\xff", b"a = " + b"9" * 5000):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"config.toml: not a TOML file .*Restore the file"):
            read_toml(path)
    path.write_text("guidance_scale = 3.5", "utf-8")
    assert read_toml(path) == {"guidance_scale": 3.5}


def test_hashes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 1_000_000)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"abc" * 1_000_000).hexdigest()
    assert sha256_bytes(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_environment_is_json_and_names_the_versions():
    found = json.loads(json.dumps(environment()))
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["packages"]["torch"]
    assert found["hardware"]["cpu_cores"] == os.cpu_count()


@pytest.mark.parametrize(
    ("asked", "chosen", "found"),
    [
        (None, None, "card 0"),
        ("cuda:1", None, "card 1"),
        ("cpu", None, None),
        (None, "cuda:2", "card 2"),
        (None, "cpu", None),
    ],
)
def test_a_record_names_the_accelerator_that_computes(monkeypatch, asked, chosen, found):
    """What a user asks for, and what accelerate has chosen."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card {device.index}")
    monkeypatch.setattr(PartialState, "_shared_state", {"device": torch.device(chosen)} if chosen else {})
    monkeypatch.delenv("ACCELERATE_TORCH_DEVICE", raising=False)
    if asked:
        monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", asked)
    assert environment()["hardware"].get("accelerator") == found
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "accelerator" not in environment()["hardware"]


def test_the_commit_is_that_of_the_packages_own_repository(tmp_path, monkeypatch):
    """Not of one that it is installed in; with a mark if the package has changed since."""

    def git(*words):
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(["git", "-C", tmp_path, *who, *words], check=True, capture_output=True, text=True).stdout

    def package(place):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "__init__.py").write_text("")
        return tmp_path / place

    own, installed = package("src/mine"), package("env/mine")
    assert records._commit(own) is None
    git("init", "-q")
    git("add", "src")
    assert records._commit(own) is None  # no commit yet
    git("commit", "-q", "-m", "one")
    head = git("rev-parse", "HEAD").strip()
    assert (records._commit(own), records._commit(installed)) == (head, None)
    subprocess.run(["git", "init", "-q", tmp_path / "other"], check=True)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))  # as in a hook of another repository
    assert records._commit(own) == head
    monkeypatch.delenv("GIT_DIR")
    for change in (own / "new.py", own / "__init__.py"):
        change.write_text("x")
        assert records._commit(own) == f"{head}-dirty"
        git("add", "src")
        git("commit", "-q", "-m", "more")
        head = git("rev-parse", "HEAD").strip()
        assert records._commit(own) == head


def test_a_name_that_is_no_utf8_is_escaped_and_read_back(tmp_path):
    name = os.fsdecode(b"unw\xe4nted")
    write_json(tmp_path / "a.json", {"path": name, "word": "кошки"})
    assert (tmp_path / "a.json").read_bytes().decode("utf-8").count(r"\udce4") == 1
    assert read_json(tmp_path / "a.json") == {"path": name, "word": "кошки"}
