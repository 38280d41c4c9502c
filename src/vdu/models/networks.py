"""Networks that this package can train itself, by name: ``small`` and the paper's two (``paper_networks``).

``small`` is a plain ``UNet2DModel`` that any diffusers installation loads. It fits a CPU: width 16-32-64 and one layer per
level (0.69 M parameters at 28×28), self-attention on the coarsest level only. On a CPU most of a U-Net's time is spent on its
finest level, which is therefore narrow.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vdu.core.errors import InputError
from vdu.core.rng import isolated_global
from vdu.models.configuration import keep_extras
from vdu.models.paper_networks import ddpm_pytorch_pipeline, improved_diffusion_pipeline

if TYPE_CHECKING:
    from diffusers import UNet2DModel

__all__ = ["new_pipeline", "small_unet"]

PAPER_MODELS = {"ddpm-pytorch": ddpm_pytorch_pipeline, "improved-diffusion": improved_diffusion_pipeline}


def small_unet(sample_shape: tuple[int, int, int], *, seed: int, n_embeddings: int | None = None) -> "UNet2DModel":
    """A small U-Net for images of 8 to 64 pixels.

    Args:
        sample_shape: channels, height, width; height = width, divisible by 2 (8 to 15 pixels) or by 4 (16 to 64).
        seed: seeds the weights; the caller's random stream is unchanged.
        n_embeddings: class embeddings, the null class among them; None makes an unconditional network.

    Returns:
        A diffusers ``UNet2DModel``.

    Raises:
        InputError: if the size does not fit.

    Examples:
        >>> sum(p.numel() for p in small_unet((1, 28, 28), seed=0).parameters())
        686769
    """
    from diffusers import UNet2DModel

    channels, height, width = sample_shape
    widths = (16, 32) if height < 16 else (16, 32, 64)
    factor = 2 ** (len(widths) - 1)
    if height != width or not 8 <= height <= 64 or height % factor:
        raise InputError(
            f"model small: got images of {height}×{width}; expected squares of 8 to 64 pixels, divisible by {factor}. "
            "Resize the images, or train from a pipeline of your own with --from-pipeline."
        )
    last = len(widths) - 1
    with isolated_global(seed):
        return UNet2DModel(
            sample_size=height,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=widths,
            layers_per_block=1,
            down_block_types=tuple("AttnDownBlock2D" if i == last else "DownBlock2D" for i in range(len(widths))),
            up_block_types=tuple("AttnUpBlock2D" if i == 0 else "UpBlock2D" for i in range(len(widths))),
            norm_num_groups=8,
            attention_head_dim=16,
            num_class_embeds=n_embeddings,
        )


def new_pipeline(
    sample_shape: tuple[int, int, int], *, seed: int, model: str = "small", class_names: Sequence[str] = ()
) -> Any:
    """An untrained ``DDPMPipeline``.

    Args:
        sample_shape: channels, height, width of the images.
        seed: seeds the weights; the caller's random stream is unchanged.
        model: "small", with a linear schedule of 1000 steps and x0 clipping when sampling; "ddpm-pytorch" (1×28×28) or
            "improved-diffusion" (3×32×32), the paper's networks with their own schedules.
        class_names: classes of a class-conditional model, which also has a null class; only for "small".

    Returns:
        The pipeline; improved-diffusion's has a ``timestep_scale``, a class-conditional one ``class_names`` and ``null_class``.

    Raises:
        InputError: if the model is unknown, the images do not fit it, or it cannot be class-conditional.
    """
    from diffusers import DDPMPipeline, DDPMScheduler

    if class_names and model != "small":
        raise InputError(
            f"labels: the model {model} is the paper's and unconditional; expected the model small. Leave one out."
        )
    if model in PAPER_MODELS:
        return PAPER_MODELS[model](sample_shape, seed=seed)
    if model != "small":
        raise InputError(f"model: got {model!r}; expected one of small, {', '.join(PAPER_MODELS)}.")
    unet = small_unet(sample_shape, seed=seed, n_embeddings=len(class_names) + 1 if class_names else None)
    pipeline: Any = DDPMPipeline(unet=unet, scheduler=DDPMScheduler(num_train_timesteps=1000))
    if class_names:
        pipeline.class_names, pipeline.null_class = tuple(class_names), len(class_names)
    return keep_extras(pipeline, pipeline, unet)
