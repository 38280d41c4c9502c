"""Selective Amnesia's diagonal Fisher on generated samples, for its elastic weight consolidation.

    F = (1/N) Σ_x [∇_θ Σ_{t=1..T} ‖ε_t − ε_θ(x_t, t, c)‖²]²     (sum over pixels and over all T steps of the model's schedule; c the
                                                                class or prompt that x was drawn under, if any)
    posterior N(θ*, 1/(2F)), so that its penalty Σ (θ−θ*)²/(2σ²) is Σ F (θ−θ*)², as published: no ½

The gradient of the sum over t is taken first, and squared then; one ε_t is drawn per image and step; no weights w_t. As in
the public code each of the N images is squared by itself. That code computes F on images in [0, 1] while it trains on
[−1, 1]: a bug. Here images are in [−1, 1], in the model's own space, and the bug is not offered.

If T steps per image are too expensive: n steps, the j-th uniform in the j-th of n equal strata of 1 … T, each representing
its stratum, and the sum scaled by T/n. The gradient stays unbiased, its square does not:

    E[ĝ²] = g² + Var ĝ,  g = E_ε ∇_θ Σ_t …        (with all T steps Var ĝ, from ε alone, is part of the published F too)

Drawing t adds the variance within strata, and the scale T/n multiplies that of ε: F comes out too large, by up to about T/n
where noise dominates the gradient, and the same λ is then stronger by that factor. Measured on ``mnist-small`` at
T/n = 20 (``benchmarks/amnesia_fisher.py``, four images): 1.3 times in the median entry, 1.1 times in the sum.

Not guaranteed: the Fisher information (the gradient of a likelihood), since the unweighted sum is not a likelihood. Another
quantity than that of ``vdu.posterior.fisher``, which is weighted and unbiased.

Source: Heng & Soh 2023, "Selective Amnesia", arXiv 2305.10120; reductions as in its public code
(clear-nus/selective-amnesia, ``ddpm/runners/diffusion.py::save_fim``, ``ddpm/functions/losses.py``).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from vdu.core.checks import hash_parameters
from vdu.core.errors import InputError
from vdu.core.modes import evaluating
from vdu.core.ranges import require_fields
from vdu.core.types import Denoiser
from vdu.diffusion.schedule import noised_batch
from vdu.posterior.denoising import Draws, check_samples, condition_of, gradients, only_gradients_of, parted
from vdu.posterior.fit import Progress, fit_samples
from vdu.posterior.gaussian import GaussianPosterior, normal_like
from vdu.posterior.names import covered
from vdu.posterior.protocol import Parts, State, Takes

__all__ = ["AmnesiaFisher", "draw_indices", "fit_amnesia_fisher"]

RELATIVE_FLOOR = 1e-12
ABSOLUTE_FLOOR = 1e-30  # 1/(2F) stays a normal float32 number, also where no gradient ever arrives


@dataclass(frozen=True, kw_only=True)
class AmnesiaFisher:
    """The estimator N(θ*, 1/(2F)) around the network's current weights, whose penalty is Σ F (θ−θ*)².

    Memory: the mean, two float64 tensors and a gradient per covered parameter, and the graph of ``batch_size`` images.

    Args:
        timesteps_per_sample: n steps per image, in equal strata; None takes all T, as published.
        batch_size: timesteps per network call; it changes memory and speed, not the result.
        name_filter: regular expression of the parameters to cover; None for all.
    """

    name: ClassVar[str] = "amnesia-fisher"
    takes: ClassVar[Takes] = "samples"
    save_every: ClassVar[int] = 20

    timesteps_per_sample: int | None = 50
    batch_size: int = 100
    name_filter: str | None = None

    def __post_init__(self) -> None:
        require_fields(self)

    def init(
        self, denoiser: Denoiser, *, n_items: int | None = None, generator: torch.Generator | None = None
    ) -> State:
        """A copy of the covered weights, and F = 0.

        Args:
            denoiser: the model.
            n_items: N of the mean, the total number of samples.
            generator: the only source of timesteps and noise.

        Returns:
            The state.

        Raises:
            InputError: if an option is out of its range, or the number of samples is missing.
        """
        n, n_timesteps = self.timesteps_per_sample, len(denoiser.schedule)
        if self.batch_size < 1 or not (n is None or 1 <= n <= n_timesteps):
            raise InputError(
                f"amnesia-fisher: got timesteps_per_sample {n}, batch_size {self.batch_size}; expected 1 to "
                f"{n_timesteps} (the steps of the model's own schedule; None for all of them) and ≥ 1."
            )
        if n_items is None or n_items < 1:
            raise InputError(f"amnesia-fisher: got n_items {n_items}; expected the total number of samples.")
        parameters = covered(denoiser, self.name_filter)
        return State(
            tensors={
                "mean": {name: parameter.detach().float().clone() for name, parameter in parameters.items()},
                "fisher": {name: torch.zeros_like(value, dtype=torch.float64) for name, value in parameters.items()},
            },
            values={
                "network": hash_parameters(dict(denoiser.network.named_parameters())),
                "n_items": n_items,
                "n_timesteps": n_timesteps,
            },
            generator=generator,
        )

    def update(self, state: State, item: Any, denoiser: Denoiser) -> State:
        """Add the square of one sample's gradient to F: one backward pass per ``batch_size`` timesteps.

        Args:
            state: the state so far; its tensors are reused.
            item: a generated sample, [channels, height, width]; of a conditional model the pair of it and its label.
            denoiser: the model.

        Returns:
            The state after this sample; ``tensors["fisher"]`` is F, float64, once all samples are in.
        """
        return self.add(state, self.measure(self.draws(state, item, denoiser), item, denoiser))

    def draws(self, state: State, item: Any, denoiser: Denoiser) -> Iterator[Draws]:
        """The timesteps and noise of one network call after another."""
        sample, label = parted(item)
        check_samples(denoiser, sample[None], label, state.generator)
        source = state.generator
        assert source is not None
        like = sample.to(source.device)
        for index in draw_indices(len(denoiser.schedule), self.timesteps_per_sample, source).split(self.batch_size):
            # step by step, so that the draws do not depend on how many go into one call
            yield Draws(index, torch.stack([normal_like(like, source) for _ in range(len(index))]))

    def measure(self, draws: Iterator[Draws], item: Any, denoiser: Denoiser) -> Parts:
        """The gradient of one sample's sum over the drawn timesteps."""
        parameters = list(covered(denoiser, self.name_filter).values())
        # float64: thousands of terms, squared and summed again
        g = [torch.zeros_like(parameter, dtype=torch.float64) for parameter in parameters]
        with evaluating(denoiser.network), only_gradients_of(denoiser.network, parameters):
            for each in draws:
                loss = _summed_loss(denoiser, *parted(item), each, parameters[0].device)
                torch._foreach_add_(g, [part.double() for part in gradients(loss, parameters)])
        return [g]

    def add(self, state: State, parts: Parts) -> State:
        """Add the square of the gradient; each timestep represents its stratum."""
        n_timesteps = state.values["n_timesteps"]
        scale = n_timesteps / (self.timesteps_per_sample or n_timesteps)
        for accumulator, g_x in zip(state.tensors["fisher"].values(), *parts, strict=True):
            accumulator.addcmul_(g_x, g_x, value=scale**2 / state.values["n_items"])
        return replace(state, count=state.count + 1)

    def posterior(self, state: State) -> GaussianPosterior:
        """N(θ*, 1/(2F)), with F floored.

        Args:
            state: after all samples.

        Returns:
            The posterior, float32; ``extras`` holds ``n_samples``, ``timesteps_per_sample``, ``n_timesteps`` (T),
            ``network_evaluations`` (forward 1, backward 2 per image), ``n_on_floor`` (entries of F raised to 1e-12 of
            their tensor's mean, or to 1e-30) and ``n_parameters``.

        Raises:
            InputError: if samples are missing.
        """
        if state.count != state.values["n_items"]:
            raise InputError(
                f"amnesia-fisher: got {state.count} of {state.values['n_items']} samples; expected all of them. "
                "Update the state with the rest first."
            )
        variance, n_on_floor, fisher = {}, 0, state.tensors["fisher"]
        for name, raw in fisher.items():
            least = (RELATIVE_FLOOR * raw.mean()).clamp_min(ABSOLUTE_FLOOR)
            n_on_floor += int((raw < least).sum())
            variance[name] = (1 / (2 * raw.clamp_min(least))).float()
        n_timesteps = state.values["n_timesteps"]
        n = n_timesteps if self.timesteps_per_sample is None else self.timesteps_per_sample
        return GaussianPosterior(
            mean=state.tensors["mean"],
            variance=variance,
            estimator=self.name,
            name_filter=self.name_filter,
            sources={"network": state.values["network"]},
            extras={
                "n_samples": state.count,
                "timesteps_per_sample": n,
                "n_timesteps": n_timesteps,
                "network_evaluations": 3 * n * state.count,
                "n_on_floor": n_on_floor,
                "n_parameters": sum(raw.numel() for raw in fisher.values()),
            },
        )


