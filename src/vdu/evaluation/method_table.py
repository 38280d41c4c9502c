"""Several methods on one job: each unlearns the same pipeline, and all results are evaluated alike, from the same noise.

Every seed of a method is a run of its own. With a folder, what is finished is kept there and not computed again.

Not guaranteed: a winner. Nothing is ranked; intervals often overlap, and a method at its defaults may not suit the model.
"""

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from vdu.core.device import on_device
from vdu.core.errors import DivergenceError, InputError, shown
from vdu.core.former_names import former_names
from vdu.core.paths import given_file, given_output
from vdu.core.python_names import names_arguments
from vdu.core.ranges import COUNT, plain_number, require_flags, require_given, require_number
from vdu.core.records import atomic_file, read_json, sha256_bytes, write_json
from vdu.core.runs import require_apart
from vdu.core.statistics import seeds_interval
from vdu.core.surroundings import undisturbed
from vdu.data.forget_source import content_of
from vdu.data.given import is_named
from vdu.data.images import ImageSet
from vdu.data.sources import place_of
from vdu.diffusion.sampling import Sampler
from vdu.evaluation.models import open_model
from vdu.evaluation.options import EvaluationOptions
from vdu.evaluation.pair import made_by, unwanted_images
from vdu.evaluation.recording import evaluate_pair, require_measurable
from vdu.evaluation.records import EvidenceRecord
from vdu.evaluation.subject import by_name
from vdu.methods import registry
from vdu.methods.base import compiled
from vdu.methods.options import of_the_task
from vdu.models.identity import identity, trained_part
from vdu.reporting.rest_u_fid import rest_u_fid
from vdu.unlearning.unlearn import planned, unlearn

__all__ = ["MethodRow", "MethodTable", "compare"]

FEWEST_SEEDS = 3  # for an interval over seeds
REFERENCES = {
    "original": "original", "filtered_original": "filtered-oracle baseline", "retrained": "retrained model",
}  # fmt: skip
COLUMNS = {
    "method": "method",
    "options": "options",
    "seeds": "runs",
    "left": "left of",
    "pul": "PUL, %",
    "u_fid": "u-FID",
    "kept": "kept images changed",
    "network_evaluations": "network evaluations",
    "seconds": "seconds",
}


@dataclass(frozen=True)
class MethodRow:
    """A method, with one seed or as the mean over seeds; or a reference.

    Attributes:
        method: its name.
        seeds: seeds of the unlearning runs; several where the numbers are means, none for a reference.
        n_left: images predicted forget after unlearning; None if the run diverged, as for all numbers but the cost. A reference has only
            this and u-FID, each where it is measured.
        n_original: the same before.
        pul: percentage of unlearning, in percent.
        pul_low: lower end of its 95 % interval.
        pul_high: upper end.
        u_fid: distance to the reference, ≥ 0, lower is better; None if too few images are left for one.
        u_fid_low: lower end of its 95 % interval.
        u_fid_high: upper end.
        n_kept_changed: retained images that changed class.
        n_kept: retained images of the original.
        network_evaluations: of unlearning: forward 1, backward 2 per image; those whose results came from a cache included.
        seconds: of unlearning, wall clock.
        note: why there are no numbers; empty where there are.
        options: of the method, NAME=VALUE, where they differ from its defaults.
        u_fid_without: unwanted images that u-FID leaves out, where many remain.
    """

    method: str
    seeds: tuple[int, ...]
    n_left: float | None = None
    n_original: int | None = None
    pul: float | None = None
    pul_low: float | None = None
    pul_high: float | None = None
    u_fid: float | None = None
    u_fid_low: float | None = None
    u_fid_high: float | None = None
    n_kept_changed: float | None = None
    n_kept: int | None = None
    network_evaluations: float | None = None
    seconds: float | None = None
    note: str = ""
    options: str = ""
    u_fid_without: float = 0


