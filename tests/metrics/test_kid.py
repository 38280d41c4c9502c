import numpy as np
import pytest
import torch
from torch import nn

from vdu.core.errors import InputError
from vdu.metrics.kid import KID, KernelDistance, kernel_distance, mmd_squared


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(n, d, seed=0, shift=0.0):
    return shift + torch.randn(n, d, generator=generator(seed), dtype=torch.float64)


def mmd_by_loops(x, y):
    def kernel(a, b):
        return (sum(float(i) * float(j) for i, j in zip(a, b, strict=True)) / len(a) + 1) ** 3

    def within(z):
        return np.mean([kernel(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j])

    return within(x) + within(y) - 2 * np.mean([kernel(a, b) for a in x for b in y])


def test_agrees_with_loops():
    x, y = normal(7, 3, 1), normal(5, 3, 2, shift=0.4)
    assert float(mmd_squared(x, y)) == pytest.approx(mmd_by_loops(x, y), rel=1e-11)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`")
def test_agrees_with_torchmetrics():
    kid = pytest.importorskip("torchmetrics.image.kid")
    oracle = kid.KernelInceptionDistance(feature=nn.Flatten(), subsets=1, subset_size=40)
    x, y = normal(40, 16, 1).float(), normal(40, 16, 2, shift=0.3).float()
    oracle.update(x.view(-1, 1, 4, 4), real=True)
    oracle.update(y.view(-1, 1, 4, 4), real=False)
    assert float(mmd_squared(x, y)) == pytest.approx(float(oracle.compute()[0]), rel=2e-4)  # it works in float32


def test_no_bias_and_no_cut_at_zero_when_the_sets_agree():
    values = [float(mmd_squared(normal(30, 4, 2 * seed), normal(30, 4, 2 * seed + 1))) for seed in range(200)]
    assert min(values) < 0 < max(values)
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(200)


def test_value_and_std_are_those_of_the_subsets_that_the_generator_draws():
    x, y, g = normal(30, 3, 1), normal(40, 3, 2, shift=0.5), generator(5)
    values = []
    for _ in range(10):
        values.append(mmd_by_loops(x[torch.randperm(30, generator=g)[:6]], y[torch.randperm(40, generator=g)[:6]]))
    result = kernel_distance(x, y, n_subsets=10, subset_size=6, generator=generator(5))
    assert (result.value, result.std) == pytest.approx((np.mean(values), np.std(values)), rel=1e-10)
    half = 1.959964 * np.std(values) * np.sqrt(6 / 24 + 1 / 10)
    assert (result.low, result.high) == pytest.approx((np.mean(values) - half, np.mean(values) + half), rel=1e-6)


def test_interval_has_the_width_of_repeated_measurements():
    def measure(seed):
        sets = normal(200, 4, 2 * seed), normal(200, 4, 2 * seed + 1, shift=0.5)
        return kernel_distance(*sets, n_subsets=40, subset_size=40, generator=generator(seed))

    results = [measure(seed) for seed in range(50)]
    predicted = np.mean([(result.high - result.low) / 3.92 for result in results])
    assert predicted == pytest.approx(np.std([result.value for result in results]), rel=0.3)  # 9 % and 40-subset noise


def test_lower_is_better():
    x = normal(100, 4, 1)
    values = [
        kernel_distance(x, normal(100, 4, 2, shift), subset_size=50, n_subsets=10, generator=generator()).value
        for shift in (0.0, 0.5, 1.5)
    ]
    assert values == sorted(values)
    assert not KID.higher_is_better


@pytest.mark.parametrize(
    ("size", "subsets", "match"),
    [(11, 10, r"2 to 10 \(half of the smaller set of 20\)"), (1, 10, r"10 of 1 images"), (5, 9, r"got 9 of 5")],
)
def test_subsets_that_hide_the_noise_are_refused(size, subsets, match):
    with pytest.raises(InputError, match=match):
        kernel_distance(normal(20, 2), normal(30, 2), n_subsets=subsets, subset_size=size, generator=generator())


def test_bad_features_are_refused():
    with pytest.raises(InputError, match=r"got 2 and 3 dimensions"):
        mmd_squared(normal(5, 2), normal(5, 3))
    with pytest.raises(InputError, match=r"reference: 6 of 6 values are NaN"):
        kernel_distance(torch.full((3, 2), torch.nan), normal(5, 2), generator=generator())


def test_batches_accumulate_to_the_whole():
    x, y = normal(40, 3, 1), normal(30, 3, 2, shift=0.4)
    metric = KernelDistance(n_subsets=10, subset_size=8)
    for part in (slice(0, 5), slice(5, 40)):
        metric.update(x[part], reference=True)
        metric.update(y[part], reference=False)
    assert metric.compute() == kernel_distance(x, y, n_subsets=10, subset_size=8, generator=generator(0))
    assert metric.compute(generator=generator(7)) == kernel_distance(
        x, y, n_subsets=10, subset_size=8, generator=generator(7)
    )


@pytest.mark.parametrize("buffer", [torch.zeros(10, 3, dtype=torch.float64), np.zeros((10, 3))])
def test_a_buffer_that_is_filled_again_changes_no_earlier_batch(buffer):
    x, y, metric = normal(20, 3, 1), normal(20, 3, 2, shift=0.4), KernelDistance(n_subsets=10, subset_size=8)
    for whole, reference in ((x, True), (y, False)):
        for part in whole.split(10):
            buffer[:] = part if isinstance(buffer, torch.Tensor) else part.numpy()
            metric.update(buffer, reference=reference)
    assert metric.compute() == kernel_distance(x, y, n_subsets=10, subset_size=8, generator=generator(0))


def test_an_accumulator_with_a_network_extracts_features():
    images, metric = torch.rand(8, 1, 2, 2, generator=generator()), KernelDistance(nn.Flatten(), subset_size=2)
    metric.update(images[:4], reference=True)
    with pytest.raises(InputError, match="expected both sets"):
        metric.compute()
    metric.update(images[4:], reference=False)
    flat = images.flatten(1)
    assert metric.compute() == kernel_distance(flat[:4], flat[4:], subset_size=2, generator=generator(0))
