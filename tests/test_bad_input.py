"""What goes wrong at a user's desk: each ends with the right exit code and a message that helps, and nothing is lost."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, FlowMatchEulerDiscreteScheduler
from PIL import Image
from safetensors.torch import load_file, save_file

from vdu.core.records import read_json, sha256_file
from vdu.data.sources import load_images
from vdu.posterior.isotropic import fit_isotropic
from vdu.training import loop
from vdu.training.batches import NoisyImages
from vdu.training.checkpoint import load_weights
from vdu.unlearning.unlearn import unlearn as unlearn_in_python

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def contents(folder: Path) -> dict[Path, str]:
    """Every file with its hash; the lock, which holds nothing, left out."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder): sha256_file(path) for path in files}


@pytest.fixture
def desk(make_pipeline, tmp_path) -> Path:
    """A folder with a model, a posterior of it, and six images to forget."""
    pipeline = make_pipeline()
    pipeline.save_pretrained(tmp_path / "model")
    fit_isotropic(dict(pipeline.unet.named_parameters()), 1e-4).save(tmp_path / "posterior.safetensors")
    (tmp_path / "unwanted").mkdir()
    source = np.random.default_rng(0)
    for i in range(6):
        Image.fromarray(source.integers(256, size=(8, 8), dtype=np.uint8)).save(tmp_path / "unwanted" / f"{i}.png")
    return tmp_path


@pytest.fixture
def unlearn(desk, command):
    """``vdu unlearn`` at the desk; keyword arguments change its options, None takes one out, True makes a flag."""

    def call(**changes) -> int:
        options = {"pipeline": desk / "model", "forget": desk / "unwanted", "posterior": desk / "posterior.safetensors"}
        options |= {
            "method": "vdu",
            "output_dir": desk / "run",
            "steps": 6,
            "batch_size": 4,
            "learning_rate": 3e-4,
            "checkpointing_steps": 2,
        }
        tokens = []
        for name, value in (options | changes).items():
            flag = f"--{name.replace('_', '-')}"
            tokens += [] if value is None else [flag] if value is True else [flag, value]
        return command("unlearn", *tokens)

    return call


@pytest.fixture
def refused(unlearn, desk, capsys):
    """Assert that ``unlearn`` gives 2, says all of some texts, and leaves the desk as it was."""

    def check(*texts: str, **changes) -> None:
        before = contents(desk)
        capsys.readouterr()
        assert unlearn(**changes) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.startswith(("vdu: ", "unlearn: forgetting ")) and "Traceback" not in said.err
        for text in texts:
            assert text in said.err
        assert contents(desk) == before

    return check


# the images


def test_missing_and_empty_folders(desk, refused):
    refused("no such source, folder or file; expected", forget=desk / "nowhere")
    (desk / "empty").mkdir()
    refused("holds no image files (.avif", forget=desk / "empty")


