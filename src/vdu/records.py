"""What a run writes, and how: to a temporary name, flushed to the disk, then renamed. Standard library only.

A killed run leaves the last complete state: a reader sees the old file or the new one, never half of either.

Not guaranteed: that two processes may write one run at the same time; the second one is refused.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from vdu.errors import BusyError, InputError

__all__ = [
    "FORMAT_VERSION", "Run", "atomic_file", "atomic_folder", "environment",
    "read_json", "sha256_bytes", "sha256_file", "write_json",
]  # fmt: skip

FORMAT_VERSION = 1


def _sync(path: Path) -> None:
    if os.name != "posix":  # elsewhere a folder, or a file open for reading, cannot be flushed
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _finish(path: Path) -> None:
    """Flush to the disk, and give a file the rights that the user's umask grants: some writers keep it to themselves."""
    if path.is_file():
        mask = os.umask(0)
        os.umask(mask)
        path.chmod(0o666 & ~mask)
    _sync(path)


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Write a file under a temporary name; it takes its real name only if the block ends without an error.

    The temporary file has a folder of its own, so that what a writer puts beside it goes with it (safetensors writes a
    hidden file of its own first). What killed processes left of the same file is removed.

    Args:
        path: the final name.

    Yields:
        The temporary path to write to, of the same name, on the same file system.
    """
    path = Path(path)
    with _workshop(path) as folder:
        temporary = folder / path.name
        yield temporary  # ruff: ignore[fallible-context-manager] an error must skip what follows
        _finish(temporary)
        os.replace(temporary, path)
        _sync(path.parent)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Write a folder under a temporary name; an older folder of that name gives way only when the new one is complete.

    On Linux the two swap places in one step of the kernel. Elsewhere there is a moment between two renames in which
    neither has the name; the next writer or ``Run`` of a process killed just then brings the older one back.

    Args:
        path: the final name.

    Yields:
        The temporary folder to write into, beside the final one.

    Raises:
        OSError: if the disk refuses; the older folder is then still in its place.
    """
    path = Path(path)
    with _workshop(path) as temporary:
        yield temporary  # ruff: ignore[fallible-context-manager] an error must skip what follows
        for file in temporary.rglob("*"):
            _finish(file)
        if not path.exists():
            os.replace(temporary, path)
        elif not _swap(temporary, path):
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            os.replace(path, old)
            try:
                os.replace(temporary, path)
            except OSError:
                os.replace(old, path)
                raise
            shutil.rmtree(old)
        _sync(path.parent)


@contextmanager
def _workshop(path: Path) -> Iterator[Path]:
    """A new temporary folder beside a path, locked until it is gone so that no other process takes it for a leftover."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(other for other in path.parent.iterdir() if _is_leftover(other, of=path.name))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    descriptor = None
    while descriptor is None:  # again where a sweeper was quicker than the lock
        temporary.mkdir(exist_ok=True)
        descriptor = _hold(temporary, wait=True)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if descriptor >= 0:
            os.close(descriptor)


def _hold(folder: Path, *, wait: bool = False) -> int | None:
    """Lock a folder for as long as this process lives.

    Args:
        folder: which.
        wait: for another process to give it free.

    Returns:
        An open descriptor; −1 where the system has no such locks; None if another process holds it or it is gone.
    """
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        return -1
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if os.path.samestat(os.fstat(descriptor), os.stat(folder)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:  # a file system without locks
        os.close(descriptor)
        return -1
    os.close(descriptor)
    return None


def _swap(one: Path, other: Path) -> bool:
    """Exchange two names at once (Linux's renameat2 with RENAME_EXCHANGE); False where that cannot be done."""
    import ctypes

    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):  # another system, or an older C library
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def _is_leftover(path: Path, of: str | None = None) -> bool:
    """Whether a name is that of an unfinished ``atomic_file`` or ``atomic_folder``, of anything or of one name."""
    wanted = ".+" if of is None else re.escape(of)
    return re.fullmatch(rf"\.{wanted}\.\d+\.(tmp|old)", path.name, re.DOTALL) is not None


