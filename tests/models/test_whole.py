"""Whatever leaves through diffusers' own doors is the whole model: the factor on timesteps, the names of classes, the null class."""

import copy
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel

import tiny_pipelines
from vdu.data.images import ImageSet
from vdu.methods.vdu import gradient_ascent
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.identity import identity
from vdu.models.networks import new_pipeline
from vdu.models.pipelines import load_pipeline, save_pipeline
from vdu.unlearning.unlearn import unlearn


def scaled(make):
    pipeline = make({"num_train_timesteps": 100})
    pipeline.timestep_scale = 0.25
    return pipeline


def conditional(make):
    pipeline = make({"num_train_timesteps": 100}, num_class_embeds=3)
    pipeline.class_names, pipeline.null_class = ("cat", "dog"), 2
    return pipeline


MODELS = {"an imported model": scaled, "a class-conditional model": conditional}


def from_result(pipeline, folder):
    source = torch.Generator().manual_seed(0)
    labels = torch.zeros(4, dtype=torch.int64) if hasattr(pipeline, "class_names") else None
    forget = ImageSet(torch.randint(256, (4, 1, 8, 8), dtype=torch.uint8, generator=source), labels)
    more = {"steps": 1, "batch_size": 4, "learning_rate": 1e-9}
    return unlearn(pipeline, gradient_ascent(), forget=forget, progress=None, **more).pipeline


def through_plain_diffusers(pipeline, folder):
    loaded(pipeline, folder).save_pretrained(folder / "plain")
    return DDPMPipeline.from_pretrained(folder / "plain")


def loaded(pipeline, folder):
    save_pipeline(pipeline, folder / "ours")
    return load_pipeline(folder / "ours")


def read_by_plain_diffusers(pipeline, folder):
    save_pipeline(pipeline, folder / "ours")
    return DDPMPipeline.from_pretrained(folder / "ours")


MADE = {
    "of unlearning": from_result, "of a folder": loaded, "of plain diffusers": through_plain_diffusers,
    "read by plain diffusers": read_by_plain_diffusers,
}  # fmt: skip


def by_save_pretrained(pipeline, folder, monkeypatch):
    pipeline.save_pretrained(folder)
    return load_pipeline(folder)


def by_the_hub(pipeline, folder, monkeypatch):
    """What is uploaded is the folder that is there when the upload begins."""
    hub = "diffusers.utils.hub_utils"
    repository, card = SimpleNamespace(repo_id="me/clean"), SimpleNamespace(save=lambda path: None)
    monkeypatch.setattr(f"{hub}.create_repo", lambda *_, **__: repository)
    monkeypatch.setattr(f"{hub}.load_or_create_model_card", lambda *_, **__: card)
    monkeypatch.setattr(f"{hub}.populate_model_card", lambda *_, **__: card)

    def upload(self, working_dir, *_, **__):
        shutil.copytree(working_dir, folder)

    monkeypatch.setattr(type(pipeline), "_upload_folder", upload)
    pipeline.push_to_hub("me/clean")
    return load_pipeline(folder)


def by_the_network(pipeline, folder, monkeypatch):
    pipeline.unet.save_pretrained(folder)
    return DDPMPipeline(UNet2DModel.from_pretrained(folder), pipeline.scheduler)


def by_another_class(pipeline, folder, monkeypatch):
    DDIMPipeline(pipeline.unet, DDIMScheduler.from_config(pipeline.scheduler.config)).save_pretrained(folder)
    return load_pipeline(folder)


def by_from_pipe(pipeline, folder, monkeypatch):
    DDIMPipeline.from_pipe(pipeline).save_pretrained(folder)
    return load_pipeline(folder)


def by_a_copy(pipeline, folder, monkeypatch):
    copied = copy.deepcopy(pipeline)
    copied.scheduler = DDPMScheduler.from_config(copied.scheduler.config)
    copied.save_pretrained(folder)
    return load_pipeline(folder)


