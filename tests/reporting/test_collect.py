import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vdu.core.errors import InputError
from vdu.reporting.collect import _forget_ids, collect
from vdu.reporting.run_comparison import read_runs

MAKERS = {
    "metrics.json": "vdu evaluate",
    "run.json": "vdu unlearn",
    "log.jsonl": "vdu unlearn",
    "config.toml": "vdu unlearn",
    "samples/original.safetensors": "vdu evaluate",
    "samples/unlearned.safetensors": "vdu evaluate",
}


JUDGE = {
    "name": "a", "architecture": "b", "held_out_error": 0.0, "n_held_out": 1, "pul_ceiling": 1.0,
    "forget_false_positive_rate": 0.0, "second": None,
}  # fmt: skip


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def edit_samples(path: Path, **changes) -> None:
    save_file(load_file(path) | changes, path)


def test_everything_arrives_unchanged(run_dir):
    data = collect(run_dir)
    stored = load_file(run_dir / "samples/original.safetensors")["images"]
    assert data.original.images.shape == (200, 8, 8, 1)
    np.testing.assert_array_equal(data.original.images[3, :, :, 0], stored[3, 0])
    assert (data.forget_ids, data.warnings, len(data.log)) == ((7,), (), 300)
    assert data.log[0]["step"] == 1 and set(data.log[0]["terms"]) == {"forget (Eq. 12)", "stability (Eq. 13)"}


@pytest.mark.parametrize("name", MAKERS)
def test_a_missing_file_is_named_with_the_command_that_makes_it(run_dir, name):
    (run_dir / name).unlink()
    with pytest.raises(InputError, match=re.escape(f"{name}: made by `{MAKERS[name]}`")):
        collect(run_dir)


def test_a_missing_folder(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: no such run folder"):
        collect(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["metrics.json", "run.json"])
def test_another_format_version_is_refused(run_dir, name):
    edit_json(run_dir / name, format_version=2)
    with pytest.raises(InputError, match=f"{name}: got format_version 2, expected 1"):
        collect(run_dir)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_images": -1}, "n_images is -1, expected a whole number ≥ 0"),
        ({"feature_network": None}, "feature_network is None, expected text"),
        ({"judge": {}}, "judge.name is missing"),
        ({"rows": [{"name": "original"}]}, r"rows\[0\].label is missing"),
        ({"rows": []}, r"rows is \[\], expected a list of 1 or more"),
        ({"cost": [{"stage": "x", "seconds": "1", "network_evaluations": None}]}, r"cost\[0\].seconds is '1'"),
        ({"judge": {**JUDGE, "source": "own"}}, "judge.source is 'own', expected one of given, zoo, fallback"),
        ({"warnings": "none"}, "warnings is 'none', expected a list"),
        ({"flips": {"classes": ["a"], "counts": []}}, "flips.counts is not 1 rows of 1 counts"),
    ],
)
def test_values_that_cannot_be_shown(run_dir, changes, message):
    edit_json(run_dir / "metrics.json", **changes)
    with pytest.raises(InputError, match=message):
        collect(run_dir)


def test_lengths_that_differ(run_dir):
    histogram = json.loads((run_dir / "metrics.json").read_text("utf-8"))["histogram"]
    edit_json(run_dir / "metrics.json", histogram=histogram | {"expected": [1.0]})
    with pytest.raises(InputError, match=r"histogram\.expected has 1 entries for 10 classes"):
        collect(run_dir)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": np.arange(200)}, "different seeds"),
        ({"images": np.zeros((200, 1, 9, 8), np.uint8)}, r"\[200, 8, 8, 1\] before and \[200, 9, 8, 1\] after"),
        ({"images": np.zeros((200, 1, 8, 8), np.float32)}, "images are float32"),
        ({"images": np.zeros((200, 4, 8, 8), np.uint8)}, "expected uint8"),
        ({"judge_class": np.full(200, 10)}, "judge_class runs from 10 to 10; metrics.json names 10 classes"),
        ({"judge_confidence": np.ones(3, np.float32)}, r"judge_confidence has shape \[3\]; expected \[200\]"),
    ],
)
def test_samples_that_cannot_be_pairs(run_dir, changes, message):
    edit_samples(run_dir / "samples/unlearned.safetensors", **changes)
    with pytest.raises(InputError, match=message):
        collect(run_dir)


def test_samples_that_are_no_safetensors_or_lack_an_array(run_dir):
    path = run_dir / "samples/original.safetensors"
    save_file({"images": np.zeros((2, 1, 8, 8), np.uint8)}, path)
    with pytest.raises(InputError, match="lacks seeds, judge_class, judge_confidence"):
        collect(run_dir)
    path.write_bytes(b"no")
    with pytest.raises(InputError, match="not a readable safetensors file"):
        collect(run_dir)


