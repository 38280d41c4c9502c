import json
import shutil
import tomllib

import pytest
import torch
from diffusers import DDPMPipeline
from PIL import Image
from safetensors.torch import load_file

import tiny_pipelines
from vdu.commands import posterior, pretrain, sample
from vdu.commands.options import plain
from vdu.commands.pretrain import PretrainSettings
from vdu.commands.settings import PosteriorSettings
from vdu.core.errors import DivergenceError, InputError
from vdu.core.records import sha256_file
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.pipelines import configuration_of, load_pipeline, parts_of
from vdu.models.saving import save_pipeline
from vdu.training.accelerator import make_accelerator
from vdu.training.batches import NoisyImages
from vdu.training.denoising import DenoisingObjective
from vdu.training.pretraining import identity

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def tiny(make_pipeline, tmp_path):
    make_pipeline().save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def options(folder, **changes):
    fixed = {
        "data": "digits",
        "steps": 5,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "warmup_steps": 2,
        "checkpointing_steps": 2,
    }
    return PretrainSettings(output_dir=folder, **fixed | changes)


def contents(folder):
    return {path.relative_to(folder): sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def interrupt(monkeypatch, at):
    """A Ctrl-C at a step; lift it with ``monkeypatch.undo()``."""
    real = NoisyImages.__call__

    def call(self, step):
        if step == at:
            raise KeyboardInterrupt
        return real(self, step)

    monkeypatch.setattr(NoisyImages, "__call__", call)


def test_the_objective_is_the_mean_squared_error_of_the_noise(make_pipeline):
    """Truth: diffusers' own training recipe, add_noise and mse_loss."""
    pipeline = make_pipeline()
    source = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 4, 1, 8, 8, generator=source)
    index = torch.tensor([0, 10, 500, 999])
    truth = torch.nn.functional.mse_loss(
        pipeline.unet(pipeline.scheduler.add_noise(x0, noise, index), index).sample, noise
    )
    objective = DenoisingObjective(PipelineDenoiser.from_pipeline(pipeline))
    losses = objective.losses(pipeline.unet, {"data.x0": x0, "data.noise": noise, "data.index": index})
    torch.testing.assert_close(losses.terms["mse"], truth, rtol=1e-5, atol=0.0)
    assert objective.add_gradients({}) == {}


def test_a_new_model_is_trained_and_plain_diffusers_loads_it(tmp_path):
    before = torch.get_rng_state()
    summary = pretrain.run(options(tmp_path / "run", steps=2, batch_size=2))
    assert torch.equal(torch.get_rng_state(), before)
    plain_pipeline = DDPMPipeline.from_pretrained(tmp_path / "run" / "pipeline")
    assert plain_pipeline.unet.config.sample_size == 8
    assert summary["steps"] == 2
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["verb"], record["finished"]) == ("pretrain", True)
    assert record["pipeline"] == {
        "sha256": summary["sha256"],
        "configuration_sha256": configuration_of(plain_pipeline),
        "weights": "ema",
    }
    assert record["stages"][0]["network_evaluations"] == 3 * 2 * 2
    assert record["inputs"]["data"]["n_images"] == 1442  # 1797 without every fifth of each digit
    config = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert config | {"overwrite": False} == plain(options(tmp_path / "run", steps=2, batch_size=2))


def test_an_interrupted_run_ends_in_the_same_bits(tiny, tmp_path, monkeypatch):
    truth = pretrain.run(options(tmp_path / "a", from_pipeline=tiny))
    interrupt(monkeypatch, at=3)
    with pytest.raises(KeyboardInterrupt):
        pretrain.run(options(tmp_path / "b", from_pipeline=tiny))
    monkeypatch.undo()
    assert not (tmp_path / "b" / "pipeline").exists()
    summary = pretrain.run(options(tmp_path / "b", from_pipeline=tiny, resume_from_checkpoint="latest"))
    assert summary["sha256"] == truth["sha256"]
    assert contents(tmp_path / "b" / "pipeline") == contents(tmp_path / "a" / "pipeline")
    assert (tmp_path / "b" / "log.jsonl").read_bytes() == (tmp_path / "a" / "log.jsonl").read_bytes()


