import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from vdu.core.errors import InputError
from vdu.core.types import Tools
from vdu.diffusion.schedule import NoiseSchedule, noised_batch
from vdu.methods.selective_amnesia import SelectiveAmnesia
from vdu.models.denoiser import PipelineDenoiser
from vdu.posterior.amnesia_fisher import AmnesiaFisher, fit_amnesia_fisher
from vdu.posterior.fit import take_all
from vdu.posterior.gaussian import GaussianPosterior
from vdu.posterior.isotropic import fit_isotropic
from vdu.training.loop import Objective, TrainSettings, train

SCHEDULE = NoiseSchedule.linear(6, 0.05, 0.3)
SHAPE = (1, 2, 2)


class Tiny(nn.Module):
    """ε_θ(x_t, t) = tanh(W x_t + u t) in float64; counts its calls."""

    def __init__(self, seed=0):
        super().__init__()
        source, self.calls = torch.Generator().manual_seed(seed), 0
        self.w = nn.Parameter(torch.randn(4, 4, generator=source, dtype=torch.float64) / 2)
        self.u = nn.Parameter(torch.randn(4, generator=source, dtype=torch.float64) / 9)

    def forward(self, x_t, t):
        self.calls += 1
        return torch.tanh(x_t.flatten(1) @ self.w.T + self.u * t.view(-1, 1)).view_as(x_t)


def face(network=None, schedule=SCHEDULE) -> PipelineDenoiser:
    return PipelineDenoiser(network or Tiny(), schedule, "epsilon", SHAPE, {})


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def posterior_of(network, seed=1, shift=0.1) -> GaussianPosterior:
    """A mean beside the weights and variances of all sizes."""
    source, parameters = seeded(seed), dict(network.named_parameters())
    draw = {name: torch.rand(value.shape, generator=source, dtype=value.dtype) for name, value in parameters.items()}
    mean = {name: value.detach() + shift * draw[name] for name, value in parameters.items()}
    return GaussianPosterior(mean=mean, variance={name: 1e-3 + value for name, value in draw.items()}, estimator="test")


def make(denoiser=None, **options):
    denoiser = denoiser or face()
    return denoiser, SelectiveAmnesia(posterior_of(denoiser.network), **options).prepare(denoiser, Tools(n_forget=3))


def noised(n, seed, schedule=SCHEDULE):
    source = seeded(seed)
    x0 = torch.rand(n, *SHAPE, generator=source, dtype=torch.float64) * 2 - 1
    noise = torch.randn(n, *SHAPE, generator=source, dtype=torch.float64)
    return noised_batch(x0, torch.randint(6, (n,), generator=source), noise, schedule, SCHEDULE)


def batch_of(replay, seed=0):
    return {"surrogate": noised(3, seed)} | ({"retain": noised(5, seed + 1)} if replay == "self" else {})


def term_by_hand(network, part):
    """Mean over images of the sum over pixels, one number at a time; and the mean over both."""
    total = 0.0
    for x0, noise, row in zip(part.x0, part.noise, part.index.tolist(), strict=True):
        level = float(SCHEDULE.alpha_bars[row])
        x_t = math.sqrt(level) * x0 + math.sqrt(1 - level) * noise
        guess = network(x_t[None], torch.tensor([float(row)], dtype=torch.float64))[0]
        total += sum(float(a - b) ** 2 for a, b in zip(noise.flatten(), guess.detach().flatten(), strict=True))
    return total / len(part.x0), total / part.x0.numel()


# The loss


@pytest.mark.parametrize("replay", ["none", "self"])
def test_the_loss_by_hand(replay):
    denoiser, ready = make(replay=replay, replay_weight=0.7)
    batch = batch_of(replay)
    losses = ready.losses(denoiser, batch)
    surrogate, mse = term_by_hand(denoiser.network, batch["surrogate"])
    expected, observed = {"surrogate": surrogate}, {"mse": mse}
    if replay == "self":
        replayed, observed["replay_mse"] = term_by_hand(denoiser.network, batch["retain"])
        expected["replay"] = 0.7 * replayed
    assert {name: float(value.detach()) for name, value in losses.terms.items()} == pytest.approx(expected, rel=1e-12)
    assert {name: float(value) for name, value in losses.observed.items()} == pytest.approx(observed, rel=1e-12)
    assert not any(value.requires_grad for value in losses.observed.values())


def test_both_terms_come_from_one_call_of_the_network():
    denoiser, ready = make(replay="self")
    ready.losses(denoiser, batch_of("self"))
    assert denoiser.network.calls == 1


def test_without_replay_the_retained_images_are_not_looked_at():
    denoiser, ready = make(replay="none")
    with_retain, without = (ready.losses(denoiser, batch_of(replay)) for replay in ("self", "none"))
    assert torch.equal(with_retain.terms["surrogate"], without.terms["surrogate"])
    assert set(with_retain.terms) == {"surrogate"}
    assert ready.needs == {"surrogate"}
    assert make(replay="self")[1].needs == {"surrogate", "retain"}


