"""The JSON of the probes in a report, and the kinds of values that it shares with the rest (:mod:`vdu.reporting.records`).

NOT guaranteed: any truth of the numbers, only that they can be shown.
"""

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from vdu.core.typed_json import AtLeast, AtMost, Pattern

__all__ = ["PROBES", "Count", "Duration", "Fraction", "Interval", "Level", "Positive", "Probes", "Pul", "Sha256"]

Count = Annotated[int, AtLeast(0)]
Positive = Annotated[int, AtLeast(1)]
Fraction = Annotated[float, AtLeast(0), AtMost(1)]
Duration = Annotated[float, AtLeast(0)]
Sha256 = Annotated[str, Pattern("^[0-9a-f]{64}$")]
Model = Literal["original", "unlearned", "retrained"]
Level = Literal["good", "mixed", "bad", "unknown", "fact"]


class Interval(TypedDict):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


class FractionInterval(TypedDict):
    """A fraction with its 95 % interval."""

    value: Fraction
    low: Fraction
    high: Fraction


class Pul(Interval):
    """Percent of unwanted images gone (at most 100), its 95 % interval, and the counts before and after."""

    n_original: Count
    n_unlearned: Count


class Counted(TypedDict):
    """Images of the class among n, with the 95 % interval of their fraction."""

    forget_count: Count
    n_images: Positive
    low: Fraction
    high: Fraction


class NotRun(TypedDict):
    """A probe that was not run: why, as a code. ``reason`` is a sentence, in records of older versions and in evidence.json."""

    status: Literal["not run"]
    code: str
    reason: NotRequired[str]


class Measured(TypedDict):
    """What every probe that ran has."""

    status: Literal["measured"]
    seconds: Duration
    protocol: dict[str, Any]
    network_evaluations: NotRequired[Count | None]


class LikelihoodRow(Interval):
    """Bits/dim of a model on a set of images."""

    model: Model
    images: str
    monte_carlo_error: Duration
    n_images: Positive


class LikelihoodDifference(Interval):
    """The difference of two models in bits/dim, paired by image."""

    model: Model
    against: Model
    images: str


class Likelihood(Measured):
    """Bits per dimension; lower is more likely. The target is the retrained value, not the largest."""

    unit: str
    rows: list[LikelihoodRow]
    differences: NotRequired[list[LikelihoodDifference]]


class MembershipRow(TypedDict):
    """An attack on a model."""

    model: Model
    attack: str
    auc: FractionInterval
    tpr_at_1_fpr: FractionInterval
    n_members: Positive
    n_held_out: Positive


class Membership(Measured):
    """Members: the forget set. Chance: AUC 0.5, TPR (⌊n/100⌋ + 1)/(n + 1)."""

    rows: list[MembershipRow]


class RelearningPoint(Counted):
    """The class after so many optimiser steps."""

    step: Count


class RelearningCurve(TypedDict):
    """A model fine-tuned on n images."""

    model: Model
    shown: Literal["forget", "benign"]
    n_shown: Positive
    points: list[RelearningPoint]


class OriginalCount(TypedDict):
    """Images of the class among n samples of the original."""

    forget_count: Count
    n_images: Positive


class Relearning(Measured):
    """The rate of the class after so many steps of fine-tuning."""

    curves: list[RelearningCurve]
    original: NotRequired[OriginalCount | None]


class StochasticRow(TypedDict):
    """PUL with another sampler; ``control_count``: the class among as many images of the retrained model."""

    sampler: str
    eta: float | None
    pul: Pul | None
    n_unlearned: NotRequired[Count]
    control_count: NotRequired[Count]
    n_images: Positive


class Stochastic(Measured):
    """PUL with other samplers."""

    rows: list[StochasticRow]


class CompletionRow(Counted):
    """Samples finished as the class after a fraction of the chain, and those finished by the control."""

    handed_share: Fraction
    control_count: Count


class Completion(Measured):
    """Samples begun by the original, finished by the unlearned model; ``start_count``: begun by it, too, without a retrained model."""

    rows: list[CompletionRow]
    start_count: NotRequired[Count]


class InpaintingRow(Counted):
    """Images filled in as the class by a model."""

    hidden: str
    model: Model


class Inpainting(Measured):
    """Real images of the class with a part hidden, filled in."""

    rows: list[InpaintingRow]


class DenoisingDistance(TypedDict):
    """Mean squared difference to the retrained model's predictions."""

    model: Model
    images: str
    alpha_bar: Fraction
    distance: float
    low: float
    high: float


class SampleDistance(TypedDict):
    """The Fréchet distance to the retrained model's samples."""

    model: Model
    u_fid: Interval


class Retrained(Measured):
    """The distance to a model retrained without the forget set; the target is 0."""

    denoising: list[DenoisingDistance]
    samples: NotRequired[list[SampleDistance]]


class AttackRow(Counted):
    """Images of the concept after an attack on a model, over all prompts; ``start_count``: before it, from the same noise."""

    model: Model
    start_count: Count


class Attack(Measured):
    """An attack on the condition of a model; ``original``: without any attack."""

    rows: list[AttackRow]
    original: OriginalCount


class Probes(TypedDict, total=False):
    """The probes that an evaluation knew of, by name."""

    likelihood: NotRun | Likelihood
    membership: NotRun | Membership
    relearning: NotRun | Relearning
    stochastic: NotRun | Stochastic
    completion: NotRun | Completion
    inpainting: NotRun | Inpainting
    retrained: NotRun | Retrained
    paraphrases: NotRun | Attack
    inversion: NotRun | Attack
    soft_prompt: NotRun | Attack


PROBES = tuple(Probes.__annotations__)
