"""Both repositories' networks, written anew from their layers with their names for every tensor: the importers' truth."""

import json
import math
import os
import shutil

import pytest
import torch
from diffusers import DDPMPipeline
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from toys import noise_seen
from vdu.commands import import_checkpoint as recipe
from vdu.commands.import_checkpoint import ImportSettings
from vdu.core.errors import InputError
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.importers import import_checkpoint, read_state_dict
from vdu.models.pipelines import load_pipeline

# explainingai-code/DDPM-Pytorch, class Unet


class TutorialStage(nn.Module):
    def __init__(self, c_in, c_out, residuals):
        super().__init__()
        widths = [c_in] + [c_out] * (residuals - 1)
        conv = {"kernel_size": 3, "padding": 1}
        self.resnet_conv_first = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, c_out, **conv)) for width in widths
        )
        self.t_emb_layers = nn.ModuleList(nn.Sequential(nn.SiLU(), nn.Linear(128, c_out)) for _ in widths)
        self.resnet_conv_second = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(8, c_out), nn.SiLU(), nn.Conv2d(c_out, c_out, **conv)) for _ in widths
        )
        self.residual_input_conv = nn.ModuleList(nn.Conv2d(width, c_out, 1) for width in widths)
        self.attention_norms = nn.ModuleList(nn.GroupNorm(8, c_out) for _ in range(2))
        self.attentions = nn.ModuleList(nn.MultiheadAttention(c_out, 4, batch_first=True) for _ in range(2))

    def residual(self, i, x, tau):
        inner = self.resnet_conv_first[i](x) + self.t_emb_layers[i](tau)[..., None, None]
        return self.residual_input_conv[i](x) + self.resnet_conv_second[i](inner)

    def attention(self, i, x):
        tokens = self.attention_norms[i](x.flatten(2)).mT
        return x + self.attentions[i](tokens, tokens, tokens)[0].mT.reshape(x.shape)

    def forward(self, x, tau):
        x = self.attention(0, self.residual(0, x, tau))
        x = self.attention(1, self.residual(1, x, tau))
        return self.residual(2, x, tau) if len(self.t_emb_layers) == 3 else x


class Tutorial(nn.Module):
    def __init__(self):
        super().__init__()
        self.t_proj = nn.Sequential(nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 128))
        self.conv_in = nn.Conv2d(1, 32, 3, padding=1)
        self.downs = nn.ModuleList([TutorialStage(32, 64, 2), TutorialStage(64, 128, 2), TutorialStage(128, 256, 2)])
        self.mids = nn.ModuleList([TutorialStage(256, 256, 3), TutorialStage(256, 128, 3)])
        self.ups = nn.ModuleList([TutorialStage(256, 64, 2), TutorialStage(128, 32, 2), TutorialStage(64, 16, 2)])
        self.downs[0].down_sample_conv = nn.Conv2d(64, 64, 4, 2, 1)
        self.downs[1].down_sample_conv = nn.Conv2d(128, 128, 4, 2, 1)
        self.ups[1].up_sample_conv = nn.ConvTranspose2d(64, 64, 4, 2, 1)
        self.ups[2].up_sample_conv = nn.ConvTranspose2d(32, 32, 4, 2, 1)
        self.norm_out = nn.GroupNorm(8, 16)
        self.conv_out = nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, x, t):
        angle = t[:, None] / 10000 ** (torch.arange(64).float() / 64)
        tau = self.t_proj(torch.cat([torch.sin(angle), torch.cos(angle)], 1).to(x.dtype))
        a = self.conv_in(x)
        b = self.downs[0].down_sample_conv(self.downs[0](a, tau))
        c = self.downs[1].down_sample_conv(self.downs[1](b, tau))
        d = self.mids[1](self.mids[0](self.downs[2](c, tau), tau), tau)
        e = self.ups[0](torch.cat([d, c], 1), tau)
        f = self.ups[1](torch.cat([self.ups[1].up_sample_conv(e), b], 1), tau)
        g = self.ups[2](torch.cat([self.ups[2].up_sample_conv(f), a], 1), tau)
        return self.conv_out(functional.silu(self.norm_out(g)))