def test_images_that_do_not_fit_are_all_named(desk, refused, unlearn):
    folder = desk / "unwanted"
    (folder / "unreadable.png").write_bytes(b"not a picture")
    whole = (folder / "0.png").read_bytes()
    (folder / "truncated.png").write_bytes(whole[: len(whole) // 2])
    Image.new("RGBA", (8, 8)).save(folder / "mode.png")
    Image.new("L", (9, 8)).save(folder / "size.png")
    refused(
        "4 of 10 images cannot be used",
        "unreadable.png: unreadable or cut short",
        "truncated.png: unreadable or cut short",
        "mode.png: mode RGBA, expected 8-bit grey (L) or RGB",
        "size.png: channels, height, width (1, 8, 9), expected (1, 8, 8)",
        "Repair or remove them",
    )
    refused("2 of 10 images cannot be used", convert=True)  # the other two can be converted
    for name in ("unreadable", "truncated"):
        (folder / f"{name}.png").unlink()
    assert unlearn(convert=True, steps=1) == 0


def test_a_labelled_set_without_a_class_and_an_unknown_class(refused):
    refused("digits holds 10 classes (0, 1, 2", "name those to forget with --forget-class", forget="digits")
    refused("class 'eleven': unknown; the classes are: 0, 1", forget="digits", forget_class="eleven")
    refused("has no labels, so it cannot be split by class", forget_class="3")


# the model and its posterior


@pytest.mark.slow
def test_the_posterior_of_another_model(desk, refused, unlearn, make_unet):
    assert unlearn() == 0  # a run that --overwrite must not delete before all is checked
    other = dict(make_unet(block_out_channels=(16,)).named_parameters())
    fit_isotropic(other, 1e-4).save(desk / "other.safetensors")
    text = "conv_in.bias: got shape (8,), expected (16,)"
    refused("network", text, "… and ", posterior=desk / "other.safetensors", overwrite=True)
    refused("not a readable safetensors file", posterior=desk / "nowhere", overwrite=True)
    refused("no 'vdu_posterior' metadata", posterior=desk / "model" / WEIGHTS, overwrite=True)
    refused(
        "--posterior is missing, which the method vdu needs; fit one with `vdu posterior fisher --pipeline",
        posterior=None,
    )


def test_a_pipeline_with_an_unknown_schedule(desk, refused, make_unet):
    DDPMPipeline(unet=make_unet(), scheduler=cast("Any", FlowMatchEulerDiscreteScheduler())).save_pretrained(
        desk / "flow"
    )
    refused("FlowMatchEulerDiscreteScheduler has no alphas_cumprod", "Save the pipeline with", pipeline=desk / "flow")


def test_no_pipeline_and_a_conditional_one(desk, refused, make_pipeline):
    refused("no model_index.json there", pipeline=desk / "unwanted")
    make_pipeline(num_class_embeds=3).save_pretrained(desk / "conditional")
    refused(
        "the model is class-conditional, and these images have no labels",
        pipeline=desk / "conditional",
        posterior=None,
        method="ascent",
    )


def test_nan_in_the_weights(desk, refused):
    weights = load_file(desk / "model" / WEIGHTS)
    weights["conv_in.bias"][2] = torch.nan
    save_file(weights, desk / "model" / WEIGHTS)
    refused("NaN or infinite weights in 1 tensors (first: conv_in.bias)", "use another one")


# the output folder


@pytest.mark.slow
def test_a_folder_that_holds_a_run(desk, refused, unlearn):
    assert unlearn() == 0
    refused("already holds files. Use --overwrite to start anew, --resume-from-checkpoint latest")
    refused("was written with other settings, data or model", resume_from_checkpoint="latest", seed=1)
    refused("newest checkpoint has 6 steps", resume_from_checkpoint="latest", steps=4)
    refused("expected a number from 0 to 1", option="gamma=2", overwrite=True)
    refused("which 3 gradient accumulation steps do not divide", gradient_accumulation_steps=3, overwrite=True)
    refused("holds files but no run.json, so it is not a run folder", output_dir=desk / "unwanted", overwrite=True)
    refused("is a file; expected a folder", output_dir=desk / "posterior.safetensors", overwrite=True)
    first = contents(desk / "run")
    assert unlearn(resume_from_checkpoint="latest") == 0  # nothing is left to do
    same = {name for name, value in contents(desk / "run").items() if first[name] == value}
    assert {Path("pipeline") / WEIGHTS, Path("log.jsonl")} <= same
    assert unlearn(overwrite=True, seed=1) == 0
    assert contents(desk / "run") != first


def test_overwrite_spares_what_the_run_reads(desk, refused, unlearn, command, capsys):
    assert unlearn() == 0
    refused("--overwrite would delete", "which this run reads", pipeline=desk / "run" / "pipeline", overwrite=True)
    before = contents(desk)
    tokens = ("--from-pipeline", desk / "run" / "pipeline", "--data", "digits", "--output-dir", desk / "run")
    assert command("pretrain", *tokens, "--overwrite") == 2
    assert "--overwrite would delete" in capsys.readouterr().err
    assert contents(desk) == before


def test_too_few_images_to_sort_by_leave_the_old_run(desk, refused, unlearn):
    """With images to keep as without: distillation sorts own samples either way."""
    assert unlearn() == 0
    for retain in (None, "digits"):
        refused(
            "got 6 forget images; expected at least 40", method="distillation", posterior=None, retain=retain, overwrite=True,
        )  # fmt: skip


def test_a_posterior_that_cannot_be_made_leaves_the_old_one(desk, command, capsys):
    tokens = ("isotropic", "--pipeline", desk / "model", "--n-samples", 2, "--output-dir", desk / "post")
    assert command("posterior", *tokens, "--inference-steps", 2) == 0
    before = contents(desk)
    for wrong, text in {
        ("--name-filter", "("): "not a valid regular expression",
        ("--name-filter", "zzz"): "matches none of the ",
        ("--inference-steps", "2000"): "the model's schedule has 1000",
    }.items():
        assert command("posterior", *tokens, *wrong, "--overwrite") == 2
        assert text in capsys.readouterr().err
        assert contents(desk) == before


# evaluation and report


def test_an_evaluation_needs_what_the_run_had(desk, unlearn, command, capsys):
    def refuses(*texts: str, verb: str = "evaluate") -> None:
        before = contents(desk / "run")
        assert command(verb, desk / "run") == 2
        said = capsys.readouterr().err
        assert all(text in said for text in texts), said
        assert contents(desk / "run") == before

    assert unlearn(steps=1) == 0
    assert command("evaluate", desk / "run", "--second-judge", "mnist") == 2
    assert "--second-judge: got mnist without --judge" in capsys.readouterr().err
    refuses("a report needs these files too", "metrics.json: made by `vdu evaluate", verb="report")
    refuses("got 6 forget images; expected at least 40")
    (desk / "unwanted" / "5.png").unlink()
    refuses("are not those that this run forgot", "Put them back")
    (desk / "model" / WEIGHTS).write_bytes((desk / "run" / "pipeline" / WEIGHTS).read_bytes())
    refuses("is not the model that this run started from", "Put it back")
    assert command("evaluate", desk / "unwanted") == 2
    assert command("evaluate", desk / "model") == 2
    assert "run.json: no such file" in capsys.readouterr().err


# accidents


def test_divergence_keeps_the_last_good_weights(desk, unlearn, capsys):
    assert unlearn(method="ascent", posterior=None, learning_rate=1.0, steps=50, checkpointing_steps=1000) == 4
    said = capsys.readouterr().err
    assert "diverged at step " in said and "past its limit of 2" in said and "Lower the learning rate" in said
    kept = Path(said.split("The weights before that are in ")[1].split(". ")[0])
    weights = load_weights(kept, DDPMPipeline.from_pretrained(desk / "model").unet)
    assert all(bool(value.isfinite().all()) for value in weights.values())
    assert len((desk / "run" / "log.jsonl").read_text().splitlines()) == int(kept.name.removeprefix("checkpoint-"))
    assert not (desk / "run" / "pipeline").exists()


@pytest.mark.slow
def test_a_full_disk_in_the_middle_of_a_checkpoint(desk, unlearn, capsys, monkeypatch):
    assert unlearn(output_dir=desk / "truth") == 0
    resource = pytest.importorskip("resource")  # POSIX
    real, soft = loop.save_checkpoint, resource.getrlimit(resource.RLIMIT_FSIZE)

    def save(folder, step, *rest, **options):
        if step == 4:  # the kernel refuses whatever passes this size
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, soft[1]))
        return real(folder, step, *rest, **options)

    monkeypatch.setattr(loop, "save_checkpoint", save)
    try:
        assert unlearn() == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, soft)
    said = capsys.readouterr().err
    assert "File too large" in said and "completed results are kept" in said and "Traceback" not in said
    assert [path.name for path in (desk / "run" / "checkpoints").iterdir()] == ["checkpoint-2"]
    monkeypatch.undo()
    assert unlearn(resume_from_checkpoint="latest") == 0
    assert contents(desk / "run" / "pipeline") == contents(desk / "truth" / "pipeline")


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 3])
def test_ctrl_c_and_on_with_the_same_bits(desk, unlearn, capsys, monkeypatch, at):
    assert unlearn(output_dir=desk / "truth") == 0
    real = NoisyImages.__call__

    def call(self, step):
        if step == at:
            raise KeyboardInterrupt
        return real(self, step)

    monkeypatch.setattr(NoisyImages, "__call__", call)
    assert unlearn() == 130
    assert "interrupted; completed results are kept" in capsys.readouterr().err
    monkeypatch.undo()
    assert unlearn(resume_from_checkpoint="latest") == 0
    for name in ("pipeline", "checkpoints"):
        assert contents(desk / "run" / name) == contents(desk / "truth" / name)
    assert (desk / "run" / "log.jsonl").read_bytes() == (desk / "truth" / "log.jsonl").read_bytes()


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_kill_9_at_any_moment_and_on_with_the_same_bits(desk, command):
    def tokens(folder: Path) -> list[str]:
        options = "--data digits --steps 60 --batch-size 4 --checkpointing-steps 3 --warmup-steps 5 --output-dir"
        return ["pretrain", "--from-pipeline", str(desk / "model"), *options.split(), str(folder)]

    assert command(*tokens(desk / "truth")) == 0
    chance, log = random.Random(7), desk / "run" / "log.jsonl"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "vdu", *tokens(desk / "run")], env=environment, stderr=subprocess.DEVNULL
    )
    try:
        reached, deadline = chance.randrange(4, 40), time.monotonic() + 60
        while process.poll() is None and not (log.exists() and log.read_text().count("\n") >= reached):
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(chance.random() * 0.05)  # in a step, in a checkpoint, between two
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not (desk / "run" / "pipeline").exists()
    assert command(*tokens(desk / "run"), "--resume-from-checkpoint", "latest") == 0
    for name in ("pipeline", "checkpoints"):
        truth = contents(desk / "truth" / name)
        assert {path: value for path, value in contents(desk / "run" / name).items() if path in truth} == truth
    assert log.read_bytes() == (desk / "truth" / "log.jsonl").read_bytes()


