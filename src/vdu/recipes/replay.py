"""Replay without retained data: the model's own samples, less those that look like the forget class (S_r).

Who decides is a judge trained on the spot from the forget set against the own samples (``vdu.recipes.forget_judge``), so
that nothing but the forget set and the model itself is used. It is never the judge of an evaluation.

Not guaranteed: that no forget image is left (the judge's rates of error are in the record), or that the own samples
cover what the model makes rarely.
"""

from typing import Any

from vdu.data.images import ImageSet
from vdu.errors import InputError
from vdu.metrics.features import classify
from vdu.recipes.forget_judge import CLASSES, train_forget_judge
from vdu.rng import derive_seed

__all__ = ["retained_own_samples"]


def retained_own_samples(forget: ImageSet, samples: ImageSet, *, seed: int) -> tuple[ImageSet, dict[str, Any]]:
    """Drop from a model's own samples those of the forget class.

    Args:
        forget: images of the forget class.
        samples: images that the original model made.
        seed: seeds the judge.

    Returns:
        The samples that are kept, and the judge's record.

    Raises:
        InputError: if there are too few images of either kind, or nothing is left.
    """
    judge, record = train_forget_judge(forget, samples, seed=derive_seed(seed, "replay"), progress=False)
    keep = classify(judge, samples.floats()).classes != CLASSES.index("forget")
    if not bool(keep.any()):
        raise InputError(
            f"replay: all {len(samples)} own samples look like the forget class; expected a minority. Look at them (vdu sample)."
        )
    kept = samples.select(keep, f"{samples.description}, {int(keep.sum())} of them kept")
    return kept, record
