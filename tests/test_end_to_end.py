"""The main job, as a user types it: pipelines that plain diffusers made, a folder of PNGs, evidence, a page, plain diffusers."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from vdu.core.checks import hash_parameters
from vdu.core.errors import InputError
from vdu.core.rng import isolated_global
from vdu.data.images import ImageSet
from vdu.data.sources import load_images
from vdu.evaluation import suite
from vdu.judges import fallback as forget_judge
from vdu.probes import completion, inpainting, likelihood, membership, relearning, retrained, stochastic

QUICK = ("--inference-steps", 5, "--microbatch-size", 40)
BARE = (*QUICK, "--suite", "none")
SMALL = {
    "relearning": partial(relearning.probe, n_shown=(2,), steps=(0, 2), n_images=10),
    "stochastic": partial(stochastic.probe, n_images=40),
    "completion": partial(completion.probe, n_images=4, n_draws=40),
    "inpainting": partial(inpainting.probe, n_images=4),
    "likelihood": partial(likelihood.probe, n_images=4, n_draws=4),
    "membership": partial(membership.probe, n_images=10, n_levels=2),
    "retrained": partial(retrained.probe, n_images=4, alpha_bars=(0.5,), n_samples=70),
}
KINDS = {
    "epsilon": (DDPMPipeline, DDPMScheduler()),
    "v_prediction": (
        DDIMPipeline,
        DDIMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", rescale_betas_zero_snr=False),
    ),
}


def pngs(folder: Path, classes: tuple[int, ...]) -> Path:
    """Class folders of scikit-learn's digits."""
    images = load_images("digits")
    assert images.labels is not None
    for i, (pixels, label) in enumerate(zip(images.images, images.labels.tolist(), strict=True)):
        if label in classes:
            (folder / str(label)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[0].numpy()).save(folder / str(label) / f"{i}.png")
    return folder


def train(unet, scheduler, x0: torch.Tensor, steps: int) -> None:
    """Diffusers' own training recipe, by hand: nothing of ours."""
    optimizer = torch.optim.Adam(unet.parameters(), 4e-3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / steps)
        x, t = x0[torch.randint(len(x0), (32,))], torch.randint(1000, (32,))
        noise = torch.randn_like(x)
        target = noise if scheduler.config.prediction_type == "epsilon" else scheduler.get_velocity(x, noise, t)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(unet(scheduler.add_noise(x, noise, t), t).sample, target).backward()
        optimizer.step()


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    return pngs(tmp_path_factory.mktemp("digits"), (0, 3))


@pytest.fixture
def model(request, make_unet, digits, tmp_path) -> Path:
    """A briefly trained model of zeros and threes, saved by plain diffusers."""
    kind, scheduler = KINDS[request.param]
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = make_unet(block_out_channels=(16, 32), **blocks).train()
    with isolated_global(0):
        train(unet, scheduler, load_images(str(digits)).floats(), steps=100)
    kind(unet=unet.eval(), scheduler=scheduler).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def looks_like_three(images, digits):
    """Which images, uint8, are nearer to the mean three than to the mean zero."""
    real = load_images(str(digits))
    zero, three = (real.floats()[real.labels == label].mean(0) for label in (0, 1))
    distances = [(ImageSet(images).floats() - mean).square().sum((1, 2, 3)) for mean in (zero, three)]
    return distances[1] < distances[0]


@pytest.fixture
def unwanted(model, digits, tmp_path, command) -> Path:
    """What the model makes and its owner does not want: its samples that are nearer to the mean three than to the mean zero."""
    assert (
        command(
            "sample", "--pipeline", model, "--n-images", 160, "--seed", 7, *QUICK, "--output-dir", tmp_path / "drawn"
        )
        == 0
    )
    drawn = load_images(str(tmp_path / "drawn" / "images"))
    (tmp_path / "unwanted").mkdir()
    for i in looks_like_three(drawn.images, digits).nonzero().flatten().tolist():
        assert drawn.names is not None
        (tmp_path / "drawn" / "images" / drawn.names[i]).rename(tmp_path / "unwanted" / drawn.names[i])
    return tmp_path / "unwanted"


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def rows(run: Path) -> dict[str, dict]:
    return {row["name"]: row for row in read(run / "metrics.json")["rows"]}


