"""Tiny random pipelines of every family, built offline: text encoders, tokenizers and autoencoders of our own.

What needs transformers is imported inside, so that the tests of the other families run without it.
"""

import torch

WORDS = 12  # tokens of a prompt


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
