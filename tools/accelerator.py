#!/usr/bin/env python3
"""What needs an accelerator, in stages that end within nine minutes, continue where they stopped, and pack what they made.

    accelerator.py STAGE [--scale smoke] [--work runs/accelerator] [--minutes 9]    work on a stage (a to e) once
    accelerator.py pack STAGE | restore STAGE [--scale smoke] [--work …]            only pack, or only unpack

The stages are those of ``accelerator.toml``. Exit code 0: the stage is done. 75: the time is over; give the same command again, here or on
another machine. 2: an input is missing or damaged.

    WORK/<stage>-<scale>/         its files: cells, models, logs
    WORK/home/<stage>-<scale>/    what must come home: loads of parts of at most 15 MiB, each load with a manifest and checksums

A call packs only what no earlier load holds. On another machine, bring WORK/home: a stage unpacks it before it starts, if it has
no folder there. Posteriors stay behind, as
they follow from the members. Of a training that is not finished, the newest checkpoint is packed.
"""

import argparse
import io
import os
import shlex
import signal
import subprocess
import sys
import tarfile
import time
import tomllib
from pathlib import Path
from typing import Any

from vdu.core.errors import InputError
from vdu.core.records import atomic_folder, read_json, sha256_file, write_json
from vdu.data.sources import load_images

HERE = Path(__file__).parent
PART = 15 << 20  # bytes
UNFINISHED = 75  # EX_TEMPFAIL
GRACE = 20  # seconds between the request to stop and the end
SLICE = 0.2  # seconds
COLOURS = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")  # by their bits


def main() -> int:
    """Run what the command line asks for; the exit code."""
    stages = read_stages()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=[*stages, "pack", "restore", "colours", "canvas"])
    parser.add_argument("of", nargs="?", help="the stage to pack or restore; for colours and canvas, the folder")
    parser.add_argument("--scale", choices=("paper", "smoke"), default="paper")
    parser.add_argument("--work", type=Path, default=Path("runs/accelerator"))
    parser.add_argument("--minutes", type=float, default=9.0)
    given = parser.parse_args()
    try:
        if given.stage == "colours":
            return make_colours(Path(given.of) / "colours")
        if given.stage == "canvas":
            return make_canvas(Path(given.of) / "canvas")
        name = f"{given.of if given.stage in {'pack', 'restore'} else given.stage}-{given.scale}"
        work, home = given.work / name, given.work / "home" / name
        if given.stage == "pack":
            pack(work, home)
            return 0
        if given.stage == "restore" or not work.exists():
            restore(home, work)
        if given.stage == "restore":
            return 0
        try:
            done = work_on(stages[given.stage][given.scale], given.stage, work, time.monotonic() + 60 * given.minutes)
        finally:
            if work.exists():
                pack(work, home)
        print(f"stage {given.stage}: {'done' if done else 'unfinished; give the same command again'}", file=sys.stderr)
        return 0 if done else UNFINISHED
    except InputError as error:
        print(f"accelerator: {error}", file=sys.stderr)
        return 2


def read_stages() -> dict[str, Any]:
    """The stages by name."""
    return tomllib.loads((HERE / "accelerator.toml").read_text(encoding="utf-8"))


# Working


def work_on(stage: dict[str, Any], name: str, work: Path, deadline: float) -> bool:
    """Run a stage's commands until all are done or the time is over.

    Args:
        stage: its entry at a scale.
        name: its name, for messages.
        work: its folder.
        deadline: by ``time.monotonic``.

    Returns:
        Whether all of it is done.

    Raises:
        InputError: if an input is missing, or a command fails.
    """
    for need in stage.get("needs", ()):
        require(need, name)
    if not stage.get("commands"):
        raise InputError(f"stage {name}: has no commands; expected them in tools/accelerator.toml.")
    work.mkdir(parents=True, exist_ok=True)
    for command in stage["commands"]:
        if (work / command["makes"]).exists():
            continue
        line = [part.format(work=work, python=sys.executable) for part in shlex.split(command["run"])]
        if not run_until(deadline, line, command.get("processes", 1)):
            return False
        if not (work / command["makes"]).exists():
            raise InputError(f"stage {name}: {shlex.join(line)} ended without {command['makes']}; expected that file.")
    return True


