"""Diagonal empirical Fisher on the model's own samples: a posterior from one checkpoint and no training data.

    g(x) = ∇_θ Σ_{t=2..T} (w_t/2) ‖ε − ε_θ(x_t, t)‖²      (sum over pixels and t; w_t of Eq. 3; weights="elbo")
    F    = mean over own samples x of g(x)²
    σ²   = 1 / (n_train · F + prior precision)

g(x) is known only through noisy estimates, and the square of one estimate adds its variance. So each sample gets two
estimates from independent halves of the (t, ε) draws: E[ĝ_a ĝ_b] = g². The mean of the products may be negative; then
F = 0 and the prior alone bounds σ² (their number is in ``extras``: near one half, the estimate is noise and wants more
samples or draws).

Prior precision λ. Without it an entry with F = 0 has infinite variance. The default is λ = d/‖θ‖², the precision of the
zero-mean Gaussian prior that fits the d covered weights best: no weight is given a posterior wider than the weights
themselves are. ``relative_floor`` f raises F to f times its mean over the parameter tensor, so that entries whose
estimate fell to zero by chance are at most 1/√f times as wide as their layer; f = 0 is the plain definition.

Not guaranteed: the Hessian. The model's own samples stand for the training data; a model with a defect has it in its
Fisher too. Flooring makes F of near-zero entries too large, by an amount that falls with samples and draws.

Source: definition of this package; EWC: Kirkpatrick et al. 2017, arXiv 1612.00796. Selective Amnesia's F (unweighted,
one estimate squared) is another quantity.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vdu.core.checks import hash_parameters
from vdu.core.errors import InputError
from vdu.core.types import Denoiser, NamedTensors
from vdu.diffusion.schedule import NoiseSchedule, check_weights, kl_weights
from vdu.posterior.denoising import check_samples, draw, evaluation_mode, gradients, only_gradients_of, sample_loss
from vdu.posterior.gaussian import GaussianPosterior
from vdu.posterior.names import select_names

__all__ = ["default_prior_precision", "fisher_diagonal", "fit_fisher"]


def fit_fisher(
    denoiser: Denoiser,
    samples: Tensor,
    *,
    n_train: int,
    generator: torch.Generator,
    prior_precision: float | None = None,
    schedule: NoiseSchedule | None = None,
    weights: str = "elbo",
    draws_per_half: int = 8,
    relative_floor: float = 1e-2,
    name_filter: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> GaussianPosterior:
    """The posterior N(θ*, 1/(n_train·F + λ)) around the network's present weights.

    Args:
        denoiser: the model; its network is left as it was.
        samples: the model's own samples, [N, channels, height, width], in its own space.
        n_train: size of the set the model was trained on (not N).
        generator: the only source of timesteps and noise.
        prior_precision: λ > 0; None takes d/‖θ‖².
        schedule: noise levels of the sum over t; None takes the linear schedule with T = 1000.
        weights: ``"elbo"`` (w_t/2, the definition), ``"paper"`` (w_t) or ``"uniform"`` (1).
        draws_per_half: (t, ε) draws per sample and half, in equal strata of t.
        relative_floor: f ≥ 0, the least F relative to its mean over the parameter tensor.
        name_filter: regular expression of the parameters to cover; None for all.
        progress: called with (samples done, samples in all).

    Returns:
        The posterior, float32; ``extras`` holds ``n_samples``, ``draws_per_half``, ``network_evaluations`` (forward 1,
        backward 2 per image), ``n_negative``, ``n_on_floor``, ``n_parameters``, ``relative_floor``, ``loss``.

    Raises:
        InputError: if an argument is out of its range or the samples do not fit the model.
    """
    if n_train < 1 or draws_per_half < 1 or relative_floor < 0 or not (prior_precision is None or prior_precision > 0):
        raise InputError(
            f"fisher: got n_train {n_train}, draws_per_half {draws_per_half}, relative_floor {relative_floor}, "
            f"prior_precision {prior_precision}; expected ≥ 1, ≥ 1, ≥ 0 and > 0 (or None)."
        )
    schedule = schedule or NoiseSchedule.linear()
    k = kl_weights(schedule, weights)
    check_weights(k)
    parameters = select_names(dict(denoiser.network.named_parameters()), name_filter)
    precision = default_prior_precision(parameters) if prior_precision is None else prior_precision
    fisher, loss = fisher_diagonal(
        denoiser, samples, parameters, schedule=schedule, weights=k,
        draws_per_half=draws_per_half, generator=generator, progress=progress,
    )  # fmt: skip
    variance, counts = {}, {"n_negative": 0, "n_on_floor": 0, "n_parameters": 0}
    for name, raw in fisher.items():
        least = relative_floor * raw.clamp_min(0).mean()
        floored = raw.clamp_min(0).clamp_min(least)
        counts["n_negative"] += int((raw < 0).sum())
        counts["n_on_floor"] += int((raw < least).sum())
        counts["n_parameters"] += raw.numel()
        variance[name] = (1 / (n_train * floored + precision)).float()
    return GaussianPosterior(
        mean={name: parameter.detach().float().clone() for name, parameter in parameters.items()},
        variance=variance,
        estimator="fisher",
        prior_precision=precision,
        n_train=n_train,
        name_filter=name_filter,
        sources={"network": hash_parameters(dict(denoiser.network.named_parameters())),
                 "samples": hash_parameters({"samples": samples})},
        extras={"n_samples": len(samples), "draws_per_half": draws_per_half, "relative_floor": relative_floor,
                "network_evaluations": 3 * 2 * draws_per_half * len(samples), "loss": loss, **counts},
    )  # fmt: skip


def fisher_diagonal(
    denoiser: Denoiser,
    samples: Tensor,
    parameters: dict[str, nn.Parameter] | NamedTensors,
    *,
    schedule: NoiseSchedule,
    weights: Tensor,
    draws_per_half: int,
    generator: torch.Generator,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Tensor], float]:
    """The unbiased estimate of F, not floored: the mean of ĝ_a·ĝ_b over samples.

    Memory: one float64 accumulator and two gradients per covered parameter, and the graph of ``draws_per_half`` images.

    Args:
        denoiser: the model.
        samples: own samples, [N, channels, height, width].
        parameters: the covered parameters of its network.
        schedule: noise levels.
        weights: k_t, [T], float64.
        draws_per_half: (t, ε) draws per sample and half.
        generator: the only source of timesteps and noise.
        progress: called with (samples done, samples in all).

    Returns:
        name → F, float64, possibly negative; and the mean of the weighted loss over samples.
    """
    check_samples(denoiser, samples, generator)
    total = {name: torch.zeros_like(parameter, dtype=torch.float64) for name, parameter in parameters.items()}
    device, loss_sum = next(iter(parameters.values())).device, 0.0
    with evaluation_mode(denoiser.network), only_gradients_of(denoiser.network, list(parameters.values())):
        for done, sample in enumerate(samples, 1):
            x0 = sample.to(device).expand(draws_per_half, *sample.shape)
            halves = []
            for _ in range(2):
                draws = draw(x0, len(schedule), generator)
                loss = sample_loss(denoiser, x0, draws, schedule, weights).mean()
                halves.append(gradients(loss, list(parameters.values())))
                loss_sum += float(loss.detach()) / 2
            for accumulator, g_a, g_b in zip(total.values(), *halves, strict=True):
                accumulator.addcmul_(g_a.double(), g_b.double())
            if progress:
                progress(done, len(samples))
    return {name: accumulator / len(samples) for name, accumulator in total.items()}, loss_sum / len(samples)


def default_prior_precision(parameters: NamedTensors) -> float:
    """λ = d/‖θ‖²: the zero-mean Gaussian prior of greatest likelihood for the d given weights.

    Args:
        parameters: the covered weights.

    Returns:
        λ, in inverse squared units of the weights.

    Raises:
        InputError: if all weights are zero.

    Examples:
        >>> default_prior_precision({"w": torch.tensor([3.0, 4.0])})
        0.08
    """
    square = sum(float(tensor.detach().square().sum(dtype=torch.float64)) for tensor in parameters.values())
    if not square > 0:
        raise InputError("fisher: the covered weights are all zero and give no prior; set prior_precision.")
    return sum(tensor.numel() for tensor in parameters.values()) / square
