"""What once gave a wrong result without a word: each is refused before any work, or has the right result."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from PIL import Image, ImageFile
from tests.evaluation.conftest import PixelJudge
from torch.utils.data import TensorDataset

import tiny_pipelines
import vdu
from vdu.core.errors import InputError
from vdu.core.rng import isolated_global
from vdu.data import sources
from vdu.data.forget import split_by_class
from vdu.data.forget_source import class_names, reload_forget
from vdu.data.given import as_images
from vdu.data.images import ImageSet
from vdu.evaluation.evidence import Evidence
from vdu.evaluation.inputs import require_known_classes, seen_by_judge
from vdu.evaluation.options import EvaluationOptions
from vdu.evaluation.prompt_sets import PromptSets
from vdu.evaluation.recording import require_measurable
from vdu.evaluation.references import has_labels_of, without_labels
from vdu.evaluation.suite import load_real_images, real_images
from vdu.evaluation.words import CrossJudge, cross_judge
from vdu.judges.classifier import Judge, save_judge
from vdu.judges.judging import Judging, given_judges
from vdu.models.adapt import adapt
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.identity import identity
from vdu.models.networks import new_pipeline
from vdu.models.saving import save_pipeline
from vdu.replay.stopping import Stopping
from vdu.reporting.code_texts import warning_text
from vdu.unlearning.labels import label_indices
from vdu.unlearning.unlearn import planned

RECORD = {
    "name": "j", "trained_by": "labels", "data": {}, "held_out": {}, "held_out_error": 0.5, "n_held_out": 2, "settings": {},
    "confusion": [[1, 0], [1, 0]], "command": "c",
}  # fmt: skip
QUICK = {
    "steps": 1,
    "batch_size": 2,
    "learning_rate": 1e-6,
    "progress": None,
    "sampler": vdu.Sampler("ddim", 1, microbatch_size=8),
}


def pixels(n, seed=0, shape=(1, 8, 8)):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8))


def written(folder: Path, images) -> Path:
    folder.mkdir(parents=True)
    for i, each in enumerate(images):
        Image.fromarray(each[0].numpy()).save(folder / f"{i}.png")
    return folder


def whole(pipeline):
    return PipelineDenoiser.from_pipeline(pipeline)


# images


def test_a_cut_image_is_refused_whatever_pillow_was_told(tmp_path, monkeypatch):
    Image.fromarray(pixels(1, shape=(64, 64))[0].numpy()).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:1500])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(InputError, match="unreadable or cut short"):
        vdu.load_images(tmp_path)
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def measuring(data, held_out, names, forget):
    return real_images(load_real_images(data, held_out, names, forget.shape), forget)


def test_held_out_images_that_the_model_was_trained_on_are_left_out(tmp_path, capsys):
    train, test = pixels(12, 1), pixels(6, 2)
    for split, images in (("train", train), ("test", test)):
        written(tmp_path / "data" / split / "a", images)
        written(tmp_path / "data" / split / "b", pixels(6, 3 if split == "train" else 4))
    held_out = written(tmp_path / "held", torch.cat([train[:4], test]))
    found, _, _ = measuring(tmp_path / "data", held_out, ["a"], ImageSet(train[6:]))
    assert found is not None and sorted(found.images.flatten(1).tolist()) == sorted(test.flatten(1).tolist())
    assert "4 of 10 held-out images are training images" in capsys.readouterr().err


def test_pictures_in_two_classes_of_the_data_are_in_one_set_of_real_images(tmp_path):
    unwanted, kept = pixels(12, 1), pixels(6, 3)
    written(tmp_path / "train" / "a", unwanted)
    written(tmp_path / "train" / "b", torch.cat([kept, unwanted[10:11]]))
    written(tmp_path / "test" / "a", pixels(6, 2))
    written(tmp_path / "test" / "b", torch.cat([pixels(6, 4), unwanted[8:10]]))
    _, retain, held_out = measuring(tmp_path, None, ["a"], ImageSet(unwanted[:8]))
    assert retain is not None and sorted(retain.images.flatten(1).tolist()) == sorted(kept.flatten(1).tolist())
    assert held_out is not None and len(held_out) == 6


def dataset(folder):
    """Two classes with six images each for training and six for the test."""
    sets = {(split, name): pixels(6, seed) for seed, (split, name) in enumerate(SETS)}
    for (split, name), images in sets.items():
        written(folder / split / name, images)
    return sets


SETS = (("train", "a"), ("train", "b"), ("test", "a"), ("test", "b"))


def test_held_out_images_of_a_kept_class_are_left_out_or_refused(tmp_path, capsys):
    sets, forget = dataset(tmp_path / "data"), ImageSet(pixels(6, 9))
    kept = torch.cat([sets["train", "b"][:2], sets["test", "b"][:3]])
    held_out = written(tmp_path / "held", torch.cat([kept, pixels(4, 8)]))
    found, _, _ = measuring(tmp_path / "data", held_out, ["a"], forget)
    assert found is not None and torch.equal(found.images.sort(0).values, pixels(4, 8).sort(0).values)
    said = capsys.readouterr().err
    assert "2 of 9 held-out images are retained images" in said
    assert "3 of 7 held-out images are retained images" in said
    only = written(tmp_path / "only", sets["train", "b"])
    with pytest.raises(InputError, match=r"held-out images: all 6 .* are among the retained images"):
        measuring(tmp_path / "data", only, ["a"], forget)


def test_held_out_images_in_class_folders_are_those_of_the_forgotten_class(tmp_path, capsys):
    sets, forget = dataset(tmp_path / "data"), ImageSet(pixels(6, 9))
    found, _, _ = measuring(None, tmp_path / "data" / "test", ["a"], forget)
    assert found is not None and torch.equal(found.images, sets["test", "a"])
    assert "6 of 12 held-out images are not of a; they are left out" in capsys.readouterr().err
    with pytest.raises(
        InputError, match=r"--held-out: .* holds the classes a, b; expected images of what was forgotten"
    ):
        measuring(None, tmp_path / "data" / "test", ["c"], forget)
    with pytest.raises(InputError, match=r"--data .*: all its images are of a, b; expected images that stay"):
        measuring(tmp_path / "data", None, ["a", "b"], forget)


def labelled(n, names, seed=0, shape=(1, 8, 8)):
    """Images of the classes 0, 1 and 2 in turn."""
    return ImageSet(pixels(n, seed, shape), torch.arange(n) % 3, class_names=names)


@pytest.mark.parametrize(
    ("classes", "forget", "kept", "left"),
    [
        (None, ("Cat", "dog", "fox"), ("a", "cat.", "ｃａｔ"), {0}),
        (None, None, None, {1, 2}),  # class 0 by its number
        (3, None, None, {1, 2}),
        (3, ("0", "1", "2"), None, {1, 2}),  # numbers are the model's classes
        (
            None,
            None,
            ("0", "1", "2"),
            "the classes of the forget images have no names, those of the retained images have",
        ),
        (None, ("Cat", "dog", "fox"), None, "the classes of the retained images have no names, those of the forget"),
    ],
)
def test_retained_images_of_the_forgotten_class_are_left_out(make_pipeline, classes, forget, kept, left):
    unlearning = {"forget": labelled(9, forget), "forget_class": 0, "retain": labelled(9, kept, 5)}

    def plan():
        return planned(make_pipeline(**({"num_class_embeds": classes} if classes else {})), "finetune", **unlearning)

    if isinstance(left, str):
        with pytest.raises(InputError, match=left):
            plan()
        return
    assert set(plan().retain.labels.tolist()) == left


def test_retained_images_are_all_of_the_forgotten_class(make_pipeline):
    retain = ImageSet(pixels(4, 5), torch.zeros(4, dtype=torch.int64), class_names=("cat",))
    with pytest.raises(InputError, match=r"--retain: all 4 images are of a class to be forgotten \(cat\)"):
        planned(
            make_pipeline(), "finetune", forget=labelled(9, ("Cat", "dog", "fox")), forget_class="Cat", retain=retain
        )


def test_labels_without_names_are_compared_where_no_class_was_named(make_pipeline):
    """The images to forget are all of class 1, as are some of those to keep."""
    forget = ImageSet(pixels(4), torch.ones(4, dtype=torch.int64))
    plan = planned(make_pipeline(), "finetune", forget=forget, retain=labelled(9, None, 5))
    assert plan.retain is not None and plan.retain.labels.tolist() == [0, 2] * 3
    with pytest.raises(
        InputError, match="the classes of the forget images have no names, those of the retained images"
    ):
        planned(make_pipeline(), "finetune", forget=forget, retain=labelled(9, ("a", "b", "c"), 5))


def saved(images, root, *names):
    """Images as files: those of class i in the folder of name i."""
    for i, (image, label) in enumerate(zip(images.images, images.labels.tolist(), strict=True)):
        (root / names[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(root / names[label] / f"{i}.png")
    return root


def test_a_class_to_forget_is_not_kept_because_its_folder_is_no_class(make_pipeline, tmp_path, capsys):
    """One stray picture, or one folder around all, takes the labels away; a list names every image."""
    how = {"forget": labelled(9, ("3", "8", "9")), "forget_class": "8"}
    tree = saved(labelled(6, None, 5), tmp_path / "tree", "3", "08", "5")

    def kept(retain):
        return planned(make_pipeline(), "finetune", retain=retain, **how).retain

    assert len(kept(tree)) == 4
    assert "2 of 6 retained images are of a class to be forgotten (08" in capsys.readouterr().err
    shutil.copytree(tree, tmp_path / "wrap" / "images")
    shutil.copy(tree / "3" / "0.png", tree / "cover.png")
    for retain in (tree, tmp_path / "wrap", vdu.load_images(tree)):
        with pytest.raises(
            InputError, match="--retain: images lie in a folder 08, which is the name of a class to be forgotten"
        ):
            kept(retain)
    assert "cover.png lies beside the folders 08, 3, 5, so that these are no classes" in capsys.readouterr().err
    listed = [tree / "08" / "1.png", tree / "3" / "0.png"]
    (tmp_path / "kept.txt").write_text("\n".join(str(each.relative_to(tmp_path)) for each in listed))
    assert len(kept(listed)) == len(kept(tmp_path / "kept.txt")) == 2


def test_a_number_is_the_class_of_that_value_among_reference_images():
    reference = labelled(9, ("03", "08", "cat"))
    assert has_labels_of(reference, ["8"]) and not has_labels_of(reference, ["80"])
    assert set(without_labels(reference, ["8"]).labels.tolist()) == {0, 2}


def test_it_is_said_that_no_class_of_the_retained_images_is_one_to_forget(make_pipeline, capsys):
    for names, said in ((("a", "b", "c"), True), (("cat", "b", "c"), False)):
        how = {"forget": labelled(9, ("Cat", "dog", "fox")), "forget_class": "Cat", "retain": labelled(9, names, 5)}
        planned(make_pipeline(), "finetune", **how)
        line = "no class of the retained images (a, b, c) is one to be forgotten (Cat); none is left out by its class"
        assert (line in capsys.readouterr().err) is said


def test_retained_images_whose_captions_name_the_concept_are_left_out():
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    retain = labelled(9, ("two cats", "a dog", "a cat\u2019s eye"), 5, (3, 16, 16))
    how = {"keep_prompts": "a dog", "forget": pixels(4, shape=(3, 16, 16)), "force": True}
    plan = planned(tiny_pipelines.stable_diffusion(), "finetune", forget_prompt="cat", retain=retain, **how)
    assert plan.retain is not None and set(plan.retain.labels.tolist()) == {1}


@pytest.mark.slow
def test_numbers_that_became_the_models_classes_are_reloaded_as_them(make_pipeline, monkeypatch, tmp_path):
    """Data of the Hugging Face Hub may have labels without names; the record has the model's."""
    stored = ImageSet(pixels(9), torch.arange(9) % 3, description="pets train")
    monkeypatch.setattr(sources, "load_huggingface", lambda *_: stored)
    pipeline = make_pipeline(num_class_embeds=3)
    pipeline.class_names = ("a", "b", "c")
    how = {"forget": "hf:pets", "forget_class": 1, "folder": tmp_path / "run"}
    made = vdu.unlearn(pipeline, "ascent", **how, **QUICK)
    found = reload_forget(tmp_path / "run", (1, 8, 8))
    assert found.sha256 == made.forget.sha256 and class_names(found) == class_names(made.forget) == ["b"]
    pipeline.class_names = None  # then numbers are the names
    vdu.unlearn(pipeline, "ascent", overwrite=True, **how, **QUICK)
    assert class_names(reload_forget(tmp_path / "run", (1, 8, 8))) == ["1"]
    monkeypatch.setattr(sources, "load_huggingface", lambda *_: replace(stored, class_names=("a", "b", "x")))
    with pytest.raises(InputError, match="are now of class b; this run forgot them as 1"):
        reload_forget(tmp_path / "run", (1, 8, 8))


