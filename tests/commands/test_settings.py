"""Values that a verb refuses before it does anything, and the ends that it takes; with --dry-run, so that nothing is made."""

from pathlib import Path
from typing import get_type_hints

import pytest

import vdu
from vdu.cli import SETTINGS
from vdu.commands import judge, posterior
from vdu.commands.compare import CompareSettings
from vdu.commands.judge import JudgeSettings
from vdu.commands.options import at_home
from vdu.commands.settings import PosteriorSettings
from vdu.core.errors import InputError

pytestmark = pytest.mark.usefixtures("unchecked")

REQUIRED = {
    "pretrain": ["--data", "digits", "--output-dir", "o"],
    "unlearn": ["--pipeline", "p", "--forget", "f", "--output-dir", "o"],
    "demo": ["--output-dir", "o"],
    "posterior": ["isotropic", "--pipeline", "p", "--output-dir", "o"],
}


def resolved(command, capsys, verb, *tokens):
    capsys.readouterr()
    code = command(verb, *REQUIRED[verb], *tokens, "--dry-run")
    return code, capsys.readouterr()


@pytest.mark.parametrize(
    ("verb", "option", "wrong", "ends"),
    [
        ("pretrain", "steps", ["0", "-1"], ["1"]),
        ("pretrain", "batch-size", ["0"], ["1"]),
        ("pretrain", "learning-rate", ["0", "-1e-3", "inf", "nan"], ["1e-9"]),
        ("pretrain", "max-grad-norm", ["0"], ["0.1"]),
        ("pretrain", "ema-decay", ["1", "-0.1", "nan"], ["0", "0.999"]),
        ("unlearn", "steps", ["0"], ["1"]),
        ("unlearn", "learning-rate", ["0"], ["1e-9"]),
        ("unlearn", "n-own-samples", ["0"], ["1"]),
        ("posterior", "calibrate", ["1", "-0.5"], ["0", "0.5"]),
        ("demo", "digit", ["10", "-1"], ["0", "9"]),
    ],
)
def test_a_value_outside_its_range_is_refused_and_its_ends_are_taken(command, capsys, verb, option, wrong, ends):
    for value in wrong:
        code, said = resolved(command, capsys, verb, f"--{option}={value}")
        assert code != 0 and said.out == "" and option in said.err.lower(), value
    for value in ends:
        code, said = resolved(command, capsys, verb, f"--{option}={value}")
        assert code == 0 and f"{option.replace('-', '_')} = " in said.out, value


def test_a_whole_number_with_a_point_keeps_all_its_digits(command, capsys, tmp_path):
    for text in ("9007199254740993", "9007199254740993.0", "9007199254740.993e3"):  # 2⁵³ + 1
        (tmp_path / "c.toml").write_text(f"seed = {text}\nlearning_rate = 1e-4\n", encoding="utf-8")
        for given in ([f"--seed={text}"], ["--config", tmp_path / "c.toml"]):
            code, said = resolved(command, capsys, "pretrain", *given)
            assert code == 0 and "seed = 9007199254740993\n" in said.out
    for text in ("9007199254740992.5", "1e400", "nan"):
        code, said = resolved(command, capsys, "pretrain", f"--seed={text}")
        assert code != 0 and f"Got {text}; expected a whole number" in " ".join(said.err.split())


def test_a_number_of_thousands_of_digits_is_refused_as_too_large_in_few_words(command, capsys):
    for text in ("9" * 5000, "1e400", "1e99999999", str(10**30)):
        code, said = resolved(command, capsys, "pretrain", f"--steps={text}")
        assert code != 0 and "at most" in said.err and len(said.err) < 400, text[:20]


def test_names_in_a_file_may_have_dashes_or_underscores(command, capsys, tmp_path):
    for name in ("batch-size", "batch_size"):
        (tmp_path / "c.toml").write_text(f"{name} = 5\n", encoding="utf-8")
        code, said = resolved(command, capsys, "pretrain", "--config", tmp_path / "c.toml")
        assert code == 0 and "batch_size = 5\n" in said.out


def numbers():
    """Every number among the settings of every verb."""
    for verb, kind in SETTINGS.items():
        for name, hint in get_type_hints(kind, include_extras=True).items():
            text = str(hint)
            if "int" in text.replace("Literal", "").split("|")[0] or "float" in text:
                yield verb, name, text


@pytest.mark.parametrize(("verb", "name", "text"), list(numbers()), ids=lambda each: str(each)[:20])
def test_every_number_of_every_verb_has_a_range(verb, name, text):
    assert "validator" in text and "validator=None" not in text, f"{verb} --{name} takes any number"


