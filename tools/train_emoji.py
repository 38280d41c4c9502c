#!/usr/bin/env python3
"""Train the packaged text-to-image model, a small Stable Diffusion pipeline that draws emoji, from the emoji canvas.

    train_emoji.py vae CANVAS RUN [--steps N]                     RUN/vae and RUN/latents.safetensors
    train_emoji.py model CANVAS RUN VAE_RUN --steps N [--without GROUP]     RUN/checkpoints and RUN/pipeline
    train_emoji.py score CANVAS RUN OBJECT_JUDGE STYLE_JUDGE [--n N]        RUN/score.json and RUN/sheet.png
    train_emoji.py package CANVAS RUN OUT                         the pipeline with half-precision weights and the prompts it knows
    train_emoji.py sets CANVAS GROUP NEIGHBOUR… > SETS.toml       prompt sets for ``vdu evaluate --prompts``

CANVAS is the folder of make_emoji_canvas.py, judges are folders of ``vdu judge``. Every command continues an interrupted
run, and ``model`` a finished one if N is larger. The U-Net and the text encoder are trained together:

    L(θ) = E ‖ε − ε_θ(z_t, t, c)‖² / d          z = scaling factor · mean of the encoder; t uniform over 1 … T

The caption c of a picture is drawn anew for each step, see :func:`caption`.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from vdu.core.records import sha256_file, write_json
from vdu.core.rng import derive_seed, generator, isolated_global
from vdu.core.types import Losses
from vdu.data.images import to_float
from vdu.judges.classifier import load_judge
from vdu.training.batches import deal
from vdu.training.loop import Objective, TrainSettings, train

TOKENS, TEXT_WIDTH = 16, 64
LATENT_CHANNELS = 8  # 4 numbers for 4×4 pixels cannot hold an emoji: 19 dB by principal components, 22 dB with 8
NULL, OF_GROUP, OF_STYLE, OF_NAME = 0.1, 0.2, 0.05, 0.1  # shares of the captions; the rest has name and style
UNET = Path("pipeline/unet/diffusion_pytorch_model.safetensors")
STYLES = ("noto", "fluent", "twemoji")


# the pictures


@dataclass(frozen=True)
class Canvas:
    """The training pictures and their descriptions.

    Attributes:
        lines: of ``metadata.jsonl``.
        images: uint8, [n, 3, size, size].
        identity: SHA-256 of the metadata.
    """

    lines: tuple[dict[str, Any], ...]
    images: Tensor
    identity: str


def read_canvas(folder: Path) -> Canvas:
    """The training split of a canvas."""
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text("utf-8").splitlines()]
    lines = [line for line in lines if "/train/" in line["file_name"]]
    pixels = np.stack([np.asarray(Image.open(folder / line["file_name"])) for line in lines])
    return Canvas(tuple(lines), torch.from_numpy(pixels).permute(0, 3, 1, 2), sha256_file(folder / "metadata.jsonl"))


def caption(line: Mapping[str, Any], source: torch.Generator) -> str:
    """A caption for a picture: "cat face, noto style", "cat face", "a cat, noto style", "kitty", "noto style" or "".

    Args:
        line: of the metadata.
        source: generator of the draws.

    Returns:
        The caption.
    """
    kind, with_article, word, alone = torch.rand(4, generator=source).tolist()
    style = f"{line['style']} style"
    if kind < NULL:
        return ""
    if kind < NULL + OF_STYLE:
        return style
    of_group = kind < NULL + OF_STYLE + OF_GROUP
    words = line["words"]
    subject = words[int(word * len(words))] if of_group else line["name"]
    article = "an" if subject[0] in "aeiou" else "a"
    subject = f"{article} {subject}" if with_article < (0.5 if of_group else 0.15) else subject
    plain = alone < 0.25 if of_group else kind < NULL + OF_STYLE + OF_GROUP + OF_NAME
    return subject if plain else f"{subject}, {style}"


# the autoencoder


class Autoencoder(nn.Module):
    """Images → reconstructions, and the Kullback-Leibler divergence per latent number."""

    def __init__(self) -> None:
        super().__init__()
        self.vae = AutoencoderKL(
            in_channels=3, out_channels=3, latent_channels=LATENT_CHANNELS, block_out_channels=(16, 32, 48), layers_per_block=1,
            down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
            norm_num_groups=8, sample_size=32,
        )  # fmt: skip

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstructions [n, 3, size, size], and the divergence from N(0, 1), a scalar."""
        posterior = self.vae.encode(images).latent_dist
        latents = posterior.mean + posterior.std * noise
        divergence = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        return self.vae.decode(latents).sample, divergence