def test_the_pipeline_given_is_not_touched_and_the_average_is_saved(tiny, tmp_path):
    before = contents(tiny)
    pretrain.run(options(tmp_path / "run", from_pipeline=tiny, ema_decay=0.5))
    assert contents(tiny) == before
    saved = load_file(tmp_path / "run" / "pipeline" / "unet" / WEIGHTS)
    average, raw = (
        load_file(tmp_path / "run" / "checkpoints" / "checkpoint-5" / f"{name}.safetensors")
        for name in ("ema", "model")
    )
    assert all(torch.equal(saved[name], average[name]) for name in saved)
    assert not all(torch.equal(saved[name], raw[name]) for name in saved)
    pretrain.run(options(tmp_path / "raw", from_pipeline=tiny, ema_decay=0.0))
    saved = load_file(tmp_path / "raw" / "pipeline" / "unet" / WEIGHTS)
    assert all(torch.equal(saved[name], raw[name]) for name in saved)


def test_another_run_is_not_resumed_and_keeps_its_settings(tiny, tmp_path):
    pretrain.run(options(tmp_path / "run", from_pipeline=tiny))
    config = (tmp_path / "run" / "config.toml").read_text()
    for changes in ({"seed": 1}, {"batch_size": 8}, {"without": ("3",)}, {"learning_rate": 0.1}):
        with pytest.raises(InputError, match="was written with other settings, data or model"):
            pretrain.run(options(tmp_path / "run", from_pipeline=tiny, resume_from_checkpoint="latest", **changes))
        assert (tmp_path / "run" / "config.toml").read_text() == config
    with pytest.raises(InputError, match="already holds files. Use --overwrite"):
        pretrain.run(options(tmp_path / "run", from_pipeline=tiny))
    summary = pretrain.run(options(tmp_path / "run", from_pipeline=tiny, overwrite=True, seed=1))
    assert summary["steps"] == 5


def test_classes_can_be_left_out():
    everything, some = (pretrain.training_images("digits", without, None) for without in ((), ("3", "8")))
    assert set(some.labels.tolist()) == set(range(10)) - {3, 8}
    assert len(everything) - len(some) == int(((everything.labels == 3) | (everything.labels == 8)).sum())
    assert some.sha256 != everything.sha256


def test_what_cannot_be_trained_on_is_refused(tiny, tmp_path, make_pipeline):
    with pytest.raises(InputError, match="no images are left to train on; leave fewer classes out"):
        pretrain.run(options(tmp_path / "run", without=tuple("0123456789")))
    make_pipeline(in_channels=3, out_channels=3).save_pretrained(tmp_path / "rgb")
    with pytest.raises(InputError, match="digits"):
        pretrain.run(options(tmp_path / "run", from_pipeline=tmp_path / "rgb"))
    assert not (tmp_path / "run").exists()  # refused before anything was written


