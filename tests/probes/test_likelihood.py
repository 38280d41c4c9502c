"""Bits/dim against closed forms, torch.distributions, brute force and diffusers' own scheduler."""

import json
import math
from dataclasses import replace
from statistics import NormalDist

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from toys import noise_seen
from vdu.core.errors import InputError
from vdu.data.images import ImageSet, to_float
from vdu.diffusion.sampling import Sampler
from vdu.diffusion.schedule import NoiseSchedule
from vdu.models.denoiser import PipelineDenoiser
from vdu.probes.context import ProbeContext
from vdu.probes.likelihood import bits_per_dim, exact_bits_per_dim, probe, proposal
from vdu.probes.reverse_chain import ReverseChain, chain_terms, prior_terms

SCHEDULE = NoiseSchedule.linear(6, 0.05, 0.3)
SHAPE = (1, 2, 2)
MEAN, SPREAD = 0.1, 0.3  # of the Gaussian data
FREE = {"variance_type": "fixed_small", "clip_sample": False}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def column(values):
    return values.view(-1, 1, 1, 1)


class Optimal(nn.Module):
    """ε for x0 ~ N(MEAN, SPREAD²) in closed form, plus an error of its own."""

    def __init__(self, schedule, error=0.0):
        super().__init__()
        self.schedule, self.error = schedule, nn.Parameter(torch.tensor(error, dtype=torch.float64))

    def forward(self, x_t, t):
        a = column(self.schedule.alpha_bars[t])
        x0 = (MEAN * (1 - a) + SPREAD**2 * a.sqrt() * x_t) / (SPREAD**2 * a + 1 - a)
        return (x_t - a.sqrt() * x0) / (1 - a).sqrt() + self.error


class Outputs(nn.Module):
    """A fixed smooth function of x_t with as many channels as asked for."""

    def __init__(self, channels):
        super().__init__()
        self.channels, self.scale = channels, nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, x_t, t):
        first = self.scale * x_t + 0.1 * column(t)
        # within (0, 1): a variance for "learned", a share for "learned_range"
        return torch.cat([first, torch.sigmoid(first - 1)], dim=1)[:, : self.channels]


def optimal(error=0.0, *, schedule=SCHEDULE, shape=SHAPE, config=None):
    return PipelineDenoiser(Optimal(schedule, error), schedule, "epsilon", shape, FREE | (config or {}))


