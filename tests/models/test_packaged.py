"""The packaged pipelines and judges: the weights that their provenance names, loaded by plain diffusers."""

import json

import pytest
import torch
from diffusers import DDPMPipeline, StableDiffusionPipeline

from vdu.core.checks import hash_parameters
from vdu.core.errors import InputError
from vdu.judges.classifier import load_judge
from vdu.zoo import packaged
from vdu.zoo.packaged import PIPELINES, judge_folder, pipeline_folder


@pytest.mark.parametrize("name", [name for name in PIPELINES if name != "emoji"])
def test_a_packaged_pipeline_is_what_its_provenance_says(name):
    provenance = json.loads((pipeline_folder(name) / "provenance.json").read_text("utf-8"))
    unet = DDPMPipeline.from_pretrained(pipeline_folder(name)).unet
    assert hash_parameters(unet.state_dict()) == provenance["weights_sha256"]
    labels = 11 * 64 if name == "mnist-labels" else 0  # an embedding of ten digits and the null class
    assert sum(value.numel() for value in unet.parameters()) == 686_769 + labels


@pytest.mark.parametrize(("name", "architecture"), [("mnist", "cnn"), ("mnist-lenet", "lenet")])
def test_a_packaged_judge_is_of_its_architecture_and_knows_digits(name, architecture):
    judge, record = load_judge(judge_folder(name))
    assert judge.architecture == architecture and judge.class_names == tuple("0123456789")
    assert record["held_out_error"] < 0.01


def test_the_emoji_model_draws_what_it_is_asked_for_in_plain_diffusers():
    pytest.importorskip("transformers", reason="the pipeline's text encoder is one of transformers")
    pipeline = StableDiffusionPipeline.from_pretrained(pipeline_folder("emoji"))
    pipeline.set_progress_bar_config(disable=True)
    prompts = ["cat face, noto style", "red heart, fluent style", "clock", "tiger face, twemoji style"]
    sources = [torch.Generator().manual_seed(seed) for seed in range(8)]
    with torch.no_grad():
        images = pipeline(
            2 * prompts, generator=sources, guidance_scale=3.0, num_inference_steps=20, output_type="pt"
        ).images
        object_judge, _ = load_judge(judge_folder("emoji-object"))
        style_judge, _ = load_judge(judge_folder("emoji-style"))
        drawn = [object_judge.class_names[int(k)] for k in object_judge(2 * images - 1).argmax(1)]
        styles = [style_judge.class_names[int(k)] for k in style_judge(2 * images - 1).argmax(1)]
    right = [got == wanted for got, wanted in zip(drawn, 2 * ["cat", "heart", "clock", "big cat"], strict=True)]
    assert sum(right) >= 7, drawn
    assert sum(styles[k] == wanted for k, wanted in ((0, "noto"), (1, "fluent"), (3, "twemoji"))) >= 2, styles


def test_what_a_wheel_leaves_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(packaged, "HERE", tmp_path)
    with pytest.raises(InputError, match="'mnist-small' is not part of the installed package; it is in a clone"):
        pipeline_folder("mnist-small")
