"""How many unwanted seeds remain at most: an exact bound that holds at every look of a run.

A seed is *unwanted* if the classifier calls the image unwanted that the original draws from its noise. With X of n held-out unwanted
seeds still unwanted under the present weights, the rate p over all of them has the upper bound of Clopper and Pearson:

    u(X, n) = max {p : P(Bin(n, p) ≤ X) ≥ α/L}              α = 0.05, at L = 4 looks at most (Bonferroni)

    P(p > u at any of the looks) ≤ L · α/L = α

so the bound of the look that ends a run holds with 95 % confidence, whatever decided that it is the last. One set of seeds serves all
looks, because the weights at a given step do not depend on it. A run that is continued with more steps has further looks, L′ in all with
those of its former plan, and its bound holds with confidence 1 − L′ α/L. Looks of that plan count even if none is known: those after the
last checkpoint are lost with an interruption.

The *aim* follows from the classifier's error f, the fraction of the held-out unwanted seeds whose image the selection calls unlike the
forget set (:mod:`vdu.replay.selection`; w of m, by the rule of succession). A model that changes unwanted images alone keeps these, so f
is the ceiling, and no number of seeds shows a rate below it:

    f = (w + 1)/(m + 2), counted up to 0.1                  a worse classifier excuses no more
    k = min {x : P(Bin(n, f) ≤ x) ≥ 0.8},   aim = u(k, n)    at most k left: a model at the ceiling passes a look 4 times of 5
    n = min {n : aim ≤ f + 0.07}, at most 128               7 points above the ceiling; a point less costs many more seeds

Not guaranteed: that the classifier is right, or that f is its error for an independent judge: both learn from the same forget set.

Source: Clopper & Pearson 1934, Biometrika 26.
"""

import math

__all__ = ["CONFIDENCE", "MOST", "N_LOOKS", "acceptable", "at_most", "confidence", "seeds_needed"]

CONFIDENCE, N_LOOKS, MOST = 0.95, 4, 128
LEVEL = (1 - CONFIDENCE) / N_LOOKS
ABOVE_ERROR, POWER = 0.07, 0.8
WORST = 0.1  # f is counted up to this


def _at_most(x: int, n: int, p: float) -> float:
    """P(Bin(n, p) ≤ x)."""
    if x >= n or p <= 0:
        return 1.0
    if p >= 1:
        return 0.0
    ways = math.lgamma(n + 1)
    terms = (
        ways - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(p) + (n - k) * math.log1p(-p)
        for k in range(x + 1)
    )
    return math.fsum(map(math.exp, terms))


def confidence(n_looks: int) -> float:
    """1 − L′ α/L, with which the bound of every look holds.

    Args:
        n_looks: L′, the looks that a run may have had; up to 4 give 0.95.

    Returns:
        In (0, 0.95].

    Examples:
        >>> confidence(3), round(confidence(7), 4)
        (0.95, 0.9125)
    """
    return CONFIDENCE if n_looks <= N_LOOKS else max(0.0, 1 - n_looks * LEVEL)


def at_most(n_left: int, n_seeds: int) -> float:
    """u, the upper bound of the rate that remains.

    Args:
        n_left: X, seeds that are still unwanted, 0 to ``n_seeds``.
        n_seeds: n, at least 1.

    Returns:
        In (0, 1].

    Examples:
        >>> round(at_most(0, 100), 4), round(1 - 0.0125 ** (1 / 100), 4)
        (0.0429, 0.0429)
    """
    low, high = n_left / n_seeds, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(n_left, n_seeds, middle) >= LEVEL else (low, middle)
    return high


def acceptable(n_seeds: int, error: float) -> int:
    """k, the largest number of seeds left that ends a run; its bound is the aim.

    Args:
        n_seeds: n, at least 1.
        error: f, in [0, 1].

    Returns:
        In 0 to n.

    Examples:
        >>> [acceptable(128, error) for error in (0.0, 0.01, 0.05, 0.1, 1.0)]
        [0, 2, 8, 16, 16]
    """
    return next(k for k in range(n_seeds + 1) if _at_most(k, n_seeds, min(error, WORST)) >= POWER)


def seeds_needed(error: float) -> int:
    """The number of held-out unwanted seeds that shows an aim of at most f + 0.07, if 128 do.

    Args:
        error: f, in [0, 1].

    Returns:
        n; 128 if that many are too few.

    Examples:
        >>> seeds_needed(0.0), seeds_needed(0.0114), seeds_needed(0.05)
        (61, 97, 128)
    """
    within = (n for n in range(1, MOST) if at_most(acceptable(n, error), n) <= min(error, WORST) + ABOVE_ERROR)
    return next(within, MOST)
