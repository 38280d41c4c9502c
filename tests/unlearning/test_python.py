"""``vdu.unlearn`` as a user types it: the command line's numbers and folder, any kind of input, and errors that help."""

import importlib
import json
import re
import sys
import tomllib
from dataclasses import replace
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.tracking import GeneralTracker
from diffusers import DDPMScheduler
from PIL import Image

import tiny_pipelines
import vdu
from vdu.commands import posterior as posterior_command
from vdu.commands import unlearn as command
from vdu.commands.settings import PosteriorSettings
from vdu.core.checks import hash_parameters
from vdu.core.device import on_device
from vdu.core.errors import InputError
from vdu.core.records import sha256_file
from vdu.core.types import Losses
from vdu.data.forget_source import reload_forget
from vdu.data.images import ImageSet
from vdu.methods import metadata, registry
from vdu.models.identity import weights_sha256
from vdu.posterior.isotropic import fit_isotropic
from vdu.replay import auxiliaries
from vdu.replay.selection import resemblance
from vdu.unlearning import default_posterior, engine
from vdu.unlearning.plan import TrainingOptions

SMALL = {"steps": 3, "batch_size": 4, "learning_rate": 1e-3, "progress": None}
PIXELS = torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def weights(pipeline):
    return hash_parameters(pipeline.unet.state_dict())


@pytest.fixture
def desk(make_pipeline, tmp_path):
    """A pipeline in a folder, and six images beside it."""
    make_pipeline().save_pretrained(tmp_path / "model")
    (tmp_path / "unwanted").mkdir()
    for i, each in enumerate(PIXELS):
        Image.fromarray(each[0].numpy()).save(tmp_path / "unwanted" / f"{i}.png")
    return tmp_path


@pytest.fixture
def registered():
    yield
    for name in set(registry._registered) - set(registry._FILES):
        del registry._registered[name]


# the same numbers and the same folder as the command line


@pytest.mark.parametrize("seed", [0, 7])
def test_python_and_the_command_line_write_the_same_run(desk, seed):
    fit_isotropic(dict(vdu.load_pipeline(desk / "model").unet.named_parameters()), 1e-4).save(
        desk / "posterior.safetensors"
    )
    paths = {"pipeline": desk / "model", "forget": str(desk / "unwanted"), "posterior": desk / "posterior.safetensors"}
    how = {name: value for name, value in SMALL.items() if name != "progress"}
    command.run(
        command.UnlearnSettings(
            **paths,
            method="vdu",
            option=("gamma=0.3", "schedule=900,1e-4,0.02"),
            seed=seed,
            output_dir=desk / "a",
            **how,
        )
    )
    result = vdu.unlearn(
        str(desk / "model"), "vdu", forget=desk / "unwanted", posterior=str(desk / "posterior.safetensors"), gamma=0.3,
        schedule=vdu.NoiseSchedule.linear(900), seed=seed, folder=str(desk / "b"), **SMALL,
    )  # fmt: skip
    names = {path.relative_to(desk / "a") for path in (desk / "a").rglob("*") if path.is_file()}
    assert names == {path.relative_to(desk / "b") for path in (desk / "b").rglob("*") if path.is_file()}
    assert {"config.toml", "run.json", "log.jsonl", "pipeline"} <= {path.parts[0] for path in names}
    same = [name for name in names if name.parts[0] in {"pipeline", "log.jsonl"}]
    assert all(sha256_file(desk / "a" / name) == sha256_file(desk / "b" / name) for name in same)
    configs = [tomllib.loads((desk / name / "config.toml").read_text("utf-8")) for name in ("a", "b")]
    assert configs[0] | {"output_dir": ""} == configs[1] | {"output_dir": ""}
    dry = tomllib.loads(
        command.configuration(command.UnlearnSettings(**paths, method="vdu", seed=seed, output_dir=desk / "a", **how))
    )
    assert dry.pop("overwrite") is False  # which is no setting of the run
    assert dry | {"option": ""} == configs[0] | {"option": ""} and list(dry) == list(configs[0])
    records = [json.loads((desk / name / "run.json").read_text("utf-8")) for name in ("a", "b")]
    assert records[0]["inputs"] == records[1]["inputs"] and records[0]["pipeline"] == records[1]["pipeline"]
    assert weights(result.pipeline) == records[0]["pipeline"]["sha256"]


@pytest.mark.parametrize("given", ["object", "class", "name"])
def test_a_name_a_class_and_an_object_are_one_method(desk, given):
    method = {"object": vdu.gradient_ascent(weights="elbo"), "class": registry.get("ascent"), "name": "ascent"}[given]
    own = {} if given == "object" else {"weights": "elbo"}
    vdu.unlearn(desk / "model", method, forget=PIXELS, folder=desk / "run", **own, **SMALL)
    config = tomllib.loads((desk / "run" / "config.toml").read_text("utf-8"))
    assert (config["method"], config["option"]) == ("ascent", ["weights=elbo"])


def test_what_was_given_as_an_object_is_stored_and_evaluated(desk, make_pipeline, command, capsys):
    """The forget set, the original and a posterior; the run can be resumed with the same objects."""
    pipeline = make_pipeline()
    posterior = fit_isotropic(dict(pipeline.unet.named_parameters()), 1e-4)
    how = {"forget": vdu.ImageSet(PIXELS, description="six"), "folder": desk / "run", **SMALL}
    made = vdu.unlearn(pipeline, vdu.VDU(posterior), **how)
    assert reload_forget(desk / "run", (1, 8, 8)).sha256 == made.forget.sha256
    inputs = json.loads((desk / "run" / "run.json").read_text("utf-8"))["inputs"]
    assert weights(vdu.load_pipeline(inputs["model"]["path"])) == inputs["model"]["sha256"] == weights(pipeline)
    assert vdu.GaussianPosterior.load(inputs["posterior"]["path"]).sha256 == posterior.sha256
    again = vdu.unlearn(pipeline, vdu.VDU(posterior), resume=True, **how)
    assert weights(again.pipeline) == weights(made.pipeline)
    with pytest.raises(InputError, match="other settings, data or model"):
        vdu.unlearn(pipeline, vdu.VDU(posterior), resume=True, **how | {"forget": PIXELS[:5]})
    assert reload_forget(desk / "run", (1, 8, 8)).sha256 == made.forget.sha256