# images of two roles, and folders that are input and output


def picture(value: int, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), value).save(path)


def test_a_run_inside_what_it_reads_is_refused(desk, refused):
    for inside in (desk / "unwanted", desk / "model"):
        refused("lies in", "which this run reads", output_dir=inside / "run")


def test_forget_images_among_those_to_keep_are_left_out_and_said(desk, refused, unlearn, capsys):
    (desk / "all").mkdir()
    for path in (desk / "unwanted").iterdir():
        (desk / "all" / path.name).write_bytes(path.read_bytes())
    how = {"method": "finetune", "posterior": None, "steps": 1}
    refused("retained images: all 6", "are among the forget images", retain=desk / "all", **how)
    refused("retained images: all 6", retain=desk / "unwanted", **how)
    for value in (1, 2, 3):
        picture(value, desk / "all" / f"other-{value}.png")
    assert unlearn(retain=desk / "all", **how) == 0
    assert "6 of 9 retained images are forget images, pixel by pixel; they are left out" in capsys.readouterr().err
    kept = read_json(desk / "run" / "run.json")["retain"]
    for path in (desk / "unwanted").iterdir():
        (desk / "all" / path.name).unlink()
    assert kept["sha256"] == load_images(desk / "all").sha256


def test_retained_images_in_a_folder_called_like_that_of_forget_images_are_left_out_and_said(desk, unlearn, capsys):
    for name, value in (("a", 9), ("b", 8)):
        picture(value, desk / "bad" / "images" / f"{name}.png")
    for place, value in (("images", 1), ("images", 2), ("more", 3)):
        picture(value, desk / "kept" / place / f"{value}.png")
    assert unlearn(forget=desk / "bad", retain=desk / "kept", method="finetune", posterior=None, steps=1) == 0
    assert "1 of 3" not in (said := capsys.readouterr().err)
    assert "2 of 3 retained images are of a class to be forgotten (images, by the names of their folders" in said


