"""A small job under each setting of a process that belongs to the caller: the same bits, and the setting is as it was."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import cache
from threading import Event

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

import vdu
from tiny_pipelines import flux
from vdu.core.errors import InputError
from vdu.core.rng import isolated_global
from vdu.core.surroundings import own_torch
from vdu.data.forget import split_by_class
from vdu.diffusion.sampling import Sampler, sample
from vdu.judges.classifier import Judge, load_judge, save_judge
from vdu.models.denoiser import PipelineDenoiser

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
    "bf16 in oneDNN": lambda: torch.backends.mkldnn.flags(enabled=True, fp32_precision="bf16"),
    "another random stream": lambda: nullcontext(torch.manual_seed(99)),
}


PLACES = [
    ("generic", "all"),
    *((name, kind) for name in ("cuda", "mkldnn") for kind in ("all", "matmul", "conv", "rnn")),
]
CHANGES = {
    "of everything": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
    "of oneDNN": lambda: torch.backends.mkldnn.set_flags(_fp32_precision="bf16"),
    "of everything, by oneDNN's name": lambda: setattr(torch.backends.mkldnn, "fp32_precision", "bf16"),
    "of convolutions": lambda: setattr(torch.backends.mkldnn.conv, "fp32_precision", "bf16"),
    "of matrix products": lambda: torch.set_float32_matmul_precision("medium"),
    "of both kinds": lambda: (torch.set_float32_matmul_precision("high"), setattr(torch.backends.mkldnn.matmul, "fp32_precision", "bf16")),
    "of cuDNN": lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
}  # fmt: skip


def precisions():
    """All of them, as PyTorch names them; "mixed" where it refuses to."""
    try:
        matmul = torch.get_float32_matmul_precision()
    except RuntimeError:
        matmul = "mixed"
    return [matmul, *(torch._C._get_fp32_precision_getter(*place) for place in PLACES)]


def set_precisions(values):
    torch.set_float32_matmul_precision(values[0])
    for place, value in zip(PLACES, values[1:], strict=True):
        torch._C._set_fp32_precision_setter(*place, value)


@pytest.mark.parametrize("change", CHANGES)
def test_float32_precisions_are_those_of_a_fresh_process_and_come_back(change):
    fresh = ["highest", "none", "none", "none", "tf32", "tf32", "none", "none", "none", "none"]
    set_precisions(fresh)
    try:
        CHANGES[change]()
        before = precisions()
        assert before != fresh
        with own_torch():
            assert [value.replace("ieee", "none") for value in precisions()] == fresh
        assert precisions() == before
    finally:
        set_precisions(fresh)


def test_the_kernel_of_attention_is_that_of_a_fresh_process():
    x = torch.randn(1, 4, 64, 32, generator=torch.Generator().manual_seed(0))

    def attended():
        return torch.nn.functional.scaled_dot_product_attention(x, x, x)

    truth, order = attended(), torch._C._get_sdp_priority_order()
    with sdpa_kernel([SDPBackend.MATH, SDPBackend.FLASH_ATTENTION], set_priority=True):
        assert torch._C._get_sdp_priority_order() != order
        with own_torch():
            assert torch.equal(attended(), truth) and torch._C._get_sdp_priority_order() == order
        assert not torch.backends.cuda.mem_efficient_sdp_enabled()
    with sdpa_kernel(SDPBackend.MATH), own_torch():
        assert torch.equal(attended(), truth)


@cache
def pipeline(**more):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8,), norm_num_groups=4, dropout=0.1,
            down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), **more,
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


def test_threads_do_not_put_back_what_others_still_use():
    """Under a default dtype of float64 the noise would be another."""
    denoiser, sampler = PipelineDenoiser.from_pipeline(pipeline()), Sampler("ddpm", 20, microbatch_size=5)
    expected, began, ended = sample(denoiser, range(10), sampler), Event(), Event()

    def brief():
        with own_torch():
            began.set()
            assert ended.wait(60) and torch.get_default_dtype() == torch.float32

    def longer():
        with own_torch():
            ended.set()  # the first thread leaves while this one draws
            first.result()
            return sample(denoiser, range(10), sampler)

    with setting(torch.get_default_dtype, torch.set_default_dtype, torch.float64), ThreadPoolExecutor(2) as pool:
        state = torch.get_rng_state()
        first = pool.submit(brief)
        assert began.wait(60)
        assert torch.equal(pool.submit(longer).result(), expected)
        assert torch.get_default_dtype() == torch.float64 and torch.equal(torch.get_rng_state(), state)


def test_threads_train_one_after_the_other():
    AcceleratorState._reset_state(True)
    mine = Accelerator(mixed_precision="bf16", cpu=True)
    expected = job()
    with ThreadPoolExecutor(2) as pool:
        found = [each.result() for each in [pool.submit(job), pool.submit(job)]]
    assert all(torch.equal(*pair) for each in found for pair in zip(each, expected, strict=True))
    assert mine.mixed_precision == Accelerator(cpu=True).mixed_precision == "bf16"
    AcceleratorState._reset_state(True)


def test_a_thread_that_samples_leaves_the_stream_of_one_that_trains_alone():
    entered, leave = Event(), Event()

    def other():
        with own_torch():
            entered.set()
            assert leave.wait(60)

    stream = torch.get_rng_state()
    with own_torch(), isolated_global(3), ThreadPoolExecutor(1) as pool:
        expected = torch.rand(4)
        torch.manual_seed(3)
        waiting = pool.submit(other)
        assert entered.wait(60)
        first = torch.rand(2)  # of dropout, say
        leave.set()
        waiting.result()
        assert torch.equal(torch.cat([first, torch.rand(2)]), expected)
    assert torch.equal(torch.get_rng_state(), stream)


def test_the_user_may_choose_a_precision_afterwards():
    AcceleratorState._reset_state(True)
    job()
    assert Accelerator(mixed_precision="bf16", cpu=True).mixed_precision == "bf16"
    AcceleratorState._reset_state(True)


class Rounds(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        return found.bfloat16().float() if func is torch.nn.functional.linear else found


BLOCKS = {
    "Rounds": Rounds,
    "FlopCounterMode": lambda: FlopCounterMode(display=False),
    "coarse": lambda: torch.autograd.graph.saved_tensors_hooks(coarse, coarse),
}


def coarse(tensor):
    return tensor * 2 if tensor.is_floating_point() else tensor


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_that_could_change_every_operation_is_refused(name):
    opened = vdu.PipelineDenoiser.from_pipeline(pipeline())
    with BLOCKS[name]():
        for call in (job, lambda: sample(opened, [0], Sampler("ddim", 1)), lambda: opened.from_pipeline(pipeline())):
            with pytest.raises(InputError, match=rf"\._?{name} is on around this call.*outside of its with"):
                call()


def test_activations_that_are_kept_elsewhere_change_nothing():
    truth()
    with torch.autograd.graph.save_on_cpu():
        check()


def test_a_refusal_puts_the_settings_back_too():
    with setting(torch.get_default_dtype, torch.set_default_dtype, torch.float64), pytest.raises(vdu.InputError):
        vdu.unlearn(pipeline(), vdu.gradient_ascent(), forget=images(), steps=0, progress=None)


@cache
def class_conditional():
    return vdu.PipelineDenoiser.from_pipeline(pipeline(num_class_embeds=3))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Class folders, a saved model, a judge, and a run."""
    folder = tmp_path_factory.mktemp("inputs")
    for name, level in (("a", 10), ("b", 200)):
        (folder / "images" / name).mkdir(parents=True)
        Image.new("L", (8, 8), level).save(folder / "images" / name / "0.png")
    vdu.save_pipeline(pipeline(), folder / "model")
    record = {
        "name": "j",
        "trained_by": "labels",
        "data": {},
        "held_out": {},
        "held_out_error": 0.5,
        "n_held_out": 2,
        "settings": {},
    }
    save_judge(
        Judge("cnn", (1, 8, 8), ("a", "b")), folder / "judge", record | {"confusion": [[1, 0], [1, 0]], "command": "c"}
    )
    given = {"forget": folder / "images" / "a", "steps": 1, "batch_size": 4, "progress": None}
    vdu.unlearn(folder / "model", vdu.gradient_ascent(), folder=folder / "run", **given)
    return folder