def digits(n, *, shape=SHAPE, seed=0):
    values = MEAN + SPREAD * torch.randn(n, *shape, generator=generator(seed), dtype=torch.float64)
    return ((values.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def every_row(n_each=5):
    rows = torch.arange(len(SCHEDULE)).repeat_interleave(n_each)
    x0 = to_float(digits(len(rows)))
    noise = torch.randn(x0.shape, generator=generator(1), dtype=torch.float64)
    return x0.double(), rows, noise


def posterior(x0, x_t, row):
    """q(x_{t−1} | x_t, x0) as the product of the two Gaussians that x_{t−1} stands in (Bayes, no formula of a paper)."""
    a, previous = SCHEDULE.alphas[row], SCHEDULE.previous_alpha_bars[row]
    precision = 1 / (1 - previous) + a / (1 - a)
    mean = (previous.sqrt() * x0 / (1 - previous) + a.sqrt() * x_t / (1 - a)) / precision
    return Normal(mean, (1 / precision).sqrt().expand_as(mean))


def test_each_kl_is_that_of_torch_for_the_optimal_denoiser_of_gaussian_data():
    x0, rows, noise = every_row()
    with torch.no_grad():
        terms = chain_terms(optimal(), x0, rows, noise)
    for term, x, row, e in zip(terms, x0, rows.tolist(), noise, strict=True):
        if row == 0:
            continue
        a = SCHEDULE.alpha_bars[row]
        x_t = a.sqrt() * x + (1 - a).sqrt() * e
        expected_x0 = (MEAN * (1 - a) + SPREAD**2 * a.sqrt() * x_t) / (SPREAD**2 * a + 1 - a)
        q, p = posterior(x, x_t, row), posterior(expected_x0, x_t, row)
        assert float(term) == pytest.approx(float(kl_divergence(q, p).sum()), rel=1e-10)


@pytest.mark.parametrize("kind", ["fixed_small", "fixed_small_log", "fixed_large", "learned", "learned_range"])
@pytest.mark.parametrize(
    ("prediction", "clip", "limit"),
    [("epsilon", True, 1.0), ("epsilon", False, 1.0), ("v_prediction", True, 0.5), ("sample", False, 1.0)],
)
def test_mean_and_variance_are_those_of_diffusers_step(kind, prediction, clip, limit):
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(
        6, 0.05, 0.3, variance_type=kind, prediction_type=prediction, clip_sample=clip, clip_sample_range=limit
    )
    scheduler.alphas_cumprod = SCHEDULE.alpha_bars  # float64
    network = Outputs(2 if kind.startswith("learned") else 1)
    denoiser = PipelineDenoiser(network, SCHEDULE, prediction, SHAPE, dict(scheduler.config))
    x0, rows, noise = every_row(2)
    with torch.no_grad():
        terms = chain_terms(denoiser, x0, rows, noise)
    for i, row in enumerate(rows.tolist()):
        if row == 0:
            continue  # diffusers adds no noise in its last step
        a = SCHEDULE.alpha_bars[row]
        x_t = (a.sqrt() * x0[i] + (1 - a).sqrt() * noise[i])[None]
        output = network(x_t, torch.tensor([row])).detach()
        made = [scheduler.step(output, row, x_t, generator=generator(s), return_dict=False)[0] for s in (1, 2)]
        drawn = [torch.randn(x_t.shape, generator=generator(s), dtype=x_t.dtype) for s in (1, 2)]
        scale = (made[0] - made[1]) / (drawn[0] - drawn[1])
        p = Normal(made[0] - scale * drawn[0], scale)
        wanted = float(kl_divergence(posterior(x0[i][None], x_t, row), p).sum())
        assert float(terms[i]) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(
    ("kind", "variance"),
    [("fixed_small", "small"), ("fixed_large_log", "large"), ("", "small"), ("learned_range", "learned_range")],
)
def test_the_name_of_the_variance_is_read(kind, variance):
    assert ReverseChain.of(optimal(config={"variance_type": kind})).variance == variance


def test_prior_is_the_kl_to_the_standard_normal():
    x0 = to_float(digits(3)).double()
    a = SCHEDULE.alpha_bars[-1]
    q = Normal(a.sqrt() * x0, (1 - a).sqrt().expand_as(x0))
    wanted = kl_divergence(q, Normal(torch.zeros_like(x0), torch.ones_like(x0))).flatten(1).sum(1)
    torch.testing.assert_close(prior_terms(x0, SCHEDULE), wanted, rtol=1e-12, atol=0)


def decoder_nats(pixels, mean):
    """L_0 of single pixels, where the network says that x0 is ``mean``."""

    class Says(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean = nn.Parameter(torch.tensor(mean, dtype=torch.float64))

        def forward(self, x_t, t):
            return self.mean.expand_as(x_t)

    denoiser = PipelineDenoiser(Says(), SCHEDULE, "sample", (1, 1, 1), {"clip_sample": False})
    x0 = column(torch.tensor(pixels, dtype=torch.float64)) / 127.5 - 1
    with torch.no_grad():
        return chain_terms(denoiser, x0, torch.zeros(len(x0), dtype=torch.int64), torch.zeros_like(x0))


@pytest.mark.parametrize("mean", [-1.0, -0.3, 0.98, 1.4])
def test_decoder_is_a_distribution_over_the_256_pixel_values(mean):
    assert float((-decoder_nats(list(range(256)), mean)).exp().sum()) == pytest.approx(1, abs=1e-12)


def test_decoder_by_hand():
    beta_tilde_2 = SCHEDULE.betas[1] * (1 - SCHEDULE.alpha_bars[0]) / (1 - SCHEDULE.alpha_bars[1])
    p = NormalDist(0.2, float(beta_tilde_2) ** 0.5)
    inside = p.cdf((2 * 150 + 1) / 255 - 1) - p.cdf((2 * 150 - 1) / 255 - 1)
    wanted = [-math.log(value) for value in (p.cdf(1 / 255 - 1), inside, 1 - p.cdf(1 - 1 / 255))]
    # the plain difference of two Φ has lost nine digits where it is 6e-11
    assert decoder_nats([0, 150, 255], 0.2).tolist() == pytest.approx(wanted, rel=1e-7)


def test_decoder_keeps_its_digits_far_in_the_tails():
    left, right = decoder_nats([100], 60.0), decoder_nats([155], -60.0)
    assert torch.isfinite(left).all()
    torch.testing.assert_close(left, right, rtol=1e-12, atol=0)  # the mirror image
    assert float(left) > 1000


def reverse_step(denoiser, row):
    """Slope, shift and variance of p(x_{t−1} | x_t) = N(slope x_t + shift, …) for a linear denoiser of one pixel."""
    s = denoiser.schedule
    a, previous, b = float(s.alpha_bars[row]), float(s.previous_alpha_bars[row]), float(s.betas[row])

    def mean(x):
        x_t = torch.full((1, 1, 1, 1), x, dtype=torch.float64)
        x0 = (x - (1 - a) ** 0.5 * float(noise_seen(denoiser, x_t, torch.tensor([row])))) / a**0.5
        return (previous**0.5 * b * x0 + (1 - b) ** 0.5 * (1 - previous) * x) / (1 - a)

    at = max(row, 1)  # β̃_2 in the place of β̃_1 = 0
    variance = float((1 - s.alpha_bars[at - 1]) / (1 - s.alpha_bars[at]) * s.betas[at])
    return mean(1.0) - mean(0.0), mean(0.0), variance


def bin_probability(p, pixel):
    low = p.cdf((2 * pixel - 1) / 255 - 1) if pixel > 0 else 0.0
    high = p.cdf((2 * pixel + 1) / 255 - 1) if pixel < 255 else 1.0
    return high - low


def whole_chain(denoiser, pixel):
    """The bound and −log p_θ in bits, from the joint Gaussians of x_1 … x_T instead of a sum over t."""
    s, n = denoiser.schedule, len(denoiser.schedule)
    x0, a = pixel / 127.5 - 1, s.alpha_bars
    # q(x_1 … x_T | x0), forwards: cov(x_s, x_t) = √(ᾱ_t/ᾱ_s) (1 − ᾱ_s) for s ≤ t
    low = torch.minimum(torch.arange(n)[:, None], torch.arange(n))
    high = torch.maximum(torch.arange(n)[:, None], torch.arange(n))
    q = MultivariateNormal(a.sqrt() * x0, (a[high] / a[low]).sqrt() * (1 - a[low]))
    # p(x_1 … x_T), backwards: x = shift + M z with independent z
    shift, mix = torch.zeros(n, dtype=torch.float64), torch.zeros(n, n, dtype=torch.float64)
    mix[n - 1, n - 1] = 1
    for row in range(n - 1, 0, -1):
        slope, constant, variance = reverse_step(denoiser, row)
        shift[row - 1], mix[row - 1] = slope * shift[row] + constant, slope * mix[row]
        mix[row - 1, row - 1] = variance**0.5
    p = MultivariateNormal(shift, mix @ mix.T)
    slope, constant, variance = reverse_step(denoiser, 0)
    nodes = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    weights = torch.softmax(-(nodes**2) / 2, 0)
    x_1 = float(a[0]) ** 0.5 * x0 + (1 - float(a[0])) ** 0.5 * nodes
    decoder = sum(
        w * -math.log(bin_probability(NormalDist(slope * x + constant, variance**0.5), pixel))
        for w, x in zip(weights.tolist(), x_1.tolist(), strict=True)
        if w > 1e-14  # the rest underflows
    )
    marginal = NormalDist(
        slope * float(shift[0]) + constant, (slope**2 * float(p.covariance_matrix[0, 0]) + variance) ** 0.5
    )
    return (decoder + float(kl_divergence(q, p))) / math.log(2), -math.log2(bin_probability(marginal, pixel))


def test_the_whole_bound_is_that_of_the_joint_gaussians():
    denoiser = optimal(0.2, shape=(1, 1, 1))
    pixels = [90, 150, 200]
    images = column(torch.tensor(pixels, dtype=torch.uint8))
    found = exact_bits_per_dim(denoiser, images, 20_000, generator=generator(), batch_size=20_000)
    for value, variance, pixel in zip(found.values.tolist(), found.variances.tolist(), pixels, strict=True):
        bound, code_length = whole_chain(denoiser, pixel)
        assert value == pytest.approx(bound, abs=4 * variance**0.5)
        assert variance**0.5 < 0.005 * bound
        assert bound > code_length


def test_the_sampled_sum_is_unbiased_and_knows_its_own_error():
    one = digits(1)
    exact = exact_bits_per_dim(optimal(0.3), one, 4000, generator=generator(3))
    found = bits_per_dim(optimal(0.3), one.expand(1500, *SHAPE), 8, generator=generator(4))
    error = math.hypot(found.monte_carlo_error, exact.monte_carlo_error)
    assert found.mean == pytest.approx(exact.mean, abs=4 * error)
    assert error < 0.01 * exact.mean
    # over copies of one image the values scatter as the reported variances say: 1500 copies know it to about 5 %
    assert float(found.values.var()) == pytest.approx(float(found.variances.mean()), rel=0.25)


def test_the_proposal_is_a_distribution_over_t_from_2():
    p = proposal(NoiseSchedule.linear())
    assert float(p.sum()) == pytest.approx(1, abs=1e-12)
    assert float(p[0]) == 0
    assert bool((p[1:] > 0.09 / 999).all())


def test_a_worse_denoiser_needs_more_bits():
    means = [exact_bits_per_dim(optimal(e), digits(20), 20, generator=generator()).mean for e in (0.0, 0.2, 0.6)]
    assert means[0] < means[1] < means[2]


def test_parts_add_up():
    found = bits_per_dim(optimal(), digits(3), 8, generator=generator())
    torch.testing.assert_close(found.values, found.prior + found.denoising + found.decoder)
    nats = prior_terms(to_float(digits(3)), SCHEDULE)
    torch.testing.assert_close(found.prior, nats / (4 * math.log(2)))
    assert found.n_draws == 8


def test_an_images_value_depends_on_nothing_else():
    images, before, modes = digits(6), torch.random.get_rng_state(), []
    denoiser = optimal()
    denoiser.network.train()
    denoiser.network.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    alone = bits_per_dim(denoiser, images[:2], 12, generator=generator(), batch_size=5)
    among = bits_per_dim(denoiser, images, 12, generator=generator(), batch_size=64)
    torch.testing.assert_close(alone.values, among.values[:2], rtol=1e-12, atol=0)
    assert not torch.equal(alone.values, bits_per_dim(denoiser, images[:2], 12, generator=generator(1)).values)
    assert torch.equal(before, torch.random.get_rng_state())
    assert denoiser.network.training
    assert set(modes) == {False}  # no dropout while measuring


def test_one_draw_of_each_term_has_no_monte_carlo_error():
    assert math.isnan(exact_bits_per_dim(optimal(), digits(2), 1, generator=generator()).monte_carlo_error)


def test_a_model_of_v_may_end_in_pure_noise():
    schedule = NoiseSchedule(torch.tensor([0.95, 0.5, 0.0], dtype=torch.float64))
    denoiser = PipelineDenoiser(Outputs(1), schedule, "v_prediction", SHAPE, {})
    found = bits_per_dim(denoiser, digits(2), 8, generator=generator())
    assert bool(torch.isfinite(found.values).all())
    assert found.prior.tolist() == [0, 0]
    with pytest.raises(InputError, match="ᾱ_T = 0 with prediction_type 'epsilon'"):
        bits_per_dim(replace(denoiser, prediction_type="epsilon"), digits(2), 8, generator=generator())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"variance_type": "odd"}, "variance_type: got 'odd', expected one of fixed_small"),
        ({"thresholding": True}, "thresholding: got True"),
        ({"variance_type": "learned_range"}, "got 0 further channels, expected 1"),
    ],
)
def test_chains_without_a_bound_are_refused(config, message):
    with pytest.raises(InputError, match=message):
        bits_per_dim(optimal(config=config), digits(2), 8, generator=generator())


