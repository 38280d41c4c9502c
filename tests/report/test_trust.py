from dataclasses import replace

import pytest

from vdu.report.collect import collect
from vdu.report.trust import can_it_be_trusted, cost_split, what_it_cost


@pytest.fixture
def data(run_dir):
    """A run with nothing against it: 2000 images, two judges that agree, a retrained row."""
    data = collect(run_dir)
    metrics = data.metrics
    pul = {"value": 97.0, "low": 92.0, "high": 99.0, "n_original": 200, "n_unlearned": 6}
    rows = [row | {"status": "measured"} for row in metrics["rows"]]
    rows = [row | ({"pul": pul} if row["name"] == "unlearned" else {}) for row in rows]
    second = metrics["judge"] | {"pul": pul | {"value": 95.0}}
    return replace(
        data, metrics=metrics | {"n_images": 2000, "rows": rows, "judge": metrics["judge"] | {"second": second}}
    )


def changed(data, pul=None, **changes):
    rows = [
        row | ({"pul": row["pul"] | pul} if pul and row["name"] == "unlearned" else {}) for row in data.metrics["rows"]
    ]
    return replace(data, metrics=data.metrics | {"rows": rows} | changes)


def test_nothing_against_it(data):
    assert (can_it_be_trusted(data).level, can_it_be_trusted(data).title) == ("good", "Yes, for this one run")


@pytest.mark.parametrize(
    ("change", "level", "title"),
    [
        (lambda d: replace(d, contradictions=("x",), warnings=("x",)), "bad", "No: its files contradict each other"),
        (lambda d: changed(d, judge=d.metrics["judge"] | {"pul_ceiling": 70.0}), "bad", "Too little to go by"),
        (lambda d: changed(d, {"n_original": 9}), "bad", "Too little to go by"),
        (lambda d: changed(d, {"low": 99.5, "high": 100.0}), "mixed", "With care: the judges disagree"),
        (lambda d: changed(d, judge=d.metrics["judge"] | {"second": None}), "mixed", "With care: one judge only"),
        (lambda d: changed(d, judge=d.metrics["judge"] | {"source": "trained on the spot"}), "mixed",
         "With care: the judge was trained on the spot"),
        (lambda d: changed(d, {"n_original": 40}), "mixed", "With care: only 40 unwanted images"),
        (lambda d: changed(d, n_images=500), "mixed", "With care: only 500 images a model"),
        (lambda d: changed(d, rows=[r | {"status": "not run"} if r["name"] == "retrained" else r for r in d.metrics["rows"]]),
         "mixed", "With care: no retrained model to compare with"),
    ],
)  # fmt: skip
def test_each_reservation(data, change, level, title):
    found = can_it_be_trusted(change(data))
    assert (found.level, found.title) == (level, title)
    assert "not certified" in found.limits[0]


def test_measuring_is_told_apart_from_forgetting(data):
    stages = [
        ("posterior", 41.0, 5),
        ("unlearn", 13.0, 7),
        ("judge", 1.0, None),
        ("evaluate", 100.0, 9),
        ("probes", 60.0, 3),
    ]
    cost = [{"stage": s, "seconds": t, "network_evaluations": n} for s, t, n in stages]
    making, measuring = cost_split({"cost": cost})
    assert [s["stage"] for s in making] == ["posterior", "unlearn"] and len(measuring) == 3
    found = what_it_cost(changed(data, cost=cost))
    assert found.title == "54.0 s to forget" and found.figure == "12 network evaluations; measuring it 2 min 41 s more"
    uncounted = [stage | {"network_evaluations": None} if stage["stage"] == "unlearn" else stage for stage in cost]
    assert what_it_cost(changed(data, cost=uncounted)).figure.startswith("at least 5 network evaluations")
