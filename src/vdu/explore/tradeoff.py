"""The trade-off curve along a run's checkpoints: forgetting (PUL) against damage (u-FID), step by step.

For the original, each checkpoint and the final model, N images from the first N noises of the evaluation, its sampler
and its judge:

    PUL      against the original's images from the same noises
    u-FID    on the judge's features, against the evaluation's reference; without one, against the original's
             stored samples without those that the filter predicts as forget, beyond the first N of these
    floor    the same distance of the filtered original: N of the original's samples without the forget class

The original and the final model are not sampled again: the first N of their stored samples are used. Measurements are
cached in the run's ``explore.json``, under the protocol and the SHA-256 of the weights.

Not guaranteed: values near those of ``metrics.json``. A Fréchet distance of so few images is too large by an amount that
depends on N; compare the points with each other and with the floor only.
"""

import json
import sys
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vdu.core.errors import InputError
from vdu.core.records import FORMAT_VERSION, read_json, sha256_bytes, write_json
from vdu.core.rng import derive_seed
from vdu.data.forget_source import reload_forget
from vdu.data.images import ImageSet, to_uint8
from vdu.diffusion.sampling import sample
from vdu.evaluation.compare import distances, paired_pul
from vdu.evaluation.records import Interval
from vdu.evaluation.references import reference_images, without_forget
from vdu.explore.open_run import OpenRun, Stop
from vdu.judges.judging import Judging, find_judges
from vdu.metrics.features import Predictions, classify, extract_features
from vdu.report.files import Samples

__all__ = ["CACHE_FILE", "Front", "Point", "cached_front", "front", "measure_front"]

CACHE_FILE = "explore.json"
FLOOR = "filtered original"


@dataclass(frozen=True)
class Point:
    """One model on the trade-off curve.

    Attributes:
        stop: where in the run.
        pul: {"value", "low", "high", "n_original", "n_unlearned"}, in percent; of the original 0 by definition.
        u_fid: {"value", "low", "high"}.
    """

    stop: Stop
    pul: dict[str, float]
    u_fid: dict[str, float]


@dataclass(frozen=True)
class Front:
    """The measured part of a run's trade-off curve.

    Attributes:
        stops: all of the run.
        points: the measured ones, by the stop's name.
        floor: u-FID of the filtered original, {"value", "low", "high"}; None until it is measured.
        protocol: the settings on which the numbers depend, besides the weights.
        trouble: the reason why the numbers could not be cached, or "".
    """

    stops: tuple[Stop, ...]
    points: Mapping[str, Point]
    floor: dict[str, float] | None
    protocol: Mapping[str, Any]
    trouble: str = ""

    @property
    def missing(self) -> list[Stop]:
        """The stops that are not measured yet."""
        return [stop for stop in self.stops if stop.name not in self.points]

    @property
    def complete(self) -> bool:
        """Whether every stop and the floor are measured."""
        return not self.missing and self.floor is not None


@dataclass(frozen=True, eq=False)
class _Bench:
    """The inputs of a point's measurement: the judges, the reference's features, the stored images and the original's predictions."""

    judging: Judging
    reference: Tensor
    predictions: Predictions
    before: ImageSet
    after: ImageSet
    filtered: ImageSet
    seeds: list[int] = field(repr=False)
    seed: int = 0


def front(run: OpenRun, n_images: int = 100) -> Front:
    """The whole trade-off curve; points that are not cached are measured.

    Args:
        run: the run.
        n_images: N, of each model.

    Returns:
        The front.
    """
    *_, last = measure_front(run, n_images)
    return last


def cached_front(run: OpenRun, n_images: int = 100) -> Front:
    """The cached part of the trade-off curve, without any measurement.

    Args:
        run: the run.
        n_images: N, of each model.

    Returns:
        The front, which may have no points.
    """
    protocol = _protocol(run, n_images)
    entry = _read(run.folder / CACHE_FILE).get(_key(protocol), {})
    kept = entry.get("points", {})
    points = {
        stop.name: Point(stop, kept[stop.key]["pul"], kept[stop.key]["u_fid"]) for stop in run.stops if stop.key in kept
    }
    return Front(run.stops, points, entry.get("floor"), protocol)


def measure_front(run: OpenRun, n_images: int = 100) -> Generator[Front, None, None]:
    """Measure the missing points, one by one, and cache each immediately.

    Args:
        run: the run.
        n_images: N, of each model; at most as many as there are stored samples.

    Yields:
        The front so far; first as it is in the cache, last complete.
    """
    known = cached_front(run, n_images)
    yield known
    if known.complete:
        return
    bench = _bench(run, n_images)
    if known.floor is None:
        floor = _u_fid(bench, FLOOR, bench.filtered).to_json()
        known = _keep(run, Front(known.stops, known.points, floor, known.protocol))
    for stop in known.missing:
        point = _point(run, bench, stop)
        known = _keep(run, Front(known.stops, {**known.points, stop.name: point}, known.floor, known.protocol))
        yield known


def _protocol(run: OpenRun, n_images: int) -> dict[str, Any]:
    metrics, settings = run.data.metrics, run.settings
    stored = len(run.data.original.images)
    if not 2 <= n_images <= stored:
        raise InputError(
            f"--n-images: got {n_images}; expected 2 to {stored}, as many as the run has stored samples. Give fewer, or evaluate "
            f"with more: `vdu evaluate {run.folder} --n-images {n_images}`."
        )
    # of a run with a real reference the first N samples decide, so that runs of other sizes stay comparable
    used = run.data.original if settings.reference is None else _first(run.data.original, n_images)
    judge = {name: metrics["judge"][name] for name in ("name", "architecture", "source", "held_out_error")}
    return {
        "n_images": n_images,
        "sampler": run.sampler.describe(),
        "seed": settings.seed,
        "judge": judge,
        "second_judge": settings.second_judge,
        "forget_classes": run.forget_names,
        "feature_network": f"judge:{metrics['judge']['name']}",
        "reference": metrics["reference"]["description"] if settings.reference else "filtered original",
        "original_sha256": metrics["protocol"]["original_sha256"],
        "samples_sha256": sha256_bytes(used.seeds.tobytes() + used.images.tobytes()),
    }