# judges and comparisons


@pytest.fixture
def judge(tmp_path):
    with isolated_global(0):
        save_judge(Judge("cnn", (1, 8, 8), ("a", "b")), tmp_path / "judge", RECORD)
    return tmp_path / "judge"


@pytest.mark.parametrize(
    ("n_forget", "given", "message"),
    [
        (9, {"forget_class": ("a", "b")}, "--forget-class: got a, b, all classes of the judge"),
        (9, {"reference": pixels(1, 5)}, r"--reference: 1 images are left .*; expected at least 12"),
        (
            9,
            {"reference": torch.cat([pixels(11, 5), pixels(9)])},
            r"--reference: 11 images are left .* without 9 of the",
        ),
        (
            9,
            {"forget_class": ("a",), "reference": pixels(90, 5)},
            r"--reference: 0 images are left .* \(by the judge\)",
        ),
        (10, {}, r"judge j: takes none of the 10 forget images \(.*\) for b; expected most"),
        (9, {"n_images": 5}, "n_images: got 5; expected at least 6"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_drawn(judge, make_pipeline, n_forget, given, message):
    """The judge takes every image for "a"."""
    with pytest.raises(InputError, match=message):
        options = EvaluationOptions(judge=judge, **{"forget_class": ("b",)} | given)
        require_measurable(make_pipeline(), ImageSet(pixels(n_forget)), options)


def test_a_class_that_is_not_the_forget_sets_is_not_counted(judge, make_pipeline):
    forget = ImageSet(pixels(9), torch.zeros(9, dtype=torch.int64), class_names=("a",))
    require_measurable(make_pipeline(), forget, EvaluationOptions(judge=judge, forget_class=("a",)))
    with pytest.raises(
        InputError, match="--forget-class: got b; the forget set is of a, and the judge has all of them"
    ):
        require_measurable(make_pipeline(), forget, EvaluationOptions(judge=judge, forget_class=("b",)))


def test_a_number_of_a_class_is_one_name_whatever_zeros_it_has(make_pipeline):
    forget = ImageSet(pixels(50), torch.zeros(50, dtype=torch.int64), class_names=("08",))
    require_measurable(make_pipeline(), forget, EvaluationOptions(forget_class=("8",)))
    with pytest.raises(InputError, match="--forget-class: got 7; the forget set is of 08, and without --judge nothing"):
        require_measurable(make_pipeline(), forget, EvaluationOptions(forget_class=("7",)))


def test_a_class_that_no_judge_has_is_refused(judge):
    sets = PromptSets(("cat",), ("cat",), ("dog",), classes={"dog": ("a", "dgo")})
    judging = Judging(PixelJudge(), {"name": "pixel"}, "given", ("b",))
    with pytest.raises(
        InputError, match="--prompts: classes of 'dog': got 'dgo', which no judge has; expected some of a, b, c"
    ):
        require_known_classes(sets, judging, None)
    require_known_classes(replace(sets, classes={"dog": ("a",)}), judging, None)
    cross = CrossJudge(SimpleNamespace(class_names=("noto", "fluent")), {})
    with pytest.raises(InputError, match="got 'dgo', which no judge has; expected some of fluent, noto"):
        require_known_classes(replace(sets, classes={"dog": ("noto", "dgo")}), None, cross)
    require_known_classes(replace(sets, classes={"dog": ("noto", "a")}), judging, cross)
    with pytest.raises(InputError, match="classes of 'dog': got 'a' and 'c', which are classes of one judge"):
        require_known_classes(replace(sets, classes={"dog": ("a", "c")}), judging, cross)


@pytest.mark.parametrize(
    "sets",
    [
        PromptSets(("kitty",), ("kitty",), ("one dog", "one b")),  # b is what this judge calls a kitty
        PromptSets(("kitty",), ("kitty",), ("a dog",), neighbours=("a lynx",), classes={"a lynx": ("b",)}),
    ],
)
def test_a_prompt_to_keep_does_not_count_as_right_where_it_shows_what_was_forgotten(sets):
    judging = Judging(PixelJudge(), {"name": "pixel"}, "given", ("b",))
    with pytest.raises(InputError, match="is among the prompts to keep, and asks for b, which the judge counts as"):
        require_known_classes(sets, judging, None)
    require_known_classes(sets, replace(judging, forget_names=("c",)), None)


def test_noise_levels_that_the_schedule_lacks_are_refused_before_samples_are_drawn(make_pipeline, monkeypatch):
    monkeypatch.setattr("vdu.unlearning.engine.make_auxiliaries", None)
    with pytest.raises(InputError, match=r"alpha_bar_range: no step of the .*schedule has ᾱ within \[0\.5, 0\.5\]"):
        vdu.unlearn(make_pipeline(), forget=pixels(44), alpha_bar_range=(0.5, 0.5), n_own_samples=60, progress=None)


def test_unwanted_images_that_the_judge_does_not_see_are_a_warning():
    judging = Judging(PixelJudge(), {"name": "pixel"}, "given", ("a",))
    forget, held_out = (torch.zeros(n, 1, 8, 8, dtype=torch.uint8) for n in (12, 11))
    forget[:7], held_out[:5] = 1, 1  # the judge's class is the first pixel's remainder by three
    found = seen_by_judge(judging, ImageSet(forget), ImageSet(held_out))
    assert [each.to_json() for each in found] == [
        {"code": "unwanted_not_seen", "set": "forget", "n_seen": 5, "n_images": 12}
    ]
    assert "in only 5 of the 12 forget images" in warning_text(found[0].to_json(), {})
    held_out[:] = 1
    with pytest.raises(InputError, match=r"judge pixel: takes none of the 11 held-out images \(.*\) for a"):
        seen_by_judge(judging, ImageSet(forget), ImageSet(held_out, description="held"))


def test_a_judge_cannot_check_itself(judge, make_pipeline, tmp_path):
    (tmp_path / "copy").mkdir()
    for path in judge.iterdir():
        (tmp_path / "copy" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(InputError, match="is the first judge again"):
        given_judges(whole(make_pipeline()), ["a"], judge=judge, second_judge=tmp_path / "copy")
    given = given_judges(whole(make_pipeline()), ["a"], judge=judge, second_judge=None)
    with pytest.raises(InputError, match="copy is --judge or --second-judge again"):
        cross_judge(tmp_path / "copy", (1, 8, 8), given)
    assert cross_judge(tmp_path / "copy", (1, 8, 8), None) is not None


def test_a_row_of_a_comparison_is_known_by_the_content_of_what_was_given(judge, make_pipeline):
    pipeline, forget = make_pipeline(), ImageSet(pixels(9))
    reference = pixels(2000, 5)
    other = reference.clone()
    other[1000] = 255 - other[1000]  # where an abridged text would not show it
    seen = [
        tuple(require_measurable(pipeline, forget, EvaluationOptions(judge=judge, forget_class=("b",), **given)))
        for given in (
            {}, {"reference": reference}, {"reference": other}, {"retrained": make_pipeline(seed=1)}, {"retrained": make_pipeline(seed=2)},
        )
    ]  # fmt: skip
    assert len(set(seen)) == len(seen)
    again = EvaluationOptions(judge=judge, forget_class=("b",), reference=reference.clone())
    assert tuple(require_measurable(pipeline, forget, again)) == seen[1]


@pytest.mark.parametrize(
    "given", [{"judge": "nowhere"}, {"features": "nothing"}, {"n_judge_samples": 3}, {"generator": torch.Generator()}]
)
def test_a_comparison_refuses_before_the_first_run(make_pipeline, monkeypatch, given):
    monkeypatch.setattr("vdu.evaluation.method_table.unlearn", lambda *_, **__: pytest.fail("unlearned first"))
    with pytest.raises(InputError):
        vdu.compare(make_pipeline(), forget=ImageSet(pixels(60)), methods=["finetune"], steps=1, **given)


# models


def test_nothing_of_an_older_model_stays_in_the_folder(make_pipeline, tmp_path):
    old, new = make_pipeline(), make_pipeline(seed=1)
    old.timestep_scale = 0.25
    vdu.save_pipeline(old, tmp_path)
    index = tmp_path / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"conv_in.bias": "diffusion_pytorch_model-00001-of-00002.safetensors"}}))
    vdu.save_pipeline(new, tmp_path)
    assert identity(whole(vdu.load_pipeline(tmp_path))) == identity(whole(new)) != identity(whole(old))


