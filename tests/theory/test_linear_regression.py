"""Unlearning where the answer is known: Bayesian linear regression, y = Xw + s·z, w ~ N(0, I/τ).

P(w | D_r, D_f) and P(w | D_r) are Gaussian. The truth here conditions the joint Gaussian of (w, y) by the Schur complement,
n × n, and never forms the precisions that unlearning adds and subtracts. With Λ* the precision of P(w | D), μ* its mean
and F = X_fᵀX_f/s² the information of the forget set:

    Eq. 1      P(w | D) / P(D_f | w) = P(w | D_r) / P(D_f | D_r), exactly
    Eq. 2      KL(Q ‖ Z P(w|D) / P(D_f|w)) over all Gaussians ends at P(w | D_r); over diagonal ones at its mean, with
               variances 1/Λ_ii of the retrained precision Λ, ½ (Σ ln Λ_ii − ln |Λ|) away from it
    Eq. 3      L(w) = (1−γ) ln P(D_f|w) + γ/2 (w−μ*)ᵀ D (w−μ*), with the exact likelihood in place of Lemma 2
        γ = ½, D = Λ*      the retrained mean. Only then: the precision must BE diagonal for a diagonal D to do
        γ = ½, D diagonal  biased; the features' correlation alone decides how much, and rotating them undoes it
        any γ, D = Λ*      the mean of P(w|D_r) P(D_f|w)^{2−1/γ}: D_f is removed (1−γ)/γ times
        γD − (1−γ)F not positive definite: no minimum. With D = Λ* that needs γ < ½; with a diagonal D it may happen above

"Diagonal" comes in two kinds: 1/σ*² = Λ*_ii (the mean-field optimum) and 1/σ*² = 1/(Λ*⁻¹)_ii (the spread of each weight
over an ensemble, as the paper measures it). They agree where Λ* is diagonal, and the second is the smaller.

Not shown: the diffusion bound in place of the likelihood (see ``test_linear_diffusion.py``), and stopping early.
"""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, kl_divergence

from vdu.posterior.gaussian import GaussianPosterior

N, N_FORGET, S2, TAU = 100, 10, 0.25, 1.0
KEPT, FORGOTTEN = slice(N_FORGET, N), slice(0, N_FORGET)


@dataclass(frozen=True)
class Problem:
    """100 rows of 3 features whose sample correlations are all exactly ρ; the first 10 follow other weights."""

    x: Tensor
    y: Tensor

    @classmethod
    def make(cls, correlation: float) -> "Problem":
        source = torch.Generator().manual_seed(148)  # of 200 seeds the one whose biases are nearest to the medians
        drawn = torch.randn(N, 3, generator=source, dtype=torch.float64)
        white = torch.linalg.solve_triangular(torch.linalg.cholesky(drawn.T @ drawn / N), drawn.T, upper=False).T
        mixing = torch.full((3, 3), correlation, dtype=torch.float64).fill_diagonal_(1.0)
        x = white @ torch.linalg.cholesky(mixing).T
        noise = torch.randn(N, generator=source, dtype=torch.float64) * math.sqrt(S2)
        true, other = torch.tensor([[1.0, -1.0, 0.5], [-1.0, 0.5, 1.0]], dtype=torch.float64)
        y = x @ true + noise
        y[FORGOTTEN] += x[FORGOTTEN] @ (other - true)
        return cls(x, y)

    @property
    def information(self) -> Tensor:
        """F = X_fᵀX_f / s²."""
        return self.x[FORGOTTEN].T @ self.x[FORGOTTEN] / S2

    def likelihood(self, w: Tensor) -> Tensor:
        """ln P(D_f | w), [...], for w [..., 3]."""
        miss = self.y[FORGOTTEN] - w @ self.x[FORGOTTEN].T
        return -miss.square().sum(-1) / (2 * S2) - N_FORGET * math.log(2 * math.pi * S2) / 2

    def ascent(self, w: Tensor) -> Tensor:
        """The gradient of ln P(D_f | w)."""
        return self.x[FORGOTTEN].T @ (self.y[FORGOTTEN] - self.x[FORGOTTEN] @ w) / S2

    def precision(self, kind: str) -> Tensor:
        """Of P(w | D), whole or as one of the two diagonals."""
        whole = self.x.T @ self.x / S2 + TAU * torch.eye(3, dtype=torch.float64)
        diagonals = {"mean-field": whole.diagonal(), "ensemble": 1 / torch.linalg.inv(whole).diagonal()}
        return whole if kind == "whole" else diagonals[kind].diag()


