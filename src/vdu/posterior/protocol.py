"""The protocol of posterior estimators: ``init``, ``update``, ``posterior``.

    state = estimator.init(denoiser, n_items=len(samples), generator=generator)
    for sample in samples:
        state = estimator.update(state, sample, denoiser)
    posterior = estimator.posterior(state)

An estimator is a frozen record of its settings. Everything it accumulates is in the state, so that an interrupted estimation
continues from a stored state (:mod:`vdu.posterior.state_file`) and gives the bits of an uninterrupted one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from vdu.core.types import Denoiser
from vdu.posterior.gaussian import GaussianPosterior

__all__ = ["Estimator", "Parts", "SampleEstimator", "State", "Takes"]

Takes = Literal["samples", "members", "fine-tuned members", "nothing"]


@dataclass(frozen=True, eq=False, kw_only=True)
class State:
    """Accumulated state of an estimation.

    Attributes:
        count: number of items (samples or members) so far.
        tensors: part → parameter name → tensor, for example ``{"mean": …, "fisher": …}``.
        values: numbers, strings and dictionaries of them, ready for JSON.
        generator: the source of further draws; None for an estimator without draws.
    """

    count: int = 0
    tensors: Mapping[str, dict[str, Tensor]] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    generator: torch.Generator | None = None


Parts = Sequence[Iterable[Tensor]]


class Estimator(Protocol):
    """A posterior estimator.

    Attributes:
        name: the name on the command line.
        takes: the kind of items: generated samples of the model, named parameters of ensemble members, or none.
        save_every: items between two writes of the state.
        name_filter: regular expression of the parameters to cover; None for all.
    """

    name: ClassVar[str]
    takes: ClassVar[Takes]
    save_every: ClassVar[int]

    @property
    def name_filter(self) -> str | None: ...  # ruff: ignore[undocumented-public-method]

    def init(
        self, denoiser: Denoiser, *, n_items: int | None = None, generator: torch.Generator | None = None
    ) -> State:
        """The state before the first item; invalid inputs raise an error here.

        Args:
            denoiser: the model.
            n_items: total number of items; needed if ``takes`` is ``"samples"``.
            generator: the only source of draws; it advances with the state.
        """
        ...

    def update(self, state: State, item: Any, denoiser: Denoiser) -> State:
        """Add one item. The tensors of the given state are reused: continue with the returned one."""
        ...

    def posterior(self, state: State) -> GaussianPosterior:
        """The posterior after the items so far."""
        ...


class SampleEstimator(Estimator, Protocol):
    """An estimator of samples: ``update`` is ``add(state, measure(draws(state, item, denoiser), item, denoiser))``.

    Processes that share the samples (:func:`vdu.posterior.fit.take_all`) all make the draws and add, and measure one sample each.
    """

    def draws(self, state: State, item: Any, denoiser: Denoiser) -> Iterator[Any]:
        """What is random about one sample; going through it advances the state's generator."""
        ...

    def measure(self, draws: Iterator[Any], item: Any, denoiser: Denoiser) -> Parts:
        """What one sample contributes: lists of tensors, whose number and shapes are those of every sample."""
        ...

    def add(self, state: State, parts: Parts) -> State:
        """Add what one sample contributes; goes through the parts in a fixed order, once."""
        ...
