"""Two CPU processes under ``torchrun`` do what one does: the same pixels, the same training, one run folder.

The file is also the program that both processes run: ``torchrun … test_two_processes.py FOLDER``.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import vdu
from vdu.commands import pretrain
from vdu.commands.pretrain import PretrainSettings
from vdu.core.errors import InputError
from vdu.core.rng import isolated_global
from vdu.core.types import Losses
from vdu.diffusion.sampling import Sampler, sample
from vdu.models.denoiser import PipelineDenoiser
from vdu.training.loop import Objective, TrainSettings, make_accelerator, train

SEEDS = list(range(11))  # four micro-batches, the last one not full
SAMPLERS = {
    "ddpm": Sampler("ddpm", steps=4, microbatch_size=3),
    "ddim": Sampler("ddim", steps=4, eta=0.5, microbatch_size=3),
}
SETTINGS = TrainSettings(steps=5, learning_rate=0.02, max_grad_norm=0.5, ema_decay=0.9, gradient_accumulation_steps=2)


class Regression(Objective):
    limits = {"largest": 1e6}  # ruff: ignore[mutable-class-default]

    def losses(self, network, batch) -> Losses:
        self.n_seen = len(batch["x"])
        error = network(batch["x"]) - batch["y"]
        return Losses({"mse": error.square().mean()}, {"largest": error.abs().mean()})

    def add_gradients(self, parameters) -> dict[str, float]:
        """A pull towards 0, which must be added once and not once per process."""
        for value in parameters.values():
            value.grad += 0.3 * value.detach()
        return {"pull": 0.15 * sum(float(value.detach().square().sum()) for value in parameters.values())}


def draw_images() -> dict[str, Tensor]:
    """The images of each sampler, and how often this process evaluated the network."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    blocks: dict[str, Any] = {
        "block_out_channels": (8,),
        "down_block_types": ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",),
    }
    with isolated_global(0):
        unet = UNet2DModel(8, 1, 1, layers_per_block=1, norm_num_groups=4, attention_head_dim=4, **blocks)
    denoiser = PipelineDenoiser.from_pipeline(DDPMPipeline(unet, DDPMScheduler()))
    calls: list[int] = []
    unet.register_forward_hook(lambda *_: calls.append(1))
    accelerator = make_accelerator()
    images = {name: sample(denoiser, SEEDS, sampler, accelerator=accelerator) for name, sampler in SAMPLERS.items()}
    return images | {"evaluations": torch.tensor(len(calls))}


def train_network(folder: Path, **options: Any) -> dict[str, Tensor]:
    with isolated_global(0):
        network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()

    def batch(step: int) -> dict[str, Tensor]:
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        return {"x": x, "y": torch.stack([x.sum(1), x[:, 0] * x[:, 1]], 1)}

    regression = Regression()
    result = train(network, regression, batch, SETTINGS, folder=folder, **options)
    assert result.ema is not None
    averages = {f"ema.{name}": value for name, value in result.ema.items()}
    return {**network.state_dict(), **averages, "n_seen": torch.tensor(regression.n_seen)}


def pretrain_digits(folder: Path) -> None:
    settings = {
        "data": "digits",
        "steps": 2,
        "batch_size": 4,
        "warmup_steps": 0,
        "learning_rate": 1e-3,
        "ema_decay": 0.0,
    }
    pretrain.run(PretrainSettings(output_dir=folder, **settings))


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    rank = os.environ.get("RANK", "0")
    images = draw_images()
    save_file(images, folder / f"images-{rank}.safetensors")
    save_file(train_network(folder / "train"), folder / f"weights-{rank}.safetensors")
    pretrain_digits(folder / "run")
    accelerator = make_accelerator()
    (folder / f"processes-{rank}").write_text(f"{accelerator.process_index} of {accelerator.num_processes}")
    accelerator.end_training()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """What two processes wrote, and what one wrote."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    environment = os.environ | {"PYTHONPATH": str(Path(vdu.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    program = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        __file__,
        str(two),
    ]
    done = subprocess.run(program, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    main(one)
    return one, two


def test_both_processes_knew_of_each_other(folders):
    assert [(folders[1] / f"processes-{rank}").read_text() for rank in (0, 1)] == ["0 of 2", "1 of 2"]


def test_images_have_the_same_bits(folders):
    truth = load_file(folders[0] / "images-0.safetensors")
    for rank in (0, 1):
        images = load_file(folders[1] / f"images-{rank}.safetensors")
        for name in SAMPLERS:
            assert torch.equal(images[name], truth[name]), (name, rank)
    assert len(truth["ddpm"]) == len(SEEDS)


def test_the_work_of_sampling_is_shared(folders):
    paths = [folders[0] / "images-0.safetensors", *(folders[1] / f"images-{rank}.safetensors" for rank in (0, 1))]
    one, *both = (int(load_file(path)["evaluations"]) for path in paths)
    assert one == len(SAMPLERS) * 4 * 4  # micro-batches × steps
    assert both == [one // 2] * 2


def test_training_gives_the_same_weights(folders):
    truth = load_file(folders[0] / "weights-0.safetensors")
    n_seen = int(truth.pop("n_seen"))
    for rank in (0, 1):
        weights = load_file(folders[1] / f"weights-{rank}.safetensors")
        assert int(weights.pop("n_seen")) == n_seen // 2  # the batch is shared
        for name, value in weights.items():
            torch.testing.assert_close(value, truth[name], rtol=1e-12, atol=1e-14)
    lines = [
        [json.loads(line) for line in (folder / "train" / "log.jsonl").read_text().splitlines()] for folder in folders
    ]
    assert len(lines[1]) == SETTINGS.steps  # one process writes
    for ours, theirs in zip(*lines, strict=True):
        assert theirs["terms"] == pytest.approx(ours["terms"], rel=1e-12)
        assert theirs["grad_norm"] == pytest.approx(ours["grad_norm"], rel=1e-12)


def test_a_run_is_not_resumed_with_another_number_of_processes(folders):
    with pytest.raises(InputError, match="was written with other settings"):
        train_network(folders[1] / "train", resume=True)


def test_a_verb_writes_one_run_folder(folders):
    truth, weights = (
        load_file(folder / "run" / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors") for folder in folders
    )
    for name, value in truth.items():
        # Adam divides by the root of tiny squares: sums in another order move a weight by a part of the learning rate
        torch.testing.assert_close(weights[name], value, rtol=0.0, atol=2e-4)
    record = json.loads((folders[1] / "run" / "run.json").read_text())
    assert record["finished"] is True
    assert not [path.name for path in (folders[1] / "run").iterdir() if path.suffix in {".tmp", ".old"}]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
