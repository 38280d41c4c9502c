import dataclasses
import json
import tomllib
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline

from vdu.commands import unlearn as recipe
from vdu.commands.unlearn import UnlearnSettings
from vdu.core.checks import hash_parameters
from vdu.core.errors import DivergenceError, InputError
from vdu.core.records import sha256_file
from vdu.core.types import Losses
from vdu.data.forget_source import forget_images, reload_forget
from vdu.data.images import ImageSet
from vdu.data.sources import absolute
from vdu.methods.base import BaseMethod, mean_squared
from vdu.methods.defaults import TrainingDefaults
from vdu.methods.vdu import VDU, gradient_ascent
from vdu.models.pipelines import replace_network
from vdu.posterior.isotropic import fit_isotropic
from vdu.replay import auxiliaries
from vdu.replay.stopping import Stopping
from vdu.training.batches import NoisyImages
from vdu.unlearning import engine, run_folder
from vdu.unlearning.unlearn import unlearn


@pytest.fixture
def model(make_pipeline, tmp_path):
    """A pipeline folder, and beside it a posterior of its weights."""
    pipeline = make_pipeline()
    pipeline.save_pretrained(tmp_path / "model")
    fit_isotropic(dict(pipeline.unet.named_parameters()), 1e-4).save(tmp_path / "posterior.safetensors")
    return tmp_path / "model"


def options(model, folder, **changes):
    fixed = {"forget": "digits", "forget_class": ("3",), "posterior": model.parent / "posterior.safetensors"}
    fixed |= {"method": "vdu", "steps": 5, "batch_size": 4, "learning_rate": 1e-3, "checkpointing_steps": 2}
    return UnlearnSettings(output_dir=folder, **{"pipeline": model} | fixed | changes)


def contents(folder):
    return {path.relative_to(folder): sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def some_images(n=6):
    return ImageSet(torch.randint(256, (n, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)))


def quick(pipeline, method, seed=0, **changes):
    fixed = {"forget": some_images(), "steps": 3, "batch_size": 4, "learning_rate": 1e-3, "progress": None}
    return unlearn(pipeline, method, generator=torch.Generator().manual_seed(seed), **fixed | changes)


# from Python


def test_the_pipeline_given_is_untouched_and_the_new_one_is_like_it(make_pipeline):
    pipeline = make_pipeline(dropout=0.5)
    pipeline.unet.train()
    pipeline.timestep_scale = 0.5
    before, stream = hash_parameters(pipeline.unet.state_dict()), torch.get_rng_state()
    result = quick(pipeline, gradient_ascent())
    assert hash_parameters(pipeline.unet.state_dict()) == before
    assert pipeline.unet.training
    assert all(value.grad is None for value in pipeline.unet.parameters())
    assert torch.equal(torch.get_rng_state(), stream)
    made = result.pipeline
    assert hash_parameters(made.unet.state_dict()) != before
    assert type(made) is type(pipeline)
    assert made.scheduler is not pipeline.scheduler
    assert made.timestep_scale == 0.5
    assert result.network_evaluations == 3 * 4 * 3
    assert result.training.steps == 3


def test_one_draw_of_the_generator_seeds_everything(make_pipeline):
    pipeline, generator = make_pipeline(), torch.Generator().manual_seed(0)
    ends = [hash_parameters(quick(pipeline, gradient_ascent(), seed).pipeline.unet.state_dict()) for seed in (0, 0, 1)]
    assert ends[0] == ends[1] != ends[2]
    torch.randint(2**62, (), generator=generator)
    used = torch.Generator().manual_seed(0)
    unlearn(pipeline, gradient_ascent(), forget=some_images(), steps=1, batch_size=2, generator=used, progress=None)
    assert torch.equal(used.get_state(), generator.get_state())


def test_the_number_of_forget_images_scales_the_first_term_alone(make_pipeline):
    """A set given twice over has the same batches' mean, and twice the sum."""
    pipeline = make_pipeline()
    posterior = fit_isotropic(dict(pipeline.unet.named_parameters()), 1e-4)
    one = some_images(1)
    many = ImageSet(one.images.repeat(2, 1, 1, 1))
    logs = [
        quick(pipeline, VDU(posterior, gamma=0.5), forget=images, steps=1).training.last["terms"]
        for images in (one, many)
    ]
    assert logs[1]["plasticity"] == pytest.approx(2 * logs[0]["plasticity"], rel=1e-6)
    assert logs[0]["plasticity"] < 0
    assert logs[0]["stability"] == logs[1]["stability"] == 0.0  # at the mean


def test_a_strong_posterior_holds_the_weights_back(make_pipeline):
    pipeline = make_pipeline()
    parameters = dict(pipeline.unet.named_parameters())
    distances = []
    for gamma in (0.0, 0.5):
        method = VDU(fit_isotropic(parameters, 1e-12), gamma=gamma)  # far stronger than the first term
        made = dict(quick(pipeline, method, steps=20, learning_rate=1e-4).pipeline.unet.named_parameters())
        distances.append(max(float((made[name] - value).abs().max()) for name, value in parameters.items()))
    assert distances[1] < distances[0] / 4


def test_a_run_that_diverges_stops(make_pipeline):
    with pytest.raises(DivergenceError, match=r"mse rose to .*, past its limit of 2.*Lower the learning rate"):
        quick(make_pipeline(), gradient_ascent(), steps=50, learning_rate=1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps: got 0; expected at least 1"),
        ({"batch_size": 0}, "batch_size: got 0; expected at least 1"),
        ({"learning_rate": 0.0}, "learning_rate: got 0.0; expected a number above 0"),
        ({"max_grad_norm": 0}, "max_grad_norm: got 0; expected a number above 0"),
        ({"n_own_samples": 0}, "n_own_samples: got 0; expected at least 1"),
        ({"warmup_steps": -1}, "warmup_steps: got -1; expected 0 or more"),
        ({"ema_decay": 1.0}, "ema_decay: got 1.0; expected a number from 0 to below 1"),
        ({"learning_rate": float("nan")}, "learning_rate: got nan; expected"),
    ],
)
def test_a_number_out_of_range_is_refused_and_not_replaced(make_pipeline, changes, message):
    with pytest.raises(InputError, match=message):
        quick(make_pipeline(), gradient_ascent(), **changes)


