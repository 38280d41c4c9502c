import itertools
import math

import pytest
import torch
from torch import nn

from vdu.core.errors import InputError
from vdu.core.types import Losses, Tools
from vdu.diffusion.schedule import NoiseSchedule, noised_batch
from vdu.methods.vdu import VDU, gradient_ascent
from vdu.models.denoiser import PipelineDenoiser
from vdu.posterior.gaussian import GaussianPosterior
from vdu.posterior.isotropic import fit_isotropic
from vdu.training.loop import Objective, TrainSettings, train

SCHEDULE = NoiseSchedule.linear(6, 0.05, 0.3)
SHAPE = (1, 2, 2)


class Tiny(nn.Module):
    """ε_θ(x_t, t) = tanh(W x_t + u t) in float64."""

    def __init__(self, seed=0):
        super().__init__()
        source = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(torch.randn(4, 4, generator=source, dtype=torch.float64) / 2)
        self.u = nn.Parameter(torch.randn(4, generator=source, dtype=torch.float64) / 9)

    def forward(self, x_t, t):
        return torch.tanh(x_t.flatten(1) @ self.w.T + self.u * t.view(-1, 1)).view_as(x_t)


def face(network=None, schedule=SCHEDULE, kind="epsilon", shape=SHAPE) -> PipelineDenoiser:
    return PipelineDenoiser(network or Tiny(), schedule, kind, shape, {})


def posterior_of(network, seed=1, shift=0.1) -> GaussianPosterior:
    """A mean beside the weights and variances of all sizes."""
    source = torch.Generator().manual_seed(seed)
    draw = {
        name: torch.rand(value.shape, generator=source, dtype=value.dtype) for name, value in network.named_parameters()
    }
    mean = {name: value.detach() + shift * draw[name] for name, value in network.named_parameters()}
    return GaussianPosterior(mean=mean, variance={name: 1e-3 + value for name, value in draw.items()}, estimator="test")


def data(n=3, seed=2):
    """Images, and one fixed noise per image and step: [n, T, 1, 2, 2]."""
    source = torch.Generator().manual_seed(seed)
    x0 = torch.rand(n, *SHAPE, generator=source, dtype=torch.float64) * 2 - 1
    return x0, torch.randn(n, len(SCHEDULE), *SHAPE, generator=source, dtype=torch.float64)


def make(gamma=0.3, network=None, n_forget=3, **options):
    denoiser = face(network)
    posterior = posterior_of(denoiser.network) if gamma else None
    method = VDU(posterior, gamma=gamma, schedule=SCHEDULE, **options)
    return denoiser, method.prepare(denoiser, Tools(n_forget=n_forget))


def first_term_by_hand(denoiser, x0, noise, kind, low=0.0, high=1.0):
    """Σ_x Σ_{t=2…T} w_t ‖ε − ε_θ(x_t, t)‖², one image, step and pixel at a time."""
    total = 0.0
    alpha_bars = [float(value) for value in SCHEDULE.alpha_bars]
    for image, t in itertools.product(range(len(x0)), range(2, len(alpha_bars) + 1)):
        now, before = alpha_bars[t - 1], alpha_bars[t - 2]
        alpha = now / before
        weight = {"paper": 1.0, "elbo": 0.5}.get(kind, 1.0) * (
            (1 - alpha) / (alpha * (1 - before)) if kind != "uniform" else 1
        )
        if not low <= now <= high:
            continue
        x_t = math.sqrt(now) * x0[image] + math.sqrt(1 - now) * noise[image, t - 1]
        guess = denoiser.network(x_t[None], torch.tensor([t - 1.0], dtype=torch.float64))[0]
        total += weight * sum(float(e) ** 2 for e in (noise[image, t - 1] - guess).flatten())
    return total


def all_draws(x0, noise, method):
    """The mean of ``losses`` over every image and every row that can be drawn, one at a time."""
    denoiser, ready = method
    rows = ready.draw_weights().nonzero().flatten().tolist()
    values = []
    for image, row in itertools.product(range(len(x0)), rows):
        batch = noised_batch(
            x0[image : image + 1], torch.tensor([row]), noise[image, row][None], SCHEDULE, denoiser.schedule
        )
        values.append(float(ready.losses(denoiser, {"forget": batch}).terms["plasticity"]))
    return sum(values) / len(values)


# Eq. 3


