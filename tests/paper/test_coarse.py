"""A first part of a training on reduced images: the same weights as by hand, and a model of whole images."""

import pytest
import torch

from vdu.commands import pretrain
from vdu.commands.pretrain import PretrainSettings
from vdu.core.records import write_json
from vdu.data.sources import load_images
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.networks import new_pipeline
from vdu.models.pipelines import load_pipeline
from vdu.models.saving import save_pipeline
from vdu.paper import coarse, making
from vdu.paper.coarse import trained_coarsely
from vdu.training.loop import TrainSettings
from vdu.training.pretraining import fit

SETTINGS = {
    "data": "mnist-mini", "model": "ddpm-pytorch", "steps": 2, "batch_size": 4, "learning_rate": 1e-3, "warmup_steps": 1,
    "ema_decay": 0.5,
}  # fmt: skip


def settings(**changes):
    return PretrainSettings(**SETTINGS | changes)


@pytest.mark.slow
def test_the_first_part_is_a_training_on_reduced_images(tmp_path):
    found = load_pipeline(trained_coarsely(settings(), tmp_path, size=8, steps=2))
    assert PipelineDenoiser.from_pipeline(found).image_shape == (1, 28, 28)
    images = load_images("mnist-mini", split="train", shape=(1, 8, 8), convert=True)
    by_hand = new_pipeline((1, 28, 28), seed=0, model="ddpm-pytorch")
    by_hand.unet.register_to_config(sample_size=8)
    training = TrainSettings(steps=2, learning_rate=1e-3, lr_schedule="constant", warmup_steps=1, ema_decay=0.5, seed=0)
    fit(PipelineDenoiser.from_pipeline(by_hand), images, training, batch_size=4, seed=0)
    for name, value in by_hand.unet.state_dict().items():
        assert torch.equal(value, found.unet.state_dict()[name]), name


@pytest.mark.slow
def test_a_finished_part_is_taken_as_it_is(tmp_path):
    first = trained_coarsely(settings(), tmp_path, size=8, steps=1)
    before = (first / "unet" / "config.json").stat().st_mtime_ns
    assert trained_coarsely(settings(), tmp_path, size=8, steps=1) == first
    assert (first / "unet" / "config.json").stat().st_mtime_ns == before


def test_a_part_that_was_killed_while_it_was_saved_is_no_finished_one(tmp_path, monkeypatch):
    def killed(pipeline, folder):
        (folder / "unet").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(coarse, "fit", lambda *_, **__: None)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(coarse, "save_pipeline", killed)
        trained_coarsely(settings(), tmp_path, size=8, steps=1)
    load_pipeline(trained_coarsely(settings(), tmp_path, size=8, steps=1))


def test_the_record_counts_the_steps_of_both_parts_and_no_seconds_that_leave_one_out(
    make_pipeline, tmp_path, monkeypatch
):
    def trained(how):
        save_pipeline(make_pipeline(), how.output_dir / "pipeline")
        write_json(how.output_dir / "run.json", {"stages": [{"seconds": 2.0}]})

    monkeypatch.setattr(pretrain, "run", trained)
    monkeypatch.setattr(making, "trained_coarsely", lambda settings, folder, size, steps: folder)
    whole, spec = (
        making.Making(tmp_path, None, "digits", (), None, False),
        {"network": "small", "steps": 10, "batch_size": 2},
    )
    for name, first, found in (("a", {}, (60, 2.0)), ("b", {"coarse": {"size": 8, "steps": 30}}, (240, None))):
        record = whole.model(spec | first, {}, tmp_path / name)
        assert (record["network_evaluations"], record.get("training_seconds")) == found
