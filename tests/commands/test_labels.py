"""Labels on the command line: a model is trained with them, made to forget one, sampled and evaluated."""

import json

import pytest
from safetensors.torch import load_file

from vdu.core.errors import InputError
from vdu.data.forget_source import STORED, reload_forget
from vdu.models.adapt import adapt
from vdu.models.pipelines import load_pipeline

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Digits of 8 × 8 pixels on demand, and a judge of them."""
    from vdu.commands import judge, pretrain

    desk = tmp_path_factory.mktemp("labels")
    how = {"data": "digits", "steps": 60, "batch_size": 32, "learning_rate": 3e-3}
    pretrain.run(pretrain.PretrainSettings(**how, labels=True, output_dir=desk / "model"))
    judge.run(judge.JudgeSettings(data="digits", epochs=2, output_dir=desk / "judge"))
    return desk


@pytest.mark.slow
def test_a_label_is_forgotten_from_the_command_line(trained, tmp_path, command, capsys):
    model = trained / "model" / "pipeline"
    short = ("--inference-steps", 8, "--microbatch-size", 20)
    named = ("--pipeline", model, "--output-dir")
    assert (
        command(
            "sample", *named, tmp_path / "s", "--label", 3, "--label", 8, "--n-images", 4, "--guidance-scale", 2, *short
        )
        == 0
    )
    assert load_file(tmp_path / "s" / "images.safetensors")["images"].shape == (4, 1, 8, 8)
    options = ("--method", "ascent", "--steps", 2, "--batch-size", 8, *short)
    assert command("unlearn", *named, tmp_path / "run", "--forget-label", 3, *options) == 0
    forget = reload_forget(tmp_path / "run", (1, 8, 8))
    assert set(forget.labels.tolist()) == {3} and forget.class_names[3] == "3"
    assert (
        command(
            "evaluate",
            tmp_path / "run",
            "--judge",
            trained / "judge" / "judge",
            "--n-images",
            150,
            "--suite",
            "none",
            *short,
        )
        == 0
    )
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["forget"]["classes"] == ["3"]
    assert command("report", tmp_path / "run") == 0
    again = adapt(load_pipeline(tmp_path / "run" / "pipeline"))
    assert again.class_names == adapt(load_pipeline(model)).class_names == tuple("0123456789")
    (tmp_path / "run" / STORED).write_bytes(b"")
    capsys.readouterr()
    assert command("evaluate", tmp_path / "run", *short) == 2
    assert "expected the forget set of this run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--forget-label", "nine"), "forget label 'nine': unknown; the classes are: 0, 1, 2, 3"),
        ((), "IMAGES (or --forget-label, --forget-prompt) is missing"),
        (("--forget-label", "3", "--forget-class", "3"), "--forget-class: got no --forget"),
        (
            ("--forget", "digits", "--forget-class", "3", "--option", "gamma=0.1", "--option", "gamma=0.2"),
            "got gamma more than once",
        ),
        (("--forget", "digits", "--forget-class", "3", "--option", "gamma"), "write gamma=VALUE"),
        (("--forget-label", "3", "--forget", "digits", "--forget-class", "3"), "the images have labels of their own"),
    ],
)
def test_labels_that_do_not_fit_are_refused(make_pipeline, tmp_path, command, capsys, options, message):
    make_pipeline(num_class_embeds=4).save_pretrained(tmp_path / "model")
    capsys.readouterr()
    method = ("--method", "vdu") if "--option" in options else ()
    assert (
        command("unlearn", "--pipeline", tmp_path / "model", "--output-dir", tmp_path / "run", *method, *options) == 2
    )
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_label_of_an_unconditional_model_is_refused(make_pipeline, tmp_path, command, capsys):
    make_pipeline().save_pretrained(tmp_path / "model")
    capsys.readouterr()
    for verb in (("unlearn", "--forget-label", "3"), ("sample", "--label", "3")):
        assert command(verb[0], "--pipeline", tmp_path / "model", "--output-dir", tmp_path / "out", *verb[1:]) == 2
        assert "this model is unconditional" in capsys.readouterr().err


def test_labels_of_images_without_any_are_refused(tmp_path):
    from PIL import Image

    from vdu.commands import pretrain

    for i in range(2):
        Image.new("L", (8, 8), 100 + i).save(tmp_path / f"{i}.png")
    with pytest.raises(InputError, match="--labels: the images have none; expected a labelled data set"):
        pretrain.run(pretrain.PretrainSettings(data=str(tmp_path), labels=True, output_dir=tmp_path.parent / "never"))


def test_the_class_of_a_label_is_not_kept(make_pipeline, tmp_path, command):
    make_pipeline(num_class_embeds=10).save_pretrained(tmp_path / "model")
    options = ("--method", "finetune", "--retain", "digits", "--steps", 1, "--batch-size", 4, "--inference-steps", 1)
    named = ("--pipeline", tmp_path / "model", "--output-dir", tmp_path / "run")
    assert command("unlearn", *named, "--forget-label", 3, "--microbatch-size", 64, *options) == 0
    retain = json.loads((tmp_path / "run" / "run.json").read_text())["retain"]
    assert retain["description"] == "digits train without class 3"


def test_what_a_model_cannot_do_is_refused_before_a_folder_is_emptied(make_pipeline, tmp_path, command, capsys):
    make_pipeline().save_pretrained(tmp_path / "plain")
    make_pipeline(num_class_embeds=3).save_pretrained(tmp_path / "conditional")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text("{}")
    capsys.readouterr()
    over = ("--output-dir", tmp_path / "out", "--overwrite")
    assert command("sample", "--pipeline", tmp_path / "plain", "--guidance-scale", 2, *over) == 2
    assert "guidance_scale: got one for a model without conditions" in capsys.readouterr().err
    assert command("sample", "--pipeline", tmp_path / "conditional", "--guidance-scale", 2, *over) == 2
    assert "has no null class, which guidance and images without a label need" in capsys.readouterr().err
    assert (
        command("pretrain", "--from-pipeline", tmp_path / "conditional", "--data", "digits", "--steps", 1, *over) == 2
    )
    assert "which the model lacks" in capsys.readouterr().err
    assert (tmp_path / "out" / "run.json").read_text() == "{}"


def test_a_model_retrained_without_a_class_has_the_classes_of_the_original(tmp_path):
    """Both are sampled under the same ones, or the evaluation refuses it."""
    from vdu.commands import pretrain

    quick = {"data": "digits", "labels": True, "steps": 1, "batch_size": 4, "warmup_steps": 0}
    for name, without in (("original", ()), ("retrained", ("3",))):
        pretrain.run(pretrain.PretrainSettings(**quick, without=without, output_dir=tmp_path / name))
    names = [adapt(load_pipeline(tmp_path / name / "pipeline")).class_names for name in ("original", "retrained")]
    assert names[0] == names[1] == tuple(map(str, range(10)))
    record = json.loads((tmp_path / "retrained" / "run.json").read_text())
    assert record["inputs"]["data"]["n_images"] < 1442  # its images are not there


def test_no_label_is_left_out(make_pipeline, tmp_path, command, capsys):
    make_pipeline(num_class_embeds=3).save_pretrained(tmp_path / "model")
    asked = ("--label", 1, "--label", "nosuch", "--n-images", 1)
    assert command("sample", "--pipeline", tmp_path / "model", "--output-dir", tmp_path / "out", *asked) == 2
    assert "--label: got 2 labels for 1 images" in capsys.readouterr().err
