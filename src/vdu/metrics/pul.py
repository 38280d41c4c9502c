"""Percentage of unlearning (PUL): the relative decrease of the forget class, by the predictions of a judge.

    PUL = 100 · (n_orig − n_unl) / n_orig        n = images that the judge predicts as forget among N samples of a model

Sample i of both models starts from the same noise, so the 95 % interval is paired: on each side, the wider of

1. Paired bootstrap over seeds (percentiles). If n_unl = 0, PUL = 100 in every resample and the interval has zero width,
   although a drop from 50 forget images to 0 cannot distinguish 100 from 95. A resample without forget images in the original
   leaves PUL undefined: it counts as the lowest value that N samples can give, 100·(1 − N), for the lower limit and as 100
   for the upper one. It is never dropped, since that would hide the uncertainty of a small n_orig.
2. Score interval of the ratio n_unl/n_orig (see :mod:`vdu.metrics.paired_ratio`), whose width is positive: at n_unl = 0
   it is PUL ≥ 100·(1 − 1.96²/n_orig), so that n_orig = 50 gives PUL ≥ 92.3, as does the exact bound for two independent
   Poisson counts. At ordinary counts the two agree.

PUL is above 0 if the class is rarer, 100 at most, and negative without limit if the unlearned model generates it MORE
often.

Not guaranteed: that the images are good (a collapsed model scores 100: never report PUL alone); that the judge is right
(see :func:`pul_ceiling`). The interval includes neither the judge's error nor the spread over unlearning runs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar

import torch
from torch import Tensor

from vdu.core.checks import as_tensor
from vdu.core.errors import InputError, shown
from vdu.core.ranges import AT_LEAST_0, COUNT, NOT_NEGATIVE, UNIT, Range, require_number
from vdu.core.statistics import TAIL
from vdu.core.surroundings import own_torch
from vdu.metrics.features import Network, features_of, require_network
from vdu.metrics.intervals import require_resampling, resample_counts
from vdu.metrics.paired_ratio import ratio_interval

__all__ = [
    "PUL",
    "CorrectedPUL",
    "PULResult",
    "corrected_pul",
    "flip_table",
    "indices",
    "percentage_unlearned",
    "pul_ceiling",
]

PER_CENT = Range("a finite number of per cent", -math.inf, above=True)


@dataclass(frozen=True)
class PULResult:
    """Percentage of unlearning with a 95 % interval.

    Attributes:
        value: in per cent, (−∞, 100].
        low: lower limit, in per cent.
        high: upper limit, in per cent.
        n_original: forget images among the original's samples.
        n_unlearned: forget images among the unlearned model's samples.
        n: samples of each model.
        n_empty_resamples: bootstrap resamples without a forget image in the original.
    """

    value: float
    low: float
    high: float
    n_original: int
    n_unlearned: int
    n: int
    n_empty_resamples: int = 0
    higher_is_better: ClassVar[bool] = True


@dataclass(frozen=True)
class CorrectedPUL:
    """PUL without a judge's false positives, with the 95 % interval carried over.

    Attributes:
        value: in per cent, (−∞, 100].
        low: lower limit, in per cent.
        high: upper limit, in per cent.
    """

    value: float
    low: float
    high: float
    higher_is_better: ClassVar[bool] = True


@own_torch()
def percentage_unlearned(
    original_is_forget: Tensor, unlearned_is_forget: Tensor, *, n_resamples: int = 2000, generator: torch.Generator
) -> PULResult:
    """PUL of two models sampled from the same noise.

    Args:
        original_is_forget: the judge's predictions on the original's samples, [N], bool.
        unlearned_is_forget: its predictions on the unlearned model's samples, [N], bool; entry i from the noise of entry i.
        n_resamples: bootstrap resamples, at least 40.
        generator: source of the resamples.

    Returns:
        The value, its interval and the raw counts.

    Raises:
        InputError: if the shapes or types are wrong, or the original generated no forget image.

    Source: Panda et al., "Variational Diffusion Unlearning", evaluation metrics.

    Examples:
        >>> original = torch.arange(500) < 50
        >>> gone = percentage_unlearned(original, original & False, generator=torch.Generator().manual_seed(0))
        >>> gone.value, round(gone.low, 1), gone.high
        (100.0, 92.3, 100.0)
    """
    original, unlearned = _paired_calls(original_is_forget, unlearned_is_forget)
    require_resampling(n_resamples, generator)
    n, n_original, n_unlearned = len(original), int(original.sum()), int(unlearned.sum())
    if n_original == 0:
        raise InputError(
            f"original_is_forget: the judge predicts 0 of the original's {n} samples as forget, expected at least 1 (PUL is "
            "relative to them). Draw more samples; check that the judge has the class and that the model generates it."
        )
    both = int((original & unlearned).sum())
    lost, gained = n_original - both, n_unlearned - both
    low, high, n_empty = _bootstrap(both, lost, gained, n, n_resamples, generator)
    ratio_low, ratio_high = ratio_interval(both, lost, gained)
    return PULResult(
        value=100 * (n_original - n_unlearned) / n_original,
        low=min(low, 100 * (1 - ratio_high)),
        high=max(high, 100 * (1 - ratio_low)),
        n_original=n_original,
        n_unlearned=n_unlearned,
        n=n,
        n_empty_resamples=n_empty,
    )


def pul_ceiling(*, n_original: int, n: int, false_positive_rate: float) -> float:
    """The expected PUL of a perfectly unlearned model under this judge.

    Such a model generates N retained images, of which the judge still predicts fpr·N as forget, so that the ceiling is
    100·(1 − fpr·N/n_orig). With 10 % of the original's images in the class, a judge that finds them all and predicts 1 %
    of the others as forget counts n_orig = 0.109·N and caps PUL at 90.8.

    Args:
        n_original: images predicted as forget among the original's samples (false positives included), at least 1.
        n: samples of each model.
        false_positive_rate: fraction of retained images predicted as forget, in [0, 1], measured on held-out images.

    Returns:
        Per cent, at most 100; negative if false positives alone explain more than n_orig. PUL can exceed it by chance, and
        false positives can be more frequent on generated images than on real ones.

    Raises:
        InputError: if a number is out of its range.

    Examples:
        >>> round(pul_ceiling(n_original=109, n=1000, false_positive_rate=0.01), 1)
        90.8
    """
    require_number("n_original", n_original, COUNT)
    require_number("n", n, COUNT)
    if n_original > n:
        raise InputError(
            f"counts: got n_original={n_original}, n={n}; expected n_original ≤ n. Count forget predictions among the samples of the model."
        )
    require_number("false_positive_rate", false_positive_rate, UNIT)
    return 100 * (1 - false_positive_rate * n / n_original)


def corrected_pul(pul: PULResult, *, false_positive_rate: float) -> CorrectedPUL | None:
    """PUL without the judge's false positives, as if their rate were exact and the same for both models.

        corrected = 100 · (1 − max(0, n_unl − f N)/(n_orig − f N))

    The true-positive rate cancels in this ratio. The ends of PUL's interval are carried over with n_orig as counted.

    Args:
        pul: the PUL as counted.
        false_positive_rate: f, fraction of retained images predicted forget, in [0, 1].

    Returns:
        Value and limits; None if false positives alone explain the original's count.

    Raises:
        InputError: if the rate is outside [0, 1], or the PUL is no result of :func:`percentage_unlearned`, such as one with NaN.

    Source: Rogan and Gladen (1978), American Journal of Epidemiology 107(1).

    Examples:
        >>> found = corrected_pul(PULResult(50.0, 40.0, 60.0, n_original=100, n_unlearned=50, n=1000), false_positive_rate=0.02)
        >>> found.value, found.low, found.high
        (62.5, 50.0, 75.0)
    """
    require_number("false_positive_rate", false_positive_rate, UNIT)
    if not isinstance(pul, PULResult):
        raise InputError(f"pul: got {shown(pul)}; expected the result of percentage_unlearned, or of PUL.compute.")
    for name in ("value", "low", "high"):
        require_number(f"pul: {name}", getattr(pul, name), PER_CENT)
    for name in ("n", "n_original"):
        require_number(f"pul: {name}", getattr(pul, name), AT_LEAST_0)
    false_positives = pul.n * false_positive_rate
    if pul.n_original <= false_positives:
        return None
    left = [(1 - each / 100) * pul.n_original - false_positives for each in (pul.value, pul.low, pul.high)]
    return CorrectedPUL(*(100 * (1 - max(0.0, each) / (pul.n_original - false_positives)) for each in left))


def flip_table(original_class: Tensor, unlearned_class: Tensor, n_classes: int) -> Tensor:
    """Class transition matrix: how often each class became each other class, by seed.

    Args:
        original_class: class of the original's sample i, [N], integers in [0, K).
        unlearned_class: class of the unlearned model's sample from the same noise, [N], integers in [0, K).
        n_classes: K.

    Returns:
        Counts, [K, K], int64: row = class in the original, column = class in the unlearned model.

    Raises:
        InputError: if the lengths differ or a class is out of range.

    Examples:
        >>> flip_table(torch.tensor([0, 0, 1]), torch.tensor([1, 1, 1]), 2).tolist()
        [[0, 2], [0, 1]]
    """
    require_number("n_classes", n_classes, COUNT)
    named = {"original_class": original_class, "unlearned_class": unlearned_class}
    pair = [as_tensor(name, classes, "the class of each image, [N]").cpu() for name, classes in named.items()]
    if pair[0].ndim != 1 or pair[0].shape != pair[1].shape:
        raise InputError(_shape_message("classes", *pair))
    for name, classes in zip(named, pair, strict=True):
        if (
            classes.is_floating_point()
            or classes.dtype == torch.bool
            or (len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < n_classes)
        ):
            raise InputError(
                f"{name}: got {classes.dtype} values such as {classes.unique()[[0, -1]].tolist()}, expected "
                f"integers from 0 to {n_classes - 1}. Give class indices of one judge and its number of classes."
            )
    flat = pair[0].long() * n_classes + pair[1].long()
    return torch.bincount(flat, minlength=n_classes**2).reshape(n_classes, n_classes)


class PUL:
    """Percentage of unlearning, accumulated batch by batch; a bit per image is kept.

    Args:
        judge: images [B, C, H, W] in [−1, 1] → logits [B, K]; None if ``update`` is given predictions.
        forget_classes: with a judge, the indices of the classes to be forgotten.

    Examples:
        >>> metric = PUL()
        >>> metric.update(torch.tensor([True, True, False]), torch.tensor([False, True, False]))
        >>> metric.update(torch.tensor([True, True]), torch.tensor([False, False]))
        >>> metric.compute().value
        75.0
    """

    higher_is_better: ClassVar[bool] = True

    def __init__(self, judge: Network | None = None, forget_classes: Sequence[int] = ()) -> None:
        require_network(judge)
        self.judge, self.forget_classes = judge, indices("forget_classes", forget_classes)
        if (judge is None) == bool(self.forget_classes):
            raise InputError(
                "PUL: got a judge or forget classes alone; expected both (update takes images), or none (update takes masks)."
            )
        self._calls: list[tuple[Tensor, Tensor]] = []

    def update(self, before: Tensor, after: Tensor) -> None:
        """Add a batch; entry i of both starts from the same noise.

        Args:
            before: of the original: images if there is a judge, otherwise whether each is predicted forget, [B], bool.
            after: the same of the unlearned model.
        """
        calls = _paired_calls(self._is_forget(before), self._is_forget(after))
        self._calls.append((calls[0].clone(), calls[1].clone()))  # the caller may fill the same buffer again

    def compute(self, *, generator: torch.Generator | None = None) -> PULResult:
        """PUL of all batches.

        Args:
            generator: source of the resamples; None takes seed 0.

        Returns:
            The value, its interval and the counts.

        Raises:
            InputError: if there was no batch, or the original generated no forget image.
        """
        if not self._calls:
            raise InputError("update: got nothing, expected at least one batch. Call update before compute.")
        before, after = (torch.cat(calls) for calls in zip(*self._calls, strict=True))
        return percentage_unlearned(before, after, generator=generator or torch.Generator().manual_seed(0))

    def _is_forget(self, batch: Tensor) -> Tensor:
        if self.judge is None:
            return batch
        logits = features_of(self.judge, batch)
        indices("forget_classes", self.forget_classes, logits.shape[1])
        wanted = torch.tensor(self.forget_classes, device=logits.device)
        return torch.isin(logits.softmax(dim=1).max(dim=1).indices, wanted)


def indices(name: str, given: Sequence[int], n_classes: int | None = None) -> tuple[int, ...]:
    """Class indices as a tuple.

    Args:
        name: the argument.
        given: integers, in [0, K).
        n_classes: K; None if it is not known.

    Returns:
        The indices.

    Raises:
        InputError: if they are of another kind, or out of range.
    """
    listed = isinstance(given, Sequence) and not isinstance(given, str | bytes)
    if not listed or not all(NOT_NEGATIVE.holds(each) and each < (n_classes or math.inf) for each in given):
        got = list(given) if listed and all(isinstance(each, Real) for each in given) else shown(given)
        most = "" if n_classes is None else f" to {n_classes - 1}"
        raise InputError(
            f"{name}: got {got}; expected the judge's indices of classes, integers from 0{most}, as a list."
        )
    return tuple(map(int, given))


def _bootstrap(
    both: int, lost: int, gained: int, n: int, n_resamples: int, generator: torch.Generator
) -> tuple[float, float, int]:
    # Percentile limits of PUL, in per cent, and the number of resamples whose original has no forget image.
    cells = torch.tensor([both, lost, gained, n - both - lost - gained])
    b, c, d, _ = resample_counts(cells, n_resamples, generator=generator).unbind(1)
    pul, empty = 100 * (c - d) / (b + c), b + c == 0
    low = torch.quantile(pul.masked_fill(empty, 100.0 * (1 - n)), TAIL)
    high = torch.quantile(pul.masked_fill(empty, 100.0), 1 - TAIL)
    return float(low), float(high), int(empty.sum())


def _paired_calls(original: Tensor, unlearned: Tensor) -> tuple[Tensor, Tensor]:
    named = {"original_is_forget": original, "unlearned_is_forget": unlearned}
    words = "whether each image is predicted forget, bool [N]"
    original, unlearned = (as_tensor(name, calls, words).cpu() for name, calls in named.items())
    for name, calls in zip(named, (original, unlearned), strict=True):
        if calls.dtype != torch.bool:
            raise InputError(
                f"{name}: got {calls.dtype}, expected bool. Compare the judge's classes with the forget class."
            )
    if original.ndim != 1 or original.shape != unlearned.shape:
        raise InputError(_shape_message("calls", original, unlearned))
    return original, unlearned


def _shape_message(what: str, original: Tensor, unlearned: Tensor) -> str:
    return (
        f"{what}: got shapes {tuple(original.shape)} for the original and {tuple(unlearned.shape)} for the unlearned "
        "model, expected two vectors of equal length. Sample both models from the same seeds, in the same order."
    )
