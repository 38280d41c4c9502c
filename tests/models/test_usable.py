"""Odd models work, or are refused before any work; what diffusers only warns about is refused."""

import json
import shutil

import diffusers
import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    DDIMPipeline,
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
)
from safetensors.torch import load_file, save_file

import tiny_pipelines
from vdu.core.errors import InputError
from vdu.data.images import ImageSet
from vdu.diffusion.sampling import SCHEDULERS, Sampler, sample
from vdu.methods.vdu import gradient_ascent
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.identity import weights_sha256
from vdu.models.pipelines import load_pipeline
from vdu.models.saving import save_pipeline
from vdu.training.loop import TrainSettings
from vdu.training.pretraining import fit
from vdu.unlearning import default_posterior
from vdu.unlearning.fit_posterior import fit_posterior
from vdu.unlearning.unlearn import unlearn

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
TWO_LEVELS = {
    "block_out_channels": (8, 8), "down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2,
}  # fmt: skip


def images(shape=(1, 8, 8)):
    return ImageSet(torch.randint(256, (4, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))


def on_meta(pipeline):
    pipeline.unet.to("meta")
    return pipeline


def partly_half(pipeline):
    pipeline.unet.conv_in.half()
    return pipeline


def nan_weight(pipeline):
    pipeline.unet.conv_in.bias.data[0] = float("nan")
    return pipeline


def frozen(pipeline):
    pipeline.unet.requires_grad_(False)
    return pipeline


def with_scheduler(pipeline, scheduler):
    return diffusers.DDPMPipeline(pipeline.unet, scheduler)


REFUSED = {
    "float16": (lambda make: make().to(torch.float16), "weights in float16; expected float32"),
    "bfloat16": (lambda make: make().to(torch.bfloat16), "weights in bfloat16; expected float32"),
    "float64": (lambda make: make().to(torch.float64), "weights in float64; expected float32"),
    "one layer in half precision": (lambda make: partly_half(make()), "weights in float16; expected float32"),
    "on the meta device": (lambda make: on_meta(make()), "on the meta device, so without values"),
    "15 pixels and a halving": (lambda make: make(sample_size=15, **TWO_LEVELS), "sides divisible by 2"),
    "three channels of one": (lambda make: make(out_channels=3), r"gives \(3, 8, 8\) for images of \(1, 8, 8\)"),
    "logarithms of timesteps": (lambda make: make(time_embedding_type="fourier"), "NaN or infinite values at the timesteps 0"),
    "a weight that is no number": (lambda make: nan_weight(make()), r"NaN or infinite weights in 1 tensors \(first: conv_in\.bias\)"),
    "a table of timesteps": (
        lambda make: make({"num_train_timesteps": 100}, time_embedding_type="learned", num_train_timesteps=100),
        "looks timesteps up in a table",
    ),
    "an option of the past": (
        lambda make: with_scheduler(make(), DDPMScheduler.from_config({"predict_epsilon": False})),
        "has predict_epsilon, which DDPMScheduler .* prediction_type, which is epsilon where it was true, and sample",
    ),
    "an option of the future": (
        lambda make: with_scheduler(make(), DDPMScheduler.from_config({"brand_new": 3})), "has brand_new, .*Install the version",
    ),
    "a schedule that samplers lose": (
        lambda make: with_scheduler(make(), CogVideoXDDIMScheduler(num_train_timesteps=100)), "makes another noise schedule",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_before_any_work(make_pipeline, name):
    make, message = REFUSED[name]
    pipeline = make(make_pipeline)
    with pytest.raises(InputError, match=message):
        unlearn(pipeline, gradient_ascent(), forget=images(), steps=1, batch_size=4, progress=None)
    with pytest.raises(InputError, match=message):
        fit_posterior(pipeline, "isotropic", generator=torch.Generator().manual_seed(0))


def test_a_frozen_model_is_refused_by_all_that_train_and_drawn_from_by_the_rest(make_pipeline):
    still = frozen(make_pipeline())
    with pytest.raises(InputError, match=r"every parameter is frozen.*requires_grad_\(True\)"):
        unlearn(still, gradient_ascent(), forget=images(), steps=1, batch_size=4, progress=None)
    with pytest.raises(InputError, match="every parameter is frozen"):
        fit(PipelineDenoiser.from_pipeline(still), images(), TrainSettings(1, 1e-3), batch_size=4, seed=0)
    with pytest.raises(InputError, match="every parameter is frozen"):
        fit_posterior(still, "fisher", generator=torch.Generator().manual_seed(0), n_train=9)
    assert sample(PipelineDenoiser.from_pipeline(still), [0], Sampler("ddpm", 2)).shape == (1, 1, 8, 8)


def test_frozen_parts_stay_as_they_are_through_every_kind_of_training(make_pipeline):
    pipeline = make_pipeline()
    pipeline.unet.time_embedding.requires_grad_(False)
    before = {name: value.clone() for name, value in pipeline.unet.state_dict().items()}
    posterior = fit_posterior(pipeline, "fisher", generator=torch.Generator().manual_seed(0), n_train=9, n_samples=2)
    assert not any(name.startswith("time_embedding") for name in posterior.mean)
    made = unlearn(
        pipeline, "vdu", forget=images(), posterior=posterior, steps=2, batch_size=4, ema_decay=0.9, progress=None
    ).pipeline
    for name, value in made.unet.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("time_embedding"), name


def test_the_posterior_of_one_part_is_not_taken_from_the_cache_for_another(make_pipeline, monkeypatch):
    monkeypatch.setattr(default_posterior, "N_SAMPLES", 2)
    for part in ("time_embedding", "mid_block", "conv_in"):
        pipeline = make_pipeline()
        getattr(pipeline.unet, part).requires_grad_(False)
        made = unlearn(pipeline, "vdu", forget=images(), steps=1, batch_size=4, progress=None)
        assert not any(name.startswith(part) for name in made.plan.chosen.posterior.mean)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("betas", ["sigmoid", "laplace", "scaled_linear", "squaredcos_cap_v2"])
def test_every_sampler_follows_every_schedule_of_diffusers(make_pipeline, betas, name):
    """ᾱ is diffusers' own, of the one class that knows all of these names."""
    model = PipelineDenoiser.from_pipeline(make_pipeline({"beta_schedule": betas, "num_train_timesteps": 50}))
    truth = DDPMScheduler(beta_schedule=betas, num_train_timesteps=50).alphas_cumprod
    torch.testing.assert_close(Sampler(name, 5).make(model).alphas_cumprod, truth, rtol=0, atol=1e-6)


def test_zero_terminal_noise_of_euler_is_read_as_that_of_ddpm(make_pipeline):
    asked = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "num_train_timesteps": 50}
    plain = make_pipeline(asked)
    euler = PipelineDenoiser.from_pipeline(
        with_scheduler(plain, EulerDiscreteScheduler(**asked, beta_start=1e-4, beta_end=0.02))
    )
    ours = PipelineDenoiser.from_pipeline(plain)
    torch.testing.assert_close(euler.schedule.alpha_bars, ours.schedule.alpha_bars, rtol=0, atol=1e-7)
    assert euler.schedule.alpha_bars[-1] == 0
    for name in SCHEDULERS:
        Sampler(name, 5).make(euler)


# folders


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def one_more_tensor(folder):
    save_file(load_file(folder / WEIGHTS) | {"lora.up": torch.zeros(2)}, folder / WEIGHTS)


def two_variants(folder):
    shutil.copyfile(folder / WEIGHTS, folder / "unet/diffusion_pytorch_model.bf16.safetensors")
    (folder / WEIGHTS).rename(folder / "unet/diffusion_pytorch_model.fp16.safetensors")


FOLDERS = {
    "a tensor too many": (one_more_tensor, r"1 tensors that its config\.json has no place for \(first: lora\.up\)"),
    "a config without attention": (
        lambda folder: edit(folder / "unet/config.json", add_attention=False), r"10 tensors .* \(first: mid_block\.attentions\.0",
    ),
    "two variants": (two_variants, "as the variants bf16 and fp16, and not .* expected one of them"),
    "weights of another name": (
        lambda folder: (folder / WEIGHTS).rename(folder / "unet/model.safetensors"), r"safetensors, but model\.safetensors; expected",
    ),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), r"holds no diffusion_pytorch_model\.safetensors"),
    "a class of its own": (
        lambda folder: edit(folder / "model_index.json", _class_name=["pipeline", "My"]), r"class of its own \(pipeline\.My\), whose code",
    ),
    "a class that nobody knows": (lambda folder: edit(folder / "model_index.json", _class_name="MyPipeline"), "MyPipeline"),
    "an entry of the index": (lambda folder: edit(folder / "model_index.json", guidance=3), r"model_index\.json: has guidance, which"),
    "predict_epsilon": (
        lambda folder: edit(folder / "scheduler/scheduler_config.json", predict_epsilon=False), "scheduler: .*has predict_epsilon",
    ),
    "an option of the network": (lambda folder: edit(folder / "unet/config.json", window=3), "unet: .*has window, which UNet2DModel"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_what_diffusers_only_warns_about_is_refused(make_pipeline, tmp_path, name):
    damage, message = FOLDERS[name]
    make_pipeline(add_attention=True).save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=message):
        load_pipeline(tmp_path)


def old_names(folder):
    """Attention as diffusers called it before 0.15; it renames these itself."""
    new = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = load_file(folder / WEIGHTS)
    for name, old in new.items():
        weights = {each.replace(name, old): value for each, value in weights.items()}
    assert any("proj_attn" in each for each in weights)
    save_file(weights, folder / WEIGHTS)


def without_folders(folder):
    for name in ("unet/config.json", WEIGHTS, "scheduler/scheduler_config.json"):
        (folder / name).rename(folder / name.rpartition("/")[2])
    for name in ("unet", "scheduler"):
        (folder / name).rmdir()


SOUND = {
    "old names of tensors": old_names,
    "google's first layout": without_folders,
    "an option of another solver": lambda folder: edit(
        folder / "scheduler/scheduler_config.json", use_karras_sigmas=True
    ),
    "a part that is not there": lambda folder: edit(folder / "model_index.json", vae=[None, None]),
}


@pytest.mark.parametrize("name", SOUND)
def test_what_changes_nothing_is_loaded(make_pipeline, tmp_path, name):
    made = make_pipeline(down_block_types=("AttnDownBlock2D",), up_block_types=("AttnUpBlock2D",))
    made.save_pretrained(tmp_path)
    SOUND[name](tmp_path)
    sampler, models = (
        Sampler("ddpm", 2),
        [PipelineDenoiser.from_pipeline(each) for each in (made, load_pipeline(tmp_path))],
    )
    assert torch.equal(*(sample(each, [0], sampler) for each in models))


@pytest.mark.slow
def test_a_compiled_network_is_taken_as_it_is(make_pipeline):
    plain = make_pipeline()
    known = weights_sha256(plain.unet)
    plain.unet = torch.compile(plain.unet, backend="eager")
    assert weights_sha256(plain.unet) == known
    unlearn(plain, gradient_ascent(), forget=images(), steps=1, batch_size=4, progress=None)


def test_a_schedule_that_its_pipeline_cannot_follow_is_refused(make_unet, make_pipeline, tmp_path):
    make_pipeline({"beta_schedule": "sigmoid"}).save_pretrained(tmp_path)
    edit(tmp_path / "model_index.json", _class_name=DDIMPipeline.__name__)
    with pytest.raises(InputError, match="sigmoid is not implemented"):
        load_pipeline(tmp_path)


ODD = {
    "norm_eps": None,
    "freq_shift": None,
    "act_fn": None,
    "layers_per_block": "two",
}  # two fail on loading, two when used


@pytest.mark.parametrize("option", ODD)
def test_an_option_of_another_kind_is_named_instead_of_the_librarys_error(make_pipeline, tmp_path, option):
    make_pipeline().save_pretrained(tmp_path)
    file = tmp_path / "unet/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {option: ODD[option]}))
    with pytest.raises(InputError, match=f"{option} is {json.dumps(ODD[option])} .usually") as refused:
        PipelineDenoiser.from_pipeline(load_pipeline(tmp_path))
    assert "NoneType" not in str(refused.value) and "group_norm()" not in str(refused.value)


def test_a_variance_that_diffusers_would_not_expect_is_refused(make_pipeline):
    with pytest.raises(
        InputError, match=r"gives 2 channels.*variance_type 'fixed_small', with which diffusers fails.*learned_range"
    ):
        PipelineDenoiser.from_pipeline(make_pipeline(out_channels=2))
    assert PipelineDenoiser.from_pipeline(make_pipeline({"variance_type": "learned_range"}, out_channels=2))


def test_a_whole_number_written_as_a_float_is_named(make_pipeline, tmp_path):
    make_pipeline().save_pretrained(tmp_path)
    file = tmp_path / "scheduler/scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_train_timesteps": 50.0}))
    with pytest.raises(InputError, match=r"num_train_timesteps is 50\.0 \(usually 1000\)") as refused:
        load_pipeline(tmp_path)
    assert "arange" not in str(refused.value)


