import copy
import json
import math
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from vdu.core.errors import DivergenceError, InputError
from vdu.core.types import Losses
from vdu.training.accelerator import make_accelerator
from vdu.training.loop import Objective, TrainSettings, train

PULL = 0.3


def weights_of(network):
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def assert_close(got, expected):
    assert got.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-12, atol=1e-14)


def assert_same_bits(got, expected):
    assert got.keys() == expected.keys()
    for name in expected:
        assert torch.equal(got[name], expected[name]), name


# truth: a plain PyTorch loop


def plain_loop(network, batches, settings):
    """The same training by hand: penalty by autograd, PyTorch's own schedulers, the average as a sum over steps."""
    optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    schedulers = {
        "constant": lambda: torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0),
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps),
        "linear": lambda: torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, settings.steps),
    }
    scheduler = schedulers[settings.lr_schedule]()
    history, losses = [weights_of(network)], []
    for step in range(settings.steps):
        batch = batches(step)
        penalty = PULL * sum(value.square().sum() for value in network.parameters()) / 2
        loss = (network(batch["x"]) - batch["y"]).square().mean() + penalty
        optimizer.zero_grad()
        loss.backward()
        if settings.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(network.parameters(), settings.max_grad_norm)
        optimizer.step()
        scheduler.step()
        history.append(weights_of(network))
        losses.append(float(loss))
    average = history[0]
    for step, weights in enumerate(history[1:]):
        d = min(settings.ema_decay or 0.0, (1 + step) / (10 + step))
        average = {name: d * average[name] + (1 - d) * weights[name] for name in weights}
    return average, losses


@pytest.mark.parametrize(
    "settings",
    [
        TrainSettings(steps=7, learning_rate=0.02),
        TrainSettings(steps=7, learning_rate=0.02, lr_schedule="cosine", max_grad_norm=0.5, ema_decay=0.3),
        TrainSettings(steps=7, learning_rate=0.02, lr_schedule="linear", weight_decay=0.1, ema_decay=0.9),
    ],
)
def test_the_loop_is_a_plain_pytorch_loop(make_network, make_batches, regression, settings):
    ours, theirs, batches = make_network(), make_network(), make_batches()
    result = train(ours, regression(), batches, settings)
    average, losses = plain_loop(theirs, batches, settings)
    assert_close(weights_of(ours), weights_of(theirs))
    assert result.last["loss"] == pytest.approx(losses[-1], rel=1e-12)
    assert result.last["terms"]["mse"] + result.last["terms"]["pull"] == pytest.approx(losses[-1], rel=1e-12)
    assert result.steps == result.last["step"] == 7
    assert not ours.training
    if settings.ema_decay:
        assert_close(result.ema, average)
    else:
        assert result.ema is None


