"""What is refused before a page opens, and the weights at each stop against those read by hand."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from vdu.core.checks import hash_parameters
from vdu.core.errors import InputError
from vdu.explore.open_run import open_run
from vdu.models.pipelines import load_pipeline


def test_the_stops_are_the_original_the_checkpoint_and_the_end(opened):
    assert [(stop.name, stop.step) for stop in opened.stops] == [("original", 0), ("checkpoint-2", 2), ("final", 3)]
    assert [stop.label for stop in opened.stops] == ["original, step 0", "step 2", "step 3 (final)"]
    assert opened.sampler.describe() == {
        "scheduler": "ddpm", "steps": 4, "eta": 0.0, "spacing": "trailing", "clip_sample": None, "microbatch_size": 10,
    }  # fmt: skip
    assert opened.title == "run (ascent)" and opened.forget_names == ["8"]


def test_a_checkpoint_gives_its_own_weights(opened, finished_run):
    original, between, final = (opened.denoiser_at(stop) for stop in opened.stops)
    read = load_file(
        finished_run / "checkpoints" / "checkpoint-2" / ("ema.safetensors" if opened.averaged else "model.safetensors")
    )
    held = dict(between.network.named_parameters())
    assert held.keys() <= read.keys() and all(torch.equal(read[name], value) for name, value in held.items())
    sums = {hash_parameters(each.network.state_dict()) for each in (original, between, final)}
    assert len(sums) == 3
    assert hash_parameters(final.network.state_dict()) == opened.stops[-1].key


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="no such run folder"):
        open_run(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no run\.json"):
        open_run(tmp_path)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("finished",), False, "not finished.*vdu evaluate"),
        (("verb",), "pretrain", "run of 'pretrain'; expected one of 'unlearn'"),
        (("inputs", "model"), {}, r"lacks inputs\.model\.path"),
        (("inputs", "model", "path"), "/nowhere", "no model_index.json"),
        (("pipeline",), {}, r"lacks pipeline\.weights"),
    ],
)
def test_a_run_that_is_no_finished_one_is_refused(run_copy, edit_json, keys, value, message):
    edit_json(run_copy / "run.json", *keys, value=value)
    with pytest.raises(InputError, match=message):
        open_run(run_copy)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("protocol", "unlearned_sha256"), "0" * 64, "is not the unlearned model that metrics.json speaks of"),
        (("protocol", "original_sha256"), "0" * 64, "is not the original that metrics.json speaks of"),
        (("protocol", "sampler_steps"), "many", "describes no sampler"),
        (("protocol", "sampler_scheduler"), "euler", "expected one of ddpm, ddim"),
        (("n_images",), -1, "n_images is -1"),
    ],
)
def test_damaged_metrics_are_refused(run_copy, edit_json, keys, value, message):
    edit_json(run_copy / "metrics.json", *keys, value=value)
    with pytest.raises(InputError, match=message):
        open_run(run_copy)


def test_a_run_that_was_not_evaluated_says_what_to_run(run_copy):
    (run_copy / "metrics.json").unlink()
    with pytest.raises(InputError, match="was not evaluated. Run `vdu evaluate"):
        open_run(run_copy)


def test_torn_samples_are_refused(run_copy):
    (run_copy / "samples" / "unlearned.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match="not a readable safetensors file"):
        open_run(run_copy)


def test_another_pipeline_in_its_place_is_refused(run_copy):
    pipeline = load_pipeline(run_copy / "pipeline")
    with torch.no_grad():
        next(pipeline.unet.parameters()).add_(1e-3)
    shutil.rmtree(run_copy / "pipeline")
    pipeline.save_pretrained(run_copy / "pipeline")
    with pytest.raises(InputError, match="its hash differs"):
        open_run(run_copy)


def test_damaged_checkpoints_are_refused(run_copy):
    run = open_run(run_copy)
    path = run_copy / "checkpoints" / "checkpoint-2" / ("ema.safetensors" if run.averaged else "model.safetensors")
    save_file({name: value + 1 for name, value in load_file(path).items()}, path)
    with pytest.raises(InputError, match="missing or damaged"):
        run.denoiser_at(run.stops[1])
    path.unlink()
    with pytest.raises(InputError, match="missing. Delete checkpoint-2"):
        open_run(run_copy)


def test_without_checkpoints_there_are_the_two_ends(run_copy):
    shutil.rmtree(run_copy / "checkpoints")
    assert [stop.name for stop in open_run(run_copy).stops] == ["original", "final"]
