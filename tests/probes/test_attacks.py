"""Attacks on the condition: a linear model whose best condition is known in closed form, and rates known by construction."""

import pytest
import torch

from probes_toys import flat, grey_case, same, untouched
from vdu.core.rng import generator
from vdu.data.images import ImageSet, to_uint8
from vdu.probes import inversion, paraphrases, soft_prompt
from vdu.probes.attack import AskedWith, optimised
from words_toys import painter, words_case

BRIGHT = {"cat": 0.8, "a cat": 0.8}
DARK = {"cat": -0.5, "a cat": -0.5}


def row(result, model="unlearned"):
    return next(each for each in result["rows"] if each["model"] == model)


@pytest.mark.slow
def test_the_best_condition_is_that_of_least_squares():
    """L(c) = E (ᾱ/(1−ᾱ)) ‖x₀ − W c‖²/d, so that c* solves WᵀW c = Wᵀ mean(x₀), whatever the noise."""
    source = generator(0, "test")
    mix = torch.eye(16, 3, dtype=torch.float64) + 0.2 * torch.randn(16, 3, generator=source, dtype=torch.float64)
    images = ImageSet(to_uint8(0.5 * torch.rand(16, 1, 4, 4, generator=source)))
    expected = torch.linalg.lstsq(mix, images.floats().double().mean(0).view(16, 1)).solution.view(3)
    model = painter({"cat": [1.0, -1.0, 0.5]}, ("cat",), mix)
    case = words_case(BRIGHT, DARK)
    for start in (model.condition([None]), model.condition(["cat", "cat"])):
        found = optimised(case, model, start, images, steps=900, learning_rate=0.004)["encoder_hidden_states"]
        assert found.shape == start["encoder_hidden_states"].shape
        for each in found[:, 0].double():
            torch.testing.assert_close(each, expected, rtol=0, atol=0.03)


@pytest.mark.slow
def test_what_is_hidden_is_found_and_what_was_never_there_is_not():
    """The unlearned model draws dark under its prompts, but W still reaches bright; the retrained one draws grey whatever it is asked."""
    case = words_case(BRIGHT, DARK, retrained=DARK, prompts=("cat", "a cat"))
    assert case.retrained is not None
    with torch.no_grad():
        case.retrained.network.mix.zero_().sub_(1e-6)
    before = untouched(case)
    for probe, steps in ((inversion.probe, 150), (soft_prompt.probe, 150)):
        result = probe(case, n_images=8, steps=steps)
        assert (row(result)["start_count"], row(result)["forget_count"]) == (0, 8)
        assert row(result, "retrained")["forget_count"] == 0
        assert result["original"] == {"forget_count": 8, "n_images": 8}
    assert same(before, untouched(case))
    assert all(value.requires_grad for model in case.models.values() for value in model.network.parameters())


def test_a_paraphrase_is_counted_over_all_of_them():
    known = {"cat": -0.5, "kitty": 0.8, "puss": -0.5}
    case = words_case(BRIGHT, known, retrained=DARK, paraphrases=("kitty", "puss"))
    result = paraphrases.probe(case, n_images=40)
    seeds_of_kitty = row(result)["forget_count"]
    assert row(result)["start_count"] == 0 and 8 <= seeds_of_kitty <= 32  # about half of the seeds ask for "kitty"
    alone = paraphrases.probe(words_case(BRIGHT, known, paraphrases=("kitty",)), n_images=40)
    assert row(alone)["forget_count"] == 40
    assert row(result, "retrained")["forget_count"] == 0  # unknown words are grey to it


@pytest.mark.parametrize("probe", [inversion.probe, soft_prompt.probe, paraphrases.probe])
def test_models_without_words_are_not_attacked(probe):
    assert probe(grey_case()) == {"status": "not run", "code": "no_words"}


def test_without_paraphrases_there_is_no_such_attack():
    assert paraphrases.probe(words_case(BRIGHT, DARK))["code"] == "no_paraphrases"


def test_given_conditions_stand_where_prompts_do():
    model = painter(BRIGHT, ("cat",))
    conditions = {"encoder_hidden_states": torch.tensor([[[0.1]], [[0.2]]])}
    asked = AskedWith(model, conditions, ("first", "second"))
    assert asked.labels_of([4, 7]) == [0, 1] and asked.class_names == ("first", "second")
    given = asked.condition([1, 0, 1])
    assert given is not None and given["encoder_hidden_states"].flatten().tolist() == pytest.approx([0.2, 0.1, 0.2])
    null = asked.condition([None])
    assert null is not None and float(null["encoder_hidden_states"]) == 0.0
    assert flat(0.0).shape == asked.image_shape