def test_an_unknown_setting_is_refused_with_the_nearest(make_pipeline):
    with pytest.raises(InputError, match=r"unexpected keyword argument 'stepz'; did you mean 'steps'\?"):
        quick(make_pipeline(), gradient_ascent(), stepz=3)


def test_a_users_own_method_has_the_training_of_its_class(make_pipeline, monkeypatch):
    """Not that of another method."""

    class Mine(BaseMethod):
        name = "mine"

        def losses(self, denoiser, batch):
            loss = mean_squared(denoiser, batch["forget"]).mean()
            return Losses({"forget": -loss}, {"mse": loss.detach()})

    class Tuned(Mine):
        training = TrainingDefaults(steps=7, batch_size=3, learning_rate=1e-4, max_grad_norm=0.3)

    seen = []
    monkeypatch.setattr(engine, "train", lambda *_, **__: seen.append(_[3]) or (_ for _ in ()).throw(KeyboardInterrupt))
    for kind, wanted in ((Mine, TrainingDefaults()), (Tuned, Tuned.training)):
        with pytest.raises(KeyboardInterrupt):
            unlearn(make_pipeline(), kind(), forget=some_images(), generator=torch.Generator(), progress=None)
        assert (seen[-1].steps, seen[-1].learning_rate) == (wanted.steps, wanted.learning_rate)
        assert (seen[-1].max_grad_norm, seen[-1].ema_decay) == (wanted.max_grad_norm, None)
    assert Mine.training.steps == 200


def test_another_network_in_the_same_pipeline(make_pipeline, make_unet):
    pipeline, network = make_pipeline(), make_unet(seed=1)
    made = replace_network(pipeline, network)
    assert made.unet is network
    assert {**made.scheduler.config} == {**pipeline.scheduler.config}
    assert not hasattr(made, "timestep_scale")


# a run folder


