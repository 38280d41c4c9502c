"""An evaluation in a folder: of a run of ``vdu unlearn`` in place, or of two pipelines in a folder of their own.

``metrics.json`` is written after the samples are measured and again after every probe, so that a failing or interrupted probe
loses nothing. Probes that did not run are listed as not run.

Not guaranteed: what :mod:`vdu.evaluation.measure` does not guarantee.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from vdu.core import progress
from vdu.core.counter import EvaluationCounter
from vdu.core.processes import first_decides, say
from vdu.core.records import (
    FORMAT_VERSION,
    atomic_file,
    now,
    read_json,
    read_toml,
    sha256_bytes,
    sha256_file,
    write_json,
)
from vdu.core.rng import derive_seed
from vdu.core.runs import Run, forgotten_before, runs_before
from vdu.data.forget_source import class_names, content_of, reload_forget
from vdu.data.given import Images
from vdu.data.images import ImageSet
from vdu.data.overlap import PixelHashes, without_repeats
from vdu.evaluation.inputs import (
    Fixed,
    fix,
    judge_hashes,
    load_given,
    reference_left,
    require_samples,
    require_usable,
    seen_by_judge,
    trained_on_reference,
)
from vdu.evaluation.kept_probes import KeptProbes, kept_probes
from vdu.evaluation.measure import Measurement, Target, measure
from vdu.evaluation.models import open_model, open_models, open_retrained, require_comparable
from vdu.evaluation.options import EvaluationOptions
from vdu.evaluation.pair import check_evidence_folder, images_of_prompts, made_in, open_folder, unwanted_images
from vdu.evaluation.prompt_sets import label_sets
from vdu.evaluation.records import EvidenceRecord, WarningRecord, WordsRecord
from vdu.evaluation.retained import retained_of
from vdu.evaluation.subject import Subject, about_models, classes_to_count, of_labels, sets_in_words
from vdu.evaluation.suite import (
    DRAWN,
    announce,
    cost_of,
    not_yet_run,
    run_suite,
)
from vdu.evaluation.words import Drawn, draw_sets, measure_words, set_seed
from vdu.judges.judging import Judging, find_judges
from vdu.metrics.feature_networks import FeatureNetwork, find_feature_network
from vdu.models.identity import identity
from vdu.probes.context import ProbeContext
from vdu.replay.generated import image_seeds
from vdu.reporting.card import update_card
from vdu.reporting.code_texts import warning_text
from vdu.training.accelerator import make_accelerator

__all__ = ["Recorded", "evaluate_pair", "evaluate_run", "require_measurable"]

PACKAGE = Path(__file__).parents[1]  # whose warnings are part of the record


MODEL_HASHES = ("sha256", "configuration_sha256", "parts_sha256")  # of a model, in the protocol


@dataclass(frozen=True)
class Recorded:
    """An evaluation that is in a folder.

    Attributes:
        folder: the folder.
        evidence: what samples show.
        metrics: the content of its ``metrics.json``.
    """

    folder: Path
    evidence: EvidenceRecord
    metrics: dict[str, Any]


@progress.whole("evaluate")
def evaluate_run(folder: Path | str, options: EvaluationOptions, original: Any = None) -> Recorded:
    """Evaluate a run of ``vdu unlearn`` in place.

    Args:
        folder: the run folder.
        options: what is measured.
        original: the pipeline that the run started from; None loads it from where the run's record says.

    Returns:
        The evidence. An unfinished run, or models of another run, raise an ``InputError``.
    """
    make_accelerator()  # connects the processes of a launcher
    with Run.reopen(folder, "unlearn") as record:
        return _evaluated(record, options, original)


def _evaluated(record: Run, options: EvaluationOptions, original: Any) -> Recorded:
    forgotten, config = record.record["inputs"]["forget"]["classes"], read_toml(record.folder / "config.toml")
    options = options.guided_as(config.get("guidance_scale"))
    options.warn()
    before, after = open_models(record, original)
    retrained = open_retrained(options.retrained, before, after)
    earlier = forgotten_before(record.record["inputs"]["model"])
    concepts, keep = config.get("forget_prompt", ()), config.get("keep_prompts", ())
    sets = sets_in_words(before.denoiser, concepts, keep, options, earlier)
    classes = classes_to_count(options, sets, forgotten)
    sets = sets or label_sets(before.denoiser, forgotten, earlier)
    forget = reload_forget(record.folder, before.denoiser.image_shape)
    trained_on = PixelHashes.union(retained_of(record.folder))
    subject = Subject(before, after, retrained, forget, classes, sets, trained_on, earlier)
    given = load_given(options, (before, after, retrained), sets, classes, class_names(forget))
    fixed = fix(given, subject)
    record.drop_stages("judge", "evaluate", "probes")  # of an earlier evaluation
    with record.stage("judge") as cost:
        kept = kept_probes(record.folder, options.suite, _probe_inputs(subject, options, fixed))
        judging = _judging(subject, options, cost)
    return _measured(record, subject, judging, options, fixed, kept)


@progress.whole("evaluate")
def evaluate_pair(
    before: Any,
    after: Any,
    forget: Images | None,
    options: EvaluationOptions,
    folder: Path | str,
    how: dict[str, Any] | None = None,
) -> Recorded:
    """Evaluate two pipelines, whoever made the second one.

    Args:
        before: the original: a pipeline or its folder.
        after: the other model, likewise; or a run folder, whose pipeline is meant.
        forget: what was to be forgotten: images, or where they are; None if it is said in words.
        options: what is measured.
        folder: where the evidence goes; new, empty, or the evidence of the same models.
        how: the second one was made, and what it was made to forget, see :func:`vdu.evaluation.pair.made_by`; the images are then
            taken whole.

    Returns:
        The evidence. Models or images that cannot be compared raise an ``InputError``.
    """
    options.warn()
    first, second = open_model(before, "before"), open_model(after, "after")
    require_comparable(first, second, in_words=bool(options.forget_prompt))
    retrained = open_retrained(options.retrained, first, second)
    made = how or made_in(second, options)
    options = options.guided_as(made.get("guidance_scale"))
    earlier = made.get("forgotten_before") or forgotten_before(first.to_json())
    sets = sets_in_words(first.denoiser, options.forget_prompt, made.get("keep", ()), options, earlier)
    classes = classes_to_count(options, sets, [])
    models, counter = (first, second, retrained), EvaluationCounter()
    if sets is not None and forget is None:  # drawn from the original, after all that needs no pixels
        given = load_given(options, models, sets, classes, list(sets.target))
        require_usable(given, classes)
        check_evidence_folder(folder, first, second, options)
        with counter.watching(first.denoiser.network):
            images, about = images_of_prompts(None, first.denoiser, sets, options)
    else:
        if sets is None:
            assert forget is not None  # see require_one_subject
            shape, known = first.denoiser.image_shape, first.denoiser.class_names
            images, about = unwanted_images(forget, shape, () if how else options.forget_class, known)
            options, own, sets = of_labels(first.denoiser, images, options, earlier)
            classes = classes_to_count(options, None, made.get("classes") or own)
            about["classes"] = made.get("classes") or classes
        else:
            images, about = images_of_prompts(forget, first.denoiser, sets, options)
        given = load_given(options, models, sets, classes, class_names(images))
    trained_on = PixelHashes.union([*made.get("trained_on", ()), *retained_of(second.run), *retained_of(first.run)])
    subject = Subject(first, second, retrained, images, classes, sets, trained_on, earlier)
    fixed = fix(given, subject)
    with open_folder(folder, first, second, about, options, how) as record:
        record.drop_stages("judge", "evaluate", "probes")  # of an earlier evaluation
        if how and how["cost"]:
            record.add_stage(how["cost"])
        with record.stage("judge") as cost:
            kept = kept_probes(record.folder, options.suite, _probe_inputs(subject, options, fixed))
            if kept.cost is None:
                record.drop_machines()
            judging = _judging(subject, options, cost)
            if counter.total:  # the forget set was drawn
                cost["network_evaluations"] = (cost["network_evaluations"] or 0) + counter.total
        found = _measured(record, subject, judging, options, fixed, kept)
        record.finish(origin="compared", pipeline=second.to_json() | {"weights": "raw"})
    return found


def require_measurable(before: Any, forget: ImageSet, options: EvaluationOptions) -> list[str]:
    """Raise an ``InputError`` for whatever an evaluation of a model made from this one would refuse before it draws anything.

    Args:
        before: the original.
        forget: the forget set.
        options: of the evaluation.

    Returns:
        What of the options stands for content that may change: hashes of the reference, the retrained model and given judges.
    """
    model = open_model(before, "pipeline")
    retrained = open_retrained(options.retrained, model, model)
    options, own, sets = of_labels(model.denoiser, forget, options)
    classes = classes_to_count(options, None, own)
    given = load_given(options, (model, model, retrained), sets, classes, class_names(forget))
    fixed = fix(given, Subject(model, model, retrained, forget, classes, sets))
    if options.judge is None:
        require_samples(forget, options)
    found = [] if fixed.reference is None else [f"reference {fixed.reference.sha256}"]
    found += [] if retrained is None else [f"retrained {identity(retrained.denoiser)}"]
    return found + judge_hashes(options)


def _probe_inputs(subject: Subject, options: EvaluationOptions, fixed: Fixed) -> str:
    """SHA-256 of all that probes of a suite depend on."""
    names = subject.before.denoiser.class_names
    images = [None if each is None else content_of(each, names) for each in (subject.forget, *fixed.real)]
    models = {name: identity(each) for name, each in subject.models.items()}
    judges = [options.judge, options.second_judge, options.n_judge_samples, subject.classes, *judge_hashes(options)]
    return sha256_bytes(
        repr((models, images, judges, options.sampler, options.seed, options.features, subject.sets)).encode()
    )


def _judging(subject: Subject, options: EvaluationOptions, cost: dict[str, Any]) -> Judging:
    if options.judge is None:  # refused before a time is announced
        require_samples(subject.forget, options)
    n_sets = len(subject.sets.drawn) if subject.sets is not None and subject.in_words else 1
    n_judge_samples = options.n_judge_samples if options.judge is None else 0
    steps = options.sampler.evaluations(subject.before.denoiser)
    announce(
        options.suite, subject.before.denoiser, steps, options.n_images, n_sets * len(subject.models), n_judge_samples
    )
    found, drawn = find_judges(subject.shown, subject.forget, subject.classes, options.sampler, **options.judges())
    cost |= {"network_evaluations": drawn} if options.judge is None else {}
    return found


def _measured(
    record: Run,
    subject: Subject,
    judging: Judging,
    options: EvaluationOptions,
    fixed: Fixed,
    kept: KeptProbes,
) -> Recorded:
    """Measure, write the files, run the probes, write the files again."""
    sets, models, target = subject.sets, subject.asked("others"), subject.asked("target")
    progress.reach(DRAWN)
    network = fixed.network or find_feature_network("judge", judging=judging)
    given = options.judge is not None
    reference = fixed.compared if given else reference_left(fixed.reference, judging, subject.classes)
    seen = fixed.warnings + (() if given else seen_by_judge(judging, subject.forget, fixed.real[0]))
    seen += trained_on_reference(reference, subject.trained_on)
    counter = EvaluationCounter()
    networks = [each.network for each in models.values()]
    with warnings.catch_warnings(record=True) as caught, counter.watching(*networks):
        warnings.simplefilter(
            "default"
        )  # whatever the caller's filters: the evidence holds all of them, and none ends it
        with record.stage("evaluate") as cost:
            seed = derive_seed(options.seed, "evaluate")
            drawn = {} if sets is None else draw_sets(subject.models, sets, options.n_images, options.sampler, seed)
            found = measure(
                models["original"], models["unlearned"], judging, network, reference=reference, retrained=models.get("retrained"),
                n_images=options.n_images, sampler=options.sampler, seed=seed,
                target=Target(**drawn["target"]) if subject.in_words else None,
            )  # fmt: skip
            words = None if sets is None else measure_words(drawn, sets, judging, fixed.cross)
            cost["network_evaluations"] = counter.total  # without cached results
        evidence = replace(
            found.evidence, words=words, warnings=(*about_models(subject), *seen, *found.evidence.warnings)
        )
        about = _about(record, subject, replace(options, suite=kept.suite), network) | {"probe_inputs": kept.inputs}
        if kept.cost is not None:
            record.add_stage(kept.cost, last=True)
        if record.active:
            about["samples_sha256"] = _save_samples(
                record.folder / "samples", found, drawn if subject.in_words else {}, words, seed
            )
        probes = not_yet_run(options.suite, sets) | kept.probes
        _save(record, about, evidence, caught, probes)
        if options.suite != "none":
            with record.stage("probes") as cost:
                context = ProbeContext(
                    target["original"], target["unlearned"], target.get("retrained"),
                    without_repeats(subject.forget, "forget images that probes are given"), *fixed.real,
                    is_forget=judging.finds_forget, sampler=options.sampler, seed=derive_seed(options.seed, "probes"),
                    kept=models["original"] if subject.in_words else None, paraphrases=() if sets is None else sets.paraphrases,
                )  # fmt: skip
                n_before = counter.total

                def keep(found: dict[str, Any]) -> None:
                    record.add_stage(cost_of(found), last=True)  # in case that the rest is interrupted
                    _save(record, about, evidence, caught, found)

                probes = run_suite(
                    options.suite, context, network.extract, counter, sets=sets, keep=keep, earlier=kept.probes
                )
                cost["network_evaluations"] = counter.total - n_before
    metrics = first_decides("metrics.json", lambda: _save(record, about, evidence, caught, probes))
    for each in metrics["warnings"]:
        say(f"vdu: warning: {warning_text(each, metrics)}")
    return Recorded(record.folder, evidence, metrics)


def _about(record: Run, subject: Subject, options: EvaluationOptions, network: FeatureNetwork) -> dict[str, Any]:
    """The metadata of the numbers: format, suite, forget set and protocol."""
    inputs = record.record["inputs"]
    forget = {
        name: value for name, value in inputs["forget"].items() if name not in ("source", "classes", "class_names")
    }
    protocol = {**options.protocol()}
    protocol |= {f"features_{name}": value for name, value in network.describe().items()}
    models = {"original": subject.before, "unlearned": subject.after, "retrained": subject.retrained}
    for name, model in models.items():
        if model is not None:
            known = model.to_json()
            protocol |= {f"{name}_{key}": known[key] for key in MODEL_HASHES if key in known}
    if subject.retrained is not None:
        if isinstance(options.retrained, Path | str):
            protocol["retrained_path"] = str(Path(options.retrained).resolve())
    return {
        "format_version": FORMAT_VERSION,
        "date": now(),
        "forget": forget | {"classes": subject.classes or None},
        "protocol": protocol,
        "suite": options.suite,
    }


def _save(
    record: Run,
    about: dict[str, Any],
    evidence: EvidenceRecord,
    caught: Sequence[warnings.WarningMessage],
    probes: dict[str, Any],
) -> dict[str, Any]:
    """Write ``metrics.json`` and the model card of a run, by the first process, and return the former."""
    texts = sorted({str(each.message) for each in caught if Path(each.filename).is_relative_to(PACKAGE)})
    found = (*evidence.warnings, *(WarningRecord("python_warning", {"message": text}) for text in texts))
    metrics = about | evidence.to_json()
    metrics |= {"cost": _cost(record), "warnings": [each.to_json() for each in found], "probes": probes}
    if not record.active:
        return metrics
    record.replace()
    write_json(record.folder / "metrics.json", metrics)
    if record.verb == "unlearn":  # a pipeline that somebody else made keeps its own card
        update_card(record.folder, metrics)
    return metrics


def _cost(record: Run) -> list[dict[str, Any]]:
    """The stages of the run, preceded by those of its posterior; for two pipelines by those of the run that made the second."""
    inputs = record.record["inputs"]
    own = [dict(stage) for stage in record.record["stages"]]
    made_by = inputs.get("unlearned", {}).get("run")
    if made_by is None:
        return _posterior_cost(inputs, record.folder) + own
    maker = read_json(Path(made_by) / "run.json")
    asked, of_maker, made = _asked(inputs), _asked(maker["inputs"]), _made(Path(made_by), maker)
    if _differ(of_maker, asked):  # its rule spoke of other unwanted seeds
        made = _without_statement(made)
    runs = runs_before(maker["inputs"]["model"])
    while _differ(of_maker[:-1], asked[:-1]) and (earlier := next(runs, None)):
        made, of_maker = _without_statement(_made(*earlier)) + made, _asked(earlier[1]["inputs"])
    return made + own


def _made(run: Path, record: dict[str, Any]) -> list[dict[str, Any]]:
    """The stages in which a run made its model, after those of its posterior."""
    made = [dict(stage) for stage in record["stages"] if stage["stage"] in {"posterior", "unlearn"}]
    return _posterior_cost(record["inputs"], run) + made


def _without_statement(stages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in each.items() if name not in {"stopping", "statement"}} for each in stages]


def _differ(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two lists of hashes differ where both are known."""
    return any(None not in each and each[0] != each[1] for each in zip(one, other, strict=True))


