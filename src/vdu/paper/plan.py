"""The cells of the paper's tables: models, posteriors, samples, and the rows that are measured with them.

    original ─┬─ samples ────────────── reference (per class and N)
    members ──┼─ posterior ──┐
              ├─ generated ──┴─ replay ─┬─ row (method, class, seed, N)
              └─ retrained without the class ─ retrained row

Image i of every model starts from the same noise. Rows with more images than ``common_n`` are measured on the first
``common_n`` too, because a Fréchet distance depends on the number of images and only equal numbers may be compared.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from vdu.commands.unlearn import make_method
from vdu.core.errors import InputError
from vdu.core.records import sha256_file
from vdu.data.sources import place_of
from vdu.diffusion.sampling import Sampler
from vdu.judges.classifier import RECORD_FILE
from vdu.methods import registry
from vdu.methods.options import options_of
from vdu.paper.cells import Cell
from vdu.paper.making import OWN_SEED, Making, Needs
from vdu.paper.row_options import unlearn_settings
from vdu.paper.tables import Row, World, packaged_data
from vdu.replay.auxiliaries import SELF_MODEL_STEPS
from vdu.replay.auxiliary_models import self_model_settings

__all__ = ["PaperCells"]

# of what a leaderboard's cells measure; not of the aids that methods share, but for the self model (below): docs/leaderboard.md says
# which rows ran with older ones
BOARD_VERSION = 2
POSTERIORS = ("ensemble", "ensemble-recentred", "ensemble-independent", "fisher", "amnesia-fisher", "isotropic")
OLD_FLAGS = {"vdu", "ascent", "selective-amnesia"}
"""Methods whose rows give their options under the names of older versions: they are in the names of committed cells."""
SPARE = 1.3  # number of the original's samples in multiples of N, so that N remain without the class


class PaperCells:
    """All cells of one data set at one scale.

    Args:
        folder: the store's folder.
        scale: the scale's name.
        dataset: the data set's name.
        world: its models, samplers and judges.
        data: the source of the training data; by default that of the world.
        sizes: every number of images drawn from a model at this scale.
        leaderboard: rows select retained samples by resemblance, and precision and recall are measured, too.
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
        self.leaderboard, self.world, self.sizes = leaderboard, world, tuple(sorted(set(sizes)))
        self.place = f"{scale}/{dataset}"
        self.data = data or world.data
        self.sampler = Sampler(**_sampler_options(world.sampler))
        self.making = Making(folder, world, self.data, self.sizes, self.sampler, leaderboard)
        of_data = {"data": world.data, "data_sha256": world.data_sha256}
        # left out for the packaged tables' own, since the names of committed cells must stay
        self._other_data = {} if of_data == packaged_data(scale, dataset) else of_data
        self._cells: dict[str, Cell] = {}

    def verify_rows(self, rows: Mapping[str, Row]) -> None:
        """Raise an error, before the first cell, for a row that cannot be run.

        Args:
            rows: by name.

        Raises:
            InputError: if an option or a posterior does not exist, or the options do not fit together.
        """
        for name, row in rows.items():
            unlearn_settings(row.options)
            if row.epochs is not None and ("steps" in row.options or "batch_size" not in row.options):
                raise InputError(
                    f"row {name}: got epochs with the options {', '.join(row.options)}; expected batch_size and no steps, since epochs "
                    "give the steps by the batch size."
                )
            if row.posterior not in {None, *POSTERIORS}:
                raise InputError(
                    f"row {name}: posterior is {row.posterior!r}; expected one of {', '.join(POSTERIORS)}."
                )

    def verify_data(self, classes: Iterable[str]) -> None:
        """Raise an error, before the first cell, for data that would stop a later one.

        Args:
            classes: the classes to forget.

        Raises:
            InputError: if the data are not the world's, or have no such class.
        """
        if self.data != self.world.data and self.world.data_sha256 is None:
            raise InputError(
                f"--data: got {self.data}, but the table does not state the content hash of its data {self.world.data}; "
                "expected data_sha256 in its [scales], or leave --data out."
            )
        if self.world.data_sha256 is None and place_of(self.data) is not None:
            found = {split: self.making.images(split).sha256 for split in ("train", "test")}
            raise InputError(
                f"data: {self.data} is a folder or file, whose content may change between cells; expected its content hash in the table's "
                f'[scales]: data_sha256 = {{ train = "{found["train"]}", test = "{found["test"]}" }}.'
            )
        for split, wanted in (self.world.data_sha256 or {"train": None, "test": None}).items():
            got = self.making.images(split).sha256
            if wanted is not None and wanted != got:
                raise InputError(
                    f"data: {self.data} ({split}) has the content {got[:12]}…; expected {wanted[:12]}…, that of {self.world.data}, "
                    "since cells from other images must not be mixed. Give the same images, or your own table."
                )
        for forget in classes:
            self.making.forget_set(forget)

    # The cells

    def original(self) -> Cell:
        """The model to unlearn: packaged, given, or trained as member 0."""
        if self.world.original == "train":
            return self._model("original", {"seed": 0, **self._raw})
        return self._cell("models/original", {"pipeline": self.world.original}, self.making.given)

    def member(self, k: int) -> Cell:
        """Member k of the ensemble; of independent ones, member 0 is the original."""
        if self.world.ensemble == "finetuned":
            return self._model(f"member-{k}", {"seed": k, **self.world.finetune}, start=self.original())
        return self.original() if k == 0 else self._model(f"member-{k}", {"seed": k})

    def retrained(self, forget: str) -> Cell:
        """A model trained like the original, without a class."""
        return self._model(f"without-{forget}", {"seed": 0, "without": [forget]})

    def posterior(self, kind: str) -> Cell:
        """A posterior of the original's weights: those of ``vdu posterior``, "ensemble-recentred" and "ensemble-independent"."""
        needs: dict[str, Cell] = {"original": self.original()}
        if kind == "ensemble-independent":
            own = self.world.independent  # with ema_decay = 0 the saved weights are the raw ones
            own = {**own, **(self._raw if own.get("ema_decay") != 0 else {})}
            needs |= {
                f"member-{k}": self._model(f"independent-{k}", {"seed": k, **own}) for k in range(self.world.members)
            }
        if kind in {"ensemble", "ensemble-recentred", "isotropic"}:
            needs |= {f"member-{k}": self.member(k) for k in range(self.world.members)}
        if kind != "isotropic":
            needs["own"] = self.own()
        names = ("n_train", "n_fisher_samples", "timesteps_per_sample")
        spec = {"kind": kind, **{name: getattr(self.world, name) for name in names}}
        return self._cell(f"posteriors/{kind}", spec, partial(self.making.posterior, kind), needs)

    def own(self) -> Cell:
        """The original's generated samples for methods and posteriors; never those used for evaluation."""
        spec = {"n": self.world.n_own_samples, "seed": OWN_SEED, "sampler": self.sampler.describe()}
        return self._cell("samples/own", spec, partial(self.making.samples, spec), {"model": self.original()})

    def samples(self) -> Cell:
        """The original's samples, with which everything is compared."""
        n = math.ceil(SPARE * self.sizes[-1])
        spec = {"n": n, "seed": self.making.evaluation_seed, "sampler": self.sampler.describe()}
        return self._cell("samples/original", spec, partial(self.making.samples, spec), {"model": self.original()})

    def replay(self, forget: str) -> Cell:
        """The generated samples without the class (Selective Amnesia's generative replay)."""
        spec = {"forget": forget, "data": self.world.data, "kept": "unlike the forget set, by resemblance"}
        return self._cell(
            f"{forget}/replay", spec, partial(self.making.replay, forget), {"own": self.own(), "model": self.original()}
        )

    def reference(self, forget: str) -> Cell:
        """Real against real, original and filtered original, for a class and every number of images."""
        spec = {"forget": forget, "sizes": self.sizes, "min_original": self.world.min_original, **self._judges}
        spec |= {"leaderboard": BOARD_VERSION} if self.leaderboard else {}
        needs = {"original": self.original(), "samples": self.samples(), **self._judge_cells()}
        return self._cell(f"{forget}/reference", spec, partial(self.making.reference, forget), needs)

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
        method = str(row.options["method"])
        spec |= {"leaderboard": BOARD_VERSION} if self.leaderboard else {}
        if self.leaderboard or method not in OLD_FLAGS:
            spec |= {
                "defaults": _training(method),
                "method": _own_defaults(method),
                **_self_model(row),
            }
        if self.world.pretrain.get("labels") and (theirs := registry.get(method).label_options):
            spec |= {"label_options": dict(theirs)}
        name = f"{forget}/{method}-seed-{seed}"
        return self._cell(name, spec, partial(self.making.row, row, spec), needs, title)

    def retrained_row(self, forget: str) -> Cell:
        """The retrained model, measured like an unlearned one."""
        needs = {"original": self.original(), "samples": self.samples(), **self._judge_cells()}
        needs["model"] = self.retrained(forget)
        spec = {"forget": forget, "sizes": self.sizes, **self._judges}
        spec |= {"leaderboard": BOARD_VERSION} if self.leaderboard else {}
        return self._cell(f"{forget}/retrained", spec, partial(self.making.model_row, forget, "pipeline"), needs)

    def average_row(self, forget: str) -> Cell:
        """The average of the original's weights, measured like an unlearned model."""
        needs = {
            "original": self.original(),
            "samples": self.samples(),
            "model": self.original(),
            **self._judge_cells(),
        }
        spec = {"forget": forget, "sizes": self.sizes, "weights": "average", **self._judges}
        return self._cell(f"{forget}/average", spec, partial(self.making.model_row, forget, "average"), needs)

    def check(self, row: Row, forget: str) -> Cell:
        """Check that few sampling steps give the same result as many, on the original and on one unlearned model."""
        needs = {"original": self.original(), **self._judge_cells()}
        if row.posterior:
            needs["posterior"] = self.posterior(row.posterior)
        spec = {"forget": forget, "options": dict(row.options), "epochs": row.epochs, "max_steps": self.world.max_steps,
                "check": dict(self.world.check or {}), "sampler": self.sampler.describe(), **self._judges}  # fmt: skip
        return self._cell(f"{forget}/sampler-check", spec, partial(self.making.check, row, spec), needs)

    @property
    def _raw(self) -> dict[str, str]:
        """Raw weights of the last step, where the average is measured beside them."""
        return {"weights": "-".join(filter(None, ("raw", self.world.weights)))} if self.world.average else {}

    @cached_property
    def _judges(self) -> dict[str, str]:
        given = {"judge": self.world.judge, "second_judge": self.world.second_judge}
        known = {name: Path(value) / RECORD_FILE for name, value in given.items()}
        return {  # a folder is known by its content
            name: f"{value} {sha256_file(known[name])}" if known[name].is_file() else value
            for name, value in given.items()
        }

    def _judge_cells(self) -> dict[str, Cell]:
        """Cells of judges that must be trained first."""
        return {
            name: self._cell(
                f"judges/{kind}", {"architecture": kind, "data": self.world.data}, partial(self.making.judge, kind)
            )
            for name, value in self._judges.items()
            for source, _, kind in [value.partition(":")]
            if source == "train"
        }

    def _sizes_up_to(self, n: int) -> tuple[int, ...]:
        return (*[size for size in self.sizes[:1] if size < n], n)

    def _model(self, name: str, options: Mapping[str, Any], start: Cell | None = None) -> Cell:
        spec = {
            "network": self.world.network,
            "data": self.world.data,
            **({} if start else self.world.pretrain),
            **({"weights": self.world.weights} if self.world.weights and not start else {}),
            **options,
        }
        if start is not None:
            spec |= {"lr_schedule": "constant", "warmup_steps": 0, "ema_decay": 0.0}
        needs = {"start": start} if start is not None else {}
        return self._cell(f"models/{name}", spec, partial(self.making.model, spec), needs)

    def _cell(
        self,
        name: str,
        spec: Mapping[str, Any],
        make: Callable[[Needs, Path], dict[str, Any]],
        needs: Mapping[str, Cell] | None = None,
        title: str = "",
    ) -> Cell:
        cell = Cell(f"{self.place}/{name}", {**spec, **self._other_data}, make, needs or {}, title)
        return self._cells.setdefault(cell.id, cell)


def _sampler_options(given: Mapping[str, Any]) -> dict[str, Any]:
    return {("steps" if name == "inference_steps" else name): value for name, value in given.items()}


def _self_model(row: Row) -> dict[str, Any]:
    """The training settings of ε_s, for rows whose method uses it."""
    if row.posterior is not None or row.options["method"] in OLD_FLAGS:
        return {}
    method = make_method(unlearn_settings(row.options))
    steps = getattr(method, "self_model_steps", SELF_MODEL_STEPS)
    return {"self_model": self_model_settings(steps)} if "self_model" in method.uses else {}


def _training(method: str) -> dict[str, Any]:
    """The default training of a method, for a cell's name."""
    return {name: value for name, value in asdict(registry.get(method).training).items() if value is not None}


def _own_defaults(method: str) -> dict[str, Any]:
    """The default options of a method, for rows that do not set them; rows of methods with old flags set theirs."""
    if method in OLD_FLAGS:
        return {}
    kind = registry.get(method)
    levels = {"alpha_bar_range": kind.alpha_bar_range}  # no option of all methods, and part of their cells' names
    return levels | {name: each.default for name, each in options_of(kind).items()}
