from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from vdu.cli import app
from vdu.commands.judge import JudgeSettings, run
from vdu.core.errors import DivergenceError, InputError
from vdu.core.records import read_json
from vdu.data.images import ImageSet
from vdu.data.sources import load_images
from vdu.diffusion.schedule import NoiseSchedule
from vdu.judges.classifier import load_judge, save_judge
from vdu.judges.fallback import _hold_out, train_forget_judge
from vdu.judges.judging import given_judges
from vdu.judges.training import LabelledImages, judge_logits, shifted


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_shifts_are_whole_pixels_of_all_directions_with_a_repeated_border():
    images = torch.randn(200, 2, 5, 6, generator=seeded())
    moved = shifted(images, 1, seeded(1))
    seen = set()
    for before, after in zip(images.numpy(), moved.numpy(), strict=True):
        padded = np.pad(before, ((0, 0), (1, 1), (1, 1)), mode="edge")
        crops = {(i, j): padded[:, i : i + 5, j : j + 6] for i in range(3) for j in range(3)}
        matches = [move for move, crop in crops.items() if np.array_equal(crop, after)]
        assert len(matches) == 1
        seen |= set(matches)
    assert len(seen) == 9
    assert shifted(images, 0, seeded(1)) is images


def test_batches_depend_on_the_step_alone_and_take_as_many_from_each_set():
    digits = load_images("digits")
    sets = ((digits.select(range(50)), torch.zeros(50).long()), (digits.select(range(50, 80)), torch.ones(30).long()))
    batches = LabelledImages(sets, batch_size=10, shift_pixels=1, noise=0.2, seed=3)
    first, again, later = batches(7), batches(7), batches(8)
    assert torch.equal(first["images"], again["images"]) and not torch.equal(first["images"], later["images"])
    assert first["labels"].tolist() == [0] * 10 + [1] * 10
    clean = LabelledImages(sets, batch_size=10, shift_pixels=1, noise=0.0, seed=3)(7)["images"]
    level = (first["images"] - clean).flatten(1).std(1)
    assert 0 < level.min() and level.max() < 0.3 and level.max() > 2 * level.min()  # each image draws its own


def test_too_many_passes_are_named_as_they_were_given(tmp_path):
    with pytest.raises(InputError, match="--epochs: got 9000000000000000000 passes over"):
        run(JudgeSettings(data="digits", output_dir=tmp_path / "run", epochs=9 * 10**18, batch_size=1))


@pytest.mark.parametrize("architecture", ["cnn", "lenet"])
def test_a_judge_of_digits_knows_its_own_error(tmp_path, architecture):
    settings = JudgeSettings(
        data="digits", output_dir=tmp_path / "run", architecture=architecture, epochs=8, batch_size=64
    )
    summary = run(settings)
    judge, record = load_judge(summary["judge"])
    test = load_images("digits", split="test")
    confusion = np.zeros((10, 10), int)
    with torch.no_grad():
        for place in range(len(test)):
            confusion[test.labels[place], judge(test.floats([place])).argmax()] += 1
    assert record["confusion"] == confusion.tolist()
    assert record["held_out_error"] == summary["held_out_error"] == pytest.approx(1 - np.trace(confusion) / len(test))
    assert record["held_out_error"] < 0.08  # chance is 0.9, a k-nearest-neighbour classifier errs on 0.02
    assert record["data"]["sha256"] == load_images("digits").sha256
    assert record["name"] == f"digits-{architecture}"
    assert str(tmp_path) not in str(record)
    assert "--shift-pixels 0 " in record["command"] + " "


def test_unusable_data_and_settings_are_refused(tmp_path):
    (tmp_path / "list.txt").write_text("a.png")
    with pytest.raises(InputError, match="has no test split"):
        from PIL import Image

        Image.new("L", (8, 8)).save(tmp_path / "a.png")
        run(JudgeSettings(data=str(tmp_path / "list.txt"), output_dir=tmp_path / "run"))
    with pytest.raises(InputError, match="epochs: got 0; expected at least 1"):
        run(JudgeSettings(data="digits", output_dir=tmp_path / "run", epochs=0))
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="--shift-pixels: got 8 for images of 8×8 pixels"):
        run(JudgeSettings(data="digits", output_dir=tmp_path / "shifted", shift_pixels=8))
    assert not (tmp_path / "shifted").exists()


