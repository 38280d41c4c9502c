"""Images given in Python: every kind gives the same pixels, and what is ambiguous is refused without being printed."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ChainDataset, ConcatDataset, Dataset, IterableDataset, Subset

from vdu.core.errors import InputError
from vdu.data.forget_source import STORED, _read_forget, compared_images, forget_images, write_forget
from vdu.data.given import as_images
from vdu.data.images import ImageSet

GREY = np.random.default_rng(0).integers(256, size=(5, 1, 8, 6), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(256, size=(5, 3, 8, 6), dtype=np.uint8)


def pillow(pixels):
    return [Image.fromarray(each[0] if len(each) == 1 else each.transpose(1, 2, 0)) for each in pixels]


def files(pixels, folder):
    for i, image in enumerate(pillow(pixels)):
        image.save(folder / f"{i}.png")
    return [folder / f"{i}.png" for i in range(len(pixels))]


class Listed(Dataset):
    def __init__(self, items, classes=None):
        self.items, self.classes = items, classes

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


class Streamed(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


@pytest.mark.parametrize("pixels", [GREY, COLOUR])
def test_every_kind_gives_the_same_pixels(pixels, tmp_path):
    paths = files(pixels, tmp_path)
    tensor = torch.from_numpy(pixels)
    kinds = [
        tmp_path, str(tmp_path), paths, tuple(map(str, paths)), pillow(pixels), tensor, pixels, pixels.transpose(0, 2, 3, 1),
        ImageSet(tensor), Listed(pillow(pixels)), Listed(list(tensor)), Listed(list(pixels.transpose(0, 2, 3, 1))), Streamed(tensor),
    ]  # fmt: skip
    if len(pixels[0]) == 1:
        kinds.append(pixels[:, 0])
    for given in kinds:
        found = as_images(given, name="forget", shape=tensor.shape[1:])
        assert torch.equal(found.images, tensor) and found.images.is_contiguous(), type(given)


def test_labels_and_names_of_classes_come_from_a_dataset():
    pairs = [(image, i % 3) for i, image in enumerate(pillow(GREY))]
    found = as_images(Listed(pairs, ["a", "b", "c", "d"]), name="forget")
    assert found.labels.tolist() == [0, 1, 2, 0, 1] and found.class_names == ("a", "b", "c", "d")
    assert as_images(Listed(pairs), name="forget").class_names is None
    assert len(forget_images(Listed(pairs, ["a", "b", "c"]), (1, 8, 6), classes=("b",))) == 2
    with pytest.raises(
        InputError, match=r"forget: 5 images given in Python holds 3 classes \(a, b, c\); name those to forget"
    ):
        forget_images(Listed(pairs, ["a", "b", "c"]), (1, 8, 6))


def test_parts_of_a_dataset_have_their_classes_by_name():
    names, n = (["cat", "dog", "fox"], ["fox", "cat"]), (3, 2)
    parts = [Listed([(GREY[i], i % n[k]) for i in range(5)], names[k]) for k in (0, 1)]
    truth = [names[k][i % n[k]] for k in (0, 1) for i in range(5)]
    streams = [Streamed(part.items) for part in parts]
    for stream, part in zip(streams, parts, strict=True):
        stream.classes = part.classes
    some = [7, 0, 9, 4]
    kinds = {
        "concat": (ConcatDataset(parts), truth),
        "subset": (Subset(ConcatDataset(parts), some), [truth[i] for i in some]),
        "nested": (ConcatDataset([Subset(ConcatDataset(parts), some), parts[1]]), [truth[i] for i in some] + truth[5:]),
        "chain": (ChainDataset(streams), truth),
    }
    for given, expected in kinds.values():
        found = as_images(given, name="forget")
        assert [found.class_names[label] for label in found.labels] == expected
        assert len(forget_images(given, (1, 8, 6), classes=("cat",))) == expected.count("cat")
        for number in (0, "0"):
            with pytest.raises(
                InputError, match=r"forget_class: got the class 0 of a Dataset whose parts .* different or"
            ):
                forget_images(given, (1, 8, 6), classes=(number,))
    same = ConcatDataset([parts[0], Listed(parts[0].items, ["cat", "dog", "fox", "owl"])])
    assert len(forget_images(same, (1, 8, 6), classes=(0,))) == 4
    unnamed = ConcatDataset([Listed(parts[0].items), Listed(parts[1].items)])
    assert as_images(unnamed, name="forget").labels.tolist() == [0, 1, 2, 0, 1, 0, 1, 0, 1, 0]
    with pytest.raises(InputError, match="the label 0 has no name in one of them"):
        as_images(ConcatDataset([parts[0], Listed(parts[1].items)]), name="forget")


def test_images_are_converted_only_on_request_and_stay_open():
    images = pillow(COLOUR)
    with pytest.raises(
        InputError, match=r"forget: 5 of 5 images cannot be used:\s+image 0: channels, height, width \(3, 8, 6\)"
    ):
        as_images(images, name="forget", shape=(1, 8, 6))
    assert as_images(images, name="forget", shape=(1, 4, 4), convert=True).shape == (1, 4, 4)
    assert images[0].getpixel((0, 0)) == tuple(COLOUR[0, :, 0, 0])


UNIT = torch.rand(3, 1, 8, 6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (UNIT, r"forget: got pixels of torch.float32 \[3, 1, 8, 6\]; expected uint8 in 0…255, .*\(x \* 255\)"),
        (UNIT.numpy(), r"got pixels of float32 \[3, 1, 8, 6\]; expected uint8"),
        (torch.zeros(3, 1, 8, 6, dtype=torch.int64), r"got pixels of torch.int64"),
        (torch.zeros(1, 8, 6, dtype=torch.uint8), r"uint8 \[1, 8, 6\]; expected \[images, channels, height, width\], with 1 or 3"),
        (torch.zeros(3, 8, 6, 3, dtype=torch.uint8), r"uint8 \[3, 8, 6, 3\]; expected"),  # channels come first in a tensor
        (np.zeros((3, 5, 8, 6), np.uint8), r"expected \[images, channels, height, width\], \[images, height, width, channels\]"),
        (torch.zeros(0, 1, 8, 6, dtype=torch.uint8), "forget: got no images; expected at least one"),
        ([], "forget: got no images; expected at least one"),
        ([UNIT[0], UNIT[1]], r"got a list of Tensor; expected Pillow images .* Stack tensors with torch.stack"),
        ([{"a": 1}, 3], r"got a list of dict, int; expected Pillow images alone or paths"),
        (["nowhere.png"], "1 of 1 files do not exist, first nowhere.png"),
        (3, "forget: got 3; expected a folder, a list file"),
        (object(), "forget: got an object; expected a folder"),
        (Listed, "forget: got the class Listed"),
        (Listed([UNIT[0]]), r"an item of the Dataset: got pixels of torch.float32"),
        (Listed([{"image": 1}]), "an item of the Dataset is a dict; expected an image"),
        (Listed([(GREY[0], 1), GREY[0]]), "only some items of the Dataset have a label"),
        (Listed([(torch.from_numpy(GREY[0]), "cat")]), "a label of the Dataset is 'cat'; expected class indices"),
        (Listed([(GREY[0], 1.0), (GREY[1], 0.5)]), "a label of the Dataset is 0.5; expected class indices"),  # was class 0
        (Listed([(GREY[0], float("inf"))]), "a label of the Dataset is inf; expected class indices"),
    ],
)  # fmt: skip
def test_what_is_ambiguous_or_no_image_is_refused_in_one_line(given, message):
    with pytest.raises(InputError, match=message) as error:
        as_images(given, name="forget", shape=(1, 8, 6))
    assert "tensor(" not in str(error.value) and "0x" not in str(error.value) and len(str(error.value)) < 400


def test_an_unlabelled_set_is_stored_and_read(tmp_path):
    images = ImageSet(torch.from_numpy(GREY), description="five")
    write_forget(tmp_path, images)
    again = _read_forget(tmp_path / STORED)
    assert torch.equal(again.images, images.images) and again.labels is None and again.description == "five"


def test_a_set_is_one_short_line():
    labels = torch.tensor([0, 0, 1, 1, 1])
    assert (
        repr(ImageSet(torch.from_numpy(GREY), labels, description="x")) == "ImageSet(5 images of 1×8×6, 2 classes: x)"
    )
    with pytest.raises(InputError, match="images: got a list, expected a torch.uint8 tensor"):
        ImageSet([1, 2])


def test_names_that_contradict_each_other_are_refused():
    class Animals(Dataset):
        classes = ("cat", "dog")

        def __init__(self, places):
            self.class_to_idx = places

        def __len__(self):
            return 2

        def __getitem__(self, i):
            return torch.full((1, 8, 8), i, dtype=torch.uint8), i

    assert as_images(Animals({"cat": 0, "dog": 1}), name="forget").class_names == ("cat", "dog")
    with pytest.raises(InputError, match="class_to_idx has 'dog' for the label 0, and classes has 'cat'"):
        as_images(Animals({"dog": 0, "cat": 1}), name="forget")


def test_a_set_that_is_changed_later_changes_no_run():
    given = ImageSet(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 1]))
    taken = as_images(given, name="forget", shape=(1, 2, 2))
    given.images.add_(9)
    given.labels[0] = 5
    assert taken.images.max() == 0 and taken.labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8).to_sparse(), "got a sparse tensor; expected all pixels"),
        (np.ma.masked_less(np.ones((2, 1, 4, 4), dtype=np.uint8), 1), "got a masked array; expected all pixels"),
        (np.ones((2, 3, 8, 3), dtype=np.uint8), "whose channels may come first or last; expected a tensor"),
    ],
)
def test_pixels_that_may_mean_two_things_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        as_images(given, name="forget", shape=(3, 3, 8))


@pytest.mark.parametrize(
    ("shape", "convert"), [((40, 40, 4), False), ((40, 40, 4), True), ((3, 40, 40), True), ((4, 40, 40), True)]
)
def test_one_image_with_its_channels_is_not_a_set_of_grey_ones(shape, convert):
    array = np.zeros(shape, np.uint8)
    with pytest.raises(
        InputError, match=r"which may be one image with its channels, or grey images; .* Give array\[None\]"
    ):
        as_images(array, name="forget", shape=(1, 28, 28), convert=convert)
    assert (
        len(as_images(np.zeros((3, 28, 28), np.uint8), name="forget", shape=(1, 28, 28))) == 3
    )  # nothing is converted


@pytest.mark.parametrize("classes", [("a", "b", "c"), None])
def test_compared_images_of_several_classes_are_refused_as_those_to_forget(classes):
    """An ImageSet is what its maker chose; a stream is read once."""
    pairs = [(image, i % 3) for i, image in enumerate(pillow(GREY))]
    streamed = Streamed(iter(pairs))
    streamed.classes = classes
    for given in (Listed(pairs, classes), streamed):
        with pytest.raises(
            InputError, match=r"holds 3 classes \((a, b, c|0, 1, 2)\); name those to forget with --forget-class"
        ):
            compared_images(given, (1, 8, 6), ())
    assert len(compared_images(Listed(pairs, ("a", "b", "c")), (1, 8, 6), ("b",))) == 2
    assert len(compared_images(ImageSet(torch.from_numpy(GREY), torch.arange(5)), (1, 8, 6), ())) == 5
    assert len(compared_images(Listed(pairs[1::3], classes), (1, 8, 6), ())) == 2  # of one class


class Refilled(Dataset):
    """One buffer for all items, as readers of large files have."""

    def __init__(self, pixels, buffer, n=3):
        self.pixels, self.buffer, self.label, self.n = pixels, buffer, torch.zeros((), dtype=torch.int64), n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if isinstance(self.buffer, Image.Image):
            self.buffer.paste(Image.fromarray(self.pixels[i, 0]))
        elif isinstance(self.buffer, np.ndarray):
            self.buffer[:] = self.pixels[i]
        else:
            self.buffer.copy_(torch.from_numpy(self.pixels[i]))
        return self.buffer, self.label.fill_(i)


@pytest.mark.parametrize("kind", ["tensor", "array", "pillow", "opened"])
def test_a_dataset_that_fills_one_buffer_again_gives_every_image(kind, tmp_path):
    Image.fromarray(GREY[4, 0]).save(tmp_path / "blank.png")
    buffer = {"tensor": torch.zeros(1, 8, 6, dtype=torch.uint8), "array": np.zeros((1, 8, 6), np.uint8)}
    buffer |= {"pillow": Image.new("L", (6, 8)), "opened": Image.open(tmp_path / "blank.png")}
    found = as_images(Refilled(GREY, buffer[kind]), name="forget")
    assert torch.equal(found.images, torch.from_numpy(GREY[:3])) and found.labels.tolist() == [0, 1, 2]


def test_what_only_the_file_of_an_image_tells_is_still_seen(tmp_path):
    frames = [Image.fromarray(each[0]) for each in GREY[:2]]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    opened = Image.open(tmp_path / "two.gif")
    opened.load()
    with pytest.raises(InputError, match="several frames"):
        as_images(Listed([opened]), name="forget")


def test_labels_that_are_texts_are_names_and_never_indices():
    names = ["1", "2", "3"]
    pairs = [(GREY[i], names[i % 3]) for i in range(5)]
    found = as_images(Listed(pairs, names), name="forget")
    assert found.labels.tolist() == [0, 1, 2, 0, 1] and found.class_names == ("1", "2", "3")
    assert len(forget_images(Listed(pairs, names), (1, 8, 6), classes=("1",))) == 2
    both = ConcatDataset([Listed(pairs, names), Listed([(GREY[0], "3"), (GREY[1], 0)], ["3", "4"])])
    merged = as_images(both, name="forget")
    assert [merged.class_names[label] for label in merged.labels] == ["1", "2", "3", "1", "2", "3", "3"]
    wrong = [b"1", bytearray(b"1"), "1_0", " 1", "0", np.array("1"), np.array("1", dtype=object)]
    for label in wrong:
        with pytest.raises(
            InputError, match=r"a label of the Dataset is .*; expected class indices, 0 or more, or names"
        ):
            as_images(Listed([(GREY[0], 0), (GREY[1], label)], [*names, "10"]), name="forget")
    with pytest.raises(InputError, match="a label of the Dataset is '1'"):
        as_images(Listed([(GREY[0], "1")]), name="forget")
    with pytest.raises(InputError, match="a label of the Dataset is 'a'"):  # of two classes
        as_images(Listed([(GREY[0], "a")], ["a", "a"]), name="forget")


def test_classes_without_an_order_are_refused():
    for classes in ({"cat", "dog"}, (each for each in ("cat", "dog")), {"cat": 0, "dog": 1}.keys()):
        with pytest.raises(InputError, match=r"the dataset's classes: got .*; expected a list"):
            as_images(Listed([(GREY[0], 0), (GREY[1], 1)], classes), name="forget")
    for classes in (["cat", "dog"], ("cat", "dog"), np.array(["cat", "dog"]), {"dog": 1, "cat": 0}):
        found = as_images(Listed([(GREY[0], 0), (GREY[1], 1)], classes), name="forget")
        assert found.class_names == ("cat", "dog")
