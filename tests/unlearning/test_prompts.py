"""What is to be forgotten in words: prompts, what is kept, and what takes their place."""

import tomllib
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

import tiny_pipelines
import vdu
from vdu.core.errors import InputError
from vdu.core.types import NoisedBatch
from vdu.data.images import ImageSet
from vdu.diffusion.sampling import Sampler
from vdu.diffusion.schedule import NoiseSchedule
from vdu.evaluation.prompt_sets import asked_class, prompt_sets
from vdu.methods.base import in_place
from vdu.methods.distillation import RetainDistillation
from vdu.methods.options import read_options
from vdu.models.adapt import adapt
from vdu.models.words import TextDenoiser
from vdu.replay import auxiliaries, auxiliary_models
from vdu.replay.selection import resemblance
from vdu.unlearning import engine
from vdu.unlearning.chosen_method import choose
from vdu.unlearning.form import for_model, holds_prompts, in_place_of
from vdu.unlearning.labels import undrawn_forget_set
from vdu.unlearning.prompts import keeping, read_prompts, substitutes, with_prompts
from vdu.unlearning.run_folder import configuration
from vdu.unlearning.unlearn import planned, unlearn


def model(*prompts):
    return TextDenoiser(nn.Identity(), NoiseSchedule.linear(), "epsilon", (3, 16, 16), {}, prompts=prompts or ("",))


def test_prompts_come_from_a_list_or_a_file(tmp_path):
    file = tmp_path / "words"
    file.write_text("\ufeffa dog\n\n  ein Löwe \na dog\n", "utf-8")
    assert read_prompts("a cat", "x") == ("a cat",)
    assert read_prompts(["a cat", str(file)], "x") == ("a cat", "a dog", "ein Löwe")
    assert read_prompts(file, "x") == ("a dog", "ein Löwe")


