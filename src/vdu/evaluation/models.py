"""The models that an evaluation compares, on the accelerator if there is one, each checked to be what a record says of it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vdu.core.errors import InputError
from vdu.core.paths import given_path
from vdu.core.records import read_json
from vdu.core.runs import Run, run_of
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.finding import find_pipeline
from vdu.models.identity import (
    configuration_sha256,
    differences,
    is_recorded_configuration,
    parts_sha256,
    weights_sha256,
)
from vdu.models.pipelines import check_network, load_pipeline, network_of
from vdu.training.accelerator import make_accelerator

__all__ = ["OpenModel", "open_model", "open_models", "open_retrained", "require_comparable"]

READER = "text encoder"  # in the differences of two models
MADE = ("what this run made", "Make the run again, or put the pipeline back")


@dataclass(frozen=True, eq=False)
class OpenModel:
    """A model and where it comes from.

    Attributes:
        pipeline: the model as it was opened.
        denoiser: the same, for probes and samplers.
        sha256: of its weights.
        configuration: SHA-256 of all else that it is (:mod:`vdu.models.identity`).
        path: the pipeline's folder, absolute; None for a pipeline that was given as an object.
        run: the finished run of ``vdu unlearn`` that made it, or None.
    """

    pipeline: Any
    denoiser: PipelineDenoiser
    sha256: str
    configuration: str
    path: Path | None
    run: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """What ``run.json`` holds of a model."""
        return {
            "path": None if self.path is None else str(self.path),
            "sha256": self.sha256,
            "configuration_sha256": self.configuration,
            "class_names": list(self.denoiser.class_names),
            **({} if self.parts is None else {"parts_sha256": self.parts}),
        }

    @property
    def parts(self) -> str | None:
        """SHA-256 of text encoders and autoencoder; None for a model that has neither."""
        return parts_sha256(self.denoiser)

    def is_recorded(self, record: Any) -> bool:
        """Whether a record of ``run.json`` is of this model: its weights; configuration and other parts if they were recorded."""
        record = record if isinstance(record, dict) else {}
        recorded = record.get("configuration_sha256", self.configuration)
        same = self.sha256 == record.get("sha256")
        same = same and self.parts == record.get("parts_sha256", self.parts)
        return same and is_recorded_configuration(self.pipeline, self.denoiser, recorded)


def open_model(source: Any, name: str) -> OpenModel:
    """Open a pipeline.

    Args:
        source: a pipeline, which moves to the accelerator; a pipeline folder, also that of a run; or a run folder, whose pipeline is meant.
        name: what messages call it.

    Returns:
        The model.

    Raises:
        InputError: if there is no pipeline, or it is not the one that its run recorded.
    """
    path, pipeline = None, source
    if isinstance(source, str | Path):
        path = given_path(source, name)
        path = (path if path.exists() else find_pipeline(source)).resolve()  # a model of the Hub, or no folder
        inside = path / "pipeline"
        if not (path / "model_index.json").is_file() and (inside / "model_index.json").is_file():
            path = inside
        elif not (path / "model_index.json").is_file():
            raise InputError(
                f"{name}: {source} is neither a pipeline folder (no model_index.json) nor a run folder (no pipeline/). Give a folder "
                "that a diffusers pipeline's save_pretrained wrote, or the folder of a `vdu unlearn`."
            )
        pipeline = load_pipeline(path)
    found = _opened(pipeline, path, name if path is None else None)
    if path is None or (run := run_of(path)) is None:
        return found
    _require_recorded(found, read_json(run / "run.json").get("pipeline"), path, *MADE)
    return replace(found, run=run)


def open_models(record: Run, original: Any = None) -> tuple[OpenModel, OpenModel]:
    """The original and the unlearned model of a run.

    Args:
        record: a finished run of "unlearn".
        original: the pipeline that it started from; None loads it from where the record says.

    Returns:
        The two. A model that is not the recorded one is refused with an ``InputError``.
    """
    inputs, made = record.record["inputs"], record.folder / "pipeline"
    place = inputs["model"]["path"]
    first = _opened(load_pipeline(place), Path(place)) if original is None else _opened(original, None, "original")
    _require_recorded(first, inputs["model"], place, "the model that this run started from", "Put it back")
    unlearned = _opened(load_pipeline(made), made)
    _require_recorded(unlearned, record.record["pipeline"], made, *MADE)
    return first, unlearned


def require_comparable(before: OpenModel, after: OpenModel, *, in_words: bool = False) -> None:
    """Refuse two models that cannot be compared noise by noise.

    Args:
        before: the original.
        after: the other model.
        in_words: whether both are asked with the same prompts, whatever their own are.

    Raises:
        InputError: if their images have different shapes, or their classes differ.
    """
    first, second = before.denoiser, after.denoiser
    if first.image_shape != second.image_shape:
        raise InputError(
            f"evaluate: before makes images of shape {first.image_shape}, after {second.image_shape}; expected the same: both start "
            "from the same noise. Give two versions of one model."
        )
    if in_words and first.takes_prompts and second.takes_prompts:
        return
    if first.class_names != second.class_names:
        names = [", ".join(each.class_names[:10]) or "none" for each in (first, second)]
        raise InputError(
            f"evaluate: before has the classes {names[0]}, after {names[1]}; expected the same: both are sampled under the same "
            "classes. Give two versions of one model."
        )


def open_retrained(source: Any, *others: OpenModel) -> OpenModel | None:
    """The retrained model, refused where it is none.

    Args:
        source: a pipeline or its folder; None for no retrained model.
        *others: the original and the unlearned model.

    Returns:
        The model, or None.

    Raises:
        InputError: if its images have another shape or it has other classes, or it is one of the others.
    """
    if source is None:
        return None
    from_folder = isinstance(source, str | Path)
    shown = f"--retrained {source}" if from_folder else "retrained"
    source = find_pipeline(source) if from_folder else source
    found = _opened(load_pipeline(source), Path(source).resolve()) if from_folder else _opened(source, None, shown)
    if found.denoiser.image_shape != others[0].denoiser.image_shape:
        raise InputError(
            f"{shown}: makes images of shape {found.denoiser.image_shape}, the original {others[0].denoiser.image_shape}; expected the "
            "same. Give a model of the same kind, trained without the forget class."
        )
    names, own = others[0].denoiser.class_names, found.denoiser.class_names
    if names != own and not (others[0].denoiser.takes_prompts and found.denoiser.takes_prompts):
        theirs, ours = (", ".join(each[:10]) or "none" for each in (own, names))
        raise InputError(
            f"{shown}: has the classes {theirs}, the original {ours}; expected the same in the same order: all models are sampled "
            "under the same classes. Train it with the classes of the original, and without images of the forgotten one."
        )
    if any(_predicts_alike(found, each) for each in others):
        raise InputError(
            f"{shown}: has the weights of the original or of the unlearned model; expected one that was trained without the forget "
            "class. Leave it out if there is none."
        )
    if found.path is not None and (start := _fine_tuned_from(found.path, {each.sha256 for each in others})):
        raise InputError(
            f"{shown}: was fine-tuned from the original or the unlearned model ({start}), which saw the forget class; expected a model "
            "that was trained from the beginning without it. Leave it out if there is none."
        )
    return found


def _predicts_alike(first: OpenModel, second: OpenModel) -> bool:
    """Whether the weights that learn what is drawn are the same: of the network, and of what reads prompts; no autoencoder's."""
    return first.sha256 == second.sha256 and READER not in differences(first.denoiser, second.denoiser)