@pytest.mark.parametrize("size", ["x", 0, -8, [8, 8, 8], [8.5, 8]])
def test_a_size_that_is_none_is_refused(make_pipeline, size):
    pipeline = make_pipeline()
    pipeline.unet.register_to_config(sample_size=size)
    with pytest.raises(InputError, match="sample_size is .*; expected a whole number"):
        PipelineDenoiser.from_pipeline(pipeline)


@pytest.mark.parametrize("kind", ["learned", "learned_range"])
def test_a_learned_variance_that_the_network_has_not_is_refused(make_pipeline, kind):
    with pytest.raises(InputError, match=f"variance_type '{kind}', and its network gives 1 channels; expected 2"):
        PipelineDenoiser.from_pipeline(make_pipeline({"variance_type": kind}))


def test_a_scheduler_that_speaks_of_other_times_or_levels_is_refused(make_pipeline):
    unet = make_pipeline().unet
    continuous = EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction")
    flow = DPMSolverMultistepScheduler(use_flow_sigmas=True)
    for scheduler, message in ((continuous, "timestep_type 'continuous'"), (flow, "use_flow_sigmas on")):
        with pytest.raises(InputError, match=message):
            PipelineDenoiser.from_pipeline(DDPMPipeline(unet, scheduler))


@pytest.mark.parametrize("train", ["attention", "lora:2"])
def test_what_was_frozen_stays_frozen_in_a_result_of_which_a_part_was_trained(make_pipeline, train):
    pipeline = make_pipeline(down_block_types=("AttnDownBlock2D",), up_block_types=("AttnUpBlock2D",))
    pipeline.unet.time_embedding.requires_grad_(False)
    made = unlearn(
        pipeline,
        gradient_ascent(),
        forget=images(),
        steps=1,
        batch_size=4,
        learning_rate=1e-2,
        train=train,
        progress=None,
    )
    flags = {name: value.requires_grad for name, value in pipeline.unet.named_parameters()}
    assert {name: value.requires_grad for name, value in made.pipeline.unet.named_parameters()} == flags
    assert sorted(set(flags.values())) == [False, True]


