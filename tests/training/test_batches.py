import re
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny_pipelines
from toys import PIXELS
from vdu.core.errors import InputError
from vdu.data.images import ImageSet
from vdu.diffusion.schedule import NoiseSchedule
from vdu.models.adapt import adapt
from vdu.training.batches import NoisyImages, UniformImages, deal, encoded, labels_for, require_divisible, unflatten


def images(n=5):
    return ImageSet(torch.arange(n * 4, dtype=torch.uint8).view(n, 1, 2, 2))


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 12), size=st.integers(1, 30), seed=st.integers(0, 3))
def test_every_image_comes_once_per_epoch(n, size, seed):
    steps = -(-3 * n // size)  # three epochs
    dealt = torch.cat([deal(n, size, seed, step) for step in range(steps)]).tolist()
    assert len(dealt) == steps * size
    for epoch in range(3):
        assert sorted(dealt[epoch * n : (epoch + 1) * n]) == list(range(n))
    assert set(Counter(dealt).values()) <= {len(dealt) // n, len(dealt) // n + 1}


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {tuple(deal(50, 50, seed, step).tolist()) for seed in (0, 1) for step in range(3)}
    assert len(orders) == 6
    assert tuple(range(50)) not in orders


def test_a_step_depends_on_nothing_before_it():
    uniform = torch.ones(7, dtype=torch.float64)
    one, other = (NoisyImages("forget", images(), 3, uniform, seed=4, denoiser=PIXELS) for _ in range(2))
    for step in range(5):
        one(step)
    torch.rand(3)
    before = torch.get_rng_state()
    later, alone = one(5), other(5)
    assert later.keys() == alone.keys() == {"forget.x0", "forget.noise", "forget.index"}
    assert all(torch.equal(later[name], alone[name]) for name in later)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(one(6)["forget.noise"], later["forget.noise"])
    reseeded = NoisyImages("forget", images(), 3, uniform, seed=5, denoiser=PIXELS)(5)
    assert not torch.equal(reseeded["forget.noise"], later["forget.noise"])


def test_rows_are_drawn_as_often_as_their_weight_says():
    weights = torch.tensor([0.0, 1, 3, 0, 4], dtype=torch.float64)
    drawn = torch.cat([
        NoisyImages("a", images(), 500, weights, seed=0, denoiser=PIXELS)(step)["a.index"] for step in range(8)
    ])
    shares = torch.bincount(drawn, minlength=5) / len(drawn)
    assert shares[0] == shares[3] == 0
    # 4000 draws: four standard deviations of a share are at most 0.032
    torch.testing.assert_close(shares.double(), weights / weights.sum(), rtol=0.0, atol=0.032)


def test_noise_is_standard_normal_and_images_are_those_dealt():
    batch = NoisyImages("a", images(), 400, torch.ones(3, dtype=torch.float64), seed=0, denoiser=PIXELS)(2)
    assert abs(float(batch["a.noise"].mean())) < 0.1  # 1600 draws: four standard deviations
    assert float(batch["a.noise"].std()) == pytest.approx(1, abs=0.08)
    assert torch.equal(batch["a.x0"], images().floats(deal(5, 400, 0, 2)))


def coloured(n):
    source = torch.Generator().manual_seed(0)
    return ImageSet(torch.randint(256, (n, 3, 16, 16), dtype=torch.uint8, generator=source))


def test_every_image_passes_the_autoencoder_once_and_batches_are_what_it_says(make_pipeline):
    pipeline, given = tiny_pipelines.variational(make_pipeline), coloured(70)
    sizes, uniform = tiny_pipelines.passing(pipeline.vqvae), torch.ones(3, dtype=torch.float64)
    batches = NoisyImages("a", given, 30, uniform, seed=0, denoiser=adapt(pipeline))
    made = [batches(step) for step in range(5)]
    assert sum(sizes) == 70  # not 5 × 30
    for step, batch in enumerate(made):
        chosen = given.images[deal(70, 30, 0, step)]
        with torch.no_grad():
            truth = 0.7 * pipeline.vqvae.encode(chosen / 127.5 - 1).latent_dist.mode()  # 0.7: its scaling_factor
        # the convolutions of another batch size round otherwise, in float32: 1e-5 is a hundred times its precision
        torch.testing.assert_close(batch["a.x0"], truth, rtol=1e-5, atol=1e-5)


def test_surrogates_are_encoded_anew_at_every_step(make_pipeline):
    pipeline, uniform = tiny_pipelines.variational(make_pipeline), torch.ones(3, dtype=torch.float64)
    sizes = tiny_pipelines.passing(pipeline.vqvae)
    batches = UniformImages("surrogate", (3, 16, 16), 5, uniform, seed=0, denoiser=adapt(pipeline))
    one, other = (batches(step)["surrogate.x0"] for step in (0, 1))
    assert sum(sizes) == 10 and not torch.allclose(one, other)


def test_few_images_are_on_the_device_together():
    sizes, given = [], coloured(150)

    def twice(images):
        sizes.append(len(images))
        return 2 * images

    model: Any = SimpleNamespace(is_latent=True, network=torch.nn.Linear(1, 1), encode=twice)
    made, floats = encoded(model, given.images), encoded(model, given.floats())
    assert torch.equal(made, floats) and torch.equal(made, 2 * given.floats())
    assert sum(sizes) == 2 * 150 and max(sizes) <= 64


def test_surrogate_images_are_uniform_from_minus_one_to_one():
    x0 = UniformImages("surrogate", (1, 2, 2), 1000, torch.ones(3, dtype=torch.float64), seed=0, denoiser=PIXELS)(1)[
        "surrogate.x0"
    ]
    assert -1 <= float(x0.min()) < -0.99 and 0.99 < float(x0.max()) <= 1
    assert float(x0.var()) == pytest.approx(1 / 3, abs=0.02)  # 4000 draws: four standard deviations


def test_every_label_has_its_turn_among_the_surrogates():
    model = SimpleNamespace(
        is_latent=False, class_names=tuple("abcde"), condition=lambda labels: {"label": torch.tensor(labels)}
    )
    uniform = torch.ones(3, dtype=torch.float64)
    made = UniformImages("surrogate", (1, 2, 2), 2, uniform, seed=0, denoiser=model, labels=(0, 1, 2, 3, 4))
    assert [made(step)["surrogate.condition.label"].tolist() for step in range(3)] == [[0, 1], [2, 3], [4, 0]]


def test_a_class_is_that_of_the_model_in_either_form_of_unicode():
    """The same name as a keyboard and as a file system of macOS write it."""
    model = SimpleNamespace(takes_prompts=False, class_names=("bar", "caf\u00e9"), shared_names={})
    folder = ImageSet(
        torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([1, 0]), class_names=("bar", "cafe\u0301")
    )
    assert labels_for(model, folder, torch.arange(2), "--forget") == [1, 0]


def test_unflatten_puts_every_role_on_its_level():
    schedule, own = NoiseSchedule.linear(7, 0.05, 0.3), NoiseSchedule.cosine(9)
    flat = {}
    for seed, role in enumerate(("forget", "own_samples")):
        flat |= NoisyImages(role, images(), 4, torch.ones(7, dtype=torch.float64), seed, denoiser=PIXELS)(0)
    batch = unflatten(flat, schedule, own)
    assert list(batch) == ["forget", "own_samples"]
    for role, noised in batch.items():
        level = schedule.alpha_bars[flat[f"{role}.index"]]
        torch.testing.assert_close(noised.alpha_bar.double(), level, rtol=1e-6, atol=0.0)
        torch.testing.assert_close(own.alpha_bar_at(noised.timestep), level, rtol=1e-9, atol=0.0)
        by_hand = (
            level.sqrt().view(-1, 1, 1, 1) * flat[f"{role}.x0"]
            + (1 - level).sqrt().view(-1, 1, 1, 1) * flat[f"{role}.noise"]
        )
        torch.testing.assert_close(noised.x_t.double(), by_hand, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize(("n", "size"), [(0, 4), (5, 0), (5, -1)])
def test_nothing_to_deal_is_refused(n, size):
    with pytest.raises(
        InputError, match=f"forget: got {n} images and a batch size of {size}; expected at least one of each"
    ):
        NoisyImages("forget", images(n), size, torch.ones(3), seed=0, denoiser=PIXELS)


@settings(max_examples=300, deadline=None)
@given(
    batch=st.integers(1, 200),
    steps=st.integers(1, 12),
    processes=st.integers(1, 4),
    shares=st.dictionaries(st.sampled_from(["forget", "own"]), st.sampled_from([0.25, 0.375, 0.5, 1.0])),
)
def test_a_batch_splits_or_the_sizes_that_are_named_do(batch, steps, processes, shares):
    """Against the sizes of all roles, counted one by one."""

    def splits(size: int) -> bool:
        sizes = [size, *(max(1, round(size * share)) for share in shares.values())]
        return all(each % (steps * processes) == 0 for each in sizes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLD_SIZE", str(processes))
        if splits(batch):
            require_divisible(batch, steps, shares)
            return
        with pytest.raises(InputError, match=rf"batch_size: got {batch}.* do not divide; choose ") as refused:
            require_divisible(batch, steps, shares)
        named = re.search(r"choose ([\d or]+),", str(refused.value))
        assert named is not None and all(splits(int(size)) for size in named[1].split(" or "))
