"""What every pipeline family must do, one row each: a new file in ``vdu.models.adapters`` is a new row here.

1. our sampling loop gives the pipeline's own images from the same noise (diffusers' loop where it has no pipeline for it);
2. decoding what was encoded gives the image back;
3. ε̂ and x̂0 are two views of one answer: x_t = α x̂0 + σ ε̂;
4. a saved and reloaded pipeline gives the same output;
5. a training step moves the parameters that train and no others;
6. a batch of one sample gives what the sample gets within a batch, its own condition included.
"""

import copy
import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMScheduler,
    DiTPipeline,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    TCDScheduler,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file

import tiny_pipelines
from vdu.core.errors import InputError
from vdu.core.types import Denoiser, NoisedBatch, column
from vdu.data.images import ImageSet
from vdu.diffusion.sampling import Sampler, sample
from vdu.diffusion.schedule import batch_at
from vdu.models.adapt import adapt, family_of
from vdu.models.adapters import pixart
from vdu.models.configuration import scheduler_configuration
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.identity import identity, recorded_identities
from vdu.models.pipelines import load_pipeline, replace_network
from vdu.models.saving import save_pipeline
from vdu.training.batches import labels_for
from vdu.training.loop import TrainSettings
from vdu.training.pretraining import fit
from vdu.unlearning.form import instead_of
from vdu.unlearning.labels import label_indices

SEEDS = [11, 12, 13]
PROMPTS = ("a cat", "a dog", "")
DDPM, DDIM = (Sampler(name, steps=4, microbatch_size=3) for name in ("ddpm", "ddim"))
LEADING = Sampler("ddim", steps=4, microbatch_size=3, spacing="leading")
TRAILING = Sampler("ddim", steps=4, microbatch_size=3)

SOLVER = Sampler("dpm++", steps=4, microbatch_size=3, spacing="linspace")


@dataclass(frozen=True)
class Family:
    """A row: how a tiny pipeline is made, what draws from it in plain diffusers, and under which sampler of ours."""

    make: Any
    reference: Any
    sampler: Sampler = LEADING
    scales: tuple[float | None, ...] = (None,)  # of guidance
    frozen: str = (
        "conv_out"  # a part that does not train (conv_in: PyTorch 2.13 crashes in GroupNorm behind it, on a CPU)
    )
    needs: str | None = None


def sources():
    return [torch.Generator().manual_seed(seed) for seed in SEEDS]


def by_the_pipeline(pipeline, denoiser, labels, scale):
    images = pipeline(batch_size=3, generator=sources(), num_inference_steps=4, output_type="np").images
    return torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1


@torch.no_grad()
def by_a_loop(pipeline, denoiser, labels, scale):
    """diffusers has no pipeline that hands labels to a UNet2DModel: its scheduler and network in a plain loop."""
    streams, scheduler = sources(), pipeline.scheduler
    x = torch.cat([torch.randn(1, *denoiser.latent_shape, generator=each) for each in streams])
    scheduler.set_timesteps(4)
    for t in scheduler.timesteps:
        output = pipeline.unet(x, t, class_labels=torch.tensor(labels)).sample
        if scale is not None:
            null = pipeline.unet(x, t, class_labels=torch.full((3,), pipeline.null_class)).sample
            output = null + scale * (output - null)
        x = scheduler.step(output, t, x, generator=streams).prev_sample
    return x.clamp(-1, 1)


def with_words(pipeline, denoiser, labels, scale, **options):
    given = {"guidance_scale": scale or 1.0} | options
    prompts = [PROMPTS[label] for label in labels]
    return pipeline(prompts, num_inference_steps=4, generator=sources(), output_type="pt", **given).images * 2 - 1


def flux_words(pipeline, denoiser, labels, scale):
    """The scale is an argument of a distilled network; another is guided by the empty prompt."""
    size = {"height": pipeline.image_size, "width": pipeline.image_size}
    if pipeline.transformer.config.guidance_embeds:
        return with_words(pipeline, denoiser, labels, scale, guidance_scale=3.5 if scale is None else scale, **size)
    guided = {} if scale is None else {"true_cfg_scale": scale, "negative_prompt": [""] * len(labels)}
    return with_words(pipeline, denoiser, labels, None, **guided, **size)


