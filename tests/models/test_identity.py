"""Two models have one identity exactly if they make the same samples; every field of the description is changed once."""

import inspect
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, EulerDiscreteScheduler, LCMScheduler, UNet2DModel
from diffusers.configuration_utils import register_to_config

import vdu
from vdu.core.cache import PACKAGED, cache_folder, write_cached
from vdu.core.checks import hash_parameters
from vdu.core.errors import InputError
from vdu.core.records import sha256_bytes
from vdu.diffusion.sampling import Sampler
from vdu.diffusion.schedule import NoiseSchedule
from vdu.evaluation.models import _opened
from vdu.models import identity as room
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.identity import (
    configuration_sha256,
    differences,
    identity,
    is_recorded_configuration,
    trained_part,
    weights_sha256,
)
from vdu.models.pipelines import load_pipeline
from vdu.models.saving import save_pipeline
from vdu.posterior.isotropic import fit_isotropic
from vdu.replay.generated import SHARED_SEED, cached_samples
from vdu.unlearning.fit_posterior import fit_posterior
from vdu.unlearning.plan import check_origin
from vdu.zoo.packaged import pipeline_folder


def denoiser(pipeline):
    return PipelineDenoiser.from_pipeline(pipeline)


BETAS = [1e-4 + i * 1e-5 for i in range(1500)]
OTHERS = {
    "a weight": lambda make: nudged(make()),
    "the schedule": lambda make: make({"beta_end": 0.03}),
    "the number of steps": lambda make: make({"num_train_timesteps": 900}),
    "betas": lambda make: make({"num_train_timesteps": 1500, "trained_betas": np.array(BETAS)}),
    "one beta of 1500": lambda make: make({"num_train_timesteps": 1500, "trained_betas": np.array([*BETAS[:700], 0.0072, *BETAS[701:]])}),
    "the prediction type": lambda make: make({"prediction_type": "v_prediction"}),
    "clipping": lambda make: make({"clip_sample": False}),
    "the range of clipping": lambda make: make({"clip_sample_range": 2.0}),
    "the variance": lambda make: make({"variance_type": "fixed_large"}),
    "an activation": lambda make: make(act_fn="gelu"),
    "the factor on timesteps": lambda make: scaled(make(), 0.25),
    "classes": lambda make: make(num_class_embeds=3),
    "names of classes": lambda make: named(make(num_class_embeds=3), ("a", "b", "c")),
    "a null class": lambda make: named(make(num_class_embeds=3), ("a", "b"), 2),
}  # fmt: skip


def nudged(pipeline):
    with torch.no_grad():
        pipeline.unet.conv_in.bias[0] += 1e-6
    return pipeline


def scaled(pipeline, scale):
    pipeline.timestep_scale = scale
    return pipeline


def named(pipeline, names, null_class=None):
    pipeline.class_names, pipeline.null_class = names, null_class
    return pipeline


def test_whatever_changes_the_samples_changes_the_identity(make_pipeline):
    found = {name: identity(denoiser(make(make_pipeline))) for name, make in OTHERS.items()}
    assert len({*found.values(), identity(denoiser(make_pipeline()))}) == len(OTHERS) + 1


def test_a_schedule_of_its_own_counts_by_value(make_pipeline):
    model = denoiser(make_pipeline())
    levels = NoiseSchedule.linear().alpha_bars
    others = [replace(model, schedule=NoiseSchedule(levels**power)) for power in (1.0, 1.001, 2.0)]
    assert len({identity(each) for each in others}) == 3
    assert identity(others[0]) == identity(model)


def test_another_class_of_scheduler_is_the_same_model(make_pipeline):
    plain = make_pipeline({"clip_sample": True})
    other = DDPMPipeline(plain.unet, DDIMScheduler(num_train_timesteps=1000))
    assert configuration_sha256(denoiser(other)) == configuration_sha256(denoiser(plain))


def test_a_scheduler_that_does_not_clip_makes_another_model_than_one_that_does(make_pipeline):
    clips = make_pipeline()
    told = make_pipeline(scheduler={"clip_sample": False})
    other = DDPMPipeline(unet=clips.unet, scheduler=EulerDiscreteScheduler())  # has no such option, and does not clip
    assert "clip_sample" not in other.scheduler.config
    how = Sampler("ddim", 2)
    drawn = [vdu.sample(each, 4, how) for each in (clips, told, other)]
    assert torch.equal(drawn[1], drawn[2]) and not torch.equal(drawn[0], drawn[2])
    models = [denoiser(each) for each in (clips, told, other)]
    for what in (identity, configuration_sha256):
        assert what(models[0]) != what(models[2]) == what(models[1])
    assert differences(models[0], models[2]) == ["clip_sample"] and not differences(models[1], models[2])
    assert not is_recorded_configuration(other, models[2], configuration_sha256(models[0]))


