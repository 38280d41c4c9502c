"""Every method is known by its name, and says of itself what others need to know."""

import subprocess
import sys
from dataclasses import fields, replace

import pytest

from vdu.core.errors import InputError
from vdu.core.records import sha256_bytes
from vdu.methods import registry
from vdu.methods.base import BaseMethod, compiled
from vdu.methods.conflict_free import ConflictFree
from vdu.methods.esd import ESD
from vdu.methods.options import default_text, options_of, read_options
from vdu.methods.vdu import VDU, gradient_ascent


@pytest.fixture(autouse=True)
def _forget_what_a_test_registers():
    yield
    for name in set(registry._registered) - set(registry._FILES):
        del registry._registered[name]


@pytest.mark.parametrize("name", registry.names())
def test_every_method_describes_itself(name):
    kind = registry.get(name)
    assert issubclass(kind, BaseMethod) and kind.name == registry.resolve(name)
    assert kind.summary.endswith(".") and "\n" not in kind.summary and 20 < len(kind.summary) < 140
    assert set(kind.strength) <= set(options_of(kind)) and bool(kind.strength) == kind.stops
    assert not {item.name for item in fields(kind) if item.name.startswith("_")} & set(options_of(kind))
    for option in (*kind.retain_options, *kind.word_options):
        assert option in options_of(kind)


def test_the_names_come_without_any_method():
    program = "import sys\nfrom vdu.methods import registry\nregistry.names()\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_users_method_is_known_after_it_is_registered():
    class Mine(BaseMethod):
        name, summary = "mine", "Mine."
        losses = ESD.losses

    assert "mine" not in registry.names()
    assert registry.register(Mine) is Mine is registry.get("mine")
    assert registry.names()[-1] == "mine" and registry.names()[0] == "auto"
    registry.register(Mine)  # the same once more, as on a reload


MINE = """
import vdu
from vdu.core.types import Losses

SCALE = {scale}

def scaled(x):
    return {factor} * x

@vdu.register("{name}")
class Mine(vdu.Method):
    "Mine."
    needs = frozenset({{"forget", "retain"}})

    def losses(self, denoiser, batch):
        return Losses({{"forget": scaled({own} * SCALE)}}, {{}})
"""


def test_a_file_that_was_changed_is_run_again_in_the_same_process(tmp_path):
    file = tmp_path / "mine.py"

    def loss(**code):
        file.write_text(MINE.format(**{"scale": 1, "factor": 1, "own": 1, "name": "mine"} | code))
        return registry.get(f"{file}:Mine")().losses(None, {}).terms["forget"]  # pyright: ignore

    found = [loss(), loss(scale=2), loss(factor=3), loss(own=5), loss(), loss(own=7, name="other")]
    assert found == [1, 2, 3, 5, 1, 7]  # as large as before and in the same second
    assert "other" in registry.names() and "mine" not in registry.names()
    file.write_text("1 +")
    for _ in range(2):
        with pytest.raises(InputError, match="cannot be run"):
            registry.get(f"{file}:Mine")


def test_code_that_differs_is_seen_in_a_class_without_a_file(tmp_path):
    def made(place, **code):
        text = MINE.format(**{"scale": 1, "factor": 1, "own": 1, "name": "mine"} | code)
        exec(compile(text, place, "exec"), found := {"__name__": "__main__"})
        return found["Mine"]

    same = compiled(made("cell-1")), compiled(made("cell-2"))
    assert same[0] == same[1] != ()
    others = [compiled(made("cell", **{name: 2})) for name in ("scale", "factor", "own")]
    assert len({*others, same[0]}) == 4
    assert made("a")().identity == made("b")().identity != made("c", own=2)().identity
    program = (
        "import sys; sys.argv = ['x']; from vdu.core.records import sha256_bytes; from vdu.methods.base import compiled\n"
        "exec(sys.stdin.read(), found := {'__name__': '__main__'})\nprint(sha256_bytes(repr(compiled(found['Mine'])).encode()))"
    )
    text = MINE.format(scale=1, factor=1, own=1, name="mine")
    done = subprocess.run([sys.executable, "-c", program], input=text, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == sha256_bytes(repr(same[0]).encode())
    assert compiled(ESD) == compiled(VDU) == ()


@pytest.mark.parametrize("name", ["auto", "esd"])
def test_a_name_that_is_taken_is_refused(name):
    class Other(BaseMethod):
        summary = "Other."
        losses = ESD.losses

    Other.name = name
    with pytest.raises(InputError, match=f"Other: the name '{name}' is taken"):
        registry.register(Other)
    assert registry.get("esd") is ESD


def test_a_method_without_name_or_summary_is_refused():
    class Bare(BaseMethod):
        name = "bare"

    with pytest.raises(InputError, match="Bare: name is 'bare' and summary ''; expected both"):
        registry.register(Bare)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"method: got 'vdo'; expected one of auto, .*finetune\. Did you mean 'vdu'\?"):
        registry.get("vdo")


def test_options_are_read_as_the_type_of_their_default():
    found = read_options(VDU, ("gamma=0.3", "weights = elbo", "alpha-bar-range=(0.1,0.9)", "schedule=500,2e-4,0.04"))
    schedule = found.pop("schedule")
    assert found == {"gamma": 0.3, "weights": "elbo", "alpha_bar_range": (0.1, 0.9)}
    assert len(schedule) == 500 and float(schedule.alpha_bars[0]) == pytest.approx(1 - 2e-4, rel=1e-12)
    with pytest.raises(InputError, match=r"got 'gamma=many'; expected a value such as gamma=0\.1"):
        read_options(VDU, ("gamma=many",))


def test_an_option_without_a_value_is_read_as_it_is_shown():
    shown = default_text(options_of(ConflictFree)["radius"])
    assert read_options(ConflictFree, (shown,)) == {"radius": None} and shown == "radius=None"
    with pytest.raises(InputError, match="got 'radius=wide'; expected a number, or radius=None"):
        read_options(ConflictFree, ("radius=wide",))
    for hidden in ("posterior=x", "tools=x", "schedule=x"):
        with pytest.raises(InputError, match="expected NAME=VALUE with an option of esd"):
            read_options(ESD, (hidden,))


def test_an_option_without_its_name_is_refused_in_words():
    with pytest.raises(InputError, match="FunctionAnchor: got 3 without a name; expected options by name"):
        registry.get("anchor")(3)  # pyright: ignore
    with pytest.raises(InputError, match="weights: got 3; expected one of paper, elbo, uniform"):
        gradient_ascent(3)
    assert VDU(None, 0.0).gamma == replace(VDU(None, 0.0), weights="elbo").gamma == 0
