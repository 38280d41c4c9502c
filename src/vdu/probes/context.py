"""What a probe is given, and the few things that several probes do.

A probe is a function ``(case, sizes…) → plain values``: what it measured, with intervals, for ``metrics.json`` under
``probes`` and for the report. It leaves the models, the caller's random state and the disk untouched. Where the case lacks
what it needs, the result is :func:`not_run` with a code: a probe never guesses.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vdu.core.types import Denoiser
from vdu.data.images import ImageSet
from vdu.diffusion.sampling import Sampler

__all__ = ["ProbeContext", "image_set_code", "not_run"]


@dataclass(frozen=True)
class ProbeContext:
    """Models, images and a judge's calls, as an evaluation knows them.

    Attributes:
        original: the model before.
        unlearned: the model after.
        retrained: a model trained without the forget class, or None.
        forget: the forget set: images that the original was trained on.
        forget_held_out: real images of the forget class that no model saw, or None.
        retain: real images of the rest that the original was trained on, or None.
        retain_held_out: real images of the rest that no model saw, or None.
        is_forget: images → which of them the evaluation's judge calls forget, [N], bool.
        sampler: how samples are drawn.
        seed: seeds all that is drawn.
        progress: show bars on standard error.
    """

    original: Denoiser
    unlearned: Denoiser
    retrained: Denoiser | None
    forget: ImageSet
    forget_held_out: ImageSet | None
    retain: ImageSet | None
    retain_held_out: ImageSet | None
    is_forget: Callable[[ImageSet], Tensor]
    sampler: Sampler
    seed: int
    progress: bool = True

    @property
    def models(self) -> Mapping[str, Denoiser]:
        """The models that are there, by the name that results use."""
        found = {"original": self.original, "unlearned": self.unlearned, "retrained": self.retrained}
        return {name: model for name, model in found.items() if model is not None}

    @property
    def image_sets(self) -> Mapping[str, ImageSet]:
        """The image sets that are there, by name; results use :func:`image_set_code` of it."""
        found = {
            "forget train": self.forget,
            "forget held out": self.forget_held_out,
            "retain train": self.retain,
            "retain held out": self.retain_held_out,
        }
        return {name: images for name, images in found.items() if images is not None}


def image_set_code(name: str) -> str:
    """The code of an image set in results: ``"forget train"`` is ``"forget_train"``. The names themselves seed draws."""
    return {"own samples, rest": "generated_rest"}.get(name, name.replace(" ", "_"))


def not_run(code: str, **values: Any) -> dict[str, Any]:
    """The result of a probe that lacked something; the report has a sentence for every code.

    Args:
        code: what was missing, for example ``"no_retrained_model"``.
        **values: the numbers, or the error's text, that belong to it.

    Returns:
        ``{"status": "not run", "code": …}`` and the values.
    """
    return {"status": "not run", "code": code, **values}
