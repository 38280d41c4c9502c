"""Which kept classes have become rarer or more frequent, from the pairs of images that share their noise.

Of the noises from which the original made a kept class, some gave class c and give another class now (lost), others gave
another kept class and give c now (gained). Where nothing but chance moved the images, a change is as likely to be the one as the
other: an exact sign test for each class, with Holm's correction over the kept classes. Noises that gave the forget class are left
out: they have to go somewhere.

The smallest loss that could be detected is the net loss m for which (gained + m, gained) would be significant at the first
of Holm's steps.

NOT guaranteed: that a class without a significant change is intact; see its smallest detectable loss.
"""

from dataclasses import dataclass
from itertools import count

from vdu.reporting.collect import ReportData
from vdu.reporting.findings.reliability import retrained_doubted
from vdu.reporting.findings.thresholds import THRESHOLDS
from vdu.reporting.rates import holm, sign_test

__all__ = ["ClassShift", "class_shifts", "retrained_counts"]


@dataclass(frozen=True)
class ClassShift:
    """How a kept class changed, noise by noise.

    Attributes:
        name: of the class.
        before: noises that gave it.
        lost: those of them that give another class now.
        gained: noises of other kept classes that give it now.
        p: two-sided p-value of the sign test, corrected for the number of classes.
        detectable_loss: the smallest net loss that could have been detected; larger than ``before`` where none could.
    """

    name: str
    before: int
    lost: int
    gained: int
    p: float
    detectable_loss: int

    @property
    def fell(self) -> bool:
        """The class has become rarer, beyond chance."""
        return self.p < THRESHOLDS["class_shift_p"] and self.lost > self.gained

    @property
    def rose(self) -> bool:
        """The class has become more frequent, beyond chance."""
        return self.p < THRESHOLDS["class_shift_p"] and self.gained > self.lost


def class_shifts(data: ReportData) -> tuple[ClassShift, ...] | None:
    """Test every kept class.

    Args:
        data: the collected run.

    Returns:
        The classes in the judge's order; None where the run has no pairs of at least two kept classes.
    """
    flips, names = data.metrics["flips"], {data.classes[i] for i in data.forget_ids}
    kept = [i for i, name in enumerate(flips["classes"]) if name not in names]
    if not names or len(kept) < 2 or flips["classes"] != data.classes:
        return None
    counts = flips["counts"]
    lost = [sum(counts[i]) - counts[i][i] for i in kept]
    gained = [sum(counts[j][i] for j in kept if j != i) for i in kept]
    p_values = holm([sign_test(*pair) for pair in zip(lost, gained, strict=True)])
    return tuple(
        ClassShift(flips["classes"][i], sum(counts[i]), minus, plus, p, _detectable(plus, len(kept)))
        for i, minus, plus, p in zip(kept, lost, gained, p_values, strict=True)
    )


def retrained_counts(data: ReportData) -> list[int] | None:
    """The retrained model's images of each class; None where it was not judged class by class."""
    flips = data.metrics.get("flips_retrained")
    if flips is None or retrained_doubted(data) or flips["classes"] != data.classes:
        return None
    return [sum(column) for column in zip(*flips["counts"], strict=True)]


def _detectable(gained: int, n_classes: int) -> int:
    """The smallest net loss beside so many gains that is significant at Holm's first step."""
    level = THRESHOLDS["class_shift_p"] / n_classes
    return next(m for m in count(1) if sign_test(gained + m, gained) < level)
