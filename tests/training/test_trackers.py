import json
import sys
import types
from importlib.machinery import ModuleSpec

import numpy as np
import pytest
import torch
from accelerate.tracking import GeneralTracker

from vdu.core.errors import DivergenceError, InputError
from vdu.training.accelerator import make_accelerator
from vdu.training.loop import TrainSettings, train
from vdu.training.trackers import require_tracker

SETTINGS = TrainSettings(steps=7, learning_rate=0.02, lr_schedule="cosine", checkpointing_steps=2, ema_decay=0.9)


class Notebook(GeneralTracker):
    """A tracker that keeps what it is told."""

    name = "notebook"
    requires_logging_directory = False

    def __init__(self):
        super().__init__()
        self.lines, self.config, self.calls = [], [], []

    @property
    def tracker(self):
        return self.lines

    def start(self):
        self.calls.append("start")

    def store_init_configuration(self, values):
        self.config.append(values)

    def log(self, values, step=None, **kwargs):
        self.lines.append((step, dict(values)))

    def finish(self):
        self.calls.append("finish")


def weights_of(network):
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def log_of(folder):
    return [json.loads(text) for text in (folder / "log.jsonl").read_text().splitlines()]


def by_hand(line):
    """The names that a tracker shall see, spelt out for this objective."""
    return {
        "loss": line["loss"],
        "terms/mse": line["terms"]["mse"],
        "terms/pull": line["terms"]["pull"],
        "observed/largest": line["observed"]["largest"],
        "grad_norm": line["grad_norm"],
        "learning_rate": line["learning_rate"],
    }


