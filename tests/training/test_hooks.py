"""What a method may do besides its losses: combine gradients, undo, remember, stop."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from vdu.core.errors import InputError
from vdu.core.types import Losses
from vdu.training.accelerator import make_accelerator, require_precision
from vdu.training.loop import Objective, TrainSettings, train


class Line(nn.Module):
    """a x + b, and a weight that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(-0.25))
        self.idle = nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        return self.a * x + self.b


class TwoTerms(Objective):
    """Terms ("fit", "small"); the hooks are recorded."""

    def __init__(self, per_term=False, weights=(1.0, 1.0), keep=None):
        self.per_term, self.weights, self.keep, self.seen = per_term, weights, keep, []
        self.count = 0.0

    def losses(self, network, batch):
        out = network(batch["x"])
        return Losses({"fit": (out - 1).square().mean(), "small": 0.1 * out.abs().mean()}, {"out": out.detach().mean()})

    def combine(self, gradients):
        assert set(gradients) == {"fit", "small"}
        pairs = zip(gradients["fit"], gradients["small"], strict=True)
        return [self.weights[0] * fit + self.weights[1] * small for fit, small in pairs]

    def after_step(self, parameters, values):
        self.seen.append(dict(values))
        self.count += values["out"]
        if self.keep is not None:
            with torch.no_grad():
                parameters["b"].copy_(torch.tensor(self.keep))

    def state(self):
        return {"count": self.count}

    def load_state(self, state):
        self.count = state.get("count", 0.0)


def batch(step):
    return {"x": torch.linspace(-1, 2, 8) + 0.1 * step}


SETTINGS = TrainSettings(steps=6, learning_rate=0.05, gradient_accumulation_steps=2)


def ends(network):
    return [float(value.detach()) for value in network.parameters()]


def test_gradients_term_by_term_added_up_are_the_plain_sum():
    plain, combined = Line(), Line()
    train(plain, TwoTerms(), batch, SETTINGS)
    train(combined, TwoTerms(per_term=True), batch, SETTINGS)
    assert ends(combined) == pytest.approx(ends(plain), abs=1e-6)
    assert float(combined.idle.detach()) == 1.0


def test_the_weights_of_the_combination_reach_the_optimiser():
    """Only the second term's gradient, by hand: Adam over d(0.1 mean|ax+b|)/d(a, b)."""
    network, twin = Line(), Line()
    train(network, TwoTerms(per_term=True, weights=(0.0, 1.0)), batch, SETTINGS)
    optimizer = torch.optim.AdamW(twin.parameters(), 0.05, weight_decay=0.0)
    for step in range(6):
        optimizer.zero_grad()
        x = batch(step)["x"]
        sign = torch.sign(twin(x)).detach()
        twin.a.grad, twin.b.grad = 0.1 * (sign * x).mean(), 0.1 * sign.mean()
        optimizer.step()
    assert ends(network) == pytest.approx(ends(twin), abs=1e-6)


def test_fp16_is_refused_for_gradients_term_by_term_and_on_a_cpu():
    gpu = SimpleNamespace(mixed_precision="fp16", device=torch.device("cuda"))
    require_precision(gpu)
    with pytest.raises(InputError, match="got fp16 with a method that combines"):
        require_precision(gpu, per_term=True)
    with pytest.raises(InputError, match="got fp16 on a CPU, which trains in no or bf16 alone"):
        train(Line(), TwoTerms(), batch, replace(SETTINGS, mixed_precision="fp16"))


def test_an_accelerator_of_another_precision_is_refused():
    accelerator = make_accelerator("bf16")
    with pytest.raises(InputError, match=r"mixed_precision 'bf16'; expected 'no'"):
        train(Line(), TwoTerms(), batch, SETTINGS, accelerator=accelerator)


def test_after_a_step_what_must_not_move_is_back():
    network, objective = Line(), TwoTerms(keep=-0.25)
    train(network, objective, batch, SETTINGS)
    assert ends(network)[1] == -0.25 and ends(network)[0] != 0.5
    assert len(objective.seen) == 6 and set(objective.seen[0]) == {"fit", "small", "out"}