def _asked(inputs: dict[str, Any]) -> list[Any]:
    """What was to be forgotten by which model, by content."""
    model, forget = inputs.get("model") or {}, inputs.get("forget") or {}
    return [*(model.get(name) for name in MODEL_HASHES), forget.get("sha256")]


def _posterior_cost(inputs: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """The stages of another run that estimated the posterior; nothing if there was none, or the run in ``folder`` estimated it itself."""
    path = inputs.get("posterior", {}).get("path")
    place = None if path is None else Path(path) if Path(path).is_dir() else Path(path).parent
    if place is None or place.resolve() == folder.resolve() or not (place / "run.json").is_file():
        return []
    made = read_json(place / "run.json")
    stages = [each for each in made["stages"] if made["verb"] == "posterior" or each["stage"] == "posterior"]
    return [{**each, "stage": f"posterior: {each['stage']}"} for each in stages]


def _save_samples(
    folder: Path, found: Measurement, drawn: Drawn, words: WordsRecord | None, seed: int
) -> dict[str, str]:
    """Write both models' images, their seeds, the judge's predictions, and the number of what was asked for.

    Of prompts, those that ask for the concept come first.

    Returns:
        The SHA-256 of each file.
    """
    hashes = {}
    for k, (name, images) in enumerate((("original", found.original), ("unlearned", found.unlearned))):
        parts = [(images, found.predictions[name], set_seed(seed, "others"))]
        if drawn:
            parts.insert(0, (drawn["target"][name], found.counted[k], set_seed(seed, "target")))
        tensors = {
            "images": torch.cat([each.images for each, _, _ in parts]),
            "seeds": torch.tensor([each for part, _, base in parts for each in image_seeds(base, len(part))], dtype=torch.int64),
            "judge_class": torch.cat([each.classes for _, each, _ in parts]),
            "judge_confidence": torch.cat([each.confidence for _, each, _ in parts]),
        }  # fmt: skip
        if words is not None:
            tensors["asked"] = torch.cat([_numbers(each, words.asked) for each, _, _ in parts])
        with atomic_file(folder / f"{name}.safetensors") as temporary:
            save_file({key: value.contiguous() for key, value in tensors.items()}, temporary)
        hashes[name] = sha256_file(folder / f"{name}.safetensors")
    return hashes


def _numbers(images: ImageSet, asked: Sequence[str]) -> torch.Tensor:
    """What each image was asked for, as an index into ``asked``."""
    assert images.labels is not None and images.class_names is not None
    return torch.tensor([asked.index(each) for each in images.class_names])[images.labels]
