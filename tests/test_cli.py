"""The command line itself: quick help, settings that survive TOML, JSON alone on standard output."""

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import fields

import pytest

from vdu import cli
from vdu.commands import demo, help_page, mistakes, unlearn
from vdu.commands.options import plain
from vdu.commands.unlearn import resolved
from vdu.core.device import on_device
from vdu.core.errors import InputError
from vdu.methods import registry

VERBS = {
    "compare": ("some-run", "another-run", "--force"),
    "demo": (),
    "evaluate": ("some-run", "--suite", "full", "--retrained", "p"),
    "explore": ("some-run", "--port", "7900"),
    "import": ("improved-diffusion", "ema.pt", "out", "--schedule", "cosine"),
    "judge": ("--data", "digits", "--output-dir", "out"),
    "posterior": ("ensemble", "--pipeline", "p", "--output-dir", "out", "--members", "a", "--members", "b"),
    "pretrain": ("--data", "digits", "--output-dir", "out", "--without", "3"),
    "report": ("some-run", "--hide-forgotten"),
    "reproduce": ("table1", "--scale", "smoke", "--output-dir", "out"),
    "sample": ("--pipeline", "p", "--output-dir", "out"),
    "unlearn": (
        "--pipeline",
        "p",
        "--output-dir",
        "out",
        "--forget",
        "f",
        "--option",
        "keep_scale=1",
        "--learning-rate",
        "3e-7",
    ),
    "verify": ("some-run",),
}


def test_the_table_is_complete():
    assert set(VERBS) == set(cli.SETTINGS)
    assert {*VERBS, "list"} == {name for name in cli.app if not name.startswith("-")}  # list has nothing to set


@pytest.mark.parametrize("verb", sorted(set(VERBS) - cli.SHARED))
def test_verbs_that_do_not_share_their_work_refuse_several_processes(monkeypatch, command, capsys, verb):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert command(verb, *VERBS[verb]) == 2
    assert f"vdu {verb}: got 2 processes; expected one, since only evaluate, judge" in capsys.readouterr().err


