"""Models whose text encoders differ: every probe asks each of them in its own way."""

import pytest
import torch

import tiny_pipelines
from vdu.diffusion.guidance import is_distilled
from vdu.models.denoiser import PipelineDenoiser
from vdu.probes import inversion, relearning, retrained
from vdu.probes.completion import Handover, complete
from vdu.probes.draws import draw
from vdu.training.batches import NoisyImages
from words_toys import painter, words_case

BRIGHT, DARK = {"cat": 0.8}, {"cat": -0.5}  # what the two encoders make of the prompt; the networks are equal
SEEDS = [3, 4, 5]


def test_a_handover_asks_the_second_model_with_its_own_encoder():
    case = words_case(BRIGHT, DARK)
    own = [draw(case, model, SEEDS, "t").images for model in (case.original, case.unlearned)]
    assert not torch.equal(*own)
    for share, expected in ((0.0, own[1]), (1.0, own[0])):
        assert torch.equal(complete(case, case.original, case.unlearned, share, SEEDS, "t").images, expected)
    both = Handover(case.original, case.unlearned, 2).condition(["cat", 0, None])
    found = [both[f"{who}.encoder_hidden_states"].flatten().tolist() for who in (0, 1)]
    assert [[round(each, 3) for each in these] for these in found] == [[0.8, 0.8, 0.0], [-0.5, -0.5, 0.0]]


def test_the_distance_to_the_retrained_model_is_between_what_each_makes_of_the_prompt():
    case = words_case(BRIGHT, DARK, retrained=DARK)
    rows = retrained._denoising(case, case.retrained, {"forget": labelled(case.forget)}, (0.5,))
    distance = {row["model"]: row["distance"] for row in rows}
    # ε differs by √ᾱ (c − c′)/√(1−ᾱ): at ᾱ = ½ by c − c′ = 1.3
    assert distance["unlearned"] == 0 and abs(distance["original"] - 1.3**2) < 1e-3


def test_relearning_trains_under_the_condition_that_is_asked_afterwards(monkeypatch):
    seen = []

    def batches(*arguments):
        seen.append(arguments[-1])
        return NoisyImages(*arguments)

    monkeypatch.setattr(relearning, "NoisyImages", batches)
    monkeypatch.setattr(relearning, "fine_tune", lambda *_, **__: [])
    case = words_case(BRIGHT, DARK, retrained=BRIGHT)
    monkeypatch.setattr(
        relearning, "_shown", lambda *_: {"forget": labelled(case.forget), "benign": labelled(case.forget)}
    )
    relearning.probe(case, n_shown=(1,), steps=(0, 1), n_images=2)
    assert seen == 2 * [case.unlearned, case.retrained]


def test_an_inversion_uses_all_tokens_of_a_masked_prompt(monkeypatch):
    model, starts = painter(BRIGHT, ("cat",)), []
    plain = type(model).condition

    def masked(self, labels):
        mask = torch.tensor([[each is not None] for each in labels]).long()
        return plain(self, labels) | {"encoder_attention_mask": mask}

    monkeypatch.setattr(type(model), "condition", masked)
    monkeypatch.setattr(inversion, "optimised", lambda case, model, start, *_, **__: starts.append(start) or start)
    monkeypatch.setattr(inversion, "attacked", lambda case, name, attack, *_: attack("unlearned", model))
    inversion.probe(words_case(BRIGHT, DARK), n_images=2, steps=1, learning_rate=1.0)
    assert [start["encoder_attention_mask"].tolist() for start in starts] == [[[1]]]


def labelled(images):
    """Images with the caption "cat"."""
    from dataclasses import replace

    return replace(images, labels=torch.zeros(len(images), dtype=torch.int64), class_names=("cat",))


def test_the_guidance_of_a_distilled_network_is_that_of_both():
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    model = PipelineDenoiser.from_pipeline(tiny_pipelines.flux())
    both = Handover(model, model, 500).condition(["a cat"])
    assert is_distilled(both) and both["guidance"].tolist() == [3.5]
    x_t, t = torch.randn(1, *model.latent_shape), torch.tensor([600.0])
    with torch.no_grad():
        wanted = model.raw(x_t, t, model.condition(["a cat"]))
        assert torch.equal(Handover(model, model, 500).raw(x_t, t, both), wanted)