def test_a_negative_learned_variance_is_refused():
    class Negative(Outputs):
        def forward(self, x_t, t):
            return -super().forward(x_t, t)

    denoiser = PipelineDenoiser(Negative(2), SCHEDULE, "epsilon", SHAPE, {"variance_type": "learned"})
    with pytest.raises(InputError, match="expected only positive ones"):
        bits_per_dim(denoiser, digits(2), 8, generator=generator())


def test_a_diverged_network_is_refused():
    with pytest.raises(InputError, match="output of the network: .* NaN or infinite"):
        bits_per_dim(optimal(math.nan), digits(2), 8, generator=generator())


@pytest.mark.parametrize("n_draws", [2, 7])
def test_draws_come_in_pairs(n_draws):
    with pytest.raises(InputError, match=f"n_draws: got {n_draws}, expected an even number"):
        bits_per_dim(optimal(), digits(2), n_draws, generator=generator())


def test_bad_numbers_and_images_are_refused():
    with pytest.raises(InputError, match="n_repeats: got 0"):
        exact_bits_per_dim(optimal(), digits(2), 0, generator=generator())
    with pytest.raises(InputError, match=r"images: got torch.float32 .* expected torch.uint8 \[N, 1, 2, 2\]"):
        bits_per_dim(optimal(), to_float(digits(2)), 8, generator=generator())
    with pytest.raises(InputError, match="n_images: got 1"):
        probe(case(), n_images=1)