@pytest.mark.parametrize("weights", ["paper", "elbo", "uniform"])
@pytest.mark.parametrize("gamma", [0.0, 0.3])
def test_the_mean_over_all_draws_is_eq_3_by_brute_force(weights, gamma):
    (denoiser, ready), (x0, noise) = make(gamma, weights=weights), data()
    truth = -(1 - gamma) * first_term_by_hand(denoiser, x0, noise, weights)
    assert all_draws(x0, noise, (denoiser, ready)) == pytest.approx(truth, rel=1e-12)
    parameters = dict(denoiser.network.named_parameters())
    penalty = 0.0
    if gamma:
        for name, value in parameters.items():
            mean, variance = ready.posterior.mean[name].flatten(), ready.posterior.variance[name].flatten()
            penalty += sum(
                float((a - b) ** 2 / (2 * c)) for a, b, c in zip(value.detach().flatten(), mean, variance, strict=True)
            )
    assert ready.add_gradients(parameters) == (
        {"stability": pytest.approx(gamma * penalty, rel=1e-12)} if gamma else {}
    )


def test_a_batch_is_the_mean_of_its_images():
    denoiser, ready = make()
    x0, noise = data()
    index = torch.tensor([1, 5, 3])
    picked = noise[torch.arange(3), index]
    whole = ready.losses(denoiser, {"forget": noised_batch(x0, index, picked, SCHEDULE, SCHEDULE)})
    singles = [
        ready.losses(
            denoiser, {"forget": noised_batch(x0[i : i + 1], index[i : i + 1], picked[i : i + 1], SCHEDULE, SCHEDULE)}
        )
        for i in range(3)
    ]
    for name, kind in (("plasticity", "terms"), ("mse", "observed")):
        mean = sum(float(getattr(one, kind)[name]) for one in singles) / 3
        assert float(getattr(whole, kind)[name]) == pytest.approx(mean, rel=1e-12)


def test_the_observed_error_is_the_plain_mean_square():
    denoiser, ready = make()
    x0, noise = data()
    index = torch.tensor([2, 2, 4])
    batch = noised_batch(x0, index, noise[:, 0], SCHEDULE, SCHEDULE)
    guess = denoiser.network(batch.x_t, index)
    losses = ready.losses(denoiser, {"forget": batch})
    assert float(losses.observed["mse"]) == pytest.approx(float(nn.functional.mse_loss(guess, noise[:, 0])), rel=1e-12)
    assert not losses.observed["mse"].requires_grad


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_the_gradient_is_that_of_the_whole_of_eq_3(gamma):
    denoiser, ready = make(gamma)
    x0, noise = data()
    index = torch.tensor([1, 5, 3])
    batch = {"forget": noised_batch(x0, index, noise[torch.arange(3), index], SCHEDULE, SCHEDULE)}
    parameters = dict(denoiser.network.named_parameters())
    total = sum(ready.losses(denoiser, batch).terms.values())
    if gamma:
        total = total + gamma * ready.posterior.penalty(parameters)
    truth = torch.autograd.grad(total, list(parameters.values()))
    sum(ready.losses(denoiser, batch).terms.values()).backward()
    ready.add_gradients(parameters)
    for value, expected in zip(parameters.values(), truth, strict=True):
        torch.testing.assert_close(value.grad, expected, rtol=1e-12, atol=1e-12)
        assert float(expected.abs().max()) > 1e-3


def test_it_climbs_the_forget_loss():
    denoiser, ready = make(0.0)
    x0, noise = data()
    before = first_term_by_hand(denoiser, x0, noise, "paper")
    index = torch.tensor([1, 5, 3])
    batch = {"forget": noised_batch(x0, index, noise[torch.arange(3), index], SCHEDULE, SCHEDULE)}
    ready.losses(denoiser, batch).terms["plasticity"].backward()
    with torch.no_grad():
        for value in denoiser.network.parameters():
            value -= 1e-4 * value.grad
    assert first_term_by_hand(denoiser, x0, noise, "paper") > before


# γ = 0 is plain ascent


