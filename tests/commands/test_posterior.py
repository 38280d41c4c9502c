"""``vdu posterior``: killed and resumed, it ends with the bits of an undisturbed run."""

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import tiny_pipelines
from vdu.commands import posterior as verb
from vdu.commands.settings import PosteriorSettings
from vdu.core.errors import DivergenceError, InputError
from vdu.core.records import read_json, write_json
from vdu.models.denoiser import PipelineDenoiser
from vdu.posterior.estimators import ESTIMATORS
from vdu.posterior.gaussian import GaussianPosterior
from vdu.unlearning.fine_tuned_members import FILE

CASES = {
    "fisher": {"n_train": 50, "draws_per_half": 1},
    "amnesia-fisher": {"timesteps_per_sample": 2},
    "ensemble": {"mean": "recentre"},
    "finetuned-ensemble": {"n_members": 3, "finetune_steps": 2, "finetune_batch_size": 2},
}


@pytest.fixture
def settings(make_pipeline, tmp_path):
    """Settings of a run by the name of its folder."""
    make_pipeline().save_pretrained(tmp_path / "model")
    for k in range(3):
        make_pipeline(seed=k + 1).save_pretrained(tmp_path / f"member-{k}")

    def make(name, estimator, **changes) -> PosteriorSettings:
        members = tuple(tmp_path / f"member-{k}" for k in range(3)) if estimator == "ensemble" else ()
        fixed = {"pipeline": tmp_path / "model", "members": members, "n_samples": 5, "inference_steps": 2}
        options = fixed | CASES.get(estimator, {}) | changes
        return PosteriorSettings(estimator=estimator, output_dir=tmp_path / name, **options)

    return make


@pytest.fixture
def kill(monkeypatch):
    """Let an estimator raise a Ctrl-C at a given item; counts the items that it took in."""
    monkeypatch.setattr(ESTIMATORS["fisher"], "save_every", 1)
    monkeypatch.setattr(ESTIMATORS["amnesia-fisher"], "save_every", 1)

    def arm(name, at=None):
        taken, real = [], ESTIMATORS[name].update

        def update(self, state, *rest):
            if len(taken) == at:
                raise KeyboardInterrupt
            taken.append(state.count)
            return real(self, state, *rest)

        patch = pytest.MonkeyPatch()
        patch.setattr(ESTIMATORS[name], "update", update)
        return taken, patch

    return arm


def kill_at(kill, settings, estimator, at, **changes):
    _, patch = kill(estimator, at)
    with pytest.raises(KeyboardInterrupt):
        verb.run(settings("killed", estimator, **changes))
    patch.undo()


@pytest.mark.parametrize("estimator", CASES)
def test_killed_and_resumed_it_ends_with_the_same_bits(settings, kill, tmp_path, estimator):
    verb.run(settings("whole", estimator))
    kill_at(kill, settings, estimator, 2)
    assert (tmp_path / "killed" / verb.STATE).exists()
    taken, patch = kill(estimator)
    verb.run(settings("killed", estimator, resume_from_checkpoint="latest"))
    patch.undo()
    assert taken == list(range(2, 5 if "fisher" in estimator else 3))  # the first two were not taken in again
    whole, resumed = (tmp_path / name / verb.FILE for name in ("whole", "killed"))
    assert whole.read_bytes() == resumed.read_bytes()
    assert not (tmp_path / "killed" / verb.STATE).exists()


def test_a_damaged_state_is_refused(settings, kill, tmp_path):
    kill_at(kill, settings, "fisher", 2)
    file = tmp_path / "killed" / verb.STATE
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    resumed = settings("killed", "fisher", resume_from_checkpoint="latest")
    with pytest.raises(InputError, match=rf"damaged .*Delete {verb.STATE} to estimate from the beginning"):
        verb.run(resumed)
    file.unlink()
    verb.run(resumed)
    verb.run(settings("whole", "fisher"))
    assert (tmp_path / "killed" / verb.FILE).read_bytes() == (tmp_path / "whole" / verb.FILE).read_bytes()


def test_other_settings_are_refused_and_not_written_down(settings, kill, tmp_path):
    kill_at(kill, settings, "fisher", 2)
    before = (tmp_path / "killed" / "config.toml").read_text()
    with pytest.raises(InputError, match="was written with other settings, data or model"):
        verb.run(settings("killed", "fisher", resume_from_checkpoint="latest", n_train=51))
    assert (tmp_path / "killed" / "config.toml").read_text() == before


