import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vdu.core import runs
from vdu.core.errors import InputError
from vdu.core.records import FORMAT_VERSION, read_json, write_json
from vdu.core.runs import Run


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def started(folder: Path, verb: str = "unlearn", config: str = "seed = 0\n", **options) -> Run:
    run = Run(folder, verb, **options)
    run.start(config, {"model": {"sha256": "ab"}})
    return run


def test_a_run_records_settings_stages_and_results(tmp_path):
    run = started(tmp_path / "run")
    assert read_json(run.folder / "run.json")["finished"] is False
    with run.stage("unlearn") as cost:
        cost["network_evaluations"] = 12
    run.finish(pipeline={"sha256": "cd"})
    record = read_json(run.folder / "run.json")
    assert (record["format_version"], record["verb"], record["finished"]) == (FORMAT_VERSION, "unlearn", True)
    assert record["inputs"] == {"model": {"sha256": "ab"}}
    assert record["pipeline"] == {"sha256": "cd"}
    (stage,) = record["stages"]
    assert stage["stage"] == "unlearn"
    assert stage["network_evaluations"] == 12
    assert 0 <= stage["seconds"] < 5
    assert (run.folder / "config.toml").read_text() == "seed = 0\n"


def test_a_file_of_settings_does_not_hold_how_the_folder_was_entered(tmp_path):
    """A run that is made again from it, with another seed, must not empty the folder of the first."""
    config = 'overwrite = true\nresume_from_checkpoint = "latest"\nseed = 0\nforget = "overwrite = true"\n'
    run = started(tmp_path / "run", config=config)
    run.finish()
    assert (run.folder / "config.toml").read_text() == 'seed = 0\nforget = "overwrite = true"\n'


def test_a_used_folder_is_refused(tmp_path):
    started(tmp_path).finish()
    with pytest.raises(InputError, match="already holds files. Use --overwrite to start anew"):
        Run(tmp_path, "unlearn")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file; expected a folder"):
        Run(tmp_path / "file", "unlearn")


def test_what_a_killed_process_left_behind_is_swept_and_never_refused(tmp_path):
    """SIGKILL between the first record's temporary file and its rename leaves that file and nothing else."""
    folder = tmp_path / "run"
    (folder / ".checkpoint-3.17.tmp").mkdir(parents=True)
    (folder / ".checkpoint-3.17.tmp" / "state.json").write_text("half")
    (folder / ".run.json.17.tmp").write_text("{")
    for resume in (False, True):
        run = Run(folder, "unlearn", resume=resume)
        run.start("", {})
        assert sorted(path.name for path in folder.iterdir()) == [".lock", "config.toml", "run.json"]
        run.close()
        (folder / "deeper").mkdir(exist_ok=True)
        (folder / "deeper" / ".pipeline.18.tmp").mkdir()
        with pytest.raises(InputError, match="already holds files"):
            Run(folder, "unlearn")
        Run(folder, "unlearn", resume=True).close()
        assert not list((folder / "deeper").iterdir())
        for name in ("run.json", "config.toml"):
            (folder / name).unlink()
        (folder / "deeper").rmdir()


def test_overwrite_clears_a_run_of_ours_and_refuses_a_strangers_folder(tmp_path):
    ours, foreign = tmp_path / "ours", tmp_path / "photos"
    started(ours).finish()
    (ours / "old.png").write_text("x")
    Run(ours, "unlearn", overwrite=True).close()
    assert names(ours) == [".lock"]
    foreign.mkdir()
    (foreign / "holiday.jpg").write_text("precious")
    with pytest.raises(InputError, match=r"no run\.json, so it is not a run folder; --overwrite does not delete it"):
        Run(foreign, "unlearn", overwrite=True)
    assert names(foreign) == ["holiday.jpg"]


def test_a_folder_with_nothing_but_a_lock_is_free(tmp_path):
    Run(tmp_path, "unlearn").close()  # killed before it wrote anything
    started(tmp_path).finish()


