"""``vdu pretrain --members K``: K runs with seeds of their own, which go on with what is missing."""

import json
import shutil

import pytest

from vdu.commands import pretrain
from vdu.commands.pretrain import PretrainSettings
from vdu.core.errors import InputError
from vdu.core.records import read_json
from vdu.core.runs import Run
from vdu.training.batches import NoisyImages


@pytest.fixture
def tiny(make_pipeline, tmp_path):
    make_pipeline().save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def options(tiny):
    def make(folder, **changes) -> PretrainSettings:
        fixed = {"steps": 3, "batch_size": 4, "learning_rate": 1e-2, "warmup_steps": 0, "checkpointing_steps": 2}
        fixed |= {"data": "digits", "from_pipeline": tiny, "seed": 5, "members": 2}
        return PretrainSettings(output_dir=folder, **fixed | changes)

    return make


@pytest.fixture
def steps(monkeypatch):
    """The training steps that are done; ``stop`` in it raises a Ctrl-C at so many."""
    done, real = [], NoisyImages.__call__

    def call(self, step):
        if len(done) == getattr(call, "stop", None):
            raise KeyboardInterrupt
        done.append(step)
        return real(self, step)

    monkeypatch.setattr(NoisyImages, "__call__", call)
    return done, call


def test_a_seed_that_the_last_member_cannot_have_is_refused_before_the_first(options, steps, tmp_path):
    with pytest.raises(InputError, match="--seed: got 9223372036854775807 for 2 members"):
        pretrain.run(options(tmp_path / "run", seed=2**63 - 1))
    assert not steps[0] and not (tmp_path / "run").exists()


def sha256(folder) -> str:
    return read_json(folder / "run.json")["pipeline"]["sha256"]


def times(folder) -> dict:
    """Of all checkpoints."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("checkpoint*/*") if path.is_file()}


def test_members_are_single_runs_with_seeds_in_a_row(options, tmp_path):
    summary = pretrain.run(options(tmp_path / "all"))
    assert summary == {f"member-{k}": str(tmp_path / "all" / f"member-{k}" / "pipeline") for k in (0, 1)}
    truth = [pretrain.run(options(tmp_path / f"{seed}", seed=seed, members=1))["sha256"] for seed in (5, 6)]
    assert [sha256(tmp_path / "all" / f"member-{k}") for k in (0, 1)] == truth
    assert truth[0] != truth[1]
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["member-0", "member-1"]


def test_what_is_done_is_not_trained_again(options, tmp_path, steps):
    first = pretrain.run(options(tmp_path / "all"))
    ends, before = [sha256(tmp_path / "all" / name) for name in first], times(tmp_path / "all")
    assert steps[0] == [0, 1, 2] * 2
    assert before
    assert pretrain.run(options(tmp_path / "all")) == first
    assert steps[0] == [0, 1, 2] * 2
    assert times(tmp_path / "all") == before
    shutil.rmtree(tmp_path / "all" / "member-0")
    assert pretrain.run(options(tmp_path / "all", members=3)).keys() == {*first, "member-2"}
    assert steps[0] == [0, 1, 2] * 4
    assert [sha256(tmp_path / "all" / name) for name in first] == ends
    assert all(path.stat().st_mtime_ns == time for path, time in before.items() if "member-1" in str(path))


def test_interrupted_members_end_in_the_same_bits(options, tmp_path, steps):
    truth = pretrain.run(options(tmp_path / "truth"))
    steps[0].clear()
    steps[1].stop = 5  # in the last step of member 1
    with pytest.raises(KeyboardInterrupt):
        pretrain.run(options(tmp_path / "all"))
    steps[1].stop = None
    pretrain.run(options(tmp_path / "all"))
    assert steps[0] == [0, 1, 2, 0, 1, 2]  # on from the checkpoint of step 2
    assert [sha256(tmp_path / "all" / k) for k in truth] == [sha256(tmp_path / "truth" / k) for k in truth]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_member_in_other_hands_is_left_to_them(options, tmp_path, overwrite):
    held = Run(tmp_path / "all" / "member-0", "pretrain")
    held.start("", {})
    summary = pretrain.run(options(tmp_path / "all", overwrite=overwrite))
    assert summary["member-0"] == "left to the process that is making it"
    assert summary["member-1"] == str(tmp_path / "all" / "member-1" / "pipeline")
    assert not (tmp_path / "all" / "member-0" / "pipeline").exists()
    assert (tmp_path / "all" / "member-0" / "run.json").exists()
    held.close()
    assert pretrain.run(options(tmp_path / "all"))["member-0"] == str(tmp_path / "all" / "member-0" / "pipeline")
    assert len(times(tmp_path / "all" / "member-0")) > 0


def test_any_other_trouble_stops(options, tmp_path):
    (tmp_path / "all" / "member-1").mkdir(parents=True)
    (tmp_path / "all" / "member-1" / "holiday.jpg").write_text("precious")
    with pytest.raises(InputError, match="holds files but no run of this package"):
        pretrain.run(options(tmp_path / "all"))
    pretrain.run(options(tmp_path / "other"))
    with pytest.raises(InputError, match="was written with other settings, data or model"):
        pretrain.run(options(tmp_path / "other", learning_rate=1e-3))


def test_overwrite_trains_anew(options, tmp_path):
    pretrain.run(options(tmp_path / "all"))
    pretrain.run(options(tmp_path / "all", overwrite=True, seed=6))
    truth = pretrain.run(options(tmp_path / "truth", seed=6))
    assert [sha256(tmp_path / "all" / k) for k in truth] == [sha256(tmp_path / "truth" / k) for k in truth]


def test_members_from_the_command_line(tiny, tmp_path, command, capsys):
    tokens = ("--data", "digits", "--from", tiny, "--output-dir", tmp_path / "all", "--steps", 1, "--batch-size", 2)
    assert command("pretrain", *tokens, "--members", 2, "--json") == 0
    assert json.loads(capsys.readouterr().out).keys() == {"member-0", "member-1"}
    assert command("pretrain", *tokens, "--members", 0) == 2
    assert "Got 0; expected at least 1." in capsys.readouterr().err
