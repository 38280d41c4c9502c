"""Class-conditional pixel-space pipelines: a ``UNet2DModel`` with an embedding per class (``num_class_embeds``).

diffusers has no pipeline that passes labels to such a network; use ``vdu.sample`` or your own loop to sample it. The
names of the classes and the null class (a further embedding that stands for "any class", for classifier-free guidance) are
stored in ``vdu.json`` and the network's configuration; without them the classes are "0", "1", … and there is no null class.

Not guaranteed: that class i of a model is class i of a data set. Images are matched to classes by name if both have names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Integral
from typing import Any

import torch

from vdu.core.checks import require_labels
from vdu.core.class_names import class_index, require_own_name
from vdu.core.errors import InputError, shown
from vdu.core.types import Condition
from vdu.models.configuration import extra, unet_parts
from vdu.models.denoiser import PipelineDenoiser

__all__ = ["NETWORK", "PARTS", "READS", "ClassConditionalDenoiser", "adapt", "matches", "read_names"]

PARTS = frozenset({"unet", "scheduler"})
NETWORK = "unet"
READS = ("class_names", "null_class", "timestep_scale")


@dataclass(frozen=True)
class ClassConditionalDenoiser(PipelineDenoiser):
    """A class-conditional ``UNet2DModel`` as a denoiser.

    Attributes:
        names: names of the classes, in the order of their embeddings.
        null_class: index of the embedding that stands for no class in particular, or None.
        numbered: whether the pipeline names no classes, so that the names are their numbers.
    """

    names: tuple[str, ...] = ()
    null_class: int | None = None
    numbered: bool = False

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.names

    def condition(self, labels: Sequence[int | str | None]) -> Condition | None:
        """The classes of a batch.

        Args:
            labels: one per sample: a name, an index, or None for the null class.

        Returns:
            ``class_labels``, [batch], int64. An unknown class, or None without a null class, raises an error.
        """
        require_labels(labels)
        indices = [self._index(label) for label in labels]
        return {"class_labels": torch.tensor(indices, dtype=torch.int64, device="cpu")}

    def meant(self, labels: Sequence[Any]) -> list[int | None]:
        """The classes that a user means.

        Args:
            labels: names, numbers (:func:`vdu.core.class_names.class_index`), or None for the null class.

        Returns:
            Their indices. A label that means no class, or more than one, is refused.
        """
        require_labels(labels)
        plain = [label.item() if isinstance(label, torch.Tensor) and label.ndim == 0 else label for label in labels]
        for label in plain:
            require_own_name(label, self.shared_names, self.names, "label")
        return [None if label is None else class_index(label, self.names, "label") for label in plain]

    def labels_of(self, seeds: Sequence[int]) -> list[int] | None:
        """Seed modulo the number of classes: balanced classes, and the same class for a seed in every model with these classes.

        Args:
            seeds: one per sample.

        Returns:
            One class index per sample.
        """
        return [int(seed) % len(self.names) for seed in seeds]

    def _index(self, label: int | str | None) -> int:
        if label is None:
            if self.null_class is None:
                raise InputError(
                    "this class-conditional model has no null class, which guidance and images without a label need; expected one of "
                    f"{', '.join(self.names[:20])} for every image, and no guidance. If the last is the null class, vdu.json beside "
                    f'model_index.json says so: {{"null_class": {len(self.names) - 1}}}.'
                )
            return self.null_class
        if isinstance(label, str):
            require_own_name(label, self.shared_names, self.names, "label")
            if label in self.names:
                return self.names.index(label)
            near = get_close_matches(label, self.names, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"The model's classes are {', '.join(self.names[:20])}."
            raise InputError(f"label: got {label!r}; expected a class of the model. {hint}")
        index = label.item() if isinstance(label, torch.Tensor) and label.ndim == 0 else label
        if not isinstance(index, Integral) or isinstance(index, bool):
            raise InputError(f"label: got {shown(label)}; expected a class of the model, by name or index.")
        if not 0 <= int(index) < len(self.names):
            raise InputError(f"label: got {index}; expected a class index from 0 to {len(self.names) - 1}.")
        return int(index)


def matches(pipeline: Any) -> bool:
    """Whether the network has an embedding per class and no other kind of class embedding."""
    config = pipeline.unet.config
    return bool(getattr(config, "num_class_embeds", None)) and not getattr(config, "class_embed_type", None)


def adapt(pipeline: Any) -> ClassConditionalDenoiser:
    """The pipeline's network itself, not a copy, as a denoiser.

    Args:
        pipeline: with a class-conditional U-Net and a scheduler.

    Returns:
        The denoiser.
    """
    n_embeddings = int(pipeline.unet.config.num_class_embeds)
    null_class = extra(pipeline, "null_class")
    usual = list(map(str, range(n_embeddings - (null_class is not None))))
    return ClassConditionalDenoiser(
        **unet_parts(pipeline),
        names=read_names(pipeline, n_embeddings, null_class, usual),
        null_class=null_class,
        numbered=extra(pipeline, "class_names") is None,
    )


def read_names(pipeline: Any, n_embeddings: int, null_class: int | None, usual: Sequence[str]) -> tuple[str, ...]:
    """The names of the classes of a pipeline's network.

    Args:
        pipeline: may have ``class_names``.
        n_embeddings: classes of the network, with the null class.
        null_class: its place, or None.
        usual: the names of a pipeline that has none.

    Returns:
        One name per class.

    Raises:
        InputError: if the pipeline's names or its null class do not fit the network.
    """
    n_classes, given = n_embeddings - (null_class is not None), extra(pipeline, "class_names")
    names = tuple(usual) if given is None else given
    if (
        len(names) != n_classes
        or len(set(given or range(n_classes))) != n_classes
        or null_class not in {None, n_classes}
    ):
        raise InputError(
            f"pipeline: its network embeds {n_embeddings} classes, and its class_names name {len(names)} with the null class {null_class}; "
            "expected one name per class, each once, and the null class (if any) last. Correct pipeline.class_names and "
            'pipeline.null_class; in a saved model vdu.json beside model_index.json: {"class_names": ["cat", "dog"], "null_class": 2}.'
        )
    return names