def pixart_words(pipeline, denoiser, labels, scale):
    return with_words(pipeline, denoiser, labels, scale, use_resolution_binning=False)


def ddim(make):
    return DDIMPipeline(
        unet=make().unet, scheduler=DDIMScheduler(prediction_type="v_prediction", timestep_spacing="trailing")
    )


def with_null_class(make):
    pipeline = make({"timestep_spacing": "trailing"}, num_class_embeds=4)
    pipeline.class_names, pipeline.null_class = ("a", "b", "c"), 3
    return pipeline


def words(make, *given, reference=with_words, **options):
    """A row of a text-to-image pipeline; its tiny text encoders need transformers."""

    def made(_):
        pipeline = make(*given)
        pipeline.prompts = PROMPTS
        return pipeline

    return Family(made, reference, scales=(None, 3.0), needs="transformers", **options)


def with_classes(pipeline, denoiser, labels, scale):
    images = pipeline(labels, num_inference_steps=4, guidance_scale=scale or 1.0, generator=sources(), output_type="pt")
    return images.images * 2 - 1


def latent(make, quantised):
    return tiny_pipelines.latent_diffusion(lambda **changes: make(**changes).unet, quantised)


FAMILIES = {
    "DDPMPipeline": Family(lambda make: make({"timestep_spacing": "trailing"}), by_the_pipeline, DDPM),
    "DDIMPipeline": Family(ddim, by_the_pipeline, DDIM),
    "class-conditional UNet2DModel": Family(
        lambda make: make({"timestep_spacing": "trailing"}, num_class_embeds=3), by_a_loop, DDPM
    ),
    "class-conditional UNet2DModel with a null class": Family(with_null_class, by_a_loop, DDPM, (None, 3.0)),
    "LDMPipeline": Family(lambda make: latent(make, True), by_the_pipeline),
    "LDMPipeline of a variational autoencoder": Family(lambda make: latent(make, False), by_the_pipeline),
    "DiTPipeline": Family(lambda _: tiny_pipelines.dit(), with_classes, scales=(None, 3.0), frozen="pos_embed.proj"),
    "DiTPipeline without a learned variance": Family(
        lambda _: tiny_pipelines.dit(4, {0: "tench, Tinca tinca", 1: "goldfish"}),
        with_classes,
        scales=(None, 3.0),
        frozen="proj_out_2",
    ),
    "StableDiffusionPipeline": words(tiny_pipelines.stable_diffusion),
    "StableDiffusionPipeline of v": words(tiny_pipelines.stable_diffusion, "v_prediction"),
    "StableDiffusionXLPipeline": words(tiny_pipelines.sdxl),
    "StableDiffusionXLPipeline with normalised latents": words(tiny_pipelines.sdxl, True),
    "StableDiffusion3Pipeline": words(tiny_pipelines.sd3, sampler=TRAILING, frozen="proj_out"),
    "StableDiffusion3Pipeline with a shift by size, without T5": words(
        tiny_pipelines.sd3, True, False, sampler=TRAILING, frozen="proj_out"
    ),
    "FluxPipeline": words(tiny_pipelines.flux, reference=flux_words, sampler=TRAILING, frozen="proj_out"),
    "FluxPipeline that is not distilled": words(
        tiny_pipelines.flux, False, reference=flux_words, sampler=TRAILING, frozen="proj_out"
    ),
    "PixArtAlphaPipeline": words(tiny_pipelines.pixart, reference=pixart_words, sampler=SOLVER, frozen="proj_out"),
    "PixArtSigmaPipeline": words(
        tiny_pipelines.pixart, "PixArtSigmaPipeline", reference=pixart_words, sampler=SOLVER, frozen="proj_out"
    ),
}


@pytest.fixture(params=FAMILIES, ids=list(FAMILIES))
def family(request, make_pipeline):
    row = FAMILIES[request.param]
    if row.needs:
        pytest.importorskip(row.needs, reason="tiny text encoders are made with transformers")
    pipeline = row.make(make_pipeline)
    return row, pipeline, PipelineDenoiser.from_pipeline(pipeline)  # adapt, and a try


