"""What is refused before a page opens, and the weights at each checkpoint against those read by hand."""

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from vdu.core.checks import hash_parameters
from vdu.core.errors import InputError
from vdu.core.records import sha256_file
from vdu.explore.open_run import Checkpoint, open_run
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.pipelines import load_pipeline
from vdu.unlearning.unlearn import unlearn


def test_the_checkpoints_are_the_original_those_in_between_and_the_end(opened):
    assert [(each.name, each.step) for each in opened.checkpoints] == [
        ("original", 0), ("checkpoint-1", 1), ("checkpoint-2", 2), ("final", 3),
    ]  # fmt: skip
    assert [each.label for each in opened.checkpoints] == ["0 (original)", "1", "2", "3 (final)"]
    assert opened.sampler.describe() == {
        "scheduler": "ddpm", "steps": 4, "eta": 0.0, "spacing": "trailing", "clip_sample": None, "microbatch_size": 10,
    }  # fmt: skip


def test_the_title_names_run_method_and_date(opened):
    metrics, run = {**opened.data.metrics, "date": "2025-11-28T05:22:00+00:00"}, {**opened.data.run, "date": None}
    assert replace(opened, data=replace(opened.data, metrics=metrics)).title == "run · ascent · 2025-11-28"
    assert (
        replace(opened, data=replace(opened.data, metrics={**metrics, "date": None}, run=run)).title == "run · ascent"
    )


def test_a_checkpoint_gives_its_own_weights(opened, finished_run):
    models = [opened.denoiser_at(each) for each in opened.checkpoints]
    name = "ema.safetensors" if opened.averaged else "model.safetensors"
    read = load_file(finished_run / "checkpoints" / "checkpoint-2" / name)
    held = dict(models[2].network.named_parameters())
    assert held.keys() <= read.keys() and all(torch.equal(read[name], value) for name, value in held.items())
    sums = [hash_parameters(each.network.state_dict()) for each in models]
    assert len(set(sums)) == 4 and sums[-1] == opened.checkpoints[-1].key


def test_a_checkpoint_of_low_rank_corrections_is_added_to_the_original(opened, make_pipeline, tmp_path):
    pipeline = make_pipeline()
    made = unlearn(
        pipeline, "ascent", forget=torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8), train="lora:2", steps=3, batch_size=4,
        learning_rate=1e-2, checkpointing_steps=3, ema_decay=0, folder=tmp_path / "run", progress=None,
    )  # fmt: skip
    data = replace(opened.data, config=(tmp_path / "run" / "config.toml").read_text("utf-8"))
    run = replace(
        opened, data=data, averaged=False, original=PipelineDenoiser.from_pipeline(pipeline),
        unlearned=PipelineDenoiser.from_pipeline(made.pipeline),
    )  # fmt: skip
    place = tmp_path / "run" / "checkpoints" / "checkpoint-3"
    key = sha256_file(place / ("ema.safetensors" if run.averaged else "model.safetensors"))
    found = run.denoiser_at(Checkpoint("checkpoint-3", 3, key, place))
    x_t, timestep = torch.randn(2, 1, 8, 8), torch.tensor([10, 500])
    with torch.no_grad():
        torch.testing.assert_close(found.raw(x_t, timestep), run.unlearned.raw(x_t, timestep), rtol=1e-4, atol=1e-5)


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
        (("protocol", "unlearned_sha256"), "0" * 64, "metrics.json measured the model with SHA-256 000000000000"),
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
    spaced = run_copy.rename(run_copy.parent / "my run")
    with pytest.raises(InputError, match=f"was not evaluated. Run `vdu evaluate '{spaced}'`"):
        open_run(spaced)


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
    with pytest.raises(InputError, match="is not what this run made"):
        open_run(run_copy)


def test_damaged_checkpoints_are_refused(run_copy):
    run = open_run(run_copy)
    path = run_copy / "checkpoints" / "checkpoint-2" / ("ema.safetensors" if run.averaged else "model.safetensors")
    save_file({name: value + 1 for name, value in load_file(path).items()}, path)
    with pytest.raises(InputError, match="missing or damaged"):
        run.denoiser_at(run.checkpoints[2])
    path.unlink()
    with pytest.raises(InputError, match="missing. Delete checkpoint-2"):
        open_run(run_copy)


@pytest.mark.slow
def test_without_checkpoints_there_are_the_two_ends(run_copy):
    shutil.rmtree(run_copy / "checkpoints")
    assert [each.name for each in open_run(run_copy).checkpoints] == ["original", "final"]
