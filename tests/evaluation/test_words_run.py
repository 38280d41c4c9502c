"""A tiny text-to-image pipeline, evaluated in words on the command line and in Python; counts are made again from stored pixels."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.evaluation.conftest import PixelJudge

import tiny_pipelines
import vdu
from vdu.commands.verify import verify
from vdu.core.errors import InputError
from vdu.core.rng import derive_seed
from vdu.data.forget_source import current_forget, reload_forget
from vdu.data.images import ImageSet, to_uint8
from vdu.diffusion.sampling import Sampler, sample
from vdu.evaluation import recording as evaluation
from vdu.evaluation.api import evaluate
from vdu.evaluation.inputs import Given, fix
from vdu.evaluation.models import open_model
from vdu.evaluation.options import EvaluationOptions
from vdu.evaluation.pair import images_of_prompts
from vdu.evaluation.prompt_sets import PromptSets
from vdu.evaluation.subject import Subject, classes_to_count, sets_in_words
from vdu.evaluation.suite import LoadedImages
from vdu.explore.film import denoise
from vdu.explore.open_run import Checkpoint, open_run
from vdu.explore.tradeoff import _bench, _measured, measure_checkpoints
from vdu.judges.judging import Judging
from vdu.replay.generated import image_seeds
from vdu.reporting.render import render_report
from vdu.unlearning.unlearn import unlearn
from words_toys import painter

pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
pytestmark = pytest.mark.filterwarnings("ignore:Fréchet distance:UserWarning")
NAMES = ("cat", "dog", "tree")
QUICK = {"n_images": 30, "sampler": Sampler("ddim", 1, microbatch_size=30)}
PROMPTS = {"target": ["cat", "a cat"], "others": ["dog", "tree"], "neighbours": ["fox"], "classes": {"fox": ["dog"]}}


class Animals(PixelJudge):
    class_names, sample_shape = NAMES, (3, 16, 16)


@pytest.fixture
def judged(monkeypatch):
    record = {"name": "pixel", "held_out_error": 0.1, "confusion": [[9, 1, 0], [2, 18, 0], [0, 1, 29]]}
    judging = Judging(Animals(), record, "given", ("cat",))  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr("vdu.evaluation.recording.find_judges", lambda *_, **__: (judging, 0))
    monkeypatch.setattr("vdu.evaluation.inputs.require_enough", lambda *_: None)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two pipelines that differ in their weights."""
    place = tmp_path_factory.mktemp("text")
    for name, scale in (("before", 1.0), ("after", 0.9)):
        pipeline = tiny_pipelines.stable_diffusion()
        with torch.no_grad():
            pipeline.unet.conv_in.weight.mul_(scale)
        pipeline.save_pretrained(place / name)
    (place / "after" / "vdu.json").write_text('{"prompts": ["a fox"]}')  # its own prompts do not matter
    return place


def classes_of(samples):
    return samples["images"][:, 0, 0, 0].long() % 3


@pytest.mark.slow
def test_two_pipelines_are_compared_in_words(folders, judged, tmp_path):
    where = {"before": folders / "before", "after": folders / "after", "folder": tmp_path / "out"}
    found = evaluate(**where, forget_prompt="cat", prompts=PROMPTS, **QUICK)
    stored = {
        name: load_file(tmp_path / "out" / "samples" / f"{name}.safetensors") for name in ("original", "unlearned")
    }
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    words, asked = metrics["words"], stored["original"]["asked"]
    assert (
        words["asked"] == ["cat", "a cat", "dog", "tree"]
        and len(asked) == 60
        and torch.equal(asked, stored["unlearned"]["asked"])
    )
    target, made = asked < 2, {name: classes_of(each) for name, each in stored.items()}
    n_before, n_after = (int((made[name][target] == 0).sum()) for name in ("original", "unlearned"))
    assert (found.pul.n_original, found.pul.n_unlearned, found.pul.n_images) == (n_before, n_after, 30)
    rows = {(row["name"], row["model"]): row for row in words["accuracy"]}
    assert rows["UA", "unlearned"]["count"] == 30 - n_after
    right = {
        name: int((made[name] == asked - 1)[~target].sum()) for name in made
    }  # dog is class 1 and prompt 2, tree 2 and 3
    kept = {each["name"]: each for each in words["sets"]}
    assert set(kept) == {"target", "neighbours", "others", "null"}
    assert rows["IRA", "original"]["n_images"] == 60  # neighbours and others
    seeds = image_seeds(derive_seed(derive_seed(0, "evaluate"), "prompts", "neighbours"), 30)
    foxes = sample(
        vdu.PipelineDenoiser.from_pipeline(vdu.load_pipeline(folders / "after")),
        seeds,
        QUICK["sampler"],
        labels=["fox"] * 30,
    )
    right_foxes = int((classes_of({"images": to_uint8(foxes)}) == 1).sum())  # for the judge a fox is a dog
    assert 0 < right_foxes < 30 and rows["IRA", "unlearned"]["count"] == right["unlearned"] + right_foxes
    assert kept["others"]["changed"]["unlearned"]["count"] == int(
        (made["original"] != made["unlearned"])[~target].sum()
    )
    assert metrics["kept"]["n_kept"] == int((made["original"][~target] != 0).sum())
    assert metrics["flips"]["counts"] == torch.stack([
        torch.bincount(made["unlearned"][~target][made["original"][~target] == i], minlength=3) for i in range(3)
    ]).tolist()  # fmt: skip
    assert found.gone.title.startswith(("More", "No evidence", "Reduced", "Too few", "Mostly", "Rarer"))
    assert "“cat” in" in found.gone.title and (tmp_path / "out" / "config.toml").read_text().count("forget_prompt") == 1