def test_a_run_folder_tells_all(model, tmp_path):
    before = contents(model)
    summary = recipe.run(options(model, tmp_path / "run"))
    assert contents(model) == before
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["verb"], record["finished"]) == ("unlearn", True)
    plain = DDPMPipeline.from_pretrained(tmp_path / "run" / "pipeline")
    assert record["pipeline"]["sha256"] == summary["sha256"] == hash_parameters(plain.unet.state_dict())
    assert record["inputs"]["model"]["sha256"] != summary["sha256"]
    forget = forget_images("digits", (1, 8, 8), classes=("3",))
    assert record["inputs"]["forget"]["sha256"] == forget.sha256
    assert record["inputs"]["forget"]["n_images"] == len(forget) == int((forget.labels == 3).sum())
    assert record["inputs"]["posterior"]["estimator"] == "isotropic"
    assert sum(record["weight_share"]) == pytest.approx(1, abs=1e-3)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert lines[-1]["terms"].keys() == {"plasticity", "stability"}
    assert reload_forget(tmp_path / "run", (1, 8, 8)).sha256 == forget.sha256


def test_an_interrupted_run_ends_in_the_same_bits(model, tmp_path, monkeypatch):
    truth = recipe.run(options(model, tmp_path / "a"))
    real = NoisyImages.__call__

    def call(self, step):
        if step == 3:
            raise KeyboardInterrupt
        return real(self, step)

    monkeypatch.setattr(NoisyImages, "__call__", call)
    with pytest.raises(KeyboardInterrupt):
        recipe.run(options(model, tmp_path / "b"))
    monkeypatch.undo()
    assert recipe.run(options(model, tmp_path / "b", resume_from_checkpoint="latest"))["sha256"] == truth["sha256"]
    assert contents(tmp_path / "b" / "pipeline") == contents(tmp_path / "a" / "pipeline")
    assert (tmp_path / "b" / "log.jsonl").read_bytes() == (tmp_path / "a" / "log.jsonl").read_bytes()


