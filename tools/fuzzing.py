"""Seeded mutations of every file format that this package reads itself: nothing but ``vdu.core.errors.InputError`` may come out.

Each format has a small corpus of sound files, made here, and a reader that is called as the command line would. An input is a
sound file changed one to four times: by bytes (flip, insert, delete, repeat, cut, splice, odd numbers in either byte order),
or by structure (a value of a JSON or TOML file, or of a safetensors header, becomes something odd). Where a checksum would stop
a changed file at once, half of the inputs get the right checksum again, so that what lies behind it is tested too.

Outcomes: *accepted* (a change that leaves a sound file), *refused* (``InputError``), and faults: any other exception, among them
``MemoryError`` where a header lies about a size. ``run_guarded`` bounds the address space, and tells crashes from exceptions.

Not guaranteed: coverage of the libraries below (Pillow's decoders, safetensors, tomllib), which only get such inputs as get there.
"""

import contextlib
import gzip
import hashlib
import io
import json
import os
import random
import shutil
import struct
import tarfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import vdu

__all__ = ["FORMATS", "Outcome", "make_inputs", "run_format", "run_guarded"]

PACKAGE = Path(vdu.__file__).parent
Reader = Callable[[Path, bytes, random.Random], Any]
ODD_NUMBERS = [0, 1, 2, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1]
ODD_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf"),
    "", "a", "../../etc/passwd", "/", "\0", "\ud800", "é" * 300, "nan", "1", [], [[]], [0], [None], ["a", "a"], {}, {"a": 0},
    {"": {}}, [2**40], [2**20, 2**20, 2**20], [-1, 8, 8],
]  # fmt: skip
ODD_TOML = [
    "0", "-1", "1e400", "nan", "inf", "true", '""', '"a"', '"../../etc"', "[]", "[[]]", "{}", "[1, 'a']", "{a = {}}",
    "1979-05-27", "0x7fffffffffffffffffff", "9" * 5000, "'''\n'''", '"\\u0000"', "2" * 30, "[0]", "['a', 'a']", "-inf",
]  # fmt: skip


@dataclass
class Outcome:
    """What became of the inputs of one format.

    Attributes:
        inputs: how many.
        accepted: read without complaint.
        refused: InputError.
        faults: one line per distinct fault.
        slowest_seconds: the longest that one input took.
        growth_mib: growth of the process's peak memory; None where it was not measured.
    """

    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    faults: dict[str, str] = field(default_factory=dict)
    slowest_seconds: float = 0.0
    growth_mib: float | None = None


# mutations


