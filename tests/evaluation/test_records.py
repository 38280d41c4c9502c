"""Records become the plain values that files have always held: keys and numbers written out here by hand."""

import json
from dataclasses import FrozenInstanceError

import pytest

from vdu.evaluation.records import (
    Comparison,
    DistanceRow,
    Distances,
    EvidenceRecord,
    Fidelity,
    HistogramRecord,
    Interval,
    JudgeRecord,
    KeptRecord,
    PULRecord,
    ReferenceRecord,
    SecondJudgeRecord,
    Transitions,
    WarningRecord,
)

PUL = PULRecord(80.0, 60.0, 90.0, 10, 2, n_images=100, n_empty_resamples=3)
PUL_JSON = {"value": 80.0, "low": 60.0, "high": 90.0, "n_original": 10, "n_unlearned": 2}
DISTANCES = Distances(Interval(7.0, 6.0, 8.0), Interval(0.5, 0.25, 0.75))
DISTANCES_JSON = {
    "u_fid": {"value": 7.0, "low": 6.0, "high": 8.0},
    "kid": {"value": 0.5, "low": 0.25, "high": 0.75},
}
FIDELITY = Fidelity(0.5, 0.25, 1.5, 0.75)
FIDELITY_JSON = {"precision": 0.5, "recall": 0.25, "density": 1.5, "coverage": 0.75}
HISTOGRAM = HistogramRecord(("a", "b"), (10, 90), (2, 98), (0.0, 100.0), Interval(0.0, 0.0, 0.1), 0.01, 0.02)
HISTOGRAM_JSON = {
    "classes": ["a", "b"], "original": [10, 90], "unlearned": [2, 98], "expected": [0.0, 100.0],
    "distance": 0.0, "distance_low": 0.0, "distance_high": 0.1, "chance": 0.01, "chance_high": 0.02,
}  # fmt: skip
JUDGE = JudgeRecord("mnist-cnn", "cnn", "zoo", 0.01, 500, 0.002, 98.0)
JUDGE_JSON = {
    "name": "mnist-cnn", "architecture": "cnn", "source": "zoo", "held_out_error": 0.01, "n_held_out": 500,
    "forget_false_positive_rate": 0.002, "pul_ceiling": 98.0,
}  # fmt: skip
SECOND_JSON = {**JUDGE_JSON, "pul": {**PUL_JSON, "n": 100, "n_empty_resamples": 3}}
ROW = DistanceRow("unlearned", "Unlearned", DISTANCES, FIDELITY, PUL, 2)
ROW_JSON = {
    "name": "unlearned", "label": "Unlearned", "pul": PUL_JSON, **DISTANCES_JSON, "forget_count": 2, "status": "measured",
    "note": "", "note_code": None, **FIDELITY_JSON,
}  # fmt: skip
EMPTY_JSON = {
    "name": "ascent", "label": "Ascent", "pul": None, "u_fid": None, "kid": None, "forget_count": None,
    "status": "not run", "note": "", "note_code": None,
}  # fmt: skip
EVIDENCE = EvidenceRecord(
    n_images=100,
    rows=(ROW, DistanceRow("ascent", "Ascent")),
    histogram=HISTOGRAM,
    transitions=Transitions(("a", "b"), ((1, 9), (1, 89))),
    kept=KeptRecord(1, 90, "b", 100.0, 98),
    judge=JUDGE,
    corrected_pul_percent=Interval(82.0, 61.0, 92.0),
    second_judge=SecondJudgeRecord(JUDGE, PUL),
    feature_network="judge:mnist-cnn",
    reference=ReferenceRecord("real", "mnist test without 8", 900),
    warnings=(WarningRecord("few_forget_images", {"forget_count": 10}), WarningRecord("no_second_judge", {})),
)
EVIDENCE_JSON = {
    "n_images": 100,
    "rows": [ROW_JSON, EMPTY_JSON],
    "histogram": HISTOGRAM_JSON,
    "flips": {"classes": ["a", "b"], "counts": [[1, 9], [1, 89]]},
    "kept": {
        "n_changed": 1,
        "n_kept": 90,
        "share": 1 / 90,
        "largest_shift": {"class": "b", "expected": 100.0, "made": 98},
    },
    "judge": {**JUDGE_JSON, "corrected_pul": {"value": 82.0, "low": 61.0, "high": 92.0}, "second": SECOND_JSON},
    "feature_network": "judge:mnist-cnn",
    "reference": {"kind": "real", "description": "mnist test without 8", "n_images": 900},
    "warnings": [{"code": "few_forget_images", "forget_count": 10}, {"code": "no_second_judge"}],
}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (ROW, ROW_JSON),
        (DistanceRow("ascent", "Ascent"), EMPTY_JSON),
        (DistanceRow("real_split", "Real", DISTANCES, note_code="real_split"),
         EMPTY_JSON | DISTANCES_JSON | {"name": "real_split", "label": "Real", "status": "measured", "note_code": "real_split"}),
        (Comparison(PUL, None, DISTANCES, HISTOGRAM, None),
         {"pul": SECOND_JSON["pul"], "second": None, **DISTANCES_JSON, "histogram": HISTOGRAM_JSON}),
        (Comparison(PUL, SecondJudgeRecord(JUDGE, PUL), DISTANCES, HISTOGRAM, FIDELITY),
         {"pul": SECOND_JSON["pul"], "second": SECOND_JSON, **DISTANCES_JSON, "histogram": HISTOGRAM_JSON, **FIDELITY_JSON}),
        (EVIDENCE, EVIDENCE_JSON),
    ],
)  # fmt: skip
def test_the_files_keys_and_numbers(record, expected):
    assert record.to_json() == expected
    assert json.loads(json.dumps(record.to_json())) == expected  # no tuple, no tensor, no NaN


def test_rows_are_found_by_name():
    assert EVIDENCE.row("ascent").distances is None
    assert EVIDENCE.pul is PUL


def test_records_do_not_change():
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'value'"):
        PUL.value = 1.0  # pyright: ignore[reportAttributeAccessIssue]
