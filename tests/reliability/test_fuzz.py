"""A small seeded part of ``benchmarks/fuzz.py``, and every input that once broke a reader, kept as a test of its own."""

import gzip
import io
import json
import pickle
import struct
import tarfile

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import fuzzing
from vdu.core.errors import InputError
from vdu.core.records import read_json, sha256_file
from vdu.core.rng import isolated_global
from vdu.data.cifar import fetch_cifar10, load_cifar10_folder
from vdu.data.decode import open_image, to_pixels
from vdu.data.idx import read_idx
from vdu.judges.classifier import Judge, load_judge, save_judge
from vdu.models.importers import read_state_dict
from vdu.reporting.files import read_log, read_samples


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    fuzzing.make_inputs(folder)
    return folder


@pytest.mark.parametrize("name", fuzzing.FORMATS)
def test_changed_files_are_read_or_refused_and_nothing_else(inputs, name):
    n = max(8, int(120 / fuzzing.FORMATS[name].cost))
    outcome = fuzzing.run_format(name, inputs, n, seed=1)
    assert outcome.faults == {}
    assert outcome.inputs == n and outcome.accepted + outcome.refused == n
    assert outcome.refused > 0  # the mutations do damage
    assert outcome.accepted > 0  # and the unchanged files of the corpus are sound


def test_the_fuzzer_tells_a_fault(inputs, monkeypatch, tmp_path):
    def read(folder, data, chance):
        raise KeyError("oops")

    monkeypatch.setitem(fuzzing.FORMATS, "broken", fuzzing.Format((b"abc",), read))
    outcome = fuzzing.run_format("broken", inputs, 3, 0, keep=tmp_path / "kept")
    assert outcome.faults == {"KeyError at ": "3 times; input 0: 'oops'"}
    assert len(list((tmp_path / "kept").iterdir())) == 1


# what once broke a reader


@pytest.mark.parametrize("text", ["9" * 5000, '{"a": ' + "1" * 4400 + "}"])
def test_a_number_of_thousands_of_digits_is_no_json_of_ours(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=r"a\.json: not valid JSON"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("line", [b"\xff\xfe\n", b"9" * 5000 + b"\n"])
def test_a_damaged_line_of_the_log(tmp_path, line):
    sound = b'{"step": 1, "loss": 0.5}\n'
    (tmp_path / "log.jsonl").write_bytes(sound + line + sound)
    with pytest.raises(InputError, match="line 2 is not JSON"):
        read_log(tmp_path / "log.jsonl")
    (tmp_path / "log.jsonl").write_bytes(sound + line)
    records, warnings = read_log(tmp_path / "log.jsonl")
    assert len(records) == 1 and "torn" in warnings[0]


def test_a_lost_part_of_the_log_is_told_on_resuming(tmp_path, capsys):
    from vdu.training.log import StepLog

    lines = [json.dumps({"step": step}) + "\n" for step in (1, 2, 3)]
    (tmp_path / "log.jsonl").write_bytes((lines[0] + "\xff?\n" + lines[2]).encode("latin-1"))
    with StepLog(tmp_path, 3, 5, None, True):
        pass
    assert "damaged after line 1; steps up to 3 are missing" in capsys.readouterr().err


def test_a_cifar_batch_that_is_no_whole_number_of_records(tmp_path):
    import hashlib

    (tmp_path / "data_batch_1.bin").write_bytes(bytes(3074))
    md5 = hashlib.md5(bytes(3074), usedforsecurity=False).hexdigest()
    with pytest.raises(InputError, match="got 3074 bytes; expected records of 3073"):
        load_cifar10_folder(tmp_path, "train", {"data_batch_1.bin": md5, "test_batch.bin": ""})


def test_a_judge_of_astronomic_size_takes_no_memory(tmp_path):
    with isolated_global(0):
        judge = Judge("cnn", (1, 8, 8), ("a", "b"))
    record = {
        "name": "j", "trained_by": "labels", "data": {}, "held_out": {}, "held_out_error": 0.5, "n_held_out": 2,
        "settings": {}, "confusion": [[1, 0], [1, 0]], "command": "c",
    }  # fmt: skip
    save_judge(judge, tmp_path / "j", record)
    written = json.loads((tmp_path / "j" / "judge.json").read_text())
    for shape, message in (
        ([2**60, 8, 8], "three integers up to 65536"),
        ([2**16, 2**16, 2**16], "weights of another model"),  # terabytes, if it were built
        ([True, 8, 8], "record_sha256 is not that"),
    ):
        (tmp_path / "j" / "judge.json").write_text(json.dumps(written | {"sample_shape": shape}))
        with pytest.raises(InputError, match=message):
            load_judge(tmp_path / "j")
    (tmp_path / "j" / "judge.json").write_text(json.dumps(written | {"architecture": ["cnn"]}))
    with pytest.raises(InputError, match=r"architecture: got \['cnn'\]; expected one of cnn, lenet"):
        load_judge(tmp_path / "j")


def png(width: int, height: int) -> bytes:
    """A PNG whose header announces a size and which holds next to nothing."""
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("shape", "message"), [(None, "at most 67108864"), ((3, 8, 8), "expected at most|expected ")])
def test_an_image_that_announces_gigabytes_is_refused_by_its_header(shape, message):
    import tracemalloc

    with open_image(io.BytesIO(png(9000, 9000))) as image:  # 243 MB of RGB
        tracemalloc.start()
        with pytest.raises(InputError, match=message):
            to_pixels(image, shape)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.stop()