def labelled(denoiser, n):
    return [i % len(denoiser.class_names) for i in range(n)] if denoiser.class_names else [None] * n


def batch_of(denoiser, n=4, level=0.4):
    source = torch.Generator().manual_seed(5)
    x0, noise = (torch.randn(n, *denoiser.latent_shape, generator=source) for _ in range(2))
    return batch_at(x0, noise, level, denoiser.schedule, denoiser.condition(labelled(denoiser, n)))


def parts(pipeline):
    return {name: type(part).__name__ for name, part in pipeline.components.items()}


def weights(pipeline, but=""):
    """Of every network of a pipeline but one."""
    return {
        f"{name}.{key}": value.clone()
        for name, part in pipeline.components.items()
        if isinstance(part, torch.nn.Module) and name != but
        for key, value in part.state_dict().items()
    }


def test_the_loop_gives_what_diffusers_gives(family):
    row, pipeline, denoiser = family
    labels = [seed % len(denoiser.class_names) for seed in SEEDS] if denoiser.class_names else None
    drawn = []
    for scale in row.scales:
        ours = sample(denoiser, SEEDS, replace(row.sampler, guidance_scale=scale))  # labels: those of the seeds
        torch.testing.assert_close(ours, row.reference(pipeline, denoiser, labels, scale), rtol=0, atol=1e-5)
        drawn.append(ours)
    assert len(drawn) == 1 or not torch.allclose(*drawn, atol=1e-4)  # guidance does something
    assert isinstance(denoiser, Denoiser)


@torch.no_grad()
def test_what_was_encoded_is_decoded(family):
    _, pipeline, denoiser = family
    images = torch.rand(2, *denoiser.image_shape) * 2 - 1
    latents = denoiser.encode(images)
    assert tuple(latents.shape[1:]) == tuple(denoiser.latent_shape)
    expected = images
    if denoiser.is_latent:  # but for what the autoencoder itself loses
        network = getattr(pipeline, "vae", None) or pipeline.vqvae
        codes = network.encode(images)
        expected = network.decode(codes.latent_dist.mode() if hasattr(codes, "latent_dist") else codes.latents).sample
    torch.testing.assert_close(denoiser.decode(latents), expected)


def test_noise_and_clean_are_one_answer(family):
    _, _, denoiser = family
    batch = batch_of(denoiser)
    with torch.no_grad():
        noise, clean = denoiser.noise(batch), denoiser.clean(batch)
    again = column(batch.alpha, clean) * clean + column(batch.sigma, noise) * noise
    torch.testing.assert_close(again, batch.x_t, rtol=1e-5, atol=1e-5)


def test_a_reloaded_pipeline_is_the_same(family, tmp_path):
    _, pipeline, denoiser = family
    made = replace_network(pipeline, denoiser.copy().network)
    save_pipeline(made, tmp_path / "model")
    loaded = load_pipeline(tmp_path / "model")
    again, batch = adapt(loaded), batch_of(denoiser)
    with torch.no_grad():
        assert torch.equal(again.noise(batch), denoiser.noise(batch))
    assert again.class_names == denoiser.class_names
    assert parts(made) == parts(pipeline) == parts(loaded)
    assert scheduler_configuration(loaded.scheduler).items() >= scheduler_configuration(pipeline.scheduler).items()
    before, after = weights(pipeline), weights(loaded)
    assert before.keys() == after.keys() and all(torch.equal(after[name], value) for name, value in before.items())


def test_a_later_change_of_the_original_does_not_reach_the_new_pipeline(family):
    _, pipeline, denoiser = family
    made = replace_network(pipeline, denoiser.copy().network)
    shared = {
        name
        for name, part in made.components.items()
        if isinstance(part, torch.nn.Module)
        and {id(value) for value in part.state_dict(keep_vars=True).values()}
        & {id(value) for value in pipeline.components[name].state_dict(keep_vars=True).values()}
    }
    assert shared == set()


