"""``vdu posterior`` and :func:`fit_posterior`: mean and variance of the pre-trained weights, by one of five estimators."""

import copy
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vdu.commands.pretrain import PretrainSettings
from vdu.commands.settings import PosteriorSettings, to_toml
from vdu.core.checks import hash_parameters
from vdu.core.errors import InputError
from vdu.core.records import atomic_folder
from vdu.core.rng import derive_seed, draw_seed
from vdu.core.rng import generator as named_generator
from vdu.core.runs import Run
from vdu.data.images import ImageSet
from vdu.diffusion.sampling import Sampler
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.pipelines import load_pipeline, save_pipeline
from vdu.posterior.amnesia_fisher import fit_amnesia_fisher
from vdu.posterior.calibrate import calibrate_temperature, mean_is_usable
from vdu.posterior.ensemble import fit_ensemble
from vdu.posterior.fisher import fit_fisher
from vdu.posterior.gaussian import GaussianPosterior
from vdu.posterior.isotropic import fit_isotropic
from vdu.posterior.names import select_names
from vdu.replay.generated import cached_samples, generate_samples
from vdu.training.loop import make_accelerator
from vdu.training.pretraining import fit

__all__ = ["fit_posterior", "load_posterior", "run"]

FILE = "posterior.safetensors"


def fit_posterior(
    pipeline: Any,
    estimator: str,
    *,
    generator: torch.Generator,
    samples: Tensor | None = None,
    n_samples: int = 200,
    sampler: Sampler | None = None,
    members: Iterable[Any] = (),
    variance: float = 1e-4,
    **options: Any,
) -> GaussianPosterior:
    """Estimate a posterior in memory.

    Args:
        pipeline: the pre-trained diffusers pipeline.
        estimator: "fisher", "amnesia-fisher", "ensemble" or "isotropic" (fine-tuned ensembles write files: use ``vdu posterior``).
        generator: one draw from it seeds everything.
        samples: fishers: own samples, [N, channels, height, width] in [−1, 1]; by default ``n_samples`` are drawn.
        n_samples: how many to draw.
        sampler: how to draw them; by default with 20 ancestral steps.
        members: ensemble: pipelines of the members; an iterator keeps one in memory at a time.
        variance: isotropic: the variance of every weight.
        **options: fisher: ``n_train`` (required), ``draws_per_half``, ``prior_precision`` and the other arguments of
            :func:`vdu.posterior.fisher.fit_fisher`; amnesia-fisher: those of
            :func:`vdu.posterior.amnesia_fisher.fit_amnesia_fisher`; ensemble: those of
            :func:`vdu.posterior.ensemble.fit_ensemble`.

    Returns:
        The posterior.

    Raises:
        InputError: if the estimator is unknown or lacks what it needs.
    """
    denoiser = PipelineDenoiser.from_pipeline(pipeline)
    seed = draw_seed(generator)
    if estimator in {"fisher", "amnesia-fisher"}:
        if estimator == "fisher" and options.get("n_train") is None:
            raise InputError(
                "fisher: n_train is missing; give the size of the set that the model was trained on (for MNIST 60000)."
            )
        if samples is None:
            samples = generate_samples(
                denoiser,
                n_samples,
                sampler or Sampler(scheduler="ddpm", steps=20),
                seed=derive_seed(seed, "own samples"),
            ).floats()
        fit = fit_fisher if estimator == "fisher" else fit_amnesia_fisher
        source = torch.Generator().manual_seed(derive_seed(seed, "fisher"))
        posterior = fit(denoiser, samples, generator=source, **options)
    elif estimator == "ensemble":
        posterior = fit_ensemble((dict(member.unet.named_parameters()) for member in members), **options)
    elif estimator == "isotropic":
        posterior = fit_isotropic(dict(denoiser.network.named_parameters()), variance)
    else:
        raise InputError(f"estimator: got {estimator!r}; expected fisher, amnesia-fisher, ensemble or isotropic.")
    return replace(posterior, sources={**posterior.sources, "pipeline": hash_parameters(pipeline.unet.state_dict())})


