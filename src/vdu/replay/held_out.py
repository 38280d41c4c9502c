"""Seeds that no training has used, on which the stopping rule looks.

The original draws images from noise of its own. Those that the classifier calls unwanted give the seeds, and the classifier's error
is what the selection says of them (:mod:`vdu.replay.guarantee`). At most as many images are drawn as the method learns from, and they
are cached like these.

Not guaranteed: enough seeds for a low aim, if the model rarely generates the forget concept.
"""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch

from vdu.core.processes import first_decides
from vdu.core.types import Denoiser
from vdu.data.images import ImageSet
from vdu.diffusion.sampling import Sampler
from vdu.replay.generated import HELD_OUT_SEED, cached_samples, image_seeds
from vdu.replay.guarantee import MOST, acceptable, at_most, seeds_needed
from vdu.replay.selection import FEWEST_LIKE_FORGET, Resemblance, mean_scores

__all__ = ["HeldOut", "hold_out"]

FIRST_ERROR = 0.01  # until samples are drawn


@dataclass(frozen=True)
class HeldOut:
    """The held-out unwanted seeds.

    Attributes:
        seeds: of the original's images that the classifier calls unwanted.
        error: f, fraction of them whose image the selection calls unlike the forget set, by the rule of succession.
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
        return {
            "n_drawn": self.n_drawn,
            "n_drawn_now": self.n_drawn_now,
            "n_seeds": len(self.seeds),
            "error": self.error,
        }

    def __str__(self) -> str:
        n, most = len(self.seeds), math.ceil(1000 * self.aim_bound - 1e-9) / 1000  # no lower than the bound
        return (
            f"stopping rule: {n} unwanted seeds among {self.n_drawn} held-out generated samples. The classifier is wrong about "
            f"{self.error:.1%} of them, so the aim is at most {most:.1%} left, which {self.aim} or fewer of {n} show"
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
        The seeds, at most 128; none are drawn if fewer than 10 of ``n_own_samples`` are expected to be unwanted.
    """
    if judged.share * n_own_samples < FEWEST_LIKE_FORGET:
        return HeldOut()
    found, batch, share = HeldOut(error=FIRST_ERROR), sampler.microbatch_size, judged.share
    for _ in range(2):  # the error, and how many the classifier finds, are known after the first samples
        wanted = math.ceil(seeds_needed(found.error) / share / batch) * batch
        if (n := min(n_own_samples, wanted)) <= found.n_drawn:
            break
        samples, now = cached_samples(drawing, n, sampler, seed=HELD_OUT_SEED, progress=progress)
        seeds, error = _sorted(drawing, judged, samples)
        found, share = HeldOut(seeds[:MOST], error, n, found.n_drawn_now + now), max(len(seeds), 1) / n
    return found


def _sorted(drawing: Denoiser, judged: Resemblance, images: ImageSet) -> tuple[tuple[int, ...], float]:
    """Seeds of the unwanted images, and how often the selection calls them unlike the forget set."""
    classifier = copy.deepcopy(judged.classifier).cpu()  # the method's classifier stays on its device

    def decide() -> tuple[list[int], float]:
        unwanted = mean_scores(classifier, images, torch.arange(len(images)), 0, drawing) >= 0
        wrong = int((unwanted & judged.unlike(images)).sum())
        return unwanted.nonzero().flatten().tolist(), (wrong + 1) / (int(unwanted.sum()) + 2)

    chosen, error = first_decides("the held-out seeds", decide)
    seeds = image_seeds(HELD_OUT_SEED, len(images))
    return tuple(seeds[i] for i in chosen), error