def posterior(condition, problem: Problem, power: float) -> MultivariateNormal:
    """P(w | D_r) P(D_f | w)^power, normalised, by conditioning (w, y): rows of D_f have noise variance s²/power."""
    rows = slice(0, N) if power else KEPT
    x, y = problem.x[rows], problem.y[rows]
    noise = torch.full((len(y),), S2, dtype=torch.float64)
    if power:
        noise[FORGOTTEN] /= power  # negative where more than all of D_f is removed: the algebra is the same
    design = torch.cat([torch.eye(3, dtype=torch.float64), x])
    covariance = design @ design.T / TAU + torch.cat([torch.zeros(3, dtype=torch.float64), noise]).diag()
    mean, spread = condition(torch.zeros(len(design), dtype=torch.float64), covariance, list(range(3, len(design))), y)
    return MultivariateNormal(mean, (spread + spread.T) / 2)


@pytest.fixture
def retrained(condition):
    return lambda problem: posterior(condition, problem, 0.0)


@pytest.fixture
def full(condition):
    return lambda problem: posterior(condition, problem, 1.0)


def bias(problem: Problem, w: Tensor, truth: Tensor, start: Tensor) -> float:
    """The distance from the retrained mean, in units of where unlearning began."""
    return float((w - truth).norm() / (start - truth).norm())


# Eq. 1


@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_eq_1_the_posterior_over_the_likelihood_is_the_retrained_posterior(full, retrained, correlation):
    problem = Problem.make(correlation)
    before, after = full(problem), retrained(problem)
    w = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    left = before.log_prob(w) - problem.likelihood(w) - after.log_prob(w)
    x = problem.x[FORGOTTEN]
    predictive = x @ after.covariance_matrix @ x.T + S2 * torch.eye(N_FORGET, dtype=torch.float64)
    constant = -MultivariateNormal(x @ after.mean, predictive).log_prob(problem.y[FORGOTTEN])  # 1 / P(D_f | D_r)
    # the logarithms reach −4000, the conditioning costs four digits
    torch.testing.assert_close(left, constant.expand(50), rtol=1e-8, atol=0.0)
    # and in natural parameters
    difference = torch.linalg.inv(before.covariance_matrix) - torch.linalg.inv(after.covariance_matrix)
    torch.testing.assert_close(difference, problem.information, rtol=1e-8, atol=1e-7)


# Eq. 2


def minimise(problem: Problem, before: MultivariateNormal, diagonal: bool) -> tuple[MultivariateNormal, float]:
    """KL(Q ‖ P(w|D)) + E_Q ln P(D_f|w) over Gaussians Q, by L-BFGS from P(w | D); the retrained posterior is not used."""
    mean = before.mean.clone().requires_grad_()
    root = before.scale_tril.clone(memory_format=torch.contiguous_format).requires_grad_()

    def q() -> MultivariateNormal:
        return MultivariateNormal(mean, scale_tril=root.diagonal().abs().diag() if diagonal else root.tril())

    def objective() -> Tensor:
        spread = torch.trace(problem.information @ q().covariance_matrix) / 2
        return kl_divergence(q(), before) + problem.likelihood(mean) - spread

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = objective()
        value.backward()
        return value

    optimiser = torch.optim.LBFGS(
        [mean, root], max_iter=500, tolerance_grad=1e-11, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )
    optimiser.step(closure)
    return MultivariateNormal(mean.detach(), q().covariance_matrix.detach()), float(objective().detach())


def test_eq_2_over_all_gaussians_is_retraining(full, retrained):
    problem = Problem.make(0.7)
    before, after = full(problem), retrained(problem)
    found, value = minimise(problem, before, diagonal=False)
    # an objective of −30 in float64 is flat within √1e-15 standard deviations (0.1) and √1e-15 of the covariance
    torch.testing.assert_close(found.mean, after.mean, rtol=0.0, atol=1e-7)
    torch.testing.assert_close(found.covariance_matrix, after.covariance_matrix, rtol=1e-5, atol=0.0)
    w = after.mean  # the divergence is 0 there, so the objective is ln Z = ln P(D_f | D_r), read off Eq. 1
    log_z = float(problem.likelihood(w) + after.log_prob(w) - before.log_prob(w))
    assert value == pytest.approx(log_z, rel=1e-9)