def test_a_torn_last_line_is_warned_of_and_a_torn_middle_is_an_error(run_dir):
    log = run_dir / "log.jsonl"
    log.write_text('{"step": 1, "loss": 0.5}\n{"event": "saved"}\n{"step": 2, "lo', "utf-8")
    data = collect(run_dir)
    assert data.log == ({"step": 1, "loss": 0.5, "terms": {}},)
    assert "torn" in data.warnings[0]
    log.write_text('{"step": 1, "lo\n{"step": 2, "loss": 0.5}\n', "utf-8")
    with pytest.raises(InputError, match="line 1 is not JSON"):
        collect(run_dir)


def test_contradictions_become_warnings(run_dir):
    classes = load_file(run_dir / "samples/unlearned.safetensors")["judge_class"]
    edit_samples(run_dir / "samples/unlearned.safetensors", judge_class=(classes + 1) % 10)
    edit_json(run_dir / "run.json", finished=False)
    warnings = " ".join(collect(run_dir).warnings)
    assert "unlearned samples and metrics.json disagree about the class counts" in warnings
    assert "disagree about the flip table" in warnings
    assert "not finished" in warnings
    assert "original samples" not in warnings


@pytest.mark.parametrize(("names", "expected"), [(["7"], (7,)), (["3", "5"], (3, 5)), (None, ()), (["cat"], ())])
def test_forget_classes_by_name(run_dir, names, expected):
    edit_json(run_dir / "metrics.json", forget={"description": "d", "classes": names, "n_images": 1, "sha256": "0"})
    data = collect(run_dir)
    assert data.forget_ids == expected
    assert any("unordered" in warning for warning in data.warnings) == (expected == ())


def test_a_fallback_classifier_names_the_class_forget(make_run, tmp_path):
    forget = {"description": "7", "classes": ["7"], "n_images": 1, "sha256": "0"}
    folder = make_run(tmp_path / "run", names=["other", "forget"], forget=1, forget_entry=forget)
    assert collect(folder).forget_ids == (1,)


def test_evidence_of_an_earlier_state_of_the_run_is_refused(run_dir):
    """The run was continued with more steps after it had been evaluated."""
    metrics = json.loads((run_dir / "metrics.json").read_text("utf-8"))
    edit_json(run_dir / "metrics.json", protocol=metrics["protocol"] | {"unlearned_sha256": "a" * 64})
    edit_json(run_dir / "run.json", verb="unlearn", pipeline={"sha256": "b" * 64})
    for read in (collect, lambda folder: read_runs([folder])):
        with pytest.raises(
            InputError, match=r"measured the model with SHA-256 aaaaaaaaaaaa…, and the run has made bbbbbbbbbbbb…"
        ):
            read(run_dir)
    edit_json(run_dir / "run.json", pipeline={"sha256": "a" * 64, "parts_sha256": "c" * 64})
    assert not collect(run_dir).contradictions
    protocol = {"unlearned_sha256": "a" * 64, "unlearned_parts_sha256": "d" * 64}  # which alone was trained
    edit_json(run_dir / "metrics.json", protocol=metrics["protocol"] | protocol)
    with pytest.raises(InputError, match="dddddddddddd…, and the run has made cccccccccccc…"):
        collect(run_dir)


@pytest.mark.parametrize(("source", "expected"), [("fallback", (1,)), ("given", (0,))])
def test_a_users_class_called_other_is_not_what_a_fallback_classifier_keeps(source, expected):
    metrics = {
        "forget": {"classes": ["other"], "description": "some"},
        "histogram": {"classes": ["other", "forget"]},
        "judge": {"source": source},
    }
    assert _forget_ids(metrics) == expected


def test_a_log_that_goes_on_after_the_model_is_cut_and_said(run_dir):
    """The run was continued and interrupted: the model is still the one of before."""
    record = json.loads((run_dir / "run.json").read_text("utf-8"))
    edit_json(run_dir / "run.json", pipeline=(record.get("pipeline") or {}) | {"steps": 250})
    data = collect(run_dir)
    assert len(data.log) == 250 and data.log[-1]["step"] == 250
    assert any("goes on to step 300, and the model here is that of step 250" in each for each in data.contradictions)


def test_evidence_of_another_pair_is_refused(run_dir):
    metrics = json.loads((run_dir / "metrics.json").read_text("utf-8"))
    edit_json(run_dir / "metrics.json", protocol=metrics["protocol"] | {"unlearned_sha256": "a" * 64})
    edit_json(run_dir / "run.json", verb="evaluate", inputs={"unlearned": {"sha256": "b" * 64}})
    with pytest.raises(InputError, match="measured the model with SHA-256 aaaaaaaaaaaa"):
        collect(run_dir)
