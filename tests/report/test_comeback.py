"""Does it come back? Cases whose right answer a person can see."""

import math
from dataclasses import replace

import pytest

from vdu.report.collect import collect
from vdu.report.comeback import comeback_parts, does_it_come_back
from vdu.report.verdict import Finding, is_gone

GONE = Finding("good", "gone", "", "", ())
N = 400


def counted(count, n=N):
    """A count with its Wilson interval, from the roots of (p̂ − p)² = z² p(1 − p)/n."""
    p, a = count / n, 1.959964**2 / n
    half = math.sqrt((2 * p + a) ** 2 - 4 * (1 + a) * p**2)
    ends = {"low": (2 * p + a - half) / (2 * (1 + a)), "high": (2 * p + a + half) / (2 * (1 + a))}
    return {"forget_count": count, "n_images": n, **ends}


def curve(model, counts, shown="forget", n=N):
    points = [{"step": 10 * i, **counted(count, n)} for i, count in enumerate(counts)]
    return {"model": model, "shown": shown, "n_shown": 10, "points": points}


def relearning(*curves, original=40):
    return {"relearning": {"curves": list(curves), "original": {"forget_count": original, "n_images": N}}}


def stochastic(*puls, control=None):
    beside = {} if control is None else {"control_count": control}
    rows = [
        {
            "sampler": f"s{i}",
            "eta": None,
            "pul": {"value": v, "low": low, "high": high, "n_original": 40, "n_unlearned": 1},
        }
        for i, (low, v, high) in enumerate(puls)
    ]
    return {"stochastic": {"rows": [row | {"n_images": N} | beside for row in rows]}}


def completion(rows, control="retrained"):
    made = [{"handed_share": share, "control_count": other, **counted(ours)} for share, ours, other in rows]
    return {"completion": {"rows": made, "protocol": {"control": control}}}


def inpainting(**counts):
    return {"inpainting": {"rows": [{"hidden": "half", "model": m, **counted(k)} for m, k in counts.items()]}}


@pytest.fixture
def asked(make_run, tmp_path):
    base = collect(make_run(tmp_path / "run"))

    def ask(*probes, pul=(90.0, 95.0, 99.0)):
        """The same run with these probes, and with a PUL of the plain sampler of (low, value, high)."""
        done = {"status": "measured", "seconds": 1.0, "protocol": {}}
        results = {name: done | result for each in probes for name, result in each.items()}
        low, value, high = pul
        plain = {"low": low, "value": value, "high": high, "n_original": 40, "n_unlearned": 2}
        rows = [row | ({"pul": plain} if row["name"] == "unlearned" else {}) for row in base.metrics["rows"]]
        return replace(base, metrics=base.metrics | {"probes": results, "rows": rows})

    return ask


