"""The network of the Fréchet inception distance: TensorFlow's Inception-v3 of 2015-12-05, up to its 2048 pooled features.

    u = round(127.5 (x + 1))        v = resize(u, 299 × 299)        f = mean over pixels of blocks((v − 128) / 128)

Symbols: x images in [−1, 1]; u their 8-bit levels, since both public networks read stored images; f the features ("pool3").
Every layer is a convolution without bias, a batch normalisation with fixed moments and ε = 0.001, and a ReLU. Two things differ
from the published Inception-v3: average pooling inside a block excludes padding from the mean, and the last block
(Mixed_7c) has max pooling instead.

**What is matched**: torch-fidelity's ``inception-v3-compat``, that is the graph of the original FID code (Heusel et al. 2017):

    ours, torch-fidelity    output pixel i is read at i · (size / 299), no half-pixel shift; scaled (v − 128)/128
    pytorch-fid             at (i + ½) · (size / 299) − ½ (``interpolate(align_corners=False)``); scaled v/127.5 − 1
    torchmetrics, default   as pytorch-fid but with antialiasing; scaled (v − 128)/128
    clean-fid               Pillow's antialiased bicubic filter before the network

The four give different features for the same images: distances compare only where the row is the same. An enlarged image is moved
by up to half a pixel between the first two rows, so small images (32 × 32) are affected most. None antialiases but the
last two.

Both public weight files are one file (the same SHA-256) under two names. It has names of layers as in torchvision, which ours
are; pytorch-fid's module in memory has ``blocks.i.j`` instead, read as well. A file is accepted by its SHA-256.

Not guaranteed: equal bits on other machines, devices or batch sizes (a GPU may use TF32); that the features mean anything for
images far from ImageNet's, such as digits.

Sources: Szegedy et al. 2015, "Rethinking the Inception Architecture for Computer Vision", arXiv 1512.00567; Heusel et al. 2017,
"GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", arXiv 1706.08500.
"""

import hashlib
import io
import pickle
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from vdu.core.checks import first_differences, require_finite
from vdu.core.errors import InputError
from vdu.core.records import sha256_bytes

__all__ = [
    "DIMENSION",
    "INCEPTION_SHA256",
    "INCEPTION_URLS",
    "INPUT_SIZE",
    "TABLE_SHA256",
    "InceptionFeatures",
    "load_inception",
    "parameter_table",
    "pytorch_fid_names",
    "require_accepted",
    "resize_like_tensorflow",
    "table_sha256",
]

DIMENSION, INPUT_SIZE = 2048, 299
INCEPTION_SHA256 = ("6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",)
INCEPTION_URLS = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
)
TABLE_SHA256 = "a97c8b1e1709eede1ae06fb5b8fbea3cea89b103e9e7c0815e2e4ea8d46bf3b5"
_EPSILON = 0.001
_UNUSED = {"fc.weight": (1008, DIMENSION), "fc.bias": (1008,)}  # the classifier, in the published file only


@dataclass(frozen=True)
class _Layer:
    name: str
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padded: bool = True


_Fork = tuple[_Layer, _Layer]  # both read the same map; their outputs are joined
_Branch = tuple[_Layer | _Fork | str, ...]  # a string is a pooling
_MEAN, _MAX, _HALVE = "mean of 3×3 without padding", "maximum of 3×3", "maximum of 3×3 at every other pixel"


def _layers(name: str, *shapes: tuple[int, tuple[int, int]], halve: bool = False) -> tuple[_Layer, ...]:
    # layers name_1, name_2, … of the given channels and kernels; with halve, the last has stride 2 and no padding
    last = len(shapes) if halve else 0
    return tuple(
        _Layer(f"{name}_{i}", channels, kernel, 2 if i == last else 1, i != last)
        for i, (channels, kernel) in enumerate(shapes, start=1)
    )


def _fork(name: str) -> _Fork:
    return _Layer(f"{name}a", 384, (1, 3)), _Layer(f"{name}b", 384, (3, 1))


def _fine(pooled: int) -> tuple[_Branch, ...]:  # 35 × 35
    return (
        (_Layer("branch1x1", 64),),
        _layers("branch5x5", (48, (1, 1)), (64, (5, 5))),
        _layers("branch3x3dbl", (64, (1, 1)), (96, (3, 3)), (96, (3, 3))),
        (_MEAN, _Layer("branch_pool", pooled)),
    )


