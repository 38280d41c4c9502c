import json
import re

import pytest

from vdu.commands.compare import run
from vdu.core.errors import InputError
from vdu.reporting.headline_figures import compared, figures
from vdu.reporting.run_comparison import differences, notes, read_runs


class Settings:
    def __init__(self, *runs, output, force=False):
        self.runs, self.output, self.force = runs, output, force


@pytest.fixture
def pair(make_run, tmp_path):
    return [make_run(tmp_path / name, full=True) for name in ("one", "two")]


def edit(folder, change):
    metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
    change(metrics)
    (folder / "metrics.json").write_text(json.dumps(metrics), "utf-8")


def test_alike_runs_are_compared(pair, tmp_path):
    edit(pair[1], lambda m: m["rows"][3]["pul"].update(value=12.5, low=10.0))
    found = run(Settings(*pair, output=tmp_path / "c.html"))
    assert found["comparable"] and found["differences"] == []
    assert [each["figures"]["pul"]["value"] for each in found["runs"]][1] == 12.5
    assert json.loads(json.dumps(found)) == found
    line = next(line for line in found["table"].splitlines() if line.startswith("PUL, gone"))
    assert line.count("(") == 2 and "12.5" in line
    html = (tmp_path / "c.html").read_text("utf-8")
    assert (
        "12.5" in html
        and "http:" not in html
        and "https:" not in html
        and "src=" not in html
        and "Not comparable" not in html
    )


def test_where_many_unwanted_images_remain_the_distance_is_of_the_others_or_there_is_none(pair):
    ends = {"value": 18.0, "low": 17.0, "high": 19.0}
    for folder, n, u_fid, floor in ((pair[0], 100, ends, ends | {"value": 17.5}), (pair[1], 11, None, None)):
        apart = {"n_images": n, "u_fid": u_fid, "floor": floor}
        edit(
            folder, lambda m, apart=apart: m.update(kept={"n_changed": 0, "n_kept": 160, "share": 0.0, "apart": apart})
        )
    found = [figures(run) for run in read_runs(pair)]
    names = ("u_fid", "u_fid_filtered_original")
    assert [[None if each[name] is None else each[name].value for name in names] for each in found] == [
        [18.0, 17.5],
        [None, None],
    ]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda m: m.update(n_images=400), "images per model (N) differs: 200 in"),
        (lambda m: m["judge"].update(name="other"), "judge differs: small-cnn"),
        (lambda m: m["judge"].update(held_out_error=0.02), "judge differs"),
        (lambda m: m["judge"].update(second={**m["judge"], "pul": None}), "second judge differs: none in"),
        (lambda m: m.update(feature_network="inception"), "feature network differs: judge in"),
        (lambda m: m["protocol"].update(features_weights_sha256="ab"), "feature network differs"),
        (lambda m: m["reference"].update(description="others"), "reference images differs"),
        (lambda m: m["forget"].update(classes=["3"]), "forgotten classes differs: 7 in"),
        (lambda m: m["protocol"].update(sampler="ddim"), "sampler differs: sampler ancestral DDPM in"),
    ],
)
def test_runs_measured_unlike_are_refused_by_name_and_forced_ones_marked(pair, tmp_path, change, named):
    edit(pair[1], change)
    page = tmp_path / "c.html"
    with pytest.raises(InputError, match=re.escape(named)):
        run(Settings(*pair, output=page))
    assert not page.exists()
    found = run(Settings(*pair, output=page, force=True))
    assert not found["comparable"] and found["table"].startswith("Not comparable, shown because --force was given")
    assert "Not comparable, shown because --force was given" in page.read_text("utf-8")