def test_another_run_is_not_resumed_and_nothing_is_trained_for_it(make_pipeline, monkeypatch, tmp_path):
    monkeypatch.setattr(
        auxiliaries,
        "resemblance",
        lambda *given, **named: resemblance(*given, **named | {"steps": 2, "score_steps": 2}),
    )
    pipeline, labels = make_pipeline(num_class_embeds=3), torch.zeros(40, dtype=torch.int64)
    first, other = (ImageSet(torch.full((40, 1, 8, 8), level, dtype=torch.uint8), labels) for level in (9, 200))
    kept_images, sampler = ImageSet(other.images, labels + 1), vdu.Sampler("ddim", 1, microbatch_size=60)
    how = {"n_own_samples": 60, "sampler": sampler, "force": True, "folder": tmp_path / "run"}
    made = vdu.unlearn(pipeline, "finetune", forget=first, **how | SMALL)
    again = vdu.unlearn(pipeline, "finetune", forget=first, resume=True, **how | SMALL)
    assert weights(again.pipeline) == weights(made.pipeline)
    kept = [(tmp_path / "run" / name).read_bytes() for name in ("config.toml", "run.json")]

    def trained(*_, **__):
        raise AssertionError("a classifier was trained")

    monkeypatch.setattr(engine, "make_auxiliaries", trained)
    resumed = {"forget": first, "resume": True} | how | SMALL
    for changes in (
        {"learning_rate": 2e-3},
        {"forget": other},
        {"n_own_samples": 61},
        {"retain": kept_images},
    ):
        with pytest.raises(InputError, match="was written with other settings, data or model"):
            vdu.unlearn(pipeline, "finetune", **resumed | changes)
    with pytest.raises(InputError, match="steps: got 2, but the newest checkpoint has 3 steps"):
        vdu.unlearn(pipeline, "finetune", **resumed | {"steps": 2})
    assert [(tmp_path / "run" / name).read_bytes() for name in ("config.toml", "run.json")] == kept
    with pytest.raises(AssertionError, match="a classifier was trained"):  # the same run goes on
        vdu.unlearn(pipeline, "finetune", **resumed)


@pytest.mark.slow
def test_a_run_that_draws_resumes_with_its_own_sampler_alone(make_pipeline, tmp_path):
    """ESD draws its trajectories by it, and concept ablation the images of what takes the place."""
    pipeline = make_pipeline(num_class_embeds=4)
    pipeline.class_names, pipeline.null_class = ("a", "b", "c"), 3
    for method in ("esd", "concept-ablation"):
        images = ImageSet(
            PIXELS, torch.ones(6, dtype=torch.int64), class_names=("a", "b", "c")
        )  # so that none are drawn
        how = {"forget": images, "folder": tmp_path / method, **SMALL}
        sampler = vdu.Sampler("ddim", 2, microbatch_size=30)
        vdu.unlearn(pipeline, method, sampler=sampler, **how)
        vdu.unlearn(pipeline, method, sampler=sampler, resume=True, **how)
        with pytest.raises(InputError, match="was written with other settings, data or model"):
            vdu.unlearn(pipeline, method, sampler=replace(sampler, steps=3), resume=True, **how)


def test_a_sampler_of_python_is_recorded_whole(desk):
    """Its spacing and clipping have no option on the command line."""
    sampler = vdu.Sampler("ddpm", 5, spacing="leading", clip_sample=False)
    vdu.unlearn(desk / "model", "ascent", forget=PIXELS, folder=desk / "run", sampler=sampler, **SMALL)
    record = json.loads((desk / "run" / "run.json").read_text("utf-8"))
    assert vdu.Sampler(**record["sampler"]) == sampler
    config = (desk / "run" / "config.toml").read_text("utf-8")
    assert "# the sampler was given in Python with spacing='leading', clip_sample=False" in config


def test_a_warm_up_that_does_not_end_is_said(desk, capsys):
    vdu.unlearn(desk / "model", "ascent", forget=PIXELS, warmup_steps=6, **SMALL)
    assert (
        "warmup_steps: got 6 for 3 steps, so the warm-up does not end: the learning rate reaches 0.0005 of 0.001"
        in capsys.readouterr().err
    )
    vdu.unlearn(desk / "model", "ascent", forget=PIXELS, warmup_steps=3, **SMALL)
    assert "warmup_steps" not in capsys.readouterr().err


def test_a_posterior_of_other_weights_than_those_that_train_is_refused_first(make_pipeline, monkeypatch, capsys):
    pipeline = make_pipeline()
    whole = fit_isotropic(dict(pipeline.unet.named_parameters()), 1e-4)
    convolutions = whole.only(name for name in whole.mean if "conv" in name)
    convolutions = replace(convolutions, name_filter="conv")
    vdu.unlearn(pipeline, "vdu", forget=PIXELS, posterior=convolutions, **SMALL)
    assert re.search(r"the posterior does not cover \d+ of the \d+ weights that train", capsys.readouterr().err)
    monkeypatch.setattr(engine, "make_auxiliaries", None)  # nothing is made before
    for train in ("attention", "lora:2"):
        with pytest.raises(
            InputError, match=rf"does not cover \d+ of the \d+ weights that train under train='{train}'"
        ):
            vdu.unlearn(pipeline, "vdu", forget=PIXELS, posterior=convolutions, train=train, **SMALL)


def test_a_posterior_that_is_fitted_again_does_not_replace_the_settings_of_the_run(
    make_pipeline, monkeypatch, tmp_path
):
    monkeypatch.setattr(default_posterior, "N_SAMPLES", 3)
    monkeypatch.setattr(default_posterior, "SAMPLER", vdu.Sampler("ddim", 1, microbatch_size=3))
    pipeline, how = make_pipeline(), {"forget": PIXELS, "folder": tmp_path / "run", **SMALL}
    made = vdu.unlearn(pipeline, "vdu", **how)
    for _ in range(2):
        with pytest.raises(InputError, match=r"Use the settings in the run's config\.toml"):
            vdu.unlearn(pipeline, "vdu", resume=True, **how | {"learning_rate": 2e-3})
    rate = tomllib.loads((tmp_path / "run" / "config.toml").read_text("utf-8"))["learning_rate"]
    assert rate == 1e-3  # of SMALL
    again = vdu.unlearn(pipeline, "vdu", resume=True, **how | {"learning_rate": rate})  # the advice
    assert weights(again.pipeline) == weights(made.pipeline)


