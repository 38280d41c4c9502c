"""The trade-off along a run's checkpoints: forgetting (PUL) against damage (u-FID), step by step.

The original, the final model and the filtered original have the numbers of ``metrics.json``, which are those of the report. A
checkpoint in between is measured as ``vdu evaluate`` measured the final model: as many images from the same noises, the same
sampler, judge, features and reference, so that all points can be compared. Each is cached in the run's ``checkpoints.json`` as
soon as it is measured, under the evaluation's protocol and the SHA-256 of the weights.

Not guaranteed: that a difference between two neighbouring points is more than chance; their intervals show how far it may be.
"""

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vdu.core.errors import InputError
from vdu.core.processes import say
from vdu.core.records import FORMAT_VERSION, read_json, sha256_bytes, write_json
from vdu.core.rng import derive_seed
from vdu.core.runs import forgotten_before
from vdu.data.forget_source import reload_forget
from vdu.data.images import ImageSet, to_uint8
from vdu.diffusion.sampling import sample
from vdu.evaluation.compare import distances, paired_pul
from vdu.evaluation.prompt_sets import asking
from vdu.evaluation.references import (
    filtered_original,
    load_reference,
    others_of,
    reference_images,
    unshared_reference,
    without_known_labels,
)
from vdu.explore.open_run import Checkpoint, OpenRun
from vdu.judges.judging import Judging, find_judges
from vdu.metrics.feature_networks import FeatureNetwork, find_feature_network
from vdu.metrics.features import Predictions, classify
from vdu.models.denoiser import PipelineDenoiser

__all__ = ["CACHE_FILE", "Curve", "Point", "has_curve", "known_curve", "measure_checkpoints", "seconds_per_checkpoint"]

CACHE_FILE = "checkpoints.json"
FEWEST_POINTS = 4


@dataclass(frozen=True)
class Point:
    """The numbers of one model on the curve.

    Attributes:
        pul: {"value", "low", "high", "n_original", "n_unlearned"}, in percent; None for the original, which has 0 by definition.
        u_fid: {"value", "low", "high"}.
    """

    pul: Mapping[str, float] | None
    u_fid: Mapping[str, float]

    @property
    def gone(self) -> float:
        """PUL in percent; 0 for the original."""
        return self.pul["value"] if self.pul else 0.0


@dataclass(frozen=True)
class Curve:
    """What is known of a run's trade-off.

    Attributes:
        checkpoints: all of the run.
        points: the known ones, by the checkpoint's name.
        goal: u-FID of the filtered original, {"value", "low", "high"}.
        features: the feature network of the distances.
        compared: the images that the distances are of, in words.
    """

    checkpoints: tuple[Checkpoint, ...]
    points: Mapping[str, Point]
    goal: Mapping[str, float]
    features: str
    compared: str = "all images"

    @property
    def missing(self) -> list[Checkpoint]:
        """The checkpoints that are not measured yet."""
        return [each for each in self.checkpoints if each.name not in self.points]


@dataclass(frozen=True, eq=False)
class _Bench:
    """What a checkpoint's measurement needs: judges, features of the reference, and the judge's predictions for the original."""

    judging: Judging
    network: FeatureNetwork
    reference: Tensor
    before: Predictions
    seed: int


def has_curve(run: OpenRun) -> bool:
    """Whether the run has at least four points, and its evaluation the numbers of the two ends."""
    rows = [run.data.row(name) for name in ("original", "unlearned", "filtered_original")]
    return len(run.checkpoints) >= FEWEST_POINTS and all(row is not None and row.get("u_fid") for row in rows)


def known_curve(run: OpenRun) -> Curve:
    """The trade-off as far as it is known, without any measurement.

    Args:
        run: the run.

    Returns:
        The two ends from ``metrics.json``, and the cached checkpoints. A damaged cache is refused with an ``InputError``.
    """
    rows = {row["name"]: row for row in run.data.metrics["rows"]}
    points = {
        "original": Point(None, rows["original"]["u_fid"]),
        "final": Point(rows["unlearned"]["pul"], rows["unlearned"]["u_fid"]),
    }
    cached = _cached(run)
    points |= {each.name: Point(**cached[each.key]) for each in run.checkpoints if each.key in cached}
    goal, features = rows["filtered_original"]["u_fid"], run.data.metrics["feature_network"]
    compared = Curve.compared if run.data.concept is None else "all images under prompts to keep"
    return Curve(run.checkpoints, points, goal, features, compared)