def in_words(target, others, neighbours=(), kind="prompts"):
    """What metrics.json holds of prompts, as far as a comparison reads it."""
    sets = {"target": target, "neighbours": neighbours, "others": others, "null": [""]}
    return {"kind": kind, "sets": [{"name": name, "prompts": list(each)} for name, each in sets.items() if each]}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (in_words(["a cat"], ["xylophone", "a b c"]), "target: 'a cat'; others: 'a b c', 'xylophone' in"),
        (in_words(["kitty"], ["a house", "a tree"]), "target: 'kitty'; others: 'a house', 'a tree' in"),
        (in_words(["a cat"], ["a house, a tree"]), "others: 'a house, a tree' in"),
        (in_words(["a cat"], map(str, range(9))), "'5' and 3 more, SHA-256 "),
        (in_words(["a cat"], ["a house", "a tree"], kind="labels"), "none in"),
        (None, "none in"),
    ],
)
def test_other_prompts_are_refused(pair, monkeypatch, words, named):
    monkeypatch.setattr("vdu.reporting.collect.check_metrics", lambda *_: None)  # no counts are needed here
    edit(pair[0], lambda m: m.update(words=in_words(["a cat"], ["a house", "a tree"])))
    edit(pair[1], lambda m: None if words is None else m.update(words=words))
    (found,) = differences(read_runs(pair))
    assert found.startswith("prompts differs: target: 'a cat'; others: 'a house', 'a tree' in ") and named in found


def test_lists_that_differ_behind_the_first_prompts_are_other_prompts(pair, monkeypatch):
    monkeypatch.setattr("vdu.reporting.collect.check_metrics", lambda *_: None)
    for folder, last in zip(pair, "89", strict=True):
        edit(folder, lambda m, last=last: m.update(words=in_words(["a cat"], [*"1234567", last])))
    assert [line.split(":")[0] for line in differences(read_runs(pair))] == ["prompts differs"]


def test_the_order_of_prompts_and_neighbours_forbid_no_comparison(pair, monkeypatch):
    monkeypatch.setattr("vdu.reporting.collect.check_metrics", lambda *_: None)
    edit(pair[0], lambda m: m.update(words=in_words(["a cat"], ["a house", "a tree"], ["a dog"])))
    edit(pair[1], lambda m: m.update(words=in_words(["a cat"], ["a tree", "a house"], ["a fox"])))
    runs = read_runs(pair)
    assert differences(runs) == []
    assert [line.split(" in ")[0] for line in notes(runs)] == ["neighbouring prompts differs: neighbours: 'a dog'"]


def test_other_reference_images_of_one_description_are_refused_where_both_tell_their_content(pair):
    edit(pair[0], lambda m: m["reference"].update(sha256="aa" * 32))
    assert differences(read_runs(pair)) == []
    edit(pair[1], lambda m: m["reference"].update(sha256="bb" * 32))
    (found,) = differences(read_runs(pair))
    assert found.startswith("content of the reference images differs: aaaaaaaaaaaa in ")


def test_another_original_is_refused_only_where_its_images_are_the_reference(pair):
    for folder, sha in zip(pair, ("aa" * 32, "bb" * 32), strict=True):
        edit(folder, lambda m, sha=sha: m["protocol"].update(original_sha256=sha))
    runs = read_runs(pair)
    assert differences(runs) == [] and "original model differs" in " ".join(notes(runs))
    for folder in pair:
        edit(folder, lambda m: m["reference"].update(kind="filtered_original"))
    assert [line.split(":")[0] for line in differences(read_runs(pair))] == ["original model differs"]


def test_another_retrained_model_is_refused_where_both_tell_theirs(pair):
    edit(pair[0], lambda m: m["protocol"].update(retrained_sha256="aa" * 32))
    assert differences(read_runs(pair)) == []
    edit(pair[1], lambda m: m["protocol"].update(retrained_sha256="bb" * 32))
    assert [line.split(":")[0] for line in differences(read_runs(pair))] == ["retrained model differs"]


@pytest.mark.parametrize("model", ["original", "retrained"])
def test_equal_weights_under_another_schedule_are_another_model_where_both_tell_it(pair, model):
    for folder in pair:
        edit(folder, lambda m: m["protocol"].update({f"{model}_sha256": "aa" * 32}))
        edit(folder, lambda m: m["reference"].update(kind="filtered_original"))
    edit(pair[0], lambda m: m["protocol"].update({f"{model}_configuration_sha256": "cc" * 32}))
    assert differences(read_runs(pair)) == [] == notes(read_runs(pair))
    edit(pair[1], lambda m: m["protocol"].update({f"{model}_configuration_sha256": "dd" * 32}))
    (found,) = differences(read_runs(pair))
    assert found.startswith(f"configuration of the {model} model differs: SHA-256 cccccccccccc in ")


