"""Reads a table of the paper and its experiment configurations (worlds); unknown or missing keys are errors. Standard library only.

    tableN.toml     printed values, claims of the text, rows (options of ``vdu unlearn``), and runs per scale
    scales.toml     per scale and data set: models, ensemble, sampler, judges

A run is rows × classes × seeds at a number of images. A file of the same form, given by its path, works like a packaged one; it
may bring its own ``[scales]``.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from vdu.core.errors import InputError
from vdu.core.ranges import AT_LEAST_0, COUNT, NOT_NEGATIVE, POSITIVE, SEED, Range, require_number
from vdu.core.records import read_toml

__all__ = [
    "LABELS",
    "REFERENCES",
    "Claim",
    "Printed",
    "Row",
    "RowRun",
    "Table",
    "World",
    "expected_results",
    "label_of",
    "load_table",
    "packaged_data",
    "training_evaluations",
]

HERE = Path(__file__).parent
METRICS = ("pul", "u_fid")
FINITE = Range("a finite number", -math.inf, above=True)
FIGURES = ("grids", "front")
ENSEMBLES = ("ensemble", "isotropic")  # beginnings of posteriors made from an ensemble; the second has its variance
OF_MEMBERS = ("ensemble", "ensemble-recentred", "isotropic")  # posteriors made of the world's ensemble
REFERENCES = {
    "real-split": "Real images against real images",
    "original": "Original",
    "filtered-original": "Filtered-oracle baseline",
}
LABELS = REFERENCES | {
    "retrained": "Retrained model",
    "average": "Original, averaged weights",
}  # rows that every table has


@dataclass(frozen=True)
class Printed:
    """One printed cell: PUL in per cent and u-FID of a row for a class of a data set."""

    dataset: str
    forget: str
    row: str
    pul: float
    u_fid: float


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper as a comparison of our means, for every class that has both sides.

    ``metric`` of ``row`` is ≥ ``at_least``; or + ``margin`` ≤ ``factor`` × that of the row ``below``; or ≥ ``factor`` ×
    that of the row ``above``. ``filtered-original``, ``original`` and ``retrained`` are rows too.
    """

    text: str
    row: str
    metric: str
    at_least: float | None = None
    below: str | None = None
    above: str | None = None
    factor: float = 1.0
    margin: float = 0.0


@dataclass(frozen=True)
class Row:
    """A method with its options (those of ``vdu unlearn``); ``epochs`` over the forget set stand in for ``steps``.

    ``tuned`` says how many settings were tried before these were taken.
    """

    label: str
    options: Mapping[str, Any]
    epochs: float | None = None
    posterior: str | None = None
    tuned: str = ""

    @property
    def needs(self) -> str:
        """The data that the method is given."""
        if self.options.get("retain") == "data":
            return "forget set, real retained images"
        if (self.posterior or "").startswith(ENSEMBLES):
            return "forget set, training data (for the ensemble)"
        return "forget set"


@dataclass(frozen=True)
class RowRun:
    """The rows, classes, seeds and numbers of images of a run."""

    dataset: str
    rows: tuple[str, ...]
    forget: tuple[str, ...]
    seeds: tuple[int, ...]
    n_images: int


@dataclass(frozen=True)
class World:
    """The models, samplers and judges of one data set at one scale; see ``scales.toml`` for the meaning of each."""

    original: str
    network: str
    data: str
    pretrain: Mapping[str, Any]
    members: int
    ensemble: str
    retrained: tuple[str, ...]
    sampler: Mapping[str, Any]
    n_train: int
    n_own_samples: int
    n_fisher_samples: int
    timesteps_per_sample: int
    judge: str
    second_judge: str
    finetune: Mapping[str, Any] = field(default_factory=dict)
    independent: Mapping[str, Any] = field(default_factory=dict)
    average: tuple[str, ...] = ()
    min_original: int = 50
    max_steps: int | None = None
    check: Mapping[str, int] | None = None
    differs: tuple[str, ...] = ()
    data_sha256: Mapping[str, str] | None = None
    weights: str | None = None


