"""Evidence for any two pipelines, from the command line and from Python; the counts are made again from the stored images."""

import json
import os
import shutil
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.evaluation.conftest import QUICK, PixelJudge, counted

import tiny_pipelines
import vdu
from vdu.commands.verify import verify
from vdu.core.checks import hash_parameters
from vdu.core.errors import InputError
from vdu.core.python_names import in_python
from vdu.data.forget import split_by_class
from vdu.data.images import ImageSet
from vdu.data.sources import load_images
from vdu.diffusion.sampling import Sampler
from vdu.evaluation import recording
from vdu.evaluation.api import evaluate
from vdu.evaluation.inputs import Fixed
from vdu.evaluation.models import open_model, open_retrained
from vdu.evaluation.options import EvaluationOptions
from vdu.evaluation.pair import unwanted_images
from vdu.evaluation.recording import _probe_inputs, require_measurable
from vdu.evaluation.references import has_labels_of, without_labels
from vdu.evaluation.subject import Subject, by_name
from vdu.explore.open_run import open_run
from vdu.models.pipelines import load_pipeline
from vdu.reporting.code_texts import ABOUT_MODELS
from vdu.reporting.run_comparison import read_runs

pytestmark = pytest.mark.filterwarnings("ignore:Fréchet distance:UserWarning")
FLAGS = ("--n-images", 24, "--inference-steps", 2, "--microbatch-size", 24, "--suite", "none")


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def samples(folder, name):
    return load_file(folder / "samples" / f"{name}.safetensors")


@pytest.fixture
def evidence(pair, pixel_judge):
    """The evidence of the two models, in a folder."""
    return evaluate(
        before=pair / "before", after=pair / "after", forget=pair / "unwanted", folder=pair / "out", **QUICK
    )


def test_the_command_line_and_python_give_the_same_numbers(pair, pixel_judge, command, capsys, evidence, make_pipeline):
    where = ("--before", pair / "before", "--after", pair / "after", "--forget", pair / "unwanted", "-o", pair / "cli")
    assert command("evaluate", *where, *FLAGS, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    n_before, n_after = (counted(samples(pair / "cli", name)) for name in ("original", "unlearned"))
    pul = next(row["pul"] for row in said["metrics"]["rows"] if row["name"] == "unlearned")
    assert (pul["n_original"], pul["n_unlearned"]) == (n_before, n_after)
    assert pul["value"] == pytest.approx(100 * (n_before - n_after) / n_before)
    ours, theirs = (read(pair / name / "metrics.json") for name in ("out", "cli"))
    assert {**ours, "cost": 0, "date": ""} == {**theirs, "cost": 0, "date": ""}
    images = {name: samples(pair / "out", name)["images"] for name in ("original", "unlearned")}
    assert not torch.equal(images["original"], images["unlearned"])
    objects = evaluate(before=make_pipeline(seed=0), after=make_pipeline(seed=1), forget=pair / "unwanted", **QUICK)
    assert objects.pul == evidence.pul


def test_the_folder_says_what_was_compared_and_copies_no_weights(pair, evidence, make_pipeline):
    record = read(pair / "out" / "run.json")
    assert (record["verb"], record["origin"], record["finished"]) == ("evaluate", "compared", True)
    assert record["inputs"]["unlearned"]["method"] is None
    for name, place in (("model", "before"), ("unlearned", "after")):
        held = record["inputs"][name]
        assert held["path"] == str(pair / place)
        assert held["sha256"] == hash_parameters(make_pipeline(seed=int(place == "after")).unet.state_dict())
    assert record["pipeline"]["path"] == str(pair / "after")
    files = {path.relative_to(pair / "out").as_posix() for path in (pair / "out").rglob("*") if path.is_file()}
    assert files - {".lock"} == {
        "config.toml", "log.jsonl", "metrics.json", "run.json", "samples/original.safetensors",
        "samples/unlearned.safetensors",
    }  # fmt: skip
    assert "method" not in (pair / "out" / "config.toml").read_text()
    assert [stage["stage"] for stage in read(pair / "out" / "metrics.json")["cost"]] == ["judge", "evaluate"]


def test_the_other_verbs_read_the_folder(pair, evidence, command):
    assert command("report", pair / "out") == 0
    assert read(pair / "out" / "evidence.json")["verdicts"]["cost"]["code"] == "not_recorded"
    opened = open_run(pair / "out")
    assert [each.name for each in opened.checkpoints] == ["original", "final"]
    assert read_runs([pair / "out"])[0].metrics["n_images"] == 24
    unlike = {each.item: each.answer for each in verify(pair / "out") if each.answer != "matches"}
    assert unlike == {"feature network": "not available"}  # the toy judge is in no folder


@pytest.mark.parametrize(("objects", "advised"), [((), True), (("before",), False), (("after",), False)])
def test_exploring_is_advised_where_both_models_are_in_folders(
    pair, pixel_judge, make_pipeline, command, capsys, objects, advised
):
    models = {
        name: make_pipeline(seed=seed) if name in objects else pair / name
        for seed, name in enumerate(("before", "after"))
    }
    evaluate(**models, forget=pair / "unwanted", folder=pair / "out", **QUICK)
    capsys.readouterr()
    assert command("report", pair / "out") == 0
    assert (f"next: vdu explore {pair / 'out'}" in capsys.readouterr().out) == advised
    if advised:
        open_run(pair / "out")
    else:
        with pytest.raises(InputError, match="was a pipeline object in Python"):
            open_run(pair / "out")


def forget_set(folder):
    return next(each for each in verify(folder) if each.item == "forget set")


def changed_images(folder):
    """Every way in which somebody may change a folder of images, and put it back."""
    first = min(folder.rglob("*.png"))
    held = first.read_bytes()
    first.unlink()
    yield "deleted"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(first)
    yield "blackened"
    first.write_bytes(held)


@pytest.mark.slow
@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("objects", [False, True])
def test_the_forget_set_of_two_pipelines_is_verified(pair, pixel_judge, make_pipeline, labelled, objects):
    images, models = pair / "unwanted", {"before": pair / "before", "after": pair / "after"}
    if labelled:
        shutil.copytree(images, pair / "images" / "a")
        shutil.copytree(images, pair / "images" / "b")
        images = pair / "images"
    if objects:
        models = {name: make_pipeline(seed=seed) for seed, name in enumerate(models)}
    evaluate(**models, forget=images, forget_class="a", folder=pair / "out", **QUICK)
    vdu.report(pair / "out")
    assert forget_set(pair / "out").answer == "matches"
    for how in changed_images(images):
        assert forget_set(pair / "out").answer == "differs", how
    assert forget_set(pair / "out").answer == "matches"


def test_a_forget_set_that_the_evidence_does_not_hold_is_not_available_for_its_own_reason(pair, pixel_judge):
    images = torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8, generator=seeded(0))
    evaluate(before=pair / "before", after=pair / "after", forget=images, folder=pair / "out", **QUICK)
    vdu.report(pair / "out")
    found = forget_set(pair / "out")
    assert found.answer == "not available" and "the images were given in Python, and" in found.detail