def test_a_run_knows_its_prompts_and_is_explored_by_them(folders, judged, tmp_path, monkeypatch):
    sampler = Sampler("ddim", 1, microbatch_size=30, guidance_scale=2.0)
    unlearn(
        folders / "before", "ascent", forget_prompt="cat", keep_prompts=["dog", "tree"], steps=3, batch_size=4, learning_rate=1e-3,
        sampler=sampler, folder=tmp_path / "run", progress=None, checkpointing_steps=1, checkpoints_total_limit=3,
    )  # fmt: skip
    found = evaluate(tmp_path / "run", **QUICK)
    words = found.record.words
    assert words is not None and (words.concepts, words.sets[0].prompts, words.sets[1].prompts) == (
        ("cat",),
        ("cat",),
        ("dog", "tree"),
    )
    opened = open_run(tmp_path / "run")
    assert opened.sampler == sampler
    row = int(torch.tensor(opened.data.original.asked).argmax())
    assert opened.data.asked(row) == "tree"
    *_, last = denoise(opened.unlearned, int(opened.data.original.seeds[row]), sampler, "tree")
    assert abs(last.expected.astype(int) - opened.data.unlearned.images[row]).max() <= 3  # another micro-batch
    monkeypatch.setattr("vdu.explore.tradeoff.find_judges", evaluation.find_judges)
    *_, curve = measure_checkpoints(opened)
    points = {name: point.pul["n_unlearned"] for name, point in curve.points.items() if point.pul}
    final = Checkpoint("again", 3, "key", None)
    bench_again = _measured(opened, _bench(opened), final)  # the final model, measured as a checkpoint
    assert set(points) == {"checkpoint-1", "checkpoint-2", "final"}
    assert bench_again.pul == curve.points["final"].pul and bench_again.u_fid == curve.points["final"].u_fid


@pytest.mark.slow
@pytest.mark.parametrize("given", [None, ".", "batch1"])
def test_the_forget_set_of_an_evaluation_in_words_is_verified(folders, judged, tmp_path, given):
    where = {"before": folders / "before", "after": folders / "after", "folder": tmp_path / "out"}
    images = tmp_path / "cats" / (given or ".")
    images.mkdir(parents=True)
    for i in range(3):
        Image.fromarray(np.full((16, 16, 3), 20 * i, np.uint8)).save(images / f"{i}.png")
    evaluate(**where, forget=tmp_path / "cats" if given else None, forget_prompt="cat", prompts=PROMPTS, **QUICK)
    render_report(tmp_path / "out")
    found = {each.item: each for each in verify(tmp_path / "out")}["forget set"]
    if not given:
        assert found.answer == "not available" and "the images were drawn from the model before, and" in found.detail
        return
    assert found.answer == "matches"
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    pixels = torch.stack([torch.full((3, 16, 16), 20 * i, dtype=torch.uint8) for i in range(3)])
    recorded, earlier = (ImageSet(pixels, torch.tensor(labels)).sha256 for labels in ([2, 3, 2], [2, 2, 2]))
    assert record["inputs"]["forget"]["sha256"] == recorded  # dog, tree, cat, a cat
    record["inputs"]["forget"]["sha256"] = earlier  # as earlier versions recorded it: all under the first prompt
    (tmp_path / "out" / "run.json").write_text(json.dumps(record))
    assert current_forget(tmp_path / "out", None).sha256 == earlier
    record["inputs"]["forget"]["sha256"] = recorded
    (tmp_path / "out" / "run.json").write_text(json.dumps(record))
    (images / "0.png").unlink()
    found = {each.item: each for each in verify(tmp_path / "out")}["forget set"]
    assert found.answer == "differs"


