"""Evidence in words: models whose images are a known function of the prompt, so that every rate is known beforehand."""

import json
from dataclasses import replace

import pytest
import torch

from probes_toys import EXACT, flat
from vdu.cli import main
from vdu.core.errors import InputError
from vdu.data.images import ImageSet
from vdu.evaluation.api import evaluate
from vdu.evaluation.prompt_sets import PromptSets, asked_class, label_sets, prompt_sets
from vdu.evaluation.words import CrossJudge, draw_sets, measure_words
from words_toys import GreyJudge, painter, stub_judging

GREYS = {"cat": 0.8, "dog": 0.2, "tree": -0.4}
STYLES = {"noto": 0.8, "fluent": -0.4}  # in truth another look at the same grey
BEFORE = {"a cat": 0.8, "the cat": 0.8, "a dog": 0.2, "tree, noto": -0.4, "": -0.4}


def rates(record, name):
    return {row.model: (row.counted.count, row.counted.n_images) for row in record.accuracy if row.name == name}


def drawn_from(**models):
    """One image for each prompt of each model: {set: {model: …}}."""
    names = next(iter(models.values()))
    return {
        each: {
            who: ImageSet(
                flat(*(grey for _, grey in by_set[each])).images,
                torch.arange(len(by_set[each])),
                class_names=tuple(prompt for prompt, _ in by_set[each]),
            )
            for who, by_set in models.items()
        }
        for each in names
    }


def test_accuracies_are_those_of_the_construction():
    target, others = ("a cat", "the cat"), ("a dog", "dog, fluent", "tree, noto", "a big tree", "a fox")
    before = {
        "target": [(each, 0.8) for each in target],
        "others": list(zip(others, (0.2, 0.2, -0.4, -0.4, 0.8), strict=True)),
    }
    after = {
        "target": [("a cat", 0.2), ("the cat", 0.8)],
        "others": list(zip(others, (0.2, -0.4, -0.4, 0.8, 0.2), strict=True)),
    }
    sets = PromptSets(("cat",), target, others)
    cross = CrossJudge(GreyJudge(STYLES), {"name": "style", "held_out_error": 0.25, "confusion": [[3, 1], [0, 4]]})
    found = measure_words(drawn_from(original=before, unlearned=after), sets, stub_judging(GREYS, "cat"), cross)
    assert rates(found, "UA") == {"original": (0, 2), "unlearned": (1, 2)}  # one of two is still a cat
    # four prompts name a class of the judge, the fox none; the original drew it as a cat, which the filter throws away
    assert rates(found, "IRA") == {"original": (4, 4), "unlearned": (2, 4), "filtered_original": (4, 4)}
    assert rates(found, "CRA")["unlearned"] == (1, 2)  # −0.4 is "fluent", as "dog, fluent" asks, and not "noto"
    ranks = {(row.name, row.model): row.mean_rank for row in found.accuracy}
    assert (
        ranks["UA", "original"] == 1.0 and ranks["UA", "unlearned"] == 1.5
    )  # the cat is the judge's second guess for 0.2
    by_name = {each.name: each for each in found.sets}
    assert by_name["others"].found["original"].count == 1 and by_name["others"].found["filtered_original"].n_images == 4
    assert by_name["others"].changed["unlearned"].count == 3  # 0.2 → −0.4, −0.4 → 0.8 and 0.8 → 0.2
    assert found.target_flips is not None and found.target_flips.counts == ((1, 1, 0), (0, 0, 0), (0, 0, 0))
    assert found.cross_judge is not None and (found.cross_judge["held_out_error"], found.cross_judge["n_held_out"]) == (
        0.25,
        8,
    )


def test_a_judge_that_no_prompt_names_gives_no_retention():
    sets = PromptSets(("cat",), ("a cat",), ("a fox",))
    both = {"target": [("a cat", 0.8)], "others": [("a fox", 0.2)]}
    found = measure_words(drawn_from(original=both, unlearned=both), sets, stub_judging(GREYS, "cat"))
    assert {row.name for row in found.accuracy} == {"UA"}
    named = replace(sets, classes={"a fox": ("dog",)})
    found = measure_words(drawn_from(original=both, unlearned=both), named, stub_judging(GREYS, "cat"))
    assert rates(found, "IRA")["unlearned"] == (1, 1)


def test_a_fallback_classifier_gives_no_retention():
    """Its classes have names, and a prompt may hold one of them as a word."""
    prompts = ("the other side of the moon", "forget me nots")
    both = {"target": [("a cat", 0.8)], "others": [(each, 0.2) for each in prompts]}
    judging = replace(stub_judging({"forget": 0.8, "other": 0.2}, "forget"), source="fallback")
    found = measure_words(drawn_from(original=both, unlearned=both), PromptSets(("cat",), ("a cat",), prompts), judging)
    assert {row.name for row in found.accuracy} == {"UA"}


def test_every_model_gets_the_same_noise_and_prompts():
    sets = PromptSets(("cat",), ("a cat", "the cat"), ("a dog", "tree, noto"))
    models = {"original": painter(BEFORE, ("x",)), "unlearned": painter(BEFORE | {"the cat": -0.4}, ("x",))}
    drawn = draw_sets(models, sets, 8, EXACT, seed=3)
    assert list(drawn) == ["target", "others", "null"]
    for name, by_model in drawn.items():
        assert torch.equal(by_model["original"].labels, by_model["unlearned"].labels)
        assert by_model["original"].class_names == sets.drawn[name]
    level = drawn["target"]["unlearned"].images.float().mean((1, 2, 3))
    is_cat, asked = level > 200, drawn["target"]["unlearned"].labels
    assert torch.equal(is_cat, asked == 0)  # "a cat" is drawn as before, "the cat" no longer
    assert (drawn["null"]["original"].images.float() - 127.5).abs().max() < 2  # the null condition is zeros