def test_corrections_train_beside_a_frozen_network(make_pipeline):
    pipeline = make_pipeline(
        block_out_channels=(8, 8), down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D")
    )  # fmt: skip
    pipeline.unet.requires_grad_(False)
    with pytest.raises(InputError, match="every parameter is frozen"):
        vdu.unlearn(pipeline, "ascent", forget=pixels(4), **QUICK)
    result = vdu.unlearn(pipeline, "ascent", forget=pixels(4), train="lora:2", **QUICK)
    assert identity(whole(result.pipeline)) != identity(whole(pipeline))


@pytest.mark.parametrize("label", [1.7, True, object(), [1]])
def test_a_label_that_is_no_class_is_refused(make_pipeline, label):
    with pytest.raises(InputError, match="label: got"):
        vdu.sample(make_pipeline(num_class_embeds=3), [0], vdu.Sampler("ddim", 1), labels=[label])


def test_samples_in_another_range_are_refused(make_pipeline):
    with pytest.raises(InputError, match="expected −1 to 1"):
        vdu.fit_posterior(make_pipeline(), "fisher", generator=torch.Generator(), n_train=9, samples=pixels(4).float())


def test_guidance_of_an_unconditional_model_is_refused_before_the_old_run_goes(make_pipeline, tmp_path):
    vdu.unlearn(make_pipeline(), "ascent", forget=pixels(4), folder=tmp_path / "run", **QUICK)
    with pytest.raises(InputError, match="model without conditions"):
        vdu.unlearn(make_pipeline(), "ascent", forget=pixels(4), folder=tmp_path / "run", overwrite=True,
                    **QUICK | {"sampler": vdu.Sampler("ddim", 1, guidance_scale=2.0)})  # fmt: skip
    assert (tmp_path / "run" / "pipeline").is_dir()