def test_one_draw_of_a_generator_or_a_seed_and_never_both(make_pipeline):
    pipeline = make_pipeline()

    def end(**how):
        return weights(vdu.unlearn(pipeline, "ascent", forget=PIXELS, **how, **SMALL).pipeline)

    assert end() == end(seed=0) != end(seed=1)
    assert end(generator=torch.Generator().manual_seed(3)) == end(generator=torch.Generator().manual_seed(3)) != end()
    with pytest.raises(InputError, match="seed: got 0 and a generator; expected one of them"):  # as given as any other
        end(generator=torch.Generator(), seed=0)
    with pytest.raises(InputError, match="seed: got 1 and a generator; expected one of them"):
        end(seed=1, generator=torch.Generator())


# a posterior that was not given


def test_a_posterior_is_fitted_as_the_command_does_and_kept(desk, monkeypatch, capsys):
    monkeypatch.setattr(default_posterior, "N_SAMPLES", 3)
    settings = PosteriorSettings(pipeline=desk / "model", output_dir=desk / "p", n_train=60_000, n_samples=3)
    posterior_command.run(settings)
    truth = vdu.GaussianPosterior.load(desk / "p" / "posterior.safetensors")
    capsys.readouterr()
    how = {"forget": PIXELS, "gamma": 0.5, **SMALL, "progress": "unlearn"}
    result = vdu.unlearn(desk / "model", "vdu", folder=desk / "run", **how)
    said = [line for line in capsys.readouterr().err.splitlines() if "posterior" in line]
    assert len(said) == 1 and "fisher): fitting it on 3 generated samples, as for 60,000 training images" in said[0]
    stored = vdu.GaussianPosterior.load(desk / "run" / "posterior.safetensors")
    for name, value in truth.variance.items():
        assert torch.equal(stored.variance[name], value) and torch.equal(stored.mean[name], truth.mean[name])
    stages = json.loads((desk / "run" / "run.json").read_text("utf-8"))["stages"]
    assert [stage["stage"] for stage in stages] == ["posterior", "unlearn"]
    assert sum(stage["network_evaluations"] for stage in stages) == result.network_evaluations
    monkeypatch.setattr(default_posterior, "fit_posterior", None)  # the cache has it
    again = vdu.unlearn(desk / "model", "vdu", **how)
    assert weights(again.pipeline) == weights(result.pipeline)
    assert again.network_evaluations == result.network_evaluations
    given = vdu.unlearn(desk / "model", "vdu", posterior=desk / "p", **how)
    assert weights(given.pipeline) == weights(result.pipeline)


# the result


def test_a_result_is_two_lines(make_pipeline):
    result = vdu.unlearn(make_pipeline(), "ascent", forget=PIXELS, **SMALL)
    first, second = repr(result).splitlines()
    assert first.startswith("UnlearnResult: ascent, 3 of 3 steps, ") and first.endswith(" s, 36 network evaluations")
    assert second == "  all 3 steps were taken: the method ascent has no stopping rule"


def test_a_result_is_saved_with_a_card_and_pushed_without_anything_else(desk, monkeypatch):
    import huggingface_hub

    result = vdu.unlearn(desk / "model", "ascent", forget=desk / "unwanted", folder=desk / "run", **SMALL)
    card = desk / "run" / "pipeline" / "README.md"
    result.save_pretrained(desk / "clean")
    assert weights(vdu.load_pipeline(desk / "clean")) == weights(result.pipeline)
    assert (desk / "clean" / "README.md").read_text("utf-8") == card.read_text("utf-8")
    card.write_text(card.read_text("utf-8") + "Figures.\n", "utf-8")
    result.save_pretrained(desk / "run" / "pipeline")
    assert card.read_text("utf-8").endswith("Figures.\n")
    card.unlink()
    result.save_pretrained(desk / "clean")
    assert "| method | ascent |" in (desk / "clean" / "README.md").read_text("utf-8")
    calls = []

    class Hub:
        def __init__(self, token=None):
            calls.append(token)

        def create_repo(self, repo_id, **how):
            calls.append((repo_id, how))
            return f"https://huggingface.co/{repo_id}"

        def upload_folder(self, *, folder_path, **how):
            calls.append(sorted(path.name for path in Path(folder_path).iterdir()))

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert result.push_to_hub("me/clean", token="t") == "https://huggingface.co/me/clean"
    assert calls[:2] == ["t", ("me/clean", {"private": True, "exist_ok": True})]
    assert calls[2] == ["README.md", "model_index.json", "scheduler", "unet"]
    with pytest.raises(InputError, match="folder: got 3; expected the path of a folder"):
        result.save_pretrained(3)


def test_what_the_hub_cannot_do_is_refused_in_words(desk, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import OfflineModeIsEnabled

    result = vdu.unlearn(desk / "model", "ascent", forget=desk / "unwanted", **SMALL)
    for error in (OfflineModeIsEnabled("offline mode is enabled"), TimeoutError(), RuntimeError("no route")):

        def refuse(*_, error=error, **__):
            raise error

        monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
        with pytest.raises(InputError, match=rf"'me/clean' was not uploaded \({str(error) or 'TimeoutError'}\)"):
            result.push_to_hub("me/clean", token="t")
    for token in ("", "secret\n", "secret two"):
        with pytest.raises(InputError, match="^token: is empty or has white space in it") as refused:
            result.push_to_hub("me/clean", token=token)
        assert "secret" not in str(refused.value)


def test_a_pipeline_that_cannot_be_saved_makes_no_repository(desk, monkeypatch):
    import huggingface_hub

    result = vdu.unlearn(desk / "model", "ascent", forget=desk / "unwanted", **SMALL)
    made = []
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda *_, **named: made.append(named))
    result.pipeline.unet.register_to_config(in_channels=3)  # the saved model could not be loaded
    with pytest.raises(InputError):
        result.push_to_hub("me/clean", token="t")
    assert not made


class Down(GeneralTracker):
    """A tracker whose server does not answer."""

    name, requires_logging_directory, tracker = "down", False, None

    def store_init_configuration(self, values):
        raise OSError("no answer")


def test_a_run_that_is_refused_leaves_nothing_in_the_way_of_the_next(desk):
    how = {"forget": desk / "unwanted", "folder": desk / "run", **SMALL}
    for _ in range(2):
        with pytest.raises(InputError, match=r"report_to down: could not be started \(no answer\)"):
            vdu.unlearn(desk / "model", "ascent", report_to=Down(), **how)
    vdu.unlearn(desk / "model", "ascent", **how)
    with pytest.raises(InputError, match="could not be started"):  # what there is to continue from stays
        vdu.unlearn(desk / "model", "ascent", report_to=Down(), resume=True, **how)
    assert (desk / "run" / "pipeline" / "model_index.json").is_file()


