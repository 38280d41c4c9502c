"""Kill −9 at seeded random moments, resume as documented, and compare every bit with an undisturbed run.

A job is one verb on a model of ten thousand weights. A trial runs it in a folder of its own, kills its process group one to
three times, each time starting it again the documented way, lets it finish, and then asks that

    every file that matters has the bits of the undisturbed run (JSON without times and evaluations, see ``TIMES``),
    no leftover of a writer is there, every JSON parses, every safetensors file opens, every recorded checksum is right.

Half of the kills come at a uniformly random moment of the undisturbed run's duration; the other half wait for such a moment
and then for a writer at work (its temporary folder appears), and strike up to 3 ms later.

To make a kill cost less than a second, a server that has imported everything forks a child per start; the child runs
``vdu.cli.main``. Not covered by that: the seconds in which Python, torch and diffusers are imported and in which nothing is
written. So some trials start a real process (``python -m vdu``), and may be killed during its imports too.

Not guaranteed: anything about power loss (the files are flushed before they are renamed, but a test cannot pull the plug), nor
that a kill falls between two given instructions: only many random ones.
"""

import csv
import json
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["JOBS", "Bench", "Trial", "faults", "open_bench", "run_trial"]

ROOT = Path(__file__).resolve().parents[1]
LEFTOVER = re.compile(r"\..+\.\d+\.(tmp|old)|\.tmp.*")
# differs between two runs of the same thing: times, what was done in this process, and where the package's history stands
TIMES = {
    "date",
    "seconds",
    "network_evaluations",
    "resumed",
    "commit",
    "command",
    "cost",
    "cells",
    "sha256",
    "environment",
}
MODEL = {
    "sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8,), "layers_per_block": 1,
    "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "norm_num_groups": 4, "attention_head_dim": 4,
}  # fmt: skip
TABLE = """
title = "Tiny"
[paper]
network = { digits = "small" }
values = [{ dataset = "digits", forget = "3", row = "gamma", pul = 50.0, u_fid = 1.0 }]
[rows.gamma]
label = "VDU"
options = { method = "vdu", gamma = 0.1, learning_rate = 1e-5, batch_size = 8 }
epochs = 0.05
posterior = "fisher"
[[runs.smoke]]
dataset = "digits"
rows = ["gamma"]
forget = ["3"]
seeds = [0]
n_images = 60
[scales.smoke.digits]
original = "PIPELINE"
network = "small"
data = "digits"
pretrain = { steps = 6, batch_size = 8, learning_rate = 1e-3, warmup_steps = 1, ema_decay = 0.9 }
members = 2
ensemble = "independent"
retrained = ["3"]
sampler = { scheduler = "ddpm", inference_steps = 3 }
n_train = 1500
n_own_samples = 60
n_fisher_samples = 4
timesteps_per_sample = 2
min_original = 1
judge = "train:cnn"
second_judge = "train:lenet"
"""


@dataclass(frozen=True)
class Job:
    """One verb as it is killed and resumed.

    Attributes:
        start: the first command; ``{base}`` is the bench's folder, ``{out}`` the trial's.
        resume: what is added when it is started again; None adds nothing (the same command again).
        overwrites: ``--overwrite`` is a way to start again too.
        needs: a folder of the bench that is copied to ``{out}`` first.
    """

    start: str
    resume: str | None = "--resume-from-checkpoint latest"
    overwrites: bool = True
    needs: str | None = None


