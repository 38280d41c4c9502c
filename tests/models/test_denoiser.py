import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, DiffusionPipeline, KarrasVeScheduler
from safetensors.torch import load_file, save_file
from torch import nn

from toys import noise_seen
from vdu.core.errors import InputError
from vdu.core.types import column
from vdu.data.images import ImageSet
from vdu.diffusion.prediction import clean_of
from vdu.diffusion.schedule import NoiseSchedule
from vdu.methods.vdu import gradient_ascent
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.pipelines import load_pipeline
from vdu.models.saving import save_pipeline
from vdu.unlearning.unlearn import unlearn

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
COSINE_V = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}


class Oracle(nn.Module):
    """Answers with what it was given, whatever it is asked, and remembers the timesteps."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.asked = answer, []

    def forward(self, x_t, timestep):
        self.asked.append(timestep)
        return SimpleNamespace(sample=self.answer)


def denoiser(answer, kind="epsilon", schedule=None, **others) -> PipelineDenoiser:
    return PipelineDenoiser(Oracle(answer), schedule or NoiseSchedule.linear(), kind, (1, 4, 4), {}, **others)


# one noise, three ways to predict it


@pytest.mark.parametrize("t", [[0, 500, 998], [0.25, 500.5, 998.75]])
@pytest.mark.parametrize("schedule", [NoiseSchedule.linear(), NoiseSchedule.cosine()])
def test_every_prediction_type_gives_the_same_noise(schedule, t):
    x0, noise = torch.randn(2, 3, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    timestep = torch.tensor(t)
    alpha_bar = schedule.alpha_bar_at(timestep).view(3, 1, 1, 1)
    x_t = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise
    v = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x0  # Salimans & Ho 2022, arXiv 2202.00512
    for kind, answer in {"epsilon": noise, "v_prediction": v, "sample": x0}.items():
        found = noise_seen(denoiser(answer, kind, schedule), x_t, timestep)
        torch.testing.assert_close(found, noise, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_conversions_agree_with_diffusers_schedulers(make_pipeline, kind):
    """DDIM computes ε from the same output as a by-product; at η = 0 without clipping it can be read off its step."""
    pipeline = make_pipeline({"prediction_type": kind})
    ours = PipelineDenoiser.from_pipeline(pipeline)
    scheduler = DDIMScheduler(prediction_type=kind, clip_sample=False)
    scheduler.set_timesteps(1000)
    x_t = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        step = scheduler.step(pipeline.unet(x_t, 600).sample, 600, x_t)
        found = noise_seen(ours, x_t, torch.tensor([600, 600]))
    before = scheduler.alphas_cumprod[599]
    truth = (step.prev_sample - before.sqrt() * step.pred_original_sample) / (1 - before).sqrt()
    torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-5)


def test_variance_channels_are_dropped_and_kept_in_the_raw_output():
    answer = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    ours = denoiser(answer)
    x = torch.zeros(2, 1, 4, 4)
    assert torch.equal(noise_seen(ours, x, torch.tensor([1, 2])), answer[:, :1])
    assert torch.equal(ours.raw(x, torch.tensor([1, 2])), answer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_timesteps_are_scaled_without_loss(dtype):
    ours = denoiser(torch.zeros(2, 1, 4, 4, dtype=dtype), schedule=NoiseSchedule.linear(4000), timestep_scale=0.25)
    noise_seen(ours, torch.zeros(2, 1, 4, 4, dtype=dtype), torch.tensor([3999, 1]))
    noise_seen(ours, torch.zeros(2, 1, 4, 4, dtype=dtype), torch.tensor([3998.5, 1], dtype=torch.float64))
    assert [asked.tolist() for asked in ours.network.asked] == [[999.75, 0.25], [999.625, 0.25]]


def test_a_copy_has_weights_of_its_own(make_pipeline):
    ours = PipelineDenoiser.from_pipeline(make_pipeline())
    copied = ours.copy()
    with torch.no_grad():
        next(copied.network.parameters()).add_(1)
    assert not torch.equal(next(copied.network.parameters()), next(ours.network.parameters()))
    assert ours.with_network(copied.network).network is copied.network
    x = torch.rand(1, 1, 8, 8)
    assert ours.encode(x) is x
    assert ours.decode(x) is x


# what is refused


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        (
            lambda make: make(class_embed_type="timestep"),
            "conditioned through class_embed_type 'timestep'; expected an uncond",
        ),
        (
            lambda make: make({"prediction_type": "flow"}),
            "prediction_type 'flow' is unknown; expected one of epsilon, v_pred",
        ),
        (lambda make: make(sample_size=None), "no sample_size, so the image size is unknown; set it"),
        (lambda make: object(), r"got object, which lacks a network \(unet or transformer\) or a scheduler"),
        (
            lambda make: SimpleNamespace(unet=make().unet, scheduler=KarrasVeScheduler(), components={}),
            "has no alphas_cumprod",
        ),
        (
            lambda make: SimpleNamespace(unet=make().unet, scheduler=DDIMScheduler(), components={"vocoder": 1}),
            "has vocoder, which no known kind of pipeline has",
        ),
        (
            lambda make: SimpleNamespace(unet=make().unet, scheduler=DDIMScheduler(), components={"safety_checker": 1}),
            "SimpleNamespace is not supported; expected one of DDPMPipeline",
        ),
    ],
)
def test_strange_pipelines_are_refused(make_pipeline, pipeline, message):
    with pytest.raises(InputError, match=message):
        PipelineDenoiser.from_pipeline(pipeline(make_pipeline))


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def without_first_weight(folder):
    weights = load_file(folder / WEIGHTS)
    del weights["conv_in.bias"]
    save_file(weights, folder / WEIGHTS)


def with_nan(folder):
    weights = load_file(folder / WEIGHTS)
    weights["conv_in.bias"][1] = float("nan")
    save_file(weights, folder / WEIGHTS)


def pickled(folder):
    torch.save(load_file(folder / WEIGHTS), folder / "unet" / "diffusion_pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def cut_off(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:5000])


def text_to_sound(folder):
    parts = {"vocoder": ["transformers", "SpeechT5HifiGan"], "safety_checker": [None, None]}
    edit_json(folder / "model_index.json", _class_name="AudioLDMPipeline", **parts)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model_index.json").unlink(), r"no model_index\.json there; expected a folder that"),
        (lambda folder: (folder / "model_index.json").write_text("{"), r"model_index\.json: not valid JSON"),
        (with_nan, r"NaN or infinite weights in 1 tensors \(first: conv_in\.bias\)"),
        (without_first_weight, r"its weights lack 1 tensors \(first: conv_in\.bias\)"),
        (pickled, r"Only safetensors weights are read; pickled weights \(\.bin\) must be converted"),
        (cut_off, "diffusers cannot load this pipeline"),
        (text_to_sound, "has vocoder, which no known kind of pipeline has; expected one of DDPMPipeline"),
        (
            lambda folder: edit_json(folder / "unet" / "config.json", block_out_channels=[12]),
            "cannot load this pipeline",
        ),
        (lambda folder: shutil.rmtree(folder / "scheduler"), "has no folder scheduler"),
    ],
)
def test_damaged_and_strange_folders_are_refused(make_pipeline, tmp_path, damage, message):
    make_pipeline().save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=message):
        load_pipeline(tmp_path)


def test_a_missing_text_stack_is_named(make_pipeline, tmp_path, monkeypatch):
    make_pipeline().save_pretrained(tmp_path)
    edit_json(tmp_path / "model_index.json", text_encoder=["transformers", "CLIPTextModel"])
    monkeypatch.setattr("vdu.models.pipelines.find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"needs transformers; install it with `pip install '\.\[text\]'` in the clone"
    ):
        load_pipeline(tmp_path)


def test_the_timestep_scale_survives_the_file(make_pipeline, tmp_path):
    pipeline = make_pipeline()
    save_pipeline(pipeline, tmp_path / "plain")
    pipeline.timestep_scale = 0.25
    save_pipeline(pipeline, tmp_path / "scaled")
    scales = [
        PipelineDenoiser.from_pipeline(load_pipeline(tmp_path / name)).timestep_scale for name in ("plain", "scaled")
    ]
    assert scales == [1.0, 0.25]
    assert not (tmp_path / "plain" / "vdu.json").exists()


# plain diffusers → vdu → plain diffusers


@pytest.mark.parametrize(
    ("kind", "scheduler", "unet"),
    [
        (DDPMPipeline, {}, {}),
        (DDPMPipeline, COSINE_V, {}),
        (DDIMPipeline, {}, {}),
        (DDIMPipeline, COSINE_V, {}),
        (DDPMPipeline, {"variance_type": "learned_range"}, {"in_channels": 3, "out_channels": 6}),
    ],
)
def test_a_plain_pipeline_comes_in_is_unlearned_and_goes_out_plain(make_unet, tmp_path, kind, scheduler, unet):
    kind(make_unet(**unet), DDPMScheduler(**scheduler)).save_pretrained(tmp_path / "in")
    pipeline = load_pipeline(tmp_path / "in")
    ours = PipelineDenoiser.from_pipeline(pipeline)
    assert type(pipeline) is kind
    truth = pipeline.scheduler.alphas_cumprod.double()
    torch.testing.assert_close(ours.schedule.alpha_bars, truth, rtol=0.0, atol=0.0)
    assert ours.learned_variance == ("variance_type" in scheduler)
    shape = ours.image_shape
    forget = ImageSet(torch.randint(256, (4, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)))
    before = {name: value.clone() for name, value in pipeline.unet.state_dict().items()}
    source = torch.Generator().manual_seed(0)
    result = unlearn(
        pipeline,
        gradient_ascent(),
        forget=forget,
        steps=2,
        batch_size=4,
        learning_rate=1e-3,
        generator=source,
        progress=None,
    )
    assert all(
        torch.equal(value, before[name]) for name, value in pipeline.unet.state_dict().items()
    )  # input untouched
    save_pipeline(result.pipeline, tmp_path / "out")
    plain = DiffusionPipeline.from_pretrained(tmp_path / "out")
    assert type(plain) is kind
    assert {**plain.scheduler.config} == {**pipeline.scheduler.config}
    x, t = torch.randn(2, *shape, generator=source), torch.tensor([10, 900])
    with torch.no_grad():
        changed = result.pipeline.unet(x, t).sample
        assert torch.equal(plain.unet(x, t).sample, changed)
        assert not torch.equal(pipeline.unet(x, t).sample, changed)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_what_a_model_expects_is_what_diffusers_says(make_pipeline, kind):
    pipeline = make_pipeline({"prediction_type": kind, "clip_sample": False})
    model = PipelineDenoiser.from_pipeline(pipeline)
    x_t, output = torch.randn(2, 2, 1, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
    for t in (3, 500, 900):
        said = pipeline.scheduler.step(output, t, x_t).pred_original_sample
        alpha, sigma = model.schedule.coefficients(torch.tensor([t]), x_t)
        ours = clean_of(kind, output, x_t, column(alpha, x_t), column(sigma, x_t))
        torch.testing.assert_close(ours, said, rtol=1e-4, atol=1e-4)  # √(1−ᾱ)/√ᾱ enlarges float32 rounding
