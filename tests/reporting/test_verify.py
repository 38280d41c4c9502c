"""``vdu verify``: each change of one thing makes that one item differ, and no other."""

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from vdu.commands.verify import verify
from vdu.core.checks import hash_parameters
from vdu.core.errors import InputError
from vdu.data.forget_source import forget_images
from vdu.models.pipelines import configuration_of
from vdu.reporting.render import render_report


@pytest.fixture
def whole(run_dir, make_pipeline, tmp_path):
    """A reported run with three tiny models and a folder of images that it forgot."""
    models = {"original": tmp_path / "original", "retrained": tmp_path / "retrained", "unlearned": run_dir / "pipeline"}
    made = {name: make_pipeline(seed=seed) for seed, name in enumerate(models)}
    sha256 = {name: hash_parameters(each.unet.state_dict()) for name, each in made.items()}
    for name, each in made.items():
        each.save_pretrained(models[name])
    images = tmp_path / "images"
    images.mkdir()
    for i in range(3):
        Image.fromarray(np.full((8, 8), 20 * i, np.uint8)).save(images / f"{i}.png")
    record = json.loads((run_dir / "run.json").read_text("utf-8"))
    record["inputs"] = {
        "model": {"path": str(models["original"]), "sha256": sha256["original"]},
        "forget": {"source": str(images), "sha256": forget_images(str(images), (1, 8, 8)).sha256},
    }
    configuration = configuration_of(made["unlearned"])
    record["pipeline"] = {"sha256": sha256["unlearned"], "configuration_sha256": configuration}
    (run_dir / "run.json").write_text(json.dumps(record), "utf-8")
    metrics = json.loads((run_dir / "metrics.json").read_text("utf-8"))
    metrics["protocol"] |= {"retrained_path": str(models["retrained"]), "retrained_sha256": sha256["retrained"]}
    (run_dir / "metrics.json").write_text(json.dumps(metrics), "utf-8")
    (run_dir / "config.toml").write_text(f'method = "vdu"\nforget = "{images}"\n', "utf-8")
    render_report(run_dir)
    return run_dir


def not_matching(folder):
    return {each.item: each.answer for each in verify(folder) if each.answer != "matches"}


def spoil_weights(folder):
    path = next(folder.rglob("*.safetensors"))
    save_file({name: each + 1 for name, each in load_file(path).items()}, path, {"format": "pt"})


def spoil_configuration(folder):
    path = folder / "scheduler/scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"beta_end": 0.019}), "utf-8")


CHANGES = {
    "nothing": (lambda run: None, {}),
    "original": (lambda run: spoil_weights(run.parent / "original"), {"original model": "differs"}),
    "retrained": (lambda run: spoil_weights(run.parent / "retrained"), {"retrained model": "differs"}),
    "unlearned": (lambda run: spoil_weights(run / "pipeline"), {"unlearned model": "differs"}),
    "configuration": (lambda run: spoil_configuration(run / "pipeline"), {"unlearned model, configuration": "differs"}),
    "an image less": (lambda run: (run.parent / "images/2.png").unlink(), {"forget set": "differs"}),
    "no images": (lambda run: (run.parent / "images").rename(run.parent / "away"), {"forget set": "not available"}),
    "page": (lambda run: (run / "report.html").write_text("good", "utf-8"), {"report.html": "differs"}),
    "log": (lambda run: (run / "log.jsonl").write_text("", "utf-8"), {"log.jsonl": "differs"}),
    "no samples": (
        lambda run: (run / "samples/original.safetensors").unlink(),
        {"samples/original.safetensors": "not available"},
    ),
    "no report": (
        lambda run: (run / "evidence.json").unlink(),
        {"files of the report": "not available"},
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_one_change_one_answer(whole, change):
    spoil, expected = CHANGES[change]
    spoil(whole)
    assert not_matching(whole) == expected


def test_the_exit_code_is_3_where_something_differs(whole, command, capsys):
    assert command("verify", whole) == 0
    (whole / "log.jsonl").write_text("", "utf-8")
    assert command("verify", whole, "--json") == 3
    printed = capsys.readouterr().out
    assert json.loads(printed[printed.index("{") :])["log.jsonl"].startswith("differs (recorded ")


def test_a_folder_of_another_verb_is_refused(run_dir):
    (run_dir / "run.json").write_text('{"verb": "pretrain"}', "utf-8")
    with pytest.raises(InputError, match="not of a run of 'unlearn'"):
        verify(run_dir)