def test_a_training_step_moves_what_trains_and_nothing_else(family):
    row, pipeline, denoiser = family
    denoiser.network.get_submodule(row.frozen).requires_grad_(False)
    before = {name: value.detach().clone() for name, value in denoiser.network.named_parameters()}
    others = weights(pipeline, but=family_of(pipeline).NETWORK)
    labels = torch.tensor(labelled(denoiser, 4)) if denoiser.class_names else None
    images = ImageSet(
        torch.randint(256, (4, *denoiser.image_shape), dtype=torch.uint8),
        labels,
        class_names=denoiser.class_names or None,
    )
    chosen = set(denoiser.trainable())
    fit(denoiser, images, TrainSettings(steps=1, learning_rate=1e-3, ema_decay=0.5), batch_size=4, seed=0)
    moved = {name for name, value in denoiser.network.named_parameters() if not torch.equal(value, before[name])}
    assert moved <= chosen == {name for name in before if not name.startswith(f"{row.frozen}.")}
    assert len(moved) > 0.9 * len(chosen)  # an embedding of a class that was not shown may stay
    still = weights(pipeline, but=family_of(pipeline).NETWORK)
    assert all(torch.equal(still[name], value) for name, value in others.items())


def test_a_sample_keeps_its_condition_within_a_batch(family):
    _, _, denoiser = family
    batch = batch_of(denoiser)
    with torch.no_grad():
        whole = denoiser.noise(batch)
        for i in range(4):
            torch.testing.assert_close(
                denoiser.noise(batch.select(torch.tensor([i]))), whole[i : i + 1], rtol=1e-4, atol=1e-5
            )
        parts = [batch.select(torch.tensor(each)) for each in ([0, 1], [2, 3])]
        torch.testing.assert_close(denoiser.noise(NoisedBatch.joined(*parts)), whole, rtol=1e-4, atol=1e-5)


def test_names_of_classes_outlast_the_file_in_plain_diffusers(tmp_path):
    pipeline = tiny_pipelines.dit(id2label={0: "tench, Tinca tinca", 7: "cock"})
    denoiser = adapt(pipeline)
    assert [denoiser.class_names[i] for i in (0, 1, 7)] == ["tench", "1", "cock"]
    save_pipeline(pipeline, tmp_path)
    again = type(pipeline).from_pretrained(tmp_path)
    assert again.labels == {"Tinca tinca": 0, "cock": 7, "tench": 0}


IMAGENET = {  # some entries of the published model
    0: "tench, Tinca tinca", 2: "great white shark, white shark, man-eater, Carcharodon carcharias", 134: "crane", 517: "crane",
    358: "polecat, fitch, foulmart, foumart, Mustela putorius", 361: "skunk, polecat, wood pussy",
    638: "maillot", 639: "maillot, tank suit",
}  # fmt: skip
NAMED = {
    0: "tench",
    2: "great white shark",
    134: "134",
    358: "fitch",
    361: "skunk",
    517: "517",
    638: "638",
    639: "tank suit",
}


def published(folder, entries):
    """As on the Hub: diffusers itself writes no id2label."""
    tiny_pipelines.dit().save_pretrained(folder)
    file = folder / "model_index.json"
    held = json.loads(file.read_text())
    file.write_text(json.dumps(held | {"id2label": {str(index): names for index, names in entries.items()}}))
    return folder


def test_a_name_of_two_classes_means_none_of_them(tmp_path):
    """diffusers takes it for the later one."""
    folder = published(tmp_path / "a", IMAGENET)
    plain = DiTPipeline.from_pretrained(folder)
    assert plain.labels["crane"] == 517 and plain.labels["polecat"] == 361
    save_pipeline(plain, tmp_path / "b")
    assert DiTPipeline.from_pretrained(tmp_path / "b").labels == plain.labels
    for pipeline in (plain, load_pipeline(folder), load_pipeline(tmp_path / "b")):
        denoiser = adapt(pipeline)
        assert {index: denoiser.class_names[index] for index in IMAGENET} == NAMED
        assert identity(denoiser) == identity(adapt(plain))
    assert denoiser.meant([134, "517", "fitch"]) == [134, 517, 358]
    one = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    asked = {
        "crane": "of the classes 134 and 517; expected one class. Give its number",
        "polecat": r"of the classes 358 \(fitch\) and 361 \(skunk\); expected one class",
    }
    for use in (
        lambda name: denoiser.meant([name]),
        lambda name: denoiser.condition([name]),
        lambda name: label_indices(denoiser, [name]),
        lambda name: labels_for(
            denoiser, ImageSet(one, torch.tensor([0]), class_names=(name,)), torch.tensor([0]), "forget"
        ),
        lambda name: instead_of(denoiser, {"instead": name}),
    ):
        for name, words in asked.items():
            with pytest.raises(InputError, match=f"'{name}': is a name {words}"):
                use(name)


