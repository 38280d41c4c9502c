"""``vdu verify``: each change of one thing makes that one item differ, and no other."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from vdu.commands.verify import VerifySettings, run, verify
from vdu.core.checks import hash_parameters
from vdu.core.errors import InputError
from vdu.core.records import sha256_bytes
from vdu.data.forget_source import forget_images
from vdu.models.pipelines import configuration_of
from vdu.reporting.card import update_card, write_card
from vdu.reporting.evidence_json import QUESTIONS
from vdu.reporting.render import render_report


@pytest.fixture
def whole(run_dir, make_pipeline, tmp_path):
    """A reported run with three tiny models and a folder of images that it forgot."""
    models = {"original": tmp_path / "original", "retrained": tmp_path / "retrained", "unlearned": run_dir / "pipeline"}
    made = {name: make_pipeline(seed=seed) for seed, name in enumerate(models)}
    sha256 = {name: hash_parameters(each.unet.state_dict()) for name, each in made.items()}
    for name, each in made.items():
        each.save_pretrained(models[name])
    images = tmp_path / "images"
    images.mkdir()
    for i in range(3):
        Image.fromarray(np.full((8, 8), 20 * i, np.uint8)).save(images / f"{i}.png")
    record = json.loads((run_dir / "run.json").read_text("utf-8"))
    forget = {"description": "grey squares", "classes": ["7"], "n_images": 3}
    forget |= {"sha256": forget_images(str(images), (1, 8, 8)).sha256}
    record["inputs"] = {
        "model": {"path": str(models["original"]), "sha256": sha256["original"]},
        "forget": {"source": str(images), **forget},
    }
    configuration = configuration_of(made["unlearned"])
    record["pipeline"] = {"sha256": sha256["unlearned"], "configuration_sha256": configuration}
    (run_dir / "run.json").write_text(json.dumps(record), "utf-8")
    metrics = json.loads((run_dir / "metrics.json").read_text("utf-8"))
    metrics["protocol"] |= {"retrained_path": str(models["retrained"])}
    metrics["protocol"] |= {f"{name}_sha256": each for name, each in sha256.items()}
    metrics["protocol"] |= {"retrained_configuration_sha256": configuration_of(made["retrained"])}
    metrics["forget"] = forget
    (run_dir / "metrics.json").write_text(json.dumps(metrics), "utf-8")
    (run_dir / "config.toml").write_text(f'method = "vdu"\nsteps = 300\nforget = "{images}"\n', "utf-8")
    write_card(run_dir / "pipeline", record["inputs"], "vdu", {"steps": 300})
    update_card(run_dir, metrics)
    render_report(run_dir)
    return run_dir


def not_matching(folder):
    return {each.item: each.answer for each in verify(folder) if each.answer != "matches"}


def spoil_weights(folder):
    path = next(folder.rglob("*.safetensors"))
    save_file({name: each + 1 for name, each in load_file(path).items()}, path, {"format": "pt"})


def spoil_configuration(folder):
    path = folder / "scheduler/scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"beta_end": 0.019}), "utf-8")


def edit(name, change):
    """Change a JSON file of the run, as somebody with an editor would."""

    def spoil(run):
        value = json.loads((run / name).read_text("utf-8"))
        change(value)
        (run / name).write_text(json.dumps(value, indent=2), "utf-8")

    return spoil


def replaced(name, old, new):
    def spoil(run):
        text = (run / name).read_text("utf-8")
        assert old in text
        (run / name).write_text(text.replace(old, new), "utf-8")

    return spoil


def set_at(*place, value):
    def change(found):
        for key in place[:-1]:
            found = found[key]
        assert found[place[-1]] != value
        found[place[-1]] = value

    return change


CARD = "pipeline/README.md"
UNKNOWN_ANSWERS = {"the five answers, made again from the run": "not available"}  # made from other files than are there
CHANGES = {
    "a better level": (
        edit("evidence.json", set_at("verdicts", "gone", "level", value="fact")),
        {"answer: Is it gone?": "differs"},
    ),
    "a better sentence": (
        edit("evidence.json", set_at("verdicts", "rest", "answer", value="Intact")),
        {"answer: Is the rest intact?": "differs"},
    ),
    "a left out limit": (
        edit("evidence.json", set_at("verdicts", "trust", "limits", value=[])),
        {"answer: Can I trust this page?": "differs"},
    ),
    "a better number": (
        edit("evidence.json", set_at("metrics", "rows", 3, "pul", "value", value=99.9)),
        {"numbers": "differs"},
    ),
    "a probe that did not run": (
        edit("evidence.json", set_at("probe_verdicts", "relearning", "level", value="good")),
        {"answers of the single tests": "differs"},
    ),
    "another author": (
        edit("evidence.json", set_at("about", "steps", value=1)),
        {"the rest of evidence.json": "differs"},
    ),
    "another page with its hash": (
        lambda run: edit("evidence.json", set_at("provenance", "page", value=sha256_bytes(b"good")))(
            (run / "report.html").write_bytes(b"good") and run
        ),
        {"report.html, made again": "differs"},
    ),
    "numbers of another model": (
        edit("run.json", set_at("pipeline", "sha256", value="0" * 64)),
        {"unlearned model": "differs", "run.json": "differs"} | UNKNOWN_ANSWERS,
    ),
    "no hashes": (
        edit("evidence.json", set_at("provenance", "files", value={})),
        {"the rest of evidence.json": "differs"},
    ),
    "no answers": (
        edit("evidence.json", set_at("verdicts", value="all good")),
        {f"answer: {question}": "differs" for question in QUESTIONS.values()},
    ),
    "card, a figure": (
        replaced(CARD, "| time to forget |", "| perfection |"),
        {"model card, figures": "differs"},
    ),
    "card, PUL": (
        replaced(CARD, "| PUL, gone | ", "| PUL, gone | 1"),
        {"model card, PUL and u-FID": "differs", "model card, figures": "differs"},
    ),
    "card, result": (
        replaced(CARD, "- type: pul\n      value: ", "- type: pul\n      value: 1"),
        {"model card, results in its head": "differs"},
    ),
    "card, forget set": (replaced(CARD, "grey squares", "nothing"), {"model card, forgotten": "differs"}),
    "card, a sentence of vdu": (
        replaced(CARD, "**Approximate, not certified**: the", "**Certified by the vendor**: the"),
        {"model card, sentences and settings": "differs"},
    ),
    "card, settings": (replaced(CARD, "steps 300", "steps 9"), {"model card, sentences and settings": "differs"}),
    "card, a person's words": (replaced(CARD, "# Unlearned: 7", "# Unlearned: 7\n\nHello."), {}),
    "no card": (lambda run: (run / CARD).unlink(), {"model card": "not available"}),
    "nothing": (lambda run: None, {}),
    "original": (lambda run: spoil_weights(run.parent / "original"), {"original model": "differs"}),
    "retrained": (lambda run: spoil_weights(run.parent / "retrained"), {"retrained model": "differs"}),
    "unlearned": (lambda run: spoil_weights(run / "pipeline"), {"unlearned model": "differs"}),
    "configuration": (lambda run: spoil_configuration(run / "pipeline"), {"unlearned model, configuration": "differs"}),
    "an image less": (lambda run: (run.parent / "images/2.png").unlink(), {"forget set": "differs"}),
    "no images": (lambda run: (run.parent / "images").rename(run.parent / "away"), {"forget set": "not available"}),
    "page": (
        lambda run: (run / "report.html").write_text("good", "utf-8"),
        {"report.html": "differs", "report.html, made again": "differs"},
    ),
    "log": (lambda run: (run / "log.jsonl").write_text("", "utf-8"), {"log.jsonl": "differs"} | UNKNOWN_ANSWERS),
    "no samples": (
        lambda run: (run / "samples/original.safetensors").unlink(),
        {"samples/original.safetensors": "not available"} | UNKNOWN_ANSWERS,
    ),
    "no report": (
        lambda run: (run / "evidence.json").unlink(),
        {"files of the report": "not available"},
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_one_change_one_answer(whole, change):
    spoil, expected = CHANGES[change]
    spoil(whole)
    assert not_matching(whole) == expected


def test_the_exit_code_is_3_where_something_differs(whole, command, capsys):
    assert command("verify", whole) == 0
    (whole / "log.jsonl").write_text("", "utf-8")
    assert command("verify", whole, "--json") == 3
    printed = capsys.readouterr().out
    assert json.loads(printed[printed.index("{") :])["log.jsonl"].startswith("differs (recorded ")


def test_a_folder_of_another_verb_is_refused(run_dir):
    (run_dir / "run.json").write_text('{"verb": "pretrain"}', "utf-8")
    with pytest.raises(InputError, match="not of a run of 'unlearn'"):
        verify(run_dir)


def test_another_version_compares_levels_and_numbers_but_no_sentences(whole):
    """Before reports named their version, they had neither it nor the paired tests."""
    path = whole / "evidence.json"
    old = json.loads(path.read_text("utf-8"))
    del old["provenance"]["report"], old["class_shifts"]
    old["verdicts"]["gone"]["answer"] = "In other words"
    path.write_text(json.dumps(old), "utf-8")
    sentences = {"sentences of evidence.json and of the page": "not available"}
    assert not_matching(whole) == sentences
    old["verdicts"]["gone"]["code"] = "other"
    path.write_text(json.dumps(old), "utf-8")
    assert not_matching(whole) == sentences | {"answer: Is it gone?": "differs"}


def test_a_report_that_hides_paths_and_images_is_made_again_alike(whole):
    render_report(whole, hide_forgotten=True, by="Anna Muster")
    assert not_matching(whole) == {}


def test_a_hash_that_nothing_recomputes_is_listed(whole):
    record = json.loads((whole / "run.json").read_text("utf-8"))
    record["inputs"]["model"]["teacher_sha256"] = "f0" * 32
    (whole / "run.json").write_text(json.dumps(record), "utf-8")
    render_report(whole)
    listed = run(VerifySettings(run=whole))["not covered"]
    assert [each for each in listed if each.startswith("the hash ")] == [
        "the hash provenance.inputs.model.teacher_sha256"
    ]


def test_an_evidence_file_that_is_no_object_is_refused(whole):
    (whole / "evidence.json").write_text("[]", "utf-8")
    with pytest.raises(InputError, match="expected an object"):
        verify(whole)


def forge_sentence(folder, new="Gone for ever"):
    """Write a better first answer into the page and ``evidence.json``, with the hash that the new page has."""
    path, page = folder / "evidence.json", folder / "report.html"
    evidence = json.loads(path.read_text("utf-8"))
    title = evidence["verdicts"]["gone"]["answer"]
    page.write_text(page.read_text("utf-8").replace(title, new), "utf-8")
    evidence["verdicts"]["gone"]["answer"] = new
    evidence["provenance"]["page"] = sha256_bytes(page.read_bytes())
    path.write_text(json.dumps(evidence), "utf-8")


def exit_code(place):
    return run(VerifySettings(run=place)).get("exit_code", 0)


GAPS = {
    "samples": lambda run: shutil.rmtree(run / "samples"),
    "metrics": lambda run: (run / "metrics.json").unlink(),
    "record": lambda run: (run / "run.json").unlink(),
    "evidence": lambda run: (run / "evidence.json").unlink(),
    "pipeline": lambda run: shutil.rmtree(run / "pipeline"),
    "card": lambda run: (run / CARD).unlink(),
}


@pytest.mark.parametrize("gap", GAPS)
def test_an_incomplete_folder_ends_with_4_and_a_forged_sentence_in_it_with_3(whole, gap):
    GAPS[gap](whole)
    found = run(VerifySettings(run=whole))
    assert found["exit_code"] == 4 and found["conclusion"].startswith("INCOMPLETE: ")
    if gap != "evidence":
        forge_sentence(whole)
        assert exit_code(whole) == 3


def test_forged_numbers_differ_from_metrics_json_without_the_samples(whole):
    shutil.rmtree(whole / "samples")
    edit("evidence.json", set_at("metrics", "rows", 3, "forget_count", value=0))(whole)
    assert not_matching(whole)["numbers, from metrics.json"] == "differs"


@pytest.mark.parametrize("hidden", [False, True])
def test_whoever_was_sent_a_page_can_compare_it_with_its_evidence(whole, tmp_path, hidden):
    page = render_report(whole, output=tmp_path / "sent/page.html", hide_forgotten=hidden)
    found = {each.item: each.answer for each in verify(page)}
    assert found.pop("the five answers, made again from the run") == "not available"
    assert set(found.values()) == {"matches"} and {"page.html", "page.html, its answers", "report number"} <= set(found)
    assert exit_code(page) == 4
    text = page.read_text("utf-8")
    page.write_text(text + " ", "utf-8")
    assert exit_code(page) == 3


@pytest.mark.parametrize("place", ["verdicts", "number"])
def test_a_sent_evidence_whose_parts_disagree_differs(whole, tmp_path, place):
    page = render_report(whole, output=tmp_path / "sent/report.html")
    change = {
        "verdicts": set_at("verdicts", "gone", "level", value="fact"),
        "number": set_at("about", "model", value="a better one"),
    }[place]
    edit("evidence.json", change)(page.parent)
    assert exit_code(page) == exit_code(page.parent) == 3


def test_a_page_without_its_evidence_is_refused_with_what_to_do(whole, tmp_path):
    page = render_report(whole, output=tmp_path / "sent/report.html")
    (page.parent / "evidence.json").unlink()
    with pytest.raises(InputError, match=r"put the evidence\.json that was made with report\.html beside it"):
        verify(page)


def test_the_page_of_a_run_folder_verifies_the_run(whole):
    assert verify(whole / "report.html") == verify(whole)


def test_a_value_outside_its_own_interval_is_refused(whole):
    edit("metrics.json", set_at("rows", 3, "u_fid", "value", value=0.5))(whole)
    with pytest.raises(InputError, match=r"rows\[3\]\.u_fid is 0\.5, outside its own interval, 6\.1 to 7\.8"):
        render_report(whole)


def test_lines_that_a_person_wrote_into_the_card_are_named_as_not_covered(whole):
    replaced(CARD, "# Unlearned: 7", "# Unlearned: 7\n\nCertified by the vendor.")(whole)
    found = run(VerifySettings(run=whole))
    assert "exit_code" not in found
    assert any("Certified by the vendor." in each for each in found["not covered"])


def test_a_page_does_not_take_the_evidence_of_another_page_away(run_dir, tmp_path):
    there = tmp_path / "reports"
    there.mkdir()
    render_report(run_dir, output=there / "a.html")
    first = (there / "evidence.json").read_bytes()
    with pytest.raises(InputError, match=r"evidence.json belongs to a.html"):
        render_report(run_dir, output=there / "b.html", hide_forgotten=True)
    render_report(run_dir, output=there / "a.html")
    assert (there / "evidence.json").read_bytes() == first
    assert not (there / "b.html").exists()