def _sweep(paths: Iterable[Path], *, alone: bool = False) -> None:
    """Remove what killed processes left, and bring back a folder that one of them had moved aside and not yet replaced.

    Args:
        paths: leftovers; those that a living process holds stay.
        alone: no other process can be at work here, so where the system has no locks they are removed too.
    """
    for path in list(paths):
        held = _hold(path) if path.is_dir() and not path.is_symlink() else -1 if alone else None
        if held is None or (held < 0 and not alone):
            continue
        real = path.with_name(path.name[1:].rsplit(".", 2)[0])
        if path.suffix == ".old" and not os.path.lexists(real):
            os.replace(path, real)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        if held >= 0:
            os.close(held)


def write_json(path: Path | str, value: Any) -> None:
    """Write JSON atomically (UTF-8, two spaces, NaN refused)."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Args:
        path: the file.

    Returns:
        The parsed value.

    Raises:
        InputError: if the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, or a number of thousands of digits
        raise InputError(
            f"{path}: not valid JSON ({error}). Restore the file or run the step that writes it again."
        ) from None


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path | str) -> str:
    """SHA-256 of a file's content, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def environment() -> dict[str, Any]:
    """Versions, commit and hardware, for a run's record."""
    packages = {}
    for name in ("vdu", "torch", "diffusers", "accelerate", "safetensors", "numpy"):
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = None
    return {
        "python": platform.python_version(),
        "packages": packages,
        "commit": _commit(),
        "hardware": {"machine": platform.machine(), "cpu": _cpu_name(), "cpu_cores": os.cpu_count()},
        "platform": platform.system(),
    }


def _commit() -> str | None:
    here = Path(__file__).parent
    try:
        answer = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _require_version(path: Path, record: Any) -> None:
    got = record.get("format_version") if isinstance(record, dict) else None
    if got != FORMAT_VERSION:
        older = isinstance(got, int) and got < FORMAT_VERSION
        advice = "Make the run again" if older else "Use the vdu that wrote it, or make the run again"
        raise InputError(
            f"{path}: its run.json is not of format {FORMAT_VERSION} but {got!r}. {advice} with this version."
        )