@pytest.mark.parametrize("model", ["epsilon", pytest.param("v_prediction", marks=pytest.mark.slow)], indirect=True)
def test_the_main_job(model, unwanted, tmp_path, command, capsys, monkeypatch):
    # the fallback classifier, in less time; its own tests say how good it is
    monkeypatch.setattr(
        forget_judge, "train_forget_judge", partial(forget_judge.train_forget_judge, score_steps=100, steps=100)
    )
    before = hash_parameters(DiffusionPipeline.from_pretrained(model).unet.state_dict())
    post, run = tmp_path / "posterior", tmp_path / "run"
    assert command("posterior", "fisher", "--pipeline", model, "--n-train", 300, "--n-samples", 16,
                   "--draws-per-half", 2, *QUICK, "--output-dir", post) == 0  # fmt: skip
    capsys.readouterr()
    assert command("unlearn", "--method", "vdu", "--pipeline", model, "--forget", unwanted, "--posterior", post,
                   "--steps", 8, "--batch-size", 32, "--learning-rate", 3e-4, "--output-dir", run, "--json") == 0  # fmt: skip
    unlearned = json.loads(capsys.readouterr().out)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert 0 < log[0]["observed"]["mse"] < 0.2  # a wrong reading of v or of the cosine schedule gives about 1
    assert (log[0]["terms"]["stability"], log[-1]["terms"]["stability"] > 0) == (0.0, True)

    assert command("evaluate", run, "--n-images", 40, "--n-judge-samples", 200, *BARE) == 0
    said = capsys.readouterr()
    assert said.out.startswith("Is it gone?") and said.out.endswith(f"next: vdu report {run}\n")
    assert "vdu: warning: The classifier is a fallback" in said.err
    pul = rows(run)["unlearned"]["pul"]
    assert 0 < pul["n_original"] < 40  # the judge tells the two kinds apart
    for name in ("original", "unlearned"):  # the count is that of the calls that are stored beside the images
        calls = load_file(run / "samples" / f"{name}.safetensors")["judge_class"]
        assert int((calls == 1).sum()) == pul[f"n_{name}"]
    metrics = read(run / "metrics.json")
    assert (metrics["judge"]["source"], metrics["n_images"]) == ("fallback", 40)
    assert [row["status"] for row in metrics["rows"]] == ["measured"] * 3 + ["not run"] * 3
    assert {stage["stage"] for stage in metrics["cost"]} >= {"posterior: fisher", "unlearn", "judge", "evaluate"}

    assert command("report", run) == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "evidence report" in page.lower() and "http" not in page.split("<body", 1)[0].replace("http-equiv", "")
    assert command("report", run, "--hide-forgotten", "--output", tmp_path / "hidden.html") == 0
    assert (tmp_path / "hidden.html").stat().st_size > 1000

    original = DiffusionPipeline.from_pretrained(model)
    made = cast("Any", type(original)).from_pretrained(run / "pipeline")  # plain diffusers
    made.set_progress_bar_config(disable=True)
    images = made(
        batch_size=2, num_inference_steps=3, output_type="np", generator=torch.Generator().manual_seed(0)
    ).images
    assert images.shape == (2, 8, 8, 1) and images.std() > 0.01
    assert hash_parameters(made.unet.state_dict()) == unlearned["sha256"] != before
    assert dict(made.scheduler.config) == dict(original.scheduler.config)
    assert hash_parameters(original.unet.state_dict()) == before


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Path:
    """A model of all digits and two judges, by the command line alone."""
    from vdu.cli import main

    folder = tmp_path_factory.mktemp("labelled")
    for tokens in (
        "pretrain --data digits --steps 80 --batch-size 32 --learning-rate 4e-3 --ema-decay 0 --output-dir model",
        "pretrain --data digits --without 3 --steps 40 --batch-size 32 --learning-rate 4e-3 --ema-decay 0 --output-dir without",
        "judge --data digits --epochs 3 --output-dir cnn",
        "judge --data digits --epochs 3 --architecture lenet --output-dir lenet",
    ):
        *options, last = tokens.split()
        with pytest.raises(SystemExit) as stop:
            main([*options, str(folder / last)])
        assert stop.value.code in (None, 0)
    return folder


