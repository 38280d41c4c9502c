"""The cells of the paper's tables: models, posteriors, samples, and the rows that are measured with them.

    original ─┬─ samples ────────────── reference (per class and N)
    members ──┼─ posterior ──┐
              ├─ own samples ┴─ replay ─┬─ row (method, class, seed, N)
              └─ retrained without the class ─ retrained row

Image i of every model starts from the same noise. Rows with more images than ``common_n`` are measured on the first
``common_n`` too, because a Fréchet distance depends on the number of images and only equal numbers may be compared.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache, cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vdu.checks import hash_parameters
from vdu.data.forget import split_by_class
from vdu.data.images import ImageSet
from vdu.data.sources import load_images
from vdu.diffusion.sampling import Sampler
from vdu.errors import DivergenceError, InputError
from vdu.metrics.features import Calls, classify, extract_features
from vdu.models.denoiser import PipelineDenoiser, load_pipeline
from vdu.paper.tables import Row, World
from vdu.posterior.calibrate import mean_is_usable
from vdu.posterior.ensemble import fit_ensemble
from vdu.posterior.gaussian import GaussianPosterior
from vdu.posterior.isotropic import fit_isotropic
from vdu.recipes import judge as judge_recipe
from vdu.recipes import pretrain
from vdu.recipes.cells import Cell
from vdu.recipes.judging import Judging, find_judges
from vdu.recipes.measures import distance_row, fidelity, histogram, paired_pul, second_opinion
from vdu.recipes.method_defaults import DEFAULTS
from vdu.recipes.methods import BY_NAME, options_of
from vdu.recipes.own_samples import own_samples
from vdu.recipes.posterior import fit_posterior
from vdu.recipes.resemblance import find_zones
from vdu.recipes.row_options import unlearn_settings
from vdu.recipes.settings import EvaluateSettings, JudgeSettings, PretrainSettings
from vdu.recipes.unlearn import UnlearnResult, make_method, unlearn
from vdu.records import atomic_file, sha256_file
from vdu.rng import derive_seed, generator
from vdu.training.loop import make_accelerator
from vdu.zoo.packaged import pipeline_folder

__all__ = ["PaperCells"]

WEIGHTS = "pipeline/unet/diffusion_pytorch_model.safetensors"
BOARD_VERSION = 2  # of what a leaderboard's cells measure, and of the aids and the stopping rule that methods share
SHOWN = 256  # images of a row that are kept for the figures
POSTERIORS = ("ensemble", "ensemble-recentred", "fisher", "amnesia-fisher", "isotropic")
SPARE = 1.3  # the original's samples, in multiples of N: enough for N without the class
Needs = Mapping[str, Any]


class PaperCells:
    """All cells of one data set at one scale.

    Args:
        folder: the store's folder.
        scale: the scale's name.
        dataset: the data set's name.
        world: its models, samplers and judges.
        data: where the training data are; by default where the world says.
        sizes: every number of images that is asked of a model at this scale.
        leaderboard: rows choose what they retain by resemblance, and precision and recall are measured too.
    """

    def __init__(
        self,
        folder: Path,
        scale: str,
        dataset: str,
        world: World,
        *,
        data: str | None,
        sizes: tuple[int, ...],
        leaderboard: bool = False,
    ) -> None:
        self.leaderboard = leaderboard
        self.folder, self.world, self.sizes = folder, world, tuple(sorted(set(sizes)))
        self.place = f"{scale}/{dataset}"
        self.data = data or world.data
        self.sampler = Sampler(**_sampler_options(world.sampler))
        self._cells: dict[str, Cell] = {}
        self._features: dict[str, Tensor] = {}

    def verify(self, rows: Mapping[str, Row], classes: Iterable[str]) -> None:
        """Refuse before the first cell what would stop a later one.

        Args:
            rows: the rows that will be run.
            classes: the classes that will be forgotten.

        Raises:
            InputError: if the data are not the world's, or a class, an option or a posterior does not exist.
        """
        if self.data != self.world.data and self.world.data_sha256 is None:
            raise InputError(
                f"--data: got {self.data}, but the table does not say which content its data {self.world.data} must have; "
                "expected data_sha256 in its [scales], or leave --data out."
            )
        for split, wanted in (self.world.data_sha256 or {"train": None, "test": None}).items():
            got = _data(self.data, split).sha256
            if wanted is not None and wanted != got:
                raise InputError(
                    f"data: {self.data} ({split}) has the content {got[:12]}…; expected {wanted[:12]}…, that of {self.world.data}, "
                    "for cells made from other images must not be mixed. Give the same images, or a table of your own."
                )
        for forget in classes:
            self.forget_set(forget)
        for name, row in rows.items():
            unlearn_settings(row.options)
            if row.posterior not in {None, *POSTERIORS}:
                raise InputError(
                    f"row {name}: posterior is {row.posterior!r}; expected one of {', '.join(POSTERIORS)}."
                )

    # The cells

    def original(self) -> Cell:
        """The model that shall forget: packaged, given, or trained as member 0."""
        if self.world.original == "train":
            return self._model("original", {"seed": 0})
        return self._cell("models/original", {"pipeline": self.world.original}, self._make_given)

    def member(self, k: int) -> Cell:
        """Member k of the ensemble; of independent ones, member 0 is the original."""
        if self.world.ensemble == "finetuned":
            return self._model(f"member-{k}", {"seed": k, **self.world.finetune}, start=self.original())
        return self.original() if k == 0 else self._model(f"member-{k}", {"seed": k})

    def retrained(self, forget: str) -> Cell:
        """A model trained like the original, without a class."""
        return self._model(f"without-{forget}", {"seed": 0, "without": [forget]})

    def posterior(self, kind: str) -> Cell:
        """A posterior of the original's weights; kinds are those of ``vdu posterior`` and "ensemble-recentred"."""
        needs: dict[str, Cell] = {"original": self.original()}
        if kind in {"ensemble", "ensemble-recentred", "isotropic"}:
            needs |= {f"member-{k}": self.member(k) for k in range(self.world.members)}
        if kind != "isotropic":
            needs["own"] = self.own()
        names = ("n_train", "n_fisher_samples", "timesteps_per_sample")
        spec = {"kind": kind, **{name: getattr(self.world, name) for name in names}}
        return self._cell(f"posteriors/{kind}", spec, partial(self._make_posterior, kind), needs)

    def own(self) -> Cell:
        """The original's own samples that methods and posteriors may use; never those it is judged by."""
        spec = {"n": self.world.n_own_samples, "seed": derive_seed(0, "own"), "sampler": self.sampler.describe()}
        return self._cell("samples/own", spec, partial(self._make_samples, spec), {"model": self.original()})

    def samples(self) -> Cell:
        """The original's samples that everything is compared with."""
        n = math.ceil(SPARE * self.sizes[-1])
        spec = {"n": n, "seed": self.evaluation_seed, "sampler": self.sampler.describe()}
        return self._cell("samples/original", spec, partial(self._make_samples, spec), {"model": self.original()})

    def replay(self, forget: str) -> Cell:
        """The own samples without those of the class (Selective Amnesia's generative replay)."""
        spec = {"forget": forget, "data": self.world.data, "kept": "unlike the forget set, by resemblance"}
        return self._cell(
            f"{forget}/replay", spec, partial(self._make_replay, forget), {"own": self.own(), "model": self.original()}
        )

    def reference(self, forget: str) -> Cell:
        """Real against real, original and filtered original, for a class and every number of images."""
        spec = {"forget": forget, "sizes": self.sizes, "min_original": self.world.min_original, **self._judges}
        spec |= {"leaderboard": BOARD_VERSION} if self.leaderboard else {}
        needs = {"original": self.original(), "samples": self.samples(), **self._judge_cells()}
        return self._cell(f"{forget}/reference", spec, partial(self._make_reference, forget), needs)

    def row(self, row: Row, forget: str, seed: int, n_images: int) -> Cell:
        """A method's run for a class and a seed, measured."""
        title = f"{self.place}/{forget}: {row.label}, seed {seed}"
        needs = {"original": self.original(), "samples": self.samples(), **self._judge_cells()}
        if row.posterior:
            needs["posterior"] = self.posterior(row.posterior)
        if row.options.get("retain") == "self" and not self.leaderboard:
            needs["replay"] = self.replay(forget)
        spec = {
            "forget": forget, "seed": seed, "n_images": n_images, "options": dict(row.options), "epochs": row.epochs,
            "max_steps": self.world.max_steps, "sizes": self._sizes_up_to(n_images), "data": self.world.data, **self._judges,
        }  # fmt: skip
        if self.leaderboard:
            method = str(row.options["method"])
            spec |= {
                "leaderboard": BOARD_VERSION,
                "defaults": DEFAULTS.get(method, {}),
                "method": _own_defaults(method),
            }
        name = f"{forget}/{row.options['method']}-seed-{seed}"
        return self._cell(name, spec, partial(self._make_row, row, spec), needs, title)

    def retrained_row(self, forget: str) -> Cell:
        """The retrained model, measured like an unlearned one."""
        needs = {"original": self.original(), "samples": self.samples(), **self._judge_cells()}
        needs["model"] = self.retrained(forget)
        spec = {"forget": forget, "sizes": self.sizes, **self._judges}
        spec |= {"leaderboard": BOARD_VERSION} if self.leaderboard else {}
        return self._cell(f"{forget}/retrained", spec, partial(self._make_retrained_row, forget), needs)

    def check(self, row: Row, forget: str) -> Cell:
        """Whether few sampling steps tell the same as many, on the original and on one unlearned model."""
        needs = {"original": self.original(), **self._judge_cells()}
        if row.posterior:
            needs["posterior"] = self.posterior(row.posterior)
        spec = {"forget": forget, "options": dict(row.options), "epochs": row.epochs, "max_steps": self.world.max_steps,
                "check": dict(self.world.check or {}), "sampler": self.sampler.describe(), **self._judges}  # fmt: skip
        return self._cell(f"{forget}/sampler-check", spec, partial(self._make_check, row, spec), needs)

    # How they are made

    def _make_given(self, done: Needs, stem: Path) -> dict[str, Any]:
        where = self.world.original
        return {"pipeline": where, "sha256": hash_parameters(self._open(where).unet.state_dict())}

    def _make_model(self, spec: Mapping[str, Any], done: Needs, stem: Path) -> dict[str, Any]:
        options: dict[str, Any] = {name: value for name, value in spec.items() if name not in {"data", "network"}}
        options["without"] = tuple(spec.get("without", ()))
        if "start" in done:
            options["from_pipeline"] = self._path(done["start"]["pipeline"])
        else:
            options["model"] = spec["network"]
        settings = PretrainSettings(data=self.data, output_dir=stem, resume_from_checkpoint="latest", **options)
        made = pretrain.run(settings)
        relative = str((stem / "pipeline").relative_to(self.folder))
        files = {f"{stem.name}/{WEIGHTS}": sha256_file(stem / WEIGHTS)}
        evaluations = 3 * settings.steps * settings.batch_size
        return {"pipeline": relative, "sha256": made["sha256"], "files": files, "network_evaluations": evaluations}

    def _make_posterior(self, kind: str, done: Needs, stem: Path) -> dict[str, Any]:
        pipeline = self._open(done["original"]["pipeline"])
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
        parameters = dict(pipeline.unet.named_parameters())
        members = [value["pipeline"] for name, value in done.items() if name.startswith("member-")]
        if kind in {"fisher", "amnesia-fisher"}:
            assert images is not None
            options: dict[str, Any] = {"n_train": self.world.n_train}
            if kind == "amnesia-fisher":
                options = {"timesteps_per_sample": self.world.timesteps_per_sample}
            some = images[: self.world.n_fisher_samples]
            return fit_posterior(pipeline, kind, samples=some, generator=generator(0, kind), **options), {}
        assert members, f"no estimator makes {kind}"
        ensemble = fit_ensemble(dict(self._open(each).unet.named_parameters()) for each in members)
        if kind == "isotropic":  # of the same mean variance, so that γ weighs the same
            total = sum(float(value.double().sum()) for value in ensemble.variance.values())
            return fit_isotropic(parameters, total / sum(value.numel() for value in parameters.values())), {}
        assert images is not None
        denoiser = PipelineDenoiser.from_pipeline(pipeline)
        ratio, _ = mean_is_usable(denoiser, ensemble, images[:200], generator=generator(0, "mean"))
        notes = {"mean_loss_ratio": min(ratio, 1e30)}
        return (ensemble.with_mean(parameters) if kind == "ensemble-recentred" else ensemble), notes

    def _make_samples(self, spec: Mapping[str, Any], done: Needs, stem: Path) -> dict[str, Any]:
        denoiser = _on_device(PipelineDenoiser.from_pipeline(self._open(done["model"]["pipeline"])))
        images = own_samples(denoiser, spec["n"], self.sampler, seed=spec["seed"])
        path = stem.with_name(stem.name + ".safetensors")
        _save_images(path, images.images)
        evaluations = len(images) * self.sampler.steps
        relative = str(path.relative_to(self.folder))
        return {"images": relative, "files": {path.name: sha256_file(path)}, "network_evaluations": evaluations}

    def _make_replay(self, forget: str, done: Needs, stem: Path) -> dict[str, Any]:
        own, original = self._images(done["own"]), PipelineDenoiser.from_pipeline(self._open(done["model"]["pipeline"]))
        zones = find_zones(self.forget_set(forget), own, original.schedule, seed=derive_seed(0, "replay"), force=True)
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

    def _make_reference(self, forget: str, done: Needs, stem: Path) -> dict[str, Any]:
        judging, drawn = self.judging(forget, done), self._images(done["samples"])
        calls = classify(judging.judge, drawn.floats())
        kept = drawn.select(~judging.filtered(drawn.floats()))
        count = int(judging.is_forget(calls.classes[: self.sizes[0]]).sum())
        if count < self.world.min_original:
            raise InputError(
                f"original: {judging.name} calls only {count} of {self.sizes[0]} samples {forget}; expected at least "
                f"{self.world.min_original}, for PUL is a share of them. Draw more images, or use a model that makes the class."
            )
        real = self._real_features(forget, judging)
        order = torch.randperm(len(real), generator=generator(0, "split"))
        result: dict[str, Any] = {"judge": judging.describe(count, self.sizes[0]), "at": {}}
        for n in self.sizes:
            if len(kept) < n:
                raise InputError(
                    f"filtered original: {len(kept)} of {len(drawn)} samples remain; expected at least {n}."
                )
            half = min(n, len(real) // 2)
            features = {
                "real-split": real[order[:half]],
                "original": extract_features(judging.judge.features, drawn.select(range(n)).floats()),
                "filtered-original": extract_features(judging.judge.features, kept.select(range(n)).floats()),
            }
            against = {name: real[order[half:]] if name == "real-split" else real for name in features}
            rows = {
                name: distance_row(name, name, against[name], features[name], self.evaluation_seed) for name in features
            }
            counted = int(judging.is_forget(calls.classes[:n]).sum())
            result["at"][str(n)] = {
                name: {
                    "u_fid": rows[name]["u_fid"],
                    "kid": rows[name]["kid"],
                    "n_images": len(features[name]),
                    **self._precision(against[name], features[name]),
                }
                for name in rows
            } | {"n_original": counted}
        return result

    def _make_row(self, row: Row, spec: Mapping[str, Any], done: Needs, stem: Path) -> dict[str, Any]:
        began = time.monotonic()
        pipeline, made = self._unlearned(row, spec, done)
        seconds = time.monotonic() - began
        last = made.training.last
        about = {
            "steps": made.training.steps, "network_evaluations": made.network_evaluations,
            "terms": last.get("terms", {}), "observed": last.get("observed", {}), "unlearn_seconds": round(seconds, 1),
        }  # fmt: skip
        if self.leaderboard:
            about |= {"ending": made.ending, "aids": _lasting(made.aids.record if made.aids else {})}
            about["posterior_evaluations"] = self._posterior_evaluations(row.posterior, done)
        return about | self._measured(pipeline, spec["forget"], spec["sizes"], done, stem)

    def _unlearned(self, row: Row, spec: Mapping[str, Any], done: Needs) -> tuple[Any, UnlearnResult]:
        forget, pipeline = self.forget_set(spec["forget"]), self._open(done["original"]["pipeline"])
        options = dict(row.options)
        if row.epochs is not None:  # an epoch of the paper: every forget image once, the last batch may be short
            options["steps"] = math.ceil(row.epochs * len(forget) / options["batch_size"])
        if "posterior" in done:
            options["posterior"] = self._path(done["posterior"]["posterior"])
        retain = self._images(done["replay"]) if "replay" in done else None
        if options.get("retain") == "data":  # real images of the other classes
            retain = split_by_class(_data(self.data, "train"), [spec["forget"]])[1]
        settings = unlearn_settings(options)
        if self.world.max_steps and settings.steps is not None:
            settings = replace(settings, steps=min(settings.steps, self.world.max_steps))
        made = unlearn(
            pipeline, make_method(settings), forget=forget, retain=retain, steps=settings.steps,
            batch_size=settings.batch_size, learning_rate=settings.learning_rate, lr_schedule=settings.lr_schedule,
            max_grad_norm=settings.max_grad_norm, mixed_precision=settings.mixed_precision,
            warmup_steps=settings.warmup_steps, ema_decay=settings.ema_decay, n_own_samples=settings.n_own_samples,
            sampler=self.sampler, full_length=settings.full_length, force=settings.force,
            generator=generator(spec.get("seed", 0), "unlearn"),
        )  # fmt: skip
        return made.pipeline, made

    def _posterior_evaluations(self, kind: str | None, done: Needs) -> int:
        """What the posterior cost: its estimation, its own samples, and the members of an ensemble besides the original."""
        if kind is None:
            return 0
        if kind.startswith("ensemble"):
            options = self.world.pretrain if self.world.ensemble == "independent" else self.world.finetune
            return (self.world.members - 1) * 3 * options["steps"] * options["batch_size"]
        drawn = 0 if kind == "isotropic" else self.world.n_fisher_samples * self.sampler.steps
        return drawn + int(done["posterior"].get("network_evaluations", 0))

    def _precision(self, reference: Tensor, features: Tensor) -> dict[str, float]:
        """Precision, recall, density and coverage, in a leaderboard."""
        if not self.leaderboard:
            return {}
        return fidelity(reference, features)

    def _make_retrained_row(self, forget: str, done: Needs, stem: Path) -> dict[str, Any]:
        return self._measured(self._open(done["model"]["pipeline"]), forget, self.sizes, done, stem)

    def _measured(self, pipeline: Any, forget: str, sizes: tuple[int, ...], done: Needs, stem: Path) -> dict[str, Any]:
        """Samples of a model from the original's noise, judged and compared, at every number of images."""
        judging, before = self.judging(forget, done), self._images(done["samples"]).select(range(sizes[-1]))
        denoiser = _on_device(PipelineDenoiser.from_pipeline(pipeline))
        after = own_samples(denoiser, sizes[-1], self.sampler, seed=self.evaluation_seed, progress="samples")
        seed, judge = self.evaluation_seed, judging.judge
        calls = {
            name: classify(judge, images.floats()) for name, images in (("original", before), ("unlearned", after))
        }
        if bool(judging.is_forget(calls["unlearned"].classes[: sizes[0]]).all()):
            raise DivergenceError(f"all {sizes[0]} images are called {forget}: there is no rest to compare.")
        real = self._real_features(forget, judging)
        features = extract_features(judge.features, after.floats())
        at = {}
        for n in sizes:
            some = {name: Calls(each.classes[:n], each.confidence[:n]) for name, each in calls.items()}
            distances = distance_row("unlearned", "", real, features[:n], seed)
            second = second_opinion(judging, before.select(range(n)), after.select(range(n)), seed)
            at[str(n)] = {
                "pul": paired_pul(some["original"], some["unlearned"], judging, seed),
                "second": second,
                "u_fid": distances["u_fid"],
                "kid": distances["kid"],
                "histogram": histogram(some, judging, seed),
                **self._precision(real, features[:n]),
            }
        path = stem.with_name(stem.name + ".safetensors")
        _save_images(path, after.images[:SHOWN])
        files = {path.name: sha256_file(path)}
        return {"status": "measured", "at": at, "images": str(path.relative_to(self.folder)), "files": files}

    def _make_check(self, row: Row, spec: Mapping[str, Any], done: Needs, stem: Path) -> dict[str, Any]:
        assert self.world.check is not None
        n, many = self.world.check["n_images"], self.world.check["inference_steps"]
        unlearned, _ = self._unlearned(row, spec, done)
        judging = self.judging(spec["forget"], done)
        real = self._real_features(spec["forget"], judging)
        result: dict[str, Any] = {"n_images": n}
        for steps in (self.sampler.steps, many):
            sampler, seed = replace(self.sampler, steps=steps), derive_seed(self.evaluation_seed, "check")
            models = {"original": self._open(done["original"]["pipeline"]), "unlearned": unlearned}
            made = {
                name: own_samples(_on_device(PipelineDenoiser.from_pipeline(each)), n, sampler, seed=seed)
                for name, each in models.items()
            }
            calls = {name: classify(judging.judge, images.floats()) for name, images in made.items()}
            features = {
                name: extract_features(judging.judge.features, images.floats()) for name, images in made.items()
            }
            result[str(steps)] = {
                "pul": paired_pul(calls["original"], calls["unlearned"], judging, seed),
                "u_fid": {name: distance_row(name, "", real, each, seed)["u_fid"] for name, each in features.items()},
            }
        return result

    # What they are made of

    @property
    def evaluation_seed(self) -> int:
        """Seed of the noise that every model is judged from."""
        return derive_seed(0, "evaluate")

    def forget_set(self, forget: str) -> ImageSet:
        """The images to forget: the class in the training data."""
        return split_by_class(_data(self.data, "train"), [forget])[0]

    def _real_features(self, forget: str, judging: Judging) -> Tensor:
        if forget not in self._features:
            real = split_by_class(_data(self.data, "test"), [forget])[1]  # held out; removed by label
            self._features[forget] = extract_features(judging.judge.features, real.floats())
        return self._features[forget]

    def judging(self, forget: str, done: Needs) -> Judging:
        """The two judges, asked about a class."""
        given = {
            name: str(self._path(done[name]["judge"]))
            if name in done
            else getattr(self.world, name).removeprefix("zoo:")
            for name in ("judge", "second_judge")
        }
        settings = EvaluateSettings(judge=given["judge"], second_judge=given["second_judge"])
        denoiser = PipelineDenoiser.from_pipeline(self._open(done["original"]["pipeline"]))
        return find_judges(settings, denoiser, self.forget_set(forget), [forget], self.sampler, {})

    @cached_property
    def _judges(self) -> dict[str, str]:
        return {"judge": self.world.judge, "second_judge": self.world.second_judge}

    def _judge_cells(self) -> dict[str, Cell]:
        """Cells of judges that must be trained first."""
        return {
            name: self._cell(
                f"judges/{kind}", {"architecture": kind, "data": self.world.data}, partial(self._make_judge, kind)
            )
            for name, value in self._judges.items()
            for source, _, kind in [value.partition(":")]
            if source == "train"
        }

    def _make_judge(self, kind: Any, done: Needs, stem: Path) -> dict[str, Any]:
        judge_recipe.run(
            JudgeSettings(data=self.data, output_dir=stem, architecture=kind, resume_from_checkpoint="latest")
        )
        weights = "judge/model.safetensors"
        files = {f"{stem.name}/{weights}": sha256_file(stem / weights)}
        return {"judge": str((stem / "judge").relative_to(self.folder)), "files": files}

    def _sizes_up_to(self, n: int) -> tuple[int, ...]:
        return (*[size for size in self.sizes[:1] if size < n], n)

    def _model(self, name: str, options: Mapping[str, Any], start: Cell | None = None) -> Cell:
        spec = {
            "network": self.world.network,
            "data": self.world.data,
            **({} if start else self.world.pretrain),
            **options,
        }
        if start is not None:
            spec |= {"lr_schedule": "constant", "warmup_steps": 0, "ema_decay": 0.0}
        needs = {"start": start} if start is not None else {}
        return self._cell(f"models/{name}", spec, partial(self._make_model, spec), needs)

    def _cell(
        self,
        name: str,
        spec: Mapping[str, Any],
        make: Callable[[Needs, Path], dict[str, Any]],
        needs: Mapping[str, Cell] | None = None,
        title: str = "",
    ) -> Cell:
        cell = Cell(f"{self.place}/{name}", spec, make, needs or {}, title)
        return self._cells.setdefault(cell.id, cell)

    def _path(self, where: str) -> Path:
        return pipeline_folder(where[4:]) if where.startswith("zoo:") else self.folder / where

    def _open(self, where: str) -> Any:
        return _pipeline(self._path(where))

    def _images(self, result: Mapping[str, Any]) -> ImageSet:
        return ImageSet(load_file(self._path(result["images"]))["images"])


@cache
def _data(source: str, split: str) -> ImageSet:
    return load_images(source, split=split)


@lru_cache(maxsize=8)
def _pipeline(path: Path) -> Any:
    return load_pipeline(path)


def _sampler_options(given: Mapping[str, Any]) -> dict[str, Any]:
    return {("steps" if name == "inference_steps" else name): value for name, value in given.items()}


def _own_defaults(method: str) -> dict[str, Any]:
    """What a method's own options are where a row does not say; VDU's and its like are settings, which rows give."""
    return {name: each.default for name, each in options_of(BY_NAME[method]).items()} if method in BY_NAME else {}


def _on_device(denoiser: PipelineDenoiser) -> PipelineDenoiser:
    """A copy there: the pipelines that cells share stay where they are."""
    copied = denoiser.copy()
    copied.network.to(make_accelerator().device)
    return copied


def _lasting(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of aids without what depends on the state of the cache."""
    own = {name: value for name, value in record.get("own_samples", {}).items() if name != "n_drawn_now"}
    return {**record, **({"own_samples": own} if own else {})}


def _save_images(path: Path, images: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        save_file({"images": images.contiguous()}, temporary)
