"""A run folder: its owner, its settings, the cost of each stage, and whether it is complete.

Only one process writes at a time: it holds a lock that the kernel releases when it ends, and the next one removes its leftovers. Standard
library only.

Not guaranteed: the lock on file systems without ``flock``; the atomic renames of ``vdu.core.records`` still hold there.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Self

from vdu.core.errors import BusyError, InputError
from vdu.core.paths import given_output, given_path
from vdu.core.processes import first_decides, is_first, say
from vdu.core.records import (
    FORMAT_VERSION,
    atomic_file,
    atomic_folder,
    environment,
    is_leftover,
    now,
    read_json,
    sweep,
    write_json,
)

__all__ = ["Run", "check_folder", "forgotten_before", "only_checks", "require_apart", "run_of", "runs_before"]

_CHECKING = ContextVar("checking", default=False)
_ENTERED = ("overwrite = ", "resume_from_checkpoint = ")  # lines of config.toml
_CONTINUED = ".continued"  # a file that is there while a run is continued, until its first stage is done


class _ChecksPassed(Exception):
    """All that a run checks before its first expensive step is as it should be."""


@contextmanager
def only_checks() -> Iterator[None]:
    """Inside the block a verb checks its settings and inputs, and ends where its first expensive step would begin.

    That is where a new run folder would be made, or where an older run would be added to. Nothing is written.

    Yields:
        Nothing.
    """
    token = _CHECKING.set(True)
    try:
        with suppress(_ChecksPassed):
            yield
    finally:
        _CHECKING.reset(token)


def _require_version(path: Path, record: Any) -> None:
    got = record.get("format_version") if isinstance(record, dict) else None
    if got != FORMAT_VERSION:
        older = isinstance(got, int) and got < FORMAT_VERSION
        advice = "Make the run again" if older else "Use the vdu that wrote it, or make the run again"
        raise InputError(
            f"{path}: its run.json is not of format {FORMAT_VERSION} but {got!r}. {advice} with this version."
        )


def check_folder(
    folder: Path | str,
    verb: str,
    *,
    overwrite: bool = False,
    resume: bool = False,
    keep: Iterable[Path | str | None] = (),
) -> bool:
    """Check an output folder without touching it, before anything expensive.

    Args:
        folder: the run folder.
        verb: the command that is to own it.
        overwrite: as for :class:`Run`, like the following.
        resume: likewise.
        keep: likewise.

    Returns:
        Whether it holds files.

    Raises:
        InputError: if the folder cannot be used so, or lies inside one of the folders that the run reads.
    """
    folder, kept = given_output(folder, "--output-dir"), [Path(path) for path in keep if path]
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; expected a folder for the run's output.")
    require_apart(folder, kept)
    if not folder.exists() or all(path.name == ".lock" or is_leftover(path) for path in folder.iterdir()):
        return False
    if resume and overwrite:
        raise InputError(
            f"{folder}: got both --overwrite, which starts anew, and --resume-from-checkpoint, which continues; expected one of them."
        )
    if resume:
        _require_resumable(folder, verb)
        return True
    if not overwrite:
        raise InputError(
            f"{folder}: already holds files. Use --overwrite to start anew, "
            "--resume-from-checkpoint latest to continue, or another --output-dir."
        )
    if not (folder / "run.json").exists():
        raise InputError(
            f"{folder}: holds files but no run.json, so it is not a run folder; --overwrite does not delete it."
        )
    lost = [str(path) for path in kept if path.resolve().is_relative_to(folder.resolve())]
    if lost:
        raise InputError(
            f"{folder}: --overwrite would delete {', '.join(lost)}, which this run reads. Use another --output-dir."
        )
    return True


def require_apart(folder: Path, inputs: Iterable[Path | None]) -> None:
    """Raise an error for an output folder inside a folder that is read: what is written would be read as input next time.

    Raises:
        InputError: naming the input.
    """
    here = folder.resolve()
    for path in inputs:
        if path is not None and path.is_dir() and here != path.resolve() and here.is_relative_to(path.resolve()):
            raise InputError(
                f"{folder}: lies in {path}, which this run reads, so that its files would be among the input next time. Use another "
                "--output-dir."
            )


def _require_resumable(folder: Path, verb: str) -> None:
    path = folder / "run.json"
    record = read_json(path) if path.exists() else None
    if not isinstance(record, dict) or record.get("verb") != verb:
        got = f"a run of {record.get('verb')!r}" if isinstance(record, dict) else "files but no run of this package"
        raise InputError(f"{folder}: holds {got}; expected a run of {verb!r} to continue. Use another --output-dir.")
    _require_version(path, record)


def _add_earlier(record: dict[str, Any], earlier: dict[str, Any] | None, *, whole: bool, lost: bool) -> None:
    """Add what a stage of a resumed run cost before, or note that this is not known, since it had not ended.

    Args:
        record: of the stage, changed in place.
        earlier: the same before.
        whole: its evaluations are those of the whole stage, whenever they were made.
        lost: whether the run was continued before, and did not get to the end of a stage.
    """
    record |= {"resumed": True} if earlier is None or lost or earlier.get("resumed") else {}
    if earlier is None:
        return
    record["seconds"] = round(record["seconds"] + earlier["seconds"], 3)
    if not whole:
        for name in ("network_evaluations", "reused"):
            if record.get(name) is not None or earlier.get(name) is not None:
                record[name] = (record.get(name) or 0) + (earlier.get(name) or 0)


def run_of(pipeline: Path | str) -> Path | None:
    """The finished run of ``vdu unlearn`` that a pipeline folder lies in.

    Args:
        pipeline: the folder.

    Returns:
        The run folder, whose ``run.json`` may record other weights; None if it lies in none.
    """
    path, run = Path(pipeline), Path(pipeline).parent
    if path.name != "pipeline" or not (run / "run.json").is_file():
        return None
    record = read_json(run / "run.json")
    finished = isinstance(record, dict) and record.get("verb") == "unlearn" and record.get("finished")
    return run if finished else None


def runs_before(model: Mapping[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The runs of ``vdu unlearn`` that led to a model, as far as their folders hold them.

    Args:
        model: its ``path``, ``sha256`` and, if it has other parts, ``parts_sha256``, as ``run.json`` holds them.

    Yields:
        Folder and record of each, the last run first. The chain ends at a model that no run made, or with a folder that holds another
        run by now, which is named on standard error.
    """
    while model.get("path") and (run := run_of(model["path"])) is not None:
        record = read_json(run / "run.json")
        made = record["pipeline"]
        parts = made.get("parts_sha256"), model.get("parts_sha256")  # what reads prompts may be all that was trained
        if made["sha256"] != model["sha256"] or (None not in parts and parts[0] != parts[1]):
            say(
                f"vdu: {run}: holds another run by now than the one that a later run started from, so what that one forgot and retained is "
                "not known."
            )
            return
        yield run, record
        model = record["inputs"]["model"]


