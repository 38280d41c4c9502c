"""A posterior over a pipeline's weights in one call, by any registered estimator."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vdu.core.checks import require_generator
from vdu.core.errors import InputError, shown
from vdu.core.paths import given_path
from vdu.core.progress import Bar, bar
from vdu.core.python_names import names_arguments
from vdu.core.ranges import COUNT, require_given, require_kind, require_number
from vdu.core.records import read_json
from vdu.core.rng import derive_seed, draw_seed
from vdu.core.room import require_room
from vdu.core.surroundings import undisturbed
from vdu.data.images import ImageSet
from vdu.diffusion.sampling import Sampler
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.identity import configuration_sha256, identity, weights_sha256
from vdu.models.lora import trained_weights
from vdu.models.pipelines import load_pipeline
from vdu.models.reading import in_training
from vdu.posterior.ensemble import FinetunedEnsemble
from vdu.posterior.estimators import make_estimator
from vdu.posterior.fit import Progress, Save, fit_samples, take_all
from vdu.posterior.gaussian import GaussianPosterior
from vdu.posterior.protocol import State
from vdu.replay.generated import generate_samples
from vdu.training.batches import ENCODING, encoded, labels_for
from vdu.unlearning.fine_tuned_members import fine_tuned_members
from vdu.unlearning.prompts import sampled

__all__ = ["FILE", "evaluations_per_sample", "fit_posterior", "load_posterior", "progress_bar", "with_labels"]

N_SAMPLES = 200
FILE = "posterior.safetensors"  # in the run folder of ``vdu posterior``


def load_posterior(path: Path | str) -> GaussianPosterior:
    """Load a posterior from its file or from the run folder of ``vdu posterior``; an unfinished run is refused (``InputError``)."""
    path = given_path(path, "posterior")
    folder = path if path.is_dir() else path.parent if path.name == FILE else None
    run = read_json(folder / "run.json") if folder and (folder / "run.json").is_file() else {}
    unfinished = bool(run) and not run.get("finished")
    if unfinished and (path.is_dir() or run.get("verb") == "posterior"):  # else the file is the run's own
        raise InputError(
            f"{path}: this run of `vdu {run.get('verb')}` is not finished, and its file would be an earlier one; expected a finished run. "
            "Continue it with --resume-from-checkpoint latest."
        )
    return GaussianPosterior.load(path / FILE if path.is_dir() else path)


@names_arguments
@undisturbed()
def fit_posterior(
    pipeline: Any,
    estimator: str,
    *,
    generator: torch.Generator,
    samples: Tensor | None = None,
    labels: Sequence[Any] | None = None,
    train: str = "all",
    n_samples: int | None = None,
    sampler: Sampler | None = None,
    members: Iterable[Any] | None = None,
    state: State | None = None,
    save: Save | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> GaussianPosterior:
    """Estimate a posterior in memory.

    Args:
        pipeline: the pre-trained diffusers pipeline.
        estimator: "fisher", "amnesia-fisher", "ensemble", "finetuned-ensemble" or "isotropic".
        generator: one draw from it seeds everything.
        samples: fishers: generated samples of the model, [N, channels, height, width] in [−1, 1]; by default
            ``n_samples`` are drawn.
        labels: conditional models: the class (by name or number, :func:`vdu.core.class_names.class_index`) or prompt that each sample was
            drawn under.
        train: what an unlearning is to train, as for :func:`vdu.unlearning.unlearn.unlearn`: the posterior covers these weights alone, for
            low-rank corrections ("lora:8") the weights that they correct.
        n_samples: number of samples to draw; by default 200.
        sampler: their sampler; by default 20 ancestral steps.
        members: ensembles: pipelines of the members, their folders, or their named weights; an iterator keeps one in memory at a time.
            A fine-tuned ensemble makes them itself without.
        state: stored state of the same, interrupted estimation.
        save: called with the state from time to time; see :func:`vdu.posterior.fit.take_all`.
        progress: called with (items done, total items).
        **options: the estimator's own: the arguments of :class:`vdu.posterior.fisher.Fisher` (``n_train`` is required),
            :class:`vdu.posterior.amnesia_fisher.AmnesiaFisher`, :class:`vdu.posterior.ensemble.Ensemble`,
            :class:`vdu.posterior.ensemble.FinetunedEnsemble` or
            :class:`vdu.posterior.isotropic.Isotropic`.

    Returns:
        The posterior.

    Raises:
        InputError: if an argument is of another kind or out of its range; see the classes above for the options.
    """
    chosen = make_estimator(estimator, **options)
    require_generator(generator)
    require_kind("samples", samples, Tensor, "a tensor [images, channels, height, width] in [−1, 1]")
    require_kind("sampler", sampler, Sampler, "a vdu.Sampler")
    require_kind("state", state, State, "the state of the same, interrupted estimation")
    if n_samples is not None:
        require_number("n_samples", n_samples, COUNT)
    for name, called in (("save", save), ("progress", progress)):
        if called is not None and not callable(called):
            raise InputError(f"{name}: got {shown(called)}; expected a function, or None.")
    require_given({"members": members}, "members")
    if members is not None and (not isinstance(members, Iterable) or isinstance(members, str | bytes | Mapping)):
        raise InputError(
            f"members: got {shown(members)}; expected pipelines or their folders, as a list or an iterator."
        )
    for name, given in (("samples", samples), ("members", members)):
        if given is not None and name not in chosen.takes:
            raise InputError(f"{name}: got some, and the estimator {estimator} takes none. Leave them out.")
    if labels is not None and samples is None:
        raise InputError("labels: got some without samples; expected both, or neither.")
    draws = samples is None if chosen.takes == "samples" else isinstance(chosen, FinetunedEnsemble) and members is None
    for name, given in (("n_samples", n_samples), ("sampler", sampler)):
        if given is not None and not draws:
            why = (
                f"the estimator {estimator} takes none"
                if samples is members is None
                else "samples or members are given"
            )
            raise InputError(f"{name}: got {shown(given)}, and no samples are drawn: {why}. Leave it out.")
    denoiser = PipelineDenoiser.from_pipeline(pipeline)
    if n_samples is not None:
        require_room("n_samples", n_samples, denoiser.image_shape)
    labels = None if labels is None else denoiser.meant(labels)
    part = in_training(denoiser, train)
    trained = trained_weights(part.network, train)
    part = part if train == "all" else part.with_network(trained)
    if (
        samples is not None and not denoiser.is_latent and bool((samples.abs() > 1.001).any())
    ):  # room for half precision
        raise InputError(
            f"samples: got values from {float(samples.min()):g} to {float(samples.max()):g}; expected −1 to 1. Convert x in [0, 1] with "
            "2 * x - 1, and 8-bit pixels with vdu.data.images.to_float."
        )
    seed = draw_seed(generator)

    def drawn() -> ImageSet:
        how = sampler or Sampler(scheduler="ddpm", steps=20)
        return generate_samples(
            sampled(denoiser), N_SAMPLES if n_samples is None else n_samples, how, seed=derive_seed(seed, "own samples")
        )

    if chosen.takes == "samples":
        if samples is None:
            samples, labels = with_labels(denoiser, drawn())
        if samples.is_floating_point():  # others are refused
            samples = samples.to(next(denoiser.network.parameters()).dtype)
        source = torch.Generator().manual_seed(derive_seed(seed, "fisher"))
        posterior = fit_samples(
            chosen, part, samples, labels=labels, generator=source, state=state, save=save, progress=progress
        )  # fmt: skip
    else:
        if isinstance(chosen, FinetunedEnsemble) and members is None:
            members = fine_tuned_members(chosen, part, drawn(), seed=derive_seed(seed, "members"))
        state = state or chosen.init(part)
        others = (_weights(each, denoiser, train) for each in islice(members or (), state.count, None))
        posterior = chosen.posterior(take_all(chosen, state, others, part, save=save, progress=progress))
    own = {"pipeline": weights_sha256(denoiser.network), "model": identity(denoiser)}
    return replace(posterior, sources={**posterior.sources, **own})


def with_labels(
    denoiser: PipelineDenoiser, images: ImageSet, *, progress: bool = False
) -> tuple[Tensor, list[Any] | None]:
    """Images as samples of a model, with what they were drawn under.

    Args:
        denoiser: the model.
        images: with labels if it is conditional.
        progress: show a bar while a latent model encodes them.

    Returns:
        The samples in the model's own space, and the names of their classes or their prompts; None for an unconditional model.
    """
    title = ENCODING if progress else None
    if not denoiser.class_names:
        return encoded(denoiser, images.images, progress=title), None
    labels = labels_for(denoiser, images, torch.arange(len(images)), "samples")
    return encoded(denoiser, images.images, progress=title), [
        denoiser.class_names[each] if isinstance(each, int) else each for each in labels
    ]


def _weights(member: Any, denoiser: PipelineDenoiser, train: str) -> dict[str, Tensor]:
    """The named weights of a member, in the form in which it trains: with those of its text encoder where these train.

    Returns:
        The weights.

    Raises:
        InputError: if a pipeline's weights mean something else than the model's: another schedule, prediction type or architecture.
    """
    if isinstance(member, Mapping):
        return dict(member)
    pipeline = load_pipeline(member) if isinstance(member, str | Path) else member
    own = PipelineDenoiser.from_pipeline(pipeline)
    weights: dict[str, Tensor] = dict(in_training(own, train).network.named_parameters())
    known = {name: value.shape for name, value in in_training(denoiser, train).network.named_parameters()}
    same_shapes = known == {name: value.shape for name, value in weights.items()}  # others are refused by name
    alike = replace(own, scheduler_config=denoiser.scheduler_config)  # how samples are drawn is no matter
    if same_shapes and configuration_sha256(alike) != configuration_sha256(denoiser):
        raise InputError(
            f"members: {shown(member)} is another kind of model than the pipeline, with as many weights (its noise schedule, prediction "
            "type, timestep scale, classes or network options differ); expected members trained like the pipeline."
        )
    return weights


def evaluations_per_sample(estimator: Any) -> int:
    """Network evaluations of a Fisher estimator for one generated sample: forward 1, backward 2."""
    return 3 * (
        2 * estimator.draws_per_half if hasattr(estimator, "draws_per_half") else estimator.timesteps_per_sample
    )


def progress_bar(title: str) -> Progress:
    """A bar on standard error for :func:`fit_posterior`."""
    shown: list[Bar] = []

    def show(done: int, total: int) -> None:
        if not shown:
            shown.append(bar(title, total, "sample"))
        shown[0].update(done - shown[0].n)
        if done == total:
            shown[0].close()

    return show
