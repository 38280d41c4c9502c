"""What an evaluation measures, and with what: judges, reference, feature network, probes, sampler."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from vdu.data.images import ImageSet
from vdu.diffusion.sampling import Sampler

__all__ = ["EvaluationOptions"]

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

    sampler: Sampler
    judge: str | None = None
    second_judge: str | None = None
    forget_class: tuple[str, ...] = ()
    reference: ImageSet | str | None = None
    reference_split: str = "train"
    features: str = "judge"
    suite: str = "quick"
    retrained: Any = None
    data: str | None = None
    held_out: str | None = None
    n_images: int = 1000
    n_judge_samples: int = 1000
    seed: int = 0

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
                found[name] = value.description if isinstance(value, ImageSet) else value
        return found
