"""The images that runs of ``vdu unlearn`` were trained on to keep, on the way to a model.

A run may start from what an earlier run made. Its record names that pipeline by path and hash, so the earlier run folder is found, and
so on up to a model that no run made.

Not guaranteed: that earlier runs are found after their folders were moved, or where a model was given as an object.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vdu.core.records import read_json
from vdu.core.runs import runs_before
from vdu.data.overlap import RETAINED, PixelHashes

__all__ = ["retained_before", "retained_of"]


def retained_of(run: Path | None) -> Iterator[PixelHashes]:
    """The hashes of the images that a run, and the runs before it, were trained on to keep.

    Args:
        run: the folder of a finished run of ``vdu unlearn``, or None.

    Yields:
        Those of each run that retained given images, the last run first.
    """
    if run is None:
        return
    yield from _stored(run)
    yield from retained_before(read_json(run / "run.json")["inputs"]["model"])


def retained_before(model: Mapping[str, Any]) -> Iterator[PixelHashes]:
    """The hashes of the images that the runs that made a model were trained on to keep.

    Args:
        model: as for :func:`vdu.core.runs.runs_before`.

    Yields:
        As :func:`retained_of`.
    """
    for run, _ in runs_before(model):
        yield from _stored(run)


def _stored(run: Path) -> Iterator[PixelHashes]:
    if (run / RETAINED).is_file():
        yield PixelHashes.load(run / RETAINED)