def _middle(width: int) -> tuple[_Branch, ...]:  # 17 × 17
    row, column = (1, 7), (7, 1)
    return (
        (_Layer("branch1x1", 192),),
        _layers("branch7x7", (width, (1, 1)), (width, row), (192, column)),
        _layers("branch7x7dbl", (width, (1, 1)), (width, column), (width, row), (width, column), (192, row)),
        (_MEAN, _Layer("branch_pool", 192)),
    )


def _coarse(pooling: str) -> tuple[_Branch, ...]:  # 8 × 8
    return (
        (_Layer("branch1x1", 320),),
        (*_layers("branch3x3", (384, (1, 1))), _fork("branch3x3_2")),
        (*_layers("branch3x3dbl", (448, (1, 1)), (384, (3, 3))), _fork("branch3x3dbl_3")),
        (pooling, _Layer("branch_pool", 192)),
    )


_STEM: _Branch = (
    _Layer("Conv2d_1a_3x3", 32, (3, 3), 2, padded=False),
    _Layer("Conv2d_2a_3x3", 32, (3, 3), padded=False),
    _Layer("Conv2d_2b_3x3", 64, (3, 3)),
    _HALVE,
    _Layer("Conv2d_3b_1x1", 80),
    _Layer("Conv2d_4a_3x3", 192, (3, 3), padded=False),
    _HALVE,
)
_MIXED: dict[str, tuple[_Branch, ...]] = {
    "Mixed_5b": _fine(32),
    "Mixed_5c": _fine(64),
    "Mixed_5d": _fine(64),
    "Mixed_6a": (
        (_Layer("branch3x3", 384, (3, 3), 2, padded=False),),
        _layers("branch3x3dbl", (64, (1, 1)), (96, (3, 3)), (96, (3, 3)), halve=True),
        (_HALVE,),
    ),
    "Mixed_6b": _middle(128),
    "Mixed_6c": _middle(160),
    "Mixed_6d": _middle(160),
    "Mixed_6e": _middle(192),
    "Mixed_7a": (
        _layers("branch3x3", (192, (1, 1)), (320, (3, 3)), halve=True),
        _layers("branch7x7x3", (192, (1, 1)), (192, (1, 7)), (192, (7, 1)), (192, (3, 3)), halve=True),
        (_HALVE,),
    ),
    "Mixed_7b": _coarse(_MEAN),
    "Mixed_7c": _coarse(_MAX),  # a mean in the paper, but the weights were trained with a maximum
}


