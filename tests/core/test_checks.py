import hashlib

import numpy as np
import pytest
import torch

from vdu.core.checks import first_differences, hash_parameters, require_finite
from vdu.core.errors import InputError


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_numbers_are_refused_with_their_count(bad):
    with pytest.raises(InputError, match=r"conv\.weight: 2 of 6 values are NaN or infinite; expected finite"):
        require_finite("conv.weight", torch.tensor([1, bad, 0, 2, bad, 3]))


@pytest.mark.parametrize("fine", [torch.zeros(0), torch.tensor(3), torch.tensor([1e38, -1e38]), torch.tensor([True])])
def test_finite_numbers_pass(fine):
    require_finite("x", fine)


def test_differences_are_named_sorted_and_cut():
    got = {f"w{i}": (1,) for i in range(7)} | {"same": (2, 3)}
    lines = first_differences(got, {"same": [2, 3], "w0": (2,)}, limit=3)
    assert lines == ["w0: got shape (1,), expected (2,)", "w1: unexpected", "w2: unexpected", "… and 4 more"]
    assert first_differences({}, {"a": ()}) == ["a: missing"]
    assert first_differences({"a": (1,)}, {"a": (1,)}) == []


def by_hand(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name}|torch.{array.dtype}|{array.shape}|".encode() + array.tobytes())
    return digest.hexdigest()


ARRAYS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array([1, 2], dtype=np.int64), "s": np.array(1.5)}


def test_the_hash_is_that_of_names_types_shapes_and_bytes():
    tensors = {name: torch.from_numpy(array.copy()) for name, array in ARRAYS.items()}
    assert hash_parameters(tensors) == by_hand(ARRAYS)
    assert hash_parameters(dict(reversed(tensors.items()))) == by_hand(ARRAYS)
    assert hash_parameters(tensors | {"b": tensors["b"].T.contiguous().T}) == by_hand(ARRAYS)  # strides do not count


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t | {"b": t["b"] + 1e-6},
        lambda t: t | {"b": t["b"].reshape(3, 2)},
        lambda t: t | {"b": t["b"].to(torch.bfloat16)},
        lambda t: {"c" if name == "b" else name: value for name, value in t.items()},
        lambda t: {name: value for name, value in t.items() if name != "s"},
    ],
)
def test_every_change_changes_the_hash(change):
    tensors = {name: torch.from_numpy(array.copy()) for name, array in ARRAYS.items()}
    assert hash_parameters(change(tensors)) != hash_parameters(tensors)
