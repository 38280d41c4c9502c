"""Two CPU processes under ``torchrun`` do what one does: the same pixels, training, posteriors and evidence; one of them writes.

The file is also the program that both processes run: ``torchrun … test_two_processes.py FOLDER``.
"""

import json
import os
import subprocess
import sys
from contextlib import contextmanager, redirect_stdout
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.evaluation.conftest import PixelJudge
from torch import Tensor, nn

import vdu
from vdu import cli
from vdu.commands import posterior, pretrain
from vdu.commands.pretrain import PretrainSettings
from vdu.commands.settings import PosteriorSettings
from vdu.core.counter import EvaluationCounter
from vdu.core.errors import InputError
from vdu.core.processes import gathered
from vdu.core.records import read_json
from vdu.core.rng import isolated_global
from vdu.core.types import Losses
from vdu.diffusion.sampling import Sampler, sample
from vdu.evaluation import inputs, recording, suite
from vdu.judges.judging import Judging
from vdu.models import usable
from vdu.models.denoiser import PipelineDenoiser
from vdu.probes import completion, relearning, stochastic
from vdu.training.accelerator import make_accelerator
from vdu.training.loop import Objective, TrainSettings, train
from vdu.unlearning import default_posterior
from vdu.unlearning.labels import forget_set_of_labels
from vdu.unlearning.unlearn import unlearn

pytestmark = pytest.mark.slow  # half a minute: two processes of their own