# a method of one's own

FLOOR = '''
import vdu
from vdu.core.types import Losses
from vdu.methods.base import mean_squared


class Floor(vdu.Method):
    """Pushes the error of the forget images up."""

    multiple: float = 3.0

    def losses(self, denoiser, batch):
        error = mean_squared(denoiser, batch["forget"]).mean()
        return Losses({"forget": -self.multiple * error}, {"mse": error.detach()})
'''


def test_no_option_has_the_name_of_a_setting_and_no_default_is_a_list(registered):
    own = {name for name, each in signature(vdu.unlearn).parameters.items() if each.kind is not each.VAR_KEYWORD}
    assert metadata.SETTINGS == own | set(TrainingOptions.__annotations__)
    space: dict[str, type] = {}
    exec(FLOOR.replace("float = 3.0", "list = [1]"), space)
    with pytest.raises(InputError, match="Floor: cannot become a dataclass .*expected options with a number"):
        vdu.register("floor")(space["Floor"])


def test_a_limit_on_a_value_that_is_never_returned_is_said_once(make_pipeline, registered, capsys):
    space: dict[str, type] = {}
    exec(FLOOR.replace("    multiple", "    limits = {'msee': 2.0}\n    multiple"), space)
    vdu.unlearn(make_pipeline(), vdu.register("floor")(space["Floor"]), forget=PIXELS, **SMALL | {"steps": 2})
    assert (
        capsys.readouterr().err.count("the method floor limits msee, and its losses() return no value of that name")
        == 1
    )


@pytest.mark.parametrize("kind", ["property", "cached_property"])
def test_limits_and_draws_may_depend_on_what_prepare_takes(kind, make_pipeline, registered):
    prepared = f"""
    @{kind}
    def limits(self):
        return {{"mse": 0.01 * len(self.schedule)}}

    @{kind}
    def draws(self):
        return {{"forget": {{f"of {{len(self.schedule)}}": "image"}}}}

    multiple"""
    space: dict[str, Any] = {"cached_property": cached_property}
    exec(FLOOR.replace("\n    multiple", prepared, 1), space)
    made = vdu.unlearn(make_pipeline(), vdu.register("floor")(space["Floor"]), forget=PIXELS, **SMALL | {"steps": 1})
    assert made.training.steps == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("pass", "Floor: has no name; expected one"),
        ("name = 'floor'", "Floor: has no losses; expected def losses"),
        (
            "name = 'floor'; needs = {'forgett'}; losses = print",
            "Floor: needs: got 'forgett'; expected a set with some of forget",
        ),
        ("name = 'floor'; needs = 'forget'; losses = print", "Floor: needs: got 'forget'"),
        ("name = 'floor'; uses = {'techer'}; losses = print", "Floor: uses: got 'techer'; expected .* teacher"),
        ("name = 'floor'; batch_shares = {'retained': 1.0}; losses = print", "Floor: batch_shares: got 'retained'"),
        ("name = 'floor'; needs = None; losses = print", "Floor: needs: got None"),
        ("name = 'floor'; uses = 5; losses = print", "Floor: uses: got 5"),
        ("name = 'floor'; batch_shares = {'forget': 0}; losses = print", "Floor: batch_shares: got {'forget': 0}"),
        (
            "name = 'floor'; limits = {'mse': float('nan')}; losses = print",
            "Floor: limits: got {'mse': nan}; expected a number above 0",
        ),
        ("name = 'floor'; limits = None; losses = print", "Floor: limits: got None; expected a mapping"),
        ("name = 'floor'; stops = 'no'; losses = print", "Floor: stops: got 'no'; expected True or False"),
        ("name = 'floor'; pool = -3; losses = print", "Floor: pool: got -3; expected 0 or more"),
        (
            "name = 'floor'; training = {'steps': 3}; losses = print",
            "Floor: training: got {'steps': 3}; expected a vdu.methods.defaults",
        ),
        ("name = 'floor'; substitutes = 'maybe'; losses = print", "Floor: substitutes: got 'maybe'"),
        ("name = 'floor'; draws = ['forget']; losses = print", "Floor: draws: got a list"),
        ("name = 'floor'; strength = ('scale',); losses = print", "Floor: strength: got 'scale', which is no option"),
        (
            "name = 'floor'; ranges = {'scale': None}; losses = print",
            "Floor: ranges: got {'scale': None}; expected a vdu.core.ranges",
        ),
        (
            "name = 'floor'; word_options = {'scale': 1}; losses = print",
            "Floor: word_options: got 'scale', which is no option",
        ),
        (
            "name = 'floor'; only_with = {'alpha_bar_range': 'x'}; losses = print",
            "Floor: only_with: got {'alpha_bar_range': 'x'}",
        ),
        (
            "name = 'floor'; only_with = {'alpha_bar_range': ('x', [1])}; losses = print",
            "Floor: only_with: alpha_bar_range depends on 'x'",
        ),
        (
            "name = 'floor'; estimator = 'fisher'; losses = print",
            "Floor: estimator: got 'fisher' without an option for the posterior",
        ),
        (
            "name = 'floor'; losses = print; steps: int = 3",
            "Floor: the option 'steps' has the name of a setting of vdu.unlearn",
        ),
    ],
)
def test_a_method_that_lacks_something_is_refused_before_any_work(source, message, registered):
    space: dict[str, type] = {"vdu": vdu}
    exec(f"class Floor(vdu.Method):\n    'One.'\n    {source}", space)
    for call in (
        lambda: vdu.unlearn(object(), space["Floor"], forget=PIXELS, **SMALL),
        lambda: vdu.unlearn(object(), space["Floor"](), forget=PIXELS, **SMALL),
        lambda: vdu.register(space["Floor"]),
    ):
        with pytest.raises(InputError, match=f"^{message}|name is '' and summary"):
            call()


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (lambda d, b: {"x": d.noise(b["forget"]).mean()}, "losses.. returned .*expected vdu.Losses of terms"),
        (
            lambda d, b: Losses({"x": d.noise(b["forget"])}),
            r"returned a tensor \[4, 1, 8, 8\] as the term 'x'; expected a scalar",
        ),
        (
            lambda d, b: Losses({"x": torch.zeros(())}),
            r"returned terms \(x\) without a gradient, so nothing would train",
        ),
        (lambda d, b: Losses([d.noise(b["forget"]).mean()]), "returned a list for its terms; expected scalars by name"),
        (
            lambda d, b: Losses({1: d.noise(b["forget"]).mean()}),
            "returned a dict for its terms; expected scalars by name",
        ),
        (
            lambda d, b: Losses({"x": d.noise(b["forget"]).mean() * (1 + 1j)}),
            r"returned a complex tensor \[\] as the term 'x'",
        ),
        (lambda d, b: Losses({"x": d.noise(b["forget"]).mean()}, None), "returned None for its observed values"),
        (
            lambda d, b: Losses({"x": d.noise(b["forget"]).mean()}, {"mse": 0.5}),
            "returned 0.5 as the observed value 'mse'",
        ),
        (
            lambda d, b: Losses({"x": d.noise(b["forget"]).mean()}, {"x": torch.zeros(())}),
            "returned the name 'x' twice",
        ),
    ],
)
def test_losses_of_a_method_of_ones_own_are_checked(make_pipeline, losses, message):
    class Own(vdu.Method):
        """One."""

        name, summary = "own", "One."

        def losses(self, denoiser, batch):
            return losses(denoiser, batch)

    with pytest.raises(InputError, match=f"the method own: {message}" if message.startswith("losses") else message):
        vdu.unlearn(make_pipeline(), Own(), forget=PIXELS, **SMALL)


