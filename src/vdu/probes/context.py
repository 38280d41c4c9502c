"""The context of a probe, and helpers shared by several probes.

A probe is a function ``(case, sizes…) → plain values``: its measurements, with intervals, for ``metrics.json`` under
``probes`` and for the report. It does not change the models, the caller's random state or the disk. If the case lacks something
that the probe needs, the result is :func:`not_run` with a code.
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
    """Models, images and a judge's predictions in an evaluation.

    Attributes:
        original: the original model.
        unlearned: the unlearned model.
        retrained: a model trained without the forget class, or None.
        forget: the forget set: images that the original was trained on.
        forget_held_out: held-out real images of the forget class, or None.
        retain: real images of the rest that the original was trained on, or None.
        retain_held_out: held-out real images of the rest, or None.
        is_forget: images → mask of those that the evaluation's judge predicts as forget, [N], bool.
        sampler: the sampling protocol.
        seed: seeds all draws.
        progress: show bars on standard error.
        kept: the original under prompts to keep, where the models above are asked for the concept; None: the original itself.
        paraphrases: prompts that ask a text-to-image model for the concept in other words.
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
    kept: Denoiser | None = None
    paraphrases: tuple[str, ...] = ()

    @property
    def models(self) -> Mapping[str, Denoiser]:
        """The available models, by their name in results."""
        found = {"original": self.original, "unlearned": self.unlearned, "retrained": self.retrained}
        return {name: model for name, model in found.items() if model is not None}

    @property
    def image_sets(self) -> Mapping[str, ImageSet]:
        """The available image sets, by name; results use the name's :func:`image_set_code`."""
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
    """The result of a probe that could not run; the report has a sentence for every code.

    Args:
        code: the missing item, for example ``"no_retrained_model"``.
        **values: its numbers, or the text of the error.

    Returns:
        ``{"status": "not run", "code": …}`` and the values.
    """
    return {"status": "not run", "code": code, **values}