SEEDS = list(range(11))  # four micro-batches, the last one not full
SAMPLERS = {
    "ddpm": Sampler("ddpm", steps=4, microbatch_size=3),
    "ddim": Sampler("ddim", steps=4, eta=0.5, microbatch_size=3),
}
MICRO = 6
FISHERS: dict[str, dict[str, Any]] = {
    "fisher": {"n_train": 50, "draws_per_half": 1},
    "amnesia-fisher": {"timesteps_per_sample": 2},
}
PROBES: dict[str, Any] = {
    "relearning": partial(relearning.probe, n_shown=(4,), steps=(0, 2), n_images=12),
    "stochastic": partial(stochastic.probe, n_images=12),
    "completion": partial(completion.probe, n_images=4, n_draws=24),
}
PATCHED = {
    usable: ("require_usable", "require_whole"),
    recording: ("find_judges",),
    inputs: ("require_enough",),
    suite: ("SUITES",),
    default_posterior: ("N_SAMPLES", "SAMPLER"),
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


def unet(seed: int) -> UNet2DModel:
    blocks: dict[str, Any] = {
        "block_out_channels": (8,),
        "down_block_types": ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",),
    }
    with isolated_global(seed):
        return UNet2DModel(8, 1, 1, layers_per_block=1, norm_num_groups=4, attention_head_dim=4, **blocks)


def draw_images() -> dict[str, Tensor]:
    """The images of each sampler, and how often this process evaluated the network."""
    model = PipelineDenoiser.from_pipeline(DDPMPipeline(unet(0), DDPMScheduler()))
    make_accelerator()
    counter = EvaluationCounter()
    with calls(grad=False) as seen, counter.watching(model.network):
        images = {name: sample(model, SEEDS, sampler, shared=True) for name, sampler in SAMPLERS.items()}
    return images | {"evaluations": torch.tensor(len(seen)), "counted": torch.tensor(counter.total)}


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


@contextmanager
def calls(*, grad: bool, batch: int | None = None):
    """Counts the calls of U-Nets with gradients or without, perhaps of one batch size alone."""
    seen: list[int] = []

    forward = UNet2DModel.forward

    def counting(network, sample, *arguments, **options):
        if torch.is_grad_enabled() == grad and batch in (None, len(sample)):
            seen.append(1)
        return forward(network, sample, *arguments, **options)

    UNet2DModel.forward = counting
    try:
        yield seen
    finally:
        UNet2DModel.forward = forward


def fit_posteriors(folder: Path) -> dict[str, int]:
    """Each Fisher estimator in a run folder, and the calls with gradients that each took here."""
    found = {}
    for name, own in FISHERS.items():
        common: dict[str, Any] = {
            "pipeline": folder / "before",
            "n_samples": 6,
            "inference_steps": 2,
            "microbatch_size": 3,
        }
        with calls(grad=True) as seen:
            posterior.run(PosteriorSettings(estimator=name, output_dir=folder / name, **common, **own))
        found[name] = len(seen)
    return found


def evaluate_two(folder: Path, rank: str) -> dict[str, int]:
    """Evidence of two models from the command line: the exit code, and the micro-batches drawn here."""
    record = {"name": "pixel", "held_out_error": 0.1, "confusion": [[9, 1, 0], [2, 18, 0], [0, 1, 29]]}
    judging = Judging(PixelJudge(), record, "given", ("a",))  # pyright: ignore[reportArgumentType]
    recording.find_judges, inputs.require_enough = lambda *_, **__: (judging, 0), lambda *_: None
    suite.SUITES = {"quick": PROBES}
    where = ("--before", folder / "before", "--after", folder / "after", "--forget", folder / "unwanted")
    how = (
        "--n-images",
        24,
        "--inference-steps",
        2,
        "--microbatch-size",
        MICRO,
        "--suite",
        "quick",
        "-o",
        folder / "evidence",
    )
    with (folder / f"said-{rank}").open("w") as said, redirect_stdout(said), calls(grad=False, batch=MICRO) as seen:
        code = exit_code("evaluate", *where, *how)
        again = exit_code("sample", folder / "before", "-o", folder / "unwanted")  # which the first process refuses
    return {"code": code, "again": again, "drawn": len(seen)}


def exit_code(*tokens: Any) -> int:
    try:
        cli.main([str(token) for token in tokens])
    except SystemExit as stop:
        return int(stop.code or 0)
    raise AssertionError("the command line ends with an exit code")


def part_ways(rank: str) -> str:
    """The error of processes that are at different steps."""
    try:
        gathered(f"the step of {rank}", None)
    except RuntimeError as error:
        return str(error)
    return ""


def fail_alone(rank: str) -> None:
    """The second process fails while the first waits for it."""
    make_accelerator()
    if rank == "1":
        raise InputError("the second process failed")
    gathered("a step", None)


def make_models(folder: Path) -> None:
    """Two models and six images to forget, by the first process."""
    for name, seed in (("before", 0), ("after", 1)):
        DDPMPipeline(unet(seed), DDPMScheduler()).save_pretrained(folder / name)
    (folder / "unwanted").mkdir()
    for i in range(6):
        pixels = torch.randint(256, (8, 8), generator=torch.Generator().manual_seed(i), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / "unwanted" / f"{i}.png")


def in_double(network, arguments, named):
    """The arguments in float64, whatever the noise and the images are in."""

    def double(value):
        return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

    return tuple(map(double, arguments)), {name: double(value) for name, value in named.items()}


def forget_words(folder: Path) -> None:
    """A text-to-image model in float64 forgets a prompt, by low-rank corrections under a posterior that is fitted in passing."""
    import tiny_pipelines

    pipeline: Any = tiny_pipelines.stable_diffusion()
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.double()
    pipeline.unet.register_forward_pre_hook(in_double, with_kwargs=True)
    pipeline.prompts = ("a cat", "a dog")
    usable.require_usable = usable.require_whole = lambda _: None  # which refuse float64 and the hook
    forget_set_of_labels.__kwdefaults__["n_images"] = 8
    default_posterior.N_SAMPLES, default_posterior.SAMPLER = 4, Sampler("ddim", steps=2, microbatch_size=2)
    default_posterior.OPTIONS["fisher"] = {"n_train": 100, "draws_per_half": 1}
    unlearn(
        pipeline, "vdu", train="lora:2", forget_prompt="a cat", steps=2, batch_size=4, learning_rate=1e-3, force=True, progress=None,
        sampler=Sampler("ddim", steps=2, microbatch_size=4), folder=folder,
    )  # fmt: skip


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ["VDU_CACHE"] = str(folder / "cache")
    rank = os.environ.get("RANK", "0")
    images = draw_images()
    save_file(images, folder / f"images-{rank}.safetensors")
    save_file(train_network(folder / "train"), folder / f"weights-{rank}.safetensors")
    pretrain_digits(folder / "run")
    found = fit_posteriors(folder) | evaluate_two(folder, rank) | {"parted": part_ways(rank)}
    (folder / f"found-{rank}.json").write_text(json.dumps(found))
    if find_spec("transformers"):
        forget_words(folder / "words")
    accelerator = make_accelerator()
    (folder / f"processes-{rank}").write_text(f"{accelerator.process_index} of {accelerator.num_processes}")
    accelerator.end_training()


def torchrun(*arguments: Any) -> subprocess.CompletedProcess[str]:
    places = (Path(vdu.__file__).parent.parent, Path(__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places)), "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    program = [*launcher, __file__, *map(str, arguments)]
    return subprocess.run(program, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """What two processes wrote, and what one wrote."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    for folder in (one, two):
        make_models(folder)
    done = torchrun(two)
    assert done.returncode == 0, done.stderr[-3000:]
    with pytest.MonkeyPatch.context() as changed:
        for module, names in PATCHED.items():
            for name in names:
                changed.setattr(module, name, getattr(module, name))
        changed.setenv("VDU_CACHE", "")
        changed.setitem(default_posterior.OPTIONS, "fisher", {})
        changed.setitem(forget_set_of_labels.__kwdefaults__, "n_images", 0)
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


def test_the_first_process_counts_the_evaluations_of_all(folders):
    counted = [int(load_file(folder / "images-0.safetensors")["counted"]) for folder in folders]
    assert counted == [len(SAMPLERS) * 4 * 4 * 3] * 2  # images of padded micro-batches


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


def found(folder, rank):
    return json.loads((folder / f"found-{rank}.json").read_text())


@pytest.mark.parametrize("name", FISHERS)
def test_a_posterior_has_the_same_bits_from_half_of_the_samples_each(folders, name):
    truth, shared = (load_file(folder / name / "posterior.safetensors") for folder in folders)
    assert truth.keys() == shared.keys()
    for key, value in truth.items():
        assert torch.equal(value, shared[key]), key
    assert [found(folders[1], rank)[name] for rank in (0, 1)] == [found(folders[0], 0)[name] // 2] * 2


def test_an_evaluation_has_the_same_numbers_and_its_drawing_is_shared(folders):
    truth, shared = (numbers(folder) for folder in folders)
    assert shared == truth
    assert {name: each["status"] for name, each in truth["probes"].items()} == dict.fromkeys(PROBES, "measured")
    one, *both = (found(folder, rank)["drawn"] for folder, rank in ((folders[0], 0), (folders[1], 0), (folders[1], 1)))
    assert sum(both) == one and min(both) >= one // 3  # some sets are a single micro-batch


def numbers(folder: Path) -> Any:
    """What an evaluation found, without times and with places relative to the folder."""

    def timeless(found):
        return {key: each for key, each in found.items() if key not in {"date", "seconds"}}

    text = (folder / "evidence" / "metrics.json").read_text()
    return json.loads(text.replace(str(folder), "here"), object_hook=timeless)


def test_one_process_prints_and_all_end_alike(folders):
    said = [(folders[1] / f"said-{rank}").read_text() for rank in (0, 1)]
    assert "next: vdu report" in said[0] and not said[1]
    assert [(found(folders[1], rank)["code"], found(folders[1], rank)["again"]) for rank in (0, 1)] == [(0, 2), (0, 2)]


def test_processes_at_different_steps_do_not_take_each_others_values(folders):
    said = [found(folders[1], rank)["parted"] for rank in (0, 1)]
    assert said[0] == said[1] and "got the steps the step of 0, the step of 1; expected the same" in said[0]


def test_an_error_in_one_process_ends_all():
    done = torchrun("fail")
    assert done.returncode == 1
    assert "the second process failed" in done.stderr


def test_an_unlearned_text_to_image_model_has_the_same_weights(folders):
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    place = Path("words", "lora", "pytorch_lora_weights.safetensors")
    truth, shared = (load_file(folder / place) for folder in folders)
    assert any(bool(value.any()) for name, value in truth.items() if "lora_B" in name)
    for name, value in truth.items():
        torch.testing.assert_close(shared[name], value, rtol=1e-6, atol=1e-9)
    costs = [
        [each["network_evaluations"] for each in read_json(folder / "words" / "run.json")["stages"]]
        for folder in folders
    ]
    assert costs[0] == costs[1]
    posteriors = [load_file(folder / "words" / "posterior.safetensors") for folder in folders]
    assert all(torch.equal(value, posteriors[1][key]) for key, value in posteriors[0].items())


if __name__ == "__main__":
    fail_alone(os.environ["RANK"]) if sys.argv[1] == "fail" else main(Path(sys.argv[1]))
