"""The paper's two models, untrained, each with the schedule of its published training.

                          images    parameters   schedule                     variance        timesteps seen by the network
    ddpm-pytorch          1×28×28   10,188,081   linear 1e-4 … 0.02, T 1000   fixed           t
    improved-diffusion    3×32×32   52,546,438   cosine, T 4000               learned range   t · 1000/4000

Sources: explainingai-code/DDPM-Pytorch (``config/default.yaml``); Nichol & Dhariwal 2021, arXiv 2102.09672, and
openai/improved-diffusion, "Unconditional CIFAR-10" (image_size 32, num_channels 128, num_res_blocks 3, learn_sigma, dropout
0.3, diffusion_steps 4000, noise_schedule cosine, and that repository's defaults: 4 heads, attention at 16×16 and 8×8, scale
and shift from the timestep, rescaled timesteps).

Not guaranteed: that plain diffusers samples improved-diffusion well, since no diffusers pipeline rescales timesteps; this
package does.
"""

from typing import Any

from torch import nn

from vdu.core.errors import InputError
from vdu.core.rng import isolated_global
from vdu.models.configuration import keep_extras

__all__ = ["PUBLISHED_SCHEDULES", "ddpm_pytorch_pipeline", "improved_diffusion_pipeline"]

PUBLISHED_SCHEDULES = {"ddpm-pytorch": ("linear", 1000), "improved-diffusion": ("cosine", 4000)}


def ddpm_pytorch_pipeline(sample_shape: tuple[int, int, int] = (1, 28, 28), *, seed: int) -> Any:
    """The tutorial's MNIST model, untrained, in a ``DDPMPipeline``.

    Args:
        sample_shape: channels, height, width; only (1, 28, 28) fits, others raise an error.
        seed: seeds the weights; the caller's random stream is left untouched.

    Returns:
        The pipeline.
    """
    from diffusers import DDPMPipeline, DDPMScheduler

    from vdu.models.ddpm_pytorch import DDPMPytorchUNet

    _require_shape("ddpm-pytorch", sample_shape, (1, 28, 28))
    with isolated_global(seed):
        unet = DDPMPytorchUNet()
    steps = PUBLISHED_SCHEDULES["ddpm-pytorch"][1]
    scheduler = DDPMScheduler(
        num_train_timesteps=steps, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False
    )
    # diffusers warns "Expected types for unet: UNet2DModel"; this class has the interface it needs
    return DDPMPipeline(unet=unet.eval(), scheduler=scheduler)  # pyright: ignore[reportArgumentType]


def improved_diffusion_pipeline(sample_shape: tuple[int, int, int] = (3, 32, 32), *, seed: int) -> Any:
    """The unconditional CIFAR-10 model of improved-diffusion, untrained, in a ``DDPMPipeline``.

    The first three output channels are ε, the others interpolate the variance between its bounds.

    Args:
        sample_shape: channels, height, width; only (3, 32, 32) fits, others raise an error.
        seed: seeds the weights; the caller's random stream is left untouched.

    Returns:
        The pipeline, with ``timestep_scale`` 1000/4000.
    """
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    _require_shape("improved-diffusion", sample_shape, (3, 32, 32))
    with isolated_global(seed):
        unet = UNet2DModel(
            sample_size=32,
            in_channels=3,
            out_channels=6,
            block_out_channels=(128, 256, 256, 256),
            layers_per_block=3,
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=64,
            norm_num_groups=32,
            attn_norm_num_groups=32,  # otherwise the middle attention silently has no norm under scale_shift
            norm_eps=1e-5,
            resnet_time_scale_shift="scale_shift",
            downsample_padding=1,
            flip_sin_to_cos=True,  # cosines first
            freq_shift=0,
            dropout=0.3,
        )
    for name, value in unet.named_parameters():
        if name.rpartition(".")[0].endswith(("conv2", "to_out.0", "conv_out")):
            nn.init.zeros_(value)  # the original initialises every branch, and the output, with zeros
    steps = PUBLISHED_SCHEDULES["improved-diffusion"][1]
    scheduler = DDPMScheduler(
        num_train_timesteps=steps, beta_schedule="squaredcos_cap_v2", variance_type="learned_range", clip_sample=True
    )
    pipeline = DDPMPipeline(unet=unet.eval(), scheduler=scheduler)
    pipeline.timestep_scale = 1000 / steps  # pyright: ignore[reportAttributeAccessIssue]
    return keep_extras(pipeline, pipeline, unet)


def _require_shape(model: str, got: tuple[int, int, int], expected: tuple[int, int, int]) -> None:
    if tuple(got) != expected:
        shapes = ["×".join(str(size) for size in shape) for shape in (got, expected)]
        raise InputError(
            f"model {model}: got images of {shapes[0]}; expected {shapes[1]} (channels × height × width), the only shape that "
            "the published network accepts. Resize the images, or use the model small, which fits other sizes."
        )
