"""Noise schedules: noise levels, the weights of Eq. 3, and the mapping between schedules.

A schedule is a decreasing list of noise levels ᾱ = α²/(α² + σ²) and a scaling, which defines α and σ in x_t = α x0 + σ ε:

    variance-preserving    α = √ᾱ, σ = √(1−ᾱ)                  DDPM and its like: α_t = 1 − β_t, ᾱ_t = ∏_{s≤t} α_s
    flow                   α = 1 − s, σ = s, s = 1/(1 + √(ᾱ/(1−ᾱ)))      rectified flow, flow matching; network time 1000 s

The paper counts t = 1 … T; arrays here count index = t − 1 = 0 … T − 1, as diffusers does.

Weights of the denoising loss (Panda et al., "Variational Diffusion Unlearning", Eq. 3 and Theorem 1):

    paper     w_t = (1−α_t) / (α_t (1−ᾱ_{t−1}))       t = 2 … T
    elbo      w_t / 2: the exact KL of the reverse kernels (a factor ½ is lost between Eq. 63 and Eq. 64)
    uniform   1

At t = 1, ᾱ_0 = 1 and w_1 divides by zero: Eq. 3 prints t = 1 … T, Theorem 1 has t = 2 … T, and Theorem 1 is right.

Two schedules are matched by noise level, not by index: a network is evaluated at the fractional timestep of its own
schedule that has the given ᾱ (log-linear in the signal-to-noise ratio between neighbours, exact at the integers).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from vdu.core.checks import as_tensor, require_tensor
from vdu.core.errors import InputError, shown
from vdu.core.ranges import POSITIVE, UNIT, Range, require_choice, require_number
from vdu.core.types import Condition, NoisedBatch

__all__ = [
    "NoiseSchedule",
    "batch_at",
    "check_weights",
    "kl_weights",
    "matching_timesteps",
    "noised_batch",
    "require_range",
    "weight_share",
]

SCALINGS = ("variance-preserving", "flow")
LEVELS = "noise levels ᾱ as a tensor [n]"
STEPS = Range("a number of steps, at least 2", 2, whole=True)


@dataclass(frozen=True)
class NoiseSchedule:
    """A discrete noise schedule.

    Args:
        alpha_bars: ᾱ for index 0 … T − 1, [T], float64, strictly decreasing within (0, 1); the last entry may be 0
            (zero terminal signal-to-noise ratio).
        scaling: "variance-preserving" or "flow".

    Raises:
        InputError: if ᾱ is not strictly decreasing within (0, 1), or the scaling is unknown.
    """

    alpha_bars: Tensor
    scaling: str = "variance-preserving"

    def __post_init__(self) -> None:
        require_choice("noise schedule: scaling", self.scaling, SCALINGS)
        words = "ᾱ as a tensor of at least two numbers"
        alpha_bars = as_tensor("noise schedule", self.alpha_bars, words).detach().to("cpu", torch.float64, copy=True)
        object.__setattr__(self, "alpha_bars", alpha_bars)
        listed = alpha_bars.ndim == 1 and len(alpha_bars) >= 2
        if not listed or not (alpha_bars[1:] < alpha_bars[:-1]).all() or alpha_bars[0] >= 1 or alpha_bars[-1] < 0:
            got = (
                f"from {alpha_bars.flatten()[0]:.4g} to {alpha_bars.flatten()[-1]:.4g}"
                if alpha_bars.numel()
                else "none"
            )
            raise InputError(
                "noise schedule: ᾱ must be at least two numbers, strictly decreasing within (0, 1); "
                f"got numbers of shape {tuple(alpha_bars.shape)}, {got}."
            )

    def __len__(self) -> int:
        """The number of steps T."""
        return len(self.alpha_bars)

    @classmethod
    def linear(cls, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Self:
        """β linear from start to end (Ho et al. 2020, arXiv 2006.11239).

        Returns:
            The schedule.

        Examples:
            >>> round(float(NoiseSchedule.linear().alpha_bars[-1]), 8)
            4.036e-05
        """
        require_number("steps", steps, STEPS)
        require_number("beta_start", beta_start, UNIT)
        require_number("beta_end", beta_end, UNIT)
        return cls(torch.cumprod(1 - torch.linspace(beta_start, beta_end, steps, dtype=torch.float64, device="cpu"), 0))

    @classmethod
    def cosine(cls, steps: int = 1000, max_beta: float = 0.999) -> Self:
        """The squared-cosine schedule (Nichol & Dhariwal 2021, arXiv 2102.09672, Eq. 17), β capped at ``max_beta``."""
        require_number("steps", steps, STEPS)
        require_number("max_beta", max_beta, UNIT)
        t = torch.arange(steps + 1, dtype=torch.float64, device="cpu") / steps
        f = torch.cos((t + 0.008) / 1.008 * torch.pi / 2) ** 2
        return cls(torch.cumprod(1 - (1 - f[1:] / f[:-1]).clamp(max=max_beta), 0))

    @classmethod
    def flow(cls, steps: int = 1000, shift: float = 1.0) -> Self:
        """Rectified flow: s = i/(steps + 1) for i = 1 … steps, shifted to s k/(1 + (k − 1) s) (Esser et al. 2024, arXiv 2403.03206).

        Returns:
            The schedule.

        Examples:
            >>> alpha, sigma = NoiseSchedule.flow(3).coefficients(torch.tensor([0, 1, 2]), torch.zeros(1, dtype=torch.float64))
            >>> [round(float(each), 6) for each in sigma], round(float(alpha[0] + sigma[0]), 6)
            ([0.25, 0.5, 0.75], 1.0)
        """
        require_number("steps", steps, STEPS)
        require_number("shift", shift, POSITIVE)
        s = torch.arange(1, steps + 1, dtype=torch.float64, device="cpu") / (steps + 1)
        s = shift * s / (1 + (shift - 1) * s)
        return cls((1 - s) ** 2 / ((1 - s) ** 2 + s**2), "flow")

    def coefficients(self, index: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """α and σ at some timestep indices.

        Args:
            index: [batch], int64.
            like: gives dtype and device.

        Returns:
            Both [batch].

        Raises:
            InputError: if one is no tensor, or the indices are no whole numbers from 0 to T − 1.
        """
        require_tensor("index", index, "timestep indices as a tensor [batch]")
        require_tensor("like", like, "a tensor of the dtype and device that the result shall have")
        if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
            raise InputError(f"index: got {index.dtype}; expected whole numbers, as torch.int64.")
        rows = index.cpu()
        _require_within("index", rows, len(self) - 1, "the timestep indices of this schedule")
        alpha, sigma = self._roots(self.alpha_bars[rows], like)
        if self.scaling == "flow":
            alpha, sigma = alpha / (alpha + sigma), sigma / (alpha + sigma)
        return alpha.to(like), sigma.to(like)

    def _roots(self, level: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """√ᾱ and √(1−ᾱ): of a rounded ᾱ, 1 − ᾱ of a low noise level has few digits."""
        if self.scaling == "variance-preserving" and like.dtype == torch.float32:  # whose lowest 1 − ᾱ is 1e-4
            level = level.to(like)
        return level.sqrt(), (1 - level).sqrt()

    def coefficients_at(self, timestep: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """α and σ at some timesteps of a network of this schedule, possibly fractional.

        Args:
            timestep: the network's timestep argument, [batch], within [0, T − 1] (flow: [0, 1000]).
            like: gives dtype and device.

        Returns:
            Both [batch]. A timestep out of its range is refused.
        """
        require_tensor("timestep", timestep, "timesteps as a tensor [batch]")
        require_tensor("like", like, "a tensor of the dtype and device that the result shall have")
        if self.scaling == "flow":
            _require_within("timestep", timestep.detach().cpu(), 1000, "the times of flow matching")
            s = (timestep / 1000).to(like)
            return 1 - s, s
        alpha, sigma = self._roots(self.alpha_bar_at(timestep), like)
        return alpha.to(like), sigma.to(like)

    def timesteps_at(self, alpha_bars: Tensor) -> Tensor:
        """The timestep arguments for some noise levels, for a network of this schedule.

        Args:
            alpha_bars: ᾱ, [n], within [0, 1].

        Returns:
            Fractional timestep indices (variance-preserving; clamped to the schedule's own range) or 1000 s (flow), [n], float64. A level
            outside of [0, 1] is refused.
        """
        if self.scaling == "variance-preserving":
            return matching_timesteps(alpha_bars, self)
        level = _levels(alpha_bars)
        return 1000 * (1 - level).sqrt() / (level.sqrt() + (1 - level).sqrt())

    @cached_property
    def alphas(self) -> Tensor:
        """α_t = ᾱ_t / ᾱ_{t−1}, [T], float64."""
        return self.alpha_bars / self.previous_alpha_bars

    @property
    def betas(self) -> Tensor:
        """β_t = 1 − α_t, [T], float64."""
        return 1 - self.alphas

    @cached_property
    def previous_alpha_bars(self) -> Tensor:
        """ᾱ_{t−1}, with ᾱ_0 = 1, [T], float64."""
        return torch.cat([torch.ones(1, dtype=torch.float64, device="cpu"), self.alpha_bars[:-1]])

    @cached_property
    def log_snr(self) -> Tensor:
        """log(ᾱ / (1−ᾱ)), [T], float64, strictly decreasing."""
        return torch.log(self.alpha_bars.clamp(min=1e-20)) - torch.log1p(-self.alpha_bars)

    def within(self, alpha_bar_range: tuple[float, float], name: str = "alpha_bar_range") -> Tensor:
        """Mask of the noise levels with ᾱ in a range.

        Args:
            alpha_bar_range: the smallest and the largest ᾱ.
            name: name of the option, for the error.

        Returns:
            [T], bool.

        Raises:
            InputError: if there is none.
        """
        require_range(name, alpha_bar_range)
        low, high = alpha_bar_range
        inside = (self.alpha_bars >= low) & (self.alpha_bars <= high)
        if not bool(inside.any()):
            raise InputError(f"{name}: no step of the schedule has ᾱ within [{low}, {high}]; widen it within [0, 1].")
        return inside

    def alpha_bar_at(self, timestep: Tensor) -> Tensor:
        """ᾱ at fractional timesteps, float64: log-SNR linear between neighbours, exact at the integers.

        Args:
            timestep: [batch], within [0, T − 1].

        Returns:
            ᾱ, [batch], float64, on the device of ``timestep``. A timestep out of its range is refused.
        """
        require_tensor("timestep", timestep, "timesteps as a tensor [batch]")
        t = timestep.detach().to("cpu", torch.float64)
        _require_within("timestep", t, len(self) - 1, "the timesteps of this schedule")
        low = t.floor().long()
        high = (low + 1).clamp(max=len(self) - 1)
        fraction = t - low
        between = torch.sigmoid(torch.lerp(self.log_snr[low], self.log_snr[high], fraction))
        return torch.where(fraction == 0, self.alpha_bars[low], between).to(timestep.device)


def _require_within(name: str, values: Tensor, high: float, words: str) -> None:
    """Raise an error unless all values, on the CPU, are from 0 to a highest: NaN is not, and −1 would stand for the last."""
    inside = (values >= 0) & (values <= high)
    if not bool(inside.all()):
        outside = values[~inside]
        raise InputError(
            f"{name}: got {outside[0].item():g}, {outside.numel()} of {values.numel()} out of range; expected numbers from 0 to {high:g}, "
            f"{words}. Correct these, or leave them out."
        )


def _levels(alpha_bars: Tensor) -> Tensor:
    """ᾱ in float64; an error for what is no tensor of numbers from 0 to 1."""
    require_tensor("alpha_bars", alpha_bars, LEVELS)
    levels = alpha_bars.double()
    _require_within("alpha_bars", levels.detach().cpu(), 1, LEVELS)
    return levels


def require_range(name: str, alpha_bar_range: tuple[float, float]) -> None:
    """Raise an error for an invalid range of ᾱ.

    Raises:
        InputError: unless it is two numbers with 0 ≤ smallest ≤ largest ≤ 1.
    """
    two = (
        isinstance(alpha_bar_range, tuple | list)
        and len(alpha_bar_range) == 2
        and all(map(UNIT.holds, alpha_bar_range))
    )
    if not two or alpha_bar_range[0] > alpha_bar_range[1]:
        numbers = isinstance(alpha_bar_range, tuple | list) and all(
            isinstance(each, int | float) for each in alpha_bar_range
        )
        got = alpha_bar_range if numbers else shown(alpha_bar_range)
        raise InputError(f"{name}: got {got}; expected two numbers, 0 ≤ smallest ᾱ ≤ largest ᾱ ≤ 1.")


def matching_timesteps(alpha_bars: Tensor, own: NoiseSchedule) -> Tensor:
    """The fractional timesteps of a network's own schedule that have the given ᾱ.

    Args:
        alpha_bars: target ᾱ, [n], within [0, 1].
        own: the schedule that the network was trained with.

    Returns:
        Timesteps within [0, T_own − 1], [n], float64. A level outside the range of ``own`` is clamped to its nearest end, since
        the network was not trained on cleaner or noisier images; one outside of [0, 1] is refused.
    """
    levels = _levels(alpha_bars)
    wanted = torch.log(levels.clamp(min=1e-20)) - torch.log1p(-levels)
    rising = own.log_snr.flip(0)
    right = torch.searchsorted(rising, wanted).clamp(1, len(own) - 1)
    left = right - 1
    fraction = ((wanted - rising[left]) / (rising[right] - rising[left])).clamp(0, 1)
    return (len(own) - 1) - (left + fraction)


def kl_weights(schedule: NoiseSchedule, kind: str = "paper") -> Tensor:
    """The weight of each denoising step in Eq. 3; index 0 (t = 1) has weight 0, since the sum starts at t = 2.

    Args:
        schedule: the unlearning schedule.
        kind: ``"paper"`` (Eq. 3 as printed), ``"elbo"`` (with the lost ½) or ``"uniform"`` (1).

    Returns:
        w, [T], float64.

    Raises:
        InputError: if the kind is unknown.
    """
    if kind not in {"paper", "elbo", "uniform"}:
        raise InputError(f"weights: got {kind!r}; expected 'paper', 'elbo' or 'uniform'.")
    alpha = schedule.alphas
    if kind == "uniform":
        weights = torch.ones_like(alpha)
    else:
        weights = (1 - alpha) / (alpha * (1 - schedule.previous_alpha_bars))  # Eq. 3, first term; ∞ at t = 1
    if kind == "elbo":
        weights = weights / 2  # Eq. 63
    weights[0] = 0.0
    return weights


def check_weights(weights: Tensor) -> None:
    """Raise an error for a schedule whose weight is concentrated on one step, since no other step would be trained.

    Raises:
        InputError: if a weight is infinite (ᾱ = 0 at the last step), or if more than half of the total weight lies on
            one step (a cosine schedule has 97 % on its last, at pure noise).
    """
    if not bool(torch.isfinite(weights).all()):
        raise InputError(
            "unlearning schedule: a weight of Eq. 3 is infinite, because ᾱ ends at 0; expected ᾱ > 0 everywhere. "
            "Use the default (linear, T = 1000), a smaller alpha_bar_range, or weights='uniform'."
        )
    share, index = (weights / weights.sum()).max(0)
    if float(share) > 0.5:
        raise InputError(
            f"unlearning schedule: {float(share):.0%} of the weight of Eq. 3 lies on step t = {int(index) + 1} of {len(weights)}; "
            "expected at most half on one step. Use a linear schedule for unlearning (the default: linear, T = 1000; "
            "it is mapped to the model's own schedule by noise level), or weights='uniform'."
        )


def weight_share(weights: Tensor, bins: int = 10) -> list[float]:
    """The fraction of the total weight in equal ranges of t, for the log."""
    return [round(float(part.sum() / weights.sum()), 4) for part in weights.tensor_split(bins)]


def noised_batch(
    x0: Tensor,
    index: Tensor,
    noise: Tensor,
    schedule: NoiseSchedule,
    own: NoiseSchedule,
    *,
    condition: Condition | None = None,
    draws: Mapping[str, Tensor] | None = None,
    target: Tensor | None = None,
) -> NoisedBatch:
    """Combine samples, drawn noise and drawn timestep indices into a batch.

    Args:
        x0: clean samples in the model's own space, [batch, …].
        index: indices into ``schedule``, [batch], int64.
        noise: ε, like ``x0``.
        schedule: the unlearning (or training) schedule of ``index``.
        own: the schedule of the network, which determines α, σ and the network's timesteps.
        condition: of each sample.
        draws: further random draws for each sample.
        target: a target that was computed ahead, like ``x0``.

    Returns:
        The batch.
    """
    rows = index.cpu()
    scaled = schedule if schedule.scaling == own.scaling else replace(schedule, scaling=own.scaling)
    alpha, sigma = scaled.coefficients(rows, x0)  # refuses an index out of range
    alpha_bar = schedule.alpha_bars[rows]
    same = schedule is own or (len(schedule) == len(own) and torch.equal(schedule.alpha_bars, own.alpha_bars))
    plain = same and own.scaling == "variance-preserving"
    timestep = rows if plain else own.timesteps_at(alpha_bar)
    return NoisedBatch(
        x0, noise, index, alpha, sigma, alpha_bar.to(x0), timestep.to(x0.device), condition, draws or {}, target
    )  # fmt: skip


def batch_at(
    x0: Tensor, noise: Tensor, alpha_bar: float, own: NoiseSchedule, condition: Condition | None = None
) -> NoisedBatch:
    """Samples at one noise level, whether or not a schedule has it.

    Args:
        x0: clean samples in the model's own space, [batch, …].
        noise: ε, like ``x0``.
        alpha_bar: ᾱ, in (0, 1).
        own: the schedule of the network.
        condition: of each sample.

    Returns:
        The batch; its timestep indices are all 0.
    """
    alpha, sigma = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    total = 1.0 if own.scaling == "variance-preserving" else alpha + sigma
    timestep = own.timesteps_at(torch.tensor([alpha_bar], dtype=torch.float64)).expand(len(x0)).to(x0.device)
    alpha_t, sigma_t, level = (x0.new_full((len(x0),), value) for value in (alpha / total, sigma / total, alpha_bar))
    return NoisedBatch(x0, noise, torch.zeros(len(x0), dtype=torch.int64), alpha_t, sigma_t, level, timestep, condition)