def forgotten_before(model: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes that the runs that made a model were to forget.

    Args:
        model: as for :func:`runs_before`.

    Returns:
        Each once, in order of their names; none of a run whose forget set had no classes.
    """
    return tuple(sorted({name for _, record in runs_before(model) for name in record["inputs"]["forget"]["classes"]}))


class Run:
    """A run folder and its record.

    Under ``torchrun`` every process makes its ``Run``, but only the first checks, locks and writes; the others wait for it, and get its
    errors, if the processes are connected (:mod:`vdu.core.processes`).

    Args:
        folder: the run folder.
        verb: the command that owns it, for example ``"unlearn"``.
        overwrite: start anew in a folder that already holds a run.
        resume: continue the run that the folder holds.
        keep: paths that the run reads; ``overwrite`` does not delete them but fails, and the run may not lie inside them.
        reopen: the run is finished and is added to; used by :meth:`reopen`.

    Raises:
        InputError: if the folder holds a run (or anything else) and neither ``overwrite`` nor ``resume`` is given,
            if it is not a run of this verb that can be resumed, if it lies in a folder that the run reads, or if another process
            is writing it.
    """

    def __init__(
        self,
        folder: Path | str,
        verb: str,
        *,
        overwrite: bool = False,
        resume: bool = False,
        keep: Iterable[Path | str | None] = (),
        reopen: bool = False,
    ) -> None:
        self.folder = given_path(folder, "--output-dir")
        self.verb = verb
        self.active = is_first()
        self._stages: list[dict[str, Any]] = []
        self._earlier: dict[str, dict[str, Any]] | None = None  # of a resumed run: the stages that it had finished
        self._lost = False  # whether it was continued before, at a cost that nobody recorded
        self._anew: set[str] = set()  # stages that are repeated, and not continued
        self._held = False  # whether the file still has the stages that are repeated
        self._config: str | None = None
        self._lock_file: Any = None
        self._new = False
        self._continues = False
        opening = f"opening a run of {verb} in {self.folder}"  # another folder is another step
        first_decides(opening, lambda: self._open(overwrite, resume, keep, reopen))
        if _CHECKING.get() and not reopen:
            raise _ChecksPassed

    def _open(self, overwrite: bool, resume: bool, keep: Iterable[Path | str | None], reopen: bool) -> None:
        """Check the folder and lock it."""
        if not self.active:
            return
        held = check_folder(self.folder, self.verb, overwrite=overwrite, resume=resume, keep=() if reopen else keep)
        if held and not resume:
            self._clear()
        elif resume and not held and not _CHECKING.get():
            say(f"vdu: {self.folder}: nothing to continue; starting a new run.")
        if reopen or not _CHECKING.get():
            self._lock()
            self._new = not (held and resume)
            self._continues = held and resume and not reopen
            sweep(filter(is_leftover, self.folder.rglob("*")), alone=True)

    def _clear(self) -> None:
        if _CHECKING.get():
            return
        self._lock()
        # the record is deleted last: an interrupted deletion leaves an unfinished run folder
        path = self.folder / "run.json"
        write_json(path, {"format_version": FORMAT_VERSION, "verb": self.verb, "stages": [], "finished": False})
        for each in self.folder.iterdir():
            if each.name not in {"run.json", ".lock"}:
                shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()
        path.unlink()

    def _lock(self) -> None:
        """Hold an advisory lock on the folder until this process ends; the kernel then releases it."""
        try:
            import fcntl
        except ImportError:  # not a POSIX system: no lock, the atomic renames still hold
            return
        if self._lock_file is not None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{self.folder}: cannot be made ({error.strerror}); choose another --output-dir."
            ) from None
        self._lock_file = open(self.folder / ".lock", "w", encoding="utf-8")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(
                f"{self.folder}: another process is writing this run. Wait for it, or use another --output-dir."
            ) from None

    def start(self, config: str, inputs: dict[str, Any], *, identity: str | None = None) -> None:
        """Write the resolved settings and the initial record of the run.

        A resumed run keeps its old settings and record until its first stage is done, so that wrong settings do not replace
        the right ones. One with another identity is refused with an ``InputError``, which releases the folder.

        Args:
            config: the resolved settings as TOML. How the folder was entered is not kept: a run that is made anew from the file must not
                empty the folder.
            inputs: names and hashes of the inputs (model, data, posterior).
            identity: a hash of what must be equal when the run is resumed; None, and a run without one, are not compared.
        """
        self._config = "".join(line for line in config.splitlines(keepends=True) if not line.startswith(_ENTERED))
        starting = f"starting a run of {self.verb} in {self.folder}"
        earlier, self._lost = first_decides(starting, lambda: self._taken_up(identity))
        if earlier:
            self._earlier = {each["stage"]: each for each in earlier.get("stages", [])}
        self._record = {
            "format_version": FORMAT_VERSION,
            "verb": self.verb,
            "date": now(),
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "environment": environment(),
            "inputs": inputs,
            "stages": self._stages,
            "finished": False,
        }
        self._record |= {} if identity is None else {"identity": identity}
        machines = [*earlier.get("earlier_environments", ()), earlier.get("environment")]
        others = [each for each in machines if each and each != self._record["environment"]]
        self._record |= {"earlier_environments": others} if others else {}
        if not (self.folder / "run.json").exists():
            self._write()

    def _taken_up(self, identity: str | None) -> tuple[dict[str, Any], bool]:
        """The record of the run that is continued, which must be of the same identity, and whether a part of its cost is lost."""
        if not self._continues:
            return {}, False
        earlier = read_json(self.folder / "run.json")
        if None not in (identity, earlier.get("identity")) and identity != earlier["identity"]:
            self.close()
            raise InputError(
                f"{self.folder}: was written with other settings, data or model (or number of processes) than the present ones; a resumed "
                "run must have the same. Use the settings in the run's config.toml, or start anew with --overwrite."
            )
        lost = (self.folder / _CONTINUED).exists()
        (self.folder / _CONTINUED).touch()
        return earlier, lost

    def _write(self) -> None:
        if not self.active:
            return
        write_json(self.folder / "run.json", self._record)  # first: it identifies the folder's owner
        if self._config is not None:
            with atomic_file(self.folder / "config.toml") as temporary:
                temporary.write_text(self._config, encoding="utf-8")
        if self._continues:
            (self.folder / _CONTINUED).unlink(missing_ok=True)
            self._lost = False  # only the first stage had begun

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """Write a folder of the run anew, atomically; output of processes other than the first is discarded.

        Args:
            name: the folder's name in the run.

        Yields:
            The temporary folder to write into.
        """
        if self.active:
            with atomic_folder(self.folder / name) as temporary:
                yield temporary
        else:
            with tempfile.TemporaryDirectory() as temporary:
                yield Path(temporary)

    @classmethod
    def reopen(cls, folder: Path | str, verb: str) -> "Run":
        """Open a run that another verb finished, to add to it.

        Args:
            folder: the run folder.
            verb: the verb that must have made it.

        Returns:
            The run, locked for this process.

        Raises:
            InputError: if there is no finished run of that verb in this format.
        """
        folder = given_path(folder, "run")
        path = folder / "run.json"
        advice = f"Give the folder that `vdu {verb}` wrote (its -o)."
        if not folder.is_dir():
            raise InputError(f"{folder}: no such run folder. {advice}")
        if not path.is_file():
            raise InputError(f"{path}: no such file, so {folder} is not a run folder. {advice}")
        record = read_json(path)
        _require_version(path, record)
        if record.get("verb") != verb or not record.get("finished"):
            state = "a finished" if record.get("finished") else "an unfinished"
            raise InputError(
                f"{folder}: holds {state} run of {record.get('verb')!r}; expected a finished run of {verb!r}."
            )
        stages = record.get("stages")
        if not isinstance(stages, list) or not all(isinstance(each, dict) and "stage" in each for each in stages):
            raise InputError(
                f"{path}: damaged: its stages are not a list of records. Restore it or make the run again."
            )
        run = cls(folder, verb, resume=True, reopen=True)
        run._record, run._stages = record, record["stages"]
        return run

    @property
    def record(self) -> dict[str, Any]:
        """The content of ``run.json``."""
        return self._record

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, Any]]:
        """Time a stage; put ``network_evaluations`` (forward 1, backward 2 per image) into the yielded record.

        In a resumed run the earlier part's are added, unless ``whole`` is put there too: then these are all of the stage's.

        A failing stage releases the folder, so that the run can be resumed from the same process. If it refuses its input before there is
        anything to continue from, it leaves nothing in the way of the next attempt.

        Args:
            name: the stage's name in the cost table.

        Yields:
            The stage's record.
        """
        self._end_of_checks()
        record: dict[str, Any] = {"stage": name, "seconds": 0.0, "network_evaluations": None}
        began = time.monotonic()
        try:
            yield record
        except BaseException as error:
            if isinstance(error, InputError) and self._new and not any(self.folder.rglob("*.safetensors")):
                self._clear()
            self.close()
            raise
        record["seconds"] = round(time.monotonic() - began, 3)
        whole = record.pop("whole", False)
        if self._earlier is not None and name not in self._anew:
            _add_earlier(record, self._earlier.get(name), whole=whole, lost=self._lost)
        self._stages[:] = [other for other in self._stages if other["stage"] != name] + [record]
        if not self._held:
            self._write()

    def add_stage(self, record: dict[str, Any], *, last: bool = False) -> None:
        """Add the record of a stage that ran elsewhere or earlier, before the others or after them."""
        others = [other for other in self._stages if other["stage"] != record["stage"]]
        self._stages[:] = [*others, record] if last else [record, *others]

    def _end_of_checks(self) -> None:
        if _CHECKING.get():
            self.close()
            raise _ChecksPassed

    def drop_stages(self, *names: str) -> None:
        """Remove stages from the record that will be repeated; the file keeps the earlier ones until :meth:`replace`."""
        self._anew.update(names)
        self._held = True
        self._stages[:] = [stage for stage in self._stages if stage["stage"] not in names]

    def drop_machines(self) -> None:
        """Remove the machines of earlier parts from the record, of which nothing is left."""
        self._record.pop("earlier_environments", None)

    def replace(self) -> None:
        """Write the record again, if stages were dropped: to be called when what they gave is about to be replaced, too."""
        if self._held:
            self._held = False
            self._write()

    def finish(self, **results: Any) -> None:
        """Mark the run as complete and add its results."""
        self._record.update(results, finished=True)
        first_decides(f"the end of a run of {self.verb} in {self.folder}", self._write)
        self.close()

    def __enter__(self) -> Self:
        """The run."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release the folder, also after an error, whose traceback may live on."""
        self.close()

    def close(self) -> None:
        """Release the folder for other processes."""
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None