def test_the_command_line_resolves_the_settings(capsys):
    with pytest.raises(SystemExit) as end:
        app([
            "judge",
            "--data",
            "digits",
            "--output-dir",
            "out",
            "--architecture",
            "lenet",
            "--epochs",
            "3",
            "--dry-run",
        ])
    assert end.value.code == 0
    assert 'architecture = "lenet"\nepochs = 3\n' in capsys.readouterr().out


def mixed(digit: int, share: float, n_own: int, seed: int = 0) -> tuple[ImageSet, ImageSet]:
    """Real images in the place of own samples, a share of which are of the digit; and other images of the digit."""
    digits = load_images("digits")
    order = torch.randperm(len(digits), generator=seeded(seed))
    is_digit = digits.labels[order] == digit
    n_digit = round(share * n_own)
    own = torch.cat([order[~is_digit][: n_own - n_digit], order[is_digit][:n_digit]])
    return digits.select(order[is_digit][n_digit:]), digits.select(own)


SCHEDULE = NoiseSchedule.linear(100, 1e-3, 0.2)


@pytest.mark.slow
def test_a_judge_taught_without_labels_agrees_with_the_true_ones(tmp_path, capsys):
    forget, own = mixed(digit=0, share=0.1, n_own=600)
    judge, record = train_forget_judge(forget, own, SCHEDULE, seed=0, score_steps=150)
    test = load_images("digits", split="test")
    called, true = judge_logits(judge, test).argmax(1).bool(), test.labels == 0
    assert (~called[true]).double().mean() <= 1 / 35  # one of the 35 zeros, measured: none
    assert called[~true].double().mean() <= 0.01  # 3 of 320, measured: none
    rates = record["forget"]
    assert rates["share_by_resemblance"] == pytest.approx(0.1, abs=0.05)  # four standard errors of 600 draws
    assert rates["false_positive_rate"] <= rates["false_positive_rate_high"] <= 0.1
    assert f"misses {rates['miss_rate']:.1%} of {len(forget)} forget images" in capsys.readouterr().err
    save_judge(judge, tmp_path / "judge", record)
    assert torch.equal(judge_logits(load_judge(tmp_path / "judge")[0], test), judge_logits(judge, test))


def test_the_rates_are_those_of_the_judge_that_is_returned():
    forget, own = mixed(digit=8, share=0.15, n_own=400)
    judge, record = train_forget_judge(forget, own, SCHEDULE, seed=1, score_steps=60, steps=30, progress=False)
    seen, held_out = _hold_out(len(own), 1)
    assert sorted([*seen.tolist(), *held_out.tolist()]) == list(range(400)) and len(held_out) == 100
    found, called = (
        float(judge_logits(judge, images).argmax(1).double().mean()) for images in (forget, own.select(held_out))
    )
    rates = record["forget"]
    assert 0.05 < record["held_out_error"] < 1  # so bad a judge that a shift in the wrong direction would show
    assert record["held_out_error"] == rates["miss_rate"] == pytest.approx(1 - found)
    share, false = rates["share"], rates["false_positive_rate"]
    assert share * found + (1 - share) * false == pytest.approx(called, abs=0.02)  # no rate is below 0


def test_the_callers_random_state_is_left_alone():
    forget, own = mixed(digit=0, share=0.2, n_own=100)
    stream = torch.get_rng_state()
    train_forget_judge(forget, own, SCHEDULE, seed=0, score_steps=20, steps=2, progress=False)
    assert torch.equal(torch.get_rng_state(), stream)


@pytest.mark.slow
def test_sets_that_teach_nothing_are_refused():
    forget, own = mixed(digit=0, share=0.1, n_own=600)
    with pytest.raises(InputError, match="got 39 forget images; expected at least 40"):
        train_forget_judge(forget.select(range(39)), own, SCHEDULE, seed=0)
    with pytest.raises(InputError, match="expected equal shapes"):
        train_forget_judge(ImageSet(torch.zeros(50, 1, 9, 9, dtype=torch.uint8)), own, SCHEDULE, seed=0)
    none = mixed(digit=0, share=0.0, n_own=300)[1]
    with pytest.raises(InputError, match=r"of 225 generated samples match the forget images; expected at least 10"):
        train_forget_judge(forget, none, SCHEDULE, seed=0, score_steps=100, progress=False)


