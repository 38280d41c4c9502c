"""The denoising loss of given samples at drawn noise levels, used by the Fisher and the calibration.

    ℓ(x) = Σ_{t=2..T} k_t ‖ε − ε_θ(x_t, t)‖²        (sum over pixels and over t, expectation over ε)
    ℓ̂(x) = (T − 1)/n · Σ_{j=1..n} k_{t_j} ‖ε_j − ε_θ(x_{t_j}, t_j)‖²

t_j is uniform in the j-th of n equal strata of 2 … T (u_j = (j + U_j)/n), so that the average over j is uniform over
2 … T and ℓ̂ is unbiased with less variance than n free draws. k_t is ``kl_weights``: ``"elbo"`` is w_t/2.

Every sample comes with the label that it was drawn under, if the model is conditional: ε_θ(x_t, t) is then ε_θ(x_t, t, c).

Not guaranteed: a small variance; 24 % of the weight of the linear T = 1000 schedule lies on t ≤ 20.
"""

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vdu.core.errors import InputError
from vdu.core.types import Condition, Denoiser
from vdu.diffusion.schedule import NoiseSchedule, check_weights, kl_weights, noised_batch
from vdu.posterior.gaussian import normal_like

__all__ = [
    "Draws",
    "base_loss",
    "check_samples",
    "condition_of",
    "draw",
    "fixed_loss",
    "gradients",
    "only_gradients_of",
    "parted",
    "sample_loss",
]


@dataclass(frozen=True)
class Draws:
    """Timestep indices and noise for one call of :func:`sample_loss`.

    Attributes:
        index: timestep indices 1 … T − 1 (t − 1), [n], int64.
        noise: ε, [n, channels, height, width].
    """

    index: Tensor
    noise: Tensor


def draw(like: Tensor, n_steps: int, generator: torch.Generator) -> Draws:
    """Stratified timestep indices and normal noise from one generator.

    Args:
        like: the images, [n, channels, height, width].
        n_steps: T of the schedule.
        generator: the only source of randomness.

    Returns:
        The draws; indices on the CPU, like schedules, and noise on the device of ``like``.
    """
    n = len(like)
    jitter = torch.rand(n, generator=generator, device=generator.device, dtype=torch.float64).cpu()
    u = (torch.arange(n, dtype=torch.float64) + jitter) / n
    index = 1 + (u * (n_steps - 1)).long().clamp(max=n_steps - 2)
    return Draws(index, normal_like(like, generator))


def parted(item: Any) -> tuple[Tensor, list[Any] | None]:
    """A sample and the list of its label alone.

    Args:
        item: a sample, or the pair of a sample and its label.

    Returns:
        The sample, [channels, height, width], and the list; None for a sample without a label.
    """
    return (item[0], [item[1]]) if isinstance(item, tuple) else (item, None)


def condition_of(denoiser: Denoiser, labels: Sequence[Any] | None, times: int = 1) -> Condition | None:
    """The condition of labels, all of them so many times; None without labels."""
    return None if labels is None else denoiser.condition([*labels] * times)


def sample_loss(
    denoiser: Denoiser,
    x0: Tensor,
    draws: Draws,
    schedule: NoiseSchedule,
    weights: Tensor,
    condition: Condition | None = None,
) -> Tensor:
    """ℓ̂ of each image, before the mean over draws: (T − 1) k_t ‖ε − ε_θ(x_t, t)‖².

    Args:
        denoiser: the model; its network is called as it is (mode, precision).
        x0: images in the model's space, [n, channels, height, width].
        draws: one timestep index and one noise per image.
        schedule: the schedule of the timestep indices.
        weights: k_t, [T], float64, with k = 0 at index 0.
        condition: of each image; None for an unconditional model.

    Returns:
        [n], float64 (a sum over pixels, weighted over many orders of magnitude).
    """
    batch = noised_batch(x0, draws.index, draws.noise, schedule, denoiser.schedule, condition=condition)
    error = batch.noise - denoiser.noise(batch)
    k_t = weights[draws.index].to(error.device)
    return (len(schedule) - 1) * k_t * error.square().flatten(1).sum(1, dtype=torch.float64)


