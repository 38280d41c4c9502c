"""Training a text encoder: the network that reads its prompts itself, against the pipeline's own way, and what a run makes of it."""

import json
import shutil

import pytest
import torch
from diffusers import StableDiffusionPipeline

import tiny_pipelines
import vdu
from vdu.core.errors import InputError
from vdu.data.images import ImageSet
from vdu.evaluation.models import open_model
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.identity import differences, identity
from vdu.models.pipelines import load_pipeline, parts_of
from vdu.models.reading import ReadingNetwork, in_training
from vdu.models.saving import save_pipeline
from vdu.unlearning.unlearn import planned

pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")

PROMPTS = ["a cat", "a dog on a mat", None]
IMAGES = ImageSet(torch.randint(256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
HOW = {
    "forget": IMAGES,
    "forget_prompt": "cat",
    "keep_prompts": ["a dog", "a mat"],
    "train": "text-encoder",
    "progress": None,
}


def denoiser(family="stable_diffusion"):
    return PipelineDenoiser.from_pipeline(getattr(tiny_pipelines, family)())


def test_it_predicts_what_the_pipeline_predicts():
    plain = denoiser()
    reading = in_training(plain, "text-encoder")
    x_t, t = torch.randn(3, *plain.latent_shape), torch.tensor([3, 500, 999])
    words, tokens = plain.condition(PROMPTS), reading.condition(PROMPTS)
    assert set(tokens) == {"input_ids"} and not tokens["input_ids"].is_floating_point()
    with torch.no_grad():
        torch.testing.assert_close(reading.raw(x_t, t, tokens), plain.raw(x_t, t, words), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(words["encoder_hidden_states"][0], words["encoder_hidden_states"][1])  # prompts differ


def test_another_part_trains_the_network_as_it_is():
    plain = denoiser()
    assert in_training(plain, "all") is plain and in_training(plain, "cross-attention") is plain


@pytest.mark.parametrize(
    ("family", "message"),
    [("sdxl", "more ways than one"), ("pixart", "more ways than one"), ("dit", "not asked in words")],
)
def test_other_kinds_are_refused(family, message):
    with pytest.raises(InputError, match=message):
        in_training(denoiser(family), "text-encoder")


def test_a_text_encoder_in_half_precision_is_refused():
    pipeline = tiny_pipelines.stable_diffusion()
    pipeline.text_encoder.to(torch.bfloat16)
    with pytest.raises(InputError, match="the text encoder has weights in torch.bfloat16; expected torch.float32"):
        in_training(PipelineDenoiser.from_pipeline(pipeline), "text-encoder")


def test_a_frozen_text_encoder_is_refused():
    pipeline = tiny_pipelines.stable_diffusion()
    pipeline.text_encoder.requires_grad_(False)
    with pytest.raises(InputError, match="of its weights are frozen"):
        planned(pipeline, "ascent", **HOW, steps=1, batch_size=2)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ascent", "esd", "concept-ablation", "vdu"])
def test_the_text_encoder_alone_changes(method):
    pipeline = tiny_pipelines.stable_diffusion()
    made = vdu.unlearn(pipeline, method, **HOW, steps=2, batch_size=2, learning_rate=1e-3, force=True)
    before, after = pipeline.unet.state_dict(), made.pipeline.unet.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    before, after = pipeline.text_encoder.state_dict(), made.pipeline.text_encoder.state_dict()
    assert sum(not torch.equal(before[name], after[name]) for name in before) > len(before) / 2
    assert made.prediction_change > 0 and not made.is_out_of_date()
    made.pipeline.text_encoder.get_input_embeddings().weight.data[5] += 1
    assert made.is_out_of_date()


@pytest.mark.slow
def test_a_run_is_known_by_its_text_encoder_too(tmp_path):
    save_pipeline(tiny_pipelines.stable_diffusion(), tmp_path / "model")
    run = tmp_path / "run"
    vdu.unlearn(tmp_path / "model", "ascent", folder=run, **HOW, steps=2, batch_size=2, learning_rate=1e-3)
    record = json.loads((run / "run.json").read_text())
    first, second = record["inputs"]["model"], record["pipeline"]
    assert first["sha256"] == second["sha256"] and first["parts_sha256"] != second["parts_sha256"]
    plain = StableDiffusionPipeline.from_pretrained(run / "pipeline", local_files_only=True)
    ours = load_pipeline(run).text_encoder.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in plain.text_encoder.state_dict().items())
    assert open_model(run, "after").run == run.resolve()
    shutil.rmtree(run / "pipeline" / "text_encoder")
    shutil.copytree(tmp_path / "model" / "text_encoder", run / "pipeline" / "text_encoder")
    for use in (load_pipeline, lambda folder: open_model(folder, "after")):
        with pytest.raises(InputError, match="is not what this run made"):
            use(run)


@pytest.mark.slow
def test_a_run_is_known_by_its_autoencoder_too(tmp_path):
    save_pipeline(tiny_pipelines.stable_diffusion(), tmp_path / "model")
    run = tmp_path / "run"
    how = HOW | {"train": "cross-attention", "steps": 1, "batch_size": 2}
    vdu.unlearn(tmp_path / "model", "ascent", folder=run, **how)
    other = tiny_pipelines.stable_diffusion()
    with torch.no_grad():
        other.vae.decoder.conv_out.weight.mul_(1.5)
    first, second = (open_model(each, "model") for each in (load_pipeline(tmp_path / "model"), other))
    assert first.sha256 == second.sha256 and first.configuration == second.configuration
    assert not second.is_recorded(json.loads((run / "run.json").read_text())["inputs"]["model"])
    assert differences(first.denoiser, second.denoiser) == ["autoencoder's weights"]
    assert differences(first.denoiser, first.denoiser) == []
    other.vae.save_pretrained(run / "pipeline" / "vae")
    with pytest.raises(InputError, match="is not what this run made"):
        load_pipeline(run)


@pytest.mark.parametrize("part", ["text_encoder", "vae"])
def test_a_part_in_half_precision_is_known_as_it_is_read_again(part, tmp_path):
    pipeline = tiny_pipelines.stable_diffusion()
    getattr(pipeline, part).to(torch.bfloat16)
    save_pipeline(pipeline, tmp_path / "model")
    assert parts_of(pipeline) == parts_of(load_pipeline(tmp_path / "model"))


def test_its_options_are_part_of_what_it_is():
    known = set()
    for epsilon in (1e-5, 1e-3):
        pipeline = tiny_pipelines.stable_diffusion(norm_eps=epsilon)
        known.add(identity(in_training(PipelineDenoiser.from_pipeline(pipeline), "text-encoder")))
    assert len(known) == 2


def test_it_is_a_module_like_the_network():
    reading = in_training(denoiser(), "text-encoder").network
    assert isinstance(reading, ReadingNetwork) and reading.config is reading.network.config
    reading.enable_gradient_checkpointing()
    assert any(getattr(each, "gradient_checkpointing", False) for each in reading.network.modules())
    reading.disable_gradient_checkpointing()
    assert not any(getattr(each, "gradient_checkpointing", False) for each in reading.network.modules())
