"""The model card: valid for the hub, filled in after the evaluation, twice the same."""

import json
from copy import deepcopy

import pytest
from huggingface_hub import ModelCard

import tiny_pipelines
from vdu.core.errors import InputError
from vdu.diffusion.sampling import Sampler
from vdu.reporting.card import END, START, has_figures_of_another_evaluation, update_card, write_card
from vdu.unlearning.unlearn import planned

INTERVAL = {"value": 44.5, "low": 32.5, "high": 59.9}
JUDGE = {
    "name": "mnist-cnn", "architecture": "cnn", "source": "zoo", "held_out_error": 0.004, "n_held_out": 10_000,
    "forget_false_positive_rate": 0.0002, "pul_ceiling": 99.8, "second": None,
}  # fmt: skip
METRICS = {
    "format_version": 1,
    "n_images": 500,
    "forget": {"description": "MNIST mini: classes 8", "classes": ["8"], "n_images": 1000, "sha256": "ab" * 32},
    "rows": [
        {"name": "unlearned", "label": "Unlearned", "status": "measured", "u_fid": INTERVAL, "kid": None, "note": "",
         "pul": {"value": 92.25, "low": 82.0, "high": 98.0, "n_original": 54, "n_unlearned": 4}, "forget_count": 4},
        {"name": "retrained", "label": "Retrained", "status": "not run", "pul": None, "u_fid": None, "kid": None,
         "forget_count": None, "note": ""},
    ],
    "histogram": {"classes": ["3", "8"], "original": [446, 54], "unlearned": [496, 4], "expected": [500.0, 0.0],
                  "distance": 0.119, "distance_low": 0.08, "distance_high": 0.15, "chance_high": 0.2},
    "flips": {"classes": ["3", "8"], "counts": [[446, 0], [50, 4]]},
    "judge": JUDGE,
    "feature_network": "judge:mnist-cnn",
    "reference": {"kind": "real", "description": "MNIST test without 8", "n_images": 9026},
    "protocol": {"sampler_scheduler": "ddpm", "sampler_steps": 20},
    "cost": [{"stage": "unlearn", "seconds": 130.0, "network_evaluations": 133_388}],
}  # fmt: skip


def make_run(folder, model_path="/models/base", description="MNIST mini: classes 8"):
    inputs = {
        "model": {"path": str(model_path), "sha256": "cd" * 32},
        "forget": {"classes": ["8"], "description": description, "n_images": 1000, "sha256": "ab" * 32},
    }
    (folder / "pipeline").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"format_version": 1, "inputs": inputs}), "utf-8")
    (folder / "config.toml").write_text('method = "distillation"\nsteps = 220\n', "utf-8")
    write_card(folder / "pipeline", inputs, "distillation", {"steps": 220})
    return folder


def updated(folder, metrics=METRICS):
    return update_card(folder, metrics).read_text("utf-8")


def test_a_model_is_named_with_its_text_encoders(tmp_path):
    """A run that trained a text encoder alone has the network that it started from."""
    inputs = json.loads((make_run(tmp_path / "run") / "run.json").read_text("utf-8"))["inputs"]
    inputs["model"]["parts_sha256"] = "ef" * 32
    write_card(tmp_path, inputs, "esd", {})
    line = f"| made from | weights with SHA-256 `{'cd' * 32}`, text encoders and autoencoder with `{'ef' * 32}` |"
    assert line in (tmp_path / "README.md").read_text("utf-8")


def test_the_hub_reads_it_and_finds_the_figures(tmp_path):
    card = ModelCard(updated(make_run(tmp_path / "run")))
    assert card.data.library_name == "diffusers"
    assert {"machine-unlearning", "vdu", "distillation"} <= set(card.data.tags)
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results == {"pul": 92.25, "u-fid": 44.5}
    assert card.data.eval_results[1].metric_name == "u-FID[judge:mnist-cnn]"
    assert "| u-FID[judge:mnist-cnn], lower is better | 44.5" in card.text and "| u-FID," not in card.text
    for text in ("From 500 images", "4, 0.8\u202f% (0.3 to 2.0\u202f%); 54 before",
                 "| Is it gone? | More than half gone: 4 of 54 remain (95 % interval 1 to 10) |",
                 "92.2\u202f% (82.0 to 98.0)", "44.5 (32.5 to 59.9)",
                 "Approximate, not certified", "MNIST mini: classes 8", "Relearning", "Retrained: reference row not run",
                 "99.8 % at most", "ddpm, 20 steps"):  # fmt: skip
        assert text in card.text, text