class PlainAscent(Objective):
    """Minus the weighted squared error, written out: nothing of VDU's code."""

    limits = {}  # ruff: ignore[mutable-class-default]

    def __init__(self, schedule, n_forget):
        alpha_bars = schedule.alpha_bars
        alphas = alpha_bars[1:] / alpha_bars[:-1]
        self.weights = torch.cat([torch.zeros(1, dtype=torch.float64), (1 - alphas) / (alphas * (1 - alpha_bars[:-1]))])
        self.scale = n_forget * (len(alpha_bars) - 1)

    def losses(self, network, batch):
        level = SCHEDULE.alpha_bars[batch["index"]].view(-1, 1, 1, 1)
        x_t = level.sqrt() * batch["x0"] + (1 - level).sqrt() * batch["noise"]
        square = (batch["noise"] - network(x_t, batch["index"])).square().sum(dim=(1, 2, 3))
        return Losses({"plasticity": -(self.scale * (self.weights[batch["index"]] * square).mean())})

    def add_gradients(self, parameters):
        return {}


class Adapter(Objective):
    """A method as the loop's objective."""

    def __init__(self, method, denoiser):
        self.method, self.denoiser, self.limits = method, denoiser, {}

    def losses(self, network, batch):
        noised = noised_batch(batch["x0"], batch["index"], batch["noise"], SCHEDULE, SCHEDULE)
        return self.method.losses(self.denoiser.with_network(network), {"forget": noised})

    def add_gradients(self, parameters):
        return self.method.add_gradients(parameters)


def draws(step):
    x0, noise = data(4, seed=step)
    index = torch.tensor([1, 2, 3, 5])
    return {"x0": x0, "noise": noise[:, 0], "index": index}


def test_gamma_0_is_plain_ascent_bit_by_bit():
    ends = []
    for kind in ("gamma 0", "gradient_ascent", "by hand"):
        denoiser = face()
        posterior = posterior_of(denoiser.network) if kind == "gamma 0" else None  # given, but without weight
        method = (
            VDU(posterior, gamma=0.0, schedule=SCHEDULE) if kind == "gamma 0" else gradient_ascent(schedule=SCHEDULE)
        )
        ready = method.prepare(denoiser, Tools(n_forget=4))
        assert (ready.name, ready.needs) == ("vdu" if kind == "gamma 0" else "ascent", {"forget"})
        objective = PlainAscent(SCHEDULE, 4) if kind == "by hand" else Adapter(ready, denoiser)
        train(denoiser.network, objective, draws, TrainSettings(steps=5, learning_rate=1e-2))
        ends.append(torch.cat([value.detach().flatten() for value in denoiser.network.parameters()]))
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[1], ends[2])
    regularised, ready = make(0.9, n_forget=4)
    train(regularised.network, Adapter(ready, regularised), draws, TrainSettings(steps=5, learning_rate=1e-2))
    end = torch.cat([value.detach().flatten() for value in regularised.network.parameters()])
    assert not torch.equal(end, ends[0])
    assert ready.name == "vdu"


# schedules


def test_the_default_schedule_works_on_a_cosine_v_prediction_model(make_unet):
    own = NoiseSchedule.cosine()
    network = make_unet().double()
    denoiser = face(network, own, "v_prediction", (1, 8, 8))
    ready = gradient_ascent().prepare(denoiser, Tools(n_forget=10))
    source = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 3, 1, 8, 8, generator=source, dtype=torch.float64)
    index = torch.tensor([5, 300, 990])
    batch = noised_batch(x0, index, noise, ready.schedule, own)
    total = 0.0
    for i, row in enumerate(index.tolist()):
        level, before = float(ready.schedule.alpha_bars[row]), float(ready.schedule.alpha_bars[row - 1])
        t = float(batch.timestep[i])
        assert abs(t - row) > 1  # another row of the own schedule has this level …
        assert (
            float(own.alpha_bars[math.floor(t)]) >= level >= float(own.alpha_bars[math.ceil(t)])
        )  # … and it is this one
        x_t = math.sqrt(level) * x0[i] + math.sqrt(1 - level) * noise[i]
        with torch.no_grad():
            v = network(x_t[None], torch.tensor([t])).sample[0]
        guess = math.sqrt(level) * v + math.sqrt(1 - level) * x_t
        weight = (1 - level / before) / (level / before * (1 - before))
        total += weight * float((noise[i] - guess).square().sum())
    found = float(ready.losses(denoiser, {"forget": batch}).terms["plasticity"])
    # the network sees its timestep in float32
    assert found == pytest.approx(-10 * 999 * total / 3, rel=1e-4)