def seconds_per_checkpoint(run: OpenRun) -> float | None:
    """The time that a checkpoint's measurement will take here, from that of the run's evaluation; None if it is not recorded."""
    stages = {stage["stage"]: stage for stage in run.data.metrics["cost"]}
    seconds, evaluations = (stages.get("evaluate", {}).get(name) for name in ("seconds", "network_evaluations"))
    if not seconds or not evaluations:
        return None
    return seconds * len(run.data.original.seeds) * run.sampler.evaluations(run.original) / evaluations


def measure_checkpoints(run: OpenRun) -> Generator[Curve, None, None]:
    """Measure the checkpoints that are missing, one by one, and cache each at once.

    Args:
        run: the run.

    Yields:
        The curve after each.
    """
    curve = known_curve(run)
    bench = _bench(run) if curve.missing else None
    for checkpoint in curve.missing:
        assert bench is not None
        curve = replace(curve, points={**curve.points, checkpoint.name: _measured(run, bench, checkpoint)})
        _keep(run, curve)
        yield curve


def _bench(run: OpenRun) -> _Bench:
    settings, shape, images = run.settings, run.original.image_shape, _images(run)
    asks = _asks(run)
    stored, original = images if asks is None else images.select(~asks), _kept(run)
    classes = list(settings.forget_class) or run.data.run["inputs"]["forget"]["classes"]
    try:
        forget = reload_forget(run.folder, shape)
    except InputError:  # a given judge does not use the forget set, which may have been deleted
        if settings.judge is None:
            raise
        forget = stored.select(range(0))
    judging, _ = find_judges(_shown(run), forget, classes, run.sampler, **settings.judges())
    _require_same_judge(run, judging)
    network = find_feature_network(settings.features, judging=judging)
    seed, n = derive_seed(settings.seed, "evaluate"), len(stored)
    loaded = load_reference(settings.reference, settings.reference_split, forget.shape)
    earlier = others_of(forgotten_before(run.data.run["inputs"]["model"]), classes)
    real = without_known_labels(unshared_reference(loaded, forget), earlier)
    if real is not None:
        reference = reference_images(real, judging, classes)
        _require_same_reference(run, reference)
    else:
        others = filtered_original(original, stored, judging, 2 * n, run.sampler, seed)
        reference = others.select(range(n, len(others)))
    counted = images if asks is None else images.select(asks)
    return _Bench(judging, network, network.extract(reference), classify(judging.judge, counted), seed)


def _asks(run: OpenRun) -> Tensor | None:
    """Which stored pairs were drawn under prompts that ask for the concept, in which PUL counts it; None without prompts."""
    found = run.data.asks_for_it
    return None if found is None else torch.from_numpy(found)


def _kept(run: OpenRun) -> PipelineDenoiser:
    """The original under the prompts to keep; itself without prompts."""
    if run.data.concept is None or run.data.words is None:
        return run.original
    return asking(run.original, next(each["prompts"] for each in run.data.words["sets"] if each["name"] == "others"))


def _shown(run: OpenRun) -> PipelineDenoiser:
    """The original as a fallback classifier saw it: under the prompts to keep and to forget; itself without prompts."""
    if "weights_sha256" not in run.data.metrics["judge"]:  # of an earlier version, which drew under the former alone
        return _kept(run)
    if run.data.concept is None or run.data.words is None:
        return run.original
    drawn = {each["name"]: each["prompts"] for each in run.data.words["sets"]}
    return asking(run.original, (*drawn["others"], *drawn["target"]))


def _require_same_reference(run: OpenRun, reference: ImageSet) -> None:
    known, got = run.data.metrics["reference"].get("sha256"), ImageSet(reference.images).sha256
    if known is not None and known != got:
        raise InputError(
            f"reference: {reference.description} has the content {got[:12]}…, and the numbers in metrics.json come from {known[:12]}…: "
            "images were added, removed or changed, or were left out as copies of held-out ones. Put them back, or evaluate again "
            "with a reference that shares no images with the held-out ones."
        )


