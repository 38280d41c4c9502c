import pytest
import torch

from vdu.core.errors import InputError
from vdu.metrics.moments import merge_moments


def normal(n, d, seed=0, shift=0.0):
    return shift + torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_moments_do_not_depend_on_the_batches_even_far_from_zero(batch_size):
    features = normal(100, 3, shift=1e6)
    moments = None
    for batch in features.split(batch_size):
        moments = merge_moments(moments, batch)
    assert moments.n == 100
    torch.testing.assert_close(moments.mean, features.mean(0), rtol=1e-14, atol=0)
    # Σxxᵀ − n·mmᵀ would keep 1e−16·1e12·100 = 0.01 of a scatter of 100.
    torch.testing.assert_close(moments.covariance, features.T.cov(), rtol=1e-8, atol=1e-9)


def test_merging_leaves_the_old_moments_alone():
    old = merge_moments(None, normal(5, 2))
    mean, scatter = old.mean.clone(), old.scatter.clone()
    merge_moments(old, normal(5, 2, 1))
    assert torch.equal(old.mean, mean)
    assert torch.equal(old.scatter, scatter)


def test_bad_features_are_refused():
    with pytest.raises(InputError, match=r"got 2 and 3 dimensions"):
        merge_moments(merge_moments(None, normal(10, 2)), normal(10, 3))
    with pytest.raises(InputError, match=r"features: 3 of 3 values are NaN"):
        merge_moments(None, normal(1, 3) * torch.nan)
