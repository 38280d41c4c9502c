"""The tasks behind the cells of the paper's tables: training, posteriors, samples, runs of methods, and their measurement.

A task receives the results of the cells it needs (``done``: name → result) and a path without suffix for its own files, and
returns plain values. :mod:`vdu.paper.plan` defines the cells and their dependencies.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from vdu.commands import judge as judge_recipe
from vdu.commands import pretrain
from vdu.commands.judge import JudgeSettings
from vdu.commands.pretrain import PretrainSettings
from vdu.commands.unlearn import make_method
from vdu.core.errors import DivergenceError, InputError
from vdu.core.records import atomic_file, atomic_folder, read_json, sha256_file
from vdu.core.rng import derive_seed, generator
from vdu.data.forget import split_by_class
from vdu.data.images import ImageSet
from vdu.data.sources import load_images
from vdu.diffusion.sampling import Sampler
from vdu.evaluation.compare import compare, count_changed, distances, fidelity, judge_record, paired_pul, predict
from vdu.evaluation.models import OpenModel
from vdu.evaluation.references import split_at_random, without_forget
from vdu.judges.judging import Judging, find_judges
from vdu.metrics.features import classify, extract_features
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.identity import configuration_sha256, weights_sha256
from vdu.models.pipelines import hashes_of, load_pipeline, network_of
from vdu.models.saving import save_pipeline
from vdu.paper.coarse import trained_coarsely
from vdu.paper.row_options import PASSED, unlearn_settings
from vdu.paper.tables import Row, World, training_evaluations
from vdu.posterior.calibrate import mean_is_usable
from vdu.posterior.ensemble import fit_ensemble
from vdu.posterior.gaussian import GaussianPosterior
from vdu.posterior.isotropic import fit_isotropic
from vdu.replay.generated import generate_samples, image_seeds
from vdu.replay.selection import select_samples
from vdu.training.accelerator import make_accelerator
from vdu.training.checkpoint import latest_checkpoint, load_weights
from vdu.unlearning.fit_posterior import fit_posterior
from vdu.unlearning.unlearn import UnlearnResult, unlearn
from vdu.zoo.packaged import PREFIX, pipeline_folder

__all__ = ["OWN_SEED", "Making", "Needs"]

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
OWN_SEED = derive_seed(0, "own")  # of the original's samples for methods and posteriors
SHOWN = 256  # images of a row that are stored for the figures
Needs = Mapping[str, Any]


@dataclass(frozen=True)
class Making:
    """The tasks of one data set's cells at one scale.

    Args:
        folder: the store's folder.
        world: models, samplers and judges.
        data: the source of the training data.
        sizes: every number of images drawn from a model, ascending.
        sampler: the sampling protocol.
        leaderboard: rows select retained samples by resemblance, and precision and recall are measured, too.
    """

    folder: Path
    world: World
    data: str
    sizes: tuple[int, ...]
    sampler: Sampler
    leaderboard: bool
    _features: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def given(self, done: Needs, stem: Path) -> dict[str, Any]:
        """A packaged or given pipeline: where it is, and its hashes."""
        where = self.world.original
        where = where if where.startswith(PREFIX) else str(Path(where).absolute())
        return {"pipeline": where, **hashes_of(self._open(where))}

    def model(self, spec: Mapping[str, Any], done: Needs, stem: Path) -> dict[str, Any]:
        """Training, or fine-tuning of the model in ``done``."""
        options: dict[str, Any] = {
            name: value for name, value in spec.items() if name not in {"data", "network", "weights"}
        }
        options["without"] = tuple(spec.get("without", ()))
        coarse = options.pop("coarse", None)  # size and steps of a first part on reduced images
        if "start" in done:
            self._model(done["start"])
            options["from_pipeline"] = self._path(done["start"]["pipeline"])
        else:
            options["model"] = spec["network"]
        settings = PretrainSettings(data=self.data, output_dir=stem, resume_from_checkpoint="latest", **options)
        if coarse:
            start = trained_coarsely(settings, stem.with_name(f"{stem.name}-coarse"), **coarse)
            settings = replace(settings, model="small", from_pipeline=start)
        pretrain.run(settings)
        kind = spec.get("weights", "pipeline")  # or raw, bf16 or raw-bf16
        if kind != "pipeline":
            _save_other(stem, kind)
        found = {"pipeline": stem / kind, **({"average": stem / "pipeline"} if kind.startswith("raw") else {})}
        return {
            **{name: str(path.relative_to(self.folder)) for name, path in found.items()},
            **hashes_of(load_pipeline(stem / kind)),
            "files": {f"{stem.name}/{kind}/{WEIGHTS}": sha256_file(stem / kind / WEIGHTS)},  # rows need no average
            "network_evaluations": training_evaluations({**vars(settings), "coarse": coarse or {}}),
            # of all parts of a training that was interrupted; nobody records those of a first part on reduced images
            **(
                {}
                if coarse
                else {"training_seconds": sum(stage["seconds"] for stage in read_json(stem / "run.json")["stages"])}
            ),
        }

    def posterior(self, kind: str, done: Needs, stem: Path) -> dict[str, Any]:
        """A posterior's file."""
        pipeline = self._model(done["original"])
        samples = load_file(self._path(done["own"]["images"]))["images"] if "own" in done else None
        images = ImageSet(samples).floats() if samples is not None else None
        posterior, notes = self._fit(kind, pipeline, images, done)
        path = stem.with_name(stem.name + ".safetensors")
        posterior.save(path)
        relative = str(path.relative_to(self.folder))
        return {"posterior": relative, "files": {path.name: sha256_file(path)}, **posterior.extras, **notes}

    def _fit(
        self, kind: str, pipeline: Any, images: Tensor | None, done: Needs
    ) -> tuple[GaussianPosterior, dict[str, float]]:
        parameters = dict(network_of(pipeline).named_parameters())
        members = [value for name, value in done.items() if name.startswith("member-")]
        if kind in {"fisher", "amnesia-fisher"}:
            assert images is not None
            options: dict[str, Any] = {"n_train": self.world.n_train}
            if kind == "amnesia-fisher":
                options = {"timesteps_per_sample": self.world.timesteps_per_sample}
            some = images[: self.world.n_fisher_samples]
            labels = PipelineDenoiser.from_pipeline(pipeline).labels_of(image_seeds(OWN_SEED, len(some)))
            return fit_posterior(
                pipeline, kind, samples=some, labels=labels, generator=generator(0, kind), **options
            ), {}
        assert members, f"no estimator makes {kind}"
        ensemble = fit_ensemble(dict(network_of(self._model(each)).named_parameters()) for each in members)
        if kind == "isotropic":  # with the same mean variance, so that γ has the same weight
            total = sum(float(value.double().sum()) for value in ensemble.variance.values())
            return fit_isotropic(parameters, total / sum(value.numel() for value in parameters.values())), {}
        assert images is not None
        denoiser = PipelineDenoiser.from_pipeline(pipeline)
        ratio, _ = mean_is_usable(denoiser, ensemble, images[:200], generator=generator(0, "mean"))
        notes = {"mean_loss_ratio": min(ratio, 1e30)}
        return (ensemble.with_mean(parameters) if kind == "ensemble-recentred" else ensemble), notes

    def samples(self, spec: Mapping[str, Any], done: Needs, stem: Path) -> dict[str, Any]:
        """Generated samples of the model in ``done``."""
        denoiser = _on_device(PipelineDenoiser.from_pipeline(self._model(done["model"])))
        images = generate_samples(denoiser, spec["n"], self.sampler, seed=spec["seed"])
        path = stem.with_name(stem.name + ".safetensors")
        _save_images(path, images.images)
        evaluations = len(images) * self.sampler.steps
        relative = str(path.relative_to(self.folder))
        return {"images": relative, "files": {path.name: sha256_file(path)}, "network_evaluations": evaluations}

    def replay(self, forget: str, done: Needs, stem: Path) -> dict[str, Any]:
        """Generated samples that are unlike the class."""
        own, original = self._images(done["own"]), PipelineDenoiser.from_pipeline(self._model(done["model"]))
        zones = select_samples(
            self.forget_set(forget), own, original.schedule, seed=derive_seed(0, "replay"), force=True
        )
        kept = own.select(zones.kept)
        path = stem.with_name(stem.name + ".safetensors")
        _save_images(path, kept.images)
        return {
            "images": str(path.relative_to(self.folder)),
            "files": {path.name: sha256_file(path)},
            "n_kept": len(kept),
            "n_own": len(own),
            "share": zones.share,
        }

    def reference(self, forget: str, done: Needs, stem: Path) -> dict[str, Any]:
        """Distances of real images and of the original's samples, at every number of images."""
        judging, drawn = self.judging(forget, done), self._images(done["samples"])
        is_forget = judging.finds_forget(drawn)
        kept = without_forget(drawn, judging)
        count = int(is_forget[: self.sizes[0]].sum())
        if count < self.world.min_original:
            raise InputError(
                f"original: {judging.name} calls only {count} of {self.sizes[0]} samples {forget}; expected at least "
                f"{self.world.min_original}, since PUL is relative to them. Draw more images, or use a model that generates the class."
            )
        largest = self.sizes[-1]
        if len(kept) < largest:
            raise InputError(
                f"filtered original: {len(kept)} of {len(drawn)} samples remain; expected at least {largest}."
            )
        real = self._real_features(forget, judging)
        features = {
            "original": self._features_of(drawn.select(range(largest)), judging),
            "filtered-original": self._features_of(kept.select(range(largest)), judging),
        }
        result: dict[str, Any] = {"judge": judge_record(judging, count, self.sizes[0]).to_json(), "at": {}}
        for n in self.sizes:
            half, rest = split_at_random(real, n, 0)
            pairs = {"real-split": (rest, half)} | {name: (real, each[:n]) for name, each in features.items()}
            result["at"][str(n)] = {
                name: {
                    **distances(name, against, each, self.evaluation_seed).to_json(),
                    "n_images": len(each),
                    **(fidelity(against, each).to_json() if self.leaderboard else {}),
                }
                for name, (against, each) in pairs.items()
            } | {"n_original": int(is_forget[:n].sum())}
        return result

    def row(self, row: Row, spec: Mapping[str, Any], done: Needs, stem: Path) -> dict[str, Any]:
        """A method's run and its measurements."""
        began = time.monotonic()
        pipeline, made = self._unlearned(row, spec, done)
        seconds = time.monotonic() - began
        last = made.training.last
        about = {
            "steps": made.training.steps, "network_evaluations": made.network_evaluations,
            "terms": last.get("terms", {}), "observed": last.get("observed", {}), "unlearn_seconds": round(seconds, 1),
        }  # fmt: skip
        if self.leaderboard:
            about |= {
                "ending": made.ending if made.stopping else None,
                "aids": _lasting(made.aids.record if made.aids else {}),
            }
            about["posterior_evaluations"] = self._posterior_evaluations(row.posterior, done)
        return about | self._measured(pipeline, spec["forget"], spec["sizes"], done, stem)

    def _unlearned(self, row: Row, spec: Mapping[str, Any], done: Needs) -> tuple[Any, UnlearnResult]:
        forget, pipeline = self.forget_set(spec["forget"]), self._model(done["original"])
        options = dict(row.options)
        if row.epochs is not None:  # an epoch of the paper: every forget image once, the last batch may be short
            options["steps"] = math.ceil(row.epochs * len(forget) / options["batch_size"])
        retain = self._images(done["replay"]) if "replay" in done else None
        if options.get("retain") == "data":  # real images of the other classes
            retain = split_by_class(self.images("train"), [spec["forget"]])[1]
        settings = unlearn_settings(options)
        if "posterior" in done:
            settings = replace(settings, posterior=self._path(done["posterior"]["posterior"]))
        if self.world.max_steps is not None and settings.steps is not None:
            settings = replace(settings, steps=min(settings.steps, self.world.max_steps))
        made = unlearn(
            pipeline, make_method(settings), forget=forget, retain=retain, sampler=self.sampler,
            generator=generator(spec.get("seed", 0), "unlearn"), **{name: getattr(settings, name) for name in PASSED},
        )  # fmt: skip
        return made.pipeline, made

    def _posterior_evaluations(self, kind: str | None, done: Needs) -> int:
        """The cost of the posterior: its estimation, its generated samples, and the members of an ensemble besides the original."""
        if kind is None:
            return 0
        if kind.startswith("ensemble") or kind == "isotropic":  # whose variance is the ensemble's
            options, n = self.world.finetune, self.world.members
            if self.world.ensemble == "independent" or kind == "ensemble-independent":
                options = {**self.world.pretrain, **(self.world.independent if kind == "ensemble-independent" else {})}
                n -= kind != "ensemble-independent"  # whose member 0 is the original
            return n * training_evaluations(options)
        drawn = self.world.n_fisher_samples * self.sampler.steps
        return drawn + int(done["posterior"].get("network_evaluations", 0))

    def model_row(self, forget: str, which: str, done: Needs, stem: Path) -> dict[str, Any]:
        """The "pipeline" or the "average" of the model in ``done``, measured.

        Returns:
            The counts and distances at every number of images.

        Raises:
            InputError: if the average was not kept.
        """
        if not self._path(done["model"][which]).exists():
            raise InputError(
                f"{done['model'][which]}: the {which} of the original's weights is not there, and this row measures it. Remove the "
                "original's JSON file beside it to train the original again, or leave the class out of `average`."
            )
        model = self._model(done["model"]) if which == "pipeline" else self._open(done["model"][which])
        return self._measured(model, forget, self.sizes, done, stem)

    def _measured(self, pipeline: Any, forget: str, sizes: tuple[int, ...], done: Needs, stem: Path) -> dict[str, Any]:
        """Samples of a model from the original's noise, judged and compared, at every number of images."""
        judging, before = self.judging(forget, done), self._images(done["samples"]).select(range(sizes[-1]))
        denoiser = _on_device(PipelineDenoiser.from_pipeline(pipeline))
        after = generate_samples(denoiser, sizes[-1], self.sampler, seed=self.evaluation_seed, progress="samples")
        was, now = predict(judging, before), predict(judging, after)
        if bool(judging.is_forget(now.judge.classes[: sizes[0]]).all()):
            raise DivergenceError(f"all {sizes[0]} images are called {forget}: there is no rest to compare.")
        real, features = self._real_features(forget, judging), self._features_of(after, judging)
        at = {
            str(n): compare(
                was.first(n), now.first(n), features[:n], real, judging, self.evaluation_seed, with_fidelity=self.leaderboard
            ).to_json() | {"changed": count_changed(was.first(n).judge, now.first(n).judge, judging)}
            for n in sizes
        }  # fmt: skip
        path = stem.with_name(stem.name + ".safetensors")
        _save_images(path, after.images[:SHOWN])
        files = {path.name: sha256_file(path)}
        return {"status": "measured", "at": at, "images": str(path.relative_to(self.folder)), "files": files}

    def check(self, row: Row, spec: Mapping[str, Any], done: Needs, stem: Path) -> dict[str, Any]:
        """PUL and u-FID by few and by many sampling steps."""
        assert self.world.check is not None
        n, many = self.world.check["n_images"], self.world.check["inference_steps"]
        unlearned, _ = self._unlearned(row, spec, done)
        judging = self.judging(spec["forget"], done)
        real = self._real_features(spec["forget"], judging)
        result: dict[str, Any] = {"n_images": n}
        for steps in (self.sampler.steps, many):
            sampler, seed = replace(self.sampler, steps=steps), derive_seed(self.evaluation_seed, "check")
            models = {"original": self._model(done["original"]), "unlearned": unlearned}
            made = {
                name: generate_samples(_on_device(PipelineDenoiser.from_pipeline(each)), n, sampler, seed=seed)
                for name, each in models.items()
            }
            was, now = (classify(judging.judge, made[name]) for name in ("original", "unlearned"))
            found = {
                name: distances(name, real, self._features_of(images, judging), seed) for name, images in made.items()
            }
            result[str(steps)] = {
                "pul": paired_pul(was, now, judging, seed).to_json(),
                "u_fid": {name: each.u_fid.to_json() for name, each in found.items()},
            }
        return result

    def judge(self, kind: Any, done: Needs, stem: Path) -> dict[str, Any]:
        """A classifier, trained."""
        judge_recipe.run(
            JudgeSettings(data=self.data, output_dir=stem, architecture=kind, resume_from_checkpoint="latest")
        )
        weights = "judge/model.safetensors"
        files = {f"{stem.name}/{weights}": sha256_file(stem / weights)}
        return {"judge": str((stem / "judge").relative_to(self.folder)), "files": files}

    # Their inputs

    def images(self, split: str) -> ImageSet:
        """Real images, "train" or "test"."""
        return _data(self.data, split)

    @property
    def evaluation_seed(self) -> int:
        """Seed of the noise on which every model is judged."""
        return derive_seed(0, "evaluate")

    def forget_set(self, forget: str) -> ImageSet:
        """The images to forget: the class in the training data."""
        return split_by_class(self.images("train"), [forget])[0]

    def _real_features(self, forget: str, judging: Judging) -> Tensor:
        if forget not in self._features:
            real = split_by_class(self.images("test"), [forget])[1]  # held out; removed by label
            self._features[forget] = self._features_of(real, judging)
        return self._features[forget]

    def _features_of(self, images: ImageSet, judging: Judging) -> Tensor:
        return extract_features(judging.judge.features, images)

    def judging(self, forget: str, done: Needs) -> Judging:
        """The two judges, for a class."""
        given = {
            name: str(self._path(done[name]["judge"])) if name in done else getattr(self.world, name)
            for name in ("judge", "second_judge")
        }
        denoiser = PipelineDenoiser.from_pipeline(self._model(done["original"]))
        return find_judges(
            denoiser,
            self.forget_set(forget),
            [forget],
            self.sampler,
            judge=given["judge"],
            second_judge=given["second_judge"],
        )[0]

    def _path(self, where: str) -> Path:
        return pipeline_folder(where) if where.startswith(PREFIX) else self.folder / where

    def _open(self, where: str) -> Any:
        return _pipeline(self._path(where))

    def _model(self, result: Mapping[str, Any]) -> Any:
        """The pipeline of a finished cell, refused if it has changed since: cells of two models must not be mixed."""
        pipeline = self._open(result["pipeline"])
        if not _opened(pipeline).is_recorded(result):
            raise InputError(
                f"{result['pipeline']}: has other weights, options or parts than when the finished cells were made; expected those. Put "
                "the model back, or use another --output-dir."
            )
        return pipeline

    def _images(self, result: Mapping[str, Any]) -> ImageSet:
        return ImageSet(load_file(self._path(result["images"]))["images"])