def test_the_evidence_object(evidence, tmp_path):
    assert evidence.pul.value == pytest.approx(
        100 * (evidence.pul.n_original - evidence.pul.n_unlearned) / evidence.pul.n_original
    )
    assert evidence.u_fid == evidence.record.row("unlearned").distances.u_fid
    assert evidence.kept_changed.n_kept == 24 - evidence.pul.n_original
    page, machine = evidence.to_html(tmp_path / "page.html"), evidence.to_json(tmp_path / "machine.json")
    verdicts = read(machine)["verdicts"]
    for name, answer in evidence.answers.items():
        assert (answer.level, answer.text) == (verdicts[name]["level"], verdicts[name]["explanation"])
    assert page.read_text("utf-8").lower().startswith("<!doctype html>")
    assert sorted(path.name for path in tmp_path.glob("*.*")) == [
        "machine.json",
        "page.html",
    ]  # and nothing beside them
    assert len(repr(evidence).splitlines()) == 6
    assert evidence._repr_html_().count("<tr>") == 5
    for nonsense, why in ((3, "path: got 3; expected a path"), (tmp_path, "which is a folder; expected a file in it")):
        with pytest.raises(InputError, match=why):
            evidence.to_html(nonsense)
    (tmp_path / "mine.json").write_text("{}", encoding="utf-8")
    for write in (evidence.to_html, evidence.to_json):
        with pytest.raises(InputError, match="mine.json: is there and no .*, and would be lost"):
            write(tmp_path / "mine.json")


@pytest.mark.slow
def test_evidence_writes_its_own_numbers_or_says_that_it_is_out_of_date(pair, pixel_judge, monkeypatch, tmp_path):
    where = {"before": pair / "before", "after": pair / "after", "forget": pair / "unwanted", **QUICK}
    found = {}
    for name, n_images in (("one", 24), ("two", 36)):  # folders of one relative name
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        found[name] = evaluate(**where | {"n_images": n_images}, folder="ev")
    assert found["one"].folder == tmp_path / "one" / "ev"
    assert read(found["one"].to_json(tmp_path / "one.json"))["metrics"]["n_images"] == 24
    again = evaluate(**where | {"n_images": 30}, seed=1, folder=tmp_path / "one" / "ev")
    for write in (found["one"].to_html, found["one"].to_json):
        with pytest.raises(
            InputError, match=r"out of date: .*one/ev holds other files than it was read from \(metrics.json"
        ):
            write(tmp_path / "late")
    assert not (tmp_path / "late").exists() and found["one"].pul.n_images == 24
    assert read(again.to_json(tmp_path / "again.json"))["metrics"]["n_images"] == 30
    (again.folder / "log.jsonl").unlink()
    with pytest.raises(InputError, match=r"\(log.jsonl\)"):
        again.to_html(tmp_path / "late")


def test_assert_gone_is_for_tests(evidence):
    value = evidence.pul.value
    evidence.assert_gone(at_least=value)
    with pytest.raises(AssertionError, match=rf"PUL is {value:.1f} %.*expected at least .*unwanted images are left"):
        evidence.assert_gone(at_least=value + 5)


def test_without_a_folder_nothing_is_left(pair, pixel_judge, monkeypatch, tmp_path_factory):
    place = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr("tempfile.tempdir", str(place))
    models = {"before": pair / "before", "after": pair / "after"}
    found = evaluate(**models, forget=pair / "unwanted", **QUICK)
    assert found.folder.parent == place and found.to_html(pair / "page.html").is_file()
    with pytest.raises(InputError, match="no such source"):
        evaluate(**models, forget=pair / "nowhere", **QUICK)
    del found
    assert os.listdir(place) == []


def test_equal_weights_are_a_warning_and_no_effect(pair, pixel_judge, capsys):
    found = evaluate(before=pair / "before", after=pair / "before", forget=pair / "unwanted", **QUICK)
    assert found.record.warnings[0].code == "same_weights"
    assert (found.pul.value, found.kept_changed.n_changed) == (0.0, 0)
    assert "same weights" in capsys.readouterr().err


@pytest.mark.slow
def test_unwanted_images_that_remain_are_no_damage_to_the_rest(pair, pixel_judge):
    """A model that hardly changed: what is left of the unwanted class is left out of the distance, by the stored pixels."""
    found = evaluate(
        before=pair / "before",
        after=pair / "before",
        forget=pair / "unwanted",
        folder=pair / "out",
        **QUICK | {"n_images": 120},
    )
    metrics, stored = read(pair / "out" / "metrics.json"), samples(pair / "out", "unlearned")
    apart, rows = metrics["kept"]["apart"], {row["name"]: row for row in metrics["rows"]}
    kept = stored["images"][stored["images"][:, 0, 0, 0] % 3 != 0]
    assert apart["n_images"] == len(kept) == 120 - counted(stored) < 0.9 * 120
    with_all, apart_alone = rows["unlearned"]["u_fid"]["value"], apart["u_fid"]["value"]
    # the same seeds: the images of the filtered original begin with these
    assert apart["floor"]["value"] == pytest.approx(apart_alone, rel=1e-6) != with_all
    assert found.gone.level == "bad" and found.rest.level != "bad" and "images that remain" in found.rest.figure


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheduler", "named"),
    [
        ({"prediction_type": "v_prediction"}, "prediction_type"),
        ({"beta_end": 0.01}, "beta_end"),
        ({"clip_sample_range": 0.3}, "clip_sample_range"),
        (None, "timestep_scale"),
    ],
)
def test_other_options_of_the_sampling_are_a_warning_of_the_first_screen(
    pair, pixel_judge, make_pipeline, scheduler, named
):
    levels = ["different_schedules"] * (named in ("prediction_type", "beta_end"))
    for seed, code in ((0, "same_weights"), (1, "different_options")):
        other = make_pipeline(scheduler, seed=seed)
        other.timestep_scale = 1.0 if scheduler else 0.25
        found = evaluate(before=pair / "before", after=other, forget=pair / "unwanted", **QUICK)
        warned = [each for each in found.record.warnings if each.code in ABOUT_MODELS]
        assert [each.code for each in warned] == [code, *levels] and warned[0].details["options"] == named
        page = found.to_html(pair / "page.html").read_text("utf-8")
        assert (
            f"({named})" in page.partition('id="verdict"')[0] or f"{named} differ" in page.partition('id="verdict"')[0]
        )


