import pytest
import torch

from vdu.core.errors import InputError
from vdu.diffusion.schedule import NoiseSchedule, kl_weights
from vdu.posterior.denoising import draw
from vdu.posterior.fisher import Fisher, default_prior_precision, fit_fisher
from vdu.posterior.fit import take_all

X = torch.tensor([0.5, -1.0, 0.25, 0.75], dtype=torch.float64).view(1, 1, 2, 2)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def raw_fisher(denoiser, samples, seed, **options):
    """F before any floor and prior, and the state after all samples."""
    estimator = Fisher(**{"n_train": 1, "prior_precision": 1.0} | options)
    state = take_all(estimator, estimator.init(denoiser, generator=seeded(seed)), samples, denoiser)
    return {name: total / len(samples) for name, total in state.tensors["fisher"].items()}, state


def gradient_on_paper(weight, x, schedule, k):
    """E_ε ∇_W Σ_t k_t ‖ε − W(√ᾱ x + √(1−ᾱ) ε)‖² = Σ_t k_t (2 W (ᾱ xxᵀ + (1−ᾱ) I) − 2 √(1−ᾱ) I)."""
    eye, x = torch.eye(4, dtype=torch.float64), x.flatten()
    total = torch.zeros_like(weight)
    for t in range(2, len(schedule) + 1):  # Theorem 1: t = 2 … T
        a = schedule.alpha_bars[t - 1]
        total += k[t - 1] * (2 * weight @ (a * torch.outer(x, x) + (1 - a) * eye) - 2 * (1 - a).sqrt() * eye)
    return total


def elbo_on_paper(schedule):
    """w_t / 2 from β and ᾱ, by the printed formula."""
    a_bar = schedule.alpha_bars.tolist()
    ratio = [a_bar[t] / a_bar[t - 1] for t in range(1, len(a_bar))]
    return [0.0, *((1 - r) / (2 * r * (1 - a_bar[t])) for t, r in enumerate(ratio))]


def block_means(denoiser, schedule, draws_per_half, blocks=12, per_block=80):
    """F of one image, estimated in independent blocks: [blocks, 4, 4]."""
    options = {"schedule": schedule, "draws_per_half": draws_per_half, "name_filter": "^weight$"}
    samples = X.expand(per_block, -1, -1, -1)
    return torch.stack([raw_fisher(denoiser, samples, b, **options)[0]["weight"] for b in range(blocks)])


@pytest.mark.parametrize("draws_per_half", [1, 3])
def test_two_halves_are_unbiased(linear, schedule, draws_per_half):
    truth = gradient_on_paper(linear.network.weight.detach(), X, schedule, elbo_on_paper(schedule)).square()
    estimates = block_means(linear, schedule, draws_per_half)
    error = estimates.std(0) / len(estimates) ** 0.5
    assert bool(((estimates.mean(0) - truth).abs() < 4.5 * error).all())  # 16 entries, 11 degrees of freedom


def test_every_sample_counts_under_its_own_label(conditional, schedule):
    """The samples of a class give the Fisher of its own weights alone: a third of them are of class a."""
    samples, labels = torch.cat([X, 0.4 * X.flip(3), -X]), [0, 1, 1]
    options, weight = {"schedule": schedule, "draws_per_half": 3}, conditional.network.weight.detach()
    truth = torch.zeros_like(weight)
    for x, label in zip(samples, labels, strict=True):
        truth[label] += gradient_on_paper(weight[label], x, schedule, elbo_on_paper(schedule)).square() / 3
    items = list(zip(samples, labels, strict=True)) * 15
    estimates = torch.stack([raw_fisher(conditional, items, b, **options)[0]["weight"] for b in range(12)])
    error = estimates.std(0) / len(estimates) ** 0.5
    assert bool(((estimates.mean(0) - truth).abs() < 4.5 * error).all())


def test_a_posterior_remembers_under_which_labels(conditional, schedule):
    options = {"n_train": 9, "prior_precision": 1.0, "schedule": schedule}
    first, second = (
        fit_fisher(conditional, torch.cat([X, -X]), labels=labels, generator=seeded(0), **options)
        for labels in ([0, 1], [1, 0])
    )
    assert first.sources["samples"] == second.sources["samples"]
    assert first.sources["labels"] != second.sources["labels"]


