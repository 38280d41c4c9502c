"""``DiTPipeline``: an autoencoder and a transformer with an embedding per class (Peebles & Xie 2023, arXiv 2212.09748).

The null class is the last embedding. The classes have the pipeline's ``class_names``, else the names of its ``id2label`` (of several
names of a class the first in alphabetical order), else "0", "1", ….

diffusers' network replaces a tenth of its labels at random while it trains. Labels are dropped here where a training asks for it
(``label_dropout``), so that student and teacher see the same ones; the network's own dropping is turned off.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Self, cast

from torch import nn

from vdu.models.adapters.class_conditional import ClassConditionalDenoiser, read_names
from vdu.models.configuration import discrete_parts, extra, is_a
from vdu.models.latent import LatentDenoiser, latent_parts

__all__ = ["NETWORK", "PARTS", "READS", "DiTDenoiser", "adapt", "matches"]

PARTS = frozenset({"transformer", "vae", "scheduler"})
NETWORK = "transformer"
READS = ("class_names", "null_class")


@dataclass(frozen=True)
class DiTDenoiser(ClassConditionalDenoiser, LatentDenoiser):
    """A class-conditional transformer as a denoiser of latents."""

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
    """The pipeline's network itself, not a copy, as a denoiser; its names are made to last."""
    n_classes, null_class = int(pipeline.transformer.config.num_embeds_ada_norm), extra(pipeline, "null_class")
    names, called = list(map(str, range(n_classes))), defaultdict(list)
    for name, index in sorted(pipeline.labels.items(), key=lambda item: item[0].lower()):
        called[str(index)].append(name)
    for index, synonyms in called.items():
        names[int(index)] = synonyms[0]
    if called:  # diffusers reads them from model_index.json and does not write them there
        pipeline.register_to_config(id2label={index: ", ".join(synonyms) for index, synonyms in called.items()})
    return DiTDenoiser(
        network=pipeline.transformer,
        **discrete_parts(pipeline.scheduler),
        **latent_parts(pipeline, pipeline.transformer, pipeline.vae),
        names=read_names(pipeline, n_classes + 1, n_classes if null_class is None else null_class, names),
        null_class=n_classes,
    )