def test_eq_2_over_diagonal_gaussians_has_the_retrained_mean_and_too_little_spread(full, retrained):
    problem = Problem.make(0.7)
    before, after = full(problem), retrained(problem)
    precision = torch.linalg.inv(after.covariance_matrix)
    found, _ = minimise(problem, before, diagonal=True)
    torch.testing.assert_close(found.mean, after.mean, rtol=0.0, atol=1e-7)  # as above
    torch.testing.assert_close(found.variance, 1 / precision.diagonal(), rtol=1e-5, atol=0.0)
    assert bool((found.variance < after.variance / 2).all())
    left = (precision.diagonal().log().sum() - torch.logdet(precision)) / 2
    assert float(kl_divergence(found, after)) == pytest.approx(float(left), rel=1e-6)
    assert float(left) > 0.5


# Eq. 3


def eq_3_minimum(problem: Problem, precision: Tensor, mean: Tensor, gamma: float) -> Tensor:
    """Where γ D (w − μ*) + (1−γ) ∇ ln P(D_f|w) = 0, by a dense solve."""
    right = gamma * precision @ mean - (1 - gamma) * problem.ascent(torch.zeros_like(mean))
    return torch.linalg.solve(gamma * precision - (1 - gamma) * problem.information, right)


def margin(problem: Problem, precision: Tensor, gamma: float) -> float:
    """The smallest eigenvalue of γD − (1−γ)F: there is a minimum if and only if it is positive."""
    return float(torch.linalg.eigvalsh(gamma * precision - (1 - gamma) * problem.information)[0])


def walk(problem: Problem, precision: Tensor, mean: Tensor, gamma: float, steps: int, sign: float = 1.0):
    """Gradient descent on Eq. 3 from μ* with the library's posterior; gives w and the loss where it ends."""
    variance = 1 / precision.diagonal()
    prior = GaussianPosterior(mean={"w": mean}, variance={"w": variance}, estimator="exact")
    w = nn.Parameter(mean.clone())
    for _ in range(steps):
        w.grad = (1 - gamma) * sign * problem.ascent(w.detach())  # Eq. 3, first term: the likelihood falls
        prior.add_gradient({"w": w}, scale=gamma)
        with torch.no_grad():
            w -= variance.min() * w.grad
    loss = (1 - gamma) * sign * problem.likelihood(w.detach()) + gamma * prior.penalty({"w": w.detach()})
    return w.detach(), float(loss)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_eq_3_with_the_whole_precision_at_gamma_one_half_is_the_retrained_mean(full, retrained, correlation):
    problem = Problem.make(correlation)
    start, truth = full(problem).mean, retrained(problem).mean
    w = start.clone()
    precision = problem.precision("whole")
    step = 1 / torch.linalg.eigvalsh(precision)[-1]
    for _ in range(1500):
        w -= step * (precision @ (w - start) + problem.ascent(w))  # twice Eq. 3 at γ = ½
    # the slowest direction shrinks by 0.97 or better in each step; the truth has eight good digits
    torch.testing.assert_close(w, truth, rtol=1e-8, atol=1e-8)
    assert float((start - truth).norm()) > 0.1


@pytest.mark.parametrize(
    ("correlation", "kind", "expected"),
    [
        (0.0, "mean-field", 0.0),
        (0.0, "ensemble", 0.0),
        (0.3, "mean-field", 0.335),
        (0.3, "ensemble", 0.232),
        (0.5, "mean-field", 0.541),
        (0.5, "ensemble", 0.356),
        (0.7, "mean-field", 0.7355),
        (0.7, "ensemble", 0.768),
        (0.9, "mean-field", 0.916),
    ],
)
def test_eq_3_with_a_diagonal_posterior_is_biased_by_correlation(full, retrained, correlation, kind, expected):
    """0 is retrained, 1 as far from it as before unlearning; at ρ = 0.9 the second diagonal has no minimum at all."""
    problem = Problem.make(correlation)
    start, truth, precision = full(problem).mean, retrained(problem).mean, problem.precision(kind)
    assert margin(problem, precision, 0.5) > 0
    w, loss = walk(problem, precision, start, 0.5, 1000)
    delta = w - start
    assert loss == pytest.approx(float(problem.likelihood(w) + delta @ precision @ delta / 2) / 2, rel=1e-12)
    # the slowest direction shrinks by 0.9 or better in each step
    torch.testing.assert_close(w, eq_3_minimum(problem, precision, start, 0.5), rtol=1e-8, atol=1e-8)
    assert bias(problem, w, truth, start) == pytest.approx(expected, abs=5e-4 if expected else 1e-7)