def test_two_models_with_the_same_options_have_no_such_warning(evidence):
    assert not [each for each in evidence.record.warnings if each.code in ABOUT_MODELS]


def test_other_shapes_are_refused(pair, make_pipeline):
    with pytest.raises(InputError, match=r"before makes images of shape \(1, 8, 8\), after \(1, 16, 16\)"):
        evaluate(before=pair / "before", after=make_pipeline(sample_size=16), forget=pair / "unwanted")
    assert not (pair / "evidence").exists()


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a", "c"), None])
def test_a_retrained_model_of_other_classes_is_refused(make_pipeline, names):
    def model(names, seed):
        made = make_pipeline(seed=seed, **({"num_class_embeds": len(names)} if names else {}))
        made.class_names = names
        return made

    with pytest.raises(
        InputError, match=r"retrained: has the classes .*, the original a, b, c; expected the same in the same order"
    ):
        open_retrained(model(names, 1), open_model(model(("a", "b", "c"), 0), "before"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "got neither a run nor two pipelines"),
        ({"before": "before"}, "got before without after, forget"),
        ({"before": "before", "after": "after"}, "got before, after without forget"),
        ({"run": "before", "after": "after"}, "got a run and after; expected one of them"),
        (
            {"before": "unwanted", "after": "after", "forget": "unwanted"},
            "neither a pipeline folder .* nor a run folder",
        ),
        ({"before": "before", "after": "after", "forget": "nowhere"}, "nowhere: no such source, folder or file"),
    ],
)
def test_refusals_are_the_same_on_the_command_line_and_in_python(pair, command, capsys, given, message):
    paths = {name: str(pair / place) for name, place in given.items()}
    tokens = [token for name, path in paths.items() for token in ([path] if name == "run" else [f"--{name}", path])]
    with pytest.raises(InputError, match=message) as stop:
        evaluate(**paths)
    assert command("evaluate", *tokens, "-o", pair / "out") == 2
    assert in_python(capsys.readouterr().err.strip(), evaluate) == f"vdu: {stop.value}"
    assert not (pair / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"suite": "some"}, "suite: got 'some'; expected one of none, quick, full"),
        ({"n_images": 0}, "n_images: got 0; expected at least 1"),
        ({"judge": "mnist"}, r"judge mnist: expects images of shape \(1, 28, 28\)"),
        ({"reference_split": "all"}, "reference_split: got 'all'"),
    ],
)
def test_options_are_checked(pair, options, message):
    with pytest.raises(InputError, match=message):
        evaluate(before=pair / "before", after=pair / "after", forget=pair / "unwanted", **options)


def test_a_folder_takes_only_the_evidence_of_the_same_models(pair, evidence):
    given = {"before": pair / "before", "forget": pair / "unwanted", "folder": pair / "out", **QUICK}
    assert evaluate(after=pair / "after", **given).pul == evidence.pul  # again, in place
    with pytest.raises(InputError, match=r"holds the evidence of other inputs \(after differs\)"):
        evaluate(after=pair / "before", **given)
    with pytest.raises(InputError, match="holds files but no evidence of ours"):
        evaluate(after=pair / "after", **(given | {"folder": pair / "unwanted"}))


def test_measurements_of_other_models_are_not_taken_over_by_an_unfinished_evaluation(pair, evidence):
    record = read(pair / "out" / "run.json")
    (pair / "out" / "run.json").write_text(json.dumps(record | {"finished": None}))  # as after an interruption
    given = {"before": pair / "before", "forget": pair / "unwanted", "folder": pair / "out", **QUICK}
    with pytest.raises(InputError, match=r"holds the evidence of other inputs \(after differs\)"):
        evaluate(after=pair / "before", **given)
    assert evaluate(after=pair / "after", **given).pul == evidence.pul


@pytest.mark.slow
def test_evidence_is_of_images_of_one_class(of_classes, pixel_judge, tmp_path):
    before, after, forget = of_classes
    given = {"before": before, "after": after, "folder": tmp_path, **QUICK}
    evaluate(forget=forget, **given)
    assert read(tmp_path / "run.json")["inputs"]["forget"]["class_names"] == ["a"]
    assert "class_names" not in read(tmp_path / "metrics.json")["forget"]
    evaluate(forget=forget, **given)
    with pytest.raises(InputError, match=r"holds the evidence of other inputs \(forget differs\)"):
        evaluate(forget=replace(forget, class_names=("b",)), **given)
    record = read(tmp_path / "run.json")
    del record["inputs"]["forget"]["class_names"]  # as an earlier version recorded it
    (tmp_path / "run.json").write_text(json.dumps(record))
    evaluate(forget=forget, **given)


def test_probes_are_of_images_of_one_class(of_classes):
    before, after, forget = of_classes
    models = [open_model(each, "model") for each in (before, after)]

    def inputs(*images):
        subject = Subject(*models, None, images[0], ["a"], None)
        fixed = Fixed((images[1], None, None), None, None, None, None, ())
        return _probe_inputs(subject, EvaluationOptions(n_images=24), fixed)

    other = replace(forget, class_names=("b",))
    assert len({inputs(*images) for images in ((forget, None), (other, None), (forget, forget), (forget, other))}) == 4


