"""The U-Net of the public tutorial explainingai-code/DDPM-Pytorch (MNIST), which the paper uses for MNIST.

    t → sin(t f_i), cos(t f_i), f_i = 10000^(−i/64), i = 0 … 63 → Linear → SiLU → Linear = τ ∈ ℝ^128

    28×28   conv 1→32 ─┬─ stage 32→64 ────────┐  4×4 convolution, stride 2
    14×14              ├─ stage 64→128 ───────┤  4×4 convolution, stride 2
     7×7               ├─ stage 128→256, stage 256→256, stage 256→128
                       └─ each input joins the stage of its size on the way up: 256→64, 128→32, 64→16
    28×28   group norm → SiLU → conv 16→1

A stage alternates residual blocks (with τ) and self-attention over all pixels (4 heads): two of each, and a third
residual block in the two middle stages. 10,188,081 parameters.

The shape is that of the tutorial, where it differs from other U-Nets too: one skip per level, taken before the stage; a
1×1 convolution on every residual, also where the widths agree; attention on every level; group norm of 8 groups.

Not guaranteed: bits equal to the tutorial's, whose attention adds in another order. Unlike in the tutorial, timesteps may be
fractional. The class belongs to this package: a saved pipeline
loads with :func:`vdu.load_pipeline`, or in plain diffusers after ``import vdu.models.ddpm_pytorch``.
"""

import torch
from diffusers import (
    ConfigMixin,
    ModelMixin,
)  # diffusers looks the base class up in this module when it loads a pipeline
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["DDPMPytorchUNet", "timestep_embedding"]

NORM_GROUPS = 8