def test_a_second_time_changes_nothing_and_new_figures_replace_old_ones(tmp_path):
    run = make_run(tmp_path / "run")
    first = updated(run)
    assert updated(run) == first
    again = deepcopy(METRICS)
    again["rows"][0]["pul"]["value"] = 11.25
    second = updated(run, again)
    assert "11.2\u202f%" in second and "92.2\u202f%" not in second and second.count(START) == second.count(END) == 1
    assert updated(run) == first
    assert [path.name for path in (run / "pipeline").iterdir()] == ["README.md"]


def test_figures_of_another_evaluation_are_noticed(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "metrics.json").write_text(json.dumps(METRICS), "utf-8")
    assert not has_figures_of_another_evaluation(run)  # none yet
    updated(run)
    assert not has_figures_of_another_evaluation(run)
    again = deepcopy(METRICS)
    again["rows"][0]["pul"]["value"] = 11.25
    (run / "metrics.json").write_text(json.dumps(again), "utf-8")
    assert has_figures_of_another_evaluation(run)


def test_what_a_person_wrote_stays(tmp_path):
    run = make_run(tmp_path / "run")
    path = run / "pipeline" / "README.md"
    updated(run)
    card = ModelCard.load(path)
    card.data.license, card.data.tags = "mit", [*card.data.tags, "mine"]
    card.text += "\n## My own words\n"
    card.save(path)
    text = updated(run)
    assert "## My own words" in text and text.count("# Unlearned: 8") == 1
    assert ModelCard(text).data.license == "mit" and "mine" in ModelCard(text).data.tags
    assert updated(run) == text


def test_license_and_name_come_from_the_base(tmp_path):
    base = tmp_path / "hub" / "models--google--ddpm-cifar10-32" / "snapshots" / "0123"
    base.mkdir(parents=True)
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n# base\n", "utf-8")
    data = ModelCard(updated(make_run(tmp_path / "run", base))).data
    assert (data.license, data.base_model) == ("apache-2.0", "google/ddpm-cifar10-32")
    unknown = ModelCard(updated(make_run(tmp_path / "other"))).data
    assert (unknown.license, unknown.base_model) == (None, None)  # nothing is guessed


def test_a_foreign_description_breaks_neither_table_nor_front_matter(tmp_path):
    evil = "a | b\n---\n<script>alert(1)</script> " + START
    metrics = deepcopy(METRICS)
    metrics["forget"]["description"] = metrics["reference"]["description"] = evil
    metrics["forget"]["classes"] = None
    run = make_run(tmp_path / "run", description=evil)
    text = updated(run, metrics)
    card = ModelCard(text)
    assert "<script>" not in card.text and card.text.count(START) == 1
    assert card.data.eval_results[1].dataset_name == evil
    assert r"| forgotten | a \| b --- &lt;script>" in card.text
    assert updated(run, metrics) == text


def test_a_lost_card_is_written_anew_and_a_lost_record_is_told(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "pipeline" / "README.md").unlink()
    assert "| method | distillation |" in updated(run)
    (run / "run.json").unlink()
    with pytest.raises(InputError, match=r"run\.json: no such file"):
        updated(run)


def test_settings_without_a_value_are_left_out(tmp_path):
    run = make_run(tmp_path / "run")
    inputs = json.loads((run / "run.json").read_text("utf-8"))["inputs"]
    write_card(run / "pipeline", inputs, "vdu", {"option": (), "steps": 220, "seed": 0, "note": "", "rank": None})
    assert "| settings | steps 220, seed 0 |" in (run / "pipeline" / "README.md").read_text("utf-8")


def test_the_title_is_what_the_run_forgot(tmp_path):
    run = make_run(tmp_path / "run")
    path = run / "pipeline" / "README.md"
    updated(run)
    path.write_text(path.read_text("utf-8").replace("Unlearned: 8", "Unlearned: 3"), "utf-8")
    other = deepcopy(METRICS)
    other["forget"]["classes"] = ["5"]
    text = updated(run, other)
    assert "# Unlearned: 8" in text and ModelCard(text).data.model_name == "Unlearned: 8"
    card = ModelCard.load(path)
    card.data.model_name = "mine"
    card.save(path)
    assert ModelCard(updated(run)).data.model_name == "mine"


