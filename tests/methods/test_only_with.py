"""Options that do nothing beside another option's value are refused, and act beside the values that are named."""

import pytest

from vdu.core.errors import InputError
from vdu.methods.anchor import FunctionAnchor
from vdu.methods.bounded import BoundedPlasticity
from vdu.methods.erasediff import EraseDiff
from vdu.unlearning.chosen_method import choose

CASES = [
    (BoundedPlasticity, {"kappa": 3.0}, "kappa: got 3.0, which has no effect with form=npo; expected form=hellinger"),
    (BoundedPlasticity, {"margin": 2.0, "form": "hellinger"}, "margin: got 2.0, .* expected form=margin"),
    (BoundedPlasticity, {"stability": 2.0}, "stability: got 2.0, which has no effect without a posterior"),
    (FunctionAnchor, {"beta": 3.0}, "beta: got 3.0, which has no effect with form=ascent; expected form=npo"),
    (EraseDiff, {"eta": 0.1}, "eta: got 0.1, which has no effect with adaptive=False; expected adaptive=True"),
    (EraseDiff, {"weight": 0.2, "adaptive": True}, "weight: got 0.2, which has no effect with adaptive=True"),
]


@pytest.mark.parametrize(("kind", "options", "message"), CASES)
def test_an_option_without_effect_is_refused(kind, options, message):
    for method, given in ((kind, options), (kind.name, options), (kind(**options), {})):
        with pytest.raises(InputError, match=message):
            choose(method, given, others=frozenset(), retain=False)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (BoundedPlasticity, {"kappa": 3.0, "form": "hellinger"}),
        (FunctionAnchor, {"beta": 3.0, "form": "npo"}),
        (FunctionAnchor, {"beta": 10.0}),  # the default
        (EraseDiff, {"eta": 0.1, "adaptive": True}),
    ],
)
def test_one_with_an_effect_is_taken(kind, options):
    made = choose(kind, options, others=frozenset(), retain=False).method
    assert all(getattr(made, name) == value for name, value in options.items())
