"""Gradient checkpointing: the same weights to the bit, and activations that are really computed again."""

import pytest
import torch

import tiny_pipelines
from vdu.core.errors import InputError
from vdu.models.pipelines import network_of
from vdu.unlearning import engine
from vdu.unlearning.unlearn import unlearn


def count(network, calls):
    """Count the calls of the network's last resnet, behind whatever trains."""
    block = [module for module in network.modules() if type(module).__name__ == "ResnetBlock2D"][-1]
    block.register_forward_pre_hook(
        lambda *_: calls.append(torch.is_grad_enabled())
    )  # recomputing may not reach the end


def run(pipeline, images, **options):
    options |= {"forget_prompt": "cat", "force": True} if hasattr(pipeline, "tokenizer") else {}
    return unlearn(pipeline, forget=images, method="ascent", steps=2, batch_size=2, progress=None, **options)


@pytest.mark.slow
@pytest.mark.parametrize("train", ["all", "lora:2"])
def test_weights_are_the_same_bits_and_activations_are_computed_again(train, monkeypatch):
    pipeline, images = tiny_pipelines.stable_diffusion(), torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8)
    calls = {False: [], True: []}
    make, results = engine.training_copy, {}
    for on, seen in calls.items():

        def watched(network, part, seed, seen=seen):
            copy = make(network, part, seed=seed)
            count(copy, seen)
            return copy

        monkeypatch.setattr(engine, "training_copy", watched)
        results[on] = run(pipeline, images, train=train, gradient_checkpointing=on).pipeline
    for plain, again in zip(*(network_of(results[on]).parameters() for on in (False, True)), strict=True):
        assert torch.equal(plain, again)
    assert sum(calls[True]) > sum(calls[False])
    assert not network_of(results[True]).is_gradient_checkpointing


def test_a_network_without_it_is_refused(make_pipeline, monkeypatch):
    pipeline = make_pipeline()
    monkeypatch.setattr(type(network_of(pipeline)), "_supports_gradient_checkpointing", False)
    with pytest.raises(InputError, match="gradient_checkpointing: diffusers has none for a UNet2DModel"):
        run(pipeline, torch.zeros(4, 1, 8, 8, dtype=torch.uint8), gradient_checkpointing=True)
    with pytest.raises(InputError, match="gradient_checkpointing: got"):
        run(pipeline, torch.zeros(4, 1, 8, 8, dtype=torch.uint8), gradient_checkpointing="yes")