@pytest.mark.parametrize(
    ("options", "rates"),
    [
        ({"lr_schedule": "constant"}, [1, 1, 1, 1]),
        ({"lr_schedule": "linear"}, [1, 0.75, 0.5, 0.25]),
        ({"lr_schedule": "cosine"}, [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
        ({"warmup_steps": 2}, [0.5, 1, 1, 1]),
        ({"warmup_steps": 3, "lr_schedule": "linear"}, [1 / 3, 0.75 * 2 / 3, 0.5, 0.25]),
    ],
)
def test_rates(options, rates):
    settings = TrainSettings(steps=4, learning_rate=2.0, **options)
    assert [settings.rate(step) / 2 for step in range(4)] == pytest.approx(rates, rel=1e-12)


@pytest.mark.parametrize("name", ["steps", "gradient_accumulation_steps", "checkpoints_total_limit"])
def test_bad_settings_are_refused(name):
    with pytest.raises(InputError, match=f"{name}: got 0; expected at least 1"):
        TrainSettings(**{"steps": 1, "learning_rate": 1.0} | {name: 0})
    with pytest.raises(InputError, match="lr_schedule: got 'step'; expected one of constant, linear, cosine"):
        TrainSettings(steps=1, learning_rate=1.0, lr_schedule="step").rate(0)


@pytest.mark.parametrize("parts", [2, 4])
def test_gradient_accumulation_is_the_full_batch(make_network, make_batches, regression, tmp_path, parts):
    logs, networks = [], []
    for accumulation in (1, parts):
        settings = TrainSettings(
            steps=4, learning_rate=0.02, gradient_accumulation_steps=accumulation, max_grad_norm=0.5
        )
        networks.append(make_network())
        train(networks[-1], regression(), make_batches(), settings, folder=tmp_path / str(accumulation))
        lines = (tmp_path / str(accumulation) / "log.jsonl").read_text().splitlines()
        logs.append([json.loads(line)["terms"]["mse"] for line in lines])
    assert_close(weights_of(networks[1]), weights_of(networks[0]))
    assert logs[1] == pytest.approx(logs[0], rel=1e-12)


def test_a_batch_that_cannot_be_cut_evenly_is_refused(make_network, make_batches, regression):
    settings = TrainSettings(steps=1, learning_rate=0.02, gradient_accumulation_steps=3)
    with pytest.raises(InputError, match="8 entries of 'x' cannot be split into 3 equal parts; choose a batch size"):
        train(make_network(), regression(), make_batches(), settings)


# resuming


FULL = TrainSettings(
    steps=7, learning_rate=0.02, lr_schedule="cosine", max_grad_norm=0.5, ema_decay=0.9, checkpointing_steps=2,
    gradient_accumulation_steps=2, seed=5, checkpoints_total_limit=None,
)  # fmt: skip


def run(folder, network, objective, batches, settings=FULL, **options):
    return train(network, objective, batches, settings, folder=folder, **options)


@pytest.mark.parametrize("at", [0, 1, 4, 6])
def test_an_interrupted_run_ends_in_the_same_bits(make_network, make_batches, interrupted, regression, tmp_path, at):
    undisturbed, first, second = (make_network(torch.float32, dropout=0.5) for _ in range(3))
    batches = make_batches(torch.float32)
    truth = run(tmp_path / "a", undisturbed, regression(), batches)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", first, regression(), interrupted(batches, at))
    with (tmp_path / "b" / "log.jsonl").open("a") as log:
        log.write('{"step": 5, "lo')  # a kill in the middle of a line
    torch.rand(7)  # the caller's random stream has moved on
    result = run(tmp_path / "b", second, regression(), batches, resume=True)
    assert_same_bits(weights_of(second), weights_of(undisturbed))
    assert_same_bits(result.ema, truth.ema)
    assert result.last == truth.last
    parts = ("model.safetensors", "optimizer.safetensors", "ema.safetensors", "state.json")
    for name in ("log.jsonl", *(f"checkpoints/checkpoint-7/{part}" for part in parts)):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes(), name


def test_resuming_a_finished_run_changes_nothing(make_network, make_batches, regression, tmp_path):
    network, again = make_network(), make_network()
    truth = run(tmp_path, network, regression(), make_batches())
    log = (tmp_path / "log.jsonl").read_bytes()
    result = run(tmp_path, again, regression(), make_batches(), resume=True)
    assert_same_bits(weights_of(again), weights_of(network))
    assert result.last == truth.last
    assert (tmp_path / "log.jsonl").read_bytes() == log


@pytest.mark.parametrize(
    ("changes", "options"),
    [({"learning_rate": 0.03}, {}), ({"seed": 6}, {}), ({"steps": 9}, {}), ({}, {"identity": "other data"})],
)
def test_another_run_is_not_resumed(make_network, make_batches, regression, tmp_path, changes, options):
    run(tmp_path, make_network(), regression(), make_batches())
    other = TrainSettings(**vars(FULL) | changes)
    with pytest.raises(InputError, match="checkpoint-7: was written with other settings, data or model"):
        run(tmp_path, make_network(), regression(), make_batches(), other, resume=True, **options)


def test_a_run_of_constant_rate_can_be_made_longer_but_not_shorter(make_network, make_batches, regression, tmp_path):
    short, long, at_once = make_network(), make_network(), make_network()
    settings = TrainSettings(steps=3, learning_rate=0.02)
    longer = TrainSettings(steps=5, learning_rate=0.02, checkpointing_steps=1)
    run(tmp_path, short, regression(), make_batches(), settings)
    run(tmp_path, long, regression(), make_batches(), longer, resume=True)
    run(None, at_once, regression(), make_batches(), longer)
    assert_same_bits(weights_of(long), weights_of(at_once))
    with pytest.raises(
        InputError, match="steps: got 3, but the newest checkpoint has 5 steps; expected at least as many"
    ):
        run(tmp_path, make_network(), regression(), make_batches(), settings, resume=True)


# the caller's random stream


def test_dropout_neither_disturbs_nor_depends_on_the_callers_stream(make_network, make_batches, regression):
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        network = make_network(dropout=0.5)
        train(network, regression(), make_batches(), TrainSettings(steps=3, learning_rate=0.02))
        assert torch.equal(torch.get_rng_state(), before)
        results.append(weights_of(network))
    assert_same_bits(results[0], results[1])
    other = make_network(dropout=0.5)
    train(other, regression(), make_batches(), TrainSettings(steps=3, learning_rate=0.02, seed=1))
    assert not torch.equal(other[0].weight, results[0]["0.weight"])  # its own seed does count


# divergence


class Bad(Objective):
    """Turns bad at a step, in one of several ways."""

    def __init__(self, how, limits=None):
        self.how, self.limits = how, limits or {}

    def losses(self, network, batch):
        good = (network(batch["x"]) - batch["y"]).square().mean()
        bad = bool(batch["bad"].all())
        weight = network[0].weight
        terms = {
            "nan": lambda: good * float("nan"),
            "infinite": lambda: good * float("inf"),
            "gradient": lambda: good + (weight - weight.detach()).square().sum().sqrt(),  # value 0, slope 0/0
            "observed": lambda: good,
        }
        observed = {"forget": torch.tensor(3.0 if bad and self.how == "observed" else 1.0)}
        return Losses({"mse": terms[self.how]() if bad else good}, observed)

    def add_gradients(self, parameters):
        return {}


@pytest.mark.parametrize("at", [0, 3])
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("nan", "mse became nan"),
        ("infinite", "mse became inf"),
        ("gradient", "the gradient norm became nan"),
        ("observed", "forget rose to 3, past its limit of 2.5"),
    ],
)
def test_divergence_stops_the_run_and_keeps_the_weights_before_it(
    make_network, make_batches, tmp_path, how, message, at
):
    batches, network, sound = make_batches(), make_network(), make_network()
    bad = lambda step: batches(step) | {"bad": torch.full((8,), step == at)}  # ruff: ignore[lambda-assignment]
    objective = Bad(how, {"forget": 2.5})
    settings = TrainSettings(steps=6, learning_rate=0.02)
    with pytest.raises(
        DivergenceError, match=f"diverged at step {at + 1}: {message}.*checkpoint-{at}.*Lower the learning rate"
    ):
        train(network, objective, bad, settings, folder=tmp_path)
    if at:
        train(sound, objective, bad, TrainSettings(steps=at, learning_rate=0.02))
    assert not network.training
    assert_same_bits(weights_of(network), weights_of(sound))
    assert_same_bits(load_file(tmp_path / "checkpoints" / f"checkpoint-{at}" / "model.safetensors"), weights_of(sound))
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == at
    with pytest.raises(DivergenceError, match="weights are those before that step"):
        train(make_network(), objective, bad, settings)