def check_samples(denoiser: Denoiser, samples: Tensor, labels: Sequence[Any] | None, generator: object) -> None:
    """Raise an error for samples that do not fit the model, or a missing generator.

    Args:
        denoiser: the model.
        samples: should be floating, [N, *latent_shape], in the model's space.
        labels: the class or prompt that each sample was drawn under; should be None for an unconditional model.
        generator: should be a ``torch.Generator``.

    Raises:
        InputError: if they are not.
    """
    if denoiser.class_names and (labels is None or len(labels) != len(samples)):
        raise InputError(
            f"labels: got {'none' if labels is None else len(labels)} for {len(samples)} samples of a conditional model; expected one for "
            "each: the class or prompt that it was drawn under (labels=[…]). Or give no samples: they are then drawn from the model."
        )
    if labels is not None and not denoiser.class_names:
        raise InputError("labels: got some for the samples of an unconditional model; leave them out.")
    shape = tuple(denoiser.latent_shape)
    if tuple(samples.shape[1:]) != shape or len(samples) == 0 or not samples.is_floating_point():
        raise InputError(
            f"samples: got {tuple(samples.shape)} {samples.dtype}; expected floating [N, *{shape}], "
            "N ≥ 1, in the model's own space. Sample them from the model, or encode images with denoiser.encode."
        )
    if not bool(samples.isfinite().all()):
        raise InputError("samples: hold NaN or infinity; expected finite numbers. Check the sampler that made them.")
    if not isinstance(generator, torch.Generator):
        raise InputError(f"generator: got {type(generator).__name__}; expected a torch.Generator (repeatable draws).")


def fixed_loss(
    denoiser: Denoiser,
    samples: Tensor,
    generator: torch.Generator,
    schedule: NoiseSchedule | None,
    weights: str,
    batch_size: int,
    labels: Sequence[Any] | None = None,
) -> Callable[[], float]:
    """Draw (t, ε) once, one per sample.

    Args:
        denoiser: the model.
        samples: generated samples, [N, channels, height, width].
        generator: the source of timesteps and noise.
        schedule: noise levels; None takes the linear schedule with T = 1000.
        weights: see ``kl_weights``.
        batch_size: images per network call.
        labels: of the samples, for a conditional model.

    Returns:
        A function that measures the loss with the network's weights at the time of the call.
    """
    check_samples(denoiser, samples, labels, generator)
    schedule = schedule or NoiseSchedule.linear()
    k = kl_weights(schedule, weights)
    check_weights(k)
    draws = draw(samples, len(schedule), generator)
    device = next(denoiser.network.parameters()).device

    def loss() -> float:
        total = 0.0
        for start in range(0, len(samples), batch_size):
            some = slice(start, start + batch_size)
            batch = Draws(draws.index[some], draws.noise[some].to(device))
            condition = condition_of(denoiser, labels and labels[some])
            total += float(sample_loss(denoiser, samples[some].to(device), batch, schedule, k, condition).sum())
        return total / len(samples)

    return loss


def base_loss(loss: Callable[[], float]) -> float:
    """The loss at θ*, the reference of every ratio.

    Args:
        loss: measures it.

    Returns:
        ℓ(θ*) > 0.

    Raises:
        InputError: if it is not a positive finite number.
    """
    base = loss()
    if not (base > 0 and math.isfinite(base)):
        raise InputError(f"denoising loss at the network's own weights: got {base}; expected a positive finite number. "
                         "Check the checkpoint and its schedule.")  # fmt: skip
    return base


def gradients(loss: Tensor, parameters: list[Tensor]) -> tuple[Tensor, ...]:
    """Gradients without touching ``.grad``.

    Args:
        loss: a scalar.
        parameters: the parameters to differentiate with respect to.

    Returns:
        One gradient per parameter; zero where the loss does not reach it.
    """
    return torch.autograd.grad(loss, parameters, materialize_grads=True)


@contextmanager
def only_gradients_of(network: nn.Module, parameters: list[Tensor]) -> Generator[None, None, None]:
    """Inside the block gradients are on, for the given parameters alone; the flags are restored after it."""
    flags = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    chosen = {id(parameter) for parameter in parameters}
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(id(parameter) in chosen)
        with torch.enable_grad():
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