CASES = {
    # unlearned against retrained: alike; faster at one step; too few images to tell; slower
    "alike": (relearning(curve("unlearned", [0, 20, 40]), curve("retrained", [1, 20, 41])), "relearning", "good", "No faster"),
    "faster": (relearning(curve("unlearned", [0, 90, 95]), curve("retrained", [1, 20, 80])), "relearning", "bad", "Comes back"),
    "slower": (relearning(curve("unlearned", [0, 2, 4]), curve("retrained", [1, 60, 90])), "relearning", "good", "No faster"),
    "few": (
        relearning(curve("unlearned", [0, 3, 5], n=10), curve("retrained", [0, 2, 4], n=10)),
        "relearning", "unknown", "Undecided",
    ),
    "still": (relearning(curve("unlearned", [0, 0, 1]), curve("retrained", [0, 1, 1])), "relearning", "good", "No faster"),
    # the start does not count: there the retrained model is merely judged wrongly less often
    "start": (relearning(curve("unlearned", [60, 60, 60]), curve("retrained", [0, 60, 60])), "relearning", "good", "No faster"),
    # alone, beside an original that makes 40 of 400: 20 is half
    "alone returns": (relearning(curve("unlearned", [0, 10, 40])), "relearning", "mixed", "It can be brought back"),
    "alone away": (relearning(curve("unlearned", [0, 1, 4])), "relearning", "good", "Stays away"),
    "alone unsure": (relearning(curve("unlearned", [0, 5, 18])), "relearning", "unknown", "Undecided"),
    # fine-tuning on other images
    "benign": (relearning(curve("unlearned", [0, 1, 30], "benign")), "relearning", "bad", "Returns without being shown"),
    "benign as retrained": (
        relearning(
            curve("unlearned", [0, 1, 30], "benign"), curve("retrained", [0, 1, 30], "benign"),
            curve("unlearned", [0, 20]), curve("retrained", [0, 20]),
        ),
        "relearning", "good", "No faster",
    ),
    # PUL of the plain sampler is 95 (90 to 99)
    "holds": (stochastic((88, 93, 97)), "stochastic", "good", "Stays away"),
    "one of two hides": (stochastic((91, 95, 99), (70, 80, 89)), "stochastic", "mixed", "The ordinary sampler hides"),
    "hides most": (stochastic((20, 40, 60)), "stochastic", "bad", "The ordinary sampler hides"),
    "hides as retrained": (stochastic((20, 40, 60), control=3), "stochastic", "good", "No more than a model that never"),
    "wide": (stochastic((40, 80, 99)), "stochastic", "unknown", "Undecided"),
    # completion
    "as retrained": (completion([(0.25, 20, 22), (0.75, 390, 385)]), "completion", "good", "Finished no more"),
    "more than retrained": (completion([(0.25, 120, 22)]), "completion", "bad", "Is finished"),
    "alone late": (completion([(0.75, 400, 400)], "original"), "completion", "unknown", "Undecided"),
    "alone early": (completion([(0.25, 300, 400), (0.75, 400, 400)], "original"), "completion", "mixed", "It can be"),
    "alone early none": (completion([(0.25, 30, 400), (0.75, 400, 400)], "original"), "completion", "mixed", "Stays below half"),
    # inpainting
    "filled": (inpainting(original=300, unlearned=280, retrained=100), "inpainting", "bad", "Is filled in"),
    "filled as retrained": (inpainting(original=300, unlearned=105, retrained=100), "inpainting", "good", "Filled in no more"),
    "filled alone": (inpainting(original=300, unlearned=280), "inpainting", "mixed", "It can be brought back"),
    "not filled": (inpainting(original=300, unlearned=60), "inpainting", "mixed", "Stays below half"),
    "none filled": (inpainting(original=300, unlearned=1), "inpainting", "good", "Stays away"),
    "alone some": (relearning(curve("unlearned", [0, 1, 10])), "relearning", "mixed", "Stays below half"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_probe(asked, case):
    probes, name, level, title = CASES[case]
    part = comeback_parts(asked(probes))[name]
    assert (part.level, part.title.startswith(title)) == (level, True), part


def test_without_a_retrained_model_the_limit_says_so(asked):
    alone = comeback_parts(asked(CASES["alone returns"][0]))["relearning"]
    beside = comeback_parts(asked(CASES["alike"][0]))["relearning"]
    assert any("Without a retrained model" in limit for limit in alone.limits)
    assert not any("Without a retrained model" in limit for limit in beside.limits)


def test_a_sampler_with_which_the_original_makes_none_says_nothing(asked):
    nothing = {
        "sampler": "s9",
        "eta": 1.0,
        "pul": None,
        "n_original": 0,
        "n_unlearned": 0,
        "note": "none",
        "n_images": N,
    }
    rows = [nothing, *stochastic((88, 93, 97))["stochastic"]["rows"]]
    assert comeback_parts(asked({"stochastic": {"rows": rows}}))["stochastic"].level == "good"
    assert comeback_parts(asked({"stochastic": {"rows": [nothing]}}))["stochastic"].title == "Undecided"


@pytest.mark.parametrize(
    ("cases", "level", "title"),
    [
        ([], "unknown", "Not tested"),
        (
            ["alike", "holds", "as retrained", "filled as retrained"],
            "good",
            "Comes back no faster than in a retrained model (10% against 10%)",
        ),
        (["alike"], "good", "Comes back no faster than in a retrained model (10% against 10%)"),
        (["still"], "good", "No sign of it in 1 of 4 tests"),
        (["alone some", "filled alone"], "mixed", "Perhaps: it can be brought back"),
        (["alone some"], "mixed", "Stays below half of the original's share"),
        (["holds"], "mixed", "No sign in 1 of 4 tests; relearning not tested"),
        (["alike", "wide"], "mixed", "Comes back no faster than in a retrained model (10% against 10%); 1 undecided"),
        (["few", "wide"], "unknown", "Undecided: too few images to tell"),
        (["alone returns", "holds"], "mixed", "Perhaps: it can be brought back"),
        (["faster", "holds", "filled"], "bad", "Yes, by relearning and inpainting"),
    ],
)
def test_all_together(asked, cases, level, title):
    found = does_it_come_back(asked(*(CASES[case][0] for case in cases)), GONE)
    assert (found.level, found.title) == (level, title)


def test_what_was_not_gone_cannot_come_back(asked):
    data = asked(CASES["alike"][0], pul=(-5.0, 5.0, 12.0))
    found = does_it_come_back(data, is_gone(data))
    assert (found.level, found.title) == ("unknown", "It was not gone to begin with")


def test_what_did_not_run_is_told_with_its_reason(asked):
    data = asked(CASES["alike"][0])
    probes = data.metrics["probes"] | {"inpainting": {"status": "not run", "reason": "no <b>half</b> images"}}
    data = replace(data, metrics=data.metrics | {"probes": probes})
    assert comeback_parts(data)["inpainting"].text == "no <b>half</b> images"
    found = does_it_come_back(data, GONE)
    assert found.limits[0] == "Not tested: another sampler, completion, inpainting."


@pytest.mark.parametrize("case", ["alike", "faster", "as retrained", "filled"])
def test_nothing_is_concluded_from_a_retrained_model_that_may_have_seen_them(asked, case):
    probes, name, level, _ = CASES[case]
    data = asked(probes)
    rows = [
        r | ({"forget_count": 15, "status": "measured"} if r["name"] == "retrained" else {})
        for r in data.metrics["rows"]
    ]
    doubted = replace(data, metrics=data.metrics | {"rows": rows})
    assert comeback_parts(data)[name].level == level != comeback_parts(doubted)[name].level == "unknown"
    assert does_it_come_back(doubted, GONE).title == "Undecided: the retrained model may have seen it"


def test_what_a_sampler_shows_is_read_beside_the_retrained_model(asked):
    """One unwanted image where the retrained model has none is no sign; forty of 400 are."""
    rows = stochastic((20, 40, 60), control=0)["stochastic"]["rows"]
    assert comeback_parts(asked({"stochastic": {"rows": rows}}))["stochastic"].level == "good"
    many = [row | {"pul": row["pul"] | {"n_unlearned": 40}} for row in rows]
    part = comeback_parts(asked({"stochastic": {"rows": many}}))["stochastic"]
    assert (part.level, part.title) == ("bad", "Shows more with another sampler than a model that never saw it")


def test_the_sampler_is_named_with_its_noise(asked):
    rows = [row | {"eta": 0.5} for row in stochastic((88, 93, 97))["stochastic"]["rows"]]
    figure = comeback_parts(asked({"stochastic": {"rows": rows}}))["stochastic"].figure
    assert figure == "interval of PUL from 88.0\u202f% with s0, η = 0.500"