def test_a_file_is_not_drawn_as_if_it_were_a_prompt(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words").write_text("a dog")
    known = ["cats.txt", "a dog", "Dr.Who", 0, None, "a" * 300]  # the first is one of the model's own prompts
    assert model("cats.txt").meant(known) == known
    for given in ("prompts.txt", "lists/", "words"):
        with pytest.raises(InputError, match=f"label: got {given!r}, which is a file here or looks like one"):
            vdu.sample(model(), 1, labels=[given])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "x: got an empty prompt; expected words in each"),
        (["dog", " "], "x: got an empty prompt"),
        ([], "x: got no prompt"),
        (3, "x: got 3; expected a prompt, a list of prompts, or a file"),
        ("missing.txt", r"x: missing\.txt cannot be read \(No such file or directory\)"),
        ("empty.txt", "x: got no prompt"),
        ("latin.txt", r"x: latin\.txt is not UTF-8 text"),
    ],
)
def test_prompts_that_cannot_be_read_are_refused(tmp_path, monkeypatch, given, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes("Löwe".encode("latin-1"))
    with pytest.raises(InputError, match=message):
        read_prompts(given, "x")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("kept.csv", "looks like a file, and there is none; expected a prompt, or a file that exists"),
        ("cats.list", "looks like a file"),
        ("K6.TXT", "K6.TXT cannot be read"),
        ("my prompts.md", "looks like a file"),
        ("lists/my prompts.md", "looks like a file"),
        ("~/kept", "looks like a file"),
        ("./kept", "looks like a file"),
        ("C:\\kept", "looks like a file"),
        ("none/", "looks like a file"),
        ("prompts/", "is a folder"),
        ("./prompts", "is a folder"),
        ("there.csv", r"is also a file here; write \./there\.csv for the file"),
        (Path("prompts"), "prompts cannot be read"),
        (Path("~/none.txt"), r"none\.txt cannot be read"),
    ],
)
def test_a_file_that_is_missing_is_no_prompt(tmp_path, monkeypatch, given, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts").mkdir()
    (tmp_path / "there.csv").write_text("a dog\n")
    for each in (given, ["a fox", given]):
        with pytest.raises(InputError, match=rf"^--keep-prompts: .*{message}"):
            read_prompts(each, "--keep-prompts")


@pytest.mark.parametrize("given", ["~/kept.txt", "~/my prompts.md", "~/kept", "./KEPT.TXT", "KEPT.TXT", "./kept"])
def test_a_file_of_prompts_may_have_any_name_and_lie_in_the_home_folder(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / given.removeprefix("~/")).write_text("a dog\nnotes.csv\n")
    assert read_prompts(given, "x") == read_prompts(Path(given), "x") == ("a dog", "notes.csv")  # lines are prompts


ORDINARY = (
    "a cat, 3.5 stars", "a cat.", "black/white photo", "AC/DC", "a cat and/or a dog", "f/1.8", "Dr.Who", "U.S.A.", "(cat:1.2)",
    "a cat \\(animal\\)", "by J.R.R.Tolkien", "a .pdf icon", "trending on artstation.com", "...", "two lines\nkept.csv",
)  # fmt: skip


@pytest.mark.parametrize("prompt", ORDINARY)
def test_ordinary_prompts_are_prompts(prompt):
    assert read_prompts(prompt, "x") == (prompt,)


def test_a_word_that_is_also_a_folder_here_is_a_prompt(tmp_path, monkeypatch):
    """Else a loop over words would stop at the run folders that it made: -o cat --forget-prompt cat."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat").mkdir()
    assert read_prompts("cat", "x") == ("cat",)


def test_prompts_that_were_read_are_not_read_again(tmp_path, monkeypatch):
    """Those of a record, or of a file: what happens to lie here changes no evaluation."""
    monkeypatch.chdir(tmp_path)
    for name in ("cat", "will.i.am"):
        (tmp_path / name).write_text("a dog\n")
    changed, forgotten = with_prompts(model("a fox"), ["cat", "will.i.am"], ["kept.csv"])
    assert forgotten == ("cat", "will.i.am") and changed.prompts == ("kept.csv", "cat", "will.i.am")
    sets = prompt_sets(model("a fox"), ["cat", "will.i.am"], keep=["kept.csv"])
    assert (sets.concepts, sets.target, sets.others) == (("cat", "will.i.am"), ("cat", "will.i.am"), ("kept.csv",))


def test_what_is_kept_in_words_is_said():
    kept = with_prompts(model("a cat", "a dog"), ["cat"], ["a fox"])[0]
    assert keeping(kept, ["cat"]) == "keeping 1 prompt: 'a fox'"
    kept = with_prompts(model("a cat", "a", "b", "c", "d"), ["cat"])[0]
    assert keeping(kept, ["cat"]) == "keeping 4 prompts: 'a', 'b', 'c', …"


def test_own_prompts_that_name_the_concept_are_forgotten_with_it():
    own = model("Cat face, noto style", "a dog", "a caterpillar", "two cats")
    changed, forgotten = with_prompts(own, "cat")
    assert forgotten == ("cat", "Cat face, noto style", "two cats")
    assert changed.prompts == ("a dog", "a caterpillar", *forgotten)
    changed, forgotten = with_prompts(own, ["cat", "two cats"], keep=["a tree"])
    assert changed.prompts == ("a tree", "cat", "two cats", "Cat face, noto style")


def test_what_an_earlier_run_forgot_is_neither_kept_nor_a_substitute():
    own = model("a wolf", "a poodle, noto style", "a pig")
    changed, _ = with_prompts(own, "wolf", earlier=["poodle"])
    assert changed.prompts == ("a pig", "wolf", "a wolf")
    assert prompt_sets(own, ["wolf"], earlier=["poodle"]).others == ("a pig",)
    with pytest.raises(
        InputError, match="got 'two poodles', which names what is to be forgotten, or was by an earlier"
    ):
        with_prompts(own, "wolf", instead="two poodles", earlier=["poodle"])


def test_a_model_without_prompts_keeps_the_packaged_ones():
    changed, forgotten = with_prompts(model(), "dog")
    assert forgotten == ("dog",) and len(changed.prompts) > 50
    assert not any("dog" in prompt for prompt in changed.prompts[:-1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep": ["a Cat on a mat"]}, "'a Cat on a mat' names what is to be forgotten"),
        ({"instead": "CAT"}, "--instead: got 'CAT', which names what is to be forgotten"),
        ({"instead": "instead.csv"}, "--instead: got 'instead.csv', which looks like a file; expected a prompt"),
    ],
)
def test_contradictions_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        with_prompts(model("a dog"), "cat", **arguments)


def test_punctuation_around_a_concept_changes_nothing():
    for concept in ("cat.", '"cat"', "\u2018cat\u2019 ", "Ｃat"):
        changed, forgotten = with_prompts(model("a cat", "a dog"), concept)
        assert forgotten[1:] == ("a cat",) and changed.prompts[0] == "a dog"
    with pytest.raises(InputError, match=r"--forget-prompt: got '\.\.\.', which has no word"):
        with_prompts(model("a cat"), "...")


def test_prompts_that_contradict_each_other_in_other_letters_are_refused():
    sets = prompt_sets(model("a dog"), ["猫"])
    assert sets.others == ("a dog",)
    with pytest.raises(InputError, match="'黒猫の写真' is among the prompts to keep, and asks for what was forgotten"):
        prompt_sets(model("a dog"), ["猫"], given={"neighbours": ["黒猫の写真"]})
    with pytest.raises(InputError, match="--instead: got 'black\u2011cats', which names what is to be forgotten"):
        with_prompts(model("a dog"), "black cat", instead="black\u2011cats")


def test_a_prompt_asks_for_the_class_that_it_names_literally_before_its_plural():
    assert asked_class("two glasses", ("glass", "glasses"), {}) == 1
    assert asked_class("two lions", ("lion", "dog"), {}) == 0
    assert asked_class("a Sea\u2010Lion\u2019s head", ("lion", "sea lion"), {}) == 1


def test_nothing_to_keep_is_refused():
    with pytest.raises(InputError, match="every prompt of the model names what is to be forgotten"):
        with_prompts(model("a cat", "cat"), "cat")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"forget_prompt": "a cat"}, "this model is not asked in words; expected a text-to-image model"),
        ({"keep_prompts": "a dog", "forget_label": 1}, "got one without forget_prompt"),
        ({"forget_prompt": "a cat", "forget_label": 1}, "forget_prompt: got forget_label too"),
        ({"forget_prompt": "a cat", "instead": "a dog"}, "instead: the method ascent draws nothing in its place"),
    ],
)
def test_what_does_not_go_together_is_refused(make_pipeline, options, message):
    with pytest.raises(InputError, match=message):
        unlearn(make_pipeline(num_class_embeds=3), "ascent", progress=None, **options)


def test_a_prompt_is_forgotten_with_low_rank_corrections(monkeypatch, tmp_path):
    """Distillation: the teacher's answer to another prompt is the target, and what is kept is drawn under the other prompts."""
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    short = {"steps": 2, "batch_size": 4, "learning_rate": 1e-4}
    monkeypatch.setattr(auxiliary_models, "self_model_settings", lambda steps: short)
    monkeypatch.setattr(
        auxiliaries, "resemblance", lambda *given, **options: resemblance(*given, **options | {"steps": 5})
    )
    asked = []
    make = engine.make_auxiliaries
    monkeypatch.setattr(engine, "make_auxiliaries", lambda *args, **named: asked.append(named) or make(*args, **named))
    pipeline = tiny_pipelines.stable_diffusion()
    pipeline.prompts = ("a cat on a mat", "a dog", "a tree")
    made = unlearn(
        pipeline, "distillation", forget_prompt="cat", instead="a fox", train="lora:2", steps=2, batch_size=8, n_own_samples=60,
        sampler=Sampler("ddim", 2, microbatch_size=30, guidance_scale=2.0), full_length=True, learning_rate=1e-3, folder=tmp_path / "run",
        progress=None,
    )  # fmt: skip
    assert made.plan.original.prompts == ("a dog", "a tree", "cat", "a cat on a mat")
    assert {made.forget.class_names[label] for label in made.forget.labels.tolist()} == {"cat", "a cat on a mat"}
    retained = made.aids.sets["retain"]
    assert {retained.class_names[label] for label in retained.labels.tolist()} == {"a dog", "a tree"}
    expected = made.plan.original.condition(["a fox", "a fox"])["encoder_hidden_states"]
    assert torch.equal(asked[0]["conditions"]["substitute"]["encoder_hidden_states"], expected)
    tools = made.aids.tools
    assert tools.teacher.network is asked[0]["teacher"].network  # the same network with the corrections left out
    before, after = pipeline.unet.state_dict(), made.pipeline.unet.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(".attn" in name for name in moved)
    assert (tmp_path / "run" / "lora" / "pytorch_lora_weights.safetensors").is_file()
    assert 'forget_prompt = [\n    "cat",\n]' in (tmp_path / "run" / "config.toml").read_text()


class Vectors:
    """Prompts as points: what is nearest can be read off."""

    class_names = ("a dog", "a tree", "cat", "black cat")
    points: ClassVar = {"a dog": (0.0, 1.0), "a tree": (5.0, 0.0), "cat": (0.0, 0.0), "black cat": (3.0, 0.0)}

    def condition(self, prompts):
        return {
            "words": torch.tensor([self.points[each] for each in prompts]),
            "mask": torch.ones(len(prompts), 1).bool(),
        }


def test_without_instead_the_nearest_prompt_to_keep_takes_the_place():
    found = substitutes(Vectors(), ["cat", "black cat"], ["cat"], None)
    assert found == {
        "cat": "a dog",
        "black cat": "a tree",
    }  # "cat" is nearer to "black cat" and is to be forgotten itself


def test_instead_takes_the_place_of_the_phrase_that_names_the_concept():
    prompts = ["black cat, noto style", "a caterpillar, a cat on a mat, oil", "kitty"]
    assert list(substitutes(None, prompts, ["cat", "kitty"], "dog").values()) == [
        "dog, noto style",
        "a caterpillar, dog, oil",
        "dog",
    ]


def test_each_image_gets_the_substitute_of_its_own_prompt():
    words, places = torch.randn(3, 4, 2), torch.randn(3, 4, 2)
    x0, level = torch.zeros(4, 1, 2, 2), torch.full((4,), 0.5)
    order = torch.tensor([2, 0, 0, 1])
    batch = NoisedBatch(x0, x0, order, level, level, level, level, {"words": words[order]})
    assert torch.equal(in_place(batch, {"words": words}, {"words": places}).condition["words"], places[order])
    assert torch.equal(in_place(batch, None, {"words": places[:1]}).condition["words"], places[:1].expand(4, 4, 2))


@pytest.mark.parametrize(
    ("words", "train", "expected"), [(True, None, "cross-attention"), (True, "all", "all"), (False, None, "all")]
)
def test_in_words_the_cross_attention_trains_unless_another_part_is_named(words, train, expected):
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    chosen = choose("distillation", {}, others=frozenset(), retain=False, words=words)
    original = adapt(tiny_pipelines.stable_diffusion())
    assert for_model(chosen, original, {"forget": ("cat",)} if words else {}, (), train)[1] == expected


def test_images_are_forgotten_under_their_prompt(capsys):
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    pipeline = tiny_pipelines.stable_diffusion()
    images = ImageSet(torch.randint(256, (6, 3, 16, 16), dtype=torch.uint8))
    made = unlearn(
        pipeline,
        "ascent",
        forget=images,
        forget_prompt="cat",
        keep_prompts="a dog",
        train="cross-attention-kv",
        steps=1,
        batch_size=4,
    )
    said = capsys.readouterr().err
    assert "keeping" not in said  # ascent draws nothing under it
    assert "the prompts to keep have no effect on the training: the method ascent draws nothing under them here" in said
    assert made.forget_classes == ("cat",)
    before, after = pipeline.unet.state_dict(), made.pipeline.unet.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all("attn2.to_k" in name or "attn2.to_v" in name for name in moved)


def test_what_is_said_in_words_has_options_of_its_own_which_the_user_may_change():
    def chosen(**given):
        words = given.pop("words", True)
        return choose("distillation", given, others=frozenset(), retain=False, words=words).method

    assert chosen().self_improvement == 0 and chosen().keep_scale == 0 and chosen().alpha_bar_range == (0.0, 1.0)
    assert chosen(keep_scale=1.0).keep_scale == 1 and chosen(keep_scale=1.0).self_improvement == 0
    assert chosen(words=False).self_improvement > 0


def test_beside_images_the_models_own_prompts_of_the_concept_are_forgotten_too():
    """Else the nearest prompt that stays is another one of the concept, and the model is taught to draw it."""
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    pipeline = tiny_pipelines.stable_diffusion()
    pipeline.prompts = ("dog face", "cat face", "two cats", "caterpillar")
    images = ImageSet(torch.randint(256, (40, 3, 16, 16), dtype=torch.uint8))
    found = planned(pipeline, "distillation", forget=images, forget_prompt="cat", steps=1, batch_size=4, force=True)
    assert found.forget_label == ("cat", "cat face", "two cats")
    assert set(in_place_of(found).values()) <= {"dog face", "caterpillar"}
    assert found.classes == found.forget_label  # the images are of all of them, in turn
    names = [found.forget.class_names[each] for each in found.forget.labels.tolist()]
    assert names[:4] == ["cat", "cat face", "two cats", "cat"] and len(names) == 40


@pytest.mark.parametrize(
    ("labelled", "prompts", "message"),
    [
        (True, "cat", "^--forget-prompt: the images have labels of their own"),
        (False, ["cat", "cow"], "forget prompt: got cat, cow for images without labels; expected one prompt"),
    ],
)
def test_images_that_do_not_go_with_the_prompts_are_refused_in_terms_of_these(labelled, prompts, message):
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    pixels = torch.randint(256, (40, 3, 16, 16), dtype=torch.uint8)
    images = (
        ImageSet(pixels, torch.zeros(40, dtype=torch.int64), class_names=("cat",)) if labelled else ImageSet(pixels)
    )
    with pytest.raises(InputError, match=message):
        planned(tiny_pipelines.stable_diffusion(), "distillation", forget=images, forget_prompt=prompts, force=True)


@pytest.mark.parametrize("n", [2, 300])
def test_every_prompt_to_forget_has_an_image_of_its_own(n):
    concepts = [f"cat {i}" for i in range(n)]
    original, forgotten = with_prompts(model(*concepts, "dog"), "cat")
    drawn = undrawn_forget_set(original, forgotten)
    assert len(drawn) == max(256, n + 1)
    assert {drawn.class_names[each] for each in drawn.labels.tolist()} == set(forgotten)


def test_no_sample_under_what_is_to_be_forgotten_is_kept():
    original, forgotten = with_prompts(model("cat face", "dog"), "cat")
    images = ImageSet(torch.zeros(2, 3, 16, 16, dtype=torch.uint8), torch.tensor([0, 0]), class_names=("cat",))
    found = auxiliaries._forget_labels(original, images, forgotten)
    assert [original.class_names[each] for each in found] == list(forgotten) == ["cat", "cat face"]


@pytest.mark.parametrize(
    ("prompt", "concept", "instead", "expected"),
    [
        ("cat, noto style", "cat, noto style", "dog, noto style", "dog, noto style"),
        ("black, cat, photo", "black cat", "dog", "dog, photo"),
        ("a photo of 1,000 dollars, new", "1,000 dollars", "coins", "coins, new"),
        ("cat face, noto style", "cat", "dog", "dog, noto style"),
    ],
)
def test_no_substitute_is_the_prompt_itself_where_commas_part_the_concept(prompt, concept, instead, expected):
    assert substitutes(None, [prompt], [concept], instead) == {prompt: expected}


@pytest.mark.parametrize(
    ("method", "holds"),
    [
        ("esd", False),
        ("concept-ablation", False),
        ("ascent", False),
        ("uce", True),
        ("distillation", True),
        ("finetune", True),
        ("vdu", True),  # its posterior is fitted on samples under them
        ("selective-amnesia", True),
    ],
)
def test_prompts_are_kept_where_something_is_drawn_or_solved_under_them(method, holds):
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    images = torch.randint(256, (40, 3, 16, 16), dtype=torch.uint8)
    plan = planned(
        tiny_pipelines.stable_diffusion(), method, forget=images, forget_prompt="cat", keep_prompts="a dog", force=True
    )
    assert holds_prompts(plan) is holds


CAPTIONED = ImageSet(
    torch.randint(256, (6, 3, 16, 16), dtype=torch.uint8), torch.arange(6) % 2, class_names=("a cat", "a dog")
)


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("ascent", {"forget": CAPTIONED.images}, "^forget: this model is asked in words, .* no captions.*expected forget_prompt, which"),
        ("siss", {"forget": CAPTIONED.images, "retain": CAPTIONED}, "^forget: this model is asked in words"),
        ("siss", {"forget": CAPTIONED, "retain": CAPTIONED.images}, "^retain: .* no captions.*expected images in folders that are"),
        ("finetune", {"forget": CAPTIONED.images, "forget_prompt": "cat", "retain": CAPTIONED.images}, "^retain: this model is asked in w"),
        ("ascent", {"forget_label": 0}, "^forget_label: got 0 for a text-to-image model; expected forget_prompt"),
        ("ascent", {"forget_label": "a cat"}, "^forget_label: got 'a cat' for a text-to-image model; expected forget_prompt"),
    ],
)  # fmt: skip
def test_nothing_is_trained_under_the_empty_prompt_without_a_word(method, given, message):
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    pipeline = tiny_pipelines.stable_diffusion()
    pipeline.prompts = ("a cat", "a dog")
    with pytest.raises(InputError, match=message):
        unlearn(pipeline, method, **given, force=True, steps=1, batch_size=4, progress=None)