def test_latents_that_a_scheduler_is_told_to_clip_are_of_another_model():
    for latent, expected in (
        (False, [{}, {"clip_sample": False}, {"clip_sample": False}]),
        (True, [{"clip_sample": True}, {}, {"clip_sample": False}]),
    ):
        schedule = NoiseSchedule.linear(4, 0.1, 0.2)
        made = [
            SimpleNamespace(scheduler_config=each, schedule=schedule, is_latent=latent)
            for each in ({"clip_sample": True}, {}, {"clip_sample": False})
        ]
        assert [room._sampling(each) for each in made] == expected
    flow = NoiseSchedule.flow(4)
    assert room._sampling(SimpleNamespace(scheduler_config={}, schedule=flow, is_latent=False)) == {}


def test_a_default_of_another_class_is_no_default_of_ours(make_pipeline):
    """LCM does not clip by default, and a sampler takes that over."""
    plain = make_pipeline()
    consistency = DDPMPipeline(plain.unet, LCMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear"))
    models = [denoiser(plain), denoiser(consistency)]
    assert [Sampler("ddpm", 2).make(each).config.clip_sample for each in models] == [True, False]
    assert identity(models[0]) != identity(models[1])


@pytest.mark.parametrize("change", ["file", "plain file", "mode", "arrays as lists"])
def test_what_changes_no_sample_does_not_count(make_pipeline, tmp_path, change):
    betas = [1e-3] * 100
    first = scaled(make_pipeline({"num_train_timesteps": 100, "trained_betas": betas}), 0.5)
    known = identity(denoiser(first))
    if change == "mode":
        first.unet.train().requires_grad_(False)
    elif change == "file":
        save_pipeline(first, tmp_path)
        first = load_pipeline(tmp_path)
    elif change == "plain file":
        save_pipeline(first, tmp_path / "a")
        load_pipeline(tmp_path / "a").save_pretrained(tmp_path / "b")
        first = DDPMPipeline.from_pretrained(tmp_path / "b")
    elif change == "arrays as lists":
        first = scaled(make_pipeline({"num_train_timesteps": 100, "trained_betas": np.array(betas)}), 0.5)
    assert identity(denoiser(first)) == known


def test_an_option_that_a_later_diffusers_adds_changes_nothing(make_pipeline, monkeypatch, tmp_path):
    """For records of this version, and for those of an earlier one, which hashed every option."""
    save_pipeline(make_pipeline(), tmp_path)
    before = load_pipeline(tmp_path)
    recorded = [configuration_sha256(denoiser(before)), next(room._earlier(before.unet, before.scheduler))]
    plain = inspect.unwrap(UNet2DModel.__init__)

    def newer(self, *values, brand_new_option=None, **more):
        plain(self, *values, **more)

    known = inspect.signature(plain)
    added = inspect.Parameter("brand_new_option", inspect.Parameter.KEYWORD_ONLY, default=None)
    newer.__signature__ = known.replace(parameters=[*known.parameters.values(), added])  # pyright: ignore
    monkeypatch.setattr(UNet2DModel, "__init__", register_to_config(newer))
    after = load_pipeline(tmp_path)
    assert "brand_new_option" in after.unet.config
    assert all(is_recorded_configuration(after, denoiser(after), each) for each in recorded)
    assert not is_recorded_configuration(after, denoiser(after), sha256_bytes(b"another"))


def test_the_evidence_of_an_earlier_version_is_continued(make_pipeline, tmp_path):
    """Its folder holds the hash of all options; with another model in its place it is refused."""
    plain = make_pipeline()
    model = _opened(plain, None)
    record = model.to_json() | {"configuration_sha256": next(room._earlier(plain.unet, plain.scheduler))}
    assert model.is_recorded(record) and model.is_recorded({"sha256": model.sha256})
    other = DDPMPipeline(plain.unet, DDPMScheduler(beta_end=0.03))
    assert not _opened(other, None).is_recorded(record)


def test_weights_are_hashed_once_until_they_change(make_unet, monkeypatch):
    unet, counted = make_unet(), []
    monkeypatch.setattr(room, "hash_parameters", lambda tensors: counted.append(1) or hash_parameters(tensors))
    assert weights_sha256(unet) == weights_sha256(unet) == hash_parameters(unet.state_dict())
    assert len(counted) == 1
    for change in (
        lambda: unet.conv_in.bias.data.add_(1),  # PyTorch counts no version of .data
        lambda: unet.load_state_dict(make_unet(seed=3).state_dict()),
        lambda: unet.conv_in.weight.detach().numpy().__setitem__((0, 0, 0, 0), 7.0),
        lambda: unet.conv_in.bias.data[1::2].neg_(),  # an even number of signs: top bits, which may cancel
        lambda: unet.conv_in.weight.data.view(-1)[:2].neg_(),
        lambda: unet.conv_in.weight.data.view(-1)[[0, 3, 1, 2]].neg_(),
        lambda: unet.conv_in.weight.data.neg_(),
    ):
        change()
        assert weights_sha256(unet) == hash_parameters(unet.state_dict())


def test_a_posterior_is_of_one_model_and_not_of_its_weights_alone(make_pipeline):
    plain, other = make_pipeline(), make_pipeline({"beta_end": 0.03})
    posterior = fit_posterior(plain, "isotropic", generator=torch.Generator().manual_seed(0))
    check_origin(posterior, denoiser(plain))
    with pytest.raises(InputError, match="expected the same noise schedule, prediction type and options too"):
        check_origin(posterior, denoiser(other))
    earlier = replace(posterior, sources={"pipeline": posterior.sources["pipeline"]})
    check_origin(earlier, denoiser(other))  # a file of an earlier version knows the weights alone
    with pytest.raises(InputError, match="expected the same weights"):
        check_origin(earlier, denoiser(make_pipeline(seed=1)))
    check_origin(fit_isotropic(dict(plain.unet.named_parameters()), 1e-4), denoiser(plain))


def test_two_models_do_not_share_their_cached_samples(make_pipeline, tmp_path, monkeypatch):
    monkeypatch.setenv("VDU_CACHE", str(tmp_path))
    for scale in (1.0, 0.25):
        cached_samples(
            denoiser(scaled(make_pipeline(), scale)), 2, Sampler("ddpm", 2, microbatch_size=2), progress=None
        )
    assert len(list((tmp_path / "own-samples").iterdir())) == 2


@pytest.mark.parametrize(("steps", "drawn"), [(2, 0), (3, 2)])
def test_samples_that_earlier_versions_drew_wrongly_are_drawn_again(make_pipeline, steps, drawn):
    """Where the steps divide the 1000 of the schedule, samples did not change."""
    model, sampler = denoiser(make_pipeline()), Sampler("ddim", steps, microbatch_size=2)
    key = f"{identity(model)} {sorted(sampler.describe().items())} {SHARED_SEED}"
    earlier = cache_folder() / "own-samples" / f"{sha256_bytes(key.encode())[:24]}.safetensors"
    assert write_cached(earlier, {"images": torch.zeros(2, 1, 8, 8, dtype=torch.uint8)}, "these are")
    assert cached_samples(model, 2, sampler, progress=None)[1] == drawn


def test_what_trains_counts_where_something_was_trained(make_pipeline):
    every, part, other = make_pipeline(), make_pipeline(), make_pipeline()
    part.unet.time_embedding.requires_grad_(False)
    other.unet.mid_block.requires_grad_(False)
    models = [denoiser(each) for each in (every, part, other)]
    assert len({identity(each) for each in models}) == 1 and trained_part(models[0]) == ""
    assert len({trained_part(each) for each in models}) == 3


def test_the_packaged_cache_is_that_of_the_packaged_models(monkeypatch):
    """Its files are found by identity: a change of the description would make the demo draw them again."""
    asked = []
    monkeypatch.setattr(
        "vdu.replay.generated.read_cached",
        lambda path, what: asked.append(path) or {"images": torch.zeros(9, 1, 28, 28, dtype=torch.uint8)},
    )
    model = denoiser(load_pipeline(pipeline_folder("mnist")))
    cached_samples(model, 1, Sampler("ddpm", steps=20), progress=None)
    assert Path(PACKAGED / "own-samples" / asked[0].name).is_file()
