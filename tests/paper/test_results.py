"""What is committed in results/paper/small: the pages are written from the cells or the JSON file, and say what these say."""

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from vdu.paper import leaderboard_page, reproduce
from vdu.paper.aggregate import is_near
from vdu.paper.class_tables import class_tables
from vdu.paper.figures import draw_summary
from vdu.paper.overview import overview
from vdu.paper.reproduce import ReproduceSettings
from vdu.paper.runs import Run
from vdu.paper.summary import Line, Spread, Summary, summarise
from vdu.paper.tables import expected_results, load_table

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "results/paper"
DIGITS = ("8", "0", "1")
METHODS = {
    "distillation": {"method": "auto"},
    "retrack": {"method": "retrack", "steps": 240, "full_length": True},
    "siss-data": {"method": "siss", "learning_rate": 1e-4, "retain": "data"},
    "anchor-npo": {"method": "anchor", "learning_rate": 2e-5, "option": ["form=npo"]},
    "vdu": {"method": "vdu", "gamma": 0.1, "learning_rate": 1e-6, "batch_size": 128},
    "sa": {
        "method": "selective-amnesia",
        "ewc": 10.0,
        "learning_rate": 1e-4,
        "batch_size": 128,
        "max_grad_norm": 1.0,
    },
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The leaderboard and the tables, written anew from what is committed."""
    folder = tmp_path_factory.mktemp("paper")
    (folder / "cells").symlink_to(PAPER / "cells")
    (folder / "small").mkdir()
    for name in ("table1.json", "table2.json"):
        (folder / "small" / name).symlink_to(PAPER / "small" / name)
    for table in ("leaderboard", "table1", "table2"):
        summary = reproduce.run(ReproduceSettings(table=table, scale="small", output_dir=folder, only_done=True))
        assert "exit_code" not in summary, summary
    return folder / "small"


@pytest.mark.parametrize(
    "name", ["leaderboard.md", "leaderboard-details.md", "leaderboard.csv", "table1.md", "table2.md"]
)
def test_the_committed_pages_are_those_that_the_code_writes(written, name):
    assert (written / name).read_text("utf-8") == (PAPER / "small" / name).read_text("utf-8")


def test_the_reproduction_page_has_the_committed_numbers():
    """The generated table as it is, and a line of it by hand, from the JSON files."""
    page = (ROOT / "docs/reproduction.md").read_text("utf-8")
    table = page.partition("<!-- overview -->\n\n")[2].partition("\n<!-- end")[0]
    assert table == overview(PAPER)
    assert len(table.splitlines()) == 2 + 12 + 8
    rows = json.loads((PAPER / "small/table1.json").read_text("utf-8"))["rows"]
    (at,) = [row["at"]["1000"] for row in rows if (row["forget"], row["row"]) == ("8", "vdu")]
    ours = f"{at['pul']['value']:.1f}, {at['u_fid']['value']:.1f}"
    assert f"| 1 | mnist 8 | VDU, γ = 0.1 | 68.96, 38.20 | {ours} (1000) |" in table


def test_near_is_within_the_interval_or_the_tolerance():
    table = load_table("table1", "paper")  # 10 points, a quarter
    for metric, value, half, paper, near in (
        ("pul", 50.0, 0.0, 60.0, True), ("pul", 50.0, 0.0, 60.1, False), ("pul", 50.0, 15.0, 64.0, True),
        ("u_fid", 125.0, 1.0, 100.0, True), ("u_fid", 126.0, 0.5, 100.0, False), ("u_fid", 74.0, 26.0, 100.0, True),
    ):  # fmt: skip
        ours = {"value": value, "low": value - half, "high": value + half}
        assert is_near(table, metric, ours, paper) == near, (metric, value)


def test_the_cells_still_give_the_committed_numbers(written):
    new, old = (json.loads((folder / "leaderboard.json").read_text("utf-8")) for folder in (written, PAPER / "small"))
    for rows in (new["rows"], old["rows"]):
        for row in rows:
            row.pop("label")
    assert new["rows"] == old["rows"]
    assert new["claims"] == old["claims"]


def test_the_committed_intervals_are_those_of_the_cells(written, tmp_path):
    """Of Tables 1 and 2 those of their JSON files, since their cells are not committed."""
    made = tmp_path / "expected.json"
    subprocess.run([sys.executable, ROOT / "tools/expected_results.py", written.parent, made], check=True)
    assert json.loads(made.read_text("utf-8")) == expected_results()


def committed(digit: str, pattern: str) -> list[dict]:
    """The cells of a digit, read without the package; not those of the model with labels."""
    with open(PAPER / "small/labels.csv", encoding="utf-8", newline="") as file:
        with_labels = {each["cell"].rpartition("/")[2] for each in csv.DictReader(file)}
    paths = sorted((PAPER / "cells/small/mnist" / digit).glob(pattern))
    return [json.loads(path.read_text("utf-8")) for path in paths if path.stem not in with_labels]


def cells(digit: str, options: dict) -> list[dict]:
    """The measurements of a method's runs on a digit at 1000 images."""
    found = committed(digit, "*-seed-*.json")
    return [each["result"]["at"]["1000"] for each in found if each["spec"]["options"] == options]


@pytest.mark.parametrize("name", METHODS)
def test_the_summary_is_the_mean_over_the_cells(name):
    """By brute force, and the page has these numbers."""
    runs = {digit: cells(digit, METHODS[name]) for digit in DIGITS}
    assert [len(each) for each in runs.values()] == [3, 3, 3]
    retrained = {}
    for digit in DIGITS:
        (record,) = committed(digit, "retrained-*.json")
        retrained[digit] = record["result"]["at"]["1000"]["u_fid"]["value"]
    values = {
        "left": [each["pul"]["n_unlearned"] for digit in DIGITS for each in runs[digit]],
        "pul": [100 * (1 - each["pul"]["n_unlearned"] / each["pul"]["n_original"]) for digit in DIGITS for each in runs[digit]],
        "ratio": [each["u_fid"]["value"] / retrained[digit] for digit in DIGITS for each in runs[digit]],
        "shift": [each["histogram"]["distance"] for digit in DIGITS for each in runs[digit]],
    }  # fmt: skip
    shown = {"left": "{:.1f} ({:.0f} to {:.0f})", "pul": "{:.1f} ({:.1f} to {:.1f})"}
    shown |= {"ratio": "{:.2f} ({:.2f} to {:.2f})", "shift": "{:.3f} ({:.3f} to {:.3f})"}
    expected = [shown[key].format(fmean(each), min(each), max(each)) for key, each in values.items()]
    expected[0] += " of 100"
    page = (PAPER / "small/leaderboard.md").read_text("utf-8")
    (line,) = [
        line
        for line in page.splitlines()
        if line.startswith(f"| {load_table('leaderboard', 'small').rows[name].label} |")
    ]
    assert [cell.strip() for cell in line.split("|")[2:6]] == expected
    findings = " ".join(load_table("leaderboard", "small").findings)
    if name not in {"vdu", "sa"}:
        assert f"{fmean(values['ratio']):.2f}" in findings
    if name != "sa":
        assert f" {fmean(values['left']):.0f} of 100" in findings


def test_the_csv_has_every_run_of_the_json_file():
    for name in ("leaderboard", "table1", "table2"):
        results = json.loads((PAPER / "small" / f"{name}.json").read_text("utf-8"))
        with open(PAPER / "small" / f"{name}.csv", encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
        for row in results["rows"]:
            for n, at in row["at"].items():
                mine = [
                    line
                    for line in lines
                    if (line["forget"], line["method"], line["n_images"]) == (row["forget"], row["row"], n)
                ]
                assert [float(line["u_fid"]) for line in mine] == at["u_fid_seeds"]
                assert [int(line["n_left"]) for line in mine if line["pul"]] == at.get("n_unlearned", [])
                assert [float(line["pul"]) for line in mine if line["pul"]] == at.get("pul_seeds", [])


# The findings, whose numbers are typed in the TOML files


def number(name: str, forget: str, row: str, n: str, metric: str) -> float:
    results = json.loads((PAPER / "small" / f"{name}.json").read_text("utf-8"))
    (at,) = [each["at"][n] for each in results["rows"] if (each["forget"], each["row"]) == (forget, row)]
    return at[metric] if metric == "n_unlearned" else at[metric]["value"]


def test_the_findings_of_table_1_are_its_numbers():
    stability, forgets, cliff, mean, amnesia = load_table("table1", "small").findings
    for digit in DIGITS:
        left = [number("table1", digit, row, "1000", "n_unlearned") for row in ("vdu", "ascent")]
        assert left[0] == left[1], stability
    puls = [round(number("table1", digit, "vdu", "5000", "pul")) for digit in "018"]
    assert "{} % of the zeros, {} % of the ones and {} % of the eights".format(*puls) in forgets
    u_fids = [round(number("table1", digit, "fast", "1000", "u_fid")) for digit in "018"]
    assert "{}, {} and {}".format(*u_fids) in cliff
    assert f"PUL −{-number('table1', '1', 'fast', '1000', 'pul'):.0f} %" in cliff
    ratios = json.loads((PAPER / "small/table1.json").read_text("utf-8"))["mean_loss_ratio"].values()
    assert all(f"{ratio:.0f} times" in mean for ratio in ratios)
    assert {round(number("table1", digit, "sa-none", "1000", "pul")) for digit in DIGITS} == {0, 4}
    weak = [number("table1", "1", row, "1000", "u_fid") for row in ("sa-none-weak", "sa-self-weak")]
    assert min(weak) > 10_000 and "above 10,000" in amnesia


def test_the_findings_of_table_2_are_its_numbers():
    gamma, ascent, seeds, _, _ = load_table("table2", "small").findings
    for digit in DIGITS:
        rows = [
            number("table2", digit, f"gamma-{value}", "1000", "n_unlearned") for value in ("0.1", "0.3", "0.6", "0.8")
        ]
        for left in zip(*rows, strict=digit == "1"):  # for 0 and 8 only γ = 0.1 has three seeds
            assert max(left) - min(left) <= 1, gamma
    for row in ("ascent", "isotropic", "theta-star"):
        left = [number("table2", "1", each, "1000", "n_unlearned") for each in (row, "gamma-0.1")]
        assert left[0] == left[1], ascent
    rows = json.loads((PAPER / "small/table2.json").read_text("utf-8"))["rows"]
    puls = {row["forget"]: row["at"]["5000"]["pul_seeds"] for row in rows if row["row"] == "gamma-0.1"}
    spread = [round(max(puls[digit]) - min(puls[digit])) for digit in "018"]
    assert "{}, {} and {} points".format(*spread) in seeds


# Made-up runs


def run(method: str, seed: int | None, u_fid: float, pul: float = 90.0, **changes) -> Run:
    about = {"dataset": "digits", "forget": "3", "n_images": 100, "n_before": 10, "n_left": 1, "pul": pul}
    return Run(**about | {"method": method, "label": method, "seed": seed, "u_fid": u_fid} | changes)  # pyright: ignore


@pytest.fixture
def board():
    return load_table("leaderboard", "small")


def test_who_is_in_the_summary_and_in_which_order(board):
    three = {"vdu": (9.0, 10.0), "sa": (9.0, 95.0), "retrack": (4.0, 81.0), "distillation": (5.0, 79.9)}
    runs = [run(name, seed, u_fid, pul) for name, (u_fid, pul) in three.items() for seed in range(3)]
    runs += [run("original", None, 8.0), run("filtered-original", None, 3.0), run("retrained", None, 2.0)]
    runs += [run("siss-data", seed, 1.0) for seed in range(2)]  # two seeds
    runs += [run("anchor-npo", seed, 1.0) for seed in range(3)] + [run("anchor-npo", 3, 1.0, status="diverged")]
    runs += [run("retrack", seed, 1.0, n_images=500) for seed in range(3)]  # the others have no 500
    summary = summarise(board, runs)
    assert [line.name for line in summary.methods] == ["retrack", "sa", "distillation", "vdu"]
    assert [line.name for line in summary.references] == ["original", "filtered-original", "retrained"]
    assert summary.n_images == 100
    assert [line.ratio.mean for line in summary.methods if line.ratio] == [2.0, 4.5, 2.5, 4.5]
    assert not summarise(board, runs[-3:]).methods


def test_a_mean_is_over_classes_of_means_over_seeds_and_seconds_are_of_one_machine(board):
    runs = [run(name, None, 2.0, forget=forget) for name in ("original", "retrained") for forget in "34"]
    for seed, (u_fid, seconds, machine) in enumerate([(2.0, 1.0, "a"), (4.0, 2.0, "a"), (6.0, 90.0, "b")]):
        runs.append(run("vdu", seed, u_fid, unlearn_seconds=seconds, machine=machine))
    runs += [run("vdu", seed, 10.0, forget="4", unlearn_seconds=6.0, machine="a") for seed in range(4)]
    (line,) = summarise(board, runs).methods
    assert line.ratio == Spread(3.5, 1.0, 5.0)  # (2 + 5) / 2, not the mean of seven runs
    assert (line.seconds, line.machine, line.n_timed) == (6.0, "a", 6)


def test_the_plot_is_small_and_has_at_most_ten_labels(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    labels: list[str] = []
    whole = Axes.annotate

    def annotate(self, text, *given, **options):
        labels.append(text)
        return whole(self, text, *given, **options)

    monkeypatch.setattr(Axes, "annotate", annotate)
    spread = Spread(50.0, 40.0, 60.0)
    ratios = [Spread(k + 1, k + 0.5, k + 2) for k in range(12)]
    lines = [Line(f"m{k}", f"m{k}", spread, 10.0, spread, each, *[None] * 6, 0) for k, each in enumerate(ratios)]
    retrained = Line("retrained", "never saw it", spread, 10.0, spread, Spread(1.0, 1.0, 1.0), *[None] * 6, 0)
    draw_summary(Summary(100, (("digits", "3"),), tuple(lines), (retrained,), None), tmp_path / "plot.png")
    assert labels == [*(f"m{k}" for k in range(8)), "never saw it"]
    table = load_table("leaderboard", "small")
    table = replace(table, rows={line.name: next(iter(table.rows.values())) for line in lines})
    results = {"claims": [], "outside_committed": [], "worlds": {"digits": {"pretrain": {"steps": 1, "batch_size": 1}}}}
    for n, said in ((12, "point for each of the first 8 methods]"), (8, "point per method]")):
        summary = Summary(100, (("digits", "3"),), tuple(lines[:n]), (retrained,), None)
        assert said in leaderboard_page.markdown(table, results, summary, "plot.png")
    assert 0 < (tmp_path / "plot.png").stat().st_size < 150_000


def test_without_matplotlib_an_earlier_plot_stays_and_a_row_that_was_not_run_is_named(board, tmp_path, monkeypatch):
    runs = [run(name, None, 2.0) for name in ("original", "retrained")] + [run("vdu", seed, 4.0) for seed in range(3)]
    results = {"claims": [], "rows": [], "outside_committed": [], "not_run": [["digits", "3", "esd"]]}
    results["worlds"] = {"digits": {"pretrain": {"steps": 1, "batch_size": 1}}}
    monkeypatch.setattr(reproduce, "_has_matplotlib", lambda: False)
    plot, page = tmp_path / "leaderboard.png", tmp_path / "leaderboard.md"
    for is_there, state in ((False, "missing"), (True, "as it was")):
        if is_there:
            plot.write_bytes(b"drawn before")
        files = reproduce._write_leaderboard(board, results, summarise(board, runs), tmp_path)
        assert files["leaderboard plot"].startswith(f"{state}, since matplotlib is not installed")
        assert ("(leaderboard.png)" in page.read_text("utf-8")) == plot.is_file() == is_there
        assert "\nNot run: ESD analogue (3).\n" in page.read_text("utf-8")


def test_costs_are_in_per_cent_of_all_of_the_originals_training():
    world = {"pretrain": {"coarse": {"size": 8, "steps": 30}, "steps": 10, "batch_size": 2}}
    assert leaderboard_page._pretraining({"worlds": {"digits": world}}, "digits") == 3 * (30 + 10) * 2


def test_a_class_without_numbers_of_a_row_names_it(board):
    judge = {"name": "cnn", "held_out_error": 0.01, "pul_ceiling": 98.0}
    row = {
        "dataset": "digits",
        "forget": "3",
        "row": "salun-self",
        "n_seeds": 0,
        "n_diverged": 1,
        "at": {},
        "seconds": None,
    }
    lines = class_tables(board, {"judges": {"digits 3": judge}, "rows": [row]}, "digits", "3")
    assert lines[-2] == "No number, as every seed diverged: SalUn analogue (ascent), generated samples (1 diverged)."