@pytest.mark.parametrize(
    ("verb", "option", "wrong", "ends"),
    [
        ("pretrain", "warmup-steps", ["-1", "0.5"], ["0", "1e3", "30.0"]),
        ("pretrain", "steps", ["2.5", "x", "inf", "nan", "1e400"], ["12345678901"]),
        ("unlearn", "warmup-steps", ["-1"], ["0"]),
        ("unlearn", "eta", ["-0.1", "1.1", "nan"], ["0", "1"]),
        ("unlearn", "seed", ["9223372036854775808"], ["-1", "9223372036854775807"]),
        ("posterior", "n-train", ["0", "-5"], ["1"]),
        ("posterior", "variance", ["0", "nan"], ["1e-9"]),
    ],
)
def test_numbers_that_had_no_range(command, capsys, verb, option, wrong, ends):
    test_a_value_outside_its_range_is_refused_and_its_ends_are_taken(command, capsys, verb, option, wrong, ends)


def test_a_tilde_is_expanded_in_every_path(command, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    code, said = resolved(command, capsys, "unlearn", "--posterior=~/p")
    assert code == 0 and f'posterior = "{tmp_path}/p"' in said.out
    runs = at_home(CompareSettings(runs=(Path("~/a"), Path("b")), output=Path("~/c.html")))
    assert (runs.runs, runs.output) == ((tmp_path / "a", Path("b")), tmp_path / "c.html")


@pytest.mark.parametrize(
    ("tokens", "named"),
    [
        (["unlearn", "zoo:mnist-labels", "--forget", "", "--forget-label", "8"], "--forget"),
        (["unlearn", "zoo:mnist-labels", "", "--forget-label", "8"], "vdu unlearn"),
        (["unlearn", "zoo:mnist", "f", "--posterior="], "--posterior"),
        (["unlearn", "zoo:mnist", "f", "--retain", ""], "--retain"),
        (["unlearn", "zoo:mnist", "f", "-o", ""], "-o"),
        (["posterior", "finetuned-ensemble", "zoo:mnist", "--data", ""], "--data"),
        (["posterior", "fisher", "zoo:mnist", "--name-filter="], "--name-filter"),
        (["evaluate", "run", "--retrained", ""], "--retrained"),
        (["evaluate", "run", "--judge", ""], "--judge"),
        (["pretrain", "digits", "--from", ""], "--from"),
        (["pretrain", "digits", "--without", "1", "--without", ""], "--without"),
        (["judge", "digits", "--name", ""], "--name"),
        (["report", "run", "--by", ""], "--by"),
        (["report", ""], "vdu report"),
        (["demo", "--output-dir", ""], "--output-dir"),
    ],
)
def test_an_empty_text_is_not_what_was_left_out(command, capsys, tmp_path, monkeypatch, tokens, named):
    """A shell makes it of an unset variable; a path would be the current folder, and images would be drawn in place of the user's."""
    monkeypatch.chdir(tmp_path)
    assert command(*tokens) == 2
    assert f"vdu: {named}: got '', which is empty; expected something in it" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_empty_text_in_a_file_is_refused_but_for_what_a_run_writes(command, capsys, tmp_path):
    file = tmp_path / "c.toml"
    for text in ('posterior = ""', 'retain = ""', 'forget_class = ["1", ""]'):
        file.write_text(text, encoding="utf-8")
        code, said = resolved(command, capsys, "unlearn", "--config", file)
        assert code == 2 and f"{text.split()[0]} is empty; expected something in it" in said.err
    file.write_text('forget = ""\nforget_label = ["8"]', encoding="utf-8")  # images drawn under a label
    assert command("unlearn", "zoo:mnist-labels", "--config", file, "--dry-run") == 0
    file.write_text('label = [""]', encoding="utf-8")
    assert command("sample", "zoo:emoji", "--config", file, "--dry-run") == 0
    assert command("sample", "zoo:emoji", "--label", "", "--dry-run") == 0


def test_an_empty_text_in_python_is_refused_too(tmp_path):
    for call, name in (
        (lambda: posterior.run(PosteriorSettings(estimator="finetuned-ensemble", data="")), "data"),
        (lambda: posterior.run(PosteriorSettings(name_filter="")), "name_filter"),
        (lambda: judge.run(JudgeSettings(data="digits", name="")), "name"),
        (lambda: vdu.report(tmp_path, by=""), "by"),
    ):
        with pytest.raises(InputError, match=f"^{name}: got '', which is empty"):
            call()
