"""Shared by all rooms: a U-Net of ten thousand weights on 8×8 images, and pipelines around it.

Truths are equal bits on a CPU, so a GPU is hidden from the tests. ``VDU_TEST_CUDA=1 python -m pytest tests/test_end_to_end.py``
runs the main job on it.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

if not os.environ.get("VDU_TEST_CUDA"):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before PyTorch looks
os.environ["OMP_NUM_THREADS"] = "1"  # of the tests' own processes, too: tiny tensors are quicker on one thread
os.environ["COLUMNS"] = "200"  # help and messages are not broken into lines by whatever terminal there is

import pytest
import torch

NUMBERS = itertools.count()


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """However the variable was set when PyTorch started."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Own samples are kept for one test only; the folder is made by the test that needs it, as six thousand take a minute."""
    monkeypatch.setenv("VDU_CACHE", str(tmp_path_factory.getbasetemp() / f"cache-{next(NUMBERS)}"))


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk() -> Iterator[None]:
    """What a power cut would lose is lost here; a killed process loses nothing by it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def make_unet() -> Callable[..., Any]:
    """Seeded tiny ``UNet2DModel``; keyword arguments change its configuration."""
    from diffusers import UNet2DModel

    def make(*, seed: int = 0, **changes: Any) -> Any:
        config: dict[str, Any] = {
            "sample_size": 8,
            "in_channels": 1,
            "out_channels": 1,
            "block_out_channels": (8,),
            "layers_per_block": 1,
            "down_block_types": ("DownBlock2D",),
            "up_block_types": ("UpBlock2D",),
            "norm_num_groups": 4,
            "attention_head_dim": 4,
        }
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return UNet2DModel(**config | changes).eval()

    return make


@pytest.fixture
def make_pipeline(make_unet: Callable[..., Any]) -> Callable[..., Any]:
    """``DDPMPipeline`` around a tiny U-Net; ``scheduler`` holds changes of its ``DDPMScheduler``."""
    from diffusers import DDPMPipeline, DDPMScheduler

    def make(scheduler: dict[str, Any] | None = None, **unet: Any) -> Any:
        pipeline = DDPMPipeline(unet=make_unet(**unet), scheduler=DDPMScheduler(**scheduler or {}))
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return make


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """``--dry-run`` reads the arguments and does not look at the files that they name."""
    monkeypatch.setattr("vdu.cli._check", lambda name, settings: None)


@pytest.fixture
def command() -> Callable[..., int]:
    """The command line in this process: tokens in, exit code out; ``capsys`` has what it says."""
    from vdu.cli import main

    def call(*tokens: Any) -> int:
        with pytest.raises(SystemExit) as stop:
            main([str(token) for token in tokens])
        return int(stop.value.code or 0)

    return call
