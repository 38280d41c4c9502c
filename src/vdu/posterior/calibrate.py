"""Temperature calibration of posteriors (τ), and the test whether a posterior's mean is a working network.

    r(τ) = E_z[ℓ(θ* + √τ σz)] / ℓ(θ*) − 1          τ such that r(τ) = ``relative_increase``

ℓ is the denoising loss on generated samples, θ* the network's current weights, z ~ N(0, 1). Estimators give σ² of very
different size; scaled by their τ, draws from them raise the loss equally, so that one γ has the same meaning for both. Use τ = 1
to reproduce the paper.

All losses use the same images, (t, ε) and z (common random numbers), and z comes in pairs ±z, which cancel the term
of r that is linear in z. τ is bracketed by factors of 10 and then bisected in log τ.

Not guaranteed: that r is monotonic (it is, near θ*, up to noise); the achieved r is returned. τ depends on the samples
and on the draws, so compare posteriors under the same generator seed.
"""

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vdu.core.errors import InputError
from vdu.core.modes import evaluating
from vdu.core.rng import draw_seed
from vdu.core.types import Denoiser, NamedTensors
from vdu.diffusion.schedule import NoiseSchedule
from vdu.posterior.denoising import base_loss, fixed_loss
from vdu.posterior.gaussian import GaussianPosterior, normal_like

__all__ = ["calibrate_temperature", "mean_is_usable", "restored_weights"]

MAX_DECADES = 12


def calibrate_temperature(
    denoiser: Denoiser,
    posterior: GaussianPosterior,
    samples: Tensor,
    *,
    generator: torch.Generator,
    relative_increase: float = 0.05,
    n_weight_draws: int = 2,
    log_tolerance: float = 0.02,
    schedule: NoiseSchedule | None = None,
    weights: str = "uniform",
    batch_size: int = 64,
    labels: Sequence[Any] | None = None,
) -> tuple[float, dict[str, float]]:
    """The τ at which sampling N(θ*, τσ²) raises the denoising loss on generated samples by the given fraction.

    Args:
        denoiser: the model; its weights are restored bit by bit, also after an error.
        posterior: provides σ²; its mean is not used.
        samples: generated samples of the model, [N, channels, height, width], one (t, ε) each.
        generator: the only source of timesteps, noise and weights.
        relative_increase: r > 0 to reach.
        n_weight_draws: pairs ±z.
        log_tolerance: width in log τ at which the bisection ends.
        schedule: noise levels; None takes the linear schedule with T = 1000.
        weights: of the loss, see ``kl_weights``; ``"uniform"`` is the training loss.
        batch_size: images per network call.
        labels: what each sample was drawn under: a prompt, the name of a class, or its place in ``denoiser.class_names``;
            None for an unconditional model.

    Returns:
        τ, for ``posterior.scaled``; and a record: ``relative_increase`` (achieved), ``loss``, ``n_weight_draws``,
        ``n_samples``, ``network_evaluations``.

    Raises:
        InputError: if an argument is out of its range, or no τ within 10^±12 gives the wanted increase.
    """
    if not (relative_increase > 0 and n_weight_draws >= 1 and log_tolerance > 0):
        raise InputError(f"calibration: got relative_increase {relative_increase}, n_weight_draws {n_weight_draws}, "
                         f"log_tolerance {log_tolerance}; expected > 0, ≥ 1, > 0.")  # fmt: skip
    posterior.check_matches(denoiser.network.named_parameters())
    loss = fixed_loss(denoiser, samples, generator, schedule, weights, batch_size, labels)
    sources = [(draw_seed(generator), generator.device) for _ in range(n_weight_draws)]
    reached: dict[float, float] = {}

    with restored_weights(denoiser.network, posterior) as (parameters, centre):
        base = base_loss(loss)

        def increase(log_tau: float) -> float:
            losses = []
            for seed, device in sources:
                for step in (math.exp(log_tau / 2), -math.exp(log_tau / 2)):
                    z = torch.Generator(device).manual_seed(seed)
                    _perturb(parameters, centre, posterior.variance, step, z)
                    losses.append(loss())
            mean = sum(losses) / len(losses) / base - 1
            reached[log_tau] = mean if math.isfinite(mean) else math.inf
            return reached[log_tau]

        log_tau = _bisect(increase, relative_increase, log_tolerance)
    return math.exp(log_tau), {
        "relative_increase": reached[log_tau],
        "loss": base,
        "n_weight_draws": n_weight_draws,
        "n_samples": len(samples),
        "network_evaluations": len(samples) * (1 + 2 * n_weight_draws * len(reached)),
    }


