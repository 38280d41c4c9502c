"""A stopping rule with a stated error rate, which needs no retained data and no test metric.

The seeds of held-out images that the classifier calls unwanted (:mod:`vdu.replay.held_out`) are drawn again with the present weights.
Training stops once the upper bound of what remains reaches the aim (:mod:`vdu.replay.guarantee`):

    X = #{i : mean of h(x_t, ᾱ) over low noise ≥ 0, x = sample_θ(seed_i)}        stop if u(X, n) ≤ aim, that is X ≤ k

The rule looks after 2/3, 7/9, 8/9 and all of the steps, four times at most (and again in a run that is continued with more). It starts
late because the retained images settle later than the forgotten ones (docs/dev/methods-log.md, 19). A look draws from seeds of its own,
so that a run that stops at step s has the weights of a run of s steps without the rule.

With a run folder, the rule also leaves a first picture after a fifth of the steps: ten generated samples that matched the forget set as
the original drew them, above the same noise under the present weights.

Not guaranteed: that the classifier, from which the method itself learns, is right; that an independent judge agrees.
"""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from vdu.core.processes import first_decides, is_first
from vdu.core.types import Denoiser
from vdu.data.images import ImageSet, to_uint8
from vdu.data.pictures import save_grid
from vdu.diffusion.sampling import Sampler, sample
from vdu.replay.auxiliaries import Auxiliaries
from vdu.replay.guarantee import CONFIDENCE, N_LOOKS, at_most, confidence
from vdu.replay.selection import FEWEST_LIKE_FORGET, mean_scores

__all__ = ["ForgottenCheck", "Stopping", "can_stop"]

FEWEST = FEWEST_LIKE_FORGET
LOOKS = (2 / 3, 7 / 9, 8 / 9)  # the last look is after the last step
FIRST_PICTURE, N_SHOWN = 1 / 5, 10
assert len(LOOKS) + 1 == N_LOOKS


@dataclass(frozen=True)
class Stopping:
    """Outcome of the stopping rule; :func:`vdu.reporting.code_texts.stopping_text` is its sentence.

    Attributes:
        reason: "forgotten" if the aim was met, "all_steps" if the steps ended first.
        step: steps done.
        n_left: held-out unwanted seeds that are still unwanted.
        n_seeds: number of these seeds.
        aim: largest acceptable ``n_left``.
        bound: upper bound of the rate that remains; None in checkpoints of older versions, whose seeds were not held out.
        aim_bound: the same of ``aim``.
        confidence: of the bound, over all looks.
        error: of the classifier (:class:`vdu.replay.held_out.HeldOut`).
    """

    reason: Literal["forgotten", "all_steps"]
    step: int
    n_left: int
    n_seeds: int
    aim: int
    bound: float | None = None
    aim_bound: float | None = None
    confidence: float = CONFIDENCE
    error: float | None = None

    def to_text(self) -> str:
        """The record as JSON, which the training loop stores as the reason for an early stop."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> "Stopping":
        """The record of :meth:`to_text`."""
        return cls(**json.loads(text))


def can_stop(aids: Auxiliaries) -> bool:
    """Whether the rule applies: there is a classifier, and enough held-out samples are unwanted."""
    return len(aids.held_out.seeds) >= FEWEST


@dataclass(frozen=True)
class ForgottenCheck:
    """The rule as a callback of :func:`vdu.training.loop.train`; processes share its drawing.

    Attributes:
        denoiser: a copy of the model, whose weights are replaced at every evaluation.
        aids: the auxiliaries with held-out seeds, sampler and classifier.
        steps: total number of steps.
        picture: where the first picture goes; None makes none.
        say: called with a message about it.
        looked: steps after which the rule may have looked in the runs that this one continues.
    """

    denoiser: Denoiser
    aids: Auxiliaries
    steps: int
    picture: Path | None = None
    say: Callable[[str], None] | None = None
    looked: set[int] = field(default_factory=set)

    @property
    def _looks(self) -> set[int]:
        return {*(round(share * self.steps) for share in LOOKS), self.steps}

    def state(self) -> list[int]:
        """What a run that is continued must know: the steps after which the rule may look, whether a later checkpoint tells or not."""
        return sorted(self.looked | self._looks)

    def load_state(self, state: Sequence[int]) -> None:
        """Continue from :meth:`state`."""
        self.looked.update(state)

    def remaining(self, weights: Mapping[str, Tensor]) -> int:
        """Number of held-out unwanted seeds that are still unwanted under given weights."""
        assert self.aids.judged is not None
        assert self.aids.sampler is not None
        drawn = self._draw(weights, self.aids.held_out.seeds, self.aids.sampler)
        classifier = copy.deepcopy(self.aids.judged.classifier).cpu()  # the method's classifier stays on its device

        def count() -> int:
            return int((mean_scores(classifier, drawn, torch.arange(len(drawn)), 0, self.denoiser) >= 0).sum())

        return first_decides("the stopping rule", count)

    def _draw(self, weights: Mapping[str, Tensor], seeds: Sequence[int], sampler: Sampler) -> ImageSet:
        """The images of the seeds under given weights."""
        with torch.no_grad():
            for name, value in self.denoiser.network.named_parameters():
                if name in weights:
                    value.copy_(weights[name])
        return ImageSet(to_uint8(sample(self.denoiser, seeds, sampler, shared=True)))

    def _show(self, step: int, weights: Mapping[str, Tensor]) -> None:
        before, seeds = self.aids.sets.get("own_forget"), self.aids.forget_seeds[:N_SHOWN]
        if self.picture is None or before is None or self.aids.sampler is None or len(seeds) < N_SHOWN:
            return
        small = replace(self.aids.sampler, microbatch_size=N_SHOWN)  # no padding: nothing is measured on a picture
        after = self._draw(weights, seeds, small).images
        if is_first():
            save_grid(torch.cat([before.images[: len(after)], after]), self.picture, columns=len(after), scale=2)
        if self.say is not None:
            self.say(f"first look after {step} of at most {self.steps} steps, before above after → {self.picture}")

    def __call__(self, step: int, weights: Mapping[str, Tensor]) -> str | None:
        """A reason to stop, or None.

        Args:
            step: steps done.
            weights: by name.

        Returns:
            The text of a :class:`Stopping`.
        """
        if step == round(FIRST_PICTURE * self.steps):
            self._show(step, weights)
        if step not in self._looks - {self.steps}:
            return None
        found = self.look(step, weights)
        return found.to_text() if found.reason == "forgotten" else None

    def look(self, step: int, weights: Mapping[str, Tensor]) -> Stopping:
        """Evaluate the rule after a number of steps.

        Args:
            step: steps done.
            weights: by name.

        Returns:
            The record; its reason is "all_steps" if the aim is missed.
        """
        left, held = self.remaining(weights), self.aids.held_out
        reason, n = ("forgotten" if left <= held.aim else "all_steps"), len(held.seeds)
        return Stopping(
            reason, step, left, n, held.aim, bound=at_most(left, n), aim_bound=held.aim_bound, error=held.error,
            confidence=confidence(len(self.state())),
        )  # fmt: skip
