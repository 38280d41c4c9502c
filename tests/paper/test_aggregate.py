"""Means, verdicts, claims and the page of a table of the paper, on made-up measurements."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from vdu.paper.aggregate import INTERVALS, aggregate, compare, differences, judge_claims, mean_of
from vdu.paper.table_page import markdown
from vdu.paper.tables import REFERENCES, Claim, Printed, Row, Table, World


def world(network="paper-net") -> World:
    return World(
        original="train", network=network, data="digits", pretrain={}, members=2, ensemble="independent", retrained=("3",),
        sampler={}, n_train=1, n_own_samples=1, n_fisher_samples=1, timesteps_per_sample=1, judge="a", second_judge="b",
    )  # fmt: skip


def table(*claims, network="paper-net", printed=()) -> Table:
    return Table(
        name="mine", scale="smoke", title="Mine", figure="grids", network={"digits": "paper-net"}, features="Inception",
        tolerances={"pul": 10.0, "u_fid": 0.25}, printed=tuple(printed), claims=tuple(claims),
        rows={name: Row(label=name.upper(), options={}) for name in ("vdu", "sa", "ascent")}, runs=(),
        worlds={"digits": world(network)},
    )  # fmt: skip


def around(value, half=1.0) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def row(name, at, forget="3", dataset="digits", n_seeds=3, n_diverged=0) -> dict:
    """An aggregated row: number of images → metric → value."""
    return {
        "dataset": dataset, "forget": forget, "row": name, "label": name.upper(), "n_seeds": n_seeds, "n_diverged": n_diverged,
        "at": at, "seconds": 1.0, "steps": 2, "network_evaluations": 3,
    }  # fmt: skip


def measured(pul, u_fid, seconds=1.0, n=("80",)) -> dict:
    """A cell's result of one seed."""
    at = {
        "pul": {**around(pul, 4.0), "n_original": 20, "n_unlearned": round(20 - pul / 5)},
        "u_fid": around(u_fid, 2.0),
        "kid": around(u_fid / 100, 0.1),
        "second": {"pul": around(pul - 1, 4.0)},
        "histogram": {"distance": pul / 1000, "chance_high": 0.05},
    }
    result = {"status": "measured", "at": dict.fromkeys(n, at), "seconds": seconds}
    return result | {"steps": 9, "network_evaluations": 27}


def test_kept_images_that_changed_are_the_mean_over_seeds_and_absent_where_one_lacks_them():
    seeds = [measured(50.0, 20.0), measured(60.0, 22.0)]
    counted = [
        {**each, "at": {"80": {**each["at"]["80"], "changed": [n, 60]}}} for each, n in zip(seeds, (6, 9), strict=True)
    ]
    (row,) = aggregate(table(), {("digits", "3", "vdu"): counted})
    assert row["at"]["80"]["changed"] == [7.5, 60]
    (row,) = aggregate(table(), {("digits", "3", "vdu"): [counted[0], seeds[1]]})
    assert "changed" not in row["at"]["80"]


DIVERGED = {"status": "diverged", "message": "mse rose to 7", "seconds": 4.0}


# means


@pytest.mark.parametrize(
    "seeds",
    [
        [(10.0, 8.0, 12.0), (14.0, 13.0, 15.0)],
        [(61.0, 55.0, 66.0), (60.0, 56.0, 65.0), (75.0, 70.0, 79.5)],
        [(5.0, 5.0, 5.0), (5.0, 4.0, 6.0), (5.0, 5.0, 5.0), (5.0, 5.0, 5.0)],
        [(100.0, 92.0, 100.0), (98.0, 91.0, 99.5), (100.0, 92.0, 100.0)],
    ],
)
def test_the_mean_over_seeds_by_its_formula(seeds):
    value, low, high = np.array(seeds).T
    seeds_half = stats.t.ppf(0.975, len(value) - 1) * np.std(value, ddof=1) / np.sqrt(len(value))
    below, above = (np.sqrt(seeds_half**2 + np.mean((value - each) ** 2)) for each in (low, high))
    expected = {"value": value.mean(), "low": value.mean() - below, "high": value.mean() + above}
    found = mean_of([dict(zip(("value", "low", "high"), each, strict=True)) for each in seeds])
    assert found == pytest.approx(expected, rel=2e-3)  # the source has the quantiles to three digits