# openai/improved-diffusion, class UNetModel


def norm32(channels):
    return nn.GroupNorm(32, channels)


class Residual(nn.Module):
    def __init__(self, c_in, c_out):
        super().__init__()
        self.in_layers = nn.Sequential(norm32(c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(512, 2 * c_out))
        last = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.out_layers = nn.Sequential(norm32(c_out), nn.SiLU(), nn.Dropout(0.3), last)
        self.skip_connection = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x, tau):
        norm, *rest = self.out_layers
        scale, shift = self.emb_layers(tau)[..., None, None].chunk(2, 1)
        return self.skip_connection(x) + nn.Sequential(*rest)(norm(self.in_layers(x)) * (1 + scale) + shift)


class Attention(nn.Module):
    """Four heads of 64; a head's queries, keys and values are neighbours among the 768 channels."""

    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.proj_out = norm32(256), nn.Conv1d(256, 768, 1), nn.Conv1d(256, 256, 1)

    def forward(self, x, tau):
        rows, heads = self.qkv(self.norm(x.flatten(2))), []
        for start in range(0, 768, 192):
            q, k, v = (rows[:, start + offset : start + offset + 64] for offset in (0, 64, 128))
            heads.append(v @ torch.softmax(q.mT @ k / math.sqrt(64), dim=-1).mT)
        return x + self.proj_out(torch.cat(heads, 1)).reshape(x.shape)


class Resample(nn.Module):
    """A strided convolution named "op" on the way down, "conv" after doubling the pixels on the way up."""

    def __init__(self, channels, name):
        super().__init__()
        self.name = name
        self.add_module(name, nn.Conv2d(channels, channels, 3, 2 if name == "op" else 1, 1))

    def forward(self, x, tau):
        if self.name == "op":
            return self.op(x)
        return self.conv(x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))


class Plain(nn.Conv2d):
    def forward(self, x, tau):
        return super().forward(x)


class Improved(nn.Module):
    def __init__(self):
        super().__init__()

        def block(*layers):
            return nn.ModuleList(layers)

        self.time_embed = nn.Sequential(nn.Linear(128, 512), nn.SiLU(), nn.Linear(512, 512))
        self.input_blocks = block(
            block(Plain(3, 128, 3, padding=1)),
            *(block(Residual(128, 128)) for _ in range(3)),
            block(Resample(128, "op")),
            *(block(Residual(c, 256), Attention()) for c in (128, 256, 256)),
            block(Resample(256, "op")),
            *(block(Residual(256, 256), Attention()) for _ in range(3)),
            block(Resample(256, "op")),
            *(block(Residual(256, 256)) for _ in range(3)),
        )
        self.middle_block = block(Residual(256, 256), Attention(), Residual(256, 256))
        self.output_blocks = block(
            *(block(Residual(512, 256)) for _ in range(3)),
            block(Residual(512, 256), Resample(256, "conv")),
            *(block(Residual(512, 256), Attention()) for _ in range(3)),
            block(Residual(512, 256), Attention(), Resample(256, "conv")),
            *(block(Residual(512, 256), Attention()) for _ in range(3)),
            block(Residual(384, 256), Attention(), Resample(256, "conv")),
            *(block(Residual(c, 128)) for c in (384, 256, 256, 256)),
        )
        self.out = nn.Sequential(norm32(128), nn.SiLU(), nn.Conv2d(128, 6, 3, padding=1))

    def forward(self, x, t):
        angle = t[:, None] * torch.exp(-math.log(10000) * torch.arange(64).float() / 64)
        tau = self.time_embed(torch.cat([torch.cos(angle), torch.sin(angle)], 1).to(x.dtype))
        skips = []
        for layers in self.input_blocks:
            for layer in layers:
                x = layer(x, tau)
            skips.append(x)
        for layer in self.middle_block:
            x = layer(x, tau)
        for layers in self.output_blocks:
            x = torch.cat([x, skips.pop()], 1)
            for layer in layers:
                x = layer(x, tau)
        return self.out(x)


