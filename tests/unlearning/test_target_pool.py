"""Batches that repeat with their targets."""

import shutil
from functools import partial

import pytest
import torch

from vdu.data.images import ImageSet
from vdu.diffusion.sampling import Sampler
from vdu.methods.distillation import RetainDistillation
from vdu.replay import auxiliaries, selection
from vdu.training.checkpoint import latest_checkpoint
from vdu.unlearning.unlearn import unlearn


def images(n, seed):
    return ImageSet(torch.randint(256, (n, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)))


@pytest.fixture
def run(make_pipeline, monkeypatch):
    monkeypatch.setattr(selection, "FEWEST_IMAGES", 1)
    monkeypatch.setattr(selection, "KEPT", 1.0)  # an untrained classifier separates nothing
    short = partial(selection.resemblance, score_steps=2, steps=2)
    monkeypatch.setattr(auxiliaries, "resemblance", short)
    pipeline = make_pipeline()

    def run(pool, **options):
        method = RetainDistillation(pool_size=pool, self_improvement=0.0)
        how = {
            "steps": 4,
            "batch_size": 8,
            "learning_rate": 1e-3,
            "sampler": Sampler("ddpm", steps=2),
            "n_own_samples": 50,
        }
        return unlearn(
            pipeline, method, forget=images(40, 1), force=True, full_length=True, progress=None,
            generator=torch.Generator().manual_seed(0), **how | options,
        )  # fmt: skip

    return run


def weights(made):
    return torch.cat([value.flatten() for value in made.pipeline.unet.state_dict().values()])


def test_a_pool_as_long_as_the_run_changes_nothing(run):
    assert torch.equal(weights(run(pool=4)), weights(run(pool=0)))


def test_a_repeated_batch_costs_the_student_alone(run):
    plain, pooled = run(pool=0), run(pool=1)
    assert plain.training.steps == pooled.training.steps == 4
    images_per_step = 8 + 3 + 3  # retain, and 0.375 of it for each of the two forget roles
    saved = plain.network_evaluations - pooled.network_evaluations
    teacher = 3 * images_per_step  # three of four steps
    classifier = teacher * 3 * plain.aids.classifier_share  # forward and gradient
    assert saved == pytest.approx(teacher + classifier, abs=1)
    assert not torch.equal(weights(plain), weights(pooled))


@pytest.mark.slow
def test_a_run_with_a_pool_resumes_to_the_same_bits(run, tmp_path):
    whole = run(pool=3, folder=tmp_path / "a", checkpointing_steps=2)
    run(pool=3, folder=tmp_path / "b", checkpointing_steps=2)
    newest = latest_checkpoint(tmp_path / "b" / "checkpoints")
    shutil.rmtree(newest)
    assert latest_checkpoint(tmp_path / "b" / "checkpoints") is not None  # of step 2
    again = run(pool=3, folder=tmp_path / "b", checkpointing_steps=2, resume=True)
    assert torch.equal(weights(whole), weights(again))