DOORS = {
    each.__name__: each
    for each in (by_save_pretrained, by_the_hub, by_the_network, by_another_class, by_from_pipe, by_a_copy)
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("model", MODELS)
def test_a_model_is_whole_however_it_leaves(make_pipeline, tmp_path, monkeypatch, model, made, door):
    given = MADE[made](MODELS[model](make_pipeline), tmp_path)
    known = PipelineDenoiser.from_pipeline(given)
    back = PipelineDenoiser.from_pipeline(DOORS[door](given, tmp_path / "door", monkeypatch))
    assert identity(back) == identity(known)
    assert (back.timestep_scale, back.class_names) == (
        (0.25, ()) if model == "an imported model" else (1.0, ("cat", "dog"))
    )


def test_a_pipeline_that_was_just_made_is_whole_too(tmp_path):
    new_pipeline((1, 8, 8), seed=0, class_names=("a", "b")).save_pretrained(tmp_path)
    assert PipelineDenoiser.from_pipeline(load_pipeline(tmp_path)).class_names == ("a", "b")


def test_a_plain_model_has_nothing_of_ours(make_pipeline, tmp_path):
    save_pipeline(make_pipeline(), tmp_path)
    load_pipeline(tmp_path).save_pretrained(tmp_path / "again")
    assert not (tmp_path / "vdu.json").exists()
    held = [json.loads((tmp_path / "again/unet/config.json").read_text())]
    assert not {"timestep_scale", "class_names", "null_class"} & set(held[0])


def test_what_is_set_on_the_pipeline_comes_before_what_it_was_saved_with(make_pipeline, tmp_path):
    save_pipeline(scaled(make_pipeline), tmp_path / "a")
    changed = load_pipeline(tmp_path / "a")
    changed.timestep_scale = 0.5
    save_pipeline(changed, tmp_path / "b")
    assert [
        PipelineDenoiser.from_pipeline(each).timestep_scale for each in (changed, load_pipeline(tmp_path / "b"))
    ] == [0.5, 0.5]
    plain = DDPMPipeline(changed.unet, DDPMScheduler(num_train_timesteps=100))
    assert PipelineDenoiser.from_pipeline(plain).timestep_scale == 0.5
    changed.timestep_scale = 1.0
    save_pipeline(changed, tmp_path / "c")
    assert PipelineDenoiser.from_pipeline(load_pipeline(tmp_path / "c")).timestep_scale == 1.0


def every_tensor(pipeline):
    parts = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}


@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "20KB"}], ids=["one file", "several files"])
@pytest.mark.parametrize("make", ["stable_diffusion", "latent_diffusion"])
def test_a_variant_alone_becomes_float32(make, shards, make_unet, tmp_path, capsys):
    if make == "stable_diffusion":
        pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
        pipeline = tiny_pipelines.stable_diffusion()
    else:
        pipeline = tiny_pipelines.latent_diffusion(make_unet)
    half = copy.deepcopy(pipeline).to(torch.float16)
    half.save_pretrained(tmp_path / "half", variant="fp16", safe_serialization=True, **shards)
    loaded = load_pipeline(tmp_path / "half")
    assert "are there as the variant fp16 alone; they are converted to float32" in capsys.readouterr().err
    expected, found = every_tensor(half), every_tensor(loaded)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value.float() if value.is_floating_point() else value), name
    save_pipeline(loaded, tmp_path / "whole")
    assert not list((tmp_path / "whole").rglob("*fp16*"))
    again = every_tensor(type(pipeline).from_pretrained(tmp_path / "whole"))
    assert all(torch.equal(again[name], value) for name, value in found.items())


def test_weights_in_several_files_are_read_and_saved(make_unet, tmp_path, capsys):
    pipeline = tiny_pipelines.latent_diffusion(make_unet)
    pipeline.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    assert len(list((tmp_path / "many" / "unet").glob("*.safetensors"))) > 1
    save_pipeline(load_pipeline(tmp_path / "many"), tmp_path / "one")
    found = every_tensor(load_pipeline(tmp_path / "one"))
    assert all(torch.equal(found[name], value) for name, value in every_tensor(pipeline).items())
    assert capsys.readouterr().err == ""