def test_an_unlearning_schedule_with_its_weight_on_one_step_is_refused():
    with pytest.raises(
        InputError, match=r"unlearning schedule: 97% of the weight.*t = 1000 of 1000.*Use a linear schedule"
    ):
        gradient_ascent(schedule=NoiseSchedule.cosine())
    gradient_ascent(schedule=NoiseSchedule.cosine(), weights="uniform")
    zero_snr = NoiseSchedule(torch.cat([SCHEDULE.alpha_bars, torch.zeros(1, dtype=torch.float64)]))
    with pytest.raises(InputError, match="a weight of Eq. 3 is infinite"):
        gradient_ascent(schedule=zero_snr)
    gradient_ascent(schedule=zero_snr, alpha_bar_range=(1e-6, 1.0))


@pytest.mark.parametrize("weights", ["paper", "uniform"])
def test_only_levels_in_the_range_take_part(weights):
    low, high = 0.35, 0.8
    denoiser, ready = make(0.0, weights=weights, alpha_bar_range=(low, high))
    inside = [low <= float(value) <= high for value in SCHEDULE.alpha_bars]
    assert ready.draw_weights().tolist() == [float(each) for each in inside]
    assert sum(inside) == 3
    x0, noise = data()
    truth = -first_term_by_hand(denoiser, x0, noise, weights, low, high)
    assert all_draws(x0, noise, (denoiser, ready)) == pytest.approx(truth, rel=1e-12)


def test_t_1_is_never_drawn_and_all_others_alike():
    assert gradient_ascent().draw_weights().tolist() == [0.0] + [1.0] * 999


# what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 1.5}, r"gamma: got 1.5; expected a number from 0 to 1"),
        ({"gamma": -0.1}, r"gamma: got -0.1; expected"),
        ({"gamma": float("nan")}, "gamma: got nan; expected"),
        ({"gamma": 0.1}, r"posterior: none given with gamma = 0.1; give one, or gamma = 0 \(gradient ascent\)"),
        ({"gamma": 0.0, "weights": "snr"}, "weights: got 'snr'"),
        ({"gamma": 0.0, "alpha_bar_range": (0.5, 0.4)}, r"alpha_bar_range: got \(0.5, 0.4\); expected two numbers"),
        ({"gamma": 0.0, "alpha_bar_range": (0.5, 0.5)}, "no step of the unlearning schedule has ᾱ within"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        VDU(None, **options)


def test_the_posterior_of_another_model_is_refused_with_the_first_differences():
    other = nn.Sequential(nn.Linear(2, 2)).double()
    with pytest.raises(
        InputError,
        match=r"network: names or shapes differ from those expected:\n  0\.bias: missing\n  0\.weight: missing\n  u: unexp",
    ):
        VDU(posterior_of(other)).prepare(face(), Tools(n_forget=1))


def test_the_posterior_takes_the_networks_dtype():
    network = Tiny()
    ready = VDU(fit_isotropic(dict(network.float().named_parameters()), 0.1)).prepare(face(network.double()), Tools(1))
    assert {value.dtype for value in ready.posterior.mean.values()} == {torch.float64}


# identity


def test_the_identity_tells_methods_apart_that_print_alike():
    """A resumed run must not take up another posterior or schedule; their printed forms show neither."""
    network = Tiny()
    base = VDU(posterior_of(network))
    others = [
        VDU(posterior_of(network, seed=3)),
        VDU(posterior_of(network), gamma=0.2),
        VDU(posterior_of(network), weights="elbo"),
        VDU(posterior_of(network), schedule=NoiseSchedule.linear(1000, 1e-4, 0.02 + 1e-13)),
        VDU(posterior_of(network), alpha_bar_range=(0.1, 1.0)),
        gradient_ascent(),
    ]
    assert VDU(posterior_of(network)).identity == base.identity
    assert len({base.identity, *(other.identity for other in others)}) == len(others) + 1
    assert repr(others[3].schedule) == repr(base.schedule)
    assert gradient_ascent().identity != VDU(gamma=0.0).identity  # another name


def test_without_a_schedule_it_takes_the_models_own():
    own = NoiseSchedule.linear(9, 0.05, 0.2)
    ready = gradient_ascent(schedule=None).prepare(face(schedule=own), Tools(n_forget=1))
    assert ready.schedule is own and ready.draw_weights().tolist() == [0.0] + [1.0] * 8
    with pytest.raises(InputError, match="Use a linear schedule"):  # only now is it known
        gradient_ascent(schedule=None).prepare(face(schedule=NoiseSchedule.cosine()), Tools(n_forget=1))


def test_ascent_takes_neither_posterior_nor_gamma():
    for given in ({"gamma": 0.1}, {"posterior": posterior_of(Tiny())}):
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            gradient_ascent(**given)
