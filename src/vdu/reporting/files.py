"""Reads the bulky files of a run folder: the two sample files and the training log.

NOT guaranteed: that the images came from the models the run names; only their shapes and kinds are checked.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdu.core.errors import InputError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Samples", "read_log", "read_samples"]

_SAMPLE_KEYS = ("images", "seeds", "judge_class", "judge_confidence")


@dataclass(frozen=True, eq=False)
class Samples:
    """N images of one model and what the judge said about them.

    Attributes:
        images: uint8 [N, H, W, C], C = 1 or 3.
        seeds: int64 [N], the seed of each image's starting noise.
        judge_class: int64 [N], index into the judge's class names.
        judge_confidence: float [N] in [0, 1].
        asked: int64 [N], number of the prompt or label; None for unconditional models.
    """

    images: "np.ndarray"
    seeds: "np.ndarray"
    judge_class: "np.ndarray"
    judge_confidence: "np.ndarray"
    asked: "np.ndarray | None" = None


def read_samples(path: Path, n_classes: int) -> Samples:
    """Read one sample file.

    Args:
        path: a safetensors file with images uint8 [N, C, H, W], seeds, judge_class and judge_confidence [N].
        n_classes: how many classes the judge has.

    Returns:
        The samples, images as [N, H, W, C].

    Raises:
        InputError: if the file cannot be read, or an array is missing or of another kind or shape.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(path)
    except (
        SafetensorError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ) as error:  # numpy lacks some of its types
        raise InputError(f"{path}: not a readable safetensors file ({error}). Run `vdu evaluate` again.") from None
    missing = [key for key in _SAMPLE_KEYS if key not in arrays]
    if missing:
        raise InputError(f"{path}: lacks {', '.join(missing)}; expected {', '.join(_SAMPLE_KEYS)}. Run `vdu evaluate`.")
    images = arrays["images"]
    if images.dtype != "uint8" or images.ndim != 4 or images.shape[1] not in {1, 3} or 0 in images.shape:
        raise InputError(f"{path}: images are {images.dtype} {list(images.shape)}; expected uint8 [N, 1 or 3, H, W].")
    for key in (*_SAMPLE_KEYS[1:], *(["asked"] if "asked" in arrays else [])):
        if arrays[key].shape != images.shape[:1]:
            raise InputError(
                f"{path}: {key} has shape {list(arrays[key].shape)}; expected [{len(images)}], one per image."
            )
        wanted = "f" if key == "judge_confidence" else "i"
        if arrays[key].dtype.kind != wanted:
            raise InputError(
                f"{path}: {key} is {arrays[key].dtype}; expected {'floats' if wanted == 'f' else 'integers'}."
            )
    judged = arrays["judge_class"]
    if judged.min() < 0 or judged.max() >= n_classes:
        raise InputError(
            f"{path}: judge_class runs from {judged.min()} to {judged.max()}; metrics.json names {n_classes} classes. "
            "Run `vdu evaluate` again so that both come from one judge."
        )
    seeds, judged, confidence = (arrays[key] for key in _SAMPLE_KEYS[1:])
    return Samples(images.transpose(0, 2, 3, 1), seeds, judged, confidence, arrays.get("asked"))


def read_log(path: Path) -> tuple[tuple[dict[str, Any], ...], list[str]]:
    """Read the training log; a torn last line (a killed run) is left out and warned of.

    Args:
        path: a file with one JSON record per line; records without ``step`` and ``loss`` are skipped.

    Returns:
        The records ``{"step", "loss", "terms"}`` in order, and the warnings.

    Raises:
        InputError: if a line but the last is not JSON.
    """
    records, warnings = [], []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()  # a damaged line is told of below
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line) if line.strip() else {}
        except (ValueError, RecursionError):
            if number < len(lines):
                raise InputError(
                    f"{path}: line {number} is not JSON. Restore the file or run `vdu unlearn` again."
                ) from None
            warnings.append("The last line of log.jsonl is torn: the run was killed while it wrote.")
            continue
        if isinstance(record, dict) and "step" in record and "loss" in record:
            records.append({"step": record["step"], "loss": record["loss"], "terms": record.get("terms") or {}})
    return tuple(records), warnings
