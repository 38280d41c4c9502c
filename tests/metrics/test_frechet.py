import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn

from vdu.core.errors import InputError
from vdu.metrics.frechet import Frechet, FrechetDistance, frechet_distance, frechet_from_moments, frechet_interval
from vdu.metrics.moments import Moments


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(n, d, seed=0, shift=0.0, scale=1.0):
    return shift + scale * torch.randn(n, d, generator=generator(seed), dtype=torch.float64)


def gaussian(mean, covariance, n=1000):
    covariance = torch.as_tensor(covariance, dtype=torch.float64)
    return Moments(n, torch.as_tensor(mean, dtype=torch.float64), covariance * (n - 1))


class Flat(nn.Module):
    num_features = 16

    def forward(self, images):
        return images.flatten(1)


def test_closed_form_of_diagonal_gaussians():
    first, second = gaussian([0, 1], [[4, 0], [0, 9]]), gaussian([3, 5], [[1, 0], [0, 25]])
    # |Δμ|² + Σ(σ₁ − σ₂)² = (9 + 16) + (1 + 4)
    assert frechet_from_moments(first, second).value == pytest.approx(30, rel=1e-13)


def test_general_gaussians_agree_with_scipy_square_root():
    a, b = normal(5, 5, 1), normal(5, 5, 2)
    first, second = (a @ a.T).numpy(), (b @ b.T).numpy()
    expected = np.trace(first + second - 2 * sqrtm(first @ second).real)
    value = frechet_from_moments(gaussian(np.zeros(5), first), gaussian(np.zeros(5), second)).value
    assert value == pytest.approx(expected, rel=1e-9)


def test_agrees_with_torchmetrics():
    fid = pytest.importorskip("torchmetrics.image.fid")
    oracle = fid.FrechetInceptionDistance(feature=Flat(), input_img_size=(1, 4, 4)).set_dtype(torch.float64)
    real, fake = normal(60, 16, 1), normal(50, 16, 2, shift=0.3, scale=1.4)
    ours = FrechetDistance()
    for features, is_real in ((real, True), (fake, False)):
        oracle.update(features.view(-1, 1, 4, 4), real=is_real)
        ours.update(features, reference=is_real)
    assert ours.compute().value == pytest.approx(float(oracle.compute()), rel=1e-8)


def test_same_set_is_at_zero_and_the_distance_is_symmetric():
    x, y = normal(50, 8, 1), normal(60, 8, 2, shift=0.5)
    assert frechet_distance(x, x).value == pytest.approx(0, abs=1e-6)  # square roots of rounding errors
    assert frechet_distance(x, y).value == pytest.approx(frechet_distance(y, x).value, rel=1e-10)


def test_lower_is_better():
    x = normal(80, 4, 1)
    values = [frechet_distance(x, normal(80, 4, 2, shift)).value for shift in (0.0, 0.5, 2.0)]
    assert values == sorted(values)
    assert not Frechet.higher_is_better
    assert not FrechetDistance.higher_is_better


def test_singular_covariances_are_allowed_and_flagged():
    with pytest.warns(UserWarning, match=r"5 and 40 images in 8 dimensions"):
        result = frechet_distance(normal(5, 8, 1), normal(40, 8, 2))
    assert result.rank_deficient
    assert result.value >= 0
    assert not frechet_distance(normal(40, 8, 1), normal(40, 8, 2)).rank_deficient


def test_interval_is_centred_where_plain_percentiles_exclude_the_value():
    reference, generated = normal(400, 20, 1), normal(60, 20, 2)
    result = frechet_interval(reference, generated, n_resamples=80, generator=generator())
    assert result.value == frechet_distance(reference, generated).value
    assert result.low < result.value < result.high
    g = generator()
    resampled = [frechet_distance(reference, generated[torch.randint(60, (60,), generator=g)]).value for _ in range(80)]
    assert np.quantile(resampled, 0.025) > result.value
    assert result.resample_bias == pytest.approx(np.mean(resampled) - result.value)
    assert result.low == pytest.approx(np.quantile(resampled, 0.025) - result.resample_bias)
    assert result.high == pytest.approx(np.quantile(resampled, 0.975) - result.resample_bias)
    assert result.n_resamples == 80


def test_interval_has_the_width_of_repeated_measurements():
    reference = normal(500, 4, 1)
    repeated = [frechet_distance(reference, normal(150, 4, 10 + seed, shift=0.4)).value for seed in range(120)]
    interval = frechet_interval(reference, normal(150, 4, 2, shift=0.4), n_resamples=200, generator=generator())
    # Standard deviations from 120 repetitions and 200 resamples: 7 % and 5 %; one data set's own: about 15 %.
    assert (interval.high - interval.low) / 3.92 == pytest.approx(np.std(repeated), rel=0.4)


def test_interval_repeats_with_its_generator_and_stays_above_zero():
    x, y = normal(100, 3, 1), normal(100, 3, 2)
    first, second = (frechet_interval(x, y, n_resamples=40, generator=generator(3)) for _ in range(2))
    assert first == second
    assert first.low >= 0


def test_accumulator_runs_its_network():
    images = torch.rand(60, 1, 4, 4, generator=generator()) * 2 - 1
    metric = FrechetDistance(Flat())
    for batch in images[:35].split(8):
        metric.update(batch, reference=True)
    metric.update(images[35:], reference=False)
    expected = frechet_distance(images[:35].flatten(1), images[35:].flatten(1)).value
    assert metric.compute().value == pytest.approx(expected, rel=1e-9)


def test_an_unfinished_accumulator_says_what_is_missing():
    metric = FrechetDistance()
    with pytest.raises(InputError, match=r"got nothing, expected both sets"):
        metric.compute()
    metric.update(normal(4, 2), reference=True)
    with pytest.raises(InputError, match=r"got the reference, expected both sets"):
        metric.compute()
    metric.update(normal(1, 2), reference=False)
    with pytest.raises(InputError, match=r"generated: got 1 image"):
        metric.compute()


def test_bad_features_are_refused():
    x = normal(10, 2)
    with pytest.raises(InputError, match=r"generated: 1 of 20 values are NaN"):
        frechet_distance(x, x.clone().index_put_((torch.tensor(0), torch.tensor(0)), torch.tensor(torch.nan).double()))
    with pytest.raises(InputError, match=r"got 2 and 3 dimensions"):
        frechet_distance(x, normal(10, 3))
    with pytest.raises(
        InputError, match=r"reference: got numbers up to .*e\+180; expected features of at most 3.4e\+38"
    ):
        frechet_distance(x * 1e180, x)  # its square overflows
    with pytest.raises(InputError, match=r"n_resamples: got 5"):
        frechet_interval(x, x, n_resamples=5, generator=generator())