JOBS = {
    "pretrain": Job(
        "pretrain --from-pipeline {base}/model --data digits --steps 60 --batch-size 4 --warmup-steps 5 "
        "--checkpointing-steps 4 --output-dir {out}"
    ),
    "posterior": Job(
        "posterior fisher --pipeline {base}/model --n-train 1500 --n-samples 24 --draws-per-half 4 --inference-steps 5 "
        "--microbatch-size 4 --calibrate 0.05 --output-dir {out}"
    ),
    "unlearn": Job(
        "unlearn --pipeline {base}/model --forget digits --forget-class 3 --method vdu --posterior {base}/posterior "
        "--steps 40 --batch-size 4 --learning-rate 1e-5 --checkpointing-steps 3 --output-dir {out}"
    ),
    "judge": Job("judge --data digits --output-dir {out} --epochs 2 --batch-size 32"),
    "evaluate": Job(
        "evaluate {out} --judge {base}/judge --reference digits --n-images 60 --inference-steps 4 --microbatch-size 10 "
        "--suite none",
        resume=None, overwrites=False, needs="unlearned",
    ),
    "reproduce": Job(
        "reproduce {base}/tiny.toml --scale smoke --output-dir {out}", resume=None, overwrites=False
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """What a trial did.

    Attributes:
        job: the verb.
        seed: of the moments.
        kills: what each kill met: "uniform" or "writing"; "late" where the job was done before.
        real: a real process instead of a forked one.
        faults: what was wrong in the end; empty if nothing.
        writers: how many temporary folders the kills left behind.
    """

    job: str
    seed: int
    kills: tuple[str, ...]
    real: bool
    faults: tuple[str, ...]
    writers: int = 0


@dataclass
class Bench:
    """The jobs' inputs, the truths, and the server that forks.

    Attributes:
        folder: where all is.
        server: the process that forks.
        truths: verb → path → content of the undisturbed run.
        durations: verb → seconds of it.
    """

    folder: Path
    server: subprocess.Popen[str]
    truths: dict[str, dict[str, str]] = field(default_factory=dict)
    durations: dict[str, float] = field(default_factory=dict)

    def tokens(self, job: Job, out: Path, how: str = "") -> list[str]:
        """The command line of a job in a folder, with what is added at the end."""
        return f"{job.start} {how}".format(base=self.folder, out=out).split()

    def truth(self, name: str) -> dict[str, str]:
        """What the undisturbed run leaves; made once, and timed."""
        if name not in self.truths:
            job, out = JOBS[name], self.folder / "truth" / name / "out"
            self._place(job, out)
            began = time.monotonic()
            with self.started(self.tokens(job, out), out.parent) as process:
                code = process.wait()
            self.durations[name] = time.monotonic() - began
            said = (out.parent / "said").read_text("utf-8", "replace")
            assert code == 0, f"{name}, undisturbed: exit code {code}\n{said[-3000:]}"
            self.truths[name] = content(out)
        return self.truths[name]

    def _place(self, job: Job, out: Path) -> None:
        out.parent.mkdir(parents=True)
        if job.needs:
            shutil.copytree(self.folder / job.needs, out)

    @contextmanager
    def started(self, tokens: list[str], place: Path, *, real: bool = False) -> Iterator["Child"]:
        """A job at work; its own samples are cached in ``place``, and what it says is in ``place/said``."""
        environment = {"VDU_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"}
        if real:
            with open(place / "said", "ab") as said:
                process = subprocess.Popen(
                    [sys.executable, "-m", "vdu", *tokens], stdout=said, stderr=said, env=os.environ | environment,
                    start_new_session=True,
                )  # fmt: skip
            child = Child(process.pid, process)
        else:
            assert self.server.stdin is not None and self.server.stdout is not None
            print(json.dumps([tokens, str(place / "said"), environment]), file=self.server.stdin, flush=True)
            child = Child(int(self.server.stdout.readline()), None, self.server)
        try:
            yield child
        finally:
            child.kill()


class Child:
    """A started job.

    Args:
        pid: its process, the leader of its group.
        process: where it is a process of ours.
        server: where it was forked by the server, which tells its end.
    """

    def __init__(self, pid: int, process: Any, server: Any = None) -> None:
        self.pid, self.process, self.server, self.code = pid, process, server, None

    def poll(self) -> int | None:
        """The exit code (−9 after a kill), or None while it runs."""
        if self.code is None and self.process is not None:
            self.code = self.process.poll()
        elif self.code is None and select.select([self.server.stdout], [], [], 0)[0]:
            self.code = int(self.server.stdout.readline())
        return self.code

    def wait(self, seconds: float = 300.0) -> int:
        """Wait for its end."""
        deadline = time.monotonic() + seconds
        while (code := self.poll()) is None:
            assert time.monotonic() < deadline, "the job hangs"
            time.sleep(0.002)
        return code

    def kill(self) -> int:
        """SIGKILL for the whole group, and its exit code."""
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
        return self.wait()


def _serve() -> None:
    """Fork a child per line of standard input: print its process id, and its exit code when it ends."""
    import diffusers
    import sklearn.datasets
    import torch

    from vdu import cli
    from vdu.commands import evaluate, judge, posterior, pretrain, unlearn
    from vdu.paper import reproduce

    torch.set_num_threads(1)
    assert all((diffusers.DDPMPipeline, sklearn.datasets, evaluate, judge, posterior, pretrain, reproduce, unlearn))
    for line in sys.stdin:
        tokens, said, environment = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)  # its own group, as the parent does too: whoever is first
            place = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            for standard in (1, 2):
                os.dup2(place, standard)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.environ.update(environment)
            sys.argv = ["vdu", *tokens]
            code = 1
            try:
                cli.main(tokens)
            except SystemExit as stop:
                code = int(stop.code or 0)
            except BaseException:
                import traceback

                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        try:
            os.setpgid(pid, pid)  # the child may be killed before its own
        except OSError:  # it was quicker
            pass
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


@contextmanager
def open_bench(folder: Path) -> Iterator[Bench]:
    """A bench with all inputs made: model, posterior, judge and a finished unlearning.

    Args:
        folder: a new folder, better on a quick disk.

    Yields:
        The bench.
    """
    import torch
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        DDPMPipeline(UNet2DModel(**MODEL), DDPMScheduler()).save_pretrained(folder / "new")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__)), "--serve"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    bench = Bench(folder, server)
    try:
        for tokens in (
            f"pretrain --from-pipeline {folder}/new --data digits --steps 250 --batch-size 32 --learning-rate 4e-3 "
            f"--warmup-steps 20 --ema-decay 0.95 --output-dir {folder}/pretrained",
            f"posterior fisher --pipeline {folder}/pretrained/pipeline --n-train 1500 --n-samples 12 --draws-per-half 2 "
            f"--inference-steps 4 --output-dir {folder}/posterior",
            f"judge --data digits --output-dir {folder}/judged --epochs 2",
            f"unlearn --pipeline {folder}/model --forget digits --forget-class 3 --method vdu --posterior "
            f"{folder}/posterior --steps 4 --batch-size 4 --learning-rate 1e-5 --output-dir {folder}/unlearned",
        ):
            with bench.started(tokens.split(), folder) as child:
                code = child.wait()
            assert code == 0, (folder / "said").read_text("utf-8", "replace")[-3000:]
            if not (folder / "model").exists():
                shutil.copytree(folder / "pretrained" / "pipeline", folder / "model")
        judges = sorted((folder / "judged").rglob("judge.json"))
        shutil.copytree(judges[0].parent, folder / "judge")
        (folder / "tiny.toml").write_text(TABLE.replace("PIPELINE", str(folder / "model")), encoding="utf-8")
        yield bench
    finally:
        assert server.stdin is not None
        server.stdin.close()
        server.wait(30)


