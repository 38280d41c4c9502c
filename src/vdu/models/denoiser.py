"""One face over diffusers' pipelines: whatever the network predicts, methods see the noise ε.

    prediction type   the network gives       ε
    epsilon           ε                       itself
    v_prediction      v = √ᾱ ε − √(1−ᾱ) x0    √ᾱ v + √(1−ᾱ) x_t
    sample            x0                      (x_t − √ᾱ x0) / √(1−ᾱ)

Channels of a learned variance are dropped, and timesteps are scaled if the network wants them so (improved-diffusion
multiplies them by 1000/T; diffusers' configuration has no field for it, so it is kept in ``vdu.json`` beside the model).

Not guaranteed: ε at a noise level with ᾱ = 0 exactly (nothing of x0 is left; v says nothing about ε there).
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from vdu.core.errors import InputError
from vdu.core.records import read_json, sha256_bytes, write_json
from vdu.diffusion.schedule import NoiseSchedule

__all__ = [
    "DenoiserAround",
    "PipelineDenoiser",
    "hash_configuration",
    "load_pipeline",
    "replace_network",
    "save_pipeline",
]

EXTRA_FILE = "vdu.json"
OWN_NETWORKS = ("vdu.models.ddpm_pytorch",)
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


@dataclass(frozen=True)
class PipelineDenoiser:
    """An unconditional pixel-space pipeline (``DDPMPipeline``, ``DDIMPipeline`` and their like) as a denoiser.

    Attributes:
        network: the U-Net, called as ``network(x_t, timestep).sample`` or giving a tensor.
        schedule: the network's own noise schedule.
        prediction_type: "epsilon", "v_prediction" or "sample".
        sample_shape: channels, height, width of one image.
        scheduler_config: the configuration of the pipeline's own scheduler, for sampling.
        timestep_scale: what timesteps are multiplied by before the network sees them.
    """

    network: nn.Module
    schedule: NoiseSchedule
    prediction_type: str
    sample_shape: tuple[int, int, int]
    scheduler_config: dict[str, Any] = field(repr=False)
    timestep_scale: float = 1.0

    @classmethod
    def from_pipeline(cls, pipeline: Any) -> Self:
        """Read everything from a diffusers pipeline that has ``unet`` and ``scheduler``.

        Args:
            pipeline: an unconditional diffusers pipeline in pixel space.

        Returns:
            The denoiser; its network is the pipeline's own object, not a copy.

        Raises:
            InputError: if the pipeline is of another kind, or its schedule or prediction type is unknown.
        """
        unet, scheduler = getattr(pipeline, "unet", None), getattr(pipeline, "scheduler", None)
        if not isinstance(unet, nn.Module) or scheduler is None:
            raise InputError(
                f"pipeline: got {type(pipeline).__name__}, which lacks a unet or a scheduler; "
                "expected an unconditional diffusers pipeline such as DDPMPipeline or DDIMPipeline."
            )
        others = [
            name for name, part in pipeline.components.items() if name not in ("unet", "scheduler") and part is not None
        ]
        config = unet.config
        if getattr(config, "num_class_embeds", None) or getattr(config, "class_embed_type", None):
            others.append("class-conditional unet")
        _refuse_others("pipeline", others)
        return cls(
            network=unet,
            schedule=_read_schedule(scheduler),
            prediction_type=_read_prediction_type(scheduler),
            sample_shape=_read_shape(config),
            # without the list of defaults, whose entries diffusers' from_config would silently ignore
            scheduler_config={name: value for name, value in scheduler.config.items() if name != "_use_default_values"},
            timestep_scale=float(getattr(pipeline, "timestep_scale", 1.0)),
        )

    @property
    def learned_variance(self) -> bool:
        """Whether the network gives a second set of channels for the variance."""
        return str(self.scheduler_config.get("variance_type", "")).startswith("learned")

    def predict_raw(self, x_t: Tensor, timestep: Tensor, condition: Tensor | None = None) -> Tensor:
        """What the network itself gives (for schedulers, which know its prediction type).

        Args:
            x_t: noised images, [batch, channels, height, width].
            timestep: timesteps of the own schedule, [batch], possibly fractional.
            condition: must be None: this face is unconditional.

        Returns:
            The raw output, with its variance channels if it has them.
        """
        assert condition is None
        scaled = timestep if self.timestep_scale == 1.0 else timestep * self.timestep_scale  # never in half precision
        output = self.network(x_t, scaled)
        return output if isinstance(output, Tensor) else output.sample

    def predict_noise(self, x_t: Tensor, timestep: Tensor, condition: Tensor | None = None) -> Tensor:
        """The noise ε that the model sees in x_t.

        Args:
            x_t: noised images, [batch, channels, height, width].
            timestep: timesteps of the own schedule, [batch], possibly fractional.
            condition: must be None: this face is unconditional.

        Returns:
            ε, like ``x_t``.
        """
        output = self.predict_raw(x_t, timestep, condition)[:, : x_t.shape[1]]
        if self.prediction_type == "epsilon":
            return output
        alpha_bar = self.schedule.alpha_bar_at(timestep).to(x_t.dtype).view(-1, 1, 1, 1)
        if self.prediction_type == "v_prediction":
            return alpha_bar.sqrt() * output + (1 - alpha_bar).sqrt() * x_t
        return (x_t - alpha_bar.sqrt() * output) / (1 - alpha_bar).sqrt()

    def expected_x0(self, x_t: Tensor, output: Tensor, alpha_bar: Tensor) -> Tensor:
        """x̂0, the image that an output of the network means, neither clipped nor clamped.

        Args:
            x_t: noised images, [batch, channels, height, width].
            output: what the network gave for them, without channels of a learned variance, like ``x_t``.
            alpha_bar: ᾱ of each, [batch, 1, 1, 1].

        Returns:
            x̂0, like ``x_t``.
        """
        if self.prediction_type == "sample":
            return output
        if self.prediction_type == "v_prediction":
            return alpha_bar.sqrt() * x_t - (1 - alpha_bar).sqrt() * output
        return (x_t - (1 - alpha_bar).sqrt() * output) / alpha_bar.sqrt()

    def with_network(self, network: nn.Module) -> Self:
        """The same face over another network of the same architecture."""
        return replace(self, network=network)

    def copy(self) -> Self:
        """The same face over a deep copy of the network, on the same device."""
        return self.with_network(copy.deepcopy(self.network))

    def encode(self, images: Tensor) -> Tensor:
        """The identity: a pixel model's own space is that of the images."""
        return images

    def decode(self, latents: Tensor) -> Tensor:
        """The identity: a pixel model's own space is that of the images."""
        return latents


