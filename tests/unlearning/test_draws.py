"""What a method draws besides noise comes with the batch: for the whole step, whatever cuts it."""

import pytest
import torch

from vdu.core.errors import InputError
from vdu.core.rng import derive_seed, isolated_global
from vdu.diffusion.schedule import NoiseSchedule
from vdu.training.batches import Draws, unflatten

SHAPE = (1, 2, 3)
SCHEDULE = NoiseSchedule.linear(6, 0.05, 0.3)


@pytest.mark.parametrize(("kind", "size"), [("image", (4,)), ("element", (4, *SHAPE))])
def test_the_bits_are_those_of_the_global_stream_that_older_versions_drew_from(kind, size):
    """One process and one micro-batch: the loop seeds the stream with (seed, "step", step, process)."""
    make = Draws({"forget": {"u": kind}}, {"forget": 4, "retain": 2}, SHAPE, seed=9)
    state = torch.get_rng_state()
    for step in (0, 7):
        with isolated_global(derive_seed(9, "step", step, 0)):
            truth = torch.rand(size)
        assert set(make(step)) == {"forget.draws.u"} and torch.equal(make(step)["forget.draws.u"], truth)
    assert not torch.equal(make(0)["forget.draws.u"], make(1)["forget.draws.u"])
    assert torch.equal(torch.get_rng_state(), state)


def test_they_arrive_under_their_names_and_nowhere_else():
    parts = {
        f"{role}.{name}": value
        for role in ("forget", "retain")
        for name, value in {
            "x0": torch.zeros(2, *SHAPE), "noise": torch.ones(2, *SHAPE), "index": torch.tensor([1, 4]),
        }.items()
    }  # fmt: skip
    drawn = Draws({"forget": {"a": "image", "b": "element"}}, {"forget": 2}, SHAPE, seed=0)(3)
    batch = unflatten(parts | drawn, SCHEDULE, SCHEDULE)
    assert set(batch) == {"forget", "retain"} and batch["retain"].draws == {}
    assert {name: tuple(value.shape) for name, value in batch["forget"].draws.items()} == {"a": (2,), "b": (2, *SHAPE)}
    assert not torch.equal(batch["forget"].draws["a"], batch["forget"].draws["b"].flatten()[:2])  # one stream, in turn


@pytest.mark.parametrize("wanted", [{"own_forget": {"u": "image"}}, {"forget": {"u": "pixel"}}])
def test_what_cannot_be_drawn_is_refused(wanted):
    with pytest.raises(
        InputError, match=r"draws: got .*; expected a role of the method's needs \(forget\), and .* 'element'"
    ):
        Draws(wanted, {"forget": 2}, SHAPE, seed=0)
