"""Converts checkpoints of two public repositories to diffusers pipelines, tensor by tensor.

    ddpm-pytorch         explainingai-code/DDPM-Pytorch: the state dict of its MNIST U-Net
    improved-diffusion   openai/improved-diffusion: "Unconditional CIFAR-10" (L_hybrid or L_vlb), a model or an EMA file

The content of the file is checked (every name and shape, finite numbers). Missing information is taken from the published model:
4 attention heads and the noise schedule. Another schedule raises an error, since the file cannot confirm it.

Q, K and V are one tensor in these checkpoints. The tutorial (``nn.MultiheadAttention``) lays out [3, heads, head size]; improved-diffusion
[heads, 3, head size], with a trailing dimension of 1 from its one-dimensional convolutions.

Not guaranteed: that the weights are those of the published model, only that they fit it. No pickled code is run:
``torch.load(weights_only=True)`` or safetensors.
"""

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vdu.core.checks import first_differences
from vdu.core.errors import InputError, shown
from vdu.models.checkpoint_names import ddpm_pytorch_names, improved_diffusion_names
from vdu.models.paper_networks import PUBLISHED_SCHEDULES, ddpm_pytorch_pipeline, improved_diffusion_pipeline
from vdu.models.pipelines import check_network

__all__ = ["import_checkpoint", "read_state_dict"]

EXACT_IN_FLOAT32 = (torch.float32, torch.float16, torch.bfloat16)
Expected = dict[str, tuple[int, ...]]


def import_checkpoint(
    path: Path | str, architecture: str, *, schedule: str | None = None, diffusion_steps: int | None = None
) -> Any:
    """Read a checkpoint into a pipeline of its architecture.

    Args:
        path: the checkpoint, a PyTorch or a safetensors file.
        architecture: "ddpm-pytorch" or "improved-diffusion".
        schedule: "linear" or "cosine"; must be the published one, which is the default.
        diffusion_steps: T; must be the published one, which is the default.

    Returns:
        A ``DDPMPipeline``; improved-diffusion's with ``timestep_scale`` 1000/T.

    Raises:
        InputError: if the architecture is unknown, the schedule is not the published one, or the file is not a checkpoint
            of that architecture.
    """
    if architecture not in PUBLISHED_SCHEDULES:
        raise InputError(f"architecture: got {architecture!r}; expected one of {', '.join(PUBLISHED_SCHEDULES)}.")
    _require_published(architecture, schedule, diffusion_steps)
    state = read_state_dict(path)
    make, convert = _ARCHITECTURES[architecture]
    pipeline = make()
    pipeline.unet.load_state_dict(convert(state, pipeline.unet, str(path)))
    check_network(pipeline.unet, str(path))
    return pipeline


