"""The protocols and types shared by the package: denoiser, method and noised batch.

Symbols: x0 clean images in the model's space (pixels in [−1, 1], or latents); ε standard normal noise; α and σ the
signal and noise amplitudes of a noise level; x_t = α x0 + σ ε. Noise levels of different processes are matched by the signal-to-noise
ratio α²/σ², written as ᾱ = α²/(α² + σ²): in a variance-preserving process α = √ᾱ and σ = √(1−ᾱ). A denoiser is a model
behind one adapter, independent of what its pipeline predicts; all data of a sample, including its condition, are part of the
batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from vdu.core.errors import InputError

__all__ = [
    "Batch", "Condition", "Denoiser", "Hooks", "Losses", "Method", "NamedTensors", "NoisedBatch", "Tools", "column", "noise_images",
]  # fmt: skip

NamedTensors = Mapping[str, Tensor]
Condition = Mapping[str, Tensor]  # further arguments of a network besides x_t and t, by name; batch first


def noise_images(x0: Tensor, noise: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
    """x_t = α x0 + σ ε, the only noising formula.

    Args:
        x0: clean images, [batch, …].
        noise: ε, like ``x0``.
        alpha: α, a number or a tensor that broadcasts against ``x0``.
        sigma: σ, likewise.

    Returns:
        x_t, like ``x0``.
    """
    return alpha * x0 + sigma * noise


def column(values: Tensor, like: Tensor) -> Tensor:
    """Values of a batch, [batch], as [batch, 1, …] with as many dimensions as ``like``."""
    return values.view(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True)
class NoisedBatch:
    """Images with the noise, the noise level and the condition drawn for them.

    Attributes:
        x0: clean images in the model's own space, [batch, …] (pixels in [−1, 1], or latents).
        noise: standard normal noise ε, like ``x0``.
        index: timestep index in the schedule that the batch was drawn with, [batch], int64, counted from 0.
        alpha: α of that level, [batch], in the dtype of ``x0``.
        sigma: σ of that level, likewise.
        alpha_bar: α²/(α² + σ²), [batch], in (0, 1); in a variance-preserving process ᾱ itself.
        timestep: the network's argument for the noise level: the timestep of its schedule with the same signal-to-noise
            ratio, [batch], possibly fractional.
        condition: further arguments of the network, by name, each batch first; None for unconditional models.
        draws: uniform random numbers for a method (``Method.draws``), by name, each [batch, …].
        target: the method's target for the predicted noise if it was computed ahead (``Method.targets``), like ``x0``.
    """

    x0: Tensor
    noise: Tensor
    index: Tensor
    alpha: Tensor
    sigma: Tensor
    alpha_bar: Tensor
    timestep: Tensor
    condition: Condition | None = None
    draws: Mapping[str, Tensor] = field(default_factory=dict)
    target: Tensor | None = None

    @property
    def x_t(self) -> Tensor:
        """The noised images α x0 + σ ε, in the dtype of x0."""
        return noise_images(self.x0, self.noise, column(self.alpha, self.x0), column(self.sigma, self.x0)).to(
            self.x0.dtype
        )

    @property
    def x_vp(self) -> Tensor:
        """The same images at the same signal-to-noise ratio, scaled as in a variance-preserving process."""
        level = column(self.alpha_bar, self.x0)
        return noise_images(self.x0, self.noise, level.sqrt(), (1 - level).sqrt()).to(self.x0.dtype)

    def select(self, chosen: Tensor) -> "NoisedBatch":
        """A part of the batch.

        Args:
            chosen: bool [batch], or int64 indices.

        Returns:
            The chosen samples.
        """
        return NoisedBatch(**{
            item.name: _select(getattr(self, item.name), chosen) for item in fields(self)
        })  # fmt: skip

    @classmethod
    def joined(cls, *batches: "NoisedBatch") -> "NoisedBatch":
        """Several batches as one, for one network call; draws that not all of them have are left out.

        Args:
            *batches: all conditional with the same names, or none.

        Returns:
            The batch.

        Raises:
            InputError: if their conditions have different names.
        """
        kinds = [sorted(each.condition or ()) for each in batches]
        if any(kind != kinds[0] for kind in kinds):
            raise InputError(
                f"condition: got {kinds[0]} and {next(k for k in kinds if k != kinds[0])}; expected the same names in all batches."
            )
        return cls(**{item.name: _join([getattr(each, item.name) for each in batches]) for item in fields(cls)})


def _select(value: Any, chosen: Tensor) -> Any:
    if isinstance(value, Mapping):
        return {name: each[chosen] for name, each in value.items()}
    return value if value is None else value[chosen]


def _join(values: Sequence[Any]) -> Any:
    if isinstance(values[0], Mapping):
        shared = [name for name in values[0] if all(name in each for each in values)]
        return {name: torch.cat([each[name] for each in values]) for name in shared}
    return None if values[0] is None else torch.cat(list(values))


Batch = Mapping[str, NoisedBatch]


@dataclass(frozen=True)
class Losses:
    """The losses of a batch.

    Attributes:
        terms: scalars whose sum is minimised, by name.
        observed: scalars that are only logged (and monitored by the guard against divergence).
    """

    terms: Mapping[str, Tensor]
    observed: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Tools:
    """Auxiliary models and data for a method, given before the first step; the method's ``uses`` selects the optional ones.

    Attributes:
        n_forget: number of images in the forget set.
        teacher: the original model ε₀, frozen.
        forget_model: ε_f, a copy of the original fine-tuned on the forget set.
        self_model: ε_s, a copy of the original fine-tuned on its generated samples, at the noise levels of the method's
            ``self_improvement_range`` if it has one.
        classifier: (x_vp, ᾱ) → logit of r(x_t), the probability that a noised generated sample shows the forget concept,
            [batch]; x_vp as in :class:`NoisedBatch`.
        retained: S_r, generated samples of the original without those like the forget set, [n, …], in the model's own space.
        forget: the forget set, [n, …], in the model's own space.
        substitute: c′, the condition of what takes the place of the concept, of one sample; None without one (``Method.substitutes``).
        unwanted: the conditions of the labels or prompts to forget, one sample each.
        kept: the conditions of those to keep, likewise.
        forget_condition: the condition of each image of ``forget``.
        sampler: the sampler of the run (a ``vdu.diffusion.sampling.Sampler``).
    """

    n_forget: int
    teacher: "Denoiser | None" = None
    forget_model: "Denoiser | None" = None
    self_model: "Denoiser | None" = None
    classifier: Callable[[Tensor, Tensor], Tensor] | None = None
    retained: Tensor | None = None
    forget: Tensor | None = None
    substitute: Condition | None = None
    unwanted: Condition | None = None
    kept: Condition | None = None
    forget_condition: Condition | None = None
    sampler: Any = None


@runtime_checkable
class Denoiser(Protocol):
    """One adapter over every kind of diffusion pipeline; methods, samplers and probes see only this.

    Attributes:
        network: the network, whatever it predicts.
        schedule: the network's own noise schedule (a ``vdu.diffusion.schedule.NoiseSchedule``).
        scheduler_config: the configuration of the pipeline's own diffusers scheduler.
        prediction_type: what the network predicts, see :mod:`vdu.diffusion.prediction`.
        learned_variance: whether the raw output has a second set of channels for the variance.
        image_shape: channels, height and width of an image in pixels.
        latent_shape: shape of one sample in the model's own space; that of the image for pixel models.
        is_latent: whether the model works in a latent space instead of pixels.
        class_names: names of the classes that the model is conditioned on, or the prompts that samples of a text-to-image model are
            drawn under; () for unconditional models.
        shared_names: names that several classes have, with these, so that none of them means a class.
        takes_prompts: whether any text is a condition, as for a text-to-image model.
    """

    @property
    def network(self) -> nn.Module: ...  # ruff: ignore[undocumented-public-method]
    @property
    def schedule(self) -> Any: ...  # ruff: ignore[undocumented-public-method]
    @property
    def scheduler_config(self) -> dict[str, Any]: ...  # ruff: ignore[undocumented-public-method]
    @property
    def prediction_type(self) -> str: ...  # ruff: ignore[undocumented-public-method]
    @property
    def learned_variance(self) -> bool: ...  # ruff: ignore[undocumented-public-method]
    @property
    def image_shape(self) -> tuple[int, int, int]: ...  # ruff: ignore[undocumented-public-method]
    @property
    def latent_shape(self) -> tuple[int, ...]: ...  # ruff: ignore[undocumented-public-method]
    @property
    def is_latent(self) -> bool: ...  # ruff: ignore[undocumented-public-method]
    @property
    def class_names(self) -> tuple[str, ...]: ...  # ruff: ignore[undocumented-public-method]
    @property
    def shared_names(self) -> Mapping[str, Sequence[int]]: ...  # ruff: ignore[undocumented-public-method]
    @property
    def takes_prompts(self) -> bool: ...  # ruff: ignore[undocumented-public-method]

    def trainable(self) -> dict[str, nn.Parameter]:
        """The trainable parameters, by name; they define optimiser, average, checkpoints and posterior."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Images in [−1, 1] to the model's own space (the identity for pixel models)."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """The model's own space back to images in [−1, 1]."""
        ...

    def condition(self, labels: Sequence[int | str | None]) -> Condition | None:
        """The condition of labels or prompts, one per sample: a name, an index into ``class_names``, or None, the null condition.

        Unconditional models return None for labels of None, and raise an error for any other.
        """
        ...

    def labels_of(self, seeds: Sequence[int]) -> list[int] | None:
        """The default label for the sample of each seed; None for unconditional models."""
        ...

    def noise(self, batch: NoisedBatch) -> Tensor:
        """ε̂, the noise predicted from ``batch.x_t`` under ``batch.condition``, whatever the network predicts."""
        ...

    def clean(self, batch: NoisedBatch) -> Tensor:
        """x̂0, the clean image predicted from ``batch.x_t``, not clipped."""
        ...

    def raw(self, x_t: Tensor, timestep: Tensor, condition: Condition | None = None) -> Tensor:
        """The raw output of the network, for diffusers' schedulers, which handle its prediction type."""
        ...

    def step_options(self, steps: int) -> dict[str, Any]:
        """Further arguments of the scheduler's ``set_timesteps`` for some number of steps."""
        ...

    def with_network(self, network: nn.Module) -> Self:
        """The same adapter over another network of the same architecture (a copy, or one wrapped for training)."""
        ...

    def copy(self) -> Self:
        """The same adapter over a deep copy of the network, on the same device."""
        ...