def events(folder):
    """TensorBoard's own reader over all event files: name → [(step, float32 value)]."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder / "tracking" / "vdu"), size_guidance={"scalars": 0})
    accumulator.Reload()
    names = accumulator.Tags()["scalars"]
    return {name: [(each.step, each.value) for each in accumulator.Scalars(name)] for name in names}


def run(folder, network, objective, batches, report_to, **options):
    accelerator = make_accelerator(report_to=report_to, folder=folder)
    return train(network, objective, batches, SETTINGS, folder=folder, accelerator=accelerator, **options)


def test_a_tracker_gets_the_lines_of_the_log(make_network, make_batches, regression, tmp_path):
    notebook = Notebook()
    run(tmp_path, make_network(), regression(), make_batches(), notebook)
    lines = log_of(tmp_path)
    assert notebook.lines == [(line["step"], by_hand(line)) for line in lines] and len(lines) == 7
    assert notebook.calls == ["start", "finish"]
    (config,) = notebook.config
    assert config["steps"] == 7 and config["learning_rate"] == 0.02 and config["max_grad_norm"] == "none"


@pytest.mark.parametrize("report_to", ["tensorboard", "notebook"])
def test_the_training_has_the_same_bits_with_a_tracker(make_network, make_batches, regression, tmp_path, report_to):
    pytest.importorskip(report_to) if report_to == "tensorboard" else None
    plain, watched = (make_network(torch.float32, dropout=0.5) for _ in range(2))
    batches = make_batches(torch.float32)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    run(tmp_path / "a", plain, regression(), batches, "none")
    run(tmp_path / "b", watched, regression(), batches, Notebook() if report_to == "notebook" else report_to)
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in weights_of(plain).items():
        assert torch.equal(weights_of(watched)[name], value), name
    parts = ("model.safetensors", "optimizer.safetensors", "ema.safetensors", "state.json")
    for name in ("log.jsonl", *(f"checkpoints/checkpoint-7/{part}" for part in parts)):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes(), name
    assert not (tmp_path / "a" / "tracking").exists()


@pytest.mark.parametrize("at", [None, 1, 5])
def test_tensorboard_reads_what_the_log_says(make_network, make_batches, interrupted, regression, tmp_path, at):
    """Also after a kill, with (5) and without (1) a checkpoint; its scalars are float32."""
    pytest.importorskip("tensorboard")
    if at is not None:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, make_network(), regression(), interrupted(make_batches(), at), "tensorboard")
    run(tmp_path, make_network(), regression(), make_batches(), "tensorboard", resume=at is not None)
    lines, seen = log_of(tmp_path), events(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 7]
    assert set(seen) == set(by_hand(lines[0]))
    for name, points in seen.items():
        assert points == [(line["step"], np.float32(by_hand(line)[name])) for line in lines], name


@pytest.mark.parametrize("at", [1, 4, 5])
def test_a_resumed_run_reports_no_step_twice(make_network, make_batches, interrupted, regression, tmp_path, at):
    notebook = Notebook()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, make_network(), regression(), interrupted(make_batches(), at), notebook)
    assert [step for step, _ in notebook.lines] == list(range(1, at + 1))
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 99, "lo')  # a kill in the middle of a line
    run(tmp_path, make_network(), regression(), make_batches(), notebook, resume=True)
    assert notebook.lines == [(line["step"], by_hand(line)) for line in log_of(tmp_path)]
    assert [step for step, _ in notebook.lines] == [1, 2, 3, 4, 5, 6, 7]
    assert len(notebook.config) == 1 and notebook.calls == ["start", "finish"] * 2


def test_a_tracker_that_joins_at_the_resume_gets_what_is_logged_from_there(
    make_network, make_batches, interrupted, regression, tmp_path
):
    notebook = Notebook()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, make_network(), regression(), interrupted(make_batches(), 5), "none")
    run(tmp_path, make_network(), regression(), make_batches(), notebook, resume=True)
    assert [step for step, _ in notebook.lines] == [5, 6, 7]  # from the checkpoint of step 4


def test_a_new_run_in_an_old_folder_is_reported_from_its_start(make_network, make_batches, regression, tmp_path):
    notebook = Notebook()
    for _ in range(2):
        run(tmp_path, make_network(), regression(), make_batches(), notebook)
    assert [step for step, _ in notebook.lines] == [1, 2, 3, 4, 5, 6, 7] * 2
    assert len(notebook.config) == 2


def test_the_tracker_is_finished_when_the_run_diverges(make_network, make_batches, regression, tmp_path):
    notebook = Notebook()
    with pytest.raises(DivergenceError, match="largest rose to"):
        run(tmp_path, make_network(), regression({"largest": 1e-6}), make_batches(), notebook)
    assert notebook.calls == ["start", "finish"] and notebook.lines == []


def test_other_processes_start_no_tracker(make_network, make_batches, regression, tmp_path):
    notebook = Notebook()
    real = make_accelerator(report_to=notebook, folder=tmp_path)

    class Second:
        is_main_process = False

        def __getattr__(self, name):
            return getattr(real, name)

    train(make_network(), regression(), make_batches(), SETTINGS, folder=tmp_path, accelerator=Second())
    assert notebook.calls == [] and list(tmp_path.iterdir()) == []


# refusals


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_missing_package_is_refused_with_what_to_install(monkeypatch, tmp_path, name):
    monkeypatch.setitem(sys.modules, name, None)  # how Python marks a package that is not there
    with pytest.raises(InputError, match=f"the package {name} is not installed; install it with `pip install {name}`"):
        make_accelerator(report_to=name, folder=tmp_path)


def test_what_is_no_tracker_is_refused(tmp_path):
    with pytest.raises(InputError, match="got 'tensorbord'; expected one of none, tensorboard, wandb, trackio"):
        make_accelerator(report_to="tensorbord", folder=tmp_path)
    with pytest.raises(InputError, match="report_to: got int; expected one of none"):
        make_accelerator(report_to=3, folder=tmp_path)
    pytest.importorskip("tensorboard")
    with pytest.raises(InputError, match="got 'tensorboard' and no run folder"):
        make_accelerator(report_to="tensorboard")


def test_a_tracker_that_does_not_start_says_so(make_network, make_batches, regression, tmp_path):
    class Broken(Notebook):
        name = "broken"

        def start(self):
            raise OSError("no login")

    with pytest.raises(InputError, match=r"--report-to broken: could not be started \(no login\)"):
        run(tmp_path, make_network(), regression(), make_batches(), Broken())


@pytest.mark.parametrize("when", ["log", "finish"])
def test_a_tracker_that_fails_later_costs_no_run(make_network, make_batches, regression, tmp_path, when, capsys):
    class Broken(Notebook):
        name = "broken"

    def fail(*args, **kwargs):
        raise OSError("the line is down")

    setattr(Broken, when, fail)
    networks = make_network(), make_network()
    run(tmp_path / "plain", networks[0], regression(), make_batches(), "none")
    run(tmp_path / "broken", networks[1], regression(), make_batches(), Broken())
    assert capsys.readouterr().err.count("--report-to broken failed (the line is down)") == 1
    for plain, other in zip(*(each.parameters() for each in networks), strict=True):
        assert torch.equal(plain, other)


def no_login(verify):
    raise RuntimeError("No API key configured.")


@pytest.mark.parametrize(
    ("mode", "login", "is_refused"), [(None, no_login, True), ("offline", no_login, False), (None, print, False)]
)
def test_a_login_that_is_missing_is_found_before_any_work(monkeypatch, tmp_path, mode, login, is_refused):
    package = types.ModuleType("wandb")
    package.login, package.__spec__ = lambda verify: login(verify), ModuleSpec("wandb", None)
    monkeypatch.setitem(sys.modules, "wandb", package)
    monkeypatch.setenv("WANDB_MODE", mode) if mode else monkeypatch.delenv("WANDB_MODE", raising=False)
    if is_refused:
        with pytest.raises(InputError, match=r"No API key configured\.\). Log in with `wandb login`"):
            require_tracker("wandb", tmp_path)
    else:
        require_tracker("wandb", tmp_path)