def test_a_refused_mean_is_recentred_without_another_estimation(settings, kill, tmp_path, monkeypatch):
    real = verb.mean_is_usable
    monkeypatch.setattr(verb, "mean_is_usable", lambda *given, **options: (real(*given, **options)[0], False))
    with pytest.raises(InputError, match="Use --mean recentre"):
        verb.run(settings("killed", "ensemble", mean="refuse"))
    taken, patch = kill("ensemble")
    verb.run(settings("killed", "ensemble", mean="recentre", resume_from_checkpoint="latest"))
    patch.undo()
    assert taken == []
    assert GaussianPosterior.load(tmp_path / "killed" / verb.FILE).n_members == 3


@pytest.mark.parametrize(
    ("estimator", "option", "value", "users"),
    [
        ("fisher", "timesteps_per_sample", 4, "amnesia-fisher"),
        ("amnesia-fisher", "n_train", 10, "fisher"),
        ("isotropic", "draws_per_half", 2, "fisher"),
        ("fisher", "variance", 1e-3, "isotropic"),
        ("ensemble", "n_members", 3, "finetuned-ensemble"),
        ("isotropic", "data", "digits", "finetuned-ensemble"),
        ("finetuned-ensemble", "members", ("a", "b"), "ensemble"),
    ],
)
def test_an_option_of_another_estimator_is_refused(settings, tmp_path, estimator, option, value, users):
    said = f"--{option.replace('_', '-')}: the estimator {estimator} does not use it; leave it out, or use {users}."
    with pytest.raises(InputError) as error:
        verb.run(settings("out", estimator, **{option: value}))
    assert str(error.value) == said and not (tmp_path / "out").exists()


def test_isotropic_covers_what_the_filter_names(settings, tmp_path):
    verb.run(settings("part", "isotropic", name_filter="conv_in"))
    assert list(GaussianPosterior.load(tmp_path / "part" / verb.FILE).mean) == ["conv_in.bias", "conv_in.weight"]


@pytest.mark.parametrize("estimator", ["fisher", "finetuned-ensemble", "isotropic"])
def test_a_class_conditional_model_is_estimated_under_its_classes(make_pipeline, settings, tmp_path, estimator):
    make_pipeline(num_class_embeds=3).save_pretrained(tmp_path / "conditional")
    verb.run(settings("out", estimator, pipeline=tmp_path / "conditional"))
    posterior = GaussianPosterior.load(tmp_path / "out" / verb.FILE)
    assert "class_embedding.weight" in posterior.mean
    assert ("labels" in posterior.sources) == (estimator == "fisher")


@pytest.mark.parametrize("estimator", ["fisher", "finetuned-ensemble", "isotropic"])
def test_only_what_trains_is_estimated(make_pipeline, settings, tmp_path, estimator):
    blocks = {"down_block_types": ("AttnDownBlock2D",), "up_block_types": ("AttnUpBlock2D",)}
    make_pipeline(**blocks).save_pretrained(tmp_path / "attentive")
    verb.run(settings("out", estimator, pipeline=tmp_path / "attentive", train="lora:2"))
    covered = GaussianPosterior.load(tmp_path / "out" / verb.FILE).mean
    assert covered and all(
        name.endswith(".weight") and any(f".{part}." in name for part in ("to_q", "to_k", "to_v", "to_out.0"))
        for name in covered
    )
    if estimator == "finetuned-ensemble":
        assert set(load_file(tmp_path / "out" / "members" / "0" / FILE)) == set(covered)


def test_a_finished_ensemble_is_not_resumed_with_other_settings_or_data(settings, tmp_path):
    """Its state is gone by then, and its members are still there."""
    verb.run(settings("done", "finetuned-ensemble"))
    before = (tmp_path / "done" / "config.toml").read_text(), (tmp_path / "done" / verb.FILE).read_bytes()
    for changes in ({"seed": 1}, {"finetune_steps": 3}, {"data": _folder(tmp_path / "images")}):
        with pytest.raises(InputError, match=r"done: .*other settings, data or model"):
            verb.run(settings("done", "finetuned-ensemble", resume_from_checkpoint="latest", **changes))
        assert before == ((tmp_path / "done" / "config.toml").read_text(), (tmp_path / "done" / verb.FILE).read_bytes())
    record = read_json(tmp_path / "done" / "run.json")
    write_json(tmp_path / "done" / "run.json", {name: record[name] for name in record if name != "identity"})  # earlier
    with pytest.raises(InputError, match=r"members/0/.*other settings, data or model"):
        verb.run(settings("done", "finetuned-ensemble", resume_from_checkpoint="latest", seed=1))
    verb.run(settings("done", "finetuned-ensemble", resume_from_checkpoint="latest"))
    assert before[1] == (tmp_path / "done" / verb.FILE).read_bytes()


