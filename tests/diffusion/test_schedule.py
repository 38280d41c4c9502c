import math

import pytest
import torch
from diffusers import DDPMScheduler
from torch.distributions import Normal, kl_divergence

from vdu.core.errors import InputError
from vdu.diffusion.schedule import (
    NoiseSchedule,
    batch_at,
    check_weights,
    kl_weights,
    matching_timesteps,
    noised_batch,
    weight_share,
)

COSINE = {"beta_schedule": "squaredcos_cap_v2"}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (NoiseSchedule.linear(), {}),
        (NoiseSchedule.linear(500, 2e-4, 0.04), {"num_train_timesteps": 500, "beta_start": 2e-4, "beta_end": 0.04}),
        (NoiseSchedule.cosine(), COSINE),
        (NoiseSchedule.cosine(4000), {"num_train_timesteps": 4000, **COSINE}),
    ],
)
def test_alpha_bars_are_those_of_diffusers(ours, theirs):
    truth = DDPMScheduler(**theirs)
    # they multiply up to 4000 factors in float32, each rounded by 6e-8
    torch.testing.assert_close(ours.alpha_bars, truth.alphas_cumprod.double(), rtol=5e-4, atol=1e-12)
    torch.testing.assert_close(ours.betas, truth.betas.double(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(ours.previous_alpha_bars[1:], ours.alpha_bars[:-1])
    assert ours.previous_alpha_bars[0] == 1
    assert len(ours) == len(truth.betas)


# Eq. 3


def weights_by_hand(alpha_bars: list[float]) -> list[float]:
    """Eq. 3, t = 2 … T, with ᾱ_t counted from ᾱ_1 and products taken anew for each t."""
    alphas = [alpha_bars[0]] + [alpha_bars[i] / alpha_bars[i - 1] for i in range(1, len(alpha_bars))]
    weights = [0.0]
    for t in range(2, len(alphas) + 1):
        alpha_bar_before = math.prod(alphas[: t - 1])
        weights.append((1 - alphas[t - 1]) / (alphas[t - 1] * (1 - alpha_bar_before)))
    return weights


@pytest.mark.parametrize("schedule", [NoiseSchedule.linear(), NoiseSchedule.cosine(50)])
def test_paper_weights_are_eq_3_by_brute_force(schedule):
    truth = torch.tensor(weights_by_hand(schedule.alpha_bars.tolist()), dtype=torch.float64)
    torch.testing.assert_close(kl_weights(schedule, "paper"), truth, rtol=1e-9, atol=0.0)


@pytest.mark.parametrize(
    ("schedule", "steps", "share"),
    [
        (NoiseSchedule.linear(), range(2, 21), 0.24),
        (NoiseSchedule.linear(500, 2e-4, 0.04), range(2, 21), 0.28),
        (NoiseSchedule.cosine(), range(1000, 1001), 0.97),
    ],
)
def test_shares_of_the_weight(schedule, steps, share):
    weights = kl_weights(schedule)
    assert float(weights[[t - 1 for t in steps]].sum() / weights.sum()) == pytest.approx(share, abs=0.005)


def reverse_kernels(schedule: NoiseSchedule, t: int, x0, noise, guess) -> tuple[Normal, Normal]:
    """q(x_{t−1} | x_t, x0) and p_θ(x_{t−1} | x_t), the latter with x0 as the guessed noise implies it (Ho et al., Eq. 7)."""
    alpha_bar, before, alpha = (
        value[t - 1] for value in (schedule.alpha_bars, schedule.previous_alpha_bars, schedule.alphas)
    )
    x_t = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise
    guessed_x0 = (x_t - (1 - alpha_bar).sqrt() * guess) / alpha_bar.sqrt()
    variance = (1 - alpha) * (1 - before) / (1 - alpha_bar)

    def kernel(x):
        mean = (before.sqrt() * (1 - alpha) * x + alpha.sqrt() * (1 - before) * x_t) / (1 - alpha_bar)
        return Normal(mean, variance.sqrt())

    return kernel(x0), kernel(guessed_x0)


@pytest.mark.parametrize("t", [2, 3, 20, 500, 1000])
def test_the_exact_kl_of_the_reverse_kernels_has_the_elbo_weight_half_of_the_papers(t):
    schedule = NoiseSchedule.linear()
    x0, noise, guess = torch.randn(3, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(t))
    kl = kl_divergence(*reverse_kernels(schedule, t, x0, noise, guess)).sum()
    error = (noise - guess).square().sum()
    # the means cancel to about 1e-16/β, hence not 1e-12
    torch.testing.assert_close(kl, kl_weights(schedule, "elbo")[t - 1] * error, rtol=1e-8, atol=0.0)
    torch.testing.assert_close(kl, kl_weights(schedule, "paper")[t - 1] * error / 2, rtol=1e-8, atol=0.0)


@pytest.mark.parametrize("kind", ["paper", "elbo", "uniform"])
def test_the_first_step_has_no_weight_and_all_others_have(kind):
    weights = kl_weights(NoiseSchedule.linear(), kind)
    assert weights.dtype == torch.float64
    assert weights[0] == 0
    assert bool((weights[1:] > 0).all())
    assert bool(torch.isfinite(weights).all())
    if kind == "uniform":
        assert weights[1:].unique().tolist() == [1.0]


def test_bad_weights_are_refused():
    with pytest.raises(InputError, match="weights: got 'snr'; expected 'paper', 'elbo' or 'uniform'"):
        kl_weights(NoiseSchedule.linear(), "snr")
    with pytest.raises(
        InputError, match=r"97% of the weight of Eq\. 3 lies on step t = 1000 of 1000.*Use a linear schedule"
    ):
        check_weights(kl_weights(NoiseSchedule.cosine()))
    zero_snr = NoiseSchedule(torch.cat([NoiseSchedule.linear().alpha_bars, torch.zeros(1)]))
    with pytest.raises(InputError, match="a weight of Eq. 3 is infinite"):
        check_weights(kl_weights(zero_snr))
    for fine in (kl_weights(NoiseSchedule.linear()), kl_weights(NoiseSchedule.cosine(), "uniform")):
        check_weights(fine)


def test_weight_share_sums_to_one_in_order():
    assert weight_share(torch.tensor([1.0, 1, 0, 2]), bins=2) == [0.5, 0.5]
    assert weight_share(torch.tensor([3.0, 0, 0, 1]), bins=2) == [0.75, 0.25]


@pytest.mark.parametrize(
    "alpha_bars",
    [[0.9, 0.9], [0.5, 0.9], [1.0, 0.5], [0.9, -0.1], [0.9], [], [[0.9, 0.5]], 0.9, [0.9, float("nan"), 0.5]],
)
def test_a_schedule_that_does_not_decrease_within_0_and_1_is_refused(alpha_bars):
    with pytest.raises(InputError, match="strictly decreasing within"):
        NoiseSchedule(torch.tensor(alpha_bars))


# from one schedule to another


@pytest.mark.parametrize("schedule", [NoiseSchedule.linear(), NoiseSchedule.cosine(4000), NoiseSchedule.linear(2)])
def test_the_same_schedule_is_matched_by_the_identity(schedule):
    assert matching_timesteps(schedule.alpha_bars, schedule).tolist() == list(range(len(schedule)))


@pytest.mark.parametrize("own", [NoiseSchedule.cosine(4000), NoiseSchedule.linear(100, 1e-3, 0.2)])
def test_matching_is_the_inverse_of_alpha_bar_at(own):
    wanted = NoiseSchedule.linear(500, 2e-4, 0.04).alpha_bars
    wanted = wanted[(wanted < own.alpha_bars[0]) & (wanted > own.alpha_bars[-1])]
    timesteps = matching_timesteps(wanted, own)
    assert len(wanted) > 300
    assert bool((timesteps[1:] > timesteps[:-1]).all())  # noisier is later
    torch.testing.assert_close(own.alpha_bar_at(timesteps), wanted, rtol=1e-9, atol=0.0)
    # between its neighbours, so that the direction of the fraction shows
    assert bool((own.alpha_bars[timesteps.floor().long()] >= wanted).all())
    assert bool((own.alpha_bars[timesteps.ceil().long()] <= wanted).all())


def test_levels_outside_the_own_range_go_to_its_ends():
    own = NoiseSchedule.linear(10, 0.1, 0.2)
    assert matching_timesteps(torch.tensor([0.999, 1e-6]), own).tolist() == [0.0, 9.0]


def test_a_schedule_is_a_copy_of_the_levels_it_was_made_from():
    levels = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
    schedule = NoiseSchedule(levels)
    levels.zero_()
    assert schedule.alpha_bars.tolist() == [0.9, 0.5, 0.1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda own: own.coefficients(torch.tensor([0, -1]), torch.zeros(1)),
            r"index: got -1, 1 of 2 .* from 0 to 2, ",
        ),
        (lambda own: own.coefficients(torch.tensor([3]), torch.zeros(1)), "index: got 3, 1 of 1 .* from 0 to 2, "),
        (lambda own: own.alpha_bar_at(torch.tensor([1.0, -0.5])), "timestep: got -0.5, 1 of 2 .* from 0 to 2, "),
        (lambda own: own.alpha_bar_at(torch.tensor([2.5, math.inf])), "timestep: got 2.5, 2 of 2 .* from 0 to 2, "),
        (lambda own: own.alpha_bar_at(torch.tensor([math.nan])), "timestep: got nan, 1 of 1"),
        (lambda own: own.coefficients_at(torch.tensor([-5.0]), torch.zeros(1)), "timestep: got -5, .* from 0 to 2, "),
        (lambda own: own.timesteps_at(torch.tensor([0.5, 2.0])), "alpha_bars: got 2, 1 of 2 .* from 0 to 1, "),
        (lambda own: matching_timesteps(torch.tensor([-1.0]), own), "alpha_bars: got -1, 1 of 1 .* from 0 to 1, "),
        (lambda own: matching_timesteps(torch.tensor([math.nan]), own), "alpha_bars: got nan, 1 of 1"),
        (lambda _: NoiseSchedule.flow(3).timesteps_at(torch.tensor([1.5])), "alpha_bars: got 1.5, 1 of 1"),
        (
            lambda _: NoiseSchedule.flow(3).coefficients_at(torch.tensor([1001.0]), torch.zeros(1)),
            "timestep: got 1001, 1 of 1 .* from 0 to 1000, ",
        ),
        (
            lambda own: noised_batch(torch.zeros(1, 1, 2, 2), torch.tensor([-1]), torch.zeros(1, 1, 2, 2), own, own),
            "index: got -1, 1 of 1",
        ),
        (lambda own: batch_at(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), math.nan, own), "alpha_bars: got nan"),
    ],
)
def test_what_is_out_of_range_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(NoiseSchedule(torch.tensor([0.9, 0.5, 0.1])))