class DenoiserAround:
    """A denoiser around another: all is the inner one's, but for what a subclass says otherwise.

    Attributes:
        model: the inner one.
    """

    model: PipelineDenoiser

    @property
    def network(self) -> nn.Module:
        """The inner network."""
        return self.model.network

    @property
    def schedule(self) -> NoiseSchedule:
        """The inner noise schedule."""
        return self.model.schedule

    @property
    def scheduler_config(self) -> dict[str, Any]:
        """The inner scheduler's configuration."""
        return self.model.scheduler_config

    @property
    def learned_variance(self) -> bool:
        """Whether the inner network gives variance channels."""
        return self.model.learned_variance

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a sample."""
        return self.model.sample_shape

    def predict_noise(self, x_t: Tensor, timestep: Tensor, condition: Tensor | None = None) -> Tensor:
        """The noise that the inner model sees, like ``x_t``."""
        return self.model.predict_noise(x_t, timestep, condition)

    def predict_raw(self, x_t: Tensor, timestep: Tensor, condition: Tensor | None = None) -> Tensor:
        """What the inner network gives."""
        return self.model.predict_raw(x_t, timestep, condition)

    def with_network(self, network: nn.Module) -> Self:
        """The same face over another network."""
        return replace(cast("Any", self), model=self.model.with_network(network))

    def encode(self, images: Tensor) -> Tensor:
        """Images to the inner model's own space."""
        return self.model.encode(images)

    def decode(self, latents: Tensor) -> Tensor:
        """The inner model's own space to images."""
        return self.model.decode(latents)


def load_pipeline(path: Path | str) -> Any:
    """Load a diffusers pipeline folder that plain diffusers (or this package) saved.

    Args:
        path: the folder with ``model_index.json``.

    Returns:
        The pipeline, in evaluation mode, with attribute ``timestep_scale`` if the folder's ``vdu.json`` has one.

    Raises:
        InputError: if the folder is not a pipeline, needs pickled weights, or holds NaN or infinite weights.
    """
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging

    path = Path(path)
    if not (path / "model_index.json").is_file():
        raise InputError(
            f"{path}: no model_index.json there; expected a folder that a diffusers pipeline's save_pretrained wrote."
        )
    index = read_json(path / "model_index.json")  # looked at first: other kinds need libraries that may be missing
    kinds = [part for part in index.values() if isinstance(part, list)] if isinstance(index, dict) else [[]]
    if not all(
        len(part) == 2 and all(each is None or (isinstance(each, str) and each) for each in part) for part in kinds
    ):
        raise InputError(
            f"{path / 'model_index.json'}: holds no parts as [library, class]; save or download the pipeline again."
        )
    parts = [name for name, part in index.items() if isinstance(part, list) and part[0]]
    _refuse_others(str(path), [name for name in parts if name not in ("unet", "scheduler")])
    for library, _ in (index[name] for name in parts):
        if library not in ("diffusers", *OWN_NETWORKS):  # older diffusers import whatever module is named there
            raise InputError(
                f"{path / 'model_index.json'}: takes a part from {library!r}; expected diffusers or one of "
                f"{', '.join(OWN_NETWORKS)}, since other libraries may run code of their own."
            )
        if library in OWN_NETWORKS:  # diffusers takes a class from a library that has been imported, and from no other
            import_module(library)
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        pipeline = DiffusionPipeline.from_pretrained(str(path), local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: diffusers cannot load this pipeline: {error} Only safetensors weights are read; "
            "pickled weights (.bin) must be converted first (pipeline.save_pretrained(..., safe_serialization=True))."
        ) from error
    finally:
        if shown:
            logging.enable_progress_bar()
    if (path / EXTRA_FILE).is_file():
        pipeline.timestep_scale = _read_scale(path / EXTRA_FILE)
    check_network(getattr(pipeline, "unet", None), str(path))
    return pipeline