def files(folder):
    """The hash of every file by its name."""
    found = (each for each in folder.rglob("*") if each.is_file())
    return {each.relative_to(folder).as_posix(): hashlib.sha256(each.read_bytes()).hexdigest() for each in found}


def saved(folder):
    vdu.save_pipeline(pipeline(), folder)
    return files(folder)


def saved_result(folder):
    made = vdu.unlearn(pipeline(), vdu.gradient_ascent(), forget=images(), steps=1, batch_size=4, progress=None)
    made.save_pretrained(folder)
    return files(folder)


SMALL = {
    "class folders": lambda place, _: vdu.load_images(place / "images").labels.tolist(),
    "a class": lambda place, _: split_by_class(vdu.load_images(place / "images"), "b")[0].sha256,
    "a saved model": lambda _, out: saved(out),
    "a saved result": lambda _, out: saved_result(out),
    "a condition": lambda *_: class_conditional().condition([2, "1"])["class_labels"].tolist(),
    "a protocol": lambda *_: vdu.Sampler("ddim", 2).make(vdu.PipelineDenoiser.from_pipeline(pipeline())).timesteps.tolist(),
    "a judge": lambda place, _: load_judge(place / "judge")[0].class_names,
    "a check": lambda place, _: vdu.verify(place / "run"),
    "a distribution": lambda *_: vdu.metrics.expected_distribution([5, 3, 1], [0]).tolist(),
    "a schedule": lambda *_: vdu.NoiseSchedule([0.9, 0.5, 0.1]).alpha_bars.tolist(),
}  # fmt: skip
KNOWN = {
    "class folders": [0, 1], "a condition": [2, 1], "a distribution": [0, 0.75, 0.25], "a schedule": [0.9, 0.5, 0.1],
}  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_small_functions_under_another_default_device_and_dtype(name, place, tmp_path):
    fresh = SMALL[name](place, tmp_path / "fresh")
    assert fresh == KNOWN.get(name, fresh)
    with torch.device("meta"):
        assert SMALL[name](place, tmp_path / "device") == fresh
    for dtype in (torch.float64, torch.bfloat16):
        with setting(torch.get_default_dtype, torch.set_default_dtype, dtype):
            assert SMALL[name](place, tmp_path / str(dtype)) == fresh