@pytest.mark.parametrize(
    ("given", "labels", "message"),
    [
        ("conditional", None, "labels: got none for 1 samples of a conditional model; expected one for each"),
        ("conditional", [0, 1], "labels: got 2 for 1 samples"),
        ("linear", [0], "labels: got some for the samples of an unconditional model"),
    ],
)
def test_labels_that_do_not_fit_are_refused(request, given, labels, message):
    with pytest.raises(InputError, match=message):
        fit_fisher(request.getfixturevalue(given), X, labels=labels, n_train=5, generator=seeded(0))


def test_one_half_squared_is_biased_and_would_be_seen(linear, schedule, monkeypatch):
    waiting = []

    def twice(*arguments):
        if waiting:
            return waiting.pop()
        waiting.append(draw(*arguments))
        return waiting[0]

    monkeypatch.setattr("vdu.posterior.fisher.draw", twice)
    truth = gradient_on_paper(linear.network.weight.detach(), X, schedule, elbo_on_paper(schedule)).square()
    estimates = block_means(linear, schedule, 3, blocks=4)
    error = estimates.std(0) / len(estimates) ** 0.5
    assert float((estimates.mean(0) - truth > 4.5 * error).double().mean()) > 0.5


def test_it_is_the_mean_of_products_over_samples(linear, schedule):
    """The same draws, one timestep at a time, with autograd on the written-out loss."""
    samples, k, n = torch.cat([X, -0.3 * X, X.flip(3)]), kl_weights(schedule, "paper"), 5
    fisher, _ = raw_fisher(linear, samples, 1, schedule=schedule, weights="paper", draws_per_half=n)
    weight, generator, expected = linear.network.weight, seeded(1), torch.zeros(4, 4, dtype=torch.float64)
    for x in samples:
        halves = []
        for _ in range(2):
            draws = draw(x.expand(n, 1, 2, 2), 8, generator)
            g = torch.zeros_like(expected)
            for row, noise in zip(draws.index, draws.noise.flatten(1), strict=True):
                a = schedule.alpha_bars[row]
                loss = k[row] * (noise - weight @ (a.sqrt() * x.flatten() + (1 - a).sqrt() * noise)).square().sum()
                g += 7 / n * torch.autograd.grad(loss, weight)[0]  # (T − 1)/n · Σ
            halves.append(g)
        expected += halves[0] * halves[1] / 3
    torch.testing.assert_close(fisher["weight"], expected, rtol=1e-9, atol=1e-9)
    assert not fisher["unused"].any()