# precision and processes


def test_an_error_leaves_no_trace_on_the_network_either(make_network, make_batches):
    network, x = make_network(torch.float32), torch.rand(4, 3)
    exact, batches = network(x).detach(), make_batches(torch.float32)
    bad = lambda step: batches(step) | {"bad": torch.full((8,), True)}  # ruff: ignore[lambda-assignment]
    with pytest.raises(DivergenceError):
        train(network, Bad("nan", {}), bad, TrainSettings(steps=2, learning_rate=0.02, mixed_precision="bf16"))
    assert not network.training and torch.equal(network(x), exact)


def test_mixed_precision_leaves_no_trace_on_the_network(make_network, make_batches, regression):
    """accelerate wraps ``forward`` in place, and keeps the first precision of a process for good unless told otherwise."""
    x = torch.rand(4, 3)
    for precision in ("no", "bf16", "no"):
        network = make_network(torch.float32)
        result = train(
            network,
            regression(),
            make_batches(torch.float32),
            TrainSettings(steps=2, learning_rate=0.02, mixed_precision=precision),
        )
        exact = network[3](network[1](network[0](x)))
        assert torch.equal(network(x), exact)
        assert network(x).dtype == torch.float32
        assert math.isfinite(result.last["loss"])


def test_a_network_that_was_trained_before_is_trained_like_a_new_one(make_network, make_batches, regression):
    """Truth: a new one, whose outputs accelerate gives back in float32; of one that it has prepared once it would not."""
    seen = []

    class Seen(regression):
        def losses(self, network, batch):
            seen.append(network(batch["x"]).dtype)
            return super().losses(network, batch)

    network, found = make_network(torch.float32), []
    network._is_accelerate_prepared = True  # by an accelerator of the user's
    start = copy.deepcopy(network.state_dict())
    for _ in range(3):
        network.load_state_dict(start)
        train(network, Seen(), make_batches(torch.float32), TrainSettings(3, 0.02, mixed_precision="bf16"))
        found.append(weights_of(network))
        assert not {"forward", "_is_accelerate_prepared"} & set(vars(network))
        network = copy.deepcopy(network)
    assert_same_bits(found[1], found[0])
    assert_same_bits(found[2], found[0])
    assert set(seen) == {torch.float32}


@pytest.mark.slow
def test_a_launcher_that_announces_processes_and_no_place_to_meet_is_refused(tmp_path):
    """In a process of its own, since accelerate keeps what it found."""
    for variables in ({"WORLD_SIZE": "2"}, {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}):
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RANK", "LOCAL_", "WORLD", "MASTER"))
        }
        code = (
            "from vdu.training.loop import make_accelerator\nfrom vdu.core.errors import InputError\n"
            "try: make_accelerator()\nexcept InputError as error: print(error)"
        )
        answer = subprocess.run(
            [sys.executable, "-c", code], env=clean | variables, capture_output=True, text=True, timeout=120
        )
        assert "launcher: " in answer.stdout and "torchrun" in answer.stdout, answer.stderr


def test_fewer_processes_than_the_launcher_promised_are_refused(monkeypatch):
    make_accelerator()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="launcher: expected 2 processes, got 1; on a CPU use torchrun"):
        make_accelerator()
