"""When is it forgotten? A stopping rule that needs no retained data and no test metric.

The original's own samples that were like the forget set are drawn again from the same noise. Stop as soon as at most a
share of them is still like it, by the classifier of ``vdu.replay.selection`` at low noise:

    stop at step k  if  #{i : mean of h(x_t, ᾱ) over low noise ≥ 0, x = sample_θ(seed_i)} ≤ 10 % of the seeds

Asked after 2/3, 7/9, 8/9 and all of the steps, over at most 128 seeds: what is kept settles later than what is forgotten
(docs/methods-log.md, 19). Ten percent, because a model that never saw the forget set leaves about as many: of 132 such seeds the packaged
model retrained without eights leaves 12 (``benchmarks/tune_distillation.py``), some that the classifier
cannot tell apart and some that are like it by chance.

Not guaranteed: that images from other noise are forgotten as well; that a judge which the model never met agrees.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor

from vdu.core.types import Denoiser
from vdu.data.images import ImageSet, to_uint8
from vdu.diffusion.sampling import sample
from vdu.replay.auxiliaries import Auxiliaries
from vdu.replay.selection import mean_scores

__all__ = ["ForgottenCheck", "Stopping", "can_stop"]

FEWEST, MOST, SHARE = 10, 128, 0.10
LOOKS = (2 / 3, 7 / 9, 8 / 9)  # the last look is the end


@dataclass(frozen=True)
class Stopping:
    """How the rule ended a run.

    Attributes:
        reason: "forgotten" where the aim was met, "all_steps" where the steps ended first.
        step: steps done.
        n_left: generated samples that are still like the forget set.
        n_seeds: out of so many that were like it.
        aim: at most so many may be left.
    """

    reason: Literal["forgotten", "all_steps"]
    step: int
    n_left: int
    n_seeds: int
    aim: int

    def sentence(self, strength: tuple[str, ...] = ()) -> str:
        """The record in words.

        Args:
            strength: the method's options of which more forgets more, to be named where the aim was missed.

        Returns:
            One sentence without its full stop.

        Examples:
            >>> Stopping("all_steps", 9, 5, 40, 4).sentence(("forget_weight",)).partition("; ")[2]
            'these were all the steps: a larger forget_weight (--option) forgets more, and so may --steps'
        """
        found = (
            f"after {self.step} steps {self.n_left} of {self.n_seeds} own samples that were like the forget set, drawn again from the "
            f"same noise, still are (at most {self.aim} was the aim)"
        )
        if self.reason == "forgotten":
            return found
        return f"{found}; these were all the steps: a larger {' or '.join(strength)} (--option) forgets more, and so may --steps"

    def to_text(self) -> str:
        """The record as JSON: what the training loop keeps as the reason for an early end."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> "Stopping":
        """The record of :meth:`to_text`."""
        return cls(**json.loads(text))


def can_stop(aids: Auxiliaries) -> bool:
    """Whether enough generated samples were like the forget set, and a classifier knows them, for the rule to tell."""
    return len(aids.forget_seeds) >= FEWEST and aids.judged is not None


@dataclass(frozen=True)
class ForgottenCheck:
    """The rule, as :func:`vdu.training.loop.train` asks it.

    Attributes:
        denoiser: a copy of the model, whose weights are replaced at every look.
        aids: seeds, sampler and classifier.
        steps: steps in all.
    """

    denoiser: Denoiser
    aids: Auxiliaries
    steps: int

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of own samples that were like the forget set."""
        return self.aids.forget_seeds[:MOST]

    @property
    def aim(self) -> int:
        """How many may be left."""
        return int(SHARE * len(self.seeds))

    def remaining(self, weights: Mapping[str, Tensor]) -> int:
        """How many are still like the forget set under some weights."""
        assert self.aids.judged is not None
        assert self.aids.sampler is not None
        with torch.no_grad():
            for name, value in self.denoiser.network.named_parameters():
                if name in weights:
                    value.copy_(weights[name])
        drawn = ImageSet(to_uint8(sample(self.denoiser, self.seeds, self.aids.sampler)))
        classifier = copy.deepcopy(self.aids.judged.classifier).cpu()  # the method's own stays on its device
        return int((mean_scores(classifier, drawn, torch.arange(len(drawn)), 0, self.denoiser) >= 0).sum())

    def __call__(self, step: int, weights: Mapping[str, Tensor]) -> str | None:
        """A reason to stop, or None.

        Args:
            step: steps done.
            weights: by name.

        Returns:
            The text of a :class:`Stopping`.
        """
        if step not in {round(share * self.steps) for share in LOOKS} - {self.steps}:
            return None
        found = self.look(step, weights)
        return found.to_text() if found.reason == "forgotten" else None

    def look(self, step: int, weights: Mapping[str, Tensor]) -> Stopping:
        """What the rule finds after a number of steps.

        Args:
            step: steps done.
            weights: by name.

        Returns:
            The record; its reason is "all_steps" where the aim is missed.
        """
        left = self.remaining(weights)
        reason = "forgotten" if left <= self.aim else "all_steps"
        return Stopping(reason, step, left, len(self.seeds), self.aim)
