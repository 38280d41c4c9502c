"""The paper's tables as data: what is packaged is what was printed, and what a file should not hold is refused."""

import subprocess
import sys
from pathlib import Path

import pytest

from vdu.core.errors import InputError
from vdu.paper.tables import load_table

SCALES = ("smoke", "small", "network", "paper")
PACKAGED = [(name, scale) for name in ("table1", "table2") for scale in SCALES]

# The paper's Tables 1 and 2, typed a second time, line by line as they are printed.
TABLE_1 = """
mnist    0           77.47 121.61  61.00 29.33
mnist    1           15.01 301.25  75.06 14.42
mnist    8           48.95 161.08  68.96 38.20
cifar10  automobile   2.25  92.89  60.87 30.85
cifar10  frog        66.39 111.95  62.56 30.17
cifar10  ship        85.02 249.88  71.63 24.45
"""
TABLE_2 = """
mnist    1     0.1  75.06 14.43
mnist    1     0.3  72.15 14.33
mnist    1     0.6  55.21 11.54
mnist    1     0.8  71.67 13.12
cifar10  ship  0.1  71.63 24.46
cifar10  ship  0.3  74.65 28.75
cifar10  ship  0.6  56.54 20.51
cifar10  ship  0.8  69.95 19.64
"""


# What is packaged


def test_table_1_is_printed_so():
    printed = {}
    for line in TABLE_1.split("\n")[1:-1]:
        dataset, forget, *numbers = line.split()
        for method, pul, u_fid in zip(("selective-amnesia", "vdu"), numbers[::2], numbers[1::2], strict=True):
            printed[dataset, forget, method] = (float(pul), float(u_fid))
    table = load_table("table1", "paper")
    found = {(each.dataset, each.forget, method_of(table, each)): (each.pul, each.u_fid) for each in table.printed}
    assert found == printed
    assert len(table.printed) == 12


def method_of(table, printed) -> str:
    return table.rows[printed.row].options["method"]


def test_table_2_is_printed_so():
    printed = [line.split() for line in TABLE_2.split("\n")[1:-1]]
    table = load_table("table2", "paper")
    found = [
        (each.dataset, each.forget, table.rows[each.row].options["gamma"], each.pul, each.u_fid)
        for each in table.printed
    ]
    assert found == [(dataset, forget, *map(float, numbers)) for dataset, forget, *numbers in printed]


@pytest.mark.parametrize(("name", "scale"), PACKAGED)
def test_every_printed_number_is_run_at_the_papers_scale_alone(name, scale):
    table = load_table(name, scale)
    run = {(each.dataset, forget, row) for each in table.runs for forget in each.forget for row in each.rows}
    wanted = {(each.dataset, each.forget, each.row) for each in table.printed}
    assert (wanted <= run) == (scale == "paper")
    same = {key for key, world in table.worlds.items() if world.network == table.network[key]}
    assert same == {"paper": {"mnist", "cifar10"}, "network": {"mnist"}}.get(scale, set())
    if scale == "network":  # all of MNIST's
        assert {each for each in wanted if each[0] == "mnist"} <= run
    if scale == "paper":
        assert {(each.n_images, len(each.seeds) > 0) for each in table.runs} == {(5000, True)}


@pytest.mark.parametrize(("name", "scale"), PACKAGED)
def test_the_papers_settings_are_those_of_the_paper(name, scale):
    """Appendix 6.2.3; γ = 0.1 in Table 1, for its numbers are those of that γ in Table 2."""
    table = load_table(name, scale)
    for printed in table.printed:
        row = table.rows[printed.row]
        if row.options["method"] != "vdu":
            continue
        assert (row.options["learning_rate"], row.options["batch_size"]) == (1e-6, 128)
        assert row.epochs == (1 if printed.dataset == "mnist" else 4)
        assert row.posterior == "ensemble"
        assert name == "table2" or row.options["gamma"] == 0.1
        cifar = {"schedule_steps": 500, "beta_start": 2e-4, "beta_end": 0.04} if printed.dataset == "cifar10" else {}
        assert {key: value for key, value in row.options.items() if key.startswith(("schedule", "beta"))} == cifar


def test_the_shorter_training_differs_in_what_is_stated():
    """What differs is stated in ``differs``: the reduced images, the steps, the batch, the rate, the precision and the average."""
    network, paper = (dict(load_table("table1", scale).worlds["mnist"].pretrain) for scale in ("network", "paper"))
    assert "training" in load_table("table1", "network").worlds["mnist"].differs
    rate = ("learning_rate", "lr_schedule", "warmup_steps")
    for name in ("coarse", "steps", "batch_size", "ema_decay", "checkpointing_steps", "mixed_precision", *rate):
        for options in (network, paper):
            options.pop(name, None)
    assert network == paper


