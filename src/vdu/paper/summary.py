"""A leaderboard in one line per method: the mean over classes of the mean over seeds, with the lowest and highest of all runs.

Only methods with three seeds in every class, none of them diverged, at the largest number of images that all of them have.
Torch-free.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from vdu.paper.aggregate import FEWEST_SEEDS
from vdu.paper.runs import Run
from vdu.paper.tables import LABELS, Table, label_of

__all__ = ["FORGETS", "MOST_POINTS", "Line", "Spread", "Summary", "summarise"]

FORGETS = 80.0  # PUL from which methods are ordered by u-FID
MOST_POINTS = 8  # methods in the plot


@dataclass(frozen=True)
class Spread:
    """A mean with the lowest and highest of its runs."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """A method or a reference over all classes; None: not measured for it.

    Attributes:
        name: its row.
        label: the same in words.
        left: images of the class that the model still makes.
        before: images of the class that the original makes.
        pul: share that is gone, in per cent.
        ratio: u-FID divided by the retrained model's for the same class and number of images.
        mix_shift: total variation distance of the other classes' shares from the original's.
        changed: share of the images of the other classes that are of another class now, in per cent.
        evaluations: network evaluations of the method.
        posterior_evaluations: of its posterior.
        seconds: median time of a run on the machine that made most of its runs.
        machine: that machine.
        n_timed: the runs made there.
    """

    name: str
    label: str
    left: Spread | None
    before: float | None
    pul: Spread | None
    ratio: Spread | None
    mix_shift: Spread | None
    changed: Spread | None
    evaluations: float | None
    posterior_evaluations: float | None
    seconds: float | None
    machine: str | None
    n_timed: int


@dataclass(frozen=True)
class Summary:
    """The lines of a leaderboard at one number of images.

    Attributes:
        n_images: that number; 0 if no method has three seeds.
        classes: (data set, class), those that were forgotten.
        methods: those that forget at least 80 %, by u-FID, then the others by PUL.
        references: original, filtered-oracle baseline, retrained model.
        chance: the shift of the mix that equal mixes exceed in 5 % of draws, the highest over runs.
    """

    n_images: int
    classes: tuple[tuple[str, str], ...]
    methods: tuple[Line, ...]
    references: tuple[Line, ...]
    chance: float | None


def summarise(table: Table, runs: Sequence[Run]) -> Summary:
    """The summary of a leaderboard's runs.

    Args:
        table: gives the rows and their order.
        runs: all runs.

    Returns:
        The lines.
    """
    classes = tuple(dict.fromkeys((run.dataset, run.forget) for run in runs if run.method in LABELS))
    complete = [name for name in table.rows if classes and _is_complete(runs, name, classes)]
    common = [{run.n_images for run in runs if run.method == name} for name in complete]
    n = max((each for each in set.intersection(*common) if each is not None), default=0) if common else 0
    if not n:
        return Summary(0, classes, (), (), None)
    at = [run for run in runs if run.n_images == n]
    references = ("original", "filtered-original", "retrained")
    methods = sorted((_line(table, at, name, classes) for name in complete), key=_order)
    chances = [run.mix_shift_chance for run in at if run.method in complete and run.mix_shift_chance is not None]
    return Summary(
        n, classes, tuple(methods), tuple(_line(table, at, name, classes) for name in references),
        max(chances, default=None),
    )  # fmt: skip


def _is_complete(runs: Sequence[Run], name: str, classes: Sequence[tuple[str, str]]) -> bool:
    mine = [run for run in runs if run.method == name]
    seeds = {key: {run.seed for run in mine if (run.dataset, run.forget) == key} for key in classes}
    return all(run.status == "measured" for run in mine) and all(len(each) >= FEWEST_SEEDS for each in seeds.values())


def _line(table: Table, runs: Sequence[Run], name: str, classes: Sequence[tuple[str, str]]) -> Line:
    mine = [run for run in runs if run.method == name]
    never_saw = {(run.dataset, run.forget): run.u_fid for run in runs if run.method == "retrained"}

    def ratio(run: Run) -> float | None:
        other = never_saw.get((run.dataset, run.forget))
        return run.u_fid / other if run.u_fid is not None and other else None

    def over(value: Callable[[Run], float | None]) -> Spread | None:
        found = [
            [v for run in mine if (run.dataset, run.forget) == key and (v := value(run)) is not None] for key in classes
        ]
        if not all(found):
            return None
        flat = [value for each in found for value in each]
        return Spread(fmean(fmean(each) for each in found), min(flat), max(flat))

    def mean(value: Callable[[Run], float | None]) -> float | None:
        spread = over(value)
        return spread.mean if spread else None

    machine, n_timed = Counter(run.machine for run in mine).most_common(1)[0] if mine else (None, 0)
    seconds = [run.unlearn_seconds for run in mine if run.machine == machine and run.unlearn_seconds is not None]
    return Line(
        name=name, label=label_of(table, name), left=over(lambda run: run.n_left), before=mean(lambda run: run.n_before),
        pul=over(lambda run: run.pul), ratio=over(ratio), mix_shift=over(lambda run: run.mix_shift),
        changed=over(lambda run: 100 * run.n_changed / run.n_kept if run.n_changed is not None and run.n_kept else None),
        evaluations=mean(lambda run: run.network_evaluations),
        posterior_evaluations=mean(lambda run: run.posterior_evaluations),
        seconds=median(seconds) if seconds else None, machine=machine, n_timed=n_timed,
    )  # fmt: skip


def _order(line: Line) -> tuple[bool, float]:
    assert line.pul is not None
    forgets = line.pul.mean >= FORGETS
    return (not forgets, line.ratio.mean if forgets and line.ratio else -line.pul.mean)
