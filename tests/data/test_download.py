import gzip
import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from vdu.core.cache import cache_folder
from vdu.core.errors import InputError
from vdu.data import idx, sources
from vdu.data.download import fetch

IMAGES = bytes.fromhex("00000803 00000002 00000003 00000004") + bytes(range(24))
LABELS = bytes.fromhex("00000801 00000002 0701")
CONTENT = b"published"


class Quiet(SimpleHTTPRequestHandler):
    asked: list[str]

    def log_message(self, *_):
        self.asked.append(self.path)


@pytest.fixture
def mirror(tmp_path):
    """A server on this machine: its folder, its address, and the requests that it got."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    handler = type("Handler", (Quiet,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}/", handler.asked
    server.shutdown()
    server.server_close()


def is_published(path):
    if path.read_bytes() != CONTENT:
        raise InputError("not the published file")


def get(target, urls, max_bytes=100):
    return fetch(target, urls, is_published, max_bytes=max_bytes, otherwise="use mnist:FOLDER.", timeout_seconds=5)


def test_a_file_is_fetched_once(mirror, tmp_path):
    folder, url, asked = mirror
    (folder / "file").write_bytes(CONTENT)
    target = tmp_path / "cache" / "file"
    assert get(target, [url + "file"]).read_bytes() == CONTENT
    get(target, [url + "file"])
    assert len(asked) == 1
    assert [path.name for path in target.parent.iterdir()] == ["file"]  # no temporary file is left


def test_the_next_mirror_is_tried(mirror, tmp_path):
    folder, url, _ = mirror
    (folder / "good").write_bytes(CONTENT)
    (folder / "bad").write_bytes(b"something else")
    assert get(tmp_path / "file", [url + "missing", url + "bad", url + "good"]).read_bytes() == CONTENT


def test_when_all_fail_the_message_names_file_mirrors_reasons_and_the_alternative(mirror, tmp_path):
    folder, url, _ = mirror
    (folder / "bad").write_bytes(b"something else")
    (folder / "long").write_bytes(bytes(101))
    urls = [url + "missing", url + "bad", url + "long", "http://127.0.0.1:1/file"]
    with pytest.raises(InputError, match=r"(?s)target-file: no mirror.*use mnist:FOLDER") as caught:
        get(tmp_path / "cache" / "target-file", urls)
    lines = str(caught.value).splitlines()
    for line, url, reason in zip(
        lines[1:5], urls, ["404", "not the published", "more than 100 bytes", "refused"], strict=True
    ):
        assert url in line and reason in line
    assert list((tmp_path / "cache").iterdir()) == []


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("VDU_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "vdu"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "vdu"
    assert cache_folder(tmp_path / "mine") == tmp_path / "mine"
    monkeypatch.setenv("VDU_CACHE", "~/elsewhere")
    assert cache_folder() == tmp_path / "home" / "elsewhere"


def test_mnist_comes_from_mirrors_into_the_cache(mirror, tmp_path, monkeypatch):
    folder, url, asked = mirror
    files = dict(zip(idx.SPLIT_FILES["train"], (IMAGES, LABELS), strict=True))
    sums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    for name, content in files.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content, 1))
    monkeypatch.setattr(sources, "MNIST_MD5", sums)
    monkeypatch.setattr(sources.fetch_mnist, "__defaults__", ((url + "missing/", url),))
    monkeypatch.delenv("VDU_MNIST", raising=False)
    images = sources.load_images("mnist", cache_dir=tmp_path / "cache")
    assert images.images.flatten().tolist() == list(range(24))
    assert sources.load_images("mnist", cache_dir=tmp_path / "cache").sha256 == images.sha256
    assert len(asked) == 6  # per file: a 404 is logged twice, then the file; nothing for the second load


def test_mnist_without_a_network_names_the_variable(tmp_path):
    with pytest.raises(
        InputError, match=r"train-images-idx3-ubyte\.gz: no mirror.*(?s:.*)mnist:FOLDER, or set VDU_MNIST"
    ):
        sources.fetch_mnist(tmp_path, "train", ("http://127.0.0.1:1/",))
