"""Whatever leaves through diffusers' own doors is the whole model: the factor on timesteps, the names of classes, the null class."""

import copy
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel

import tiny_pipelines
from vdu.core.errors import InputError
from vdu.data.images import ImageSet
from vdu.methods.vdu import gradient_ascent
from vdu.models.adapt import adapt
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.identity import identity
from vdu.models.networks import new_pipeline
from vdu.models.pipelines import load_pipeline, network_of, replace_network
from vdu.models.saving import save_pipeline
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


def test_a_model_that_is_passed_on_names_no_place_of_this_machine(make_pipeline, tmp_path):
    save_pipeline(make_pipeline(), tmp_path / "private")
    pipeline = load_pipeline(tmp_path / "private")
    pipeline.save_pretrained(tmp_path / "plain")
    assert str(tmp_path) in (tmp_path / "plain" / "unet" / "config.json").read_text()  # what diffusers writes
    pipeline.scheduler.register_to_config(_name_or_path="owner/name")  # of the Hub
    save_pipeline(pipeline, tmp_path / "ours")
    assert not [file for file in (tmp_path / "ours").rglob("*.json") if str(tmp_path) in file.read_text()]
    scheduler = json.loads((tmp_path / "ours" / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["_name_or_path"] == "owner/name"
    assert identity(adapt(load_pipeline(tmp_path / "ours"))) == identity(adapt(pipeline))


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


# what diffusers lacks, in every family that has a use for it


def in_words(make):
    pipeline = tiny_pipelines.stable_diffusion()
    pipeline.prompts = ("a cat", "a dog")
    return pipeline


def of_a_size(make):
    pipeline = tiny_pipelines.flux()
    pipeline.image_size = 32
    return pipeline


def with_labels(make):
    pipeline = tiny_pipelines.dit()
    pipeline.class_names = tuple(f"n{i}" for i in range(1000))
    return pipeline


EXTRA = {  # the model, what it is set to, where its denoiser has it, and what it is by default
    "prompts": (in_words, lambda each: each.prompts, ("a cat", "a dog"), ("",)),
    "image_size": (of_a_size, lambda each: each.image_shape, (3, 32, 32), (3, 256, 256)),
    "class_names": (with_labels, lambda each: each.class_names[998:], ("n998", "n999"), ("998", "999")),
    "timestep_scale": (scaled, lambda each: each.timestep_scale, 0.25, 1.0),
    "null_class": (conditional, lambda each: each.null_class, 2, None),
}


@pytest.fixture(params=EXTRA)
def extra(request, make_pipeline):
    if request.param in {"prompts", "image_size"}:
        pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    make, read, value, default = EXTRA[request.param]
    return make(make_pipeline), request.param, lambda each: read(adapt(each)), value, default


def test_plain_diffusers_passes_on_what_it_has_no_field_for(extra, tmp_path):
    pipeline, name, read, value, _ = extra
    save_pipeline(pipeline, tmp_path)
    plain = type(pipeline).from_pretrained(tmp_path)
    assert name not in vars(plain) and read(plain) == value
    save_pipeline(replace_network(plain, network_of(plain)), tmp_path)
    assert read(load_pipeline(tmp_path)) == value


def test_none_is_the_default_again_in_memory_and_in_files(extra, tmp_path):
    pipeline, name, read, value, default = extra
    save_pipeline(pipeline, tmp_path / "a")
    given = load_pipeline(tmp_path / "a")
    assert read(given) == value
    setattr(given, name, None)
    if name == "null_class":  # its embedding is a class now
        given.class_names = ("cat", "dog", "any")
    assert read(given) == read(replace_network(given, network_of(given))) == default
    save_pipeline(given, tmp_path / "b")
    for each in (load_pipeline(tmp_path / "b"), type(given).from_pretrained(tmp_path / "b")):
        assert read(each) == default


WRONG = {
    "timestep_scale": (0, -1.0, "0.5", True, float("nan"), torch.tensor(0.25)),
    "class_names": (
        {"dog": 1, "cat": 0},
        "cat",
        {"cat", "dog"},
        ("cat", 3),
        ("cat", ""),
        (),
        iter(["cat", "dog"]),
        np.array("cat"),
    ),
    "null_class": (True, 2.0, "2", -1),
    "prompts": ("a cat", ["a cat", 7], (), {"a cat": 0}, np.array([1, 2])),
    "image_size": (0, -16, 16.0, "16", True),
}


@pytest.mark.parametrize(("name", "value"), [(name, each) for name, values in WRONG.items() for each in values])
def test_what_cannot_be_saved_is_refused_wherever_it_stands(make_pipeline, tmp_path, name, value):
    """On the pipeline, in its network's configuration, in the file, and before anything is written."""
    said = f"{name}: got .*; expected a"
    pipeline, other = make_pipeline(), make_pipeline()
    setattr(pipeline, name, value)
    other.unet.register_to_config(**{name: value})
    for given in (pipeline, other):
        with pytest.raises(InputError, match=f"pipeline: {said}"):
            adapt(given)
        with pytest.raises(InputError, match=f"pipeline: {said}"):
            save_pipeline(given, tmp_path)
    assert not list(tmp_path.iterdir())
    if isinstance(value, bool | int | float | str | list | tuple | dict):
        save_pipeline(make_pipeline(), tmp_path)
        (tmp_path / "vdu.json").write_text(json.dumps({name: value}))
        with pytest.raises(InputError, match=f"vdu.json: {said}"):
            load_pipeline(tmp_path)


def test_arrays_and_numbers_of_numpy_are_saved_in_their_order(make_pipeline, tmp_path):
    pipeline = make_pipeline(num_class_embeds=4)
    pipeline.class_names, pipeline.null_class = np.array(["dog", "cat", "fox"]), np.int64(3)
    pipeline.timestep_scale = np.float32(0.25)
    save_pipeline(pipeline, tmp_path)
    for each in (pipeline, load_pipeline(tmp_path), DDPMPipeline.from_pretrained(tmp_path)):
        found = adapt(each)
        assert (found.class_names, found.null_class, found.timestep_scale) == (("dog", "cat", "fox"), 3, 0.25)


def test_names_and_a_null_class_that_do_not_fit_a_transformer_are_refused():
    for name, value in (("class_names", ("cat", "dog")), ("class_names", ("cat",) * 1000), ("null_class", 5)):
        pipeline = tiny_pipelines.dit()
        setattr(pipeline, name, value)
        with pytest.raises(
            InputError, match="its network embeds 1001 classes.* expected one name per class, each once"
        ):
            adapt(pipeline)


def test_a_size_that_is_not_made_of_whole_patches_is_refused():
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    pipeline = tiny_pipelines.flux()
    pipeline.image_size = 18
    with pytest.raises(InputError, match=r"image_size: got 18; expected a multiple of 4.* pipeline\.image_size = 16\."):
        adapt(pipeline)
    pipeline = tiny_pipelines.stable_diffusion()
    pipeline.unet.register_to_config(sample_size=0)
    with pytest.raises(
        InputError, match="the network's sample_size is 0; expected a whole number of pixels, at least 1"
    ):
        adapt(pipeline)


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
