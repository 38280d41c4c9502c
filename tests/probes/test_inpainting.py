import json
from dataclasses import replace

import pytest
import torch

from probes_toys import SHAPE, flat, grey, grey_case, same, unet_case, untouched
from vdu.core.errors import InputError
from vdu.core.rng import generator
from vdu.core.types import Denoiser
from vdu.data.images import ImageSet, to_uint8
from vdu.diffusion.sampling import Sampler, sample
from vdu.probes.inpainting import HIDDEN, Shown, inpaint, probe

SEEDS = [3, 14, 15, 92, 65, 35, 89]
SAMPLERS = [
    Sampler("ddpm", steps=5, microbatch_size=7),
    Sampler("ddim", steps=5, eta=0.5, microbatch_size=7),
    Sampler("dpm++", steps=5, microbatch_size=7),
]
RIGHT = HIDDEN["right_half"](8, 8)


def test_the_hidden_parts():
    assert HIDDEN["lower_half"](3, 2).tolist() == [[False, False], [True, True], [True, True]]
    assert HIDDEN["right_half"](2, 4).tolist() == [[False, False, True, True]] * 2


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_it_gives_the_bits_of_a_loop_that_replaces_the_shown_part(make_pipeline, sampler):
    """Lugmayr et al. 2022, Eq. 8: there x_t itself is replaced before every step, here only what the network sees."""
    case = unet_case(make_pipeline, sampler)
    found = inpaint(case, case.original, case.forget, RIGHT, SEEDS, "t").images
    scheduler = sampler.make(case.original)
    x0 = case.forget.floats()
    sources = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    x = torch.cat([torch.randn(1, 1, 8, 8, generator=source) for source in sources])
    extra = {"ddpm": {"generator": sources}, "ddim": {"generator": sources, "eta": 0.5}, "dpm++": {}}[sampler.scheduler]
    with torch.no_grad():
        for t in scheduler.timesteps:
            noise = torch.stack([torch.randn(1, 8, 8, generator=generator(s, "shown", int(t))) for s in SEEDS])
            alpha_bar = case.original.schedule.alpha_bars[int(t)].float()
            x[..., :4] = (alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise)[..., :4]
            x = scheduler.step(case.original.network(x, t).sample, t, x, **extra).prev_sample
    assert torch.equal(found[..., 4:], to_uint8(x)[..., 4:])
    assert torch.equal(found[..., :4], case.forget.images[..., :4])  # exactly what was shown
    assert not torch.equal(found, to_uint8(sample(case.original, SEEDS, sampler)))  # and it mattered


def test_micro_batches_do_not_matter_for_which_image_is_shown(make_pipeline):
    """Seven images in micro-batches of three: the last is filled up, and rows must not shift."""
    case = unet_case(make_pipeline, Sampler("ddpm", steps=3, microbatch_size=3))
    whole = inpaint(case, case.original, case.forget, RIGHT, SEEDS, "t").images
    alone = [
        inpaint(case, case.original, case.forget.select([i]), RIGHT, SEEDS[i : i + 1], "t").images for i in range(7)
    ]
    assert torch.equal(whole, torch.cat(alone))


def test_all_hidden_is_plain_sampling_and_nothing_hidden_the_images_themselves(make_pipeline):
    case = unet_case(make_pipeline, SAMPLERS[0])
    all_hidden, none = torch.ones(8, 8, dtype=torch.bool), torch.zeros(8, 8, dtype=torch.bool)
    drawn = inpaint(case, case.original, case.forget, all_hidden, SEEDS, "t").images
    assert torch.equal(drawn, to_uint8(sample(case.original, SEEDS, SAMPLERS[0])))
    assert torch.equal(inpaint(case, case.original, case.forget, none, SEEDS, "t").images, case.forget.images)