def load_posterior(path: Path) -> GaussianPosterior:
    """Load a posterior from its file or from the run folder of ``vdu posterior``."""
    return GaussianPosterior.load(path / FILE if path.is_dir() else path)


def run(settings: PosteriorSettings) -> dict[str, Any]:
    """Estimate a posterior and save it in a run folder.

    Args:
        settings: see :class:`vdu.commands.settings.PosteriorSettings`.

    Returns:
        A summary: file, estimator, numbers from its making.
    """
    _check(settings)
    pipeline = load_pipeline(settings.pipeline).to(make_accelerator().device)
    denoiser = PipelineDenoiser.from_pipeline(pipeline)
    sampler = settings.sampler()
    select_names(dict(denoiser.network.named_parameters()), settings.name_filter)
    sampler.make(denoiser)  # both refuse now what the model's schedule cannot do
    resume, keep = bool(settings.resume_from_checkpoint), (settings.pipeline, *settings.members, settings.data)
    record = Run(settings.output_dir, "posterior", overwrite=settings.overwrite, resume=resume, keep=keep)
    model = {"path": str(settings.pipeline), "sha256": hash_parameters(pipeline.unet.state_dict())}
    record.start(to_toml(settings), {"model": model})
    n = settings.n_samples
    with record.stage("own samples") as cost:
        samples, _ = cached_samples(denoiser, n, sampler)
        cost["network_evaluations"] = n * settings.inference_steps  # also of those in the cache: somebody paid for them
    with record.stage(settings.estimator) as cost:
        posterior, cost["network_evaluations"] = _estimate(settings, pipeline, samples, record.folder)
    posterior, notes = _check_mean(settings, denoiser, posterior, samples.floats())
    if settings.calibrate:
        with record.stage("calibrate") as cost:
            source = named_generator(settings.seed, "calibrate")
            tau, extras = calibrate_temperature(
                denoiser, posterior, samples.floats(), generator=source, relative_increase=settings.calibrate
            )
            posterior = posterior.scaled(tau)
            notes |= {"temperature": tau} | {f"calibration_{name}": value for name, value in extras.items()}
            cost["network_evaluations"] = int(extras["network_evaluations"])
    posterior = replace(
        posterior, extras={**posterior.extras, **notes}, sources={**posterior.sources, "pipeline": model["sha256"]}
    )
    posterior.save(record.folder / FILE)
    record.finish(posterior={"file": FILE, "estimator": posterior.estimator})
    return {"posterior": str(record.folder / FILE), "estimator": posterior.estimator, **posterior.extras}


def _check(settings: PosteriorSettings) -> None:
    if settings.estimator == "ensemble" and len(settings.members) < 2:
        raise InputError(
            f"ensemble: got {len(settings.members)} member(s); expected at least 2 pipeline folders (--members A --members B …). "
            "With one checkpoint use fisher or finetuned-ensemble."
        )
    if settings.estimator == "fisher" and settings.n_train is None:
        raise InputError(
            "fisher: --n-train is missing; give the size of the set that the model was trained on (for MNIST 60000)."
        )


def _estimate(
    settings: PosteriorSettings, pipeline: Any, samples: ImageSet, folder: Path
) -> tuple[GaussianPosterior, int]:
    if settings.estimator == "finetuned-ensemble":
        return _finetuned(settings, pipeline, samples, folder)
    options: dict[str, Any] = {}
    if settings.estimator == "fisher":
        options = {"n_train": settings.n_train, "samples": samples.floats(), "draws_per_half": settings.draws_per_half}
        options |= {
            "prior_precision": settings.prior_precision,
            "name_filter": settings.name_filter,
            "progress": _bar("fisher"),
        }
    elif settings.estimator == "amnesia-fisher":
        options = {"samples": samples.floats(), "timesteps_per_sample": settings.timesteps_per_sample}
        options |= {"name_filter": settings.name_filter, "progress": _bar("amnesia-fisher")}
    elif settings.estimator == "ensemble":
        options = {"members": map(load_pipeline, settings.members), "name_filter": settings.name_filter}
    posterior = fit_posterior(
        pipeline,
        settings.estimator,
        generator=named_generator(settings.seed, "estimator"),
        variance=settings.variance,
        **options,
    )
    return posterior, int(posterior.extras.get("network_evaluations", 0))