def test_a_class_is_registered_by_a_name_with_its_annotations_as_options(make_pipeline, registered):
    from vdu.commands import list_methods

    space: dict[str, type] = {}
    exec(FLOOR, space)
    kind = vdu.register("floor")(space["Floor"])
    assert (kind.name, kind.summary) == ("floor", "Pushes the error of the forget images up.")
    by_name = vdu.unlearn(make_pipeline(), "floor", forget=PIXELS, multiple=2, **SMALL)
    made = vdu.unlearn(make_pipeline(), kind(multiple=2.0), forget=PIXELS, **SMALL)
    assert weights(by_name.pipeline) == weights(made.pipeline) and by_name.method.multiple == 2.0
    found = list_methods.run(list_methods.ListSettings())
    assert "multiple=3.0" in found["floor"]["options"] and found["floor"]["summary"] == kind.summary


def test_a_class_in_a_file_is_a_method_of_the_command_line(desk, command, registered, capsys):
    (desk / "floor.py").write_text(FLOOR)
    named = f"{desk / 'floor.py'}:Floor"
    how = ("--steps", 2, "--batch-size", 4, "--option", "multiple=2.5")
    assert command("unlearn", "--pipeline", desk / "model", "--forget", desk / "unwanted", "--output-dir", desk / "run",
                   "--method", named, *how) == 0  # fmt: skip
    config = tomllib.loads((desk / "run" / "config.toml").read_text("utf-8"))
    assert (config["method"], config["option"]) == (named, ["multiple=2.5"])
    assert "| method | floor |" in (desk / "run" / "pipeline" / "README.md").read_text("utf-8")
    result = vdu.unlearn(
        desk / "model", named, forget=desk / "unwanted", multiple=2.5, **SMALL | {"steps": 2, "learning_rate": None}
    )
    assert weights(result.pipeline) == weights(vdu.load_pipeline(desk / "run" / "pipeline"))
    capsys.readouterr()
    assert command("list", named) == 0 and "multiple=3.0" in capsys.readouterr().out


