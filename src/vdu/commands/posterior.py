"""``vdu posterior``: mean and variance of the pre-trained weights, by one of the registered estimators."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vdu.commands.settings import PosteriorSettings, to_toml
from vdu.core import progress
from vdu.core.errors import InputError
from vdu.core.ranges import require_given
from vdu.core.records import sha256_bytes
from vdu.core.rng import generator as named_generator
from vdu.core.room import require_room
from vdu.core.runs import Run
from vdu.data.forget_source import content_of
from vdu.data.images import ImageSet
from vdu.data.sources import load_images, place_of
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.finding import find_pipeline
from vdu.models.identity import identity as identity_of
from vdu.models.identity import weights_sha256
from vdu.models.lora import trained_weights
from vdu.models.pipelines import hashes_of, load_pipeline, network_of, parts_of
from vdu.models.reading import in_training
from vdu.posterior.calibrate import calibrate_temperature, mean_is_usable
from vdu.posterior.ensemble import FinetunedEnsemble
from vdu.posterior.estimators import ESTIMATORS, find_estimator, make_estimator
from vdu.posterior.gaussian import GaussianPosterior
from vdu.posterior.names import covered
from vdu.posterior.state_file import read_state, write_state
from vdu.replay.generated import cached_samples
from vdu.training.accelerator import make_accelerator
from vdu.unlearning.fine_tuned_members import fine_tuned_members, require_same_members
from vdu.unlearning.fit_posterior import (
    FILE,
    evaluations_per_sample,
    fit_posterior,
    load_posterior,
    progress_bar,
    with_labels,
)
from vdu.unlearning.prompts import sampled

__all__ = ["load_posterior", "run"]

STATE = "estimation.safetensors"  # state of an unfinished estimation


@progress.whole("posterior")
def run(settings: PosteriorSettings) -> dict[str, Any]:
    """Estimate a posterior and save it in a run folder; under ``torchrun`` the processes share the samples.

    Args:
        settings: see :class:`vdu.commands.settings.PosteriorSettings`.

    Returns:
        A summary: file, estimator and numbers of the estimation.

    Raises:
        InputError: if the settings, the model or a stored state cannot be used, or the mean is not a working model.
    """
    require_given(vars(settings), "data", "name_filter")
    options = _options(settings)
    estimator = make_estimator(settings.estimator, **options)  # fails early on invalid settings
    takes = find_estimator(settings.estimator).takes
    _check_members(settings, takes)
    _refuse_unused(settings)
    settings = replace(settings, pipeline=find_pipeline(settings.pipeline))
    pipeline = load_pipeline(settings.pipeline).to(make_accelerator().device)
    drawing = sampled(PipelineDenoiser.from_pipeline(pipeline))
    denoiser = in_training(drawing, settings.train)
    denoiser = denoiser.with_network(trained_weights(denoiser.network, settings.train))
    sampler = settings.sampler()
    data = load_images(settings.data, shape=denoiser.image_shape, split="train") if settings.data is not None else None
    covered(denoiser, settings.name_filter)
    require_room("--n-samples", settings.n_samples, drawing.image_shape)
    sampler.make(drawing)  # all refuse now what the model's schedule cannot do
    resume, keep = (
        bool(settings.resume_from_checkpoint),
        (settings.pipeline, *settings.members, settings.data and place_of(settings.data)),
    )
    record = Run(settings.output_dir, "posterior", overwrite=settings.overwrite, resume=resume, keep=keep)
    model = {"path": str(settings.pipeline), **hashes_of(pipeline)}
    file, identity = record.folder / STATE, _identity(settings, denoiser, data)
    record.start(to_toml(settings), {"model": model}, identity=identity)
    progress.expect(_work(settings, takes, estimator))
    with record.stage("own samples") as cost:
        state = read_state(
            file, identity
        )  # before the settings are recorded, so that a state of other settings fails here
        require_same_members(record.folder, identity)
        images, _ = cached_samples(drawing, settings.n_samples, sampler)
        # counted on a cache hit, too
        cost |= {"network_evaluations": settings.n_samples * settings.inference_steps, "whole": True}
    x0, labels = with_labels(denoiser, images, progress=True)
    members: Any = settings.members
    if isinstance(estimator, FinetunedEnsemble):
        members = fine_tuned_members(
            estimator, denoiser, data or images, seed=settings.seed, folder=record.folder, identity=identity
        )
    items: dict[str, Any] = {"members": members} if "members" in takes else {}
    items = {"samples": x0, "labels": labels} if takes == "samples" else items
    bar = progress_bar(settings.estimator) if takes == "samples" else None
    with record.stage(settings.estimator) as cost:
        posterior = fit_posterior(
            pipeline, settings.estimator, generator=named_generator(settings.seed, "estimator"), **items,
            train=settings.train, state=state,
            save=(lambda reached: write_state(file, reached, identity)) if record.active else None, progress=bar, **options,
        )  # fmt: skip
        cost |= {"network_evaluations": _evaluations(settings, takes, posterior), "whole": True}
    try:
        posterior, notes = _check_mean(settings, denoiser, posterior, x0, labels)
    except InputError:
        record.close()  # the run may continue with --mean recentre
        raise
    if settings.calibrate:
        with record.stage("calibrate") as cost:
            source = named_generator(settings.seed, "calibrate")
            tau, extras = calibrate_temperature(
                denoiser,
                posterior,
                x0,
                generator=source,
                relative_increase=settings.calibrate,
                labels=labels,
            )
            posterior = posterior.scaled(tau)
            notes |= {"temperature": tau} | {f"calibration_{name}": value for name, value in extras.items()}
            cost["network_evaluations"] = int(extras["network_evaluations"])
    posterior = replace(posterior, extras={**posterior.extras, **notes})
    if record.active:
        posterior.save(record.folder / FILE)
        file.unlink(missing_ok=True)
    record.finish(posterior={"file": FILE, "estimator": posterior.estimator})
    return {"posterior": str(record.folder / FILE), "estimator": posterior.estimator, **posterior.extras}


def _options(settings: PosteriorSettings) -> dict[str, Any]:
    """The settings that are also options of the estimator."""
    names = {item.name for item in fields(settings)}
    own = [item.name for item in fields(find_estimator(settings.estimator)) if item.name in names]
    return {name: getattr(settings, name) for name in own}


def _refuse_unused(settings: PosteriorSettings) -> None:
    """Refuse an option of another estimator; one at its default is no matter, since configuration files hold all."""
    users = {
        item.name: [name for name, kind in ESTIMATORS.items() if item.name in {each.name for each in fields(kind)}]
        for item in fields(settings)
    } | {"members": ["ensemble"], "data": ["finetuned-ensemble"]}
    for item in fields(settings):
        own = not users[item.name] or settings.estimator in users[item.name]
        if not own and getattr(settings, item.name) != item.default:
            raise InputError(
                f"--{item.name.replace('_', '-')}: the estimator {settings.estimator} does not use it; leave it out, or use "
                f"{' or '.join(users[item.name])}."
            )


def _check_members(settings: PosteriorSettings, takes: str) -> None:
    if takes == "members" and len(settings.members) < 2:
        raise InputError(
            f"ensemble: got {len(settings.members)} member(s); expected at least 2 pipeline folders (--members A --members B …). "
            "With one checkpoint use fisher or finetuned-ensemble."
        )


def _identity(settings: PosteriorSettings, denoiser: PipelineDenoiser, data: ImageSet | None) -> str:
    """SHA-256 of everything that an estimation depends on; later processing may change on resume.

    Args:
        settings: of the run; the members that they name are known by the weights of all their parts.
        denoiser: the model.
        data: images to fine-tune on, if there are any.

    Returns:
        64 hexadecimal digits.
    """
    nowhere = Path()
    same = replace(
        settings, pipeline=nowhere, output_dir=nowhere, resume_from_checkpoint=None, overwrite=False, calibrate=0.0,
        mean="refuse",
    )  # fmt: skip
    device = next(denoiser.network.parameters()).device.type  # results differ by kind of device
    members = [
        f"{weights_sha256(network_of(each))}{parts_of(each) or ''}" for each in map(load_pipeline, settings.members)
    ]
    known = "" if data is None else content_of(data, denoiser.class_names)
    return sha256_bytes(f"{identity_of(denoiser)} {device} {to_toml(same)} {members} {known}".encode())


def _work(settings: PosteriorSettings, takes: str, estimator: Any) -> dict[str, tuple[float, float]]:
    """The stages, for the estimate of the time."""
    stages: dict[str, tuple[float, float]] = {"generated samples": (settings.n_samples, settings.inference_steps)}
    if takes == "samples":
        stages[settings.estimator] = (settings.n_samples, evaluations_per_sample(estimator))
    if takes == "fine-tuned members":
        stages["fine-tuning"] = (settings.n_members * settings.finetune_steps, 3 * settings.finetune_batch_size)
    return stages


def _evaluations(settings: PosteriorSettings, takes: str, posterior: GaussianPosterior) -> int:
    """Network evaluations of an estimation, including the fine-tunings."""
    tuned = 3 * settings.finetune_batch_size * settings.finetune_steps * settings.n_members
    return tuned if takes == "fine-tuned members" else int(posterior.extras.get("network_evaluations", 0))


def _check_mean(
    settings: PosteriorSettings,
    denoiser: PipelineDenoiser,
    posterior: GaussianPosterior,
    samples: Tensor,
    labels: list[Any] | None,
) -> tuple[GaussianPosterior, dict[str, float]]:
    """Check that μ* is a working model; if not, fail or re-centre at the pipeline's weights.

    Args:
        settings: with ``mean``, which selects the action.
        denoiser: the model at θ*.
        posterior: the posterior to check.
        samples: generated samples.
        labels: what they were drawn under; None for an unconditional model.

    Returns:
        The posterior and numbers for its record.

    Raises:
        InputError: if the mean is not a working model and ``settings.mean`` is "refuse".
    """
    ratio, usable = mean_is_usable(
        denoiser, posterior, samples, generator=named_generator(settings.seed, "mean"), labels=labels
    )
    if usable:
        return posterior, {"mean_loss_ratio": ratio}
    if settings.mean == "refuse":
        raise InputError(
            f"posterior: at its mean the denoising loss is {ratio:.3g} times that of the model (expected at most 1.1): the mean of "
            "independently trained networks is in general not a working network. Use --mean recentre (the variances around the "
            "model's weights; --resume-from-checkpoint latest reuses the estimation), or finetuned-ensemble, whose members share one "
            "basin."
        )
    parameters = dict(denoiser.network.named_parameters())
    return posterior.with_mean(parameters), {"mean_loss_ratio_before_recentring": min(ratio, 1e30)}