def test_another_configuration_of_the_original_is_noted_beside_real_reference_images(pair):
    for folder, sha in zip(pair, ("cc" * 32, "dd" * 32), strict=True):
        edit(folder, lambda m, sha=sha: m["protocol"].update(original_configuration_sha256=sha))
    assert differences(read_runs(pair)) == []
    (note,) = notes(read_runs(pair))
    assert note.startswith("configuration of the original model differs: ")


def test_another_task_or_seed_or_probe_protocol_is_noted(pair):
    edit(pair[1], lambda m: (m["protocol"].update(seed=5), m["forget"].update(sha256="ff" * 32)))
    edit(pair[1], lambda m: m["probes"]["relearning"]["protocol"].update(learning_rate=1.0))
    runs = read_runs(pair)
    told = " ".join(notes(runs))
    assert differences(runs) == []
    assert "forget set differs" in told and "seed of the evaluation differs" in told
    assert "protocols of the probe relearning differ (learning_rate)" in told


def test_headline_figures_are_those_of_the_probes(pair):
    found = {name: each and round(each.value, 4) for name, each in figures(read_runs(pair[:1])[0]).items()}
    expected = {
        "relearned": 20.0, "relearned_retrained": 19.0, "relearned_lead": 1.0, "stochastic_pul": 96.1, "completed": 31.0, "inpainted": 34.0,
        "forget_bits": 2.31, "forget_bits_retrained": 2.34, "membership_auc": 0.52, "distance_to_retrained": 18.4,
        "seconds": 54.1, "network_evaluations": 111_600, "u_fid": 6.9, "precision": None,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected


def test_a_run_without_probes_has_gaps(make_run, pair, tmp_path):
    bare = make_run(tmp_path / "bare")
    found = run(Settings(pair[0], bare, output=tmp_path / "c.html"))
    assert found["runs"][1]["figures"]["relearned"] is None
    assert next(line for line in found["table"].splitlines() if line.startswith("completion")).endswith("–")


def test_an_unknown_cost_is_a_gap_and_no_zero(pair, tmp_path):
    edit(pair[1], lambda m: m.update(cost=[{"stage": "evaluate", "seconds": 3.0, "network_evaluations": 9}]))
    found = run(Settings(*pair, output=tmp_path / "c.html"))
    told = [(each["figures"]["seconds"], each["figures"]["network_evaluations"]) for each in found["runs"]]
    assert [figure["value"] for figure in told[0]] == [54.1, 111_600] and told[1] == (None, None)
    lines = [line for line in found["table"].splitlines() if "to forget" in line]
    assert len(lines) == 2 and all(line.endswith("–") for line in lines)


def test_no_reused_evaluations_are_a_zero_and_no_gap(pair, tmp_path):
    edit(pair[1], lambda m: next(each for each in m["cost"] if each["stage"] == "unlearn").update(reused=180))
    found = run(Settings(*pair, output=tmp_path / "c.html"))
    assert [each["figures"]["reused_evaluations"]["value"] for each in found["runs"]] == [0, 180]


def shortened(metrics):
    """A relearning on 10 images for 50 steps, as another suite does it; the other one has 100 and 100."""
    relearning = metrics["probes"]["relearning"]
    relearning["curves"] = [
        curve | {"points": [point for point in curve["points"] if point["step"] <= 50]}
        for curve in relearning["curves"]
        if curve["n_shown"] == 10
    ]


@pytest.mark.parametrize("sizes", [{}, {"n_shown": [10], "steps": [0, 50], "n_images": 200}])
def test_relearning_that_ends_elsewhere_is_left_out_whether_or_not_its_protocol_tells(pair, tmp_path, sizes):
    edit(pair[1], shortened)
    edit(pair[1], lambda m: m["probes"]["relearning"]["protocol"].update(sizes))
    found = run(Settings(*pair, output=tmp_path / "c.html"))
    (note,) = (each for each in found["notes"] if "elearning" in each)
    assert note.startswith("end of relearning differs: 100 steps on 100 unwanted images in ")
    assert "; 50 steps on 10 unwanted images in " in note and note.endswith("; its figures are left out")
    for each in found["runs"]:
        assert [each["figures"][name] for name in ("relearned", "relearned_retrained", "relearned_lead")] == [None] * 3
    assert "relearning at the end" not in found["table"]


def test_records_before_the_sizes_are_compared_with_later_ones(pair):
    edit(
        pair[1],
        lambda m: m["probes"]["relearning"]["protocol"].update(n_shown=[1, 10, 100], steps=[0, 100], n_images=200),
    )
    assert notes(read_runs(pair)) == []
    assert compared(read_runs(pair))[1]["relearned"].value == pytest.approx(20.0)


def test_a_doubted_retrained_model_is_left_out_with_its_doubt(pair):
    """15 of 200 of the retrained model beside the original's own: it may have seen them."""

    def seen(metrics):
        rows = {row["name"]: row for row in metrics["rows"]}
        rows["retrained"].update(status="measured", forget_count=15, u_fid={"value": 6.0, "low": 5.0, "high": 7.0})
        rows["original"].update(forget_count=20)

    edit(pair[1], seen)
    sound, doubted = compared(read_runs(pair))
    names = [name for name in doubted if "retrained" in name or name == "relearned_lead"]
    assert len(names) == 7 and all(doubted[name] is None for name in names) and doubted["relearned"] is not None
    assert sum(sound[name] is not None for name in names) == 5  # all but those of the table, which it has not
    (note,) = notes(read_runs(pair))
    assert note.startswith(f"{pair[1]}: The model given as retrained makes 15 of 200 unwanted images, the original 20")


def test_u_fid_of_other_numbers_of_images_is_noted_and_has_no_retrained_beside_it(pair):
    def many(metrics):
        distance = {"value": 4.0, "low": 3.0, "high": 5.0}
        metrics["kept"] = {"apart": {"n_images": 150, "u_fid": distance, "floor": distance}}
        next(row for row in metrics["rows"] if row["name"] == "retrained").update(status="measured", u_fid=distance)

    edit(pair[1], many)
    runs = read_runs(pair)
    assert differences(runs) == []
    assert notes(runs) == [
        f"number of images of u-FID, on which it depends, differs: 200 in {pair[0]}; 150 in {pair[1]}"
    ]
    assert figures(runs[1])["u_fid"].value == 4.0 and figures(runs[1])["u_fid_retrained"] is None


def test_foreign_names_are_escaped(pair, tmp_path):
    evil = tmp_path / "<script>alert(1)<"
    pair[1].rename(evil)
    for folder in (pair[0], evil):
        edit(
            folder,
            lambda m: (m["reference"].update(description="<script>"), m["forget"].update(description="<script>")),
        )
    run(Settings(pair[0], evil, output=tmp_path / "c.html"))
    assert "<script" not in (tmp_path / "c.html").read_text("utf-8")


def test_what_cannot_be_compared_at_all(pair, tmp_path):
    with pytest.raises(InputError, match=r"got 1 run folder\(s\), expected two or more"):
        run(Settings(pair[0], output=tmp_path / "c.html"))
    with pytest.raises(InputError, match="more than once"):
        run(Settings(pair[0], pair[0] / ".." / pair[0].name, output=tmp_path / "c.html"))
    with pytest.raises(InputError, match="is a folder; expected the name of the page"):
        run(Settings(*pair, output=tmp_path))
    for name in ("report.html", "metrics.json", "new.html"):
        with pytest.raises(InputError, match="is in the folder of a run, whose own page and records are there"):
            run(Settings(*pair, output=pair[0] / name))
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="is there and no page, and would be lost"):
        run(Settings(*pair, output=tmp_path / "notes.txt"))
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"
    (pair[1] / "metrics.json").unlink()
    with pytest.raises(InputError, match="metrics.json: made by `vdu evaluate`"):
        run(Settings(*pair, output=tmp_path / "c.html"))


def test_judges_are_the_same_by_their_weights_and_models_by_their_text_encoders(pair):
    for k, folder in enumerate(pair):
        edit(folder, lambda m, k=k: m["judge"].update(weights_sha256=f"{k}" * 64))
    assert any(
        each.startswith("weights of the judge differs: 000000000000 in") for each in differences(read_runs(pair))
    )
    edit(pair[1], lambda m: m["judge"].pop("weights_sha256"))  # of an earlier version
    assert not any("weights of the judge" in each for each in differences(read_runs(pair)))
    for k, folder in enumerate(pair):
        known = {"original_sha256": "a" * 64, "original_parts_sha256": f"{k}" * 64}
        edit(folder, lambda m, known=known: m["protocol"].update(known))
    assert any(
        "original model differs: aaaaaaaaaaaa, other parts 000000000000" in each for each in notes(read_runs(pair))
    )
