"""Faults of the machine: a full disk, a folder that cannot be written, flipped bytes, two writers, a clock that goes back, no memory.

Each ends with a message, a code other than 0, and the old state intact.
"""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import fuzzing
import killing as kills
from vdu import cli
from vdu.core import records
from vdu.core.errors import InputError
from vdu.core.records import atomic_file, atomic_folder, read_json, sha256_file, write_json
from vdu.core.runs import Run
from vdu.judges.classifier import load_judge
from vdu.posterior.gaussian import GaussianPosterior
from vdu.posterior.isotropic import fit_isotropic
from vdu.training.checkpoint import load_checkpoint
from vdu.training.ema import ExponentialMovingAverage

OPTIONS = "--data digits --steps 6 --batch-size 4 --checkpointing-steps 2 --warmup-steps 1".split()


@pytest.fixture
def pretrain(command, make_pipeline, tmp_path):
    """``vdu pretrain`` of a tiny model into a folder."""
    make_pipeline().save_pretrained(tmp_path / "model")

    def call(folder: Path, *more: str) -> int:
        return command("pretrain", "--from-pipeline", tmp_path / "model", *OPTIONS, "--output-dir", folder, *more)

    return call


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 1 MB that can be filled; needs root."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount; tests/test_bad_input.py has the same with a limit on file sizes")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


# the disk


@pytest.mark.skipif(not sys.platform.startswith("linux") or shutil.which("mount") is None, reason="needs mount")
def test_a_full_disk_keeps_what_was_complete_and_room_lets_it_go_on(pretrain, small_disk, tmp_path, capsys):
    assert pretrain(tmp_path / "truth") == 0
    run, filler = small_disk / "run", small_disk / "filler"
    codes = []
    for left in (60_000, 150_000, 250_000, 400_000):  # it is full at other moments
        free = shutil.disk_usage(small_disk).free
        with filler.open("wb") as file:
            file.write(bytes(max(0, free - left)))
        codes.append(pretrain(run, "--resume-from-checkpoint", "latest"))
        said = capsys.readouterr().err
        if codes[-1]:
            assert codes[-1] == 1 and "No space left" in said and "completed results are kept" in said
            assert "Traceback" not in said
        assert [path for path in run.rglob("*") if kills.LEFTOVER.fullmatch(path.name)] == []
        filler.unlink()
    assert codes[0] == 1
    assert pretrain(run, "--resume-from-checkpoint", "latest") == 0
    assert kills.faults(run, kills.content(tmp_path / "truth"), kills.content(run)) == []


def test_a_full_disk_leaves_the_old_file_and_no_new_one(small_disk):
    write_json(small_disk / "a.json", {"old": True})
    with pytest.raises(OSError, match="No space left"), atomic_file(small_disk / "a.json") as temporary:
        temporary.write_bytes(bytes(1 << 21))
    with pytest.raises(OSError, match="No space left"), atomic_folder(small_disk / "f") as folder:
        (folder / "one").write_bytes(bytes(1 << 21))
    assert read_json(small_disk / "a.json") == {"old": True}
    assert [path.name for path in small_disk.iterdir()] == ["a.json"]


def test_an_output_that_cannot_be_written_is_told(pretrain, tmp_path, capsys):
    locked = tmp_path / "locked"
    locked.mkdir()
    if os.geteuid() == 0:  # root may write anywhere but on a file system that is read-only
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", locked], capture_output=True)
        if mounted.returncode:
            pytest.skip("root without the right to mount")
    else:
        locked.chmod(0o500)
    try:
        assert pretrain(locked / "run") == 2
        said = capsys.readouterr().err
        assert "locked cannot be written in; expected a folder there" in said
        assert "Traceback" not in said
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", "-l", locked], check=True)