# words


@pytest.fixture
def tiny():
    pytest.importorskip("transformers")
    import tiny_pipelines

    return tiny_pipelines


def test_prompts_are_refused_that_the_model_does_not_read_as_meant(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pipeline, unknown = tiny.stable_diffusion(), tiny.pixart()
    Path("dog").write_text("other")
    for model, given, said in (
        (pipeline, {"forget_prompt": "x" * 80}, "would be cut off"),
        (pipeline, {"forget_prompt": "caf\u00e9", "keep_prompts": ["cafe\u0301 x"]}, "names what is to be forgotten"),
        (pipeline, {"forget_prompt": "cat", "keep_prompts": ["black_cat"]}, "names what is to be forgotten"),
        (pipeline, {"forget_prompt": "dog"}, "is also a file here"),
        (pipeline, {"forget_prompt": "prompts/cats.csv"}, "looks like a file"),
        (pipeline, {"forget_prompt": np.array(["a", "b"])}, "forget_prompt: got"),
        (pipeline, {"forget_prompt": "cat", "instead": 3, "method": "distillation"}, "instead: got 3"),
        (
            unknown,
            {"forget_prompt": "draw \U0001f431", "keep_prompts": ["draw \U0001f436"]},
            "are one to this model's text encoder",
        ),
    ):
        with pytest.raises(InputError, match=said):
            vdu.unlearn(model, **{"method": "ascent"} | QUICK | given)


def test_a_text_encoder_without_all_of_its_weights_is_refused(tiny, tmp_path):
    from safetensors.torch import load_file, save_file

    vdu.save_pipeline(tiny.stable_diffusion(), tmp_path)
    for part, name in (("text_encoder", "model"), ("vae", "diffusion_pytorch_model")):
        path = tmp_path / part / f"{name}.safetensors"
        sound = load_file(path)
        first = sorted(sound)[3]
        for changed, said in (
            ({each: value for each, value in sound.items() if each != first}, "lack 1 tensors|cannot load"),
            (sound | {"more": torch.zeros(1)}, "have 1 tensors"),
            (sound | {first: sound[first] * torch.nan}, "NaN or infinite"),
        ):
            save_file(changed, path, metadata={"format": "pt"})
            with pytest.raises(InputError, match=said):
                vdu.load_pipeline(tmp_path)
        save_file(sound, path, metadata={"format": "pt"})
    vdu.load_pipeline(tmp_path)
    for path in (tmp_path / "tokenizer").iterdir():
        path.unlink()
    (tmp_path / "tokenizer").rmdir()
    with pytest.raises(InputError, match="has no folder tokenizer"):
        vdu.load_pipeline(tmp_path)


def test_what_is_hung_on_a_network_or_lacks_values_is_refused(tiny):
    for change, said in (
        (lambda made: made.unet.enable_freeu(0.9, 0.2, 1.5, 1.6), "FreeU"),
        (lambda made: made.unet.fuse_qkv_projections(), "fused projections"),
        (lambda made: made.text_encoder.to("meta"), "on the meta device"),
        (lambda made: next(made.vae.decoder.parameters()).data.fill_(torch.nan), "autoencoder: NaN or infinite"),
        (lambda made: setattr(made, "tokenizer", None), "has no tokenizer"),
    ):
        pipeline = tiny.stable_diffusion()
        change(pipeline)
        with pytest.raises(InputError, match=said):
            whole(pipeline)


def test_how_words_and_levels_are_used_is_part_of_what_a_model_is(tiny):
    zeros, flux = tiny.sdxl(), tiny.flux()
    assert identity(whole(zeros)) != identity(whole(tiny.sdxl(force_zeros_for_empty_prompt=False)))
    shifted = tiny.flux()
    shifted.scheduler.register_to_config(base_shift=0.9)
    assert identity(whole(flux)) == identity(whole(tiny.flux())) != identity(whole(shifted))


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({"prediction_type": "v_prediction"}, True), ({"beta_schedule": "squaredcos_cap_v2"}, True), ({"beta_end": 0.03}, True),
        ({"clip_sample": False}, False), ({"variance_type": "fixed_large"}, False),  # how samples are drawn
    ],
)  # fmt: skip
def test_members_of_an_ensemble_are_models_of_one_kind(make_pipeline, change, refused):
    def fitted(scheduler):
        members = [make_pipeline(scheduler, seed=seed) for seed in (1, 2)]
        source = torch.Generator().manual_seed(0)
        return vdu.fit_posterior(make_pipeline(), "ensemble", generator=source, members=members)

    if refused:
        with pytest.raises(InputError, match="members: .* is another kind of model than the pipeline"):
            fitted(change)
    else:
        assert fitted(change).sha256 == fitted({}).sha256