def test_one_seed_keeps_its_interval_and_what_is_not_of_it():
    lopsided = {"value": 60.0, "low": 40.0, "high": 65.0, "n_original": 7}
    assert mean_of([lopsided]) == {"value": 60.0, "low": 40.0, "high": 65.0}


def test_rows_are_means_over_their_seeds():
    seeds = [measured(50.0, 10.0, seconds=2.0), measured(60.0, 12.0, seconds=4.0)]
    seeds[0] |= {"unlearn_seconds": 1.5, "posterior_evaluations": 640, "ending": "after 7 steps", "steps": 7}
    seeds[1] |= {
        "unlearn_seconds": 2.7,
        "posterior_evaluations": 660,
        "ending": "after 9 steps",
        "network_evaluations": 31,
    }
    (found,) = aggregate(table(), {("digits", "3", "vdu"): seeds})
    assert {key: value for key, value in found.items() if key != "at"} == {
        "dataset": "digits", "forget": "3", "row": "vdu", "label": "VDU", "n_seeds": 2, "n_diverged": 0,
        "seconds": 3.0, "steps": 8, "network_evaluations": 29, "unlearn_seconds": 2.1, "posterior_evaluations": 650,
        "ending": "after 7 steps",
    }  # fmt: skip
    at = found["at"]["80"]
    for name, values in {"pul": (50.0, 60.0), "second_pul": (49.0, 59.0), "u_fid": (10.0, 12.0)}.items():
        half = 2.0 if name == "u_fid" else 4.0
        width = math.hypot(stats.t.ppf(0.975, 1) * np.std(values, ddof=1) / math.sqrt(2), half)
        expected = around(np.mean(values), width)
        if name != "u_fid":
            expected["high"] = min(expected["high"], 100.0)
        assert at[name] == pytest.approx(expected, rel=5e-3), name
    assert at["kid"]["value"] == pytest.approx(0.11)
    assert (at["n_original"], at["n_unlearned"]) == (20, [10, 8])
    assert at["histogram_distance"] == pytest.approx(0.055)
    assert at["histogram_chance_high"] == 0.05


@pytest.mark.parametrize(
    ("seeds", "n_seeds", "n_diverged", "value", "seconds"),
    [
        ([measured(50.0, 10.0), DIVERGED, measured(60.0, 12.0)], 2, 1, 55.0, 2.0),
        ([DIVERGED, measured(50.0, 10.0)], 1, 1, 50.0, 2.5),
        ([DIVERGED, DIVERGED], 0, 2, None, 4.0),
    ],
)
def test_seeds_that_diverged_are_counted_and_left_out(seeds, n_seeds, n_diverged, value, seconds):
    (found,) = aggregate(table(), {("digits", "3", "vdu"): seeds})
    assert (found["n_seeds"], found["n_diverged"], found["seconds"]) == (n_seeds, n_diverged, seconds)
    assert [at["pul"]["value"] for at in found["at"].values()] == ([] if value is None else [value])
    assert found["steps"] == (None if value is None else 9)


def test_every_number_of_images_has_its_entry_and_references_have_no_pul():
    (found,) = aggregate(table(), {("digits", "3", "sa"): [measured(50.0, 10.0, n=("1000", "5000"))]})
    assert list(found["at"]) == ["1000", "5000"]
    reference = {"status": "measured", "at": {"80": {"u_fid": around(3.0), "kid": around(0.0)}}}
    rows = aggregate(table(), {("digits", "3", name): [reference] for name in (*REFERENCES, "retrained")})
    labels = ["Real images against real images", "Original", "Filtered-oracle baseline", "Retrained model"]
    assert [each["label"] for each in rows] == labels
    assert all(set(each["at"]["80"]) == {"u_fid", "u_fid_seeds", "kid"} for each in rows)


# ours against the paper

PRINTED = Printed("digits", "3", "vdu", pul=60.0, u_fid=20.0)
FEATURES = "not comparable: features differ"