def test_the_ends_of_the_ranges_are_inside():
    own, flow, like = NoiseSchedule(torch.tensor([0.9, 0.5, 0.1])), NoiseSchedule.flow(3), torch.zeros(1)
    assert own.timesteps_at(torch.tensor([1.0, 0.0])).tolist() == [0.0, 2.0]
    assert flow.timesteps_at(torch.tensor([1.0, 0.0])).tolist() == [0.0, 1000.0]
    assert [each.tolist() for each in flow.coefficients_at(torch.tensor([0, 1000]), like)] == [[1.0, 0.0], [0.0, 1.0]]


def test_alpha_bar_between_two_steps_is_the_mean_in_log_snr():
    schedule = NoiseSchedule(torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64))
    half = schedule.alpha_bar_at(torch.tensor([0.5, 2.0, 0.0]))
    odds = math.sqrt(0.9 / 0.1 * 0.5 / 0.5)  # the geometric mean of the two signal-to-noise ratios
    assert half.tolist() == pytest.approx([odds / (1 + odds), 0.1, 0.9], rel=1e-12)


def test_integers_are_exact_even_at_zero_signal():
    schedule = NoiseSchedule(torch.tensor([0.9, 0.5, 0.0], dtype=torch.float64))
    assert schedule.alpha_bar_at(torch.tensor([2, 1, 0])).tolist() == [0.0, 0.5, 0.9]


