"""The main job, as a user types it: pipelines that plain diffusers made, a folder of PNGs, evidence, a page, plain diffusers."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, DiffusionPipeline
from PIL import Image

from vdu.checks import hash_parameters
from vdu.data.sources import load_images
from vdu.rng import isolated_global

QUICK = ("--inference-steps", 5, "--microbatch-size", 40)
KINDS = {
    "epsilon": (DDPMPipeline, DDPMScheduler()),
    "v_prediction": (
        DDIMPipeline,
        DDIMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", rescale_betas_zero_snr=False),
    ),
}


def pngs(folder: Path, classes: tuple[int, ...]) -> Path:
    """Class folders of scikit-learn's digits."""
    images = load_images("digits")
    assert images.labels is not None
    for i, (pixels, label) in enumerate(zip(images.images, images.labels.tolist(), strict=True)):
        if label in classes:
            (folder / str(label)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[0].numpy()).save(folder / str(label) / f"{i}.png")
    return folder


def train(unet, scheduler, x0: torch.Tensor, steps: int) -> None:
    """Diffusers' own training recipe, by hand: nothing of ours."""
    optimizer = torch.optim.Adam(unet.parameters(), 4e-3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / steps)
        x, t = x0[torch.randint(len(x0), (64,))], torch.randint(1000, (64,))
        noise = torch.randn_like(x)
        target = noise if scheduler.config.prediction_type == "epsilon" else scheduler.get_velocity(x, noise, t)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(unet(scheduler.add_noise(x, noise, t), t).sample, target).backward()
        optimizer.step()


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    return pngs(tmp_path_factory.mktemp("digits"), (0, 3))


@pytest.fixture
def model(request, make_unet, digits, tmp_path) -> Path:
    """A briefly trained model of zeros and threes, saved by plain diffusers."""
    kind, scheduler = KINDS[request.param]
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = make_unet(block_out_channels=(16, 32), **blocks).train()
    with isolated_global(0):
        train(unet, scheduler, load_images(str(digits)).floats(), steps=150)
    kind(unet=unet.eval(), scheduler=scheduler).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("model", KINDS, indirect=True)
def test_the_main_job(model, digits, tmp_path, command, capsys):
    before = hash_parameters(DiffusionPipeline.from_pretrained(model).unet.state_dict())
    post, run = tmp_path / "posterior", tmp_path / "run"
    assert command("posterior", "fisher", "--pipeline", model, "--n-train", 600, "--n-samples", 16,
                   "--draws-per-half", 2, *QUICK, "--output-dir", post) == 0  # fmt: skip
    capsys.readouterr()
    assert command("unlearn", "--pipeline", model, "--forget", digits / "3", "--posterior", post, "--steps", 8,
                   "--batch-size", 32, "--learning-rate", 3e-4, "--output-dir", run, "--json") == 0  # fmt: skip
    unlearned = json.loads(capsys.readouterr().out)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    print(log[0], log[-1])
    assert command("evaluate", run, "--n-images", 40, "--n-judge-samples", 80, *QUICK) == 0
    print(capsys.readouterr())
    assert 0