def test_what_is_forgotten_is_said_and_recorded(desk, unlearn, capsys):
    (desk / "unwanted" / ".DS_Store").write_bytes(b"\0")
    (desk / "unwanted" / "notes.txt").write_text("unwanted", encoding="utf-8")
    (desk / "unwanted" / "twice.png").write_bytes((desk / "unwanted" / "0.png").read_bytes())
    assert unlearn(steps=1) == 0
    line = capsys.readouterr().err.splitlines()[0]
    assert line == f"unlearn: forgetting 7 images (6 distinct): {desk}/unwanted; 2 files passed over (1 hidden, 1 text)"
    assert read_json(desk / "run" / "run.json")["inputs"]["forget"]["passed_over"] == {"hidden": 1, "text": 1}
    card = (desk / "run" / "pipeline" / "README.md").read_text(encoding="utf-8")
    assert "(7 images; 2 files passed over (1 hidden, 1 text), SHA-256" in card


def test_files_that_are_passed_over_are_said_under_a_label_too(tmp_path, capsys, make_pipeline):
    pipe = make_pipeline(num_class_embeds=3)
    for i in range(4):
        Image.new("L", (8, 8), i).save(tmp_path / f"{i}.png")
    (tmp_path / "notes.txt").write_text("unwanted", encoding="utf-8")
    run = tmp_path.parent / "run"
    unlearn_in_python(pipe, "ascent", forget=tmp_path, forget_label=1, steps=1, batch_size=2, folder=run)
    assert "forgetting 4 images: " in (said := capsys.readouterr().err) and "; 1 file passed over (1 text)" in said
    assert read_json(run / "run.json")["inputs"]["forget"]["passed_over"] == {"text": 1}


