from dataclasses import replace

import pytest
import torch

from toys import noise_seen
from vdu.core.errors import InputError
from vdu.models.denoiser import PipelineDenoiser
from vdu.posterior.amnesia_fisher import AmnesiaFisher, draw_indices, fit_amnesia_fisher
from vdu.posterior.fit import take_all
from vdu.posterior.gaussian import GaussianPosterior

X = torch.tensor([0.5, -1.0, 0.25, 0.75], dtype=torch.float64).view(1, 1, 2, 2)
SAMPLES = torch.cat([X, -0.3 * X, X.flip(3)])
ALL = {"timesteps_per_sample": None, "batch_size": 3}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fisher_of(denoiser, samples=SAMPLES, seed=0, **options):
    estimator = AmnesiaFisher(**ALL | options)
    state = estimator.init(denoiser, n_items=len(samples), generator=seeded(seed))
    return take_all(estimator, state, samples, denoiser).tensors["fisher"]


def pairs(denoiser, samples, n, seed):
    """Row and noise of each (image, t), drawn as the estimator draws them."""
    source = seeded(seed)
    for x in samples:
        rows = draw_indices(len(denoiser.schedule), n, source).tolist()
        yield x, [(row, torch.randn(x.shape, generator=source, dtype=x.dtype)) for row in rows]


def one_pair_at_a_time(denoiser, samples, n, seed):
    """The definition with a backward pass for each (image, t), into ``.grad``."""
    network, steps = denoiser.network, len(denoiser.schedule)
    total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in network.named_parameters()}
    for x, drawn in pairs(denoiser, samples, n, seed):
        network.zero_grad()
        for row, noise in drawn:
            a = denoiser.schedule.alpha_bars[row]
            x_t = a.sqrt() * x + (1 - a).sqrt() * noise
            guess = noise_seen(denoiser, x_t[None], torch.tensor([row]))[0]
            (noise - guess).square().sum().backward()
        for name, value in network.named_parameters():
            if value.grad is not None:
                total[name] += (steps / len(drawn) * value.grad).square() / len(samples)
    network.zero_grad()
    return total


# Truth


@pytest.mark.parametrize(("n", "batch_size"), [(None, 7), (None, 100), (4, 3), (4, 4), (1, 1)])
def test_a_unet_by_brute_force(make_unet, schedule, n, batch_size):
    denoiser = PipelineDenoiser(make_unet().double(), schedule, "v_prediction", (1, 8, 8), {})
    samples = torch.rand(2, 1, 8, 8, generator=seeded(5), dtype=torch.float64) * 2 - 1
    fisher = fisher_of(denoiser, samples, 3, timesteps_per_sample=n, batch_size=batch_size)
    truth = one_pair_at_a_time(denoiser, samples, n, 3)
    assert list(fisher) == sorted(truth)
    largest = max(float(value.max()) for value in truth.values())
    for name, value in truth.items():
        assert fisher[name].dtype == torch.float64
        # sums differ in their order alone; the gradient of the attention's key bias is 0 but for rounding
        torch.testing.assert_close(fisher[name], value, rtol=1e-9, atol=1e-24 * largest)
    assert sum(bool((value > 1e-6 * largest).any()) for value in truth.values()) > 30


@pytest.mark.parametrize("n", [None, 3])
def test_a_linear_denoiser_on_paper(linear, schedule, n):
    """∇_W ‖ε − W x_t‖² = −2 (ε − W x_t) x_tᵀ, summed over t, times T/n, squared, averaged over images."""
    weight, expected = linear.network.weight.detach(), torch.zeros(4, 4, dtype=torch.float64)
    for x, drawn in pairs(linear, SAMPLES, n, 1):
        g = torch.zeros_like(expected)
        for row, noise in drawn:
            a = float(schedule.alpha_bars[row])
            x_t = a**0.5 * x.flatten() + (1 - a) ** 0.5 * noise.flatten()
            g -= 2 * torch.outer(noise.flatten() - weight @ x_t, x_t)
        expected += (8 / len(drawn) * g) ** 2 / 3
    fisher = fisher_of(linear, seed=1, timesteps_per_sample=n)
    torch.testing.assert_close(fisher["weight"], expected, rtol=1e-12, atol=1e-12)
    assert not fisher["unused"].any()


def test_all_rows_take_part_from_the_first_on_and_are_summed_before_the_square(linear, schedule, monkeypatch):
    """Without noise ε the gradient is 2 W xxᵀ Σ_t ᾱ_t: what is left out or squared too early shows."""
    monkeypatch.setattr("vdu.posterior.amnesia_fisher.normal_like", lambda like, generator: torch.zeros_like(like))
    weight, x = linear.network.weight.detach(), X.flatten()
    g = 2 * weight @ torch.outer(x, x)
    a = schedule.alpha_bars
    fisher = fisher_of(linear, X)["weight"]
    torch.testing.assert_close(fisher, (g * a.sum()) ** 2, rtol=1e-12, atol=1e-12)
    squared_first = g**2 * a.square().sum()
    assert float((fisher / squared_first).min()) > 4  # eight terms of one sign