def test_a_noised_batch_puts_level_timestep_and_images_together():
    x0, noise = torch.randn(2, 3, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    unlearning, own = NoiseSchedule.linear(), NoiseSchedule.cosine()
    index = torch.tensor([1, 400, 999])
    batch = noised_batch(x0, index, noise, unlearning, own)
    for i, row in enumerate(index.tolist()):
        level = float(unlearning.alpha_bars[row])
        expected = math.sqrt(level) * x0[i] + math.sqrt(1 - level) * noise[i]
        torch.testing.assert_close(batch.x_t[i], expected, rtol=1e-14, atol=0.0)
        assert float(own.alpha_bar_at(batch.timestep[i : i + 1])) == pytest.approx(level, rel=1e-9)
    assert torch.equal(noised_batch(x0, index, noise, own, NoiseSchedule.cosine()).timestep, index)  # integers stay
    assert noised_batch(x0.float(), index, noise.float(), own, own).x_t.dtype == torch.float32


@pytest.mark.parametrize(("dtype", "digits"), [(torch.float32, 1e-6), (torch.bfloat16, 4e-3)])
def test_the_lowest_levels_of_flow_matching_keep_their_digits(dtype, digits):
    """s = 1/1001 by hand. In float32, 1 − ᾱ = 1e-6 would have one digit."""
    schedule, like = NoiseSchedule.flow(1000), torch.zeros(1, dtype=dtype)
    alpha, sigma = schedule.coefficients(torch.tensor([0, 1]), like)
    assert (alpha.dtype, sigma.dtype) == (dtype, dtype)
    assert sigma.tolist() == pytest.approx([1 / 1001, 2 / 1001], rel=digits)
    assert alpha.tolist() == pytest.approx([1000 / 1001, 999 / 1001], rel=digits)


def test_in_half_precision_the_lowest_noise_is_not_rounded_away():
    """ᾱ = 1 − 1e-4 is 1 in bfloat16, and its σ would be 0."""
    schedule, like = NoiseSchedule.linear(), torch.zeros(1, dtype=torch.bfloat16)
    for _, sigma in (schedule.coefficients(torch.tensor([0]), like), schedule.coefficients_at(torch.tensor([0]), like)):
        assert sigma.tolist() == pytest.approx([1e-2], rel=4e-3)
