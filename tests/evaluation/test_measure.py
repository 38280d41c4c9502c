"""The evaluator on images whose class is a pixel: every count, distance and choice of images is made again by brute force."""

import hashlib
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from vdu.core.errors import InputError
from vdu.core.rng import generator
from vdu.data.images import ImageSet
from vdu.diffusion.sampling import Sampler
from vdu.evaluation import references
from vdu.evaluation.compare import compare, corrected, predict
from vdu.evaluation.measure import measure
from vdu.evaluation.records import Comparison, PULRecord
from vdu.evaluation.references import (
    filtered_original,
    first_images,
    load_reference,
    reference_images,
    split_at_random,
    unshared_reference,
    without_forget,
)
from vdu.judges.judging import Judging
from vdu.metrics.feature_networks import FeatureNetwork
from vdu.metrics.features import Predictions
from vdu.reporting.code_texts import row_note

N, SEED = 40, 5
SAMPLER = Sampler(microbatch_size=8)
CLASSES = ("a", "b", "c")
CONFUSION = [[9, 1, 0], [2, 18, 0], [0, 1, 29]]
pytestmark = pytest.mark.filterwarnings("ignore:Fréchet distance:UserWarning")


class StubJudge(nn.Module):
    """Predicts the class that the first pixel holds; ``turn`` makes it another judge. Two features: two other pixels."""

    architecture, class_names, sample_shape = "stub", CLASSES, (1, 2, 2)

    def __init__(self, turn: int = 0):
        super().__init__()
        self.turn = turn

    def forward(self, images):
        level = ((images[:, 0, 0, 0] + 1) * 127.5).round().long()
        return 5.0 * nn.functional.one_hot((level + self.turn) % 3, 3).float()

    def features(self, images):
        return images[:, 0, 1, :]


def judging(*forget: str, second: bool = False) -> Judging:
    record = {"name": "stub-cnn", "held_out_error": 4 / 60, "confusion": CONFUSION}
    pair = (cast("Any", StubJudge(1)), record | {"name": "stub-lenet"}) if second else (None, None)
    return Judging(cast("Any", StubJudge()), record, "given", forget, *pair)


def network() -> FeatureNetwork:
    return FeatureNetwork(StubJudge().features, "judge:stub-cnn", "0" * 64, 2, 16, "none", "given")


def images(n: int, seed: int, counts=(0.3, 0.4, 0.3)) -> ImageSet:
    """Random images, whose first pixel is the class."""
    source = np.random.default_rng(seed)
    pixels = source.integers(0, 256, (n, 1, 2, 2), dtype=np.uint8)
    pixels[:, 0, 0, 0] = source.choice(3, n, p=counts)
    return ImageSet(torch.from_numpy(pixels), description=f"images {seed}")


ORIGINAL, UNLEARNED, REAL = images(300, 0), images(N, 1, (0.1, 0.4, 0.5)), images(90, 2, (0.0, 0.5, 0.5))
RETRAINED = images(N, 3, (0.05, 0.45, 0.5))


def class_of(stored: ImageSet) -> np.ndarray:
    return stored.images[:, 0, 0, 0].numpy()


