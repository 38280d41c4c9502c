"""Text-to-image models without text encoder, whose images are a known function of the prompt."""

from dataclasses import dataclass

import torch
from torch import nn

from probes_toys import EXACT, SHAPE, flat
from toys import SCHEDULE
from vdu.models.words import TextDenoiser
from vdu.probes.context import ProbeContext


class Painting(nn.Module):
    """ε(x_t, t, c) = (x_t − √ᾱ_t W c)/√(1−ᾱ_t): whatever it is given, it sees the image W c; W is [pixels, width]."""

    def __init__(self, mix):
        super().__init__()
        self.mix = nn.Parameter(torch.as_tensor(mix, dtype=torch.float64))

    def forward(self, x_t, t, encoder_hidden_states):
        alpha_bar = SCHEDULE.alpha_bar_at(t).view(-1, 1, 1, 1)
        seen = (encoder_hidden_states[:, 0].to(self.mix) @ self.mix.T).view(x_t.shape)
        return (x_t - alpha_bar.sqrt() * seen) / (1 - alpha_bar).sqrt()


class Dictionary:
    """Words by heart: prompt → condition [width]; the null condition is zeros."""

    def __init__(self, known):
        self.known, self.width = known, len(next(iter(known.values())))

    def described(self):
        return repr(sorted(self.known.items()))

    def __call__(self, prompts, device):
        rows = [self.known.get(each, [0.0] * self.width) if each else [0.0] * self.width for each in prompts]
        return {"encoder_hidden_states": torch.tensor(rows).view(len(rows), 1, self.width)}


@dataclass(frozen=True)
class Painter(TextDenoiser):
    """A text-to-image model of pixels."""

    @property
    def is_latent(self):
        return False

    @property
    def latent_shape(self):
        return self.image_shape

    def encode(self, images):
        return images

    def decode(self, latents):
        return latents


def painter(known, prompts, mix=None):
    """A model that draws an image of one grey per prompt: ``known`` maps prompts to greys in [−1, 1]."""
    mix = torch.ones(SHAPE[1] * SHAPE[2], 1) if mix is None else mix
    greys = {prompt: grey if isinstance(grey, list) else [grey] for prompt, grey in known.items()}
    config = {"num_train_timesteps": len(SCHEDULE), "trained_betas": SCHEDULE.betas.tolist(), "clip_sample": False}
    return Painter(
        network=Painting(mix), schedule=SCHEDULE, prediction_type="epsilon", image_shape=SHAPE, scheduler_config=config,
        words=Dictionary(greys), prompts=tuple(prompts),
    )  # fmt: skip


def very_bright(images):
    """The judge: forget is far brighter than the null condition's grey."""
    return images.images.float().mean((1, 2, 3)) > 180


def words_case(original, unlearned, retrained=None, prompts=("cat",), **changes):
    """A case of painters, given as prompt → grey; the concept is what is bright."""
    models = {
        name: None if known is None else painter(known, prompts)
        for name, known in (("original", original), ("unlearned", unlearned), ("retrained", retrained))
    }
    sets = dict.fromkeys(("forget_held_out", "retain", "retain_held_out"))
    return ProbeContext(
        **models,
        forget=flat(0.8, 0.8, 0.8),
        **sets,
        is_forget=very_bright,
        sampler=EXACT,
        seed=0,
        progress=False,
        **changes,
    )


class GreyJudge(nn.Module):
    """Names the grey of an image: logits −|level − grey| for each of its classes."""

    architecture, sample_shape, n_features = "stub", SHAPE, 2

    def __init__(self, greys):
        super().__init__()
        self.class_names, self.levels = tuple(greys), nn.Parameter(torch.tensor(list(greys.values())))

    def forward(self, images):
        return -(images.mean((1, 2, 3)).view(-1, 1) - self.levels).abs()

    def features(self, images):
        return images[:, 0, 0, :2]


def stub_judging(greys, forget, **record):
    """A judging of a :class:`GreyJudge`, without errors of its own."""
    from vdu.judges.judging import Judging

    n = len(greys)
    about = {"name": "grey", "held_out_error": 0.0, "confusion": (10 * torch.eye(n, dtype=torch.int64)).tolist()}
    return Judging(GreyJudge(greys), about | record, "given", (forget,))  # pyright: ignore[reportArgumentType]
