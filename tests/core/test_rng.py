import hashlib

import numpy as np
import pytest
import torch

from vdu.core.rng import derive_seed, draw_seed, generator, isolated_global


@pytest.mark.parametrize(
    ("names", "text"),
    [((), "(7,)"), (("step", 3), "(7, 'step', 3)"), (("image", "x"), "(7, 'image', 'x')")],
)
def test_a_derived_seed_is_63_bits_of_the_hash_of_its_path(names, text):
    expected = int(hashlib.sha256(text.encode()).hexdigest()[:16], 16)
    expected = int.from_bytes(expected.to_bytes(8, "big"), "little") >> 1
    assert derive_seed(7, *names) == expected
    assert 0 <= expected < 2**63


def test_every_part_of_the_path_counts():
    paths = [(0,), (0, "a"), (0, "b"), (1, "a"), (0, "a", 1), (0, "a", "1"), (0, "a", 2), (0, "a1"), (0, 1, "a")]
    assert len({derive_seed(*path) for path in paths}) == len(paths)


def test_numpy_integers_count_as_integers():
    assert derive_seed(np.int64(3), "image", np.int32(5)) == derive_seed(3, "image", 5)


def test_a_generator_by_name_is_one_with_the_derived_seed():
    by_hand = torch.Generator().manual_seed(derive_seed(5, "noise", 2))
    assert torch.equal(torch.randn(9, generator=generator(5, "noise", 2)), torch.randn(9, generator=by_hand))
    assert generator(5).initial_seed() == 5


def test_draw_seed_moves_the_generator_and_stays_in_range():
    source = torch.Generator().manual_seed(0)
    seeds = [draw_seed(source) for _ in range(100)]
    assert len(set(seeds)) == 100
    assert all(0 <= seed < 2**62 for seed in seeds)
    assert max(seeds) > 2**61  # the upper half is reached, so no bits are lost
    assert draw_seed(torch.Generator().manual_seed(0)) == seeds[0]


def test_isolated_global_seeds_inside_and_restores_outside():
    torch.manual_seed(11)
    expected = torch.randn(4)
    torch.manual_seed(11)
    with isolated_global(3):
        inside = torch.rand(4)
    assert torch.equal(torch.randn(4), expected)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        assert torch.equal(inside, torch.rand(4))


def test_isolated_global_restores_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError, match="division"), isolated_global(3):
        torch.rand(1)
        _ = 1 / 0
    assert torch.equal(torch.get_rng_state(), before)
