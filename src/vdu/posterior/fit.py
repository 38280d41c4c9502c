"""The loop over items that all estimators share."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vdu.core.checks import hash_parameters
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

    Args:
        estimator: the estimator.
        state: the state so far; its tensors are reused.
        items: the items that are not in the state yet.
        denoiser: the model.
        n_items: the total number of items, for the progress.
        save: called with the state after every ``estimator.save_every`` items and after the last one.
        progress: called with (items done, total items) after each item.

    Returns:
        The state after all items.
    """
    saved = state.count
    for item in items:
        state = estimator.update(state, item, denoiser)
        if save and state.count - saved >= estimator.save_every:
            save(state)
            saved = state.count
        if progress:
            progress(state.count, n_items)
    if save and state.count > saved:
        save(state)
    return state


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
        labels: the class or prompt that each sample was drawn under; None for an unconditional model.
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