def randomised(kind):
    """A network in which no bias is 0 and no scale is 1, so that none can be lost unseen."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = kind().eval().requires_grad_(False)
        for value in network.parameters():
            value.add_(torch.randn_like(value), alpha=0.1 if value.ndim == 1 else 0.0)
    return network


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def tutorial():
    return randomised(Tutorial)


@pytest.fixture
def checkpoint(tutorial, tmp_path):
    """A function that saves the tutorial's state dict after changes; a value of None drops the tensor."""

    def save(changes=None, name="ckpt.pth"):
        state = {key: value for key, value in (tutorial.state_dict() | (changes or {})).items() if value is not None}
        save_file(state, tmp_path / name) if name.endswith(".safetensors") else torch.save(state, tmp_path / name)
        return tmp_path / name

    return save


# what was published is what we compute


def test_the_tutorials_network_computes_the_same(tutorial, checkpoint):
    assert sum(value.numel() for value in tutorial.parameters()) == 10_188_081
    pipeline = import_checkpoint(checkpoint(), "ddpm-pytorch")
    ours = PipelineDenoiser.from_pipeline(pipeline)
    t, x = torch.tensor([0, 1, 500, 999]), noise(4, 1, 28, 28)
    truth = tutorial(x, t)
    assert truth.std() > 0.1  # the tolerance means something
    with torch.no_grad():
        torch.testing.assert_close(noise_seen(ours, x, t), truth, rtol=0.0, atol=1e-5)
    config = pipeline.scheduler.config
    assert (config.num_train_timesteps, config.beta_schedule, config.clip_sample) == (1000, "linear", False)


@pytest.fixture(scope="module")
def improved(tmp_path_factory):
    """The reference, what the recipe said, and the pipeline that it wrote; 400 MB of files do not outlive this."""
    reference, folder = randomised(Improved), tmp_path_factory.mktemp("improved")
    torch.save({f"module.{name}": value for name, value in reference.state_dict().items()}, folder / "ema.pt")
    options = {"architecture": "improved-diffusion", "checkpoint": folder / "ema.pt", "output_dir": folder / "out"}
    summary = recipe.run(ImportSettings(**options, schedule="cosine", diffusion_steps=4000))
    pipeline = load_pipeline(folder / "out")
    shutil.rmtree(folder)
    return reference, summary, pipeline


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("index", [[0, 3999], [1, 1234]])
def test_improved_diffusion_computes_the_same(improved, index):
    reference, _, pipeline = improved
    t, x = torch.tensor(index), noise(2, 3, 32, 32)
    ours = PipelineDenoiser.from_pipeline(pipeline)
    truth = reference(x, t.float() * (1000 / 4000))
    assert truth.std() > 0.1
    torch.testing.assert_close(ours.raw(x, t), truth, rtol=0.0, atol=1e-5)
    assert torch.equal(noise_seen(ours, x, t), ours.raw(x, t)[:, :3])
    # unscaled timesteps are another question
    assert (pipeline.unet(x, t).sample - truth).abs().max() > 1e-3


def test_improved_diffusion_arrives_whole(improved):
    reference, summary, pipeline = improved
    count = sum(value.numel() for value in reference.parameters())
    assert summary["parameters"] == count == 52_546_438
    assert (summary["schedule"], summary["timestep_scale"]) == ("cosine, 4000 steps", 0.25)
    assert pipeline.timestep_scale == 0.25
    assert pipeline.scheduler.config.variance_type == "learned_range"