def test_relearning_and_inpainting_are_beside_the_retrained_model(tmp_path):
    def curve(model, count):
        return {"model": model, "shown": "forget", "n_shown": 10,
                "points": [{"step": 30, "forget_count": count, "n_images": 100, "low": 0.1, "high": 0.4}]}  # fmt: skip

    def part(model, hidden, count):
        return {"model": model, "hidden": hidden, "forget_count": count, "n_images": 100, "low": 0.1, "high": 0.6}

    metrics = deepcopy(METRICS)
    known = {"status": "measured", "seconds": 1.0, "protocol": {}}
    rows = [part(*each) for each in (("unlearned", "left", 30), ("retrained", "left", 29), ("unlearned", "right", 50),
                                     ("retrained", "right", 41))]  # fmt: skip
    metrics["probes"] = {
        "relearning": known | {"curves": [curve("unlearned", 23), curve("retrained", 17)]},
        "inpainting": known | {"rows": rows},
    }
    text = updated(make_run(tmp_path / "run"), metrics)
    for label, share in (("relearning at the end, lower better", 23), ("relearning, retrained (target)", 17),
                         ("inpainting, worst part, lower better", 50), ("inpainting, retrained (target)", 41)):  # fmt: skip
        assert f"| {label} | {share}.0\u202f%" in text, label


def test_u_fid_is_that_of_the_images_that_are_not_unwanted_where_many_remain(tmp_path):
    metrics = deepcopy(METRICS)
    apart = {"n_images": 250, "u_fid": {"value": 12.5, "low": 11.0, "high": 14.0}, "floor": INTERVAL}
    metrics["kept"] = {"n_changed": 0, "n_kept": 446, "share": 0.0, "apart": apart}
    metrics["rows"][1] |= {"status": "measured", "forget_count": 0, "u_fid": {"value": 9.0, "low": 8.0, "high": 10.0}}
    card = ModelCard(updated(make_run(tmp_path / "run"), metrics))
    (_, u_fid) = card.data.eval_results
    assert (u_fid.metric_value, u_fid.metric_name) == (
        12.5,
        "u-FID[judge:mnist-cnn] (of 250 images, without the unwanted)",
    )
    assert "u-FID (of 250 images, without the unwanted) is the" in card.text and "lower is better | 12.5" in card.text
    assert "retrained (target) | 9.0" not in card.text  # of 500 images
    metrics["kept"]["apart"] |= {"u_fid": None, "floor": None}
    none = ModelCard(updated(make_run(tmp_path / "few"), metrics))
    assert [each.metric_type for each in none.data.eval_results] == ["pul"] and "44.5" not in none.text


def test_a_doubted_retrained_model_is_no_target(tmp_path):
    """40 of 500 of it look unwanted beside 54 of the original's: it may have seen them."""
    metrics = deepcopy(METRICS)
    metrics["rows"][1] |= {"status": "measured", "forget_count": 40, "u_fid": INTERVAL}
    metrics["rows"].append(metrics["rows"][0] | {"name": "original", "pul": None, "forget_count": 54})
    text = updated(make_run(tmp_path / "run"), metrics)
    assert "retrained (target)" not in text and "makes 40 of 500 unwanted images, the original 54" in text
    metrics["rows"][1]["forget_count"] = 0
    assert "unwanted images, retrained (target) | 0 |" in updated(make_run(tmp_path / "other"), metrics)


def test_the_guidance_scale_is_part_of_the_sampler(tmp_path):
    metrics = deepcopy(METRICS)
    metrics["protocol"]["sampler_guidance_scale"] = 7.5
    assert "ddpm, 20 steps, guidance scale 7.50" in updated(make_run(tmp_path / "run"), metrics)


def test_it_holds_no_image(tmp_path):
    text = updated(make_run(tmp_path / "run"))
    assert "![" not in text and "<img" not in text and "data:" not in text


@pytest.mark.parametrize(
    ("conditioned_on", "kind", "tag"),
    [
        ("text", "A text-to-image diffusion model", "text-to-image"),
        ("classes", "A class-conditional diffusion model", None),
        (None, "An unconditional diffusion model", "unconditional-image-generation"),
    ],
)
def test_the_card_says_what_kind_of_model_it_is(tmp_path, conditioned_on, kind, tag):
    folder = make_run(tmp_path / "run")
    record = json.loads((folder / "run.json").read_text("utf-8"))
    record["inputs"]["model"]["conditioned_on"] = conditioned_on
    (folder / "run.json").write_text(json.dumps(record), "utf-8")
    (folder / "pipeline" / "README.md").unlink()
    card = ModelCard(updated(folder))
    assert kind in card.text
    tasks = {"text-to-image", "unconditional-image-generation"} & set(card.data.tags)
    assert tasks == ({tag} if tag else set())
    assert card.data.eval_results[0].task_type == (tag or "image-generation")


def test_a_text_to_image_model_is_recorded_as_one():
    pipeline = tiny_pipelines.stable_diffusion()
    pipeline.prompts = ("a cat", "a dog")
    sampler = Sampler("ddim", 2, microbatch_size=64)
    plan = planned(pipeline, "ascent", forget_prompt="a cat", sampler=sampler, steps=1, batch_size=4, force=True)
    assert plan.inputs()["model"]["conditioned_on"] == "text"