def require(need: str, stage: str) -> None:
    """Raise an error if an input is missing."""
    kind, _, source = need.partition(":")
    if kind == "data":
        load_images(source)  # says what is missing, and where to put it
    elif not Path(need).exists():
        raise InputError(f"stage {stage}: {need} is missing; expected it in {Path.cwd()}. Bring it, then start again.")


def run_until(deadline: float, line: list[str], processes: int) -> bool:
    """Run a command in some processes; stop them at the deadline.

    Args:
        deadline: by ``time.monotonic``.
        line: the command.
        processes: how many of them.

    Returns:
        Whether all of them ended well before the deadline.

    Raises:
        InputError: if one fails; the others are stopped.
    """
    threads = str(max(1, (os.cpu_count() or 1) // processes))  # more than there are cores wait for each other
    own = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}
    running = [subprocess.Popen(line, start_new_session=True, env=own) for _ in range(processes)]
    try:
        while any(each.poll() is None for each in running):
            if failed := [each.returncode for each in running if each.poll()]:
                raise InputError(f"{shlex.join(line)}: ended with exit code {failed[0]}; its message is above.")
            if time.monotonic() > deadline:
                return False
            time.sleep(SLICE)
        if failed := [each.returncode for each in running if each.returncode]:
            raise InputError(f"{shlex.join(line)}: ended with exit code {failed[0]}; its message is above.")
        return True
    finally:
        stop(running)


def stop(running: list[subprocess.Popen[bytes]]) -> None:
    """End processes and their children; what they had finished stays."""
    for sign, wait in ((signal.SIGTERM, GRACE), (signal.SIGKILL, None)):
        left = [each for each in running if each.poll() is None]
        for each in left:
            os.killpg(each.pid, sign)
        for each in left:
            try:
                each.wait(wait)
            except subprocess.TimeoutExpired:
                continue


# Packing


def pack(work: Path, home: Path) -> None:
    """Write a load of the files that no earlier load holds, if there are any.

    A load is a tar archive, cut into ``part-000``, ``part-001``, … and described by ``manifest.json``.

    Args:
        work: the stage's folder.
        home: the folder of its loads.

    Raises:
        InputError: if the stage was never started.
    """
    if not work.is_dir():
        raise InputError(f"{work}: no such folder; expected that of a stage that was started.")
    known = {name: sha256 for _, manifest in loads(home) for name, sha256 in manifest["files"].items()}
    files = {str(path.relative_to(work)): sha256_file(path) for path in coming_home(work)}
    fresh = {name: sha256 for name, sha256 in sorted(files.items()) if known.get(name) != sha256}
    if not fresh:
        return
    folder = home / f"load-{len(list(home.glob('load-*'))):04d}"
    with atomic_folder(folder) as temporary:
        with Parts(temporary) as parts:
            with tarfile.open(fileobj=parts, mode="w|") as archive:
                for name in fresh:
                    archive.add(work / name, name)
        write_json(temporary / "manifest.json", {"files": fresh, "parts": parts.sha256()})
    print(f"packed {len(fresh)} files in {len(parts.paths)} parts: {folder}", file=sys.stderr)


def coming_home(work: Path) -> list[Path]:
    """The files that must come home: all but locks, half-written files, posteriors, and checkpoints that are no longer needed."""
    found = []
    for path in sorted(work.rglob("*")):
        parts = path.relative_to(work).parts
        if not path.is_file() or any(part.startswith(".") or part.endswith((".part", ".lock")) for part in parts):
            continue
        if "posteriors" in parts and path.suffix == ".safetensors":
            continue
        if parts[-3:-1] == ("pipeline", "unet") and (path.parents[2] / "bf16").exists():
            continue  # the rounded weights are the model's
        if "checkpoints" in parts:
            folder = work.joinpath(*parts[: parts.index("checkpoints") + 1])
            newest = max(folder.glob("checkpoint-*"), key=lambda each: int(each.name.rpartition("-")[2]))
            if (folder.parent / "pipeline").exists() or (folder.parent / "judge").exists() or newest.name not in parts:
                continue
        found.append(path)
    return found


class Parts(io.RawIOBase):
    """A file for writing that is cut into parts of at most 15 MiB."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.paths, self._left, self._file = folder, [], 0, None

    def writable(self) -> bool:
        """Yes."""
        return True

    def write(self, data: Any) -> int:
        """Append bytes, to a new part where one is full."""
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            if not self._left:
                self._next()
            assert self._file is not None
            some = view[done : done + self._left]
            self._file.write(some)
            self._left, done = self._left - len(some), done + len(some)
        return len(view)

    def _next(self) -> None:
        if self._file:
            self._file.close()
        self.paths.append(self.folder / f"part-{len(self.paths):03d}")
        self._file, self._left = open(self.paths[-1], "wb"), PART

    def close(self) -> None:
        """Close the last part."""
        if self._file:
            self._file.close()
        super().close()

    def sha256(self) -> dict[str, str]:
        """Part → its checksum."""
        return {path.name: sha256_file(path) for path in self.paths}


def loads(home: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The loads in a folder with their manifests.

    Returns:
        Folder and manifest of each, the oldest first.

    Raises:
        InputError: if a load has no manifest.
    """
    found = []
    for folder in sorted(home.glob("load-*")):
        path = folder / "manifest.json"
        if not path.is_file():
            raise InputError(
                f"{folder}: has no manifest.json; expected one beside its parts. Bring the load again, or delete it."
            )
        found.append((folder, read_json(path)))
    return found


def restore(home: Path, work: Path) -> None:
    """Unpack all loads into a stage's folder that is not there yet; later loads replace files of earlier ones.

    Args:
        home: the folder of the loads; without loads nothing is done.
        work: the stage's folder.

    Raises:
        InputError: if a part is missing or damaged; then nothing is unpacked.
    """
    if work.exists():
        raise InputError(f"{work}: is there; expected no such folder, since unpacking replaces files. Rename it first.")
    found = loads(home)
    for folder, manifest in found:
        for name, sha256 in manifest["parts"].items():
            if not (folder / name).is_file():
                raise InputError(
                    f"{folder / name}: is missing; expected {len(manifest['parts'])} parts. Bring it again."
                )
            if sha256_file(folder / name) != sha256:
                raise InputError(f"{folder / name}: is damaged, its checksum is wrong. Bring it again.")
    if not found:
        return
    with atomic_folder(work) as temporary:
        for folder, manifest in found:
            whole = io.BytesIO(b"".join((folder / name).read_bytes() for name in manifest["parts"]))
            with tarfile.open(fileobj=whole) as archive:
                archive.extractall(temporary, filter="data")


# Data for the smoke scale


def make_colours(folder: Path) -> int:
    """Eight classes of 16×16 colour images, always the same: a disc in one of eight colours on grey."""
    import numpy as np
    from PIL import Image

    y, x = np.mgrid[:16, :16]
    for split, first, count in (("train", 0, 100), ("test", 100, 20)):
        for colour, name in enumerate(COLOURS):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for k in range(count):
                shift = first + k
                disc = (x - 4 - shift % 9) ** 2 + (y - 4 - shift // 9 % 9) ** 2 < 9 + shift % 7
                image = np.full((16, 16, 3), 60 + shift, np.uint8)
                image[disc] = [220 if colour >> channel & 1 else 30 for channel in range(3)]
                Image.fromarray(image).save(folder / split / name / f"{k}.png")
    return 0


def make_canvas(folder: Path) -> int:
    """A canvas like that of make_emoji_canvas.py, always the same: discs, squares and crosses, a style each, in eight colours."""
    import json

    import numpy as np
    from PIL import Image

    y, x = np.mgrid[:32, :32]
    lines = []
    for split, first, count in (("train", 0, 4), ("test", 4, 1)):
        for colour, name in enumerate(COLOURS):
            for style in ("noto", "fluent", "twemoji"):
                for version in range(first, first + count):
                    across, down = abs(x - 13 - version), abs(y - 16)
                    shape = {
                        "noto": across**2 + down**2 < 100,
                        "fluent": np.maximum(across, down) < 9,
                        "twemoji": (np.minimum(across, down) < 4) & (np.maximum(across, down) < 11),
                    }[style]
                    image = np.full((32, 32, 3), 255, np.uint8)
                    image[shape] = [220 if colour >> channel & 1 else 30 for channel in range(3)]
                    for kind, label in (("objects", name), ("styles", style)):
                        place = folder / kind / split / label / f"{name}-{style}-{version}.png"
                        place.parent.mkdir(parents=True, exist_ok=True)
                        Image.fromarray(image).save(place)
                    lines.append(
                        {
                            "file_name": f"objects/{split}/{name}/{name}-{style}-{version}.png",
                            "text": f"{name} thing, {style} style", "name": f"{name} thing", "group": name,
                            "words": [name], "style": style, "version": version,
                        }
                    )  # fmt: skip
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