@cache
def _data(source: str, split: str) -> ImageSet:
    return load_images(source, split=split)


@lru_cache(maxsize=8)
def _pipeline(path: Path) -> Any:
    return load_pipeline(path)


def _opened(pipeline: Any) -> OpenModel:
    denoiser = PipelineDenoiser.from_pipeline(pipeline)
    return OpenModel(pipeline, denoiser, weights_sha256(denoiser.network), configuration_sha256(denoiser), path=None)


def _on_device(denoiser: PipelineDenoiser) -> PipelineDenoiser:
    """A copy on the device; the pipelines that cells share are not moved."""
    copied = denoiser.copy()
    copied.network.to(make_accelerator().device)
    return copied


def _save_other(run: Path, kind: str) -> None:
    """A training run's raw weights of the last step, or its result, or either in bf16, as another pipeline beside it."""
    pipeline = load_pipeline(run / "pipeline")
    network = network_of(pipeline)
    assert kind in {"raw", "bf16", "raw-bf16"}, f"no weights are called {kind}"
    if kind.startswith("raw"):
        newest = latest_checkpoint(run / "checkpoints")
        assert newest is not None, "a finished run has a checkpoint"
        network.load_state_dict(load_weights(newest, network))
    if kind.endswith("bf16"):
        network.bfloat16()
    with atomic_folder(run / kind) as temporary:
        save_pipeline(pipeline, temporary)


def _lasting(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of auxiliaries without entries that depend on the state of the cache."""
    of_the_cache = {"n_drawn_now", "made_now"}
    return {
        about: {name: value for name, value in each.items() if name not in of_the_cache}
        for about, each in record.items()
    }


def _save_images(path: Path, images: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        save_file({"images": images.contiguous()}, temporary)