@pytest.mark.parametrize("tokens", [["--help"], ["unlearn", "--help"], ["posterior", "fisher", "--dry-run"]])
def test_help_imports_neither_torch_nor_diffusers(tokens):
    program = (
        "import sys\nfrom vdu.cli import main\n"
        f"try:\n    main({tokens!r})\nexcept SystemExit:\n    pass\n"
        "print('heavy:', sorted({'torch', 'diffusers', 'numpy'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "heavy: []"


def test_python_dash_m_runs_the_same_command_line():
    answer = subprocess.run([sys.executable, "-m", "vdu", "frobnicate"], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.startswith("vdu: unknown command frobnicate. The commands are compare, demo,")


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_has_a_help_text(verb, command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert command(verb, "--help-all") == 0
    shown = capsys.readouterr().out
    for item in fields(cli.SETTINGS[verb]):
        assert f"--{item.name.replace('_', '-')}" in shown, item.name
    assert "--config FILE" in shown and "--no-" not in shown and "[default ()]" not in shown
    lines = shown.splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("  ") and line[2] != " ":
            assert line[32:].strip(" .") or following[:32].isspace(), line


@pytest.mark.parametrize("verb", [*VERBS, "list"])
def test_the_first_help_page_is_short_and_names_options_that_there_are(verb, command, capsys):
    assert command(verb, "--help") == 0
    shown = capsys.readouterr().out
    known = {each for argument in cli.app[verb].assemble_argument_collection() for each in argument.names}
    assert {f"--{name}" for name in help_page.COMMON[verb]} <= known
    common = "\n" + shown.partition("\nCommon\n")[2].partition("\nGlobal\n")[0]
    assert common.count("\n  -") == len(help_page.COMMON[verb]) <= 12
    assert shown.startswith(f"Usage: {help_page.USAGE[verb]}\n")
    hidden = [
        name
        for name in known
        if name.startswith("--") and help_page.group_of(verb, name[2:]) in {"Training", "Sampling"}
    ]
    assert not any(f"{name} " in common for name in hidden)


def test_the_verbs_are_in_groups_the_main_ones_first(command, capsys):
    assert command("--help") == 0
    lines = capsys.readouterr().out.splitlines()
    heads = [line.split()[0] for line in lines if line.startswith("  ") and not line.startswith("   ")]
    main = ["demo", "unlearn", "evaluate", "report", "explore", "compare", "verify"]
    assert heads[:14] == [*main, "sample", "pretrain", "import", "judge", "list", "posterior", "reproduce"]
    assert [lines.index(name) for name in ("Main", "Models", "Research")] == sorted(
        lines.index(name) for name in ("Main", "Models", "Research")
    )
    assert any("Start with vdu demo" in line for line in lines)


@pytest.mark.usefixtures("unchecked")
def test_arguments_may_be_given_in_their_places_or_by_name(command, capsys):
    for places, names in {
        ("unlearn", "m", "f", "-o", "x"): ("unlearn", "--pipeline", "m", "--forget", "f", "--output-dir", "x"),
        ("unlearn", "m", "f"): ("unlearn", "--forget", "f", "--pipeline", "m", "--output-dir", "run"),
        ("sample", "m"): ("sample", "--pipeline", "m", "--output-dir", "samples"),
        ("posterior", "isotropic", "m"): ("posterior", "isotropic", "--pipeline", "m"),
        ("judge", "digits"): ("judge", "--data", "digits"),
    }.items():
        found = []
        for tokens in (places, names):
            assert command(*tokens, "--dry-run") == 0
            found.append(capsys.readouterr().out)
        assert found[0] == found[1]


@pytest.mark.parametrize(
    ("tokens", "texts"),
    [
        (
            ["unlearn"],
            [
                "unlearn: MODEL and IMAGES (or --forget-label, --forget-prompt) are missing. Type: vdu unlearn MODEL IMAGES [-o run]"
            ],
        ),
        (["unlearn", "m"], ["unlearn: IMAGES (or --forget-label, --forget-prompt) is missing."]),
        (["posterior"], ["ESTIMATOR and MODEL are missing"]),
        (["import", "ddpm-pytorch"], ["CHECKPOINT and OUTPUT_DIR are missing"]),
        (["report"], ["report: RUN is missing"]),
        (["unlearn", "--lr", "1e-4"], ["unknown option --lr. Did you mean --learning-rate?"]),
        (["judge", "--gpu"], ["Did you mean --device cuda?"]),
        (["unlearn", "m", "--merge"], ["unknown option --merge. pipeline/ holds the whole pipeline with the low-rank"]),
        (["report", "r", "-o", "x"], ["Did you mean --output?"]),
        (["unlearn", "m", "f", "--epochs", "3"], ["Did you mean --steps?"]),
        (["sample", "--steps", "3"], ["Did you mean --inference-steps?"]),
        (["sample", "--model", "m"], ["Did you mean --pipeline?"]),
        (["unlearn", "--images", "f"], ["Did you mean --forget?"]),
        (["unlearn", "--output", "x"], ["Did you mean --output-dir?"]),
        (["compare", "--device", "cpu"], ["no option --device here; vdu demo, vdu evaluate"]),
        (["unlearn", "--gamma", "0.1"], ["Did you mean --option gamma=VALUE?"]),
        (["unlearn", "--frobnicate"], ["unknown option --frobnicate. vdu unlearn --help-all lists"]),
        (["sample", "m", "--device", "tpu"], ["--device: got 'tpu'; expected cpu, cuda, cuda:N"]),
        (["sample", "m", "--device", "cuda:1"], ["--device: got cuda:1, but PyTorch", "sees no CUDA device"]),
        (["evaluate", "nosuch"], ["nosuch: no such run folder. Give the folder that `vdu unlearn` wrote"]),
        (["evaluate", "r", "--n-images", "5"], ["Got 5; expected at least 20, better 500 or more"]),
        (["unlern"], ["unknown command unlern. Did you mean unlearn?"]),
    ],
)
def test_a_mistake_is_answered_with_what_to_type(tokens, texts, command, capsys):
    assert command(*tokens) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("vdu: ") and len(said.err.splitlines()) == 1
    assert all(text in said.err for text in texts), said.err


def test_every_word_of_other_tools_has_one_of_ours():
    known = {each for names in cli._option_names().values() for each in names}
    assert {each.split()[0] for words in mistakes.OTHER_WORDS.values() for each in words} <= known


def test_the_device_that_is_given_is_the_one_of_accelerate(monkeypatch):
    from vdu.training.accelerator import make_accelerator

    monkeypatch.setattr("vdu.core.device._require", lambda name: None)
    with on_device("meta"):  # every PyTorch has it
        assert make_accelerator().device.type == "meta"
    assert make_accelerator().device.type == "cpu"


WRITERS = {
    verb: next(name for name in ("output_dir", "output") if name in names)
    for verb, kind in cli.SETTINGS.items()
    if {"output_dir", "output"} & (names := {item.name for item in fields(kind)})
}


@pytest.mark.parametrize("verb", WRITERS)
def test_an_output_below_a_file_is_refused_before_any_input_is_looked_at(verb, command, capsys, tmp_path):
    (tmp_path / "file").touch()
    place, option = tmp_path / "file" / "sub", f"--{WRITERS[verb].replace('_', '-')}"
    given = [str(place) if each == "out" else each for each in VERBS[verb]]
    assert command(verb, *given, *([] if str(place) in given else [option, place])) == 2
    assert f"got {place}, and {tmp_path / 'file'} is a file; expected a folder there" in capsys.readouterr().err


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("verb", VERBS)
def test_dry_run_prints_settings_that_config_takes(verb, command, capsys, tmp_path):
    assert command(verb, *VERBS[verb], "--dry-run") == 0
    shown = capsys.readouterr().out
    values = tomllib.loads(shown)
    assert set(values) <= {item.name for item in fields(cli.SETTINGS[verb])}
    (tmp_path / "settings.toml").write_text(shown, encoding="utf-8")
    for tokens in (["--config", tmp_path / "settings.toml"], [f"--config={tmp_path / 'settings.toml'}"]):
        assert command(verb, *tokens, "--dry-run") == 0
        assert tomllib.loads(capsys.readouterr().out) == values
    assert command("sample", "--dry-run") == 2  # the file served one call only


@pytest.mark.usefixtures("unchecked")
def test_an_option_overrides_the_file_and_defaults_fill_it(command, capsys, tmp_path):
    (tmp_path / "c.toml").write_text('pipeline = "p"\nforget = "f"\noutput_dir = "o"\nsteps = 7\noverwrite = true\n')
    tokens = ("--config", tmp_path / "c.toml", "--no-overwrite", "--forget-class", "3", "--forget-class", "8")
    assert command("unlearn", *tokens, "--dry-run") == 0
    values = tomllib.loads(capsys.readouterr().out)
    assert (values["steps"], values["overwrite"], values["forget_class"]) == (7, False, ["3", "8"])
    truth = cli.UnlearnSettings(pipeline="p", forget="f", output_dir="o", steps=7, forget_class=("3", "8"))  # type: ignore[arg-type]
    assert values == plain(resolved(truth))
    assert (values["method"], values["batch_size"]) == ("distillation", 32)


def test_json_is_alone_on_standard_output(command, capsys, make_pipeline, tmp_path):
    make_pipeline().save_pretrained(tmp_path / "model")
    capsys.readouterr()
    tokens = ("--pipeline", tmp_path / "model", "--output-dir", tmp_path / "out", "--n-images", 3)
    assert command("sample", *tokens, "--inference-steps", 2, "--microbatch-size", 2, "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["n_images"] == 3
    assert len(list((tmp_path / "out" / "images").glob("*.png"))) == 3


def test_without_json_the_result_is_lines(command, capsys, make_pipeline, tmp_path):
    make_pipeline().save_pretrained(tmp_path / "model")
    capsys.readouterr()
    tokens = ("isotropic", "--pipeline", tmp_path / "model", "--output-dir", tmp_path / "out", "--n-samples", 2)
    assert command("posterior", *tokens, "--inference-steps", 2) == 0
    file = tmp_path / "out" / "posterior.safetensors"
    assert capsys.readouterr().out.splitlines() == [
        f"The isotropic posterior is in {file}.",
        f"next: vdu unlearn {tmp_path / 'model'} IMAGES --method vdu --posterior {file}",
    ]


def test_a_dry_run_checks_as_a_run_does_and_writes_nothing(command, capsys, make_pipeline, tmp_path):
    make_pipeline().save_pretrained(tmp_path / "model")
    tokens = ("posterior", "isotropic", tmp_path / "model", "-o", tmp_path / "out")
    assert command(*tokens, "--inference-steps", 2, "--dry-run") == 0
    assert tomllib.loads(capsys.readouterr().out)["inference_steps"] == 2
    assert command(*tokens, "--inference-steps", 2000, "--dry-run") == 2
    assert "the model's schedule has 1000" in capsys.readouterr().err
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("kept")
    assert command(*tokens, "--dry-run") == 2
    assert "already holds files" in capsys.readouterr().err
    (tmp_path / "out" / "run.json").write_text("{}")
    assert command(*tokens, "--overwrite", "--dry-run") == 0
    assert (tmp_path / "out" / "mine.txt").read_text() == "kept"
    capsys.readouterr()
    assert command("unlearn", "org/model", tmp_path, "--dry-run") == 0
    assert "org/model is not on this machine, so only the settings were checked" in capsys.readouterr().err


def test_list_shows_every_method(command, capsys):
    assert command("list", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert tuple(found) == registry.names()
    assert found["vdu"]["needs"] == ["forget images", "a posterior (vdu posterior fisher)"]
    assert "a posterior (vdu posterior amnesia-fisher)" in found["selective-amnesia"]["needs"]
    assert "--posterior (optional)" in found["bounded"]["options"] and "--posterior" not in str(found["auto"])
    assert found["ascent"]["needs"] == ["forget images"]
    assert "gamma=0.1" in found["vdu"]["options"] and "gamma" not in str(found["ascent"]["options"])
    assert "schedule=1000,0.0001,0.02" in found["ascent"]["options"]
    assert {key: found["vdu"]["training"][key] for key in ("steps", "batch_size", "learning_rate")} == {
        "steps": 60, "batch_size": 128, "learning_rate": 1e-6,
    }  # fmt: skip
    assert {name for name, each in found.items() if each["stops"]} == {"auto", "distillation", "retrack"}
    assert command("list") == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "method" and "stops" in head
    methods = lines[: lines.index("")]
    assert [line.split()[0] for line in methods] == [name for name in registry.names() if name != "auto"]
    assert [line.split()[0] for line in methods if "(default)" in line] == [registry.AUTO]
    assert all(line.endswith(found[line.split()[0]]["summary"]) for line in methods)
    assert {line.split()[0] for line in methods if "  early  " in line} == {"distillation", "retrack"}


def test_list_is_as_wide_as_the_terminal(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert command("list") == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines()[: shown.splitlines().index("")])) <= 100
    assert registry.get("vdu").summary in " ".join(shown.split())


def test_list_shows_one_method_with_its_options(command, capsys):
    assert command("list", "vdu") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "vdu" and "    --option  gamma=0.1" in lines and "    --option  alpha_bar_range=0.0,1.0" in lines
    assert command("list", "vdi") == 2
    assert "method: got 'vdi'; expected one of auto, distillation" in capsys.readouterr().err


@pytest.mark.usefixtures("unchecked")
def test_a_dry_run_names_the_method_that_auto_stands_for(command, capsys):
    assert command("unlearn", "--pipeline", "p", "--forget", "f", "--output-dir", "o", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert shown.startswith('# method = "auto" was given, which selects distillation\n')
    assert tomllib.loads(shown)["method"] == registry.AUTO == "distillation"


def test_a_dry_run_checks_the_options_of_the_method_and_shows_the_others(command, capsys, tmp_path):
    """Where the model is elsewhere, too."""
    tokens = ("unlearn", "org/model", tmp_path, "--dry-run", "--option")
    assert command(*tokens, "repulsion=3") == 2
    assert "did you mean repulsion_scale?" in capsys.readouterr().err
    assert command(*tokens, "pool_size=90") == 0
    shown = capsys.readouterr().out
    assert tomllib.loads(shown)["option"] == ["pool_size=90"]
    (left,) = (line for line in shown.splitlines() if line.startswith("# options of distillation at their defaults: "))
    assert "'repulsion_scale=2.25', 'keep_scale=1.5'" in left and "pool_size" not in left


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["sample", "--config"], "--config: got no file; expected a TOML file"),
        (["sample", "--config", "nowhere.toml"], "nowhere.toml: no such file; write one with --dry-run"),
        (["unlearn", "m", "f", "--steps"], "requires an argument"),
        (["demo", "--stepz", "3"], "Did you mean --steps?"),
        (["demo", "--steps", "many"], "Got many; expected a whole number"),
        (["demo", "--n-images", "0"], "Got 0; expected at least 20, better 500 or more"),
        (["demo", "--digit", "12"], "expected a digit from 0 to 9"),
        (["demo", "some", "--seed", "1"], "demo: nothing takes some. Type: vdu demo"),
        (["pretrain", "d", "--without", "1", "3"], "Give it again for each: --without 1 --without 3."),
        (["posterior", "laplace", "--pipeline", "p", "--output-dir", "o"], "Choose from"),
        (["unlearn", *VERBS["unlearn"][:-1], "nan"], "expected a number above 0"),
        (["unlearn", *VERBS["unlearn"], "--warmup-steps", "-1"], "Got -1; expected 0 or more"),
        (["unlearn", *VERBS["unlearn"], "--method", "vdi"], "got 'vdi'; expected one of auto, distillation"),
    ],
)
def test_a_command_that_cannot_be_read_is_refused(tokens, message, command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert command(*tokens) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz = 3\n", r"'stepz' is not a setting of vdu demo. Did you mean 'steps'?"),
        ("zzz = 3\n", r"'zzz' is not a setting of vdu demo. The settings of demo are output_dir, digit"),
        ("steps = [", "not a TOML file"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused(text, message, command, capsys, tmp_path):
    (tmp_path / "c.toml").write_text(text)
    assert command("demo", "--config", tmp_path / "c.toml") == 2
    assert message in capsys.readouterr().err
    (tmp_path / "c.toml").write_text("steps = 3")
    assert command("--config", tmp_path / "c.toml") == 2
    assert "expected the command first" in capsys.readouterr().err


def test_the_last_line_of_a_continued_demo_counts_what_came_before():
    first, second = {"stage": "unlearn", "seconds": 240.0}, {"stage": "evaluate", "seconds": 60.0}
    assert demo._done([first, second], 330.0, 1000).startswith(
        "done in 5.5 min, with 1,000 network"
    )  # and what lies between
    assert demo._done([first, second], 70.0, 1000).startswith(
        "done in 5.0 min, with 1,000 network"
    )  # the first had ended before
    cut = {**first, "seconds": 30.0, "resumed": True}  # killed in the middle: what it cost before is not known
    assert demo._done([cut, second], 95.0, 9).startswith("done in at least 1.6 min, with at least 9 network")


@pytest.mark.slow
def test_the_demo_hands_on_how_its_folder_is_to_be_treated(command, monkeypatch, tmp_path, capsys):
    def stop(settings):
        raise InputError(f"overwrite {settings.overwrite}, resume {settings.resume_from_checkpoint}")

    monkeypatch.setattr(unlearn, "run", stop)
    for flags, words in (
        ((), "overwrite False, resume None"),
        (("--overwrite",), "overwrite True, resume None"),
        (("--resume-from-checkpoint", "latest"), "overwrite False, resume latest"),
    ):
        assert command("demo", "--output-dir", tmp_path, *flags) == 2
        assert words in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_what_the_terminal_cannot_write_is_escaped(tmp_path, encoding):
    """Windows redirects in cp1252, and LC_ALL=C is ASCII: letters that are missing there are no error."""
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    for tokens, code in ((["list", "distillation"], 0), (["report", "отчёт"], 2)):
        got = subprocess.run([sys.executable, "-m", "vdu", *tokens], capture_output=True, env=environment, cwd=tmp_path)
        assert got.returncode == code and b"Traceback" not in got.stderr, got.stderr
        assert (got.stdout if code == 0 else got.stderr).decode(encoding)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="closes a file descriptor in a shell")
def test_a_closed_standard_error_leaves_standard_output_to_the_numbers(make_pipeline, tmp_path):
    make_pipeline().save_pretrained(tmp_path / "model")
    words = (
        f"-m vdu sample --pipeline {tmp_path / 'model'} --n-images 1 --inference-steps 1 -o {tmp_path / 'out'} --json"
    )
    done = subprocess.run(["sh", "-c", f'exec "$0" {words} 2>&-', sys.executable], capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(done.stdout)["n_images"] == 1


@pytest.mark.usefixtures("unchecked")
def test_a_file_of_one_method_lends_another_none_of_its_defaults(command, capsys, tmp_path):
    assert command("unlearn", "model", "images", "--dry-run") == 0
    first = capsys.readouterr().out
    (tmp_path / "run.toml").write_text(first)
    assert command("unlearn", "model", "images", "--method", "esd", "--dry-run") == 0
    wanted = tomllib.loads(capsys.readouterr().out)
    assert command("unlearn", "--config", tmp_path / "run.toml", "--method", "esd", "--dry-run") == 0
    found = capsys.readouterr()
    assert tomllib.loads(found.out) == wanted
    assert "in the file are the defaults of distillation; those of esd are taken" in found.err
    (tmp_path / "run.toml").write_text(first.replace("steps = 600", "steps = 601"))  # the user's own
    assert command("unlearn", "--config", tmp_path / "run.toml", "--method", "esd", "--dry-run") == 0
    assert tomllib.loads(capsys.readouterr().out) == wanted | {"steps": 601}
    (tmp_path / "run.toml").write_text(first.replace("option = []", 'option = ["repulsion_scale=2"]'))
    assert "repulsion_scale=2" in (tmp_path / "run.toml").read_text()
    assert (
        command(
            "unlearn", "--config", tmp_path / "run.toml", "--method", "esd", "--option", "guidance=2.0", "--dry-run"
        )
        == 0
    )
    assert "the options in the file are those of distillation; they are left out" in capsys.readouterr().err
    (tmp_path / "run.toml").write_text(first)
    assert command("unlearn", "--config", tmp_path / "run.toml", "--forget-prompt", "a cat", "--dry-run") == 0
    found = capsys.readouterr()
    assert (
        tomllib.loads(found.out)["train"] == "cross-attention" and "that of the method in words is taken" in found.err
    )
    for former, method in (
        ("distillation", "esd"),
        ("esd", "distillation"),
        ("uce", "distillation"),
        ("ascent", "esd"),
    ):
        asked = ("unlearn", "model", "--forget-prompt", "a cat", "--dry-run")  # in words, in the file and anew
        assert command(*asked, "--method", former) == 0
        (tmp_path / "run.toml").write_text(capsys.readouterr().out)
        assert command("unlearn", "--config", tmp_path / "run.toml", "--method", method, "--dry-run") == 0
        found = tomllib.loads(capsys.readouterr().out)
        assert command(*asked, "--method", method) == 0
        assert found == tomllib.loads(capsys.readouterr().out)
    (tmp_path / "run.toml").write_text(first.replace('train = "all"', 'train = "attention"'))  # the user's own
    assert command("unlearn", "--config", tmp_path / "run.toml", "--method", "esd", "--dry-run") == 0
    assert tomllib.loads(capsys.readouterr().out)["train"] == "attention"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("tokens", "wanted"),
    [
        ((), ["repulsion_scale=3", "pool_size=7"]),
        (("--option", "pool_size=90"), ["pool_size=90", "repulsion_scale=3"]),
        (("--option=pool-size=90", "--option", "lead=retrack"), ["lead=retrack", "pool-size=90", "repulsion_scale=3"]),
    ],
)
def test_an_option_of_the_command_line_leaves_the_files_others(command, capsys, tmp_path, tokens, wanted):
    (tmp_path / "c.toml").write_text('option = ["repulsion_scale=3", "pool_size=7"]\n')
    assert command("unlearn", "model", "images", "--config", tmp_path / "c.toml", *tokens, "--dry-run") == 0
    assert sorted(tomllib.loads(capsys.readouterr().out)["option"]) == sorted(wanted)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("tokens", "shown"),
    [
        (("--forget-prompt", "a cat"), {"keep_scale=0.0", "forget_weight=3.0", "repulsion_scale=2.25", "alpha_bar_range=0.0,1.0"}),
        (("images",), {"keep_scale=1.5", "forget_weight=1.0", "alpha_bar_range=0.0015,0.66"}),
        (("images", "--method", "selective-amnesia", "--posterior", "p", "--retain", "self"), {"replay=self"}),
        (("images", "--method", "selective-amnesia", "--posterior", "p"), {"replay=none"}),
    ],
)  # fmt: skip
def test_a_dry_run_shows_the_options_that_the_run_would_have(command, capsys, tokens, shown):
    assert command("unlearn", "model", *tokens, "--dry-run") == 0
    (left,) = (line for line in capsys.readouterr().out.splitlines() if "at their defaults: " in line)
    assert all(f"'{each}'" in left for each in shown)


def test_list_shows_the_defaults_in_words_and_with_images_to_keep(command, capsys):
    assert command("list", "distillation") == 0
    (line,) = (each for each in capsys.readouterr().out.splitlines() if each.startswith("    in words by default "))
    assert "keep_scale=0.0, gradient_length=0.0" in line and "forget_weight=3.0" in line
    assert command("list", "selective-amnesia") == 0
    shown = capsys.readouterr().out
    assert "    with --retain by default replay=self\n" in shown and "in words" not in shown
