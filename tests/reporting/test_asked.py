"""The page of models that were asked in words: prompts beside pictures, accuracies, attacks; counts are made again with numpy."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vdu.core.errors import InputError
from vdu.explore.sample_pairs import group_names, select_pairs
from vdu.reporting.asked import asked_tables, retained_less
from vdu.reporting.collect import collect
from vdu.reporting.findings.attempt_words import attempt_answers
from vdu.reporting.findings.attempts import find_attempts
from vdu.reporting.findings.inside import inside_answers
from vdu.reporting.findings.trust import not_tested
from vdu.reporting.render import answers, make_report
from vdu.reporting.result_sheet import result_sheet
from vdu.reporting.sample_sprites import select_pairs as shown_pairs

N, ASKED = 200, ("seven", "a seven, bold", "one", "nine <b>")


def counted(count, n):
    return {"count": count, "n_images": n, "low": max(0.0, count / n - 0.05), "high": min(1.0, count / n + 0.05)}


def accuracy(name, model, count, n=N):
    return {"name": name, "model": model, "judge": "small-cnn", **counted(count, n), "mean_rank": 1.5}


def words(right_after=190):
    rows = [accuracy("UA", "original", 10), accuracy("UA", "unlearned", 180)]
    rows += [
        accuracy("IRA", "original", 195),
        accuracy("IRA", "unlearned", right_after),
        accuracy("IRA", "filtered_original", 190, 195),
    ]
    return {
        "kind": "prompts", "concepts": ["seven"], "accuracy": rows, "cross_judge": None, "asked": list(ASKED), "target_flips": None,
        "sets": [
            {"name": "target", "prompts": ["seven", "a seven, bold"], "changed": {},
             "found": {"original": counted(190, N), "unlearned": counted(20, N)}},
            {"name": "others", "prompts": ["one", "nine <b>"], "found": {"original": counted(3, N), "unlearned": counted(2, N)},
             "changed": {"unlearned": counted(30, N)}},
        ],
    }  # fmt: skip


def attack(before, after, retrained=None, original=95):
    rows = [
        {"model": "unlearned", "start_count": before, "forget_count": after, "n_images": 100, "low": 0.0, "high": 0.0}
    ]
    rows[0] |= {"low": max(0.0, after / 100 - 0.08), "high": min(1.0, after / 100 + 0.08)}
    if retrained is not None:
        rows.append(
            rows[0]
            | {"model": "retrained", "forget_count": retrained, "low": retrained / 100, "high": retrained / 100 + 0.08}
        )
    return {
        "status": "measured",
        "seconds": 1.0,
        "protocol": {"steps": 5},
        "rows": rows,
        "original": {"forget_count": original, "n_images": 100},
    }


@pytest.fixture
def in_words(make_run, tmp_path):
    """A run whose stored pairs are asked in words: the target's come first and are not those of the histogram."""

    def made(**changes):
        folder = make_run(tmp_path / "run", n=N, full=True)
        rng = np.random.default_rng(1)
        asked = np.concatenate([rng.integers(2, size=N), 2 + rng.integers(2, size=N)])
        for name in ("original", "unlearned"):
            path = folder / f"samples/{name}.safetensors"
            kept = load_file(path)
            both = {key: np.concatenate([value, value]) for key, value in kept.items()}
            both["seeds"][:N] += 10_000
            both["judge_class"][:N] = 7 if name == "original" else 1
            save_file({**both, "asked": asked}, path)
        metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
        metrics |= {"words": words()} | changes
        metrics["probes"] |= {
            "inversion": attack(2, 90),
            "paraphrases": {"status": "not run", "code": "no_paraphrases"},
        }
        (folder / "metrics.json").write_text(json.dumps(metrics), "utf-8")
        return folder

    return made


def test_pairs_are_grouped_by_what_was_asked(in_words):
    data = collect(in_words())
    assert data.contradictions == () and data.concept == "seven" and data.asks_for_it is not None
    asked = np.array(data.original.asked)
    assert np.array_equal(data.asks_for_it, asked < 2)
    pairs = shown_pairs(data)
    assert [pair.first for pair in pairs] == sorted((pair.first for pair in pairs), reverse=True)
    assert all(pair.asked == ASKED[asked[pair.index]] for pair in pairs)
    assert (
        next(iter(group_names(data))) == "asked for {}"
        and group_names(data)["asked for {}"] == f"asked for seven ({N})"
    )
    rows = select_pairs(data, "all", asked=3)
    assert sorted(rows.tolist()) == np.flatnonzero(asked == 3).tolist()