def test_labels_are_sets_of_the_samples_themselves():
    names = ("cat", "dog", "tree")

    class Labelled:
        class_names, takes_prompts = names, False

    sets = label_sets(Labelled(), ["cat"])
    assert sets is not None and (sets.target, sets.others, sets.are_labels) == (("cat",), ("dog", "tree"), True)
    later = label_sets(Labelled(), ["cat"], ["dog"])  # an earlier run made it forget dogs, which it does not draw
    assert later is not None and later.others == ("tree",)
    assert label_sets(Labelled(), ["fox"]) is None and label_sets(Labelled(), []) is None
    Labelled.class_names = ("L\u00f6we", "dog", "tree")  # a folder of images on macOS has the other form of Unicode
    lions = label_sets(Labelled(), ["Lo\u0308we"])
    assert lions is not None and (lions.target, lions.others) == (("L\u00f6we",), ("dog", "tree"))
    assert label_sets(Labelled(), ["Lo\u0308we", "dog", "tree"]) is None
    both = {"target": [("cat", 0.8)], "others": [("dog", 0.2), ("tree", 0.2)]}
    found = measure_words(drawn_from(original=both, unlearned=both), sets, stub_judging(GREYS, "cat"))
    assert found.kind == "labels" and rates(found, "IRA")["unlearned"] == (1, 2)


@pytest.mark.parametrize(
    ("prompt", "index"),
    [
        ("a big cat", 1),
        ("A CAT, noto", 0),
        ("lion", None),
        ("cat and dog", None),
        ("caterpillar", None),
        ("lion in a bush", 2),
    ],
)
def test_the_class_that_a_prompt_asks_for(prompt, index):
    assert asked_class(prompt, ("cat", "big cat", "dog"), {"lion in a bush": ("dog", "noto")}) == index


def test_sets_come_from_the_run_or_a_file(tmp_path):
    model = painter(BEFORE, ("a cat", "a dog", "tree, noto"))
    sets = prompt_sets(model, ["cat"])
    assert (sets.concepts, sets.target, sets.others) == (("cat",), ("cat", "a cat"), ("a dog", "tree, noto"))
    assert prompt_sets(model, ["cat"], keep=["a fox"]).others == ("a fox",)
    (tmp_path / "sets.toml").write_text(
        'paraphrases = ["kitty"]\nneighbours = ["a dog"]\n[classes]\n"a dog" = ["pet"]\n'
    )
    (tmp_path / "sets.json").write_text(json.dumps({"target": ["the cat"]}))
    given = prompt_sets(model, ["cat"], given=tmp_path / "sets.toml")
    assert (given.paraphrases, given.neighbours, given.classes) == (("kitty",), ("a dog",), {"a dog": ("pet",)})
    assert given.others == ("tree, noto",)  # a prompt counts once
    assert list(given.drawn) == ["target", "neighbours", "others", "null"]
    assert prompt_sets(model, ["cat"], given=tmp_path / "sets.json").target == ("the cat",)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"targets": ["cat"]}, "got targets; expected some of the sets target, paraphrases"),
        ({}, "got nothing; expected some of the sets"),
        ({"target": []}, "expected a list of texts, at least one"),
        ({"neighbours": ["Black  CAT"]}, "'Black  CAT' is among the prompts to keep, and asks for what was forgotten"),
        ({"paraphrases": ["kitty"], "others": ["a kitty"]}, "'a kitty' is among the prompts to keep"),
        ({"classes": {"dgo": ["dog"]}}, "classes: got 'dgo', which is in no set of prompts"),
        ({"others": [" "]}, "expected a list of texts, at least one, none empty"),
        (
            {"others": ["pet"], "classes": {"pet": ["cat"]}},
            "'pet' is among the prompts to keep, and its class 'cat' is what was forgotten",
        ),
        (
            {"others": ["a fox", "a dog"], "neighbours": ["a fox"]},
            "'a fox' is among neighbours and others, and would count twice",
        ),
        ({"others": ["a cat"]}, "'a cat' is among the prompts to keep, and asks for what was forgotten"),
        ({"classes": ["cat"]}, "expected names of classes by prompt"),
    ],
)
def test_sets_that_cannot_be_used_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        prompt_sets(painter(BEFORE, ("a cat", "a dog")), ["cat"], given=given)


def test_two_models_are_asked_for_the_prompts_of_a_file_that_exists(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^forget_prompt: 'cats\.csv' looks like a file, and there is none"):
        evaluate(before="a", after="b", forget_prompt="cats.csv")
    with pytest.raises(SystemExit):
        main(["evaluate", "--before", "a", "--after", "b", "--forget-prompt", "cats.csv"])
    assert "--forget-prompt: 'cats.csv' looks like a file" in " ".join(capsys.readouterr().err.split())


def test_a_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "sets.toml").write_text("target = [")
    with pytest.raises(InputError, match="sets.toml is not TOML"):
        prompt_sets(painter(BEFORE, ("a cat", "a dog")), ["cat"], given=tmp_path / "sets.toml")
    with pytest.raises(InputError, match="cannot be read"):
        prompt_sets(painter(BEFORE, ("a cat", "a dog")), ["cat"], given=tmp_path / "none.toml")
