"""A small job under each setting of a process that belongs to the caller: the same bits, and the setting is as it was."""

import os
from contextlib import contextmanager, nullcontext
from functools import cache

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

import vdu
from vdu.core.errors import InputError

SETTERS = {
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype, torch.float64),
    "half default dtype": (torch.get_default_dtype, torch.set_default_dtype, torch.bfloat16),
    "matmul precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"),
    "deterministic": (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True),
    "gradients off": (torch.is_grad_enabled, torch.set_grad_enabled, False),
}
VARIABLES = {
    "accumulation": {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"},
    "precision": {"ACCELERATE_MIXED_PRECISION": "bf16"},
    "compiler": {"ACCELERATE_DYNAMO_BACKEND": "EAGER"},
    "sharding": {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"},
    "processor": {"ACCELERATE_USE_CPU": "true"},
}
MODES = {
    "inference mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "default device": lambda: torch.device("meta"),
    "no oneDNN": lambda: torch.backends.mkldnn.flags(enabled=False),
    "another random stream": lambda: nullcontext(torch.manual_seed(99)),
}


@cache
def pipeline():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8,), norm_num_groups=4, dropout=0.1,
            down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
        )  # fmt: skip
    return DDPMPipeline(unet=unet, scheduler=DDPMScheduler(num_train_timesteps=100, beta_end=0.1))


@cache
def images():
    source = torch.Generator().manual_seed(0)
    return vdu.ImageSet(torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8, generator=source))


def job():
    """Unlearning, sampling and a posterior: every stream of random numbers, and every library."""
    made = vdu.unlearn(
        pipeline(), vdu.gradient_ascent(), forget=images(), steps=2, batch_size=4, ema_decay=0.9, seed=1, progress=None
    ).pipeline
    drawn = vdu.sample(made, 3, vdu.Sampler("ddpm", steps=3, microbatch_size=2))
    source = torch.Generator().manual_seed(0)
    posterior = vdu.fit_posterior(pipeline(), "fisher", generator=source, n_samples=2, n_train=10, draws_per_half=2)
    return [*(value.detach() for value in made.unet.state_dict().values()), drawn, *posterior.variance.values()]


truth = cache(job)


def check():
    expected, stream = truth(), torch.get_rng_state()
    assert all(torch.equal(*pair) for pair in zip(job(), expected, strict=True))
    assert torch.equal(torch.get_rng_state(), stream)


@contextmanager
def setting(read, write, value):
    before = read()
    write(value)
    try:
        yield
        assert read() == value
    finally:
        write(before)


@pytest.mark.parametrize("name", SETTERS)
def test_a_setting_of_pytorch(name):
    truth()
    with setting(*SETTERS[name]):
        check()


@pytest.mark.parametrize("name", MODES)
def test_a_mode_of_pytorch(name):
    expected = truth()
    with MODES[name]():
        found = job()
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", VARIABLES)
def test_accelerates_environment(name, monkeypatch):
    truth()
    for variable, value in VARIABLES[name].items():
        monkeypatch.setenv(variable, value)
    before = dict(os.environ)
    check()
    assert dict(os.environ) == before


def test_the_users_own_accelerator():
    truth()
    AcceleratorState._reset_state(True)  # accelerate knows one precision for a process
    mine = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=4, cpu=True)
    check()
    assert (mine.mixed_precision, mine.gradient_accumulation_steps) == ("bf16", 4)
    assert Accelerator(cpu=True).mixed_precision == "bf16"
    AcceleratorState._reset_state(True)


def test_the_user_may_choose_a_precision_afterwards():
    AcceleratorState._reset_state(True)
    job()
    assert Accelerator(mixed_precision="bf16", cpu=True).mixed_precision == "bf16"
    AcceleratorState._reset_state(True)


def test_a_refusal_puts_the_settings_back_too():
    with setting(torch.get_default_dtype, torch.set_default_dtype, torch.float64), pytest.raises(vdu.InputError):
        vdu.unlearn(pipeline(), vdu.gradient_ascent(), forget=images(), steps=0, progress=None)


def test_a_precision_that_pytorch_cannot_name_is_refused(monkeypatch):
    """As after ``torch.backends.fp32_precision = "tf32"``, which no process can take back entirely."""

    def unnamed():
        raise RuntimeError("you have used mix of the legacy and new APIs")

    monkeypatch.setattr(torch, "get_float32_matmul_precision", unnamed)
    with pytest.raises(InputError, match='Set fp32_precision = "none"'):
        vdu.sample("zoo:mnist", 1)