def test_variance_channels_are_not_trained(make_pipeline):
    pipeline = make_pipeline({"variance_type": "learned_range"}, out_channels=2)
    x0, noise = torch.randn(2, 4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    objective = DenoisingObjective(PipelineDenoiser.from_pipeline(pipeline))
    batch = {"data.x0": x0, "data.noise": noise, "data.index": torch.tensor([0, 10, 500, 999])}
    objective.losses(pipeline.unet, batch).terms["mse"].backward()
    gradient = pipeline.unet.conv_out.weight.grad
    assert gradient[0].any()
    assert not gradient[1].any()


def test_the_papers_network_can_be_trained(tmp_path):
    chosen = {"data": "mnist-mini", "model": "ddpm-pytorch", "steps": 1, "batch_size": 1, "ema_decay": 0.0}
    summary = pretrain.run(options(tmp_path / "run", **chosen))
    assert load_pipeline(summary["pipeline"]).unet.config.widths == [32, 64, 128, 256]


def test_a_new_model_and_a_given_pipeline_exclude_each_other(tiny, tmp_path):
    with pytest.raises(InputError, match="got ddpm-pytorch and --from-pipeline .*; expected one of the two"):
        pretrain.run(options(tmp_path / "run", from_pipeline=tiny, model="ddpm-pytorch"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_compiled_network_keeps_its_names_and_its_course(tiny, tmp_path, monkeypatch, precision):
    """Traced but not translated (the "eager" backend), it computes the same bits."""
    real, compiled = torch.nn.Module.compile, []

    def trace(network):
        compiled.append(network)
        real(network, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", trace)
    some = {"from_pipeline": tiny, "steps": 2, "mixed_precision": precision}
    truth = pretrain.run(options(tmp_path / "a", **some))
    assert compiled == []
    summary = pretrain.run(options(tmp_path / "b", **some, compile=True))
    assert len(compiled) == 1
    assert summary["sha256"] == truth["sha256"]
    assert contents(tmp_path / "b" / "pipeline") == contents(tmp_path / "a" / "pipeline")
    names = [load_file(tmp_path / each / "checkpoints" / "checkpoint-2" / "model.safetensors").keys() for each in "ab"]
    assert names[0] == names[1]
    with pytest.raises(InputError, match="was written with other settings"):
        pretrain.run(options(tmp_path / "b", **some, resume_from_checkpoint="latest"))


def test_a_retrained_model_sees_no_copy_of_what_is_left_out(tmp_path, capsys):
    for name, values in (("cats", (1, 2, 3)), ("dogs", (4, 2, 5))):
        (tmp_path / name).mkdir()
        for value in values:
            Image.new("L", (8, 8), value).save(tmp_path / name / f"{value}.png")
    kept = pretrain.training_images(str(tmp_path), ("cats",), None)
    assert kept.images[:, 0, 0, 0].tolist() == [4, 5]
    assert "1 of 3 training images are images to leave out" in capsys.readouterr().err


def test_a_text_to_image_model_is_not_trained_under_the_empty_prompt_alone(tmp_path):
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    save_pipeline(tiny_pipelines.stable_diffusion(), tmp_path / "model")
    (tmp_path / "images").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "images" / "a.png")
    with pytest.raises(InputError, match="--data: this model is asked in words, and these images have no captions"):
        pretrain.run(options(tmp_path / "run", data=str(tmp_path / "images"), from_pipeline=tmp_path / "model"))
    assert not (tmp_path / "run").exists()


def test_the_processes_of_a_launcher_are_connected_before_the_folder_is_opened(tiny, tmp_path, monkeypatch):
    """Or each would take its own decision, where another launcher has the folder of a member."""
    make_accelerator()  # of one process, as if the launcher's two were not connected
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="launcher: expected 2 processes, got 1"):
        pretrain.run(options(tmp_path / "run", from_pipeline=tiny))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("field", ["seed", "steps", "ema_decay"])
def test_settings_of_python_have_the_ranges_of_the_command_line(tiny, tmp_path, field):
    with pytest.raises(InputError, match=f"{field}: got 1.5; expected"):
        pretrain.run(options(tmp_path / "run", from_pipeline=tiny, members=2, **{field: 1.5}))
    assert not (tmp_path / "run").exists()


def test_fp16_is_refused_on_a_cpu_before_anything_is_written(tiny, tmp_path):
    with pytest.raises(InputError, match="mixed_precision: got fp16 on a CPU"):
        pretrain.run(options(tmp_path / "run", from_pipeline=tiny, mixed_precision="fp16"))
    assert not (tmp_path / "run").exists()


def test_a_model_that_diverges_in_the_last_step_is_not_saved(tiny, tmp_path):
    with pytest.raises(
        DivergenceError, match="diverged at step 1: the predictions of the trained model are not finite"
    ):
        pretrain.run(options(tmp_path / "run", from_pipeline=tiny, steps=1, learning_rate=1e30))
    assert not (tmp_path / "run" / "pipeline").exists()


@pytest.mark.parametrize(("null_class", "dropped"), [(10, True), (None, False)])
def test_labels_are_dropped_wherever_there_is_a_null_class(make_pipeline, tmp_path, monkeypatch, null_class, dropped):
    """Without --labels too, which is for new models; a share of 0.1 of 2000 has a standard deviation of 0.007."""
    pipeline = make_pipeline(num_class_embeds=10 + (null_class is not None))
    pipeline.class_names, pipeline.null_class = tuple("0123456789"), null_class
    save_pipeline(pipeline, tmp_path / "labelled")
    shares, real = [], NoisyImages.__call__

    def call(self, step):
        batch = real(self, step)
        shares.append(float((batch["data.condition.class_labels"] == 10).double().mean()))
        return batch

    monkeypatch.setattr(NoisyImages, "__call__", call)
    pretrain.run(options(tmp_path / "run", from_pipeline=tmp_path / "labelled", steps=10, batch_size=200))
    assert abs(sum(shares) / 10 - 0.1 * dropped) < 0.03 * dropped + 1e-9


def test_text_encoders_are_known_wherever_a_model_is_named(tmp_path):
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    pipeline, place = tiny_pipelines.stable_diffusion(), tmp_path / "model"
    save_pipeline(pipeline, place)
    (tmp_path / "images" / "cat").mkdir(parents=True)
    Image.new("RGB", (16, 16), (9, 99, 199)).save(tmp_path / "images" / "cat" / "0.png")
    how = {"data": str(tmp_path / "images"), "from_pipeline": place, "steps": 1, "batch_size": 1}
    pretrain.run(options(tmp_path / "pretrain", **how))
    sample.run(sample.SampleSettings(pipeline=place, output_dir=tmp_path / "sample", n_images=1, inference_steps=1))
    posterior.run(
        PosteriorSettings(estimator="isotropic", pipeline=place, output_dir=tmp_path / "posterior", n_samples=1)
    )
    records = [json.loads((tmp_path / each / "run.json").read_text()) for each in ("pretrain", "sample", "posterior")]
    for known in (*(each["inputs"]["model"] for each in records), records[0]["pipeline"]):
        assert (known["configuration_sha256"], known["parts_sha256"]) == (
            configuration_of(pipeline),
            parts_of(pipeline),
        )


@pytest.mark.parametrize("stopped", ["unfinished", "finished"])
def test_a_run_without_a_checkpoint_is_resumed_with_its_own_settings_alone(tiny, tmp_path, monkeypatch, stopped):
    """One that was stopped before its first, and one whose checkpoints were deleted."""
    if stopped == "unfinished":
        interrupt(monkeypatch, at=1)
        with pytest.raises(KeyboardInterrupt):
            pretrain.run(options(tmp_path / "run", from_pipeline=tiny))
        monkeypatch.undo()
    else:
        pretrain.run(options(tmp_path / "run", from_pipeline=tiny))
        shutil.rmtree(tmp_path / "run" / "checkpoints")
    before = contents(tmp_path / "run")
    resumed = {"from_pipeline": tiny, "resume_from_checkpoint": "latest"}
    for changes in ({"without": ("3",)}, {"learning_rate": 0.1}):
        with pytest.raises(InputError, match="was written with other settings, data or model"):
            pretrain.run(options(tmp_path / "run", **resumed | changes))
        assert contents(tmp_path / "run") == before
    truth = pretrain.run(options(tmp_path / "truth", from_pipeline=tiny))
    assert pretrain.run(options(tmp_path / "run", **resumed))["sha256"] == truth["sha256"]


def test_noise_levels_are_part_of_what_a_training_resumes(make_pipeline):
    model, images = PipelineDenoiser.from_pipeline(make_pipeline()), pretrain.training_images("digits", (), None)
    found = {
        identity(model, images, batch_size=4, alpha_bar_range=each) for each in ((0.0, 1.0), (0.0, 0.5), (0.5, 1.0))
    }
    assert len(found) == 3
    assert identity(model, images, batch_size=4) in found