def test_test_images_are_no_training_images(tmp_path, capsys):
    from PIL import Image

    for split in ("train", "test"):
        for name, low in (("a", 0), ("b", 100)):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for i in range(4):
                value = low + i + (50 if split == "test" and i else 0)  # the first of each class is in both splits
                Image.new("L", (8, 8), value).save(tmp_path / "data" / split / name / f"{i}.png")
    tested = run(JudgeSettings(data=str(tmp_path / "data"), output_dir=tmp_path / "run", epochs=1, batch_size=4))
    assert tested["n_held_out"] == 6
    assert "2 of 8 test images are training images, pixel by pixel; they are left out" in capsys.readouterr().err
    for name in ("b", "c"):  # copies within the test split count once
        Image.new("L", (8, 8), 203).save(tmp_path / "data" / "test" / "a" / f"more-{name}.png")
    tested = run(JudgeSettings(data=str(tmp_path / "data"), output_dir=tmp_path / "again", epochs=1, batch_size=4))
    assert tested["n_held_out"] == 7
    with pytest.raises(InputError, match=r"run: is the run folder of a judge.*Give .*judge\."):
        load_judge(tmp_path / "run")
    (tmp_path / "twice").mkdir()
    for split in ("train", "test"):
        (tmp_path / "twice" / split).symlink_to(tmp_path / "data" / "train")
    with pytest.raises(InputError, match="test images: all 8 .* are among the training images"):
        run(JudgeSettings(data=str(tmp_path / "twice"), output_dir=tmp_path / "other", epochs=1, batch_size=4))
    assert not (tmp_path / "other").exists()


def test_a_judge_that_was_never_tested_on_a_class_says_nothing_of_it(tmp_path, capsys):
    from PIL import Image

    for split in ("train", "test"):
        for name, low in (("a", 0), ("b", 100)):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for i in range(4):
                value = (
                    low + i + (50 if split == "test" and name == "b" else 0)
                )  # the test images of a are training images
                Image.new("L", (8, 8), value).save(tmp_path / "data" / split / name / f"{i}.png")
    made = run(JudgeSettings(data=str(tmp_path / "data"), output_dir=tmp_path / "run", epochs=1, batch_size=4))
    assert "warning: no test images of a; such a class cannot be forgotten by this judge" in capsys.readouterr().err
    model = cast("Any", SimpleNamespace(image_shape=(1, 8, 8)))
    with pytest.raises(InputError, match="was tested on no image of a, so nothing says how often it is wrong"):
        given_judges(model, ["a"], judge=made["judge"], second_judge=None)
    with pytest.raises(InputError, match="was tested on no image of the classes to keep"):  # an error rate of 0/0
        given_judges(model, ["b"], judge=made["judge"], second_judge=None)


def test_a_judge_that_is_resumed_costs_what_all_of_it_cost(tmp_path):
    """1442 images in 6 batches of 256, one epoch; a forward pass of an image is 1, a backward pass 2."""
    settings = JudgeSettings(data="digits", output_dir=tmp_path / "run", epochs=1, batch_size=256)
    seconds = 0.0
    for resume in (None, "latest", "latest"):
        run(replace(settings, resume_from_checkpoint=resume))
        (stage,) = read_json(tmp_path / "run" / "run.json")["stages"]
        assert (stage["network_evaluations"], "resumed" in stage) == (3 * 256 * 6, False)
        assert stage["seconds"] > seconds
        seconds = stage["seconds"]


def test_a_judge_that_diverges_in_the_last_step_ends_as_diverged(tmp_path):
    """It was told that a file of its features was made wrongly."""
    settings = JudgeSettings(data="digits", output_dir=tmp_path / "run", epochs=1, batch_size=1442, learning_rate=1e15)
    with pytest.raises(DivergenceError, match="diverged at step 1: the predictions of the trained model"):
        run(settings)
    assert not (tmp_path / "run" / "judge").exists()