def test_images_are_squared_before_their_mean(linear):
    """Where the mean over images came first, opposite gradients would cancel."""
    rows = list(pairs(linear, SAMPLES, None, 7))
    gradients = torch.stack([_gradient(linear, x, drawn) for x, drawn in rows])
    fisher = fisher_of(linear, seed=7)["weight"]
    torch.testing.assert_close(fisher, gradients.square().mean(0), rtol=1e-12, atol=1e-12)
    assert float((fisher / gradients.mean(0).square()).max()) > 2


def _gradient(linear, x, drawn):
    weight, total = linear.network.weight.detach(), torch.zeros(4, 4, dtype=torch.float64)
    for row, noise in drawn:
        a = linear.schedule.alpha_bars[row]
        x_t = (a.sqrt() * x + (1 - a).sqrt() * noise).flatten()
        total -= 2 * torch.outer(noise.flatten() - weight @ x_t, x_t)
    return total


@pytest.mark.slow
def test_a_subset_is_unbiased_in_the_gradient_and_too_large_in_the_square(linear, schedule):
    """E F(n) = E F(T) + what drawing t and T/n add; the linear network with W = 0 has only noise in its gradient.

    W = 0: g_t = −2 ε x_tᵀ, of mean −2 √(1−ᾱ) I and, off the diagonal with x = 0, variance 4 (1−ᾱ). So off the diagonal
    F(T) = 4 Σ (1−ᾱ) and F(1) = T² · 4 mean(1−ᾱ) = T · F(T): the upper end of the docstring's bias.
    """
    with torch.no_grad():
        linear.network.weight.zero_()
    samples = torch.zeros(4000, 1, 2, 2, dtype=torch.float64)
    off = ~torch.eye(4, dtype=torch.bool)
    truth = 4 * float((1 - schedule.alpha_bars).sum())
    whole = fisher_of(linear, samples, batch_size=8)["weight"][off].mean()
    single = fisher_of(linear, samples, timesteps_per_sample=1)["weight"][off].mean()
    assert float(whole) == pytest.approx(truth, rel=0.05)  # 48 000 products, each with a kurtosis of at most 9
    assert float(single) == pytest.approx(8 * truth, rel=0.06)


# Rows