def test_a_run_that_forgets_given_images_in_words_is_evaluated(folders, judged, tmp_path):
    for i in range(3):
        (tmp_path / "cats").mkdir(exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), 20 * i, np.uint8)).save(tmp_path / "cats" / f"{i}.png")
    unlearn(
        folders / "before", "ascent", forget=tmp_path / "cats", forget_prompt="cat", keep_prompts=["dog", "tree"], steps=1, batch_size=2,
        learning_rate=1e-3, sampler=QUICK["sampler"], folder=tmp_path / "run", progress=None,
    )  # fmt: skip
    assert len(reload_forget(tmp_path / "run", (3, 16, 16))) == 3


def test_words_that_do_not_fit_are_refused(folders, pair, pixel_judge):
    both = {"before": folders / "before", "after": folders / "after"}
    with pytest.raises(InputError, match="got before, after without forget"):
        evaluate(**both, **QUICK)
    plain = {"before": pair / "before", "after": pair / "after", "forget": pair / "unwanted"}
    with pytest.raises(InputError, match="this model is not asked in words"):
        evaluate(**plain, forget_prompt="cat", **QUICK)
    with pytest.raises(InputError, match="prompts: got prompts, and nothing was to be forgotten in words"):
        evaluate(**plain, prompts={"others": ["dog"]}, **QUICK)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"folder": "used"}, "holds files but no evidence of ours"),
        ({"folder": "used/notes.txt"}, "is a file; expected a folder for the run"),
        ({"judge": "nowhere"}, "nowhere"),
        ({"reference": "nowhere"}, "nowhere"),
        ({"reference": torch.zeros(11, 3, 16, 16, dtype=torch.uint8)}, "reference: 11 images are left"),
        ({"held_out": "nowhere"}, "nowhere"),
        ({"data": "nowhere"}, "nowhere"),
        ({"cross_judge": "nowhere"}, "nowhere"),
        ({"features": "nothing"}, "nothing"),
        ({"n_judge_samples": 3}, r"got 3 generated samples \(n_judge_samples\)"),
    ],
)
def test_what_needs_no_drawn_image_is_refused_before_the_forget_set_is_drawn(
    folders, tmp_path, monkeypatch, given, message
):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("x")
    monkeypatch.chdir(tmp_path)

    def drawn(*_, **__):
        raise AssertionError("an image was drawn")

    monkeypatch.setattr("vdu.unlearning.labels.sample", drawn)
    with pytest.raises(InputError, match=message):
        evaluate(before=folders / "before", after=folders / "after", forget_prompt="cat", **QUICK | given)
    assert [path.name for path in tmp_path.iterdir()] == ["used"]
    with pytest.raises(AssertionError, match="an image was drawn"):  # without it, the forget set is drawn
        evaluate(before=folders / "before", after=folders / "after", forget_prompt="cat", **QUICK)


@pytest.mark.slow
def test_a_run_that_changed_the_text_encoder_goes_through_to_the_evidence(folders, judged, tmp_path):
    model, run = shutil.copytree(folders / "before", tmp_path / "model"), tmp_path / "run"
    how = {
        "forget_prompt": "cat",
        "keep_prompts": ["dog", "tree"],
        "train": "text-encoder",
        "folder": run,
        "progress": None,
    }
    how |= {"steps": 4, "batch_size": 2, "learning_rate": 1e-3, "checkpointing_steps": 2, "checkpoints_total_limit": 3}
    unlearn(model, "ascent", **how)
    assert unlearn(model, "ascent", **how, resume=True).training.steps == 4
    evaluate(run, prompts=PROMPTS, **QUICK)
    metrics = json.loads((run / "metrics.json").read_text())
    codes = {each["code"] for each in metrics["warnings"]}
    assert "different_text_encoder" in codes and not {"same_weights", "different_options"} & codes
    assert {each.item: each.answer for each in verify(run)}[
        "unlearned model, text encoders and autoencoder"
    ] == "matches"
    opened = open_run(run)
    (checkpoint,) = (each for each in opened.checkpoints if each.step == 2)
    middle = opened.denoiser_at(checkpoint)
    drawn = [
        sample(each, [0, 1], QUICK["sampler"], labels=["cat", "cat"])
        for each in (opened.original, middle, opened.unlearned)
    ]
    assert not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[1], drawn[2])
    assert len(list(denoise(middle, 0, QUICK["sampler"], "cat"))) == 2
    shutil.rmtree(model / "text_encoder")  # the original's is replaced by the new one
    shutil.copytree(run / "pipeline" / "text_encoder", model / "text_encoder")
    assert {each.item: each.answer for each in verify(run)}[
        "original model, text encoders and autoencoder"
    ] == "differs"
    with pytest.raises(InputError, match="is not the model that this run started from"):
        evaluate(run, prompts=PROMPTS, **QUICK)
    with pytest.raises(InputError, match="is not the original that"):
        open_run(run)