class _FixedNorm(nn.Module):
    """Batch normalisation by stored moments, whatever the mode: a feature network has no training mode."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = cast(Tensor, self.running_mean), cast(Tensor, self.running_var)
        return functional.batch_norm(x, mean, variance, self.weight, self.bias, eps=_EPSILON)


class _Convolution(nn.Module):
    def __init__(self, channels: int, layer: _Layer) -> None:
        super().__init__()
        padding = (layer.kernel[0] // 2, layer.kernel[1] // 2) if layer.padded else 0
        self.conv = nn.Conv2d(channels, layer.channels, layer.kernel, layer.stride, padding, bias=False)
        self.bn = _FixedNorm(layer.channels)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)), inplace=True)


def _add(owner: nn.Module, channels: int, branch: _Branch) -> int:
    # registers a branch's layers; returns the channels that come out of it
    for step in branch:
        if not isinstance(step, str):
            layers = step if isinstance(step, tuple) else (step,)
            for layer in layers:
                owner.add_module(layer.name, _Convolution(channels, layer))
            channels = sum(layer.channels for layer in layers)
    return channels


def _follow(owner: nn.Module, branch: _Branch, x: Tensor) -> Tensor:
    for step in branch:
        if isinstance(step, str):
            x = _pool(step, x)
        elif isinstance(step, tuple):
            x = torch.cat([owner.get_submodule(layer.name)(x) for layer in step], dim=1)
        else:
            x = owner.get_submodule(step.name)(x)
    return x


def _pool(kind: str, x: Tensor) -> Tensor:
    if kind == _MEAN:
        return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    return functional.max_pool2d(x, 3, stride=2) if kind == _HALVE else functional.max_pool2d(x, 3, 1, padding=1)


class _Mixed(nn.Module):
    def __init__(self, channels: int, branches: tuple[_Branch, ...]) -> None:
        super().__init__()
        self.branches = branches
        self.channels = sum(_add(self, channels, branch) for branch in branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([_follow(self, branch, x) for branch in self.branches], dim=1)


class InceptionFeatures(nn.Module):
    """Images to 2048 features, not negative: the network of FID.

    Built directly, its weights are PyTorch's random ones, of no use for a distance: take it from :func:`load_inception`.

    Attributes:
        weights_sha256: SHA-256 of the published file that the weights come from; None for random ones.

    Examples:
        >>> with torch.device("meta"):
        ...     InceptionFeatures()(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 2048])
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights_sha256: str | None = None
        channels = _add(self, 3, _STEM)
        for name, branches in _MIXED.items():
            block = _Mixed(channels, branches)
            self.add_module(name, block)
            channels = block.channels

    def forward(self, images: Tensor) -> Tensor:
        """Features of images; another shape, type or range raises an InputError.

        Args:
            images: [B, 3, H, W] or, grey, [B, 1, H, W], floating point, in [−1, 1]; any H and W. Values between two of the
                256 stored levels are rounded to the nearer.

        Returns:
            [B, 2048], in the weights' precision.
        """
        _check_images(images)
        levels = ((images.to(torch.float32) + 1) * 127.5).round()
        levels = resize_like_tensorflow(levels, INPUT_SIZE).expand(-1, 3, -1, -1)
        x = ((levels - 128) / 128).to(self.get_parameter("Conv2d_1a_3x3.conv.weight").dtype)
        x = _follow(self, _STEM, x)
        for name in _MIXED:
            x = self.get_submodule(name)(x)
        return functional.adaptive_avg_pool2d(x, 1).flatten(1)


def _check_images(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] not in {1, 3} or not images.is_floating_point() or 0 in images.shape:
        raise InputError(
            f"Inception features: got {images.dtype} {list(images.shape)}; expected floating-point [images, 1 or 3, height, width] "
            "in [−1, 1]. Convert stored pixels with vdu.data.images.to_float."
        )
    if images.is_meta:
        return
    low, high = float(images.min()), float(images.max())
    if not (low >= -1.001 and high <= 1.001):  # room for half precision; NaN fails too
        raise InputError(
            f"Inception features: got values from {low:g} to {high:g}; expected −1 to 1. Scale the images with "
            "vdu.data.images.to_float, and clamp what a sampler gives."
        )


def resize_like_tensorflow(images: Tensor, size: int) -> Tensor:
    """Bilinear resizing as in TensorFlow 1 (``align_corners=False``): output pixel i is read at i · (input size / output size).

    Differs from ``torch.nn.functional.interpolate``, which adds half a pixel before and takes it off after. Past the last pixel
    its value goes on. Coordinates are float32, as there.

    Args:
        images: [B, C, H, W], floating point.
        size: height and width that come out, in pixels.

    Returns:
        [B, C, size, size].

    Examples:
        >>> resize_like_tensorflow(torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]]), 4)[0, 0].tolist()[:2]
        [[0.0, 0.5, 1.0, 1.0], [1.0, 1.5, 2.0, 2.0]]
    """
    for axis in (3, 2):  # along rows first, as there
        before, after, weight = _neighbours(images.shape[axis], size, images)
        weight = weight if axis == 3 else weight[:, None]
        low, high = images.index_select(axis, before), images.index_select(axis, after)
        images = low + (high - low) * weight
    return images