def test_samples_in_double_precision_give_the_same_posterior(make_pipeline):
    samples = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    found = {
        vdu.fit_posterior(
            make_pipeline(), "fisher", generator=torch.Generator().manual_seed(0), samples=each, n_train=9
        ).sha256
        for each in (samples, samples.double())
    }
    assert len(found) == 1


# results, and classes that share a name


@pytest.mark.slow
def test_a_result_is_evaluated_only_as_long_as_it_is_what_its_folder_holds(make_pipeline, tmp_path, monkeypatch):
    """Another run in the same folder, a relative folder seen from elsewhere, and weights changed by hand."""
    pipeline, forget = make_pipeline(), pixels(8)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "one")
    result = vdu.unlearn(pipeline, "bounded", forget=forget, folder="run", **QUICK)
    assert result.folder == tmp_path / "one" / "run" and not result.is_out_of_date()
    monkeypatch.chdir(tmp_path / "two")
    again = {"folder": result.folder, "overwrite": True, "seed": 1} | QUICK
    later = vdu.unlearn(pipeline, "bounded", forget=forget, **again)
    result.save_pretrained("old")
    later.save_pretrained("new")
    assert ["seed 0" in Path(name, "README.md").read_text() for name in ("old", "new")] == [True, False]
    with pytest.raises(InputError, match=r"out of date: the run in .*run has other weights"):
        vdu.evaluate(result)
    assert not later.is_out_of_date()
    bare = vdu.unlearn(pipeline, "bounded", forget=forget, **QUICK)
    with torch.no_grad():
        pipeline.unet.conv_in.bias += 1
    with pytest.raises(
        InputError,
        match="out of date: the original or the new pipeline has other weights or options than when it was made",
    ):
        vdu.evaluate(bare)


