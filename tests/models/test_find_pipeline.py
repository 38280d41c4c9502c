"""What a name of a model stands for: a folder, a run's pipeline, a model of the Hub; anything else is answered with what to type."""

import json
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

import vdu
from vdu.core.errors import InputError
from vdu.core.records import write_json
from vdu.evaluation.models import open_model
from vdu.models.finding import find_pipeline
from vdu.models.pipelines import load_pipeline
from vdu.unlearning.plan import _open


@pytest.fixture
def model(make_pipeline, tmp_path, monkeypatch):
    make_pipeline().save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "model"


@pytest.fixture
def hub(model, tmp_path, monkeypatch):
    """The Hub with one model, and what was asked of it."""
    asked = []

    def fetch(name, *, allow_patterns):
        asked.append((name, allow_patterns))
        files = [path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()]
        for each in set(files) - set(huggingface_hub.utils.filter_repo_objects(files, allow_patterns=allow_patterns)):
            (model / each).unlink()
        if name != "org/ddpm":
            raise LocalEntryNotFoundError("Cannot find the requested files.")
        return str(model)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    return asked


def test_a_folder_is_taken_as_it_is_and_a_run_gives_its_pipeline(model, tmp_path, capsys):
    assert find_pipeline(model) == model and capsys.readouterr().err == ""
    (tmp_path / "run").mkdir()
    model.rename(tmp_path / "run" / "pipeline")
    assert find_pipeline("run").resolve() == tmp_path / "run" / "pipeline"
    assert capsys.readouterr().err == "vdu: run is a run folder; its pipeline run/pipeline is used.\n"
    assert load_pipeline("run").unet is not None


def test_a_name_of_the_hub_is_fetched_without_code_or_pickles_and_a_local_folder_wins(hub, model, tmp_path, capsys):
    kept = ("README.md", "tokenizer/merges.txt", "tokenizer/vocab.json", "tokenizer_2/spiece.model")
    dropped = ("modeling.py", "unet/pytorch_model.bin", "model.ckpt")
    for name in (*kept, *dropped):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_bytes(b"")
    assert find_pipeline("org/ddpm") == model
    assert all((model / name).exists() for name in kept) and not any((model / name).exists() for name in dropped)
    assert len(hub) == 1
    (tmp_path / "org").mkdir()
    model.rename(tmp_path / "org" / "ddpm")
    find_pipeline("org/ddpm")
    assert len(hub) == 1
    with pytest.raises(InputError, match=r"cannot be reached \(Cannot find.*hf download org/other --local-dir other"):
        find_pipeline("org/other")


def test_a_packaged_model_has_a_name_and_a_local_folder_wins(model, tmp_path):
    folder = Path(vdu.__file__).parent / "zoo" / "mnist"
    assert find_pipeline("zoo:mnist") == find_pipeline(Path("zoo:mnist")) == folder
    assert open_model("zoo:mnist", "before").path == folder.resolve()
    assert _open("zoo:mnist")[1] == str(folder.resolve())
    assert vdu.sample("zoo:mnist", 1, vdu.Sampler("ddpm", steps=1)).shape == (1, 1, 28, 28)
    with pytest.raises(InputError, match="got 'emnist', which is neither a folder nor packaged; packaged are mnist, "):
        find_pipeline("zoo:emnist")
    with pytest.raises(InputError, match=r"mnist: no such folder.* a packaged model \(zoo:mnist, "):
        find_pipeline("mnist")
    model.rename(tmp_path / "zoo:mnist")
    assert find_pipeline("zoo:mnist") == Path("zoo:mnist")


def test_what_is_no_pipeline_is_answered_with_what_to_type(model, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    (tmp_path / "net.ckpt").write_text("")
    for name, config in {
        "alone": {"_class_name": "UNet2DModel"},
        "conditional": {"_class_name": "UNet2DConditionModel"},
        "text": {"architectures": ["CLIPTextModel"]},
        "unknown": {"architectures": []},
        "list": [],
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    (tmp_path / "members" / "member-0").mkdir(parents=True)
    (tmp_path / "my net.ckpt").touch()
    for name, text in {
        "my net.ckpt": "`vdu import ARCHITECTURE 'my net.ckpt' OUT`",
        "nosuch": "nosuch: no such folder",
        "net.ckpt": r"is a file of weights; .*from_single_file\(\"net.ckpt\"\).*`vdu import ARCHITECTURE net.ckpt OUT",
        "model/unet": f"only a part of a pipeline; give the folder above, {model}",
        "alone": r"is a network without a scheduler; .*DDPMPipeline\(unet=UNet2DModel",
        "conditional": r"conditional: is one part of a pipeline alone \(UNet2DConditionModel\); expected the whole pipeline",
        "text": r"text: is one part of a pipeline alone \(CLIPTextModel\)",
        "unknown": r"unknown: is one part of a pipeline alone \(of unknown kind\)",
        "list": r"list: is one part of a pipeline alone \(of unknown kind\)",
        "run": "is a run folder without a pipeline: the run is not finished",
        ".": r"no model_index\.json there; .* Did you mean model\?",
    }.items():
        with pytest.raises(InputError, match=text):
            find_pipeline(name)
    model.rename(tmp_path / "members" / "member-0" / "pipeline")
    with pytest.raises(InputError, match=r"Did you mean members/member-0/pipeline\?"):
        find_pipeline("members")


@pytest.mark.parametrize(("rank", "said"), [("0", 1), ("1", 0)])
def test_of_several_processes_the_first_says_which_pipeline_is_used(monkeypatch, tmp_path, capsys, rank, said):
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "model_index.json").touch()
    for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert find_pipeline(tmp_path) == tmp_path / "pipeline"
    assert capsys.readouterr().err.count("is a run folder; its pipeline") == said


def test_what_an_unfinished_run_holds_is_not_taken_for_its_result(model, tmp_path):
    """A continued run keeps the earlier pipeline until it is finished."""
    (tmp_path / "run").mkdir()
    model.rename(tmp_path / "run" / "pipeline")
    for finished in (True, None):  # None: a record of something else
        write_json(tmp_path / "run" / "run.json", {} if finished is None else {"finished": finished})
        assert load_pipeline(tmp_path / "run").unet is not None
    write_json(tmp_path / "run" / "run.json", {"finished": False})
    for place in ("run", "run/pipeline"):
        with pytest.raises(InputError, match="its run is not finished, so this may be what an earlier part of it made"):
            load_pipeline(tmp_path / place)
    (tmp_path / "run" / "pipeline").rename(tmp_path / "mine")
    assert load_pipeline(tmp_path / "mine").unet is not None