def _neighbours(n: int, size: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    place = torch.arange(size, dtype=torch.float32, device=like.device) * torch.tensor(n / size, dtype=torch.float32)
    before = place.to(torch.int64)
    return before, (before + 1).clamp(max=n - 1), (place - before).to(like.dtype)


def parameter_table() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the network's tensors: four of each of 94 normalisations, and 94 convolutions.

    Returns:
        Name → shape, as in the published file without its classifier (``fc``).
    """
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in InceptionFeatures().state_dict().items()}


def table_sha256(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """SHA-256 of lines ``name 1,2,3``, in the order of the names; that of :func:`parameter_table` is ``TABLE_SHA256``."""
    lines = [f"{name} {','.join(map(str, shapes[name]))}\n" for name in sorted(shapes)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def pytorch_fid_names() -> dict[str, str]:
    """Names of layers and blocks in pytorch-fid's module → ours (the published file's).

    Returns:
        Its four groups of blocks, counted with their poolings, which have no tensors.

    Examples:
        >>> pytorch_fid_names()["blocks.2.3"]
        'Mixed_6a'
    """
    stem = [step.name if isinstance(step, _Layer) else "" for step in _STEM]
    mixed = list(_MIXED)
    groups = (stem[:4], stem[4:], mixed[:8], mixed[8:])
    return {f"blocks.{i}.{j}": name for i, group in enumerate(groups) for j, name in enumerate(group) if name}


def require_accepted(path: Path, sha256: str, accepted: Collection[str] = INCEPTION_SHA256) -> None:
    """Refuse a file that is not the published one.

    Args:
        path: the file, for the message.
        sha256: its SHA-256.
        accepted: SHA-256 values that will do.

    Raises:
        InputError: if the SHA-256 is another.
    """
    if sha256 not in accepted:
        raise InputError(
            f"{path}: has the SHA-256 {sha256}, so it is damaged, cut short or another network; expected the file {_advice(accepted)}"
        )


def load_inception(path: Path | str, *, accepted: Collection[str] = INCEPTION_SHA256) -> InceptionFeatures:
    """The network with the weights of a file; nothing is left at random values, and no code in a file is run.

    Args:
        path: the published ``.pth`` file.
        accepted: SHA-256 values that the published file may have.

    Returns:
        The network, frozen, in evaluation mode, on the CPU.

    Raises:
        InputError: if the file is missing, damaged or not the published one, or its tensors are not the network's.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected FID's Inception weights, {_advice(accepted)}")
    state, source = _read_published(path, accepted)
    state = _named_like_ours(state, path)
    with torch.device("meta"):  # no weight is drawn
        network = InceptionFeatures()
    network.load_state_dict(state, assign=True)
    network.weights_sha256 = source
    return network.requires_grad_(False).eval()


def _advice(accepted: Collection[str]) -> str:
    urls = " or ".join(INCEPTION_URLS)
    return f"with the SHA-256 {' or '.join(accepted)}. Fetch {urls} (torchvision's own Inception is another network)."


def _read_published(path: Path, accepted: Collection[str]) -> tuple[Any, str]:
    content = path.read_bytes()  # once: what is checked is what is loaded
    source = sha256_bytes(content)
    require_accepted(path, source, accepted)
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True), source
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ) as error:
        raise InputError(
            f"{path}: cannot be read without running code in it ({type(error).__name__}); expected named tensors "
            f"alone, {_advice(accepted)}"
        ) from None


def _named_like_ours(state: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise InputError(
            f"{path}: holds {type(state).__name__}; expected a state dict of tensors alone. Fetch it again."
        )
    named = dict(state)
    if all(name.startswith("blocks.") for name in state):  # saved from pytorch-fid's module
        blocks = {name: ".".join(name.split(".")[:3]) for name in state}
        ours = pytorch_fid_names()
        named = {ours.get(blocks[name], blocks[name]) + name[len(blocks[name]) :]: state[name] for name in state}
    expected = parameter_table()
    unused = _UNUSED | {f"{name.removesuffix('weight')}num_batches_tracked": () for name in expected if ".bn.w" in name}
    got = {name: tuple(value.shape) for name, value in named.items() if tuple(value.shape) != unused.get(name)}
    lines = first_differences(got, expected)
    if lines:
        raise InputError(
            f"{path}: not the tensors of FID's Inception: {'; '.join(lines)}. Fetch the published file again."
        )
    for name in expected:
        if named[name].dtype != torch.float32:
            raise InputError(f"{path}, {name}: got {named[name].dtype}; expected torch.float32, as published.")
        require_finite(f"{path}, {name}", named[name])
    return {name: named[name] for name in expected}