def timestep_embedding(timestep: Tensor, dim: int) -> Tensor:
    """Sines and cosines of the timesteps: all sines first, frequencies 10000^(−i/(dim/2)).

    Args:
        timestep: [batch], possibly fractional.
        dim: the length of the embedding, even.

    Returns:
        The embedding, [batch, dim], float32.

    Examples:
        >>> timestep_embedding(torch.tensor([0]), 4).tolist()
        [[0.0, 0.0, 1.0, 1.0]]
    """
    half = dim // 2
    period = 10000.0 ** (torch.arange(half, dtype=torch.float32, device=timestep.device) / half)
    angle = (
        timestep.float()[:, None] / period
    )  # a division, as in the tutorial: another rounding changes t = 999 by 1e-4
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class ResidualBlock(nn.Module):
    """W x + conv(SiLU(norm(conv(SiLU(norm(x))) + linear(SiLU(τ))))) with 3×3 convolutions and W a 1×1 convolution."""

    def __init__(self, channels_in: int, channels_out: int, time_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(NORM_GROUPS, channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.time = nn.Linear(time_dim, channels_out)
        self.norm2 = nn.GroupNorm(NORM_GROUPS, channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        """[batch, channels_in, height, width] and [batch, time_dim] → [batch, channels_out, height, width]."""
        hidden = self.conv1(functional.silu(self.norm1(x)))
        hidden = hidden + self.time(functional.silu(tau))[:, :, None, None]
        return self.shortcut(x) + self.conv2(functional.silu(self.norm2(hidden)))


class SelfAttention(nn.Module):
    """x + attention over all pixels of the normalised x, with several heads."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(NORM_GROUPS, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.qkv.weight)  # the start of nn.MultiheadAttention, which the tutorial uses
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width] → the same shape."""
        pixels = self.norm(x).flatten(2).transpose(1, 2)  # [batch, pixels, channels]
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(pixels).chunk(3, dim=2))
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.out(mixed).transpose(1, 2).reshape(x.shape)


class Stage(nn.Module):
    """Residual block, attention, residual block, attention, and a last residual block if there is one more of them."""

    def __init__(
        self, channels_in: int, channels_out: int, time_dim: int, heads: int, *, residuals: int, attentions: int
    ) -> None:
        super().__init__()
        widths = [channels_in] + [channels_out] * (residuals - 1)
        self.residuals = nn.ModuleList(ResidualBlock(width, channels_out, time_dim) for width in widths)
        self.attentions = nn.ModuleList(SelfAttention(channels_out, heads) for _ in range(attentions))

    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        """[batch, channels_in, height, width] and [batch, time_dim] → [batch, channels_out, height, width]."""
        for index, residual in enumerate(self.residuals):
            x = residual(x, tau)
            if index < len(self.attentions):
                x = self.attentions[index](x)
        return x


class DDPMPytorchUNet(ModelMixin, ConfigMixin):
    """The tutorial's U-Net, with the interface of diffusers' ``UNet2DModel``.

    Args:
        sample_size: height and width of the images in pixels, divisible by 4 (2^(levels − 1)).
        in_channels: channels of the images.
        out_channels: channels of the predicted noise.
        widths: channels after the first convolution and after each level, each divisible by 8.
        out_width: channels before the last convolution, divisible by 8.
        layers_per_block: residual blocks and attentions per stage; a middle stage has one residual block more.
        time_embedding_dim: length of τ.
        attention_heads: heads of each attention.

    Examples:
        >>> sum(value.numel() for value in DDPMPytorchUNet().parameters())
        10188081
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 28,
        in_channels: int = 1,
        out_channels: int = 1,
        widths: tuple[int, ...] = (32, 64, 128, 256),
        out_width: int = 16,
        layers_per_block: int = 2,
        time_embedding_dim: int = 128,
        attention_heads: int = 4,
    ) -> None:
        super().__init__()
        last = len(widths) - 2  # the coarsest level, which neither shrinks nor grows

        def stage(channels_in: int, channels_out: int, extra: int = 0) -> Stage:
            count = layers_per_block
            sizes = (channels_in, channels_out, time_embedding_dim, attention_heads)
            return Stage(*sizes, residuals=count + extra, attentions=count)

        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.time_embedding = nn.Sequential(
            nn.Linear(time_embedding_dim, time_embedding_dim),
            nn.SiLU(),
            nn.Linear(time_embedding_dim, time_embedding_dim),
        )
        self.down_stages, self.downsamplers = nn.ModuleList(), nn.ModuleList()
        self.up_stages, self.upsamplers = nn.ModuleList(), nn.ModuleList()
        for level in range(last + 1):
            width = widths[level + 1]
            self.down_stages.append(stage(widths[level], width))
            self.downsamplers.append(nn.Identity() if level == last else nn.Conv2d(width, width, 4, 2, 1))
        self.mid_stages = nn.ModuleList([stage(widths[-1], widths[-1], 1), stage(widths[-1], widths[-2], 1)])
        for level in reversed(range(last + 1)):
            width = widths[level]
            self.upsamplers.append(nn.Identity() if level == last else nn.ConvTranspose2d(width, width, 4, 2, 1))
            self.up_stages.append(stage(2 * width, widths[level - 1] if level else out_width))
        self.norm_out = nn.GroupNorm(NORM_GROUPS, out_width)
        self.conv_out = nn.Conv2d(out_width, out_channels, 3, padding=1)

    def forward(
        self, sample: Tensor, timestep: Tensor | float | int, return_dict: bool = True
    ) -> UNet2DOutput | tuple[Tensor]:
        """Predict the noise.

        Args:
            sample: noised images, [batch, in_channels, height, width].
            timestep: a number, a tensor without dimensions or [batch]; possibly fractional.
            return_dict: return a ``UNet2DOutput`` instead of a tuple.

        Returns:
            ε in ``sample`` of the output, or alone in a tuple, [batch, out_channels, height, width].
        """
        time = torch.as_tensor(timestep, device=sample.device).reshape(-1).expand(len(sample))
        tau = self.time_embedding(timestep_embedding(time, self.config["time_embedding_dim"]).to(sample.dtype))
        hidden, skips = self.conv_in(sample), []
        for stage, shrink in zip(self.down_stages, self.downsamplers, strict=True):
            skips.append(hidden)
            hidden = shrink(stage(hidden, tau))
        for stage in self.mid_stages:
            hidden = stage(hidden, tau)
        for stage, grow in zip(self.up_stages, self.upsamplers, strict=True):
            hidden = stage(torch.cat([grow(hidden), skips.pop()], dim=1), tau)
        output = self.conv_out(functional.silu(self.norm_out(hidden)))
        return UNet2DOutput(sample=output) if return_dict else (output,)
