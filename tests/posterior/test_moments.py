import numpy as np
import pytest
import torch

from vdu.core.errors import InputError
from vdu.posterior.moments import StreamingMoments


def members(k: int, offset: float = 0.0) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [
        {"w": offset + torch.randn(3, 2, generator=generator), "b": torch.randn(2, generator=generator)}
        for _ in range(k)
    ]


@pytest.mark.parametrize("k", [2, 5, 20])
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_equals_numpy(k, ddof, offset):
    moments, given = StreamingMoments(), members(k, offset)
    for member in given:
        moments.update(member)
    for name in ("w", "b"):
        stacked = np.stack([member[name].double().numpy() for member in given])
        np.testing.assert_allclose(moments.mean[name].numpy(), stacked.mean(0), rtol=1e-13)
        np.testing.assert_allclose(moments.variance(ddof)[name].numpy(), stacked.var(0, ddof=ddof), rtol=1e-8)


def test_two_copies_whatever_the_count():
    moments = StreamingMoments()
    for member in members(7):
        moments.update(member)
    held = [tensor for part in vars(moments).values() if isinstance(part, dict) for tensor in part.values()]
    assert sum(tensor.numel() for tensor in held) == 2 * 8
    moments.mean["w"].zero_()
    assert moments.mean["w"].abs().sum() > 0


@pytest.mark.parametrize(
    ("stranger", "message"),
    [
        ({"w": torch.zeros(3, 2)}, "member 1: names or shapes differ.*\n.*b: missing"),
        ({"w": torch.zeros(2, 3), "b": torch.zeros(2)}, r"w: got shape \(2, 3\), expected \(3, 2\)"),
        ({"w": torch.zeros(3, 2), "b": torch.tensor([0.0, float("nan")])}, "member 1, b: 1 of 2 values are NaN"),
    ],
)
def test_strangers_are_refused_and_change_nothing(stranger, message):
    moments = StreamingMoments()
    moments.update(members(1)[0])
    with pytest.raises(InputError, match=message):
        moments.update(stranger)
    assert moments.count == 1
    assert torch.equal(moments.mean["w"], members(1)[0]["w"].double())


def test_too_few_members():
    moments = StreamingMoments()
    with pytest.raises(InputError, match="got 0 member"):
        _ = moments.mean
    moments.update(members(1)[0])
    with pytest.raises(InputError, match=r"got 1 member.*expected more than 1"):
        moments.variance()
