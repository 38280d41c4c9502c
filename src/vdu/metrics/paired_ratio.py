"""Score interval of the ratio of two paired counts: the relative frequency of an event under B and under A.

Each seed is observed under A and under B: b seeds have the event in both, c only under A, d only under B. Estimate and test
of R = P(B)/P(A):

    R̂ = (b + d)/(b + c)        z(R) = (b + d − R·(b + c)) / √(R·(2m − (1+R)·u))        m = b + c + d

u, the expected count under A, maximises the likelihood given P(B) = R·P(A). It is the smaller root of

    R(1+R)·u² − [b(1+R)² + (cR + d)(1+R) + R(c + d)]·u + m·[b(1+R) + cR + d] = 0

The interval is all R with |z(R)| ≤ 1.96. The variance is evaluated at the tested R, not at R̂: the interval has a positive
width at R̂ = 0 (there it is R ≤ 1.96²/c), where a bootstrap interval has none.

Not guaranteed: exactness. Coverage is asymptotic and near 95 % from a handful of events on.
"""

import math
from statistics import NormalDist

from vdu.core.errors import InputError
from vdu.core.statistics import TAIL

__all__ = ["ratio_interval", "ratio_score"]

_Z = NormalDist().inv_cdf(1 - TAIL)
_HALVINGS = 60  # of an interval inside [0, 1]: down to float64 rounding


def ratio_interval(both: int, lost: int, gained: int) -> tuple[float, float]:
    """95 % score interval of R.

    Args:
        both: b, seeds with the event under A and B.
        lost: c, seeds with the event under A only.
        gained: d, seeds with the event under B only.

    Returns:
        Lower and upper limit, in [0, ∞).

    Raises:
        InputError: if a count is negative or no seed has the event under A.

    Source: Nam and Blackwelder (2002), Statistics in Medicine 21, 689–699.

    Examples:
        >>> low, high = ratio_interval(0, 50, 0)
        >>> low, round(high * 50, 2)  # 1.96² = 3.84
        (0.0, 3.84)
    """
    if min(both, lost, gained) < 0 or both + lost == 0:
        raise InputError(
            f"paired counts: got both={both}, lost={lost}, gained={gained}, expected none below 0 and both + lost ≥ 1. "
            "Draw more samples: a ratio needs at least one event under the first condition."
        )
    centre = (both + gained) / (2 * both + lost + gained)  # R̂/(1+R̂): on this scale both limits lie in [0, 1]

    def limit(outside: float) -> float:
        inside = centre
        for _ in range(_HALVINGS):
            middle = (inside + outside) / 2
            within = abs(ratio_score(middle / (1 - middle), both, lost, gained)) <= _Z
            inside, outside = (middle, outside) if within else (inside, middle)
        return inside / (1 - inside)

    return limit(0.0) if both + gained else 0.0, limit(1.0)


def ratio_score(ratio: float, both: int, lost: int, gained: int) -> float:
    """z(R), standard normal if R is true; it falls as R grows.

    Args:
        ratio: R, above 0.
        both: b.
        lost: c.
        gained: d; one of the three is above 0.

    Returns:
        z.
    """
    m = both + lost + gained
    linear = both * (1 + ratio) ** 2 + (lost * ratio + gained) * (1 + ratio) + ratio * (lost + gained)
    constant = m * (both * (1 + ratio) + lost * ratio + gained)
    # The smaller root in the form that does not cancel.
    u = 2 * constant / (linear + math.sqrt(max(linear**2 - 4 * ratio * (1 + ratio) * constant, 0.0)))
    variance = ratio * (2 * m - (1 + ratio) * u)
    return (both + gained - ratio * (both + lost)) / math.sqrt(variance) if variance > 0 else 0.0