def test_names_of_classes_that_a_transformer_does_not_embed_are_refused(tmp_path):
    with pytest.raises(InputError, match="its id2label names the class 1000, and its network embeds 1000; expected"):
        adapt(DiTPipeline.from_pretrained(published(tmp_path, {0: "tench", 1000: "any"})))


def test_a_transformer_in_training_sees_the_labels_that_it_is_given():
    """diffusers replaces a tenth of them by the null class, which would show within 64 tries."""
    denoiser = adapt(tiny_pipelines.dit())
    batch, again = batch_of(denoiser, 1), denoiser.copy()
    torch.nn.init.normal_(again.network.transformer_blocks[0].norm1.emb.class_embedder.embedding_table.weight)
    again.network.train()
    with torch.no_grad():
        seen = torch.cat([again.noise(batch) for _ in range(64)])
    assert torch.equal(seen, seen[:1].expand_as(seen))


def test_parts_that_do_not_predict_survive(tmp_path):
    """A safety checker with its images' preparation, and a scheduler that is not the one of the training."""
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    pipeline = tiny_pipelines.with_safety_checker()
    made = replace_network(pipeline, adapt(pipeline).copy().network)
    save_pipeline(made, tmp_path)
    loaded = load_pipeline(tmp_path)
    assert parts(loaded) == parts(pipeline) and parts(loaded)["scheduler"] == "PNDMScheduler"
    assert loaded.config.requires_safety_checker and made.config.requires_safety_checker
    before, after = weights(pipeline), weights(loaded)
    assert before.keys() == after.keys() and any("safety_checker" in name for name in before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert adapt(loaded).scheduler_config["clip_sample"] is False  # PNDM has no such option, and DDIM's default is True


def test_a_safety_checker_that_lacks_tensors_is_refused(tmp_path):
    """transformers makes them up at random, and the filter would be another one in every process."""
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    tiny_pipelines.with_safety_checker().save_pretrained(tmp_path)
    file = tmp_path / "safety_checker" / "model.safetensors"
    held = {name: value for name, value in load_file(file).items() if "visual_projection" not in name}
    save_file(held, file, {"format": "pt"})
    with pytest.raises(
        InputError, match=r"safety_checker: its weights lack 1 tensors \(first: visual_projection.weight\)"
    ):
        load_pipeline(tmp_path)


def test_words_and_autoencoder_are_part_of_what_a_model_is():
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    pipeline = tiny_pipelines.stable_diffusion()
    first = identity(adapt(pipeline))
    asked = adapt(pipeline)
    asked.condition(["a cat"])
    assert identity(asked) == first  # what was asked for does not count
    found = {first}
    for change in (pipeline.text_encoder, pipeline.vae, pipeline.unet):
        next(change.parameters()).data += 1
        found.add(identity(adapt(pipeline)))
    pipeline.prompts = ("a dog",)
    assert len(found | {identity(adapt(pipeline))}) == 5


def test_a_prompt_is_encoded_once_and_alone(monkeypatch):
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    pipeline, asked = tiny_pipelines.stable_diffusion(), []
    encode = pipeline.encode_prompt
    monkeypatch.setattr(pipeline, "encode_prompt", lambda prompt, *rest: asked.append(prompt) or encode(prompt, *rest))
    denoiser = adapt(pipeline)
    both = denoiser.condition(["a cat", None, "a cat"])["encoder_hidden_states"]
    assert asked == ["a cat", ""]
    assert torch.equal(both[:1], denoiser.condition(["a cat"])["encoder_hidden_states"]) and asked == ["a cat", ""]
    assert not both.requires_grad and denoiser.condition([]) == {}
    with pytest.raises(InputError, match="prompt: got the index 1; expected a prompt, or an index from 0 to 0"):
        denoiser.condition([1])


def scaled_words(pipeline):
    with torch.no_grad():
        pipeline.text_encoder.get_input_embeddings().weight.mul_(-1.5)


def loaded_words(pipeline):
    other = {
        name: value * 1.5 for name, value in pipeline.text_encoder.state_dict().items() if value.is_floating_point()
    }
    pipeline.text_encoder.load_state_dict(other, strict=False)


def another_encoder(pipeline):
    pipeline.text_encoder = copy.deepcopy(pipeline.text_encoder)
    scaled_words(pipeline)


def described_anew(pipeline, kept):
    pipeline.text_encoder.get_input_embeddings().weight.data.mul_(-1.5)  # PyTorch counts no version of .data
    identity(kept)  # as before samples are cached


@pytest.mark.parametrize(
    "change",
    [
        lambda pipeline, _: scaled_words(pipeline),
        lambda pipeline, _: loaded_words(pipeline),
        lambda pipeline, _: another_encoder(pipeline),
        lambda pipeline, _: setattr(pipeline.tokenizer, "padding_side", "left"),
        lambda pipeline, _: setattr(pipeline.tokenizer, "pad_token", "!"),
        described_anew,
    ],
    ids=["in place", "loaded", "replaced", "the side that is filled", "what it is filled with", "through .data"],
)
def test_a_denoiser_that_is_kept_reads_by_the_present_text_encoder(change):
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    pipeline = tiny_pipelines.stable_diffusion()
    kept = adapt(pipeline)
    before = kept.condition(["a cat"])["encoder_hidden_states"]
    change(pipeline, kept)
    after, truth = (each.condition(["a cat"])["encoder_hidden_states"] for each in (kept, adapt(pipeline)))
    assert torch.equal(after, truth) and not torch.equal(after, before)
    assert identity(kept) == identity(adapt(pipeline))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"time_cond_proj_dim": 8},
            "its unet has time_cond_proj_dim; expected a network without further inputs",
        ),
        ({"in_channels": 9}, "takes 9 channels and its autoencoder makes 4; expected the same number. Inpainting"),
        ({"sample_size": None}, "has no sample_size in its configuration"),
    ],
)
def test_models_of_more_than_words_are_refused(change, message):
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    with pytest.raises(InputError, match=message):
        adapt(tiny_pipelines.stable_diffusion(**change))


