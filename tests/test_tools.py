"""Programs of tools/ and benchmarks/: nothing of an earlier run is taken for what is asked now."""

import importlib.util
import json
import shlex
import sys
from pathlib import Path

import pytest
import torch

from vdu.core.records import sha256_bytes

ROOT = Path(__file__).parents[1]


def program(path: str):
    """A file as a module."""
    specification = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # dataclasses look themselves up there
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def train_emoji():
    pytest.importorskip("transformers", reason="no transformers: pip install '.[text]'")
    return program("tools/train_emoji.py")


@pytest.fixture
def canvas(tmp_path):
    """Two groups, a picture of each."""
    from PIL import Image

    (tmp_path / "canvas/images/train").mkdir(parents=True)
    lines = []
    for group in ("cat", "dog"):
        name = f"images/train/{group}.png"
        Image.new("RGB", (32, 32)).save(tmp_path / "canvas" / name)
        lines.append({
            "file_name": name, "group": group, "style": "noto", "name": group, "words": [group], "text": f"{group}, noto style",
        })  # fmt: skip
    (tmp_path / "canvas/metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path / "canvas"


UNKNOWN = [("sets", "cats"), ("sets", "cat", "dogs"), ("model", "run", "vae", "--steps", "1", "--without", "dogs")]


@pytest.mark.parametrize("tokens", UNKNOWN)
def test_an_unknown_group_ends_the_training_of_emoji(train_emoji, canvas, tmp_path, monkeypatch, tokens):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train_emoji.py", tokens[0], str(canvas), *tokens[1:]])
    with pytest.raises(SystemExit, match="is no group of this canvas; expected one of cat, dog"):
        train_emoji.main()


def test_a_score_of_another_model_is_not_packaged(train_emoji, canvas, tmp_path):
    run = tmp_path / "run"
    (run / train_emoji.UNET).parent.mkdir(parents=True)
    (run / train_emoji.UNET).write_bytes(b"trained for longer")
    right = sha256_bytes(b"trained for longer")
    for score, trained in ((None, right), ("0" * 64, right), (right, "0" * 64)):
        (run / "score.json").write_text(json.dumps({"both": 0.5, "unet_sha256": score}))
        (run / "trained.json").write_text(json.dumps({"steps": 9, "unet_sha256": trained}))
        with pytest.raises(SystemExit, match="is of another model than"):
            train_emoji.package(train_emoji.read_canvas(canvas), run, tmp_path / "out")


def test_a_row_of_emoji_is_of_the_command_that_it_states(tmp_path, monkeypatch):
    emoji, calls = program("benchmarks/emoji.py"), []

    def call(command: str) -> None:
        """What the commands leave in the run folder."""
        calls.append(command.split()[0])
        words = shlex.split(command)
        if words[0] == "unlearn":
            run = Path(words[words.index("-o") + 1])
            run.mkdir(exist_ok=True)
            record = {
                "command": ["vdu", *words],
                "finished": True,
                "stages": [{"stage": "unlearn", "network_evaluations": 1}],
            }
            (run / "run.json").write_text(json.dumps(record))
            (run / "metrics.json").unlink(missing_ok=True)
        else:
            path = str(Path(words[words.index("--retrained") + 1]).resolve()) if "--retrained" in words else None
            metrics = {"words": {"accuracy": [], "sets": []}, "protocol": {"retrained_path": path}}
            (Path(words[1]) / "metrics.json").write_text(json.dumps(metrics))

    monkeypatch.setattr(emoji, "call", call)
    monkeypatch.chdir(ROOT)

    def asked(options: str, retrained: Path | None = None) -> list[str]:
        """The commands that are run for a row with other options."""
        monkeypatch.setitem(emoji.ROWS, "retrack", ("cat", options))
        calls.clear()
        assert options in emoji.measured("retrack", tmp_path, retrained)["command"]
        return list(calls)

    assert asked("--method retrack") == ["unlearn", "evaluate"]
    assert asked("--method retrack") == []
    assert asked("--method retrack --seed 1") == ["unlearn", "evaluate"]
    assert asked("--method retrack --seed 1", tmp_path / "without") == ["evaluate"]
    assert asked("--method retrack --seed 1", tmp_path / "without") == asked("--method retrack --seed 1") == []
    done = tmp_path / "done.json"
    done.write_text(json.dumps({"rows": {name: {} for name in emoji.ROWS}}))
    monkeypatch.setattr(sys, "argv", ["emoji.py", str(done), "--retrained", "without"])
    with pytest.raises(SystemExit):
        emoji.main()


def test_curves_of_another_number_of_images_are_not_continued(tmp_path, monkeypatch, capsys):
    tune = program("benchmarks/tune_vdu.py")
    monkeypatch.setattr(tune, "Bench", None)
    (tmp_path / "out.json").write_text(json.dumps({"n_images": 400, "curves": []}))
    monkeypatch.setattr(sys, "argv", ["tune_vdu.py", str(tmp_path / "out.json"), "--n-images", "20"])
    with pytest.raises(SystemExit):
        tune.main()
    assert "has curves of 400 images" in capsys.readouterr().err


def test_every_case_beyond_one_class_has_its_own_bench(tmp_path, monkeypatch):
    beyond, seen = program("benchmarks/beyond_one_class.py"), []

    class Bench:
        def __init__(self, n_images):
            self.n = n_images

    def case(bench):
        seen.append(bench.n)
        bench.n *= 3  # as ``mark`` does
        return {}

    monkeypatch.setattr(beyond, "Bench", Bench)
    monkeypatch.setattr(beyond, "CASES", {"mark": case, "single": case})
    monkeypatch.setattr(sys, "argv", ["beyond_one_class.py", str(tmp_path / "out.json"), "--n-images", "10"])
    beyond.main()
    assert seen == [10, 10]


def test_the_exact_floor_has_as_many_points_as_it_says():
    floor = program("benchmarks/exact_floor.py")
    n = len(floor.digits().points)
    assert f"the {n:,} packaged training digits" in floor.__doc__
    assert f"Points of the mixture are {n:,} training digits" in (ROOT / "docs/leaderboard.md").read_text("utf-8")
    assert torch.equal(floor.digits().classes.bincount(), torch.full((10,), 1000))


def test_the_comparison_with_published_code_names_what_to_fetch(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # it counts memory as another benchmark does
    peers, given = program("benchmarks/against_peers.py"), ["against_peers.py", "--peer-root", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", given)
    for folder, (repository, files) in peers.PEERS.items():
        with pytest.raises(SystemExit, match=f"not found.*git clone https://github.com/{repository} .*{folder}"):
            peers.main()
        for file in files:
            (tmp_path / folder / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / file).touch()