def features_of(stored: ImageSet) -> np.ndarray:
    return stored.images[:, 0, 1, :].numpy().astype(np.float32) / np.float32(127.5) - np.float32(1)


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """Heusel et al. (2017), with scipy's matrix square root."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    root = np.real(cast("Any", scipy.linalg.sqrtm(np.cov(x.T) @ np.cov(y.T))))
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root))


def run(reference=REAL, *, forget=("a",), second=False, retrained=None, **changed):
    return measure(
        ORIGINAL, UNLEARNED, judging(*forget, second=second), network(), reference=reference, retrained=retrained,
        n_images=N, sampler=SAMPLER, seed=SEED, **changed,
    )  # fmt: skip


@pytest.mark.parametrize("forget", [("a",), ("a", "b")])
def test_counts_are_a_recount(forget):
    found = run(forget=forget).evidence
    before, after = class_of(ORIGINAL)[:N], class_of(UNLEARNED)
    wanted = [CLASSES.index(name) for name in forget]
    n_original, n_unlearned = int(np.isin(before, wanted).sum()), int(np.isin(after, wanted).sum())
    assert (found.pul.n_original, found.pul.n_unlearned, found.pul.n_images) == (n_original, n_unlearned, N)
    assert found.pul.value == pytest.approx(100 * (1 - n_unlearned / n_original))
    assert found.row("original").forget_count == n_original
    assert found.row("unlearned").forget_count == n_unlearned
    for i, j in np.ndindex(3, 3):
        assert found.transitions.counts[i][j] == sum((before == i) & (after == j))
    assert found.histogram.original == tuple(np.bincount(before, minlength=3))
    assert found.histogram.unlearned == tuple(np.bincount(after, minlength=3))
    kept = [0 if k in wanted else int((before == k).sum()) for k in range(3)]
    assert found.histogram.expected == pytest.approx([N * each / sum(kept) for each in kept])
    others = [(i, j) for i, j in zip(before, after, strict=True) if i not in wanted]
    assert (found.kept.n_changed, found.kept.n_kept) == (sum(i != j for i, j in others), len(others))
    assert found.kept.share == pytest.approx(sum(i != j for i, j in others) / len(others))
    n_others = N - n_unlearned  # many unwanted images remain: the others alone have the mix of the rest
    assert n_unlearned > 0.02 * N
    shifts = {k: abs((after == k).sum() - n_others * kept[k] / sum(kept)) for k in range(3) if k not in wanted}
    worst = max(shifts, key=lambda k: shifts[k])
    assert (found.kept.shifted_class, found.kept.shifted_made) == (CLASSES[worst], (after == worst).sum())
    assert found.kept.shifted_expected == pytest.approx(n_others * kept[worst] / sum(kept))


def test_every_row_is_the_distance_of_its_images():
    found = run(retrained=RETRAINED).evidence
    real, free = features_of(REAL), features_of(ORIGINAL)[class_of(ORIGINAL) != 0][:N]
    for name, drawn in (
        ("original", features_of(ORIGINAL)[:N]), ("filtered_original", free), ("unlearned", features_of(UNLEARNED)),
        ("retrained", features_of(RETRAINED)),
    ):  # fmt: skip
        distances = found.row(name).distances
        assert distances is not None and distances.u_fid.value == pytest.approx(frechet(real, drawn), rel=1e-6)
    order = torch.randperm(len(real), generator=generator(SEED, "split")).numpy()
    split = found.row("real_split").distances
    assert split is not None
    assert split.u_fid.value == pytest.approx(frechet(real[order[N:]], real[order[:N]]), rel=1e-6)
    assert [row.name for row in found.rows] == [
        "real_split", "original", "filtered_original", "unlearned", "retrained", "ascent", "isotropic",
    ]  # fmt: skip
    assert [row.note_code for row in found.rows] == [
        "real_split", None, "filtered_by_judge", None, "retrained", None, None,
    ]  # fmt: skip
    assert (found.reference.kind, found.reference.n_images) == ("real", len(REAL))
    pixels = f"images {list(REAL.images.shape)} ".encode() + REAL.images.numpy().tobytes()
    assert found.reference.to_json()["sha256"] == hashlib.sha256(pixels).hexdigest()
    assert found.row("retrained").forget_count == sum(class_of(RETRAINED) == 0)
    flips = found.transitions_retrained
    assert flips is not None
    pairs = list(zip(class_of(ORIGINAL)[:N].tolist(), class_of(RETRAINED).tolist(), strict=True))
    assert all(n == pairs.count((i, j)) for i, row in enumerate(flips.counts) for j, n in enumerate(row))


@pytest.mark.parametrize("size", [2 * N, 2 * N - 1])
def test_real_images_against_real_ones_say_how_many_they_are(size):
    """With 2 N there are N of each, as in the rows beside it; with one fewer the smaller set has N − 1."""
    split = run(REAL.select(range(size))).evidence.row("real_split").to_json()
    note = row_note(split)
    if size == 2 * N:
        assert (split["note_code"], "note_details" in split, note) == (
            "real_split",
            False,
            "two disjoint sets of real images",
        )
    else:
        assert split["note_code"] == "real_split_small"
        assert note.startswith(
            f"two disjoint sets of {N - 1} and {N} real images: fewer than the {N} of the rows beside it"
        )


@pytest.mark.parametrize("second", [False, True])
def test_without_a_reference_further_filtered_samples_are_it(second):
    found = run(None, second=second).evidence
    forgotten = 2 if second else 0  # the second judge predicts a where the first pixel is 2
    others = features_of(ORIGINAL)[class_of(ORIGINAL) != forgotten]
    base, free = others[N : 2 * N], others[:N]
    for name, drawn in (("filtered_original", free), ("unlearned", features_of(UNLEARNED))):
        distances = found.row(name).distances
        assert distances is not None and distances.u_fid.value == pytest.approx(frechet(base, drawn), rel=1e-6)
    assert found.row("filtered_original").note_code == ("filtered_by_second_judge" if second else "filtered_by_judge")
    assert (found.reference.kind, found.reference.n_images) == ("filtered_original", N)
    assert "sha256" not in found.reference.to_json()
    assert found.rows[0].name == "original"
    assert found.row("retrained").distances is None


def test_the_judges_entry_and_the_corrected_pul():
    found = run(second=True).evidence
    rate = 2 / 50  # b and c are retained: 2 of 50 held-out images of them are predicted a
    n_original, n_unlearned = found.pul.n_original, found.pul.n_unlearned
    assert found.judge.forget_false_positive_rate == pytest.approx(rate)
    assert found.judge.pul_ceiling_percent == pytest.approx(100 * (1 - rate * N / n_original))
    assert found.corrected_pul_percent is not None
    assert found.corrected_pul_percent.value == pytest.approx(
        100 * (1 - (n_unlearned - rate * N) / (n_original - rate * N))
    )
    assert found.second_judge is not None and found.second_judge.judge.name == "stub-lenet"
    turned = [(class_of(each) + 1) % 3 == 0 for each in (ORIGINAL, UNLEARNED)]
    counts = (found.second_judge.pul.n_original, found.second_judge.pul.n_unlearned)
    assert counts == (sum(turned[0][:N]), sum(turned[1]))


def test_no_corrected_pul_where_false_positives_explain_the_count():
    pul = PULRecord(50.0, 0.0, 80.0, 2, 1, n_images=100, n_empty_resamples=0)
    assert corrected(pul, 0.02) is None
    assert corrected(pul, 0.019) is not None


def test_reasons_for_care_are_codes():
    assert [each.code for each in run().evidence.warnings] == ["few_forget_images", "no_second_judge"]
    assert run().evidence.warnings[0].details == {"forget_count": sum(class_of(ORIGINAL)[:N] == 0)}
    assert [each.code for each in run(second=True).evidence.warnings] == ["few_forget_images"]


def test_a_fallback_judge_brings_the_numbers_of_its_errors():
    rates = {
        "miss_rate": 0.1, "n_forget": 50, "false_positive_rate": 0.01, "false_positive_rate_high": 0.03,
        "n_unlabelled": 250, "share": 0.1,
    }  # fmt: skip
    record = {"name": "fallback", "held_out_error": 0.1, "n_held_out": 50, "forget_false_positive_rate": 0.01}
    spot = replace(judging("a"), source="fallback", record=record | {"forget": rates | {"n_like_forget": 9}})
    found = measure(ORIGINAL, UNLEARNED, spot, network(), reference=REAL, n_images=N, sampler=SAMPLER, seed=SEED)
    warning = next(each for each in found.evidence.warnings if each.code == "fallback_judge")
    assert warning.details == rates


def test_a_smaller_comparison_is_that_of_the_first_images():
    asked = judging("a", second=True)
    before, features, n = ORIGINAL.select(range(N)), torch.from_numpy(features_of(UNLEARNED)).double(), 25
    real = torch.from_numpy(features_of(REAL)).double()
    pair = predict(asked, before), predict(asked, UNLEARNED)
    head = compare(*(each.first(n) for each in pair), features[:n], real, asked, SEED)
    few = (predict(asked, each.select(range(n))) for each in (before, UNLEARNED))
    assert head == compare(*few, features[:n], real, asked, SEED)
    assert compare(*pair, features, real, asked, SEED) == compare_of(run(second=True))
    assert compare(*pair, features, real, asked, SEED, with_fidelity=False).fidelity is None


def compare_of(found):
    """The comparison inside a whole evaluation."""
    row = found.evidence.row("unlearned")
    return Comparison(row.pul, found.evidence.second_judge, row.distances, found.evidence.histogram, row.fidelity)


@pytest.mark.parametrize(("missing", "name"), [((0.0, 0.5, 0.5), "stub-cnn"), ((0.5, 0.5, 0.0), "stub-lenet")])
def test_an_original_without_the_class_is_refused_before_anything_is_filtered(missing, name, monkeypatch):
    monkeypatch.setattr("vdu.evaluation.measure.filtered_original", None)
    asked, clean = judging("a", second=True), images(N, 7, missing)  # the second judge predicts a where the class is c
    with pytest.raises(InputError, match=rf"{name} predicts forget for 0 of the original's 40 samples.*--n-images"):
        measure(clean, UNLEARNED, asked, network(), reference=REAL, n_images=N, sampler=SAMPLER, seed=SEED)


def test_the_filtered_original_is_drawn_until_enough_remain(monkeypatch):
    asked, drawn = judging("a"), []

    def cached(model, n, sampler, *, seed, progress):
        assert (model, seed) == ("model", SEED)
        drawn.append(n)
        return ORIGINAL.select(range(n)), 0

    monkeypatch.setattr(references, "cached_samples", cached)
    found = filtered_original(cast("Any", "model"), ORIGINAL.select(range(10)), asked, 60, SAMPLER, SEED)
    expected = ORIGINAL.images[torch.from_numpy(class_of(ORIGINAL) != 0)][:60]
    assert torch.equal(found.images, expected)
    assert drawn == sorted(set(drawn)) and len(drawn) > 1
    assert not judging("a").filtered(found).any()


def test_a_model_of_nearly_nothing_else_is_refused():
    full = images(2000, 9, (0.99, 0.005, 0.005))
    with pytest.raises(InputError, match=r"filtered original: only \d+ of \d+ samples are not of the forget class"):
        filtered_original(full, full.select(range(20)), judging("a"), 40, SAMPLER, SEED)


def test_too_few_stored_images_are_refused():
    with pytest.raises(InputError, match="unlearned: got 40 stored images; expected at least 41"):
        first_images(UNLEARNED, N + 1, SAMPLER, SEED, "unlearned")


def test_what_the_filter_leaves_is_in_order():
    kept = without_forget(ORIGINAL, judging("b"))
    assert torch.equal(kept.images, ORIGINAL.images[torch.from_numpy(class_of(ORIGINAL) != 1)])


@pytest.mark.parametrize(("n_all", "n", "n_first"), [(10, 3, 3), (10, 8, 5), (11, 8, 5)])
def test_the_parts_of_a_split_are_disjoint_and_whole(n_all, n, n_first):
    features = torch.arange(n_all).double().view(-1, 1)
    first, rest = split_at_random(features, n, SEED)
    assert (len(first), len(rest)) == (n_first, n_all - n_first)
    assert sorted(torch.cat([first, rest]).flatten().tolist()) == list(range(n_all))


def test_a_reference_loses_the_forget_classes_by_label_or_by_the_judge(monkeypatch):
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    stored = ImageSet(images(6, 4).images, labels, None, CLASSES, "labelled")
    monkeypatch.setattr(references, "load_images", lambda source, shape, split: stored)
    loaded = load_reference("data", "test", stored.shape)
    assert loaded is stored and unshared_reference(loaded, ImageSet(stored.images[:1] ^ 255)) is stored
    assert (
        unshared_reference(loaded, ImageSet(stored.images[:1])).description == "labelled without 1 of the forget images"
    )
    by_label = reference_images(loaded, judging("a"), ["a"])
    assert by_label.description == "labelled without a (by label)"
    assert torch.equal(by_label.images, stored.images[labels != 0])
    stored = ImageSet(stored.images, description="unlabelled")
    by_judge = reference_images(stored, judging("a"), ["a"])
    assert by_judge.description == "unlabelled without forget images (by the judge)"
    assert torch.equal(by_judge.images, stored.images[torch.from_numpy(class_of(stored) != 0)])
    assert load_reference(None, "test", stored.shape) is None


def test_no_set_becomes_floating_point_as_a_whole(monkeypatch):
    sizes = []

    def count(self, *arguments):
        raise AssertionError("the whole set")

    monkeypatch.setattr(ImageSet, "floats", count)
    net = replace(network(), features=lambda batch: sizes.append(len(batch)) or StubJudge().features(batch))
    measure(ORIGINAL, UNLEARNED, judging("a"), net, reference=REAL, n_images=N, sampler=SAMPLER, seed=SEED)
    assert set(sizes) == {net.batch_size}


def test_the_predictions_stored_beside_the_images_are_the_judges():
    found = run()
    assert isinstance(found.predictions["original"], Predictions)
    assert found.predictions["original"].classes.tolist() == class_of(ORIGINAL)[:N].tolist()
    assert found.predictions["unlearned"].classes.tolist() == class_of(found.unlearned).tolist()