def test_a_method_object_in_words_is_recorded_so_that_its_file_makes_the_same_run(tmp_path, capsys):
    """By its name the method has other defaults in words, so an option at the default of its class is named as well."""
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    pipeline, images = tiny_pipelines.stable_diffusion(), torch.randint(256, (40, 3, 16, 16), dtype=torch.uint8)
    how = {"forget": images, "forget_prompt": "cat", "keep_prompts": "a dog", "force": True}
    own = RetainDistillation(pool_size=2, keep_scale=0.0)
    for method, said_of_scale in ((RetainDistillation(), True), (own, False), ("distillation", False)):
        plan = planned(pipeline, method, **how)
        config = tomllib.loads(configuration(plan, tmp_path))
        again = planned(
            pipeline, config["method"], **how, **read_options(RetainDistillation, config["option"])
        ).chosen.method
        assert again.identity == plan.chosen.method.identity
        said = capsys.readouterr().err
        assert ("the method is an object, so its options are taken as they are: " in said) == (method != "distillation")
        assert ("keep_scale=1.5" in said) == said_of_scale and "pool_size" not in said
    assert config["option"] == []
    chosen = choose(RetainDistillation(pool_size=2), {}, others=frozenset(), retain=False)
    assert chosen.options == ("pool_size=2",) and capsys.readouterr().err == ""