def distilled_sdxl():
    pipeline = tiny_pipelines.sdxl()
    unet = UNet2DConditionModel.from_config(pipeline.unet.config, time_cond_proj_dim=8)
    pipeline.register_modules(unet=unet)
    return pipeline


def scheduled(make, kind, **config):
    pipeline = make()
    pipeline.scheduler = kind(**config)
    return pipeline


def shifted():
    pipeline = tiny_pipelines.sd3()
    pipeline.scheduler.set_shift(1.0)
    return pipeline


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (distilled_sdxl, "its unet has time_cond_proj_dim; expected a network without further inputs"),
        (lambda: scheduled(tiny_pipelines.pixart, LCMScheduler), "its LCMScheduler is for networks distilled for few"),
        (
            lambda: scheduled(tiny_pipelines.stable_diffusion, TCDScheduler, clip_sample=False, steps_offset=1),
            "its TCDScheduler is for networks distilled for few",
        ),
        (lambda: scheduled(tiny_pipelines.sdxl, DDPMScheduler), "its DDPMScheduler has clip_sample True by default"),
        (lambda: scheduled(tiny_pipelines.dit, DDIMScheduler), "its DDIMScheduler has clip_sample True by default"),
        (
            lambda: scheduled(tiny_pipelines.sd3, FlowMatchEulerDiscreteScheduler, num_train_timesteps=500),
            "num_train_timesteps 500; expected 1000",
        ),
        (shifted, "was set to the shift 1.0, and its configuration, .* has 3.0; expected the same"),
    ],
)
def test_schedulers_and_networks_that_would_sample_otherwise_are_refused(make, message):
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    with pytest.raises(InputError, match=message):
        adapt(make())


def test_clipping_of_latents_that_somebody_asked_for_is_done():
    pipeline = scheduled(tiny_pipelines.dit, DDIMScheduler, clip_sample=True)
    assert adapt(pipeline).scheduler_config["clip_sample"] is True
    pipeline.scheduler = DDIMScheduler()
    pipeline.scheduler.register_to_config(clip_sample=False)  # as the message says
    assert adapt(pipeline).scheduler_config["clip_sample"] is False