def test_folders_of_numbers_and_of_splits(desk, refused, unlearn):
    for name in ("01", "02", "03"):
        for value in range(4):
            picture(40 * int(name) + value, desk / "numbers" / name / f"{value}.png")
    assert unlearn(forget=desk / "numbers", forget_class="1", steps=1) == 0
    assert read_json(desk / "run" / "run.json")["inputs"]["forget"]["classes"] == ["01"]
    (desk / "numbers" / "01").rename(desk / "numbers" / "train")
    (desk / "numbers" / "02").rename(desk / "numbers" / "test")
    (desk / "numbers" / "03").rename(desk / "numbers" / "val")
    refused("holds the splits test, train, val; expected one of them", forget=desk / "numbers", overwrite=True)


def test_a_latin_1_name_is_refused_in_words(desk, refused):
    name = os.fsdecode(b"unw\xe4nted")
    (desk / "unwanted").rename(desk / name)
    refused("not UTF-8 text", r"unw\udce4nted", forget=desk / name)
    refused("not UTF-8 text", forget=desk / "unwanted", output_dir=desk / os.fsdecode(b"r\xfcn"))


def test_a_batch_that_does_not_split_is_refused_before_anything_is_drawn(desk, refused, monkeypatch):
    """12 of 32 images of distillation are forget images; the sizes that the message names do split."""
    how = {"method": "distillation", "posterior": None, "batch_size": 32, "force": True}
    refused("got 32 (12 forget images, 12 own_forget images)", "choose 64", gradient_accumulation_steps=8, **how)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    refused(
        "4 gradient accumulation steps × 2 processes do not divide; choose 64", gradient_accumulation_steps=4, **how
    )