@dataclass(frozen=True)
class Table:
    """A table of the paper at one scale.

    Attributes:
        name: the file's name without its ending.
        title: its title.
        figure: the figures drawn from it: "grids" or "front"; a leaderboard has its own plot.
        leaderboard: whether it compares methods: rows select retained samples by resemblance, and precision and recall
            are measured, too.
        findings: what the committed run of this scale found, in sentences.
        network: the paper's network of each data set.
        features: the paper's feature network.
        tolerances: of PUL in points, and of u-FID as a fraction.
        printed: the printed cells.
        claims: the claims of the text.
        rows: by name.
        runs: the runs at this scale.
        worlds: by data set, at this scale.
    """

    name: str
    scale: str
    title: str
    figure: str
    network: Mapping[str, str]
    features: str
    tolerances: Mapping[str, float]
    printed: tuple[Printed, ...]
    claims: tuple[Claim, ...]
    rows: Mapping[str, Row]
    runs: tuple[RowRun, ...]
    worlds: Mapping[str, World]
    leaderboard: bool = False
    findings: tuple[str, ...] = ()


NUMBERS: Mapping[type, Mapping[str, Range]] = {
    Printed: {"pul": FINITE, "u_fid": AT_LEAST_0},
    Claim: dict.fromkeys(("at_least", "factor", "margin"), FINITE),
    Row: {"epochs": POSITIVE},
    RowRun: {"seeds": SEED},
    World: dict.fromkeys(("members", "n_train", "n_own_samples", "n_fisher_samples", "timesteps_per_sample", "max_steps"), COUNT)
    | {"min_original": NOT_NEGATIVE},
}  # fmt: skip
"""The ranges of numbers, by record; TOML has nan and inf, too."""


def training_evaluations(options: Mapping[str, Any]) -> int:
    """Network evaluations of a training, forward 1 and backward 2 per image; a first part on reduced images counts like the rest.

    Args:
        options: its ``steps`` and ``batch_size``, and perhaps ``coarse``.

    Returns:
        Their number.

    Examples:
        >>> training_evaluations({"coarse": {"size": 16, "steps": 30}, "steps": 10, "batch_size": 2})
        240
    """
    return 3 * (options["steps"] + options.get("coarse", {}).get("steps", 0)) * options["batch_size"]


def label_of(table: Table, name: str) -> str:
    """The readable name of a row or a reference."""
    return LABELS.get(name) or table.rows[name].label


def load_table(name: str, scale: str) -> Table:
    """Read a packaged table, or one from a file.

    Args:
        name: "table1", "table2", "leaderboard", or the path of a TOML file.
        scale: "smoke", "small", "network" or "paper".

    Returns:
        The table.

    Raises:
        InputError: if there is no such table or scale, or the file is invalid.
    """
    path = HERE / f"{name}.toml" if (HERE / f"{name}.toml").is_file() and name != "scales" else Path(name)
    if not path.is_file():
        known = sorted(file.stem for file in HERE.glob("*.toml") if file.stem != "scales")
        raise InputError(
            f"table: got {name!r}; expected one of {', '.join(known)}, figures, or a TOML file of that form."
        )
    values = read_toml(path)
    _known(
        path.name, values, ("title", "figure", "leaderboard", "findings", "paper", "claims", "rows", "runs", "scales")
    )
    paper = values.get("paper", {})
    _known(f"{path.name} [paper]", paper, ("network", "features", "pul_tolerance", "u_fid_tolerance", "values"))
    scales = read_toml(HERE / "scales.toml") | values.get("scales", {})
    _known(f"{path.name} [runs]", values.get("runs", {}), scales)
    _known(f"{path.name} [findings]", values.get("findings", {}), scales)
    rows = {key: _make(Row, f"{path.name} [rows.{key}]", value) for key, value in values.get("rows", {}).items()}
    for name in ("pul_tolerance", "u_fid_tolerance"):
        if name in paper:
            require_number(f"{path.name} [paper]: {name}", paper[name], AT_LEAST_0)
    table = Table(
        name=path.stem if path.parent == HERE or not (HERE / path.name).is_file() else f"{path.stem}-given",
        scale=scale,
        title=values.get("title", path.stem),
        figure=values.get("figure", "grids"),
        network=paper.get("network", {}),
        features=paper.get("features", ""),
        tolerances={"pul": paper.get("pul_tolerance", 10.0), "u_fid": paper.get("u_fid_tolerance", 0.25)},
        printed=tuple(
            _make(Printed, f"{path.name} [paper] values", each) for each in _several(path.name, "values", paper)
        ),
        claims=tuple(_make(Claim, f"{path.name} [[claims]]", each) for each in _several(path.name, "claims", values)),
        rows=rows,
        runs=tuple(
            _make(RowRun, f"{path.name} [[runs.{scale}]]", each)
            for each in _several(path.name, scale, values.get("runs", {}))
        ),
        worlds={key: _make(World, f"scale {scale}, {key}", value) for key, value in scales.get(scale, {}).items()},
        leaderboard=bool(values.get("leaderboard", False)),
        findings=tuple(_several(path.name, scale, values.get("findings", {}))),
    )
    _check(table)
    return table


