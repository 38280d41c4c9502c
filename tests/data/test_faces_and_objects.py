"""64×64 colour images in the layouts of tiny-imagenet-200 and CelebA, made here, from files to one step of training."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vdu.commands import pretrain
from vdu.commands.pretrain import PretrainSettings
from vdu.core.errors import InputError
from vdu.data.sources import load_images

CLASSES = ("n02", "n01", "n03")  # not in order


def write(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((64, 64, 3), value, np.uint8)).save(path, "PNG")  # exact, also under another name


@pytest.fixture
def tiny(tmp_path):
    """Each image has the colour 10 · class + number; validation images 100 more, in another order."""
    root = tmp_path / "tiny-imagenet-200"
    for k, name in enumerate(CLASSES):
        for i in range(2):
            write(root / "train" / name / "images" / f"{name}_{i}.JPEG", 10 * k + i)
        (root / "train" / name / f"{name}_boxes.txt").write_text("x\t0\t0\t1\t1\n")
    lines = []
    for i, k in enumerate((2, 0, 1, 0)):
        write(root / "val" / "images" / f"val_{i}.JPEG", 100 + 10 * k + i)
        lines.append(f"val_{i}.JPEG\t{CLASSES[k]}\t0\t0\t1\t1\n")
    (root / "val" / "val_annotations.txt").write_text("".join(reversed(lines)))
    write(root / "test" / "images" / "test_0.JPEG", 255)
    (root / "wnids.txt").write_text("\n".join(CLASSES) + "\n")
    (root / "words.txt").write_text("n01\ttench\n")
    return root


def annotate(root, line):
    with (root / "val/val_annotations.txt").open("a") as table:
        table.write(line)


@pytest.mark.parametrize(("split", "colour"), [("train", 0), ("test", 100)])
def test_every_image_of_tiny_imagenet_has_the_class_of_its_colour(tiny, split, colour):
    images = load_images(tiny, split=split)
    assert images.shape == (3, 64, 64) and len(images) == {"train": 6, "test": 4}[split]
    assert images.class_names == ("n01", "n02", "n03") and images.labels is not None
    found = [images.class_names[label] for label in images.labels.tolist()]
    assert found == [CLASSES[(int(image[0, 0, 0]) - colour) // 10] for image in images.images]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda root: (root / "val/val_annotations.txt").unlink(), "val_annotations.txt: is missing"),
        (lambda root: (root / "val/images/val_1.JPEG").unlink(), "val_1.JPEG"),
        (lambda root: (root / "val/val_annotations.txt").write_text("val_1.JPEG\tn99\n"), "val_1.JPEG"),
        (lambda root: (root / "val/val_annotations.txt").write_text(""), "no image or no class"),
        (lambda root: write(root / "val/images/val_4.JPEG", 0), r"1 of 5 files have no line in .*\n  val_4\.JPEG"),
        (
            lambda root: annotate(root, "val_1.JPEG n02\n"),
            r"1 of 5 lines name no image or no class:\n  val_1\.JPEG n02",
        ),
        (lambda root: annotate(root, "val_1.JPEG\tn02\n"), r"1 of 4 images have more than one line:\n  val_1\.JPEG"),
    ],
)
def test_annotations_that_do_not_fit_are_refused(tiny, harm, message):
    harm(tiny)
    with pytest.raises(InputError, match=message):
        load_images(tiny, split="test")


def test_a_class_without_its_folder_is_refused(tiny):
    (tiny / "wnids.txt").write_text("n01\nn02\n")
    with pytest.raises(InputError, match="its folders are not the classes of wnids"):
        load_images(tiny)


@pytest.fixture
def faces(tmp_path):
    """Four faces; the second and the third wear glasses, by the table of attributes."""
    root = tmp_path / "celeba"
    for i in range(1, 5):
        write(root / "img_align_celeba" / f"{i:06d}.jpg", 40 * i)
    values = "\n".join(f"{i:06d}.jpg -1 {1 if i in (2, 3) else -1}" for i in range(1, 5))
    (root / "list_attr_celeba.txt").write_text(f"4\nBald Eyeglasses\n{values}\n")
    return root


def test_faces_are_trained_on_and_an_attribute_is_a_list(faces, tmp_path):
    """The list that the command in docs/your-own.md makes, for a table of two attributes."""
    table = [line.split() for line in (faces / "list_attr_celeba.txt").read_text().splitlines()]
    at = table[1].index("Eyeglasses") + 1
    glasses = faces / "glasses.txt"
    glasses.write_text("".join(f"img_align_celeba/{line[0]}\n" for line in table[2:] if line[at] == "1"))
    assert load_images(glasses).images[:, 0, 0, 0].tolist() == [80, 120]
    made = pretrain.run(PretrainSettings(data=str(faces), output_dir=tmp_path / "run", steps=1, batch_size=2))
    assert made["steps"] == 1