class Hooks:
    """Optional hooks of a method or objective besides its losses; these defaults do nothing.

    Attributes:
        per_term: whether :meth:`combine` merges the gradients of the terms; otherwise the terms are summed.
    """

    per_term: bool = False

    def add_gradients(self, parameters: Mapping[str, nn.Parameter]) -> Mapping[str, float]:
        """Add closed-form gradients to ``.grad``; returns the values of their terms for the log."""
        return {}

    def combine(self, gradients: Mapping[str, Sequence[Tensor]]) -> Sequence[Tensor]:
        """Merge the gradients of the terms, each a list over the parameters, averaged over micro-batches."""
        raise NotImplementedError

    def after_step(self, parameters: Mapping[str, nn.Parameter], values: Mapping[str, float]) -> None:
        """Called after every optimiser step with the step's terms and observed values."""

    def state(self) -> dict[str, float]:
        """The method's state besides the weights, for checkpoints."""
        return {}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Restore :meth:`state` on resume."""


class Method(Protocol):
    """An unlearning method: loss terms and optional hooks, independent of the loop, files and the optimiser.

    Attributes:
        name: the name on the command line.
        needs: the roles of data in each batch, a subset of {"forget" (the images to forget), "surrogate" (images of
            uniform noise in [−1, 1]), "own_forget" (generated samples of the original that match the forget set), "retain"
            (real retained data, or generated samples without the forget class), "instead" (images that the original draws under c′,
            under the conditions to forget)}.
        uses: the optional tools it needs, names of attributes of :class:`Tools`.
        batch_shares: images of a role per step, as a fraction of the batch size, where it is not 1.
        draws: uniform random numbers in [0, 1) that come with a role's images: role → name → "image" (one number per image)
            or "element" (one per element of the image). A method draws nothing itself.
        training: its default training settings (``vdu.methods.defaults.TrainingDefaults``).
        stops: whether the stopping rule may end it before its last step.
        strength: options whose larger values forget more.
        per_term: whether it merges the gradients of its terms itself, see :meth:`combine`.
        schedule: the noise levels at which it works (a ``vdu.diffusion.schedule.NoiseSchedule``).
        limits: the largest value that an observed scalar may take before the run counts as diverged.
        identity: a hash of the method and all its settings; a resumed run must have the same.
        pool: number of batches that repeat with the targets of :meth:`targets`; 0 draws a new batch at every step.
    """

    @property
    def name(self) -> str: ...  # ruff: ignore[undocumented-public-method]
    @property
    def identity(self) -> str: ...  # ruff: ignore[undocumented-public-method]
    @property
    def needs(self) -> frozenset[str]: ...  # ruff: ignore[undocumented-public-method]
    @property
    def uses(self) -> frozenset[str]: ...  # ruff: ignore[undocumented-public-method]
    @property
    def per_term(self) -> bool: ...  # ruff: ignore[undocumented-public-method]
    @property
    def batch_shares(self) -> Mapping[str, float]: ...  # ruff: ignore[undocumented-public-method]
    @property
    def draws(self) -> Mapping[str, Mapping[str, str]]: ...  # ruff: ignore[undocumented-public-method]
    @property
    def training(self) -> Any: ...  # ruff: ignore[undocumented-public-method]
    @property
    def stops(self) -> bool: ...  # ruff: ignore[undocumented-public-method]
    @property
    def strength(self) -> tuple[str, ...]: ...  # ruff: ignore[undocumented-public-method]
    @property
    def schedule(self) -> Any: ...  # ruff: ignore[undocumented-public-method]
    @property
    def limits(self) -> Mapping[str, float]: ...  # ruff: ignore[undocumented-public-method]
    @property
    def pool(self) -> int: ...  # ruff: ignore[undocumented-public-method]

    def draw_weights(self, role: str = "forget") -> Tensor:
        """Relative probability of each timestep index for the images of a role, [T], float64."""
        ...

    def prepare(self, denoiser: Denoiser, tools: Tools) -> Self:
        """One-time work before the first step (checks, masks, Fisher information, frozen teachers)."""
        ...

    def targets(self, batch: Batch) -> Mapping[str, Tensor]:
        """Targets that do not depend on the student, by role, each like ``x0``; they arrive as ``NoisedBatch.target``."""
        ...

    def losses(self, denoiser: Denoiser, batch: Batch) -> Losses:
        """The loss terms, for given noise and timesteps."""
        ...

    def add_gradients(self, parameters: Mapping[str, nn.Parameter]) -> Mapping[str, float]:
        """Add closed-form gradients to ``.grad`` and return the values of their terms for the log."""
        ...

    def combine(self, gradients: Mapping[str, Sequence[Tensor]]) -> Sequence[Tensor]:
        """Merge the gradients of the terms, each a list over the parameters; called only if ``per_term``."""
        ...

    def after_step(self, parameters: Mapping[str, nn.Parameter], values: Mapping[str, float]) -> None:
        """Called after every optimiser step with the step's terms and observed values, to restore weights that must not change."""
        ...

    def state(self) -> dict[str, float]:
        """The method's state besides the weights, for checkpoints."""
        ...

    def load_state(self, state: Mapping[str, float]) -> None:
        """Restore :meth:`state` on resume."""
        ...
