"""Own samples without those of the forget class, where the truth is easy: bright squares are to be forgotten."""

import pytest
import torch

from vdu.data.images import ImageSet
from vdu.errors import InputError
from vdu.recipes import replay
from vdu.recipes.forget_judge import train_forget_judge
from vdu.recipes.replay import retained_own_samples
from vdu.rng import derive_seed


def images(bright: list[bool], seed: int) -> ImageSet:
    """8×8 noise around a dark ground, with a bright square of 4×4 in some."""
    made = torch.randint(
        0, 60, (len(bright), 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    made[torch.tensor(bright), :, 2:6, 2:6] += 180
    return ImageSet(made, description="made up")


def is_bright(some: ImageSet) -> torch.Tensor:
    return some.images[:, 0, 2:6, 2:6].double().mean(dim=(1, 2)) > 128


@pytest.fixture
def quick(monkeypatch):
    """Fewer steps of the judge: the classes are easy."""

    def fewer(forget, samples, **options):
        return train_forget_judge(forget, samples, **options | {"steps": 60})

    monkeypatch.setattr(replay, "train_forget_judge", fewer)


BRIGHT_SAMPLES = [k % 5 == 0 for k in range(100)]


def test_what_looks_like_the_forget_class_is_left_out(quick):
    samples = images(BRIGHT_SAMPLES, seed=1)
    stream = torch.get_rng_state()
    kept, record = retained_own_samples(images([True] * 60, seed=0), samples, seed=0)
    assert torch.equal(torch.get_rng_state(), stream)
    others = samples.images[~torch.tensor(BRIGHT_SAMPLES)]
    assert not is_bright(kept).any()
    assert torch.equal(kept.images, others)  # each of them, in their order, bit by bit
    assert kept.description == "made up, 80 of them kept"
    assert record["held_out_error"] == 0.0
    assert record["forget"]["share"] == pytest.approx(0.2, abs=0.2)  # 25 held out: a standard error of 0.08


def test_the_judge_has_a_seed_of_its_own(quick):
    """Not the run's: the judge of an evaluation with that seed would be this one, and call its own filter perfect."""
    given = images([True] * 60, seed=0), images(BRIGHT_SAMPLES, seed=1)
    records = [retained_own_samples(*given, seed=seed)[1] for seed in (3, 3, 4)]
    assert [each["settings"]["seed"] for each in records] == [derive_seed(seed, "replay") for seed in (3, 3, 4)]
    assert records[0] == records[1] != records[2]


@pytest.mark.parametrize(
    ("forget", "samples", "message"),
    [
        (images([True] * 39, 0), images(BRIGHT_SAMPLES, 1), "got 39 forget images; expected at least 40"),
        (images([True] * 60, 0), images(BRIGHT_SAMPLES[:39], 1), "got 39 own samples; expected at least 40"),
        (images([True] * 60, 0), ImageSet(torch.zeros(60, 3, 8, 8, dtype=torch.uint8)), "expected the same"),
        (images([True] * 60, 0), images([True] * 60, 0), "of the own samples look like forget images"),
    ],
)
def test_what_cannot_be_filtered_is_refused(quick, forget, samples, message):
    with pytest.raises(InputError, match=message):
        retained_own_samples(forget, samples, seed=0)


def test_nothing_left_is_refused(monkeypatch, quick):
    """A judge that calls everything forget."""
    forget, samples = images([True] * 60, seed=0), images(BRIGHT_SAMPLES, seed=1)

    def all_forget(*given, **options):
        judge, record = train_forget_judge(*given, **options | {"steps": 2})
        with torch.no_grad():
            judge.head.bias.copy_(torch.tensor([-1e6, 1e6]))
        return judge, record

    monkeypatch.setattr(replay, "train_forget_judge", all_forget)
    with pytest.raises(InputError, match="replay: all 100 own samples look like the forget class; expected a minority"):
        retained_own_samples(forget, samples, seed=0)
