"""Judges: small classifiers that predict the class of an image, and their folder format.

    f = body(x) ∈ ℝ^d        logits = W f + b ∈ ℝ^K

Symbols: x images in [−1, 1]; f penultimate features, on which distances such as u-FID[judge] are measured; K classes.
Two architectures that differ in kernels, normalisation and pooling, so that one can check the other:

    cnn     3×3 convolutions with batch normalisation, halved by stride      15 MFLOP and 1.1 MB at 1×28×28, d = 64
    lenet   5×5 convolutions, halved by max pooling, dropout                 13 MFLOP and 1.0 MB at 1×28×28, d = 96
            (after LeCun et al. 1998, Proceedings of the IEEE 86)

Both halve the image until it is at most 8 pixels wide and high, at least once.

A judge is a folder: ``model.safetensors`` and ``judge.json``. The latter describes the judge, its training data and its error rate
and has the SHA-256 of the weights and of the record (``record_sha256``; older judges have none and can still be read). No pickle
is read.

Not guaranteed: that a judge is accurate on images unlike its training images, including generated ones.
"""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vdu.core.checks import first_differences, require_finite
from vdu.core.errors import InputError
from vdu.core.records import FORMAT_VERSION, atomic_folder, read_json, sha256_bytes, sha256_file, write_json
from vdu.core.surroundings import own_torch
from vdu.judges.record import ADVICE, check_record

__all__ = ["ARCHITECTURES", "Judge", "load_judge", "save_judge"]

WEIGHTS_FILE, RECORD_FILE, CHECKSUM = "model.safetensors", "judge.json", "record_sha256"
_IDENTITY = frozenset({"format_version", "architecture", "sample_shape", "class_names", "weights_sha256"})
_SMALLEST, _LARGEST = 8, 1 << 16