def test_the_code_of_ones_own_class_is_part_of_what_a_run_resumes(tmp_path, monkeypatch):
    found = []
    for name, text in (("one", FLOOR), ("same", FLOOR), ("other", FLOOR.replace("-self.multiple", "self.multiple"))):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.setattr(registry, "_registered", {})
        found.append(registry.get(f"{tmp_path / name}.py:Floor")().identity)
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("place", ["FILE.py", "module"])
def test_so_is_what_it_calls(tmp_path, monkeypatch, place):
    """A function beside the class, in a file of the command line and in a module that is imported."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    found = []
    for sign in ("-", "-", "+"):
        (tmp_path / "floors.py").write_text(
            FLOOR.replace("-self.multiple", "signed(self.multiple)") + f"\n\ndef signed(x):\n    return {sign}x\n"
        )
        monkeypatch.setattr(registry, "_registered", {})
        monkeypatch.delitem(sys.modules, "floors", raising=False)
        importlib.invalidate_caches()
        kind = (
            registry.get(f"{tmp_path / 'floors.py'}:Floor")
            if place == "FILE.py"
            else importlib.import_module("floors").Floor
        )
        found.append(kind().identity)
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("text", "wanted", "message"),
    [
        ("", "Floor", "has no class 'Floor'; it has none"),
        (FLOOR, "Flor", "has no class 'Flor'; it has Floor. Did you mean 'Floor'?"),
        ("import nothing_of_that_name", "Floor", r"cannot be run \(ModuleNotFoundError: No module named"),
        ("class Floor: pass", "Floor", r"register: got the class Floor; expected a class that inherits from vdu.Method"),
        ("import vdu\nclass Floor(vdu.Method):\n    'Some.'", "Floor", "Floor: has no losses; expected def losses"),
        (FLOOR.replace('    """Pushes the error of the forget images up."""\n', ""), "Floor", "summary ''; expected both"),
        (FLOOR + "    name = 'esd'\n", "Floor", "the name 'esd' is taken"),
        (FLOOR + "    name = 'a:b'\n", "Floor", "name is 'a:b'; expected letters, digits and dashes"),
        (FLOOR + "    stops: bool = False\n", "Floor", "stops is annotated, which makes it an option"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_method_is_refused(tmp_path, registered, text, wanted, message):
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(InputError, match=message):
        registry.get(f"{tmp_path / 'own.py'}:{wanted}")
    with pytest.raises(InputError, match=r"nowhere.py: no such file; expected FILE.py:CLASS"):
        registry.get("nowhere.py:Floor")


# nonsense


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pipeline": 3}, "pipeline: got int, which lacks a network"),
        ({"pipeline": vdu.ImageSet}, "pipeline: got the class ImageSet; expected an object"),
        ({"pipeline": "nowhere"}, "nowhere: no model_index.json there|no such folder"),
        ({"method": 3}, "method: got 3; expected a name"),
        ({"method": dict}, "method: got the class dict; expected a name"),
        ({"method": vdu.gradient_ascent}, "method: got a function; expected a name"),
        ({"method": "asent"}, "method: got 'asent'; .*Did you mean 'ascent'"),
        ({"method": "vdu", "posterior": 3}, "posterior: got 3; expected a GaussianPosterior"),
        ({"posterior": "nowhere"}, "nowhere: "),
        ({"gamma": 0.1}, "unexpected keyword argument 'gamma'; the options of the method ascent are schedule, alpha_bar_range, weights"),
        ({"wieghts": "elbo"}, "unexpected keyword argument 'wieghts'; did you mean 'weights'"),
        ({"foldr": "x"}, "unexpected keyword argument 'foldr'; did you mean 'folder'"),
        ({"method": vdu.gradient_ascent(), "weights": "elbo"}, r"weights: is an option of the method, .* GradientAscent\(weights=…\)"),
        ({"weights": 3}, "weights: got 3; expected a value such as weights=paper"),
        ({"weights": "no"}, "weights: got 'no'"),
        ({"alpha_bar_range": "all"}, "alpha_bar_range: got 'all'; expected a value such as alpha_bar_range=0.0,1.0"),
        ({"method": "vdu", "gamma": "much"}, "gamma: got 'much'; expected a value such as gamma=0.1"),
        ({"forget": None}, "forget is missing: give the images to forget"),
        ({"forget": 3}, "forget: got 3; expected a folder"),
        ({"forget": PIXELS / 255}, "expected uint8 in 0…255"),
        ({"forget_class": 3.5}, "forget_class: got 3.5; expected the name or index of a class"),
        ({"forget_label": "3"}, "this model is unconditional"),
        ({"retain": PIXELS}, "retain: got a Tensor, but the method ascent does not use retained images"),
        ({"method": "finetune", "retain": 3}, "retain: got 3; expected a folder"),
        ({"generator": "x"}, "generator: got 'x'; expected a torch.Generator"),
        ({"generator": 0}, "generator: got 0; expected a torch.Generator, or an integer as seed=…"),
        ({"seed": 1.5}, "seed: got 1.5; expected an integer"),
        ({"device": "gpu"}, "device: got 'gpu'; expected cpu, cuda"),
        ({"device": "cuda:9"}, "device: got cuda:9, but"),
        ({"folder": 3}, "folder: got 3; expected a path"),
        ({"resume": True}, "resume: got True without a folder"),
        ({"overwrite": True}, "overwrite: got True without a folder"),
        ({"steps": -1}, "steps: got -1; expected at least 1"),
        ({"steps": "many"}, "steps: got 'many'; expected at least 1"),
        ({"steps": 2.5}, "steps: got 2.5; expected a whole number, at least 1"),
        ({"learning_rate": [1]}, "learning_rate: got a list; expected a number above 0"),
        ({"lr_schedule": "cosin"}, "lr_schedule: got 'cosin'; expected one of constant, linear, cosine"),
        ({"mixed_precision": "fp8"}, "mixed_precision: got 'fp8'; expected one of no, fp16, bf16"),
        ({"mixed_precision": "fp16"}, "mixed_precision: got fp16 on a CPU"),
        ({"sampler": "ddpm"}, "sampler: got 'ddpm'; expected a vdu.Sampler"),
        ({"full_length": True}, "full_length: the method ascent has no stopping rule"),
        ({"report_to": "paper"}, "report_to: got 'paper'"),
        ({"batch_size": 5, "gradient_accumulation_steps": 2}, "batch_size: got 5, which 2 gradient accumulation steps"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_in_words_before_anything_is_written(
    make_pipeline, tmp_path, monkeypatch, changes, message
):
    monkeypatch.chdir(tmp_path)
    given = {"pipeline": make_pipeline(), "method": "ascent", "forget": PIXELS, "folder": "run", **SMALL} | changes
    if {"resume", "overwrite"} & set(changes):
        given["folder"] = None
    with pytest.raises(InputError, match=message) as error:
        vdu.unlearn(given.pop("pipeline"), given.pop("method"), **given)
    assert "0x" not in str(error.value) and "tensor(" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_device_is_asked_for_and_the_callers_choice_is_kept(make_pipeline):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    mine = Accelerator(cpu=True)
    before = [dict(state._shared_state) for state in (PartialState, AcceleratorState)]
    plain = vdu.unlearn(make_pipeline(), "ascent", forget=PIXELS, **SMALL)
    asked = vdu.unlearn(make_pipeline(), "ascent", forget=PIXELS, device="cpu", **SMALL)
    assert weights(plain.pipeline) == weights(asked.pipeline)
    with pytest.raises(KeyboardInterrupt), on_device("cpu"):
        raise KeyboardInterrupt
    assert [dict(state._shared_state) for state in (PartialState, AcceleratorState)] == before
    assert mine.device.type == "cpu" and mine.num_processes == 1


# the other names


def test_samples_are_drawn_from_a_pipeline_by_number_or_seeds(make_pipeline, tmp_path):
    pipeline, short = make_pipeline(), vdu.Sampler("ddim", steps=2, microbatch_size=4)
    four = vdu.sample(pipeline, 4, short)
    assert four.shape == (4, 1, 8, 8)
    pipeline.save_pretrained(tmp_path)
    for given, seeds in ((vdu.PipelineDenoiser.from_pipeline(pipeline), range(4)), (tmp_path, [0, 1, 2, 3])):
        assert torch.equal(vdu.sample(given, seeds, short), four)
    for seeds in (np.int64(4), np.arange(4), torch.arange(4)):
        assert torch.equal(vdu.sample(pipeline, seeds, short), four)
    for bad in ("four", 0, -1, 1.5, True, [0.5]):
        with pytest.raises(InputError, match=r"seeds: got .*; expected a number of images, at least 1, or one integer"):
            vdu.sample(pipeline, bad, short)
    with pytest.raises(InputError, match="sampler: got 3"):
        vdu.sample(pipeline, 4, 3)


def test_report_has_the_settings_of_the_command(tmp_path):
    with pytest.raises(InputError, match=r"unexpected keyword argument 'hide_forgoten'.*Did you mean 'hide_forgotten'"):
        vdu.report(tmp_path, hide_forgoten=True)
    with pytest.raises(InputError, match="folder: got 3"):
        vdu.report(3)
    with pytest.raises(InputError, match=str(tmp_path)):
        vdu.report(tmp_path)


def test_public_names_exist_and_no_room_hides_one():
    rooms = {path.name for path in Path(vdu.__file__).parent.iterdir() if path.is_dir()}
    assert rooms & set(vdu.__all__) <= {"metrics"}
    assert set(vdu._HOMES) == set(vdu.__all__)
    for name, home in vdu._HOMES.items():
        assert getattr(vdu, name) is not None, home
    assert all(callable(getattr(vdu.metrics, name)) for name in vdu.metrics.__all__)
    assert np.isclose(vdu.metrics.frechet_distance(np.eye(4)[:, :2] * 1.0, np.eye(4)[:, :2] * 1.0).value, 0, atol=1e-6)
    with pytest.raises(AttributeError, match="has no attribute 'unlern'"):
        vdu.unlern  # ruff: ignore[useless-expression]


def test_arguments_about_samples_that_are_not_drawn_are_said_or_refused(desk, make_pipeline, capsys):
    given = {"forget": desk / "unwanted", **SMALL, "steps": 1}
    vdu.unlearn(desk / "model", "ascent", sampler=vdu.Sampler("ddpm", 7), n_own_samples=99, **given)
    said = capsys.readouterr().err
    assert all(
        f"warning: {name} has no effect: the method ascent learns from no generated samples" in said
        for name in ("the sampler", "the number of own samples")
    )
    vdu.unlearn(desk / "model", "ascent", **given)
    assert "no effect" not in capsys.readouterr().err
    pipeline, generator = make_pipeline(), torch.Generator()
    members = {"members": [make_pipeline(seed=each) for each in (1, 2)]}
    for estimator, more in (
        ("isotropic", {}),
        ("finetuned-ensemble", members),
        ("fisher", {"samples": torch.zeros(2, 1, 8, 8), "n_train": 9}),
    ):
        for name, value in (("n_samples", 77), ("sampler", vdu.Sampler("ddpm", 7))):
            with pytest.raises(InputError, match=f"{name}: got .*, and no samples are drawn"):
                vdu.fit_posterior(pipeline, estimator, generator=generator, **more, **{name: value})
    with pytest.raises(InputError, match="n_members: got 1; expected at least 2"):
        vdu.fit_posterior(pipeline, "finetuned-ensemble", generator=generator, n_members=1)


# what a run says of itself


def stages(folder):
    return {each["stage"]: each for each in json.loads((folder / "run.json").read_text("utf-8"))["stages"]}


def test_a_resumed_run_costs_what_all_of_it_cost(desk):
    def run(**options):
        return vdu.unlearn(desk / "model", "ascent", forget=desk / "unwanted", folder=desk / "run", **SMALL | options)

    run(checkpointing_steps=1)
    whole = stages(desk / "run")["unlearn"]
    assert whole["network_evaluations"] == 3 * 3 * 4
    run(resume=True)  # nothing is left to do
    again = stages(desk / "run")["unlearn"]
    assert again["network_evaluations"] == 36 and again["seconds"] >= whole["seconds"] and "resumed" not in again
    run(resume=True, steps=5)
    assert stages(desk / "run")["unlearn"]["network_evaluations"] == 5 * 3 * 4


def test_what_an_interrupted_part_cost_is_said_to_be_unknown(desk, monkeypatch):
    def run(**options):
        vdu.unlearn(desk / "model", "ascent", forget=desk / "unwanted", folder=desk / "run", **SMALL | options)

    with monkeypatch.context() as changed:
        changed.setattr(engine, "require_moved", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(checkpointing_steps=1)
    run(resume=True, checkpointing_steps=1)
    assert stages(desk / "run")["unlearn"]["resumed"] is True


def test_what_draws_the_forget_set_is_part_of_the_cost(make_pipeline):
    pipeline = make_pipeline(num_class_embeds=3)
    pipeline.class_names = ("a", "b", "c")
    sampler = vdu.Sampler("ddim", 2, microbatch_size=64)
    made = vdu.unlearn(pipeline, "ascent", forget_label="b", sampler=sampler, force=True, **SMALL)
    assert made.network_evaluations == 256 * 2 + 3 * 3 * 4


def test_a_run_is_not_both_continued_and_begun_anew(desk):
    options = {"forget": desk / "unwanted", "folder": desk / "run", **SMALL}
    vdu.unlearn(desk / "model", "ascent", **options)
    with pytest.raises(
        InputError, match="got both overwrite=True, which starts anew, and resume=True, which continues"
    ):
        vdu.unlearn(desk / "model", "ascent", resume=True, overwrite=True, **options)


def test_changed_forget_images_make_a_result_in_memory_out_of_date(make_pipeline):
    result = vdu.unlearn(make_pipeline(), "ascent", forget=PIXELS.clone(), **SMALL)
    assert not result.is_out_of_date()
    result.forget.images.fill_(200)
    assert result.is_out_of_date()
    with pytest.raises(InputError, match="out of date.* or the forget set other images"):
        vdu.evaluate(result)


def test_a_changed_scheduler_makes_a_result_out_of_date(desk):
    for folder in (None, desk / "run"):
        result = vdu.unlearn(desk / "model", "ascent", forget=desk / "unwanted", folder=folder, **SMALL)
        assert not result.is_out_of_date()
        result.pipeline.scheduler = DDPMScheduler(beta_end=0.03)
        assert result.is_out_of_date()
        result.save_pretrained(desk / f"clean-{folder is None}")
        with pytest.raises(InputError, match="out of date"):
            vdu.evaluate(result)


@pytest.mark.parametrize("change", [{"scheduler": DDPMScheduler(beta_end=0.03)}, {"timestep_scale": 0.25}])
def test_other_options_of_the_original_make_a_result_in_memory_out_of_date(make_pipeline, change):
    original = make_pipeline()
    result = vdu.unlearn(original, "ascent", forget=PIXELS.clone(), **SMALL)
    for name, value in change.items():
        setattr(original, name, value)
    assert result.is_out_of_date()
    with pytest.raises(InputError, match="out of date"):
        vdu.evaluate(result)


def test_a_list_of_images_names_what_is_no_image_file(make_pipeline, tmp_path):
    for file in ("a.png", "folder/b.png"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8), 9).save(tmp_path / file)
    for given, words in (
        (
            [tmp_path / "a.png", tmp_path / "folder"],
            f"got a list with the folder {tmp_path / 'folder'}; expected files",
        ),
        ([tmp_path / "a.png", tmp_path / "a.png"], r"2, 1 of them distinct \('.*a\.png' is there more than once\)"),
    ):
        with pytest.raises(InputError, match=words):
            vdu.unlearn(make_pipeline(), "ascent", forget=given, **SMALL)


def test_the_card_goes_with_the_model_that_it_describes(desk, capsys):
    result = vdu.unlearn(desk / "model", "ascent", forget=desk / "unwanted", **SMALL)
    result.save_pretrained(desk / "clean")
    vdu.save_pipeline(result.original, desk / "clean")
    assert not (desk / "clean" / "README.md").exists()
    (desk / "clean" / "README.md").write_text("My own words.\n", "utf-8")
    vdu.save_pipeline(result.original, desk / "clean")
    assert (desk / "clean" / "README.md").read_text("utf-8") == "My own words.\n"
    result.save_pretrained(desk / "clean")
    assert "README.md, which described another model, was replaced by the model card" in capsys.readouterr().err


def test_a_result_that_was_resumed_costs_what_all_of_the_run_cost(desk):
    """Two and two steps of 4 images, forward 1 and backward 2, and what the run's own record says."""
    how = {"forget": desk / "unwanted", "folder": desk / "run", **SMALL}
    first = vdu.unlearn(desk / "model", "ascent", **how | {"steps": 2})
    second = vdu.unlearn(desk / "model", "ascent", **how | {"steps": 4}, resume=True)
    (stage,) = json.loads((desk / "run" / "run.json").read_text("utf-8"))["stages"]
    assert (second.network_evaluations, second.seconds) == (stage["network_evaluations"], stage["seconds"])
    assert second.network_evaluations > first.network_evaluations and second.seconds > first.seconds
    assert "at least" not in repr(second) and "at least 0 s" in repr(
        replace(second, cost_is_at_least=True, seconds=0.0)
    )