def run_trial(bench: Bench, name: str, seed: int, *, real: bool = False, kills: int | None = None) -> Trial:
    """Kill a job, resume it, let it finish, compare.

    Args:
        bench: with the inputs.
        name: the verb.
        seed: of the moments.
        real: start real processes instead of forked ones.
        kills: how many; None draws one to three.

    Returns:
        What happened.
    """
    truth, job = bench.truth(name), JOBS[name]
    chance = random.Random(f"{name} {seed}")
    out = bench.folder / "trials" / f"{name}-{seed}{'-real' if real else ''}" / "out"
    bench._place(job, out)
    again = job.resume or ""
    met, writers, found = [], 0, []
    for k in range(kills or chance.choice((1, 1, 2, 3))):
        how = again if k else ""
        if k and job.overwrites and chance.random() < 0.2:
            how = "--overwrite" if (out / "run.json").exists() else again
        span = bench.durations[name] + (4.0 if real else 0.0)  # the imports
        wanted = chance.choice(("uniform", "writing"))
        with bench.started(bench.tokens(job, out, how), out.parent, real=real) as child:
            struck = _strike(child, out.parent, wanted, chance.uniform(0, span), chance.uniform(0, 0.003))
        met.append(struck)
        writers += sum(1 for path in _walk(out.parent) if LEFTOVER.fullmatch(path.name))
        if struck == "late" and child.code != 0:
            found.append(f"start {k + 1} ({how or 'first'}): exit code {child.code}: {_last_words(out.parent)}")
    with bench.started(bench.tokens(job, out, again), out.parent, real=real) as child:
        code = child.wait()
    if code:
        found.append(f"the last start: exit code {code}: {_last_words(out.parent)}")
    else:
        found += faults(out.parent, truth, content(out))
    if not found:
        shutil.rmtree(out.parent)  # those with faults stay to be looked at
    return Trial(name, seed, tuple(met), real, tuple(found), writers)


def _strike(child: Child, place: Path, wanted: str, after: float, delay: float) -> str:
    """Kill at a moment; the kind of moment that it became."""
    deadline = time.monotonic() + after
    while time.monotonic() < deadline:
        if child.poll() is not None:
            return "late"
        time.sleep(0.0005)
    if wanted == "writing":
        while not any(LEFTOVER.fullmatch(path.name) for path in _walk(place)):
            if child.poll() is not None:
                return "late"
        time.sleep(delay)
    if child.poll() is not None:
        return "late"
    return wanted if child.kill() == -signal.SIGKILL else "late"