def test_a_member_that_changed_on_disk_is_noticed(settings, kill, make_pipeline, tmp_path):
    kill_at(kill, settings, "ensemble", 2)
    make_pipeline(seed=9).save_pretrained(tmp_path / "member-0")  # which was taken in already
    with pytest.raises(InputError, match="other settings"):
        verb.run(settings("killed", "ensemble", resume_from_checkpoint="latest"))


@pytest.mark.slow
def test_an_ensemble_of_text_encoders_is_the_mean_of_theirs_and_knows_them(tmp_path):
    """All members have one network, so that their text encoders alone tell them apart."""
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    members = []
    for k in range(3):
        pipeline = tiny_pipelines.stable_diffusion()
        for value in pipeline.text_encoder.parameters():
            value.data += 1e-3 * k * k  # the mean is 5/3 · 10⁻³ above the first
        pipeline.save_pretrained(tmp_path / f"member-{k}")
        members.append(tmp_path / f"member-{k}")
    settings = PosteriorSettings(
        estimator="ensemble", pipeline=members[0], members=tuple(members), output_dir=tmp_path / "out", train="text-encoder",
        n_samples=4, inference_steps=2,
    )  # fmt: skip
    verb.run(settings)
    mean = GaussianPosterior.load(tmp_path / "out" / verb.FILE).mean
    first = tiny_pipelines.stable_diffusion().text_encoder.state_dict()
    assert {name.removeprefix("text_encoder.") for name in mean} == set(first)
    for name, value in first.items():
        torch.testing.assert_close(mean[f"text_encoder.{name}"], value + 5e-3 / 3)
    denoiser = PipelineDenoiser.from_pipeline(tiny_pipelines.stable_diffusion())
    before = verb._identity(settings, denoiser, None)
    pipeline.text_encoder.get_input_embeddings().weight.data += 1
    pipeline.save_pretrained(members[2])
    assert verb._identity(settings, denoiser, None) != before


def _folder(path):
    path.mkdir(exist_ok=True)
    Image.new("L", (8, 8), 7).save(path / "a.png")
    return path


def test_a_finished_estimation_is_not_resumed_with_other_settings(settings, tmp_path):
    verb.run(settings("done", "fisher"))
    before = (tmp_path / "done" / verb.FILE).read_bytes()
    with pytest.raises(InputError, match="was written with other settings, data or model"):
        verb.run(settings("done", "fisher", n_train=51, resume_from_checkpoint="latest"))
    assert (tmp_path / "done" / verb.FILE).read_bytes() == before


def test_an_unfinished_run_gives_no_posterior(settings, kill, tmp_path):
    verb.run(settings("killed", "fisher"))
    record = read_json(tmp_path / "killed" / "run.json")
    write_json(tmp_path / "killed" / "run.json", record | {"finished": False})
    for given in (tmp_path / "killed", tmp_path / "killed" / verb.FILE):
        with pytest.raises(InputError, match="is not finished"):
            verb.load_posterior(given)
    (tmp_path / "killed" / verb.FILE).rename(tmp_path / "killed" / "mine.safetensors")  # not the run's
    assert verb.load_posterior(tmp_path / "killed" / "mine.safetensors").estimator == "fisher"
    (tmp_path / "killed" / "mine.safetensors").rename(tmp_path / "killed" / verb.FILE)
    write_json(tmp_path / "killed" / "run.json", record | {"verb": "unlearn", "finished": False})  # what it was given
    assert verb.load_posterior(tmp_path / "killed" / verb.FILE).estimator == "fisher"


def test_a_member_that_diverges_in_its_last_step_is_not_stored(settings, tmp_path):
    """It was stored, so that a run that was resumed failed by it again."""
    with pytest.raises(DivergenceError, match="diverged at step 1: the predictions of the trained model"):
        verb.run(settings("out", "finetuned-ensemble", finetune_steps=1, finetune_learning_rate=1e30))
    assert not list((tmp_path / "out").glob(f"members/*/{FILE}"))
