import importlib.util
import json
import shutil
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vdu.core.errors import InputError
from vdu.data import digits, huggingface
from vdu.data.given import as_images
from vdu.data.images import ImageSet
from vdu.data.sources import is_data_set, load_images, place_of
from vdu.evaluation.references import load_reference
from vdu.evaluation.suite import load_real_images

no_datasets = importlib.util.find_spec("datasets") is None
GREY = ImageSet(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
needs_datasets = pytest.mark.skipif(no_datasets, reason='needs the extra "datasets"')


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("digits", {"split": "val"}, r"split: got 'val', expected 'train' or 'test'"),
        ("digits", {"shape": (4, 8, 8)}, r"shape: got \(4, 8, 8\), expected channels"),
        ("digits", {"convert": True}, r"needs the shape to convert to"),
        ("mnist:", {}, r"nothing after the colon"),
        ("idx", {}, r"idx: needs a folder; expected mnist"),
        ("digits:there", {}, r"digits:there: takes no folder"),
        ("nonsense:there", {}, r"nonsense:there: no such source.*cifar10:FOLDER"),
        ("", {}, r"no such source|holds no image|images: got ''; expected a path"),
        ("digits", {"shape": (1, 28, 28)}, r"all 1442 images have .* \(1, 8, 8\), expected \(1, 28, 28\)"),
    ],
)
def test_what_cannot_be_loaded_says_what_can(spec, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        load_images(spec, **options)


def test_digits_are_those_of_scikit_learn_split_by_class():
    from sklearn.datasets import load_digits

    truth = load_digits()
    train, test = load_images("digits"), load_images("digits", split="test", shape=(1, 8, 8))
    assert len(train) + len(test) == 1797 and train.labels is not None and test.labels is not None
    stored = sorted(bytes(image) for images in (train, test) for image in images.images.flatten(1).numpy())
    assert stored == sorted(bytes(int(v * 255 / 16 + 0.5) for v in image) for image in truth.data)
    counts = np.bincount(truth.target)
    assert test.labels.bincount().tolist() == [count // 5 for count in counts]
    assert load_images("digits").sha256 == train.sha256 == digits.load_digits("train").sha256


def test_an_array_source_converts_on_request():
    images = load_images("digits", split="test", shape=(3, 16, 16), convert=True)
    plain = load_images("digits", split="test")
    assert images.shape == (3, 16, 16) and images.description == "digits test, converted"
    expected = Image.fromarray(plain.images[5, 0].numpy()).convert("RGB").resize((16, 16), Image.Resampling.BICUBIC)
    assert np.array_equal(images.images[5].numpy(), np.moveaxis(np.asarray(expected), 2, 0))


def test_a_missing_library_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r'pip install "\.\[datasets\]" in the clone'):
        load_images("hf:anything")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(InputError, match=r'pip install "\.\[digits\]" in the clone'):
        load_images("digits")


def test_importing_the_room_loads_no_optional_library():
    code = "import sys, vdu.data.sources; print(sorted({'datasets', 'sklearn', 'diffusers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.fixture
def pets(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "pets"
    for i, kind in enumerate(("cat", "dog")):
        (folder / kind).mkdir(parents=True)
        Image.fromarray(np.full((4, 4), 100 * i + 1, np.uint8)).save(folder / kind / f"{i}.png")
    return folder


def describe(folder, **extra):
    rows = [
        {"file_name": f"{kind}/{i}.png", **{k: v[i] for k, v in extra.items()}} for i, kind in ((0, "cat"), (1, "dog"))
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


@needs_datasets
def test_an_imagefolder_works_offline(pets):
    images = load_images(f"hf:{pets}", shape=(1, 4, 4))
    assert images.names == ("cat/0.png", "dog/1.png") and images.class_names == ("cat", "dog")
    assert images.images[:, 0, 0, 0].tolist() == [1, 101]
    assert images.sha256 == load_images(str(pets)).sha256
    with pytest.raises(InputError, match=r"cannot be loaded \(Unknown split"):
        load_images(f"hf:{pets}", split="test")


@needs_datasets
def test_metadata_gives_labels_and_names_or_is_refused(pets):
    describe(pets, label=["tom", "rex"], id=["u", "v"])
    images = load_images(f"hf:{pets}")
    assert (images.names, images.class_names) == (("u", "v"), ("rex", "tom"))
    assert images.labels is not None and images.labels.tolist() == [1, 0]
    describe(pets, note=["x", "y"])
    with pytest.raises(InputError, match=r"has subfolders but no labels: a metadata file hides them"):
        load_images(f"hf:{pets}")


@needs_datasets
def test_no_image_of_a_local_folder_is_left_out(pets):
    """Of two images and one in a hidden folder: renamed so that imagefolder passes one over, or takes it for another split."""
    (pets / ".review").mkdir()
    shutil.copy(pets / "cat/0.png", pets / ".review/1.png")
    assert load_images(f"hf:{pets}").passed_over == load_images(pets).passed_over == {"hidden": 1}
    before = pets / "cat/0.png"
    (pets / "dog/1.png").rename(pets / "dog/train_1.png")
    for name in ("cat/d41d8cd98f00b204", "cat/0.jpg_large", "cat/test_0.png"):
        before = before.rename(pets / name)
        assert len(load_images(pets)) == 2
        with pytest.raises(InputError, match=rf"1 of 2 files are not among those .* the split 'train':\n  {name}"):
            load_images(f"hf:{pets}")


@needs_datasets
def test_splits_and_metadata_of_a_local_folder_leave_nothing_out(pets, tmp_path):
    splits = tmp_path / "splits"
    for split in ("training", "testing"):
        shutil.copytree(pets, splits / split)
    assert load_images(f"hf:{splits}").class_names == ("cat", "dog")
    assert load_images(f"hf:{splits}", split="test").names == ("testing/cat/0.png", "testing/dog/1.png")
    describe(pets, label=["tom", "rex"])
    shutil.copy(pets / "cat/0.png", pets / "cat/more.png")  # not in the metadata
    with zipfile.ZipFile(pets / "more.zip", "w") as archive:
        archive.write(pets / "cat/0.png", "9.png")
    with pytest.raises(InputError, match=r"2 of 4 files are not among those .*:\n  cat/more.png\n  more.zip"):
        load_images(f"hf:{pets}")


def test_a_row_without_an_image_is_an_input_error():
    with pytest.raises(InputError, match=r"no image in this row"):
        huggingface._open(None)


@pytest.mark.parametrize("name", ["mnist", "mnist-mini", "./digits", "cifar10", "idx:x", "mnist:x", "hf:x"])
def test_a_path_that_is_missing_is_no_data_set(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    text = name.removeprefix("./")  # as pathlib writes it
    expected = rf"^{text}: no such source, folder or file; .*A Path is a folder or a file; .* give the text '{text}'\."
    for load in (
        load_images,
        partial(as_images, name="retain"),
        partial(load_reference, split="train", shape=(1, 8, 8)),
    ):
        with pytest.raises(InputError, match=expected):
            load(Path(name))
    with pytest.raises(InputError, match=expected):
        load_real_images(None, Path(name), [], (1, 8, 8))
    assert not is_data_set(Path(name)) and place_of(Path(name)) is None


@pytest.mark.parametrize("name", ["mnist", "mnist-mini", "digits", "cifar10", "idx:x", "mnist:x", "hf:x"])
def test_a_name_of_a_data_set_and_of_a_folder_here_is_not_guessed(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    Image.new("L", (8, 8), 7).save(Path(name) / "a.png")
    with pytest.raises(
        InputError, match=rf"{name}: is a file or folder here and the name of a data set\. Write \./{name}"
    ):
        load_images(name)
    for spec in (f"./{name}", Path(name), str(tmp_path / name)):
        assert load_images(spec).images.unique().tolist() == [7]
