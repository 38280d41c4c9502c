"""The scripts in examples/ run, at their smallest, as a reader would start them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
QUICK = {  # None: what its docstring calls a quick look, word for word
    "forget_a_digit.py": None,
    "forget_a_folder.py": None,
    "compare_methods.py": "--steps 2 --images 20",
}


@pytest.fixture
def start(tmp_path):
    def run(name, *more):
        quick = QUICK[name] or re.findall(r"``(--[^`]*)`` is a quick look", (EXAMPLES / name).read_text("utf-8"))[0]
        command = [sys.executable, str(EXAMPLES / name), *quick.split(), *more]
        return subprocess.run(
            command, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
        )

    return run


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


def test_every_example_is_here_short_and_says_what_it_does():
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == sorted(QUICK)
    for path in EXAMPLES.glob("*.py"):
        text = path.read_text("utf-8")
        assert len(text.splitlines()) < 60, path.name
        assert text.startswith('"""') and "is a quick look" in text and "minutes" in text.split('"""')[1], path.name


@pytest.mark.slow  # 50 s; tests/test_end_to_end.py takes the same path
def test_forget_a_digit(start, tmp_path):
    import vdu
    from vdu.zoo.packaged import pipeline_folder

    done = start("forget_a_digit.py")
    assert done.returncode == 0, done.stderr
    first, _, count, pul, where = done.stdout.splitlines()
    assert first.startswith("UnlearnResult: ascent, 3 of 3 steps, ")
    n_before, n_after = map(int, re.fullmatch(r"8: (\d+) before, (\d+) after, of 40 images each", count).groups())
    assert n_before == n_after > 0  # three steps at the paper's rate change nothing that shows
    assert pul.startswith("PUL 0.0 %")
    assert where == "the new pipeline is in forgotten/pipeline, the report is forgotten/report.html"
    assert (tmp_path / "forgotten" / "report.html").stat().st_size > 10_000
    before, after = weights(pipeline_folder("mnist")), weights(tmp_path / "forgotten" / "pipeline")
    assert before.keys() == after.keys() and any(not before[name].equal(after[name]) for name in before)
    assert vdu.load_pipeline(tmp_path / "forgotten").scheduler.config.num_train_timesteps == 1000


@pytest.mark.slow  # 50 s: it trains a model of its own first
def test_forget_a_folder_makes_its_own_model_and_images(start, tmp_path):
    done = start("forget_a_folder.py")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "forgotten-folder"
    assert [len(list((out / "data" / each).iterdir())) for each in ("upright", "lying")] == [150, 450]
    before, after = weights(out / "model" / "pipeline"), weights(out / "pipeline")
    assert any(not before[name].equal(after[name]) for name in before)
    first, second, last = done.stdout.splitlines()[-3:]
    assert first.startswith("before: ") and second.startswith("after: ") and "of 20 images" in second
    assert last.endswith("the new pipeline is in forgotten-folder/pipeline")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("forget_a_digit.py", ["--digit", "12"], "argument --digit: invalid choice: 12"),
        ("forget_a_folder.py", ["--pipeline", "nope"], "got one of --pipeline and --forget; expected both"),
        ("forget_a_folder.py", ["--pipeline", "nope", "--forget", "nope"], "nope"),
    ],
)
def test_bad_input_ends_with_a_sentence(start, name, more, message):
    done = start(name, *more)
    assert done.returncode == 2 and message in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


# forward 1, backward 2. ascent: 2 steps of 128 images, 3 each; bounded: 2 of 64, and the teacher's forward pass; esd:
# 2 of 64 with two models beside the student, and before that 150 steps of 64 for the copy
EVALUATIONS = {"ascent": "768", "bounded": "512", "esd": "29,440"}


@pytest.mark.slow  # a minute; tests/evaluation/test_method_table.py compares smaller models
@pytest.mark.parametrize("methods", [["ascent", "bounded"], ["esd"]])
def test_compare_methods_prints_a_row_for_each(start, methods):
    done = start("compare_methods.py", "--methods", *methods)
    assert done.returncode == 0, done.stderr
    head, _, *rows, original, baseline, _, protocol, page = done.stdout.splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in (head, *rows)]
    assert cells[0] == [
        "method",
        "options",
        "runs",
        "left of",
        "PUL, %",
        "u-FID",
        "kept images changed",
        "network evaluations",
        "seconds",
    ]
    assert [row[0] for row in cells[1:]] == methods
    assert [row[7] for row in cells[1:]] == [EVALUATIONS[name] for name in methods]
    assert original.startswith("| original |") and baseline.startswith("| filtered-oracle baseline |")
    assert protocol.startswith(
        "All runs: 20 images of each model from the same noise (seed 0), ddpm with 20 steps, judge zoo:mnist; "
    )
    assert page == "page: comparison/comparison.html"
