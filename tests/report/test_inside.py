from dataclasses import replace

import pytest

from vdu.report.collect import collect
from vdu.report.inside import inside_parts


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
        ((-0.20, -0.18, -0.16), "Still more likely"),
        ((0.40, 0.50, 0.60), "Less likely"),
    ],
)
def test_likelihood_is_read_image_by_image_where_it_can_be(full, unlearned, start):
    found = inside_parts(with_probe(full, "likelihood", differences=paired(unlearned)))["likelihood"]
    assert found.title.startswith(start)
    assert (found.level == "good") == (start == "As likely")


@pytest.mark.parametrize(("value", "start"), [(2.34, "As likely"), (2.0, "Still more likely"), (2.6, "Less likely")])
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


@pytest.mark.parametrize(
    ("auc", "tpr_low", "level"),
    [((0.47, 0.51, 0.55), 0.0, "good"), ((0.55, 0.6, 0.65), 0.0, "mixed"), ((0.3, 0.4, 0.45), 0.0, "mixed"),
     ((0.47, 0.51, 0.55), 0.02, "mixed")],
)  # fmt: skip
def test_membership_on_either_side_of_chance_is_a_trace(full, auc, tpr_low, level):
    row = {"model": "unlearned", "attack": "loss", "auc": dict(zip(("low", "value", "high"), auc, strict=True)),
           "tpr_at_1_fpr": {"low": tpr_low, "value": 0.03, "high": 0.06}, "n_members": 9, "n_held_out": 9}  # fmt: skip
    found = inside_parts(with_probe(full, "membership", rows=[row]))["membership"]
    assert found.level == level


@pytest.mark.parametrize(
    ("before", "after", "level"),
    [
        ((50, 60, 70), (10, 18, 25), "good"),
        ((10, 18, 25), (50, 60, 70), "bad"),
        ((10, 18, 25), (12, 19, 26), "unknown"),
    ],
)
def test_distance_to_retrained_falls_or_rises(full, before, after, level):
    samples = [
        {"model": m, "u_fid": dict(zip(("low", "value", "high"), ends, strict=True))}
        for m, ends in (("original", before), ("unlearned", after))
    ]
    assert inside_parts(with_probe(full, "retrained", samples=samples))["retrained"].level == level