@pytest.mark.parametrize(
    ("pul", "verdict"),
    [
        (around(70.0), "agrees"),  # the tolerance is 10 points
        (around(70.1), "disagrees"),
        (around(49.9), "disagrees"),
        (around(75.0, 15.0), "agrees"),  # far, but the interval is wide
        (around(75.0, 14.9), "disagrees"),
    ],
)
def test_the_verdict_on_a_printed_pul(pul, verdict):
    (entry,) = compare(table(printed=[PRINTED]), [row("vdu", {"80": {"pul": pul, "u_fid": around(20.0)}})])
    assert entry["pul"] == {"paper": 60.0, "ours": pul, "verdict": verdict}
    assert entry["u_fid"]["verdict"] == FEATURES  # equal, but of other features
    assert (entry["dataset"], entry["forget"], entry["row"]) == ("digits", "3", "vdu")


def test_what_the_world_says_differs_is_not_comparable_either():
    rows, made = (
        [row("vdu", {"80": {"pul": around(60.5), "u_fid": around(20.5)}})],
        table(network="small", printed=[PRINTED]),
    )
    made = replace(made, worlds={"digits": replace(world("small"), differs=("training", "sampler"))})
    (entry,) = compare(made, rows)
    assert entry["pul"]["verdict"] == "not comparable: network, training and sampler differ"
    assert entry["u_fid"]["verdict"] == "not comparable: network, training, sampler and features differ"


def test_a_row_that_diverged_is_told_and_counts_against_claims():
    claim = Claim(text="", row="vdu", metric="pul", at_least=1.0)
    rows = [
        row("vdu", {}, n_seeds=0, n_diverged=3),
        row("vdu", {"80": {"pul": around(60.0)}}, forget="4", n_seeds=2, n_diverged=1),
        row("vdu", {"80": {"pul": around(60.0)}}, forget="5"),
    ]
    (entry,) = compare(table(printed=[PRINTED]), rows)
    assert (entry["pul"]["verdict"], entry["n_diverged"]) == ("diverged", 3)
    (judged,) = judge_claims(table(claim), rows)
    assert judged["verdict"] == "disagrees"
    assert judged["classes"] == {"digits 3": "fails", "digits 4": "fails", "digits 5": "holds"}


@pytest.mark.parametrize("few", ["vdu", "sa"])
def test_a_claim_needs_three_seeds_on_both_sides(few):
    claim = Claim(text="", row="vdu", metric="u_fid", below="sa")
    values = {"vdu": 1.0, "sa": 10.0}
    rows = [
        row(name, {"80": {"u_fid": around(value)}}, n_seeds=2 if name == few else 3) for name, value in values.items()
    ]
    (judged,) = judge_claims(table(claim), rows)
    assert judged["classes"] == {"digits 3": "undecided"}


def test_what_has_no_number_was_not_run():
    at = {"80": {"pul": around(60.0), "u_fid": around(20.0)}}
    others = [row("sa", at), row("vdu", at, forget="4"), row("vdu", at, dataset="mnist")]
    (entry,) = compare(table(printed=[PRINTED]), others)
    for metric, paper in (("pul", 60.0), ("u_fid", 20.0)):
        assert entry[metric] == {"paper": paper, "ours": None, "verdict": "not run"}


def test_the_most_images_count_against_the_paper():
    at = {
        n: {"pul": around(value), "u_fid": around(20.0)} for n, value in (("1000", 5.0), ("5000", 60.0), ("800", 5.0))
    }
    (entry,) = compare(table(printed=[PRINTED]), [row("vdu", at)])
    assert entry["pul"]["ours"] == around(60.0) and entry["n_images"] == 5000


def test_the_rows_of_a_data_set_have_equal_numbers_of_images_where_they_can():
    """A Fréchet distance depends on it, and the entries stand in one table."""

    def at(*numbers):
        return {str(n): {"pul": around(n / 100), "u_fid": around(20.0)} for n in numbers}

    other = Printed("digits", "4", "vdu", 1.0, 2.0)
    rows = [row("vdu", at(800, 1000, 5000)), row("vdu", at(800, 1000), forget="4"), row("vdu", at(90), dataset="x")]
    found = compare(table(printed=[PRINTED, other]), rows)
    assert [(each["n_images"], each["pul"]["ours"]["value"]) for each in found] == [(1000, 10.0)] * 2
    rows[1] = row("vdu", at(300), forget="4")  # nothing in common
    assert [each["n_images"] for each in compare(table(printed=[PRINTED, other]), rows)] == [5000, 300]


