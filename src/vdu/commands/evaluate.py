"""``vdu evaluate``: is it gone, is the rest intact, does it come back? Both models are sampled from the same noise and judged alike.

PUL, u-FID and KID with intervals, precision and recall, class histogram, flips, and the reference rows that a number needs
beside it: real images against real images, the original, and the filtered original (its samples without those of the
forget class: perfect forgetting for free). Then the probes of a suite (``vdu.evaluation.suite``). What was not run is listed as not run.
"""

import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from vdu.commands.settings import EvaluateSettings, plain
from vdu.core.checks import hash_parameters
from vdu.core.counter import EvaluationCounter
from vdu.core.errors import InputError
from vdu.core.records import FORMAT_VERSION, atomic_file, read_json, write_json
from vdu.core.rng import derive_seed, generator
from vdu.core.runs import Run
from vdu.data.images import ImageSet, to_float
from vdu.diffusion.sampling import Sampler
from vdu.evaluation.measures import (
    corrected_interval,
    distance_row,
    empty_row,
    fidelity,
    histogram,
    paired_pul,
    second_opinion,
)
from vdu.evaluation.models import open_models
from vdu.evaluation.suite import announce, real_images, run_suite
from vdu.judges.judging import Judging, find_judges
from vdu.metrics.feature_networks import FeatureNetwork, find_feature_network
from vdu.metrics.features import Calls, classify
from vdu.metrics.pul import flip_table
from vdu.models.denoiser import PipelineDenoiser
from vdu.probes.context import ProbeContext
from vdu.replay.generated import cached_samples, image_seeds
from vdu.report.card import update_card

__all__ = ["Evidence", "measure", "run"]

NOT_RUN = {
    "ascent": "Gradient ascent at the same steps",
    "isotropic": "Isotropic posterior",
}


@dataclass(frozen=True)
class Evidence:
    """What an evaluation gives.

    Attributes:
        metrics: the parts of ``metrics.json`` that come from images.
        original: the original's samples.
        unlearned: the unlearned model's samples, image i from the same noise.
        calls: the judge's calls on both.
    """

    metrics: dict[str, Any]
    original: ImageSet
    unlearned: ImageSet
    calls: dict[str, Calls]


def measure(
    original: PipelineDenoiser,
    unlearned: PipelineDenoiser,
    judging: Judging,
    network: FeatureNetwork,
    *,
    reference: ImageSet | None,
    retrained: PipelineDenoiser | None = None,
    n_images: int,
    sampler: Sampler,
    seed: int,
) -> Evidence:
    """Sample the models from the same noise and compare them.

    Args:
        original: the model before.
        unlearned: the model after.
        judging: the judges and the classes to be forgotten.
        network: gives the features of the distances.
        reference: real images without the forget classes; None compares with the filtered original.
        retrained: a model trained without the forget class, for its row.
        n_images: images from each model.
        sampler: the sampling protocol.
        seed: image i starts from noise drawn from (seed, i).

    Returns:
        The metrics, the images and the judge's calls on them.
    """
    before, _ = cached_samples(original, n_images, sampler, seed=seed, progress="original")
    after, _ = cached_samples(unlearned, n_images, sampler, seed=seed, progress="unlearned")
    calls = {"original": classify(judging.judge, before.floats()), "unlearned": classify(judging.judge, after.floats())}
    pul = paired_pul(calls["original"], calls["unlearned"], judging, seed)  # refuses before the longer part begins
    wanted = n_images if reference is not None else 2 * n_images
    filtered = _filtered(original, before, judging, wanted, sampler, seed)
    against, held_out, description = _reference(network, reference, filtered, n_images, seed)

    def row(
        name: str, label: str, images: ImageSet | Tensor, called: Calls | None = None, note: str = ""
    ) -> dict[str, Any]:
        features = images if isinstance(images, Tensor) else network.extract(images.floats())
        base = held_out[0] if name == "real_split" and held_out is not None else against
        return distance_row(name, label, base, features, seed, called, judging, note=note) | fidelity(base, features)

    rows = []
    if held_out is not None:
        rows.append(row("real_split", "Real against real", held_out[1], note="two disjoint sets of real images"))
    rows.append(row("original", "Original", before, calls["original"]))
    note = f"the original's samples without those that {judging.filter_name} calls forget, drawn until N remain"
    rows.append(row("filtered_original", "Filtered original", filtered.select(range(n_images)), note=note))
    rows.append(row("unlearned", "Unlearned", after, calls["unlearned"]))
    rows[-1]["pul"] = {name: pul[name] for name in ("value", "low", "high", "n_original", "n_unlearned")}
    if retrained is None:
        rows.append(empty_row("retrained", "Retrained without the class"))
    else:
        drawn, _ = cached_samples(retrained, n_images, sampler, seed=seed, progress="retrained")
        called = classify(judging.judge, drawn.floats())
        note = "never saw the class: what the judge calls forget here is its error, or chance likeness"
        rows.append(row("retrained", "Retrained without the class", drawn, called, note))
    rows += [empty_row(name, label) for name, label in NOT_RUN.items()]
    judge = judging.describe(pul["n_original"], n_images)
    judge["corrected_pul"] = corrected_interval(pul, judge["forget_false_positive_rate"], n_images)
    metrics = {
        "n_images": n_images,
        "rows": rows,
        "histogram": histogram(calls, judging, seed),
        "flips": {
            "classes": list(judging.judge.class_names),
            "counts": flip_table(calls["original"].classes, calls["unlearned"].classes, judging.n_classes).tolist(),
        },
        "judge": judge | {"second": second_opinion(judging, before, after, seed)},
        "feature_network": network.label,
        "reference": {"description": description, "n_images": len(against)},
    }
    return Evidence(metrics, before, after, calls)