@pytest.mark.parametrize("in_a_folder", [False, True])
def test_the_card_of_a_pipeline_that_was_changed_after_the_run_says_so(desk, capsys, in_a_folder):
    folder = {"folder": desk / "run"} if in_a_folder else {}
    result = vdu.unlearn(desk / "model", "ascent", forget=desk / "unwanted", **SMALL, **folder)
    result.pipeline.unet.load_state_dict(result.original.unet.state_dict())
    result.save_pretrained(desk / "clean")
    assert "the pipeline was changed after the run; its model card says so" in capsys.readouterr().err
    assert "| what remains | not known: this pipeline was changed after the run" in (
        desk / "clean" / "README.md"
    ).read_text("utf-8")


def test_the_card_names_the_original_as_it_was(make_pipeline, tmp_path):
    pipeline = make_pipeline()
    before = weights_sha256(pipeline.unet)
    result = vdu.unlearn(pipeline, "ascent", forget=PIXELS, **SMALL)
    next(pipeline.unet.parameters()).data.add_(1)
    result.save_pretrained(tmp_path / "clean")
    assert f"| made from | weights with SHA-256 `{before}`" in (tmp_path / "clean" / "README.md").read_text("utf-8")


def test_corrections_that_were_changed_are_not_saved(make_pipeline, tmp_path):
    attention = {"down_block_types": ("AttnDownBlock2D",), "up_block_types": ("UpBlock2D",)}
    result = vdu.unlearn(make_pipeline(**attention), "ascent", forget=PIXELS, train="lora:2", **SMALL)
    for name, value in result.trained.named_parameters():
        if "lora" in name:
            value.data.zero_()
    with pytest.raises(InputError, match="save_lora: the pipeline was changed after the run"):
        result.save_lora(tmp_path / "lora")