def fit_amnesia_fisher(
    denoiser: Denoiser,
    samples: Tensor,
    *,
    labels: Sequence[Any] | None = None,
    generator: torch.Generator,
    progress: Progress | None = None,
    **options: Any,
) -> GaussianPosterior:
    """The posterior of :class:`AmnesiaFisher`.

    Args:
        denoiser: the model; its network is left as it was.
        samples: generated samples of the model, [N, channels, height, width], in its own space (pixels: [−1, 1]).
        labels: what each sample was drawn under: a prompt, the name of a class, or its place in ``denoiser.class_names``;
            None for an unconditional model.
        generator: the only source of timesteps and noise.
        progress: called with (samples done, total samples).
        **options: the arguments of :class:`AmnesiaFisher`.

    Returns:
        The posterior.
    """
    return fit_samples(
        AmnesiaFisher(**options), denoiser, samples, labels=labels, generator=generator, progress=progress
    )


def draw_indices(n_steps: int, n: int | None, generator: torch.Generator) -> Tensor:
    """All timestep indices of a schedule, or one drawn uniformly from each of n equal strata.

    Args:
        n_steps: T of the schedule.
        n: number of strata; None takes all T and draws nothing.
        generator: the only source of randomness.

    Returns:
        Indices 0 … T − 1 (t − 1) in rising order, [n], int64, on the CPU, where schedules live.

    Examples:
        >>> (draw_indices(1000, 4, torch.Generator().manual_seed(0)) // 250).tolist()
        [0, 1, 2, 3]
    """
    if n is None:
        return torch.arange(n_steps)
    jitter = torch.rand(n, generator=generator, device=generator.device, dtype=torch.float64).cpu()
    return ((torch.arange(n, dtype=torch.float64) + jitter) / n * n_steps).long().clamp(max=n_steps - 1)


def _summed_loss(
    denoiser: Denoiser,
    sample: Tensor,
    label: list[Any] | None,
    draws: Draws,
    device: torch.device,
) -> Tensor:
    """Σ_t ‖ε_t − ε_θ(x_t, t)‖² of one image over some timestep indices.

    Args:
        denoiser: the model.
        sample: the image, [channels, height, width].
        label: its class or prompt, in a list of its own; None for an unconditional model.
        draws: timestep indices of the own schedule, and ε.
        device: where the network is.

    Returns:
        A float64 scalar.
    """
    index, noise = draws.index, draws.noise.to(device)
    x0 = sample.to(device).expand_as(noise)
    condition = condition_of(denoiser, label, len(index))
    batch = noised_batch(x0, index, noise, denoiser.schedule, denoiser.schedule, condition=condition)
    return (noise - denoiser.noise(batch)).square().sum(dtype=torch.float64)