class AutoencodingObjective(Objective):
    """Mean absolute error of pixels and of their differences (edges), and a little divergence, which smooths the latent space."""

    def losses(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Losses:
        """The loss of a batch with ``images`` and ``noise``."""
        images = batch["images"]
        made, divergence = network(images, batch["noise"])
        edges = sum((made.diff(dim=d) - images.diff(dim=d)).abs().mean() for d in (2, 3))
        terms = {"pixels": (made - images).abs().mean(), "edges": 0.5 * edges, "divergence": 5e-4 * divergence}
        return Losses(terms, {"mse": (made - images).square().mean()})


def train_vae(canvas: Canvas, run: Path, steps: int) -> None:
    """Train the autoencoder, and write it and the latents of all pictures."""
    size = canvas.images.shape[-1]

    def batch(step: int) -> dict[str, Tensor]:
        chosen = deal(len(canvas.images), 16, 0, step)
        noise = torch.randn(16, LATENT_CHANNELS, size // 4, size // 4, generator=generator(0, "noise", step))
        return {"images": to_float(canvas.images[chosen]), "noise": noise}

    with isolated_global(derive_seed(0, "vae")):
        network = Autoencoder()
    settings = TrainSettings(
        steps, 2e-3, lr_schedule="cosine", warmup_steps=100, max_grad_norm=1.0, ema_decay=0.995, checkpointing_steps=200
    )
    train(
        network, AutoencodingObjective(), batch, settings, folder=run, resume=True, identity=canvas.identity
    ).load_average(network)
    vae = network.cpu().vae.eval()
    with torch.no_grad():
        latents = torch.cat([vae.encode(to_float(part)).latent_dist.mean for part in canvas.images.split(128)])
        first = to_float(canvas.images[::16][:48])
        rebuilt = vae.decode(vae.encode(first).latent_dist.mean).sample
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    save_file({"latents": (latents * vae.config["scaling_factor"]).contiguous()}, run / "latents.safetensors")
    vae.save_pretrained(run / "vae")
    save_sheet(
        torch.cat([pair for pair in zip(first.split(12), rebuilt.split(12), strict=True) for pair in pair]),
        run / "sheet.png",
        12,
    )


# words and pictures


def make_tokenizer(canvas: Canvas) -> CLIPTokenizer:
    """A byte-pair tokenizer of CLIP's class whose vocabulary are the captions' words and single characters."""
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.normalizer = normalizers.Lowercase()
    trained.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(" ", "removed"),
        pre_tokenizers.Punctuation(),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    words = sorted({word for line in canvas.lines for word in (line["name"], *line["words"])})
    characters = "a b c d e f g h i j k l m n o p q r s t u v w x y z 0 1 2 3 4 5 6 7 8 9 . , ' ! ? -"
    special = ["<|startoftext|>", "<|endoftext|>"]
    trainer = trainers.BpeTrainer(  # pyright: ignore[reportCallIssue]
        vocab_size=2000, min_frequency=1, end_of_word_suffix="</w>", special_tokens=special, show_progress=False
    )
    trained.train_from_iterator([*words, *(f"{style} style" for style in STYLES), characters, characters], trainer)
    state = json.loads(trained.to_str())["model"]
    return CLIPTokenizer(
        vocab=state["vocab"], merges=[tuple(pair) for pair in state["merges"]], model_max_length=TOKENS
    )


class TextDenoiser(nn.Module):
    """The text encoder and the U-Net: noised latents, timesteps and token numbers → predicted noise."""

    def __init__(self, tokenizer: CLIPTokenizer, latent_size: int) -> None:
        super().__init__()
        start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer), hidden_size=TEXT_WIDTH, intermediate_size=4 * TEXT_WIDTH, projection_dim=TEXT_WIDTH,
                num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=TOKENS, bos_token_id=start,
                eos_token_id=end, pad_token_id=end, initializer_factor=5.0,
            )
        )  # fmt: skip
        self.unet = UNet2DConditionModel(
            sample_size=latent_size, in_channels=LATENT_CHANNELS, out_channels=LATENT_CHANNELS, layers_per_block=1,
            block_out_channels=(64, 96),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=TEXT_WIDTH, attention_head_dim=4, norm_num_groups=16,
        )  # fmt: skip

    def forward(self, latents: Tensor, timestep: Tensor, tokens: Tensor) -> Tensor:
        """Predicted noise, like the latents; ``tokens`` is int64 [batch, TOKENS]."""
        return self.unet(latents, timestep, self.text_encoder(tokens)[0]).sample