# claims


def holds(claim: dict, **values) -> dict:
    """The verdict on a claim about "vdu", given (value, half width) of rows at one number of images."""
    whole = Claim(**{"text": "so it is", "row": "vdu", "metric": "u_fid", **claim})
    rows = [row(name, {"80": {whole.metric: around(*value)}}) for name, value in values.items()]
    (judged,) = judge_claims(table(whole), rows)
    assert judged["text"] == "so it is"
    return judged


@pytest.mark.parametrize(
    ("claim", "vdu", "sa", "verdict"),
    [
        ({"at_least": 50.0, "metric": "pul"}, (51.0, 1.0), None, "agrees"),
        ({"at_least": 50.0, "metric": "pul"}, (51.0, 1.1), None, "undecided"),
        ({"at_least": 50.0, "metric": "pul"}, (49.0, 1.0), None, "undecided"),
        ({"at_least": 50.0, "metric": "pul"}, (49.0, 0.9), None, "disagrees"),
        ({"below": "sa"}, (8.0, 1.0), (10.0, 1.0), "agrees"),
        ({"below": "sa"}, (8.1, 1.0), (10.0, 1.0), "undecided"),
        ({"below": "sa"}, (11.9, 1.0), (10.0, 1.0), "undecided"),
        ({"below": "sa"}, (12.1, 1.0), (10.0, 1.0), "disagrees"),
        ({"below": "sa", "factor": 1.5, "margin": 2.0}, (10.5, 1.0), (10.0, 1.0), "agrees"),  # 13.5 ≤ 1.5 · 9
        ({"below": "sa", "factor": 1.5, "margin": 2.0}, (10.6, 1.0), (10.0, 1.0), "undecided"),
        ({"below": "sa", "factor": 1.5}, (17.6, 1.0), (10.0, 1.0), "disagrees"),  # 16.6 > 1.5 · 11
        ({"above": "sa", "factor": 1.5}, (17.5, 1.0), (10.0, 1.0), "agrees"),  # 16.5 ≥ 1.5 · 11
        ({"above": "sa", "factor": 1.5}, (17.4, 1.0), (10.0, 1.0), "undecided"),
        ({"above": "sa", "factor": 1.5}, (12.4, 1.0), (10.0, 1.0), "disagrees"),  # 13.4 < 1.5 · 9
    ],
)
def test_claims_hold_or_fail_beyond_both_intervals(claim, vdu, sa, verdict):
    judged = holds(claim, vdu=vdu, **({"sa": sa} if sa else {}))
    each = {"agrees": "holds", "disagrees": "fails", "undecided": "undecided"}[verdict]
    assert (judged["verdict"], judged["classes"]) == (verdict, {"digits 3": each})


@pytest.mark.parametrize(
    "sa",
    [
        None,  # not run
        {"100": {"u_fid": around(10.0), "pul": around(10.0)}},  # no number of images in common
        {"80": {"u_fid": around(10.0)}},  # a reference: no PUL
    ],
)
def test_a_side_without_the_number_is_missing(sa):
    claim = Claim(text="", row="vdu", metric="pul", below="sa")
    rows = [row("vdu", {"80": {"u_fid": around(1.0), "pul": around(1.0)}})]
    rows += [] if sa is None else [row("sa", sa)]
    assert judge_claims(table(claim), rows) == [{"text": "", "verdict": "not run", "classes": {}}]


def test_a_class_whose_other_side_diverged_is_named_and_leaves_the_claim_undecided():
    claim = Claim(text="", row="vdu", metric="u_fid", below="sa")
    rows = [row(name, {"80": {"u_fid": around(value)}}) for name, value in (("vdu", 5.0), ("sa", 10.0))]
    rows += [row("vdu", {"80": {"u_fid": around(5.0)}}, forget="4"), row("sa", {}, forget="4", n_seeds=0, n_diverged=3)]
    (judged,) = judge_claims(table(claim), rows)
    assert judged["verdict"] == "undecided"
    assert judged["classes"] == {"digits 3": "holds", "digits 4": "undecided, since every seed of SA diverged"}