def test_a_prompt_that_a_textual_inversion_lengthens_is_counted_with_all_its_vectors():
    pipeline = stable_diffusion_of_words()
    pipeline.load_textual_inversion({"<toy>": torch.ones(20, 16)}, token="<toy>")
    denoiser = PipelineDenoiser.from_pipeline(pipeline)
    most = pipeline.tokenizer.model_max_length
    fits = "<toy> " + "x" * (most - 22)  # two tokens for start and end, 20 vectors, one token a letter
    denoiser.condition([fits])
    with pytest.raises(InputError, match=f"has {most + 1} tokens, and this model reads {most}"):
        denoiser.condition([fits + "y"])


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused():
    pipeline = stable_diffusion_of_words()
    pipeline.tokenizer.add_tokens(["<new>"])
    with pytest.raises(InputError, match="its tokenizer has 515 tokens, and its text_encoder embeddings for 514"):
        PipelineDenoiser.from_pipeline(pipeline)


def stable_diffusion_of_words():
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    return tiny_pipelines.stable_diffusion()


def test_a_part_that_is_wrapped_is_named(make_pipeline, tmp_path):
    """It was an AttributeError, of unlearning and of saving."""
    pipeline = make_pipeline()
    inner, pipeline.unet = pipeline.unet, torch.nn.DataParallel(pipeline.unet)
    for use in (PipelineDenoiser.from_pipeline, lambda each: save_pipeline(each, tmp_path / "saved")):
        with pytest.raises(
            InputError, match=r"its unet is a DataParallel .*Take it out: pipeline\.unet = pipeline\.unet\.module"
        ):
            use(pipeline)
    pipeline.unet = pipeline.unet.module
    assert PipelineDenoiser.from_pipeline(pipeline).network is inner


@pytest.mark.parametrize("register", ["register_hook", "register_post_accumulate_grad_hook"])
def test_a_hook_on_a_gradient_is_refused_as_it_would_have_no_effect(make_pipeline, register):
    """A copy has none, so that weights which a hook was to hold moved."""
    pipeline = make_pipeline()
    handle = getattr(pipeline.unet.conv_in.weight, register)(lambda value: None)
    how = {"forget": images(), "steps": 1, "batch_size": 2, "progress": None}
    with pytest.raises(InputError, match=r"conv_in\.weight of its network has a hook on its gradient"):
        unlearn(pipeline, "ascent", **how)
    with pytest.raises(InputError, match=r"conv_in\.weight of its network has a hook on its gradient"):
        fit_posterior(pipeline, "fisher", n_samples=2, n_train=50, generator=torch.Generator().manual_seed(0))
    handle.remove()
    assert unlearn(pipeline, "ascent", **how).training.steps == 1
