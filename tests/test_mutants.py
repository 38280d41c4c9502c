"""The list of mutants applies to the source as it is, and has some of every room; ``tools/mutants.py`` itself runs them."""

from dataclasses import replace
from pathlib import Path

import mutants
import vdu

MUTANTS = mutants.read_mutants()
ROOMS = {path.parent.name for path in Path(vdu.__file__).parent.glob("*/__init__.py")}


def test_every_entry_applies():
    assert [line for mutant in MUTANTS for line in mutants.complaints(mutant)] == []
    assert len({(mutant.file, mutant.old, mutant.new) for mutant in MUTANTS}) == len(MUTANTS) >= 60


def test_every_room_has_some():
    assert ROOMS - {mutant.room for mutant in MUTANTS} == set()


def test_an_entry_that_does_not_apply_is_named():
    sound = next(mutant for mutant in MUTANTS if mutant.file == "training/ema.py")
    for change, why in (
        ({"file": "training/none.py"}, "there is no such file"),
        ({"old": "self"}, "times, expected once"),
        ({"old": "no such text"}, "stands there 0 times"),
        ({"new": "(1 +"}, "is no Python"),
        ({"tests": "tests/training/test_none.py"}, "there is no tests/training/test_none.py"),
        ({"tests": ""}, "there is no test"),
    ):
        (line,) = mutants.complaints(replace(sound, **change))
        assert why in line and line.startswith(change.get("file", "training/ema.py"))
