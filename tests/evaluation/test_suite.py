"""Evidence survives: what was measured is in metrics.json when a probe fails, whatever the error, or is interrupted."""

import json
import shutil
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.evaluation.conftest import QUICK

from vdu.commands.verify import verify
from vdu.core.errors import DivergenceError, InputError
from vdu.data.sources import load_images
from vdu.evaluation.api import evaluate
from vdu.evaluation.suite import SUITES, load_real_images, real_images
from vdu.probes.context import not_run
from vdu.reporting.code_texts import not_run_text
from vdu.reporting.collect import collect

DONE = not_run("latent_model")  # as good as measured, and short
FAILURES = {
    "NotImplementedError": (NotImplementedError("sigmoid"), "failed", "It failed: NotImplementedError: sigmoid"),
    "RuntimeError": (RuntimeError("sizes {8} do\nnot match"), "failed", "It failed: RuntimeError: sizes {8} do not match"),
    "MemoryError": (MemoryError(), "failed", "It failed: MemoryError"),
    "OSError": (OSError(28, "No space left on device"), "failed", "It failed: OSError: [Errno 28] No space left on device"),
    "a name that is no UTF-8": (RuntimeError("\udcff.png"), "failed", r"It failed: RuntimeError: \udcff.png"),
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
@pytest.mark.parametrize("value", [float("nan"), float("-inf"), torch.tensor(1.0)])
def test_a_result_that_cannot_be_written_is_not_run_and_the_probes_after_it_are(pair, monkeypatch, value):
    """It ended the evaluation with the traceback of the file's writer."""
    results = {"membership": DONE | {"auc": value}, "stochastic": DONE}
    probes = {name: lambda _, found=found: found for name, found in results.items()}
    monkeypatch.setitem(cast("Any", SUITES), "quick", probes)
    run(pair)
    codes = {name: each["code"] for name, each in metrics(pair)["probes"].items()}
    assert codes == {"membership": "failed", "stochastic": "latent_model"}


@pytest.mark.usefixtures("pixel_judge")
def test_an_interrupted_evaluation_keeps_what_it_measured(pair, suite):
    suite(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(pair)
    found = metrics(pair)
    codes = [result.get("code") for result in found["probes"].values()]
    assert codes == ["latent_model", "interrupted", "evaluation_ended"] and found["rows"]
    assert found["cost"][-1] == {"stage": "probes", "seconds": 0, "network_evaluations": 0}  # no probe has measured
    suite(RuntimeError())
    assert run(pair)  # the folder is free, and a second evaluation goes through


@pytest.mark.usefixtures("pixel_judge")
def test_an_evaluation_that_ends_before_its_figures_leaves_those_of_before_with_their_record(pair, suite, monkeypatch):
    suite(RuntimeError())
    run(pair)
    names = ("run.json", "config.toml", "metrics.json")
    earlier = {name: (pair / "evidence" / name).read_bytes() for name in names}
    monkeypatch.setattr("vdu.evaluation.recording.measure", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(pair)
    assert {name: (pair / "evidence" / name).read_bytes() for name in names} == earlier
    monkeypatch.undo()


@pytest.mark.usefixtures("pixel_judge")
def test_every_result_is_on_disk_before_the_next_probe_begins(pair, suite, monkeypatch):
    seen = []

    def look(context):
        seen.append([result["code"] for result in metrics(pair)["probes"].values()])
        return DONE

    monkeypatch.setitem(SUITES, "quick", dict.fromkeys(("likelihood", "membership", "stochastic"), look))  # pyright: ignore
    run(pair)
    assert [each.count("latent_model") for each in seen] == [0, 1, 2]


@pytest.mark.slow
def test_finished_probes_survive_another_evaluation_of_the_same(pair, pixel_judge, monkeypatch, capsys):
    known = json.loads((Path(__file__).parents[1] / "reporting" / "probes.json").read_text("utf-8"))
    names = ("likelihood", "membership")

    def ended(context):
        raise SystemExit(9)  # as good as a kill

    def found(name, seconds):
        return lambda context: known[name] | {"seconds": float(seconds)}

    def again(suite, first=None, second=None, **other):
        monkeypatch.setitem(SUITES, "quick", dict(zip(names, (first, second), strict=True)))  # pyright: ignore
        given = {"before": pair / "before", "after": pair / "after", "forget": pair / "unwanted", "forget_class": "a"}
        evaluate(**given, folder=pair / "evidence", suite=suite, **QUICK | other)
        return held()

    def held():
        return [metrics(pair)["probes"][name].get("seconds") for name in names]

    assert again("quick", found("likelihood", 1), found("membership", 2)) == [1, 2]
    before = metrics(pair)
    assert again("none", n_images=30) == [1, 2]
    after = metrics(pair)
    assert (after["n_images"], after["suite"]) == (30, "quick")
    assert [each["stage"] for each in after["cost"]] == [each["stage"] for each in before["cost"]]
    assert {each.answer for each in verify(pair / "evidence")} == {
        "matches",
        "not available",
    }  # the toy judge is in no folder
    with pytest.raises(InputError, match=r"2 finished probes \(likelihood, membership\) of other models.*suite quick"):
        again("none", seed=1)
    assert metrics(pair) == after
    with pytest.raises(SystemExit):
        again("quick", ended)
    assert held() == [1, 2]
    assert again("quick", found("likelihood", 5), lambda context: not_run("latent_model")) == [5, 2]
    capsys.readouterr()
    assert again("quick", found("likelihood", 7), lambda context: DONE, seed=1) == [7, None]
    assert "holds 2 finished probes of other models, images or settings" in capsys.readouterr().err


def test_probes_are_given_every_forget_image_once(pair, pixel_judge, monkeypatch, capsys):
    seen = []

    def look(context):
        seen.append(context.forget)
        return DONE

    first = sorted((pair / "unwanted").iterdir())[0]
    shutil.copy(first, pair / "unwanted" / f"again-{first.name}")
    monkeypatch.setitem(SUITES, "quick", {"membership": look})  # pyright: ignore
    run(pair)
    n = len(list((pair / "unwanted").iterdir()))
    assert [len(each) for each in seen] == [n - 1]
    assert f"1 of {n} forget images that probes are given are copies of others" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("pixel_judge")
def test_samples_of_another_evaluation_contradict_the_figures(pair):
    """As after a kill between the files; the counts may be the same by chance."""
    run(pair)
    file = pair / "evidence" / "samples" / "unlearned.safetensors"
    assert not collect(pair / "evidence").contradictions
    held = load_file(file)
    save_file(held | {"judge_confidence": held["judge_confidence"] * 0.5}, file)
    (found,) = collect(pair / "evidence").contradictions
    assert found.startswith("The unlearned samples are not those that metrics.json was made of")


def test_held_out_images_of_a_data_set_are_of_its_test_split(capsys):
    train, test = (load_images("digits", split=each) for each in ("train", "test"))
    forget = train.select(train.labels == 8)
    held_out = real_images(load_real_images(None, "digits", ["8"], forget.shape), forget)[0]
    assert held_out is not None and torch.equal(held_out.images, test.images[test.labels == 8])
    assert "test split of digits" in capsys.readouterr().err
