"""A small real run: the packaged model after three steps of ascent, evaluated on 60 images of four network evaluations."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HOSTILE = (
    "</script><script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\">"
    "${document.title='broken'}{{value}}"
)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder; not to be written to."""
    from vdu.commands import evaluate, unlearn
    from vdu.commands.settings import EvaluateSettings
    from vdu.commands.unlearn import UnlearnSettings
    from vdu.zoo.packaged import pipeline_folder

    folder = tmp_path_factory.mktemp("explore") / "run"
    unlearn.run(
        UnlearnSettings(
            pipeline=pipeline_folder("mnist"), forget="mnist-mini", forget_class=("8",), output_dir=folder,
            method="ascent", steps=3, batch_size=4, learning_rate=2e-5, checkpointing_steps=1, checkpoints_total_limit=3,
        )
    )  # fmt: skip
    evaluate.run(
        EvaluateSettings(
            run=folder,
            judge="mnist",
            n_images=60,
            scheduler="ddpm",
            inference_steps=4,
            microbatch_size=10,
            suite="none",
        )
    )
    return folder


@pytest.fixture(scope="session")
def opened(finished_run: Path) -> Any:
    """The run, opened; not to be measured in place."""
    from vdu.explore.open_run import open_run

    return open_run(finished_run)


@pytest.fixture
def run_copy(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be written to."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture
def edit_json() -> Callable[..., None]:
    """Set one value, at a path of keys, in a JSON file."""

    def edit(path: Path, *keys: str, value: Any) -> None:
        held = json.loads(path.read_text("utf-8"))
        place = held
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
        path.write_text(json.dumps(held), "utf-8")

    return edit


@pytest.fixture(scope="session")
def hostile_run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run in which the most frequent class but the forgotten one has a name made of markup and scripts."""
    folder = Path(shutil.copytree(finished_run, tmp_path_factory.mktemp("hostile") / "run"))
    metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
    counts = metrics["histogram"]["original"]
    place = max((i for i in range(10) if i != 8), key=lambda i: counts[i])
    metrics["histogram"]["classes"][place] = metrics["flips"]["classes"][place] = HOSTILE
    (folder / "metrics.json").write_text(json.dumps(metrics), "utf-8")
    return folder