def test_reading_a_table_imports_no_torch():
    program = (
        "import sys\nfrom vdu.paper.tables import load_table\nload_table('table1', 'small')\n"
        "print(sorted({'torch', 'numpy', 'diffusers', 'cyclopts'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


# A file of one's own

MINE = """
title = "Mine"
[paper]
network = { digits = "small" }
values = [{ dataset = "digits", forget = "3", row = "vdu", pul = 50.0, u_fid = 10.0 }]
[[claims]]
text = "it forgets"
row = "vdu"
metric = "pul"
at_least = 50.0
[rows.vdu]
label = "VDU"
options = { method = "vdu", steps = 2 }
[rows.ascent]
label = "Ascent"
options = { method = "ascent" }
epochs = 0.5
[[runs.smoke]]
dataset = "digits"
rows = ["vdu"]
forget = ["3"]
seeds = [0, 1]
n_images = 80
[scales.smoke.digits]
original = "train"
network = "small"
data = "digits"
pretrain = { steps = 2 }
members = 2
ensemble = "independent"
retrained = []
sampler = { inference_steps = 2 }
n_train = 1
n_own_samples = 2
n_fisher_samples = 3
timesteps_per_sample = 4
judge = "train:cnn"
second_judge = "train:lenet"
"""


@pytest.fixture
def write(tmp_path):
    def call(old="", new="", text=MINE) -> str:
        assert old in text
        (tmp_path / "mine.toml").write_text(text.replace(old, new, 1) if old else text, encoding="utf-8")
        return str(tmp_path / "mine.toml")

    return call


def test_a_file_of_the_same_form_is_read(write):
    table = load_table(write(), "smoke")
    assert (table.name, table.scale, table.title, table.figure) == ("mine", "smoke", "Mine", "grids")
    assert table.tolerances == {"pul": 10.0, "u_fid": 0.25}
    assert (table.runs[0].seeds, table.runs[0].rows, table.runs[0].n_images) == ((0, 1), ("vdu",), 80)
    assert (table.rows["ascent"].epochs, table.rows["vdu"].epochs) == (0.5, None)
    assert (table.claims[0].at_least, table.claims[0].factor, table.claims[0].margin) == (50.0, 1.0, 0.0)
    world = table.worlds["digits"]
    assert (world.members, world.min_original, world.max_steps, world.check) == (2, 50, None, None)
    assert "mnist" not in table.worlds  # its own scale "smoke" stands for the packaged one
    tighter = write("[paper]", "[paper]\npul_tolerance = 5.0\nu_fid_tolerance = 0.1")
    assert load_table(tighter, "smoke").tolerances == {"pul": 5.0, "u_fid": 0.1}


def test_what_a_row_needs_is_what_its_posterior_is_made_of():
    rows = load_table("table1", "small").rows
    ensemble = "forget set, training data (for the ensemble)"  # the isotropic posterior has its mean variance
    needs = {
        "vdu": ensemble,
        "isotropic": ensemble,
        "theta-star": ensemble,
        "tuned": "forget set",
        "ascent": "forget set",
    }
    assert {name: rows[name].needs for name in needs} == needs


@pytest.mark.parametrize("other", ["filtered-original", "ascent"])
def test_a_claim_compares_with_a_row_or_a_reference(write, other):
    path = write("at_least = 50.0", f'below = "{other}"\nfactor = 1.5\nmargin = 2.0')
    (claim,) = load_table(path, "smoke").claims
    assert (claim.below, claim.factor, claim.margin, claim.at_least) == (other, 1.5, 2.0, None)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title =", "titel =", r"mine\.toml: unknown key 'titel'; did you mean 'title'\?"),
        ("pul = 50.0, ", "", r"\[paper\] values: lacks pul\."),
        ("epochs = 0.5", "epoch = 0.5", r"\[rows\.ascent\]: unknown key 'epoch'; did you mean 'epochs'\?"),
        ("seeds = [0, 1]\nn_images = 80\n", "", r"\[\[runs\.smoke\]\]: lacks seeds, n_images\."),
        ("[paper]", "findings.smokey = []\n[paper]", r"\[findings\]: unknown key 'smokey'; did you mean 'smoke'\?"),
        ("[paper]", 'findings.smoke = "one"\n[paper]', "smoke is 'one'; expected a list"),
        ("[[runs.smoke]]", "[[runs.smokey]]", r"\[runs\]: unknown key 'smokey'; did you mean 'smoke'\?"),
        ("epochs = 0.5", "epochs = nan", r"\[rows\.ascent\]: epochs: got nan; expected a number above 0"),
        ("epochs = 0.5", "epochs = 0", r"\[rows\.ascent\]: epochs: got 0; expected a number above 0"),
        (
            "seeds = [0, 1]",
            "seeds = [0, 9223372036854775808]",
            r"seeds: got 9223372036854775808; expected an integer of at most 64",
        ),
        ("members = 2", "members = -1", r"scale smoke, digits: members: got -1; expected at least 1"),
        ("members = 2", "members = 2\nmax_steps = 0", r"scale smoke, digits: max_steps: got 0; expected at least 1"),
        ("members = 2", "members = 2\nmin_original = -1", r"min_original: got -1; expected 0 or more"),
        ("at_least = 50.0", "at_least = nan", r"\[\[claims\]\]: at_least: got nan; expected a finite number"),
        ("u_fid = 10.0", "u_fid = inf", r"\[paper\] values: u_fid: got inf; expected a finite number, 0 or more"),
        (
            "[paper]",
            "[paper]\npul_tolerance = nan",
            r"\[paper\]: pul_tolerance: got nan; expected a finite number, 0 or more",
        ),
        ('rows = ["vdu"]', 'rows = ["vdu", "fdu"]', "runs the unknown row 'fdu'; rows are vdu, ascent"),
        ('rows = ["vdu"]', 'rows = ["vdu", "vdu"]', "runs digits 3 vdu twice at the scale smoke; expected one run"),
        ("seeds = [0, 1]", "seeds = [0, 1, 0]", r"mine: got seeds = \[0, 1, 0\]; expected each seed once"),
        ('dataset = "digits"\nrows', 'dataset = "mars"\nrows', "runs 'mars', which the scale smoke does not describe"),
        ('row = "vdu", pul', 'row = "fdu", pul', "the printed digits 3 is of the unknown row 'fdu'; rows are vdu"),
        (
            'row = "vdu"\n',
            'row = "fdu"\n',
            "claim 'it forgets' is of the unknown row 'fdu'; rows are vdu, ascent, real",
        ),
        ("at_least = 50.0", 'below = "fdu"', "claim 'it forgets' is of the unknown row 'fdu'"),
        ("at_least = 50.0", "", "claim 'it forgets' needs a metric of .* and one of at_least, below, above"),
        ("at_least = 50.0", 'at_least = 50.0\nbelow = "ascent"', "claim 'it forgets' needs a metric of .* and one of"),
        (
            "at_least = 50.0",
            "at_least = 50.0\nmargin = 2.0",
            "'it forgets' has a margin or a factor that would have no effect",
        ),
        (
            "at_least = 50.0",
            "at_least = 50.0\nfactor = 2.0",
            "'it forgets' has a margin or a factor that would have no effect",
        ),
        (
            "at_least = 50.0",
            'above = "ascent"\nmargin = 2.0',
            "'it forgets' has a margin or a factor that would have no effect",
        ),
        ("[paper]", "[paper]\nn_images = 5000", r"\[paper\]: unknown key 'n_images'"),
        (
            "members = 2",
            'members = 2\naverage = ["3"]',
            r'has average, .* with ensemble = "independent", whose weights are averaged',
        ),
        (
            "retrained = []",
            'retrained = ["3"]\naverage = ["3"]',
            r"has average, .* with retrained = \['3'\], whose weights are",
        ),
        (
            "members = 2",
            "members = 2\nfinetune = { coarse = { size = 8, steps = 2 }, steps = 1 }",
            "mine: digits has finetune with coarse, which begins with a new model",
        ),
        ('metric = "pul"', 'metric = "fid"', r"claim 'it forgets' needs a metric of \('pul', 'u_fid'\)"),
        ("title =", "title = [", r"mine\.toml: not a TOML file \("),
        ("[paper]", "[[paper]]", r"\[paper\]: got list; expected keys and values"),
    ],
)
def test_what_a_file_should_not_hold_is_refused(write, old, new, message):
    with pytest.raises(InputError, match=message):
        load_table(write(old, new), "smoke")


