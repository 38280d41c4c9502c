"""The models that an evaluation compares, on the accelerator if there is one, each checked to be what the run's record says."""

from pathlib import Path
from typing import Any

from vdu.core.checks import hash_parameters
from vdu.core.errors import InputError
from vdu.core.runs import Run
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.pipelines import configuration_of, load_pipeline, network_of
from vdu.training.loop import make_accelerator

__all__ = ["open_models"]


def open_models(
    record: Run, retrained: Path | None
) -> tuple[PipelineDenoiser, PipelineDenoiser, PipelineDenoiser | None]:
    """The original, the unlearned and, if there is one, the retrained model.

    Args:
        record: a finished run of "unlearn".
        retrained: pipeline folder of a model trained without the forget class.

    Returns:
        The three; None in the last place if no retrained model is given.

    Raises:
        InputError: if a model is not the recorded one, or the retrained model is none.
    """
    found = []
    for path, recorded, what, advice in (
        (Path(record.record["inputs"]["model"]["path"]), record.record["inputs"]["model"],
         "the model that this run started from", "Put it back"),
        (record.folder / "pipeline", record.record["pipeline"],
         "what this run made", "Make the run again, or put the pipeline back"),
    ):  # fmt: skip
        pipeline = load_pipeline(path)
        if not _is_recorded(pipeline, recorded):
            raise InputError(
                f"{path}: is not {what} (the hash of its weights or configuration differs from run.json). {advice}."
            )
        found.append(PipelineDenoiser.from_pipeline(pipeline.to(make_accelerator().device)))
    original, unlearned = found
    return original, unlearned, _retrained(retrained, original, unlearned)


def _is_recorded(pipeline: Any, record: dict[str, Any]) -> bool:
    """Whether a pipeline has the weights, and the configuration if one was recorded, of a run's record."""
    configuration = configuration_of(pipeline)
    same = hash_parameters(network_of(pipeline).state_dict()) == record["sha256"]
    return same and record.get("configuration_sha256", configuration) == configuration


def _retrained(folder: Path | None, *others: PipelineDenoiser) -> PipelineDenoiser | None:
    """The retrained model, if there is one, refused where it is none."""
    if folder is None:
        return None
    found = PipelineDenoiser.from_pipeline(load_pipeline(folder).to(make_accelerator().device))
    if found.image_shape != others[0].image_shape:
        raise InputError(
            f"--retrained {folder}: makes images of shape {found.image_shape}, the original {others[0].image_shape}; expected the "
            "same. Give a model of the same kind, trained without the forget class."
        )
    sums = {hash_parameters(each.network.state_dict()) for each in others}
    if hash_parameters(found.network.state_dict()) in sums:
        raise InputError(
            f"--retrained {folder}: is the original or the unlearned model itself; expected one that was trained without the forget "
            "class. Leave it out if there is none."
        )
    return found
