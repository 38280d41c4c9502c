"""A judge that reads the class from the pixels, with a known confusion matrix: rates, filter and ceiling against a recount."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn

from vdu.data.images import ImageSet
from vdu.evaluation.options import EvaluationOptions
from vdu.judges.judging import Judging, given_judges

CLASSES = ("a", "b", "c")
CONFUSION = [[8, 1, 1], [2, 15, 3], [0, 6, 24]]  # [true class][predicted class]: 60 held-out images


class StubJudge(nn.Module):
    """Predicts the class that the first pixel holds, plus a fixed turn."""

    architecture = "stub"

    def __init__(self, turn: int = 0, class_names=CLASSES):
        super().__init__()
        self.turn, self.class_names = turn, class_names

    def forward(self, images):
        level = (images[:, 0, 0, 0] + 1) * 127.5
        classes = (level.round().long() + self.turn) % len(self.class_names)
        return 5.0 * nn.functional.one_hot(classes, len(self.class_names)).float()


def stub_judging(*forget: str, second: bool = False, record: dict[str, Any] | None = None) -> Judging:
    known = {"name": "stub-cnn", "held_out_error": 13 / 60, "confusion": CONFUSION} if record is None else record
    other = {"name": "stub-lenet", "held_out_error": 0.5, "confusion": CONFUSION}
    pair = (cast("Any", StubJudge(1)), other) if second else (None, None)
    return Judging(cast("Any", StubJudge()), known, "given", forget, *pair)


def of_classes(*classes: int) -> ImageSet:
    images = torch.zeros(len(classes), 1, 2, 2, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.tensor(classes, dtype=torch.uint8)
    return ImageSet(images)


@pytest.mark.parametrize("forget", [("a",), ("b",), ("c",), ("a", "c")])
def test_the_rate_is_a_recount_of_the_confusion_matrix(forget):
    retained = [row for name, row in zip(CLASSES, CONFUSION, strict=True) if name not in forget]
    false_positives = sum(row[CLASSES.index(name)] for row in retained for name in forget)
    rate, n_held_out, n_kept = stub_judging(*forget).rates()
    assert rate == pytest.approx(false_positives / sum(map(sum, retained)), rel=1e-15)
    assert (n_held_out, n_kept) == (60, sum(map(sum, retained)))


def test_several_forget_classes_add_their_false_positives():
    assert stub_judging("a", "c").rates()[0] == pytest.approx((2 + 3) / 20)  # only b is retained


def test_the_fallback_has_an_estimated_rate():
    record = {"name": "fallback", "held_out_error": 0.1, "forget_false_positive_rate": 0.02, "n_held_out": 300}
    assert stub_judging("a", record=record).rates() == (0.02, 300, None)


def test_a_class_that_is_named_twice_counts_once():
    model = SimpleNamespace(image_shape=(1, 28, 28))
    judging = given_judges(cast("Any", model), ["8", "8"], judge="mnist", second_judge=None)
    assert judging is not None and judging.forget_names == ("8",)
    confusion = judging.record["confusion"]
    alarms = sum(row[8] for i, row in enumerate(confusion) if i != 8)
    assert judging.rates()[0] == pytest.approx(alarms / (10_000 - sum(confusion[8])))
    assert EvaluationOptions.from_python(forget_class=["8", 8]).forget_class == ("8",)
    assert EvaluationOptions(forget_class=("9", "8", "9")).forget_class == ("9", "8")


@pytest.mark.parametrize("forget", [("a",), ("b",), ("a", "c")])
def test_the_ceiling_is_pul_of_a_model_that_makes_retained_images_only(forget):
    n_images, n_original = 1000, 400
    retained = [row for name, row in zip(CLASSES, CONFUSION, strict=True) if name not in forget]
    rate = sum(row[CLASSES.index(name)] for row in retained for name in forget) / sum(map(sum, retained))
    left = rate * n_images  # images that the judge still predicts forget
    found = stub_judging(*forget).ceiling(n_original, n_images)
    assert found == pytest.approx(100 * (n_original - left) / n_original)


def test_predictions_of_any_forget_class_count():
    judging, images = stub_judging("a", "c"), of_classes(0, 1, 2, 1, 0)
    assert judging.finds_forget(images).tolist() == [True, False, True, False, True]
    assert judging.is_forget(torch.tensor([1, 2])).tolist() == [False, True]
    assert judging.forget_classes == [0, 2]


def test_the_second_judge_filters_where_there_is_one():
    images = of_classes(0, 1, 2)
    assert stub_judging("a").filtered(images).tolist() == [True, False, False]
    assert stub_judging("a", second=True).filtered(images).tolist() == [False, False, True]  # it turns c into a
    assert stub_judging("a", second=True).finds_forget(images).tolist() == [True, False, False]


def test_the_second_judge_in_the_place_of_the_first():
    other = stub_judging("b", second=True).as_second()
    assert (other.name, other.second, other.forget_names) == ("stub-lenet", None, ("b",))
    assert other.finds_forget(of_classes(0, 1, 2)).tolist() == [True, False, False]