@pytest.mark.parametrize("term", ["surrogate", "replay"])
def test_a_step_against_its_gradient_lowers_a_term(term):
    denoiser, ready = make(replay="self")
    batch = batch_of("self")
    before = ready.losses(denoiser, batch).terms[term]
    before.backward()
    with torch.no_grad():
        for value in denoiser.network.parameters():
            value -= 1e-4 * value.grad
        after = ready.losses(denoiser, batch).terms[term]
    assert float(after) < float(before.detach())
    part = batch["surrogate" if term == "surrogate" else "retain"]
    assert float(after) == pytest.approx(term_by_hand(denoiser.network, part)[0], rel=1e-12)  # the error, not minus it


class Adapter(Objective):
    """A method as the loop's objective."""

    def __init__(self, method, denoiser):
        self.method, self.denoiser, self.limits = method, denoiser, method.limits

    def losses(self, network, batch):
        part = noised_batch(batch["x0"], batch["index"], batch["noise"], SCHEDULE, SCHEDULE)
        return self.method.losses(self.denoiser.with_network(network), {"surrogate": part})

    def add_gradients(self, parameters):
        return self.method.add_gradients(parameters)


def draws(step):
    part = noised(8, seed=0)
    return {"x0": part.x0, "noise": part.noise, "index": part.index}


# EWC


def test_the_ewc_gradient_is_that_of_the_published_term():
    """λ Σ F (θ−θ*)² written out, with F by the estimator and no posterior in between."""
    denoiser = face()
    parameters = dict(denoiser.network.named_parameters())
    star = {name: value.detach().clone() for name, value in parameters.items()}
    samples = torch.rand(4, *SHAPE, generator=seeded(3), dtype=torch.float64) * 2 - 1
    options = {"timesteps_per_sample": None, "batch_size": 6}
    estimator = AmnesiaFisher(**options)
    state = estimator.init(denoiser, n_items=len(samples), generator=seeded(4))
    fisher = take_all(estimator, state, samples, denoiser).tensors["fisher"]
    posterior = fit_amnesia_fisher(denoiser, samples, generator=seeded(4), **options)
    ready = SelectiveAmnesia(posterior, ewc=10.0).prepare(denoiser, Tools(n_forget=1))
    with torch.no_grad():
        for value in parameters.values():
            value += 0.1 * torch.randn(value.shape, generator=seeded(5), dtype=torch.float64)
    term = 10.0 * sum((fisher[name] * (value - star[name]).square()).sum() for name, value in parameters.items())
    truth = torch.autograd.grad(term, list(parameters.values()))
    before = {name: torch.ones_like(value) for name, value in parameters.items()}
    for name, value in parameters.items():
        value.grad = before[name].clone()
    # the posterior keeps θ* and 1/(2F) in float32
    assert ready.add_gradients(parameters) == {"ewc": pytest.approx(float(term.detach()), rel=1e-5)}
    for (name, value), expected in zip(parameters.items(), truth, strict=True):
        torch.testing.assert_close(value.grad - before[name], expected, rtol=1e-5, atol=1e-5)
        assert float(expected.abs().max()) > 1


@pytest.mark.parametrize("replay", ["none", "self"])
def test_the_gradient_is_that_of_the_whole_loss(replay):
    denoiser, ready = make(replay=replay, ewc=0.3, replay_weight=2.0)
    parameters, batch = dict(denoiser.network.named_parameters()), batch_of(replay)
    total = sum(ready.losses(denoiser, batch).terms.values()) + 0.3 * ready.posterior.penalty(parameters)
    truth = torch.autograd.grad(total, list(parameters.values()))
    sum(ready.losses(denoiser, batch).terms.values()).backward()
    logged = ready.add_gradients(parameters)["ewc"]
    assert logged == pytest.approx(0.3 * float(ready.posterior.penalty(parameters).detach()), rel=1e-12)
    for value, expected in zip(parameters.values(), truth, strict=True):
        torch.testing.assert_close(value.grad, expected, rtol=1e-12, atol=1e-12)


def test_without_ewc_nothing_is_added():
    denoiser, ready = make(ewc=0.0)
    assert ready.add_gradients(dict(denoiser.network.named_parameters())) == {}
    assert all(value.grad is None for value in denoiser.network.parameters())