def case(**changes):
    sets = {
        name: ImageSet(digits(12, seed=i))
        for i, name in enumerate(("forget", "forget_held_out", "retain", "retain_held_out"))
    }
    models = {"original": optimal(), "unlearned": optimal(2.0), "retrained": optimal(0.7)}
    rest = {"is_forget": lambda images: torch.zeros(len(images), dtype=torch.bool), "sampler": Sampler()}
    return ProbeContext(**{**models, **sets, **rest, "seed": 0, "progress": False, **changes})


def test_probe_gives_plain_rows_for_every_model_and_set():
    result = probe(case(), n_images=8, n_draws=8)
    assert json.loads(json.dumps(result)) == result
    assert (result["status"], result["unit"]) == ("measured", "bits/dim")
    assert len(result["rows"]) == 12
    for row in result["rows"]:
        assert row["low"] < row["value"] < row["high"]
        assert 0 < row["monte_carlo_error"] < row["high"] - row["low"]
        assert row["n_images"] == 8
    values = {(row["model"], row["images"]): row["value"] for row in result["rows"]}
    assert (
        values["original", "forget_train"] < values["retrained", "forget_train"] < values["unlearned", "forget_train"]
    )
    assert len(result["differences"]) == 8
    for row in result["differences"]:
        plain = values[row["model"], row["images"]] - values["retrained", row["images"]]
        assert row["value"] == pytest.approx(plain)
        assert row["against"] == "retrained"
    assert result["protocol"]["reverse_variance"]["unlearned"] == "fixed_small"


def test_equal_models_differ_by_nothing_since_all_draws_are_shared():
    result = probe(case(unlearned=optimal(), retrained=None), n_images=8, n_draws=8)
    assert [row["value"] for row in result["differences"]] == [0, 0, 0, 0]
    assert {row["against"] for row in result["differences"]} == {"original"}


def test_probe_takes_what_images_there_are():
    small = ImageSet(digits(1))
    result = probe(case(retain=None, retain_held_out=small, forget_held_out=None), n_images=50, n_draws=4)
    assert {row["images"] for row in result["rows"]} == {"forget_train"}
    assert {row["n_images"] for row in result["rows"]} == {12}
    assert result["protocol"]["left_out"] == ["retain_held_out"]
    alone = probe(case(forget=small, forget_held_out=None, retain=None, retain_held_out=None))
    assert alone["status"] == "not run"
    assert alone["code"] == "too_few_images"


def test_probe_is_not_run_where_the_chain_has_no_bound():
    result = probe(case(unlearned=optimal(config={"thresholding": True})))
    assert result["status"] == "not run"
    assert result["code"] == "no_likelihood_bound" and "thresholding" in result["error"]