def packaged_data(scale: str, dataset: str) -> dict[str, Any] | None:
    """The data of the packaged tables, with which the names of committed cells say nothing of the data.

    Args:
        scale: a scale's name.
        dataset: a data set's name.

    Returns:
        ``data`` and ``data_sha256`` of its world; None if there is none.
    """
    world = read_toml(HERE / "scales.toml").get(scale, {}).get(dataset)
    return world and {name: world.get(name) for name in ("data", "data_sha256")}


def expected_results() -> dict[str, Any]:
    """Our committed results: ``{"table1 small": {"mnist 1 vdu 1000": {"pul": {"value", "low", "high"}, …}, …}, …}``."""
    import json

    path = HERE / "expected.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _several(where: str, name: str, values: Mapping[str, Any]) -> list[Any]:
    found = values.get(name, [])
    if not isinstance(found, list):
        raise InputError(f"{where}: {name} is {found!r}; expected a list of tables ([[…{name}]]).")
    return found


def _known(where: str, values: Any, names: Iterable[str]) -> None:
    if not isinstance(values, dict):
        raise InputError(f"{where}: got {type(values).__name__}; expected keys and values.")
    for name in values:
        if name not in names:
            near = get_close_matches(name, names, n=1)
            raise InputError(
                f"{where}: unknown key {name!r}; "
                + (f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names)}.")
            )


def _make(kind: type, where: str, values: Any) -> Any:
    """One record from a TOML table; lists become tuples."""
    _known(where, values, [item.name for item in fields(kind)])
    needed = [item.name for item in fields(kind) if item.default is MISSING and item.default_factory is MISSING]
    missing = [name for name in needed if name not in values]
    if missing:
        raise InputError(f"{where}: lacks {', '.join(missing)}.")
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    hints = get_type_hints(kind)
    for name, value in given.items():
        if not _fits(value, hints[name]):
            raise InputError(f"{where}: {name} is {value!r}; expected {_spoken(hints[name])}.")
    for name, allowed in NUMBERS[kind].items():
        for each in given[name] if isinstance(given.get(name), tuple) else [given.get(name)]:
            if each is not None:
                require_number(f"{where}: {name}", each, allowed)
    return kind(**given)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a TOML value is of an annotated type of this module."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin in {Union, UnionType}:
        return any(_fits(value, each) for each in inside)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(each, inside[0]) for each in value)
    if origin is Mapping:
        return isinstance(value, dict) and (inside[1] is Any or all(_fits(each, inside[1]) for each in value.values()))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint) and not (hint is int and isinstance(value, bool))


def _spoken(hint: Any) -> str:
    return str(hint).replace("collections.abc.", "").replace("typing.", "").replace("<class '", "").replace("'>", "")