def _bar(title: str) -> Any:
    import sys

    from tqdm import tqdm

    bar = tqdm(desc=title, unit="sample", file=sys.stderr, mininterval=1)

    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return show


def _finetuned(
    settings: PosteriorSettings, pipeline: Any, samples: ImageSet, folder: Path
) -> tuple[GaussianPosterior, int]:
    """K short fine-tunings of one checkpoint with different seeds; each is kept in members/ and not made twice.

    Args:
        settings: the posterior's settings.
        pipeline: the pre-trained pipeline.
        samples: own samples, trained on where no data is given.
        folder: the run folder.

    Returns:
        The posterior and the network evaluations that it took.
    """
    from vdu.data.sources import load_images

    images = load_images(settings.data, shape=samples.shape) if settings.data else samples
    folders = [folder / "members" / str(k) for k in range(settings.n_members)]
    for k, target in enumerate(folders):
        if (target / "pipeline").is_dir():
            continue
        how = PretrainSettings(
            data="", output_dir=target, steps=settings.finetune_steps, batch_size=settings.finetune_batch_size,
            learning_rate=settings.finetune_learning_rate, lr_schedule="constant", warmup_steps=0, ema_decay=0.0,
            seed=derive_seed(settings.seed, "member", k), checkpointing_steps=max(settings.finetune_steps // 4, 1),
        )  # fmt: skip
        member = copy.deepcopy(pipeline)
        target.mkdir(parents=True, exist_ok=True)
        fit(
            PipelineDenoiser.from_pipeline(member), images, how.training(), batch_size=how.batch_size, seed=how.seed,
            folder=target, resume=True, progress="pretrain",
        )  # fmt: skip
        with atomic_folder(target / "pipeline") as temporary:
            save_pipeline(member, temporary)
    posterior = fit_ensemble(
        (dict(load_pipeline(path / "pipeline").unet.named_parameters()) for path in folders),
        name_filter=settings.name_filter,
    )
    evaluations = 3 * settings.finetune_batch_size * settings.finetune_steps * settings.n_members
    return replace(posterior, estimator="finetuned-ensemble"), evaluations


def _check_mean(
    settings: PosteriorSettings, denoiser: PipelineDenoiser, posterior: GaussianPosterior, samples: Tensor
) -> tuple[GaussianPosterior, dict[str, float]]:
    """Whether μ* is a working model: if not, refuse or re-centre at the pipeline's own weights.

    Args:
        settings: what to do.
        denoiser: the model at θ*.
        posterior: to be checked.
        samples: own samples.

    Returns:
        The posterior and numbers for its record.

    Raises:
        InputError: if the mean is no working model and ``settings.mean`` is "refuse".
    """
    ratio, usable = mean_is_usable(denoiser, posterior, samples, generator=named_generator(settings.seed, "mean"))
    if usable:
        return posterior, {"mean_loss_ratio": ratio}
    if settings.mean == "refuse":
        raise InputError(
            f"posterior: at its mean the denoising loss is {ratio:.3g} times that of the model (expected at most 1.1): the mean of "
            "networks trained independently is in general no working network. Use --mean recentre (the variances around the model's "
            "own weights), or finetuned-ensemble, whose members share one basin."
        )
    parameters = dict(denoiser.network.named_parameters())
    return posterior.with_mean(parameters), {"mean_loss_ratio_before_recentring": min(ratio, 1e30)}
