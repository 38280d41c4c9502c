import json
import math

import pytest

from vdu.training.log import StepLog


def line(step):
    return {"step": step, "loss": 0.5 * step, "terms": {"mse": 0.5 * step}, "observed": {}}


def write(folder, start, stop, **options):
    with StepLog(folder, start, 10, None, options.get("active", True)) as log:
        before = log.last
        for step in range(start, stop):
            log.write(line(step + 1))
    return before, log.last


def steps(folder):
    return [json.loads(text)["step"] for text in (folder / "log.jsonl").read_text().splitlines()]


def test_one_line_per_step(tmp_path):
    assert write(tmp_path, 0, 3) == ({}, line(3))
    assert [json.loads(text) for text in (tmp_path / "log.jsonl").read_text().splitlines()] == [
        line(1),
        line(2),
        line(3),
    ]


@pytest.mark.parametrize("damage", ["", '{"step": 4, "lo', '{"loss": 1}\n', "[1]\n"])
def test_a_resumed_log_drops_the_lines_that_will_be_made_again(tmp_path, damage):
    write(tmp_path, 0, 3)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write(damage)
    before, last = write(tmp_path, 2, 5)
    assert before == line(2)
    assert last == line(5)
    assert steps(tmp_path) == [1, 2, 3, 4, 5]


def test_a_run_from_the_start_begins_a_new_log(tmp_path):
    write(tmp_path, 0, 3)
    write(tmp_path, 0, 1)
    assert steps(tmp_path) == [1]


def test_other_processes_and_runs_without_a_folder_write_nothing(tmp_path):
    assert write(tmp_path, 0, 2, active=False)[1] == line(2)
    assert write(None, 0, 2)[1] == line(2)
    assert list(tmp_path.iterdir()) == []


def test_progress_goes_to_standard_error(tmp_path, capsys):
    with StepLog(tmp_path, 0, 2, "unlearn", True) as log:
        log.write(line(1))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "unlearn" in captured.err


def test_the_log_is_json_where_a_step_overflowed(tmp_path):
    """Under fp16 a gradient may overflow; the step is then skipped."""
    with StepLog(tmp_path, 0, 1, None, True) as log:
        log.write(line(1) | {"grad_norm": math.inf, "terms": {"mse": math.nan}})
    found = json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=pytest.fail)
    assert found == line(1) | {"grad_norm": None, "terms": {"mse": None}}