class NoiseObjective(Objective):
    """Mean squared error of the noise."""

    def losses(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Losses:
        """The loss of a batch with ``latents`` (noised), ``timestep``, ``tokens`` and ``noise``."""
        made = network(batch["latents"], batch["timestep"], batch["tokens"])
        return Losses({"mse": (made - batch["noise"]).square().mean()})


def scheduler() -> DDIMScheduler:
    """The noise process, that of Stable Diffusion; "trailing" starts the sampling at pure noise."""
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1, timestep_spacing="trailing",
    )  # fmt: skip


def tokens_of(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token numbers, int64 [n, TOKENS], as the pipeline makes them."""
    return tokenizer(captions, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt").input_ids


def require_groups(canvas: Canvas, names: Iterable[str]) -> None:
    """End with the groups that there are, if a name is none of them."""
    known = sorted({line["group"] for line in canvas.lines})
    for name in names:
        if name not in known:
            sys.exit(f"{name!r} is no group of this canvas; expected one of {', '.join(known)}")


def train_model(canvas: Canvas, run: Path, vae_run: Path, steps: int, without: str | None) -> None:
    """Train text encoder and U-Net, and write the pipeline with the averaged weights."""
    latents = load_file(vae_run / "latents.safetensors")["latents"]
    kept = [i for i, line in enumerate(canvas.lines) if line["group"] != without]
    assert len(latents) == len(canvas.lines) and kept, "the autoencoder was trained on another canvas"
    tokenizer, process, n = make_tokenizer(canvas), scheduler(), 64

    def batch(step: int) -> dict[str, Tensor]:
        chosen = [kept[int(i)] for i in deal(len(kept), n, 1, step)]
        source = generator(1, "step", step)
        captions = [caption(canvas.lines[i], source) for i in chosen]
        x0 = latents[chosen]
        noise = torch.randn(x0.shape, generator=source)
        timestep = torch.randint(process.config["num_train_timesteps"], (n,), generator=source)
        noised = process.add_noise(x0, noise, timestep)  # pyright: ignore[reportArgumentType]
        return {"latents": noised, "noise": noise, "timestep": timestep, "tokens": tokens_of(tokenizer, captions)}

    with isolated_global(derive_seed(1, "weights")):
        network = TextDenoiser(tokenizer, latents.shape[-1])
    settings = TrainSettings(
        steps, 1e-3, warmup_steps=200, max_grad_norm=1.0, ema_decay=0.999, seed=1, checkpointing_steps=250
    )
    identity = f"{canvas.identity} {sha256_file(vae_run / 'vae' / 'diffusion_pytorch_model.safetensors')} {without}"
    result = train(network, NoiseObjective(), batch, settings, folder=run, resume=True, identity=identity)
    result.load_average(network)
    pipeline(network.cpu(), tokenizer, vae_run).save_pretrained(run / "pipeline")
    write_json(run / "trained.json", {"steps": steps, "unet_sha256": sha256_file(run / UNET)})


def pipeline(network: TextDenoiser, tokenizer: CLIPTokenizer, vae_run: Path) -> StableDiffusionPipeline:
    """The trained parts as a plain diffusers pipeline."""
    return StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(vae_run / "vae"), text_encoder=network.text_encoder.eval(), tokenizer=tokenizer,
        unet=network.unet.eval(), scheduler=scheduler(), safety_checker=None, feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    )  # fmt: skip


# what it draws


def score(canvas: Canvas, run: Path, judges: dict[str, Path], n: int, guidance: float, sampling_steps: int) -> None:
    """Draw training prompts, let the judges name object group and style, and write a sheet of the first hundred."""
    pipe = StableDiffusionPipeline.from_pretrained(run / "pipeline").to("cuda" if torch.cuda.is_available() else "cpu")
    pipe.set_progress_bar_config(disable=True)
    prompts = [line for line in canvas.lines if line["version"] == 0]
    chosen = [
        prompts[int(i)] for i in torch.randperm(len(prompts), generator=generator(2)).repeat(-(-n // len(prompts)))[:n]
    ]
    images = []
    for start in range(0, n, 100):
        part = chosen[start : start + 100]
        sources = [generator(3, start + i) for i in range(len(part))]
        made = pipe(
            [line["text"] for line in part], generator=sources, guidance_scale=guidance,
            num_inference_steps=sampling_steps, output_type="pt",
        ).images  # fmt: skip
        images.append(2 * made.cpu() - 1)
    drawn, right = torch.cat(images), {}
    for what, folder in judges.items():
        judge, _ = load_judge(folder)
        with torch.no_grad():
            named = [judge.class_names[int(k)] for k in torch.cat([judge(part) for part in drawn.split(100)]).argmax(1)]
        right[what] = [name == line[what] for name, line in zip(named, chosen, strict=True)]
    both = [all(pair) for pair in zip(*right.values(), strict=True)]
    by_group = {
        group: sum(both[i] for i in places) / len(places)
        for group in sorted({line["group"] for line in chosen})
        if (places := [i for i, line in enumerate(chosen) if line["group"] == group])
    }
    result = {
        "unet_sha256": sha256_file(run / UNET),
        "n": n,
        "guidance_scale": guidance,
        "sampling_steps": sampling_steps,
        "both": sum(both) / n,
    }
    result |= {what: sum(each) / n for what, each in right.items()} | {"both_by_group": by_group}
    write_json(run / "score.json", result)
    save_sheet(drawn[:100], run / "sheet.png", 10)
    print(
        json.dumps(result, indent=1),
        "\n".join(" | ".join(line["text"] for line in chosen[k : k + 10]) for k in range(0, 100, 10)),
    )


def package(canvas: Canvas, run: Path, out: Path) -> None:
    """Write the pipeline with U-Net and autoencoder in half precision, its prompts and its provenance, and print its size.

    The text encoder stays in float32: transformers loads it in the precision of its file, diffusers the other parts in float32,
    and the pipeline does not run with both.
    """
    score, trained = (json.loads((run / name).read_text("utf-8")) for name in ("score.json", "trained.json"))
    if {each.pop("unet_sha256", None) for each in (score, trained)} != {sha256_file(run / UNET)}:
        sys.exit(
            f"score.json or trained.json in {run} is of another model than pipeline/; run `model` with its number of steps, then `score`"
        )
    pipe = StableDiffusionPipeline.from_pretrained(run / "pipeline")
    pipe.unet.half()
    pipe.vae.half()
    pipe.save_pretrained(out)
    for place in (out / "model_index.json", *out.glob("*/config.json")):
        write_json(
            place,
            {name: value for name, value in json.loads(place.read_text("utf-8")).items() if name != "_name_or_path"},
        )
    model = json.loads((out / "tokenizer" / "tokenizer.json").read_text("utf-8"))["model"]
    (out / "tokenizer" / "vocab.json").write_text(json.dumps(model["vocab"]), "utf-8")  # transformers 4 reads these two
    merges = "".join(" ".join(pair) + "\n" for pair in model["merges"])
    (out / "tokenizer" / "merges.txt").write_text("#version: 0.2\n" + merges, "utf-8")
    write_json(out / "vdu.json", {"prompts": list(dict.fromkeys(line["text"] for line in canvas.lines))})
    data = {"metadata_sha256": canvas.identity, "n_images": len(canvas.images)}
    write_json(out / "provenance.json", {"made_by": "tools/train_emoji.py", **trained, "data": data, "score": score})
    print(f"{sum(file.stat().st_size for file in out.rglob('*') if file.is_file()) / 1e6:.2f} MB")


def prompt_sets(canvas: Canvas, group: str, neighbours: list[str]) -> str:
    """Prompts that ask for a group, for it in other words, for something like it, and for the rest, as TOML."""
    of = {line["text"]: line for line in canvas.lines}
    words = next(line["words"] for line in of.values() if line["group"] == group)
    sets = {
        "target": [text for text, line in of.items() if line["group"] == group] + [f"{words[0]}, {style} style" for style in STYLES],
        "paraphrases": [f"{article}{word}, {style} style" for word in words[1:] for article in ("", "a ") for style in STYLES],
        "neighbours": [text for text, line in of.items() if line["group"] in neighbours],
        "others": [text for text, line in of.items() if line["group"] not in {group, *neighbours}],
    }  # fmt: skip
    asked = {
        text: [of[text]["group"] if text in of else group, text.split(", ")[1].split()[0]]
        for each in sets.values()
        for text in each
    }
    return tomli_w.dumps({**sets, "classes": asked})


def save_sheet(images: Tensor, file: Path, columns: int, zoom: int = 3) -> None:
    """A picture of images [n, 3, size, size] in [−1, 1], row by row."""
    size, rows = images.shape[-1], math.ceil(len(images) / columns)
    sheet = torch.ones(3, rows * (size + 2), columns * (size + 2))
    for k, image in enumerate(images):
        top, left = (size + 2) * (k // columns), (size + 2) * (k % columns)
        sheet[:, top : top + size, left : left + size] = image
    pixels = ((sheet.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).resize((zoom * sheet.shape[2], zoom * sheet.shape[1]), Image.Resampling.NEAREST).save(file)


def main() -> None:
    """Read the arguments and run one command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    vae, model, judged, packed, sets = (
        commands.add_parser(name) for name in ("vae", "model", "score", "package", "sets")
    )
    for each in (vae, model, judged, packed, sets):
        each.add_argument("canvas", type=Path)
        if each is not sets:
            each.add_argument("run", type=Path)
    vae.add_argument("--steps", type=int, default=2400)
    model.add_argument("vae_run", type=Path)
    model.add_argument("--steps", type=int, required=True)
    model.add_argument("--without")
    judged.add_argument("object_judge", type=Path)
    judged.add_argument("style_judge", type=Path)
    judged.add_argument("--n", type=int, default=1000)
    judged.add_argument("--guidance", type=float, default=3.0)
    judged.add_argument("--sampling-steps", type=int, default=20)
    packed.add_argument("out", type=Path)
    sets.add_argument("group")
    sets.add_argument("neighbours", nargs="*")
    given = parser.parse_args()
    canvas = read_canvas(given.canvas)
    if given.command == "sets":
        require_groups(canvas, (given.group, *given.neighbours))
        return print(prompt_sets(canvas, given.group, given.neighbours), end="")
    if given.command == "package":
        return package(canvas, given.run, given.out)
    given.run.mkdir(parents=True, exist_ok=True)
    if given.command == "vae":
        train_vae(canvas, given.run, given.steps)
    elif given.command == "model":
        require_groups(canvas, [given.without] if given.without else [])
        train_model(canvas, given.run, given.vae_run, given.steps, given.without)
    else:
        judges = {"group": given.object_judge, "style": given.style_judge}
        score(canvas, given.run, judges, given.n, given.guidance, given.sampling_steps)


if __name__ == "__main__":
    main()