def test_corrections_of_a_changed_pipeline_are_not_saved(make_pipeline, tmp_path):
    attention = {"down_block_types": ("AttnDownBlock2D",), "up_block_types": ("UpBlock2D",)}
    result = vdu.unlearn(make_pipeline(**attention), "ascent", forget=PIXELS, train="lora:2", **SMALL)
    assert result.save_lora(tmp_path / "lora").is_file()
    next(result.original.unet.parameters()).data.add_(1)  # whose memory the network in training shares
    assert result.save_lora(tmp_path / "lora").is_file()
    next(result.pipeline.unet.parameters()).data.add_(1)
    with pytest.raises(InputError, match="save_lora: the pipeline was changed after the run"):
        result.save_lora(tmp_path / "other")


@pytest.mark.slow
def test_images_that_were_given_are_not_said_to_be_drawn(make_pipeline, desk):
    """Under a label as well, and the settings say what they lack."""
    pipeline = make_pipeline(num_class_embeds=4)
    pipeline.class_names, pipeline.null_class = ("a", "b", "c"), 3
    how = {"forget_label": "b", "sampler": vdu.Sampler("ddim", 1, microbatch_size=64), "force": True, **SMALL}
    posterior = fit_isotropic(dict(pipeline.unet.named_parameters()), 1e-4)
    cases = {
        "given": ({"forget": PIXELS}, "images given in Python", "forget"),
        "drawn": ({}, "the model itself", None),
        "read": ({"forget": desk / "unwanted"}, str(desk / "unwanted"), None),
        "held": ({"posterior": posterior, "method": "vdu"}, "the model itself", "posterior"),
    }
    for name, (options, source, lacking) in cases.items():
        vdu.unlearn(pipeline, **{"method": "ascent"} | how | options, folder=desk / name)
        record = json.loads((desk / name / "run.json").read_text("utf-8"))
        assert record["inputs"]["forget"]["source"] == source
        said = (
            f"# {lacking}: given in Python as objects, which have no name here: with this file the run is another one"
        )
        assert (said in (desk / name / "config.toml").read_text("utf-8")) == (lacking is not None)


@pytest.mark.slow
def test_a_method_in_closed_form_is_not_resumed_for_another_concept(tmp_path):
    """It has no checkpoint that could be told apart."""
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    pipeline = tiny_pipelines.stable_diffusion()
    how = {"method": "uce", "folder": tmp_path / "run", "sampler": vdu.Sampler("ddim", 1, microbatch_size=256)}
    how |= {"progress": None, "keep_prompts": ["a tree"], "force": True}
    made = vdu.unlearn(pipeline, forget_prompt="cat", **how)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="was written with other settings, data or model"):
        vdu.unlearn(pipeline, forget_prompt="dog", resume=True, **how)
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    again = vdu.unlearn(pipeline, forget_prompt="cat", resume=True, **how)
    assert weights(again.pipeline) == weights(made.pipeline)
