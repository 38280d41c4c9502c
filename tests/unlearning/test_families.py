"""Every kind of pipeline × methods of every sort, some steps each, and the posterior estimators: what runs, what moves, what is saved."""

import math

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file

import tiny_pipelines
from vdu.commands import posterior
from vdu.commands.settings import PosteriorSettings
from vdu.core.errors import InputError
from vdu.core.rng import generator
from vdu.data.images import ImageSet
from vdu.diffusion.sampling import Sampler
from vdu.models.adapt import adapt, family_of
from vdu.models.lora import trained_weights
from vdu.models.pipelines import load_pipeline, network_of
from vdu.models.saving import save_pipeline
from vdu.replay import auxiliaries, auxiliary_models
from vdu.replay.selection import resemblance
from vdu.unlearning import default_posterior
from vdu.unlearning.fine_tuned_members import FILE
from vdu.unlearning.fit_posterior import fit_posterior, load_posterior
from vdu.unlearning.labels import forget_set_of_labels
from vdu.unlearning.unlearn import unlearn

ATTENTION = {"down_block_types": ("AttnDownBlock2D",), "up_block_types": ("AttnUpBlock2D",)}
SAMPLER = Sampler("ddim", steps=2, microbatch_size=30)
NEEDS_WORDS = ("StableDiffusion", "PixArt", "Flux")


def conditional(make):
    pipeline = make({"timestep_spacing": "trailing"}, num_class_embeds=4, **ATTENTION)
    pipeline.class_names, pipeline.null_class = ("a", "b", "c"), 3
    return pipeline


def latent(make):
    def unet(in_channels, out_channels):
        return make(in_channels=in_channels, out_channels=out_channels, **ATTENTION).unet

    return tiny_pipelines.latent_diffusion(unet)


def few_classes():
    """With 1000 classes most would have no generated sample."""
    pipeline = tiny_pipelines.dit()
    pipeline.transformer = tiny_pipelines.seeded(
        type(pipeline.transformer), 3, **dict(pipeline.transformer.config) | {"num_embeds_ada_norm": 3}
    )
    return pipeline


FAMILIES = {
    "DDPMPipeline": lambda make: make(**ATTENTION),
    "UNet2DModel of v": lambda make: make({"prediction_type": "v_prediction"}, **ATTENTION),
    "class-conditional UNet2DModel": conditional,
    "LDMPipeline": latent,
    "DiTPipeline": lambda make: few_classes(),
    "StableDiffusionPipeline": lambda make: tiny_pipelines.stable_diffusion(),
    "StableDiffusionXLPipeline": lambda make: tiny_pipelines.sdxl(),
    "StableDiffusion3Pipeline": lambda make: tiny_pipelines.sd3(),
    "FluxPipeline": lambda make: tiny_pipelines.flux(),
    "PixArtAlphaPipeline": lambda make: tiny_pipelines.pixart(),
}
METHODS = {"vdu": "lora:2", "ascent": "all", "distillation": "attention", "retrack": "lora:2", "anchor": "attention"}
QUICK = {
    ("DDPMPipeline", "vdu"),
    ("class-conditional UNet2DModel", "vdu"),
    ("LDMPipeline", "ascent"),
    ("DiTPipeline", "retrack"),
    ("StableDiffusionPipeline", "vdu"),
    ("StableDiffusionXLPipeline", "ascent"),
}
CASES = [
    pytest.param(family, method, marks=() if (family, method) in QUICK else pytest.mark.slow)
    for family in FAMILIES
    for method in METHODS
]


@pytest.fixture
def make(make_pipeline):
    def made(name):
        if name.startswith(NEEDS_WORDS):
            pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
        pipeline = FAMILIES[name](make_pipeline)
        if adapt(pipeline).takes_prompts:
            pipeline.prompts = ("a cat", "a dog", "a tree")
        return pipeline

    return made


