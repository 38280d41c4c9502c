"""Weights that were mapped from a file lie at any byte; results must not depend on it."""

import torch
from torch import nn

from vdu.models.denoiser import PipelineDenoiser
from vdu.models.memory import ALIGNMENT, align
from vdu.models.pipelines import load_pipeline


def shifted(tensor):
    """The same values, 4 bytes beyond an aligned address."""
    memory = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)
    memory[1:] = tensor.detach().flatten()
    return memory[1:].view(tensor.shape)


def offsets(network):
    return {each.data_ptr() % ALIGNMENT for each in (*network.parameters(), *network.buffers())}


def test_a_loaded_model_lies_as_a_copy_of_it_does(make_pipeline, tmp_path):
    make_pipeline().save_pretrained(tmp_path / "model")
    pipeline = load_pipeline(tmp_path / "model")
    for value in pipeline.unet.parameters():
        value.data = shifted(value)
    assert offsets(pipeline.unet) == {4}
    before = {name: (value, value.detach().clone()) for name, value in pipeline.unet.named_parameters()}
    denoiser = PipelineDenoiser.from_pipeline(pipeline)
    assert offsets(denoiser.network) == offsets(denoiser.copy().network) == {0}
    for name, value in denoiser.network.named_parameters():
        assert value is before[name][0] and torch.equal(value, before[name][1]), name


def test_buffers_are_moved_and_what_is_aligned_stays_where_it_is():
    class Pipeline:
        def __init__(self):
            self.part = nn.BatchNorm1d(5)
            self.part.running_mean = shifted(torch.arange(5.0))
            self.components = {"part": self.part, "nothing": None}

    pipeline = Pipeline()
    place = pipeline.part.weight.data_ptr()
    align(pipeline)
    assert offsets(pipeline.part) == {0} and pipeline.part.weight.data_ptr() == place
    assert pipeline.part.running_mean.tolist() == [0, 1, 2, 3, 4]
