"""The first part of a training on reduced images, where a step costs less: attention costs with the square of the pixels.

The network must take images of any size, as the paper's does. The last part is a plain ``vdu pretrain --from``. Training on growing
images is known from other generators (Karras, Aila, Laine & Lehtinen 2018, "Progressive Growing of GANs", arXiv 1710.10196); here the
network does not grow.
"""

from pathlib import Path
from typing import Any

from vdu.commands.pretrain import PretrainSettings, training_images
from vdu.core.records import atomic_folder
from vdu.data.decode import fit_shape
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.networks import new_pipeline
from vdu.models.pipelines import network_of
from vdu.models.saving import save_pipeline
from vdu.training.loop import TrainSettings
from vdu.training.pretraining import fit

__all__ = ["trained_coarsely"]


def trained_coarsely(settings: PretrainSettings, folder: Path, *, size: int, steps: int) -> Path:
    """Train a new model on images that are reduced to a smaller square.

    Args:
        settings: those of the whole training: data, model, batches, seed; the learning rate stays at its highest.
        folder: for checkpoints, from which an interrupted training goes on, and the model.
        size: the side of the reduced images, in pixels.
        steps: optimiser steps.

    Returns:
        The folder of the pipeline with the average of the weights, for whole images again.
    """
    done = folder / "pipeline"
    if done.exists():
        return done
    images = training_images(settings.data, settings.without, None)
    channels, height, _ = images.shape
    pipeline = new_pipeline(images.shape, seed=settings.seed, model=settings.model)
    network: Any = network_of(pipeline)
    network.register_to_config(sample_size=size)
    training = TrainSettings(
        steps=steps, learning_rate=settings.learning_rate, lr_schedule="constant", warmup_steps=settings.warmup_steps,
        ema_decay=settings.ema_decay or None, mixed_precision=settings.mixed_precision,
        seed=settings.seed, checkpointing_steps=settings.checkpointing_steps, checkpoints_total_limit=1,
    )  # fmt: skip
    reduced = fit_shape(images, (channels, size, size), True)
    fit(
        PipelineDenoiser.from_pipeline(pipeline), reduced, training, batch_size=settings.batch_size, seed=settings.seed,
        folder=folder, resume=True, progress=f"{size}×{size} pixels",
    )  # fmt: skip
    network.register_to_config(sample_size=height)
    with atomic_folder(done) as temporary:  # a folder that is there is whole
        save_pipeline(pipeline, temporary)
    return done
