"""An evaluation in a folder: of a run of ``vdu unlearn`` in place, or of two pipelines in a folder of their own.

``metrics.json`` is written after the samples are measured and again after every probe, so that a failing or interrupted probe
loses nothing. Probes that did not run are listed as not run.

Not guaranteed: what :mod:`vdu.evaluation.measure` does not guarantee.
"""

import tomllib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from vdu.core import progress
from vdu.core.counter import EvaluationCounter
from vdu.core.errors import InputError
from vdu.core.processes import first_decides, say
from vdu.core.records import FORMAT_VERSION, atomic_file, now, read_json, sha256_bytes, sha256_file, write_json
from vdu.core.rng import derive_seed
from vdu.core.runs import Run
from vdu.data.forget_source import class_names, content_of, reload_forget
from vdu.data.given import Images
from vdu.data.images import ImageSet
from vdu.data.overlap import PixelHashes, without_copies
from vdu.evaluation.kept_probes import KeptProbes, kept_probes
from vdu.evaluation.measure import Measurement, Target, measure
from vdu.evaluation.models import OpenModel, open_model, open_models, open_retrained, require_comparable
from vdu.evaluation.options import EvaluationOptions
from vdu.evaluation.pair import check_evidence_folder, images_of_prompts, open_folder, unwanted_images
from vdu.evaluation.prompt_sets import PromptSets, asked_class, asking, label_sets, prompt_sets
from vdu.evaluation.records import EvidenceRecord, WarningRecord, WordsRecord
from vdu.evaluation.references import load_reference, reference_images, unshared_reference
from vdu.evaluation.retained import retained_of
from vdu.evaluation.suite import (
    DRAWN,
    LoadedImages,
    announce,
    load_real_images,
    not_yet_run,
    real_images,
    run_suite,
)
from vdu.evaluation.words import CrossJudge, Drawn, cross_judge, draw_sets, measure_words, set_seed
from vdu.judges.classifier import load_judge
from vdu.judges.fallback import require_enough
from vdu.judges.judging import Judging, find_judges, given_judges, judge_place
from vdu.metrics.feature_networks import FeatureNetwork, find_feature_network
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.identity import SCHEDULE, differences, identity
from vdu.probes.context import ProbeContext
from vdu.replay.generated import image_seeds
from vdu.reporting.card import update_card
from vdu.reporting.code_texts import warning_text
from vdu.training.loop import make_accelerator

__all__ = ["Recorded", "evaluate_pair", "evaluate_run", "require_measurable"]

LEVELS = {*SCHEDULE, "alpha_bars", "scaling", "prediction_type"}  # images from the same noise are then not alike
FEWEST_IN_REFERENCE = 12  # two halves of 6, which precision and recall need
PACKAGE = Path(__file__).parents[1]  # whose warnings are part of the record


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


