"""``vdu unlearn`` and :func:`unlearn`: a pipeline and the images to forget in, a pipeline that no longer makes them out."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from vdu.checks import hash_parameters
from vdu.data.forget import split_by_class
from vdu.data.images import ImageSet
from vdu.data.sources import load_images
from vdu.diffusion.schedule import NoiseSchedule, kl_weights, weight_share
from vdu.errors import InputError
from vdu.methods.selective_amnesia import SelectiveAmnesia
from vdu.methods.vdu import VDU
from vdu.models.denoiser import PipelineDenoiser, load_pipeline, save_pipeline
from vdu.posterior.gaussian import GaussianPosterior
from vdu.recipes.batches import NoisyImages, UniformImages, require_divisible, together, unflatten
from vdu.recipes.card import write_card
from vdu.recipes.forget_judge import require_enough
from vdu.recipes.own_samples import make_sampler, own_samples
from vdu.recipes.posterior import load_posterior
from vdu.recipes.replay import retained_own_samples
from vdu.recipes.settings import UnlearnMethod, UnlearnSettings, to_toml
from vdu.records import Run, read_json
from vdu.rng import derive_seed, draw_seed
from vdu.rng import generator as named_generator
from vdu.training.loop import TrainResult, TrainSettings, make_accelerator, train
from vdu.types import Losses, Method, Tools

__all__ = ["UnlearnResult", "make_method", "run", "unlearn"]


@dataclass(frozen=True)
class MethodObjective:
    """A method as the training loop's objective: it puts the drawn tensors together and asks the method."""

    method: Method
    denoiser: PipelineDenoiser

    @property
    def limits(self) -> Mapping[str, float]:
        """The method's own limits of divergence."""
        return self.method.limits

    def losses(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Losses:
        """The method's losses over the network that the loop trains."""
        denoiser = self.denoiser.with_network(network)
        return self.method.losses(denoiser, unflatten(dict(batch), self.method.schedule, denoiser.schedule))

    def add_gradients(self, parameters: Mapping[str, nn.Parameter]) -> Mapping[str, float]:
        """The method's closed-form gradients."""
        return self.method.add_gradients(parameters)


@dataclass(frozen=True)
class UnlearnResult:
    """What unlearning gives.

    Attributes:
        pipeline: the new pipeline; the one that was given is untouched.
        training: the loop's result.
        network_evaluations: forward 1 and backward 2 per image.
    """

    pipeline: Any
    training: TrainResult
    network_evaluations: int


def unlearn(
    pipeline: Any,
    method: Method,
    *,
    forget: ImageSet | Path | str,
    retain: ImageSet | None = None,
    steps: int = 60,
    batch_size: int = 128,
    learning_rate: float = 1e-6,
    lr_schedule: str = "constant",
    gradient_accumulation_steps: int = 1,
    max_grad_norm: float | None = None,
    mixed_precision: str = "no",
    checkpointing_steps: int | None = None,
    generator: torch.Generator,
    folder: Path | None = None,
    resume: bool = False,
    progress: str | None = "unlearn",
) -> UnlearnResult:
    """Make a pipeline forget.

    Args:
        pipeline: an unconditional diffusers pipeline; left untouched.
        method: for example ``vdu.VDU(posterior, gamma=0.1)``.
        forget: the images to forget, or where they are (see :func:`vdu.data.sources.load_images`).
        retain: images to keep, for methods that need some: real ones, or the model's own without those of the forget
            class (:func:`vdu.recipes.replay.retained_own_samples`).
        steps: optimiser steps.
        batch_size: images of each role per step, over all processes.
        learning_rate: Adam's step size.
        lr_schedule: "constant", "linear" or "cosine".
        gradient_accumulation_steps: micro-batches per step and process.
        max_grad_norm: clip the gradient norm to this; None does not clip.
        mixed_precision: "no", "fp16" or "bf16".
        checkpointing_steps: a checkpoint every so many steps (with a folder).
        generator: one draw from it seeds everything.
        folder: a run folder for checkpoints and the log; None writes nothing.
        resume: continue from the newest checkpoint in the folder.
        progress: title of the progress bar; None shows none.

    Returns:
        The new pipeline and the record of its making.
    """
    seed = draw_seed(generator)
    original = PipelineDenoiser.from_pipeline(pipeline)
    images = forget if isinstance(forget, ImageSet) else load_images(str(forget), shape=original.sample_shape)
    denoiser = original.copy()
    accelerator = make_accelerator(mixed_precision)
    denoiser.network.to(accelerator.device)  # before the method is prepared: its posterior follows the network
    posterior = getattr(method, "posterior", None)
    if posterior is not None:
        check_origin(posterior, hash_parameters(original.network.state_dict()))
    ready = method.prepare(denoiser, Tools(n_forget=len(images)))
    make_batch = _batches(ready, {"forget": images, "retain": retain}, denoiser.sample_shape, batch_size, seed)
    settings = TrainSettings(
        steps=steps,
        learning_rate=learning_rate,
        lr_schedule=lr_schedule,
        gradient_accumulation_steps=gradient_accumulation_steps,
        max_grad_norm=max_grad_norm,
        mixed_precision=mixed_precision,
        seed=derive_seed(seed, "training"),
        checkpointing_steps=checkpointing_steps,
    )
    identity = f"{seed} {images.sha256} {hash_parameters(original.network.state_dict())} {batch_size} {method.name} {method.identity}"
    if retain is not None and "retain" in method.needs:
        identity += f" {retain.sha256}"
    result = train(
        denoiser.network, MethodObjective(ready, denoiser), make_batch, settings,
        folder=folder, resume=resume, identity=identity, progress=progress, accelerator=accelerator,
    )  # fmt: skip
    evaluations = 3 * batch_size * steps * len(method.needs)
    return UnlearnResult(replace_network(pipeline, denoiser.network), result, evaluations)


def _batches(
    method: Method, sets: Mapping[str, ImageSet | None], shape: tuple[int, int, int], batch_size: int, seed: int
) -> Callable[[int], dict[str, Tensor]]:
    """Batches of every role that the method needs, each with its own seed.

    Args:
        method: it says which roles, and at which noise levels.
        sets: the images that there are, by role.
        shape: channels, height and width of the model.
        batch_size: images of each role per step.
        seed: of the run.

    Returns:
        step → tensors.

    Raises:
        InputError: if a role has no images.
    """
    draw_weights, makers = method.draw_weights(), []
    for role in sorted(method.needs):
        role_seed = derive_seed(seed, role)
        if role == "surrogate":
            makers.append(UniformImages(role, shape, batch_size, draw_weights, role_seed))
            continue
        images = sets.get(role)
        if images is None:
            raise InputError(
                f"{role}: the method {method.name} needs such images, got none. Give real ones (--retain DATA), or let the model "
                "draw its own and drop those of the forget class (--retain self)."
            )
        if images.shape != shape:
            raise InputError(f"{role}: got images of shape {images.shape}; expected {shape}, the model's.")
        makers.append(NoisyImages(role, images, batch_size, draw_weights, role_seed))
    return together(makers)


def replace_network(pipeline: Any, network: nn.Module) -> Any:
    """A new pipeline of the same kind around another network; scheduler and other parts are copied.

    Args:
        pipeline: the pipeline to copy.
        network: its new U-Net, used as it is.

    Returns:
        The new pipeline.
    """
    parts = {name: copy.deepcopy(part) for name, part in pipeline.components.items() if name != "unet"}
    made = type(pipeline)(**parts, unet=network)
    if hasattr(pipeline, "timestep_scale"):
        made.timestep_scale = pipeline.timestep_scale
    return made


def run(settings: UnlearnSettings) -> dict[str, Any]:
    """Unlearn from the command line: check everything, then work in a run folder.

    Args:
        settings: see :class:`vdu.recipes.settings.UnlearnSettings`.

    Returns:
        A summary: the new pipeline's folder and the last step's terms.

    Raises:
        InputError: if what is given does not fit together, or the output folder is taken.
    """
    settings = replace(settings, forget=absolute(settings.forget))  # evaluate may run in another folder
    pipeline = load_pipeline(settings.pipeline)
    forget = forget_images(settings, PipelineDenoiser.from_pipeline(pipeline).sample_shape)
    method = make_method(settings)
    resume = bool(settings.resume_from_checkpoint)
    require_divisible(settings.batch_size, settings.gradient_accumulation_steps)
    if method.posterior is not None:  # now, before --overwrite empties the folder
        method.posterior.check_matches(dict(pipeline.unet.named_parameters()))
        check_origin(method.posterior, hash_parameters(pipeline.unet.state_dict()))
    if settings.retain and "retain" not in method.needs:
        raise InputError(
            f"--retain: got {settings.retain}, but the method {method.name} looks at forget images only. "
            "Leave it out, or use --method selective-amnesia."
        )
    if settings.retain == "self":  # before --overwrite empties the folder, and before samples are drawn
        require_enough("forget images", len(forget))
        require_enough("own samples (--n-own-samples)", settings.n_own_samples)
    retain = None
    if settings.retain not in {None, "self"}:
        retain = load_images(str(settings.retain), shape=forget.shape, convert=settings.convert)
        known = retain.class_names or ()
        if retain.labels is not None and (shared := [name for name in settings.forget_class if name in known]):
            retain = split_by_class(retain, shared)[1]  # what is to be forgotten is not replayed
    keep = (settings.pipeline, settings.forget, settings.posterior, settings.retain)
    record = Run(settings.output_dir, "unlearn", overwrite=settings.overwrite, resume=resume, keep=keep)
    inputs = _inputs(settings, pipeline, forget, method)
    record.start(to_toml(settings), inputs)
    if settings.retain == "self":
        with record.stage("replay") as cost:
            denoiser, seed = PipelineDenoiser.from_pipeline(pipeline), derive_seed(settings.seed, "replay")
            samples = own_samples(denoiser, settings.n_own_samples, make_sampler(settings), seed=seed)
            retain, judged = retained_own_samples(forget, samples, seed=seed)
            cost["filter"] = judged["forget"]
            cost["network_evaluations"] = settings.n_own_samples * settings.inference_steps
    with record.stage("unlearn") as cost:
        result = unlearn(
            pipeline,
            method,
            forget=forget,
            retain=retain,
            steps=settings.steps,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            lr_schedule=settings.lr_schedule,
            gradient_accumulation_steps=settings.gradient_accumulation_steps,
            max_grad_norm=settings.max_grad_norm,
            mixed_precision=settings.mixed_precision,
            checkpointing_steps=settings.checkpointing_steps,
            generator=named_generator(settings.seed, "unlearn"),
            folder=record.folder,
            resume=resume,
        )
        cost["network_evaluations"] = result.network_evaluations
    with record.replacing("pipeline") as temporary:
        save_pipeline(result.pipeline, temporary)
        told = {
            name: getattr(settings, name)
            for name in (
                *(("gamma", "weights", "alpha_bar_min", "alpha_bar_max") if isinstance(method, VDU) else ("ewc",)),
                "steps",
                "batch_size",
                "learning_rate",
                "seed",
            )
        }
        write_card(temporary, inputs, method.name, told)
    sha256 = hash_parameters(result.pipeline.unet.state_dict())
    extras: dict[str, Any] = {}
    if isinstance(method, VDU):
        extras["weight_share"] = weight_share(kl_weights(method.schedule, method.weights))
    if retain is not None:
        extras["retain"] = {"source": settings.retain, "description": retain.description, "sha256": retain.sha256}
    record.finish(pipeline={"sha256": sha256, "weights": "raw"}, **extras)
    last = result.training.last
    return {
        "pipeline": str(record.folder / "pipeline"),
        "sha256": sha256,
        **last.get("terms", {}),
        **last.get("observed", {}),
    }


def absolute(source: str) -> str:
    """A source of images with its path made absolute, where it has one."""
    from vdu.data.sources import NAMES

    kind, colon, place = source.rpartition(":")
    return source if source in NAMES or not Path(place).exists() else f"{kind}{colon}{Path(place).resolve()}"


def check_origin(posterior: GaussianPosterior, sha256: str) -> None:
    """Refuse a posterior that was estimated for other weights, even of the same architecture.

    Raises:
        InputError: if the posterior's record names another pipeline.
    """
    made_for = posterior.sources.get("pipeline")
    if made_for not in {None, sha256}:
        raise InputError(
            f"posterior: was made for the model with SHA-256 {str(made_for)[:12]}…, this one has {sha256[:12]}…; expected the same "
            "weights, for its mean pulls towards them. Make one for this model with `vdu posterior`."
        )


def forget_images(settings: UnlearnSettings, shape: tuple[int, int, int]) -> ImageSet:
    """The images to forget, checked against the model's size.

    Args:
        settings: where they are, and which classes of them.
        shape: channels, height and width of the model.

    Returns:
        The forget set.

    Raises:
        InputError: if classes are asked of images without labels, or the reverse on a labelled data set.
    """
    images = load_images(settings.forget, shape=shape, convert=settings.convert)
    if settings.forget_class:
        return split_by_class(images, settings.forget_class)[0]
    if images.labels is not None and len(images.labels.unique()) > 1:
        names = images.class_names or tuple(map(str, images.labels.unique().tolist()))
        raise InputError(
            f"forget: {settings.forget} holds {len(names)} classes ({', '.join(names[:10])}); say which to forget with --forget-class, "
            "or give a folder that holds nothing but the unwanted images."
        )
    return images


def make_method(settings: UnlearnSettings) -> VDU | SelectiveAmnesia:
    """The method that the settings ask for.

    Args:
        settings: method, posterior, γ and schedule.

    Returns:
        The method.

    Raises:
        InputError: if there is no such method, it needs a posterior and there is none, or the reverse.
    """
    if settings.method not in get_args(UnlearnMethod):  # a settings object made in Python or from a table
        raise InputError(f"method: got {settings.method!r}; expected one of {', '.join(get_args(UnlearnMethod))}.")
    ascent = settings.method == "ascent"
    if ascent and settings.posterior is not None:
        raise InputError(
            f"--posterior: got {settings.posterior}, but ascent is the method without a regulariser and would not look at it. "
            "Leave it out, or use --method vdu."
        )
    estimator = "amnesia-fisher" if settings.method == "selective-amnesia" else "fisher"
    if settings.posterior is None and not ascent:
        n_train = " --n-train N" if estimator == "fisher" else ""
        raise InputError(
            f"--posterior is missing, which the method {settings.method} needs; make one with "
            f"`vdu posterior {estimator} --pipeline {settings.pipeline}{n_train} --output-dir OUT` (no training data needed)."
        )
    posterior = None if ascent or settings.posterior is None else load_posterior(settings.posterior)
    if settings.method == "selective-amnesia":
        assert posterior is not None
        return SelectiveAmnesia(posterior, replay="self" if settings.retain else "none", ewc=settings.ewc)
    return VDU(
        posterior=posterior,
        gamma=0.0 if ascent else settings.gamma,
        weights=settings.weights,
        schedule=NoiseSchedule.linear(settings.schedule_steps, settings.beta_start, settings.beta_end),
        alpha_bar_range=(settings.alpha_bar_min, settings.alpha_bar_max),
    )


def _inputs(
    settings: UnlearnSettings, pipeline: Any, forget: ImageSet, method: VDU | SelectiveAmnesia
) -> dict[str, Any]:
    inputs: dict[str, Any] = {
        "model": {"path": str(settings.pipeline.resolve()), "sha256": hash_parameters(pipeline.unet.state_dict())},
        "forget": {
            "source": settings.forget,
            "classes": _class_names(forget) if settings.forget_class else [],
            "description": forget.description,
            "n_images": len(forget),
            "sha256": forget.sha256,
        },
    }
    if method.posterior is not None and settings.posterior is not None:
        inputs["posterior"] = {
            "path": str(settings.posterior.resolve()),
            "sha256": method.posterior.sha256,
            "estimator": method.posterior.estimator,
        }
    return inputs


def _class_names(images: ImageSet) -> list[str]:
    present = [] if images.labels is None else images.labels.unique().tolist()
    return [images.class_names[label] if images.class_names else str(label) for label in present]


def reload_forget(folder: Path, shape: tuple[int, int, int]) -> ImageSet:
    """The forget set of a finished run, checked to be the same images.

    Args:
        folder: the run folder.
        shape: channels, height and width of the model.

    Returns:
        The images.

    Raises:
        InputError: if the images are not those that the run forgot.
    """
    import tomllib

    config = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
    names = ("forget", "forget_class", "convert", "pipeline", "output_dir")
    images = forget_images(UnlearnSettings(**{name: config[name] for name in names if name in config}), shape)
    expected = read_json(folder / "run.json")["inputs"]["forget"]["sha256"]
    if images.sha256 != expected:
        raise InputError(
            f"forget: the images at {config['forget']} are not those that this run forgot (their hash differs). Put them back."
        )
    return images