@pytest.mark.parametrize(("option", "value"), [("clip_sample", True), ("steps_offset", 0)])
def test_options_that_diffusers_sets_where_it_loads_the_pipeline_are_refused(tmp_path, option, value):
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    pipeline = tiny_pipelines.stable_diffusion()
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, **{option: value})
    pipeline.save_pretrained(tmp_path)
    loaded = type(pipeline).from_pretrained(tmp_path, safety_checker=None).scheduler.config[option]
    assert loaded != value
    for use in (adapt, lambda each: save_pipeline(each, tmp_path / "again")):
        with pytest.raises(InputError, match=f"{option} {value}, which diffusers sets to {loaded} when it loads"):
            use(pipeline)
    pipeline.scheduler.register_to_config(**{option: loaded})  # as the message says
    assert adapt(pipeline).scheduler_config[option] == loaded


@pytest.mark.parametrize(
    ("make", "extra"),
    [
        (tiny_pipelines.stable_diffusion, {"image_size": 512}),
        (tiny_pipelines.stable_diffusion, {"class_names": ["cat", "dog"]}),
        (tiny_pipelines.stable_diffusion, {"null_class": 3}),
        (tiny_pipelines.sd3, {"timestep_scale": 0.25}),
        (tiny_pipelines.dit, {"prompts": ["a cat"]}),
    ],
    ids=lambda each: each.__name__ if callable(each) else next(iter(each)),
)
def test_a_property_that_nothing_reads_is_refused(make, extra):
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    ((name, value),) = extra.items()
    pipeline = make()
    setattr(pipeline, name, value)
    with pytest.raises(InputError, match=f"it has {name}, which nothing reads in a {type(pipeline).__name__}"):
        adapt(pipeline)
    setattr(pipeline, name, None)  # as the message says
    pipeline.timestep_scale = 1.0  # which is none
    assert adapt(pipeline)


def test_a_flow_model_is_drawn_by_eulers_method_or_with_new_noise_at_every_step():
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    denoiser = adapt(tiny_pipelines.sd3())
    drawn = [sample(denoiser, [3], replace(each, microbatch_size=1)) for each in (DDIM, DDPM, DDPM)]
    assert torch.equal(drawn[1], drawn[2]) and not torch.allclose(drawn[0], drawn[1], atol=1e-3)
    for wrong in (Sampler("dpm++", 4), Sampler("ddim", 4, eta=0.5)):
        with pytest.raises(InputError, match="for a flow-matching model; expected ddim"):
            sample(denoiser, [3], wrong)


@pytest.mark.parametrize("family", ["dit", "stable_diffusion"])
def test_drawing_leaves_the_callers_pipeline_as_it_was(family):
    """Modes of all parts, and the labels that a network drops while it trains."""
    if family == "stable_diffusion":
        pytest.importorskip("transformers")
    pipeline = getattr(tiny_pipelines, family)()
    parts = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    images = []
    for training in (False, True):
        for part in parts:
            part.train(training)
        state = [(m.training, getattr(m, "dropout_prob", None)) for part in parts for m in part.modules()]
        denoiser = PipelineDenoiser.from_pipeline(pipeline)
        images.append(sample(denoiser, [3], Sampler("ddim", 2, microbatch_size=1)))
        denoiser.encode(images[-1])
        assert [(m.training, getattr(m, "dropout_prob", None)) for part in parts for m in part.modules()] == state
    assert torch.equal(*images)
    if family == "dit":  # what is trained drops no labels of its own
        assert {0.1} == {m.dropout_prob for m in pipeline.transformer.modules() if hasattr(m, "dropout_prob")}
        copied = PipelineDenoiser.from_pipeline(pipeline).copy().network
        assert {0.0} == {m.dropout_prob for m in copied.modules() if hasattr(m, "dropout_prob")}
        denoiser = PipelineDenoiser.from_pipeline(pipeline)
        some = ImageSet(torch.zeros(2, *denoiser.image_shape, dtype=torch.uint8), torch.tensor([0, 1]))
        fit(denoiser, some, TrainSettings(steps=1, learning_rate=1e-4), batch_size=2, seed=0)
        assert {0.0} == {m.dropout_prob for m in pipeline.transformer.modules() if hasattr(m, "dropout_prob")}


