"""What an evaluation measures, and with what: judges, reference, feature network, probes, sampler."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral
from pathlib import Path
from typing import Any

from vdu.core.errors import InputError, shown
from vdu.core.paths import absolute_if_here
from vdu.core.processes import say
from vdu.core.ranges import (
    Range,
    plain_number,
    require_choice,
    require_fields,
    require_given,
    require_kind,
    require_number,
)
from vdu.data.given import Images
from vdu.diffusion.sampling import Sampler
from vdu.evaluation.suite import SUITES

__all__ = ["EvaluationOptions", "listed_prompts"]

MEASURABLE = Range("at least 6, since a distance of fewer images is undefined, and better 500 or more", 6, whole=True)
DEFAULT_SAMPLER = Sampler("ddpm", 20)  # that of the command line
UNNAMED = ("sampler", "forget_class", "forget_prompt", "retrained")  # recorded elsewhere, or under names of their own
_PLACES = ("judge", "second_judge", "cross_judge", "prompts", "reference", "data", "held_out")


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """The options of an evaluation; :class:`vdu.commands.settings.EvaluateSettings` has the same names.

    Attributes:
        sampler: the sampling protocol of all models.
        judge: folder or packaged name of a judge; None trains a fallback classifier.
        second_judge: likewise for the second judge, or None.
        forget_class: the forget classes by the judge's names; () takes those of the forget set.
        forget_prompt: of two pipelines, what was to be forgotten in words; a run knows its own.
        prompts: file or mapping of prompt sets (:mod:`vdu.evaluation.prompt_sets`), or None.
        cross_judge: folder of a judge of another domain, or None.
        reference: real images to compare with, or where they are; None takes the filtered original.
        reference_split: which part of a data set.
        features: name of the network whose features give the distances.
        suite: probe suite: "none", "quick" or "full".
        retrained: a model trained without the forget class: a pipeline or its folder.
        data: a labelled data set that the original was trained on, for measurements only.
        held_out: held-out images of the forget class; of a data set its test split.
        n_images: images from each model.
        n_judge_samples: generated samples for training the fallback classifier.
        seed: image i starts from noise drawn from (seed, i).
    """

    sampler: Sampler = DEFAULT_SAMPLER
    judge: Path | str | None = None
    second_judge: Path | str | None = None
    forget_class: tuple[str, ...] = ()
    forget_prompt: tuple[str, ...] = ()
    prompts: Path | str | Mapping[str, Any] | None = None
    cross_judge: Path | str | None = None
    reference: Images | None = None
    reference_split: str = "train"
    features: str = "judge"
    suite: str = "none"
    retrained: Any = None
    data: Path | str | None = None
    held_out: Path | str | None = None
    n_images: int = 1000
    n_judge_samples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        require_fields(self)
        object.__setattr__(self, "forget_class", tuple(dict.fromkeys(self.forget_class)))  # named twice, it counts once
        require_number("n_images", self.n_images, MEASURABLE)
        require_choice("suite", self.suite, SUITES)
        require_choice("reference_split", self.reference_split, ("train", "test"))
        for name in ("judge", "second_judge", "cross_judge", "data", "held_out", "features"):
            require_kind(name, getattr(self, name), str | Path, "a name or a path")
        require_kind("features", self.features, str, "a name")
        require_given(vars(self), *({each.name for each in fields(self)} - {"forget_class", "forget_prompt"}))
        require_kind("sampler", self.sampler, Sampler, "a vdu.Sampler")

    def warn(self) -> None:
        """Name on standard error the options that have no effect beside the others."""
        found = []
        if self.suite == "none" and (
            given := [name for name in ("data", "held_out") if getattr(self, name) is not None]
        ):
            found.append(
                f"{' and '.join(given)}: measured by probes alone, and suite is none, so nothing is measured on these images"
            )
        if self.reference_split != "train" and not isinstance(self.reference, str | Path):
            found.append("reference_split: has no effect without a reference that is a data set")
        if self.judge is not None and self.n_judge_samples != type(self).n_judge_samples:
            found.append("n_judge_samples: has no effect, since a judge is given and none is trained")
        for text in found:
            say(f"vdu: warning: {text}.")

    def guided_as(self, scale: float | None) -> "EvaluationOptions":
        """With the guidance of the run that made the model, where the sampler has none of its own.

        Args:
            scale: of the run's samples; None for a run without guidance, or no run.

        Returns:
            The options.
        """
        if scale is None or self.sampler.guidance_scale is not None:
            return self
        say(f"vdu: drawing with the run's guidance scale {scale:g}; 1 is without guidance.")
        return replace(self, sampler=replace(self.sampler, guidance_scale=float(scale)))

    def judges(self) -> dict[str, Any]:
        """The arguments of :func:`vdu.judges.judging.find_judges` among these options."""
        return {
            "judge": self.judge, "second_judge": self.second_judge, "n_samples": self.n_judge_samples, "seed": self.seed,
        }  # fmt: skip

    def protocol(self) -> Mapping[str, Any]:
        """The options as plain values, as ``metrics.json`` records them: unset ones are left out, paths of what exists are absolute."""
        drawn = self.sampler
        found = {f"sampler_{name}": value for name, value in drawn.describe().items() if value is not None}
        found |= {
            "scheduler": drawn.scheduler, "inference_steps": drawn.steps, "eta": drawn.eta, "microbatch_size": drawn.microbatch_size,
        }  # fmt: skip
        for name in (each.name for each in fields(self) if each.name not in UNNAMED):
            value = getattr(self, name)
            if isinstance(value, str | Path):
                found[name] = absolute_if_here(value) if name in _PLACES else str(value)
            elif isinstance(value, int):
                found[name] = value
            elif value is not None:
                described = getattr(value, "description", "")
                found[name] = "prompts given in Python" if name == "prompts" else described or "images given in Python"
        return found

    @classmethod
    def from_python(
        cls,
        *,
        forget_class: str | Sequence[str] | None,
        forget_prompt: Sequence[str] | None = None,
        **values: Any,
    ) -> "EvaluationOptions":
        """The options of a call in Python: paths become text, one class is a class, and None is the default.

        Args:
            forget_class: one name, or several.
            forget_prompt: prompts, as :func:`vdu.unlearning.prompts.read_prompts` returns them.
            **values: the other options; in-memory images stay what they are.

        Returns:
            The options.

        Raises:
            InputError: if a value is of another kind or out of range.
        """
        single = isinstance(forget_class, str | Integral) and not isinstance(forget_class, bool)
        names = (forget_class,) if single else () if forget_class is None else forget_class
        if not isinstance(names, list | tuple) or not all(
            isinstance(each, str | Integral) and not isinstance(each, bool) for each in names
        ):
            raise InputError(
                f"forget_class: got {shown(forget_class)}; expected the name of a class, or a list of names."
            )
        known: dict[str, Any] = {name: plain_number(value) for name, value in values.items() if value is not None}
        return cls(forget_class=tuple(map(str, names)), forget_prompt=listed_prompts(forget_prompt), **known)


def listed_prompts(forget_prompt: Any) -> tuple[Any, ...]:
    """What was to be forgotten in words, as a tuple.

    Args:
        forget_prompt: one prompt, or several, or a file of them; None for none.

    Returns:
        The prompts and files.

    Raises:
        InputError: if it is of another kind.
    """
    given = (
        (forget_prompt,) if isinstance(forget_prompt, str | Path) else () if forget_prompt is None else forget_prompt
    )
    if not isinstance(given, list | tuple) or not all(isinstance(each, str | Path) for each in given):
        raise InputError(f"forget_prompt: got {shown(forget_prompt)}; expected a prompt, or a list of prompts.")
    return tuple(given)