def test_diffusers_samples_from_both(improved, checkpoint):
    for pipeline, shape in (
        (improved[2], (1, 32, 32, 3)),
        (import_checkpoint(checkpoint(), "ddpm-pytorch"), (1, 28, 28, 1)),
    ):
        pipeline.set_progress_bar_config(disable=True)
        images = pipeline(1, torch.Generator().manual_seed(0), num_inference_steps=2, output_type="np").images
        assert images.shape == shape


# the same weights in other wrappings


@pytest.mark.parametrize("kind", ["safetensors", "half", "wrapped", "legacy"])
def test_other_wrappings_of_a_checkpoint(tutorial, checkpoint, tmp_path, kind):
    state, path = tutorial.state_dict(), tmp_path / "ckpt.pth"
    if kind == "safetensors":
        path = checkpoint(name="ckpt.safetensors")
    elif kind == "half":
        state = {name: value.bfloat16() for name, value in state.items()}
        torch.save(state, path)
    elif kind == "wrapped":
        torch.save({f"module.{name}": value for name, value in state.items()}, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=False)
    unet = import_checkpoint(path, "ddpm-pytorch").unet
    assert torch.equal(unet.conv_in.weight, state["conv_in.weight"].float())
    rows = unet.get_parameter("mid_stages.1.attentions.0.qkv.weight")
    assert torch.equal(rows, state["mids.1.attentions.0.in_proj_weight"].float())


# what does not fit is refused


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"conv_in.bias": None}, r"conv_in\.bias: missing"),
        ({"extra.weight": torch.ones(1)}, r"extra\.weight: unexpected"),
        ({"conv_out.bias": torch.ones(3)}, r"conv_out\.bias: got shape \(3,\), expected \(1,\).*config/default\.yaml"),
        ({"mids.0.attentions.1.in_proj_weight": torch.ones(256, 256)}, r"in_proj_weight: got shape \(256, 256\)"),
        ({"conv_in.bias": torch.full((32,), float("nan"))}, "NaN or infinite weights in 1 tensors"),
        (
            {"conv_in.bias": torch.ones(32, dtype=torch.float64)},
            r"conv_in\.bias \(torch\.float64\); expected floats of at",
        ),
        ({"module.conv_in.bias": torch.ones(32)}, r"module\.conv_in\.bias: unexpected"),
    ],
)
def test_strangers_among_the_tensors_are_refused(checkpoint, changes, says):
    with pytest.raises(InputError, match=says):
        import_checkpoint(checkpoint(changes), "ddpm-pytorch")


def test_the_first_differences_are_listed_and_the_rest_counted(checkpoint):
    with pytest.raises(
        InputError, match=r"not a checkpoint of this architecture: conv_in\.bias.*… and \d+ more\. Expected openai"
    ):
        import_checkpoint(checkpoint(), "improved-diffusion")


