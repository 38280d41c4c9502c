"""What holds for every estimator of the table."""

import json
from dataclasses import replace
from typing import get_args

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from vdu.commands.settings import Estimator
from vdu.core.errors import InputError
from vdu.posterior.estimators import ESTIMATORS, find_estimator, make_estimator
from vdu.posterior.fit import fit_samples, take_all
from vdu.posterior.isotropic import fit_isotropic
from vdu.posterior.names import covered
from vdu.posterior.state_file import read_state, write_state

OPTIONS = {
    "fisher": {"n_train": 50, "draws_per_half": 2},
    "amnesia-fisher": {"timesteps_per_sample": 3},
    "ensemble": {},
    "finetuned-ensemble": {},
    "isotropic": {"variance": 0.5},
}
N = 5


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def start(name, denoiser, **options):
    """An estimator, its first state and its items."""
    estimator = make_estimator(name, **OPTIONS[name] | options)
    own = dict(denoiser.network.named_parameters())
    items = {
        "samples": list(torch.randn(N, 1, 2, 2, generator=seeded(1), dtype=torch.float64)),
        "nothing": [],
    }.get(
        estimator.takes,
        [{key: value.detach() + torch.randn(value.shape, generator=seeded(k), dtype=value.dtype)
          for key, value in own.items()} for k in range(N)],
    )  # fmt: skip
    return estimator, estimator.init(denoiser, n_items=len(items), generator=seeded(0)), items


def test_the_table_is_that_of_the_command_line():
    assert set(ESTIMATORS) == set(get_args(Estimator)) == set(OPTIONS)
    assert all(estimator.name == name for name, estimator in ESTIMATORS.items())
    with pytest.raises(InputError, match="estimator: got 'laplace'; expected one of fisher, "):
        find_estimator("laplace")
    with pytest.raises(InputError, match="isotropic: has no option n_train; expected some of variance, name_filter"):
        make_estimator("isotropic", n_train=3)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("done", [0, 1, 3])
def test_read_back_from_a_file_it_ends_with_the_same_bits(linear, tmp_path, name, done):
    estimator, state, items = start(name, linear)
    whole = estimator.posterior(take_all(estimator, state, items, linear))
    estimator, state, items = start(name, linear)
    write_state(tmp_path / "state", take_all(estimator, state, items[:done], linear), "it")
    state = read_state(tmp_path / "state", "it")
    assert state is not None and state.count == min(done, len(items))
    assert estimator.posterior(take_all(estimator, state, items[done:], linear)).sha256 == whole.sha256
    assert whole.estimator == name


@pytest.mark.parametrize("name", ["fisher", "amnesia-fisher"])
def test_the_generator_goes_on_where_it_was(linear, tmp_path, name):
    """A state that forgot its generator would end with other bits."""
    estimator, state, items = start(name, linear)
    whole = estimator.posterior(take_all(estimator, state, items, linear))
    estimator, state, items = start(name, linear)
    state = replace(take_all(estimator, state, items[:2], linear), generator=seeded(0))
    assert estimator.posterior(take_all(estimator, state, items[2:], linear)).sha256 != whole.sha256


@pytest.mark.parametrize("name", ["fisher", "amnesia-fisher", "ensemble"])
def test_the_state_is_saved_every_so_many_items_and_at_the_end(linear, monkeypatch, name):
    monkeypatch.setattr(ESTIMATORS[name], "save_every", 2)
    estimator, state, items = start(name, linear)
    saved, seen = [], []
    take_all(estimator, state, items, linear, n_items=N, save=lambda reached: saved.append(reached.count),
             progress=lambda done, total: seen.append((done, total)))  # fmt: skip
    assert saved == [2, 4, 5]
    assert seen == [(k, 5) for k in range(1, 6)]


def test_nobody_takes_what_is_not_its_own(linear):
    estimator, state, _ = start("isotropic", linear)
    with pytest.raises(InputError, match="isotropic: got an item; expected none"):
        estimator.update(state, torch.zeros(1), linear)
    estimator, state, _ = start("fisher", linear)
    with pytest.raises(InputError, match="fisher: got no samples; expected at least 1"):
        estimator.posterior(state)
    with pytest.raises(InputError, match=r"samples: got \(0, 1, 2, 2\)"):
        fit_samples(estimator, linear, torch.zeros(0, 1, 2, 2), generator=seeded(0))


# What a posterior covers


@pytest.mark.parametrize("name", OPTIONS)
def test_frozen_parameters_are_not_covered(linear, name):
    linear.network.unused.requires_grad_(False)
    estimator, state, items = start(name, linear)
    posterior = estimator.posterior(take_all(estimator, state, items, linear))
    assert list(posterior.mean) == ["weight"]
    posterior.check_matches(linear.network.named_parameters())
    assert list(posterior.with_mean(dict(linear.network.named_parameters())).mean) == ["weight"]
    linear.network.unused.requires_grad_(True)
    with pytest.raises(InputError, match="unused: unexpected"):
        posterior.check_matches(linear.network.named_parameters())


def test_a_frozen_network_is_refused(linear):
    assert list(covered(linear, None)) == ["unused", "weight"]
    assert list(covered(linear, "^w")) == ["weight"]
    linear.network.requires_grad_(False)
    with pytest.raises(InputError, match="network: every parameter is frozen"):
        covered(linear, None)


def test_members_of_another_architecture_than_the_model_are_refused(linear):
    estimator, state, _ = start("ensemble", linear)
    with pytest.raises(InputError, match="member 0: names or shapes differ"):
        estimator.update(state, {"weight": torch.zeros(4, 4)}, linear)


def test_isotropic_from_a_model_is_isotropic_from_its_weights(linear):
    estimator, state, _ = start("isotropic", linear)
    assert estimator.posterior(state).sha256 == fit_isotropic(dict(linear.network.named_parameters()), 0.5).sha256


# The state's file


@pytest.fixture
def file(linear, tmp_path):
    estimator, state, items = start("fisher", linear)
    write_state(tmp_path / "state", take_all(estimator, state, items[:2], linear), "it")
    return tmp_path / "state"


def test_no_file_is_no_state(tmp_path):
    assert read_state(tmp_path / "absent", "it") is None


def test_a_state_of_another_run_is_refused(file):
    with pytest.raises(InputError, match="was written with other settings, data or model"):
        read_state(file, "other")


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-3])


def unseal(path):
    with safe_open(path, "pt") as opened:
        record = json.loads(opened.metadata()["vdu_estimation"])
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}
    del record["checksum"]
    save_file(tensors, path, metadata={"vdu_estimation": json.dumps(record)})


def exchange(path):
    fit_isotropic({"w": nn.Parameter(torch.ones(2))}, 1.0).save(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, "its checksum does not match its content"),
        (cut, "not a readable safetensors file"),
        (unseal, "its checksum is missing"),
        (exchange, "no 'vdu_estimation' metadata"),
    ],
)
def test_a_damaged_state_is_refused_with_advice(file, damage, message):
    damage(file)
    with pytest.raises(InputError, match=rf"(?s){message}.*Delete state to estimate from the beginning\."):
        read_state(file, "it")
