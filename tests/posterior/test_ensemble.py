import logging

import numpy as np
import pytest
import torch

from vdu.core.checks import hash_parameters
from vdu.core.errors import InputError
from vdu.posterior.ensemble import fit_ensemble
from vdu.posterior.isotropic import fit_isotropic


def members(k: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [{"w": torch.randn(4, 3, generator=generator), "b": torch.randn(5, generator=generator)} for _ in range(k)]


@pytest.mark.parametrize(("k", "nu"), [(5, 4.0), (5, 0.0), (2, 4.0)])
def test_formula(k, nu):
    given = members(k)
    posterior = fit_ensemble(iter(given), shrinkage=nu, floor=1e-9)
    for name in ("w", "b"):
        stacked = np.stack([member[name].numpy() for member in given]).astype(np.float64)
        s2 = stacked.var(0, ddof=1)
        expected = ((k - 1) * s2 + nu * s2.mean()) / (k - 1 + nu)
        np.testing.assert_allclose(posterior.mean[name].numpy(), stacked.mean(0), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(posterior.variance[name].numpy(), expected, rtol=1e-6)
    assert posterior.n_members == k
    assert posterior.extras["n_on_floor"] == 0
    assert posterior.extras["n_parameters"] == 17
    assert posterior.sources["member-1"] == hash_parameters(given[1])


def test_floor_is_relative_to_the_layer_and_counted():
    given = members(5)
    for member in given:
        member["w"][0] = 1.0  # three entries on which all agree
    posterior = fit_ensemble(given, shrinkage=0.0, floor=0.01)
    s2 = np.stack([member["w"].numpy() for member in given]).astype(np.float64).var(0, ddof=1)
    np.testing.assert_allclose(posterior.variance["w"][0].numpy(), 0.01 * s2.mean(), rtol=1e-6)
    assert posterior.extras["n_on_floor"] == 3


def test_a_layer_on_which_all_members_agree_is_floored_by_the_network():
    given = [{"w": member["w"], "b": torch.ones(5)} for member in members(5)]
    posterior = fit_ensemble(given, floor=0.01)
    overall = np.stack([member["w"].numpy() for member in given]).astype(np.float64).var(0, ddof=1).sum() / 17
    np.testing.assert_allclose(posterior.variance["b"].numpy(), 1e-4 * overall, rtol=1e-6)
    assert posterior.extras["n_on_floor"] == 5


@pytest.mark.parametrize("k", [2, 3])
def test_few_members_warn(k, caplog):
    with caplog.at_level(logging.WARNING):
        posterior = fit_ensemble(members(k))
    assert posterior.extras["few_members"]
    assert f"ensemble of {k} members" in caplog.text


def test_inflation_at_five_members_is_twofold(caplog):
    assert fit_ensemble(members(5)).extras["precision_inflation"] == pytest.approx(2)
    assert not caplog.text


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (members(1), {}, r"got 1 member\(s\), expected at least 2"),
        ([], {}, r"got 0 member\(s\), expected at least 2"),
        (members(2) + members(1), {}, "member 2 has the weights of an earlier one"),
        ([*members(2), {"w": torch.zeros(4, 3)}], {}, "b: missing"),
        ([{"w": torch.ones(2), "b": torch.tensor(float(k))} for k in range(3)], {"name_filter": "w"}, "agree in every"),
        (members(2), {"name_filter": "attn"}, "matches none of the 2 names"),
        (members(2), {"name_filter": "("}, "not a valid regular expression"),
        (members(2), {"floor": 0.0}, "floor: got 0.0; expected"),
        (members(2), {"shrinkage": -1.0}, "shrinkage: got -1.0"),
    ],
)
def test_refusals(given, options, message):
    with pytest.raises(InputError, match=message):
        fit_ensemble(given, **options)


def test_name_filter_covers_only_its_matches():
    posterior = fit_ensemble(members(5), name_filter="^b$")
    assert list(posterior.mean) == ["b"]
    assert posterior.name_filter == "^b$"


def test_isotropic_is_one_variance_around_a_copy():
    theta = members(1)[0]
    posterior = fit_isotropic(theta, 0.25)
    assert torch.equal(posterior.mean["w"], theta["w"]) and posterior.mean["w"] is not theta["w"]
    shifted = {name: tensor + 1 for name, tensor in theta.items()}
    assert float(posterior.penalty(shifted)) == pytest.approx(17 / (2 * 0.25), rel=1e-6)
    with pytest.raises(InputError, match="variance: got 0"):
        fit_isotropic(theta, 0)
