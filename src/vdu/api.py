"""Python's forms of the verbs that are more than one call to their room: ``vdu.sample`` and ``vdu.reporting``."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdu.core.errors import InputError, did_you_mean, shown
from vdu.core.paths import given_output, given_path
from vdu.core.python_names import names_arguments
from vdu.core.ranges import require_flags, require_kind
from vdu.core.room import FLOATS, require_room

if TYPE_CHECKING:
    from torch import Tensor

    from vdu.diffusion.sampling import Sampler

__all__ = ["report", "sample"]


@names_arguments
def sample(
    pipeline: Any,
    seeds: int | Sequence[int],
    sampler: "Sampler | None" = None,
    *,
    labels: Sequence[int | str | None] | None = None,
    progress: str | None = None,
) -> "Tensor":
    """Draw images from a pipeline.

    Args:
        pipeline: a diffusers pipeline, its folder, or a :class:`vdu.PipelineDenoiser`.
        seeds: one seed per image; or the number of images, whose seeds are then 0, 1, ….
        sampler: the protocol; None takes 50 steps of DDIM.
        labels: the class of each image, for a class-conditional model, by name or number (:func:`vdu.core.class_names.class_index`).
        progress: title of the progress bar; None shows none.

    Returns:
        Images, [images, channels, height, width], float32 on the CPU, in [−1, 1]; equal seeds give equal images.

    Raises:
        InputError: if the pipeline, seeds or sampler are of another kind, or labels do not fit.
    """
    from vdu.diffusion.sampling import Sampler, sample
    from vdu.models.denoiser import PipelineDenoiser
    from vdu.models.pipelines import load_pipeline

    opened = load_pipeline(pipeline) if isinstance(pipeline, str | Path) else pipeline
    denoiser = opened if isinstance(opened, PipelineDenoiser) else PipelineDenoiser.from_pipeline(opened)
    given: Any = seeds
    given = given.tolist() if hasattr(given, "tolist") else given  # of NumPy and PyTorch
    number = isinstance(given, int) and not isinstance(given, bool) and given > 0
    chosen = range(given) if number else given
    if isinstance(chosen, range):  # before its seeds are looked at one by one
        require_room("seeds", max(0, (chosen.stop - chosen.start) // chosen.step), denoiser.image_shape, FLOATS)
    if (
        not isinstance(chosen, Sequence)
        or isinstance(chosen, str | bytes)
        or not all(_is_index(each) for each in chosen)
    ):
        raise InputError(
            f"seeds: got {shown(seeds)}; expected a number of images, at least 1, or one integer of at most 64 bits per image."
        )
    if len({int(each) % 2**32 for each in chosen}) < len({int(each) for each in chosen}):
        raise InputError(
            "seeds: some differ by a multiple of 4294967296 alone, and PyTorch's generator on a CPU reads 32 bits of a seed, so their "
            "images would be equal; expected seeds that differ in these bits, such as 0, 1, 2, …"
        )
    require_kind("progress", progress, str, "the title of a progress bar, or None")
    if sampler is not None and not isinstance(sampler, Sampler):
        raise InputError(f"sampler: got {shown(sampler)}; expected a vdu.Sampler.")
    if labels is not None and (not isinstance(labels, Sequence) or isinstance(labels, str | bytes)):
        raise InputError(f"labels: got {shown(labels)}; expected one class per image, as a list.")
    meant = None if labels is None else denoiser.meant(labels)
    return sample(denoiser, chosen, sampler or Sampler(), labels=meant, progress=progress)


def _is_index(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool) and -(2**63) <= int(value) < 2**63


@names_arguments
def report(folder: Path | str, **settings: Any) -> Path:
    """Write the evidence report of a run, after its evaluation; ``evidence.json`` is written beside it.

    Args:
        folder: the run folder.
        **settings: those of ``vdu report``, for example ``output="report.html"`` or ``hide_forgotten=True``.

    Returns:
        The path of the page.

    Raises:
        InputError: if there is no such setting; or the folder holds no evaluated run.
    """
    from vdu.commands.report import ReportSettings, run

    folder = given_path(folder, "folder")
    known = [item.name for item in fields(ReportSettings) if item.name != "run"]
    for name in settings:
        if name not in known:
            hint = did_you_mean(name, known)
            raise InputError(
                f"report: got an unexpected keyword argument {name!r}; expected some of {', '.join(known)}.{hint}"
            )
    if settings.get("output") is not None:
        settings["output"] = given_output(settings["output"], "output")
    require_kind("by", settings.get("by"), str, "a name")
    require_flags({"hide_forgotten": False} | settings, "hide_forgotten")
    return Path(run(ReportSettings(run=folder, **settings))["report"])