@pytest.fixture(scope="module")
def finished(labelled) -> Path:
    from vdu.cli import main

    options = [
        "--forget",
        "digits",
        "--forget-class",
        "3",
        "--steps",
        "4",
        "--batch-size",
        "32",
        "--learning-rate",
        "1e-4",
    ]
    folders = ["--pipeline", str(labelled / "model" / "pipeline"), "--output-dir", str(labelled / "run")]
    with pytest.raises(SystemExit) as stop:
        main(["unlearn", "--method", "ascent", *options, *folders])
    assert stop.value.code in (None, 0)
    return labelled / "run"


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A run that forgot the threes by gradient ascent, for one test."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.mark.slow
def test_given_judges_and_real_images(labelled, run, command, capsys, monkeypatch):
    monkeypatch.setattr(suite, "SUITES", {"quick": SMALL})
    truth = ("--data", "digits", "--retrained", labelled / "without" / "pipeline")
    judges = ("--judge", labelled / "cnn" / "judge", "--second-judge", labelled / "lenet" / "judge")
    data = ("--reference", "digits", "--reference-split", "test")
    assert command("evaluate", run, *judges, *data, *truth, "--n-images", 80, *QUICK, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    metrics, table = read(run / "metrics.json"), rows(run)
    assert {name: said["metrics"][name] for name in ("n_images", "histogram", "flips")} == {
        name: metrics[name] for name in ("n_images", "histogram", "flips")
    }
    assert {row["name"]: row.get("u_fid") for row in said["metrics"]["rows"]} == {
        name: row.get("u_fid") for name, row in table.items()
    }
    assert list(said["verdicts"]) == ["gone", "rest", "back", "cost", "trust"]
    assert all(set(each) == {"level", "code"} for each in said["verdicts"].values())
    assert said["paths"] == {"run": str(run), "metrics": str(run / "metrics.json")}
    assert list(table)[:4] == ["real_split", "original", "filtered_original", "unlearned"]
    test_split = load_images("digits", split="test")
    assert test_split.labels is not None
    assert metrics["reference"]["n_images"] == int((test_split.labels != 3).sum())
    assert "without 3 (by label)" in metrics["reference"]["description"]
    assert table["retrained"]["status"] == "measured" and 0 <= table["unlearned"]["precision"] <= 1
    assert {name: result["status"] for name, result in metrics["probes"].items()} == dict.fromkeys(SMALL, "measured")
    sets = {(row["model"], row["images"]) for row in metrics["probes"]["likelihood"]["rows"]}
    assert len(sets) == 3 * 4  # original, unlearned, retrained; forget and rest, seen and held out
    assert metrics["cost"][-1]["network_evaluations"] == sum(
        result["network_evaluations"] for result in metrics["probes"].values()
    )
    assert (metrics["judge"]["source"], metrics["judge"]["second"]["architecture"]) == ("given", "lenet")
    assert metrics["judge"]["held_out_error"] == read(labelled / "cnn" / "judge" / "judge.json")["held_out_error"] < 0.3
    for name in ("original", "unlearned"):
        calls = load_file(run / "samples" / f"{name}.safetensors")["judge_class"]
        assert calls.bincount(minlength=10).tolist() == metrics["histogram"][name]
        assert int((calls == 3).sum()) == table[name]["forget_count"]
    pul = table["unlearned"]["pul"]
    assert pul["value"] == pytest.approx(100 * (1 - pul["n_unlearned"] / pul["n_original"]))
    assert table["real_split"]["u_fid"]["value"] < table["original"]["u_fid"]["value"]
    assert command("report", run) == 0


@pytest.mark.slow
def test_a_model_that_never_makes_the_class_is_refused(labelled, run, command, tmp_path, capsys):
    judge = ("--judge", labelled / "cnn" / "judge")
    assert command("evaluate", run, "--judge", "nosuch", "--dry-run") == 2
    said = capsys.readouterr()
    assert said.out == "" and "nosuch" in said.err and "will take about" not in said.err
    assert command("evaluate", run, *judge, "--dry-run") == 0 and not (run / "metrics.json").exists()
    assert command("evaluate", run, *judge, "--n-images", 80, *BARE) == 0
    made = load_file(run / "samples" / "original.safetensors")["judge_class"][:20].tolist()
    never = min(set(range(10)) - set(made))
    unwanted, other = pngs(tmp_path / "pngs", (never,)) / str(never), tmp_path / "other"
    assert command("unlearn", "--method", "ascent", "--pipeline", labelled / "model" / "pipeline", "--forget", unwanted,
                   "--steps", 1, "--batch-size", 8, "--output-dir", other) == 0  # fmt: skip
    assert command("evaluate", other, *judge, "--n-images", 20, "--forget-class", never, *BARE) == 2
    said = capsys.readouterr().err
    assert "predicts forget for 0 of the original's 20 samples" in said
    assert "Draw more samples (--n-images)" in said and "vdu sample" in said
    assert not (other / "metrics.json").exists()


@pytest.mark.slow
def test_a_folder_without_labels_beside_a_judge_with_classes(labelled, tmp_path, command, capsys):
    threes, run = pngs(tmp_path / "pngs", (3,)) / "3", tmp_path / "run"
    assert command("unlearn", "--method", "ascent", "--pipeline", labelled / "model" / "pipeline", "--forget", threes,
                   "--steps", 1, "--batch-size", 8, "--output-dir", run) == 0  # fmt: skip
    judge = ("--judge", labelled / "cnn" / "judge")
    assert command("evaluate", run, *judge, *BARE) == 2
    assert "Name the judge's classes with --forget-class" in capsys.readouterr().err
    assert command("evaluate", run, *judge, "--forget-class", 3, "--reference", "digits", "--n-images", 80, *BARE) == 0
    metrics = read(run / "metrics.json")
    assert metrics["forget"]["classes"] == ["3"]
    assert (
        metrics["reference"]["description"] == "digits train without 147 of the forget images"
    )  # which are all of the class


@pytest.fixture
def cheap(labelled):
    return ("--pipeline", labelled / "model" / "pipeline", "--n-samples", 8, *QUICK)


@pytest.mark.slow
def test_finetuned_ensemble_and_isotropic(cheap, labelled, tmp_path, command, capsys):
    capsys.readouterr()
    options = ("--n-members", 2, "--finetune-steps", 2, "--finetune-batch-size", 4, "--calibrate", 0.1, "--json")
    assert command("posterior", "finetuned-ensemble", *cheap, *options, "--output-dir", tmp_path / "a") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["estimator"] == "finetuned-ensemble" and summary["temperature"] > 0
    members = [hash_parameters(load_file(tmp_path / "a" / "members" / k / "weights.safetensors")) for k in "01"]
    assert members[0] != members[1]
    assert command("posterior", "isotropic", *cheap, "--variance", 0.5, "--output-dir", tmp_path / "b") == 0
    posterior = load_file(tmp_path / "b" / "posterior.safetensors")
    own = DDPMPipeline.from_pretrained(labelled / "model" / "pipeline").unet
    assert all(torch.equal(posterior[f"mean/{name}"], value) for name, value in own.named_parameters())
    assert all(bool((posterior[f"variance/{name}"] == 0.5).all()) for name, _ in own.named_parameters())


@pytest.mark.slow
def test_networks_of_different_descent_have_no_working_mean(cheap, labelled, tmp_path, command, capsys):
    other, out = tmp_path / "other", tmp_path / "out"
    assert command("pretrain", "--data", "digits", "--steps", 1, "--seed", 5, "--output-dir", other) == 0
    members = ("--members", labelled / "model" / "pipeline", "--members", other / "pipeline")
    assert command("posterior", "ensemble", *cheap, *members, "--output-dir", out) == 2
    said = capsys.readouterr().err
    assert "times that of the model (expected at most 1.1)" in said and "--mean recentre" in said
    assert not (out / "posterior.safetensors").exists()
    assert (
        command("posterior", "ensemble", *cheap, *members, "--mean", "recentre", "--output-dir", out, "--overwrite")
        == 0
    )
    assert command("unlearn", "--method", "vdu", "--pipeline", labelled / "model" / "pipeline", "--posterior", out,
                   "--forget", "digits", "--forget-class", 3, "--steps", 1, "--batch-size", 4,
                   "--output-dir", tmp_path / "run") == 0  # fmt: skip
    line = json.loads((tmp_path / "run" / "log.jsonl").read_text())
    assert line["terms"]["stability"] == 0.0  # centred at the model's own weights


@pytest.mark.slow
@pytest.mark.parametrize("part", ["scheduler/scheduler_config.json", "unet/config.json"])
def test_a_pipeline_whose_configuration_was_changed_is_refused(labelled, run, command, capsys, part):
    """The same weights under another prediction type make other images."""
    path = run / "pipeline" / part
    config = read(path) | ({"prediction_type": "v_prediction"} if "scheduler" in part else {"norm_eps": 0.5})
    path.write_text(json.dumps(config), encoding="utf-8")
    assert command("evaluate", run, "--judge", labelled / "cnn" / "judge", "--n-images", 40, *BARE) == 2
    assert "weights, other parts or configuration differs" in capsys.readouterr().err


@pytest.mark.slow
def test_a_probe_that_fails_loses_nothing_that_was_measured(labelled, run, command, monkeypatch):
    def failing(context):
        raise InputError("probe: got a failure; expected none.")

    monkeypatch.setattr(suite, "SUITES", {"quick": {"likelihood": failing}})
    assert command("evaluate", run, "--judge", labelled / "cnn" / "judge", "--n-images", 40, *QUICK) == 0
    metrics = read(run / "metrics.json")
    assert rows(run)["unlearned"]["pul"]["n_original"] > 0
    assert metrics["probes"]["likelihood"]["status"] == "not run"
    assert metrics["probes"]["likelihood"]["error"] == "probe: got a failure; expected none."
    assert [stage["stage"] for stage in metrics["cost"]] == ["unlearn", "judge", "evaluate", "probes"]
    assert len(load_file(run / "samples" / "unlearned.safetensors")["images"]) == 40


@pytest.mark.slow
def test_another_class_than_the_forgotten_one_is_not_counted(labelled, run, command, capsys):
    judge = ("--judge", labelled / "cnn" / "judge")
    assert command("evaluate", run, *judge, "--forget-class", 4, "--n-images", 40, *BARE) == 2
    assert "got 4; the forget set is of 3" in capsys.readouterr().err


@pytest.mark.slow
def test_the_record_of_a_second_evaluation_has_the_probes_that_it_keeps(labelled, run, command, monkeypatch):
    monkeypatch.setattr(suite, "SUITES", {"quick": {"likelihood": SMALL["likelihood"]}, "none": {}})
    judge = ("--judge", labelled / "cnn" / "judge", "--n-images", 40)
    for options in (QUICK, BARE):
        assert command("evaluate", run, *judge, *options) == 0
        assert [each["stage"] for each in read(run / "run.json")["stages"]] == [
            "unlearn",
            "judge",
            "evaluate",
            "probes",
        ]
        assert read(run / "metrics.json")["probes"]["likelihood"]["status"] == "measured"
