"""``vdu evaluate``: measures forgetting, damage and recovery of a run with the evaluator (``vdu.evaluation``).

``metrics.json`` is written after the samples are measured and again after the probes, so that a failing probe loses
nothing. Probes that did not run are listed as not run.
"""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from vdu.commands.settings import EvaluateSettings, plain
from vdu.core.checks import hash_parameters
from vdu.core.counter import EvaluationCounter
from vdu.core.errors import InputError
from vdu.core.records import FORMAT_VERSION, atomic_file, now, read_json, write_json
from vdu.core.rng import derive_seed
from vdu.core.runs import Run
from vdu.diffusion.sampling import Sampler
from vdu.evaluation.measure import Measurement, measure
from vdu.evaluation.models import open_models
from vdu.evaluation.records import DistanceRow, Evidence, WarningRecord
from vdu.evaluation.references import reference_images
from vdu.evaluation.suite import announce, not_yet_run, real_images, run_suite
from vdu.judges.judging import Judging, find_judges
from vdu.metrics.feature_networks import FeatureNetwork, find_feature_network
from vdu.models.denoiser import PipelineDenoiser
from vdu.probes.context import ProbeContext
from vdu.replay.generated import image_seeds
from vdu.report.card import update_card
from vdu.report.code_texts import warning_text

__all__ = ["run"]


def run(settings: EvaluateSettings) -> dict[str, Any]:
    """Evaluate a run of ``vdu unlearn`` in place.

    Args:
        settings: see :class:`vdu.commands.settings.EvaluateSettings`.

    Returns:
        PUL, u-FID and the reference values. An unfinished run, or models of another run, raise an ``InputError`` (see
        :func:`vdu.evaluation.models.open_models`).
    """
    from vdu.data.forget_source import reload_forget

    record = Run.reopen(settings.run, "unlearn")
    inputs = record.record["inputs"]
    before, after, retrained = open_models(record, settings.retrained)
    models = [each.network for each in (before, after, retrained) if each is not None]
    sampler = settings.sampler()
    classes = list(settings.forget_class) or inputs["forget"]["classes"]
    real = real_images(settings.data, settings.held_out, classes, before.image_shape)
    network = None if settings.features == "judge" else find_feature_network(settings.features)  # fails early
    announce(settings.suite, before, sampler.steps)
    record.drop_stages("judge", "evaluate", "probes")  # of an earlier evaluation
    with record.stage("judge") as cost:
        forget = reload_forget(record.folder, before.image_shape)
        judging, drawn = find_judges(before, forget, classes, sampler, **settings.judges())
        cost |= {"network_evaluations": drawn} if settings.judge is None else {}
    _check_names(settings, judging, inputs["forget"]["classes"])
    network = network or find_feature_network("judge", judging=judging)
    reference = reference_images(settings.reference, settings.reference_split, judging, classes, before.image_shape)
    counter = EvaluationCounter()
    with warnings.catch_warnings(record=True) as caught, counter.watching(*models):
        with record.stage("evaluate") as cost:
            seed = derive_seed(settings.seed, "evaluate")
            found = measure(
                before, after, judging, network, reference=reference, retrained=retrained, n_images=settings.n_images,
                sampler=sampler, seed=seed,
            )  # fmt: skip
            cost["network_evaluations"] = counter.total  # without cached results
        about = _about(settings, record, classes, sampler, network, retrained)
        save_samples(record.folder / "samples", found, image_seeds(seed, settings.n_images))
        _save(record, about, found.evidence, caught, not_yet_run(settings.suite))
        probes = {}
        if settings.suite != "none":
            with record.stage("probes") as cost:
                context = ProbeContext(
                    before, after, retrained, forget, *real, is_forget=judging.finds_forget, sampler=sampler,
                    seed=derive_seed(settings.seed, "probes"),
                )  # fmt: skip
                n_before = counter.total
                probes = run_suite(settings.suite, context, network.extract, counter)
                cost["network_evaluations"] = counter.total - n_before
    metrics = _save(record, about, found.evidence, caught, probes)
    for each in metrics["warnings"]:
        print(f"vdu: warning: {warning_text(each, metrics)}", file=sys.stderr)
    record.close()
    return summary(found.evidence)


def _check_names(settings: EvaluateSettings, judging: Judging, forgotten: list[str]) -> None:
    """Raise an error if the counted class is not the forgotten one."""
    given, known = set(settings.forget_class), set(judging.judge.class_names)
    if given and forgotten and set(forgotten) <= known and given != set(forgotten):
        raise InputError(
            f"--forget-class: got {', '.join(sorted(given))}; this run forgot {', '.join(forgotten)}, and the judge has that class. "
            "Leave the option out; it is for judges that use another name for the class."
        )