@dataclass(frozen=True, eq=False)
class _Subject:
    """What is evaluated: two models, perhaps a retrained one, the forget set, and what conditional models are asked for."""

    before: OpenModel
    after: OpenModel
    retrained: OpenModel | None
    forget: ImageSet
    classes: list[str]
    sets: PromptSets | None
    trained_on: PixelHashes | None = None  # the retained images of the runs that made them

    @cached_property
    def models(self) -> dict[str, PipelineDenoiser]:
        """The models by name."""
        found = {"original": self.before, "unlearned": self.after, "retrained": self.retrained}
        return {name: each.denoiser for name, each in found.items() if each is not None}

    @property
    def in_words(self) -> bool:
        """Whether they are asked with prompts, of which each set has samples of its own."""
        return self.sets is not None and not self.sets.are_labels

    def asked(self, name: str) -> dict[str, PipelineDenoiser]:
        """The models whose samples are drawn under a set of prompts; the models themselves without prompts."""
        if self.sets is None or self.sets.are_labels:
            return self.models
        return {who: asking(model, self.sets.drawn[name]) for who, model in self.models.items()}


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
    record = Run.reopen(folder, "unlearn")
    forgotten, config = record.record["inputs"]["forget"]["classes"], _config(record.folder)
    if options.sampler.guidance_scale is None and config.get("guidance_scale") is not None:
        options = replace(options, sampler=replace(options.sampler, guidance_scale=float(config["guidance_scale"])))
    before, after = open_models(record, original)
    retrained = open_retrained(options.retrained, before, after)
    sets = _sets(before.denoiser, config.get("forget_prompt", ()), config.get("keep_prompts", ()), options)
    classes = _classes(options, sets, forgotten)
    sets = sets or label_sets(before.denoiser, forgotten)
    forget = reload_forget(record.folder, before.denoiser.image_shape)
    subject = _Subject(before, after, retrained, forget, classes, sets, PixelHashes.union(retained_of(record.folder)))
    given = _given(options, (before, after, retrained), sets, classes, class_names(forget))
    fixed = _fixed(given, subject)
    record.drop_stages("judge", "evaluate", "probes")  # of an earlier evaluation
    with record.stage("judge") as cost:
        kept = kept_probes(record.folder, options.suite, _probe_inputs(subject, options, fixed))
        judging = _judging(subject, options, cost)
    found = _measured(record, subject, judging, options, fixed, kept)
    record.close()
    return found


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
        how: the second one was made, see :func:`vdu.evaluation.pair.made_by`.

    Returns:
        The evidence. Models or images that cannot be compared raise an ``InputError``.
    """
    first, second = open_model(before, "before"), open_model(after, "after")
    require_comparable(first, second, in_words=bool(options.forget_prompt))
    retrained = open_retrained(options.retrained, first, second)
    sets = _sets(first.denoiser, options.forget_prompt, (), options)
    classes = _classes(options, sets, list(options.forget_class))
    models = (first, second, retrained)
    if sets is not None and forget is None:  # drawn from the original, after all that needs no pixels
        given = _given(options, models, sets, classes, list(sets.target))
        _require_usable(given, classes)
        check_evidence_folder(folder, first, second, options)
        images, about = images_of_prompts(None, first.denoiser, sets, options)
    else:
        if sets is None:
            assert forget is not None  # see require_one_subject
            shape, known = first.denoiser.image_shape, first.denoiser.class_names
            images, about = unwanted_images(forget, shape, options.forget_class, known)
            sets = label_sets(first.denoiser, classes)
        else:
            images, about = images_of_prompts(forget, first.denoiser, sets, options)
        given = _given(options, models, sets, classes, class_names(images))
    made = (how or {}).get("trained_on", ())
    trained_on = PixelHashes.union([*made, *retained_of(second.run), *retained_of(first.run)])
    subject = _Subject(first, second, retrained, images, classes, sets, trained_on)
    fixed = _fixed(given, subject)
    record = open_folder(folder, first, second, about, options, how)
    if how:
        record.add_stage(how["cost"])
    with record.stage("judge") as cost:
        kept = kept_probes(record.folder, options.suite, _probe_inputs(subject, options, fixed))
        judging = _judging(subject, options, cost)
    found = _measured(record, subject, judging, options, fixed, kept)
    record.finish(origin="compared", pipeline=second.to_json() | {"weights": "raw"})
    return found


def _config(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "config.toml").read_text("utf-8"))


def _sets(
    original: PipelineDenoiser, concepts: Sequence[str], keep: Sequence[str], options: EvaluationOptions
) -> PromptSets | None:
    """What the models are asked for in words; None if nothing was to be forgotten in words."""
    if concepts:
        return prompt_sets(original, concepts, keep=keep, given=options.prompts)
    if options.prompts is not None:
        raise InputError(
            "--prompts: got prompts, and nothing was to be forgotten in words; expected a run of `vdu unlearn --forget-prompt`, or "
            "--forget-prompt beside two text-to-image pipelines."
        )
    return None


def _classes(options: EvaluationOptions, sets: PromptSets | None, forgotten: list[str]) -> list[str]:
    """The forget classes as the judge calls them: given, else those that the prompts name."""
    if options.forget_class or sets is None:
        return list(options.forget_class) or forgotten
    if options.judge is None:
        return list(sets.concepts)
    names = load_judge(judge_place(options.judge)[0])[0].class_names
    found = {i for each in sets.concepts if (i := asked_class(each, names, sets.classes)) is not None}
    return [names[i] for i in sorted(found)] or list(sets.concepts)


@dataclass(frozen=True, eq=False)
class _Given:
    """What the options name, as it was loaded: given judges, real images, and a feature network that is not the judge."""

    judging: Judging | None
    real: LoadedImages
    reference: ImageSet | None
    network: FeatureNetwork | None
    cross: CrossJudge | None


def _given(
    options: EvaluationOptions,
    models: Sequence[OpenModel | None],
    sets: PromptSets | None,
    classes: list[str],
    forgotten: list[str],
) -> _Given:
    """All that can fail before the forget set is there; ``forgotten`` are its classes.

    Returns:
        What the options name.

    Raises:
        InputError: if something is missing, or does not fit the first model, the original.
    """
    known = [each.denoiser for each in models if each is not None]
    for each in known:
        options.sampler.make(each)
    judging = given_judges(known[0], classes, judge=options.judge, second_judge=options.second_judge)
    _check_names(options, judging, forgotten)
    shape = known[0].image_shape
    real = load_real_images(options.data, options.held_out, classes, shape)
    reference = load_reference(options.reference, options.reference_split, shape)
    network = None if options.features == "judge" else find_feature_network(options.features)
    if options.cross_judge is not None and sets is None:
        raise InputError(
            f"--cross-judge: got {options.cross_judge} for models without conditions; expected models that are asked with prompts or "
            "labels. Leave it out."
        )
    cross = cross_judge(options.cross_judge, shape)
    _require_known_classes(sets, judging, cross)
    if judging is None:
        _require_judge_samples(options)
    return _Given(judging, real, reference, network, cross)


def _require_usable(given: _Given, classes: list[str]) -> None:
    """Raise an ``InputError`` for given images that will not do, whatever the forget set is."""
    _compared(given.reference, given.judging, classes, None)
    _seen(given.judging, None, given.real.forget_held_out)


@dataclass(frozen=True, eq=False)
class _Fixed:
    """What is there before anything is drawn: real images, given judges, and a feature network that is not the judge.

    The reference is as it was given; ``compared`` is what a given judge leaves of it, and ``warnings`` are of what it sees.
    """

    real: tuple[ImageSet | None, ImageSet | None, ImageSet | None]
    reference: ImageSet | None
    compared: ImageSet | None
    network: FeatureNetwork | None
    cross: CrossJudge | None
    warnings: tuple[WarningRecord, ...]


def _fixed(given: _Given, subject: _Subject) -> _Fixed:
    """What was given beside the forget set: copies of its images are left out."""
    real = real_images(given.real, subject.forget, subject.trained_on)
    if subject.sets is not None and subject.in_words:
        real = (_captioned(real[0], subject.sets.target[0]), *real[1:])
    reference = unshared_reference(given.reference, subject.forget)
    compared = _compared(reference, given.judging, subject.classes, real[0])
    warned = _seen(given.judging, subject.forget, real[0])
    return _Fixed(real, reference, compared, given.network, given.cross, warned)


def _require_known_classes(sets: PromptSets | None, judging: Judging | None, cross: CrossJudge | None) -> None:
    """Raise an error for classes given to prompts that no judge has: the prompts would not be counted."""
    if sets is None or judging is None:
        return
    known = {*judging.judge.class_names, *(() if cross is None else cross.judge.class_names)}
    for prompt, classes in sets.classes.items():
        if unknown := sorted(set(classes) - known):
            raise InputError(
                f"--prompts: classes of {prompt!r}: got {unknown[0]!r}, which no judge has; expected some of {', '.join(sorted(known))}."
            )


def _compared(
    reference: ImageSet | None, judging: Judging | None, classes: list[str], held_out: ImageSet | None
) -> ImageSet | None:
    """The reference without what a judge, where there is one, takes for the forget classes, and without held-out unwanted images.

    Returns:
        The images, or None without a reference.

    Raises:
        InputError: if there are too few.
    """
    left = reference
    if reference is not None and judging is not None:
        left = reference_images(reference, judging, classes)
        left = left if held_out is None else without_copies(left, held_out, "reference images", "held-out images")
    if left is not None and len(left) < FEWEST_IN_REFERENCE:
        raise InputError(
            f"--reference: {len(left)} images are left ({left.description}); expected at least {FEWEST_IN_REFERENCE}, since a distance of "
            "fewer is undefined, and better 500 or more. Give more images, or none: then the filtered original is the reference."
        )
    return left


def _seen(judging: Judging | None, forget: ImageSet | None, held_out: ImageSet | None) -> tuple[WarningRecord, ...]:
    """Warnings of unwanted images that a judge, where there is one, mostly takes for something else.

    Returns:
        The warnings.

    Raises:
        InputError: if it takes all of a set of ten or more for something else.
    """
    found = []
    for name, images in (("forget", forget), ("held-out", held_out)):
        if judging is None or images is None or (name == "forget" and judging.source == "fallback"):
            continue
        n, of = int(judging.finds_forget(images).sum()), len(images)
        if n == 0 and of >= 10:
            raise InputError(
                f"judge {judging.name}: takes none of the {of} {name} images ({images.description}) for {', '.join(judging.forget_names)}; "
                "expected most. Check --forget-class and the images, or give another judge."
            )
        if 2 * n < of:
            found.append(WarningRecord("unwanted_not_seen", {"set": name, "n_seen": n, "n_images": of}))
    return tuple(found)


def _captioned(images: ImageSet | None, prompt: str) -> ImageSet | None:
    """Images without captions under a prompt, as the forget set has."""
    if images is None or images.labels is not None:
        return images
    return replace(images, labels=torch.zeros(len(images), dtype=torch.int64), class_names=(prompt,))


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
    classes = list(options.forget_class)
    sets = label_sets(model.denoiser, classes)
    given = _given(options, (model, model, retrained), sets, classes, class_names(forget))
    fixed = _fixed(given, _Subject(model, model, retrained, forget, classes, sets))
    if options.judge is None:
        _require_samples(forget, options)
    found = [] if fixed.reference is None else [f"reference {fixed.reference.sha256}"]
    found += [] if retrained is None else [f"retrained {retrained.sha256} {retrained.configuration}"]
    return found + _given_judges(options)


def _given_judges(options: EvaluationOptions) -> list[str]:
    """The hashes of the judges that are in folders."""
    judges = [judge_place(each) for each in (options.judge, options.second_judge) if each is not None]
    return [f"judge {sha256_file(place / 'judge.json')}" for place, kind in judges if kind == "given"]


def _probe_inputs(subject: _Subject, options: EvaluationOptions, fixed: _Fixed) -> str:
    """SHA-256 of all that probes of a suite depend on."""
    names = subject.before.denoiser.class_names
    images = [None if each is None else content_of(each, names) for each in (subject.forget, *fixed.real)]
    models = {name: identity(each) for name, each in subject.models.items()}
    judges = [options.judge, options.second_judge, options.n_judge_samples, subject.classes, *_given_judges(options)]
    return sha256_bytes(
        repr((models, images, judges, options.sampler, options.seed, options.features, subject.sets)).encode()
    )


def _require_samples(forget: ImageSet, options: EvaluationOptions) -> None:
    """Refuse too few images for a fallback classifier."""
    require_enough("forget images", len(forget))
    _require_judge_samples(options)


def _require_judge_samples(options: EvaluationOptions) -> None:
    """Refuse too few generated samples for a fallback classifier."""
    require_enough("generated samples (--n-judge-samples)", options.n_judge_samples)


def _judging(subject: _Subject, options: EvaluationOptions, cost: dict[str, Any]) -> Judging:
    if options.judge is None:  # refused before a time is announced
        _require_samples(subject.forget, options)
    n_sets = len(subject.sets.drawn) if subject.sets is not None and subject.in_words else 1
    n_judge_samples = options.n_judge_samples if options.judge is None else 0
    steps = options.sampler.steps * (1 if options.sampler.guidance_scale is None else 2)
    announce(
        options.suite, subject.before.denoiser, steps, options.n_images, n_sets * len(subject.models), n_judge_samples
    )
    found, drawn = find_judges(
        subject.asked("others")["original"], subject.forget, subject.classes, options.sampler, **options.judges()
    )
    cost |= {"network_evaluations": drawn} if options.judge is None else {}
    return found


def _check_names(options: EvaluationOptions, judging: Judging | None, forgotten: list[str]) -> None:
    """Raise an error if the class to be counted is not the one of the forget set, and a given judge knows both."""
    given, known = set(options.forget_class), set(() if judging is None else judging.judge.class_names)
    if given and forgotten and set(forgotten) <= known and given != set(forgotten):
        raise InputError(
            f"--forget-class: got {', '.join(sorted(given))}; the forget set is of {', '.join(forgotten)}, and the judge has that class. "
            "Leave the option out; it is for judges that use another name for the class."
        )


def _measured(
    record: Run,
    subject: _Subject,
    judging: Judging,
    options: EvaluationOptions,
    fixed: _Fixed,
    kept: KeptProbes,
) -> Recorded:
    """Measure, write the files, run the probes, write the files again."""
    sets, models, target = subject.sets, subject.asked("others"), subject.asked("target")
    progress.reach(DRAWN)
    network = fixed.network or find_feature_network("judge", judging=judging)
    given = options.judge is not None
    reference = fixed.compared if given else _compared(fixed.reference, judging, subject.classes, fixed.real[0])
    seen = fixed.warnings if given else _seen(judging, subject.forget, fixed.real[0])
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
            found.evidence, words=words, warnings=(*_about_models(subject), *seen, *found.evidence.warnings)
        )
        about = _about(record, subject, replace(options, suite=kept.suite), network) | {"probe_inputs": kept.inputs}
        if kept.cost is not None:
            record.add_stage(kept.cost, last=True)
        if record.active:
            _save_samples(record.folder / "samples", found, drawn if subject.in_words else {}, words, seed)
        probes = not_yet_run(options.suite, sets) | kept.probes
        _save(record, about, evidence, caught, probes)
        if options.suite != "none":
            with record.stage("probes") as cost:
                context = ProbeContext(
                    target["original"], target["unlearned"], target.get("retrained"), subject.forget, *fixed.real,
                    is_forget=judging.finds_forget, sampler=options.sampler, seed=derive_seed(options.seed, "probes"),
                    kept=models["original"] if subject.in_words else None, paraphrases=() if sets is None else sets.paraphrases,
                )  # fmt: skip
                n_before = counter.total
                probes = run_suite(
                    options.suite, context, network.extract, counter, sets=sets,
                    keep=lambda found: _save(record, about, evidence, caught, found), earlier=kept.probes,
                )  # fmt: skip
                cost["network_evaluations"] = counter.total - n_before
    metrics = first_decides("metrics.json", lambda: _save(record, about, evidence, caught, probes))
    for each in metrics["warnings"]:
        say(f"vdu: warning: {warning_text(each, metrics)}")
    return Recorded(record.folder, evidence, metrics)


def _about_models(subject: _Subject) -> tuple[WarningRecord, ...]:
    """Warnings of what the models are, whatever their samples show."""
    before, found = subject.before, []
    for name, other in (("after", subject.after), ("retrained", subject.retrained)):
        options = [] if other is None else differences(before.denoiser, other.denoiser)
        named = {"options": ", ".join(options)} if options else {}
        if other is not None and other.sha256 == before.sha256:
            found.append(WarningRecord("same_weights", named))
        elif named:
            found.append(WarningRecord("different_options", {"model": name, **named}))
        if name == "after" and LEVELS & set(options):
            first, second = before.denoiser.prediction_type, subject.after.denoiser.prediction_type
            found.append(WarningRecord("different_schedules", {"before": first, "after": second}))
    return tuple(found)


def _about(record: Run, subject: _Subject, options: EvaluationOptions, network: FeatureNetwork) -> dict[str, Any]:
    """The metadata of the numbers: format, suite, forget set and protocol."""
    inputs = record.record["inputs"]
    forget = {
        name: value for name, value in inputs["forget"].items() if name not in ("source", "classes", "class_names")
    }
    protocol = {**options.protocol()}
    protocol |= {f"features_{name}": value for name, value in network.describe().items()}
    protocol |= {"original_sha256": subject.before.sha256, "unlearned_sha256": subject.after.sha256}
    if subject.retrained is not None:
        protocol["retrained_sha256"] = subject.retrained.sha256
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
    write_json(record.folder / "metrics.json", metrics)
    if record.verb == "unlearn":  # a pipeline that somebody else made keeps its own card
        update_card(record.folder, metrics)
    return metrics


def _cost(record: Run) -> list[dict[str, Any]]:
    """The stages of the run, preceded by those of its posterior or, for two pipelines, of the run that made the second."""
    cost, inputs = [dict(stage) for stage in record.record["stages"]], record.record["inputs"]
    posterior = Path(inputs.get("posterior", {}).get("path", "")) / "run.json"
    if posterior.is_file():
        cost = [{**stage, "stage": f"posterior: {stage['stage']}"} for stage in read_json(posterior)["stages"]] + cost
    made_by = inputs.get("unlearned", {}).get("run")
    if made_by is not None:
        cost = [
            stage for stage in read_json(Path(made_by) / "run.json")["stages"] if stage["stage"] == "unlearn"
        ] + cost
    return cost


def _save_samples(folder: Path, found: Measurement, drawn: Drawn, words: WordsRecord | None, seed: int) -> None:
    """Write both models' images, their seeds, the judge's predictions, and the number of what was asked for.

    Of prompts, those that ask for the concept come first.
    """
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


def _numbers(images: ImageSet, asked: Sequence[str]) -> torch.Tensor:
    """What each image was asked for, as an index into ``asked``."""
    assert images.labels is not None and images.class_names is not None
    return torch.tensor([asked.index(each) for each in images.class_names])[images.labels]
