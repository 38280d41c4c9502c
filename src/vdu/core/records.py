"""Atomic writing of files and folders: to a temporary name, flushed to the disk, then renamed. Standard library only.

A killed run leaves the last complete state: a reader sees the old file or the new one, never a partial one.

Not guaranteed: that two processes can write one run at the same time; the second one fails.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from vdu.core.errors import InputError

__all__ = [
    "FORMAT_VERSION",
    "atomic_file",
    "atomic_folder",
    "environment",
    "is_leftover",
    "now",
    "passed_over",
    "read_json",
    "read_toml",
    "sha256_bytes",
    "sha256_file",
    "sweep",
    "write_json",
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
    """Flush to the disk, and set a file's permissions from the user's umask, since some writers restrict them."""
    if path.is_file():
        mask = os.umask(0)
        os.umask(mask)
        path.chmod(0o666 & ~mask)
    _sync(path)


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Write a file under a temporary name; it takes its real name only if the block ends without an error.

    The temporary file has its own folder, so that a writer's additional files are removed with it (safetensors writes a
    hidden file first). Leftovers of killed processes for the same file are removed.

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
    """Write a folder under a temporary name; an older folder of that name is replaced once the new one is complete.

    On Linux the two are exchanged atomically by the kernel. On other systems neither has the name between two renames; if
    a process is killed at that moment, the next writer or ``Run`` restores the older one.

    Args:
        path: the final name.

    Yields:
        The temporary folder to write into, beside the final one.

    Raises:
        OSError: if the disk fails; the older folder is then still in place.
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
    """A new temporary folder beside a path, locked until it is removed, so that no other process removes it as a leftover."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(other for other in path.parent.iterdir() if is_leftover(other, of=path.name))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    descriptor = None
    while descriptor is None:  # retry if another process removed the folder before the lock
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
        wait: whether to wait until another process releases it.

    Returns:
        An open descriptor; −1 if the system has no such locks; None if another process holds it or it does not exist.
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
    """Exchange two names atomically (Linux's renameat2 with RENAME_EXCHANGE); False if that is not possible."""
    import ctypes

    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):  # another system, or an older C library
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def is_leftover(path: Path, of: str | None = None) -> bool:
    """Whether a name is that of an unfinished ``atomic_file`` or ``atomic_folder``, of anything or of one name."""
    wanted = ".+" if of is None else re.escape(of)
    return re.fullmatch(rf"\.{wanted}\.\d+\.(tmp|old)", path.name, re.DOTALL) is not None


def sweep(paths: Iterable[Path], *, alone: bool = False) -> None:
    """Remove leftovers of killed processes, and restore a folder that one of them had moved aside but not replaced.

    Args:
        paths: leftovers; those locked by a running process are kept.
        alone: no other process can be running here, so that they are removed even if the system has no locks.
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
    """Write JSON atomically (UTF-8, two spaces, NaN refused); the half characters of names that are no UTF-8 are escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_file(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))  # outside ASCII JSON's escapes are Python's


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Args:
        path: the file.

    Returns:
        The parsed value. A file that is missing or is not JSON raises an ``InputError``.
    """
    return _parsed(path, json.loads, "valid JSON")


def read_toml(path: Path | str) -> dict[str, Any]:
    """Read a TOML file.

    Args:
        path: the file.

    Returns:
        Its values. A file that is missing or is not TOML raises an ``InputError``.
    """
    return _parsed(path, tomllib.loads, "a TOML file")


def _parsed(path: Path | str, parse: Callable[[str], Any], kind: str) -> Any:
    try:
        return parse(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, not of this kind, or a number of thousands of digits
        raise InputError(
            f"{path}: not {kind} ({error}). Restore the file or run the step that writes it again."
        ) from None


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path | str) -> str:
    """SHA-256 of a file's content, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def passed_over(counts: Mapping[str, int]) -> str:
    """Files beside a set of images that were not read, as words; empty for none.

    Args:
        counts: kind → number.

    Returns:
        For example "3 files passed over (2 hidden, 1 text)".
    """
    n, kinds = sum(counts.values()), ", ".join(f"{count} {kind}" for kind, count in counts.items())
    return f"{n} file{'s' * (n != 1)} passed over ({kinds})" if n else ""


def now() -> str:
    """The date and time in UTC, to the second (ISO 8601)."""
    return datetime.now(UTC).isoformat(timespec="seconds")


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
        "hardware": {"machine": platform.machine(), "cpu": _cpu_name(), "cpu_cores": os.cpu_count(), **_accelerator()},
        "platform": platform.system(),
    }


def _commit(package: Path = Path(__file__).parents[1]) -> str | None:
    """The commit of a package's own repository, with "-dirty" if the package has changed since; None where it is only installed in one."""
    plain = {
        name: value for name, value in os.environ.items() if not name.startswith("GIT_")
    }  # of another repository, perhaps

    def answer(*words: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(package), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True, env=plain).stdout

    try:
        answer("ls-files", "--error-unmatch", "__init__.py")
        lines = answer("status", "--porcelain=v2", "--branch", "--", ".").splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    facts = dict(line.removeprefix("# ").split(" ", 1) for line in lines if line.startswith("# "))
    dirty = any(not line.startswith("# ") for line in lines)
    return f"{facts['branch.oid']}{'-dirty' * dirty}" if facts.get("branch.oid", "(initial)") != "(initial)" else None


def _accelerator() -> dict[str, str]:
    """The name of the GPU that computes, if one does: accelerate's choice, or what it will choose."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return {}
    state = getattr(sys.modules.get("accelerate.state"), "PartialState", None)
    chosen = None if state is None else state._shared_state.get("device")
    device = torch.device(chosen or os.environ.get("ACCELERATE_TORCH_DEVICE") or "cuda:0")
    return {"accelerator": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
