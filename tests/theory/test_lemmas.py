"""Lemma 1, Lemma 3 and Eq. 59–64 of Panda et al., "Variational Diffusion Unlearning", against dense Gaussians.

The truth is the joint Gaussian of (x_{t−1}, x_t) given x0, built from the forward steps alone,

    x_t = √α_t x_{t−1} + √(1−α_t) z,        z ~ N(0, I),

as a full covariance matrix in float64 and conditioned by the Schur complement; no ᾱ enters it. Held against it:

    Lemma 1    μ_q = x_t/√α_t − (1−α_t) / (√(1−ᾱ_t) √α_t) · ε,    σ_q² = (1−α_t)(1−ᾱ_{t−1}) / (1−ᾱ_t)          right
    Eq. 33–34  the factor before ε is (1−α_t) √(1−ᾱ_t) / ((1−ᾱ_t) √ᾱ_t)                                         wrong: √ᾱ_t for √α_t
    Eq. 35–38  the factor before ε is (1−α_t) √(1−ᾱ_t) / √α_t                                                   wrong: by 1−ᾱ_t
    Lemma 3    KL = ½ [ln |Σ_y|/|Σ_x| − d + tr Σ_y⁻¹Σ_x + (μ_y−μ_x)ᵀ Σ_y⁻¹ (μ_y−μ_x)]                           right
    Eq. 63     KL(q ‖ p_θ) = (1−α_t)² / (2σ_q² (1−ᾱ_t) α_t) · ‖ε − ε_θ‖²                                        right
    Eq. 64     (1−α_t) / (α_t (1−ᾱ_{t−1})) · ‖ε − ε_θ‖²                                                         twice Eq. 63

The slips of the appendix do not reach Eq. 3: Eq. 60 starts anew from Lemma 1. The ½ lost between Eq. 63 and Eq. 64 does.
"""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from vdu.diffusion.schedule import NoiseSchedule, kl_weights

SCHEDULE = NoiseSchedule.linear()
BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
STEPS = [2, 3, 20, 500, 1000]
PIXELS = 3


def joint(t: int, x0):
    """Mean and covariance of (x_{t−1}, x_t) given x0, [2·PIXELS], by running the forward steps; x_0 has variance 0."""
    mean, variance = x0, 0.0
    for beta in BETAS[: t - 1].tolist():
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
    beta = float(BETAS[t - 1])
    root = math.sqrt(1 - beta)
    blocks = [[variance, root * variance], [root * variance, (1 - beta) * variance + beta]]
    covariance = torch.kron(torch.tensor(blocks, dtype=x0.dtype), torch.eye(PIXELS, dtype=x0.dtype))
    return torch.cat([mean, root * mean]), covariance


def symbols(t: int) -> tuple[float, float, float]:
    """α_t, ᾱ_{t−1} and ᾱ_t, multiplied up in plain Python."""
    alphas = [1 - beta for beta in BETAS[:t].tolist()]
    return alphas[-1], math.prod(alphas[:-1]), math.prod(alphas)


def draw(t: int):
    """x0, ε and another guess of ε, and the x_t they stand for."""
    x0, noise, guess = torch.randn(3, PIXELS, dtype=torch.float64, generator=torch.Generator().manual_seed(t))
    bar = symbols(t)[2]
    return x0, noise, guess, math.sqrt(bar) * x0 + math.sqrt(1 - bar) * noise


def reverse(condition, t: int, x0, x_t):
    """q(x_{t−1} | x_t, x0), dense."""
    return condition(*joint(t, x0), list(range(PIXELS, 2 * PIXELS)), x_t)


def implied_x0(t: int, x_t, guess):
    """The x0 that a guessed noise stands for."""
    bar = symbols(t)[2]
    return (x_t - math.sqrt(1 - bar) * guess) / math.sqrt(bar)


# Lemma 1


@pytest.mark.parametrize("t", STEPS)
def test_the_forward_steps_end_at_eq_14(t):
    x0 = draw(t)[0]
    mean, covariance = joint(t, x0)
    bar = float(SCHEDULE.alpha_bars[t - 1])
    # a thousand factors, each rounded by 1e-16
    torch.testing.assert_close(mean[PIXELS:], math.sqrt(bar) * x0, rtol=1e-11, atol=0.0)
    torch.testing.assert_close(covariance.diagonal()[PIXELS:], (1 - bar) * torch.ones_like(x0), rtol=1e-11, atol=0.0)