def mean_is_usable(
    denoiser: Denoiser,
    posterior: GaussianPosterior,
    samples: Tensor,
    *,
    generator: torch.Generator,
    tolerance: float = 1.1,
    schedule: NoiseSchedule | None = None,
    weights: str = "uniform",
    batch_size: int = 64,
    labels: Sequence[Any] | None = None,
) -> tuple[float, bool]:
    """Whether μ* denoises about as well as θ* on the same images, timesteps and noise.

    Args:
        denoiser: the model at θ*; its weights are restored bit by bit, also after an error.
        posterior: provides μ*.
        samples: generated samples of the model, [N, channels, height, width].
        generator: the only source of timesteps and noise.
        tolerance: greatest ratio that counts as usable, ≥ 1.
        schedule: noise levels; None takes the linear schedule with T = 1000.
        weights: of the loss, see ``kl_weights``.
        batch_size: images per network call.
        labels: what each sample was drawn under: a prompt, the name of a class, or its place in ``denoiser.class_names``;
            None for an unconditional model.

    Returns:
        The ratio ℓ(μ*)/ℓ(θ*) (infinite if the loss at μ* is not finite), and whether it is at most ``tolerance``. If not,
        do not use the mean, or re-centre with ``posterior.with_mean``.
    """
    posterior.check_matches(denoiser.network.named_parameters())
    loss = fixed_loss(denoiser, samples, generator, schedule, weights, batch_size, labels)
    with restored_weights(denoiser.network, posterior) as (parameters, _):
        base = base_loss(loss)
        _set(parameters, posterior.mean)
        ratio = loss() / base
    ratio = ratio if math.isfinite(ratio) else math.inf
    return ratio, ratio <= tolerance


@contextmanager
def restored_weights(
    network: nn.Module, posterior: GaussianPosterior
) -> Generator[tuple[dict[str, nn.Parameter], dict[str, Tensor]], None, None]:
    """Allow overwriting the posterior's parameters of a network; evaluation mode inside, everything restored afterwards.

    Args:
        network: the network; its covered weights are copied once.
        posterior: determines the parameters.

    Yields:
        The live parameters, and the copy; both name → tensor in the posterior's order.
    """
    named = dict(network.named_parameters())
    parameters = {name: named[name] for name in posterior.mean}
    kept = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    try:
        with evaluating(network), torch.no_grad():
            yield parameters, kept
    finally:
        _set(parameters, kept)


@torch.no_grad()
def _set(parameters: NamedTensors, values: NamedTensors) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(values[name])


def _perturb(
    parameters: NamedTensors, centre: NamedTensors, variance: NamedTensors, step: float, generator: torch.Generator
) -> None:
    """θ ← centre + step · σz, tensor by tensor."""
    for name, parameter in parameters.items():
        sigma = variance[name].to(centre[name]).sqrt()
        parameter.copy_(centre[name] + step * sigma * normal_like(centre[name], generator))


def _bisect(increase: Callable[[float], float], target: float, tolerance: float) -> float:
    """Bracket by decades around τ = 1, then halve.

    Args:
        increase: r as a function of log τ.
        target: the target r.
        tolerance: width of the bracket at which to stop.

    Returns:
        The upper end of the last bracket, a point where ``increase`` was evaluated and reached the target.

    Raises:
        InputError: if there is no bracket.
    """
    decade, upwards = math.log(10), increase(0.0) < target
    for k in range(MAX_DECADES):
        low, high = (k * decade, (k + 1) * decade) if upwards else (-(k + 1) * decade, -k * decade)
        if (increase(high) >= target) if upwards else (increase(low) < target):
            break
    else:
        raise InputError(
            f"calibration: no temperature within 10^±{MAX_DECADES} raises the loss by {target:.3g}. "
            "Check that the variances and the samples belong to this network."
        )
    while high - low > tolerance:
        middle = (low + high) / 2
        low, high = (middle, high) if increase(middle) < target else (low, middle)
    return high
