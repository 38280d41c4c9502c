"""Selection of the judges: a given, packaged or fallback classifier, and a second one as a check."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vdu.core.checks import hash_parameters
from vdu.core.errors import InputError
from vdu.core.paths import given_path
from vdu.core.rng import derive_seed
from vdu.core.types import Denoiser
from vdu.data.images import ImageSet
from vdu.diffusion.sampling import Sampler
from vdu.judges.classifier import Judge, load_judge
from vdu.judges.record import JudgeSource
from vdu.metrics.features import classify
from vdu.metrics.pul import pul_ceiling
from vdu.replay.generated import cached_samples

__all__ = ["Judging", "find_judges", "given_judges", "judge_place"]


@dataclass(frozen=True)
class Judging:
    """One or two judges, and the forget classes.

    Attributes:
        judge: the judge, for classes and features.
        record: its record (``judge.json``).
        source: a given folder, the packaged zoo, or the fallback classifier.
        forget_names: names of the forget classes.
        second: a judge of another architecture; it also filters the filtered-oracle baseline.
        second_record: the record of the second judge.
    """

    judge: Judge
    record: dict[str, Any]
    source: JudgeSource
    forget_names: tuple[str, ...]
    second: Judge | None = None
    second_record: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """The judge's name in tables."""
        return str(self.record.get("name", self.judge.architecture))

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the judge's file of weights; of its tensors for a fallback classifier."""
        return self.record.get("weights_sha256") or hash_parameters(self.judge.state_dict())

    @property
    def n_classes(self) -> int:
        """Number of the judge's classes."""
        return len(self.judge.class_names)

    @property
    def forget_classes(self) -> list[int]:
        """Indices of the forget classes."""
        return [list(self.judge.class_names).index(name) for name in self.forget_names]

    def is_forget(self, classes: Tensor) -> Tensor:
        """Mask of the predictions that are a forget class, bool like ``classes``."""
        return torch.isin(classes, torch.tensor(self.forget_classes))

    def finds_forget(self, images: ImageSet) -> Tensor:
        """Mask of the images that the judge predicts as forget, [N], bool."""
        return self.is_forget(classify(self.judge, images).classes)

    def filtered(self, images: ImageSet) -> Tensor:
        """Mask of the images that the filter removes, [N], bool; the second judge decides if there is one."""
        return (self if self.second is None else self.as_second()).finds_forget(images)

    def as_second(self) -> "Judging":
        """The judges with the second in the place of the first."""
        assert self.second is not None and self.second_record is not None
        return replace(self, judge=self.second, record=self.second_record, second=None, second_record=None)

    def rates(self) -> tuple[float, int, int | None]:
        """The judge's false positives on its held-out images.

        Returns:
            The fraction of the retained ones that it predicts as forget, the number of all, and that of the retained ones; None for a
            fallback classifier, whose held-out images are of the forget set.
        """
        if "confusion" not in self.record:
            return float(self.record["forget_false_positive_rate"]), int(self.record["n_held_out"]), None
        confusion = torch.tensor(self.record["confusion"], dtype=torch.float64)
        keep = torch.ones(len(confusion), dtype=torch.bool)
        keep[self.forget_classes] = False
        false_positives, n_kept = confusion[keep][:, self.forget_classes].sum(), confusion[keep].sum()
        return float(false_positives / n_kept), int(confusion.sum()), int(n_kept)

    def ceiling(self, n_original: int, n_images: int) -> float:
        """Expected PUL of a perfectly unlearned model under this judge, in percent.

        Args:
            n_original: images that it predicts as forget among the original's samples.
            n_images: number of samples of each model.

        Returns:
            See :func:`vdu.metrics.pul.pul_ceiling`.
        """
        return pul_ceiling(n_original=n_original, n=n_images, false_positive_rate=self.rates()[0])


def find_judges(
    original: Denoiser,
    forget: ImageSet,
    forget_names: list[str],
    sampler: Sampler,
    *,
    judge: Path | str | None = None,
    second_judge: Path | str | None = None,
    n_samples: int = 1000,
    seed: int = 0,
) -> tuple[Judging, int]:
    """Load the given judges, or train the fallback classifier.

    Args:
        original: the original model, whose samples train the fallback.
        forget: the forget set.
        forget_names: names of the forget classes, if they have names.
        sampler: the sampler of those samples.
        judge: folder or packaged name of a judge; None trains the fallback.
        second_judge: likewise for the second judge, or None.
        n_samples: number of generated samples for the fallback.
        seed: seeds the fallback.

    Returns:
        The judges, and the network evaluations of this call. Refused (``InputError``) as by :func:`given_judges`.
    """
    given = given_judges(original, forget_names, judge=judge, second_judge=second_judge)
    if given is None:
        from vdu.judges.fallback import require_enough, train_forget_judge

        require_enough("forget images", len(forget))  # before samples are drawn
        require_enough("generated samples (--n-judge-samples)", n_samples)
        seed = derive_seed(seed, "judge")
        samples, n_drawn = cached_samples(
            original, n_samples, sampler, seed=seed, progress="samples for the classifier"
        )
        fallback, record = train_forget_judge(forget, samples, original.schedule, seed=seed)
        return Judging(fallback, record, "fallback", ("forget",)), n_drawn * sampler.evaluations(original)
    return given, 0


