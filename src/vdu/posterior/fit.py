"""The loop over items that all estimators share."""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vdu.core.checks import hash_parameters
from vdu.core.processes import gathered, place, sent_by
from vdu.core.records import sha256_bytes
from vdu.core.types import Denoiser
from vdu.posterior.denoising import check_samples
from vdu.posterior.gaussian import GaussianPosterior
from vdu.posterior.protocol import Estimator, State

__all__ = ["Progress", "Save", "fit_samples", "take_all"]

Progress = Callable[[int, int], None]
Save = Callable[[State], None]


def take_all(
    estimator: Estimator,
    state: State,
    items: Iterable[Any],
    denoiser: Denoiser,
    *,
    n_items: int = 0,
    save: Save | None = None,
    progress: Progress | None = None,
) -> State:
    """Add items to a state, one after another.

    Processes share samples (:mod:`vdu.core.processes`): each measures every n-th one, and all add what each measured, sample by sample.
    So the sums have the order of one process and, on equal devices, its bits.

    Args:
        estimator: the estimator.
        state: the state so far; its tensors are reused.
        items: the items that are not in the state yet.
        denoiser: the model.
        n_items: the total number of items, for the progress.
        save: called with the state after every ``estimator.save_every`` items and after the last one.
        progress: called with (items done, total items) after each item, or one item of each process.

    Returns:
        The state after all items.
    """
    saved = state.count
    for reached in _states(estimator, state, items, denoiser):
        state = reached
        if save and state.count - saved >= estimator.save_every:
            save(state)
            saved = state.count
        if progress:
            progress(state.count, n_items)
    if save and state.count > saved:
        save(state)
    return state


def _states(estimator: Any, state: State, items: Iterable[Any], denoiser: Denoiser) -> Iterator[State]:
    """The state after every item, or after every n items of n processes, which stored states must not divide."""
    number, n_processes = place()
    if n_processes == 1 or estimator.takes != "samples":
        for item in items:
            state = estimator.update(state, item, denoiser)
            yield state
        return
    items = list(items)
    for start in range(0, len(items), n_processes):
        some, mine = items[start : start + n_processes], []
        gathered(f"{estimator.name}, sample {state.count}", None)
        for k, item in enumerate(some):
            draws = estimator.draws(state, item, denoiser)
            if k == number % len(some):  # at the end, processes without a sample of their own repeat another's
                mine = estimator.measure(draws, item, denoiser)
            else:
                deque(draws, maxlen=0)  # advances the generator as the other process does
        for k in range(len(some)):
            state = estimator.add(state, [(sent_by(k, each) for each in part) for part in mine])
        yield state


def fit_samples(
    estimator: Estimator,
    denoiser: Denoiser,
    samples: Tensor,
    *,
    labels: Sequence[Any] | None = None,
    generator: torch.Generator,
    state: State | None = None,
    save: Save | None = None,
    progress: Progress | None = None,
) -> GaussianPosterior:
    """Fit an estimator that uses samples.

    Args:
        estimator: a Fisher.
        denoiser: the model; its network is left as it was.
        samples: generated samples of the model, [N, channels, height, width], in its own space (pixels: [−1, 1]).
        labels: what each sample was drawn under: a prompt, the name of a class, or its place in ``denoiser.class_names``;
            None for an unconditional model.
        generator: the only source of timesteps and noise.
        state: stored state of an interrupted estimation with the same samples; the generator is then not used.
        save: called with the state from time to time, see :func:`take_all`.
        progress: called with (samples done, total samples).

    Returns:
        The posterior, with the hash of the samples, and of the labels if there are any, among its sources.
    """
    check_samples(denoiser, samples, labels, generator)
    n, items = len(samples), samples if labels is None else list(zip(samples, labels, strict=True))
    state = state or estimator.init(denoiser, n_items=n, generator=generator)
    state = take_all(
        estimator, state, items[state.count :], denoiser, n_items=n, save=save, progress=progress
    )  # fmt: skip
    posterior, found = estimator.posterior(state), {"samples": hash_parameters({"samples": samples})}
    if labels is not None:
        found["labels"] = sha256_bytes(json.dumps(list(labels)).encode())
    return replace(posterior, sources=posterior.sources | found)