def test_a_result_is_its_folder_or_its_two_pipelines(pair, pixel_judge, make_pipeline, evidence):
    class Result:
        pipeline, original, folder = make_pipeline(seed=1), make_pipeline(seed=0), None
        forget = unwanted_images(str(pair / "unwanted"), (1, 8, 8), ())[0]

    assert evaluate(Result(), **QUICK).pul == evidence.pul
    with pytest.raises(InputError, match="got a run and after"):
        evaluate(Result(), after=pair / "after")
    Result.original = None
    with pytest.raises(InputError, match="a result without a run folder"):
        evaluate(Result())
    with pytest.raises(InputError, match="got a DDPMPipeline; expected a run folder or a result"):
        evaluate(make_pipeline())
    with pytest.raises(InputError, match="with a run, which is evaluated in its own folder"):
        evaluate(pair / "before", folder=pair / "elsewhere")


def test_labelled_images_are_split_and_unlabelled_ones_are_all_unwanted():
    pixels, labels = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 1, 0])
    pixels[:, 0, 0, 0] = torch.arange(4)
    labelled = ImageSet(pixels, labels, class_names=("a", "b"))
    images, record = unwanted_images(labelled, (1, 8, 8), ("b",))
    assert images.images[:, 0, 0, 0].tolist() == [1, 2] and record["classes"] == ["b"]
    images, record = unwanted_images(ImageSet(pixels), (1, 8, 8), ("b",))
    assert len(images) == 4 and record["classes"] == ["b"]
    assert len(unwanted_images(labelled, (1, 8, 8), ())[0]) == 4  # who made a set chose its images
    with pytest.raises(InputError, match="class 'c': unknown"):
        unwanted_images(labelled, (1, 8, 8), ("c",))


@pytest.mark.slow
def test_a_run_is_evaluated_in_place_as_on_the_command_line(pair, pixel_judge, command):
    assert command("unlearn", "--pipeline", pair / "before", "--forget", pair / "unwanted", "--method", "ascent", "--steps", 1,
                   "--batch-size", 4, "--output-dir", pair / "run") == 0  # fmt: skip
    found = evaluate(pair / "run", **QUICK)
    assert (found.folder, found.pul.n_original) == (pair / "run", counted(samples(pair / "run", "original")))
    assert "Figures" in (pair / "run" / "pipeline" / "README.md").read_text("utf-8")
    compared = evaluate(
        before=pair / "before", after=pair / "run", forget=pair / "unwanted", folder=pair / "out", **QUICK
    )
    assert compared.pul == found.pul
    assert read(pair / "out" / "run.json")["inputs"]["unlearned"]["method"] == "ascent"
    stages = [stage["stage"] for stage in read(pair / "out" / "metrics.json")["cost"]]
    assert stages == ["unlearn", "judge", "evaluate"]


@pytest.mark.slow
@pytest.mark.parametrize("folder", [None, "run"])
def test_a_result_of_unlearning_brings_what_its_evaluation_needs(pair, pixel_judge, folder):
    images = [Image.open(path) for path in sorted((pair / "unwanted").iterdir())]
    where = None if folder is None else pair / folder
    original = vdu.load_pipeline(pair / "before")
    result = vdu.unlearn(original, "ascent", forget=images, steps=1, batch_size=4, folder=where, progress=None)
    found = vdu.evaluate(result, **QUICK)
    assert found.folder == where or folder is None
    given = vdu.evaluate(before=original, after=result.pipeline, forget=images, **QUICK)
    assert (found.pul, found.u_fid) == (given.pul, given.u_fid)


def test_held_out_images_are_none_of_the_retained_ones_wherever_the_run_is(pair, make_pipeline):
    kept, original = torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8, generator=seeded(1)), make_pipeline(seed=0)
    (pair / "held").mkdir()
    for i, each in enumerate(kept):
        Image.fromarray(each[0].numpy()).save(pair / "held" / f"{i}.png")
    how = {"forget": pair / "unwanted", "retain": kept, "steps": 1, "batch_size": 4, "progress": None}
    result = vdu.unlearn(original, "finetune", **how)
    vdu.unlearn(original, "finetune", folder=pair / "run", **how)
    for given in (
        {"run": result},
        {"run": pair / "run"},
        {"before": original, "after": pair / "run", "forget": pair / "unwanted"},
        {"before": original, "after": pair / "run" / "pipeline", "forget": pair / "unwanted"},
        {"before": pair / "run" / "pipeline", "after": original, "forget": pair / "unwanted"},
    ):
        with pytest.raises(InputError, match="held-out images: all 6 .* are among the run's retained images"):
            evaluate(**given, held_out=pair / "held", **QUICK)


def test_what_is_no_pipeline_is_called_by_the_argument_that_it_is(pair, make_pipeline):
    result = vdu.unlearn(make_pipeline(), "ascent", forget=pair / "unwanted", steps=1, batch_size=2, progress=None)
    given = {"before": make_pipeline(), "after": make_pipeline(seed=1), "forget": pair / "unwanted"}
    for name in ("before", "after", "retrained"):
        with pytest.raises(InputError, match=f"^{name}: got int, which lacks a network"):
            evaluate(**given | {name: 5})
        with pytest.raises(
            InputError, match=f"^{name}: got UnlearnResult.* Of a result give its pipeline: {name}=….pipeline"
        ):
            evaluate(**given | {name: result})


