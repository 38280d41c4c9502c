"""Function space beside parameter space where both are Gaussian: f = Xw with w ~ N(μ, S), seen at the rows of X.

Q and P are N(w, S) and N(μ, S), the paper's two sides with σᵢ = σᵢ*. Their values at inputs X are N(Xw, XSXᵀ) and N(Xμ, XSXᵀ).

    KL at X  =  ½ δᵀ Xᵀ(XSXᵀ)⁺X δ  ≤  ½ δᵀ S⁻¹ δ,  δ = w − μ        equal where X has full column rank
    W₂² at X =  ‖Xδ‖²                                               whatever S is

Unlearning by ascent on D_f, held in function space with weights 1/s² (the noise of the data):

    at all training inputs and by the prior    the retrained posterior's mean, exactly, and no precision is ever formed
    at the kept inputs alone                   the forget set is removed a second time, with the model's answers as its targets
"""

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, kl_divergence

from vdu.posterior.gaussian import GaussianPosterior

S2, TAU, FORGOTTEN, KEPT = 0.25, 1.0, slice(0, 10), slice(10, 60)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def distance(x: Tensor, w: Tensor, mean: Tensor, variance: Tensor) -> float:
    """KL of the values at x, dense."""
    covariance = x @ variance.diag() @ x.T
    return float(kl_divergence(MultivariateNormal(x @ w, covariance), MultivariateNormal(x @ mean, covariance)))


def penalty(w: Tensor, mean: Tensor, variance: Tensor) -> float:
    """The paper's stability term, by the library."""
    posterior = GaussianPosterior(mean={"w": mean}, variance={"w": variance}, estimator="exact")
    return float(posterior.penalty({"w": nn.Parameter(w)}).detach())


def test_both_spaces_agree_where_the_values_determine_the_weights():
    w, mean, variance = normal(4, seed=1), normal(4, seed=2), normal(4, seed=3).exp()
    for seed in range(4, 8):
        assert distance(normal(4, 4, seed=seed), w, mean, variance) == pytest.approx(
            penalty(w, mean, variance), rel=1e-9
        )


def test_fewer_inputs_see_less_and_more_inputs_never_see_more_than_the_weights():
    w, mean, variance, x = normal(4, seed=1), normal(4, seed=2), normal(4, seed=3).exp(), normal(4, 4, seed=4)
    seen = [distance(x[:n], w, mean, variance) for n in (1, 2, 3, 4)]
    assert seen == sorted(seen) and seen[0] < seen[2] < seen[3]
    assert seen[3] == pytest.approx(penalty(w, mean, variance), rel=1e-9)
    # a move that no input sees costs nothing in function space, and much in parameter space
    unseen = torch.linalg.svd(x[:3])[2][3]
    assert distance(x[:3], mean + 9 * unseen, mean, variance) == pytest.approx(0.0, abs=1e-9)
    assert penalty(mean + 9 * unseen, mean, variance) > 1


def test_the_wasserstein_distance_is_the_mean_squared_error_whatever_the_spread():
    """By the formula for any two Gaussians; the anchor with uniform weights is this, with the mean over inputs for the sum."""
    w, mean, x = normal(4, seed=1), normal(4, seed=2), normal(3, 4, seed=4)
    for seed in (5, 6):
        covariance = x @ normal(4, seed=seed).exp().diag() @ x.T
        values, vectors = torch.linalg.eigh(covariance)
        root = vectors @ values.sqrt().diag() @ vectors.T
        cross = torch.linalg.eigvalsh(root @ covariance @ root).sqrt().sum()
        squared = (x @ (w - mean)).square().sum() + 2 * covariance.trace() - 2 * cross
        assert float(squared) == pytest.approx(float((x @ w - x @ mean).square().sum()), rel=1e-9)


class Regression:
    """60 rows of 3 correlated features, y = Xw + s·z, w ~ N(0, I/τ); the first 10 follow other weights."""

    def __init__(self) -> None:
        mixing = torch.tensor([[1.0, 0.8, 0.3], [0.0, 0.6, 0.5], [0.0, 0.0, 0.7]], dtype=torch.float64)
        self.x = normal(60, 3, seed=11) @ mixing
        self.y = self.x @ normal(3, seed=12) + S2**0.5 * normal(60, seed=13)
        self.y[FORGOTTEN] += self.x[FORGOTTEN] @ normal(3, seed=14)

    def mean(self, condition, rows: slice) -> Tensor:
        """Of P(w | rows), by conditioning the joint Gaussian of weights and targets."""
        x, y = self.x[rows], self.y[rows]
        design = torch.cat([torch.eye(3, dtype=torch.float64), x])
        noise = torch.cat([torch.zeros(3, dtype=torch.float64), torch.full((len(y),), S2, dtype=torch.float64)])
        covariance = design @ design.T / TAU + noise.diag()
        return condition(torch.zeros(len(design), dtype=torch.float64), covariance, list(range(3, len(design))), y)[0]

    def forget(self, start: Tensor, held: slice, tau: float) -> Tensor:
        """Where ln P(D_f|w) + ‖X_held (w − start)‖²/(2s²) + τ‖w − start‖²/2 is stationary, by Newton's method on autograd."""

        def loss(w: Tensor) -> Tensor:
            likelihood = -(self.y[FORGOTTEN] - self.x[FORGOTTEN] @ w).square().sum() / (2 * S2)
            anchor = (self.x[held] @ (w - start)).square().sum() / (2 * S2)
            return likelihood + anchor + tau * (w - start).square().sum() / 2

        gradient, hessian = (getattr(torch.func, name)(loss)(start) for name in ("grad", "hessian"))
        return start - torch.linalg.solve(hessian, gradient)  # the loss is quadratic


def test_held_at_all_training_inputs_ascent_ends_at_the_retrained_mean(condition):
    problem = Regression()
    start, retrained = problem.mean(condition, slice(0, 60)), problem.mean(condition, KEPT)
    assert float((start - retrained).norm()) > 0.1
    torch.testing.assert_close(problem.forget(start, slice(0, 60), TAU), retrained, rtol=1e-8, atol=1e-8)


def test_held_at_the_kept_inputs_alone_it_forgets_twice(condition):
    """Its end is the mean of a regression on D_r and, with negative weight, the start's answers at D_f; farther than needed."""
    problem = Regression()
    start, retrained = problem.mean(condition, slice(0, 60)), problem.mean(condition, KEPT)
    found = problem.forget(start, KEPT, TAU)
    kept, gone = problem.x[KEPT], problem.x[FORGOTTEN]
    precision = (kept.T @ kept - gone.T @ gone) / S2 + TAU * torch.eye(3, dtype=torch.float64)
    expected = torch.linalg.solve(precision, (kept.T @ problem.y[KEPT] - gone.T @ (gone @ start)) / S2)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
    assert float((found - start).norm()) > 1.1 * float((retrained - start).norm())
