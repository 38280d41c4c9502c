"""Do the tests notice a wrong line? One-line changes of the source, each with the tests that must fail.

    python tools/mutants.py                 # all of tools/mutants.toml
    python tools/mutants.py --fast          # without those marked slow, as the continuous integration does
    python tools/mutants.py --room methods --jobs 2 --passed

A mutant is one entry of ``mutants.toml``: a file of ``src/vdu``, a text that stands there exactly once, the text that replaces
it, and the tests that must fail. First the named tests run on the source as it is and must pass. Then every mutant is made
in a temporary copy of ``src`` of its own (the working tree is never touched) and its tests run there with ``-x``:
*killed* if one fails or runs into the time limit, *survived* if all pass. A survivor means that a test is missing.

The exit code is 1 if a mutant survives or its tests could not be collected, 2 if an entry no longer applies (its text is not
there exactly once, or its tests do not exist) or the tests fail on the unchanged source.

Each run is a fork of one process that has imported PyTorch and diffusers before, so that a mutant costs seconds.

Not guaranteed: that the tests notice every wrong line; the list is a sample, chosen by hand.
"""

import argparse
import contextlib
import importlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Mutant", "complaints", "read_mutants"]

ROOT = Path(__file__).resolve().parents[1]
LIST = Path(__file__).with_suffix(".toml")
HEAVY = ("torch", "diffusers", "accelerate", "scipy.stats", "sklearn.metrics", "torchmetrics", "pytest", "hypothesis")
LIMIT_SECONDS = 120  # a change may make a loop endless, which nobody would overlook


@dataclass(frozen=True)
class Mutant:
    """One change of one line.

    Attributes:
        file: path below ``src/vdu``.
        old: text that stands in the file exactly once.
        new: what replaces it.
        tests: pytest targets, separated by spaces, of which one must fail.
        slow: whether the tests take more than about ten seconds; ``--fast`` leaves it out.
    """

    file: str
    old: str
    new: str
    tests: str
    slow: bool = False

    @property
    def room(self) -> str:
        """The room of the house, or the module's name for a file outside the rooms."""
        return Path(self.file).parts[0].removesuffix(".py")

    def __str__(self) -> str:
        """The place and the change on one line."""
        return f"{self.file}: {self.old!r} → {self.new!r}"


def read_mutants(path: Path = LIST) -> list[Mutant]:
    """The entries of the list, in order."""
    return [Mutant(**entry) for entry in tomllib.loads(path.read_text("utf-8"))["mutant"]]


def complaints(mutant: Mutant, root: Path = ROOT) -> list[str]:
    """Why an entry does not apply to the source as it is; empty if it does."""
    path = root / "src" / "vdu" / mutant.file
    if not path.is_file():
        return [f"{mutant}: there is no such file"]
    source, found = path.read_text("utf-8"), []
    if (n := source.count(mutant.old)) != 1:
        found.append(f"{mutant}: the old text stands there {n} times, expected once")
    else:
        try:
            compile(source.replace(mutant.old, mutant.new), mutant.file, "exec")
        except SyntaxError as error:
            found.append(f"{mutant}: the new text is no Python ({error})")
    missing = [test for test in mutant.tests.split() if not (root / test.split("::")[0]).exists()]
    return found + [f"{mutant}: there is no {test}" for test in missing or ([] if mutant.tests.split() else ["test"])]


def _copy(mutant: Mutant | None) -> Path:
    """A new temporary folder with a copy of ``src``, changed by the mutant if there is one."""
    folder = Path(tempfile.mkdtemp(prefix="vdu-mutant-"))
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    if mutant is not None:
        path = folder / "src" / "vdu" / mutant.file
        path.write_text(path.read_text("utf-8").replace(mutant.old, mutant.new), "utf-8")
    return folder


def _child(source: Path, tests: list[str], output: Path) -> None:
    """Run tests on a copy of the source, in a forked process; its exit code is pytest's."""
    import pytest

    os.chdir(ROOT)
    sys.path.insert(0, str(source))
    os.environ["PYTHONPATH"] = str(source)  # of processes that tests start
    sys.dont_write_bytecode = True
    with open(output, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    options = ["-x", "-q", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib", f"--rootdir={ROOT}"]
    code = pytest.main([*options, *tests])
    wrong = [name for name, module in sys.modules.items() if name == "vdu" and str(source) not in str(module.__file__)]
    sys.stdout.flush()
    os._exit(99 if wrong else int(code))


def run_tests(mutant: Mutant | None, tests: list[str], limit_seconds: float = LIMIT_SECONDS) -> tuple[int, str, float]:
    """Run tests on a changed copy of the source.

    Args:
        mutant: the change, or None for the source as it is.
        tests: pytest targets.
        limit_seconds: after which a run is broken off.

    Returns:
        pytest's exit code (1 where the time limit passed), what it printed, seconds.
    """
    folder, began = _copy(mutant), time.monotonic()
    try:
        process = multiprocessing.get_context("fork").Process(
            target=_child, args=(folder / "src", tests, folder / "output")
        )
        process.start()
        process.join(limit_seconds)
        if process.is_alive():
            process.kill()
            process.join()
            return 1, "time limit", time.monotonic() - began
        return int(process.exitcode or 0), (folder / "output").read_text("utf-8"), time.monotonic() - began
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _tail(text: str, lines: int = 12) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen mutants and print what became of each.

    Args:
        arguments: the command line, without the program's name.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="leave out those whose tests are marked slow")
    parser.add_argument("--room", action="append", help="only this room; may be given several times")
    parser.add_argument(
        "--passed", action="store_true", help="the tests have just passed: no run on the unchanged source"
    )
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    options = parser.parse_args(arguments)
    mutants = read_mutants()
    wrong = [line for mutant in mutants for line in complaints(mutant)]
    if wrong:
        print("\n".join(["entries of mutants.toml that do not apply:", *wrong]))
        return 2
    chosen = [
        each for each in mutants if not (options.fast and each.slow) and each.room in (options.room or [each.room])
    ]
    if not chosen:
        print(
            f"no mutants of {', '.join(options.room or [])}; rooms are {', '.join(sorted({m.room for m in mutants}))}"
        )
        return 2
    for name in HEAVY:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    import torch
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel  # ruff: ignore[unused-import]  (loaded before the forks)

    torch.set_num_threads(1)  # before a fork
    targets = sorted({test for mutant in chosen for test in mutant.tests.split()})
    code, output, seconds = (0, "", 0.0) if options.passed else run_tests(None, targets, 1800)
    if code != 0:
        print(f"the tests fail on the unchanged source (exit code {code}):\n{_tail(output, 30)}")
        return 2
    told = "not run" if options.passed else f"passed in {seconds:.0f} s"
    print(f"{len(chosen)} mutants; their {len(targets)} targets on the unchanged source: {told}", flush=True)
    survivors = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for mutant, (code, output, seconds) in zip(
            chosen, pool.map(lambda each: run_tests(each, each.tests.split()), chosen), strict=True
        ):
            state = {0: "SURVIVED", 1: "killed"}.get(code, f"NO VERDICT (exit code {code})")
            survivors += code != 1
            print(f"{state:8} {seconds:5.1f} s  {mutant}", flush=True)
            if code not in (0, 1):
                print(_tail(output), flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} killed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