@pytest.fixture(autouse=True)
def _cheap(monkeypatch):
    short = {"steps": 1, "batch_size": 4, "learning_rate": 1e-4}
    monkeypatch.setattr(auxiliary_models, "self_model_settings", lambda steps: short)
    monkeypatch.setattr(
        auxiliaries,
        "resemblance",
        lambda *given, **options: resemblance(*given, **options | {"steps": 2, "score_steps": 15}),
    )
    monkeypatch.setitem(forget_set_of_labels.__kwdefaults__, "n_images", 40)
    monkeypatch.setattr(default_posterior, "N_SAMPLES", 3)
    monkeypatch.setattr(default_posterior, "SAMPLER", SAMPLER)
    monkeypatch.setitem(default_posterior.OPTIONS, "fisher", {"n_train": 100, "draws_per_half": 1})


def wanted(pipeline, joint=False):
    """What to forget: a prompt, a class or two, or images."""
    denoiser = adapt(pipeline)
    if denoiser.takes_prompts:
        return {"forget_prompt": ["a cat", "a dog"] if joint else "a cat"}
    if denoiser.class_names:
        return {"forget_label": [0, 1] if joint else 0}
    return {"forget": ImageSet(torch.full((40, *denoiser.image_shape), 255, dtype=torch.uint8))}


def run(pipeline, method, train, *, joint=False, **options):
    sampled = {"n_own_samples": 60, "sampler": SAMPLER}
    return unlearn(
        pipeline, method, train=train, steps=2, batch_size=8, force=True, progress=None,
        **wanted(pipeline, joint), **{"learning_rate": 1e-4} | sampled | options,
    )  # fmt: skip


def tensors(pipeline):
    return {
        f"{name}.{key}": value.clone()
        for name, part in pipeline.components.items()
        if isinstance(part, torch.nn.Module)
        for key, value in part.state_dict().items()
    }


@pytest.mark.parametrize(("name", "method"), CASES)
def test_a_method_moves_what_trains_and_its_result_is_plain_diffusers(make, tmp_path, name, method):
    pipeline, train = make(name), METHODS[method]
    before, part = tensors(pipeline), family_of(pipeline).NETWORK
    weights = trained_weights(network_of(pipeline), train).named_parameters()
    may_move = {f"{part}.{key}" for key, value in weights if value.requires_grad}
    made = run(pipeline, method, train, folder=tmp_path / "run")
    assert all(math.isfinite(value) for value in made.training.last["terms"].values())
    after = tensors(made.pipeline)
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved and moved <= may_move
    assert all(torch.equal(value, before[key]) for key, value in tensors(pipeline).items())  # the original's own
    plain = type(pipeline).from_pretrained(tmp_path / "run" / "pipeline")
    assert all(torch.equal(value, after[key]) for key, value in tensors(plain).items())
    assert adapt(load_pipeline(tmp_path / "run" / "pipeline")).class_names == adapt(pipeline).class_names
    if method == "vdu":
        assert made.training.last["terms"]["stability"] >= 0
        assert (
            {f"{part}.{key}" for key in made.plan.chosen.posterior.mean} == may_move
            if made.plan.chosen.posterior
            else True
        )


def test_a_longer_run_encodes_no_more_images(make_pipeline, monkeypatch):
    whole, sizes, counts = AutoencoderKL.encode, [], []
    monkeypatch.setattr(AutoencoderKL, "encode", lambda self, x: sizes.append(len(x)) or whole(self, x))
    bright = torch.full((40, 3, 16, 16), 255, dtype=torch.uint8)
    for steps in (1, 7):
        given = {"forget": ImageSet(bright), "retain": ImageSet(bright[:30] // 2)}
        sizes.clear()
        unlearn(tiny_pipelines.variational(make_pipeline), "siss", **given, steps=steps, batch_size=8, progress=None)
        counts.append(sum(sizes))
    assert counts == [40 + 30 + 2 * 4] * 2  # and four forget images before and after, for what has changed


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("class-conditional UNet2DModel", "ascent"),
        pytest.param("DiTPipeline", "distillation", marks=pytest.mark.slow),
        pytest.param("StableDiffusionPipeline", "distillation", marks=pytest.mark.slow),
    ],
)
def test_classes_and_prompts_are_forgotten_jointly(make, name, method):
    pipeline = make(name)
    made = run(pipeline, method, "attention", joint=True)
    asked = {made.forget.class_names[label] for label in made.forget.labels.tolist()}
    assert asked == set(adapt(pipeline).class_names[:2])
    retained = made.aids.sets["retain"]
    if retained is not None:
        assert {retained.class_names[label] for label in retained.labels.tolist()} == {adapt(pipeline).class_names[2]}


