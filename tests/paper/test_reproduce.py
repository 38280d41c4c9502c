"""A table of one's own on 8×8 digits, from training the model to the page: the same code as the paper's tables."""

import glob
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from vdu.cli import main
from vdu.core.errors import InputError
from vdu.core.records import read_json, sha256_file
from vdu.data.sources import load_images
from vdu.diffusion.sampling import Sampler
from vdu.judges.judging import Judging
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.identity import configuration_sha256, weights_sha256
from vdu.models.saving import save_pipeline
from vdu.paper import making as paper_making
from vdu.paper import reproduce
from vdu.paper.making import Making
from vdu.paper.plan import PaperCells
from vdu.paper.tables import load_table

pytestmark = pytest.mark.slow  # half a minute before the first; tests/paper/test_cells.py shows how cells are made

TABLE = """
title = "Tiny"
[paper]
network = { digits = "small" }
values = [
  { dataset = "digits", forget = "3", row = "gamma", pul = 50.0, u_fid = 1.0 },
  { dataset = "digits", forget = "4", row = "gamma", pul = 50.0, u_fid = 1.0 },
]
[[claims]]
text = "it forgets everything"
row = "gamma"
metric = "pul"
at_least = 101.0
[rows.gamma]
label = "VDU"
options = { method = "vdu", gamma = 0.1, learning_rate = 1e-5, batch_size = 16 }
epochs = 0.1
posterior = "ensemble"
[rows.amnesia]
label = "Amnesia"
options = { method = "selective-amnesia", learning_rate = 1e-5, batch_size = 8, steps = 2 }
posterior = "amnesia-fisher"
[rows.apart]
label = "VDU, independent members"
options = { method = "vdu", gamma = 0.1, learning_rate = 1e-5, batch_size = 16, steps = 2 }
posterior = "ensemble-independent"
[[runs.smoke]]
dataset = "digits"
rows = ["gamma"]
forget = ["3"]
seeds = [0, 1]
n_images = 120
[[runs.smoke]]
dataset = "digits"
rows = ["amnesia", "apart"]
forget = ["3"]
seeds = [0]
n_images = 80
[scales.smoke.digits]
original = "train"
network = "small"
data = "digits"
pretrain = { steps = 80, batch_size = 32, learning_rate = 2e-3, warmup_steps = 10, ema_decay = 0.9 }
average = ["3"]
weights = "bf16"
members = 2
ensemble = "finetuned"
finetune = { steps = 10, batch_size = 32, learning_rate = 1e-3 }
independent = { steps = 20 }
retrained = []
sampler = { scheduler = "ddpm", inference_steps = 6 }
n_train = 1500
n_own_samples = 80
n_fisher_samples = 4
timesteps_per_sample = 4
min_original = 1
judge = "train:cnn"
second_judge = "train:lenet"
check = { n_images = 80, inference_steps = 8 }
"""


def cells(folder: Path) -> dict[str, str]:
    """Name without its hash → hash of the file."""
    # glob, unlike Path.rglob, bears with files that vanish meanwhile; it skips hidden folders, where what is not yet done lies
    found = sorted(glob.glob("cells/**/*-*.json", root_dir=folder, recursive=True))
    return {name: sha256_file(folder / name) for name in found}


def results(folder: Path) -> dict[str, str]:
    """Cell → its result as text, without times."""
    found = {name: read_json(folder / name)["result"] for name in cells(folder)}
    return {
        name: json.dumps({key: value for key, value in result.items() if not key.endswith("_seconds")})
        for name, result in found.items()
    }


