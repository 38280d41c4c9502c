"""Error rates of a judge from positive and unlabelled data: estimates from held-out scores when only forget images are labelled.

Unlabelled images are a mixture, u = π p + (1−π) n, of forget images p and others n. Let q_p(c) and q_u(c) be the fractions
of held-out forget and unlabelled images that score at least c. Then q_u(c) ≥ π q_p(c), with equality where no other
image scores so high, hence the estimate at the best threshold

    π̂ = q_u(ĉ)/q_p(ĉ),   ĉ = argmin_c (q_u(c) + e)/q_p(c),   e = √(log(4/δ)/2n_p) + √(log(4/δ)/2n_u),  δ = 0.1

(Garg et al. 2021, arXiv 2111.00980, Algorithm 1; e keeps ĉ away from thresholds that few images pass). For a judge that
says "forget" where the score passes c:

    miss rate            1 − q_p(c)                            measured
    false-positive rate  (q_u(c) − π̂ q_p(c)) / (1 − π̂)         estimated

Not guaranteed: both estimates if some other images score as high as any forget image. Such images count as forget images
here, so that π̂ is too large and the false-positive rate too small, which cannot be detected without labels. With a few hundred
images and a large π, π̂ is also biased low by 2 or 3 % of its value, as the minimum of many noisy ratios.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vdu.core.errors import InputError

__all__ = ["FEWEST_IMAGES", "ForgetRates", "estimate_rates", "estimate_share", "require_images"]

FEWEST_IMAGES = 40


@dataclass(frozen=True)
class ForgetRates:
    """Error rates of a forget judge on held-out scores.

    Attributes:
        share: π̂, estimated fraction of forget images among the unlabelled ones, [0, 1].
        miss_rate: fraction of held-out forget images not recognised, [0, 1].
        false_positive_rate: estimated fraction of the other images predicted as forget, [0, 1].
        false_positive_rate_high: its upper 97.5 % limit by resampling, at least −ln 0.025 / n, the limit where none of n was seen.
        n_forget: held-out forget images.
        n_unlabelled: held-out unlabelled images.
    """

    share: float
    miss_rate: float
    false_positive_rate: float
    false_positive_rate_high: float
    n_forget: int
    n_unlabelled: int


def estimate_share(forget: Tensor, unlabelled: Tensor) -> float:
    """π̂, the fraction of forget images among the unlabelled ones.

    Args:
        forget: scores of held-out forget images, [n_p]; higher is more forget-like.
        unlabelled: scores of held-out unlabelled images, [n_u].

    Returns:
        A fraction in [0, 1].

    Raises:
        InputError: if a set is empty.

    Source: Garg et al. 2021, arXiv 2111.00980, Algorithm 1.

    Examples:
        >>> estimate_share(torch.full((400,), 1.0), torch.tensor([1.0] * 40 + [-1.0] * 360))
        0.1
    """
    if len(forget) == 0 or len(unlabelled) == 0:
        raise InputError(f"scores: got {len(forget)} forget and {len(unlabelled)} unlabelled ones; give some of each.")
    thresholds = forget.sort().values
    q_p = _share_above(thresholds, forget)
    q_u = _share_above(thresholds, unlabelled)
    margin = sum(math.sqrt(math.log(4 / 0.1) / (2 * len(scores))) for scores in (forget, unlabelled))
    best = int(((q_u + margin) / q_p).argmin())
    return min(1.0, float(q_u[best] / q_p[best]))


def estimate_rates(
    forget: Tensor, unlabelled: Tensor, *, threshold: float, n_resamples: int = 400, generator: torch.Generator
) -> ForgetRates:
    """Miss and false-positive rate of "forget where the score is at least the threshold".

    Args:
        forget: scores of held-out forget images, [n_p].
        unlabelled: scores of held-out unlabelled images, [n_u].
        threshold: decision threshold.
        n_resamples: bootstrap resamples of both sets for the upper limit.
        generator: source of the resamples.

    Returns:
        The rates.
    """
    share, miss, false = _rates(forget, unlabelled, threshold)
    again = []
    for _ in range(n_resamples):
        again.append(_rates(_resampled(forget, generator), _resampled(unlabelled, generator), threshold)[2])
    never = -math.log(0.025)  # (1 − p)ⁿ = 0.025: the 97.5 % limit of what happened 0 times in n
    never_seen = never / max(never, (1 - share) * len(unlabelled))
    high = max(never_seen, float(torch.tensor(again).quantile(0.975)))
    return ForgetRates(share, miss, false, high, len(forget), len(unlabelled))


def _rates(forget: Tensor, unlabelled: Tensor, threshold: float) -> tuple[float, float, float]:
    share = estimate_share(forget, unlabelled)
    found, called = float((forget >= threshold).double().mean()), float((unlabelled >= threshold).double().mean())
    false = (called - share * found) / (1 - share) if share < 1 else 0.0
    return share, 1 - found, min(1.0, max(0.0, false))


def _resampled(scores: Tensor, generator: torch.Generator) -> Tensor:
    return scores[torch.randint(len(scores), (len(scores),), generator=generator)]


def _share_above(thresholds: Tensor, scores: Tensor) -> Tensor:
    n_below = torch.searchsorted(scores.sort().values, thresholds, side="left")
    return (len(scores) - n_below).double() / len(scores)


def require_images(name: str, n_images: int, *, where: str, advice: str) -> None:
    """Raise an error for sets too small to train and test on.

    Args:
        name: kind of images, for the message.
        n_images: number of images.
        where: beginning of the message.
        advice: alternative if no more images exist.

    Raises:
        InputError: if there are fewer than 40.
    """
    if n_images < FEWEST_IMAGES:
        raise InputError(
            f"{where}: got {n_images} {name}; expected at least {FEWEST_IMAGES}, better 1000. Give more, or {advice}."
        )
