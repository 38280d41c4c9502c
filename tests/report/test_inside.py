from dataclasses import replace

import pytest

from vdu.report.collect import collect
from vdu.report.inside import FLOOR, inside_parts


@pytest.fixture
def full(make_run, tmp_path):
    return collect(make_run(tmp_path / "run", full=True))


def with_probe(data, name, **changes):
    probes = data.metrics["probes"]
    return replace(data, metrics=data.metrics | {"probes": probes | {name: probes[name] | changes}})


def paired(unlearned, original=(-0.74, -0.72, -0.70)):
    ends = {"unlearned": unlearned, "original": original}
    return [
        {"model": m, "against": "retrained", "images": "forget train", "low": low, "value": v, "high": high}
        for m, (low, v, high) in ends.items()
    ]


@pytest.mark.parametrize(
    ("unlearned", "start"),
    [
        ((-0.01, 0.02, 0.05), "As likely"),  # contains 0
        ((-0.08, -0.07, -0.06), "As likely"),  # a tenth of 0.72 at most
        ((-0.10, 0.02, 0.14), "Undecided"),  # contains 0, as a wide interval would anyway
        ((-0.20, -0.18, -0.16), "Still more likely"),
        ((0.40, 0.50, 0.60), "Less likely"),
    ],
)
def test_likelihood_is_read_image_by_image_where_it_can_be(full, unlearned, start):
    found = inside_parts(with_probe(full, "likelihood", differences=paired(unlearned)))["likelihood"]
    assert found.title.startswith(start)
    assert (found.level == "good") == (start == "As likely")


@pytest.mark.parametrize(("value", "start"), [(2.34, "Undecided"), (2.0, "Still more likely"), (2.6, "Less likely")])
def test_without_pairs_the_intervals_decide(full, value, start):
    rows = [
        row | ({"low": value - 0.03, "value": value, "high": value + 0.03} if row["model"] == "unlearned" else {})
        for row in full.metrics["probes"]["likelihood"]["rows"]
    ]
    found = inside_parts(with_probe(full, "likelihood", rows=rows, differences=[]))["likelihood"]
    assert found.title.startswith(start)


def test_the_largest_loss_is_not_the_target(full):
    """Without a retrained model nothing is called good."""
    rows = [row for row in full.metrics["probes"]["likelihood"]["rows"] if row["model"] != "retrained"]
    found = inside_parts(with_probe(full, "likelihood", rows=rows, differences=[]))["likelihood"]
    assert found.level == "unknown" and "No retrained model" in found.title


def test_as_likely_needs_an_interval_that_excludes_the_original(full):
    differences = paired((-0.04, -0.01, 0.02), original=(-0.04, -0.03, -0.02))
    found = inside_parts(with_probe(full, "likelihood", differences=differences))["likelihood"]
    assert found.title.startswith("Undecided") and found.level == "unknown"


@pytest.mark.parametrize(
    ("rest", "word"),
    [((0.38, 0.42, 0.46), "global shift"), ((0.0, 0.01, 0.02), "pushed too far"), (None, "pushed too far")],
)
def test_pushed_too_far_is_read_against_retained_images(full, rest, word):
    differences = paired((0.40, 0.50, 0.60))
    if rest is not None:
        ends = dict(zip(("low", "value", "high"), rest, strict=True))
        differences.append({"model": "unlearned", "against": "retrained", "images": "retain held out", **ends})
    found = inside_parts(with_probe(full, "likelihood", differences=differences))["likelihood"]
    assert word in found.title and found.level == "mixed"
    assert ("not excluded" in found.text) == (rest is None)


def attacked(model, auc, n=300, tpr=(0.0, 0.01, 0.03)):
    ends = ("low", "value", "high")
    return {"model": model, "attack": "loss", "auc": dict(zip(ends, auc, strict=True)),
            "tpr_at_1_fpr": dict(zip(ends, tpr, strict=True)), "n_members": n, "n_held_out": n}  # fmt: skip


