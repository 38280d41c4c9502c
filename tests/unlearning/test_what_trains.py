"""Which parameters an unlearning moves and keeps, and how many networks it holds."""

import copy

import pytest
import torch
from diffusers import UNet2DModel

from vdu.core.errors import InputError
from vdu.data.images import ImageSet
from vdu.methods.esd import ESD
from vdu.methods.finetune import FineTune
from vdu.methods.vdu import gradient_ascent
from vdu.replay import auxiliary_models
from vdu.training.checkpoint import latest_checkpoint, load_weights
from vdu.unlearning.fit_posterior import fit_posterior
from vdu.unlearning.unlearn import unlearn

QUICK = {"steps": 3, "batch_size": 4, "learning_rate": 1e-3, "progress": None}


def images(n=6, seed=0):
    return ImageSet(torch.randint(256, (n, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)))


def run(pipeline, method, **options):
    return unlearn(pipeline, method, forget=images(), generator=torch.Generator().manual_seed(0), **QUICK | options)


def test_frozen_parameters_stay_through_average_checkpoint_and_save(make_pipeline, tmp_path):
    pipeline = make_pipeline()
    pipeline.unet.time_embedding.requires_grad_(False)
    frozen = {name for name, value in pipeline.unet.named_parameters() if not value.requires_grad}
    options = {"ema_decay": 0.9, "folder": tmp_path, "checkpointing_steps": 2}
    made = run(pipeline, gradient_ascent(), **options)
    before = pipeline.unet.state_dict()
    moved = {name for name, value in made.pipeline.unet.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == set(before) - frozen
    assert set(made.training.ema) == set(before) - frozen
    newest = latest_checkpoint(tmp_path / "checkpoints")
    assert set(load_weights(newest, pipeline.unet)) == set(before) - frozen  # no more than what trains is written
    again = run(pipeline, gradient_ascent(), **options, resume=True)
    assert all(
        torch.equal(value, made.pipeline.unet.state_dict()[name])
        for name, value in again.pipeline.unet.state_dict().items()
    )
    pipeline.unet.conv_in.requires_grad_(False)
    with pytest.raises(InputError, match=r"was written with other .* frozen weights"):
        run(pipeline, gradient_ascent(), **options, resume=True)


ATTENTION = {"down_block_types": ("AttnDownBlock2D",), "up_block_types": ("AttnUpBlock2D",)}


def test_a_part_that_is_frozen_is_not_trained_behind_the_users_back(make_pipeline):
    pipeline = make_pipeline(**ATTENTION)
    layers = [module for module in pipeline.unet.modules() if hasattr(module, "to_q")]
    n = sum(len([*layer.to_q.parameters(), *layer.to_k.parameters()]) + 4 for layer in layers)
    layers[0].to_q.requires_grad_(False)
    match = rf"train: got 'attention', and 2 of the {n} weights of these layers are frozen"
    with pytest.raises(InputError, match=match):
        run(pipeline, gradient_ascent(), train="attention")
    with pytest.raises(InputError, match=match):
        fit_posterior(pipeline, "fisher", n_train=9, generator=torch.Generator(), train="attention")
    with pytest.raises(
        InputError, match=rf"got 'lora:2', and 1 of the {4 * len(layers)} weights that it corrects are frozen"
    ):
        run(pipeline, gradient_ascent(), train="lora:2")  # the merged weight would be another one
    pipeline.unet.requires_grad_(False)  # as scripts for LoRA leave the network that they correct
    made = run(pipeline, gradient_ascent(), train="lora:2").pipeline.unet
    assert not torch.equal(made.mid_block.attentions[0].to_q.weight, pipeline.unet.mid_block.attentions[0].to_q.weight)
    pipeline.unet.requires_grad_(True)
    layers[0].to_q.bias.requires_grad_(False)  # which is not corrected
    run(pipeline, gradient_ascent(), train="lora:2")
    layers[0].to_q.requires_grad_(True)
    pipeline.unet.conv_in.requires_grad_(False)  # of another part
    made = run(pipeline, gradient_ascent(), train="attention").pipeline.unet
    assert torch.equal(made.conv_in.weight, pipeline.unet.conv_in.weight)


@pytest.mark.parametrize(
    ("method", "held"),
    [
        (gradient_ascent, 1),  # the student
        (FineTune, 1),
        (ESD, 3),  # and the teacher and the forget model that it declares
    ],
)
def test_no_more_networks_are_copied_than_a_method_declares(make_pipeline, monkeypatch, method, held):
    monkeypatch.setitem(auxiliary_models.FORGET_MODEL, "steps", 1)
    pipeline, whole, copies = make_pipeline(), copy.deepcopy, []

    def counted(value, *rest):
        copies.extend([value] if isinstance(value, UNet2DModel) else [])
        return whole(value, *rest)

    monkeypatch.setattr(copy, "deepcopy", counted)
    run(pipeline, method(), **({"retain": images(seed=1)} if method is FineTune else {}))
    assert len(copies) == held
