"""What ``--scale paper`` and ``network`` run, on one step and one image of the real networks: it needs no accelerator to be right."""

from dataclasses import replace

import pytest
import torch

from vdu.commands import pretrain
from vdu.commands.pretrain import PretrainSettings
from vdu.commands.unlearn import make_method
from vdu.data.images import ImageSet
from vdu.diffusion.sampling import sample
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.networks import new_pipeline
from vdu.models.pipelines import load_pipeline
from vdu.paper import making
from vdu.paper.plan import PaperCells
from vdu.paper.reproduce import plan
from vdu.paper.row_options import unlearn_settings
from vdu.paper.tables import load_table
from vdu.posterior.isotropic import fit_isotropic
from vdu.unlearning.unlearn import unlearn

SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}


def some_images(shape):
    return ImageSet(torch.randint(256, (2, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("name", ["table1", "table2"])
@pytest.mark.parametrize(
    ("scale", "kinds", "fewest"), [("paper", {"mnist", "cifar10"}, 20), ("network", {"mnist"}, 10)]
)
def test_every_cell_of_the_plan_has_its_own_name(name, scale, kinds, fewest, tmp_path):
    table = load_table(name, scale)
    cells = plan(table, tmp_path, verify=False).all
    assert len({cell.id for cell in cells}) == len(cells) > fewest
    assert {cell.name.split("/")[1] for cell in cells} == kinds
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("dataset", "row"), [("mnist", "vdu"), pytest.param("cifar10", "vdu-cifar10", marks=pytest.mark.slow)]
)
def test_the_paper_row_runs_on_the_paper_network(dataset, row, tmp_path, monkeypatch):
    table = load_table("table1", "paper")
    world, shape = table.worlds[dataset], SHAPES[dataset]
    assert world.weights == "bf16"
    monkeypatch.setattr(pretrain, "training_images", lambda *_: some_images(shape))
    options = {**world.pretrain, "steps": 1, "batch_size": 2, "mixed_precision": "no"}
    made = pretrain.run(PretrainSettings(data="", output_dir=tmp_path / "run", model=world.network, **options))
    making._save_other(tmp_path / "run", "bf16")  # pyright: ignore[reportPrivateUsage]
    pipeline, whole = load_pipeline(tmp_path / "run" / "bf16"), load_pipeline(made["pipeline"])
    sizes = [(tmp_path / "run" / kind / making.WEIGHTS).stat().st_size for kind in ("bf16", "pipeline")]
    assert sizes[0] == pytest.approx(sizes[1] / 2, rel=0.01)
    for name, value in whole.unet.state_dict().items():  # float32 in memory, of the rounded value
        assert torch.equal(pipeline.unet.state_dict()[name], value.bfloat16().float()), name
    fit_isotropic(dict(pipeline.unet.named_parameters()), 1e-4).save(tmp_path / "posterior.safetensors")
    settings = replace(unlearn_settings(table.rows[row].options), posterior=tmp_path / "posterior.safetensors")
    method = make_method(settings)
    assert len(method.schedule) == {"mnist": 1000, "cifar10": 500}[dataset]
    result = unlearn(
        pipeline, method, forget=some_images(shape), steps=1, batch_size=2, learning_rate=settings.learning_rate,
        generator=torch.Generator().manual_seed(0), progress=None,
    )  # fmt: skip
    before, after = pipeline.unet.state_dict(), result.pipeline.unet.state_dict()
    moved = max(float((after[key] - before[key]).abs().max()) for key in before)
    assert 0 < moved < 2e-6  # one Adam step of 1e-6
    sampler = replace(
        PaperCells(tmp_path, "paper", dataset, world, data=None, sizes=(1,)).sampler, steps=2, microbatch_size=1
    )
    image = sample(PipelineDenoiser.from_pipeline(result.pipeline), [0], sampler)
    assert image.shape == (1, *shape) and bool(image.isfinite().all())


def test_the_cifar_network_sees_the_noise_levels_of_the_unlearning_schedule():
    """T = 500 linear onto T = 4000 cosine: the timestep that the network is given has the same ᾱ."""
    table = load_table("table1", "paper")
    options = {
        name: value for name, value in table.rows["vdu-cifar10"].options.items() if name not in {"gamma", "method"}
    }
    method = make_method(unlearn_settings({**options, "method": "ascent"}))
    denoiser = PipelineDenoiser.from_pipeline(new_pipeline(SHAPES["cifar10"], seed=0, model="improved-diffusion"))
    from vdu.diffusion.schedule import noised_batch

    x0, index = torch.zeros(3, *SHAPES["cifar10"]), torch.tensor([20, 250, 480])
    batch = noised_batch(x0, index, torch.zeros_like(x0), method.schedule, denoiser.schedule)
    cosine = (
        torch.cos((batch.timestep.double() / 4000 + 0.008) / 1.008 * torch.pi / 2) ** 2
    )  # Nichol & Dhariwal, Eq. 17
    start = torch.cos(torch.tensor(0.008 / 1.008 * torch.pi / 2, dtype=torch.float64)) ** 2
    assert torch.allclose((cosine / start).float(), batch.alpha_bar, atol=2e-3)  # β is clipped and steps are discrete
    assert denoiser.timestep_scale == 0.25