def _bytes_once(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    n, content = len(data), bytearray(data)
    place = chance.randrange(n + 1) if chance.random() < 0.5 else min(n, chance.randrange(64))
    kind = chance.randrange(9)
    if kind == 0 and n:
        content[min(place, n - 1)] ^= 1 << chance.randrange(8)
    elif kind == 1 and n:
        content[min(place, n - 1)] = chance.randrange(256)
    elif kind == 2:
        content[place:place] = chance.randbytes(chance.choice((1, 2, 8, 100)))
    elif kind == 3:
        del content[place : place + chance.choice((1, 2, 8, 100))]
    elif kind == 4:
        size = chance.choice((1, 4, 64, 1000))
        content[place:place] = content[place : place + size] * chance.choice((1, 3, 20))
    elif kind == 5:
        del content[place:]
    elif kind == 6:
        other = chance.choice(others)
        content[place:] = other[chance.randrange(len(other) + 1) :]
    else:
        form = chance.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
        width = struct.calcsize(form)
        content[place : place + width] = struct.pack(form, chance.choice(ODD_NUMBERS) % 2 ** (8 * width))
    return bytes(content)


def _value_once(value: Any, chance: random.Random) -> Any:
    """JSON with one node, found by a random walk, replaced, dropped, doubled, renamed or nested."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        name = chance.choice(list(value))
        kind = chance.random()
        if kind < 0.1:
            return {key: each for key, each in value.items() if key != name}
        if kind < 0.2:
            return value | {chance.choice(["", "a", name + "s", "format_version", "../x"]): chance.choice(ODD_VALUES)}
        return value | {name: _value_once(value[name], chance)}
    if isinstance(value, list) and value and chance.random() < 0.75:
        place = chance.randrange(len(value))
        if chance.random() < 0.3:
            return value[:place] + value[place + 1 :] if chance.random() < 0.5 else value + [value[place]] * 3
        return [*value[:place], _value_once(value[place], chance), *value[place + 1 :]]
    if isinstance(value, int) and chance.random() < 0.3:
        return chance.choice(ODD_NUMBERS) * chance.choice((1, -1))
    return chance.choice(ODD_VALUES)


def _json_once(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    if chance.random() < 0.02:
        odd = chance.choice(["9" * 5000, "[" * 20_000, '{"a":' * 5000, "1e999", "-0", '"\\ud800"', "NaN"])
        return odd.encode()
    try:
        return json.dumps(_value_once(json.loads(data), chance)).encode()
    except (ValueError, RecursionError):
        return _bytes_once(data, others, chance)


def _toml_once(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    place = chance.randrange(len(lines))
    name, sign, _ = lines[place].partition("=")
    if sign and chance.random() < 0.7:
        lines[place] = f"{name}= {chance.choice(ODD_TOML)}"
    elif chance.random() < 0.3:
        lines.insert(place, chance.choice([*lines, "[a]", "[[a]]", "a.b = 1", "= 1", "[rows]", "[paper.network]"]))
    else:
        return _bytes_once(data, others, chance)
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def _safetensors_once(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    try:
        size = struct.unpack_from("<Q", data)[0]
        header = json.dumps(_value_once(json.loads(data[8 : 8 + size]), chance)).encode()
    except (ValueError, struct.error, RecursionError, MemoryError, OverflowError):
        return _bytes_once(data, others, chance)
    length = len(header) if chance.random() < 0.9 else chance.choice(ODD_NUMBERS)
    return struct.pack("<Q", length) + header + data[8 + size :]


def _packed_once(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """Half of the time inside the compression."""
    if data[:2] == b"\x1f\x8b" and chance.random() < 0.6:
        with contextlib.suppress(OSError, EOFError, ValueError, Exception):
            return gzip.compress(_bytes_once(gzip.decompress(data), [gzip.decompress(data)], chance), 1, mtime=0)
    return _bytes_once(data, others, chance)


Mutation = Callable[[bytes, list[bytes], random.Random], bytes]


def _mixed(structural: Mutation) -> Mutation:
    return lambda data, others, chance: (structural if chance.random() < 0.75 else _bytes_once)(data, others, chance)


# sound files


def _image(chance: random.Random, kind: str, mode: str = "L") -> bytes:
    from PIL import Image

    content = io.BytesIO()
    shape = (8, 8) if mode in {"L", "P", "1"} else (8, 8, len(mode))
    pixels = np.frombuffer(chance.randbytes(int(np.prod(shape))), np.uint8).reshape(shape)
    image = Image.fromarray(pixels).convert(mode) if mode in {"1", "P"} else Image.fromarray(pixels)
    image.save(content, kind)
    return content.getvalue()


def _tar(members: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz", compresslevel=1) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for kind, name in (
            (tarfile.SYMTYPE, "a/data_batch_1.bin"),
            (tarfile.LNKTYPE, "../x"),
            (tarfile.CHRTYPE, "/dev/y"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "../../etc/passwd"
            tar.addfile(info)
    return content.getvalue()


RECORDS = {"data_batch_1.bin": bytes([3]) + bytes(3072), "test_batch.bin": bytes([9]) + bytes(range(256)) * 12}


def make_inputs(folder: Path) -> None:
    """Write the sound files that readers need around the changed one: a pipeline, a judge, a posterior, a checkpoint, a run.

    Args:
        folder: a new folder.
    """
    import torch
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
    from safetensors.numpy import save_file

    from killing import MODEL
    from vdu.core.rng import isolated_global
    from vdu.judges.classifier import Judge, save_judge
    from vdu.posterior.isotropic import fit_isotropic
    from vdu.training.checkpoint import save_checkpoint
    from vdu.training.ema import ExponentialMovingAverage

    folder.mkdir(parents=True, exist_ok=True)
    with isolated_global(0):
        unet = UNet2DModel(**MODEL)
        network, judge = torch.nn.Linear(3, 2), Judge("cnn", (1, 8, 8), ("a", "b"))
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(folder / "pipeline")
    fit_isotropic(dict(network.named_parameters()), 1e-4).save(folder / "posterior.safetensors")
    record = {
        "name": "j", "trained_by": "labels", "data": {"n_images": 9}, "held_out": {}, "held_out_error": 0.5, "n_held_out": 2,
        "settings": {"seed": 0}, "confusion": [[1, 0], [1, 0]], "command": "c",
    }  # fmt: skip
    save_judge(judge, folder / "judge", record)
    optimizer = torch.optim.AdamW(network.parameters(), 0.1)
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    ema = ExponentialMovingAverage(network.named_parameters(), 0.9)
    save_checkpoint(folder, 1, network, optimizer, ema, fingerprint="f", extra={"a": 1.5})
    samples = {
        "images": np.zeros((4, 1, 8, 8), np.uint8), "seeds": np.arange(4), "judge_class": np.array([0, 1, 1, 0]),
        "judge_confidence": np.full(4, 0.5, np.float32),
    }  # fmt: skip
    (folder / "run" / "samples").mkdir(parents=True)
    for name in ("original", "unlearned"):
        save_file(samples, folder / "run" / "samples" / f"{name}.safetensors")
    torch.save(network.state_dict(), folder / "state.pth")
    torch.save(network.state_dict(), folder / "old.pth", _use_new_zipfile_serialization=False)
    save_file({"weight": np.zeros((2, 3), np.float32)}, folder / "state.safetensors")
    files = {
        "run.json": json.dumps(RUN),
        "metrics.json": json.dumps(METRICS),
        "config.toml": 'a = "b"\n',
        "log.jsonl": LOG,
    }
    for name, text in files.items():
        (folder / "run" / name).write_text(text, encoding="utf-8")


RUN = {
    "format_version": 1, "verb": "unlearn", "command": ["vdu"], "environment": {}, "inputs": {"model": {"sha256": "ab"}},
    "stages": [{"stage": "unlearn", "seconds": 1.0, "network_evaluations": 3}], "finished": True,
}  # fmt: skip
LOG = "".join(json.dumps({"step": i, "loss": 0.5, "terms": {"mse": 0.5}, "observed": {}}) + "\n" for i in range(4))
_INTERVAL = {"value": 1.0, "low": 0.0, "high": 2.0}
_JUDGE = {
    "name": "j", "architecture": "cnn", "source": "given", "held_out_error": 0.1, "n_held_out": 9, "pul_ceiling": 99.0,
    "forget_false_positive_rate": 0.1,
}  # fmt: skip
_ROW = {
    "name": "original", "label": "Original", "pul": None, "u_fid": _INTERVAL, "kid": None, "forget_count": 2,
    "status": "measured", "note": "",
}  # fmt: skip
METRICS = {
    "format_version": 1, "forget": {"description": "d", "classes": ["a"], "n_images": 2, "sha256": "ab"}, "n_images": 4,
    "rows": [_ROW, _ROW | {"name": "unlearned", "pul": {**_INTERVAL, "n_original": 2, "n_unlearned": 1}}],
    "histogram": {
        "classes": ["a", "b"], "original": [2, 2], "unlearned": [2, 2], "expected": [0.0, 4.0], "distance": 0.1,
        "distance_low": 0.0, "distance_high": 0.2, "chance_high": 0.2,
    },
    "flips": {"classes": ["a", "b"], "counts": [[2, 0], [0, 2]]},
    "judge": _JUDGE | {"second": None}, "feature_network": "judge:j", "reference": {"description": "r", "n_images": 4},
    "protocol": {"n": 1}, "cost": [{"stage": "a", "seconds": 1.0, "network_evaluations": None}], "warnings": [],
}  # fmt: skip
CONFIGS = {
    "demo": 'output_dir = "o"\ndigit = 8\nsteps = 3\nn_images = 40\nseed = 0\noverwrite = false\n',
    "unlearn": (
        'pipeline = "p"\nforget = "f"\noutput_dir = "o"\nforget_class = ["3"]\nmethod = "vdu"\nsteps = 5\n'
        'learning_rate = 1e-5\nconvert = true\noption = ["gamma=0.1"]\nresume_from_checkpoint = "latest"\n'
    ),
    "pretrain": 'data = "digits"\noutput_dir = "o"\nwithout = ["1"]\nwarmup_steps = 5\nema_decay = 0.9\nmembers = 2\n',
    "posterior": 'pipeline = "p"\noutput_dir = "o"\nmembers = ["a", "b"]\nn_train = 9\ncalibrate = 0.05\nname_filter = "a"\n',
    "evaluate": 'judge = "mnist"\nn_images = 40\nscheduler = "ddim"\neta = 0.5\nforget_class = ["3"]\n',
}


# readers


def _read_config(folder: Path, data: bytes, chance: random.Random) -> None:
    from vdu import cli
    from vdu.core.errors import InputError

    verb = next(name for name in CONFIGS if data.startswith(f"#{name}".encode()) or name == list(CONFIGS)[-1])
    (folder / "c.toml").write_bytes(data)
    extra = {"posterior": ["fisher"], "evaluate": ["run"]}.get(verb, [])
    said = io.StringIO()
    unchecked = mock.patch.object(cli, "_check")  # the file is read; the models that it names are not looked for
    with unchecked, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            cli.main([verb, *extra, "--config", str(folder / "c.toml"), "--dry-run"])
        except SystemExit as stop:
            if stop.code == 2:
                raise InputError("refused") from None
            assert stop.code == 0, f"exit code {stop.code}: {said.getvalue()[-300:]}"


def _file_reader(name: str, read: Callable[[Path], Any]) -> Reader:
    def call(folder: Path, data: bytes, chance: random.Random) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        read(path)

    return call


def _idx(path: Path) -> None:
    from vdu.data.idx import read_idx

    read_idx(path, ndim=1 if b"1" in path.read_bytes()[3:4] else 3)


def _read_idx(folder: Path, data: bytes, chance: random.Random) -> None:
    from vdu.data.idx import load_idx_folder, read_idx

    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(data)
    ndim = chance.choice((1, 3))
    if chance.random() < 0.2:
        (folder / "train-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 1, 0]))
        load_idx_folder(folder, "train", None)
    else:
        read_idx(path, ndim=ndim)


def _read_cifar(folder: Path, data: bytes, chance: random.Random) -> None:
    from vdu.data.cifar import load_cifar10_folder

    (folder / "data_batch_1.bin").write_bytes(data)
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest() if chance.random() < 0.5 else "0" * 32
    load_cifar10_folder(folder, "train", {"data_batch_1.bin": md5, "test_batch.bin": "0" * 32})


def _read_cifar_tar(folder: Path, data: bytes, chance: random.Random) -> None:
    from vdu.data.cifar import fetch_cifar10

    (folder / "a.tar.gz").write_bytes(data)
    sums = {name: hashlib.md5(value, usedforsecurity=False).hexdigest() for name, value in RECORDS.items()}
    target = folder / "cifar"
    shutil.rmtree(target, ignore_errors=True)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            fetch_cifar10(target, [(folder / "a.tar.gz").as_uri()], sums)
    finally:
        left = {path.name for path in target.rglob("*")} if target.exists() else set()
        assert left <= set(RECORDS), f"left behind: {left}"


def _read_table(path: Path) -> None:
    from vdu.paper.tables import load_table

    load_table(str(path), "smoke")


def _read_run(folder: Path, data: bytes, chance: random.Random) -> None:
    from vdu.core.runs import Run

    (folder / "reopened").mkdir(exist_ok=True)
    (folder / "reopened" / "run.json").write_bytes(data)
    Run.reopen(folder / "reopened", "unlearn").close()


def _collected(name: str) -> Reader:
    def call(folder: Path, data: bytes, chance: random.Random) -> None:
        from vdu.reporting.collect import collect

        path = folder / "run" / name
        sound = path.read_bytes()
        try:
            path.write_bytes(data)
            collect(folder / "run")
        finally:
            path.write_bytes(sound)

    return call


def _read_log(path: Path) -> None:
    from vdu.reporting.files import read_log
    from vdu.training.log import StepLog

    read_log(path)
    with StepLog(path.parent, 3, 5, None, True):
        pass


def _read_samples(path: Path) -> None:
    from vdu.reporting.files import read_samples

    read_samples(path, 2)


def _read_posterior(path: Path) -> None:
    from vdu.posterior.gaussian import GaussianPosterior

    GaussianPosterior.load(path)


def _read_judge_record(folder: Path, data: bytes, chance: random.Random) -> None:
    from vdu.judges import classifier as judge

    if chance.random() < 0.5:
        with contextlib.suppress(ValueError, RecursionError, AttributeError, TypeError):
            record = json.loads(data)
            record.pop("record_sha256", None)
            data = json.dumps(record | {"record_sha256": judge._checksum(record)}).encode()
    (folder / "judge" / "judge.json").write_bytes(data)
    judge.load_judge(folder / "judge")


def _read_judge_weights(folder: Path, data: bytes, chance: random.Random) -> None:
    from vdu.judges import classifier as judge

    (folder / "judge" / "model.safetensors").write_bytes(data)
    record = json.loads((folder / "judge.json").read_bytes())
    record.pop("record_sha256")
    if chance.random() < 0.7:
        record["weights_sha256"] = hashlib.sha256(data).hexdigest()
    (folder / "judge" / "judge.json").write_text(json.dumps(record))
    judge.load_judge(folder / "judge")


def _read_checkpoint(name: str) -> Reader:
    def call(folder: Path, data: bytes, chance: random.Random) -> None:
        import torch

        from vdu.training import checkpoint
        from vdu.training.ema import ExponentialMovingAverage

        path = folder / "checkpoint-1"
        sound = {each.name: each.read_bytes() for each in path.iterdir()}
        network = torch.nn.Linear(3, 2)
        ema = ExponentialMovingAverage(network.named_parameters(), 0.9)
        try:
            (path / name).write_bytes(data)
            if chance.random() < 0.6:
                with contextlib.suppress(ValueError, RecursionError, AttributeError, TypeError):
                    state = json.loads((path / "state.json").read_bytes())
                    state.pop("checksum", None)
                    if name != "state.json":
                        state["sha256"][name] = hashlib.sha256(data).hexdigest()
                    state["checksum"] = checkpoint._checksum(state)
                    (path / "state.json").write_text(json.dumps(state))
            checkpoint.load_checkpoint(path, network, torch.optim.AdamW(network.parameters()), ema, fingerprint="f")
        finally:
            for each, content in sound.items():
                (path / each).write_bytes(content)

    return call


def _read_state_dict(folder: Path, data: bytes, chance: random.Random) -> None:
    from vdu.models.importers import read_state_dict

    path = folder / ("s.safetensors" if data[8:9] == b"{" else "s.pth")
    path.write_bytes(data)
    read_state_dict(path)


def _read_pipeline(name: str) -> Reader:
    def call(folder: Path, data: bytes, chance: random.Random) -> None:
        from vdu.models.pipelines import load_pipeline

        path = folder / "pipeline" / name
        sound = path.read_bytes() if path.exists() else None
        try:
            path.write_bytes(data)
            load_pipeline(folder / "pipeline")
        finally:
            path.write_bytes(sound) if sound is not None else path.unlink()

    return call


def _read_images(folder: Path, data: bytes, chance: random.Random) -> None:
    from vdu.data.sources import load_images

    shutil.rmtree(folder / "images", ignore_errors=True)
    (folder / "images").mkdir()
    (folder / "images" / f"a{chance.choice(('.png', '.jpg', '.gif', '.tiff'))}").write_bytes(data)
    shape, convert = chance.choice(((None, False), ((1, 8, 8), False), ((1, 8, 8), True), ((3, 8, 8), True)))
    load_images(str(folder / "images"), shape=shape, convert=convert)


def _read_list(folder: Path, data: bytes, chance: random.Random) -> None:
    from vdu.data.sources import load_images

    path = folder / "lists" / "list.txt"
    path.parent.mkdir(exist_ok=True)
    for name in ("a.png", "b.png"):
        if not (path.parent / name).exists():
            (path.parent / name).write_bytes(_image(random.Random(0), "PNG"))
    path.write_bytes(data)
    load_images(str(path))


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        sound: its corpus: files below the inputs' folder, or bytes.
        read: the reader.
        mutate: one change.
        cost: how dear an input is; shares are divided by it.
    """

    sound: tuple[str | bytes, ...]
    read: Reader
    mutate: Mutation = _bytes_once
    cost: float = 1.0


def _idx_file(*sizes: int) -> bytes:
    return bytes([0, 0, 8, len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes) + bytes(int(np.prod(sizes)))


def _formats() -> dict[str, Format]:
    from vdu.paper import tables

    chance = random.Random(0)
    idx = (_idx_file(2, 4, 4), _idx_file(5))
    images = tuple(
        _image(chance, kind, mode)
        for kind, mode in (("PNG", "L"), ("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("JPEG", "L"), ("GIF", "P"),
                           ("BMP", "L"), ("TIFF", "L"), ("WEBP", "RGB"), ("PPM", "RGB"), ("TIFF", "1"))
    )  # fmt: skip
    packaged = tuple((tables.HERE / name).read_bytes() for name in ("table1.toml", "leaderboard.toml"))
    table = (Path(__file__).parent / "killing.py").read_text("utf-8").split('TABLE = """')[1].split('"""')[0].encode()
    json_, toml_, st = _mixed(_json_once), _mixed(_toml_once), _mixed(_safetensors_once)
    configs = tuple(f"#{verb}\n{text}".encode() for verb, text in CONFIGS.items())
    return {
        "IDX": Format((*idx, *(gzip.compress(each, 1, mtime=0) for each in idx)), _read_idx, _packed_once),
        "CIFAR-10 batch": Format(tuple(RECORDS.values()), _read_cifar),
        "CIFAR-10 archive": Format(
            (_tar({f"cifar/{k}": v for k, v in RECORDS.items()}),), _read_cifar_tar, _packed_once, 4
        ),
        "TOML config": Format(configs, _read_config, toml_, 8),
        "TOML table": Format((table, *packaged), _file_reader("t.toml", _read_table), toml_, 4),
        "metrics.json": Format(("run/metrics.json",), _collected("metrics.json"), json_, 2),
        "run.json in a report": Format(("run/run.json",), _collected("run.json"), json_, 2),
        "run.json reopened": Format(("run/run.json",), _read_run, json_),
        "judge.json": Format(("judge/judge.json",), _read_judge_record, json_),
        "state.json": Format(("checkpoint-1/state.json",), _read_checkpoint("state.json"), json_, 4),
        "model_index.json": Format(("pipeline/model_index.json",), _read_pipeline("model_index.json"), json_, 20),
        "vdu.json": Format((b'{"timestep_scale": 4.0}',), _read_pipeline("vdu.json"), json_, 20),
        "log.jsonl": Format(("run/log.jsonl",), _file_reader("logs/log.jsonl", _read_log), json_),
        "samples": Format(("run/samples/original.safetensors",), _file_reader("s.safetensors", _read_samples), st),
        "posterior": Format(("posterior.safetensors",), _file_reader("p.safetensors", _read_posterior), st),
        "judge weights": Format(("judge/model.safetensors",), _read_judge_weights, st, 2),
        "checkpoint model": Format(("checkpoint-1/model.safetensors",), _read_checkpoint("model.safetensors"), st, 4),
        "checkpoint optimiser": Format(
            ("checkpoint-1/optimizer.safetensors",), _read_checkpoint("optimizer.safetensors"), st, 4
        ),
        "checkpoint average": Format(("checkpoint-1/ema.safetensors",), _read_checkpoint("ema.safetensors"), st, 4),
        "state dict": Format(("state.pth", "old.pth", "state.safetensors"), _read_state_dict, st, 2),
        "images": Format(images, _read_images),
        "image list": Format((b"a.png\nb.png\n", b"\xef\xbb\xbfb.png\r\n\r\n./a.png"), _read_list),
    }


FORMATS = _formats()


def run_format(name: str, inputs: Path, n: int, seed: int, keep: Path | None = None) -> Outcome:
    """Read changed files of a format.

    Args:
        name: of the format.
        inputs: a folder that ``make_inputs`` filled; it is changed.
        n: how many changed files.
        seed: of the changes.
        keep: where to put inputs that were faults.

    Returns:
        The outcome.
    """
    from vdu.core.errors import InputError

    each = FORMATS[name]
    corpus = [value if isinstance(value, bytes) else (inputs / value).read_bytes() for value in each.sound]
    if name == "judge weights":
        (inputs / "judge.json").write_bytes((inputs / "judge" / "judge.json").read_bytes())
    outcome, kinds = Outcome(), Counter()
    for i in range(n):
        chance = random.Random(f"{name} {seed} {i}")
        data = chance.choice(corpus)
        for _ in range(chance.choice((0, 1, 1, 1, 2, 4))):
            data = each.mutate(data, corpus, chance)
        began = time.monotonic()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                each.read(inputs, data, chance)
            outcome.accepted += 1
        except InputError:
            outcome.refused += 1
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)
            ours = next(
                (
                    f"{Path(frame.filename).name}:{frame.lineno}"
                    for frame in reversed(where)
                    if Path(frame.filename).is_relative_to(PACKAGE)
                ),
                "",
            )
            kind = f"{type(error).__name__} at {ours}"
            kinds[kind] += 1
            if kind not in outcome.faults:
                outcome.faults[kind] = f"input {i}: {str(error)[:200]}"
                if keep:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{name.replace(' ', '-')}-{seed}-{i}").write_bytes(data)
        outcome.inputs += 1
        outcome.slowest_seconds = max(outcome.slowest_seconds, time.monotonic() - began)
    outcome.faults = {kind: f"{kinds[kind]} times; {text}" for kind, text in outcome.faults.items()}
    return outcome


@contextlib.contextmanager
def _bounded(extra_bytes: int) -> Iterator[None]:
    import resource

    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + extra_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def run_guarded(
    name: str, inputs: Path, n: int, seed: int, *, keep: Path | None = None, extra_bytes: int = 1 << 30
) -> Outcome:
    """``run_format`` in a forked process with so much more address space and no more; Linux only.

    Args:
        name: of the format.
        inputs: as in ``run_format``.
        n: how many changed files.
        seed: of the changes.
        keep: where to put inputs that were faults.
        extra_bytes: address space beyond what the process has.

    Returns:
        The outcome, with the growth of the peak resident memory.
    """
    import resource

    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(reader)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff and others speak there
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            with _bounded(extra_bytes):
                outcome = run_format(name, inputs, n, seed, keep)
            outcome.growth_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            with os.fdopen(writer, "w") as pipe:
                json.dump(vars(outcome), pipe)
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return (
        Outcome(**json.loads(text)) if code == 0 else Outcome(inputs=n, faults={f"the process ended with {code}": ""})
    )