def test_held_out_images_of_another_class_are_refused_where_something_has_both(pair, pixel_judge):
    (pair / "held" / "b").mkdir(parents=True)
    pixels = torch.randint(256, (60, 1, 8, 8), dtype=torch.uint8, generator=seeded(5))
    for i, each in enumerate(pixels[:6]):
        Image.fromarray(255 - each[0].numpy()).save(pair / "held" / "b" / f"{i}.png")
    names = ("A", "b", "c")
    forget = ImageSet(pixels[:6] // 2, torch.zeros(6, dtype=torch.int64), class_names=("a",))
    reference = ImageSet(pixels, torch.arange(60) % 3, class_names=names)
    given = {"before": pair / "before", "after": pair / "after", "forget": forget, "reference": reference, **QUICK}
    with pytest.raises(InputError, match="held is of the class b, and reference has it beside a, which was forgotten"):
        evaluate(forget_class="a", held_out=pair / "held", **given)
    (pair / "held" / "b").rename(pair / "held" / "a")
    evaluate(forget_class="a", held_out=pair / "held", **given)


def test_what_an_earlier_run_forgot_is_left_out_of_the_reference_or_a_warning(pair, pixel_judge):
    pixels = torch.randint(256, (90, 1, 8, 8), dtype=torch.uint8, generator=seeded(5))
    names, labels = ("a", "b", "c"), torch.arange(90) % 3
    how = {"steps": 1, "batch_size": 4, "progress": None}
    model = pair / "before"
    for place, name in enumerate(("a", "b")):  # the second run goes on from what the first one made
        forget = ImageSet(pixels[:6] // 2 + place, torch.full((6,), place), class_names=names)
        vdu.unlearn(model, "finetune", forget=forget, retain=255 - pixels[:6], folder=pair / name, **how)
        model = pair / name / "pipeline"
    labelled = ImageSet(pixels, labels, class_names=names)
    made = {
        "run": {"run": pair / "b"},
        "two pipelines": {
            "before": pair / "a",
            "after": pair / "b",
            "forget": pixels[:6] // 2 + 1,
            "folder": pair / "e",
        },
    }
    for given in made.values():
        evaluate(**given, reference=labelled, **QUICK)
        folder = given.get("folder", pair / "b")
        assert "without a (by label)" in read(folder / "metrics.json")["reference"]["description"]
        assert read(folder / "metrics.json")["reference"]["n_images"] <= 60
        evaluate(**given, reference=pixels, **QUICK)
        (found,) = (
            each for each in read(folder / "metrics.json")["warnings"] if each["code"] == "reference_forgotten_before"
        )
        assert found["classes"] == "a"


def test_reference_images_that_the_run_retained_are_a_warning_of_the_evidence(pair, pixel_judge):
    kept, others = (torch.randint(256, (n, 1, 8, 8), dtype=torch.uint8, generator=seeded(n)) for n in (6, 90))
    how = {"forget": pair / "unwanted", "retain": kept, "steps": 1, "batch_size": 4, "progress": None}
    vdu.unlearn(pair / "before", "finetune", folder=pair / "run", **how)
    evaluate(pair / "run", reference=torch.cat([kept, others]), **QUICK)
    n_kept, n_others = (
        int((each[:, 0, 0, 0] % 3 != 0).sum()) for each in (kept, others)
    )  # the judge takes the rest out
    metrics = read(pair / "run" / "metrics.json")
    found = [each for each in metrics["warnings"] if each["code"] == "reference_trained_on"]
    assert found == [{"code": "reference_trained_on", "n_shared": n_kept, "n_images": n_kept + n_others}] and n_kept
    vdu.report(pair / "run")
    said = f"{n_kept} of the {n_kept + n_others} reference images were retained images of the run"
    assert said in (pair / "run" / "report.html").read_text("utf-8")


@pytest.mark.slow
def test_held_out_images_are_none_that_an_earlier_run_retained(pair, pixel_judge, capsys):
    first, second = (torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8, generator=seeded(seed)) for seed in (1, 2))
    (pair / "held").mkdir()
    for i, each in enumerate([*first, *second]):
        Image.fromarray(each[0].numpy()).save(pair / "held" / f"{i}.png")
    how = {"forget": pair / "unwanted", "steps": 1, "batch_size": 4, "progress": None}
    vdu.unlearn(pair / "before", "finetune", retain=first, folder=pair / "run", **how)
    vdu.unlearn(pair / "run", "finetune", retain=second, folder=pair / "run2", **how)
    in_memory = vdu.unlearn(pair / "run2" / "pipeline", "ascent", **how)
    vdu.unlearn(pair / "run2", "ascent", folder=pair / "run3", **how)
    for run in (pair / "run2", pair / "run3", in_memory):
        with pytest.raises(InputError, match="held-out images: all 12 .* are among the run's retained images"):
            evaluate(run, held_out=pair / "held", **QUICK)
    capsys.readouterr()
    vdu.unlearn(pair / "before", "ascent", folder=pair / "run", overwrite=True, **how)  # what run2 started from is gone
    evaluate(pair / "run3", held_out=pair / "held", **QUICK)
    said = capsys.readouterr().err
    assert "run: holds another run by now" in said and "6 of 12 held-out images are run's retained images" in said


@pytest.mark.slow
def test_the_pipeline_of_a_run_is_that_run(pair, pixel_judge):
    how = {"forget": pair / "unwanted", "steps": 2, "batch_size": 4, "progress": None}
    vdu.unlearn(pair / "before", "ascent", folder=pair / "run", **how)
    given = {"before": pair / "before", "forget": pair / "unwanted", **QUICK}
    for after, folder in ((pair / "run", "a"), (pair / "run" / "pipeline", "b")):
        evaluate(**given, after=after, folder=pair / folder)
        assert 'method = "ascent"' in (pair / folder / "config.toml").read_text()
    costs = [read(pair / folder / "metrics.json")["cost"][0] for folder in "ab"]
    assert costs[0] == costs[1] and costs[1]["stage"] == "unlearn" and costs[1]["network_evaluations"] > 0
    shutil.copytree(pair / "after" / "unet", pair / "run" / "pipeline" / "unet", dirs_exist_ok=True)
    for use in (
        lambda: evaluate(**given, after=pair / "run" / "pipeline"),
        lambda: vdu.unlearn(pair / "run", "ascent", folder=pair / "again", **how),
        lambda: load_pipeline(pair / "run" / "pipeline"),
    ):
        with pytest.raises(InputError, match="pipeline: is not what this run made"):
            use()
    shutil.copytree(pair / "run" / "pipeline", pair / "elsewhere")
    load_pipeline(pair / "elsewhere")


def test_the_cost_and_the_method_of_a_result_in_memory_are_part_of_the_evidence(pair, pixel_judge):
    result = vdu.unlearn(pair / "before", "ascent", forget=pair / "unwanted", steps=2, batch_size=4, progress=None)
    evidence = evaluate(result, folder=pair / "new", device="cpu", **QUICK)
    assert evidence.pul.n_images == QUICK["n_images"]
    assert read(pair / "new" / "metrics.json")["cost"][0] == {
        "stage": "unlearn", "seconds": round(result.seconds, 3), "network_evaluations": result.network_evaluations, "reused": 0,
    }  # fmt: skip
    assert [stage["stage"] for stage in read(pair / "new" / "run.json")["stages"]] == ["unlearn", "judge", "evaluate"]
    assert 'method = "ascent"' in (pair / "new" / "config.toml").read_text()


@pytest.mark.slow
def test_former_names_keep_working(pair, pixel_judge):
    given = {"before": pair / "before", "after": pair / "after", "forget": pair / "unwanted", **QUICK}
    with pytest.warns(DeprecationWarning, match="evaluate: probes is called suite now"):
        old = evaluate(probes="none", **given)
    assert old.pul == evaluate(suite="none", **given).pul
    with pytest.raises(InputError, match="probes: is the former name of suite, and both are given"):
        evaluate(probes="none", suite="none", **given)


@pytest.mark.parametrize(("role", "name"), [("reference", "reference images"), ("held_out", "held-out images")])
def test_images_that_measure_are_none_of_the_forget_images(pair, pixel_judge, monkeypatch, capsys, role, name):
    given = {
        "before": pair / "before",
        "after": pair / "after",
        "forget": pair / "unwanted",
        "folder": pair / "out",
        **QUICK,
    }
    with pytest.raises(InputError, match=rf"{name}: all 6 .* are among the forget images"):
        evaluate(**given, **{role: pair / "unwanted"})
    assert not (pair / "out").exists()  # nothing was drawn before
    mixed = pair / "mixed"
    shutil.copytree(pair / "unwanted", mixed)
    for i in range(30):
        Image.fromarray(np.random.default_rng(i + 9).integers(256, size=(8, 8), dtype=np.uint8)).save(
            mixed / f"new-{i}.png"
        )
    evaluate(**given, **{role: mixed})
    assert f"6 of 36 {name} are forget images, pixel by pixel; they are left out" in capsys.readouterr().err


def test_reference_images_are_none_of_the_held_out_ones(pair, pixel_judge, capsys):
    held, kept = (torch.randint(256, (n, 1, 8, 8), dtype=torch.uint8, generator=seeded(n)) for n in (9, 30))
    (pair / "held").mkdir()
    for i, each in enumerate(held):
        Image.fromarray(each[0].numpy()).save(pair / "held" / f"{i}.png")
    given = {"before": pair / "before", "after": pair / "after", "forget": pair / "unwanted", **QUICK}
    alone = evaluate(**given, reference=kept)
    mixed = evaluate(**given, reference=torch.cat([kept, held]), held_out=pair / "held")
    assert "9 of 39 reference images are held-out images, pixel by pixel; they are left out" in capsys.readouterr().err
    assert mixed.u_fid == alone.u_fid


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.slow
@pytest.mark.parametrize("filters", ["error", "ignore"])
def test_the_callers_filters_of_warnings_change_no_evidence(pair, pixel_judge, monkeypatch, filters):
    monkeypatch.setattr(
        PixelJudge, "features", lambda self, images: images.flatten(1)[:, :40]
    )  # more than images: a warning
    monkeypatch.setattr(PixelJudge, "n_features", 40)
    given = {"before": pair / "before", "after": pair / "after", "forget": pair / "unwanted", **QUICK}
    found = []
    for action in ("default", filters):
        with warnings.catch_warnings():
            warnings.simplefilter(action)
            evidence = evaluate(**given, folder=pair / action)
        found.append((evidence.pul, read(pair / action / "metrics.json")["warnings"]))
    assert found[0] == found[1] and any(each["code"] == "python_warning" for each in found[0][1])


def test_evidence_inside_what_it_reads_is_refused(pair):
    given = {"before": pair / "before", "after": pair / "after", "forget": pair / "unwanted"}
    for inside in ("unwanted", "before", "after"):
        with pytest.raises(InputError, match="lies in .*, which this run reads"):
            evaluate(**given, folder=pair / inside / "out")
        assert not (pair / inside / "out").exists()


def test_a_sampler_that_a_model_cannot_do_is_refused_first(pair, capsys):
    given = {"before": pair / "before", "after": pair / "after", "forget": pair / "unwanted", "folder": pair / "out"}
    with pytest.raises(InputError, match="steps: got 2000; the model's schedule has 1000"):
        evaluate(**given, sampler=Sampler("ddpm", 2000))
    assert not (pair / "out").exists() and capsys.readouterr().err == ""


def test_a_fine_tune_of_the_original_is_no_retrained_model(pair, make_pipeline):
    """Also at two removes; a model that other runs made from another one passes."""
    first, second = (open_model(pair / name, name) for name in ("before", "after"))
    start = {"path": str(pair / "before"), "sha256": first.sha256}
    for name, model in (
        ("one", start),
        ("two", {"path": str(pair / "one" / "pipeline"), "sha256": "0"}),
        ("new", None),
    ):
        make_pipeline(seed=7).save_pretrained(pair / name / "pipeline")
        inputs = {} if model is None else {"model": model}
        (pair / name / "run.json").write_text(json.dumps({"verb": "pretrain", "inputs": inputs}), "utf-8")
    for name in ("one", "two"):
        with pytest.raises(InputError, match=r"was fine-tuned from the original or the unlearned model \(.*before\)"):
            open_retrained(pair / name / "pipeline", first, second)
    assert open_retrained(pair / "new" / "pipeline", first, second) is not None


@pytest.mark.parametrize(
    ("part", "is_refused"), [(None, True), ("vae", True), ("unet", False), ("text_encoder", False)]
)
def test_what_makes_a_model_another_one_than_the_original_is_what_was_trained(part, is_refused):
    """With another autoencoder it draws what the original draws."""
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    original, other = (tiny_pipelines.stable_diffusion() for _ in range(2))
    for value in () if part is None else getattr(other, part).parameters():
        value.data.mul_(1.01)
    first = open_model(original, "before")
    if not is_refused:
        assert open_retrained(other, first, first) is not None
        return
    with pytest.raises(InputError, match="retrained: has the weights of the original or of the unlearned model"):
        open_retrained(other, first, first)


DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.mark.parametrize(
    ("given", "judge", "meant"),
    [
        ("8", "zoo:mnist", "8"),  # what the judge calls the class
        ("8", None, "eight"),
        ("3", None, "three"),  # whatever images are left of the set
        ("eight", "zoo:mnist", "eight"),
        ("10", None, "class '10': unknown"),
    ],
)
def test_a_class_by_number_is_what_the_judge_calls_it_or_the_one_at_its_place(given, judge, meant):
    eights = split_by_class(load_images("mnist-mini", split="test"), "8")[0]
    images, options = (
        replace(eights, class_names=DIGITS),
        EvaluationOptions.from_python(forget_class=given, judge=judge),
    )
    if ":" in meant:
        with pytest.raises(InputError, match=meant):
            by_name(images, options)
        return
    options = by_name(images, options)
    assert options.forget_class == (meant,)
    if judge and meant == "8":
        require_measurable(load_pipeline("zoo:mnist"), images, options)


def test_a_table_knows_its_retrained_model_by_all_its_parts(pixel_judge):
    original, one, other = (tiny_pipelines.dit() for _ in range(3))
    for each in (one, other):
        each.transformer.pos_embed.proj.weight.data.mul_(1.01)
    other.vae.decoder.conv_out.weight.data.mul_(1.01)
    images = ImageSet(torch.zeros(6, 3, 16, 16, dtype=torch.uint8))
    known = [
        require_measurable(original, images, EvaluationOptions.from_python(forget_class="a", retrained=each))
        for each in (one, one, other)
    ]
    assert known[0] == known[1] != known[2]


def test_a_result_that_draws_another_label_instead_is_evaluated_by_label(of_classes, pixel_judge):
    """Nothing of it was said in words."""
    model, _, images = of_classes
    how = {"steps": 1, "batch_size": 4, "sampler": QUICK["sampler"], "progress": None}
    result = vdu.unlearn(model, "concept-ablation", forget=images, instead="b", **how)
    assert vdu.evaluate(result, **QUICK, forget_class="a").pul.n_images == QUICK["n_images"]


@pytest.mark.slow
def test_copies_within_a_set_count_once(pair, pixel_judge, capsys):
    pixels = torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    models = {"before": pair / "before", "after": pair / "after", "forget": pair / "unwanted"}

    def real_split(reference):
        found = evaluate(**models, reference=reference, **QUICK)
        return {row.name: row for row in found.record.rows}["real_split"].distances.u_fid

    assert real_split(pixels.repeat(3, 1, 1, 1)) == real_split(pixels)
    assert "80 of 120 reference images are copies of others among them" in capsys.readouterr().err
    with pytest.raises(InputError, match="reference: 1 images are left"):
        evaluate(**models, reference=pixels[:1].repeat(60, 1, 1, 1), **QUICK)


def test_options_without_effect_are_named(capsys):
    EvaluationOptions(held_out="x", reference_split="test", judge="y", n_judge_samples=7).warn()
    said = capsys.readouterr().err
    assert "held_out: measured by probes alone" in said
    assert "reference_split: has no effect" in said and "n_judge_samples: has no effect" in said
    EvaluationOptions(held_out="x", suite="quick", reference="z", reference_split="test", n_judge_samples=7).warn()
    assert not capsys.readouterr().err


def test_a_refusal_leaves_no_run_locked(pair, pixel_judge, tmp_path):
    """Even while its traceback lives, as the last one of a notebook does."""
    kept = []
    made = vdu.unlearn(
        pair / "before", "ascent", forget=pair / "unwanted", folder=tmp_path / "run", steps=1, batch_size=2
    )
    for _ in range(2):
        try:
            vdu.evaluate(made.folder, judge=tmp_path / "nothing")
        except InputError as error:
            kept.append(error)
    assert len(kept) == 2 and all("nothing" in str(each) and "another process" not in str(each) for each in kept)


def a_run(folder, stages, verb="unlearn", **inputs):
    """A finished run folder as far as the cost goes."""
    folder.mkdir(exist_ok=True)
    known = {"model": {"sha256": "m", "configuration_sha256": "c"}, "forget": {"sha256": "f"}} | inputs
    made = {"verb": verb, "stages": [{"stage": name, "seconds": 1.0} for name in stages], "inputs": known}
    (folder / "run.json").write_text(json.dumps(made))
    return SimpleNamespace(folder=folder, record=made)


def stages_of(record):
    return [each["stage"] for each in recording._cost(record)]


def test_the_cost_of_a_posterior_is_that_of_its_own_run_alone(tmp_path, monkeypatch):
    a_run(tmp_path, ["pretrain"], verb="pretrain")
    monkeypatch.chdir(tmp_path)  # a run.json that has no part in it
    assert stages_of(a_run(tmp_path / "run", ["unlearn"])) == ["unlearn"]
    a_run(tmp_path / "post", ["own samples", "fisher"], verb="posterior")
    for path in (tmp_path / "post", tmp_path / "post" / "posterior.safetensors"):
        record = a_run(tmp_path / "run", ["unlearn", "judge"], posterior={"path": str(path)})
        assert stages_of(record) == ["posterior: own samples", "posterior: fisher", "unlearn", "judge"]
    own = {"path": str(tmp_path / "run" / "posterior.safetensors")}
    assert stages_of(a_run(tmp_path / "run", ["posterior", "unlearn"], posterior=own)) == ["posterior", "unlearn"]
    other = a_run(tmp_path / "other", ["unlearn"], posterior=own)  # that of an earlier unlearning
    assert stages_of(other) == ["posterior: posterior", "unlearn"]


def test_two_pipelines_cost_what_the_second_ones_run_did_and_quote_its_rule_only_of_the_same(tmp_path):
    made = a_run(tmp_path / "run", ["posterior", "unlearn", "judge", "evaluate"])
    made.record["stages"][1] |= {"stopping": {"bound": 0.1}, "statement": "at most 10 %"}
    (tmp_path / "run" / "run.json").write_text(json.dumps(made.record))
    after = {"run": str(tmp_path / "run")}
    same = a_run(tmp_path / "pair", ["evaluate"], verb="evaluate", unlearned=after)
    assert stages_of(same) == ["posterior", "unlearn", "evaluate"]
    assert recording._cost(same)[1]["statement"] == "at most 10 %"
    for changes in ({"model": {"sha256": "n", "configuration_sha256": "c"}}, {"forget": {"sha256": "g"}}):
        other = a_run(tmp_path / "pair", ["evaluate"], verb="evaluate", unlearned=after, **changes)
        assert stages_of(other) == ["posterior", "unlearn", "evaluate"]
        assert not {"stopping", "statement"} & set(recording._cost(other)[1])


def test_two_pipelines_cost_what_all_runs_between_them_did(tmp_path):
    """From the original 0 to 1 to 2; measured between 0 and 2, and between 1 and 2."""
    for i in (1, 2):
        before = tmp_path / f"run{i - 1}" / "pipeline"
        made = a_run(tmp_path / f"run{i}", ["unlearn"], model={"path": str(before), "sha256": f"m{i - 1}"})
        made.record |= {"finished": True, "pipeline": {"sha256": f"m{i}"}}
        made.record["stages"][0] |= {"seconds": float(i), "statement": "at most 10 %"}
        (tmp_path / f"run{i}" / "run.json").write_text(json.dumps(made.record))
    for start, seconds, states in ((0, [1.0, 2.0, 1.0], [False] * 3), (1, [2.0, 1.0], [True, False])):
        after = {"run": str(tmp_path / "run2")}
        pair = a_run(tmp_path / "pair", ["evaluate"], verb="evaluate", unlearned=after, model={"sha256": f"m{start}"})
        found = recording._cost(pair)
        assert [each["seconds"] for each in found] == seconds
        assert ["statement" in each for each in found] == states


def test_labels_of_a_reference_are_matched_as_words_are():
    pixels = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    images = ImageSet(pixels, torch.tensor([0, 1, 1, 0]), class_names=("Black_Cat", "dog"))
    assert has_labels_of(images, ["black cat"]) and not has_labels_of(images, ["black cat", "fox"])
    assert without_labels(images, ["black cat"]).labels.tolist() == [1, 1]


def test_another_class_than_the_forgotten_one_is_refused_without_a_judge(pair):
    for name in "ab":
        (pair / "classes" / name).mkdir(parents=True)
        for k in range(3):
            Image.new("L", (8, 8), 30 * k + ord(name)).save(pair / "classes" / name / f"{k}.png")
    how = {"forget": pair / "classes", "forget_class": "a", "steps": 1, "batch_size": 2, "progress": None}
    vdu.unlearn(pair / "before", "ascent", folder=pair / "run", **how)
    with pytest.raises(InputError, match="got b; the forget set is of a, and without"):
        evaluate(pair / "run", forget_class="b", **QUICK)


@pytest.mark.slow
def test_another_class_than_the_forgotten_one_is_refused_where_real_images_have_both(pair, pixel_judge):
    pixels, labels = torch.randint(256, (60, 1, 8, 8), dtype=torch.uint8, generator=seeded(5)), torch.arange(60) % 3
    reference = ImageSet(pixels, labels, class_names=("A", "b", "c"))
    forget = ImageSet(pixels[:6] // 2, torch.zeros(6, dtype=torch.int64), class_names=("a",))
    given = {"before": pair / "before", "after": pair / "after", "forget": forget, "reference": reference, **QUICK}
    with pytest.raises(InputError, match="got b; the forget set is of a, and reference has all of them"):
        evaluate(forget_class="b", **given)
    found = evaluate(forget_class="a", **given)
    assert found.record.reference.n_images == int((labels != 0).sum())  # its class, in another case
    evaluate(forget_class="a name of the judge's", **given)


@pytest.mark.parametrize("folder", [None, "run"])
def test_a_part_of_what_was_forgotten_is_refused(pair, pixel_judge, folder):
    """For a result in memory as for a run folder: the rest of it would count as damage."""
    labels = torch.arange(12) % 3
    forget = ImageSet(
        torch.randint(256, (12, 1, 8, 8), dtype=torch.uint8, generator=seeded(5)), labels, class_names=("a", "b", "c")
    )
    how = {"forget": forget, "forget_class": ["a", "b"], "steps": 1, "batch_size": 2, "progress": None}
    made = vdu.unlearn(pair / "before", "ascent", folder=folder and pair / folder, **how)
    with pytest.raises(InputError, match="got a; the forget set is of a, b, and without"):
        evaluate(made, forget_class="a", **QUICK)
    assert evaluate(made, **QUICK).record.n_images == QUICK["n_images"]


def test_images_of_a_class_of_the_models_have_a_table_by_label(of_classes, pixel_judge, tmp_path):
    before, after, forget = of_classes
    found = evaluate(before=before, after=after, forget=forget, folder=tmp_path, **QUICK)
    assert found.record.words is not None and found.record.words.concepts == ("a",)
    assert [each.name for each in found.record.words.sets] == ["target", "others"]
    assert read(tmp_path / "metrics.json")["forget"]["classes"] == ["a"]


def test_a_comparison_asks_no_model_in_words(pair):
    with pytest.raises(InputError, match="forget_prompt: vdu.compare does not ask models in words"):
        vdu.compare(pair / "before", methods=["ascent"], forget=pair / "unwanted", forget_prompt="cat")


def test_a_model_that_draws_the_unwanted_alone_is_refused_with_both_counts_before_the_longer_part(
    make_pipeline, pixel_judge, monkeypatch
):
    """Its images are black and white, whose pixels 0 and 255 are both of the class to be forgotten."""
    damaged = make_pipeline(seed=1)
    damaged.unet.conv_out.weight.data.mul_(1e10)
    monkeypatch.setattr("vdu.evaluation.measure.filtered_original", lambda *_: pytest.fail("was drawn"))
    images = ImageSet(torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(
        InputError, match=r"calls all 24 images of the changed model a \(of the original \d+, of the changed"
    ):
        evaluate(before=make_pipeline(seed=0), after=damaged, forget=images, **QUICK)
