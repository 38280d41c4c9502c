import json
from dataclasses import replace

import pytest
import torch

from probes_toys import bright, flat, grey, grey_case, same, unet_case, untouched
from toys import PIXELS
from vdu.core.errors import InputError
from vdu.core.rng import derive_seed
from vdu.data.images import ImageSet, to_uint8
from vdu.diffusion.sampling import Sampler, sample
from vdu.diffusion.schedule import NoiseSchedule
from vdu.probes.draws import choose, own_rest
from vdu.probes.relearning import FineTuning, fine_tune, probe
from vdu.training.batches import NoisyImages

TENTH = FineTuning(learning_rate=0.1, batch_size=8, max_grad_norm=None)


def batches_of(images, batch_size, n_rows, seed):
    return NoisyImages("data", images, batch_size, torch.ones(n_rows, dtype=torch.float64), seed, PIXELS)


def counts(curve):
    return {point["step"]: point["forget_count"] for point in curve["points"]}


def curve(result, model, shown, n_shown=1):
    (found,) = [
        each for each in result["curves"] if (each["model"], each["shown"], each["n_shown"]) == (model, shown, n_shown)
    ]
    return counts(found)


def test_a_toy_comes_back_when_its_grey_passes_the_middle():
    """The toy's loss pulls m towards the shown grey, and Adam's first step is the learning rate whatever the gradient:
    m goes from −0.05 to 0.05 in the unlearned model and from −0.15 to −0.05 in the retrained one; on dark images, away."""
    case = grey_case(original=0.5, unlearned=-0.05, retrained=-0.15)
    result = probe(case, n_shown=(1, 2), steps=(1, 0, 20), n_images=6, how=TENTH)
    assert curve(result, "unlearned", "forget") == {0: 0, 1: 6, 20: 6}
    assert curve(result, "retrained", "forget") == {0: 0, 1: 0, 20: 6}
    for model in ("unlearned", "retrained"):
        assert curve(result, model, "benign", 2) == {0: 0, 1: 0, 20: 0}
    assert len(result["curves"]) == 8  # two models, two kinds, two numbers
    assert result["original"] == {"forget_count": 6, "n_images": 6}
    point = result["curves"][0]["points"][1]
    assert (point["low"], point["high"]) == pytest.approx((6 / (6 + 1.959964**2), 1))


def test_step_by_step_it_is_plain_adam(make_pipeline):
    """Against a loop in plain PyTorch, over the same batches: every image drawn afterwards, within a grey level."""
    case = unet_case(make_pipeline, Sampler("ddim", steps=3, microbatch_size=4))
    how = FineTuning(learning_rate=3e-3, batch_size=6, max_grad_norm=0.5)
    batches, seeds, seen = batches_of(case.forget, 6, 1000, 5), [1, 2, 3], []
    watching = replace(case, is_forget=lambda images: seen.append(images.images) or bright(images))
    points = fine_tune(watching, case.unlearned, batches, how, (1, 4), seeds, "t")
    truth = case.unlearned.copy()
    optimizer = torch.optim.Adam(truth.network.parameters(), lr=3e-3)
    alpha_bars = torch.cumprod(1 - torch.linspace(1e-4, 0.002, 1000), 0)
    for step in range(4):
        x0, noise, t = (batches(step)[f"data.{name}"] for name in ("x0", "noise", "index"))
        alpha_bar = alpha_bars[t].view(-1, 1, 1, 1)
        x_t = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise
        optimizer.zero_grad()
        (truth.network(x_t, t).sample - noise).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(truth.network.parameters(), 0.5)
        optimizer.step()
        if step in (0, 3):
            images = to_uint8(sample(truth, seeds, case.sampler))
            difference = images.int() - seen[0 if step == 0 else 1].int()
            assert int(difference.abs().max()) <= 1
    assert [point["step"] for point in points] == [1, 4]
    assert int((seen[1].int() - seen[0].int()).abs().max()) > 5  # it did learn


def test_step_nought_is_plain_sampling_and_nothing_is_touched(make_pipeline):
    case = unet_case(make_pipeline, Sampler("ddpm", steps=3, microbatch_size=4), threshold=120, dropout=0.1)
    case.unlearned.network.train()
    before = untouched(case)
    first, second = (probe(case, n_shown=(2,), steps=(0, 2), n_images=5) for _ in range(2))
    assert same(before, untouched(case))
    assert all(value.requires_grad and value.grad is None for value in case.unlearned.network.parameters())
    seeds = [derive_seed(0, "relearning", "image", i) for i in range(5)]
    for each in first["curves"]:
        model = case.models[each["model"]]
        calls = case.is_forget(ImageSet(to_uint8(sample(model, seeds, case.sampler))))
        assert each["points"][0]["step"] == 0 and each["points"][0]["forget_count"] == int(calls.sum())
    assert json.loads(json.dumps(first)) == first
    assert first["curves"] == second["curves"] and first["original"] == second["original"]


def test_every_model_sees_the_same(make_pipeline):
    """Two copies of one model, with dropout, make the same images after the same steps."""
    case, seen = unet_case(make_pipeline, Sampler("ddim", steps=3, microbatch_size=4), threshold=120, dropout=0.2), []
    case = replace(case, retrained=case.unlearned.copy())
    watching = replace(case, is_forget=lambda images: seen.append(images.images) or case.is_forget(images))
    probe(watching, n_shown=(3,), steps=(0, 1, 4), n_images=8, how=FineTuning(learning_rate=3e-3))
    forget, benign = seen[-8:-4], seen[-4:]  # of each: unlearned after 1 and 4 steps, then retrained
    for once in (forget, benign):
        assert torch.equal(once[0], once[2]) and torch.equal(once[1], once[3])
    assert not torch.equal(forget[1], benign[1])