@pytest.fixture(scope="module")
def hollow():
    """improved-diffusion's names and shapes without its memory."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in Improved().state_dict().items()}
    return {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"out.2.weight": torch.zeros(3, 128, 3, 3), "out.2.bias": torch.zeros(3)},
            r"out\.2\.bias: got shape \(3,\), expected \(6,\).* 3 output channels: it was trained without --learn_sigma",
        ),
        ({"label_emb.weight": torch.zeros(1000, 512)}, r"label_emb\.weight: unexpected\. It is class-conditional"),
        ({"input_blocks.1.0.emb_layers.1.bias": torch.zeros(128)}, r"bias: got shape \(128,\), expected \(256,\)"),
        ({"middle_block.1.qkv.weight": torch.zeros(768, 256)}, r"got shape \(768, 256\), expected \(768, 256, 1\)"),
        ({"input_blocks.1.0.skip_connection.weight": torch.zeros(1)}, r"skip_connection\.weight: unexpected"),
    ],
)
def test_other_models_of_improved_diffusion_are_refused(hollow, tmp_path, changes, says):
    torch.save(hollow | changes, tmp_path / "model.pt")
    with pytest.raises(InputError, match=says):
        import_checkpoint(tmp_path / "model.pt", "improved-diffusion")


class Stranger:
    """A class of a repository that is not installed here."""


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (Stranger(), r"holds \S*\.Stranger, which cannot be read without running code.*save the network's state_dict"),
        (
            {"state": {0: torch.ones(1)}, "param_groups": []},
            "holds a dictionary of state, param_groups; expected the network's",
        ),
        ({}, "holds a dictionary of nothing; expected"),
        ([torch.ones(1)], "holds list; expected the network's state dict alone"),
    ],
)
def test_files_of_other_things_are_refused(tmp_path, content, says):
    torch.save(content, tmp_path / "ckpt.pth")
    with pytest.raises(InputError, match=says):
        read_state_dict(tmp_path / "ckpt.pth")


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (self.place,)


def test_no_code_in_a_file_is_run(tmp_path):
    torch.save({"conv_in.weight": torch.ones(1), "trap": Trap(str(tmp_path / "sprung"))}, tmp_path / "ckpt.pth")
    with pytest.raises(InputError, match=r"holds \w+\.mkdir, which cannot be read without running code in the file"):
        read_state_dict(tmp_path / "ckpt.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["ckpt.pth", "ckpt.safetensors"])
def test_missing_damaged_and_empty_files_are_refused(checkpoint, tmp_path, name):
    with pytest.raises(InputError, match="no such file; expected a checkpoint"):
        read_state_dict(tmp_path / name)
    path = checkpoint(name=name)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"hello"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read"):
            read_state_dict(path)


@pytest.mark.parametrize(
    ("architecture", "options", "says"),
    [
        (
            "ddpm-pytorch",
            {"schedule": "cosine"},
            "got the schedule 'cosine' with 1000 steps; expected linear with 1000",
        ),
        (
            "improved-diffusion",
            {"schedule": "linear"},
            "got the schedule 'linear' with 4000 steps; expected cosine with 4000",
        ),
        ("ddpm-pytorch", {"schedule": ""}, "got the schedule '' with 1000 steps"),
        ("ddpm-pytorch", {"diffusion_steps": 0}, "got the schedule 'linear' with 0 steps"),
        ("stable-diffusion", {}, "got 'stable-diffusion'; expected one of ddpm-pytorch, improved-diffusion"),
    ],
)
def test_another_schedule_is_refused_before_the_file_is_read(architecture, options, says):
    with pytest.raises(InputError, match=says):
        import_checkpoint("nowhere.pt", architecture, **options)


# the command line


def test_the_command_line_imports(tutorial, checkpoint, command, capsys, tmp_path):
    path, out = checkpoint(), tmp_path / "out"
    out.mkdir()  # empty, so it may be used
    assert command("import", "ddpm-pytorch", path, out, "--schedule", "linear", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["parameters"], summary["schedule"]) == (10_188_081, "linear, 1000 steps")
    assert len(summary["sha256"]) == 64
    t, x = torch.tensor([7]), noise(1, 1, 28, 28)
    with torch.no_grad():
        for unet in (load_pipeline(out).unet, DDPMPipeline.from_pretrained(out).unet):
            torch.testing.assert_close(unet(x, t).sample, tutorial(x, t), rtol=0.0, atol=1e-5)
    assert command("import", "ddpm-pytorch", path, out) == 2
    assert "already holds files; expected a new or empty folder" in capsys.readouterr().err
    assert command("import", "ddpm-pytorch", path, out / "new", "--schedule", "cosine") == 2
    assert "got the schedule 'cosine' with 1000 steps" in capsys.readouterr().err


def test_a_refused_checkpoint_leaves_nothing(checkpoint, command, capsys, tmp_path):
    path = checkpoint({"conv_in.bias": None})
    assert command("import", "ddpm-pytorch", path, tmp_path / "out") == 2
    assert "conv_in.bias: missing" in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