def test_each_stratum_gets_one_row_and_each_row_its_share():
    source = seeded(0)
    rows = torch.stack([draw_indices(12, 4, source) for _ in range(2000)])
    assert bool((rows // 3 == torch.arange(4)).all())
    counts = torch.bincount(rows.flatten(), minlength=12) / 2000
    assert float((counts - 1 / 3).abs().max()) < 4.5 * (2 / 9 / 2000) ** 0.5
    uneven = torch.stack([draw_indices(8, 3, source) for _ in range(4000)])
    counts = torch.bincount(uneven.flatten(), minlength=8) / 4000
    assert float((counts - 3 / 8).abs().max()) < 4.5 * (0.25 / 4000) ** 0.5
    assert draw_indices(7, 7, source).tolist() == list(range(7))


def test_all_rows_draw_nothing():
    source = seeded(0)
    before = source.get_state()
    assert draw_indices(5, None, source).tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(source.get_state(), before)


# The posterior


def test_the_penalty_is_the_published_one(linear, tmp_path):
    parameters = dict(linear.network.named_parameters())
    posterior = fit_amnesia_fisher(linear, SAMPLES, generator=seeded(2), timesteps_per_sample=5)
    fisher = fisher_of(linear, seed=2, timesteps_per_sample=5)["weight"]
    moved = {
        name: value.detach() + 0.1 * (1 + torch.arange(value.numel())).view_as(value)
        for name, value in parameters.items()
    }
    theta = parameters["weight"].detach()
    expected = float((fisher * (moved["weight"] - theta).square()).sum())
    # unused has F = 0, so its part is 1e-30; float32 keeps seven digits of θ* and of 1/(2F)
    assert float(posterior.penalty(moved)) == pytest.approx(expected, rel=1e-5)
    assert torch.equal(posterior.mean["weight"], theta.float())
    extras = {"n_samples": 3, "timesteps_per_sample": 5, "n_timesteps": 8, "network_evaluations": 3 * 3 * 5}
    assert posterior.extras == extras | {"n_on_floor": 2, "n_parameters": 18}
    assert (posterior.estimator, sorted(posterior.sources)) == ("amnesia-fisher", ["network", "samples"])
    posterior.save(tmp_path / "posterior.safetensors")
    loaded = GaussianPosterior.load(tmp_path / "posterior.safetensors")
    assert loaded.sha256 == posterior.sha256
    assert torch.equal(loaded.variance["weight"], posterior.variance["weight"])


def test_the_floor_is_relative_to_the_tensor(linear):
    raw = {"weight": torch.ones(4, 4, dtype=torch.float64), "unused": torch.zeros(2, dtype=torch.float64)}
    raw["weight"][0, 0] = 0.0
    raw["weight"][0, 1] = 1e-11
    estimator = AmnesiaFisher(timesteps_per_sample=None)
    state = estimator.init(linear, n_items=1, generator=seeded(0))
    posterior = estimator.posterior(replace(state, count=1, tensors=state.tensors | {"fisher": raw}))
    variance = posterior.variance["weight"].double()
    assert float(variance[0, 0]) == pytest.approx(1 / (2 * 1e-12 * 14 / 16), rel=1e-6)
    assert float(variance[0, 1]) == pytest.approx(1 / 2e-11, rel=1e-6)
    assert float(variance[1, 1]) == 0.5
    assert posterior.variance["unused"].tolist() == pytest.approx([5e29] * 2)
    assert posterior.extras["n_on_floor"] == 3
    assert posterior.extras["network_evaluations"] == 3 * 8


# Invariants


@pytest.mark.parametrize("n", [None, 5])
def test_the_result_does_not_depend_on_the_batch_size(linear, n):
    one, many = (fisher_of(linear, timesteps_per_sample=n, batch_size=size) for size in (1, 100))
    torch.testing.assert_close(one["weight"], many["weight"], rtol=1e-12, atol=1e-12)


def test_reproducible_from_the_generator_alone_and_leaves_no_trace(constant):
    samples = torch.linspace(-1, 1, 192).view(3, 1, 8, 8)
    constant.network.train()
    constant.network.frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    torch.manual_seed(0)
    state, seen = torch.get_rng_state(), []
    with torch.no_grad():
        first, second = (
            fit_amnesia_fisher(
                constant,
                samples,
                generator=seeded(4),
                timesteps_per_sample=4,
                progress=lambda done, total: seen.append((done, total)),
            )
            for _ in range(2)
        )
    assert first.sha256 == second.sha256
    other = fit_amnesia_fisher(constant, samples, generator=seeded(5), timesteps_per_sample=4)
    assert other.sha256 != first.sha256
    assert torch.equal(state, torch.get_rng_state())
    assert constant.network.training and constant.network.dropout.training
    assert constant.network.bias.grad is None and constant.network.bias.requires_grad
    assert list(first.mean) == ["bias"] and not constant.network.frozen.requires_grad
    assert seen == [(1, 3), (2, 3), (3, 3)] * 2


def test_the_mean_needs_all_samples(linear):
    estimator = AmnesiaFisher(timesteps_per_sample=2)
    with pytest.raises(InputError, match="got n_items None; expected the total number of samples"):
        estimator.init(linear, generator=seeded(0))
    state = take_all(estimator, estimator.init(linear, n_items=3, generator=seeded(0)), SAMPLES[:2], linear)
    with pytest.raises(InputError, match="got 2 of 3 samples; expected all of them"):
        estimator.posterior(state)


def test_name_filter(linear):
    options = {"timesteps_per_sample": 4}
    whole = fit_amnesia_fisher(linear, X, generator=seeded(0), **options)
    part = fit_amnesia_fisher(linear, X, generator=seeded(0), name_filter="^weight$", **options)
    assert (list(part.mean), part.name_filter, part.extras["n_parameters"]) == (["weight"], "^weight$", 16)
    assert torch.equal(part.variance["weight"], whole.variance["weight"])
    assert linear.network.unused.requires_grad


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, r"amnesia-fisher: got timesteps_per_sample 50, batch_size 100; expected 1 to 8 \(the steps of"),
        ({"timesteps_per_sample": 0}, "timesteps_per_sample: got 0"),
        ({"timesteps_per_sample": 4, "batch_size": 0}, "batch_size: got 0; expected"),
        ({"timesteps_per_sample": 4, "samples": X[0]}, r"samples: got \(1, 2, 2\) torch.float64; expected floating"),
        ({"timesteps_per_sample": 4, "samples": X * float("nan")}, "samples: hold NaN"),
        ({"timesteps_per_sample": 4, "generator": None}, "generator: got None; expected"),
        ({"timesteps_per_sample": 4, "name_filter": "attn"}, "name filter 'attn': matches none"),
    ],
)
def test_refusals(linear, changes, message):
    arguments = {"samples": X, "generator": seeded(0), **changes}
    with pytest.raises(InputError, match=message):
        fit_amnesia_fisher(linear, arguments.pop("samples"), **arguments)


def test_under_one_label_it_is_the_fisher_of_that_class(conditional, linear):
    """Whose weights are those of the unconditional network; the other class was not drawn."""
    options = {"timesteps_per_sample": 3, "name_filter": "^weight$"}
    whole = fit_amnesia_fisher(conditional, SAMPLES, labels=[0] * len(SAMPLES), generator=seeded(3), **options)
    own = fit_amnesia_fisher(linear, SAMPLES, generator=seeded(3), **options)
    variance = whole.variance["weight"]
    torch.testing.assert_close(variance[0], own.variance["weight"], rtol=1e-4, atol=0)
    assert float(variance[1].min()) > 1e6 * float(variance[0].max())  # on the floor of F
