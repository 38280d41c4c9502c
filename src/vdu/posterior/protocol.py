"""What every posterior estimator offers, in the same order: ``init``, ``update``, ``posterior``.

    state = estimator.init(denoiser, n_items=len(samples), generator=generator)
    for sample in samples:
        state = estimator.update(state, sample, denoiser)
    posterior = estimator.posterior(state)

An estimator is a frozen record of its settings. All that it learns is in the state, so an estimation that was killed
goes on from a stored state (:mod:`vdu.posterior.state_file`) and ends with the bits of an uninterrupted one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from vdu.core.types import Denoiser
from vdu.posterior.gaussian import GaussianPosterior

__all__ = ["Estimator", "State", "Takes"]

Takes = Literal["samples", "members", "fine-tuned members", "nothing"]


@dataclass(frozen=True, eq=False, kw_only=True)
class State:
    """All that an estimator has learnt so far.

    Attributes:
        count: items (samples or members) that were taken in.
        tensors: part → parameter name → tensor, for example ``{"mean": …, "fisher": …}``.
        values: numbers, strings and dictionaries of them, ready for JSON.
        generator: the source of the draws to come; None for an estimator that draws nothing.
    """

    count: int = 0
    tensors: Mapping[str, dict[str, Tensor]] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    generator: torch.Generator | None = None


class Estimator(Protocol):
    """One way to a posterior.

    Attributes:
        name: the name on the command line.
        takes: what the items are: generated samples of the model, named parameters of ensemble members, or none.
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
        """The state before the first item; what the estimator cannot work with is refused here.

        Args:
            denoiser: the model.
            n_items: how many items will come; needed where ``takes`` is ``"samples"``.
            generator: the only source of draws; it advances with the state.
        """
        ...

    def update(self, state: State, item: Any, denoiser: Denoiser) -> State:
        """Take one item in. The tensors of the given state are reused: go on with the returned one."""
        ...

    def posterior(self, state: State) -> GaussianPosterior:
        """What the items so far give."""
        ...