def test_another_run_is_not_resumed(model, make_pipeline, tmp_path):
    recipe.run(options(model, tmp_path / "run"))
    pipeline = make_pipeline()
    fit_isotropic(dict(pipeline.unet.named_parameters()), 2e-4).save(tmp_path / "other.safetensors")
    for changes in (
        {"posterior": tmp_path / "other.safetensors"},
        {"option": ("gamma=0.2",)},
        {"forget_class": ("4",)},
        {"seed": 1},
        {"option": ("schedule=1000,1e-4,0.021",)},
    ):
        with pytest.raises(InputError, match="was written with other settings, data or model"):
            recipe.run(options(model, tmp_path / "run", resume_from_checkpoint="latest", **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forget_class": ()}, r"forget: digits holds 10 classes \(0, 1, .*name those to forget with --forget-class"),
        (
            {"posterior": None, "pipeline": Path("my model")},
            "`vdu posterior fisher --pipeline 'my model' --n-train N --output-dir OUT`",
        ),
        (
            {"posterior": None},
            "--posterior is missing, which the method vdu needs; fit one with `vdu posterior fisher",
        ),
        ({"option": ("gamma=2.0",)}, "gamma: got 2.0"),
        ({"option": ("schedule=3,0.01,0.9",)}, "Use a linear schedule"),
        (
            {"option": ("schedule=3,0.01",)},
            r"got 'schedule=3,0.01'; expected T,β1,βT of a linear schedule such as schedule=",
        ),
        (
            {"option": ("ewc=3.0",)},
            "got 'ewc=3.0'; expected NAME=VALUE with an option of vdu: it has schedule, alpha_bar_range, gamma",
        ),
        ({"method": "ascent", "posterior": None, "option": ("gamma=0.2",)}, "got 'gamma=0.2'; .* an option of ascent"),
        ({"method": "selective-amnesia", "option": ("weights=elbo",)}, "got 'weights=elbo'; .* of selective-amnesia"),
        ({"method": "selective-amnesia", "option": ("replay_wait=1",)}, "did you mean replay_weight"),
        ({"method": "vdi"}, "method: got 'vdi'; expected one of auto, .*Did you mean 'vdu'"),
        (
            {"method": "auto", "posterior": None, "option": ("alpha_bar_range=0,2",)},
            r"alpha_bar_range: got \(0.0, 2.0\)",
        ),
        (
            {"method": "esd", "posterior": None, "option": ("alpha_bar_range=0.5",)},
            r"alpha_bar_range: got \(0.5,\); expected two",
        ),
        (
            {"method": "auto", "posterior": None, "option": ("self_improvement_range=0.2",)},
            r"range: got \(0.2,\); expected two",
        ),
        ({"full_length": True}, "--full-length: the method vdu has no stopping rule"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(model, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        recipe.run(options(model, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_ascent_with_a_posterior_is_refused(model, tmp_path):
    with pytest.raises(InputError, match="--posterior: got .*, but the method ascent does not use a posterior"):
        recipe.run(options(model, tmp_path / "run", method="ascent"))


def test_ascent_needs_no_posterior(model, tmp_path):
    recipe.run(options(model, tmp_path / "run", method="ascent", posterior=None))
    assert "posterior" not in json.loads((tmp_path / "run" / "run.json").read_text())["inputs"]
    assert '"stability"' not in (tmp_path / "run" / "log.jsonl").read_text()


def test_a_record_names_the_method_that_auto_stands_for(model, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "train", stop)
    monkeypatch.setattr(auxiliaries, "resemblance", stop)
    with pytest.raises(KeyboardInterrupt):
        recipe.run(options(model, tmp_path / "run", method="auto", posterior=None, inference_steps=1, n_own_samples=40))
    text = (tmp_path / "run" / "config.toml").read_text(encoding="utf-8")
    values = tomllib.loads(text)
    assert text.startswith('# method = "auto" was given') and values["method"] == "distillation"
    assert (values["max_grad_norm"], values["warmup_steps"]) == (0.5, 10)


def test_the_stopping_rule_is_recorded_as_numbers(model, tmp_path, monkeypatch):
    made = Stopping("forgotten", 4, 1, 114, 1, bound=0.054, aim_bound=0.055, error=0.005)
    real = run_folder.carry_out

    def stopped(*given, **how):
        return dataclasses.replace(real(*given, **how), stopping=made)

    monkeypatch.setattr(run_folder, "carry_out", stopped)
    statement = (
        "at most 5.4\u202f% of the model's own unwanted seeds remain, 95\u202f% confidence, by the run's own classifier"
    )
    folder = tmp_path / "run"
    assert recipe.run(options(model, folder))["ending"].startswith(statement)
    (stage,) = json.loads((folder / "run.json").read_text())["stages"]
    assert stage["stopping"] == dataclasses.asdict(made) and stage["statement"] == statement
    assert "ending" not in stage
    card = (folder / "pipeline" / "README.md").read_text("utf-8")
    assert f"| what remains | {statement} |" in card


def test_the_forget_set_of_a_run_must_not_change(model, tmp_path):
    recipe.run(options(model, tmp_path / "run"))
    config = tmp_path / "run" / "config.toml"
    config.write_text(config.read_text().replace('"3"', '"4"'))
    with pytest.raises(InputError, match=r"not those that this run forgot \(their hash differs\). Put them back"):
        reload_forget(tmp_path / "run", (1, 8, 8))


def test_a_posterior_made_for_other_weights_is_refused(model, make_pipeline, tmp_path):
    parameters = dict(make_pipeline().unet.named_parameters())
    stranger = dataclasses.replace(fit_isotropic(parameters, 1e-4), sources={"pipeline": "0" * 64})
    stranger.save(tmp_path / "stranger.safetensors")
    with pytest.raises(InputError, match="was fitted to the model with SHA-256 000000000000…"):
        recipe.run(options(model, tmp_path / "run", posterior=tmp_path / "stranger.safetensors"))
    assert not (tmp_path / "run").exists()


def test_a_source_keeps_its_meaning_in_another_folder(monkeypatch, tmp_path):
    (tmp_path / "images").mkdir()
    monkeypatch.chdir(tmp_path)
    assert absolute("images") == str(tmp_path / "images")
    assert absolute("mnist:images") == f"mnist:{tmp_path / 'images'}"
    assert [absolute(name) for name in ("digits", "hf:nobody/nothing")] == ["digits", "hf:nobody/nothing"]
    (tmp_path / "digits").mkdir()
    assert absolute("./digits") == absolute(Path("digits")) == str(tmp_path / "digits")
    with pytest.raises(InputError, match="digits: is a file or folder here and the name of a data set. Write ./digits"):
        absolute("digits")
