"""Diagonal empirical Fisher on generated samples: a posterior from one checkpoint and no training data.

    g(x) = ∇_θ Σ_{t=2..T} (w_t/2) ‖ε − ε_θ(x_t, t, c)‖²   (sum over pixels and t; w_t of Eq. 3; weights="elbo")
    F    = mean over generated samples x of g(x)²         (c the class or prompt that x was drawn under, if any)
    σ²   = 1 / (n_train · F + prior precision)

g(x) is known only through noisy estimates, and the square of one estimate adds its variance. So each sample gets two
estimates from independent halves of the (t, ε) draws: E[ĝ_a ĝ_b] = g². The mean of the products may be negative; then
F = 0 and the prior alone bounds σ² (their number is in ``extras``: near one half, the estimate is noise and needs more
samples or draws).

Prior precision λ. Without it an entry with F = 0 has infinite variance. The default is λ = d/‖θ‖², the precision of the
zero-mean Gaussian prior that fits the d covered weights best: no weight is given a posterior wider than the weights
themselves are. ``relative_floor`` f raises F to f times its mean over the parameter tensor, so that entries whose
estimate fell to zero by chance are at most 1/√f times as wide as their layer; f = 0 is the plain definition.

Not guaranteed: the Hessian. Generated samples replace the training data; a defect of the model also affects its Fisher
matrix. Flooring makes F of near-zero entries too large, by an amount that falls with samples and draws.

Source: definition of this package; EWC: Kirkpatrick et al. 2017, arXiv 1612.00796. Selective Amnesia's F (unweighted,
one estimate squared) is another quantity.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from vdu.core.checks import hash_parameters
from vdu.core.errors import InputError
from vdu.core.modes import evaluating
from vdu.core.ranges import require_choice, require_fields, require_kind
from vdu.core.types import Denoiser, NamedTensors
from vdu.diffusion.schedule import NoiseSchedule, check_weights, kl_weights
from vdu.posterior.denoising import (
    Draws,
    check_samples,
    condition_of,
    draw,
    gradients,
    only_gradients_of,
    parted,
    sample_loss,
)
from vdu.posterior.fit import Progress, fit_samples
from vdu.posterior.gaussian import GaussianPosterior
from vdu.posterior.names import covered
from vdu.posterior.protocol import Parts, State, Takes

__all__ = ["Fisher", "default_prior_precision", "fit_fisher"]


@dataclass(frozen=True, kw_only=True)
class Fisher:
    """The estimator N(θ*, 1/(n_train·F + λ)) around the network's current weights.

    Memory: the mean, one float64 accumulator and two gradients per covered parameter, and the graph of ``draws_per_half``
    images.

    Args:
        n_train: size of the set the model was trained on (not the number of samples).
        prior_precision: λ > 0; None takes d/‖θ‖².
        schedule: noise levels of the sum over t; None takes the linear schedule with T = 1000.
        weights: ``"elbo"`` (w_t/2, the definition), ``"paper"`` (w_t) or ``"uniform"`` (1).
        draws_per_half: (t, ε) draws per sample and half, in equal strata of t.
        relative_floor: f ≥ 0, the least F relative to its mean over the parameter tensor.
        name_filter: regular expression of the parameters to cover; None for all.

    Raises:
        InputError: if an argument is missing or out of its range.
    """

    name: ClassVar[str] = "fisher"
    takes: ClassVar[Takes] = "samples"
    save_every: ClassVar[int] = 20

    n_train: int | None = None
    prior_precision: float | None = None
    schedule: NoiseSchedule | None = None
    weights: str = "elbo"
    draws_per_half: int = 8
    relative_floor: float = 1e-2
    name_filter: str | None = None

    def __post_init__(self) -> None:
        if self.n_train is None:
            raise InputError(
                "fisher: n_train (--n-train) is missing; give the size of the set that the model was trained on (for MNIST "
                "60000)."
            )
        require_fields(self)
        require_choice("weights", self.weights, ("elbo", "paper", "uniform"))
        require_kind("schedule", self.schedule, NoiseSchedule, "a vdu.NoiseSchedule")
        check_weights(self._levels[1])

    @cached_property
    def _levels(self) -> tuple[NoiseSchedule, Tensor]:
        schedule = self.schedule or NoiseSchedule.linear()
        return schedule, kl_weights(schedule, self.weights)

    def init(
        self, denoiser: Denoiser, *, n_items: int | None = None, generator: torch.Generator | None = None
    ) -> State:
        """A copy of the covered weights, and F = 0; ``n_items`` is not used."""
        parameters = covered(denoiser, self.name_filter)
        prior = default_prior_precision(parameters) if self.prior_precision is None else self.prior_precision
        return State(
            tensors={
                "mean": {name: parameter.detach().float().clone() for name, parameter in parameters.items()},
                "fisher": {name: torch.zeros_like(value, dtype=torch.float64) for name, value in parameters.items()},
            },
            values={
                "network": hash_parameters(dict(denoiser.network.named_parameters())),
                "prior_precision": prior,
                "loss": 0.0,
            },
            generator=generator,
        )

    def update(self, state: State, item: Any, denoiser: Denoiser) -> State:
        """Add ĝ_a·ĝ_b of one sample to the sum of F, and its weighted loss to that of the loss.

        Args:
            state: the state so far; its tensors are reused.
            item: a generated sample, [channels, height, width]; of a conditional model the pair of it and its label.
            denoiser: the model.

        Returns:
            The state after this sample; F is ``tensors["fisher"]`` over ``count``, float64, possibly negative.
        """
        return self.add(state, self.measure(self.draws(state, item, denoiser), item, denoiser))

    def draws(self, state: State, item: Any, denoiser: Denoiser) -> Iterator[Draws]:
        """The timesteps and noise of the two halves."""
        sample, label = parted(item)
        check_samples(denoiser, sample[None], label, state.generator)
        assert state.generator is not None
        for _ in range(2):
            yield draw(sample.expand(self.draws_per_half, *sample.shape), len(self._levels[0]), state.generator)

    def measure(self, draws: Iterator[Draws], item: Any, denoiser: Denoiser) -> Parts:
        """ĝ_a, ĝ_b and both losses of one sample."""
        parameters, (schedule, k) = list(covered(denoiser, self.name_filter).values()), self._levels
        sample, label = parted(item)
        x0 = sample.to(parameters[0].device).expand(self.draws_per_half, *sample.shape)
        condition, halves, losses = condition_of(denoiser, label, self.draws_per_half), [], []
        with evaluating(denoiser.network), only_gradients_of(denoiser.network, parameters):
            for half in draws:
                drawn = replace(half, noise=half.noise.to(x0.device))
                loss = sample_loss(denoiser, x0, drawn, schedule, k, condition).mean()
                halves.append(gradients(loss, parameters))
                losses.append(loss.detach())
        return [*halves, losses]

    def add(self, state: State, parts: Parts) -> State:
        """Add the product of the two gradients, and the mean of the losses."""
        *halves, losses = parts
        for accumulator, g_a, g_b in zip(state.tensors["fisher"].values(), *halves, strict=True):
            accumulator.addcmul_(g_a.double(), g_b.double())
        loss_sum = state.values["loss"]
        for loss in losses:
            loss_sum += float(loss) / 2
        return replace(state, count=state.count + 1, values={**state.values, "loss": loss_sum})

    def posterior(self, state: State) -> GaussianPosterior:
        """The mean over samples, floored, and the prior.

        Args:
            state: after at least one sample.

        Returns:
            The posterior, float32; ``extras`` holds ``n_samples``, ``draws_per_half``, ``network_evaluations`` (forward
            1, backward 2 per image), ``n_negative``, ``n_on_floor``, ``n_parameters``, ``relative_floor``, ``loss``.

        Raises:
            InputError: if there was no sample.
        """
        if not state.count:
            raise InputError("fisher: got no samples; expected at least 1. Update the state with some first.")
        assert self.n_train is not None
        n, prior = state.count, state.values["prior_precision"]
        variance, counts = {}, {"n_negative": 0, "n_on_floor": 0, "n_parameters": 0}
        for name, total in state.tensors["fisher"].items():
            raw = total / n
            least = self.relative_floor * raw.clamp_min(0).mean()
            floored = raw.clamp_min(0).clamp_min(least)
            counts["n_negative"] += int((raw < 0).sum())
            counts["n_on_floor"] += int((raw < least).sum())
            counts["n_parameters"] += raw.numel()
            variance[name] = (1 / (self.n_train * floored + prior)).float()
        return GaussianPosterior(
            mean=state.tensors["mean"],
            variance=variance,
            estimator=self.name,
            prior_precision=prior,
            n_train=self.n_train,
            name_filter=self.name_filter,
            sources={"network": state.values["network"]},
            extras={
                "n_samples": n,
                "draws_per_half": self.draws_per_half,
                "relative_floor": self.relative_floor,
                "network_evaluations": 3 * 2 * self.draws_per_half * n,
                "loss": state.values["loss"] / n,
                **counts,
            },
        )


def fit_fisher(
    denoiser: Denoiser,
    samples: Tensor,
    *,
    labels: Sequence[Any] | None = None,
    generator: torch.Generator,
    progress: Progress | None = None,
    **options: Any,
) -> GaussianPosterior:
    """The posterior of :class:`Fisher`.

    Args:
        denoiser: the model; its network is left as it was.
        samples: generated samples of the model, [N, channels, height, width], in its own space.
        labels: what each sample was drawn under: a prompt, the name of a class, or its place in ``denoiser.class_names``;
            None for an unconditional model.
        generator: the only source of timesteps and noise.
        progress: called with (samples done, total samples).
        **options: the arguments of :class:`Fisher`; ``n_train`` is required.

    Returns:
        The posterior.
    """
    return fit_samples(Fisher(**options), denoiser, samples, labels=labels, generator=generator, progress=progress)


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