def _bench(run: OpenRun, n_images: int) -> _Bench:
    settings, shape = run.settings, run.original.image_shape
    classes = list(settings.forget_class) or run.data.run["inputs"]["forget"]["classes"]
    stored = _images(run.data.original)
    # a given judge does not use the forget set, which may have been deleted
    forget = reload_forget(run.folder, shape) if settings.judge is None else stored.select(range(0))
    judging, _ = find_judges(run.original, forget, classes, run.sampler, **settings.judges())
    _require_same_judge(run, judging)
    kept = without_forget(stored, judging)
    reference = reference_images(settings.reference, settings.reference_split, judging, classes, shape)
    needed = n_images if reference is not None else 2 * n_images
    if len(kept) < needed:
        raise InputError(
            f"{run.folder}: of {len(stored)} stored samples of the original {len(kept)} are not of the forget class; expected at "
            f"least {needed} for {n_images} images per model. Give fewer (--n-images), or evaluate with more."
        )
    against = reference if reference is not None else kept.select(range(n_images, len(kept)))
    before = stored.select(range(n_images))
    return _Bench(
        judging=judging,
        reference=extract_features(judging.judge.features, against),
        predictions=classify(judging.judge, before),
        before=before,
        after=_images(run.data.unlearned).select(range(n_images)),
        filtered=kept.select(range(n_images)),
        seeds=[int(seed) for seed in run.data.original.seeds[:n_images]],
        seed=derive_seed(settings.seed, "explore"),
    )


def _require_same_judge(run: OpenRun, judging: Judging) -> None:
    said = run.data.metrics["judge"]
    got = (judging.name, float(judging.record["held_out_error"]))
    if got != (said["name"], said["held_out_error"]):
        raise InputError(
            f"judge: got {got[0]} with a held-out error of {got[1]:.4f}; the numbers in metrics.json come from {said['name']} with "
            f"{said['held_out_error']:.4f}. Put that judge back, or run `vdu evaluate` again."
        )


def _point(run: OpenRun, bench: _Bench, stop: Stop) -> Point:
    if stop.name == "original":
        images = bench.before
    elif stop.name == "final":
        images = bench.after
    else:
        images = _drawn(run, bench, stop)
    after = classify(bench.judging.judge, images)
    pul = paired_pul(bench.predictions, after, bench.judging, bench.seed)
    return Point(stop, pul.counted(), _u_fid(bench, stop.name, images).to_json())


def _drawn(run: OpenRun, bench: _Bench, stop: Stop) -> ImageSet:
    """The images of a checkpoint, a micro-batch at a time: all of them exist as uint8 only."""
    denoiser, size = run.denoiser_at(stop), run.sampler.microbatch_size
    pieces = (bench.seeds[start : start + size] for start in range(0, len(bench.seeds), size))
    return ImageSet(
        torch.cat([to_uint8(sample(denoiser, piece, run.sampler)) for piece in pieces]), description=stop.name
    )


def _u_fid(bench: _Bench, name: str, images: ImageSet) -> Interval:
    features = extract_features(bench.judging.judge.features, images)
    return distances(name, bench.reference, features, bench.seed).u_fid


def _first(samples: Samples, n: int) -> Samples:
    return Samples(*(getattr(samples, item.name)[:n] for item in fields(samples)))


def _images(samples: Samples) -> ImageSet:
    return ImageSet(torch.from_numpy(samples.images).permute(0, 3, 1, 2).contiguous())


def _key(protocol: Mapping[str, Any]) -> str:
    return sha256_bytes(json.dumps(protocol, sort_keys=True).encode())


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    held = read_json(path)
    fronts = held.get("fronts") if isinstance(held, dict) and held.get("format_version") == FORMAT_VERSION else None
    sound = isinstance(fronts, dict) and all(
        isinstance(entry, dict) and all(_is_point(point) for point in entry.get("points", {}).values())
        for entry in fronts.values()
    )
    if not sound:
        raise InputError(f"{path}: not a cache of format {FORMAT_VERSION}. Delete it; its numbers are measured again.")
    assert fronts is not None
    return fronts


def _is_point(point: Any) -> bool:
    return isinstance(point, dict) and all(
        isinstance(point.get(name), dict) and {"value", "low", "high"} <= set(point[name]) for name in ("pul", "u_fid")
    )


def _keep(run: OpenRun, known: Front) -> Front:
    path = run.folder / CACHE_FILE
    points = {
        point.stop.key: {"stop": name, "pul": point.pul, "u_fid": point.u_fid} for name, point in known.points.items()
    }
    entry = {"protocol": known.protocol, "floor": known.floor, "points": points}
    try:
        write_json(path, {"format_version": FORMAT_VERSION, "fronts": {**_read(path), _key(known.protocol): entry}})
    except OSError as error:
        trouble = f"{path}: cannot be written ({error}); these numbers are not cached."
        print(f"vdu: {trouble}", file=sys.stderr)
        return Front(known.stops, known.points, known.floor, known.protocol, trouble)
    return known
