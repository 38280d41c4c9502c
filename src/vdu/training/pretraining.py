"""Training or fine-tuning a denoiser with the mean squared error of the noise.

L(θ) = E ‖ε − ε_θ(x_t, t)‖² / d,  t uniform over 1 … T      (Ho et al. 2020, arXiv 2006.11239, Eq. 14)
"""

from pathlib import Path
from typing import Any

from vdu.core.rng import derive_seed
from vdu.core.surroundings import undisturbed
from vdu.core.types import Denoiser
from vdu.data.forget_source import content_of
from vdu.data.images import ImageSet
from vdu.models.identity import identity as identity_of
from vdu.training.accelerator import make_accelerator
from vdu.training.batches import NoisyImages
from vdu.training.denoising import DenoisingObjective
from vdu.training.loop import TrainResult, TrainSettings, train

__all__ = ["fit", "identity"]


@undisturbed()
def fit(
    denoiser: Denoiser,
    images: ImageSet,
    settings: TrainSettings,
    *,
    batch_size: int,
    seed: int,
    folder: Path | None = None,
    resume: bool = False,
    progress: str | None = None,
    alpha_bar_range: tuple[float, float] = (0.0, 1.0),
    label_dropout: float = 0.0,
    compile_network: bool = False,
    report_to: Any = "none",
) -> TrainResult:
    """Train a denoiser's network in place; its weights become the averaged ones if there is an average.

    Args:
        denoiser: the model to train.
        images: the training images.
        settings: the loop's settings.
        batch_size: images per step, over all processes.
        seed: seeds the batches.
        folder: the run folder, or None to write nothing.
        resume: continue from the newest checkpoint.
        progress: title of the progress bar; None shows none.
        alpha_bar_range: only noise levels with ᾱ in this range are trained on.
        label_dropout: the probability with which a label becomes the null condition, for classifier-free guidance.
        compile_network: compile the network in place.
        report_to: an experiment tracker for the log's values.

    Returns:
        The result of the loop.
    """
    denoiser = denoiser.with_network(
        denoiser.network
    )  # turns off what the network does to labels in training by itself
    network = denoiser.network
    levels = denoiser.schedule.within(alpha_bar_range).double()
    make_batch = NoisyImages("data", images, batch_size, levels, derive_seed(seed, "batches"), denoiser, label_dropout)
    known = identity(
        denoiser, images, batch_size=batch_size, alpha_bar_range=alpha_bar_range, label_dropout=label_dropout,
        compile_network=compile_network,
    )  # fmt: skip
    if compile_network:
        network.compile()  # in place, so that the names of the weights stay; it also chooses memory formats
    result = train(
        network, DenoisingObjective(denoiser), make_batch, settings, folder=folder, resume=resume, identity=known,
        progress=progress, accelerator=make_accelerator(settings.mixed_precision, report_to=report_to, folder=folder),
    )  # fmt: skip
    result.load_average(network)
    return result


def identity(
    denoiser: Denoiser,
    images: ImageSet,
    *,
    batch_size: int,
    alpha_bar_range: tuple[float, float] = (0.0, 1.0),
    label_dropout: float = 0.0,
    compile_network: bool = False,
) -> str:
    """What must be equal when a training is resumed, besides the settings of the loop; arguments as for :func:`fit`."""
    known = f"{content_of(images, denoiser.class_names)} {identity_of(denoiser)} {batch_size}"
    if tuple(alpha_bar_range) != (0.0, 1.0):
        known += f" {tuple(alpha_bar_range)}"
    if denoiser.class_names:
        known += f" label dropout {label_dropout}"
    return known + " compiled" * compile_network  # whose results differ in their last bits