def test_only_equal_numbers_of_images_are_compared():
    """A Fréchet distance falls with the number of images: 5 at 5000 against 8 at 1000 is no victory."""
    vdu = {"1000": {"u_fid": around(10.0)}, "5000": {"u_fid": around(5.0)}}
    sa = {"1000": {"u_fid": around(8.0, 0.5)}}
    claims = [Claim(text="", row=one, metric="u_fid", below=other) for one, other in (("vdu", "sa"), ("sa", "vdu"))]
    verdicts = [each["verdict"] for each in judge_claims(table(*claims), [row("vdu", vdu), row("sa", sa)])]
    assert verdicts == ["disagrees", "agrees"]
    numbers = {"800": {"u_fid": around(9.0)}, "5000": {"u_fid": around(1.0)}}  # 800, though "5000" sorts before it
    other = {"800": {"u_fid": around(5.0)}, "5000": {"u_fid": around(5.0)}}
    (judged,) = judge_claims(table(claims[0]), [row("vdu", numbers), row("sa", other)])
    assert judged["verdict"] == "disagrees"


@pytest.mark.parametrize(
    ("third", "fourth", "verdict"),
    [(5.0, 6.0, "agrees"), (5.0, 10.0, "undecided"), (5.0, 20.0, "disagrees"), (10.0, 20.0, "disagrees")],
)
def test_a_claim_is_of_all_classes_that_were_run(third, fourth, verdict):
    claim = Claim(text="", row="vdu", metric="u_fid", below="sa")
    rows = [
        row(name, {"80": {"u_fid": around(value)}}, forget=forget)
        for forget, ours in (("3", third), ("4", fourth))
        for name, value in (("vdu", ours), ("sa", 10.0))
    ]
    rows.append(row("vdu", {"80": {"u_fid": around(99.0)}}, forget="5"))  # without the other side
    (judged,) = judge_claims(table(claim), rows)
    assert judged["verdict"] == verdict
    assert set(judged["classes"]) == {"digits 3", "digits 4"}


# committed results


@pytest.mark.parametrize(
    ("committed", "message"),
    [
        ({"digits 3 vdu 80": {"pul": around(52.0)}}, None),
        ({"digits 3 vdu 80": {"pul": around(52.1)}}, "digits 3 vdu 80: pul 50.0 (49.0 to 51.0); committed 52.1 (51.1 to 53.1)"),
        ({"digits 3 vdu 80": {"pul": around(50.0), "u_fid": around(13.0)}}, "u_fid 10.0 (9.0 to 11.0); committed 13.0"),
        ({"digits 3 vdu 100": {"pul": around(50.0)}}, "digits 3 vdu 100: pul has no number; committed 50.0"),
        ({"digits 3 sa 80": {"pul": around(50.0)}}, "digits 3 sa 80: pul has no number"),  # it diverges now
        ({}, None),
    ],
)  # fmt: skip
def test_differences_from_what_was_committed(committed, message):
    rows = [row("vdu", {"80": {"pul": around(50.0), "u_fid": around(10.0)}}), row("sa", {})]
    found = differences(committed, rows)
    assert len(found) == (message is not None)
    assert message is None or message in found[0]


# the page


