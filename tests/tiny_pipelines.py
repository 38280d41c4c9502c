"""Tiny random pipelines of every family, built offline: text encoders, tokenizers and autoencoders of our own.

What needs transformers is imported inside, so that the tests of the other families run without it.
"""

import torch

WORDS = 64  # tokens of a prompt


def seeded(make, seed=0, **config):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make(**config).eval()


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def autoencoder(channels=4, **changes):
    from diffusers import AutoencoderKL

    config = {
        "in_channels": 3, "out_channels": 3, "latent_channels": channels, "block_out_channels": (8, 8), "layers_per_block": 1,
        "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2, "norm_num_groups": 4,
        "sample_size": 16, "scaling_factor": 0.7,
    }  # fmt: skip
    return seeded(AutoencoderKL, 1, **config | changes)


def latent_diffusion(make_unet, quantised=True):
    """``LDMPipeline`` with a vector-quantised autoencoder, or a variational one."""
    from diffusers import DDIMScheduler, LDMPipeline, VQModel

    config = {
        "in_channels": 3, "out_channels": 3, "block_out_channels": (8, 8), "layers_per_block": 1, "latent_channels": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2, "norm_num_groups": 4,
        "num_vq_embeddings": 16, "vq_embed_dim": 3, "scaling_factor": 0.3,
    }  # fmt: skip
    channels = 3 if quantised else 4
    return quiet(
        LDMPipeline(
            vqvae=seeded(VQModel, 1, **config) if quantised else autoencoder(),
            unet=make_unet(in_channels=channels, out_channels=channels),
            scheduler=DDIMScheduler(clip_sample=False),
        )
    )


def variational(make_pipeline):
    """An unconditional ``LDMPipeline`` of 16×16 pixels with a variational autoencoder; ``make_pipeline`` is the fixture."""
    return latent_diffusion(lambda **channels: make_pipeline(**channels).unet, quantised=False)


def passing(autoencoder):
    """How many images pass the encoder together, in a list that grows with every call of it."""
    sizes = []
    autoencoder.encoder.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    return sizes


def dit(out_channels=8, id2label=None):
    """``DiTPipeline``, whose null class is 1000 whatever the number of classes; 8 channels are noise and variance."""
    from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    transformer = seeded(
        DiTTransformer2DModel, 3, sample_size=8, num_layers=2, patch_size=2, attention_head_dim=4, num_attention_heads=2,
        in_channels=4, out_channels=out_channels, attention_bias=True, activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000, norm_type="ada_norm_zero", norm_elementwise_affine=False,
    )  # fmt: skip
    scheduler = DDIMScheduler(clip_sample=False)
    return quiet(DiTPipeline(transformer=transformer, vae=autoencoder(), scheduler=scheduler, id2label=id2label))


def clip_tokenizer():
    """One token per letter: no merges."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{each}</w>" for each in letters)]
    return CLIPTokenizer(
        vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=WORDS, pad_token="<|endoftext|>"
    )


def clip_text(width=16, projected=False):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=WORDS, projection_dim=width, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    kind = CLIPTextModelWithProjection if projected else CLIPTextModel
    return seeded(kind, 2, config=config), tokenizer


def condition_unet(**changes):
    from diffusers import UNet2DConditionModel

    config = {
        "sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (8, 16), "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 16, "attention_head_dim": 2, "norm_num_groups": 4,
    }  # fmt: skip
    return seeded(UNet2DConditionModel, 3, **config | changes)


def stable_diffusion(prediction_type="epsilon", scheduler=None, **unet):
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    text_encoder, tokenizer = clip_text()
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return quiet(
        StableDiffusionPipeline(
            vae=autoencoder(),
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=condition_unet(**unet),
            scheduler=scheduler
            or DDIMScheduler(
                **betas, clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type=prediction_type
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )


def t5(width=16):
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -2.0), *((each, -3.0) for each in letters)]
    tokenizer = T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=512)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        pad_token_id=0,
        eos_token_id=1,
    )
    return seeded(T5EncoderModel, 4, config=config), tokenizer


def sdxl(normalised=False, **pipeline):
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    (first, tokenizer), (second, tokenizer_2) = clip_text(), clip_text(projected=True)
    statistics = {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [0.5, 1.5, 1.0, 2.0]} if normalised else {}
    unet = condition_unet(
        cross_attention_dim=32, addition_embed_type="text_time", addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 16, transformer_layers_per_block=(1, 1),
    )  # fmt: skip
    return quiet(
        StableDiffusionXLPipeline(
            vae=autoencoder(**statistics),
            text_encoder=first,
            tokenizer=tokenizer,
            text_encoder_2=second,
            tokenizer_2=tokenizer_2,
            unet=unet,
            scheduler=EulerDiscreteScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                steps_offset=1,
                timestep_spacing="leading",
            ),
            add_watermarker=False,
            **pipeline,
        )
    )


def pixart(name="PixArtAlphaPipeline", size=8, **transformer):
    import diffusers

    text_encoder, tokenizer = t5()
    network = seeded(
        diffusers.PixArtTransformer2DModel, 3, sample_size=size, num_layers=2, patch_size=2, attention_head_dim=8,
        num_attention_heads=2, in_channels=4, out_channels=8, cross_attention_dim=16, caption_channels=16, **transformer,
    )  # fmt: skip
    return quiet(
        getattr(diffusers, name)(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            vae=autoencoder(),
            transformer=network,
            scheduler=diffusers.DPMSolverMultistepScheduler(),
        )
    )


def sd3(dynamic=False, with_t5=True):
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    (first, tokenizer), (second, tokenizer_2) = clip_text(projected=True), clip_text(projected=True)
    third, tokenizer_3 = t5(32) if with_t5 else (None, None)
    transformer = seeded(
        SD3Transformer2DModel, 3, sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=32, pos_embed_max_size=8,
    )  # fmt: skip
    return quiet(
        StableDiffusion3Pipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=dynamic),
            vae=autoencoder(shift_factor=0.06),
            text_encoder=first,
            tokenizer=tokenizer,
            text_encoder_2=second,
            tokenizer_2=tokenizer_2,
            text_encoder_3=third,
            tokenizer_3=tokenizer_3,
        )
    )


def flux(distilled=True):
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    (first, tokenizer), (second, tokenizer_2) = clip_text(), t5()
    transformer = seeded(
        FluxTransformer2DModel, 3, patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8), guidance_embeds=distilled,
    )  # fmt: skip
    pipeline = quiet(
        FluxPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=distilled),
            vae=autoencoder(shift_factor=0.06),
            text_encoder=first,
            tokenizer=tokenizer,
            text_encoder_2=second,
            tokenizer_2=tokenizer_2,
            transformer=transformer,
        )
    )
    pipeline.image_size = 16
    return pipeline


def with_safety_checker():
    from diffusers import PNDMScheduler
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPVisionConfig

    pipeline = stable_diffusion(scheduler=PNDMScheduler(skip_prk_steps=True, steps_offset=1))
    vision = CLIPVisionConfig(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        image_size=8,
        patch_size=4,
        projection_dim=8,
    )
    config = CLIPConfig(vision_config=vision.to_dict(), projection_dim=8)
    checker = seeded(StableDiffusionSafetyChecker, 5, config=config)
    pipeline.register_modules(safety_checker=checker, feature_extractor=CLIPImageProcessor(size=8, crop_size=8))
    pipeline.register_to_config(requires_safety_checker=True)
    return pipeline
