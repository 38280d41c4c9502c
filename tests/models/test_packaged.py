"""The packaged pipelines and judges: the weights that their provenance names, loaded by plain diffusers."""

import json

import pytest
from diffusers import DDPMPipeline

from vdu.core.checks import hash_parameters
from vdu.core.errors import InputError
from vdu.judges.classifier import load_judge
from vdu.zoo import packaged
from vdu.zoo.packaged import PIPELINES, judge_folder, pipeline_folder


@pytest.mark.parametrize("name", PIPELINES)
def test_a_packaged_pipeline_is_what_its_provenance_says(name):
    provenance = json.loads((pipeline_folder(name) / "provenance.json").read_text("utf-8"))
    unet = DDPMPipeline.from_pretrained(pipeline_folder(name)).unet
    assert hash_parameters(unet.state_dict()) == provenance["weights_sha256"]
    assert sum(value.numel() for value in unet.parameters()) == 686_769


@pytest.mark.parametrize(("name", "architecture"), [("mnist", "cnn"), ("mnist-lenet", "lenet")])
def test_a_packaged_judge_is_of_its_architecture_and_knows_digits(name, architecture):
    judge, record = load_judge(judge_folder(name))
    assert judge.architecture == architecture and judge.class_names == tuple("0123456789")
    assert record["held_out_error"] < 0.01


def test_what_a_wheel_leaves_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(packaged, "HERE", tmp_path)
    with pytest.raises(InputError, match="'mnist-small' is not part of the installed package; it is in a clone"):
        pipeline_folder("mnist-small")