@pytest.mark.parametrize(
    ("ours", "gold", "n", "title"),
    [
        ((1.0, 1.0, 1.0), None, 4, "Undecided: too few"),
        ((1.0, 1.0, 1.0), None, 29, "Undecided: too few"),
        ((1.0, 1.0, 1.0), None, 30, "The forgotten images can be told"),
        ((0.40, 0.50, 0.60), None, 300, "Undecided: the interval"),
        ((0.52, 0.57, 0.62), (0.50, 0.55, 0.60), 300, "An attack does no better than on a model"),
        ((0.52, 0.57, 0.62), (0.40, 0.55, 0.70), 300, "Undecided: the interval"),
        ((0.62, 0.67, 0.72), (0.50, 0.55, 0.60), 300, "The forgotten images can be told"),
        ((0.30, 0.35, 0.40), (0.45, 0.50, 0.55), 300, "The forgotten images can be told"),
        ((0.45, 0.50, 0.55), (0.55, 0.60, 0.65), 300, "An attack does no better than chance"),
    ],
)
def test_membership_needs_numbers_width_and_a_lead_over_the_retrained_model(full, ours, gold, n, title):
    rows = [attacked("unlearned", ours, n), *([] if gold is None else [attacked("retrained", gold, n)])]
    found = inside_parts(with_probe(full, "membership", rows=rows))["membership"]
    assert found.title.startswith(title), found


def test_members_found_at_few_false_alarms_count_only_beyond_the_retrained_model(full):
    rows = [attacked("unlearned", (0.47, 0.5, 0.53), tpr=(0.02, 0.04, 0.06)), attacked("retrained", (0.47, 0.5, 0.53))]
    assert inside_parts(with_probe(full, "membership", rows=rows))["membership"].level == "good"
    rows[1]["tpr_at_1_fpr"]["high"] = 0.015
    assert inside_parts(with_probe(full, "membership", rows=rows))["membership"].level == "mixed"


@pytest.mark.parametrize(
    ("auc", "tpr_low", "level"),
    [((0.47, 0.51, 0.55), 0.0, "good"), ((0.55, 0.6, 0.65), 0.0, "mixed"), ((0.3, 0.4, 0.45), 0.0, "mixed"),
     ((0.47, 0.51, 0.55), 0.02, "mixed")],
)  # fmt: skip
def test_membership_on_either_side_of_chance_is_a_trace(full, auc, tpr_low, level):
    row = {"model": "unlearned", "attack": "loss", "auc": dict(zip(("low", "value", "high"), auc, strict=True)),
           "tpr_at_1_fpr": {"low": tpr_low, "value": 0.03, "high": 0.06}, "n_members": 90, "n_held_out": 90}  # fmt: skip
    found = inside_parts(with_probe(full, "membership", rows=[row]))["membership"]
    assert found.level == level


@pytest.mark.parametrize(
    ("before", "after", "level"),
    [
        ((50, 60, 70), (10, 18, 25), "good"),
        ((10, 18, 25), (50, 60, 70), "mixed"),
        ((10, 18, 25), (12, 19, 26), "unknown"),
    ],
)
def test_distance_to_retrained_falls_or_rises(full, before, after, level):
    samples = [
        {"model": m, "u_fid": dict(zip(("low", "value", "high"), ends, strict=True))}
        for m, ends in (("original", before), ("unlearned", after))
    ]
    assert inside_parts(with_probe(full, "retrained", samples=samples))["retrained"].level == level


@pytest.mark.parametrize(
    ("after", "swapped", "start", "level"),
    [
        ((10, 18, 25), False, "Nearer", "good"),
        ((10, 18, 25), True, "Samples nearer, predictions farther", "mixed"),
        ((50, 60, 70), True, "Predictions farther", "bad"),
        ((90, 95, 99), True, "Farther", "bad"),
        ((50, 60, 70), False, "Predictions nearer, samples undecided", "unknown"),
    ],
)
def test_distance_reads_samples_and_predictions(full, after, swapped, start, level):
    ends = ("low", "value", "high")
    samples = [
        {"model": m, "u_fid": dict(zip(ends, e, strict=True))}
        for m, e in (("original", (50, 60, 70)), ("unlearned", after))
    ]
    rows = full.metrics["probes"]["retrained"]["denoising"]
    other = {"original": "unlearned", "unlearned": "original"}
    rows = [row | {"model": other[row["model"]]} for row in rows] if swapped else rows
    found = inside_parts(with_probe(full, "retrained", samples=samples, denoising=rows, protocol={FLOOR: 7.25}))[
        "retrained"
    ]
    assert found.title.startswith(start) and found.level == level
    assert f"nearer in {0 if swapped else 6} of 6 comparisons, farther in {6 if swapped else 0}" in found.text
    assert "against itself, is 7.25" in found.text