HOLDER = """
import sys
from vdu.core.runs import Run
run = Run(sys.argv[1], "unlearn")
run.start("", {})
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_and_a_dead_one_holds_nothing(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        for options in ({"overwrite": True}, {"resume": True}):
            with pytest.raises(InputError, match="another process is writing this run"):
                Run(tmp_path, "unlearn", **options)
        assert (tmp_path / "run.json").exists()  # --overwrite must not delete what another process writes
        holder.kill()
    Run(tmp_path, "unlearn", resume=True).close()


def test_a_failed_stage_gives_the_folder_free(tmp_path):
    run = started(tmp_path)
    with pytest.raises(KeyboardInterrupt), run.stage("unlearn"):
        raise KeyboardInterrupt
    again = started(tmp_path, resume=True)
    with again.stage("unlearn"):
        pass
    again.finish()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        InputError, match=r"--output-dir: got .*file/run, and .*/file is a file; expected a folder there"
    ):
        Run(tmp_path / "file" / "run", "unlearn")


def test_only_a_run_of_the_same_verb_is_resumed(tmp_path, capsys):
    started(tmp_path / "a", "pretrain").close()
    with pytest.raises(InputError, match="holds a run of 'pretrain'; expected a run of 'unlearn' to continue"):
        Run(tmp_path / "a", "unlearn", resume=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "holiday.jpg").write_text("precious")
    with pytest.raises(InputError, match="holds files but no run of this package"):
        Run(tmp_path / "b", "unlearn", resume=True)
    assert "nothing there" not in capsys.readouterr().err
    Run(tmp_path / "c", "unlearn", resume=True).close()
    assert f"{tmp_path / 'c'}: nothing to continue; starting a new run" in capsys.readouterr().err


def test_a_resumed_run_keeps_its_settings_until_a_stage_is_done(tmp_path):
    started(tmp_path, config="seed = 1\n").close()
    again = started(tmp_path, config="seed = 2\n", resume=True)
    with pytest.raises(InputError, match="other settings"), again.stage("unlearn"):
        raise InputError("other settings")
    assert (tmp_path / "config.toml").read_text() == "seed = 1\n"
    third = started(tmp_path, config="seed = 3\n", resume=True)
    with third.stage("unlearn"):
        pass
    assert (tmp_path / "config.toml").read_text() == "seed = 3\n"
    third.close()


def test_a_repeated_stage_replaces_its_cost(tmp_path):
    run = started(tmp_path)
    for evaluations in (1, 2):
        with run.stage("evaluate") as cost:
            cost["network_evaluations"] = evaluations
    assert [stage["network_evaluations"] for stage in read_json(tmp_path / "run.json")["stages"]] == [2]
    run.close()


def test_reopen_takes_up_a_finished_run_of_the_right_verb(tmp_path):
    run = started(tmp_path)
    run.close()
    with pytest.raises(InputError, match="holds an unfinished run of 'unlearn'; expected a finished run of 'unlearn'"):
        Run.reopen(tmp_path, "unlearn")
    run = started(tmp_path, resume=True)
    with run.stage("unlearn"):
        pass
    run.finish(pipeline={"sha256": "cd"})
    with pytest.raises(InputError, match="expected a finished run of 'pretrain'"):
        Run.reopen(tmp_path, "pretrain")
    again = Run.reopen(tmp_path, "unlearn")
    with again.stage("evaluate"):
        pass
    record = read_json(tmp_path / "run.json")
    assert [stage["stage"] for stage in record["stages"]] == ["unlearn", "evaluate"]
    assert record["pipeline"] == {"sha256": "cd"}
    assert (tmp_path / "config.toml").read_text() == "seed = 0\n"
    again.close()
    write_json(tmp_path / "run.json", record | {"format_version": 99})
    with pytest.raises(InputError, match=r"run\.json is not of format 1"):
        Run.reopen(tmp_path, "unlearn")


@pytest.mark.parametrize("value", ["8", ""])
def test_a_rank_without_a_launcher_is_none(tmp_path, monkeypatch, value):
    """A script's RANK of LoRA, for example."""
    monkeypatch.setenv("RANK", value)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    started(tmp_path).finish()
    assert read_json(tmp_path / "run.json")["finished"]
    monkeypatch.setenv("WORLD_SIZE", "1.0")
    with pytest.raises(
        InputError, match=r"WORLD_SIZE: got '1\.0' in the environment; expected a whole number, as torchrun sets it"
    ):
        started(tmp_path, resume=True)


def test_only_the_first_process_of_a_torchrun_writes(tmp_path, monkeypatch):
    first = started(tmp_path / "run")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    second = started(tmp_path / "run", config="seed = 2\n")  # neither refused nor locked out
    with second.stage("unlearn"):
        pass
    with second.replacing("pipeline") as temporary:
        (temporary / "weights").write_text("second")
    second.finish(pipeline={"sha256": "cd"})
    assert not temporary.exists()
    with first.replacing("pipeline") as temporary:
        (temporary / "weights").write_text("first")
    assert (tmp_path / "run" / "pipeline" / "weights").read_text() == "first"
    assert read_json(tmp_path / "run" / "run.json")["finished"] is False
    assert (tmp_path / "run" / "config.toml").read_text() == "seed = 0\n"
    first.close()
    shutil.rmtree(tmp_path / "run")


def test_what_a_stage_counts_as_a_whole_is_not_added_to_its_earlier_part(tmp_path):
    for k, resume in enumerate((False, True)):
        run = Run(tmp_path / "r", "unlearn", resume=resume)
        run.start("", {})
        for name, whole in (("own samples", {"whole": True}), ("train", {})):
            with run.stage(name) as cost:
                cost |= {"network_evaluations": 100, **whole}
        if k:
            run.drop_stages("train")  # begun anew: its earlier cost is of another evaluation
            with run.stage("train") as cost:
                cost["network_evaluations"] = 7
        run.finish()
    found = {each["stage"]: each for each in read_json(tmp_path / "r" / "run.json")["stages"]}
    assert (found["own samples"]["network_evaluations"], found["train"]["network_evaluations"]) == (100, 7)
    assert "whole" not in found["own samples"] and "resumed" not in found["train"]


