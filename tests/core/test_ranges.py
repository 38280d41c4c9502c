import math
from fractions import Fraction

import pytest
import torch

from vdu.core.errors import InputError, is_out_of_memory
from vdu.core.ranges import (
    AT_LEAST_0,
    COUNT,
    FRACTION,
    NOT_NEGATIVE,
    PORT,
    POSITIVE,
    RANGES,
    SEED,
    UNIT,
    plain_number,
    require_ranges,
)
from vdu.methods.options import checked, options_of
from vdu.methods.vdu import VDU
from vdu.training.loop import TrainSettings

FLOAT32, SMALLEST = torch.finfo(torch.float32).max, torch.finfo(torch.float32).smallest_normal


@pytest.mark.parametrize(
    ("allowed", "inside", "outside"),
    [
        (COUNT, (1, 7, 2**63 - 1), (0, -1, 1.5, 2**63, math.inf, math.nan, True, "3", None)),
        (
            POSITIVE,
            (1e-12, SMALLEST, 3.0, 3, FLOAT32),
            ("1", 0, SMALLEST * (1 - 1e-9), 1e-300, -1e-9, FLOAT32 * (1 + 1e-9), math.inf, math.nan),
        ),
        (NOT_NEGATIVE, (0, 5), (-1, 0.5, -1e-9, math.inf, math.nan)),
        (FRACTION, (0, 0.0, 0.999), (1, 1.0, 1e-300, -0.1, math.nan)),
        (UNIT, (0, 1, 0.5), (1 + 1e-12, -1e-12, math.nan, "1")),
        (AT_LEAST_0, (0, 3.5, 10**38), (-1e-12, 10**400, math.inf, math.nan, False)),
        (SEED, (0, -1, 2**63 - 1, -(2**63)), (2**63, -(2**63) - 1, 0.5, "0", True)),
        (PORT, (1, 65535), (0, 65536, 80.5)),
    ],
)
def test_the_ends_of_the_ranges(allowed, inside, outside):
    assert all(allowed.holds(value) for value in inside)
    assert not any(allowed.holds(value) for value in outside)


def test_none_is_a_default_and_zero_is_a_zero():
    require_ranges(dict.fromkeys(RANGES))
    require_ranges({"a_name_without_a_range": -1})
    with pytest.raises(InputError, match="steps: got 0; expected at least 1"):
        require_ranges({"steps": 0})


@pytest.mark.parametrize("value", [10**400, 10**5000, -(10**5000), Fraction(10**400)], ids=list("abcd"))
def test_a_number_beyond_floats_is_refused_in_few_words(value):
    for name in ("learning_rate", "steps", "seed"):
        with pytest.raises(InputError, match=f"{name}: got ") as refused:
            require_ranges({name: plain_number(value)})
        assert len(str(refused.value)) < 200
    with pytest.raises(InputError, match="gamma: got ") as refused:
        checked(options_of(VDU)["gamma"], value)
        VDU(posterior=None, gamma=checked(options_of(VDU)["gamma"], value))
    assert len(str(refused.value)) < 200


def test_a_tensor_beyond_all_sizes_is_a_lack_of_memory():
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**62)
    assert is_out_of_memory(error.value)


@pytest.mark.parametrize(("name", "value"), [("batch_size", 10**20), ("microbatch_size", 10**20), ("variance", 1e39)])
def test_what_no_tensor_holds_is_refused_with_the_largest_number(name, value):
    with pytest.raises(InputError, match=rf"{name}: got \S+; expected .*, and at most (9\.2e\+18|3\.4e\+38)\.$"):
        require_ranges({name: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps: got 0"),
        ({"learning_rate": 0.0}, "learning_rate: got 0.0; expected a number above 0"),
        ({"warmup_steps": -1}, "warmup_steps: got -1; expected 0 or more"),
        ({"max_grad_norm": 0}, "max_grad_norm: got 0"),
        ({"weight_decay": -0.1}, "weight_decay: got -0.1"),
        ({"ema_decay": 1.0}, "ema_decay: got 1.0"),
        ({"checkpointing_steps": 0}, "checkpointing_steps: got 0"),
    ],
)
def test_the_training_loop_refuses_what_is_outside(changes, message):
    with pytest.raises(InputError, match=message):
        TrainSettings(**{"steps": 3, "learning_rate": 0.1} | changes)