def drawn(pipeline, prompt):
    return pipeline(
        prompt, num_inference_steps=3, generator=torch.Generator().manual_seed(0), guidance_scale=2.0, output_type="pt"
    ).images


@pytest.mark.parametrize(
    "name",
    [
        "StableDiffusionPipeline",
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in ("StableDiffusionXLPipeline", "StableDiffusion3Pipeline")
        ),
    ],
)
def test_corrections_are_merged_in_the_pipeline_and_fit_the_original(make, tmp_path, name):
    """Both draw the same images in plain diffusers, and others than the original."""
    pytest.importorskip("peft", reason="diffusers loads a LoRA file with peft")
    pipeline = make(name)
    pipeline.save_pretrained(tmp_path / "original")
    run(pipeline, "ascent", "lora:2", folder=tmp_path / "run", learning_rate=3e-2)
    original, merged = (type(pipeline).from_pretrained(tmp_path / each) for each in ("original", "run/pipeline"))
    assert not any("lora" in key for key in tensors(merged))
    for each in (original, merged):
        each.set_progress_bar_config(disable=True)
    before, expected = drawn(original, "a cat"), drawn(merged, "a cat")
    original.load_lora_weights(tmp_path / "run" / "lora")
    torch.testing.assert_close(drawn(original, "a cat"), expected, rtol=0, atol=1e-4)
    assert float((before - expected).abs().max()) > 1e-2


@pytest.mark.slow
def test_members_of_a_text_to_image_model_are_tuned_under_prompts(make, tmp_path):
    """What trains is all that is tuned, stored and covered; a posterior that covers too little for an unlearning is refused."""
    pipeline = make("StableDiffusionPipeline")
    save_pipeline(pipeline, tmp_path / "model")
    posterior.run(
        PosteriorSettings(
            estimator="finetuned-ensemble", pipeline=tmp_path / "model", output_dir=tmp_path / "out", train="cross-attention-kv",
            n_samples=3, n_members=2, finetune_steps=1, finetune_batch_size=2, inference_steps=2, mean="recentre",
        )
    )  # fmt: skip
    covered = load_file(tmp_path / "out" / "members" / "1" / FILE)
    assert covered and all("attn2.to_k" in name or "attn2.to_v" in name for name in covered)
    found = load_posterior(tmp_path / "out")
    assert set(found.mean) == set(covered)
    method = {"method": "vdu", "posterior": tmp_path / "out", "gamma": 0.5}
    run(pipeline, **method, train="cross-attention-kv")
    with pytest.raises(InputError, match="network: names or shapes differ"):
        run(pipeline, **method, train="attention")


@pytest.mark.parametrize("estimator", ["fisher", "isotropic", "amnesia-fisher", "finetuned-ensemble"])
@pytest.mark.parametrize(
    "name", [each if i in {2, 4, 5} else pytest.param(each, marks=pytest.mark.slow) for i, each in enumerate(FAMILIES)]
)
def test_a_posterior_of_every_kind_covers_what_trains(make, name, estimator):
    pipeline = make(name)
    options = {
        "fisher": {"n_train": 9, "draws_per_half": 1},
        "amnesia-fisher": {"timesteps_per_sample": 2},
        "finetuned-ensemble": {"n_members": 2, "finetune_steps": 1, "finetune_batch_size": 2},
    }
    drawn = {} if estimator == "isotropic" else {"n_samples": 3, "sampler": SAMPLER}
    found = fit_posterior(
        pipeline, estimator, generator=generator(0, "x"), train="attention", **drawn, **options.get(estimator, {})
    )
    part = trained_weights(network_of(pipeline), "attention")
    assert set(found.mean) == {key for key, value in part.named_parameters() if value.requires_grad}
    if estimator == "fisher":  # some weight is known better than its prior says
        assert any(float(value.min()) < 0.99 / found.prior_precision for value in found.variance.values())