def part(folder, *evaluations, **options):
    """A run of the stages "first" and "second" at these costs; one of None is interrupted."""
    run = started(folder, **options)
    for name, count in zip(("first", "second"), evaluations, strict=True):
        with run.stage(name) as cost:
            if count is None:
                raise KeyboardInterrupt
            cost["network_evaluations"] = count
    run.finish()


def costs(folder) -> dict:
    """Evaluations of each stage, and whether they are all that is known."""
    stages = read_json(folder / "run.json")["stages"]
    return {each["stage"]: (each["network_evaluations"], "resumed" in each) for each in stages}


@pytest.mark.parametrize(
    ("interrupted", "found"),
    [
        ([], {"first": (11, False), "second": (700, False)}),
        ([(1, None)], {"first": (12, False), "second": (100, True)}),
        ([(None, 0)], {"first": (11, True), "second": (700, False)}),
    ],
)
def test_a_continuation_that_is_interrupted_makes_a_lower_bound_of_the_cost(tmp_path, interrupted, found):
    """10 and 600 evaluations, then what an interruption lost, then 1 and 100."""
    part(tmp_path, 10, 600)
    for counts in interrupted:
        before = (tmp_path / "run.json").read_bytes()
        with pytest.raises(KeyboardInterrupt):
            part(tmp_path, *counts, resume=True)
        assert counts[0] or (tmp_path / "run.json").read_bytes() == before  # evidence knows the file by its hash
    part(tmp_path, 1, 100, resume=True)
    assert costs(tmp_path) == found and names(tmp_path) == [".lock", "config.toml", "run.json"]


def test_a_run_of_another_identity_is_not_continued(tmp_path):
    def start(identity, **options):
        run = Run(tmp_path, "unlearn", **options)
        run.start("", {}, identity=identity)
        return run

    start("a").finish()
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(
        InputError,
        match=r"was written with other settings, data or model \(or number of processes\) than the present ones",
    ):
        start("b", resume=True)
    assert (tmp_path / "run.json").read_bytes() == before and names(tmp_path) == [".lock", "config.toml", "run.json"]
    start("a", resume=True).finish()
    record = read_json(tmp_path / "run.json")
    write_json(tmp_path / "run.json", {name: record[name] for name in record if name != "identity"})  # earlier
    start("b", resume=True).finish()
    assert read_json(tmp_path / "run.json")["identity"] == "b"


def test_a_run_names_the_machines_of_its_earlier_parts(tmp_path, monkeypatch):
    parts = [("a", ""), ("a", ""), ("b", "a"), ("c", "ab"), ("a", "bc")]
    for k, (machine, earlier) in enumerate(parts):
        monkeypatch.setattr(runs, "environment", lambda machine=machine: {"machine": machine})
        started(tmp_path, resume=bool(k)).finish()
        record = read_json(tmp_path / "run.json")
        assert record["environment"] == {"machine": machine}
        assert [each["machine"] for each in record.get("earlier_environments", ())] == list(earlier)


def test_a_run_of_which_no_earlier_part_is_left_names_no_earlier_machine(tmp_path, monkeypatch):
    for machine in "ab":
        monkeypatch.setattr(runs, "environment", lambda machine=machine: {"machine": machine})
        run = started(tmp_path, resume=machine == "b")
        run.drop_machines()
        run.finish()
    record = read_json(tmp_path / "run.json")
    assert record["environment"] == {"machine": "b"} and "earlier_environments" not in record


def test_processes_in_two_folders_are_at_two_steps(tmp_path, monkeypatch):
    """A launcher that finds a folder taken goes on with the next, and all of its processes do."""
    steps = []
    monkeypatch.setattr(runs, "first_decides", lambda step, make: steps.append(step) or make())
    for name in "ab":
        started(tmp_path / name).finish()
    assert len(steps) == len(set(steps)) == 6


def test_a_run_made_anew_is_another_one_if_its_text_encoder_alone_is_another(tmp_path, capsys):
    def record(path, parts, forgotten):
        (path / "pipeline").mkdir(parents=True, exist_ok=True)
        of_model = {"path": None, "sha256": "u"}
        inputs = {"model": of_model, "forget": {"classes": [forgotten]}}
        made = {"sha256": "u", "parts_sha256": parts}
        values = {
            "format_version": FORMAT_VERSION,
            "verb": "unlearn",
            "finished": "now",
            "inputs": inputs,
            "pipeline": made,
        }
        write_json(path / "run.json", values)

    record(tmp_path / "run", "first", "cat")
    model = {"path": str(tmp_path / "run" / "pipeline"), "sha256": "u", "parts_sha256": "first"}
    assert runs.forgotten_before(model) == ("cat",)
    assert runs.forgotten_before({"path": model["path"], "sha256": "u"}) == ("cat",)  # a record of before
    record(tmp_path / "run", "second", "fish")
    assert runs.forgotten_before(model) == () and "holds another run by now" in capsys.readouterr().err