def read_state_dict(path: Path | str) -> dict[str, Tensor]:
    """The named tensors in a checkpoint file, without a common prefix "module.".

    Args:
        path: a file that ``torch.save`` wrote, or a ``.safetensors`` file.

    Returns:
        Name → tensor, on the CPU.

    Raises:
        InputError: if the file is missing, is damaged, holds code or objects, or is not a flat state dict of floats.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a checkpoint (.pth, .pt or .safetensors).")
    state = _load(path)
    named = isinstance(state, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    if not named or not state:
        shown = (
            f"a dictionary of {', '.join(map(str, list(state)[:5])) or 'nothing'}" if isinstance(state, dict) else ""
        )
        raise InputError(
            f"{path}: holds {shown or type(state).__name__}; expected the network's state dict alone (name → tensor). "
            "Take the file of the model or of its moving average, not that of the optimiser, or save the state dict inside."
        )
    if all(name.startswith("module.") for name in state):  # saved from a network wrapped for several devices
        state = {name.removeprefix("module."): value for name, value in state.items()}
    wrong = [f"{name} ({value.dtype})" for name, value in state.items() if value.dtype not in EXACT_IN_FLOAT32]
    if wrong:
        raise InputError(
            f"{path}: {', '.join(wrong[:5])}; expected floats of at most 32 bits. Convert it with .float() and save it again."
        )
    return state


def _load(path: Path) -> Any:
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))  # the rest of the message advises to run the file's code
        raise InputError(
            f"{path}: holds {found[1] if found else 'pickled objects'}, which cannot be read without running code in the file; "
            "expected named tensors and nothing else. If you trust the file, load it in its own repository and save the "
            "network's state_dict() again."
        ) from None
    except MemoryError:
        raise InputError(
            f"{path}: announces more data than this machine's memory holds. It may be damaged: download it again."
        ) from None
    except Exception as error:  # torch.load and safetensors raise nearly anything on damaged files
        raise InputError(
            f"{path}: cannot be read ({type(error).__name__}: {str(error).strip().split(chr(10))[0]}); expected "
            "a PyTorch or safetensors file. It may be damaged or cut short: download it again."
        ) from None


def _require_published(architecture: str, schedule: str | None, steps: int | None) -> None:
    published = PUBLISHED_SCHEDULES[architecture]
    got = (published[0] if schedule is None else schedule, published[1] if steps is None else steps)
    if got != published:
        raise InputError(
            f"{architecture}: got the schedule {shown(got[0])} with {shown(got[1])} steps; expected {published[0]} with {published[1]}, "
            "that of the published model. The file does not contain its schedule, and a wrong one invalidates every result: leave "
            "--schedule and --diffusion-steps out, or convert a model with another schedule to a diffusers pipeline yourself."
        )


def _refuse_strangers(state: dict[str, Tensor], expected: Expected, where: str, hint: Callable[[], str]) -> None:
    lines = first_differences({name: tuple(value.shape) for name, value in state.items()}, expected)
    if lines:
        raise InputError(f"{where}: not a checkpoint of this architecture: {'; '.join(lines)}. {hint()}")


def _from_ddpm_pytorch(state: dict[str, Tensor], unet: nn.Module, where: str) -> dict[str, Tensor]:
    ours = unet.state_dict()
    sources = {}
    for there, here in ddpm_pytorch_names().items():
        dot = "_" if there.endswith("in_proj") else "."
        sources |= {f"{there}{dot}{leaf}": f"{here}.{leaf}" for leaf in ("weight", "bias")}
    expected = {there: tuple(ours[here].shape) for there, here in sources.items()}
    advice = "Expected the state dict of the tutorial's Unet with its config/default.yaml (MNIST)."
    _refuse_strangers(state, expected, where, lambda: advice)
    return {here: state[there] for there, here in sources.items()}


def _from_improved_diffusion(state: dict[str, Tensor], unet: Any, where: str) -> dict[str, Tensor]:
    ours, head = unet.state_dict(), int(unet.config.attention_head_dim)
    expected: Expected = {}
    sources: dict[str, list[str]] = {}
    for there, here in improved_diffusion_names().items():
        modules = [here.replace(".qkv", f".to_{part}") for part in "qkv"] if here.endswith(".qkv") else [here]
        if f"{modules[0]}.weight" not in ours:
            continue  # a skip convolution where the width stays
        for leaf in ("weight", "bias"):
            targets = [f"{module}.{leaf}" for module in modules]
            rows, *columns = ours[targets[0]].shape
            line = (
                (1,) if leaf == "weight" and there.endswith(("qkv", "proj_out")) else ()
            )  # convolutions in one dimension
            expected[f"{there}.{leaf}"] = (rows * len(targets), *columns, *line)
            sources[f"{there}.{leaf}"] = targets
    _refuse_strangers(state, expected, where, lambda: _advice(state))
    converted = {}
    for there, targets in sources.items():
        size = head if len(targets) == 3 else len(state[there])
        parts = state[there].unflatten(0, (-1, len(targets), size)).unbind(1)  # from [heads, Q K V, head size, …]
        converted |= {here: part.reshape(ours[here].shape) for here, part in zip(targets, parts, strict=True)}
    return converted


def _advice(state: dict[str, Tensor]) -> str:
    expected = (
        "Expected openai/improved-diffusion's unconditional CIFAR-10 model with learned variance (6 output channels)."
    )
    if "label_emb.weight" in state:
        return f"It is class-conditional. {expected}"
    if "out.2.bias" in state and len(state["out.2.bias"]) == 3:
        return f"It has 3 output channels: it was trained without --learn_sigma. {expected}"
    return expected


_ARCHITECTURES = {
    "ddpm-pytorch": (lambda: ddpm_pytorch_pipeline(seed=0), _from_ddpm_pytorch),
    "improved-diffusion": (lambda: improved_diffusion_pipeline(seed=0), _from_improved_diffusion),
}