def test_an_idx_header_that_lies_is_refused_before_memory_is_taken(tmp_path):
    header = bytes([0, 0, 8, 3]) + struct.pack(">3I", 60_000, 2**14, 2**14)
    for content in (header, gzip.compress(header)):
        (tmp_path / "i").write_bytes(content)
        with pytest.raises(InputError, match="announces"):
            read_idx(tmp_path / "i", ndim=3)


def test_archive_members_that_are_no_plain_files_are_passed_over(tmp_path):
    """A link with a batch's name to nothing was a KeyError, and one to a large member would have been read whole."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for kind, target in ((tarfile.SYMTYPE, "nothing"), (tarfile.LNKTYPE, "../../etc/passwd")):
            info = tarfile.TarInfo("x/data_batch_1.bin")
            info.type, info.linkname = kind, target
            tar.addfile(info)
    (tmp_path / "a.tar.gz").write_bytes(content.getvalue())
    with pytest.raises(InputError, match=r"the archive lacks data_batch_1\.bin"):
        fetch_cifar10(tmp_path / "out", [(tmp_path / "a.tar.gz").as_uri()], {"data_batch_1.bin": "0" * 32})
    assert not list((tmp_path / "out").iterdir())


def test_samples_of_odd_kinds(tmp_path):
    sound = {"images": np.zeros((2, 1, 2, 2), np.uint8), "seeds": np.arange(2), "judge_class": np.arange(2)}
    sound["judge_confidence"] = np.ones(2, np.float32)
    for key, value, message in (
        ("judge_class", np.ones(2, np.float32), "judge_class is float32; expected integers"),
        ("judge_confidence", np.arange(2), "judge_confidence is int64; expected floats"),
    ):
        save_file(sound | {key: value}, tmp_path / "s.safetensors")
        with pytest.raises(InputError, match=message):
            read_samples(tmp_path / "s.safetensors", 2)


def test_a_state_dict_that_announces_more_than_memory_holds(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.")  # BINBYTES8 of 4 EiB
    with pytest.raises(InputError, match=r"a\.pth"):
        read_state_dict(tmp_path / "a.pth")


def test_an_optimizer_state_of_another_form_is_refused(inputs, tmp_path):
    import shutil

    from vdu.training import checkpoint

    path = shutil.copytree(inputs / "checkpoint-1", tmp_path / "checkpoint-1")
    network = torch.nn.Linear(3, 2)
    for tensors in (
        {"weight|exp_avg": np.zeros((2, 3), np.float32)},
        {"a|step": np.zeros(1, np.float32)},
        {"x": np.zeros(1)},
    ):
        save_file(tensors, path / "optimizer.safetensors")
        state = json.loads((path / "state.json").read_text())
        del state["checksum"]
        state["sha256"]["optimizer.safetensors"] = sha256_file(path / "optimizer.safetensors")
        (path / "state.json").write_text(json.dumps(state | {"checksum": checkpoint._checksum(state)}))
        with pytest.raises(InputError, match="no Adam state of this model"):
            checkpoint.load_checkpoint(path, network, torch.optim.AdamW(network.parameters()), None, fingerprint="f")


def test_the_pickle_of_a_checkpoint_never_runs_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    for name, content in (("plain", pickle.dumps(Evil())), ("nested", pickle.dumps({"weight": Evil()}))):
        (tmp_path / f"{name}.pth").write_bytes(content)
        with pytest.raises(InputError, match="cannot be read"):
            read_state_dict(tmp_path / f"{name}.pth")
    torch.save({"weight": Evil()}, tmp_path / "zip.pth")
    with pytest.raises(InputError, match="cannot be read without running code in the file"):
        read_state_dict(tmp_path / "zip.pth")
    assert not (tmp_path / "ran").exists()