def _filtered(
    original: PipelineDenoiser, first: ImageSet, judging: Judging, wanted: int, sampler: Sampler, seed: int
) -> ImageSet:
    """The original's samples that are not of the forget class, drawn until enough remain.

    Args:
        original: the model.
        first: samples that are there already.
        judging: its filter decides.
        wanted: how many to keep.
        sampler: the protocol.
        seed: as for ``first``.

    Returns:
        ``wanted`` images.

    Raises:
        InputError: if more than nine tenths of the samples are forget images.
    """
    kept = first.images[~judging.filtered(first.floats())]
    drawn = len(first)
    while len(kept) < wanted:
        if drawn > 10 * wanted:
            raise InputError(
                f"filtered original: only {len(kept)} of {drawn} samples are not of the forget class; expected a minority."
            )
        n = max(int((wanted - len(kept)) * 1.2), sampler.microbatch_size)
        more, _ = cached_samples(original, drawn + n, sampler, seed=seed, progress="filtered original")
        new = more.select(range(drawn, drawn + n))
        drawn += n
        kept = torch.cat([kept, new.images[~judging.filtered(new.floats())]])
    return ImageSet(kept[:wanted], description="filtered original")


def _reference(
    network: FeatureNetwork, reference: ImageSet | None, filtered: ImageSet, n: int, seed: int
) -> tuple[Tensor, tuple[Tensor, Tensor] | None, str]:
    if reference is None:
        return network.extract(to_float(filtered.images[n:])), None, f"filtered original, {n} further samples"
    features = network.extract(reference.floats())
    order = torch.randperm(len(features), generator=generator(seed, "split"))
    held = min(n, len(features) // 2)
    return features, (features[order[held:]], features[order[:held]]), reference.description


def run(settings: EvaluateSettings) -> dict[str, Any]:
    """Evaluate a run of ``vdu unlearn`` in place.

    Args:
        settings: see :class:`vdu.commands.settings.EvaluateSettings`.

    Returns:
        PUL, u-FID and the reference values. A run that is not finished, and models that are not its own, are refused with an
        ``InputError`` (see :func:`vdu.evaluation.models.open_models`).
    """
    from vdu.data.forget_source import reload_forget

    record = Run.reopen(settings.run, "unlearn")
    inputs = record.record["inputs"]
    before, after, retrained = open_models(record, settings.retrained)
    models = [each.network for each in (before, after, retrained) if each is not None]
    sampler = settings.sampler()
    classes = list(settings.forget_class) or inputs["forget"]["classes"]
    real = real_images(settings.data, settings.held_out, classes, before.image_shape)
    network = None if settings.features == "judge" else find_feature_network(settings.features)  # refuses early
    announce(settings.suite, before, sampler.steps)
    record.drop_stages("judge", "evaluate", "probes")  # of an earlier evaluation
    with record.stage("judge") as cost:
        forget = reload_forget(record.folder, before.image_shape)
        judging, drawn = find_judges(before, forget, classes, sampler, **settings.judges())
        cost |= {"network_evaluations": drawn} if settings.judge is None else {}
    _check_names(settings, judging, inputs["forget"]["classes"])
    network = network or find_feature_network("judge", judging=judging)
    reference = reference_images(settings, judging, classes, before.image_shape)
    counter = EvaluationCounter()
    with warnings.catch_warnings(record=True) as caught, counter.watching(*models):
        with record.stage("evaluate") as cost:
            seed = derive_seed(settings.seed, "evaluate")
            evidence = measure(
                before, after, judging, network, reference=reference, retrained=retrained, n_images=settings.n_images,
                sampler=sampler, seed=seed,
            )  # fmt: skip
            cost["network_evaluations"] = counter.total  # of what was not in the cache
        probes = {}
        if settings.suite != "none":
            with record.stage("probes") as cost:
                case = ProbeContext(
                    before, after, retrained, forget, *real, sampler=sampler, seed=derive_seed(settings.seed, "probes"),
                    is_forget=lambda images: judging.is_forget(classify(judging.judge, images.floats()).classes),
                )  # fmt: skip
                before_probes = counter.total
                probes = run_suite(settings.suite, case, lambda images: network.extract(images.floats()), counter)
                cost["network_evaluations"] = counter.total - before_probes
    metrics = complete(evidence.metrics, record, sampler, settings, network)
    metrics |= {"suite": settings.suite, "probes": probes}
    if retrained is not None:
        metrics["protocol"]["retrained_sha256"] = hash_parameters(retrained.network.state_dict())
    metrics["forget"]["classes"] = classes or None
    metrics["warnings"] += sorted({str(each.message) for each in caught if "vdu" in Path(each.filename).parts})
    for text in metrics["warnings"]:
        print(f"vdu: warning: {text}", file=sys.stderr)
    save_samples(record.folder / "samples", evidence, image_seeds(seed, settings.n_images))
    write_json(record.folder / "metrics.json", metrics)
    update_card(record.folder, metrics)
    record.close()
    return summary(metrics)


def _check_names(settings: EvaluateSettings, judging: Judging, forgotten: list[str]) -> None:
    """Refuse to count another class than the one that the run forgot."""
    given, known = set(settings.forget_class), set(judging.judge.class_names)
    if given and forgotten and set(forgotten) <= known and given != set(forgotten):
        raise InputError(
            f"--forget-class: got {', '.join(sorted(given))}; this run forgot {', '.join(forgotten)}, which the judge knows by that name. "
            "Leave the option out; it is for judges that call the class something else."
        )


def reference_images(
    settings: EvaluateSettings, judging: Judging, names: list[str], shape: tuple[int, int, int]
) -> ImageSet | None:
    """Real images without the forget classes: removed by label where there are labels, else by the judge.

    Args:
        settings: where the images are.
        judging: the judge, where the images have no labels of these classes.
        names: the classes to leave out, if they have names.
        shape: channels, height and width of the model.

    Returns:
        The images, or None if no reference is given.
    """
    from vdu.data.sources import load_images

    if settings.reference is None:
        return None
    images = load_images(settings.reference, shape=shape, split=settings.reference_split)
    known = () if images.labels is None or images.class_names is None else images.class_names
    if names and set(names) <= set(known):
        from vdu.data.forget import split_by_class

        kept = split_by_class(images, names)[1]
        return kept.select(range(len(kept)), f"{images.description} without {', '.join(names)} (by label)")
    keep = ~judging.is_forget(classify(judging.judge, images.floats()).classes)
    return images.select(keep, f"{images.description} without forget images (by the judge)")


def complete(
    metrics: dict[str, Any], record: Run, sampler: Sampler, settings: EvaluateSettings, network: FeatureNetwork
) -> dict[str, Any]:
    """Add what stands beside the numbers: format, forget set, protocol, cost and warnings."""
    inputs, run_record = record.record["inputs"], record.record
    cost = [dict(stage) for stage in run_record["stages"]]
    posterior = Path(inputs.get("posterior", {}).get("path", "")) / "run.json"
    if posterior.is_file():
        cost = [{**stage, "stage": f"posterior: {stage['stage']}"} for stage in read_json(posterior)["stages"]] + cost
    forget = inputs["forget"]
    protocol = {f"sampler_{name}": value for name, value in sampler.describe().items() if value is not None}
    protocol |= {
        name: value
        for name, value in plain(settings).items()
        if name not in {"run", "retrained"} and not isinstance(value, list)
    }
    protocol |= {f"features_{name}": value for name, value in network.describe().items()}
    protocol |= {"original_sha256": inputs["model"]["sha256"], "unlearned_sha256": run_record["pipeline"]["sha256"]}
    return {
        "format_version": FORMAT_VERSION,
        "forget": {
            "description": forget["description"],
            "classes": forget["classes"] or None,
            "n_images": forget["n_images"],
            "sha256": forget["sha256"],
        },
        **metrics,
        "protocol": protocol,
        "cost": cost,
        "warnings": _warnings(metrics),
    }


def _warnings(metrics: dict[str, Any]) -> list[str]:
    found = []
    original = next(row for row in metrics["rows"] if row["name"] == "original")
    if original["forget_count"] < 50:
        found.append(
            f"The original made only {original['forget_count']} images of the forget class: the interval of PUL is wide."
        )
    if metrics["judge"]["source"] == "trained on the spot":
        found.append(
            "The judge was trained on the spot, from the forget set against own samples; its false-positive rate is an estimate."
        )
    if metrics["judge"]["second"] is None:
        found.append("No second judge: the judge that gives the features also filters the filtered original.")
    return found


def save_samples(folder: Path, evidence: Evidence, seeds: list[int]) -> None:
    """Write both models' images, their seeds and the judge's calls."""
    for name, images in (("original", evidence.original), ("unlearned", evidence.unlearned)):
        calls = evidence.calls[name]
        tensors = {
            "images": images.images,
            "seeds": torch.tensor(seeds, dtype=torch.int64),
            "judge_class": calls.classes,
            "judge_confidence": calls.confidence,
        }
        with atomic_file(folder / f"{name}.safetensors") as temporary:
            save_file({key: value.contiguous() for key, value in tensors.items()}, temporary)


def summary(metrics: dict[str, Any]) -> dict[str, Any]:
    """The few numbers that a person wants on the terminal."""
    rows = {row["name"]: row for row in metrics["rows"]}
    pul, name = rows["unlearned"]["pul"], f"u-FID[{metrics['feature_network']}]"
    shown = {
        "PUL": f"{pul['value']:.1f} % (95 % interval {pul['low']:.1f} to {pul['high']:.1f}; {pul['n_original']} → {pul['n_unlearned']} "
        f"of {metrics['n_images']})",
        f"{name} unlearned": round(rows["unlearned"]["u_fid"]["value"], 2),
        f"{name} original": round(rows["original"]["u_fid"]["value"], 2),
        f"{name} filtered original": round(rows["filtered_original"]["u_fid"]["value"], 2),
        **_retrained(rows.get("retrained"), name, metrics["n_images"]),
        "judge": f"{metrics['judge']['name']}, held-out error {metrics['judge']['held_out_error']:.2%}",
    }
    histogram = metrics["histogram"]
    if sum(expected > 0 for expected in histogram["expected"]) > 1:  # of one kept class it is 0 by definition
        shown["histogram distance"] = f"{histogram['distance']:.3f} (by chance up to {histogram['chance_high']:.3f})"
    return shown


def _retrained(row: dict[str, Any] | None, name: str, n_images: int) -> dict[str, Any]:
    if row is None or row["status"] != "measured":
        return {}
    return {
        f"{name} retrained": round(row["u_fid"]["value"], 2),
        "retrained": f"{row['forget_count']} of {n_images} are called unwanted",
    }