def test_a_card_states_what_remains_of_the_runs_own_weights_alone(make_pipeline, tmp_path):
    result = vdu.unlearn(make_pipeline(), "bounded", forget=pixels(8), **QUICK)
    rule = Stopping("forgotten", 2, 0, 40, 1, bound=0.1, aim_bound=0.2)
    result = replace(result, stopping=rule)
    result.save_pretrained(tmp_path / "own")
    assert not result.is_out_of_date()
    with torch.no_grad():
        result.pipeline.unet.conv_in.bias += 1
    result.save_pretrained(tmp_path / "changed")
    assert result.is_out_of_date()
    cards = [(tmp_path / name / "README.md").read_text() for name in ("own", "changed")]
    assert [result.statement in card for card in cards] == [True, False]


@pytest.mark.parametrize("classes", [np.array(["7", "5"]), {"7": 0, "5": 1}, {1: "5", 0: "7"}])
def test_the_classes_of_a_dataset_are_names_in_every_form(classes):
    """A label of place 0 is the class "7", so that "5" is the other one."""
    own = ImageSet(pixels(2), torch.tensor([0, 1]), class_names=("7", "5"))
    dataset = TensorDataset(own.images, own.labels)
    dataset.classes = classes
    found = as_images(dataset, name="forget")
    assert found.class_names == ("7", "5") and found.labels.tolist() == [0, 1]
    del dataset.classes
    dataset.class_to_idx = {"7": 0, "5": 1}
    assert as_images(dataset, name="forget").class_names == ("7", "5")
    dataset.class_to_idx = {"7": 1, "5": 2}
    with pytest.raises(InputError, match="expected 0 to 1, so that every label has a name"):
        as_images(dataset, name="forget")


def test_an_array_that_is_changed_later_changes_no_set():
    array = pixels(3).numpy().copy()
    sets = [as_images(given, name="forget") for given in (array, torch.from_numpy(array))]
    array //= 255
    assert all(torch.equal(each.images, pixels(3)) for each in sets)


@pytest.mark.parametrize("value", [0.8, -5, True, "80", None])
def test_what_must_be_gone_is_a_percentage(value):
    with pytest.raises(InputError, match="at_least: got .*; expected (a percentage from 0 to 100|percent)"):
        Evidence.assert_gone(SimpleNamespace(), value)


def test_weights_in_another_order_are_another_model(make_pipeline):
    """Changed through ``.data``, which PyTorch counts nowhere, to values with the same sum."""
    model = whole(make_pipeline())
    before, weight = identity(model), model.network.mid_block.resnets[0].conv1.weight.data
    weight.copy_(weight.flip(0))
    changed = identity(model)
    weight.copy_(weight.flip(0))
    assert changed != before == identity(model)


def test_a_name_of_two_classes_is_refused():
    images = ImageSet(pixels(6), torch.tensor([0, 1, 2, 0, 1, 2]), class_names=("crane", "dog", "crane"))
    with pytest.raises(InputError, match="the name of the classes 0 and 2"):
        split_by_class(images, "crane")
    assert split_by_class(images, 2)[0].labels.tolist() == [2, 2]


def test_a_part_of_a_data_set_has_the_names_of_its_classes():
    """Class 1 among 1, 10 and 2 is the first one."""
    data = torch.utils.data.TensorDataset(pixels(6), torch.tensor([0, 1, 2, 0, 1, 2]))
    data.classes = ["1", "10", "2"]
    part = torch.utils.data.Subset(torch.utils.data.Subset(data, [5, 4, 3, 2]), [0, 1, 2])
    found = as_images(part, name="forget")
    assert found.class_names == ("1", "10", "2")
    assert split_by_class(found, 1)[0].images.equal(data.tensors[0][3:4])


@pytest.mark.parametrize("scale", [0, -1.0, "0.5", float("inf")])
def test_a_factor_on_timesteps_is_a_number_above_0_wherever_it_is_recorded(make_pipeline, scale):
    pipeline = make_pipeline()
    pipeline.unet.register_to_config(timestep_scale=scale)
    with pytest.raises(InputError, match=r"timestep_scale: got .*; expected a number above 0"):
        whole(pipeline)