def _require_same_judge(run: OpenRun, judging: Judging) -> None:
    said = run.data.metrics["judge"]
    second = judging.as_second() if judging.second is not None else None
    for mine, theirs in ((judging, said), (second, said["second"])):
        known = (theirs or {}).get("weights_sha256")
        if mine is not None and known is not None and mine.weights_sha256 != known:
            raise InputError(
                f"judge: {mine.name} has other weights than in the evaluation ({mine.weights_sha256[:12]}…; expected {known[:12]}…). Put "
                "that judge back, or run `vdu evaluate` again."
            )
    got = (judging.name, float(judging.record["held_out_error"]))
    if got != (said["name"], said["held_out_error"]):
        raise InputError(
            f"judge: got {got[0]} with a held-out error of {got[1]:.4f}; the numbers in metrics.json come from {said['name']} with "
            f"{said['held_out_error']:.4f}. Put that judge back, or run `vdu evaluate` again."
        )


def _measured(run: OpenRun, bench: _Bench, checkpoint: Checkpoint) -> Point:
    """PUL and u-FID of a checkpoint, of images that are drawn a micro-batch at a time and kept as uint8 only."""
    denoiser, size = run.denoiser_at(checkpoint), run.sampler.microbatch_size
    seeds, asks = run.data.original.seeds.tolist(), _asks(run)
    asked = None if asks is None else [run.data.asked(i) for i in range(len(seeds))]
    drawn = [
        to_uint8(
            sample(denoiser, seeds[start : start + size], run.sampler, labels=asked and asked[start : start + size])
        )
        for start in range(0, len(seeds), size)
    ]
    images = ImageSet(torch.cat(drawn), description=checkpoint.name)
    counted, kept = (images, images) if asks is None else (images.select(asks), images.select(~asks))
    pul = paired_pul(bench.before, classify(bench.judging.judge, counted), bench.judging, bench.seed)
    # the name of the final model, since it seeds the resamples
    found = distances("unlearned", bench.reference, bench.network.extract(kept), bench.seed)
    return Point(pul.counted(), found.u_fid.to_json())


def _images(run: OpenRun) -> ImageSet:
    return ImageSet(torch.from_numpy(run.data.original.images).permute(0, 3, 1, 2).contiguous())


def _evaluation(run: OpenRun) -> str:
    """Identifies the evaluation: any other one makes the cache void."""
    metrics, samples = run.data.metrics, run.data.original
    about = {name: metrics[name] for name in ("protocol", "judge", "reference", "feature_network")}
    about["samples"] = sha256_bytes(samples.seeds.tobytes() + samples.images.tobytes())
    return sha256_bytes(json.dumps(about, sort_keys=True).encode())


def _cached(run: OpenRun) -> dict[str, Any]:
    path = run.folder / CACHE_FILE
    if not path.is_file():
        return {}
    held = read_json(path)
    points = held.get("points") if isinstance(held, dict) and held.get("format_version") == FORMAT_VERSION else None
    if not isinstance(points, dict) or not all(map(_is_point, points.values())):
        raise InputError(f"{path}: not a cache of format {FORMAT_VERSION}. Delete it; its numbers are measured again.")
    return points if held.get("evaluation") == _evaluation(run) else {}


def _is_point(point: Any) -> bool:
    return (
        isinstance(point, dict)
        and point.keys() == {"pul", "u_fid"}
        and all(isinstance(each, dict) and {"value", "low", "high"} <= each.keys() for each in point.values())
    )


def _keep(run: OpenRun, curve: Curve) -> None:
    path = run.folder / CACHE_FILE
    points = {
        each.key: {"pul": curve.points[each.name].pul, "u_fid": curve.points[each.name].u_fid}
        for each in curve.checkpoints
        if each.folder is not None and each.name in curve.points
    }
    try:
        write_json(path, {"format_version": FORMAT_VERSION, "evaluation": _evaluation(run), "points": points})
    except OSError as error:
        say(f"vdu: {path}: cannot be written ({error}); the checkpoints' numbers are not cached.")