def call(*tokens) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["reproduce", *map(str, tokens)])
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "tiny.toml"
    path.write_text(TABLE, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def done(table):
    """One undisturbed run."""
    folder = table.parent / "out"
    assert call(table, "--scale", "smoke", "--output-dir", folder) == 0
    return folder


@pytest.fixture
def copy(done, tmp_path):
    return Path(shutil.copytree(done, tmp_path / "out"))


def test_the_page_has_every_printed_cell_with_a_verdict(done):
    page = (done / "smoke" / "tiny.md").read_text(encoding="utf-8")
    made = read_json(done / "smoke" / "tiny.json")
    verdicts = {
        (each["forget"], metric): each[metric]["verdict"] for each in made["comparison"] for metric in ("pul", "u_fid")
    }
    assert verdicts["3", "pul"] in {"agrees", "disagrees"}  # the network is "the paper's"
    assert verdicts["3", "u_fid"] == "not comparable: features differ"
    assert verdicts["4", "pul"] == verdicts["4", "u_fid"] == "not run"
    assert made["claims"] == [
        {"text": "it forgets everything", "verdict": "undecided", "classes": {"digits 3": "undecided"}}
    ]
    for label in (
        "*Original*",
        "*Filtered-oracle baseline*",
        "*Original, averaged weights*",
        "VDU",
        "Amnesia",
    ):
        assert f"| {label} |" in page
    rows = {row["row"]: row for row in made["rows"]}
    assert (
        rows["gamma"]["n_seeds"] == 2
        and set(rows["gamma"]["at"]) == {"80", "120"}
        and set(rows["amnesia"]["at"]) == {"80"}
    )
    n_forget = int((load_images("digits").labels == 3).sum())
    assert rows["gamma"]["steps"] == math.ceil(0.1 * n_forget / 16)


def test_rows_start_from_the_raw_weights_and_the_average_is_measured_beside_them(done, table, tmp_path):
    (record,) = (read_json(done / name) for name in cells(done) if "models/original" in name)
    run = done / "cells/smoke/digits/models" / record["cell"].rpartition("/")[2]
    wanted = load_file(run / "checkpoints/checkpoint-80/model.safetensors")
    raw, average = (
        load_file(done / record["result"][name] / "unet/diffusion_pytorch_model.safetensors")
        for name in ("pipeline", "average")
    )
    assert all(torch.equal(raw[name], value.bfloat16()) for name, value in wanted.items())
    assert list(record["result"]["files"]) == [f"{run.name}/raw-bf16/unet/diffusion_pytorch_model.safetensors"]
    assert any(not torch.equal(average[name], value) for name, value in wanted.items())
    rows = {row["row"]: row["at"] for row in read_json(done / "smoke" / "tiny.json")["rows"]}
    assert rows["average"]["120"]["u_fid"] != rows["original"]["120"]["u_fid"]
    world = load_table(table, "smoke").worlds["digits"]
    making = Making(tmp_path, world, "digits", (120,), Sampler(steps=6), leaderboard=False)
    with pytest.raises(InputError, match="pipeline: the average of the original's weights is not there"):
        making.model_row("3", "average", {"model": record["result"]}, done / "any")
    (member,) = (read_json(done / name) for name in cells(done) if "models/independent-1" in name)
    assert (member["spec"]["steps"], member["spec"]["seed"], member["spec"]["batch_size"]) == (20, 1, 32)
    run = done / "cells/smoke/digits/models" / member["cell"].rpartition("/")[2]
    last = load_file(run / "checkpoints/checkpoint-20/model.safetensors")  # raw, as what it is compared with
    saved = load_file(done / member["result"]["pipeline"] / "unet/diffusion_pytorch_model.safetensors")
    assert all(torch.equal(saved[name], value.bfloat16()) for name, value in last.items())


@pytest.mark.slow
def test_a_model_retrained_without_the_class_is_measured_like_a_row(copy, tmp_path):
    text = TABLE.replace('average = ["3"]\n', "").replace("retrained = []", 'retrained = ["3"]')
    for old, new in (("[0, 1]", "[0]"), ('["amnesia", "apart"]', '["amnesia"]'), ('posterior = "ensemble"\n', "")):
        text = text.replace(old, new)
    (tmp_path / "tiny.toml").write_text(text.replace('"vdu", gamma = 0.1', '"ascent"').split("check =")[0])
    assert call(tmp_path / "tiny.toml", "--scale", "smoke", "--output-dir", copy) == 0
    assert "| *Retrained model* |" in (copy / "smoke" / "tiny.md").read_text(encoding="utf-8")
    (retrained,) = (read_json(copy / name)["spec"] for name in cells(copy) if "models/without-3" in name)
    assert retrained["without"] == ["3"] and retrained["weights"] == "bf16"


def test_a_row_says_how_much_of_its_time_was_unlearning(done):
    timed = [read_json(done / name) for name in cells(done) if "unlearn_seconds" in read_json(done / name)["result"]]
    assert len(timed) == sum("-seed-" in name for name in cells(done)) > 0
    for record in timed:
        assert 0 <= record["result"]["unlearn_seconds"] <= record["seconds"]  # the rest draws images and judges them


@pytest.mark.slow
def test_a_damaged_result_is_made_again_and_no_other(copy, table, capsys):
    name = next(name for name in cells(copy) if "vdu-seed-1" in name)
    wanted, before = results(copy), {each: (copy / each).stat().st_mtime_ns for each in cells(copy)}
    (copy / name).write_bytes((copy / name).read_bytes()[:-40])
    assert call(table, "--scale", "smoke", "--output-dir", copy) == 0
    assert "this cell is made again" in capsys.readouterr().err
    assert results(copy) == wanted
    assert {each for each in cells(copy) if (copy / each).stat().st_mtime_ns != before[each]} == {name}


def test_a_model_that_makes_nothing_but_the_class_stays_in_the_table(copy, table, monkeypatch):
    name = next(name for name in cells(copy) if "selective-amnesia-seed-0" in name)
    (copy / name).unlink()
    monkeypatch.setattr(Judging, "is_forget", lambda _, classes: torch.ones_like(classes, dtype=torch.bool))
    assert call(table, "--scale", "smoke", "--output-dir", copy) == 0
    result = read_json(copy / name)["result"]
    assert result["status"] == "diverged" and "all 80 images are called 3" in result["message"]
    assert "every seed diverged: Amnesia (1 diverged)" in (copy / "smoke" / "tiny.md").read_text(encoding="utf-8")


@pytest.mark.slow  # 40 s; tests/test_bad_input.py kills a shorter job
def test_killed_twice_it_ends_with_the_same_results(done, table, tmp_path):
    """SIGKILL when two, then five more cells are there; nothing done is repeated."""
    folder, seen = tmp_path / "out", {}
    for more in (2, 5):
        goal = len(seen) + more
        process = subprocess.Popen(
            [sys.executable, "-m", "vdu", "reproduce", str(table), "--scale", "smoke", "--output-dir", str(folder)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        while len(cells(folder)) < goal:
            assert process.poll() is None
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert {name: sha256 for name, sha256 in cells(folder).items() if name in seen} == seen
        seen = cells(folder)
    assert call(table, "--scale", "smoke", "--output-dir", folder) == 0
    assert {name: sha256 for name, sha256 in cells(folder).items() if name in seen} == seen
    assert results(folder) == results(done)


def test_a_number_outside_the_committed_interval_is_exit_code_3(copy, table, monkeypatch, capsys):
    key = "digits 3 gamma 80"
    for low, high, code in ((-1e6, 1e6, 0), (1e6, 2e6, 3)):
        committed = {"tiny smoke": {key: {"u_fid": {"value": low, "low": low, "high": high}}}}
        monkeypatch.setattr(reproduce, "expected_results", lambda committed=committed: committed)
        assert call(table, "--scale", "smoke", "--output-dir", copy, "--json") == code
        assert ("outside the committed intervals" in capsys.readouterr().out) == (code == 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("min_original = 1", "min_original = 1000"), "expected at least 1000"),
        (
            ("learning_rate = 1e-5, batch_size = 16", "learnign_rate = 1e-5, batch_size = 16"),
            "did you mean 'learning_rate'?",
        ),
        (('method = "vdu"', 'method = "vdv"'), "method is 'vdv'"),
        (('posterior = "ensemble"', 'posterior = "ensembel"'), "posterior is 'ensembel'"),
        (("batch_size = 16", 'batch_size = "16"'), "batch_size is '16'; expected int"),
        (('forget = ["3"]', 'forget = ["17"]'), "class '17': unknown"),
        (('original = "train"', 'original = "nowhere"'), "no model_index.json"),
        (
            ("steps = 2 }", 'steps = 2, train = "lora:4" }'),
            "'train' would have no effect in a row; expected some of method",
        ),
        (("steps = 2 }", "steps = 2, gradient_accumulation_steps = 2 }"), "would have no effect in a row"),
        (("steps = 2 }", 'steps = 2, posterior = "mine" }'), "'posterior' would have no effect in a row"),
        (("steps = 2 }", 'steps = 2, retain = "digits" }'), "retain is 'digits'; expected one of self, data"),
        (("batch_size = 16 }\nepochs", "batch_size = 16, steps = 4 }\nepochs"), "expected batch_size and no steps"),
        ((", batch_size = 16 }\nepochs", " }\nepochs"), "expected batch_size and no steps"),
    ],
)
def test_what_cannot_be_run_is_told_and_what_is_done_stays(copy, table, tmp_path, capsys, change, message):
    changed = tmp_path / table.name
    changed.write_text(TABLE.replace(*change), encoding="utf-8")
    before = cells(copy)
    assert call(changed, "--scale", "smoke", "--output-dir", copy) == 2
    assert message in capsys.readouterr().err
    assert {name: sha256 for name, sha256 in cells(copy).items() if name in before} == before


def test_data_of_other_content_are_refused_and_a_damaged_file_too(tmp_path, capsys):
    assert call("table1", "--scale", "smoke", "--output-dir", tmp_path / "out", "--data", "digits") == 2
    assert "has the content" in capsys.readouterr().err
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"junk")
    assert call("table1", "--scale", "small", "--output-dir", tmp_path / "out", "--data", f"mnist:{tmp_path}") == 2
    assert "train-images" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_one_data_set_of_a_table_is_run_alone(table, tmp_path, capsys):
    out = ("--scale", "paper", "--output-dir", tmp_path / "new", "--list-cells")
    found = {}
    for given in ((), ("--dataset", "mnist"), ("--dataset", "cifar10")):
        assert call("table1", *out, *given) == 0
        found[given[-1:]] = capsys.readouterr().out.splitlines()
    assert sorted(found["mnist",] + found["cifar10",]) == sorted(found[()])
    assert all("paper/cifar10/" in line for line in found["cifar10",]) and found["mnist",]
    assert call("table1", *out, "--dataset", "cifar") == 2
    assert "got 'cifar'; expected one that table1 runs at this scale: mnist, cifar10" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_refused_first(table, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert call(table, "--scale", "smoke", "--output-dir", tmp_path / "file") == 2
    assert "is a file; expected a folder" in capsys.readouterr().err


def test_the_list_of_cells_makes_nothing(table, tmp_path, capsys):
    assert call(table, "--scale", "smoke", "--output-dir", tmp_path / "new", "--list-cells") == 0
    lines = capsys.readouterr().out.splitlines()
    # the original, 2 × 2 members, 2 judges, 3 posteriors, 2 sets of samples, reference, 4 rows, average, check
    assert len(lines) == 19 and all(": missing" in line for line in lines)
    assert not (tmp_path / "new").exists()


def test_what_is_done_is_written_without_the_data(copy, table, monkeypatch):
    def no_data(*given, **options):
        raise AssertionError("nothing is made, so no data are needed")

    monkeypatch.setattr(paper_making, "load_images", no_data)
    paper_making._data.cache_clear()  # pyright: ignore[reportPrivateUsage]
    for name in [name for name in cells(copy) if "vdu-seed-" in name]:
        (copy / name).unlink()
    before = cells(copy)
    assert call(table, "--scale", "smoke", "--output-dir", copy, "--only-done") == 0
    assert cells(copy) == before
    made = read_json(copy / "smoke" / "tiny.json")
    assert made["not_run"] == [["digits", "3", "gamma"], ["digits", "3", "apart"]]
    assert {row["row"] for row in made["rows"]} >= {"original", "average", "amnesia"}


def test_without_its_cells_a_table_is_written_from_its_json_file(copy, table):
    """As in a clone, which has the tables' numbers but not the cells of their rows."""
    shutil.rmtree(copy / "cells")
    files = {path: path.read_bytes() for path in (copy / "smoke").glob("tiny.*")}
    assert {path.suffix for path in files} == {".md", ".json", ".csv"}
    (copy / "smoke" / "tiny.md").unlink()
    assert call(table, "--scale", "smoke", "--output-dir", copy, "--only-done") == 0
    assert {path: path.read_bytes() for path in files} == files


@pytest.mark.parametrize("flag", ["--only-done", "--list-cells"])
def test_rows_and_given_data_are_checked_also_where_nothing_is_made(copy, table, tmp_path, capsys, flag):
    changed = tmp_path / table.name
    changed.write_text(TABLE.replace('posterior = "ensemble"', 'posterior = "ensembel"'), encoding="utf-8")
    assert call(changed, "--scale", "smoke", "--output-dir", copy, flag) == 2
    assert "posterior is 'ensembel'" in capsys.readouterr().err
    assert call(table, "--scale", "smoke", "--output-dir", copy, "--data", "mnist-mini", flag) == 2
    assert "does not state the content hash" in capsys.readouterr().err


def test_the_cost_of_a_posterior_is_that_of_all_members_but_the_original(table, tmp_path):
    world = load_table(table, "smoke").worlds["digits"]  # two members
    made = Making(tmp_path, world, "digits", (120,), Sampler(steps=6), leaderboard=False)
    assert made._posterior_evaluations(None, {}) == 0
    finetuned = 2 * 3 * 10 * 32  # each of them starts from the original
    assert made._posterior_evaluations("ensemble", {}) == made._posterior_evaluations("isotropic", {}) == finetuned
    assert made._posterior_evaluations("ensemble-independent", {}) == 2 * 3 * 20 * 32
    apart = replace(made, world=replace(world, ensemble="independent"))
    assert apart._posterior_evaluations("ensemble", {}) == 1 * 3 * 80 * 32  # member 0 is the original
    coarse = replace(apart, world=replace(apart.world, independent={"coarse": {"size": 4, "steps": 7}, "steps": 20}))
    assert coarse._posterior_evaluations("ensemble-independent", {}) == 2 * 3 * 27 * 32  # with its first part
    assert made._posterior_evaluations("fisher", {"posterior": {"network_evaluations": 5}}) == 4 * 6 + 5


def test_a_model_that_changed_between_the_cells_is_refused(make_pipeline, table, tmp_path):
    save_pipeline(make_pipeline(), tmp_path / "model")
    made = Making(
        tmp_path, load_table(table, "smoke").worlds["digits"], "digits", (120,), Sampler(steps=6), leaderboard=False
    )
    done = {"pipeline": str(tmp_path / "model"), "sha256": weights_sha256(make_pipeline().unet)}
    assert made._model(done).unet is not None
    message = "has other weights, options or parts than when the finished cells were made"
    with pytest.raises(InputError, match=message):
        made._model(done | {"sha256": "0" * 64})
    with pytest.raises(InputError, match=message):  # before the fine-tuning
        made.model({"seed": 0, "data": "digits", "network": "small"}, {"start": done | {"sha256": "0" * 64}}, tmp_path)


def test_a_model_under_another_schedule_is_refused_and_a_relative_folder_is_found(
    make_pipeline, table, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    pipeline = make_pipeline()
    save_pipeline(pipeline, tmp_path / "model")
    world = replace(load_table(table, "smoke").worlds["digits"], original="model")
    made = Making(tmp_path / "out", world, "digits", (120,), Sampler(steps=6), leaderboard=False)
    done = made.given({}, tmp_path / "any")
    assert done["configuration_sha256"] == configuration_sha256(PipelineDenoiser.from_pipeline(pipeline))
    monkeypatch.chdir("/")
    assert made._model(done).unet is not None
    edited = tmp_path / "model/scheduler/scheduler_config.json"
    edited.write_text(json.dumps(json.loads(edited.read_text()) | {"beta_end": 0.03}))
    paper_making._pipeline.cache_clear()  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(InputError, match="has other weights, options or parts"):
        made._model(done)
    del done["configuration_sha256"]  # a cell of an earlier version
    assert made._model(done).unet is not None


def test_a_folder_of_data_or_a_judge_is_known_by_its_content(table, tmp_path):
    world = load_table(table, "smoke").worlds["digits"]
    for split in ("train", "test"):
        for k in range(4):
            (tmp_path / "data" / split / str(k % 2)).mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 9 * k).save(tmp_path / "data" / split / str(k % 2) / f"{k}.png")
    cells = PaperCells(
        tmp_path, "smoke", "digits", replace(world, data=str(tmp_path / "data")), data=None, sizes=(120,)
    )
    with pytest.raises(
        InputError, match=r'expected its content hash in the table.s \[scales\]: data_sha256 = \{ train = "'
    ):
        cells.verify_data(["0"])
    (tmp_path / "judge").mkdir()
    ids = []
    for text in ("one", "two"):
        (tmp_path / "judge" / "judge.json").write_text(text)
        with_judge = replace(world, judge=str(tmp_path / "judge"), second_judge="train:lenet")
        ids.append(PaperCells(tmp_path, "smoke", "digits", with_judge, data=None, sizes=(120,)).reference("0").id)
    assert ids[0] != ids[1]


def test_cells_of_other_data_have_other_names(tmp_path):
    table = load_table("table1", "small")
    packaged, row = replace(table.worlds["mnist"], judge="train:cnn", average=("1",)), table.rows["vdu"]
    more = {"train": "0" * 64, "test": "0" * 64}  # images were added to the folder
    worlds = [packaged, replace(packaged, data="mnist:/other"), replace(packaged, data_sha256=more)]
    names = []
    for world in worlds:
        cells = PaperCells(tmp_path, "small", "mnist", world, data=None, sizes=(1000,))
        made = [cells.reference("1"), cells.average_row("1"), cells.check(row, "1"), cells.retrained_row("1")]
        names.append({cell.id for cell in (*made, cells.row(row, "1", 0, 1000), *made[0].needs.values())})
    assert [len(each) for each in names] == [8] * 3
    assert len(set.union(*names)) == 3 * 8


def test_a_data_set_that_is_run_alone_leaves_the_others_on_the_page(table, copy, tmp_path, capsys):
    two = tmp_path / "tiny.toml"
    more = TABLE.replace("[scales.smoke.digits]", "[scales.smoke.other]").split("[scales.smoke.other]")[1]
    runs = '[[runs.smoke]]\ndataset = "other"\nrows = ["gamma"]\nforget = ["3"]\nseeds = [0]\nn_images = 80\n'
    text = TABLE.replace('{ digits = "small" }', '{ digits = "small", other = "small" }').replace(
        "[scales.smoke.digits]", runs + "[scales.smoke.digits]"
    )
    two.write_text(text + "[scales.smoke.other]" + more)
    assert call(two, "--scale", "smoke", "--output-dir", copy, "--dataset", "digits") == 0
    assert "--dataset digits" in (copy / "smoke" / "tiny.md").read_text("utf-8")
    before = {row["row"] for row in read_json(copy / "smoke" / "tiny.json")["rows"] if row["dataset"] == "digits"}
    assert "gamma" in before
    capsys.readouterr()
    assert call(two, "--scale", "smoke", "--output-dir", copy, "--only-done") == 0
    assert before == {
        row["row"] for row in read_json(copy / "smoke" / "tiny.json")["rows"] if row["dataset"] == "digits"
    }