def test_a_disk_that_fails_while_flushing_keeps_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("old")

    def fail(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"), atomic_file(tmp_path / "a") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


# leftovers of the killed


def left_behind(tmp_path: Path, program: str) -> None:
    """Run a program that kills itself in the middle of writing."""
    code = f"import os, signal\nfrom pathlib import Path\nfrom vdu.core import records\nhere = Path({str(tmp_path)!r})\n{program}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL and locks")
def test_the_next_writer_of_a_file_removes_what_a_killed_one_left(tmp_path):
    left_behind(
        tmp_path,
        "with records.atomic_file(here / 'a') as path:\n"
        "    path.write_text('half'); (path.parent / '.tmpAbC123').write_text('safetensors writes such a one')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)",
    )
    assert len(names(tmp_path)) == 1 and kills.LEFTOVER.fullmatch(names(tmp_path)[0])
    with atomic_file(tmp_path / "b") as path:
        path.write_text("another file")
    assert len(names(tmp_path)) == 2  # of another name: not touched
    with atomic_file(tmp_path / "a") as path:
        path.write_text("whole")
    assert names(tmp_path) == ["a", "b"]


def test_the_file_of_a_living_writer_is_not_taken_for_a_leftover(tmp_path, monkeypatch):
    with atomic_file(tmp_path / "a") as first:
        first.write_text("first")
        monkeypatch.setattr(os, "getpid", lambda: 1)  # as another process
        with atomic_file(tmp_path / "a") as second:
            second.write_text("second")
        assert first.read_text() == "first"
        with atomic_folder(tmp_path / "a.d") as other:
            (other / "x").write_text("x")
        monkeypatch.undo()
    assert (tmp_path / "a").read_text() == "first"  # the last to finish
    assert names(tmp_path) == ["a", "a.d"]


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL and locks")
def test_a_folder_that_a_killed_process_had_moved_aside_comes_back(tmp_path):
    """Where two names cannot be exchanged at once, a kill between the two renames must not lose the older folder."""
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "judge.json").write_text("old")
    left_behind(
        tmp_path,
        "records._swap = lambda *_: False\n"
        "replace = os.replace\n"
        "def once(a, b):\n    replace(a, b)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.replace = once\n"
        "with records.atomic_folder(here / 'judge') as path:\n    (path / 'judge.json').write_text('new')",
    )
    assert not (tmp_path / "judge").exists()
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "judge"):
        raise KeyboardInterrupt
    assert (tmp_path / "judge" / "judge.json").read_text() == "old"
    assert names(tmp_path) == ["judge"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux exchanges two names at once")
def test_no_reader_ever_misses_a_folder_that_is_being_replaced(tmp_path):
    with atomic_folder(tmp_path / "f") as folder:
        (folder / "n").write_text("0")
    program = (
        "import sys\nfrom pathlib import Path\npath = Path(sys.argv[1])\nprint('ready', flush=True)\nmissing = 0\n"
        "while not (path.parent / 'stop').exists():\n    missing += not path.is_dir()\nprint(missing)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "f")], stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None and reader.stdout.readline() == "ready\n"
        for n in range(200):
            with atomic_folder(tmp_path / "f") as folder:
                (folder / "n").write_text(str(n))
        (tmp_path / "stop").write_text("")
        assert reader.stdout.readline() == "0\n"


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_a_kill_while_overwriting_leaves_a_run_that_can_be_overwritten(tmp_path, monkeypatch, after):
    """``--overwrite`` deletes many files; the record of whose folder it is goes last."""
    run = Run(tmp_path / "run", "unlearn")
    run.start("", {})
    for name in ("a", "b", "c"):
        (run.folder / name).write_text("x")
    run.finish()
    unlink, done = Path.unlink, []

    def stopped(self, *rest, **options):
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(self.name)
        return unlink(self, *rest, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", stopped)
        Run(tmp_path / "run", "unlearn", overwrite=True)
    assert read_json(tmp_path / "run" / "run.json")["finished"] is False  # not evaluated as if it were whole
    again = Run(tmp_path / "run", "unlearn", overwrite=True)
    again.start("", {})
    assert names(tmp_path / "run") == [".lock", "config.toml", "run.json"]
    again.close()


# flipped bytes


def flips(path: Path, n: int = 12) -> Iterator[None]:
    """One byte after another changed: the first, the last, and some between."""
    content = path.read_bytes()
    for place in sorted({0, len(content) - 1, *(len(content) * k // n for k in range(n))}):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        yield
    path.write_bytes(content)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    fuzzing.make_inputs(folder)
    return folder


@pytest.mark.parametrize("name", ["state.json", "model.safetensors", "optimizer.safetensors", "ema.safetensors"])
def test_a_flipped_byte_in_any_file_of_a_checkpoint_is_caught_and_named(sound, name):
    path = sound / "checkpoint-1"

    def load():
        network = torch.nn.Linear(3, 2)
        ema = ExponentialMovingAverage(network.named_parameters(), 0.9)
        load_checkpoint(path, network, torch.optim.AdamW(network.parameters()), ema, fingerprint="f")

    for _ in flips(path / name):
        with pytest.raises(InputError, match=f"{name}.*|not a checkpoint of format 1") as refused:
            load()
        assert "checkpoint-1" in str(refused.value)
    load()


@pytest.mark.parametrize("name", ["judge.json", "model.safetensors"])
def test_a_flipped_byte_in_a_judge_is_caught_and_named(sound, name):
    for _ in flips(sound / "judge" / name, 40):
        with pytest.raises(InputError, match=name):
            load_judge(sound / "judge")
    load_judge(sound / "judge")


def test_a_flipped_byte_in_a_posterior_is_caught_and_named(tmp_path):
    path = tmp_path / "posterior.safetensors"
    fit_isotropic(dict(torch.nn.Linear(3, 2).named_parameters()), 1e-4).save(path)
    for _ in flips(path, 200):
        with pytest.raises(InputError, match=r"posterior\.safetensors"):
            GaussianPosterior.load(path)
    GaussianPosterior.load(path)


def test_equal_posteriors_are_equal_files(tmp_path):
    """safetensors writes several metadata entries in random order; the checksum must not bring that in."""
    for i in range(16):  # with two entries, all in one order with a chance of 2⁻¹⁵
        fit_isotropic({"a": torch.zeros(3), "b": torch.ones(2)}, 1e-4).save(tmp_path / str(i))
    assert len({sha256_file(path) for path in tmp_path.iterdir()}) == 1


def test_older_files_without_the_new_checksums_are_read(sound, tmp_path):
    judge = Path(shutil.copytree(sound / "judge", tmp_path / "judge"))
    record = json.loads((judge / "judge.json").read_text())
    del record["record_sha256"]
    (judge / "judge.json").write_text(json.dumps(record))
    assert load_judge(judge)[1] == record
    posterior = fit_isotropic({"w": torch.zeros(2)}, 1e-4)
    posterior.save(tmp_path / "new")
    from safetensors import safe_open

    with safe_open(tmp_path / "new", "pt") as file:
        text = json.loads(file.metadata()["vdu_posterior"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    del text["checksum"]
    save_file(tensors, tmp_path / "old", metadata={"vdu_posterior": json.dumps(text)})
    assert GaussianPosterior.load(tmp_path / "old").sha256 == posterior.sha256


def test_a_flipped_byte_in_the_cache_of_own_samples_is_told_and_they_are_drawn_again(make_pipeline, capsys):
    from vdu.core.cache import cache_folder
    from vdu.diffusion.sampling import Sampler
    from vdu.models.denoiser import PipelineDenoiser
    from vdu.replay.generated import cached_samples

    denoiser, sampler = PipelineDenoiser.from_pipeline(make_pipeline()), Sampler("ddpm", steps=2)
    truth = cached_samples(denoiser, 5, sampler, progress=None)[0].images
    (path,) = cache_folder().rglob("*.safetensors")
    for _ in flips(path, 3):
        images, drawn = cached_samples(denoiser, 5, sampler, progress=None)
        assert torch.equal(images.images, truth) and drawn == 5
        assert "the generated samples are made again" in capsys.readouterr().err
    assert cached_samples(denoiser, 5, sampler, progress=None)[1] == 0


# versions and two writers


@pytest.mark.parametrize(
    ("version", "advice"), [(0, "Make the run again"), (2, "Use the vdu that wrote it"), (None, "Use the")]
)
def test_a_run_of_another_format_is_refused_by_name(tmp_path, version, advice):
    run = Run(tmp_path, "unlearn")
    run.start("", {})
    run.finish()
    write_json(tmp_path / "run.json", read_json(tmp_path / "run.json") | {"format_version": version})
    for take in (lambda: Run.reopen(tmp_path, "unlearn"), lambda: Run(tmp_path, "unlearn", resume=True)):
        with pytest.raises(InputError, match=rf"run\.json is not of format 1 but {version}\. {advice}"):
            take()


def test_a_second_process_with_the_same_run_is_refused_and_harms_nothing(pretrain, tmp_path, capsys):
    assert pretrain(tmp_path / "run") == 0
    before = kills.content(tmp_path / "run")
    holder = Run(tmp_path / "run", "pretrain", resume=True)
    for how in (["--resume-from-checkpoint", "latest"], ["--overwrite"]):
        assert pretrain(tmp_path / "run", *how) == 2
        assert "another process is writing this run" in capsys.readouterr().err
    assert kills.content(tmp_path / "run") == before
    holder.close()


# the clock


def test_a_clock_that_goes_back_makes_no_negative_seconds(pretrain, tmp_path, monkeypatch):
    import time

    now = iter(range(10**9, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))  # wall time; intervals are of the monotonic clock
    monkeypatch.setattr(time, "time_ns", lambda: next(now) * 10**9)
    assert pretrain(tmp_path / "run") == 0
    stages = read_json(tmp_path / "run" / "run.json")["stages"]
    assert stages and all(0 <= stage["seconds"] < 600 for stage in stages)


def test_no_source_measures_an_interval_by_the_wall_clock():
    for path in Path(records.__file__).parent.rglob("*.py"):
        assert "time.time()" not in path.read_text("utf-8"), path


# no memory


def too_much():
    torch.empty(2**46, dtype=torch.float64)  # half a petabyte: refused by any allocator


@pytest.mark.parametrize("kind", ["accelerator", "python", "PyTorch on the CPU"])
def test_out_of_memory_says_what_to_lower(capsys, kind):
    def action():
        if kind == "accelerator":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        if kind == "python":
            raise MemoryError
        too_much()

    assert cli._guarded(action) == 1
    said = capsys.readouterr().err
    for text in ("out of memory", "--batch-size", "--microbatch-size", "Completed results are kept"):
        assert text in said
    assert "Traceback" not in said


def test_another_runtime_error_keeps_its_traceback():
    def action():
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        cli._guarded(action)


@pytest.mark.slow
def test_out_of_memory_in_the_middle_of_training_keeps_the_checkpoint_and_resumes(
    pretrain, tmp_path, monkeypatch, capsys
):
    from vdu.training.batches import NoisyImages

    assert pretrain(tmp_path / "truth") == 0
    real = NoisyImages.__call__

    def hungry(self, step):
        if step == 3:
            too_much()
        return real(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(NoisyImages, "__call__", hungry)
        assert pretrain(tmp_path / "run") == 1
    assert "--batch-size" in capsys.readouterr().err
    assert names(tmp_path / "run" / "checkpoints") == ["checkpoint-2"]
    assert pretrain(tmp_path / "run", "--resume-from-checkpoint", "latest") == 0
    assert kills.faults(tmp_path / "run", kills.content(tmp_path / "truth"), kills.content(tmp_path / "run")) == []
