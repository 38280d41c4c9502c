"""Evidence survives: what was measured is in metrics.json when a probe fails, whatever the error, or is interrupted."""

import json

import pytest
from tests.evaluation.conftest import QUICK

from vdu.core.errors import DivergenceError, InputError
from vdu.evaluation.api import evaluate
from vdu.evaluation.suite import SUITES
from vdu.probes.context import not_run
from vdu.reporting.code_texts import not_run_text

DONE = not_run("latent_model")  # as good as measured, and short
FAILURES = {
    "NotImplementedError": (NotImplementedError("sigmoid"), "failed", "It failed: NotImplementedError: sigmoid"),
    "RuntimeError": (RuntimeError("sizes {8} do\nnot match"), "failed", "It failed: RuntimeError: sizes {8} do not match"),
    "MemoryError": (MemoryError(), "failed", "It failed: MemoryError: "),
    "OSError": (OSError(28, "No space left on device"), "failed", "It failed: OSError: [Errno 28] No space left on device"),
    "InputError": (InputError("steps: got 9."), "failed", "It failed: steps: got 9."),
    "DivergenceError": (DivergenceError("a loss became nan"), "diverged", "It diverged: a loss became nan"),
}  # fmt: skip


@pytest.fixture
def suite(monkeypatch):
    """A suite of three probes of which the second raises an error."""

    def make(error):
        def failing(context):
            raise error

        probes = {"likelihood": lambda context: DONE, "membership": failing, "stochastic": lambda context: DONE}
        monkeypatch.setitem(SUITES, "quick", probes)  # pyright: ignore

    return make


def run(pair):
    folders = {"before": pair / "before", "after": pair / "after", "forget": pair / "unwanted"}
    return evaluate(**folders, forget_classes="a", probes="quick", folder=pair / "evidence", **QUICK)


def metrics(pair):
    return json.loads((pair / "evidence" / "metrics.json").read_text())


@pytest.mark.usefixtures("pixel_judge")
@pytest.mark.parametrize("name", FAILURES)
def test_a_failing_probe_is_not_run_and_the_others_are(pair, suite, capsys, name):
    error, code, sentence = FAILURES[name]
    suite(error)
    run(pair)
    found = metrics(pair)
    codes = {each: result["code"] for each, result in found["probes"].items()}
    assert codes == {"likelihood": "latent_model", "membership": code, "stochastic": "latent_model"}
    failed = found["probes"]["membership"]
    assert not_run_text(failed) == sentence
    assert found["rows"]
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.usefixtures("pixel_judge")
def test_an_interrupted_evaluation_keeps_what_it_measured(pair, suite):
    suite(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(pair)
    found = metrics(pair)
    codes = [result.get("code") for result in found["probes"].values()]
    assert codes == ["latent_model", "interrupted", "evaluation_ended"] and found["rows"]
    suite(RuntimeError())
    assert run(pair)  # the folder is free, and a second evaluation goes through


@pytest.mark.usefixtures("pixel_judge")
def test_every_result_is_on_disk_before_the_next_probe_begins(pair, suite, monkeypatch):
    seen = []

    def look(context):
        seen.append([result["code"] for result in metrics(pair)["probes"].values()])
        return DONE

    monkeypatch.setitem(SUITES, "quick", dict.fromkeys(("likelihood", "membership", "stochastic"), look))  # pyright: ignore
    run(pair)
    assert [each.count("latent_model") for each in seen] == [0, 1, 2]