def test_a_file_that_an_earlier_model_left_is_not_taken_for_this_ones(make_pipeline, tmp_path):
    pipeline = make_pipeline()
    pipeline.unet.register_to_config(timestep_scale=0.25)
    vdu.save_pipeline(pipeline, tmp_path)
    pipeline.unet.register_to_config(timestep_scale=0.5)
    pipeline.save_pretrained(str(tmp_path))
    with pytest.raises(InputError, match=r"timestep_scale is 0.25, and 0.5 in the network's config.json"):
        vdu.load_pipeline(tmp_path)


def test_a_file_that_an_earlier_model_left_beside_a_plain_one_is_refused(make_pipeline, tmp_path):
    old = make_pipeline()
    old.timestep_scale = 0.25
    vdu.save_pipeline(old, tmp_path)
    make_pipeline().save_pretrained(str(tmp_path))
    with pytest.raises(
        InputError, match=r"timestep_scale is 0.25, and absent in the network's config.json.* Remove vdu.json"
    ):
        vdu.load_pipeline(tmp_path)
    (tmp_path / "vdu.json").unlink()
    assert adapt(vdu.load_pipeline(tmp_path)).timestep_scale == 1.0


def test_names_that_an_earlier_model_left_are_refused(tmp_path):
    vdu.save_pipeline(new_pipeline((1, 8, 8), seed=0, class_names=("a", "b")), tmp_path)
    new_pipeline((1, 8, 8), seed=0, class_names=("c", "d")).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="class_names is 'a', 'b', and 'c', 'd' in the network's"):
        vdu.load_pipeline(tmp_path)


def test_the_same_model_saved_again_and_a_corrected_file_are_taken(make_pipeline, tmp_path):
    pipeline = make_pipeline()
    pipeline.timestep_scale = 0.25
    vdu.save_pipeline(pipeline, tmp_path)
    vdu.load_pipeline(tmp_path).save_pretrained(str(tmp_path))  # its config.json has a _name_or_path now
    assert vdu.load_pipeline(tmp_path).timestep_scale == 0.25
    vdu.save_pipeline(pipeline, tmp_path)
    file = tmp_path / "vdu.json"
    file.write_text(file.read_text().replace("0.25", "0.5"))
    assert adapt(vdu.load_pipeline(tmp_path)).timestep_scale == 0.5
    file.write_text('{"timestep_scales": 0.25}')
    with pytest.raises(InputError, match=r"holds 'timestep_scales'; expected names among timestep_scale, class_names"):
        vdu.load_pipeline(tmp_path)


def test_a_class_whose_name_another_one_has_too_is_not_taken_for_it_unsaid(capsys):
    shared = {number: f"class{number}" for number in range(1000)} | {3: "crane", 7: "crane"}  # diffusers keeps the last
    denoiser = adapt(tiny_pipelines.dit(id2label=shared))
    assert label_indices(denoiser, ["crane"]) == [7]
    said = capsys.readouterr().err
    assert "to forget: crane (class 7). Classes of the model without a name of their own: 1 (3)" in said
    assert label_indices(denoiser, [3]) == [3] and capsys.readouterr().err == ""


# weights of an earlier model


def half(pipeline):
    return copy.deepcopy(pipeline).to(torch.float16)


OLDER = {
    "unet/diffusion_pytorch_model.fp16.safetensors": lambda p, at: half(p).save_pretrained(at, variant="fp16"),
    "unet/diffusion_pytorch_model.bin": lambda p, at: p.save_pretrained(at, safe_serialization=False),
    "unet/diffusion_pytorch_model.fp16-00001-of-": lambda p, at: half(p).save_pretrained(
        at, variant="fp16", max_shard_size="5KB"
    ),
    "diffusion_pytorch_model.safetensors": lambda p, at: p.unet.save_pretrained(at),
}


@pytest.mark.parametrize("file", OLDER)
def test_a_folder_in_which_other_weights_would_stay_is_refused(make_pipeline, tmp_path, file):
    OLDER[file](make_pipeline(), str(tmp_path))
    before = {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()}
    with pytest.raises(InputError, match=rf"holds other weights of the pipeline's parts \({file}.*another folder"):
        vdu.save_pipeline(make_pipeline(seed=1), tmp_path)
    assert before == {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()}


@pytest.mark.parametrize("sizes", [("5KB", "10GB"), ("10GB", "5KB")], ids=["several files before", "one file before"])
def test_a_model_replaces_one_of_the_same_form(make_pipeline, tmp_path, monkeypatch, sizes):
    old, new = make_pipeline(), make_pipeline(seed=1)
    old.save_pretrained(str(tmp_path), max_shard_size=sizes[0])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.safetensors").write_bytes(b"")  # of no part of this pipeline
    write = new.save_pretrained
    monkeypatch.setattr(new, "save_pretrained", lambda *at, **how: write(*at, max_shard_size=sizes[1], **how))
    vdu.save_pipeline(new, tmp_path)
    known = {each.name for each in (tmp_path / "unet").iterdir()}
    new.unet.save_pretrained(tmp_path / "fresh", max_shard_size=sizes[1])
    assert known == {each.name for each in (tmp_path / "fresh").iterdir()}
    assert identity(whole(vdu.load_pipeline(tmp_path))) == identity(whole(new))
    assert (tmp_path / "other" / "model.safetensors").is_file()


