"""Selective Amnesia's diagonal Fisher on the model's own samples: what its elastic weight consolidation holds on to.

    F = (1/N) Σ_x [∇_θ Σ_{t=1..T} ‖ε_t − ε_θ(x_t, t)‖²]²        (sum over pixels and over all T steps of the own schedule)
    posterior N(θ*, 1/(2F)), so that its penalty Σ (θ−θ*)²/(2σ²) is Σ F (θ−θ*)², as published: no ½

The gradient of the sum over t is taken first, and squared then; one ε_t is drawn per image and step; no weights w_t. As in
the public code each of the N images is squared by itself. That code computes F on images in [0, 1] while it trains on
[−1, 1]: a bug. Here images are in [−1, 1], in the model's own space, and the bug is not offered.

Where T steps per image cost too much: n steps, the j-th uniform in the j-th of n equal strata of 1 … T, each standing for
its stratum, and the sum scaled by T/n. The gradient stays unbiased, its square does not:

    E[ĝ²] = g² + Var ĝ,  g = E_ε ∇_θ Σ_t …        (with all T steps Var ĝ, from ε alone, is part of the published F too)

Drawing t adds the variance within strata, and the scale T/n multiplies that of ε: F comes out too large, by up to about T/n
where noise alone rules the gradient, and the same λ then holds that much harder. Measured on ``mnist-small`` at
T/n = 20 (``benchmarks/amnesia_fisher.py``, four images): 1.3 times in the median entry, 1.1 times in the sum.

Not guaranteed: the Fisher information (the gradient of a likelihood): the unweighted sum is no likelihood. Another
quantity than that of ``vdu.posterior.fisher``, which is weighted and unbiased.

Source: Heng & Soh 2023, "Selective Amnesia", arXiv 2305.10120; reductions as in its public code
(clear-nus/selective-amnesia, ``ddpm/runners/diffusion.py::save_fim``, ``ddpm/functions/losses.py``).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vdu.core.checks import hash_parameters
from vdu.core.errors import InputError
from vdu.core.types import Denoiser, NamedTensors
from vdu.diffusion.schedule import noised_batch
from vdu.posterior.denoising import check_samples, evaluation_mode, gradients, only_gradients_of
from vdu.posterior.gaussian import GaussianPosterior, normal_like
from vdu.posterior.names import select_names

__all__ = ["amnesia_fisher_diagonal", "draw_rows", "fit_amnesia_fisher"]

RELATIVE_FLOOR = 1e-12
ABSOLUTE_FLOOR = 1e-30  # 1/(2F) stays a normal float32 number, also where no gradient ever arrives


def fit_amnesia_fisher(
    denoiser: Denoiser,
    samples: Tensor,
    *,
    generator: torch.Generator,
    timesteps_per_sample: int | None = 50,
    batch_size: int = 100,
    name_filter: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> GaussianPosterior:
    """The posterior N(θ*, 1/(2F)) around the network's present weights, whose penalty is Σ F (θ−θ*)².

    Args:
        denoiser: the model; its network is left as it was.
        samples: the model's own samples, [N, channels, height, width], in its own space (pixels: [−1, 1]).
        generator: the only source of timesteps and noise.
        timesteps_per_sample: n steps per image, in equal strata; None takes all T, as published.
        batch_size: timesteps per network call; it changes memory and speed, not the result.
        name_filter: regular expression of the parameters to cover; None for all.
        progress: called with (samples done, samples in all).

    Returns:
        The posterior, float32; ``extras`` holds ``n_samples``, ``timesteps_per_sample``, ``n_timesteps`` (T),
        ``network_evaluations`` (forward 1, backward 2 per image), ``n_on_floor`` (entries of F raised to 1e-12 of their
        tensor's mean, or to 1e-30) and ``n_parameters``. What is refused: see :func:`amnesia_fisher_diagonal`.
    """
    parameters = select_names(dict(denoiser.network.named_parameters()), name_filter)
    fisher = amnesia_fisher_diagonal(
        denoiser, samples, parameters, timesteps_per_sample=timesteps_per_sample, batch_size=batch_size,
        generator=generator, progress=progress,
    )  # fmt: skip
    variance, n_on_floor = {}, 0
    for name, raw in fisher.items():
        least = (RELATIVE_FLOOR * raw.mean()).clamp_min(ABSOLUTE_FLOOR)
        n_on_floor += int((raw < least).sum())
        variance[name] = (1 / (2 * raw.clamp_min(least))).float()
    n_timesteps = len(denoiser.schedule)
    n = n_timesteps if timesteps_per_sample is None else timesteps_per_sample
    return GaussianPosterior(
        mean={name: parameter.detach().float().clone() for name, parameter in parameters.items()},
        variance=variance,
        estimator="amnesia-fisher",
        name_filter=name_filter,
        sources={"network": hash_parameters(dict(denoiser.network.named_parameters())),
                 "samples": hash_parameters({"samples": samples})},
        extras={"n_samples": len(samples), "timesteps_per_sample": n, "n_timesteps": n_timesteps,
                "network_evaluations": 3 * n * len(samples), "n_on_floor": n_on_floor,
                "n_parameters": sum(raw.numel() for raw in fisher.values())},
    )  # fmt: skip


def amnesia_fisher_diagonal(
    denoiser: Denoiser,
    samples: Tensor,
    parameters: dict[str, nn.Parameter] | NamedTensors,
    *,
    timesteps_per_sample: int | None,
    batch_size: int,
    generator: torch.Generator,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Tensor]:
    """F of the module's docstring, not floored: one backward pass per image and ``batch_size`` timesteps.

    Memory: two float64 tensors and a gradient per covered parameter, and the graph of ``batch_size`` images.

    Args:
        denoiser: the model.
        samples: own samples, [N, channels, height, width].
        parameters: the covered parameters of its network.
        timesteps_per_sample: n ≤ T steps per image; None takes all T.
        batch_size: timesteps per network call.
        generator: the only source of timesteps and noise.
        progress: called with (samples done, samples in all).

    Returns:
        name → F, float64.

    Raises:
        InputError: if an argument is out of its range or the samples do not fit the model.
    """
    schedule, chosen = denoiser.schedule, list(parameters.values())
    if batch_size < 1 or not (timesteps_per_sample is None or 1 <= timesteps_per_sample <= len(schedule)):
        raise InputError(
            f"amnesia-fisher: got timesteps_per_sample {timesteps_per_sample}, batch_size {batch_size}; expected 1 to "
            f"{len(schedule)} (the steps of the model's own schedule; None for all of them) and ≥ 1."
        )
    check_samples(denoiser, samples, generator)
    total = [torch.zeros_like(parameter, dtype=torch.float64) for parameter in chosen]
    with evaluation_mode(denoiser.network), only_gradients_of(denoiser.network, chosen):
        # one image after another: vmap over several took 1.3 to 1.5 times as long on a CPU
        for done, sample in enumerate(samples, 1):
            rows = draw_rows(len(schedule), timesteps_per_sample, generator)
            g = [torch.zeros_like(accumulator) for accumulator in total]
            for index in rows.split(batch_size):
                loss = _summed_loss(denoiser, sample, index, generator, chosen[0].device)
                # float64: thousands of terms, squared and summed again
                torch._foreach_add_(g, [part.double() for part in gradients(loss, chosen)])
            scale = len(schedule) / len(rows)  # each step stands for its stratum
            for accumulator, g_x in zip(total, g, strict=True):
                accumulator.addcmul_(g_x, g_x, value=scale**2 / len(samples))
            if progress:
                progress(done, len(samples))
    return dict(zip(parameters, total, strict=True))


def draw_rows(n_steps: int, n: int | None, generator: torch.Generator) -> Tensor:
    """All rows of a schedule, or one drawn uniformly from each of n equal strata.

    Args:
        n_steps: T of the schedule.
        n: number of strata; None takes all T rows and draws nothing.
        generator: the only source of randomness.

    Returns:
        Rows 0 … T − 1 (t − 1) in rising order, [n], int64, on the CPU, where schedules live.

    Examples:
        >>> (draw_rows(1000, 4, torch.Generator().manual_seed(0)) // 250).tolist()
        [0, 1, 2, 3]
    """
    if n is None:
        return torch.arange(n_steps)
    jitter = torch.rand(n, generator=generator, device=generator.device, dtype=torch.float64).cpu()
    return ((torch.arange(n, dtype=torch.float64) + jitter) / n * n_steps).long().clamp(max=n_steps - 1)


def _summed_loss(
    denoiser: Denoiser, sample: Tensor, index: Tensor, generator: torch.Generator, device: torch.device
) -> Tensor:
    """Σ_t ‖ε_t − ε_θ(x_t, t)‖² of one image over some rows.

    Args:
        denoiser: the model.
        sample: the image, [channels, height, width].
        index: rows of the own schedule, [batch], int64.
        generator: the source of ε.
        device: where the network is.

    Returns:
        A float64 scalar.
    """
    like = sample.to(generator.device)
    # step by step, so that the draws do not depend on how many go into one call
    noise = torch.stack([normal_like(like, generator) for _ in range(len(index))]).to(device)
    x0 = sample.to(device).expand_as(noise)
    batch = noised_batch(x0, index, noise, denoiser.schedule, denoiser.schedule)
    return (noise - denoiser.noise(batch)).square().sum(dtype=torch.float64)