def _check(table: Table) -> None:
    """Check that all referenced names exist, nothing counts twice, and costs can be stated.

    Raises:
        InputError: naming what is wrong.
    """
    if not table.runs:
        raise InputError(f"{table.name}: has no [[runs.{table.scale}]]; nothing to do at this scale.")
    if table.figure not in FIGURES:
        raise InputError(f"{table.name}: figure is {table.figure!r}; expected one of {', '.join(FIGURES)}.")
    for run in table.runs:
        if run.n_images < 1 or not (run.rows and run.forget and run.seeds):
            raise InputError(
                f"{table.name}: got the run {run}; expected at least one row, class and seed, and n_images ≥ 1."
            )
        if len(set(run.seeds)) < len(run.seeds):  # one run would count as several
            raise InputError(f"{table.name}: got seeds = {list(run.seeds)}; expected each seed once.")
        unknown = [row for row in run.rows if row not in table.rows]
        if unknown:
            raise InputError(f"{table.name}: runs the unknown row {unknown[0]!r}; rows are {', '.join(table.rows)}.")
        if run.dataset not in table.worlds:
            raise InputError(f"{table.name}: runs {run.dataset!r}, which the scale {table.scale} does not describe.")
        if table.leaderboard:
            _require_costs(table, run)
    for name in {run.dataset for run in table.runs if table.worlds[run.dataset].average}:
        world = table.worlds[name]
        if world.retrained or world.ensemble == "independent":
            raise InputError(
                f"{table.name}: {name} has average, so rows start from the original's raw weights, with "
                + (f"retrained = {list(world.retrained)}" if world.retrained else 'ensemble = "independent"')
                + ", whose weights are averaged; expected the same kind of weights in all. Leave one of the two out."
            )
    for name, world in table.worlds.items():
        if "coarse" in world.finetune:
            raise InputError(
                f"{table.name}: {name} has finetune with coarse, which begins with a new model in place of the original; expected it in "
                "pretrain or independent alone. Leave it out."
            )
    asked = [(run.dataset, forget, row) for run in table.runs for forget in run.forget for row in run.rows]
    twice = [each for each in asked if asked.count(each) > 1]
    if twice:  # its seeds would be counted twice
        raise InputError(f"{table.name}: runs {' '.join(twice[0])} twice at the scale {table.scale}; expected one run.")
    for printed in table.printed:
        _require_row(table, f"the printed {printed.dataset} {printed.forget}", printed.row, ())
    for claim in table.claims:
        if claim.metric not in METRICS or (claim.at_least, claim.below, claim.above).count(None) != 2:
            raise InputError(
                f"{table.name}: claim {claim.text!r} needs a metric of {METRICS} and one of at_least, below, above."
            )
        if (claim.margin and not claim.below) or (claim.factor != 1 and claim.at_least is not None):
            raise InputError(
                f"{table.name}: claim {claim.text!r} has a margin or a factor that would have no effect; expected a margin with below "
                "alone, and a factor with below or above."
            )
        for row in filter(None, (claim.row, claim.below, claim.above)):
            _require_row(table, f"claim {claim.text!r}", row, tuple(LABELS))


def _require_costs(table: Table, run: RowRun) -> None:
    """Check that costs can be stated: in per cent of the original's training, with that of an ensemble's members."""
    world = table.worlds[run.dataset]
    tuned = world.ensemble == "finetuned" and any(table.rows[row].posterior in OF_MEMBERS for row in run.rows)
    whose = {"pretrain": "the original was trained"} | (
        {"finetune": "an ensemble's member is trained"} if tuned else {}
    )
    for name, trained in whose.items():
        options = getattr(world, name)
        if not all(_fits(options.get(each), int) and options[each] > 0 for each in ("steps", "batch_size")):
            raise InputError(
                f"{table.name}: {run.dataset} has {name} = {dict(options)}; expected steps and batch_size, whole numbers above 0, since a "
                f"leaderboard states costs in per cent of the original's training. Give those with which {trained}."
            )


def _require_row(table: Table, where: str, row: str, others: tuple[str, ...]) -> None:
    names = (*table.rows, *others)
    if row not in names:
        raise InputError(f"{table.name}: {where} is of the unknown row {row!r}; rows are {', '.join(names)}.")