def test_an_upload_replaces_every_form_of_the_older_weights(make_pipeline, tmp_path, monkeypatch):
    result = vdu.unlearn(make_pipeline(), "ascent", forget=pixels(4), **QUICK | {"learning_rate": 1e-2})
    repository = tmp_path / "repository"
    for save in OLDER.values():
        save(make_pipeline(), str(repository))
    make_pipeline().save_pretrained(str(repository), max_shard_size="5KB")
    kept = ["pytorch_lora_weights.safetensors", "training.log", "other/model.safetensors", "unet/notes.txt"]
    for name in (*kept, "vdu.json"):
        (repository / name).parent.mkdir(exist_ok=True)
        (repository / name).write_text("{}")

    def there():
        return [each.relative_to(repository).as_posix() for each in repository.rglob("*") if each.is_file()]

    class Hub:
        def __init__(self, token):
            pass

        def create_repo(self, **_):
            return "u"

        def upload_folder(self, *, folder_path, delete_patterns, **_):
            for each in filter_repo_objects(there(), allow_patterns=delete_patterns):  # as the Hub's own does
                (repository / each).unlink()
            shutil.copytree(folder_path, repository, dirs_exist_ok=True)

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    result.push_to_hub("me/clean")
    found = sorted(there())
    weights = [each for each in found if each.endswith((".safetensors", ".bin", ".index.json"))]
    assert weights == sorted([kept[0], kept[2], "unet/diffusion_pytorch_model.safetensors"])
    assert {*kept, "README.md", "model_index.json"} <= {*found} and "vdu.json" not in found
    assert identity(whole(vdu.load_pipeline(repository))) == identity(whole(result.pipeline))


# numbers as names


def numbered(make_pipeline, names=("1", "2", "3")):
    pipeline = make_pipeline(num_class_embeds=len(names))
    pipeline.class_names = names
    return pipeline


def test_a_number_is_the_same_class_everywhere(make_pipeline):
    """Class 1 among 1, 2 and 3 is the first one, for what forgets, draws and estimates."""
    pipeline, once = numbered(make_pipeline), vdu.Sampler("ddim", 1, microbatch_size=1)
    plan = planned(pipeline, "ascent", forget=pixels(2), forget_label=1, **QUICK)
    assert plan.forget_label == ("1",) and plan.forget.labels.tolist() == [0, 0]
    by_name = vdu.sample(pipeline, [7], once, labels=["1"])
    assert torch.equal(vdu.sample(pipeline, [7], once, labels=[1]), by_name)
    assert not torch.equal(vdu.sample(pipeline, [7], once, labels=[2]), by_name)
    with pytest.raises(InputError, match="label 0: unknown; the classes are: 1, 2, 3"):
        vdu.sample(pipeline, [7], once, labels=[0])

    def fitted(label):
        samples = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
        source = torch.Generator().manual_seed(0)
        return vdu.fit_posterior(pipeline, "fisher", generator=source, samples=samples, labels=[label] * 4, n_train=9)

    assert fitted(1).sha256 == fitted("1").sha256 != fitted(2).sha256


def test_labels_without_names_are_refused_where_they_may_be_numbers_or_names(make_pipeline):
    images = ImageSet(pixels(6), torch.tensor([0, 1, 2, 0, 1, 2]))
    with pytest.raises(InputError, match="label 1 has no name; it may be the class '1', or the one at place 1 .*, '2'"):
        planned(numbered(make_pipeline), "ascent", forget=images, forget_class=1, **QUICK)
    for names in (("0", "1", "2"), ("cat", "dog", "fox")):
        plan = planned(numbered(make_pipeline, names), "ascent", forget=images, forget_class=1, **QUICK)
        assert plan.classes == (names[1],) and plan.forget.labels.tolist() == [1, 1]


# noise levels


@pytest.mark.parametrize(("n", "counted"), [(100, 25), (25, 100)])
def test_a_schedule_that_counts_other_timesteps_than_it_has_levels_is_refused(make_pipeline, n, counted):
    pipeline = make_pipeline({"trained_betas": np.linspace(1e-3, 0.2, n).tolist(), "num_train_timesteps": counted})
    with pytest.raises(InputError, match=f"has {n} noise levels and num_train_timesteps {counted}"):
        vdu.sample(pipeline, [0], vdu.Sampler("ddim", 5))


def test_levels_that_were_changed_in_memory_are_not_saved_as_if_they_were_not(make_pipeline, tmp_path):
    pipeline = make_pipeline()
    pipeline.scheduler.alphas_cumprod = pipeline.scheduler.alphas_cumprod**2
    with pytest.raises(InputError, match=r"alphas_cumprod\) of its DDPMScheduler are not those of its configuration"):
        vdu.save_pipeline(pipeline, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "value"), [("clip_sample_range", 0.0), ("clip_sample_range", -1.0), ("dynamic_thresholding_ratio", 5)]
)
def test_options_of_sampling_out_of_their_range_are_refused(make_pipeline, option, value):
    with pytest.raises(InputError, match=f"{option}: got {value}; expected a number"):
        whole(make_pipeline({option: value}))


def test_a_class_that_an_earlier_run_forgot_is_not_kept_by_the_next(make_pipeline, tmp_path, capsys):
    save_pipeline(make_pipeline(), tmp_path / "model")
    images, how = labelled(60, ("3", "8", "9")), {"steps": 1, "batch_size": 4, "progress": None}
    vdu.unlearn(tmp_path / "model", "ascent", forget=images, forget_class="8", folder=tmp_path / "run", **how)
    plan = planned(tmp_path / "run", "finetune", forget=images, forget_class="3", retain=images)
    assert {plan.retain.class_names[i] for i in plan.retain.labels.tolist()} == {"9"}
    assert "of a class to be forgotten (3, 8" in capsys.readouterr().err
    fresh = planned(tmp_path / "model", "finetune", forget=images, forget_class="3", retain=images)
    assert {fresh.retain.class_names[i] for i in fresh.retain.labels.tolist()} == {"8", "9"}