def test_ewc_holds_the_weights():
    ends = {}
    for ewc in (0.0, 1e4):
        denoiser = face()
        posterior = fit_isotropic(dict(denoiser.network.named_parameters()), 1.0)
        ready = SelectiveAmnesia(posterior, ewc=ewc).prepare(denoiser, Tools(n_forget=1))
        train(denoiser.network, Adapter(ready, denoiser), draws, TrainSettings(steps=30, learning_rate=1e-2))
        ends[ewc] = float(posterior.penalty(dict(denoiser.network.named_parameters())).detach())
    assert ends[1e4] < ends[0.0] / 20


# The schedule and the posterior


def test_all_steps_of_the_models_own_schedule_are_drawn_alike():
    own = NoiseSchedule.cosine(9)
    denoiser = face(schedule=own)
    ready = SelectiveAmnesia(posterior_of(denoiser.network)).prepare(denoiser, Tools(n_forget=1))
    assert ready.schedule is own
    assert ready.draw_weights().tolist() == [1.0] * 9
    assert ready.draw_weights().dtype == torch.float64
    given = SelectiveAmnesia(posterior_of(denoiser.network), schedule=SCHEDULE).prepare(denoiser, Tools(n_forget=1))
    assert given.schedule is SCHEDULE and len(given.draw_weights()) == 6


def test_a_range_of_levels_holds_for_the_surrogates_alone():
    _, ready = make(alpha_bar_range=(0.0, float(SCHEDULE.alpha_bars[2])))
    assert ready.draw_weights("surrogate").tolist() == [0.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    assert ready.draw_weights("retain").tolist() == [1.0] * 6


def test_limits_let_surrogates_be_strange_and_replay_not():
    denoiser, ready = make(replay="self")
    worst = 4 * float(SCHEDULE.alpha_bars[0] / (1 - SCHEDULE.alpha_bars[0]))
    assert ready.limits == {"mse": pytest.approx(worst), "replay_mse": 2.0}
    assert set(make(replay="none")[1].limits) == {"mse"}
    noisy = NoiseSchedule(torch.tensor([0.2, 0.0], dtype=torch.float64))
    assert replace(ready, schedule=noisy).limits["mse"] == 2.0
    assert set(ready.losses(denoiser, batch_of("self")).observed) == set(ready.limits)


def test_the_posterior_takes_the_networks_dtype():
    network = Tiny()
    posterior = fit_isotropic(dict(network.float().named_parameters()), 0.1)
    ready = SelectiveAmnesia(posterior).prepare(face(network.double()), Tools(1))
    assert {value.dtype for value in ready.posterior.variance.values()} == {torch.float64}


def test_the_posterior_of_another_model_is_refused():
    other = nn.Sequential(nn.Linear(2, 2)).double()
    with pytest.raises(InputError, match="network: names or shapes differ from those expected"):
        SelectiveAmnesia(posterior_of(other)).prepare(face(), Tools(n_forget=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"replay": "real"}, "replay: got 'real'; expected one of none, self"),
        ({"ewc": -1.0}, r"ewc: got -1.0; expected a finite number, 0 or more"),
        ({"ewc": float("nan")}, "ewc: got nan"),
        ({"replay_weight": float("inf")}, "replay_weight: got inf"),
        ({"posterior": None}, "posterior: got NoneType; expected a GaussianPosterior"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        SelectiveAmnesia(**{"posterior": posterior_of(Tiny())} | options)


# Invariants


def test_it_draws_nothing():
    denoiser, ready = make(replay="self")
    torch.manual_seed(0)
    state = torch.get_rng_state()
    ready.losses(denoiser, batch_of("self"))
    assert torch.equal(state, torch.get_rng_state())


def test_a_saved_posterior_makes_the_same_method(tmp_path):
    network = Tiny().float()
    posterior = posterior_of(network)
    posterior.save(tmp_path / "p.safetensors")
    loaded = SelectiveAmnesia(GaussianPosterior.load(tmp_path / "p.safetensors"))
    assert loaded.identity == SelectiveAmnesia(posterior).identity
    found = []
    for method in (loaded, SelectiveAmnesia(posterior)):
        network.zero_grad()
        logged = method.prepare(face(network), Tools(1)).add_gradients(dict(network.named_parameters()))
        found.append((logged, [value.grad.clone() for value in network.parameters()]))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


def test_the_identity_tells_methods_apart():
    network = Tiny()
    options = [
        {},
        {"replay": "self"},
        {"ewc": 1.0},
        {"replay_weight": 2.0},
        {"schedule": SCHEDULE},
        {"schedule": NoiseSchedule.linear(6, 0.05, 0.3 + 1e-13)},
        {"posterior": posterior_of(network, seed=3)},
    ]
    methods = [SelectiveAmnesia(**{"posterior": posterior_of(network)} | each) for each in options]
    assert len({method.identity for method in methods}) == len(methods)
    assert SelectiveAmnesia(posterior_of(network)).identity == methods[0].identity
    for a, b in itertools.pairwise(methods):
        assert a.name == b.name == "selective-amnesia"