def _widths(height: int, width: int, first: int) -> list[int]:
    # one stage per halving, until the image is at most 8 pixels wide and high
    n_stages = max(1, ((max(height, width) - 1) // 8).bit_length())
    return [first, *[2 * first] * (n_stages - 1)]


def _cnn(channels: int, widths: list[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, width in pairwise([channels, *widths]):
        for inputs, stride in ((before, 1), (width, 2)):
            # no bias: the normalisation has one
            layers += [nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return layers


def _lenet(channels: int, widths: list[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, width in pairwise([channels, *widths]):
        layers += [nn.Conv2d(before, width, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)]
    return [*layers, nn.Dropout(0.5)]


# architecture → its stages, channels of the first stage, number of penultimate features
ARCHITECTURES = {"cnn": (_cnn, 32, 64), "lenet": (_lenet, 24, 96)}


class Judge(nn.Module):
    """A classifier with named classes and a fixed image shape.

    Its weights come from PyTorch's global stream: build it inside :func:`vdu.core.rng.isolated_global`.

    Args:
        architecture: "cnn" or "lenet".
        sample_shape: channels, height, width; height and width at least 8 pixels.
        class_names: a distinct name for each class, at least 2.

    Raises:
        InputError: if the architecture is unknown, or the shape or the names do not fit.

    Examples:
        >>> judge = Judge("cnn", (1, 28, 28), ("even", "odd")).eval()
        >>> judge(torch.zeros(3, 1, 28, 28)).shape, judge.features(torch.zeros(3, 1, 28, 28)).shape
        (torch.Size([3, 2]), torch.Size([3, 64]))
    """

    def __init__(self, architecture: str, sample_shape: tuple[int, int, int], class_names: Sequence[str]) -> None:
        super().__init__()
        if architecture not in ARCHITECTURES:
            raise InputError(f"architecture: got {architecture!r}; expected one of {', '.join(ARCHITECTURES)}.")
        if len(sample_shape) != 3 or sample_shape[0] < 1 or min(sample_shape[1:]) < _SMALLEST:
            raise InputError(
                f"judge: got images of shape {tuple(sample_shape)}; expected (channels, height, width) with at least "
                f"{_SMALLEST} pixels each way. Enlarge the images."
            )
        if len(set(class_names)) != len(class_names) or len(class_names) < 2:
            raise InputError(f"judge: got class names {list(class_names)}; expected at least two, all distinct.")
        self.architecture, self.class_names = architecture, tuple(class_names)
        channels, height, width = self.sample_shape = tuple(sample_shape)
        stages, first, self.n_features = ARCHITECTURES[architecture]
        widths = _widths(height, width, first)
        high, wide = (-(-side // 2 ** len(widths)) for side in (height, width))
        fit = nn.Linear(widths[-1] * high * wide, self.n_features)
        self.body = nn.Sequential(*stages(channels, widths), nn.Flatten(), fit, nn.ReLU())
        self.head = nn.Linear(self.n_features, len(self.class_names))

    def features(self, images: Tensor) -> Tensor:
        """Penultimate features, not negative.

        Args:
            images: [batch, channels, height, width], in [−1, 1].

        Returns:
            [batch, n_features].

        Raises:
            InputError: if the images have another shape than the judge's.
        """
        if tuple(images.shape[1:]) != self.sample_shape:
            raise InputError(
                f"judge: got images of shape {tuple(images.shape[1:])}; expected {self.sample_shape} (channels, "
                "height, width). Use a judge trained on images like these."
            )
        return self.body(images)

    def forward(self, images: Tensor) -> Tensor:
        """Logits.

        Args:
            images: [batch, channels, height, width], in [−1, 1].

        Returns:
            [batch, classes].
        """
        return self.head(self.features(images))


def save_judge(judge: Judge, folder: Path | str, record: dict[str, Any]) -> None:
    """Write a judge atomically; an older judge in that folder is replaced.

    Args:
        judge: the judge to write.
        folder: a new or empty folder, or one that holds a judge.
        record: its record, ready for JSON. Always name, data and held_out (descriptions, numbers, hashes),
        held_out_error (a fraction of n_held_out images) and settings (of the training); then trained_by "labels" with
        confusion ([true class][predicted class], counts over the held-out images) and command, or trained_by
            "positive-unlabelled" with forget_false_positive_rate and forget (all estimates).

    Raises:
        InputError: if the record is incomplete or impossible, a weight is not finite, or the folder holds other files.
    """
    folder = Path(folder)
    check_record(record, len(judge.class_names), "record")
    if folder.exists() and not (folder.is_dir() and (not any(folder.iterdir()) or (folder / RECORD_FILE).is_file())):
        raise InputError(f"{folder}: holds other files than a judge, which would be lost. Give another folder.")
    for name, value in judge.state_dict().items():
        require_finite(f"judge, {name}", value)
    weights = {name: value.cpu().contiguous() for name, value in judge.state_dict().items()}
    with atomic_folder(folder) as temporary:
        save_file(weights, temporary / WEIGHTS_FILE)
        identity = {
            "format_version": FORMAT_VERSION,
            "architecture": judge.architecture,
            "sample_shape": list(judge.sample_shape),
            "class_names": list(judge.class_names),
            "weights_sha256": sha256_file(temporary / WEIGHTS_FILE),
        }
        whole = identity | record
        write_json(temporary / RECORD_FILE, whole | {CHECKSUM: _checksum(whole)})


@own_torch()
def load_judge(folder: Path | str) -> tuple[Judge, dict[str, Any]]:
    """Read a judge that ``save_judge`` wrote.

    Args:
        folder: the folder with ``judge.json`` and ``model.safetensors``.

    Returns:
        The judge, in evaluation mode on the CPU, and all of ``judge.json``.

    Raises:
        InputError: if the folder is not a judge, has another format, is damaged, or holds unexpected content.
    """
    folder = Path(folder)
    if not (folder / RECORD_FILE).exists() and (folder / "judge" / RECORD_FILE).is_file():
        raise InputError(f"{folder}: is the run folder of a judge; expected the judge in it. Give {folder / 'judge'}.")
    record = read_json(folder / RECORD_FILE)
    where = str(folder / RECORD_FILE)
    if not isinstance(record, dict) or record.get("format_version") != FORMAT_VERSION:
        raise InputError(f"{where}: not a judge of format version {FORMAT_VERSION}. {ADVICE}")
    expected = record.pop(CHECKSUM, None)
    missing = sorted(_IDENTITY - set(record))
    if missing:
        raise InputError(f"{where}: fields missing: {', '.join(missing)}. {ADVICE}")
    judge = _empty(record, where)
    described = {name: value for name, value in record.items() if name not in _IDENTITY}
    check_record(described, len(judge.class_names), where)
    weights = _read_weights(folder / WEIGHTS_FILE, record["weights_sha256"], judge)
    if expected not in (None, _checksum(record)):
        raise InputError(f"{where}: damaged: its {CHECKSUM} is not that of its content. Restore the folder.")
    judge.load_state_dict(weights, assign=True)  # until here the judge has no allocated weights
    return judge.eval(), record


def _empty(record: dict[str, Any], where: str) -> Judge:
    """The judge that a record describes, without allocating its weights, since the record may be wrong about their size."""
    shape, names = record["sample_shape"], record["class_names"]
    sides = isinstance(shape, list) and all(isinstance(side, int) and 0 < side <= _LARGEST for side in shape)
    if not sides:
        raise InputError(f"{where}: sample_shape is {shape!r}; expected three integers up to {_LARGEST}. {ADVICE}")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{where}: class_names is {names!r}; expected a list of names. {ADVICE}")
    if not isinstance(record["architecture"], str):
        known = ", ".join(ARCHITECTURES)
        raise InputError(f"{where}: architecture: got {record['architecture']!r}; expected one of {known}. {ADVICE}")
    with torch.device("meta"):
        return Judge(record["architecture"], tuple(shape), names)


def _checksum(record: dict[str, Any]) -> str:
    """SHA-256 of a record, unchanged by writing and reading."""
    return sha256_bytes(json.dumps(json.loads(json.dumps(record)), sort_keys=True).encode())


def _read_weights(path: Path, expected_sha256: str, judge: Judge) -> dict[str, Tensor]:
    if not path.is_file() or sha256_file(path) != expected_sha256:
        raise InputError(
            f"{path}: missing or damaged: its SHA-256 differs from the one in {RECORD_FILE}. Restore the folder."
        )
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}). {ADVICE}") from None
    shapes = {name: (*value.shape, value.dtype) for name, value in weights.items()}
    lines = first_differences(shapes, {name: (*value.shape, value.dtype) for name, value in judge.state_dict().items()})
    if lines:
        raise InputError(f"{path}: weights of another model: {'; '.join(lines)}. {ADVICE}")
    for name, value in weights.items():
        require_finite(f"{path}, {name}", value)
    return weights