def test_a_fallback_classifier_learns_from_samples_under_both_kinds_of_prompts(folders, monkeypatch, tmp_path):
    asked = []

    def stop(denoiser, *_, **__):
        asked.append(denoiser.class_names)
        raise InputError("enough")

    monkeypatch.setattr("vdu.evaluation.recording.find_judges", stop)
    monkeypatch.setattr("vdu.evaluation.inputs.require_enough", lambda *_: None)
    where = {"before": folders / "before", "after": folders / "after", "folder": tmp_path / "out"}
    with pytest.raises(InputError, match="enough"):
        evaluate(**where, forget_prompt="cat", prompts=PROMPTS, **QUICK)
    assert asked == [("dog", "tree", "cat", "a cat")]


def test_a_judge_that_knows_only_some_of_the_concepts_is_refused(folders, monkeypatch):
    monkeypatch.setattr("vdu.evaluation.subject.load_judge", lambda *_: (Animals(), {}))
    monkeypatch.setattr("vdu.evaluation.subject.judge_place", lambda *_: (None, "given"))
    options = EvaluationOptions(judge="j")
    before = open_model(folders / "before", "before").denoiser

    def counted(*concepts):
        return classes_to_count(options, sets_in_words(before, concepts, ("tree",), options), [])

    assert counted("cat") == ["cat"] and counted("cat", "dog") == ["cat", "dog"]
    with pytest.raises(InputError, match="none for 'red heart', which would count as gone"):
        counted("cat", "red heart")


def test_images_in_a_folder_of_any_name_are_of_the_prompt(folders, tmp_path):
    (tmp_path / "images" / "batch1").mkdir(parents=True)
    for k in range(3):
        Image.new("RGB", (16, 16), (9 * k, 0, 0)).save(tmp_path / "images" / "batch1" / f"{k}.png")
    options = EvaluationOptions()
    before = open_model(folders / "before", "before").denoiser
    sets = sets_in_words(before, ("cat",), ("tree",), replace(options, prompts={"target": ["cat", "a cat"]}))
    images, about = images_of_prompts(tmp_path / "images", before, sets, options)
    assert asked(images) == ["cat", "a cat", "cat"] and about["classes"] == ["cat", "a cat"]


def asked(images):
    """The condition of each image, by name."""
    return None if images.labels is None else [images.class_names[each] for each in images.labels.tolist()]


