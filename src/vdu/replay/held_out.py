"""Seeds that no training has used, on which the stopping rule looks.

They continue the sequence of generated samples from which the method learns: image n, n + 1, … of the original. Those that the
classifier calls unwanted give the seeds; those that the selection calls unlike the forget set give the classifier's error
(:mod:`vdu.replay.guarantee`). At most as many are drawn as the method learns from, and they are cached with these.

Not guaranteed: enough seeds for a low aim, if the model rarely generates the forget concept.
"""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch

from vdu.core.processes import first_decides
from vdu.core.types import Denoiser
from vdu.diffusion.sampling import Sampler
from vdu.replay.generated import SHARED_SEED, cached_samples, image_seeds
from vdu.replay.guarantee import acceptable, at_most, seeds_needed
from vdu.replay.selection import FEWEST_LIKE_FORGET, Resemblance, mean_scores

__all__ = ["HeldOut", "hold_out"]


@dataclass(frozen=True)
class HeldOut:
    """The held-out unwanted seeds.

    Attributes:
        seeds: of the original's images that the classifier calls unwanted.
        error: f, fraction of the held-out images unlike the forget set that the classifier calls unwanted.
        n_drawn: number of held-out images.
        n_drawn_now: how many of them were not in the cache.
    """

    seeds: tuple[int, ...] = ()
    error: float = 0.0
    n_drawn: int = 0
    n_drawn_now: int = 0

    @property
    def aim(self) -> int:
        """Largest number of seeds left that ends a run."""
        return acceptable(len(self.seeds), self.error)

    @property
    def aim_bound(self) -> float:
        """The rate that this number shows, in (0, 1]."""
        return at_most(self.aim, len(self.seeds))

    def describe(self) -> dict[str, Any]:
        """Plain values for a record."""
        return {"n_drawn": self.n_drawn, "n_drawn_now": self.n_drawn_now, "n_seeds": len(self.seeds), "error": self.error}

    def __str__(self) -> str:
        return (
            f"stopping rule: {len(self.seeds)} seeds of {self.n_drawn} held-out generated samples; the classifier is wrong about "
            f"{self.error:.1%} of the others, so the aim is at most {self.aim_bound:.1%} of the unwanted seeds (at most {self.aim} of "
            f"{len(self.seeds)} left)"
        )


def hold_out(
    drawing: Denoiser, judged: Resemblance, sampler: Sampler, n_own_samples: int, *, progress: str | None = None
) -> HeldOut:
    """Draw further samples of the original until the aim can be shown.

    Args:
        drawing: the original.
        judged: the selection and the classifier.
        sampler: the sampler of the generated samples.
        n_own_samples: number of samples from which the method learns; at most as many are held out.
        progress: title of the progress bar; None shows none.

    Returns:
        The seeds; none are drawn if fewer than 10 of ``n_own_samples`` are expected to be unwanted.
    """
    found = HeldOut()
    if judged.share * n_own_samples < FEWEST_LIKE_FORGET:
        return found
    classifier = copy.deepcopy(judged.classifier).cpu()
    for _ in range(2):  # the error is known after the first samples
        wanted = math.ceil(seeds_needed(found.error) / judged.share / sampler.microbatch_size) * sampler.microbatch_size
        n = max(found.n_drawn, min(n_own_samples, wanted))
        if n == found.n_drawn:
            break
        samples, now = cached_samples(drawing, n_own_samples + n, sampler, progress=progress)
        further = samples.select(range(n_own_samples, n_own_samples + n))

        def decide(images: Any = further) -> tuple[list[int], float]:
            unwanted = mean_scores(classifier, images, torch.arange(len(images)), 0, drawing) >= 0
            unlike = judged.unlike(images)
            wrong = int((unwanted & unlike).sum()) / max(1, int(unlike.sum()))
            return unwanted.nonzero().flatten().tolist(), wrong

        chosen, error = first_decides("the held-out seeds", decide)
        every = image_seeds(SHARED_SEED, n, n_own_samples)
        found = HeldOut(tuple(every[i] for i in chosen), error, n, found.n_drawn_now + now)
    n_seeds = seeds_needed(found.error)
    return HeldOut(found.seeds[:n_seeds], found.error, found.n_drawn, found.n_drawn_now)