def test_no_more_images_are_shown_than_it_says():
    """The first image of the drawn order is bright and the others dark: one alone pulls up, twenty down."""
    greys = torch.linspace(-1, 1, 20)
    first = choose(flat(*greys.tolist()), 1, 0, "relearning", "forget").images[0, 0, 0, 0]
    forget = flat(*(1.0 if torch.equal(to_uint8(grey), first) else -1.0 for grey in greys))
    result = probe(grey_case(unlearned=-0.05, forget=forget), n_shown=(1, 20), steps=(1,), n_images=2, how=TENTH)
    assert curve(result, "unlearned", "forget", 1) == {1: 2}
    assert curve(result, "unlearned", "forget", 20) == {1: 0}


def test_noise_levels_are_the_originals_whatever_the_models_schedule():
    """A grey on a longer schedule learns as one on the original's, since both are shown the same x_t at the same ᾱ."""
    long, case = NoiseSchedule.linear(36, 0.01, 0.2), grey_case()  # the 6 steps of DDIM divide 36
    batches, greys = batches_of(flat(1.0, 0.4), 4, 6, 0), []
    for model in (grey(-0.4), grey(-0.4, long)):
        watching = replace(case, is_forget=lambda images: greys.append(images.images[0, 0, 0, 0]) or bright(images))
        fine_tune(watching, model, batches, TENTH, (5,), [1], "t")
    assert greys[0] == greys[1] != to_uint8(torch.tensor(-0.4))


def test_frozen_models_are_fine_tuned_all_the_same():
    case = grey_case(unlearned=-0.05)
    case.unlearned.network.requires_grad_(False)
    result = probe(case, n_shown=(1,), steps=(1,), n_images=2, how=TENTH)
    assert curve(result, "unlearned", "forget") == {1: 2}
    assert not any(value.requires_grad for value in case.unlearned.network.parameters())


def test_a_partly_frozen_model_is_fine_tuned_as_a_whole(make_pipeline):
    """Of two copies of one model, one frozen but for a layer: they make the same images after the same steps."""
    case, seen = unet_case(make_pipeline, Sampler("ddim", steps=3, microbatch_size=4), threshold=120), []
    case = replace(case, retrained=case.unlearned.copy())
    case.unlearned.network.requires_grad_(False)
    case.unlearned.network.conv_in.requires_grad_(True)
    watching = replace(case, is_forget=lambda images: seen.append(images.images) or case.is_forget(images))
    probe(watching, n_shown=(3,), steps=(2,), n_images=4, how=FineTuning(learning_rate=3e-3))
    assert torch.equal(seen[-4], seen[-3]) and torch.equal(seen[-2], seen[-1])
    assert len(case.unlearned.trainable()) == 2  # weight and bias, as before


def test_its_sizes_are_in_the_protocol():
    protocol = probe(grey_case(), n_shown=(10, 1), steps=(1, 0), n_images=2, how=TENTH)["protocol"]
    assert (protocol["n_shown"], protocol["steps"], protocol["n_images"]) == ([1, 10], [0, 1], 2)


def test_fewer_images_are_the_beginning_of_more():
    images = flat(*torch.linspace(-1, 1, 20).tolist())
    some, more = (choose(images, n, 0, "x").images for n in (4, 30))
    assert torch.equal(some, more[:4]) and len(more) == 20
    assert not torch.equal(more, images.images) and torch.equal(more.unique(), images.images.unique())


def test_sets_that_are_too_small_are_named():
    result = probe(grey_case(), n_shown=(1, 3, 10), steps=(0,), n_images=2)
    assert [(each["shown"], each["n_shown"]) for each in result["curves"]] == [
        ("forget", 1),
        ("forget", 3),
        ("benign", 1),
    ]
    assert result["protocol"]["left_out"] == [
        {"n_shown": n, "shown": shown, "n_available": available}
        for n, shown, available in ((10, "forget", 3), (3, "benign", 2), (10, "benign", 2))
    ]


def test_without_real_images_of_the_rest_own_samples_are_shown(make_pipeline):
    case = unet_case(make_pipeline, Sampler("ddpm", steps=3, microbatch_size=4), threshold=120)
    seeds = [derive_seed(0, "rest", "image", i) for i in range(24)]
    drawn = ImageSet(to_uint8(sample(case.original, seeds, case.sampler)))
    truth = drawn.images[~case.is_forget(drawn)]
    assert 7 < len(truth) < 24  # something was sorted out
    for n in range(1, 7):
        assert torch.equal(own_rest(case, n, "rest").images, truth[:n])
    nothing = probe(
        grey_case(0.5, retain=None), n_shown=(1,), steps=(0,), n_images=2
    )  # it makes nothing else than forget
    assert nothing["protocol"]["left_out"] == [{"n_shown": 1, "shown": "benign", "n_available": 0}]
    assert {each["shown"] for each in nothing["curves"]} == {"forget"}


@pytest.mark.parametrize(
    "wrong", [{"steps": (-1, 3)}, {"steps": ()}, {"n_shown": (0,)}, {"n_shown": ()}, {"n_images": 0}]
)
def test_numbers_that_mean_nothing_are_refused(wrong):
    with pytest.raises(InputError, match="relearning: got n_shown="):
        probe(grey_case(), **wrong)


def test_images_of_another_shape_are_refused():
    with pytest.raises(InputError, match=r"forget images: got images of \(1, 8, 8\)"):
        probe(grey_case(forget=ImageSet(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))))
