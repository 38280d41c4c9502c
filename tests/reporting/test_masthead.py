"""The masthead, the result sheet and what is covered: each is what the run's files say."""

import hashlib
import json
import re
from dataclasses import replace

import pytest

from vdu.methods import registry
from vdu.reporting.collect import collect
from vdu.reporting.findings.attempt_words import attempt_answers
from vdu.reporting.findings.inside import inside_answers
from vdu.reporting.masthead import masthead, method_words
from vdu.reporting.render import answers, render_report
from vdu.reporting.result_sheet import overview, result_sheet


def test_every_built_in_method_has_words():
    assert all(method_words(name) for name in registry.names() if name != "auto")


def test_the_masthead_is_what_the_run_recorded(run_dir):
    data = collect(run_dir)
    run = data.run | {
        "pipeline": {"sha256": "12ab" * 16},
        "inputs": {"model": {"path": "/cache/models--google--ddpm/snapshots/1"}},
        "stages": [{"stopping": {"reason": "forgotten", "step": 40, "n_left": 1, "n_seeds": 9, "aim": 2}}],
    }
    found = masthead(
        replace(data, run=run, metrics=data.metrics | {"date": "2026-11-28T05:22:10+00:00"}, config="steps = 60"),
        "Anna",
    )
    assert (found.id, found.date, found.by, found.model) == (
        "12ab12ab",
        "2026-11-28T05:22:10+00:00",
        "Anna",
        "google/ddpm",
    )
    assert (found.method, found.steps, found.max_steps, found.vdu) == (None, 40, 60, "0.1.0")


@pytest.mark.parametrize(
    ("stage", "config", "words"),
    [
        (
            {"self_model": {"sha256": "0"}},
            "",
            ", with self-improvement: it also corrects some of the original's own errors",
        ),
        ({}, 'option = ["self_improvement=0"]', ", without self-improvement: it only forgets"),
        ({}, 'option = ["keep_scale=1", "self_improvement=0.0"]', ", without self-improvement: it only forgets"),
        ({}, 'option = ["self_improvement=2"]', ""),  # an older version, which did not record the auxiliary model
        ({}, "", ""),
    ],
)
def test_the_method_is_named_with_or_without_self_improvement(run_dir, stage, config, words):
    data = collect(run_dir)
    run = data.run | {"stages": [{"stage": "unlearn", **stage}]}
    found = masthead(replace(data, run=run, config=f'method = "distillation"\n{config}'))
    assert found.method_words == method_words("distillation") + words


@pytest.mark.parametrize("parts_before", [None, "d" * 64, "c" * 64])
def test_a_model_of_which_a_text_encoder_was_trained_has_an_id_of_its_own(run_dir, parts_before):
    """Its network is the original's; ids of models with the original's other parts, and of older runs, are those of the network."""
    known = {"sha256": "a" * 64} | ({} if parts_before is None else {"parts_sha256": parts_before})
    record = json.loads((run_dir / "run.json").read_text("utf-8"))
    record["inputs"]["model"] = {"path": "model", **known}
    record["pipeline"] = {"sha256": "a" * 64, "parts_sha256": "c" * 64}
    (run_dir / "run.json").write_text(json.dumps(record), "utf-8")
    render_report(run_dir)
    found = json.loads((run_dir / "evidence.json").read_text("utf-8"))
    about = found["about"]
    own = hashlib.sha256(b"a" * 64 + b"c" * 64).hexdigest()[:8] if parts_before == "d" * 64 else "aaaaaaaa"
    assert (about["original_id"], about["id"]) == ("aaaaaaaa", own)
    assert found["provenance"]["unlearned_parts_sha256"] == "c" * 64


def test_foreign_texts_do_not_become_a_date_or_an_id(run_dir):
    data = collect(run_dir)
    evil = '"; } * { display: none }'
    found = masthead(replace(data, run=data.run | {"date": evil, "pipeline": {"sha256": evil}}))
    assert (found.date, found.id) == (None, "not recorded")


def test_who_answers_for_it_is_on_the_page_and_in_the_evidence(run_dir):
    html = render_report(run_dir, by="Anna <b>").read_text("utf-8")
    assert "Anna &lt;b&gt;" in html
    about = json.loads((run_dir / "evidence.json").read_text("utf-8"))["about"]
    assert (about["by"], about["method"], about["steps"]) == ("Anna <b>", "vdu", 300)


@pytest.mark.parametrize(("source", "covered"), [(None, True), ("/home/anna/images", True), ("mnist-mini", False)])
def test_unwanted_images_are_covered_unless_the_forget_set_is_a_public_one(run_dir, source, covered):
    record = json.loads((run_dir / "run.json").read_text("utf-8"))
    record["inputs"]["forget"] = {"source": source} if source else {}
    (run_dir / "run.json").write_text(json.dumps(record), "utf-8")
    html = render_report(run_dir).read_text("utf-8")
    assert ('id="uncover"' in html, 'class="covers"' in html) == (covered, covered)
    was = collect(run_dir).original.judge_class == 7
    assert len(re.findall(r'class="img before unwanted"', html)) == min(72, int(was.sum()))
    assert 'id="uncover"' not in render_report(run_dir, hide_forgotten=True).read_text("utf-8")


@pytest.mark.parametrize(
    ("path", "name"),
    [("/home/me/ddpm", "ddpm"), ("runs/model2/pipeline", "model2"), ("pipeline", "pipeline"), (None, "not recorded")],
)
def test_a_model_is_named_after_its_folder_or_run(run_dir, path, name):
    assert masthead(replace(collect(run_dir), run={"inputs": {"model": {"path": path}}})).model == name


def test_the_sheet_has_a_row_for_every_test_with_the_numbers_of_the_probe(make_run, tmp_path):
    data = collect(make_run(tmp_path / "run", full=True))
    probes = attempt_answers(data) | inside_answers(data)
    sheet = result_sheet(data, answers(data), probes)
    rows = {row.place: row for row in sheet}
    assert list(rows)[3:] == [
        "relearning",
        "stochastic",
        "completion",
        "inpainting",
        "likelihood",
        "membership",
        "distance",
    ]
    inpainted = rows["inpainting"]  # the lower half: 83, 34 and 31 of 100
    assert (inpainted.before, inpainted.after, inpainted.target) == ("83", "34", "31")
    assert (rows["likelihood"].before, rows["likelihood"].after, rows["likelihood"].target) == ("1.62", "2.31", "2.34")
    counts = "11 rows; the last 7 are probes. 7 of 7 probes ran: 7 without a sign."
    assert overview(sheet, probes) == counts and len(sheet) == 11


def test_amber_parts_are_open_and_green_ones_folded(make_run, tmp_path):
    folder = make_run(tmp_path / "run", full=True)
    metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
    for row in metrics["probes"]["inpainting"]["rows"]:
        row |= {"forget_count": 90, "low": 0.82, "high": 0.95} if row["model"] == "unlearned" else {}
    (folder / "metrics.json").write_text(json.dumps(metrics), "utf-8")
    tests = dict(
        re.findall(r'<details class="test(?: printed)?" id="(\w+)"( open)?>', render_report(folder).read_text("utf-8"))
    )
    assert (tests["inpainting"], tests["relearning"], tests["provenance"]) == (" open", "", "")
