"""What an evaluation measures, and with what: judges, reference, feature network, probes, sampler."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vdu.core.errors import InputError
from vdu.core.ranges import COUNT
from vdu.data.given import Images
from vdu.diffusion.sampling import Sampler
from vdu.evaluation.suite import SUITES

__all__ = ["EvaluationOptions"]

DEFAULT_SAMPLER = Sampler("ddpm", 20)  # that of the command line
UNNAMED = ("sampler", "forget_class", "retrained")  # recorded elsewhere, or under names of their own


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """The options of an evaluation; :class:`vdu.commands.settings.EvaluateSettings` has the same names.

    Attributes:
        sampler: the sampling protocol of all models.
        judge: folder or packaged name of a judge; None trains a fallback classifier.
        second_judge: likewise for the second judge, or None.
        forget_class: the forget classes by the judge's names; () takes those of the forget set.
        reference: real images to compare with, or where they are; None takes the filtered original.
        reference_split: which part of a data set.
        features: name of the network whose features give the distances.
        suite: probe suite: "none", "quick" or "full".
        retrained: a model trained without the forget class: a pipeline or its folder.
        data: a labelled data set that the original was trained on, for measurements only.
        held_out: held-out images of the forget class.
        n_images: images from each model.
        n_judge_samples: generated samples for training the fallback classifier.
        seed: image i starts from noise drawn from (seed, i).
    """

    sampler: Sampler = DEFAULT_SAMPLER
    judge: str | None = None
    second_judge: str | None = None
    forget_class: tuple[str, ...] = ()
    reference: Images | None = None
    reference_split: str = "train"
    features: str = "judge"
    suite: str = "quick"
    retrained: Any = None
    data: str | None = None
    held_out: str | None = None
    n_images: int = 1000
    n_judge_samples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_images", "n_judge_samples"):
            if not COUNT.holds(getattr(self, name)):
                raise InputError(f"{name}: got {getattr(self, name)}; expected {COUNT.words}.")
        if self.suite not in SUITES:
            raise InputError(f"suite: got {self.suite!r}; expected one of {', '.join(SUITES)}.")
        if self.reference_split not in {"train", "test"}:
            raise InputError(f"reference_split: got {self.reference_split!r}; expected 'train' or 'test'.")

    def judges(self) -> dict[str, Any]:
        """The arguments of :func:`vdu.judges.judging.find_judges` among these options."""
        return {
            "judge": self.judge, "second_judge": self.second_judge, "n_samples": self.n_judge_samples, "seed": self.seed,
        }  # fmt: skip

    def protocol(self) -> Mapping[str, Any]:
        """The options as plain values, as ``metrics.json`` records them; unset ones are left out."""
        drawn = self.sampler
        found = {f"sampler_{name}": value for name, value in drawn.describe().items() if value is not None}
        found |= {
            "scheduler": drawn.scheduler, "inference_steps": drawn.steps, "eta": drawn.eta, "microbatch_size": drawn.microbatch_size,
        }  # fmt: skip
        for name in (each.name for each in fields(self) if each.name not in UNNAMED):
            value = getattr(self, name)
            if value is not None:
                found[name] = (
                    value
                    if isinstance(value, str | int)
                    else getattr(value, "description", "") or "images given in Python"
                )
        return found

    @classmethod
    def from_python(cls, *, forget_class: str | Sequence[str], **values: Any) -> "EvaluationOptions":
        """The options of a call in Python: paths become text, one class is a class, and None is the default.

        Args:
            forget_class: one name, or several.
            **values: the other options; in-memory images stay what they are.

        Returns:
            The options. Values that are out of range raise an ``InputError``.
        """
        names = (forget_class,) if isinstance(forget_class, str) else tuple(map(str, forget_class))
        known: dict[str, Any] = {
            name: str(value) if isinstance(value, Path) else value
            for name, value in values.items()
            if value is not None
        }
        return cls(forget_class=names, **known)