class Run:
    """A run folder: who made it, with what, and what happened in it.

    Under ``torchrun`` every process makes its ``Run``, but only the first (``RANK`` 0) checks, locks and writes.

    Args:
        folder: the run folder.
        verb: the command that owns it, for example ``"unlearn"``.
        overwrite: start anew in a folder that already holds a run.
        resume: continue the run that the folder holds.
        keep: what the run reads; ``overwrite`` refuses to delete it.

    Raises:
        InputError: if the folder holds a run (or anything else) and neither ``overwrite`` nor ``resume`` is given,
            if it is not a run of this verb that can be resumed, or if another process is writing it.
    """

    def __init__(
        self,
        folder: Path | str,
        verb: str,
        *,
        overwrite: bool = False,
        resume: bool = False,
        keep: Iterable[Path | str | None] = (),
    ) -> None:
        self.folder = Path(folder)
        self.verb = verb
        self.active = int(os.environ.get("RANK", "0")) == 0
        self._stages: list[dict[str, Any]] = []
        self._config: str | None = None
        self._lock_file: Any = None
        if not self.active:
            return
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{self.folder}: is a file; expected a folder for the run's output.")
        if self.folder.exists() and not all(
            path.name == ".lock" or _is_leftover(path) for path in self.folder.iterdir()
        ):
            self._check_resumable() if resume else self._clear(overwrite, keep)
        self._lock()
        _sweep(filter(_is_leftover, self.folder.rglob("*")), alone=True)

    def _check_resumable(self) -> None:
        path = self.folder / "run.json"
        record = read_json(path) if path.exists() else None
        if not isinstance(record, dict) or record.get("verb") != self.verb:
            got = f"a run of {record.get('verb')!r}" if isinstance(record, dict) else "files but no run of ours"
            raise InputError(
                f"{self.folder}: holds {got}; expected a run of {self.verb!r} to continue. Use another --output-dir."
            )
        _require_version(path, record)

    def _clear(self, overwrite: bool, keep: Iterable[Path | str | None]) -> None:
        if not overwrite:
            raise InputError(
                f"{self.folder}: already holds files. Use --overwrite to start anew, "
                "--resume-from-checkpoint latest to continue, or another --output-dir."
            )
        if not (self.folder / "run.json").exists():
            raise InputError(
                f"{self.folder}: holds files but no run.json, so it is no run of ours; --overwrite refuses it."
            )
        lost = [str(path) for path in keep if path and Path(path).resolve().is_relative_to(self.folder.resolve())]
        if lost:
            raise InputError(
                f"{self.folder}: --overwrite would delete {', '.join(lost)}, which this run reads. Use another --output-dir."
            )
        self._lock()
        # the record goes last: a process killed on the way leaves what is still a run of ours, and no finished one
        path = self.folder / "run.json"
        write_json(path, {"format_version": FORMAT_VERSION, "verb": self.verb, "stages": [], "finished": False})
        for each in self.folder.iterdir():
            if each.name not in {"run.json", ".lock"}:
                shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()
        path.unlink()

    def _lock(self) -> None:
        """Hold an advisory lock on the folder for as long as this process lives; the kernel frees it on any death."""
        try:
            import fcntl
        except ImportError:  # not a POSIX system: no lock, the atomic renames still hold
            return
        if self._lock_file is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock_file = open(self.folder / ".lock", "w", encoding="utf-8")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(
                f"{self.folder}: another process is writing this run. Wait for it, or use another --output-dir."
            ) from None

    def start(self, config: str, inputs: dict[str, Any]) -> None:
        """Write the resolved settings and the record of the run's beginning.

        A run that is resumed keeps its old settings and record until its first stage is done: settings that turn out to
        be those of another run must not replace the right ones.

        Args:
            config: the resolved settings as TOML.
            inputs: names and hashes of what goes in (model, data, posterior).
        """
        self._config = config
        self._record = {
            "format_version": FORMAT_VERSION,
            "verb": self.verb,
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "environment": environment(),
            "inputs": inputs,
            "stages": self._stages,
            "finished": False,
        }
        if not (self.folder / "run.json").exists():
            self._write()

    def _write(self) -> None:
        if not self.active:
            return
        write_json(self.folder / "run.json", self._record)  # first: it says whose folder this is
        if self._config is not None:
            with atomic_file(self.folder / "config.toml") as temporary:
                temporary.write_text(self._config, encoding="utf-8")

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """Write a folder of the run anew, atomically; what processes other than the first write is thrown away.

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
        """Take up a run that another verb finished, to add to it.

        Args:
            folder: the run folder.
            verb: the verb that must have made it.

        Returns:
            The run, locked for this process.

        Raises:
            InputError: if there is no finished run of that verb in this format.
        """
        path = Path(folder) / "run.json"
        record = read_json(path)
        _require_version(path, record)
        if record.get("verb") != verb or not record.get("finished"):
            state = "a finished" if record.get("finished") else "an unfinished"
            raise InputError(
                f"{folder}: holds {state} run of {record.get('verb')!r}; expected a finished run of {verb!r}."
            )
        stages = record.get("stages")
        if not isinstance(stages, list) or not all(isinstance(each, dict) and "stage" in each for each in stages):
            raise InputError(f"{path}: damaged: its stages are no list of records. Restore it or make the run again.")
        run = cls(folder, verb, resume=True)
        run._record, run._stages = record, record["stages"]
        return run

    @property
    def record(self) -> dict[str, Any]:
        """What ``run.json`` holds."""
        return self._record

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, Any]]:
        """Time a stage; put ``network_evaluations`` (forward 1, backward 2 per image) into the yielded record.

        A stage that fails gives the folder free, so that the run can be resumed from the same process.

        Args:
            name: the stage's name in the cost table.

        Yields:
            The stage's record.
        """
        record: dict[str, Any] = {"stage": name, "seconds": 0.0, "network_evaluations": None}
        began = time.monotonic()
        try:
            yield record
        except BaseException:
            self.close()
            raise
        record["seconds"] = round(time.monotonic() - began, 3)
        self._stages[:] = [other for other in self._stages if other["stage"] != name] + [record]
        self._write()

    def drop_stages(self, *names: str) -> None:
        """Take stages out of the record that are about to be made again, or will not be."""
        self._stages[:] = [stage for stage in self._stages if stage["stage"] not in names]

    def finish(self, **results: Any) -> None:
        """Mark the run as complete and add what it made."""
        self._record.update(results, finished=True)
        self._write()
        self.close()

    def close(self) -> None:
        """Give the folder free for another process."""
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None