@dataclass(frozen=True, repr=False)
class MethodTable:
    """Methods side by side.

    Attributes:
        runs: one row per method and seed.
        n_images: images from each model.
        feature_network: label of the network whose features give u-FID.
        references: the original, the filtered-oracle baseline and, if one was given, the retrained model.
        protocol: what all runs share, in words.
    """

    runs: tuple[MethodRow, ...]
    n_images: int
    feature_network: str
    references: tuple[MethodRow, ...] = ()
    protocol: str = ""

    @property
    def rows(self) -> tuple[MethodRow, ...]:
        """One row per method where all of it ran with at least three seeds, else one per method and seed."""
        found: list[MethodRow] = []
        for name in dict.fromkeys(row.method for row in self.runs):
            runs = [row for row in self.runs if row.method == name]
            whole = len(runs) >= FEWEST_SEEDS and not any(row.note for row in runs)
            found += [_mean(runs)] if whole else runs
        return tuple(found)

    def to_pandas(self) -> Any:
        """The rows and references as a pandas ``DataFrame``, a column per attribute of :class:`MethodRow`.

        Returns:
            The table.

        Raises:
            InputError: if pandas is not installed.
        """
        try:
            import pandas  # pyright: ignore[reportMissingImports]  (optional)
        except ImportError:
            raise InputError(
                "to_pandas: pandas is not installed. Install it (pip install pandas), or use to_markdown() or .rows."
            ) from None
        return pandas.DataFrame([asdict(row) for row in self.rows + self.references])

    def to_markdown(self) -> str:
        """The rows and references as a Markdown table, and below it the protocol; intervals of 95 % in brackets.

        Returns:
            The text, without a newline at its end.
        """
        lines = [[*COLUMNS.values()], ["---"] * len(COLUMNS), *map(_cells, self.rows + self.references)]
        table = "\n".join("| " + " | ".join(each.replace("|", r"\|") for each in line) + " |" for line in lines)
        return f"{table}\n\n{self.protocol}" if self.protocol else table

    def to_html(self, path: Path | str) -> Path:
        """Write the rows as one self-contained HTML file.

        Args:
            path: the file; an older one is replaced.

        Returns:
            The path.
        """
        title = f"Methods side by side, {self.n_images} images of each model"
        page = (
            f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>\n<style>{STYLE}</style>\n<h1>{title}</h1>\n'
            f"{self._repr_html_()}\n</html>\n"
        )
        path = given_file(path)
        with atomic_file(path) as temporary:
            temporary.write_text(page, encoding="utf-8")
        return path

    def __repr__(self) -> str:
        """The Markdown table."""
        return self.to_markdown()

    def _repr_html_(self) -> str:
        """The table, for a notebook."""
        head = "".join(f"<th>{escape(name)}</th>" for name in COLUMNS.values())
        rows = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in _cells(row)) + "</tr>"
            for row in self.rows + self.references
        )
        features = (
            f"u-FID on the features of {escape(self.feature_network)}, lower is better; 95 % intervals in brackets."
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table><p>{features} {escape(self.protocol)}</p>"


STYLE = (
    ":root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}th,td{text-align:left;padding:.3rem .8rem;border-bottom:1px solid #8888}"
)


@names_arguments
@former_names(forget_classes="forget_class")
@undisturbed()
def compare(
    pipeline: Any,
    *,
    forget: Any,
    methods: Sequence[Any] = ("auto",),
    seeds: int = 1,
    folder: Path | str | None = None,
    forget_class: str | Sequence[str] | None = None,
    judge: Path | str | None = None,
    second_judge: Path | str | None = None,
    reference: Any = None,
    reference_split: str = "train",
    retrained: Any = None,
    features: str = "judge",
    sampler: Sampler | None = None,
    n_images: int = 1000,
    n_judge_samples: int = 1000,
    seed: int = 0,
    device: str | torch.device | None = None,
    **training: Any,
) -> MethodTable:
    """Unlearn the same images by several methods, and evaluate all results alike.

    Args:
        pipeline: the original: a pipeline or its folder.
        forget: the unwanted images, or where they are.
        methods: names ("vdu list" shows them), classes, or objects with options of their own, such as
            ``vdu.RetainDistillation(self_model_steps=20)``; as for :func:`vdu.unlearn`.
        seeds: unlearning runs of each method, with the seeds 0, 1, …; three or more give intervals over seeds.
        folder: keeps the evidence and the row of every finished run; called again, only what is missing is computed.
        forget_class: as for :func:`vdu.evaluate`, like the following options. What text-to-image models are asked for is not among them.
        judge: the judge; None trains a fallback classifier.
        second_judge: a judge of another architecture.
        reference: real images to compare with.
        reference_split: "train" or "test".
        retrained: a model trained without the forget class.
        features: network whose features give u-FID.
        sampler: the sampling protocol.
        n_images: images from each model.
        n_judge_samples: generated samples that train a fallback classifier.
        seed: of the evaluation, the same for all.
        device: as for :func:`vdu.unlearn`.
        **training: options of :func:`vdu.unlearn`, the same for all methods, such as ``steps``; what a method prepares before its first
            step (for distillation generated samples, classifiers and a copy of the model) does not depend on ``steps``.

    Returns:
        The table. A run that diverges has a row without numbers.

    Raises:
        InputError: if there is no method, the folder holds another comparison, or a method cannot use what is given; the last is found
            before the first run.
    """
    require_given({"forget_class": forget_class}, "forget_class")
    if in_words := sorted({"forget_prompt", "keep_prompts"} & set(training)):
        raise InputError(
            f"{in_words[0]}: vdu.compare does not ask models in words, so that what is forgotten in words would not be counted; leave "
            "it out, or use vdu.unlearn and vdu.evaluate for each method."
        )
    options = EvaluationOptions.from_python(
        sampler=sampler, judge=judge, second_judge=second_judge, forget_class=forget_class, reference=reference,
        reference_split=reference_split, features=features, retrained=retrained, n_images=n_images,
        n_judge_samples=n_judge_samples, seed=seed,
    )  # fmt: skip
    if not isinstance(methods, list | tuple) or not methods:
        raise InputError(f"methods: got {shown(methods)}; expected a list of one or more methods.")
    require_number("seeds", seeds, COUNT)
    for each in ("generator", "resume", "overwrite"):
        if each in training:
            raise InputError(
                f"{each}: got one; expected none, since every run has a seed and a folder of its own. Leave it out."
            )
    where = None if folder is None else given_output(folder, "folder")
    if where is not None:
        require_apart(where, [place_of(each) for each in (forget, options.reference) if is_named(each)])
    with on_device(device), tempfile.TemporaryDirectory() as place:
        before = open_model(pipeline, "pipeline")
        convert = training.get("convert", False)
        require_flags({"convert": convert}, "convert")
        images, _ = unwanted_images(forget, before.denoiser.image_shape, options.forget_class, convert=convert)
        options = by_name(images, options)
        names, plans = _names(methods), [planned(pipeline, method, forget=images, **training) for method in methods]
        texts = [", ".join(each.chosen.options) for each in plans]
        contents = require_measurable(pipeline, images, options)  # refuses now, as the plans do
        contents += (
            [f"retain {content_of(plans[0].retain, before.denoiser.class_names)}"]
            if plans[0].retain is not None
            else []
        )
        posterior = plans[0].chosen.posterior
        contents += [f"posterior {posterior.sha256}"] if "posterior" in training and posterior is not None else []
        trained = trained_part(before.denoiser)
        contents += [f"trained {trained}"] if trained else []
        content = content_of(images, before.denoiser.class_names)
        job = _Job(pipeline, images, content, options, training, identity(before.denoiser), tuple(contents))
        where = where or Path(place)
        runs = [
            _row(job, method, name, text, each, where / f"{name}-{each}")
            for method, name, text in zip(methods, names, texts, strict=True) for each in range(seeds)
        ]  # fmt: skip
    network = next((row.feature_network for row in runs if row.feature_network), features)
    references = next((row.references for row in runs if row.references), ())
    return MethodTable(tuple(row.row for row in runs), n_images, network, references, _protocol(options, training))


@dataclass(frozen=True, eq=False)
class _Job:
    """What all runs have in common.

    ``content``: of the forget set; ``identity``: of the original; ``contents``: hashes of given images and models and of what trains.
    """

    pipeline: Any
    forget: ImageSet
    content: str
    options: EvaluationOptions
    training: dict[str, Any]
    identity: str
    contents: tuple[str, ...]


@dataclass(frozen=True)
class _Finished:
    """A row, with the network that its u-FID is on and what it was measured beside; both empty if it has no numbers."""

    row: MethodRow
    feature_network: str
    references: tuple[MethodRow, ...] = ()


def _protocol(options: EvaluationOptions, training: dict[str, Any]) -> str:
    """What all runs share, as a sentence."""
    drawn = options.sampler
    eta = f", eta {drawn.eta:g}" if drawn.eta else ""
    guidance = "" if drawn.guidance_scale is None else f", guidance scale {drawn.guidance_scale:g}"
    judge = f"judge {options.judge}" if options.judge else "a fallback classifier as the judge"
    given = [f"{name}={shown(value)}" for name, value in training.items() if name != "progress"]
    return (
        f"All runs: {options.n_images} images of each model from the same noise (seed {options.seed}), {drawn.scheduler} with "
        f"{drawn.steps} steps{eta}{guidance}, {judge}; {', '.join(given) or 'training as each method has it by default'}. "
        "u-FID “without n”: n unwanted images that remain are left out; of fewer images a distance is larger."
    )


def _name(method: Any) -> str:
    """The name of a method that is given by name, as a class or as an object.

    Returns:
        The name.

    Raises:
        InputError: if it is nothing of that kind.
    """
    if not isinstance(method, str) and not isinstance(getattr(method, "name", None), str):
        raise InputError(
            f"methods: got {shown(method)}; expected names, classes or objects that inherit from vdu.Method."
        )
    return registry.get(method).name if isinstance(method, str) else method.name


def _names(methods: Sequence[Any]) -> list[str]:
    """The methods' names, numbered where two have the same."""
    names = [_name(method) for method in methods]
    numbers = [names[:i].count(name) + 1 for i, name in enumerate(names)]
    return [name if number == 1 else f"{name} ({number})" for name, number in zip(names, numbers, strict=True)]


def _row(job: _Job, method: Any, name: str, texts: str, seed: int, folder: Path) -> _Finished:
    """The row of one run, read where it is finished, else computed and kept."""
    kind = registry.get(method) if isinstance(method, str) else method if isinstance(method, type) else type(method)
    named = isinstance(method, str | type)  # else its options are its own
    has_retain = job.training.get("retain") is not None
    options = str(of_the_task(kind, retain=has_retain, words=False) or "") if named else method.identity
    elsewhere = ("retain", "posterior", "progress")  # among the contents, and without an effect
    training = {each: plain_number(value) for each, value in job.training.items() if each not in elsewhere}
    described = (
        job.identity, job.content, name, options, seed, sorted(job.options.protocol().items(), key=str),
        job.options.forget_class, sorted(training.items(), key=str), *job.contents,
        *compiled(kind),
    )  # fmt: skip
    identity, path, references = sha256_bytes(repr(described).encode()), folder / "row.json", []
    if path.is_file():
        kept = read_json(path)
        if kept.get("identity") != identity:
            raise InputError(
                f"{folder}: holds the row of another comparison (model, what trains, images, method or options differ). Give another "
                "folder, or delete it."
            )
        row = replace(_read(kept["row"]), options=texts)
        return _Finished(row, kept["feature_network"], tuple(map(_read, kept.get("references", ()))))
    shutil.rmtree(folder / "evidence", ignore_errors=True)  # of a run that was interrupted before its row
    began, network = time.monotonic(), ""
    try:
        result = unlearn(job.pipeline, method, forget=job.forget, seed=seed, **job.training)
    except DivergenceError as error:
        row = MethodRow(
            name, (seed,), seconds=round(time.monotonic() - began, 3), note=f"diverged: {error}", options=texts
        )
    else:
        seconds = round(time.monotonic() - began, 3)
        found = evaluate_pair(
            job.pipeline, result.pipeline, job.forget, job.options, folder / "evidence", made_by(result)
        )
        evidence, (u_fid, n) = found.evidence, rest_u_fid(found.metrics, "unlearned")
        pul, kept, network = evidence.pul, evidence.kept, evidence.feature_network
        ends = dict.fromkeys(("value", "low", "high")) if u_fid is None else u_fid
        row = MethodRow(
            name, (seed,), pul.n_unlearned, pul.n_original, pul.value, pul.low, pul.high, ends["value"], ends["low"], ends["high"],
            kept.n_changed, kept.n_kept, result.network_evaluations, seconds, options=texts, u_fid_without=evidence.n_images - n,
        )  # fmt: skip
        references = _references(evidence)
    folder.mkdir(parents=True, exist_ok=True)
    about = {"feature_network": network, "references": [asdict(each) for each in references]}
    write_json(path, {"identity": identity, **about, "row": asdict(row)})
    return _Finished(row, network, tuple(references))


def _read(row: dict[str, Any]) -> MethodRow:
    """A row as JSON has it."""
    values: dict[str, Any] = row | {"seeds": tuple(row["seeds"])}
    return MethodRow(**values)


def _references(evidence: EvidenceRecord) -> list[MethodRow]:
    """What every run is measured beside."""
    found = [(name, evidence.row(row)) for row, name in REFERENCES.items()]
    return [
        MethodRow(
            name, (), row.forget_count, evidence.pul.n_original, u_fid=row.distances.u_fid.value, u_fid_low=row.distances.u_fid.low,
            u_fid_high=row.distances.u_fid.high,
        )
        for name, row in found if row.distances is not None
    ]  # fmt: skip


def _mean(runs: Sequence[MethodRow]) -> MethodRow:
    """The means over seeds, with intervals over seeds."""
    first = runs[0]
    pul = seeds_interval([(row.pul, row.pul_low, row.pul_high) for row in runs])  # pyright: ignore[reportArgumentType]
    u_fid: tuple[Any, Any, Any] = (None, None, None)
    if all(row.u_fid is not None for row in runs):
        mean, low, high = seeds_interval([(row.u_fid, row.u_fid_low, row.u_fid_high) for row in runs])  # pyright: ignore[reportArgumentType]
        u_fid = (mean, max(0.0, low), high)
    means: dict[str, Any] = {
        name: fmean(getattr(row, name) for row in runs)
        for name in ("n_left", "n_kept_changed", "network_evaluations", "seconds", "u_fid_without")
    }
    return MethodRow(
        method=first.method, options=first.options, seeds=tuple(row.seeds[0] for row in runs), n_original=first.n_original,
        n_kept=first.n_kept,
        pul=pul[0], pul_low=pul[1], pul_high=min(100.0, pul[2]), u_fid=u_fid[0], u_fid_low=u_fid[1], u_fid_high=u_fid[2], **means,
    )  # fmt: skip


def _cells(row: MethodRow) -> list[str]:
    """A row as text; what was not measured is a dash."""
    without = f", without {round(row.u_fid_without, 1):g}" if row.u_fid_without else ""
    seeds = f"{len(row.seeds)} (seed{'s' * (len(row.seeds) > 1)} {', '.join(map(str, row.seeds))})"
    found = {
        "method": row.method,
        "options": row.options,
        "seeds": row.seeds and seeds,
        "left": row.note or (row.n_left is not None and f"{round(row.n_left, 1):g} of {row.n_original}"),
        "pul": row.pul is not None and f"{row.pul:.1f} [{row.pul_low:.1f}, {row.pul_high:.1f}]",
        "u_fid": row.u_fid is not None and f"{row.u_fid:.1f} [{row.u_fid_low:.1f}, {row.u_fid_high:.1f}]{without}",
        "kept": row.n_kept_changed is not None and f"{round(row.n_kept_changed, 1):g} of {row.n_kept}",
        "network_evaluations": row.network_evaluations is not None and f"{row.network_evaluations:,.0f}",
        "seconds": row.seconds is not None and f"{row.seconds:.0f}",
    }
    return [found[name] or "–" for name in COLUMNS]