def given_judges(
    original: Denoiser, forget_names: list[str], *, judge: Path | str | None, second_judge: Path | str | None
) -> Judging | None:
    """Load the given judges.

    Args:
        original: the original model.
        forget_names: names of the forget classes.
        judge: folder or packaged name of a judge, or None.
        second_judge: likewise for the second judge.

    Returns:
        The judges; None if none is given.

    Raises:
        InputError: if the classes or the image size do not match a judge's, no class is left to keep, only the second one is given, or a
            judge was never tested on a forget class, or on no other.
    """
    if judge is None and second_judge is not None:
        raise InputError(f"--second-judge: got {second_judge} without --judge; expected both, or none of them.")
    if judge is None:
        return None
    forget_names = list(dict.fromkeys(forget_names))  # a class that is named twice counts once
    first, record = _load(judge, original, forget_names)
    if set(forget_names) == set(first.class_names):
        raise InputError(
            f"--forget-class: got {', '.join(forget_names)}, all classes of the judge {judge}; expected at least one that stays, since the "
            "rest of the images is measured too."
        )
    judging = Judging(first, record, judge_place(judge)[1], tuple(forget_names))
    if second_judge is None:
        return judging
    second, second_record = _load(second_judge, original, forget_names)
    if tuple(second.class_names) != tuple(first.class_names):
        raise InputError(
            f"second judge: has the classes {list(second.class_names)}; expected {list(first.class_names)}."
        )
    if hash_parameters(second.state_dict()) == hash_parameters(first.state_dict()):
        raise InputError(
            f"second judge: {second_judge} is the first judge again; expected another one, which checks the first."
        )
    return replace(judging, second=second, second_record=second_record)


def judge_place(where: Path | str) -> tuple[Path, JudgeSource]:
    """The folder of a judge, and whether it was given or is packaged.

    Args:
        where: a folder, or the name of a packaged judge.

    Returns:
        The folder, and its origin.

    Raises:
        InputError: if the name is that of a packaged judge and of a folder here, or of neither.
    """
    from vdu.zoo.packaged import JUDGES, judge_folder

    path = given_path(where, "judge")
    if not path.is_dir():
        return judge_folder(str(where)), "zoo"
    if isinstance(where, str) and where in JUDGES:
        raise InputError(
            f"judge: {where} is a folder here and the name of a packaged judge. Write ./{where} for the folder, or "
            f"zoo:{where} for the packaged judge."
        )
    return path, "given"


def _load(where: Path | str, original: Denoiser, forget_names: list[str]) -> tuple[Judge, dict[str, Any]]:
    judge, record = load_judge(judge_place(where)[0])
    if tuple(judge.sample_shape) != tuple(original.image_shape):
        raise InputError(
            f"judge {where}: expects images of shape {tuple(judge.sample_shape)}, the model generates {tuple(original.image_shape)}. "
            "Give a judge for this size, or none, in which case a fallback classifier is trained."
        )
    unknown = [name for name in forget_names if name not in judge.class_names]
    if unknown or not forget_names:
        raise InputError(
            f"judge {where}: has the classes {', '.join(judge.class_names)}; "
            f"the run forgot {', '.join(forget_names) or 'images without a class'}. "
            "Name the judge's classes with --forget-class, or give no judge, in which case a fallback classifier is trained."
        )
    if "confusion" in record:
        _require_tested(where, record["confusion"], judge.class_names, forget_names)
    return judge, record


def _require_tested(
    where: Path | str, confusion: list[list[int]], names: Sequence[str], forget_names: list[str]
) -> None:
    """Refuse a judge whose held-out images say nothing of a forget class, or of no other class."""
    counts = {name: sum(row) for name, row in zip(names, confusion, strict=True)}
    untested = [name for name in forget_names if not counts[name]]
    others = [name for name in names if name not in forget_names]
    if not untested and others and not any(counts[name] for name in others):
        untested = ["the classes to keep"]
    if untested:
        raise InputError(
            f"judge {where}: was tested on no image of {', '.join(untested)}, so nothing says how often it is wrong there. Train it with "
            "such images in its test split (`vdu judge`), or give another judge."
        )
