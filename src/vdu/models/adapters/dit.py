"""``DiTPipeline``: an autoencoder and a transformer with an embedding per class (Peebles & Xie 2023, arXiv 2212.09748).

The null class is the last embedding. The classes have the pipeline's ``class_names``; else of the names in its ``id2label`` the first that
no other class has; else "0", "1", …. A name of several classes means none of them, and asking for it is refused.

diffusers keeps one class of each name (``labels``), and ``id2label`` in no configuration. So it is read from the ``model_index.json`` that
the pipeline was loaded from, and written into those that are saved.

diffusers' network replaces a tenth of its labels at random while it trains. Labels are dropped here where a training asks for it
(``label_dropout``), so that student and teacher see the same ones; the network's own dropping is turned off.

Not guaranteed: that a name is no other class's, for a pipeline that was not loaded from files, or whose files are gone.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

from torch import nn

from vdu.core.errors import InputError
from vdu.core.records import read_json
from vdu.models.adapters.class_conditional import ClassConditionalDenoiser, read_names
from vdu.models.configuration import discrete_parts, extra, is_a
from vdu.models.latent import LatentDenoiser, latent_parts

__all__ = ["NETWORK", "PARTS", "READS", "DiTDenoiser", "adapt", "matches"]

PARTS = frozenset({"transformer", "vae", "scheduler"})
NETWORK = "transformer"
READS = ("class_names", "null_class")


@dataclass(frozen=True)
class DiTDenoiser(ClassConditionalDenoiser, LatentDenoiser):
    """A class-conditional transformer as a denoiser of latents.

    Attributes:
        shared: names that several classes have, each with these.
    """

    shared: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def shared_names(self) -> Mapping[str, Sequence[int]]:
        """Names that several classes have, with these."""
        return dict(self.shared)

    def with_network(self, network: nn.Module) -> Self:
        """The same adapter over another network, whose own dropping of labels in training is turned off: whoever trains it drops them."""
        for module in network.modules():
            if hasattr(module, "dropout_prob"):  # diffusers' LabelEmbedding
                cast("Any", module).dropout_prob = 0.0
        return super().with_network(network)


def matches(pipeline: Any) -> bool:
    """Whether it is a ``DiTPipeline``."""
    return is_a(pipeline, "DiTPipeline")


def adapt(pipeline: Any) -> DiTDenoiser:
    """The pipeline's network itself, not a copy, as a denoiser; its names are made to last.

    Args:
        pipeline: a ``DiTPipeline``.

    Returns:
        The denoiser.

    Raises:
        InputError: if it has names of classes that its network does not embed.
    """
    n_classes, null_class = int(pipeline.transformer.config.num_embeds_ada_norm), extra(pipeline, "null_class")
    names, entries, classes = list(map(str, range(n_classes))), _entries(pipeline), defaultdict[str, list[int]](list)
    if beyond := [index for index in entries if not 0 <= index < n_classes]:
        raise InputError(
            f"pipeline: its id2label names the class {beyond[0]}, and its network embeds {n_classes}; expected classes from 0 to "
            f"{n_classes - 1}. Correct id2label in its model_index.json."
        )
    for index, synonyms in entries.items():
        for name in synonyms:
            classes[name].append(index)
    for index, synonyms in entries.items():
        names[index] = next((name for name in synonyms if name and len(classes[name]) == 1), names[index])
    given = extra(pipeline, "class_names")
    shared = {name: tuple(found) for name, found in classes.items() if len(found) > 1 and given is None}
    return DiTDenoiser(
        network=pipeline.transformer,
        **discrete_parts(pipeline.scheduler),
        **latent_parts(pipeline, pipeline.transformer, pipeline.vae),
        names=read_names(pipeline, n_classes + 1, n_classes if null_class is None else null_class, names),
        null_class=n_classes,
        shared=tuple(sorted(shared.items())),
    )


def _entries(pipeline: Any) -> dict[int, list[str]]:
    """The names of each class that has any, as ``id2label`` lists them; of ``labels`` in alphabetical order."""
    for listed in (pipeline.config.get("id2label"), _listed(pipeline)):
        entries = _parsed(listed)
        if entries and {name: index for index, synonyms in entries.items() for name in synonyms} == pipeline.labels:
            break
    else:
        found = defaultdict[int, list[str]](list)
        for name, index in sorted(pipeline.labels.items(), key=lambda item: item[0].lower()):
            found[index].append(name)
        entries = dict(found)
    if entries:  # diffusers reads them from model_index.json and does not write them there
        pipeline.register_to_config(id2label={str(index): ", ".join(names) for index, names in entries.items()})
    return entries


def _parsed(id2label: Any) -> dict[int, list[str]]:
    """The names of each class, once each; {} for something else than a mapping of numbers to texts."""
    held = id2label if isinstance(id2label, Mapping) else {}
    if not all(str(key).isdecimal() and isinstance(value, str) for key, value in held.items()):
        return {}
    return {int(key): list(dict.fromkeys(map(str.strip, value.split(",")))) for key, value in held.items()}


def _listed(pipeline: Any) -> Any:
    """``id2label`` in the model_index.json that a pipeline was loaded from: in a folder, or in the cache of the Hub."""
    from huggingface_hub import try_to_load_from_cache

    source = pipeline.config.get("_name_or_path")
    if not source:
        return None
    file: Any = Path(source) / "model_index.json"
    if not file.is_file():
        try:
            file = try_to_load_from_cache(str(source), "model_index.json")
        except ValueError:  # no name of the Hub
            return None
    held = read_json(Path(file)) if isinstance(file, str | Path) else None
    return held.get("id2label") if isinstance(held, dict) else None