@pytest.fixture
def results():
    claims = [
        Claim(text="VDU forgets", row="vdu", metric="pul", at_least=40.0),
        Claim(text="VDU is better", row="vdu", metric="u_fid", below="sa"),
        Claim(text="VDU is worse than ascent", row="vdu", metric="u_fid", above="ascent"),
    ]
    printed = [PRINTED, Printed("digits", "4", "vdu", 1.0, 2.0), Printed("digits", "3", "sa", 90.0, 200.0)]
    whole = table(*claims, printed=printed)
    reference = {"status": "measured", "at": {"80": {"u_fid": around(3.0), "kid": around(0.0)}}}
    seeds = {
        ("digits", "3", "filtered-original"): [reference],
        ("digits", "3", "vdu"): [measured(54.0 + k, 10.0 + k, n=("80", "120")) for k in range(3)],
        ("digits", "3", "sa"): [measured(55.0, 90.0)] * 3 + [DIVERGED],
        ("digits", "3", "ascent"): [DIVERGED],
        ("digits", "4", "sa"): [measured(5.0, 6.0)],
    }
    rows = aggregate(whole, seeds)
    judge = {"name": "cnn", "held_out_error": 0.0123, "pul_ceiling": 98.4}
    check = {"pul": around(50.0), "u_fid": {"original": around(3.0), "unlearned": around(10.0)}}
    hardware = {"cpu": "abacus", "cpu_cores": 2}
    return whole, {
        "command": "vdu reproduce mine", "environment": {"hardware": hardware, "packages": {"torch": "2.6"}}, "rows": rows,
        "judges": {"digits 3": judge, "digits 4": judge}, "sampler_check": {"digits": {"n_images": 60, "20": check, "1000": check}},
        "mean_loss_ratio": {"posterior": 36.8},
        "outside_committed": [], "intervals": INTERVALS,
        "cells": {"a": 1800.0, "b": 5400.0}, "comparison": compare(whole, rows), "claims": judge_claims(whole, rows),
    }  # fmt: skip


def tables_of(page: str) -> list[list[list[str]]]:
    """Every table of a page, as lines of cells; its second line is the rule."""
    found, before = [], ""
    for line in page.splitlines():
        if line.startswith("|"):
            if not before.startswith("|"):
                found.append([])
            assert line.endswith("|")
            found[-1].append([cell.strip() for cell in line[1:-1].split("|")])
        before = line
    return found


def test_the_page_has_ours_beside_the_printed_claims_and_every_row(results):
    page = markdown(*results)
    tables = tables_of(page)
    for header, rule, *lines in tables:
        assert set(rule) == {"---"}
        assert {len(header)} == {len(line) for line in (rule, *lines)}
    printed, claims, _, many, few, one, check = (each[2:] for each in tables)
    assert printed == [
        ["digits 3", "VDU", "80", "55.0 (54.0 to 56.0)", "60.00", "11.0 (10.0 to 12.0)", "20.00", "PUL agrees, u-FID ¹"],
        ["digits 3", "SA, 1 of 4 seeds diverged", "80", "55.0 (55.0 to 55.0)", "90.00", "90.0 (90.0 to 90.0)", "200.00",
         "PUL disagrees, u-FID ¹"],
    ]  # fmt: skip
    assert "Not comparable: ¹ features differ." in page
    assert "Not run at this scale: digits 4." in page
    assert [line[:2] for line in claims] == [
        ["VDU forgets", "agrees"],
        ["VDU is better", "agrees"],
        ["VDU is worse than ascent", "undecided"],
    ]
    assert [line[0] for line in many] == ["VDU"]  # 120 images
    assert [line[:3] for line in few] == [
        ["*Filtered-oracle baseline*", "1", "–"],
        ["VDU", "3", "9, 9, 9 of 20"],
        ["SA", "3, 1 diverged", "9, 9, 9 of 20"],
    ]
    assert [line[:4] for line in one] == [["SA", "1", "19 of 20", "5.0 (1.0 to 9.0)"]]
    assert "every seed diverged: ASCENT (1 diverged)" in page
    assert [line[0] for line in check] == ["20", "1000"]


@pytest.mark.parametrize(("outside", "shown"), [([], True), (["u-FID 9; committed 8"], False)])
def test_the_findings_stand_on_the_page_of_the_numbers_that_they_were_found_in(results, outside, shown):
    made, numbers = results
    page = markdown(replace(made, findings=("It works.",)), numbers | {"outside_committed": outside})
    assert ("It works." in page) == shown


def test_a_page_from_the_numbers_of_an_earlier_version_has_their_formula(results):
    made, numbers = results
    earlier = {name: value for name, value in numbers.items() if name != "intervals"}
    for shown, is_there in ((numbers, False), (earlier, True)):
        assert ("value ± √((t s/√k)² + mean of h²)" in markdown(made, shown)) == is_there