@pytest.mark.parametrize(
    ("pretrain", "ensemble", "named"),
    [
        ("", "independent", r"pretrain = \{\}"),
        ("steps = 2", "independent", r"pretrain = \{'steps': 2\}"),
        ("steps = 0, batch_size = 8", "independent", r"pretrain = \{'steps': 0, 'batch_size': 8\}"),
        ("steps = 2, batch_size = 8", "finetuned", r"finetune = \{\}"),
    ],
)
def test_a_leaderboard_whose_costs_cannot_be_stated_is_refused(write, pretrain, ensemble, named):
    text = MINE.replace("{ steps = 2 }\nm", f"{{ {pretrain} }}\nm").replace("independent", ensemble)
    text = text.replace('label = "VDU"', 'label = "VDU"\nposterior = "ensemble"')
    assert not load_table(write(text=text), "smoke").leaderboard  # the other tables state no costs
    with pytest.raises(InputError, match=f"mine: digits has {named}; expected steps and batch_size"):
        load_table(write("title =", "leaderboard = true\ntitle =", text), "smoke")


def test_no_table_no_scale_and_no_text_are_refused(write, tmp_path):
    for name in ("table3", "scales", "", str(tmp_path)):
        known = "digits, labels, leaderboard, table1, table2, figures, or a TOML file"
        with pytest.raises(InputError, match=rf"table: got .*; expected one of {known}"):
            load_table(name, "small")
    for name, scale in (("table1", "tiny"), (write(), "small")):
        with pytest.raises(InputError, match=rf"has no \[\[runs\.{scale}\]\]; nothing to do at this scale"):
            load_table(name, scale)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"bytes\.toml: not a TOML file"):
        load_table(str(tmp_path / "bytes.toml"), "small")


def test_a_path_with_the_name_of_a_packaged_table_is_the_file(write, tmp_path):
    path = Path(write()).rename(tmp_path / "table1.toml")
    assert load_table(str(path), "smoke").title == "Mine"
