"""Evidence survives: what was measured is in metrics.json when a probe fails, whatever the error, or is interrupted."""

import json

import pytest
import torch
from tests.evaluation.conftest import QUICK

from vdu.core.errors import DivergenceError, InputError
from vdu.data.sources import load_images
from vdu.evaluation.api import evaluate
from vdu.evaluation.suite import SUITES, real_images
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
    return evaluate(**folders, forget_class="a", suite="quick", folder=pair / "evidence", **QUICK)


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


def test_finished_probes_survive_another_evaluation_of_the_same(pair, pixel_judge, monkeypatch, capsys):
    def ended(context):
        raise SystemExit(9)  # as good as a kill

    done, models = (
        [{"status": "measured", "n": i} for i in range(2)],
        {"before": pair / "before", "after": pair / "after"},
    )
    set_suite = lambda *probes: monkeypatch.setitem(  # noqa: E731
        SUITES, "quick", dict(zip(("likelihood", "membership"), probes, strict=True))
    )
    monkeypatch.setattr("vdu.evaluation.recording.update_card", lambda *_: None)

    def again(suite, seed=0):
        given = {"forget": pair / "unwanted", "forget_class": "a", "folder": pair / "evidence"}
        return evaluate(**models, **given, suite=suite, seed=seed, **QUICK)

    def held():
        return {name: each["n"] for name, each in metrics(pair)["probes"].items()}

    set_suite(*(lambda context, each=each: each for each in done))
    again("quick")
    first = metrics(pair)
    again("none")
    second = metrics(pair)
    assert (held(), second["suite"]) == ({"likelihood": 0, "membership": 1}, "quick")
    assert [each["stage"] for each in second["cost"]] == [each["stage"] for each in first["cost"]]
    with pytest.raises(
        InputError, match=r"holds 2 finished probes \(likelihood, membership\) of other models.*--suite quick"
    ):
        again("none", seed=1)
    assert metrics(pair) == second
    set_suite(ended, lambda context: done[0])
    with pytest.raises(SystemExit):
        again("quick")
    assert held() == {"likelihood": 0, "membership": 1}
    set_suite(lambda context: {"status": "measured", "n": 5}, lambda context: not_run("latent_model"))
    again("quick")
    assert held() == {"likelihood": 5, "membership": 1}
    capsys.readouterr()
    with pytest.raises(InputError):
        again("none", seed=1)
    set_suite(lambda context: {"status": "measured", "n": 7}, lambda context: DONE)
    again("quick", seed=1)
    assert "holds 2 finished probes of other models, images or settings" in capsys.readouterr().err
    assert (
        metrics(pair)["probes"]["likelihood"]["n"] == 7 and metrics(pair)["probes"]["membership"]["status"] == "not run"
    )


def test_held_out_images_of_a_data_set_are_of_its_test_split(capsys):
    train, test = (load_images("digits", split=each) for each in ("train", "test"))
    forget = train.select(train.labels == 8)
    held_out = real_images(None, "digits", ["8"], forget)[0]
    assert torch.equal(held_out.images, test.images[test.labels == 8])
    assert "test split of digits" in capsys.readouterr().err