def test_the_way_captions_are_read_is_part_of_what_a_model_is(monkeypatch):
    pytest.importorskip("transformers")
    pipeline = tiny_pipelines.pixart()
    monkeypatch.setattr(pixart, "_cleans", lambda: False)
    plain = identity(PipelineDenoiser.from_pipeline(pipeline))
    monkeypatch.setattr(pixart, "_cleans", lambda: True)
    cleaning = PipelineDenoiser.from_pipeline(pipeline)
    assert identity(cleaning) != plain
    assert plain in recorded_identities(cleaning)  # of an earlier version, which did not tell


# class conditions


def test_a_label_changes_the_image_and_guidance_goes_beyond_it(make_pipeline):
    denoiser = adapt(with_null_class(make_pipeline))
    sampler = Sampler("ddim", steps=3, microbatch_size=2)
    asked = [sample(denoiser, [7], sampler, labels=[label]) for label in ("a", "b", None)]
    assert not any(torch.equal(asked[i], asked[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert torch.equal(sample(denoiser, [7], sampler, labels=[0]), asked[0])  # by index as by name
    assert torch.equal(sample(denoiser, [7], sampler), sample(denoiser, [7], sampler, labels=[7 % 3]))  # the seed's own
    guided = [
        sample(denoiser, [7], Sampler("ddim", 3, microbatch_size=2, guidance_scale=s), labels=["a"]) for s in (1.0, 4.0)
    ]
    torch.testing.assert_close(guided[0], asked[0], rtol=0, atol=1e-5)  # s = 1 is the condition alone
    assert not torch.allclose(guided[1], asked[0], atol=1e-3)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("cc", r"got 'cc'; expected a class of the model\. Did you mean 'c'\?"),
        (3, "got 3; expected a class index from 0 to 2"),
        (-1, "got -1; expected a class index from 0 to 2"),
    ],
)
def test_unknown_labels_are_refused(make_pipeline, label, message):
    with pytest.raises(InputError, match=message):
        sample(adapt(with_null_class(make_pipeline)), [0], Sampler("ddim", 2), labels=[label])


def test_what_has_no_condition_refuses_one(make_pipeline):
    plain, conditional = adapt(make_pipeline()), adapt(make_pipeline(num_class_embeds=3))
    with pytest.raises(InputError, match="this model is unconditional; leave the label out"):
        sample(plain, [0], Sampler("ddim", 2), labels=["a"])
    with pytest.raises(InputError, match="guidance_scale: got one for a model without conditions"):
        sample(plain, [0], Sampler("ddim", 2, guidance_scale=2.0))
    with pytest.raises(InputError, match="has no null class, .*; expected one of 0, 1, 2"):
        sample(conditional, [0], Sampler("ddim", 2, guidance_scale=2.0))
    with pytest.raises(InputError, match="got 2 for 1 seeds; expected one per image"):
        sample(conditional, [0], Sampler("ddim", 2), labels=[0, 1])


def test_class_names_that_do_not_fit_the_network_are_refused(make_pipeline):
    pipeline = make_pipeline(num_class_embeds=3)
    pipeline.class_names, pipeline.null_class = ("a", "b", "c"), 3
    with pytest.raises(InputError, match=r"embeds 3 classes, and its class_names name 3 with the null class 3"):
        adapt(pipeline)


def test_images_lie_in_memory_as_they_are_saved(family):
    """An autoencoder may give images with the channels last in memory, which safetensors refuses."""
    _, _, denoiser = family
    assert sample(denoiser, [0, 1], Sampler(steps=1, microbatch_size=2)).is_contiguous()


def test_flow_matching_refuses_what_has_no_effect_on_it():
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    denoiser = adapt(tiny_pipelines.sd3())
    for changed in ({"spacing": "leading"}, {"clip_sample": True}):
        with pytest.raises(InputError, match="for a flow-matching model, where neither has an effect"):
            sample(denoiser, [0], replace(TRAILING, **changed))