@pytest.mark.parametrize("t", STEPS)
def test_lemma_1_is_the_schur_complement(condition, t):
    x0, noise, _, x_t = draw(t)
    mean, covariance = reverse(condition, t, x0, x_t)
    alpha, before, bar = symbols(t)
    mu_q = x_t / math.sqrt(alpha) - (1 - alpha) / (math.sqrt(1 - bar) * math.sqrt(alpha)) * noise
    sigma_q2 = (1 - alpha) * (1 - before) / (1 - bar)
    # 1 − ᾱ loses 1e-16/1e-4 at t = 2
    torch.testing.assert_close(mean, mu_q, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(covariance, sigma_q2 * torch.eye(PIXELS, dtype=torch.float64), rtol=1e-9, atol=1e-15)


def noise_factor(condition, t: int) -> float:
    """Minus d mean / dε at fixed x_t of the dense reverse kernel: the mean is affine, so a difference is exact."""
    x_t = torch.ones(PIXELS, dtype=torch.float64)
    low, high = (reverse(condition, t, implied_x0(t, x_t, e * torch.ones_like(x_t)), x_t)[0] for e in (0.0, 1.0))
    return float((low - high)[0])


@pytest.mark.parametrize("t", STEPS)
def test_only_lemma_1_has_the_right_factor_before_the_noise(condition, t):
    truth = noise_factor(condition, t)
    alpha, _, bar = symbols(t)
    lemma_1 = (1 - alpha) / (math.sqrt(1 - bar) * math.sqrt(alpha))
    eq_34 = (1 - alpha) * math.sqrt(1 - bar) / ((1 - bar) * math.sqrt(bar))
    eq_38 = (1 - alpha) * math.sqrt(1 - bar) / math.sqrt(alpha)
    # a difference of two means of size one, itself of size 1e-2 or more; the wrong factors are off by 4e-5 or more
    assert lemma_1 == pytest.approx(truth, rel=1e-8)
    assert eq_34 != pytest.approx(truth, rel=1e-5)
    assert eq_38 != pytest.approx(truth, rel=1e-5)
    assert eq_38 / truth == pytest.approx(1 - bar, rel=1e-8)  # 2e-4 at t = 2: nearly no denoising


# Lemma 3


def random_gaussian(seed: int, d: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    mean, *rows = torch.randn(d + 1, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    root = torch.stack(rows)
    return mean, root @ root.T + torch.eye(d, dtype=torch.float64)


def lemma_3(mu_x, sigma_x, mu_y, sigma_y) -> float:
    inverse, delta = torch.linalg.inv(sigma_y), mu_y - mu_x
    ratio = torch.linalg.det(sigma_y) / torch.linalg.det(sigma_x)
    return float(torch.log(ratio) - len(mu_x) + torch.trace(inverse @ sigma_x) + delta @ inverse @ delta) / 2


@pytest.mark.parametrize("seed", range(4))
def test_lemma_3_is_the_integral_that_defines_the_divergence(seed):
    x, y = random_gaussian(seed), random_gaussian(seed + 100)
    p, q = MultivariateNormal(*x), MultivariateNormal(*y)
    # E_p[ln p − ln q] is the mean of a quadratic: Gauss–Hermite with nodes 0, ±√3 is exact
    nodes = torch.tensor([-math.sqrt(3), 0.0, math.sqrt(3)], dtype=torch.float64)
    weights = torch.tensor([1.0, 4.0, 1.0], dtype=torch.float64) / 6
    points = x[0] + torch.cartesian_prod(nodes, nodes) @ p.scale_tril.T
    integral = float(torch.outer(weights, weights).flatten() @ (p.log_prob(points) - q.log_prob(points)))
    assert integral > 0.1
    assert lemma_3(*x, *y) == pytest.approx(integral, rel=1e-12)
    assert lemma_3(*x, *y) == pytest.approx(float(kl_divergence(p, q)), rel=1e-12)


# Eq. 59–64 and the library's weights


def dense_kl(condition, t: int) -> tuple[float, float]:
    """KL(q(x_{t−1} | x_t, x0) ‖ the same kernel at the x0 that the guess implies) and ‖ε − ε_θ‖²."""
    x0, noise, guess, x_t = draw(t)
    q = MultivariateNormal(*reverse(condition, t, x0, x_t))
    p = MultivariateNormal(*reverse(condition, t, implied_x0(t, x_t, guess), x_t))
    return float(kl_divergence(q, p)), float((noise - guess).square().sum())


@pytest.mark.parametrize("t", STEPS)
def test_eq_59_to_63_hold_and_eq_64_is_twice_as_large(condition, t):
    _, noise, guess, x_t = draw(t)
    alpha, before, bar = symbols(t)
    truth, error = dense_kl(condition, t)
    sigma_q2 = (1 - alpha) * (1 - before) / (1 - bar)
    factor = (1 - alpha) / (math.sqrt(1 - bar) * math.sqrt(alpha))
    drift = x_t / math.sqrt(alpha)
    for equation in (
        (drift - factor * guess - drift + factor * noise).square().sum() / (2 * sigma_q2),  # Eq. 60
        (factor * noise - factor * guess).square().sum() / (2 * sigma_q2),  # Eq. 61
        (factor * (noise - guess)).square().sum() / (2 * sigma_q2),  # Eq. 62
        (1 - alpha) ** 2 / (2 * sigma_q2 * (1 - bar) * alpha) * error,  # Eq. 63
        (1 - alpha) / (alpha * (1 - before)) * error / 2,  # Eq. 64 with the ½
    ):
        # the two means differ by about β, so that their difference keeps 1e-16/1e-4
        assert float(equation) == pytest.approx(truth, rel=1e-8)


@pytest.mark.parametrize("t", STEPS)
def test_the_elbo_weight_is_the_dense_one_and_the_papers_is_twice_that(condition, t):
    truth, error = dense_kl(condition, t)
    assert float(kl_weights(SCHEDULE, "elbo")[t - 1]) == pytest.approx(truth / error, rel=1e-8)
    assert float(kl_weights(SCHEDULE, "paper")[t - 1]) == pytest.approx(2 * truth / error, rel=1e-8)


def test_t_1_is_singular_and_left_out(condition):
    """x_0 given x_0 has no width: the divergence is infinite for every guess but the truth."""
    x0, _, _, x_t = draw(1)
    mean, covariance = reverse(condition, 1, x0, x_t)
    assert torch.equal(mean, x0)
    assert float(covariance.abs().max()) == 0.0  # σ_q² of Lemma 1 at ᾱ_0 = 1
    for kind in ("elbo", "paper"):
        weights = kl_weights(SCHEDULE, kind)
        assert float(weights[0]) == 0.0
        assert int(weights.argmax()) == 1  # the largest of all stands just behind the hole