def test_the_shown_part_has_the_moments_of_q():
    """Mean √ᾱ x0 and variance 1 − ᾱ over 400 images; the standard errors are 0.05·σ and 0.07·σ², four of each allowed."""
    n, model = 400, grey(0.5)
    hidden = torch.zeros(4, 4, dtype=torch.bool)
    face = Shown(model, torch.full((n, *SHAPE), 0.8), hidden, range(n))
    t = torch.full((n,), 3)
    pixel = face.replaced(torch.zeros(n, *SHAPE), t)[:, 0, 1, 2]
    alpha_bar = float(model.schedule.alpha_bars[3])
    assert float(pixel.mean()) == pytest.approx(0.8 * alpha_bar**0.5, abs=0.2 * (1 - alpha_bar) ** 0.5)
    assert float(pixel.var()) == pytest.approx(1 - alpha_bar, rel=0.3)
    assert isinstance(face, Denoiser)


@pytest.mark.parametrize("hidden", sorted(HIDDEN))
def test_a_toy_fills_in_its_own_grey(hidden):
    """Shown 0.5, filled in with m: the mean is (0.5 + m)/2, which the judge calls forget if m > −0.5."""
    case = grey_case(original=0.9, unlearned=-0.9, retrained=-0.3, forget=flat(0.5, 0.5, 0.5, 0.5, 0.5))
    result = probe(case, n_images=100, hidden=(hidden,))
    assert [(row["model"], row["forget_count"], row["n_images"]) for row in result["rows"]] == [
        ("original", 5, 5),
        ("unlearned", 0, 5),
        ("retrained", 5, 5),
    ]
    assert result["protocol"]["n_forget_shown_whole"] == 5
    assert result["protocol"][f"n_forget_{hidden}_black"] == 0  # (0.5 − 1)/2 < 0
    filled = inpaint(case, case.unlearned, case.forget, HIDDEN[hidden](4, 4), range(5), "t").images
    assert (filled[:, 0][:, HIDDEN[hidden](4, 4)] == to_uint8(torch.tensor(-0.9))).all()


def test_held_out_images_come_first_and_no_more_than_asked_for():
    case = grey_case(original=0.9, unlearned=0.9, forget=flat(0.5), forget_held_out=flat(-0.99, -0.99, -0.99))
    result = probe(case, n_images=2, hidden=("lower_half",))
    assert [row["forget_count"] for row in result["rows"]] == [0, 0]  # the forget set would give all
    assert {row["n_images"] for row in result["rows"]} == {2}
    assert result["protocol"]["images"] == "forget_held_out"


def test_the_probe_leaves_all_as_it_was_and_says_the_same_again(make_pipeline):
    case = unet_case(make_pipeline, Sampler("ddpm", steps=3, microbatch_size=3), threshold=120)
    case.unlearned.network.train()
    before = untouched(case)
    first, second = probe(case, n_images=5), probe(case, n_images=5)
    assert same(before, untouched(case))
    assert json.loads(json.dumps(first)) == first
    assert first["rows"] == second["rows"] and len(first["rows"]) == 6


def test_what_does_not_fit_is_refused():
    case = grey_case()
    mask = HIDDEN["lower_half"](4, 4)
    with pytest.raises(InputError, match=r"hidden: got upper; expected some of lower_half, right_half"):
        probe(case, hidden=("upper",))
    with pytest.raises(InputError, match=r"2 seeds for 3 images"):
        inpaint(case, case.original, case.forget, mask, [1, 2], "t")
    with pytest.raises(InputError, match=r"mask of torch.bool \(8, 8\)"):
        inpaint(case, case.original, case.forget, RIGHT, [1, 2, 3], "t")
    with pytest.raises(InputError, match=r"got images of \(1, 5, 5\).* for a model of \(1, 4, 4\)"):
        probe(replace(case, forget=ImageSet(torch.zeros(2, 1, 5, 5, dtype=torch.uint8))))
    dynamic = replace(case.original, scheduler_config=case.original.scheduler_config | {"thresholding": True})
    with pytest.raises(InputError, match="thresholding=True"):
        inpaint(case, dynamic, case.forget, mask, [1, 2, 3], "t")