def _fine_tuned_from(pipeline: Path, hashes: set[str]) -> str | None:
    """The folder of a model with one of these hashes from which one or several runs made a pipeline; None if there is none."""
    seen: set[Path] = set()
    while pipeline not in seen:
        seen.add(pipeline)
        record = pipeline.parent / "run.json"
        if pipeline.name != "pipeline" or not record.is_file():
            return None
        model = read_json(record).get("inputs", {}).get("model") or {}
        if model.get("sha256") in hashes:
            return str(model.get("path"))
        if "path" not in model:
            return None
        pipeline = Path(model["path"])
    return None


def _opened(pipeline: Any, path: Path | None, unchecked: str | None = None) -> OpenModel:
    """A pipeline on the accelerator; one that no loader checked is named by ``unchecked`` and checked here."""
    try:
        denoiser = PipelineDenoiser.from_pipeline(pipeline)  # refuses what is no pipeline
    except InputError as error:
        if unchecked is None or unchecked == "pipeline":
            raise
        of_result = hasattr(getattr(pipeline, "pipeline", None), "components")
        hint = f" Of a result give its pipeline: {unchecked}=….pipeline." if of_result else ""
        raise InputError(f"{unchecked}: {str(error).removeprefix('pipeline: ')}{hint}") from None
    network = network_of(pipeline)
    if unchecked is not None:
        check_network(network, unchecked)
    network.to(make_accelerator().device)
    return OpenModel(pipeline, denoiser, weights_sha256(network), configuration_sha256(denoiser), path)


def _require_recorded(model: OpenModel, record: Any, path: Path | str, what: str, advice: str) -> None:
    """Refuse a model that is not the one of a run's record."""
    if not model.is_recorded(record):
        raise InputError(
            f"{path}: is not {what} (the hash of its weights, other parts or configuration differs from run.json). {advice}."
        )
