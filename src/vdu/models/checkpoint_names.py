"""Module names of two public repositories' checkpoints, mapped to the modules of this package.

    ddpm_pytorch_names()         explainingai-code/DDPM-Pytorch, class Unet        → DDPMPytorchUNet
    improved_diffusion_names()   openai/improved-diffusion, class UNetModel        → UNet2DModel

Both are tables of modules, {theirs: ours}; a module that holds Q, K and V in one is ``…qkv`` in the table. Each module has a
weight and a bias.
"""

__all__ = ["ddpm_pytorch_names", "improved_diffusion_names"]

TUTORIAL_RESIDUAL = {
    "resnet_conv_first.{}.0": "norm1",
    "resnet_conv_first.{}.2": "conv1",
    "t_emb_layers.{}.1": "time",
    "resnet_conv_second.{}.0": "norm2",
    "resnet_conv_second.{}.2": "conv2",
    "residual_input_conv.{}": "shortcut",
}
TUTORIAL_ATTENTION = {"attention_norms.{}": "norm", "attentions.{}.in_proj": "qkv", "attentions.{}.out_proj": "out"}
IMPROVED_RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
}
IMPROVED_ATTENTION = {"norm": "group_norm", "qkv": "qkv", "proj_out": "to_out.0"}


def ddpm_pytorch_names() -> dict[str, str]:
    """The tutorial's module names → ours; all shapes agree.

    Returns:
        The table. ``attentions.j.in_proj`` stands for the parameters ``in_proj_weight`` and ``in_proj_bias``.

    Examples:
        >>> ddpm_pytorch_names()["mids.1.t_emb_layers.2.1"]
        'mid_stages.1.residuals.2.time'
    """
    names = {"conv_in": "conv_in", "norm_out": "norm_out", "conv_out": "conv_out"}
    names |= {f"t_proj.{i}": f"time_embedding.{i}" for i in (0, 2)}
    for theirs, ours, stages, residuals in (("downs", "down", 3, 2), ("mids", "mid", 2, 3), ("ups", "up", 3, 2)):
        for stage in range(stages):
            for count, kind, parts in (
                (residuals, "residuals", TUTORIAL_RESIDUAL),
                (2, "attentions", TUTORIAL_ATTENTION),
            ):
                for i in range(count):
                    for there, here in parts.items():
                        names[f"{theirs}.{stage}.{there.format(i)}"] = f"{ours}_stages.{stage}.{kind}.{i}.{here}"
    names |= {f"downs.{i}.down_sample_conv": f"downsamplers.{i}" for i in (0, 1)}
    return names | {f"ups.{i}.up_sample_conv": f"upsamplers.{i}" for i in (1, 2)}


def improved_diffusion_names(
    levels: int = 4, layers: int = 3, attention_levels: tuple[int, ...] = (1, 2)
) -> dict[str, str]:
    """improved-diffusion's module names → diffusers'.

    There, all blocks of one direction are in one list and the skip convolutions exist only where the width changes; here
    the list has every convolution that may exist, and the reader leaves out those that ours lacks.

    Args:
        levels: resolutions.
        layers: residual blocks per level on the way down (one more on the way up).
        attention_levels: which resolutions have attention, counted from the finest.

    Returns:
        The table.

    Examples:
        >>> improved_diffusion_names()["output_blocks.3.1.conv"]
        'up_blocks.0.upsamplers.0.conv'
    """
    names = {"time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2"}
    names |= {"input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out"}

    def residual(theirs: str, ours: str) -> None:
        names.update({f"{theirs}.{there}": f"{ours}.{here}" for there, here in IMPROVED_RESIDUAL.items()})
        names[f"{theirs}.skip_connection"] = f"{ours}.conv_shortcut"

    def attention(theirs: str, ours: str) -> None:
        names.update({f"{theirs}.{there}": f"{ours}.{here}" for there, here in IMPROVED_ATTENTION.items()})

    index = 1
    for level in range(levels):
        for i in range(layers):
            residual(f"input_blocks.{index}.0", f"down_blocks.{level}.resnets.{i}")
            if level in attention_levels:
                attention(f"input_blocks.{index}.1", f"down_blocks.{level}.attentions.{i}")
            index += 1
        if level < levels - 1:
            names[f"input_blocks.{index}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
            index += 1
    residual("middle_block.0", "mid_block.resnets.0")
    attention("middle_block.1", "mid_block.attentions.0")
    residual("middle_block.2", "mid_block.resnets.1")
    for block in range(levels):  # the coarsest first
        attends = levels - 1 - block in attention_levels
        for i in range(layers + 1):
            theirs = f"output_blocks.{block * (layers + 1) + i}"
            residual(f"{theirs}.0", f"up_blocks.{block}.resnets.{i}")
            if attends:
                attention(f"{theirs}.1", f"up_blocks.{block}.attentions.{i}")
        if block < levels - 1:  # after the level's last block
            names[f"{theirs}.{2 if attends else 1}.conv"] = f"up_blocks.{block}.upsamplers.0.conv"
    return names
