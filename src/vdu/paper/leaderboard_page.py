"""A leaderboard as Markdown: one summary table with a line per method, and a second page with every class and every row. Torch-free.

Cost is in network evaluations (an image forward 1, backward 2): of the method, including generated samples, auxiliary models and
its stopping rule, with small classifiers weighted by FLOPs; and of the posterior, if there is one.
"""

from collections.abc import Mapping
from typing import Any

from vdu.paper.class_tables import LEGEND, MORE, class_tables, cost, verdict_lines
from vdu.paper.summary import FORGETS, MOST_POINTS, Line, Spread, Summary
from vdu.paper.table_page import finding_lines
from vdu.paper.tables import Table, label_of, training_evaluations

__all__ = ["details", "markdown"]


def markdown(table: Table, results: Mapping[str, Any], summary: Summary, plot: str | None) -> str:
    """The first page: one table, one plot.

    Args:
        table: gives what methods need and how they were tuned.
        results: as ``vdu reproduce`` writes them.
        summary: the lines.
        plot: the plot's file beside the page, if there is one.

    Returns:
        Markdown.
    """
    lines = [f"# {table.title}", "", *finding_lines(table, results)]
    if summary.methods:
        lines += _summary(table, results, summary)
    else:
        lines += ["No method has three seeds in every class, so there is no summary.", ""]
    lines += _not_run(table, results)
    if plot:
        each = f"for each of the first {MOST_POINTS} methods" if len(summary.methods) > MOST_POINTS else "per method"
        lines += [
            f"![PUL against the ratio of u-FID to the retrained model's, a labelled point {each}]({plot})",
            "",
        ]
    name = table.name
    lines += [
        "| file | what is in it |",
        "|---|---|",
        f"| [{name}-details.md]({name}-details.md) | every class and every row: ablations, learning-rate trials, divergences, claims |",
        f"| [{name}.csv]({name}.csv) | one line per method, class, seed and number of images |",
        f"| [{name}.json]({name}.json) | means with 95 % intervals over seeds and images (Student's t), cells, versions |",
    ]
    return "\n".join(lines) + "\n"


def details(table: Table, results: Mapping[str, Any]) -> str:
    """The second page: claims, and the tables of every class.

    Args:
        table: gives labels.
        results: as ``vdu reproduce`` writes them.

    Returns:
        Markdown.
    """
    lines = [f"# {table.title}: every row", "", *verdict_lines(results["claims"]), "", "## Columns", "", LEGEND + MORE]
    for dataset, forget in dict.fromkeys((row["dataset"], row["forget"]) for row in results["rows"]):
        lines += class_tables(table, results, dataset, forget, pretraining=_pretraining(results, dataset))
    lines += _not_run(table, results)
    return "\n".join(lines[:-1]) + "\n"


def _not_run(table: Table, results: Mapping[str, Any]) -> list[str]:
    """The rows without a finished cell."""
    missing = [f"{label_of(table, row)} ({forget})" for _, forget, row in results.get("not_run", [])]
    return [f"Not run: {'; '.join(missing)}.", ""] if missing else []


def _summary(table: Table, results: Mapping[str, Any], summary: Summary) -> list[str]:
    datasets = dict.fromkeys(dataset for dataset, _ in summary.classes)
    forgotten = ", ".join(forget for _, forget in summary.classes)
    pretraining = _pretraining(results, next(iter(datasets)))
    machines = dict.fromkeys(line.machine for line in summary.methods if line.seconds is not None)
    timed = ", ".join(str(line.n_timed) for line in summary.methods)
    mix = "total variation distance of the other classes' shares from the original's"
    if summary.chance is not None:
        mix += f"; equal mixes exceed {summary.chance:.3f} in 5 % of draws"
    measured = "left, of before | PUL, % | u-FID ÷ retrained model's | mix shift | kept images changed, %"
    return [
        f"Each value is the mean over the classes ({', '.join(datasets)}: {forgotten}) and three seeds, with the lowest and highest run in "
        f"brackets; {summary.n_images} images per run. Only methods with three seeds in every class are here. Those that forget "
        f"at least {FORGETS:.0f} % come first, by u-FID.",
        "",
        f"| method | {measured} | needs | cost, % of pre-training | seconds | settings tried |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_method(table, line, pretraining) for line in summary.methods),
        "",
        f"| reference | {measured} |",
        "|---|---|---|---|---|---|",
        *(f"| {line.label} | {_measured(line)} |" for line in summary.references),
        "",
        "| column | meaning |",
        "|---|---|",
        f"| left, of before | images of the class in {summary.n_images}, by the classifier; and in the original from the same noise |",
        "| PUL | the share of the class that is gone |",
        "| u-FID | Fréchet distance to held-out real images of the other classes, divided by that of a model that never saw the class |",
        f"| mix shift | {mix} |",
        "| kept images changed | images of the other classes that are of another class than the original's from the same noise |",
        "| cost | network evaluations, an image forward 1 and backward 2 |",
        f"| seconds | to unlearn, without the posterior, on {' or '.join(str(each) for each in machines)}; median of the "
        f"runs made there, some of them beside other work ({timed}, in the table's order) |",
        "| settings tried | before these were fixed |",
        "",
        "Not measured: whether the class comes back after fine-tuning; and how many kept images changed in results of earlier versions.",
        "",
    ]


def _method(table: Table, line: Line, pretraining: int) -> str:
    row = table.rows[line.name]
    evaluations = cost(line.evaluations, line.posterior_evaluations, pretraining)
    seconds = "–" if line.seconds is None else f"{line.seconds:.0f}"
    return (
        f"| {line.label} | {_measured(line)} | {row.needs} | {evaluations} | {seconds} | {row.tuned or 'not stated'} |"
    )


def _measured(line: Line) -> str:
    left = "–" if line.left is None else f"{_spread(line.left, 1, 0)} of {line.before:.0f}"
    shift, changed = _spread(line.mix_shift, 3, 3), _spread(line.changed, 1, 1)
    return f"{left} | {_spread(line.pul, 1, 1)} | {_spread(line.ratio, 2, 2)} | {shift} | {changed}"


def _spread(value: Spread | None, digits: int, of_runs: int) -> str:
    if value is None:
        return "–"
    return f"{value.mean:.{digits}f} ({value.low:.{of_runs}f} to {value.high:.{of_runs}f})"


def _pretraining(results: Mapping[str, Any], dataset: str) -> int:
    return training_evaluations(results["worlds"][dataset]["pretrain"])
