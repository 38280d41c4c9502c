"""The protocols that the rooms of the package share: what a denoiser, a method and a noised batch are.

Symbols: x0 clean images in [−1, 1]; ε standard normal noise; ᾱ the cumulative signal variance of the schedule;
x_t = √ᾱ x0 + √(1−ᾱ) ε. A denoiser is a model behind one face, whatever its pipeline predicts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, runtime_checkable

from torch import Tensor, nn

__all__ = ["Batch", "Denoiser", "Hooks", "Losses", "Method", "NamedTensors", "NoisedBatch", "Tools"]

NamedTensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class NoisedBatch:
    """Images with the noise and the noise level that were drawn for them.

    Attributes:
        x0: clean images, [batch, channels, height, width], in [−1, 1] (or the model's latent space).
        noise: standard normal noise ε of the same shape.
        index: row of the unlearning (or training) schedule, [batch], int64, counted from 0.
        alpha_bar: ᾱ of that row, [batch], in (0, 1).
        timestep: the timestep of the network's own schedule with that ᾱ, [batch], possibly fractional.
        draws: further random numbers that the method asked for, by name, batch first (see :attr:`Method.draws`).
    """

    x0: Tensor
    noise: Tensor
    index: Tensor
    alpha_bar: Tensor
    timestep: Tensor
    draws: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def x_t(self) -> Tensor:
        """The noised images √ᾱ x0 + √(1−ᾱ) ε, in the dtype of x0."""
        alpha_bar = self.alpha_bar.view(-1, *[1] * (self.x0.ndim - 1))
        return (alpha_bar.sqrt() * self.x0 + (1 - alpha_bar).sqrt() * self.noise).to(self.x0.dtype)


Batch = Mapping[str, NoisedBatch]


@dataclass(frozen=True)
class Losses:
    """What an objective or a method gives for a batch.

    Attributes:
        terms: scalars whose sum is minimised, by name.
        observed: scalars that are only logged (and watched by the guard against divergence).
    """

    terms: Mapping[str, Tensor]
    observed: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Tools:
    """What a recipe hands to a method before the first step; which of the optional ones, the method's ``uses`` says.

    Attributes:
        n_forget: number of images in the forget set.
        teacher: the original model ε₀, frozen.
        forget_model: ε_f, a copy of the original fine-tuned on the forget set.
        self_model: ε_s, a copy of the original fine-tuned on its own samples, at the noise levels of the method's
            ``self_improvement_range`` if it has one.
        classifier: (x_t, ᾱ) → logit of r(x_t), the probability that a noised own sample is of the forget class, [batch].
        retained: S_r, own samples of the original without those like the forget set, [n, channels, height, width], in
            [−1, 1].
        forget: the forget set's images, [n, channels, height, width], in [−1, 1].
    """

    n_forget: int
    teacher: "Denoiser | None" = None
    forget_model: "Denoiser | None" = None
    self_model: "Denoiser | None" = None
    classifier: Callable[[Tensor, Tensor], Tensor] | None = None
    retained: Tensor | None = None
    forget: Tensor | None = None


@runtime_checkable
class Denoiser(Protocol):
    """One face over every kind of diffusion pipeline; methods and samplers see only this."""

    @property
    def network(self) -> nn.Module:
        """The network itself, whatever it predicts."""
        ...

    @property
    def schedule(self) -> Any:
        """The network's own noise schedule (a ``vdu.diffusion.schedule.NoiseSchedule``)."""
        ...

    @property
    def scheduler_config(self) -> dict[str, Any]:
        """The configuration of the pipeline's own diffusers scheduler."""
        ...

    @property
    def learned_variance(self) -> bool:
        """Whether the raw output has a second set of channels for the variance."""
        ...

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one sample in the model's own space."""
        ...

    def predict_noise(self, x_t: Tensor, timestep: Tensor, condition: Tensor | None = None) -> Tensor:
        """The noise ε that the model sees in x_t at (possibly fractional) timesteps of its own schedule."""
        ...

    def predict_raw(self, x_t: Tensor, timestep: Tensor, condition: Tensor | None = None) -> Tensor:
        """What the network itself gives, for diffusers' schedulers, which know its prediction type."""
        ...

    def with_network(self, network: nn.Module) -> Self:
        """The same face over another network of the same architecture (a copy, or one wrapped for training)."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Images in [−1, 1] to the model's own space (the identity for pixel models)."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """The model's own space back to images in [−1, 1]."""
        ...


class Hooks:
    """What a method, or any objective of the training loop, may do besides its losses; here each does nothing.

    Attributes:
        per_term: whether :meth:`combine` makes one gradient of those of the terms; else the terms are added up.
    """

    per_term: bool = False

    def add_gradients(self, parameters: Mapping[str, nn.Parameter]) -> Mapping[str, float]:
        """Add closed-form gradients to ``.grad``; returns the values of their terms for the log."""
        return {}

    def combine(self, gradients: Mapping[str, Sequence[Tensor]]) -> Sequence[Tensor]:
        """One gradient from those of the terms, each a list over the parameters, averaged over micro-batches."""
        raise NotImplementedError

    def after_step(self, parameters: Mapping[str, nn.Parameter], values: Mapping[str, float]) -> None:
        """Called after every optimiser step with the step's terms and observed values."""

    def state(self) -> dict[str, float]:
        """What changes during a run besides the weights, for checkpoints."""
        return {}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Take :meth:`state` back on resume."""


class Method(Protocol):
    """An unlearning method: loss terms and optional hooks. It knows no loop, no file and no optimiser.

    Attributes:
        name: the name on the command line.
        needs: the roles of data it wants in each batch, a subset of {"forget" (the images to forget), "surrogate" (images of
            uniform noise in [−1, 1]), "own_forget" (own samples of the original that look like the forget set), "retain"
            (real retained data, or own samples without those of the forget class)}.
        uses: the optional tools it wants, names of attributes of :class:`Tools`.
        batch_shares: images of a role per step, as a share of the batch size, where it is not 1.
        draws: uniform random numbers in [0, 1) that come with a role's images: role → name → "image" (one number per image)
            or "element" (one per element of the image). A method draws nothing itself.
        training: the training that suits it (``vdu.methods.defaults.TrainingDefaults``).
        stops: whether the stopping rule may end it before its last step.
        strength: the options of which more forgets more.
        per_term: whether it combines the gradients of its terms itself, see :meth:`combine`.
        schedule: the noise levels at which it works (a ``vdu.diffusion.schedule.NoiseSchedule``).
        limits: the largest value that an observed scalar may take before the run counts as diverged.
        identity: a hash of all that makes the method what it is; a resumed run must have the same.
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

    def draw_weights(self, role: str = "forget") -> Tensor:
        """Relative probability with which each row of the schedule is drawn for the images of a role, [T], float64."""
        ...

    def prepare(self, denoiser: Denoiser, tools: Tools) -> Self:
        """Anything to be done once, before the first step (checks, masks, Fisher information, frozen teachers)."""
        ...

    def losses(self, denoiser: Denoiser, batch: Batch) -> Losses:
        """The terms for noise and timesteps drawn outside."""
        ...

    def add_gradients(self, parameters: Mapping[str, nn.Parameter]) -> Mapping[str, float]:
        """Add closed-form gradients to ``.grad`` and return the values of their terms for the log."""
        ...

    def combine(self, gradients: Mapping[str, Sequence[Tensor]]) -> Sequence[Tensor]:
        """One gradient from those of the terms, each a list over the parameters; called only if ``per_term``."""
        ...

    def after_step(self, parameters: Mapping[str, nn.Parameter], values: Mapping[str, float]) -> None:
        """Called after every optimiser step with the step's terms and observed values, to undo what must not move."""
        ...

    def state(self) -> dict[str, float]:
        """What changes during a run besides the weights, for checkpoints."""
        ...

    def load_state(self, state: Mapping[str, float]) -> None:
        """Take :meth:`state` back on resume."""
        ...