def _walk(folder: Path) -> Iterator[Path]:
    """Everything below a folder, in one that others are changing."""
    for here, folders, files in os.walk(folder, onerror=lambda _: None):
        for each in (*folders, *files):
            yield Path(here) / each


def _last_words(place: Path) -> str:
    return " | ".join((place / "said").read_text("utf-8", "replace").strip().splitlines()[-3:])


def content(out: Path) -> dict[str, str]:
    """Every file of a finished run by what must be equal: bytes, or JSON and CSV without times, the run's own path taken out."""
    from vdu.core.records import sha256_bytes

    found = {}
    for path in sorted(_walk(out)):
        if not path.is_file() or path.name.endswith(".lock"):
            continue
        data = path.read_bytes().replace(str(out).encode(), b"OUT")
        if path.suffix == ".json" and path.name != "state.json":
            data = json.dumps(_timeless(json.loads(data)), sort_keys=True).encode()
        if path.suffix == ".csv":
            lines = csv.DictReader(data.decode().splitlines())
            data = json.dumps([_timeless(line) for line in lines], sort_keys=True).encode()
        if path.suffix == ".md":
            data = re.sub(rb"\| [\d.]+ \|$", b"|", data, flags=re.MULTILINE)  # a table's last column: seconds
        if path.name == "config.toml":
            data = re.sub(rb"^(resume_from_checkpoint|overwrite) = .*\n", b"", data, flags=re.MULTILINE)
        found[str(path.relative_to(out))] = sha256_bytes(data)
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {name: each for name, each in value.items() if name not in TIMES and not name.endswith("_seconds")}
        return {name: _timeless(each) for name, each in kept.items()}
    return [_timeless(each) for each in value] if isinstance(value, list) else value


def faults(place: Path, truth: dict[str, str], got: dict[str, str]) -> list[str]:
    """What is wrong with a trial's folder, in words.

    Args:
        place: the folder with the run and its cache.
        truth: path → content of the undisturbed run.
        got: that of this one.

    Returns:
        One line per fault.
    """
    # a run killed between its last checkpoint and the removal of an older one keeps the older one: nothing is lost
    extra = {name for name in set(got) - set(truth) if not re.match(r"(.*/)?checkpoints/", name)}
    found = [f"{name}: {'missing' if name not in got else 'differs'}" for name in truth if got.get(name) != truth[name]]
    found += [f"{name}: not in the undisturbed run" for name in sorted(extra)]
    for path in _walk(place):
        if LEFTOVER.fullmatch(path.name):
            found.append(f"{path.relative_to(place)}: a leftover of a writer")
        elif path.is_file():
            found += [f"{path.relative_to(place)}: {text}" for text in _damage(path)]
    return found


def _damage(path: Path) -> list[str]:
    from safetensors import SafetensorError, safe_open

    from vdu.core.records import sha256_file

    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="numpy") as file:
                for name in file.keys():
                    file.get_slice(name).get_shape()
        elif path.suffix == ".jsonl":
            for line in path.read_text("utf-8").splitlines():
                json.loads(line)
        elif path.suffix == ".json":
            record = json.loads(path.read_text("utf-8"))
            files = record.get("sha256") if path.name == "state.json" else None
            return [
                f"checksum of {name}" for name, sha in (files or {}).items() if sha256_file(path.parent / name) != sha
            ]
    except (SafetensorError, ValueError, OSError) as error:
        return [f"damaged ({error})"]
    return []


def plan(trials: int, seed: int) -> list[tuple[str, int, bool]]:
    """The verbs in turn with seeds, and which are real processes: every seventh, so that each verb has its share."""
    names = list(JOBS)
    return [(names[i % len(names)], seed + i, i % 7 == 6) for i in range(trials)]


def run_kills(bench: Bench, kills: int, seed: int, say: Callable[[str], None]) -> list[Trial]:
    """Trials until so many kills have struck.

    Args:
        bench: with the inputs.
        kills: how many must strike a job that is running.
        seed: of the first trial; each has the next.
        say: told of each trial.

    Returns:
        The trials.
    """
    done: list[Trial] = []
    struck = 0
    for name, own, real in plan(10 * kills, seed):
        if struck >= kills:
            break
        trial = run_trial(bench, name, own, real=real)
        struck += sum(kind != "late" for kind in trial.kills)
        done.append(trial)
        say(
            f"{struck}/{kills} {name} seed {own}{' real' if real else ''}: {', '.join(trial.kills)}; {trial.faults or 'as undisturbed'}"
        )
    return done


if __name__ == "__main__":
    _serve()