def _read_scale(path: Path) -> float:
    extra = read_json(path)
    scale = extra.get("timestep_scale", 1.0) if isinstance(extra, dict) else None
    if not isinstance(scale, int | float) or isinstance(scale, bool) or not 0 < scale < 1e9:
        raise InputError(f"{path}: timestep_scale is {scale!r}; expected a number above 0. Save the pipeline again.")
    return float(scale)


def check_network(network: nn.Module | None, where: str) -> None:
    """Refuse a network with missing, NaN or infinite weights.

    Raises:
        InputError: naming the first such tensors.
    """
    if network is None:
        return
    missing = [name for name, value in network.state_dict().items() if value.is_meta]  # diffusers only warns
    if missing:
        raise InputError(
            f"{where}: lacks {len(missing)} tensors of its network (first: {', '.join(missing[:3])}); expected all of them. "
            "The weights are of another model or incomplete: save or download the pipeline again."
        )
    bad = [name for name, value in network.state_dict().items() if not bool(torch.isfinite(value).all())]
    if bad:
        raise InputError(
            f"{where}: NaN or infinite weights in {len(bad)} tensors (first: {', '.join(bad[:3])}); expected finite weights. "
            "The checkpoint is damaged or its training diverged: use another one."
        )


def hash_configuration(unet_config: Mapping[str, Any], scheduler_config: Mapping[str, Any]) -> str:
    """SHA-256 of what a pipeline is besides its weights: the same weights under another schedule make other images.

    Args:
        unet_config: the network's configuration; entries with a leading underscore (paths, versions) do not count.
        scheduler_config: the scheduler's, likewise.

    Returns:
        64 hexadecimal digits.
    """
    parts = {
        name: {key: value for key, value in config.items() if not key.startswith("_")}
        for name, config in (("unet", unet_config), ("scheduler", scheduler_config))
    }
    return sha256_bytes(json.dumps(parts, sort_keys=True, default=str).encode())


def save_pipeline(pipeline: Any, path: Path | str) -> None:
    """Save a pipeline in diffusers' layout (safetensors), with the timestep scale beside it if it is not 1."""
    pipeline.save_pretrained(str(path), safe_serialization=True)
    if getattr(pipeline, "timestep_scale", 1.0) != 1.0:
        write_json(Path(path) / EXTRA_FILE, {"timestep_scale": pipeline.timestep_scale})


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


def _refuse_others(where: str, others: list[str]) -> None:
    if others:
        raise InputError(
            f"{where}: has {', '.join(others)}; expected an unconditional model in pixel space (unet and scheduler only). "
            "Class-conditional, latent and text-to-image pipelines are not supported yet."
        )


def _read_schedule(scheduler: Any) -> NoiseSchedule:
    alpha_bars = getattr(scheduler, "alphas_cumprod", None)
    if not isinstance(alpha_bars, Tensor):
        raise InputError(
            f"pipeline: its scheduler {type(scheduler).__name__} has no alphas_cumprod, so its noise schedule is unknown; "
            "expected a discrete-time scheduler (DDPM, DDIM, DPM-Solver++ …). Save the pipeline with the scheduler it was trained with."
        )
    return NoiseSchedule(alpha_bars)


def _read_prediction_type(scheduler: Any) -> str:
    kind = scheduler.config.get("prediction_type")
    if kind not in PREDICTION_TYPES:
        raise InputError(
            f"pipeline: prediction_type {kind!r} is unknown; expected one of {', '.join(PREDICTION_TYPES)}."
        )
    return kind


def _read_shape(config: Any) -> tuple[int, int, int]:
    size = config.sample_size
    if size is None:
        raise InputError(
            "pipeline: the unet's configuration has no sample_size, so the image size is unknown; set it and save again."
        )
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    return int(config.in_channels), int(height), int(width)