def labelled(n, *names, seed=0, labels=None):
    """Images of any size, in class folders of these names; without names unlabelled."""
    pixels = torch.randint(256, (n, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(n) % len(names) if labels is None and names else labels
    return ImageSet(pixels, labels, class_names=names or None)


class Classes:
    class_names, takes_prompts = ("a", "b", "c"), False


WORDS, CONCEPT = painter({"cat": 0.5, "tree": 0.1}, ("",)), PromptSets(("cat",), ("cat", "a cat"), ("tree",))


@pytest.mark.parametrize(
    ("model", "sets", "forget", "held_out", "conditions"),
    [
        (WORDS, CONCEPT, labelled(7, "cat", "a cat"), labelled(10, seed=1), {"cat": 6, "a cat": 4}),  # 4 and 3 of 7
        (WORDS, CONCEPT, labelled(8, "cat", "a cat"), labelled(10, "photos_2024", seed=1), {"cat": 5, "a cat": 5}),
        (WORDS, CONCEPT, labelled(9, "cat", "a cat", labels=torch.arange(9) // 6), labelled(3, seed=1), {"cat": 2, "a cat": 1}),
        (WORDS, CONCEPT, labelled(8), labelled(10, "cat", seed=1), None),
        (WORDS, None, labelled(8), labelled(10, "photos_2024", seed=1), None),  # nothing was said in words
        (WORDS, CONCEPT, labelled(8, "a black cat"), labelled(3, "a white cat", seed=1), {"a white cat": 3}),
        (WORDS, CONCEPT, labelled(8, "a black cat"), labelled(3, "photos_2024", seed=1), {"a black cat": 3}),
        (WORDS, CONCEPT, labelled(8, "cat"), labelled(3, "a white cat", seed=1), {"cat": 3}),
        (WORDS, CONCEPT, labelled(8, "my cat", "pet"), labelled(4, "my cat", "pet", seed=1), {"my cat": 2, "pet": 2}),
        (Classes, None, labelled(8, "b"), labelled(3, seed=1), {"b": 3}),
        (Classes, None, labelled(8, "a", "b"), labelled(4, "a", "b", seed=1), {"a": 2, "b": 2}),
        (Classes, None, labelled(8), labelled(3, seed=1), None),
    ],
)  # fmt: skip
def test_held_out_images_are_asked_under_the_conditions_of_the_forget_set(model, sets, forget, held_out, conditions):
    subject = Subject(SimpleNamespace(denoiser=model), None, None, forget, ["cat"], sets)  # pyright: ignore[reportArgumentType]
    found = fix(Given(None, LoadedImages(held_out), None, None, None), subject).real[0]
    assert found is not None and len(found) == len(held_out)
    assert asked(found) == conditions or Counter(asked(found)) == conditions


def test_held_out_images_of_several_classes_need_labels():
    subject = Subject(SimpleNamespace(denoiser=Classes), None, None, labelled(8, "a", "b"), ["a", "b"], None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="has no labels, and 2 classes were forgotten"):
        fix(Given(None, LoadedImages(labelled(3, seed=1)), None, None, None), subject)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["in memory", "folder", "after"])
def test_a_result_is_asked_as_its_run_was(folders, judged, tmp_path, capsys, kind):
    how = {"forget_prompt": "cat", "keep_prompts": ["tree"], "steps": 1, "batch_size": 2, "progress": None}
    how |= {"sampler": Sampler("ddim", 1, guidance_scale=3.0)}
    made = unlearn(folders / "before", "ascent", **how, folder=None if kind == "in memory" else tmp_path / "run")
    (tmp_path / "sets.toml").write_text('neighbours = ["fox"]')
    about = {
        "in memory": {"run": made},
        "folder": {"run": tmp_path / "run"},
        "after": {"before": folders / "before", "after": tmp_path / "run", "forget_prompt": "cat"},
    }[kind]
    for own in (None, 1.0):
        sampler = replace(QUICK["sampler"], guidance_scale=own)
        found = evaluate(**about, n_images=30, sampler=sampler, prompts=tmp_path / "sets.toml")
        metrics = json.loads((found.folder / "metrics.json").read_text())
        asked = {each["name"]: each["prompts"] for each in metrics["words"]["sets"]}
        assert asked["neighbours"] == ["fox"] and asked["others"] == ["tree"]
        assert metrics["protocol"]["sampler_guidance_scale"] == (3.0 if own is None else 1.0)
        said = capsys.readouterr().err
        assert ("drawing with the run's guidance scale 3; 1 is without guidance" in said) == (own is None)


def test_a_result_in_memory_is_counted_by_its_concept(folders, judged, monkeypatch, tmp_path):
    """The model has a prompt of its own that names the concept; the judge has a class for the concept alone."""
    model = shutil.copytree(folders / "before", tmp_path / "model")
    (model / "vdu.json").write_text('{"prompts": ["a cat", "tree"]}')
    made = unlearn(model, "ascent", forget_prompt="cat", steps=1, batch_size=2, progress=None, sampler=QUICK["sampler"])
    assert set(made.forget_classes) == {"cat", "a cat"}
    monkeypatch.setattr("vdu.evaluation.subject.load_judge", lambda *_: (Animals(), {}))
    monkeypatch.setattr("vdu.evaluation.subject.judge_place", lambda *_: (None, "given"))
    counted = []

    def given(_, classes, **__):
        counted.append(classes)
        raise InputError("enough")

    monkeypatch.setattr("vdu.evaluation.inputs.given_judges", given)
    with pytest.raises(InputError, match="enough"):
        evaluate(made, judge="j", **QUICK)
    assert counted == [["cat"]]
