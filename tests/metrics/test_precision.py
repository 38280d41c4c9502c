import numpy as np
import pytest
import torch

from vdu.core.errors import InputError
from vdu.metrics import precision
from vdu.metrics.precision import DensityCoverage, PrecisionRecall, density_coverage, precision_recall


def normal(n, d=3, seed=0, shift=0.0, scale=1.0):
    return shift + scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_loops(real, fake, k):
    """Precision, recall, density, coverage by their definitions."""

    def radii(points):
        return [
            sorted(float((p - q).norm()) for j, q in enumerate(points) if j != i)[k - 1] for i, p in enumerate(points)
        ]

    def held(points, centres, sizes):
        return [sum(float((p - c).norm()) <= r for c, r in zip(centres, sizes, strict=True)) for p in points]

    in_real = held(fake, real, radii(real))
    covered = [any(float((f - c).norm()) <= r for f in fake) for c, r in zip(real, radii(real), strict=True)]
    recalled = held(real, fake, radii(fake))
    return np.mean(np.array(in_real) > 0), np.mean(np.array(recalled) > 0), np.mean(in_real) / k, np.mean(covered)


def all_four(real, fake, k):
    first, second = precision_recall(real, fake, k=k), density_coverage(real, fake, k=k)
    return first.precision, first.recall, second.density, second.coverage


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("rows", [7, 1024])
def test_agree_with_loops_whatever_the_blocks(k, rows, monkeypatch):
    monkeypatch.setattr(precision, "_ROWS", rows)
    real, fake = normal(25, seed=1), normal(20, seed=2, shift=1.3, scale=0.8)
    expected = by_loops(real, fake, k)
    assert len(set(expected)) == 4  # the four are different numbers here: none can stand for another
    assert all_four(real, fake, k) == pytest.approx(expected, abs=1e-12)


def test_agree_with_prdc():
    prdc = pytest.importorskip("prdc")
    real, fake = normal(60, 8, seed=1), normal(50, 8, seed=2, shift=0.3)
    oracle = prdc.compute_prdc(real.numpy(), fake.numpy(), nearest_k=4)
    names = ("precision", "recall", "density", "coverage")
    assert all_four(real, fake, 4) == pytest.approx(tuple(oracle[name] for name in names), abs=1e-12)


def test_higher_is_better():
    real = normal(100, seed=1)
    near, far = all_four(real, normal(100, seed=2), 5), all_four(real, normal(100, seed=2, shift=2.0), 5)
    assert all(good > bad for good, bad in zip(near, far, strict=True))
    assert PrecisionRecall.higher_is_better
    assert DensityCoverage.higher_is_better


def test_collapse_keeps_precision_and_loses_recall_and_coverage():
    real = normal(100, seed=1)
    collapsed = normal(100, seed=2, scale=0.01)
    result = precision_recall(real, collapsed)
    assert result.precision == 1
    assert result.recall < 0.1
    assert density_coverage(real, collapsed).coverage < 0.5


def test_the_same_set_scores_full_marks():
    x = normal(30, seed=1)
    assert precision_recall(x, x) == PrecisionRecall(1.0, 1.0, 3)
    assert density_coverage(x, x).coverage == 1


def test_bad_input_is_refused():
    x = normal(5)
    with pytest.raises(InputError, match=r"reference: got shape \(5, 3\), expected \[N, d\] with N ≥ 6"):
        density_coverage(x, normal(9))
    with pytest.raises(InputError, match=r"k: got 0"):
        precision_recall(x, x, k=0)
    with pytest.raises(InputError, match=r"got 3 and 4 dimensions"):
        precision_recall(x, normal(5, 4))
    with pytest.raises(InputError, match=r"generated: 15 of 15 values"):
        precision_recall(x, x * torch.nan)
