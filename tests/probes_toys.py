"""A model that knows one image, and cases around it, for the tests of probes."""

from dataclasses import replace

import torch
from torch import nn

from toys import SCHEDULE
from vdu.data.images import ImageSet, to_uint8
from vdu.diffusion.sampling import Sampler
from vdu.models.denoiser import PipelineDenoiser
from vdu.probes.context import ProbeContext

SHAPE = (1, 4, 4)
EXACT = Sampler("ddim", steps=6, microbatch_size=4)


class OneGrey(nn.Module):
    """ε(x_t, t) = (x_t − √ᾱ_t m)/√(1−ᾱ_t): whatever it is given, it sees an image that is m everywhere."""

    def __init__(self, m, schedule=SCHEDULE):
        super().__init__()
        self.m, self.schedule = nn.Parameter(torch.tensor(float(m), dtype=torch.float64)), schedule

    def forward(self, x_t, t):
        alpha_bar = self.schedule.alpha_bar_at(t).view(-1, 1, 1, 1)
        return (x_t - alpha_bar.sqrt() * self.m) / (1 - alpha_bar).sqrt()


def grey(m, schedule=SCHEDULE):
    """Makes images that are m everywhere, by DDIM without noise."""
    config = {"num_train_timesteps": len(schedule), "trained_betas": schedule.betas.tolist()}
    return PipelineDenoiser(OneGrey(m, schedule), schedule, "epsilon", SHAPE, config)


def flat(*values):
    """One image per value, that value everywhere."""
    return ImageSet(to_uint8(torch.tensor(values).view(-1, 1, 1, 1).expand(-1, *SHAPE)))


def bright(images):
    """The judge: forget is what is brighter than the middle, on average."""
    return images.images.float().mean((1, 2, 3)) > 127.5


def grey_case(original=0.5, unlearned=-0.5, retrained=None, **changes):
    """A case of models that make one grey each; forget is bright, retain is dark."""
    case = ProbeContext(
        original=grey(original),
        unlearned=grey(unlearned),
        retrained=None if retrained is None else grey(retrained),
        forget=flat(1.0, 1.0, 1.0),
        forget_held_out=None,
        retain=flat(-1.0, -1.0),
        retain_held_out=None,
        is_forget=bright,
        sampler=EXACT,
        seed=0,
        progress=False,
    )
    return replace(case, **changes)


def unet_case(make_pipeline, sampler, *, threshold=127.5, retrained=True, **unet):
    """A case of tiny U-Nets on 8×8 images under a mild schedule, so that their images are grey; forget is bright."""
    original, unlearned, third = (
        PipelineDenoiser.from_pipeline(make_pipeline({"beta_end": 0.002}, seed=seed, **unet)) for seed in range(3)
    )
    pixels = torch.randint(0, 256, (7, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return ProbeContext(
        original=original,
        unlearned=unlearned,
        retrained=third if retrained else None,
        forget=ImageSet(pixels),
        forget_held_out=None,
        retain=None,
        retain_held_out=None,
        is_forget=lambda images: images.images.float().mean((1, 2, 3)) > threshold,
        sampler=sampler,
        seed=0,
        progress=False,
    )


def untouched(case):
    """What a probe must leave as it was: weights, modes of every part, and the global random stream."""
    found = [torch.get_rng_state()]
    for model in case.models.values():
        found += [value.clone() for value in model.network.state_dict().values()]
        found.append(torch.tensor([part.training for part in model.network.modules()]))
    return found


def same(before, after):
    """Whether two such lists hold equal tensors."""
    return len(before) == len(after) and all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
