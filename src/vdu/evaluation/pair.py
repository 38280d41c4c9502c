"""Two pipelines as the subject of an evaluation, whoever made the second one, and the folder of their evidence.

The folder has the form of a run folder without a pipeline: ``run.json`` names both models by path and hash and says that they were
compared (``"origin": "compared"``), ``config.toml`` holds the options, ``log.jsonl`` is empty.

Not guaranteed: that the second model was made from the first; nothing is recorded of how it was made, unless it is in a run folder.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomli_w

from vdu.core.errors import InputError
from vdu.core.paths import given_output
from vdu.core.processes import first_decides
from vdu.core.records import read_json, read_toml
from vdu.core.runs import Run, check_folder, forgotten_before, require_apart
from vdu.data.forget_source import DRAWN, GIVEN, compared_images, dealt, forget_images, has_captions, record_of
from vdu.data.given import Images, is_named
from vdu.data.images import ImageSet
from vdu.data.overlap import PixelHashes
from vdu.data.sources import absolute, place_of
from vdu.evaluation.models import OpenModel
from vdu.evaluation.options import EvaluationOptions
from vdu.evaluation.prompt_sets import PromptSets, asking
from vdu.evaluation.retained import retained_before
from vdu.models.denoiser import PipelineDenoiser
from vdu.unlearning.labels import forget_set_of_labels

__all__ = [
    "check_evidence_folder",
    "config_of",
    "images_of_prompts",
    "made_by",
    "made_in",
    "open_folder",
    "require_one_subject",
    "unwanted_images",
]

VERB = "evaluate"


def require_one_subject(run: Any, before: Any, after: Any, forget: Any, forget_prompt: Any = None) -> None:
    """Refuse anything but one run, or two pipelines with what was to be forgotten.

    Args:
        run: a run folder or a result, or None.
        before: the original, or None.
        after: the other model, or None.
        forget: the unwanted images, or None.
        forget_prompt: what was to be forgotten in words, if anything; images are then drawn under it.

    Raises:
        InputError: if the arguments do not fit together.
    """
    named = {"before": before, "after": after, "forget": forget}
    if forget_prompt:
        named = {"before": before, "after": after, "forget_prompt": forget_prompt}
    given = [name for name, value in named.items() if value is not None]
    if run is not None and given:
        raise InputError(
            f"evaluate: got a run and {', '.join(given)}; expected one of them. A run has both models and the forget set: leave "
            f"{'it' if len(given) == 1 else 'them'} out, or give before, after and forget without a run."
        )
    missing = [name for name in named if name not in given]
    if run is None and missing:
        got = f"got {', '.join(given)} without {', '.join(missing)}" if given else "got neither a run nor two pipelines"
        raise InputError(
            f"evaluate: {got}; expected a run of `vdu unlearn`, or two pipelines and the unwanted images: "
            "--before A --after B --forget IMAGES (in Python before=…, after=…, forget=…), or of text-to-image models --forget-prompt."
        )


def unwanted_images(
    source: Images,
    shape: tuple[int, int, int],
    classes: Sequence[str],
    model_classes: Sequence[str] = (),
    convert: bool = False,
) -> tuple[ImageSet, dict[str, Any]]:
    """The images that were to be forgotten, and what ``run.json`` holds of them.

    Args:
        source: the images, or where they are.
        shape: channels, height and width of the models.
        classes: of a labelled source, those to be forgotten; of one without labels, what the judge calls them.
        model_classes: classes of the models, if they are conditional.
        convert: convert images of another size or mode.

    Returns:
        The images and their record. Images of another shape that are not converted, or of several classes of which none is named, are
        refused with an ``InputError``.
    """
    images = compared_images(source, shape, classes, convert)
    record = {
        "source": absolute(source) if is_named(source) else GIVEN,
        "classes": list(classes),
        **record_of(images, model_classes),
    }
    return images, record


def images_of_prompts(
    source: Images | None, original: PipelineDenoiser, sets: PromptSets, options: EvaluationOptions
) -> tuple[ImageSet, dict[str, Any]]:
    """The images that were to be forgotten in words, and what ``run.json`` holds of them.

    Args:
        source: the images, or where they are; None draws them from the original under the prompts.
        original: a text-to-image model.
        sets: what was to be forgotten.
        options: the sampler and the seed.

    Returns:
        The images, with their prompts as labels, and their record. Given images without captions get all prompts in turn, as in a run.
    """
    known = (*sets.others, *sets.target)
    if source is None:
        images = forget_set_of_labels(
            asking(original, known), sets.target, sampler=options.sampler, seed=options.seed, progress="forget set"
        )
    else:
        images = forget_images(source, original.image_shape)
        places = [known.index(each) for each in sets.target]
        images = images if has_captions(images, sets.concepts) else dealt(images, places, known)
    named = GIVEN if source is not None else DRAWN
    about = {
        "source": absolute(source) if is_named(source) else named,
        "classes": list(sets.target),
        **record_of(images, original.class_names),
    }
    return images, about


def made_by(result: Any) -> dict[str, Any]:
    """What a result of ``vdu.unlearn`` says of how its pipeline was made.

    Args:
        result: the result, or a like object.

    Returns:
        ``method``; ``cost``, as a stage of ``run.json``, or None; ``trained_on``, the hashes of the images that it and the runs before it
        retained; ``forgotten_before``, classes that those before it forgot; ``classes``, what was forgotten; ``keep``, prompts that were
        kept; and ``guidance_scale`` of its samples.
    """
    evaluations, seconds = getattr(result, "network_evaluations", None), getattr(result, "seconds", None)
    cost = None
    if evaluations is not None and seconds is not None:
        reused = getattr(getattr(result, "aids", None), "reused", 0)
        cost = {"stage": "unlearn", "seconds": round(seconds, 3), "network_evaluations": evaluations, "reused": reused}
    plan = getattr(result, "plan", None)
    retain = getattr(plan, "retain", None)
    trained_on = [] if retain is None else [PixelHashes.of(retain)]
    source = None if plan is None else plan.model
    trained_on += [] if source is None else retained_before(source)
    return {
        "method": getattr(getattr(result, "method", None), "name", None),
        "cost": cost,
        "trained_on": trained_on,
        "forgotten_before": () if source is None else forgotten_before(source),
        "classes": list(getattr(result, "forget_classes", ())),
        "keep": tuple((getattr(plan, "prompts", None) or {}).get("keep", ())),
        "guidance_scale": getattr(getattr(plan, "sampler", None), "guidance_scale", None),
    }


def made_in(model: OpenModel, options: EvaluationOptions) -> dict[str, Any]:
    """What the run that made a model says for its evaluation: of :func:`made_by` what decides under which prompts is drawn.

    Args:
        model: a model.
        options: of the evaluation.

    Returns:
        ``guidance_scale``; and ``keep``, its prompts to keep, if it was made to forget what the options name.
    """
    config = config_of(model)
    same = set(options.forget_prompt) == set(config.get("forget_prompt", ()))
    return {"guidance_scale": config.get("guidance_scale"), "keep": config.get("keep_prompts", ()) if same else ()}


def config_of(model: OpenModel) -> dict[str, Any]:
    """The configuration of the run that made a model; empty if no run is known."""
    path = None if model.run is None else model.run / "config.toml"
    return {} if path is None or not path.is_file() else read_toml(path)


def check_evidence_folder(
    folder: Path | str,
    before: OpenModel,
    after: OpenModel,
    options: EvaluationOptions,
    forget: dict[str, Any] | None = None,
) -> bool:
    """Check the evidence folder of two models without touching it, before anything is drawn.

    Args:
        folder: where the evidence goes.
        before: the original.
        after: the other model.
        options: of the evaluation.
        forget: the record of the forget set; None where it is yet to be drawn.

    Returns:
        Whether it already holds evidence of these models. One that holds anything else, or lies in what is read, is refused with an
        ``InputError``.
    """
    folder, source = given_output(folder, "folder"), (forget or {}).get("source")
    sources = (source, options.reference, options.held_out, options.data)
    places = [place_of(each) for each in sources if is_named(each) and each != GIVEN]
    require_apart(folder, [before.path, after.path, *places])
    held = first_decides("an evidence folder", lambda: _holds_evidence(folder, before, after, forget))
    first_decides("its record", lambda: check_folder(folder, VERB, resume=held))
    return held


def open_folder(
    folder: Path | str,
    before: OpenModel,
    after: OpenModel,
    forget: dict[str, Any],
    options: EvaluationOptions,
    how: dict[str, Any] | None = None,
) -> Run:
    """Start the evidence folder of two models, or open the one that already holds theirs.

    Args:
        folder: where the evidence goes.
        before: the original.
        after: the other model.
        forget: the record of the forget set.
        options: of the evaluation.
        how: the other model was made, see :func:`made_by`.

    Returns:
        The folder, locked for this process. One that holds anything else is refused with an ``InputError``.
    """
    method = how["method"] if how else config_of(after).get("method")
    run = {"run": None if after.run is None else str(after.run), "method": method}
    inputs = {"model": before.to_json(), "unlearned": after.to_json() | run, "forget": forget}
    resume = check_evidence_folder(folder, before, after, options, forget)
    record = Run(folder, VERB, resume=resume)
    config = {"before": inputs["model"]["path"], "after": inputs["unlearned"]["path"], "method": method}
    config |= {"forget": forget["source"], "forget_class": list(options.forget_class), **options.protocol()}
    config |= {"forget_prompt": list(options.forget_prompt)} if options.forget_prompt else {}
    record.start(tomli_w.dumps({name: value for name, value in config.items() if value is not None}), inputs)
    if record.active:
        (record.folder / "log.jsonl").touch()  # nothing was trained here
    return record


def _holds_evidence(folder: Path, before: OpenModel, after: OpenModel, forget: dict[str, Any] | None) -> bool:
    """Whether a folder holds evidence, which is then of these models and images; other files are refused."""
    if (folder / "run.json").is_file():
        _require_same(folder, before, after, forget)
        return True
    if folder.is_dir() and any(each.name != ".lock" for each in folder.iterdir()):
        raise InputError(
            f"{folder}: holds files but no evidence of ours. Give another folder (-o, in Python folder=…)."
        )
    return False


def _require_same(folder: Path, before: OpenModel, after: OpenModel, forget: dict[str, Any] | None) -> None:
    """Refuse a folder that holds a finished record, or measurements, of anything but these models and images, as far as these are known."""
    record = read_json(folder / "run.json")
    record = record if isinstance(record, dict) else {}
    verb, old = record.get("verb"), record.get("inputs")
    old = old if isinstance(old, dict) else {}
    if verb != VERB:
        raise InputError(
            f"{folder}: holds a run of {verb!r}; expected a new folder, or the evidence of these two models. Give another one (-o, in "
            "Python folder=…)."
        )
    kept = old.get("forget")
    known = {"class_names": (forget or {}).get("class_names")} | (
        kept if isinstance(kept, dict) else {}
    )  # earlier: no names
    same = {
        "before": before.is_recorded(old.get("model")),
        "after": after.is_recorded(old.get("unlearned")),
        "forget": forget is None or all(known.get(name) == forget.get(name) for name in ("sha256", "class_names")),
    }
    if (record.get("finished") or (folder / "metrics.json").is_file()) and not all(same.values()):
        what = " and ".join(name for name, equal in same.items() if not equal)
        raise InputError(
            f"{folder}: holds the evidence of other inputs ({what} differs). Give another folder (-o, in Python folder=…), or delete it."
        )