def test_the_bias_is_of_the_coordinates_not_of_the_data(full, retrained):
    """Rotate the features to the eigenvectors of Λ*: the same regression, and a diagonal posterior is exact."""
    problem = Problem.make(0.9)
    axes = torch.linalg.eigh(problem.precision("whole"))[1]
    turned = Problem(problem.x @ axes, problem.y)
    w, _ = walk(turned, turned.precision("mean-field"), full(turned).mean, 0.5, 1000)
    torch.testing.assert_close(axes @ w, retrained(problem).mean, rtol=1e-6, atol=1e-7)
    off_diagonal = turned.information - turned.information.diagonal().diag()
    assert float(off_diagonal.abs().max()) > 1  # D_f itself stays correlated: only Λ* must be diagonal


@pytest.mark.parametrize(
    ("correlation", "kind", "critical"),
    [
        (0.9, "whole", 0.122),
        (0.9, "mean-field", 0.216),
        (0.5, "ensemble", 0.235),
        (0.7, "ensemble", 0.362),
        (0.9, "ensemble", 0.646),
    ],
)
def test_below_a_critical_gamma_eq_3_has_no_lower_bound(full, correlation, kind, critical):
    """γ_c = λ/(1+λ) with λ the largest eigenvalue of D⁻¹F; with D = Λ* it is below ½, since Λ* − F > 0."""
    problem = Problem.make(correlation)
    start, precision = full(problem).mean, problem.precision(kind)
    assert margin(problem, precision, critical - 0.001) < 0 < margin(problem, precision, critical + 0.001)
    worst = torch.linalg.eigh((critical - 0.01) * precision - (1.01 - critical) * problem.information)[1][:, 0]

    def loss(gamma: float, length: float) -> float:
        delta = length * worst
        return float((1 - gamma) * problem.likelihood(start + delta) + gamma / 2 * delta @ precision @ delta)

    assert loss(critical - 0.01, 1e3) > loss(critical - 0.01, 1e4) > loss(critical - 0.01, 1e5)
    assert loss(critical + 0.01, 1e3) < loss(critical + 0.01, 1e4) < loss(critical + 0.01, 1e5)


def test_ascent_runs_away_where_there_is_no_minimum(full):
    problem = Problem.make(0.9)
    start, precision = full(problem).mean, problem.precision("ensemble")
    norms, losses = zip(
        *((float(w.norm()), loss) for w, loss in (walk(problem, precision, start, 0.5, n) for n in (10, 20, 40))),
        strict=True,
    )
    assert norms[0] < norms[1] < norms[2]
    assert losses[0] > losses[1] > losses[2]
    assert norms[2] > 1e5


# γ ≠ ½, and the sign


@pytest.mark.parametrize("gamma", [0.3, 0.4, 0.6, 0.8, 1.0])
def test_another_gamma_is_a_tempered_posterior(condition, gamma):
    """γ = 0.8 leaves ¾ of the forget set in; γ = 0.3 takes 2⅓ times of it out; γ = 1 changes nothing."""
    problem = Problem.make(0.7)
    truth = posterior(condition, problem, 2 - 1 / gamma)
    found = eq_3_minimum(problem, problem.precision("whole"), posterior(condition, problem, 1.0).mean, gamma)
    torch.testing.assert_close(found, truth.mean, rtol=1e-8, atol=1e-8)
    precision = problem.precision("whole") - (1 - gamma) / gamma * problem.information
    torch.testing.assert_close(torch.linalg.inv(truth.covariance_matrix), precision, rtol=1e-8, atol=1e-7)


def test_descent_on_the_forget_set_learns_it_twice_instead(condition):
    problem = Problem.make(0.0)  # where a diagonal posterior is exact
    start, truth = (posterior(condition, problem, power).mean for power in (1.0, 0.0))
    precision = problem.precision("mean-field")
    right, wrong = (walk(problem, precision, start, 0.5, 1000, sign)[0] for sign in (1.0, -1.0))
    torch.testing.assert_close(right, truth, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(wrong, posterior(condition, problem, 2.0).mean, rtol=1e-8, atol=1e-8)
    assert bias(problem, wrong, truth, start) > 1.5
