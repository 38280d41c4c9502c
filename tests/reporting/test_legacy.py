"""Records of older versions, as they were written: the committed demo and the probes of a made-up run."""

import json
from copy import deepcopy
from pathlib import Path

import pytest

from vdu.reporting.code_texts import guarantee_text, not_run_text, stopping_text
from vdu.reporting.findings.reliability import aim_missed
from vdu.reporting.legacy import current_metrics, current_probe, current_run, current_stage
from vdu.reporting.records import check_metrics

HERE = Path(__file__).parent
DEMO = json.loads((HERE.parents[1] / "results" / "demo" / "digit-8.json").read_text("utf-8"))
PROBES = json.loads((HERE / "probes.json").read_text("utf-8"))


def test_the_committed_demo_is_read():
    before = deepcopy(DEMO)
    metrics = current_metrics(DEMO)
    check_metrics(metrics, Path("digit-8.json"))
    assert before == DEMO  # what was given is left alone
    assert metrics["warnings"] == [{"code": "few_forget_images"}]
    assert metrics["reference"]["kind"] == "real"
    notes = {row["name"]: (row["note_code"], row["note"]) for row in metrics["rows"]}
    assert notes["real_split"] == ("real_split", "") and notes["unlearned"] == (None, "")
    assert notes["filtered_original"] == ("filtered_by_second_judge", "") and notes["retrained"] == ("retrained", "")
    probes = metrics["probes"]
    assert probes["retrained"]["protocol"]["floor_u_fid"] == 61.72384616344266
    assert probes["stochastic"]["protocol"]["evaluation_sampler"].startswith("ddpm, 20 steps")
    assert probes["completion"]["protocol"]["n_drawn"] == 600
    assert not any(" " in key for probe in probes.values() for key in probe["protocol"])


@pytest.mark.parametrize("metrics", [DEMO, {"probes": PROBES}], ids=["demo", "probes"])
def test_the_second_time_changes_nothing_and_no_number_is_lost(metrics):
    def numbers(value):
        if isinstance(value, dict | list):
            return [n for each in (value.values() if isinstance(value, dict) else value) for n in numbers(each)]
        return [value] if isinstance(value, int | float) else []

    once = current_metrics(metrics)
    assert current_metrics(once) == once
    for part in metrics.keys() - {"cost"}:  # there the sentence of the stopping rule becomes numbers
        assert numbers(once[part]) == numbers(metrics[part])


def test_image_sets_and_hidden_parts_get_codes():
    probes = {name: current_probe(each) for name, each in PROBES.items()}
    assert {row["images"] for row in probes["likelihood"]["rows"]} == {
        "forget_train", "forget_held_out", "retain_train", "retain_held_out",
    }  # fmt: skip
    assert {row["hidden"] for row in probes["inpainting"]["rows"]} <= {"lower_half", "right_half"}


def test_judge_reference_and_warnings():
    fallback = {"source": "trained on the spot", "second": {"source": "zoo"}}
    found = current_metrics({
        "judge": fallback,
        "reference": {"description": "filtered original, 200 further samples"},
        "warnings": ["The judge was trained on the spot, from", "No second judge: the", "something of numpy"],
        "rows": [{"note": "an own note"}],
    })
    assert (found["judge"]["source"], found["judge"]["second"]["source"]) == ("fallback", "zoo")
    assert found["reference"]["kind"] == "filtered_original"
    assert found["warnings"] == [
        {"code": "fallback_judge"}, {"code": "no_second_judge"}, {"code": "python_warning", "message": "something of numpy"},
    ]  # fmt: skip
    assert found["rows"] == [{"note": "an own note", "note_code": None}]


def test_a_reason_stays_as_it_was_written():
    found = current_probe({"status": "not run", "reason": "no GPU {here}"})
    assert found["code"] == "recorded" and not_run_text(found) == "no GPU {here}"


@pytest.mark.parametrize(("left", "missed"), [(13, True), (12, False)])
def test_the_ending_of_a_run_is_shown_as_it_was_written(left, missed):
    text = f"after 9 steps {left} of 128 own samples that were like the forget set still are (at most 12 was the aim)"
    stopping = current_run({"stages": [{"stage": "unlearn", "ending": text + "."}]})["stages"][0]["stopping"]
    assert stopping_text(stopping) == text and aim_missed(stopping) == missed
    assert (stopping["step"], stopping["n_left"], stopping["n_seeds"], stopping["aim"]) == (9, left, 128, 12)


def test_an_ending_without_numbers_is_read_too():
    stopping = current_stage({"ending": "these were all the steps."})["stopping"]
    assert stopping_text(stopping) == "these were all the steps" and aim_missed(stopping)


@pytest.mark.parametrize(
    "value",
    [None, 3, [], {"rows": 3, "judge": [], "probes": {"a": 1}, "cost": [1], "warnings": [None], "reference": 1}],
)
def test_what_is_not_of_the_expected_kind_passes_unchanged(value):
    assert current_metrics(value) == value and current_run(value) == value


def test_a_stopping_rule_with_and_without_a_bound():
    old = {"reason": "all_steps", "step": 9, "n_left": 20, "n_seeds": 100, "aim": 10}
    assert stopping_text(old).endswith("the aim was 10 or fewer; all steps were taken") and guarantee_text(old) == ""
    new = old | {"bound": 0.3, "aim_bound": 0.19, "confidence": 0.95, "error": 0.05}
    assert stopping_text(new, ("s",)).replace("\u202f", " ") == (
        "at most 30.0 % of the model's own unwanted seeds remain, 95 % confidence, by the run's own classifier (20 of 100 held-out seeds "
        "after 9 steps); the aim of at most 19.0 % was not reached, and all steps were taken: more --steps forget more, and so does a "
        "larger s (--option)"
    )
    assert stopping_text(new | {"reason": "forgotten", "n_left": 9}).endswith(
        "the aim of at most 19.0\u202f% was reached"
    )
    assert aim_missed(new) and not aim_missed(new | {"n_left": 9})