def test_the_page_shows_prompts_and_uses_the_words(in_words):
    page, machine = make_report(in_words())
    text = page.decode()
    assert "Did the model forget “seven”?" in text and "Asked for “seven”" in text
    assert 'data-asked="nine &lt;b&gt;"' in text and "<option>a seven, bold</option>" in text and "nine <b>" not in text
    assert "“seven” in" in machine["verdicts"]["gone"]["answer"]
    assert "IRA 190 of 200 against 195 before" in machine["verdicts"]["rest"]["figure"]
    assert machine["metrics"]["words"]["concepts"] == ["seven"]
    assert {"inversion", "paraphrases"} <= set(machine["probe_verdicts"]) and "soft_prompt" not in machine[
        "probe_verdicts"
    ]
    assert any("--prompts" in each for each in machine["not_tested"])


def test_tables_hold_the_rates_and_what_is_missing(in_words):
    found = asked_tables(collect(in_words()))
    assert found is not None and [row["name"][-4:] for row in found["accuracies"]] == ["(UA)", "IRA)"]
    (before, _), (after, rank), retrained, filtered = found["accuracies"][1]["cells"]
    assert (before.count, after.count, rank, retrained, filtered[0].total) == (195, 190, 1.5, None, 195)
    assert found["missing"] == ["Cross-domain retain accuracy (CRA)"]
    assert found["sets"][0]["prompts"] == "“seven”, “a seven, bold”"


@pytest.mark.parametrize(("right", "fell"), [(190, False), (150, True)])
def test_retention_that_fell_is_damage(in_words, right, fell):
    data = collect(in_words(words=words(right)))
    assert retained_less(data) == (("IRA",) if fell else ())
    assert (answers(data)["rest"].code == "right_less_often") is fell


def test_every_retain_accuracy_that_fell_is_read_so(in_words):
    """195 to 150 in the domain, 180 to 120 across, of 200; unlearning may fall as it likes."""
    asked = words(150)
    asked["accuracy"] += [accuracy("CRA", "original", 180), accuracy("CRA", "unlearned", 120)]
    data = collect(in_words(words=asked))
    probes = attempt_answers(data) | inside_answers(data)
    readings = [row.reading for row in result_sheet(data, answers(data), probes) if row.place == "asked"]
    assert readings == ["A rate; no verdict", "Fell", "Fell"]


def test_prompts_were_tested_where_conditions_were_optimised(in_words):
    data = collect(in_words())  # with an inversion
    kept = [each for each in not_tested(data.metrics) if each.startswith("Deliberate attempts")]
    assert kept == ["Deliberate attempts to get it back by optimised noise, guidance or adapters."]
    probes = data.metrics["probes"] | {"inversion": {"status": "not run", "code": "no_words"}}
    assert any("optimised noise, prompts, guidance" in each for each in not_tested(data.metrics | {"probes": probes}))


def test_those_that_remain_come_first_under_prompts_too(in_words):
    page, _ = make_report(in_words())
    shown = page.decode().split("<h3>Asked for “seven”</h3>")[1].split("</p>")[0]
    assert "those that remain first, then in the order of the seeds" in shown


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (attack(2, 90), "can_be_brought_back"),  # above half of the original's 95 %
        (attack(2, 2), "stays_away"),
        (attack(2, 90, 20), "comes_back"),
        (attack(2, 20, 18), "no_more_than_retrained"),
        (attack(2, 20, 18, original=40), "no_more_than_retrained"),  # a lead of 10 points, where 20 are half
        (attack(2, 20, 18, original=10), "lead_not_excluded"),  # 10, where 5 are half
    ],
)
def test_an_attack_is_read_as_the_other_attempts(in_words, result, code):
    data = collect(in_words())
    data.metrics["probes"]["inversion"] = result
    assert find_attempts(data)["inversion"].reason.code == code


def test_samples_that_number_no_prompt_are_refused(in_words):
    folder = in_words()
    path = folder / "samples/unlearned.safetensors"
    arrays = load_file(path)
    save_file(arrays | {"asked": arrays["asked"][::-1].copy()}, path)
    with pytest.raises(InputError, match="do not number the 4 prompts of metrics.json alike"):
        collect(folder)


def test_a_page_without_conditions_has_nothing_of_it(make_run, tmp_path):
    page, machine = make_report(make_run(tmp_path / "plain", n=40, full=True))
    assert b'id="pick"' not in page and b'id="asked"' not in page and "words" not in machine["metrics"]
    assert "inversion" not in machine["probe_verdicts"]
