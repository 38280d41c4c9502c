import json
from dataclasses import replace

import pytest
import torch

import tiny_pipelines
from probes_toys import grey_case, same, unet_case, untouched
from vdu.core.errors import InputError
from vdu.core.rng import derive_seed
from vdu.data.images import ImageSet, to_uint8
from vdu.diffusion.sampling import Sampler, sample
from vdu.models.denoiser import PipelineDenoiser
from vdu.probes.draws import sampler_words
from vdu.probes.stochastic import other_samplers, probe

DDPM = Sampler("ddpm", steps=3, microbatch_size=4)


@pytest.mark.parametrize(
    ("own", "others"),
    [
        (Sampler("ddpm", steps=7), [("ddim", 0.0), ("ddim", 0.5), ("ddim", 1.0)]),
        (Sampler("ddim", steps=7), [("ddim", 0.5), ("ddim", 1.0), ("ddpm", 0.0)]),
        (Sampler("ddim", steps=7, eta=1.0), [("ddim", 0.0), ("ddim", 0.5), ("ddpm", 0.0)]),
        (Sampler("dpm++", steps=7, spacing="leading"), [("ddim", 0.0), ("ddim", 0.5), ("ddim", 1.0), ("ddpm", 0.0)]),
    ],
)
def test_the_other_samplers_are_otherwise_alike(own, others):
    found = other_samplers(own)
    assert [(each.scheduler, each.eta) for each in found] == others
    assert {(each.steps, each.spacing, each.microbatch_size) for each in found} == {
        (7, own.spacing, own.microbatch_size)
    }


def test_a_sampler_in_words_has_its_guidance():
    plain = Sampler("ddpm", steps=20, microbatch_size=4)
    assert sampler_words(plain) == "ddpm, 20 steps, trailing spacing, micro-batches of 4"
    guided = sampler_words(replace(plain, guidance_scale=2.5))
    assert guided == "ddpm, 20 steps, trailing spacing, guidance scale 2.5, micro-batches of 4"


@pytest.mark.parametrize(("own", "other"), [("ddim", "ddpm"), ("ddpm", "ddim")])
def test_flow_matching_models_are_drawn_with_the_one_other_sampler_that_they_have(own, other):
    model = PipelineDenoiser.from_pipeline(tiny_pipelines.sd3(with_t5=False))
    case = replace(grey_case(sampler=Sampler(own, steps=2, microbatch_size=2)), original=model, unlearned=model)
    (row,) = probe(case, n_images=2)["rows"]
    assert (row["sampler"], row["eta"]) == (other, 0.0 if other == "ddim" else None)


def test_counts_are_those_of_images_drawn_one_by_one(make_pipeline):
    case = unet_case(make_pipeline, DDPM, threshold=120)
    before = untouched(case)
    result = probe(case, n_images=10)
    assert same(before, untouched(case))
    assert [(row["sampler"], row["eta"]) for row in result["rows"]] == [("ddim", 0.0), ("ddim", 0.5), ("ddim", 1.0)]
    differ = []
    for row in result["rows"]:
        sampler = replace(DDPM, scheduler="ddim", eta=row["eta"])
        counts = []
        for model in (case.original, case.unlearned):
            calls = []
            for i in range(10):
                image = sample(model, [derive_seed(0, "stochastic", "image", i)], sampler)
                calls.append(bool(case.is_forget(ImageSet(to_uint8(image)))))
            counts.append(sum(calls))
        assert (row["pul"]["n_original"], row["pul"]["n_unlearned"]) == tuple(counts)
        differ.append(counts[0] != counts[1])
        assert 0 < counts[0] < 10
        assert row["pul"]["value"] == pytest.approx(100 * (counts[0] - counts[1]) / counts[0])
        assert row["pul"]["low"] <= row["pul"]["value"] <= row["pul"]["high"]
        assert row["n_images"] == 10
    assert any(differ)
    beside = probe(replace(case, retrained=case.unlearned), n_images=10)["rows"]
    assert [row["control_count"] for row in beside] == [row["pul"]["n_unlearned"] for row in result["rows"]]
    alone = probe(replace(case, retrained=None), n_images=10)["rows"]
    assert all("control_count" not in row for row in alone)


def test_a_class_that_is_gone_counts_hundred_and_one_that_stays_nought():
    gone, stays = (probe(grey_case(0.5, m), n_images=5, samplers=[Sampler("ddim", steps=6)]) for m in (-0.5, 0.5))
    assert [result["rows"][0]["pul"]["value"] for result in (gone, stays)] == [100.0, 0.0]


def test_pul_is_null_where_the_original_makes_none():
    result = probe(grey_case(-0.5, 0.5), n_images=5, samplers=[Sampler("ddim", steps=6)])
    (row,) = result["rows"]
    assert (row["pul"], row["n_original"], row["n_unlearned"], row["n_images"]) == (None, 0, 5, 5)


def test_a_sampler_that_the_schedule_does_not_support_leaves_the_others_their_rows(make_pipeline):
    """With pure noise at the end, 10 trailing steps leave DDIM with η = 1 no real root in float32."""
    schedule = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "clip_sample": False}
    case = unet_case(lambda _, **options: make_pipeline(schedule, **options), replace(DDPM, steps=10))
    found = probe(case, n_images=2)
    assert [(row["sampler"], row["eta"]) for row in found["rows"]] == [("ddim", 0.0), ("ddim", 0.5)]
    (said,) = found["protocol"]["impossible_samplers"]
    assert "ends in pure noise" in said
    with pytest.raises(InputError, match="samplers: none is possible with these models: .*ends in pure noise"):
        probe(case, n_images=2, samplers=[replace(case.sampler, scheduler="ddim", eta=1.0)])


def test_the_result_is_plain_and_the_same_again(make_pipeline):
    case = unet_case(make_pipeline, DDPM)
    first, second = probe(case, n_images=4), probe(case, n_images=4)
    assert json.loads(json.dumps(first)) == first
    assert first["status"] == "measured" and first.pop("seconds") > 0 and second.pop("seconds") > 0
    assert first == second


def test_calls_that_are_not_bools_are_refused():
    case = grey_case(is_forget=lambda images: torch.zeros(len(images)))
    with pytest.raises(InputError, match=r"is_forget: got torch.float32 \[5\] for 5 images"):
        probe(case, n_images=5)
