import pytest
import torch

from vdu.core.errors import InputError
from vdu.data.forget import split_by_class
from vdu.data.forget_source import forget_images, forgetting
from vdu.data.images import ImageSet

LABELS = [2, 0, 1, 0, 2, 2]


def animals(**changes) -> ImageSet:
    fields = {
        "images": torch.arange(6, dtype=torch.uint8).mul(50).reshape(6, 1, 1, 1),
        "labels": torch.tensor(LABELS),
        "names": tuple("abcdef"),
        "class_names": ("cat", "dog", "1", "unused"),
        "description": "animals",
    }
    return ImageSet(**{**fields, **changes})


def places(images: ImageSet) -> list[int]:
    return [value // 50 for value in images.images.flatten().tolist()]


@pytest.mark.parametrize(
    ("classes", "forgotten"),
    [
        ("cat", [1, 3]),
        (["dog"], [2]),
        ("1", [0, 4, 5]),
        (1, [0, 4, 5]),  # the value of a name, not a place in the list
        ("01", [0, 4, 5]),
        (["1", "cat", "cat"], [0, 1, 3, 4, 5]),
        (("cat", "dog", 1), [0, 1, 2, 3, 4, 5]),
    ],
)
def test_classes_are_split_whole(classes, forgotten):
    gone, kept = split_by_class(animals(), classes)
    assert places(gone) == forgotten
    assert places(kept) == [i for i in range(6) if i not in forgotten]
    assert gone.labels is not None and gone.labels.tolist() == [LABELS[i] for i in forgotten]
    assert gone.names == tuple("abcdef"[i] for i in forgotten)


def test_descriptions_tell_the_sides_apart():
    gone, kept = split_by_class(animals(), ["cat", "dog"])
    assert gone.description == "animals: classes cat, dog"
    assert kept.description == "animals without classes cat, dog"


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("bird", r"class 'bird': unknown; the classes are: cat, dog, 1, unused\."),
        ("dgo", r"Did you mean 'dog'\?"),
        (0, r"class 0: unknown; the classes are: cat, dog, 1"),  # a place is no class where a name has a digit
        (4, r"class 4: unknown"),
        (True, r"class: got True; expected the name or the number"),
        (1.0, r"classes: got 1.0; expected the name or number of a class"),
        (["cat", None], r"class: got None"),
        (-1, r"class -1: unknown"),
        ("-1", r"class '-1': unknown"),
        ("²", r"class '²': unknown"),
        ("unused", r"class 'unused': no image of animals has it"),
        ([], r"nothing to forget among 6 images"),
    ],
)
def test_classes_that_cannot_be_forgotten(classes, message):
    with pytest.raises(InputError, match=message):
        split_by_class(animals(), classes)


def test_labels_without_names_go_by_index():
    gone, _ = split_by_class(animals(class_names=None), "2")
    assert places(gone) == [0, 4, 5]
    with pytest.raises(InputError, match=r"class 3: unknown; the classes are: 0, 1, 2\."):
        split_by_class(animals(class_names=None), 3)
    with pytest.raises(InputError, match=r"animals: has no labels"):
        split_by_class(animals(labels=None), 0)


def test_the_classes_of_an_image_set_are_said():
    images = ImageSet(
        torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 1, 8, 8).contiguous(),
        torch.tensor([0, 2, 2, 0]), description="mine", class_names=("a", "b", "c"),
    )  # fmt: skip
    kept = forget_images(images, (1, 8, 8))
    assert kept.description == "mine: classes a, c" and forgetting(kept) == "forgetting 4 images: mine: classes a, c"
    assert kept.sha256 == images.sha256
    assert forget_images(images.select([0, 3]), (1, 8, 8)).description == "mine"
