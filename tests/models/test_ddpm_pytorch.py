import math
import subprocess
import sys

import pytest
import torch
from diffusers import DDPMPipeline
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import nn

from toys import noise_seen
from vdu.models.ddpm_pytorch import DDPMPytorchUNet, SelfAttention, timestep_embedding
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.networks import new_pipeline
from vdu.models.pipelines import load_pipeline
from vdu.models.saving import save_pipeline

TINY = {"sample_size": 8, "widths": (8, 8, 16), "out_width": 8, "layers_per_block": 1, "time_embedding_dim": 8}


def tiny(seed=0, **changes):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return DDPMPytorchUNet(**TINY | changes).eval()


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def residual(c_in, c_out):
    """Parameters by hand: two norms, two 3×3 convolutions, the timestep's linear map, a 1×1 convolution."""
    return 2 * c_in + (9 * c_in + 1) * c_out + 129 * c_out + 2 * c_out + (9 * c_out + 1) * c_out + (c_in + 1) * c_out


def test_the_parameters_are_those_of_the_layers_counted_by_hand():
    def attention(c):
        return 2 * c + (c + 1) * 3 * c + (c + 1) * c

    def resample(c):
        return (16 * c + 1) * c

    two = [(32, 64), (64, 128), (128, 256), (256, 64), (128, 32), (64, 16)]
    stages = sum(residual(a, b) + residual(b, b) + 2 * attention(b) for a, b in two)
    stages += sum(residual(a, b) + 2 * residual(b, b) + 2 * attention(b) for a, b in [(256, 256), (256, 128)])
    ends = (9 + 1) * 32 + 2 * 129 * 128 + 2 * 16 + 9 * 16 + 1
    count = stages + ends + 2 * resample(64) + resample(128) + resample(32)
    assert sum(value.numel() for value in DDPMPytorchUNet().parameters()) == count == 10_188_081


def test_the_embedding_is_sines_then_cosines():
    t = torch.tensor([0.0, 0.5, 17.25, 999.0])
    truth = [
        [f(float(each) * 10000 ** (-i / 64)) for f in (math.sin, math.cos) for i in range(64)] for each in t
    ]  # in double precision
    # 1e-4: at t = 999 one float32 rounding of the frequency turns the angle by 6e-5
    torch.testing.assert_close(timestep_embedding(t, 128), torch.tensor(truth), rtol=0.0, atol=1e-4)


def test_attention_is_that_of_multihead_attention():
    ours, truth = SelfAttention(16, 4), nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        for value in ours.parameters():
            value.normal_(generator=torch.Generator().manual_seed(len(value)))
    truth.load_state_dict({
        "in_proj_weight": ours.qkv.weight,
        "in_proj_bias": ours.qkv.bias,
        "out_proj.weight": ours.out.weight,
        "out_proj.bias": ours.out.bias,
    })
    x = noise(2, 16, 3, 5)
    pixels = ours.norm(x).reshape(2, 16, 15).permute(0, 2, 1)
    mixed = truth(pixels, pixels, pixels)[0].permute(0, 2, 1).reshape(2, 16, 3, 5)
    torch.testing.assert_close(ours(x), x + mixed, rtol=1e-5, atol=1e-4)  # values of about 30


@torch.no_grad()
def test_a_timestep_may_be_a_number_or_a_tensor_and_fractional():
    unet, x = tiny(), noise(2, 1, 8, 8)
    truth = unet(x, torch.tensor([500, 500])).sample
    for t in (500, 500.0, torch.tensor(500), torch.tensor([500]), torch.tensor([500.0, 500.0], dtype=torch.float64)):
        assert torch.equal(unet(x, t).sample, truth)
    below, between, above = (unet(x, torch.tensor(t)).sample for t in (500.0, 500.125, 500.25))
    # half of a short way; a rounded timestep would stay at one of its ends
    torch.testing.assert_close(between, (below + above) / 2, rtol=0.0, atol=0.2 * float((above - below).abs().max()))
    assert not torch.equal(below, above)
    mixed = unet(x, torch.tensor([500.0, 500.25])).sample  # each image has its own
    torch.testing.assert_close(mixed, torch.stack([below[0], above[1]]), rtol=1e-5, atol=1e-6)


def test_the_output_has_the_face_of_diffusers():
    unet, x = tiny(in_channels=3, out_channels=6), noise(2, 3, 8, 8)
    output = unet(x, 3)
    assert isinstance(output, UNet2DOutput)
    assert output.sample.shape == (2, 6, 8, 8)
    assert torch.equal(unet(x, 3, return_dict=False)[0], output.sample)
    assert unet.half()(x.half(), 3).sample.dtype == torch.float16


def test_every_parameter_and_the_skips_have_a_part_in_the_output():
    unet = tiny(layers_per_block=2)
    x = noise(1, 1, 8, 8).requires_grad_()
    unet(x, 3).sample.square().sum().backward()
    silent = [name for name, value in unet.named_parameters() if value.grad is None or not value.grad.abs().sum()]
    assert silent == []


def test_diffusers_drives_saves_and_loads_it(tmp_path):
    pipeline = new_pipeline((1, 28, 28), seed=0, model="ddpm-pytorch")
    pipeline.save_pretrained(tmp_path)
    images = []
    for each in (pipeline, DDPMPipeline.from_pretrained(tmp_path), load_pipeline(tmp_path)):
        assert isinstance(each.unet, DDPMPytorchUNet)
        assert not each.unet.training
        each.set_progress_bar_config(disable=True)
        source = torch.Generator().manual_seed(0)
        images.append(torch.tensor(each(2, source, num_inference_steps=3, output_type="np").images))
    assert images[0].shape == (2, 28, 28, 1)
    assert images[0].std() > 0.1
    assert torch.equal(images[0], images[1])
    assert torch.equal(images[0], images[2])


@torch.no_grad()
def test_it_is_a_denoiser_like_any_other(tmp_path):
    pipeline = new_pipeline((1, 28, 28), seed=0, model="ddpm-pytorch")
    save_pipeline(pipeline, tmp_path)
    x, t = noise(2, 1, 28, 28), torch.tensor([3.5, 900.0])
    ours = PipelineDenoiser.from_pipeline(load_pipeline(tmp_path))
    assert (ours.image_shape, ours.prediction_type, ours.timestep_scale) == ((1, 28, 28), "epsilon", 1.0)
    assert not ours.learned_variance
    assert torch.equal(noise_seen(ours, x, t), pipeline.unet(x, t).sample)


@pytest.mark.parametrize("name", ["qkv.bias", "out.bias"])
def test_attention_starts_like_multihead_attention(name):
    assert not SelfAttention(16, 4).get_parameter(name).any()


def test_a_fresh_process_loads_a_saved_pipeline(tmp_path):
    """diffusers takes a class only from a library that has been imported; nothing here has imported it."""
    new_pipeline((1, 28, 28), seed=0, model="ddpm-pytorch").save_pretrained(tmp_path / "model")
    program = f"from vdu.models.pipelines import load_pipeline\nprint(type(load_pipeline({str(tmp_path / 'model')!r}).unet).__name__)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["DDPMPytorchUNet"]
