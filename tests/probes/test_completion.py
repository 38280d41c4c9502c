import json
from dataclasses import replace

import pytest
import torch

from probes_toys import EXACT, grey, grey_case, same, unet_case, untouched
from toys import noise_seen
from vdu.core.errors import InputError
from vdu.core.rng import derive_seed
from vdu.core.types import Denoiser
from vdu.data.images import to_uint8
from vdu.diffusion.sampling import Sampler, sample
from vdu.diffusion.schedule import NoiseSchedule
from vdu.probes.completion import Handover, complete, probe

SEEDS = [3, 14, 15, 92, 65]
SAMPLERS = [
    Sampler("ddpm", steps=4, microbatch_size=5),
    Sampler("ddim", steps=4, eta=0.5, microbatch_size=5),
    Sampler("dpm++", steps=4, microbatch_size=5),
]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_all_or_nothing_gives_the_bits_of_one_model(make_pipeline, sampler):
    case = unet_case(make_pipeline, sampler)
    whole = {share: complete(case, case.original, case.unlearned, share, SEEDS, "t").images for share in (0, 0.5, 1)}
    assert torch.equal(whole[1], to_uint8(sample(case.original, SEEDS, sampler)))
    assert torch.equal(whole[0], to_uint8(sample(case.unlearned, SEEDS, sampler)))
    assert not torch.equal(whole[0.5], whole[0]) and not torch.equal(whole[0.5], whole[1])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_handover_gives_the_bits_of_a_loop_that_changes_the_network(make_pipeline, sampler):
    case = unet_case(make_pipeline, sampler)
    found = complete(case, case.original, case.unlearned, 0.25, SEEDS, "t").images
    scheduler = sampler.make(case.original)
    sources = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    x = torch.cat([torch.randn(1, 1, 8, 8, generator=source) for source in sources])
    extra = {"ddpm": {"generator": sources}, "ddim": {"generator": sources, "eta": 0.5}, "dpm++": {}}[sampler.scheduler]
    with torch.no_grad():
        for number, t in enumerate(scheduler.timesteps):
            network = (case.original if number < 1 else case.unlearned).network
            x = scheduler.step(network(x, t).sample, t, x, **extra).prev_sample
    assert torch.equal(found, to_uint8(x))


def test_the_face_asks_the_model_in_charge_of_each_image():
    first, second = grey(0.5), grey(-0.5)
    face = Handover(first, second, 3)
    x_t, t = torch.randn(4, 1, 4, 4, dtype=torch.float64), torch.tensor([5, 3, 2, 0])
    for ask in (noise_seen, lambda model, *given: model.raw(*given)):
        answers = ask(face, x_t, t)
        for i, model in enumerate((first, first, second, second)):
            torch.testing.assert_close(answers[i], ask(model, x_t, t)[i], rtol=0, atol=0)
    assert isinstance(face, Denoiser)
    swapped = face.with_network(torch.nn.ModuleList([second.network, first.network]))
    assert torch.equal(noise_seen(swapped, x_t, t), noise_seen(Handover(second, first, 3), x_t, t))


def test_models_keep_their_modes_and_are_asked_without_dropout(make_pipeline):
    case = unet_case(make_pipeline, SAMPLERS[0], dropout=0.5)
    truth = complete(case, case.original, case.unlearned, 0.5, SEEDS, "t").images
    case.unlearned.network.train()
    before = untouched(case)
    assert torch.equal(complete(case, case.original, case.unlearned, 0.5, SEEDS, "t").images, truth)
    assert same(before, untouched(case))


def test_the_last_model_of_a_toy_decides_until_all_is_handed_over():
    """The toy's prediction of x0 does not depend on x_t, so DDIM's last step gives the last model's grey."""
    rows = probe(grey_case(0.5, -0.5), n_images=6, n_draws=8, handed_shares=(0, 0.5, 5 / 6, 1))["rows"]
    assert [row["forget_count"] for row in rows] == [0, 0, 0, 6]
    assert [row["control_count"] for row in rows] == [6, 6, 6, 6]  # the original finishes its own chains
    assert [row["n_images"] for row in rows] == [6] * 4
    assert rows[0]["low"] == 0 and rows[-1]["high"] == 1


def test_chains_start_where_the_original_makes_the_class_and_the_control_finishes_them(make_pipeline):
    sampler = Sampler("ddpm", steps=4, microbatch_size=4)
    case = unet_case(make_pipeline, sampler, threshold=120)
    before = untouched(case)
    result = probe(case, n_images=50, n_draws=10, handed_shares=(0.5,))
    assert same(before, untouched(case))
    seeds = [derive_seed(0, "completion", "image", i) for i in range(10)]
    made = [s for s in seeds if float(to_uint8(sample(case.original, [s], sampler)).float().mean()) > 120]
    assert 1 < len(made) < 10
    (row,) = result["rows"]
    assert row["n_images"] == len(made)
    for key, model in (("forget_count", case.unlearned), ("control_count", case.retrained)):
        images = complete(case, case.original, model, 0.5, made, "t")
        assert row[key] == int(case.is_forget(images).sum())
    assert result["protocol"]["control"] == "retrained"
    assert json.loads(json.dumps(result)) == result


def test_no_more_chains_than_asked_for():
    result = probe(grey_case(0.5, -0.5), n_images=3, n_draws=100, handed_shares=(0.5,))
    assert result["rows"][0]["n_images"] == 3
    assert result["protocol"]["n_drawn"] == EXACT.microbatch_size


def test_it_does_not_run_without_a_sample_of_the_class():
    result = probe(grey_case(-0.5, 0.5), n_draws=5)
    assert result == {"status": "not run", "code": "no_forget_samples", "n_drawn": 5}


def test_models_that_cannot_share_a_chain():
    other = grey(0.5, NoiseSchedule.linear(6, 0.05, 0.2))
    with pytest.raises(InputError, match="handover: got different noise schedules"):
        Handover(grey(0.5), other, 3)
    with pytest.raises(InputError, match=r"handed_share: got 1\.5"):
        complete(grey_case(), grey(0.5), grey(0.5), 1.5, SEEDS, "t")
    result = probe(replace(grey_case(), unlearned=other), n_images=4, n_draws=4)
    assert result == {"status": "not run", "code": "different_noise_schedules"}


def test_a_retrained_model_on_another_schedule_gives_way_to_the_original_as_control():
    other = grey(-0.5, NoiseSchedule.linear(6, 0.05, 0.2))
    result = probe(replace(grey_case(), retrained=other), n_images=4, n_draws=4, handed_shares=(0.5,))
    assert result["rows"][0]["control_count"] == 4
    assert result["protocol"]["control"] == "original"
    assert result["protocol"]["control_reason"] == "different_noise_schedules"
    assert result["start_count"] == 0  # the unlearned model alone makes none of these
    alike = replace(grey_case(), unlearned=grey(0.5), retrained=other)
    assert probe(alike, n_images=4, n_draws=4, handed_shares=(0.5,))["start_count"] == 4