def stop_at(step):
    return lambda done, weights: f"enough after {done}" if done >= step else None


def test_a_reason_ends_the_run_and_is_kept(tmp_path):
    network = Line()
    result = train(network, TwoTerms(), batch, SETTINGS, folder=tmp_path, stop=stop_at(4))
    assert (result.steps, result.stopped) == (4, "enough after 4")
    again = Line()
    resumed = train(again, TwoTerms(), batch, SETTINGS, folder=tmp_path, resume=True, stop=stop_at(4))
    assert (resumed.steps, resumed.stopped) == (4, "enough after 4")
    assert ends(again) == ends(network)


def test_a_run_that_ended_early_takes_more_steps_only_without_its_rule(tmp_path):
    network, longer = Line(), replace(SETTINGS, steps=SETTINGS.steps + 2)
    train(network, TwoTerms(), batch, SETTINGS, folder=tmp_path, stop=stop_at(4))
    with pytest.raises(InputError, match=r"ended by its stopping rule after 4 of 6 steps.*--full-length"):
        train(Line(), TwoTerms(), batch, longer, folder=tmp_path, resume=True, stop=stop_at(4))
    whole, again = Line(), Line()
    train(whole, TwoTerms(), batch, longer)
    resumed = train(again, TwoTerms(), batch, longer, folder=tmp_path, resume=True)
    assert (resumed.steps, resumed.stopped) == (8, None) and ends(again) == ends(whole)


def test_what_a_rule_has_seen_goes_on_with_the_run(tmp_path):
    class Rule:
        def __init__(self):
            self.seen = []

        def __call__(self, step, weights):
            self.seen.append(step)

        def state(self):
            return self.seen

        def load_state(self, state):
            self.seen.extend(state)

    train(Line(), TwoTerms(), batch, SETTINGS, folder=tmp_path, stop=Rule())
    rule = Rule()
    longer = replace(SETTINGS, steps=SETTINGS.steps + 2)
    train(Line(), TwoTerms(), batch, longer, folder=tmp_path, resume=True, stop=rule)
    assert rule.seen == list(range(1, 9))
    more = replace(SETTINGS, steps=SETTINGS.steps + 3)
    train(Line(), TwoTerms(), batch, more, folder=tmp_path, resume=True)  # a part without a rule forgets nothing
    last = Rule()
    train(Line(), TwoTerms(), batch, replace(more, steps=more.steps + 1), folder=tmp_path, resume=True, stop=last)
    assert last.seen == [*range(1, 9), 10]


def test_the_rule_sees_the_average_where_there_is_one():
    seen = {}

    def look(done, weights):
        seen[done] = float(weights["a"].detach())

    settings = TrainSettings(steps=3, learning_rate=0.05, ema_decay=0.5)
    network = Line()
    result = train(network, TwoTerms(), batch, settings, stop=look)
    assert set(seen) == {1, 2, 3} and result.ema is not None and result.stopped is None
    assert seen[3] == float(result.ema["a"]) != float(network.a.detach())


@pytest.mark.parametrize("per_term", [False, True])
def test_killed_in_the_middle_it_ends_in_the_same_bits_and_state(tmp_path, per_term):
    settings = TrainSettings(steps=6, learning_rate=0.05, checkpointing_steps=2)
    truth, whole = Line(), TwoTerms(per_term=per_term)
    train(truth, whole, batch, settings)

    def dies(step):
        if step == 5:
            raise KeyboardInterrupt
        return batch(step)

    with pytest.raises(KeyboardInterrupt):
        train(Line(), TwoTerms(per_term=per_term), dies, settings, folder=tmp_path)
    network, objective = Line(), TwoTerms(per_term=per_term)
    train(network, objective, batch, settings, folder=tmp_path, resume=True)
    assert ends(network) == ends(truth)
    assert objective.count == whole.count and len(objective.seen) == 2  # from step 4 on