def test_rows_are_stratified_uniform_and_never_the_first(schedule):
    like, generator = torch.zeros(4, 1, 1, 1), seeded(0)
    rows = torch.stack([draw(like, 9, generator).index for _ in range(2000)])  # rows 1 … 8, four strata of two
    assert rows.min() == 1 and rows.max() == 8
    assert bool(((rows - 1) // 2 == torch.arange(4)).all())
    counts = torch.bincount(rows.flatten(), minlength=9)[1:] / rows.numel()
    assert float((counts - 1 / 8).abs().max()) < 4 * (0.125 * 0.5 / 4000) ** 0.5  # fair coin within each stratum
    uneven = torch.stack([draw(like[:3], 8, generator).index for _ in range(3000)])  # seven rows, three strata
    counts = torch.bincount(uneven.flatten(), minlength=8)[1:] / uneven.numel()
    assert float((counts - 1 / 7).abs().max()) < 0.017


def test_variance_prior_and_record(linear, schedule):
    samples = torch.cat([X, -X])
    options = {"schedule": schedule, "draws_per_half": 4, "relative_floor": 0.0}
    posterior = fit_fisher(linear, samples, n_train=100, prior_precision=3.0, generator=seeded(2), **options)
    raw, state = raw_fisher(linear, samples, 2, schedule=schedule, draws_per_half=4)
    expected = 1 / (100 * raw["weight"].clamp_min(0) + 3.0)
    torch.testing.assert_close(posterior.variance["weight"], expected.float())
    torch.testing.assert_close(posterior.variance["unused"], torch.full((2,), 1 / 3.0))  # the prior alone
    assert torch.equal(posterior.mean["weight"], linear.network.weight.detach().float())
    assert (posterior.estimator, posterior.n_train, posterior.prior_precision) == ("fisher", 100, 3.0)
    assert posterior.extras["network_evaluations"] == 2 * 2 * 4 * 3
    assert posterior.extras["n_negative"] == int((raw["weight"] < 0).sum())
    assert posterior.extras["loss"] == pytest.approx(state.values["loss"] / 2)


def test_default_prior_bounds_sigma_by_the_weights(linear, schedule):
    posterior = fit_fisher(linear, X, n_train=1, generator=seeded(0), schedule=schedule)
    theta = torch.cat([p.detach().flatten() for p in linear.network.parameters()])
    assert posterior.prior_precision == pytest.approx(18 / float(theta.square().sum()))
    assert max(float(v.max()) for v in posterior.variance.values()) <= float(theta.square().mean()) * (1 + 1e-6)
    with pytest.raises(InputError, match="weights are all zero"):
        default_prior_precision({"w": torch.zeros(2)})


def test_relative_floor_bounds_sigma_within_a_layer(linear, schedule):
    posterior = fit_fisher(
        linear, X, n_train=10**9, prior_precision=1e-6, generator=seeded(0), schedule=schedule, relative_floor=0.04
    )
    precision = 1 / posterior.variance["weight"].double()
    assert float(precision.min() / precision.mean()) >= 0.04 / 1.05  # the floor itself raises the mean a little
    assert posterior.extras["n_on_floor"] >= 1


def test_reproducible_from_the_generator_alone_and_leaves_no_trace(constant, schedule):
    samples = torch.linspace(-1, 1, 192).view(3, 1, 8, 8)
    constant.network.train()
    constant.network.frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    seen = []
    with torch.no_grad():
        first, second = (
            fit_fisher(
                constant,
                samples,
                n_train=9,
                prior_precision=1.0,
                generator=seeded(4),
                schedule=schedule,
                progress=lambda done, total: seen.append((done, total)),
            )
            for _ in range(2)
        )
    assert first.sha256 == second.sha256
    assert torch.equal(state, torch.get_rng_state())
    assert constant.network.training and constant.network.dropout.training
    assert constant.network.bias.grad is None and constant.network.bias.requires_grad
    assert list(first.mean) == ["bias"] and not constant.network.frozen.requires_grad
    assert seen == [(1, 3), (2, 3), (3, 3)] * 2


def test_name_filter(linear, schedule):
    options = {"n_train": 9, "prior_precision": 1.0, "schedule": schedule}
    whole = fit_fisher(linear, X, generator=seeded(0), **options)
    part = fit_fisher(linear, X, generator=seeded(0), name_filter="^weight$", **options)
    assert list(part.mean) == ["weight"]
    assert torch.equal(part.variance["weight"], whole.variance["weight"])
    assert linear.network.unused.requires_grad


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_train": None}, r"n_train \(--n-train\) is missing"),
        ({"n_train": 0}, "n_train: got 0"),
        ({"prior_precision": 0.0}, "prior_precision: got 0.0; expected"),
        ({"draws_per_half": 0}, "draws_per_half: got 0"),
        ({"weights": "kl"}, "expected one of elbo, paper, uniform"),
        ({"samples": X[0]}, r"samples: got \(1, 2, 2\) torch.float64; expected floating \[N, \*\(1, 2, 2\)\]"),
        ({"samples": X.byte()}, r"samples: got \(1, 1, 2, 2\) torch.uint8"),
        ({"samples": X * float("nan")}, "samples: hold NaN"),
        ({"generator": None}, "generator: got NoneType"),
        ({"schedule": NoiseSchedule.cosine(200)}, "of the weight of Eq. 3 lies on step t = 200"),
    ],
)
def test_refusals(linear, schedule, changes, message):
    arguments = {"samples": X, "n_train": 5, "generator": seeded(0), "schedule": schedule, **changes}
    with pytest.raises(InputError, match=message):
        fit_fisher(linear, arguments.pop("samples"), **arguments)
