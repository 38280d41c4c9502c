"""Values that a verb refuses before it does anything, and the ends that it takes; with --dry-run, so that nothing is made."""

import pytest

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


def test_names_in_a_file_may_have_dashes_or_underscores(command, capsys, tmp_path):
    for name in ("batch-size", "batch_size"):
        (tmp_path / "c.toml").write_text(f"{name} = 5\n", encoding="utf-8")
        code, said = resolved(command, capsys, "pretrain", "--config", tmp_path / "c.toml")
        assert code == 0 and "batch_size = 5\n" in said.out