def test_the_attention_of_diffusers_is_that_of_a_fresh_process():
    dispatch = pytest.importorskip("diffusers.models.attention_dispatch")
    model = flux()
    expected = vdu.sample(model, 2, Sampler("ddim", 2))
    used = []
    native = dispatch._AttentionBackendRegistry._backends[dispatch.AttentionBackendName._NATIVE_MATH]
    with pytest.MonkeyPatch.context() as patch, dispatch.attention_backend("_native_math"):
        patch.setitem(
            dispatch._AttentionBackendRegistry._backends,
            dispatch.AttentionBackendName._NATIVE_MATH,
            lambda *given, **more: used.append(1) or native(*given, **more),
        )
        assert torch.equal(vdu.sample(model, 2, Sampler("ddim", 2)), expected) and not used
        assert dispatch._AttentionBackendRegistry._active_backend == dispatch.AttentionBackendName._NATIVE_MATH
    model.transformer.set_attention_backend("_native_math")
    with pytest.raises(
        InputError, match=r"the attention backend _native_math instead of None.*reset_attention_backend"
    ):
        vdu.sample(model, 2, Sampler("ddim", 2))
    model.transformer.reset_attention_backend()
    assert torch.equal(vdu.sample(model, 2, Sampler("ddim", 2)), expected)


@pytest.mark.parametrize("name", ["meta", "nonsense", "cuda:99"])
def test_a_device_of_the_environment_that_cannot_compute_is_refused(monkeypatch, name):
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", name)
    with pytest.raises(
        InputError, match=f"ACCELERATE_TORCH_DEVICE: got '?{name}'?, and PyTorch .* cannot compute on it here"
    ):
        job()


def test_a_flux_network_under_another_default_device():
    pytest.importorskip("transformers")
    model = vdu.PipelineDenoiser.from_pipeline(flux())
    x_t, timestep, condition = torch.ones(1, *model.latent_shape), torch.full((1,), 500.0), model.condition(["a cat"])
    with torch.no_grad():
        fresh = model.raw(x_t, timestep, condition)
        with torch.device("meta"):
            assert torch.equal(model.raw(x_t, timestep, condition), fresh)
            assert model.step_options(4)["sigmas"] == [1.0, 0.75, 0.5, 0.25]
