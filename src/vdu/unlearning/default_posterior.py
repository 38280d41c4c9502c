"""The posterior of a named method that was given none.

It is that of ``vdu posterior ESTIMATOR`` at its defaults: 200 generated samples, seed 0. The Fisher estimator σ² = 1/(n_train·F + λ)
needs the size of the training set, which a checkpoint does not tell: 60,000 is taken, MNIST's and near CIFAR-10's. A larger
number holds the weights more tightly. For another one give ``posterior=vdu.fit_posterior(pipeline, "fisher", n_train=…)``.

Samples of a text-to-image model are drawn under the prompts to forget and to keep. Only weights that train are covered.

It is fitted once per model and kept in the cache (:mod:`vdu.core.cache`).
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from vdu.core.cache import cache_folder
from vdu.core.errors import InputError
from vdu.core.processes import first_decides, is_first
from vdu.core.records import sha256_bytes
from vdu.core.rng import generator
from vdu.diffusion.sampling import Sampler, drawn_as
from vdu.models.identity import identity, trained_part
from vdu.models.lora import trained_weights
from vdu.models.pipelines import replace_network
from vdu.models.reading import in_training
from vdu.posterior.estimators import find_estimator, make_estimator
from vdu.posterior.gaussian import GaussianPosterior
from vdu.replay.generated import cached_samples
from vdu.training.accelerator import make_accelerator
from vdu.unlearning.engine import say
from vdu.unlearning.fit_posterior import evaluations_per_sample, fit_posterior, progress_bar, with_labels
from vdu.unlearning.plan import Plan, on_accelerator

__all__ = ["posterior_work", "with_posterior"]

N_SAMPLES = 200
N_TRAIN = 60_000
SAMPLER = Sampler("ddpm", steps=20)
OPTIONS: dict[str, dict[str, Any]] = {"fisher": {"n_train": N_TRAIN}}


def posterior_work(plan: Plan) -> dict[str, tuple[float, float]]:
    """The stages of :func:`with_posterior`, for :func:`vdu.core.progress.expect`.

    Args:
        plan: the plan.

    Returns:
        Title of the progress bar → number of items, network evaluations of each.
    """
    name = plan.chosen.fits
    if name is None or find_estimator(name).takes != "samples":
        return {}
    estimator = make_estimator(name, **OPTIONS.get(name, {}))
    return {"generated samples": (N_SAMPLES, SAMPLER.steps), name: (N_SAMPLES, evaluations_per_sample(estimator))}


def with_posterior(plan: Plan, *, progress: bool) -> tuple[Plan, int]:
    """The plan with a fitted posterior, if its method needs one and has none.

    Args:
        plan: the plan.
        progress: whether to print what is done.

    Returns:
        The plan, and the network evaluations of the estimation and its samples (also where the cache had them).

    Raises:
        InputError: if the method's estimator needs more than one model.
    """
    estimator = plan.chosen.fits
    if estimator is None:
        return plan, 0
    if find_estimator(estimator).takes != "samples":
        raise InputError(
            f"posterior: the method {plan.chosen.method.name} needs one by the estimator {estimator}, which one model does not "
            "give; fit it with vdu.fit_posterior and give posterior=…"
        )
    posterior = _fitted(plan, estimator, progress)
    method = replace(plan.chosen.method, posterior=posterior)
    evaluations = N_SAMPLES * SAMPLER.steps + int(posterior.extras.get("network_evaluations", 0))
    return replace(plan, chosen=replace(plan.chosen, method=method, posterior=posterior)), evaluations


def _fitted(plan: Plan, estimator: str, progress: bool) -> GaussianPosterior:
    device, part = make_accelerator().device, in_training(plan.original, plan.train)
    if plan.train != "all":
        part = part.with_network(trained_weights(part.network, plan.train))
    key = (
        f"{identity(plan.original)} {estimator} {OPTIONS.get(estimator)} {N_SAMPLES} {SAMPLER} {device.type}"
        + trained_part(part)
        + drawn_as(plan.original, SAMPLER)
    )
    path = cache_folder() / "posteriors" / f"{sha256_bytes(key.encode())[:24]}.safetensors"
    cached = first_decides("cached posterior", lambda: _cached(path))
    if progress:
        size = f", as for {N_TRAIN:,} training images" if estimator == "fisher" else ""
        source = (
            "taking it from the cache" if cached is not None else f"fitting it on {N_SAMPLES} generated samples{size}"
        )
        say(
            f"the method {plan.chosen.method.name} needs a posterior ({estimator}): {source}; posterior=… gives another"
        )
    if cached is not None:
        return cached
    denoiser = on_accelerator(plan.original)
    pipeline = plan.pipeline if denoiser is plan.original else replace_network(plan.pipeline, denoiser.network)
    images, _ = cached_samples(denoiser, N_SAMPLES, SAMPLER, progress="generated samples" if progress else None)
    samples, labels = with_labels(denoiser, images, progress=progress)
    posterior = fit_posterior(
        pipeline, estimator, generator=generator(0, "estimator"), samples=samples, labels=labels, train=plan.train,
        progress=progress_bar(estimator) if progress else None, **OPTIONS.get(estimator, {}),
    )  # fmt: skip
    if is_first():
        _keep(posterior, path)
    return posterior


def _cached(path: Path) -> GaussianPosterior | None:
    try:
        return GaussianPosterior.load(path) if path.is_file() else None
    except InputError as error:
        say(f"{error} It is fitted again.")
        return None


def _keep(posterior: GaussianPosterior, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        posterior.save(path)
    except OSError as error:
        say(f"{path}: cannot be written ({error}); the posterior is not cached.")