def _about(
    settings: EvaluateSettings,
    record: Run,
    classes: list[str],
    sampler: Sampler,
    network: FeatureNetwork,
    retrained: PipelineDenoiser | None,
) -> dict[str, Any]:
    """The metadata of the numbers: format, suite, forget set and protocol."""
    inputs = record.record["inputs"]
    forget = {name: inputs["forget"][name] for name in ("description", "n_images", "sha256")}
    protocol = {f"sampler_{name}": value for name, value in sampler.describe().items() if value is not None}
    protocol |= {
        name: value
        for name, value in plain(settings).items()
        if name not in {"run", "retrained"} and not isinstance(value, list)
    }
    protocol |= {f"features_{name}": value for name, value in network.describe().items()}
    protocol |= {"original_sha256": inputs["model"]["sha256"], "unlearned_sha256": record.record["pipeline"]["sha256"]}
    if retrained is not None and settings.retrained is not None:
        protocol["retrained_sha256"] = hash_parameters(retrained.network.state_dict())
        protocol["retrained_path"] = str(settings.retrained.resolve())
    return {
        "format_version": FORMAT_VERSION,
        "date": now(),
        "forget": forget | {"classes": classes or None},
        "protocol": protocol,
        "suite": settings.suite,
    }


def _save(
    record: Run,
    about: dict[str, Any],
    evidence: Evidence,
    caught: Sequence[warnings.WarningMessage],
    probes: dict[str, Any],
) -> dict[str, Any]:
    """Write ``metrics.json`` and the model card, and return the former."""
    texts = sorted({str(each.message) for each in caught if "vdu" in Path(each.filename).parts})
    found = (*evidence.warnings, *(WarningRecord("python_warning", {"message": text}) for text in texts))
    metrics = about | evidence.to_json()
    metrics |= {"cost": _cost(record), "warnings": [each.to_json() for each in found], "probes": probes}
    write_json(record.folder / "metrics.json", metrics)
    update_card(record.folder, metrics)
    return metrics


def _cost(record: Run) -> list[dict[str, Any]]:
    """The stages of the run, preceded by those of its posterior."""
    cost = [dict(stage) for stage in record.record["stages"]]
    posterior = Path(record.record["inputs"].get("posterior", {}).get("path", "")) / "run.json"
    if posterior.is_file():
        cost = [{**stage, "stage": f"posterior: {stage['stage']}"} for stage in read_json(posterior)["stages"]] + cost
    return cost


def save_samples(folder: Path, found: Measurement, seeds: list[int]) -> None:
    """Write both models' images, their seeds and the judge's predictions."""
    for name, images in (("original", found.original), ("unlearned", found.unlearned)):
        predictions = found.predictions[name]
        tensors = {
            "images": images.images,
            "seeds": torch.tensor(seeds, dtype=torch.int64),
            "judge_class": predictions.classes,
            "judge_confidence": predictions.confidence,
        }
        with atomic_file(folder / f"{name}.safetensors") as temporary:
            save_file({key: value.contiguous() for key, value in tensors.items()}, temporary)


def summary(evidence: Evidence) -> dict[str, Any]:
    """The key numbers for the terminal."""
    pul, name, judge, histogram = evidence.pul, f"u-FID[{evidence.feature_network}]", evidence.judge, evidence.histogram
    shown = {
        "PUL": f"{pul.value:.1f} % (95 % interval {pul.low:.1f} to {pul.high:.1f}; {pul.n_original} → {pul.n_unlearned} "
        f"of {evidence.n_images})",
        f"{name} unlearned": _u_fid(evidence.row("unlearned")),
        f"{name} original": _u_fid(evidence.row("original")),
        f"{name} filtered original": _u_fid(evidence.row("filtered_original")),
    }
    retrained = evidence.row("retrained")
    if retrained.distances is not None:
        shown[f"{name} retrained"] = _u_fid(retrained)
        shown["retrained"] = f"{retrained.forget_count} of {evidence.n_images} are predicted as unwanted"
    shown["judge"] = f"{judge.name}, held-out error {judge.held_out_error:.2%}"
    if sum(expected > 0 for expected in histogram.expected) > 1:  # 0 by definition with a single retained class
        distance = histogram.distance.value
        shown["histogram distance"] = f"{distance:.3f} (by chance up to {histogram.chance_high:.3f})"
    return shown


def _u_fid(row: DistanceRow) -> float:
    assert row.distances is not None
    return round(row.distances.u_fid.value, 2)
