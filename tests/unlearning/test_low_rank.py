"""Unlearning a part of a network or low-rank corrections, from the copy to the files."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from vdu.core.errors import InputError
from vdu.data.images import ImageSet
from vdu.methods.conflict_free import ConflictFree
from vdu.methods.esd import ESD
from vdu.methods.salun import SalUn, saliency
from vdu.methods.vdu import VDU, gradient_ascent
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.lora import LORA_FILE, training_copy
from vdu.models.pipelines import load_pipeline
from vdu.posterior.isotropic import fit_isotropic
from vdu.replay import auxiliary_models
from vdu.training.checkpoint import latest_checkpoint
from vdu.unlearning import engine
from vdu.unlearning.unlearn import unlearn

QUICK = {"steps": 3, "batch_size": 4, "learning_rate": 1e-2, "progress": None}
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def run(pipeline, method, **options):
    source = torch.Generator().manual_seed(0)
    images = ImageSet(torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8, generator=source))
    return unlearn(pipeline, method, forget=images, generator=torch.Generator().manual_seed(0), **QUICK | options)


def moved(made, pipeline):
    before, after = pipeline.unet.state_dict(), made.pipeline.unet.state_dict()
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_a_part_is_all_that_moves(make_pipeline):
    pipeline = make_pipeline()
    found = moved(run(pipeline, gradient_ascent(), train="attention"), pipeline)
    assert found and all(any(f".{each}." in name for each in ATTENTION) for name in found)
    assert all(value.requires_grad for value in pipeline.unet.parameters())


def test_corrections_are_saved_alone_and_merged(make_pipeline, tmp_path):
    pipeline = make_pipeline()
    made = run(pipeline, gradient_ascent(), train="lora:2", folder=tmp_path, ema_decay=0.5, checkpointing_steps=2)
    found = moved(made, pipeline)
    assert found and all(name.endswith(".weight") and any(f".{each}." in name for each in ATTENTION) for name in found)
    tensors = load_file(tmp_path / "lora" / LORA_FILE)
    loaded = load_pipeline(tmp_path / "pipeline").unet.state_dict()
    for name in found:
        layer = f"unet.{name.removesuffix('.weight')}"
        product = tensors[f"{layer}.lora_B.weight"] @ tensors[f"{layer}.lora_A.weight"]
        torch.testing.assert_close(pipeline.unet.state_dict()[name] + product, loaded[name])
    assert made.save_lora(tmp_path / "again").read_bytes() == (tmp_path / "lora" / LORA_FILE).read_bytes()
    kept = load_file(latest_checkpoint(tmp_path / "checkpoints") / "model.safetensors")
    assert kept and all(name.rsplit(".", 1)[1] in {"lora_A", "lora_B"} for name in kept)  # no more than what trains
    with pytest.raises(InputError, match="was not trained with LoRA"):
        run(pipeline, gradient_ascent(), train="attention").save_lora(tmp_path)


def test_an_interrupted_run_continues_to_the_same_corrections(make_pipeline, tmp_path):
    pipeline = make_pipeline()
    whole = run(pipeline, gradient_ascent(), train="lora:2")
    run(pipeline, gradient_ascent(), train="lora:2", folder=tmp_path, checkpointing_steps=2)
    shutil.rmtree(tmp_path / "checkpoints" / "checkpoint-3")
    again = run(pipeline, gradient_ascent(), train="lora:2", folder=tmp_path, checkpointing_steps=2, resume=True)
    after, expected = again.pipeline.unet.state_dict(), whole.pipeline.unet.state_dict()
    assert all(torch.equal(after[name], value) for name, value in expected.items())


def test_the_posterior_holds_corrections_back(make_pipeline):
    pipeline = make_pipeline()
    posterior, distances = fit_isotropic(dict(pipeline.unet.named_parameters()), 1e-4), []
    for gamma in (0.0, 0.999):
        made = run(pipeline, VDU(posterior, gamma=gamma), train="lora:2", steps=8)
        before, after = pipeline.unet.state_dict(), made.pipeline.unet.state_dict()
        distances.append(sum(float((after[name] - before[name]).square().sum()) for name in before))
        assert ("stability" in made.training.last["terms"]) == (gamma > 0)
    assert 0 < distances[1] < distances[0]


def test_the_teacher_of_corrections_is_the_same_network_without_them(make_pipeline, monkeypatch):
    monkeypatch.setitem(auxiliary_models.FORGET_MODEL, "steps", 1)
    given = []
    make = engine.make_auxiliaries
    monkeypatch.setattr(
        engine, "make_auxiliaries", lambda *args, **named: given.append(named["teacher"]) or make(*args, **named)
    )
    pipeline = make_pipeline()
    run(pipeline, ESD(), train="lora:2")
    assert all(
        value.data_ptr() == pipeline.unet.get_parameter(name).data_ptr() and not value.requires_grad
        for name, value in given[0].network.named_parameters()
    )


def test_a_method_that_measures_weights_at_the_start_does_not_train_corrections(make_pipeline, tmp_path):
    """B is 0 there, so that the gradient by A is 0 whatever is to be forgotten, and a mask of the largest holds ties."""
    pipeline, retain = make_pipeline(), ImageSet(torch.zeros(4, 1, 8, 8, dtype=torch.uint8))
    student = PipelineDenoiser.from_pipeline(pipeline).with_network(training_copy(pipeline.unet, "lora:2"))
    source = torch.Generator().manual_seed(0)
    found = saliency(
        student, torch.rand(4, 1, 8, 8, generator=source), torch.ones(len(student.schedule)), schedule=student.schedule,
        batch_size=2, clip_norm=1.0, generator=source,
    )  # fmt: skip
    assert all(bool(value.any()) == name.endswith("lora_B") for name, value in found.items())
    posterior = fit_isotropic(dict(pipeline.unet.named_parameters()), 1.0)
    for method in (SalUn(), ConflictFree(posterior=posterior, radius=1.0)):
        with pytest.raises(
            InputError,
            match=rf"train: got lora:2, but with these options the method {method.name} .*train attention",
        ):
            run(pipeline, method, retain=retain, train="lora:2", folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    for method in (SalUn(salient_share=1), ConflictFree()):
        assert moved(run(pipeline, method, retain=retain, train="lora:2"), pipeline)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("cross-attention", "this UNet2DModel has no such layers, so nothing would train"),
        ("lora:64", "got rank 64, above the size of the layer"),
        ("some", "train: got 'some'; expected one of all"),
    ],
)
def test_what_cannot_train_is_refused_before_any_work(make_pipeline, tmp_path, train, message):
    with pytest.raises(InputError, match=message):
        run(make_pipeline(), gradient_ascent(), train=train, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()
