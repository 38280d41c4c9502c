"""Paths as a user means them, users without a home folder, and the cache that follows from both."""

import os
import pwd
from pathlib import Path

import pytest

from vdu.core import cache
from vdu.core.cache import cache_folder
from vdu.core.errors import InputError
from vdu.core.paths import given_file, given_output, given_path, home_cache, require_text

LATIN_1 = os.fsdecode(b"unw\xe4nted")


@pytest.fixture
def nobody(monkeypatch):
    """A user id without HOME and without an entry in passwd, as in a container."""

    def unknown(*_):
        raise KeyError("uid not found")

    for name in ("HOME", "VDU_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    cache._until_the_end.cache_clear()
    yield
    cache._until_the_end.cache_clear()


def test_the_home_folder_is_meant_by_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert given_path("~/a") == given_path(Path("~/a")) == tmp_path / "a"
    assert given_path("a/~") == Path("a/~")
    for variable, below in (("VDU_CACHE", ()), ("XDG_CACHE_HOME", ("vdu",))):
        monkeypatch.delenv("VDU_CACHE", raising=False)
        monkeypatch.setenv(variable, "~/c")
        assert cache_folder() == (tmp_path / "c").joinpath(*below)
    assert cache_folder("~/d") == tmp_path / "d"


def test_without_a_home_folder_the_cache_lasts_as_long_as_the_process(nobody, capsys):
    folder = cache_folder()
    assert folder.is_dir() and cache_folder() == folder
    assert capsys.readouterr().err.count("this user has no home folder") == 1
    assert home_cache() is None
    with pytest.raises(InputError, match=r"--output-dir: got ~/x, and this user has no such home folder"):
        given_path("~/x", "--output-dir")


@pytest.mark.parametrize("given", [None, 3, "", b"a", ["a"], object()])
def test_what_is_no_path_is_refused(given):
    with pytest.raises(InputError, match=r"folder: got .*; expected a path\.$"):
        given_path(given, "folder")


@pytest.mark.parametrize(("text", "printed"), [(LATIN_1, r"unw\udce4nted"), ("a\0b", r"a\0b"), ("\ud800", r"\ud800")])
def test_names_that_no_record_could_hold_are_refused_in_printable_words(text, printed):
    with pytest.raises(InputError) as refused:
        require_text(text, "images")
    assert printed in str(refused.value).encode("ascii").decode()
    require_text("кошки 猫 ü", "images")


@pytest.mark.parametrize("given", [given_output, given_file])
def test_what_is_written_lies_in_a_folder(given, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("kept")
    monkeypatch.chdir(tmp_path)
    for path in ("file/sub", tmp_path / "file" / "a" / "b"):
        with pytest.raises(InputError, match="out: got .*, and .*/file is a file; expected a folder there"):
            given(path, "out")
    for path in ("new", "new/a/b", "file", tmp_path / "new"):
        assert given(path, "out") == Path(path)
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_what_is_written_lies_where_one_may_write(monkeypatch, tmp_path):
    (tmp_path / "mine").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) == tmp_path / "mine")
    assert given_output(tmp_path / "mine") == tmp_path / "mine"
    with pytest.raises(InputError, match="cannot be written in"):
        given_output(tmp_path / "other" / "sub")
